"""Which channels matter: criteria that score units, and the pruning methods of the literature built on them.

Scores rank the units of every group. The ranking says which channels stay at any width, and under one global threshold
also how wide each layer is at a given cost: so every method seeds the search. A method proposes a network within a
budget at once (`Pruner.propose`), or while the network trains (`TrainingPruner.start` gives the callbacks).

    examples = Examples(batches=[(images, labels)], loss=torch.nn.functional.cross_entropy)
    method = METHODS["taylor"]()
    proposal = method.propose(Request(model, space, {"macs": 2e6}, examples=examples))
    small = realised(model, space, proposal)

Start reading at `proposal.py`; `methods.py` names every method and the file that it is in.
"""

from typing import TYPE_CHECKING

from ..lazy import face

if TYPE_CHECKING:
    from .criteria.blocks import block_damages
    from .criteria.criteria import Criterion, check_criterion, criterion, l1, l2, shuffled
    from .criteria.legr import legr, rescaled
    from .criteria.retained import retained
    from .dynamic.manidp import ManiDP
    from .dynamic.network import Dynamic, mean_macs
    from .examples import Examples
    from .least_squares.damage import damages
    from .least_squares.merging import Merge
    from .least_squares.osscar import Osscar
    from .methods import CRITERIA, METHODS
    from .one_shot.campaign import campaign
    from .one_shot.epruner import EPruner
    from .one_shot.fresh import fresh
    from .one_shot.functionality import Functionality
    from .one_shot.partitioned import GroupedLinear, partition_costs, partitioned
    from .one_shot.ranp import Ranp
    from .one_shot.scored import Even, Scored
    from .proposal import Method, Phase, Proposal, Pruner, Request, TrainingPruner, check_method, realised, trains
    from .resrep.resrep import ResRep
    from .training.aofp import Aofp
    from .training.granet import Granet
    from .training.lasso import GroupLasso
    from .training.mlpruning import MLPruning
    from .training.orthoreg import OrthoReg
    from .training.sparse import SparseMasks
    from .training.tiles import TileMasks
else:
    __getattr__, __dir__ = face(__name__)

__all__ = [
    "CRITERIA",
    "METHODS",
    "Aofp",
    "Criterion",
    "Dynamic",
    "EPruner",
    "Even",
    "Examples",
    "Functionality",
    "Granet",
    "GroupLasso",
    "GroupedLinear",
    "MLPruning",
    "ManiDP",
    "Merge",
    "Method",
    "OrthoReg",
    "Osscar",
    "Phase",
    "Proposal",
    "Pruner",
    "Ranp",
    "Request",
    "ResRep",
    "Scored",
    "SparseMasks",
    "TileMasks",
    "TrainingPruner",
    "block_damages",
    "campaign",
    "check_criterion",
    "check_method",
    "criterion",
    "damages",
    "fresh",
    "l1",
    "l2",
    "legr",
    "mean_macs",
    "partition_costs",
    "partitioned",
    "realised",
    "rescaled",
    "retained",
    "shuffled",
    "trains",
]
