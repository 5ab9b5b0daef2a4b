"""What may be chosen, which channels hang together, and what it costs.

A network is traced once (`Space.trace`). Channels that must be cut together form units, interchangeable units form a
group with one width; blocks that may be dropped form stages; several input sides form the resolution axis. A
`Candidate` is one choice on every axis; its exact costs are arithmetic, and `build` makes the smaller network.

    space = Space.trace(model, torch.rand(1, 3, 32, 32), resolutions=(32, 24), divisor=8)
    print(space)
    candidate = space.uniform(width=0.5)
    print(space.costs([candidate]))
    small = build(model, space, candidate)
"""

from .budget import Budget
from .candidate import Axis, Candidate
from .costs import COSTS
from .depth import Stage
from .inheriting import inherited
from .layers import Layer, Norm
from .layout import Group
from .masked import verify
from .repair import NORMALISATIONS, normalised, repair, threshold_candidate, threshold_family, within
from .space import Encoded, Space
from .surgery import Cut, Scores, assemble, build, channel_map, check_scores, cut, named_tensors, stays, unit_sums

__all__ = [
    "COSTS",
    "NORMALISATIONS",
    "Axis",
    "Budget",
    "Candidate",
    "Cut",
    "Encoded",
    "Group",
    "Layer",
    "Norm",
    "Scores",
    "Space",
    "Stage",
    "assemble",
    "build",
    "channel_map",
    "check_scores",
    "cut",
    "inherited",
    "named_tensors",
    "normalised",
    "repair",
    "stays",
    "threshold_candidate",
    "threshold_family",
    "unit_sums",
    "verify",
    "within",
]
