"""Rules for parts of a network: which modules a key names, and what the rules ask of groups and blocks.

A key is the name of a module, a pattern of such names (`*` takes dots too), or a class, as itself or by its name; it
means those modules and all that is in them. Where several rules speak of a module, the later one counts, key by key;
only `"ignore"` always counts. A group takes what is asked of any of the modules that make its channels: the largest
`least`, and a width that is a multiple of every `divisor` in the channels of the module it is asked of. Start at
`Parts`.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..cutting.surgery import named_tensors

if TYPE_CHECKING:  # a study file need not load what traces
    from ..channels.layout import Group
    from ..graph.blocks import Block

IGNORE = "ignore"
Key = str | type[nn.Module]
Rule = str | Mapping[str, Any]
"""`"ignore"`, or a table of `least`, `divisor`, `depth` and `attention`."""


Asked = dict[str, tuple[str, Any]]
"""What is asked of one module: `{least, divisor, depth or attention: (key of the rule, value)}`."""
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "least": ("a share of the full width, above 0 and at most 1", lambda one: _is_number(one) and 0 < one <= 1),
    "divisor": ("an integer of at least 1", lambda one: _is_number(one) and isinstance(one, int) and one >= 1),
    "depth": ("true or false", lambda one: isinstance(one, bool)),
    "attention": ("'heads' or 'head_size'", lambda one: one in ("heads", "head_size")),
}


def keys(given: Key | Iterable[Key], argument: str) -> tuple[str, ...]:
    """The keys as text, a class by its name.

    Raises:
        TypeError: one is neither text nor a class of modules.
    """
    found = []
    for one in (given,) if isinstance(given, (str, type)) else given:
        if not isinstance(one, str) and not (isinstance(one, type) and issubclass(one, nn.Module)):
            raise TypeError(
                f"{argument} has {one!r}; expected the name of a module, a pattern such as 'layer1.*', or a class such "
                "as nn.ConvTranspose2d"
            )
        found.append(one if isinstance(one, str) else one.__name__)
    return tuple(found)


def checked_rules(given: Mapping[Key, Rule]) -> dict[str, Rule]:
    """The rules, if each of them could be meant, by keys that are text.

    Raises:
        TypeError: they are no mapping, or a key is neither text nor a class of modules.
        ValueError: a rule is none, has an unknown key, or a value that is none; or a class and its name are both keys.
    """
    if not isinstance(given, Mapping):
        raise TypeError(
            f"rules={given!r}: expected a mapping such as {{'layer1.*': {{'least': 0.5}}, 'head': 'ignore'}}"
        )
    names, found = keys(given, "rules"), dict[str, Rule]()
    for name, rule in zip(names, given.values(), strict=True):
        if name in found:
            raise ValueError(f"rules name {name!r} twice, as a class and as text; give one rule for it")
        if rule != IGNORE and (not isinstance(rule, Mapping) or not rule):
            raise ValueError(
                f"rules[{name!r}] is {rule!r}; expected 'ignore' or some of {', '.join(_EXPECTED)}, by name"
            )
        for key, value in rule.items() if isinstance(rule, Mapping) else ():
            if key not in _EXPECTED:
                near = difflib.get_close_matches(str(key), _EXPECTED, 1)
                mend = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(_EXPECTED)}"
                raise ValueError(f"rules[{name!r}] has the unknown key {key!r}; {mend}")
            expected, fits = _EXPECTED[key]
            if not fits(value):
                raise ValueError(f"rules[{name!r}] has {key}={value!r}; expected {expected}")
        found[name] = rule if isinstance(rule, str) else {key: rule[key] for key in _EXPECTED if key in rule}
    return found


class Parts:
    """What rules ask of one network.

    Args:
        model: the network.
        ignore: keys of what is left whole.
        rules: `{key: rule}`.
        divisor: widths are multiples of it where no rule gives another and the group allows.
    """

    def __init__(self, model: nn.Module, ignore: Iterable[str], rules: Mapping[str, Rule], divisor: int) -> None:
        """Raise a ValueError where a key matches no module, or asks something of what is ignored alone."""
        self.divisor, self.rules = divisor, rules
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._attention = set[str]()  # modules that were asked about
        self._ignored = dict[nn.Module, str]()
        for key in (*ignore, *(key for key, rule in rules.items() if rule == IGNORE)):
            self._ignored |= dict.fromkeys(self._inside(key, "rules" if rules.get(key) == IGNORE else IGNORE), key)
        self._asked: dict[nn.Module, Asked] = {module: {} for module in self._modules.values()}
        for key, rule in rules.items():
            if isinstance(rule, str):
                continue
            inside = self._inside(key, "rules")
            if all(module in self._ignored for module in inside):
                other = self._ignored[next(iter(inside))]
                raise ValueError(f"rules[{key!r}] asks something of what is ignored by {other!r}; drop one of the two")
            for module in inside:
                self._asked[module] |= {name: (key, value) for name, value in rule.items()}
        ignored = {
            id(tensor)
            for module in self._ignored
            for tensor in (*module._parameters.values(), *module._buffers.values())
        }
        self._left = frozenset(name for name, tensor in named_tensors(model).items() if id(tensor) in ignored)

    def ignored(self, tensor: str) -> bool:
        """Whether a tensor, by any of its names, is of an ignored module."""
        return tensor in self._left

    def kept(self, block: str) -> bool:
        """Whether a block is never dropped, because of itself or of what would go with it."""
        inside = [*self._modules[block].modules()]
        return any(module in self._ignored or not self._asked[module].get("depth", ("", True))[1] for module in inside)

    def keeps_heads(self, calls: Sequence[str]) -> bool:
        """Whether attention that these call, the outermost first, loses features of its heads and none of these."""
        inner = next((path for path in reversed(calls) if path in self._modules), "")
        self._attention.add(inner)
        return bool(self._of(inner).get("attention", ("", "heads"))[1] == "head_size")

    def widths(self, makers: Sequence[tuple[str, int]], units: int) -> tuple[tuple[int, ...], str]:
        """The widths that a group may have, and the rules that leave it one only; see `layout.Widths`."""
        unit, asked = makers[0][1], [(self._of(name), size) for name, size in makers]
        least = max([of["least"][1] for of, _ in asked if "least" in of], default=0.0)
        own = [of["divisor"][1] // math.gcd(of["divisor"][1], size) for of, size in asked if "divisor" in of]
        steps = [math.lcm(*own)] if own else [self.divisor // math.gcd(self.divisor, unit), 1]
        counts = [units]
        for step in steps:  # the divisor of all gives way where it leaves nothing, that of a rule does not
            if len(counts) == 1:
                counts = [*(count for count in range(step, units, step) if count >= least * units), units]
        by = sorted({repr(of[name][0]) for of, _ in asked for name in ("least", "divisor") if name in of})
        reason = f"{' and '.join(by)} of the rules leave{'s' * (len(by) == 1)} it no other width" if by else ""
        return tuple(count * unit for count in counts), reason if units > 1 else ""

    def told(self, groups: Sequence[Group], frozen: Iterable[str], blocks: Sequence[Block]) -> dict[str, str]:
        """What each rule did, `{key: sentence}`.

        Args:
            groups: of the space.
            frozen: what is left whole.
            blocks: that could be dropped without rules.
        """

        def spoken(key: str, name: str, members: Iterable[str]) -> bool:
            return any(self._of(member).get(name, ("",))[0] == key for member in members)

        found = {}
        for key, rule in self.rules.items():
            said = []
            for name, value in rule.items() if isinstance(rule, Mapping) else ():
                if name == "depth":
                    inside = [[path for path in self._modules if f"{path}.".startswith(f"{b.name}.")] for b in blocks]
                    what = f"{'may be' if value else 'not'} dropped: "
                    what += _counted(sum(spoken(key, name, paths) for paths in inside), "block")
                elif name == "attention":
                    what = f"{'heads' if value == 'heads' else 'features of all heads'} go: "
                    what += _counted(sum(spoken(key, name, [path]) for path in self._attention), "attention")
                else:
                    what = f"at least {value:.4g} of the width: " if name == "least" else f"multiples of {value}: "
                    what += _counted(sum(spoken(key, name, group.members) for group in groups), "group")
                    whole = sum(spoken(key, name, [one]) for one in frozen)
                    what += f" ({_counted(whole, 'module')} left whole)" if whole else ""
                said.append(what)
            found[key] = "; ".join(said) or "left whole"
        return found

    def _of(self, maker: str) -> Asked:
        """What is asked of a module, or of the one that holds a parameter."""
        module = self._modules.get(maker, self._modules.get(maker.rpartition(".")[0]))
        return self._asked[module] if module is not None else {}

    def _inside(self, key: str, argument: str) -> dict[nn.Module, None]:
        """The modules that a key means, and all that is in them.

        Raises:
            ValueError: there is none.
        """
        chosen = [
            module
            for name, module in self._modules.items()
            if fnmatch.fnmatchcase(name, key) or any(kind.__name__ == key for kind in type(module).__mro__)
        ]
        if not chosen:
            known = [*self._modules, *{type(module).__name__: None for module in self._modules.values()}]
            near = difflib.get_close_matches(key.rstrip(".*?") or key, known, 1)
            mend = f"did you mean {near[0]!r}?" if near else "see named_modules(), whose names and classes are meant"
            raise ValueError(
                f"{argument} names {key!r}, which is no module of {type(self._modules['']).__name__}; {mend}"
            )
        return dict.fromkeys(inner for module in chosen for inner in module.modules())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
