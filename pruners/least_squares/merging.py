"""Units merged rather than dropped: the weights that read one are added to those that read the unit most like it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...spaces import Group, build, named_tensors, stays
from ...spaces.checked import check
from ...spaces.knapsacks import knapsack
from ..proposal import Count, Needs, Proposal, Request, Weights, examples_for
from .damage import in_order
from .products import Reader, readers


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Keeps exemplars; what read a unit that goes reads its exemplar, scaled by least squares.

    Kin: Kim 2020 (arXiv 2010.13160), who merge by the filters alone. Here a unit f may follow e at the cost of
    `|| (Z_f - a Z_e) W_f ||^2`, with the scale a that makes it least, over what the layers that read them see. Units
    go one by one, each the one that adds least to the costs of all followers. A follower's weights, times a, are added
    to its exemplar's in every convolution without groups and every linear layer that reads them.

    Exact where a unit is always a multiple of one that stays, as a duplicate is, and only such layers read it; not
    through norms over channels or grouped convolutions, which see that it has gone.

    Attributes:
        least: channels that every group keeps at least.
    """

    least: Count = 1
    name: str = "merge"
    needs: Needs = "images"
    allocates: bool = True
    selects: bool = True
    weights: Weights = field(default="merged", init=False)

    def __post_init__(self) -> None:
        check(self)

    def propose(self, request: Request) -> Proposal:
        """See `Pruner.propose`; nothing is random."""
        model, space, examples = request.model, request.space, examples_for(self, request.examples)
        space.check_limits(request.limits)
        likeness = dict[str, Likeness]()

        def order_of(group: Group, found: list[Reader]) -> tuple[list[int], list[float]]:
            likeness[group.name] = Likeness(group, found)
            return followers(likeness[group.name].costs)

        scores, table = in_order(self.name, space, readers(model, space, examples), order_of)
        candidate = knapsack(space, table, request.limits, base=request.base, least_width=self.least)
        kept = torch.from_numpy(stays(space, candidate, scores))
        full = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
        for group in space.groups:
            if group.name in likeness:
                likeness[group.name].merge(full, kept[group.slice])
        small = build(model, space, candidate, scores, weights=full)
        return Proposal(candidate=candidate, scores=scores, weights=small.state_dict())


class Likeness:
    """How well units of a group stand for one another.

    Attributes:
        costs: `(u, u)` what readers lack when the first follows the second, as shares of their outputs' squares; zero
            on the diagonal.
    """

    def __init__(self, group: Group, found: list[Reader]) -> None:
        self.costs = torch.zeros(group.units, group.units, dtype=torch.float64)
        self._scales = list[tuple[Reader, Tensor]]()
        for reader in found:
            units, inputs = reader.inputs.shape
            places = reader.inputs.flatten()
            own = reader.weight[reader.inputs]
            wanted = own @ own.transpose(1, 2)  # (u, k, k)
            products = reader.products[places][:, places].reshape(units, inputs, units, inputs)
            size = torch.einsum("ukul,ukl->u", products, wanted)
            met = torch.einsum("ukvl,ukl->uv", products, wanted)
            other = torch.einsum("vkvl,ukl->uv", products, wanted)
            scale = met / other.clamp_min(1e-300)
            lost = (size.unsqueeze(1) - scale * met).clamp_min(0.0) / reader.spread(reader.products)
            self.costs += lost
            self._scales.append((reader, scale))
        self.costs.fill_diagonal_(0.0)

    def merge(self, full: dict[str, Tensor], kept: Tensor) -> None:
        """Add the weights of units that go to those of their exemplars, in the readers' full weights.

        Args:
            full: tensors of the full network by name; changed in place.
            kept: `(u,)` which units stay.
        """
        if bool(kept.all()) or not bool(kept.any()):
            return
        stay = kept.nonzero().flatten()
        exemplar = stay[self.costs[:, stay].argmin(1)]
        for reader, scale in self._scales:
            weight = full[reader.layer.weight]
            axis = reader.layer.in_axis
            by_input = weight.movedim(axis, 0)  # shares its memory
            kernel = reader.weight.shape[0] // by_input.shape[0]
            channels = reader.inputs[:, ::kernel] // kernel  # (u, channels of a unit)
            for unit in (~kept).nonzero().flatten().tolist():
                to = int(exemplar[unit])
                by_input[channels[to]] += (float(scale[unit, to]) * by_input[channels[unit]].double()).to(weight)


def followers(costs: Tensor) -> tuple[list[int], list[float]]:
    """Units in the order in which they become followers, and what all followers cost together after each.

    Args:
        costs: `(u, u)` of the first following the second. The last unit has nobody to follow: it costs the sum of the
            others' costs with it, and twice the largest.
    """
    count = len(costs)
    left = torch.ones(count, dtype=torch.bool)
    order, after = list[int](), list[float]()
    while int(left.sum()) > 1:
        stay = left.nonzero().flatten()
        among = costs[:, stay]
        first, places = among.min(1)  # of each unit, its exemplar: itself where it stays
        among[torch.arange(count), places] = torch.inf
        second = among.min(1).values
        moved = torch.zeros(count, dtype=torch.float64).index_add_(0, stay[places], second - first)
        unit = int(stay[moved[stay].argmin()])
        left[unit] = False
        order.append(unit)
        after.append(float(first.sum() + moved[unit]))
    last = after[-1] if after else 0.0
    return [*order, int(left.nonzero()[0])], [*after, last + 2 * float(costs.max()) + 1e-12]
