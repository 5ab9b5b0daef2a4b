"""LeGR: one global ranking, whose scores are rescaled group by group by a search. Start at `legr`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...spaces import Candidate, Scores, Space, threshold_candidate

Line = dict[str, tuple[float, float]]
"""Scale and shift of every group, by its name."""


def rescaled(scores: Scores, lines: Mapping[str, tuple[float, float]]) -> Scores:
    """`scale * score + shift` of every unit, by its group's line."""
    return {name: lines[name][0] * values + lines[name][1] for name, values in scores.items()}


def legr(
    space: Space,
    scores: Scores,
    limits: Mapping[str, float],
    error: Callable[[Candidate, Scores], float],
    *,
    rounds: int = 64,
    population: int = 16,
    seed: int = 0,
) -> Scores:
    """The rescaled scores whose network has the least error, after Chin 2020 (arXiv 1904.12368).

    An evolution of lines, first as they are: the best of a quarter of the population, drawn at random, has the lines of
    about a tenth of its groups moved (the scale by a factor, the shift by as much as the group's scores differ), and
    the oldest goes.

    Args:
        space: the traced space.
        scores: squared L2 norms in the paper; compared as they are once they are rescaled.
        limits: absolute limits by cost name.
        error: of a candidate that keeps the best units by the scores, such as after a short training.
        rounds: networks that are tried, the first included.
        population: how many are remembered.
        seed: of the evolution.
    """
    generator, names = np.random.default_rng(seed), [group.name for group in space.groups]
    spread = {name: float(scores[name].double().std(correction=0)) for name in names}

    def tried(lines: Line) -> tuple[float, Line]:
        moved = rescaled(scores, lines)
        return error(threshold_candidate(space, moved, limits, normalise="none"), moved), lines

    alive = [tried(dict.fromkeys(names, (1.0, 0.0)))]
    best = alive[0]
    for _ in range(rounds - 1):
        drawn = generator.permutation(len(alive))[: max(1, population // 4)]
        lines = dict(min((alive[number] for number in drawn), key=lambda one: one[0])[1])
        for number in generator.permutation(len(names))[: max(1, round(0.1 * len(names)))]:
            scale, shift = lines[names[number]]
            moves = generator.standard_normal(2)
            lines[names[number]] = (scale * float(np.exp(moves[0])), shift + spread[names[number]] * float(moves[1]))
        alive = [*alive, tried(lines)][-population:]
        best = min(best, alive[-1], key=lambda one: one[0])
    return rescaled(scores, best[1])
