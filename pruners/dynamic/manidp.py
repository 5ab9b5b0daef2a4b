"""ManiDP: gates learn which channels an input needs; what they find on average ranks channels. Start at `ManiDP`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...spaces import Group, Scores, Space, copied, normalised, threshold_candidate
from ...spaces.checked import check
from ..examples import left_as_found
from ..proposal import Count, Needs, Number, Positive, Proposal, Request, Share, Weights
from ..resrep.resrep import own_group
from ..training.masks import reachable, trained
from .gates import complexity, gated, insert, lasso, manifold, share_at, threshold_of
from .network import Dynamic, sites_of

_WARM = 0.1  # of the gates' rate in the first epoch
_ABOVE = 1e3  # what scores of groups that no gate is about are raised by


@dataclass(frozen=True, kw_only=True)
class ManiDP:
    """Manifold regularised dynamic pruning, Tang 2021 (arXiv 2103.05861): channels for every input.

    Every convolution inside a block, and the one that leads back into the stream, gets a gate, a small network whose
    saliencies multiply the channels. Examples of small loss are pulled towards few channels, the harder ones less or
    not at all; examples that look alike in the features shall look alike in the gates. A threshold a layer, a rank of
    mean saliencies, turns channels off; `ManiDPPhase.dynamic` gives the network that chooses, to be used as it is.

    What is proposed is a by-product, a static network like that of any method: the mean saliencies rank channels, each
    as a share of its layer's mean, and are multiplied into what makes them. Streams stay whole as far as the limits
    allow.

    Deviations: an example's loss has no gradient in the weight of its pull; the gates' rate is a tenth in the first
    epoch; where the loop has no `task` to say the loss of one example, all are pulled alike.

    Attributes:
        keep: share of each layer's channels that are on at the end, by their mean saliencies.
        lasso: strength of the pull.
        graph: strength of the likeness.
        gamma: how the pull falls with the loss.
        least: channels that every group of the static network keeps at least.
    """

    keep: Share = 0.6
    lasso: Number = 5e-3
    graph: Number = 1.0
    gamma: Positive = 1.0
    least: Count = 1
    name: str = "manidp"
    needs: Needs = "training"
    allocates: bool = True
    selects: bool = True
    weights: Weights = "merged"

    def __post_init__(self) -> None:
        check(self)

    def start(self, request: Request) -> ManiDPPhase:
        """See `TrainingPruner.start`; the request's seed draws the gates."""
        reachable(request, self.least)
        return ManiDPPhase(self, request)


