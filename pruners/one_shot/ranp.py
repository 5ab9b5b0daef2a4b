"""RANP: neurons by the gradients of their masks, layers balanced and weighted by what they cost. Start at `Ranp`.

Xu 2020 (arXiv 2010.02488, extended in 2103.08457) prunes 3D networks before they are trained. All that the method gives
is how many neurons each layer keeps, so it is a search over widths in one step. Formulas and symbols are in `neurons`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from ...spaces import Candidate, Group, Layer, Scores, Space, build, copied, stays, within
from ...spaces.checked import check, one_of
from ..examples import Examples, gradients
from ..proposal import Count, Needs, Number, Part, Proposal, Request, Weights, checked, examples_for
from .campaign import campaign
from .fresh import Draw, fresh
from .neurons import Array, balanced, kept_by, mask_gradients, neuron_scores, rank_of, resources, reweighted, threshold

Ids = npt.NDArray[np.int64]
Resource = Literal["flops", "memory", "params"]

logger = logging.getLogger("secateur")
_LEAST = 4  # channels that a group of twice as many keeps where nothing else is asked
_NO_STATISTICS = "more than 1 value per channel"  # what a batch norm in train mode says of a batch that has none


@dataclass(frozen=True, kw_only=True)
class Ranp:
    """Resource-aware neuron pruning (Xu 2020, arXiv 2010.02488): one threshold over all neurons' mask gradients.

    The largest `k` whose network is within the limits decides how wide each group is. The last layer keeps all its
    neurons though their scores count; a depthwise layer follows its input. Layers that an addition joins keep as many
    units as the one that keeps most (or least). Here the layers' wiring is that of the traced network, transposed
    convolutions are scored along their outputs (the authors' code takes the inputs), groups are never emptied, and
    weights may be inherited. The authors take gradients from weights just drawn and draw again after pruning, which is
    `initialise=True, weights="fresh"`; biases, 0 then, count as they are otherwise.

    Attributes:
        name: as in study files.
        balance: raise the mean score of every layer to the largest one.
        resource: `"flops"`, `"memory"` or `"params"`: layers that need more of it lose more; None: not looked at.
        strength: how much more, `lambda` of the paper (11, 15, 80 or 100 there, by task).
        reduce: over the weights of a neuron: `"sum"`, `"mean"` or `"max"`.
        raw: sum signed mask gradients (MNMG) instead of their magnitudes (MPMG).
        unify: `"max"` or `"min"` of the units that the layers of one group keep.
        batch_statistics: take gradients in train mode, as the authors do.
        kappa: share of neurons to go at least, more where the limits ask for it; `"max"`: as many as leave no group
            empty; None: as few as the limits allow.
        initialise: take gradients from weights drawn again.
        draw: how `fresh` draws: `"xavier"` or `"orthogonal"`; `"campaign"`: what the proposed network begins with is
            chosen by the neuron campaign (Mao 2021), see `campaign`.
        weights: `"inherited"`, or `"fresh"` as in the paper.
        least: channels that every group keeps at least; None: 4 where it has 8 or more, as far as the limits allow (a
            layer that is left one or two cuts the network off). The paper's own: 1.
    """

    name: str = "ranp"
    balance: bool = False
    resource: Resource | None = None
    strength: Number = 11.0
    reduce: Literal["sum", "mean", "max"] = "sum"
    raw: bool = False
    unify: Literal["max", "min"] = "max"
    batch_statistics: bool = True
    kappa: Part | Literal["max"] | None = None
    initialise: bool = False
    draw: Draw | Literal["campaign"] = "xavier"
    weights: Annotated[Weights, AfterValidator(one_of("inherited", "fresh"))] = "inherited"
    least: Count | None = None
    needs: Needs = "labels"
    allocates: bool = True
    selects: bool = True

    def __post_init__(self) -> None:
        check(self)
        if self.draw == "campaign" and self.weights != "fresh":
            raise ValueError("draw='campaign' is about fresh weights; give weights='fresh' too")
        if self.raw and self.reduce == "max":
            raise ValueError("raw=True with reduce='max': signed gradients have no meaningful maximum; use 'sum'")

    def propose(self, request: Request) -> Proposal:
        """See `Pruner.propose`."""
        space, limits = request.space, request.limits
        examples = examples_for(self, request.examples)
        space.check_limits(limits)
        notes: dict[str, Any] = {}
        s = self.neurons(request.model, space, examples, seed=request.seed, notes=notes)
        members = _members(space)
        scores = checked(self.name, space, self._unit_scores(space, members, s))
        neurons = sum(map(len, s))
        ranks = [self._rank(s, group, own) for group, own in zip(space.groups, members, strict=True) if own]
        most = max(ranks, default=1)

        def at(k: int) -> Candidate:
            return self._at(request, members, s, k)

        def fits(k: int) -> bool:
            return bool(within(space, space.encode([at(k)]), limits)[0])

        k = neurons if self.kappa is None else most if self.kappa == "max" else kept_by(self.kappa, neurons)
        k = max(1, k)
        k = k if fits(k) else _largest(fits, k)
        candidate = at(k) if k else space.repair(at(1), limits)
        narrow = [group.name for i, group in enumerate(space.groups) if candidate[i] < self._least(group)]
        if narrow and self.least is None:
            return self._without_least(request)
        if narrow:
            raise ValueError(
                f"no network with at least {self.least} channels in every group is within {dict(limits)}; lower `least`"
            )
        if not k:
            notes["repaired"] = "no threshold meets the limits while every group keeps its least; widths shrank further"
        notes |= self._notes(space, candidate, scores, max(1, k), most, neurons)
        notes |= _held(space, members, ranks, max(1, k))
        weights = self._weights(request, candidate, scores, notes) if self.weights == "fresh" else None
        for key in ("whole", "repaired", "held", "statistics", "not_drawn"):
            if notes.get(key):
                logger.info("%s: %s: %s", self.name, key, notes[key])
        return Proposal(candidate=candidate, scores=scores, weights=weights, notes=notes)

    def _least(self, group: Group) -> int:
        """Channels that a group keeps."""
        return min(self.least or (_LEAST if group.width >= 2 * _LEAST else 1), group.width)

    def _without_least(self, request: Request) -> Proposal:
        found = replace(self, least=1).propose(request)
        groups = enumerate(request.space.groups)
        narrow = [group.name for i, group in groups if found.candidate[i] < self._least(group)]
        logger.warning("%s: the limits leave less than %d channels in %s", self.name, _LEAST, ", ".join(narrow))
        return replace(found, notes={**found.notes, "narrow": narrow})

    def neurons(
        self,
        model: nn.Module,
        space: Space,
        examples: Examples,
        *,
        seed: int = 0,
        notes: dict[str, Any] | None = None,
    ) -> list[Array]:
        """Final scores of the neurons, an array `(N_l,)` for each of `space.layers`; `notes` is added to."""
        notes = {} if notes is None else notes
        if self.initialise:
            model = copied(model)
            notes["not_drawn"] = list(fresh(model, seed, draw=self._plain_draw))
        try:
            means = self._means(model, examples, training=self.batch_statistics)
        except ValueError as error:
            if not self.batch_statistics or _NO_STATISTICS not in str(error):
                raise
            notes["statistics"] = "a batch is too small for its own statistics; the running ones were used"
            means = self._means(model, examples, training=False)
        s = [
            neuron_scores(
                means[layer.weight],
                means[layer.bias] if layer.bias else None,
                axis=_axis(layer, space),
                reduce=self.reduce,
            )
            for layer in space.layers
        ]
        s = balanced(s) if self.balance and s else s
        return reweighted(s, resources(space, self.resource), self.strength) if self.resource and s else s

    def _means(self, model: nn.Module, examples: Examples, *, training: bool) -> dict[str, Tensor]:
        """Mean over the batches of the mask gradients, or of their magnitudes, by every name of a parameter."""
        named = dict(model.named_parameters(remove_duplicate=False))
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        total: dict[str, Tensor] = {}
        for grads in gradients(model, examples, training=training):
            for name, product in mask_gradients(named, grads).items():
                term = (product if self.raw else product.abs()).double()
                total[name] = total[name] + term if name in total else term
        return {
            name: total[first[id(parameter)]] / len(examples.batches)
            for name, parameter in named.items()
            if first[id(parameter)] in total
        }

    def _at(self, request: Request, members: Sequence[Sequence[_Member]], s: Sequence[Array], k: int) -> Candidate:
        """The network of the `k` best neurons, as far as no group is emptied; what no layer makes stays whole."""
        theta = threshold(s, k) if s else 0.0
        values = list(request.base)
        for number, (group, own) in enumerate(zip(request.space.groups, members, strict=True)):
            if own:
                wanted = self._units(own, s, theta) * group.unit
                legal = [width for width in group.widths if width >= self._least(group)] or [group.width]
                values[number] = max([width for width in legal if width <= wanted] or legal[:1])
        return request.space.canonical(values)

    def _units(self, own: Sequence[_Member], s: Sequence[Array], theta: float) -> int:
        """Units of a group that stay, by count over its layers."""
        counts = [(int((s[member.layer][member.neurons] >= theta).sum()), member.each) for member in own]
        if self.unify == "max":
            return max(-(-count // each) for count, each in counts)
        return min(count // each for count, each in counts)

    def _rank(self, s: Sequence[Array], group: Group, own: Sequence[_Member]) -> int:
        """The least `k` at which the group keeps its least units without help."""
        units = -(-self._least(group) // group.unit)
        if self.unify == "max":
            return min(rank_of(s, s[one.layer][one.neurons], (units - 1) * one.each + 1) for one in own)
        return max(rank_of(s, s[one.layer][one.neurons], units * one.each) for one in own)

    def _unit_scores(self, space: Space, members: Sequence[Sequence[_Member]], s: Sequence[Array]) -> Scores:
        """The best (or worst) score of a unit's neurons in the layers of its group; L2 norms where none makes it."""
        scores: Scores = {}
        join, start = (np.maximum, -np.inf) if self.unify == "max" else (np.minimum, np.inf)
        for group, own in zip(space.groups, members, strict=True):
            values = np.full(group.units, start)
            for one in own:
                join.at(values, one.units, s[one.layer][one.neurons])
            scores[group.name] = torch.from_numpy(values) if own else space.default_scores[group.name].double()
        return scores

    def _notes(
        self, space: Space, candidate: Candidate, scores: Scores, k: int, most: int, neurons: int
    ) -> dict[str, Any]:
        there = stays(space, candidate, scores)
        kept = {layer.name: int(there[layer.makes].sum()) for layer in space.layers}
        return {
            "kappa": 1 - k / max(1, neurons),
            "kappa_max": 1 - most / max(1, neurons),
            "neurons": neurons,
            "neurons_kept": sum(kept.values()),
            "one_neuron": [layer.name for layer in space.layers if kept[layer.name] == 1 and len(layer.makes) > 1],
        }

    @property
    def _plain_draw(self) -> Draw:
        return "xavier" if self.draw == "campaign" else self.draw

    def _weights(
        self, request: Request, candidate: Candidate, scores: Scores, notes: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Those of the proposed network, drawn again."""
        space = request.space
        if not space.as_graph:
            small = build(request.model, space, candidate, scores)
            notes["not_drawn"] = list(fresh(small, request.seed, draw=self._plain_draw))
            if self.draw == "campaign":
                notes["campaign"] = campaign(small, examples_for(self, request.examples), seed=request.seed)
        elif self.draw == "campaign":
            raise ValueError("draw='campaign' goes by layers, and a graph has none; trace without as_graph")
        else:  # a graph has no layers to draw by, so the full network is drawn and cut
            full = copied(request.model)
            notes["not_drawn"] = list(fresh(full, request.seed, draw=self._plain_draw))
            small = build(full, space, candidate, scores)
        return {name: tensor.detach().clone() for name, tensor in small.state_dict().items()}


# --- its parts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """A layer that makes channels of a group: its number, which of its neurons, `(N,)`, and their units from 0."""

    layer: int
    neurons: Ids
    units: Ids
    each: int  # neurons of one unit


def _axis(layer: Layer, space: Space) -> int:
    return layer.out_axis if not layer.depthwise else 0


def _largest(fits: Callable[[int], bool], above: int) -> int:
    """The largest number from 1 up that fits, below one that does not; 0 where none does. Costs rise with widths."""
    low, high = 0, above
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _members(space: Space) -> list[list[_Member]]:
    """For each group, the layers that make its channels; depthwise ones only where there is no other."""
    found: list[list[_Member]] = []
    for group in space.groups:
        own: dict[bool, list[_Member]] = {True: [], False: []}
        for number, layer in enumerate(space.layers):
            depthwise = layer.depthwise
            if depthwise and layer.out_axis != 0:
                continue
            units = layer.makes - group.first
            neurons = np.flatnonzero((units >= 0) & (units < group.units))
            if len(neurons):
                own[depthwise].append(_Member(number, neurons, units[neurons], len(neurons) // group.units))
        found.append(own[False] or own[True])
    return found


def _held(space: Space, members: Sequence[Sequence[_Member]], ranks: Sequence[int], k: int) -> dict[str, Any]:
    """Groups that no layer makes, and those that the threshold alone would have emptied."""
    made = [group.name for group, own in zip(space.groups, members, strict=True) if own]
    whole = [group.name for group, own in zip(space.groups, members, strict=True) if not own]
    held = [name for name, rank in zip(made, ranks, strict=True) if rank > k]
    notes: dict[str, Any] = {}
    if whole:
        notes["whole"] = {name: "no convolution or linear layer makes its channels" for name in whole}
    if held:
        notes["held"] = held
    return notes
