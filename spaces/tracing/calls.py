"""How modules are called: a run without arithmetic, whose tensors are found again in the graph. Start at `followed`.

Beside it, which of their attributes they read: `reading`.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..cutting.surgery import Cut
from ..graph.blocks import Calls
from ..graph.network import Examples, Maker, Network, Rehearsal, Step
from ..graph.standin import Argument, Call, Unknown, leaves
from .probe import run

Heard = dict[str, tuple[list[tuple[Argument, Any]], Any]]
"""By module, its arguments and what it gave; tensors as what made them."""


def followed(
    network: Network, rehearsal: Rehearsal, model: nn.Module, examples: Examples
) -> Callable[[Collection[str]], Calls]:
    """What says how modules of a network are called.

    Args:
        network: the captured graph.
        rehearsal: its run.
        model: the network.
        examples: example inputs.
    """
    first: dict[Maker, Node] = {}
    same = {node: first.setdefault(maker, node) for node, maker in rehearsal.makers.items()}

    def calls(names: Collection[str]) -> Calls:
        heard, several = Heard(), set[str]()
        steps, failure = list[Step](), None
        for quick in (True, False) if names else ():
            heard.clear()
            side = network.sides[-1] or None
            watch = _listening(names, heard, several)
            steps, failure = run(model, Cut({}, {}, ()), examples, side, quick=quick, watch=watch)
            if failure is None:
                break
        own = [step for node in network.operators for step in rehearsal.steps.get(node, ())]
        place = _aligned(steps, own) if failure is None else {}

        def node_of(value: Any) -> Any:
            if not isinstance(value, _Made):
                return value
            step, number = value.maker or (len(steps), 0)
            return first.get((place.get(step, -2), number), Unknown())

        found = {
            name: Call(tuple((argument, node_of(value)) for argument, value in given), _each(node_of, gave))
            for name, (given, gave) in heard.items()
        }
        return Calls(found if place else {}, same, several)

    return calls


# --- calls of PyTorch's functions -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """A call of a function of PyTorch.

    Attributes:
        module: whose forward calls.
        function: its name.
        earlier: for each such call that this forward made before, of as many operands, the module in which.
        operands: its numbers at their places among all that it is given; None in the place of others.
        maker: what makes its first result, where that is known.
    """

    module: str
    function: str
    earlier: tuple[str, ...]
    operands: tuple[float | None, ...]
    maker: Maker | None = None

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What the same call of another run has too."""
        return self.module, self.function, len(self.operands), len(self.earlier)


class Hearing(TorchFunctionMode):
    """Notes the calls of functions, in order. Its `watch` is one of `run`."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Told] = []
        self._makers: Mapping[Tensor, Maker] = {}
        self._within: list[tuple[str, dict[tuple[str, int], list[str]]]] = []

    def watch(self, small: nn.Module, makers: Mapping[Tensor, Maker]) -> None:
        """Listen to the forwards of a network."""
        self._makers = makers
        for path, module in small.named_modules():
            module.forward = self._listened(module.forward, path)

    def _listened(self, forward: Callable[..., Any], path: str) -> Callable[..., Any]:
        @wraps(forward)
        def listened(*args: Any, **kwargs: Any) -> Any:
            self._within.append((path, {}))
            try:
                with contextlib.nullcontext() if len(self._within) > 1 else self:
                    return forward(*args, **kwargs)
            finally:
                self._within.pop()

        return listened

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch, and note it."""
        name, (path, called) = getattr(func, "__name__", ""), self._within[-1]
        operands = pytree.tree_leaves((args, kwargs or {}))
        numbers = tuple(one if type(one) in (int, float) else None for one in operands)
        kind = (name, len(operands))
        told = Told(path, name, tuple(called.get(kind, ())), numbers)
        for _, seen in self._within:
            seen.setdefault(kind, []).append(path)
        place = len(self.told)
        self.told.append(told)  # before it may fail
        result = func(*args, **(kwargs or {}))
        first = next((one for one in pytree.tree_leaves(result) if isinstance(one, Tensor)), None)
        self.told[place] = replace(told, maker=None if first is None else self._makers.get(first))
        return result


