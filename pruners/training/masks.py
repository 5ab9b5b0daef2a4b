"""Masks on units, by parameters alone: what is closed gives zero, keeps its weights, and may be opened again.

A closed unit has zeros in its gate tensors (see `gates`), and in the shifts of norms that come later, so that every
batch norm gives zero for it too. Its other weights stay as they were: no momentum, weight decay or gradient moves them
while it is closed, and those behind the zeros are kept aside. Call `still` when the gradients are there and have been
read, and `hold` after every step; no hook is needed.

While training, a closed unit is worth exactly as much as one that is cut, but for norms that take statistics over
channels (layer and group norms) and for units whose activation of zero is not zero.

Symbols: `u` units of all groups and the one that always stays; `closed` is `(u,)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...spaces import Candidate, Scores, Space, build, check_scores, stays, threshold_candidate, within
from ..criteria.gates import gate_axes, gate_gradients
from ..proposal import Proposal, Request

Closed = npt.NDArray[np.bool_]


class Masks:
    """Which units of a network are closed.

    Attributes:
        closed: `(u,)` whether each unit is; change it by `close`, `reopen` or `put`.
        ajar: what the gate tensors of a closed unit are multiplied by; change it by `shut`.
    """

    def __init__(self, model: nn.Module, space: Space, *, ajar: float = 0.0) -> None:
        """Nothing is closed.

        Args:
            model: what is trained, of the shapes of the traced network.
            space: the traced space.
            ajar: 0, or a small number where gradients of closed gates are wanted: PyTorch's ReLU has no slope at 0,
                so that behind a gate of exactly 0 nothing is ever felt. The slope is then the one towards opening.
        """
        self.ajar = ajar
        self.closed: Closed = np.zeros(space.units, bool)
        self._space = space
        named = dict(model.named_parameters())
        self._parameters = {name: named[name] for name in space.slots if name in named}
        first = {id(parameter): name for name, parameter in named.items()}
        every = model.named_parameters(remove_duplicate=False)
        self._own = {name: first[id(parameter)] for name, parameter in every}  # tied weights have several names
        self._zeros = _zeros(space, self._own)
        self._kept: dict[str, Tensor] = {}
        self._held: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}

    def close(self, units: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Close these unit numbers as well."""
        closed = self.closed.copy()
        closed[np.asarray(units, np.int64)] = True
        self.put(closed)

    def reopen(self, units: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Open these unit numbers, with the weights they had when they were closed."""
        closed = self.closed.copy()
        closed[np.asarray(units, np.int64)] = False
        self.put(closed)

    def put(self, closed: Closed) -> None:
        """Close exactly these units, `(u,)`; all others are open, with the weights they had when they were closed."""
        if closed.shape != self.closed.shape or closed[0]:
            raise ValueError(f"closed is {closed.shape} and may not hold unit 0; expected {self.closed.shape}")
        if np.array_equal(closed, self.closed):
            return
        self._kept = self.weights()
        with torch.no_grad():
            for name in self._held:
                self._parameters[name].copy_(self._kept[name])
        self.closed = closed.copy()
        self._arrange()
        self.hold()

    def shut(self) -> None:
        """Leave no closed gate ajar."""
        self.ajar = 0.0
        self._arrange()
        self.hold()

    def still(self) -> None:
        """Take the gradient off what is closed: it is neither moved nor counted when gradients are clipped."""
        for name, held in self._held.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                gradient.masked_fill_(held.to(gradient.device), 0)

    def hold(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put what is closed back where it was, and its momentum to zero."""
        with torch.no_grad():
            for name, held in self._held.items():
                parameter = self._parameters[name]
                held, value = held.to(parameter.device), self._values[name].to(parameter.device)
                self._held[name], self._values[name] = held, value
                parameter.copy_(torch.where(held, value, parameter))
                for moment in () if optimizer is None else optimizer.state.get(parameter, {}).values():
                    if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                        moment.masked_fill_(held, 0)

    def weights(self) -> dict[str, Tensor]:
        """Copies of all parameters that units have a part in, as they are where every gate is open."""
        return {
            name: torch.where(self._held[name].to(parameter.device), self._kept[name].to(parameter.device), parameter)
            if name in self._held
            else parameter.detach().clone()
            for name, parameter in ((name, tensor.detach()) for name, tensor in self._parameters.items())
        }

    def gate_gradients(self, gradients: Mapping[str, Tensor] | None = None) -> Scores:
        """`dL/dgate` of every unit, open or closed; 0 where a step of mixed precision overflowed.

        Args:
            gradients: by the first name of each parameter; those that the parameters have now when None.
        """
        if gradients is None:
            gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        weights = self.weights()
        names = {name: own for name, own in self._own.items() if own in gradients and own in weights}
        found = gate_gradients(
            self._space,
            {name: weights[own] for name, own in names.items()},
            {name: gradients[own] for name, own in names.items()},
        )
        return {name: values.nan_to_num(0.0, 0.0, 0.0) for name, values in found.items()}

    def open_units(self, number: int) -> npt.NDArray[np.int64]:
        """Open units of a group, counted from its first."""
        group = self._space.groups[number]
        return np.flatnonzero(~self.closed[group.slice])

    def candidate(self, closed: Closed | None = None) -> Candidate:
        """The network that holds all open units, each group at the next legal width; depths and side are full.

        Args:
            closed: `(u,)`, other than what is closed.
        """
        closed = self.closed if closed is None else closed
        values = list(self._space.full)
        for number, group in enumerate(self._space.groups):
            want = int((~closed[group.slice]).sum()) * group.unit
            values[number] = min(width for width in group.widths if width >= want)
        return self._space.canonical(values)

    def meets(self, limits: Mapping[str, float], closed: Closed | None = None) -> bool:
        """Whether that network is within all limits that arithmetic knows."""
        return bool(within(self._space, self._space.encode([self.candidate(closed)]), limits)[0])

    def ranked(self, scores: Scores) -> Scores:
        """The scores, moved so that every open unit is above every closed one; the order within both stays."""
        check_scores(self._space, scores)
        if not scores:
            return {}
        every = torch.cat([scores[group.name].double().flatten().cpu() for group in self._space.groups])
        low, reach = float(every.min()), float(every.max() - every.min()) or 1.0
        found = {}
        for group in self._space.groups:
            share = (scores[group.name].double().cpu() - low) / reach
            closed = torch.from_numpy(self.closed[group.slice])
            found[group.name] = torch.where(closed, 0.5 * share, 1 + share)
        return found

    def settle(self, candidate: Candidate, scores: Scores) -> None:
        """Close exactly what the candidate leaves out by these scores."""
        self.put(~stays(self._space, candidate, scores))

    def shrink(self, scores: Scores, limits: Mapping[str, float], *, least: int = 1) -> Candidate:
        """Close what one threshold over the open units leaves out, so that the limits are met; the candidate.

        What is closed goes first, so that of it only the best opens again, and only where the limits allow.

        Args:
            scores: of every unit, compared as they are.
            limits: absolute limits by cost name.
            least: channels that every group keeps.

        Raises:
            ValueError: a limit is out of reach.
        """
        ranked = self.ranked(scores)
        candidate = threshold_candidate(self._space, ranked, limits, normalise="none", least=least)
        self.settle(candidate, ranked)
        return candidate

    def state(self) -> dict[str, Any]:
        """What is closed, and its weights, as copies."""
        return {
            "closed": torch.from_numpy(self.closed.copy()),
            "ajar": self.ajar,
            "kept": {name: kept.detach().cpu().clone() for name, kept in self._kept.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken; the model's own weights have been put back before."""
        self.ajar = float(state["ajar"])
        self.closed = np.asarray(state["closed"].cpu().numpy(), bool).copy()
        self._kept = {name: kept.clone() for name, kept in state["kept"].items()}
        self._arrange()

    def _arrange(self) -> None:
        """Which entries of every parameter are held, and at which values."""
        self._held, self._values = {}, {}
        for name, parameter in self._parameters.items():
            axes = self._space.slots[name]
            held = _entries(parameter, {axis: self.closed[ids] for axis, ids in axes.items()})
            if held.any():
                zero = {axis: self.closed[axes[axis]] for axis in self._zeros.get(name, ())}
                self._held[name] = held
                kept = self._kept[name].to(held.device)
                self._values[name] = torch.where(_entries(parameter, zero), self.ajar * kept, kept)


def reachable(request: Request, least: int) -> None:
    """Raise a ValueError where no network of the space is within the limits."""
    request.space.check_limits(request.limits)
    threshold_candidate(request.space, None, request.limits, least=least)


def trained(model: nn.Module, space: Space, candidate: Candidate, scores: Scores, notes: Mapping[str, Any]) -> Proposal:
    """The proposal of a network with the weights that `model`, the trained full network, has now."""
    weights = build(model, space, candidate, scores).state_dict()
    return Proposal(
        candidate=candidate,
        scores={name: values.detach().float().cpu() for name, values in scores.items()},
        weights={name: tensor.detach() for name, tensor in weights.items()},
        notes=dict(notes),
    )


def _entries(parameter: Tensor, axes: Mapping[int, Closed]) -> Tensor:
    """Entries of a tensor whose index is marked on any of the axes."""
    marked = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    for axis, marks in axes.items():
        marked |= (
            torch.from_numpy(marks).to(parameter.device).view([-1 if i == axis else 1 for i in range(marked.ndim)])
        )
    return marked


def _zeros(space: Space, own: Mapping[str, str]) -> dict[str, set[int]]:
    """Axes along which closed units are zero: the gates', and those of later norms' shifts."""
    found: dict[str, set[int]] = {}
    for name, axis in gate_axes(space).items():
        if name in own:
            found.setdefault(own[name], set()).add(axis)
    for name, axes in space.slots.items():
        if name in own and len(space.shapes[name]) == 1 and name.rpartition(".")[2] == "bias":
            found.setdefault(own[name], set()).update(axes)
    return found
