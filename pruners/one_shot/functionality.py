"""Functionality-oriented pruning: filters that answer to the same patterns do the same, and most of them may go."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor, from_numpy

from ...spaces import threshold_candidate
from ...spaces.checked import check
from ..criteria.filters import filters, first_within, legal_widths
from ..proposal import Count, Needs, Positive, Proposal, Request, Weights, checked, examples_for
from .patterns import contributions, patterns

logger = logging.getLogger("secateur")


@dataclass(frozen=True, kw_only=True)
class Functionality:
    """Removes units from clusters of the same function, those that contribute least first: Qin 2018 (arXiv 1810.07322).

    Each unit's pattern is the input that it answers to most. The patterns of a group are clustered; of each cluster the
    same share goes, but never the last unit. One share for all groups, the smallest whose network is within the limits.

    The paper's details were not at hand; ours: clusters by Ward's linkage (the paper: k-means), the contribution index
    is taken for the network's own largest class, so no labels are needed, and nothing is retrained on the way. Where no
    pattern can be found, as for integer inputs, the filters themselves are clustered. Costs `steps` forward and
    backward passes a unit.

    Attributes:
        clusters: of each group, at most; None: as many as have the best silhouette, of six numbers up to half of the
            units.
        steps: of the ascent to a pattern.
        rate: root mean square change of an input element in one of them.
        batch: units whose patterns are sought at once.
        least: channels that every group keeps at least.
    """

    clusters: Count | None = None
    steps: Count = 5
    rate: Positive = 0.2
    batch: Count = 64
    least: Count = 1
    name: str = "functionality"
    needs: Needs = "images"
    allocates: bool = True
    selects: bool = True
    weights: Weights = field(default="inherited", init=False)

    def __post_init__(self) -> None:
        check(self)

    def propose(self, request: Request) -> Proposal:
        """See `Pruner.propose`."""
        model, space, limits = request.model, request.space, request.limits
        examples = examples_for(self, request.examples)
        space.check_limits(limits)
        index = contributions(model, space, examples)
        scores, counts, plain = {}, {}, []
        for group in space.groups:
            found = patterns(model, space, group, steps=self.steps, rate=self.rate, batch=self.batch, seed=request.seed)
            if found is None:
                plain.append(group.name)
                found = filters(model, space, group).cpu()
            labels = functions(found, self.clusters)
            counts[group.name] = int(labels.max()) + 1
            scores[group.name] = from_numpy(order_of_removal(labels, index[group.name].numpy()))
        if plain:
            logger.info("functionality: no patterns for %s; their filters are clustered", ", ".join(plain))
        scores = checked(self.name, space, scores)
        shares = np.unique(np.concatenate([[0.0], *[values.numpy() for values in scores.values()]]))
        shares = shares[shares < 1]
        kept = np.stack([[int((scores[g.name].numpy() > share).sum()) for g in space.groups] for share in shares])
        family = legal_widths(request, kept, least=self.least)
        chosen = first_within(space, family, limits)
        if chosen is not None:
            candidate = space.canonical(chosen.tolist())
        else:
            logger.info("functionality: one unit of each cluster is too much for the limits; whole clusters went")
            candidate = threshold_candidate(
                space,
                scores,
                limits,
                depth=request.depth,
                resolution=request.resolution,
                normalise="none",
                least=self.least,
            )
        notes = {"clusters": counts, "without_patterns": plain, "over_budget": chosen is None}
        return Proposal(candidate=candidate, scores=scores, notes=notes)


def functions(found: Tensor, clusters: int | None) -> npt.NDArray[np.int64]:
    """`(n,)` cluster of each of `(n, elements)` patterns, from 0; by Ward's linkage.

    Args:
        found: the patterns.
        clusters: how many, at most; None: the number with the best silhouette.
    """
    points = found.detach().double().cpu().numpy()
    n = len(points)
    if n < 3:
        return np.zeros(n, np.int64) if n and bool((points == points[0]).all()) else np.arange(n)
    tree = linkage(points, "ward")

    def cut(k: int) -> npt.NDArray[np.int64]:
        labels: npt.NDArray[np.int64] = np.unique(fcluster(tree, k, "maxclust"), return_inverse=True)[1]
        return labels

    if clusters is not None:
        return cut(clusters)
    tried = [cut(int(k)) for k in np.unique(np.geomspace(2, max(n // 2, 2), 6).round())]
    tried = [labels for labels in tried if 1 < labels.max() + 1 < n]
    if not tried:
        return cut(1)
    from sklearn.metrics import silhouette_score  # not above: scikit-learn takes a second to import

    return max(tried, key=lambda labels: float(silhouette_score(points, labels)))


def order_of_removal(labels: npt.NDArray[np.int64], index: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`(n,)` scores: a unit goes when the share that is taken out of every cluster reaches its score.

    Of a cluster of s units the one with the j-th largest index (j from 0) goes at a share of `(s - j) / s`; the first
    never does, its score is above 1 and grows with its index.

    Args:
        labels: `(n,)` cluster of each unit.
        index: `(n,)` contribution of each unit.
    """
    scores = np.empty(len(labels))
    relative = index / max(float(index.max()), 1e-300) if len(index) else index
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(-index[members], kind="stable")]
        scores[members] = 1 - np.arange(len(members)) / len(members)
        scores[members[0]] = 1.001 + relative[members[0]]
    return scores
