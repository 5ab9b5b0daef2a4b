"""A study to report on: trials of a tiny network that answer at once, some of which fail with a text that is code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from landscapes import Instant, searching, tiny_net, tiny_space, tiny_task, tiny_training

from secateur import Budget, Study
from secateur.evaluators import Result

EVIL = "<img src=x onerror=window.hacked=1></script><script>window.hacked=2</script>$x$"


@dataclass(frozen=True)
class Moody:
    """Instant answers, but every eighth candidate fails with a text that is no text."""

    instant: Instant
    fingerprint: str = "moody"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        if candidate.key[0] in "01":
            return Result(error=float("nan"), error_std=None, seconds=0.1, state="failed", reason=EVIL)
        found = self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)
        return replace(found, seconds=0.25)


def make(path: Path, trials: int, **changes) -> Study:
    model, task = tiny_net(), tiny_task()
    space = tiny_space(model)
    given = {"sampler": "polynomial", "threads": 1, "training": tiny_training(), "evaluator": Moody(Instant(space))}
    study = Study.create(
        path, model=model, task=task, space=space, budget=Budget(macs=0.5), **searching(given | changes)
    )
    if trials:
        study.run(trials)
    return study
