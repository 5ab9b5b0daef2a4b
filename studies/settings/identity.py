"""How a study recognises what it was made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...evaluators import Task
from ...spaces import Scores, Space
from ..disk.weights import digest, structure
from .settings import EVALUATORS, Settings


def fingerprint(
    base: Mapping[str, Tensor],
    space: Space,
    scores: Scores | None,
    task: Task,
    evaluator: str | Callable[..., Any],
    settings: Settings,
) -> dict[str, Any]:
    """All that must be the same for a study to go on, part by part; budget, number of trials and runner are not."""
    shapes = json.dumps(structure(base), sort_keys=True).encode()
    return {
        "model": hashlib.sha256(shapes).hexdigest()[:16],
        "weights": digest(base),
        "space": space.fingerprint,
        "ranking": ranking_name(space, scores),
        "task": task.fingerprint,
        "evaluator": evaluator_name(evaluator),
        **settings.fingerprint(),
    }


def ranking_name(space: Space, scores: Scores | None) -> str:
    """Name and digest of what says which channels stay."""
    return f"l2:{digest(space.default_scores)[:8]}" if scores is None else f"given:{digest(scores)[:8]}"


def evaluator_name(evaluator: str | Callable[..., Any]) -> str:
    """One of `EVALUATORS` as it is, else the evaluator's `fingerprint` text, else where it lives.

    Raises:
        ValueError: a name that is not known.
    """
    if isinstance(evaluator, str):
        if evaluator not in EVALUATORS:
            raise ValueError(f"evaluator={evaluator!r}: expected one of {', '.join(EVALUATORS)}, or your own")
        return evaluator
    own = getattr(evaluator, "fingerprint", None)
    if isinstance(own, str):
        return own
    named = evaluator if hasattr(evaluator, "__qualname__") else type(evaluator)
    return f"{named.__module__}.{named.__qualname__}"