class ManiDPPhase:
    """See `Phase`; a loop of one's own adds `extra_loss` to the loss."""

    def __init__(self, method: ManiDP, request: Request) -> None:
        self._method, self._space, self._limits = method, request.space, dict(request.limits)
        self._full, self.model = copied(request.model), copied(request.model)
        self.layers = gated(self.model, self._space)
        self.gates = insert(self.model, self.layers, request.seed)
        self._bound, self._sum, self._count, self._asked = 0.0, 0.0, 0, False
        self._means: list[Tensor] = []

    def prepare(self, loop: Any) -> None:
        """Give the gates no weight decay; ask how wrong the network is before it is trained.

        Raises:
            ValueError: the training is on several devices.
        """
        if len(getattr(loop, "devices", ())) > 1:
            raise ValueError("manidp trains on one device; leave gpus_per_trial at 1")
        learned = [parameter for gate in self.gates for parameter in gate.parameters()]
        own_group(loop.optimizer, learned, float(loop.optimizer.param_groups[0].get("momentum", 0.0)))
        task = getattr(loop, "task", None)
        if task is None or not self.gates:
            return
        self._full.to(loop.device)
        with left_as_found(self._full), torch.no_grad():
            batches = task.loader("train", loop.resolution, None)
            losses = [float(task.loss(*task.forward(self._full, batch))) for batch in batches]
        self._bound = 0.5 * sum(losses) / max(1, len(losses))

    def extra_loss(self, loop: Any, outputs: Any, targets: Any) -> Tensor:
        """What is to be added to the loss of a batch, with its graph: a scalar."""
        self._asked = True
        if not self.gates:
            return torch.zeros(())
        pi = [gate.saliencies for gate in self.gates]
        losses = _each(getattr(loop, "task", None), outputs, targets)
        if losses is None:
            weights = torch.ones(len(pi[0]), device=pi[0].device)
        else:
            self._sum, self._count = self._sum + float(losses.sum()), self._count + len(losses)
            weights = complexity(losses, self._bound, self._method.gamma)
        graph = manifold([gate.features for gate in self.gates], pi)
        return self._method.lasso * lasso(weights, pi) + self._method.graph * graph

    def after_backward(self, loop: Any) -> None:
        """Let the gates begin slowly."""
        for gate in self.gates:
            gate.forget()
            for parameter in gate.parameters() if loop.epoch == 0 else ():
                if parameter.grad is not None:
                    parameter.grad *= _WARM

    def after_epoch(self, loop: Any) -> None:
        """Set the thresholds, from the second epoch on; look at the losses."""
        self._means = [gate.means for gate in self.gates]
        for gate, means in zip(self.gates, self._means, strict=True):
            if loop.epoch > 1:  # epochs finished
                gate.threshold.fill_(threshold_of(means[0], share_at(self._method.keep, loop.epoch - 1, loop.epochs)))
            gate.reset()
        if self._count:
            self._bound = 0.5 * self._sum / self._count
        self._sum, self._count = 0.0, 0

    def finalise(self, loop: Any) -> None:
        """See `Phase`.

        Raises:
            ValueError: the gates were never trained.
        """
        if loop.step and not self._asked:
            raise ValueError(
                "manidp's own loss was left out of the training; add `phase.extra_loss(loop, outputs, targets)` to the "
                "loss before backward"
            )

    def state(self) -> dict[str, Any]:
        """See `Phase`."""
        return {"bound": self._bound, "asked": self._asked, "means": [means.clone() for means in self._means]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Phase`."""
        self._bound, self._asked = float(state["bound"]), bool(state["asked"])
        self._means = [means.clone() for means in state["means"]]

    def dynamic(self) -> Dynamic:
        """The network that chooses its channels for every input, as trained so far."""
        return Dynamic(self.model, self._space, sites_of(self.model, self._space, self.layers, self.gates))

    def proposal(self) -> Proposal:
        """A static network, see `ManiDP`; its norms' statistics are to be taken again."""
        space = self._space
        scores: Scores = {
            name: _ABOVE * (1 + values.double())
            for name, values in normalised(space, space.default_scores, "max").items()
        }
        static = self._full.cpu()
        static.load_state_dict({name: self.model.state_dict()[name] for name in static.state_dict()})
        tensors = dict(static.named_parameters())
        for layer, means in zip(self.layers, self._means, strict=bool(self._means)):
            for group in space.groups:
                own = group.holds(layer.makes)
                if not own.any() or not _alone(space, group):
                    continue
                units = layer.makes[own] - group.first
                found = np.bincount(units, means[0].numpy()[own], group.units)
                scores[group.name] = torch.from_numpy(found / max(found.mean(), 1e-12))
            names = (layer.weight, layer.bias) if layer.norm is None else (layer.norm.weight, layer.norm.bias)
            for name in names:
                if name is not None:
                    tensor = tensors[name].data
                    tensor *= means[1].to(tensor).view(-1, *[1] * (tensor.ndim - 1))
        candidate = threshold_candidate(space, scores, self._limits, normalise="none", least=self._method.least)
        notes = {"gates": len(self.gates), "bound": self._bound}
        return trained(static, space, candidate, scores, notes)


def _alone(space: Space, group: Group) -> bool:
    """Whether one layer alone makes the group's channels: then its gate ranks them."""
    return sum(bool(group.holds(one.makes).any()) for one in space.layers) == 1


def _each(task: Any, outputs: Any, targets: Any) -> Tensor | None:
    """`(n,)` losses of single examples; None where nothing says them."""
    if task is None or not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return None
    with torch.no_grad():
        rows = range(len(outputs))
        return torch.stack([task.loss(outputs[i : i + 1].float(), targets[i : i + 1]).float() for i in rows])
