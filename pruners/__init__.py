"""Which channels matter: criteria that score units, and the pruning methods of the literature built on them.

Scores rank the units of every group. The ranking says which channels stay at any width, and under one global threshold
also how wide each layer is at a given cost: so every method seeds the search.

    scores = l1(model, space)
    candidate = threshold_candidate(space, scores, {"macs": 2e6})
    small = build(model, space, candidate, scores)
"""

from .criteria import CRITERIA, Criterion, criterion, l1, l2, shuffled

__all__ = ["CRITERIA", "Criterion", "criterion", "l1", "l2", "shuffled"]
