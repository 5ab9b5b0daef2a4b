"""Proof by numbers at the end of a trace: candidates are built and held against the masked network. Start at `Proof`.

Dry runs compare shapes; a number that the forward calculates with may be wrong where no shape tells. So a few networks
are built from the model's own weights, and groups or blocks with which they give other numbers are left whole.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..channels.layout import Group, Layout
from ..cutting.comparing import Difference, Stays, compared, own_randomness, prepared, sized
from ..cutting.masked import Leaking, outputs_of, relative_error
from ..cutting.surgery import assemble, named_tensors, plan, smaller
from ..cutting.writer import GraphWriter
from ..examples import of_graph
from ..graph.modes import keeping, quietly, unfused
from ..graph.network import Examples, Side, each, flat_examples, own_side, plain, spatial_axis
from .dryrun import at_random

logger = logging.getLogger("secateur")

REASON = "the built network gives other numbers than the full one with these channels zeroed"
WITHOUT = "the built network gives other numbers than the full one without it"
MIXED = (
    "its rows are no examples: what the network gives for one goes with the others, so costs, which are of one row, "
    "are of no example; put the batch first, as nn.LSTM(batch_first=True) takes it, or wrap the network so"
)
_TOLERANCES = {True: 1e-6, False: 1e-3}  # in float64, of which a forward may turn parts to float32; and as the model is
_DOUBLE = 2**30  # bytes; larger networks are compared in their own dtype
_LARGEST = 2**33
_PATIENCE = 40  # comparisons of one search for culprits; what is left then is taken for one
_CANDIDATES = 2


class Proof:
    """Compares networks by numbers, or tells again what an earlier proof found.

    It takes a few runs of the network, at a quarter or half of its side where it takes that, and the memory of the
    model, a copy and a small network; in float64 where the network runs so and has less than 1 GiB.

    Args:
        model: the network that is traced.
        examples: as for `Space.trace`; at most two are run. Noise takes the place of numbers that are all equal.
        sides: those that are traced, ascending; a graph runs at them alone, a module at smaller ones too.
        multiple: the network takes sides that are smaller by it; 0 where it takes its own only.
        found: of an earlier proof, as `to_json` gives it; nothing is run then. None where there was none.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        *,
        sides: Sequence[Side],
        multiple: int,
        found: Mapping[str, Any] | None,
    ) -> None:
        self._model = model
        self._examples = examples
        self._traced = tuple(sides)
        self._sides = _cheapest(own_side(examples) if sides[0] else (), sides, multiple)
        self._found = found
        self._rounds: list[list[str]] = []
        self._blocks: list[str] = []
        self._inputs: Examples | None = None
        self._larger: list[Side] = []
        self._double = True
        self._why = ""
        self._seen: Difference | None = None
        self._candidates = 0
        self._mixed = False
        self._leaks = False
        self._held: tuple[Layout, bool, nn.Module] | None = None

    def to_json(self) -> dict[str, Any]:
        """What was found, as plain values: `said`, and the names of groups and blocks that are left whole."""
        if self._found is not None:
            return dict(self._found)
        rounds, blocks = self._rounds, self._blocks
        return {
            "said": self._said(),
            **({"disproved": {"groups": rounds, "blocks": blocks}} if rounds or blocks else {}),
            **({"mixed": True} if self._mixed else {}),
        }

    def culprits(self, layout: Layout, writer: GraphWriter | None) -> list[Group]:
        """Groups that give other numbers when they are cut; all candidates give the right ones where there is none."""
        if self._found is not None:
            rounds = self._found.get("disproved", {}).get("groups", [])
            names = rounds[len(self._rounds)] if len(self._rounds) < len(rounds) else []
        else:
            self._seen, self._candidates = None, 0
            names = [layout.groups[number].name for number in self._wrong_groups(layout, writer)]
        if names:
            self._rounds.append(names)
        return [group for group in layout.groups if group.name in names]

    def wrong_blocks(self, layout: Layout, writer: GraphWriter | None, blocks: Sequence[str]) -> list[str]:
        """Those of the blocks without which a network gives other numbers."""
        if self._found is not None:
            known = self._found.get("disproved", {}).get("blocks", [])
            return [name for name in blocks if name in known]
        stays = ~at_random(layout)
        if blocks and self._wrong(layout, writer, stays, blocks):
            single = [name for name in blocks if self._wrong(layout, writer, stays, [name])]
            self._blocks = single or list(blocks)
        return self._blocks

    def _said(self) -> str:
        if self._why:
            return f"not proven: {self._why}"
        if self._seen is None:
            return "nothing to prove: no channels and no blocks can go"
        how = "in float64" if self._double else "in the dtype of the model"
        return (
            f"{self._candidates} candidates built give what the full network gives without their channels "
            f"(within {_TOLERANCES[self._double]:g}, {how}); {self._seen.seen}"
        )

    def _wrong_groups(self, layout: Layout, writer: GraphWriter | None) -> list[int]:
        for seed in range(_CANDIDATES):
            gone = at_random(layout, seed)
            numbers = [number for number, group in enumerate(layout.groups) if gone[group.slice].any()]
            found = _shortest(numbers, lambda some: self._wrong(layout, writer, _only(layout, gone, some), ()))  # noqa: B023
            if found:
                return found
        return []

    def _wrong(self, layout: Layout, writer: GraphWriter | None, stays: Stays, removed: Sequence[str]) -> bool:
        """Whether the network of these units and without these blocks gives other numbers."""
        if (stays.all() and not removed) or self._why:
            return False
        if self._inputs is None:
            self._why = self._begin(layout, writer)
        if self._inputs is None:
            return False
        build = _Build(layout, writer, stays, removed)
        whole = self._whole(layout, self._inputs, double=self._double)
        look, faint = self._seen is None, _TOLERANCES[self._double]
        try:
            with quietly(), unfused(), Leaking() if self._leaks else contextlib.nullcontext():
                graph = writer is not None
                found = compared(
                    whole, layout, stays, removed, self._inputs, build, as_graph=graph, look=look, faint=faint
                )
        except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
            logger.debug("a network that was built cannot be compared: %s", error)
            if self._larger and not build.ran:  # a side where a norm has one value a group, say, tells of itself alone
                self._sides, self._inputs, self._held = self._larger, None, None
                return self._wrong(layout, writer, stays, removed)
            if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or build.ran:
                self._why = f"the full network does not run with its channels zeroed: {_line(error)}"
            return not self._why
        if look:
            self._seen = found
        if look and found.hidden and not self._leaks and writer is None and not found > faint:
            self._seen, self._leaks = None, True
            return self._wrong(layout, writer, stays, removed)
        if look and found.groups and found.reached == 0:
            self._why = "no output reacts to the channels that are cut"
        elif math.isnan(found) and build.finite:
            self._why = "outputs of the full network are not finite once channels are zeroed"
        right = bool(self._why) or float(found) <= faint
        self._candidates += right
        return not right

    def _whole(self, layout: Layout, inputs: Examples, *, double: bool) -> nn.Module:
        """The full network whose channels are unlike; it is kept while it serves."""
        if self._held is None or self._held[:2] != (layout, double):
            self._held = None
            whole = prepared(self._model, layout, double=double)
            with quietly(), unfused():
                sized(whole, self._model, inputs)
            self._held = layout, double, whole
        return self._held[2]

    def _begin(self, layout: Layout, writer: GraphWriter | None) -> str:
        """Find inputs on which the network runs, cheap ones first; why there are none."""
        size = sum(tensor.numel() for tensor in {id(one): one for one in named_tensors(self._model).values()}.values())
        own = sum(tensor.nbytes for tensor in named_tensors(self._model).values())
        if own > _LARGEST:
            return f"a copy takes {own / 2**30:.0f} GiB; verify a candidate where there is memory"
        everything = np.ones(layout.units, bool)
        why, ran, mixed = "", False, None
        for double in (True, False) if 8 * size <= _DOUBLE else (False,):
            sides = self._sides if writer is None else [*self._traced[:1]]
            for place, side in enumerate(sides):
                inputs = _real(self._examples, side, double=double)
                try:
                    whole = self._whole(layout, inputs, double=double)
                    with quietly(), unfused(), own_randomness(whole), keeping(whole), torch.no_grad():
                        outputs = outputs_of(whole, inputs)
                        mixed = _mixes(whole, inputs, outputs, _TOLERANCES[double])
                        again = outputs if mixed is False and double else outputs_of(whole, inputs)
                        if writer is not None:  # a graph holds the dtypes and sides that it was captured with
                            outputs_of(_Build(layout, writer, everything, ())(whole), of_graph(inputs))
                except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
                    why = f"the network does not run: {_line(error)}"
                    continue
                ran, why = True, _unfit(outputs, again)
                if not why:
                    self._inputs, self._double, self._mixed = inputs, double, bool(mixed)
                    self._larger = sides[place + 1 :]
                    return ""
        self._mixed = not ran and _rows(self._examples) > 2 and _runs(prepared(self._model, layout), self._examples)
        return why


