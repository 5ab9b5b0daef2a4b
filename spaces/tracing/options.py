"""How a network is traced: the arguments of `Space.trace`, checked, and as the plain values that study.json keeps."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..examples import constants, described, device_of, made, nested
from ..graph.network import Examples, Side, as_call, flat_examples, own_side, spatial_side
from .parts import Key, Parts, Rule, checked_rules, keys

_NAMED_WHERE_USED = ("block_order", "plain_blocks", "as_graph", "proof")  # in a fingerprint; the order never is


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a network is traced: the arguments of `Space.trace`, and facts of the example inputs.

    Attributes:
        parts: what `ignore`, `rules` and `divisor` ask of the network's modules.
        inputs: the example inputs, described; `names` where the forward takes them by name.
        constants: plain values that the forward takes beside them, by name.
        single: whether the example is one tensor.
        own: spatial side of the example.
        proof: what an earlier proof found, nothing where none was made; None where one is to be made.
    """

    resolutions: tuple[Side, ...]
    divisor: int
    ignore: tuple[str, ...]
    rules: Mapping[str, Rule]
    parts: Parts
    plain_blocks: tuple[str, ...]
    as_graph: bool
    inputs: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    constants: dict[str, Any]
    single: bool
    own: Side
    proof: Mapping[str, Any] | None

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides to trace at, ascending."""
        return self.resolutions or (self.own,)

    def to_json(self) -> dict[str, Any]:
        """As plain values, to trace the network again."""
        return {
            "resolutions": [list(side) for side in self.resolutions],
            "divisor": self.divisor,
            "ignore": list(self.ignore),
            "plain_blocks": list(self.plain_blocks),
            "as_graph": self.as_graph,
            **({"rules": [[key, rule] for key, rule in self.rules.items()]} if self.rules else {}),
            "inputs": list(self.inputs),
            "names": list(self.names) or None,
            **({"constants": self.constants} if self.constants else {}),
            "single": self.single,
            "block_order": {},
        }


def check_module(model: nn.Module) -> None:
    """Raise where a network cannot be traced, whatever it is given.

    Raises:
        TypeError: it is no module.
        ValueError: it has no forward in Python, or no weights yet.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{type(model).__name__} is scripted or traced by torch.jit, which torch.export does not take; trace the "
            "module that it was made of, with its weights"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "model is wrapped in DistributedDataParallel, whose forward is that of its processes; give what it wraps, "
            "model.module, here and to every call"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{name} has no shape yet, because its layer is lazy; call the network once on an example before it is "
                "traced"
            )
        if tensor.device.type == "meta":
            raise ValueError(
                f"{name} is on the meta device and holds no numbers; load the weights first, as by "
                "model.to_empty(device='cpu') and load_state_dict, or load_state_dict(..., assign=True)"
            )


def checked(
    model: nn.Module,
    examples: Examples,
    *,
    resolutions: Iterable[int | Sequence[int]],
    divisor: int,
    ignore: Key | Iterable[Key],
    rules: Mapping[Key, Rule],
    plain_blocks: Iterable[str],
    as_graph: bool,
    prove: bool | Mapping[str, Any],
) -> Options:
    """The arguments of `Space.trace`, if they fit the network.

    Raises:
        TypeError: the resolutions are no numbers, `prove` is no bool, or rules are no mapping or have keys that are
            neither texts nor classes.
        ValueError: a divisor below 1, an unknown module, a rule that is none, or a resolution that is none.
    """
    if not isinstance(prove, (bool, Mapping)):
        raise TypeError(f"prove={prove!r}: expected True or False")
    if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
        raise ValueError(f"divisor={divisor!r}: expected an integer of at least 1")
    plain_blocks = (plain_blocks,) if isinstance(plain_blocks, str) else tuple(plain_blocks)
    resolutions = (resolutions,) if isinstance(resolutions, int) else tuple(resolutions)
    own = own_side(examples) if resolutions else spatial_side(examples)
    sides = _sides(resolutions, own)
    if not spatial_side(examples) and any(side > own for side in sides):
        raise ValueError(
            f"resolution {sides[-1][0]} is longer than the example, {own[0]} tokens; trace with an example of the "
            "longest, so that it is seen whether the network takes it"
        )
    ignored, ruled = keys(ignore, "ignore"), checked_rules(rules)
    parts = Parts(model, ignored, ruled, divisor)
    _check_plain(model, parts, plain_blocks)
    tensors = flat_examples(examples)
    size = tensors[0].shape[0] if tensors[0].ndim else 0
    return Options(
        resolutions=sides,
        divisor=divisor,
        ignore=ignored,
        rules=ruled,
        parts=parts,
        plain_blocks=plain_blocks,
        as_graph=as_graph,
        inputs=tuple(described(tensor, own, size) for tensor in tensors),
        names=tuple(name for name, value in as_call(examples)[1].items() if isinstance(value, Tensor)),
        constants=constants(examples),
        single=isinstance(examples, Tensor),
        own=own,
        proof=None if prove is True else prove or {},
    )


def arguments(model: nn.Module, settings: Mapping[str, Any]) -> tuple[Examples, dict[str, Any]]:
    """Example inputs and the other arguments of `Space.trace` that settings hold."""
    device = device_of(model)
    tensors = [made(one, None, 1).to(device) for one in settings["inputs"]]
    examples = tensors[0] if settings["single"] else nested(tensors, settings)
    return examples, {
        "resolutions": [tuple(side) for side in settings["resolutions"]],
        "divisor": settings["divisor"],
        "ignore": settings["ignore"],
        "plain_blocks": settings.get("plain_blocks", ()),
        "as_graph": settings.get("as_graph", False),
        "rules": dict(settings.get("rules", ())),
        "prove": settings.get("proof", False),
    }


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a candidate means; of a proof, what it disproved."""
    disproved = settings.get("proof", {}).get("disproved")
    return {
        **{
            key: value
            for key, value in settings.items()
            if key not in _NAMED_WHERE_USED or (value and key not in ("block_order", "proof"))
        },
        **({"disproved": disproved} if disproved else {}),
    }


def _sides(resolutions: Iterable[int | Sequence[int]], own: Side) -> tuple[Side, ...]:
    sides = set()
    for resolution in resolutions:
        side = (resolution,) * len(own) if isinstance(resolution, int) else tuple(resolution)
        if not own:
            raise ValueError(
                "resolutions are given, but no example input has spatial axes (batch, channels, *side), nor tokens as "
                "whole numbers (batch, length)"
            )
        if len(side) != len(own) or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in side):
            raise ValueError(f"resolution {resolution!r}: expected a positive integer or {len(own)} of them")
        sides.add(side)
    return tuple(sorted(sides, key=lambda side: (math.prod(side), side)))


def _check_plain(model: nn.Module, parts: Parts, names: Iterable[str]) -> None:
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            mend = f"did you mean {near[0]!r}?" if near else "see named_modules()"
            raise ValueError(f"plain_blocks names {name!r}, which is no module of {type(model).__name__}; {mend}")
        if parts.kept(name):
            raise ValueError(f"plain_blocks names {name!r}, which is ignored or kept by a rule; drop one of the two")
