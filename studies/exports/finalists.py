"""Which trials are trained a little further, and how far, before the best of them is trained to the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ...spaces import Space
from ..trials.trial import Trial


def finalists(trials: Sequence[Trial], space: Space, objectives: Sequence[str], count: int) -> list[Trial]:
    """The best trials of every resolution in turn, so many of them or all there are.

    A network that shared weights or a short training serve well at one resolution is predicted well among others of the
    same, and they favour the resolution that the full network was trained at.

    Args:
        trials: with errors, and all within the budget.
        space: knows their resolutions.
        objectives: of the study.
        count: how many.
    """
    places: Counter[tuple[int, ...]] = Counter()
    ranked = []
    for trial in sorted(trials, key=lambda trial: trial.merit(objectives)):
        side = space.side(trial.candidate)
        ranked.append((places[side], trial.merit(objectives), trial))
        places[side] += 1
    return [trial for _, _, trial in sorted(ranked, key=lambda one: one[:2])[:count]]


def rounds(count: int, epochs: int, most: int) -> list[tuple[int, int]]:
    """How many finalists are trained, and for how many epochs, in each of a few rounds.

    Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): the better half of each round is trained anew
    four times as long. What is ahead after one epoch is what learns fast, wide networks at small sides, and some of
    these are behind in the end: so the last ones are compared later, where few are left to pay for.

    Args:
        count: of finalists.
        epochs: of the first round.
        most: rounds longer than that are left out, but the first.
    """
    found: list[tuple[int, int]] = []
    while count > 1 and (not found or epochs <= most):
        found.append((count, epochs))
        count, epochs = (count + 1) // 2, 4 * max(epochs, 1)
    return found
