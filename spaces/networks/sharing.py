"""Sub-networks of one set of weights: what a candidate keeps is sliced out of the full parameters, under autograd."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..candidate import Candidate
from ..cutting.surgery import Scores, named_tensors
from ..space import Space
from .build import build, cut


class Shared:
    """The networks of a space as parts of one: the loss of a part gives gradients to the full network's parameters.

    Weight sharing as in Yu 2019 (arXiv 1903.05134): every candidate's network keeps the best-scored channels of each
    group, so that smaller ones are parts of larger ones.
    """

    def __init__(self, model: nn.Module, space: Space, scores: Scores | None = None) -> None:
        """Keep what a network is made from.

        Args:
            model: the full network, whose parameters are shared.
            space: the traced space.
            scores: which units stay; the L2 norms of `Space.default_scores` when None.
        """
        self.model, self.space, self.scores = model, space, scores

    def network(self, candidate: Candidate) -> nn.Module:
        """The network that `build` would make, of the same class and in the same modes, with shared parameters.

        Its parameters are slices of the full ones *as they are now*: take another network after every step of an
        optimizer. Buffers are copies of its own, so its batch norms in training see their batch and leave the full
        network's statistics alone.

        Args:
            candidate: one choice on every axis.

        Raises:
            ValueError: candidate, scores or model do not fit the space.
        """
        small = build(self.model, self.space, candidate, self.scores)
        kept = cut(self.space, candidate, self.scores).kept
        full = named_tensors(self.model)
        slices: dict[int, Tensor] = {}
        for name, _ in list(small.named_parameters(remove_duplicate=False)):
            parameter = full[name]
            if id(parameter) not in slices:
                slices[id(parameter)] = _slice(parameter, kept.get(name, {}))
            path, _, key = name.rpartition(".")
            # Not setattr: a module takes nothing but leaves for its parameters, and these have a history.
            small.get_submodule(path)._parameters[key] = slices[id(parameter)]  # type: ignore[assignment]
        for module in small.modules():
            if isinstance(module, nn.RNNBase):  # it computes with a list of its own (PyTorch 2.13)
                module._flat_weights = [module._parameters[key] for key in module._flat_weights_names]
        return small


def _slice(parameter: Tensor, kept: dict[int, Tensor]) -> Tensor:
    for axis, indices in sorted(kept.items(), key=lambda item: len(item[1]) / parameter.shape[item[0]]):
        parameter = torch.index_select(parameter, axis, indices.to(parameter.device))
    return parameter
