"""Which trials are trained a little further, before the best of them is trained to the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..spaces import Space
from .trial import Trial


def finalists(trials: Sequence[Trial], space: Space, objectives: Sequence[str], count: int) -> list[Trial]:
    """The best trials of every resolution in turn, so many of them or all there are.

    A network that shared weights or a short training serve well at one resolution is foretold well beside others of the
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
