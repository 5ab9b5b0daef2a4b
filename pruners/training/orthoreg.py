"""OrthoReg: filters are trained towards orthogonality, so that importances of single filters add up; then rounds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from ...spaces import Candidate, Layer, Scores, Space, copied
from ...spaces.checked import check
from ..proposal import Count, Needs, Number, Proposal, Request, Share, Weights, checked
from .masks import Masks, reachable, trained

logger = logging.getLogger("secateur")


def orthogonality(filters: Tensor) -> Tensor:
    """`||W W^T - I||_1` over the entries of `(n, m)` filters, `||W^T W - I||_1` where `n > m`; a scalar."""
    return _gram(filters).abs().sum()


def orthogonality_gradient(filters: Tensor) -> Tensor:
    """Its gradient, `(n, m)`: `2 sign(G) W`, or `2 W sign(G)` where `n > m`."""
    sign = _gram(filters).sign()
    return 2 * (filters @ sign if len(filters) > filters.shape[1] else sign @ filters)


def diagonality(filters: Tensor) -> float:
    """`||diag(W W^T)||_1 / ||W W^T||_1` of `(n, m)` filters: 1 where they are orthogonal, less otherwise."""
    gram = filters @ filters.T
    return float(gram.diagonal().abs().sum() / gram.abs().sum())


def left_after(round_: int, rounds: int, total: float) -> float:
    """What is left after a round, 1-based, of so many that take `total` together.

    Round `k` takes `p / (k p + n (1 - p))` of what is left; the product is `n (1 - p) / (k p + n (1 - p))`.
    """
    return rounds * (1 - total) / (round_ * total + rounds * (1 - total))


def _ascending(shares: Sequence[float]) -> Sequence[float]:
    if not shares or list(shares) != sorted(set(shares)):
        raise ValueError(f"rounds={shares!r}: expected ascending shares in (0, 1]")
    return shares


@dataclass(frozen=True, kw_only=True)
class OrthoReg:
    """Orthogonality regularisation and squared group Taylor scores in rounds (arXiv 2009.05014).

    A layer's filters, with its bias where no batch norm follows, are the rows of `W`; `strength * a * ||W W^T - I||_1`
    joins the loss of every layer that makes units, as gradients added to those of the loss. While it is on, the
    optimizer's weight decay is set to zero; it comes back with the optimizer's own value when it is off. It is on up to
    the first round, and in the last part of every interval before a further one; not after the last.

    In a round, units close for good whose importance is least, all groups compared: `(sum of weight times gradient)^2`,
    with the mean gradient of the loss over the steps since the regulariser went on.

    Deviations: gradients are those of the training, not of a pass in eval mode; behind a batch norm with statistics of
    the batch the sum over a filter is always zero, so there it is taken over the norm's scale and shift, which is the
    same slope in eval mode but for the mean. A round takes its share of the costs, and the last one what the limits
    say, not a share of the filters. `least` guards the best units; the authors' code guards a twentieth of each layer,
    the last ones by index.

    Attributes:
        strength: of the regulariser.
        weighting: a layer's part `a`, their sum 1: `"least"` is sqrt(min(n, m)), of the authors' residual networks,
            `"rows"` is sqrt(n), of their others.
        rounds: shares of the training after which a round closes units, ascending.
        on: last part of the interval before each further round in which the regulariser is on.
        least: channels that every group keeps at least.
    """

    strength: Number = 1e-2
    weighting: Literal["least", "rows"] = "least"
    rounds: Annotated[Sequence[Share], AfterValidator(_ascending)] = (0.3, 0.45, 0.6)
    on: Share = 0.5
    least: Count = 1
    name: str = "orthoreg"
    needs: Needs = "training"
    allocates: bool = True
    selects: bool = True
    weights: Weights = "trained"

    def __post_init__(self) -> None:
        check(self)

    def start(self, request: Request) -> OrthoRegPhase:
        """See `TrainingPruner.start`; nothing is random."""
        reachable(request, self.least)
        return OrthoRegPhase(self, request)


class OrthoRegPhase:
    """See `Phase`."""

    def __init__(self, method: OrthoReg, request: Request) -> None:
        space = request.space
        self.model = model = copied(request.model)
        self._method, self._space, self._limits = method, space, dict(request.limits)
        self._masks = Masks(model, space)
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._layers = [layer for layer in space.layers if layer.makes.any()]
        self._parts = _parts(self._layers, space, method.weighting)
        self._full = space.full_costs
        self._decays: list[float] = []
        self._sums: dict[str, Tensor] = {}
        self._steps = self._done = 0
        self._candidate: Candidate | None = None
        self._scores: Scores = {}
        self._notes: dict[str, Any] = {"rounds": [], "weight_decay_off": 0}

    def prepare(self, loop: Any) -> None:
        """Note the optimizer's weight decay."""
        self._decays = [float(group.get("weight_decay", 0.0)) for group in loop.optimizer.param_groups]

    def after_backward(self, loop: Any) -> None:
        """Keep the loss's gradients, then add the regulariser's."""
        on = self._regularised(loop.step, loop.steps)
        for group, decay in zip(loop.optimizer.param_groups, self._decays, strict=False):
            if "weight_decay" in group:
                group["weight_decay"] = 0.0 if on else decay
        if on:
            self._notes["weight_decay_off"] += 1
            self._note_gradients()
            with torch.no_grad():
                for layer, part in zip(self._layers, self._parts, strict=True):
                    self._regularise(layer, part)
        self._masks.still()

    def after_step(self, loop: Any) -> None:
        """Hold what is closed; a round where it is time, the last of those that fall on one step."""
        self._masks.hold(loop.optimizer)
        due = sum(loop.step >= one for one in self._rounds_at(loop.steps))
        if due > self._done:
            self._round(due, loop.step)
            self._masks.hold(loop.optimizer)

    def finalise(self, loop: Any) -> None:
        """Rounds that never came; and the weight decay as it was."""
        if self._done < len(self._method.rounds):
            self._round(len(self._method.rounds), loop.step)
        for group, decay in zip(loop.optimizer.param_groups, self._decays, strict=False):
            if "weight_decay" in group:
                group["weight_decay"] = decay

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        return {
            "masks": self._masks.state(),
            "sums": {name: tensor.detach().cpu().clone() for name, tensor in self._sums.items()},
            "steps": self._steps,
            "done": self._done,
            "candidate": None if self._candidate is None else list(self._candidate),
            "scores": {name: values.clone() for name, values in self._scores.items()},
            "rounds": [dict(one) for one in self._notes["rounds"]],
            "weight_decay_off": self._notes["weight_decay_off"],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase`."""
        self._masks.restore(state["masks"])
        self._sums = {name: tensor.to(self._parameters[name].device) for name, tensor in state["sums"].items()}
        self._steps, self._done = int(state["steps"]), int(state["done"])
        self._candidate = None if state["candidate"] is None else Candidate(state["candidate"])
        self._scores = {name: values.clone() for name, values in state["scores"].items()}
        self._notes = {
            "rounds": [dict(one) for one in state["rounds"]],
            "weight_decay_off": int(state["weight_decay_off"]),
        }

    def proposal(self) -> Proposal:
        """See `Phase`."""
        if self._candidate is None or self._done < len(self._method.rounds):
            raise ValueError("orthoreg has not been trained to its end; call finalise(loop) after the last epoch")
        return trained(self.model, self._space, self._candidate, self._scores, self._notes)

    def targets(self, round_: int) -> dict[str, float]:
        """The limits of a round, 1-based: its share of the way from the full costs to the limits."""
        rounds = len(self._method.rounds)
        found = {}
        for name, limit in self._limits.items():
            full = self._full.get(name, limit)
            gone = min(1.0, max(0.0, 1 - limit / full)) if full else 0.0
            found[name] = max(limit, full * left_after(round_, rounds, gone)) if gone < 1 and round_ < rounds else limit
        return found

    def _rounds_at(self, steps: int) -> list[int]:
        return [max(1, int(share * steps)) for share in self._method.rounds]

    def _regularised(self, step: int, steps: int) -> bool:
        """Whether the regulariser is on in the step that follows `step` finished ones."""
        at = self._rounds_at(steps)
        ahead = [one for one in at if one > step]
        if not ahead:
            return False
        before = at[len(at) - len(ahead) - 1] if len(ahead) < len(at) else None
        return before is None or step >= ahead[0] - math.ceil(self._method.on * (ahead[0] - before))

    def _note_gradients(self) -> None:
        self._steps += 1
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and name in self._space.slots:
                if name not in self._sums:
                    self._sums[name] = torch.zeros_like(parameter)
                self._sums[name] += parameter.grad.nan_to_num(0.0, 0.0, 0.0)  # a step that overflowed

    def _regularise(self, layer: Layer, part: float) -> None:
        """Add the regulariser's gradient, over what is open."""
        weight = self._parameters[layer.weight]
        bias = None if layer.bias is None or layer.norm is not None else self._parameters[layer.bias]
        if weight.grad is None:
            return
        closed = torch.from_numpy(self._masks.closed).to(weight.device)
        rows = (~closed[torch.from_numpy(layer.makes).to(weight.device)]).nonzero().flatten()
        columns = (~closed[torch.from_numpy(layer.reads).to(weight.device)]).nonzero().flatten()
        kept = weight.index_select(layer.out_axis, rows).index_select(layer.in_axis, columns)
        filters = kept.movedim(layer.out_axis, 0)
        shape, flat = filters.shape, filters.flatten(1)
        if bias is not None:
            flat = torch.cat([flat, bias[rows, None]], dim=1)
        slope = self._method.strength * part * orthogonality_gradient(flat)
        if bias is not None:
            if bias.grad is not None:
                bias.grad[rows] += slope[:, -1]
            slope = slope[:, :-1]
        whole = weight.grad.movedim((layer.out_axis, layer.in_axis), (0, 1))  # a view
        added = slope.reshape(shape).movedim(layer.in_axis if layer.out_axis == 0 else 1, 1)
        whole[rows[:, None], columns[None]] += added

    def _round(self, due: int, step: int) -> None:
        scores = checked("orthoreg", self._space, self._importance())
        self._candidate = self._masks.shrink(scores, self.targets(due), least=self._method.least)
        self._scores, self._done = self._masks.ranked(scores), due
        macs = int(self._space.cost_table([self._candidate])["macs"][0])
        self._notes["rounds"].append({"step": step, "closed": int(self._masks.closed.sum()), "macs": macs})
        self._sums, self._steps = {}, 0

    def _importance(self) -> Scores:
        if not self._steps:
            logger.info("orthoreg: no step was trained before a round; norms decide instead")
            return dict(self._space.default_scores)
        mean = {name: total / self._steps for name, total in self._sums.items()}
        found = self._masks.gate_gradients(mean)
        return {name: values.square() for name, values in found.items()}


def _gram(filters: Tensor) -> Tensor:
    gram = filters.T @ filters if len(filters) > filters.shape[1] else filters @ filters.T
    return gram - torch.eye(len(gram), dtype=filters.dtype, device=filters.device)


def _parts(layers: Sequence[Layer], space: Space, weighting: str) -> list[float]:
    """Each layer's part, their sum 1."""
    parts = []
    for layer in layers:
        shape = space.shapes[layer.weight]
        n, size = shape[layer.out_axis], int(np.prod(shape))
        parts.append(math.sqrt(n if weighting == "rows" else min(n, size // n)))
    return [part / sum(parts) for part in parts]