class _Build:
    """Makes the small network; `ran` says whether it gave outputs, `finite` whether all of them are finite."""

    def __init__(self, layout: Layout, writer: GraphWriter | None, stays: Stays, removed: Sequence[str]) -> None:
        self._layout, self._writer, self._stays, self._removed = layout, writer, stays, tuple(removed)
        self.ran = self.finite = False

    def __call__(self, whole: nn.Module) -> nn.Module:
        changes = plan(self._layout, self._stays, self._removed)
        tensors = smaller(named_tensors(whole), changes)
        if self._writer is not None:
            small: nn.Module = self._writer.module(whole, tensors, self._stays, self._removed)
        else:
            small = assemble(whole, tensors, changes.attributes, self._removed, changes.gives, changes.numbers)
        small.register_forward_hook(self._noted)
        return small

    def _noted(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        leaves = [one for one in pytree.tree_leaves(plain(outputs)) if isinstance(one, Tensor)]
        self.ran, self.finite = True, all(bool(torch.isfinite(one).all()) for one in leaves)


def _shortest(numbers: Sequence[int], wrong: Callable[[Sequence[int]], bool]) -> list[int]:
    """Numbers without which the others are right: each ends the shortest run of them that is wrong."""
    left, found, asked = list(numbers), list[int](), 0
    while wrong(left):
        if asked > _PATIENCE:
            return found + left
        fine, bad = 0, len(left)
        while bad - fine > 1:
            middle, asked = (fine + bad) // 2, asked + 1
            fine, bad = (fine, middle) if wrong(left[:middle]) else (middle, bad)
        found.append(left.pop(bad - 1))
    return found


def _only(layout: Layout, gone: Stays, numbers: Sequence[int]) -> Stays:
    """`(u,)` whether each unit stays where only some groups are cut."""
    stays = np.ones(layout.units, bool)
    for number in numbers:
        here = layout.groups[number].slice
        stays[here] = ~gone[here]
    return stays


def _unfit(outputs: Sequence[Tensor], again: Sequence[Tensor]) -> str:
    """Why two runs of the full network prove nothing; empty where they do."""
    floating = [one for one in outputs if one.is_floating_point()]
    if not floating:
        return "no output holds floating numbers"
    if not all(bool(torch.isfinite(one).all()) for one in floating):
        return "outputs are not finite"
    same = [one.shape for one in outputs] == [one.shape for one in again]
    if not same or relative_error(outputs, again) > min(_TOLERANCES.values()):
        return "the forward gives other numbers each time, also in eval mode"
    return ""


def _cheapest(own: Side, sides: Sequence[Side], multiple: int) -> list[Side]:
    """Sides to run at, the cheapest first, where the network takes steps of its own.

    That is about a quarter of the smallest, of small ones half.
    """
    least = sides[0]
    wanted = [max(16, min(32, size // 2), size // 4) for size in least]
    steps = [
        max(0, (size - side) // multiple * multiple) if multiple else 0
        for size, side in zip(least, wanted, strict=True)
    ]
    return list(dict.fromkeys([tuple(size - step for size, step in zip(least, steps, strict=True)), least, own]))


def _real(examples: Examples, side: Side, *, double: bool) -> Examples:
    """At most two examples at a side: their own numbers, repeated or cut, or noise where all of them are equal."""
    own = own_side(examples)
    size = flat_examples(examples)[0].shape[:1]
    random = torch.Generator().manual_seed(0)

    def fit(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        tensor = value.detach()
        if size and tensor.shape[:1] == size:
            tensor = tensor[:2]
        first = spatial_axis(tensor, own) if side and side != own else 0
        if first:
            for axis, length in enumerate(side, first):
                tensor = tensor.index_select(axis, torch.arange(length, device=tensor.device) % tensor.shape[axis])
        if tensor.is_floating_point():
            if tensor.numel() and bool((tensor == tensor.flatten()[0]).all()):
                tensor = torch.rand(tensor.shape, generator=random).to(tensor)
            tensor = tensor.double() if double else tensor
        return tensor.contiguous()

    return each(fit, examples)


def _mixes(network: nn.Module, inputs: Examples, outputs: Sequence[Tensor], tolerance: float) -> bool | None:
    """Whether the first axis of the inputs is no batch: what the network gives for a row goes with other rows.

    Its outputs for the rows of `inputs` are held against those for the same rows in another order, or behind another
    one where there is only one. None where outputs have no row an example, which tell nothing.
    """
    size = _rows(inputs)

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape[:1] != (size,):
            return value
        return value.flip(0) if size > 1 else torch.cat([value.flip(-1), value])

    try:
        found = outputs_of(network, each(moved, inputs))
    except Exception:  # noqa: BLE001 - the user's forward may raise anything
        return None
    rows = [one.flip(0) if size > 1 else one[1:] for one in found if one.ndim]
    whole = [one for one in outputs if one.ndim]
    if [one.shape for one in rows] != [one.shape for one in whole] or any(one.shape[:1] != (size,) for one in whole):
        return None
    return relative_error(rows, whole) > tolerance


def _rows(inputs: Examples) -> int:
    """Of the first tensor."""
    return next(iter(flat_examples(inputs)[0].shape), 0)


def _runs(network: nn.Module, inputs: Examples) -> bool:
    try:
        with quietly(), unfused(), own_randomness(network), keeping(network), torch.no_grad():
            outputs_of(network, inputs)
    except Exception:  # noqa: BLE001 - the user's forward may raise anything
        return False
    return True


def _line(error: Exception) -> str:
    """The first line of what an exception says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