def calls_of(network: Network, rehearsal: Rehearsal, told: Sequence[Told], steps: Sequence[Step]) -> dict[Node, Told]:
    """The calls that give the values of a graph, from a run of the full network."""
    nodes: dict[Maker, Node] = {}
    for node, maker in rehearsal.makers.items():
        nodes.setdefault(maker, node)
    place = _aligned(steps, [step for node in network.operators for step in rehearsal.steps.get(node, ())])
    found: dict[Node, Told] = {}
    for one in told:
        step, number = one.maker or (len(steps), 0)
        made = nodes.get((place.get(step, -2), number))
        if made is not None:
            found.setdefault(made.all_input_nodes[0] if network.names[made] == "getitem" else made, one)
    return found


# --- the same in the graph --------------------------------------------------------------------------------------------


class _Made:
    """A tensor, by what made it."""

    def __init__(self, maker: Maker | None) -> None:
        self.maker = maker


def _listening(
    names: Collection[str], heard: Heard, several: set[str]
) -> Callable[[nn.Module, MutableMapping[Tensor, Maker]], None]:
    """Notes the calls of modules, and those that are called more than once."""

    def listen(small: nn.Module, makers: Mapping[Tensor, Maker]) -> None:
        def made(value: Any) -> Any:
            return _Made(makers.get(value)) if isinstance(value, Tensor) else value

        for name in names:
            module = small.get_submodule(name)
            arguments = _arguments(module)

            def before(_: nn.Module, args: Any, kwargs: Any, name: str = name, arguments: Any = arguments) -> None:
                several.update({name} & heard.keys())
                given = [leaf for one, value in arguments(args, kwargs) for leaf in leaves(value, one)]
                heard[name] = ([(argument, made(value)) for argument, value in given], None)

            def after(_: nn.Module, args: Any, kwargs: Any, gave: Any, name: str = name) -> None:
                heard[name] = (heard[name][0], _each(made, gave))

            module.register_forward_pre_hook(before, with_kwargs=True)
            module.register_forward_hook(after, with_kwargs=True)

    return listen


def _arguments(module: nn.Module) -> Callable[[Sequence[Any], Mapping[str, Any]], list[tuple[Argument, Any]]]:
    """What says of a call where each argument may stand: by position, by name, or both."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    names = [one.name if one.kind is kinds[0] else None for one in parameters if one.kind in kinds]

    def arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[Argument, Any]]:
        found = [(Argument(n, names[n] if n < len(names) else None), value) for n, value in enumerate(args)]
        places = {name: place for place, name in enumerate(names)}
        return found + [(Argument(places.get(name), name), value) for name, value in kwargs.items()]

    return arguments


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """The same tuples, lists and dictionaries with other contents."""
    if type(value) is dict:
        return {name: _each(change, inner) for name, inner in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_each(change, inner) for inner in value)
    return change(value)


def _aligned(steps: Sequence[Step], others: Sequence[Step]) -> dict[int, int]:
    """For each step of a run, the same one of another run; -1 stands for itself."""
    one, other = ([(step.name, step.shapes[:1]) for step in run] for run in (steps, others))
    if one == other:
        return {number: number for number in range(-1, len(one))}
    found = {-1: -1}
    for block in difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks():
        found |= {block.a + number: block.b + number for number in range(block.size)}
    return found


def reading(seen: set[tuple[str, str]]) -> Callable[[nn.Module, object], None]:
    """What `run` is given to note `(module, name)` of the attributes that a forward reads of modules."""

    def watch(small: nn.Module, _: object) -> None:
        paths: dict[int, list[str]] = {}
        for path, module in small.named_modules(remove_duplicate=False):
            paths.setdefault(id(module), []).append(path)
        kinds = dict.fromkeys(type(module) for module in small.modules())
        told = {kind: _telling(kind, paths, seen) for kind in kinds if _extensible(kind)}
        for path, module in small.named_modules():
            if type(module) in told:
                module.__class__ = told[type(module)]
            else:
                seen.update((path, name) for name in vars(module))

    return watch


def _extensible(kind: type[nn.Module]) -> bool:
    """Whether nothing minds a further class of this kind; attention of another class is not captured alike."""
    known = any("__init_subclass__" in vars(base) for base in kind.__mro__[:-1])
    return type(kind) is type and not known and not issubclass(kind, nn.MultiheadAttention)


def _telling(kind: type[nn.Module], paths: Mapping[int, list[str]], seen: set[tuple[str, str]]) -> type[nn.Module]:
    """A class of modules that notes what is read of them, and else does as its base."""

    def get(module: nn.Module, name: str) -> Any:
        seen.update([(path, name) for path in paths.get(id(module), ())])
        return kind.__getattribute__(module, name)

    return type(kind.__name__, (kind,), {"__getattribute__": get, "__module__": kind.__module__})
