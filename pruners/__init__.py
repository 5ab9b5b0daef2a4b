"""Which channels matter: criteria that score units, and the pruning methods of the literature built on them.

Scores rank the units of every group. The ranking says which channels stay at any width, and under one global threshold
also how wide each layer is at a given cost: so every method seeds the search. A method proposes a network within a
budget at once (`Pruner.propose`), or while somebody trains (`TrainingPruner.start` gives the callbacks).

    examples = Examples(batches=[(images, labels)], loss=torch.nn.functional.cross_entropy)
    method = METHODS["taylor"]()
    proposal = method.propose(model, space, {"macs": 2e6}, examples=examples)
    small = realised(model, space, proposal)
"""

from .criteria import CRITERIA, Criterion, criterion, l1, l2, shuffled
from .examples import Examples
from .methods import METHODS
from .proposal import Method, Phase, Proposal, Pruner, TrainingPruner, realised
from .scored import Even, Scored

__all__ = [
    "CRITERIA",
    "METHODS",
    "Criterion",
    "Even",
    "Examples",
    "Method",
    "Phase",
    "Proposal",
    "Pruner",
    "Scored",
    "TrainingPruner",
    "criterion",
    "l1",
    "l2",
    "realised",
    "shuffled",
]
