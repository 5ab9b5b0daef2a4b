"""What may be chosen, which channels hang together, and what it costs.

A network is traced once (`Space.trace`). Channels that must be cut together form units, interchangeable units form a
group with one width; blocks that may be dropped form stages; several input sides form the resolution axis. A
`Candidate` is one choice on every axis; its exact costs are arithmetic, and `build` makes the smaller network.

    space = Space.trace(model, torch.rand(1, 3, 32, 32), resolutions=(32, 24), divisor=8)
    print(space)
    candidate = space.uniform(width=0.5)
    print(space.costs([candidate]))
    small = build(model, space, candidate)

Start at `space.py`. Tracing goes through `tracing/` (which uses `graph/`, `channels/`, `cutting/` and `costs/`), a
candidate's network through `networks/build.py`; `candidate.py` and `allocation.py` find candidates within limits.
"""

from typing import TYPE_CHECKING

from ..lazy import face

if TYPE_CHECKING:
    from .allocation import NORMALISATIONS, normalised, threshold_candidate, threshold_family
    from .budget import COSTS, Budget
    from .candidate import Axis, Candidate, CostTable, Encoded, mean_side, repair, within
    from .channels.layout import Group
    from .costs.own import Cost, CostError, checked_costs
    from .cutting.surgery import Cut, Scores, assemble, check_scores, copied, forget, named_tensors, unit_sums
    from .examples import device_of, dtype_of
    from .graph.blocks import Stage
    from .graph.network import as_call, plain
    from .knapsacks import knapsack
    from .networks.build import build, channel_map, cut, stays
    from .networks.inheriting import inherited
    from .networks.verifying import verify
    from .space import Space
    from .tracing.layers import Layer, Norm
else:
    __getattr__, __dir__ = face(__name__)

__all__ = [
    "COSTS",
    "NORMALISATIONS",
    "Axis",
    "Budget",
    "Candidate",
    "Cost",
    "CostError",
    "CostTable",
    "Cut",
    "Encoded",
    "Group",
    "Layer",
    "Norm",
    "Scores",
    "Space",
    "Stage",
    "as_call",
    "assemble",
    "build",
    "channel_map",
    "check_scores",
    "checked_costs",
    "copied",
    "cut",
    "device_of",
    "dtype_of",
    "forget",
    "inherited",
    "knapsack",
    "mean_side",
    "named_tensors",
    "normalised",
    "plain",
    "repair",
    "stays",
    "threshold_candidate",
    "threshold_family",
    "unit_sums",
    "verify",
    "within",
]
