"""How a study recognises what it was made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...evaluators import Latency, Task, Training
from ...spaces import Scores, Space
from ..disk.weights import digest, structure
from .search import Search, settings_to_json


def fingerprint(
    base: Mapping[str, Tensor], space: Space, task: Task, search: Search, training: Training, latency: Latency
) -> dict[str, Any]:
    """All that must be the same for a study to go on, part by part; budget, number of trials and runner are not."""
    shapes = json.dumps(structure(base), sort_keys=True).encode()
    return {
        "model": hashlib.sha256(shapes).hexdigest()[:16],
        "weights": digest(base),
        "space": space.fingerprint,
        "ranking": ranking_name(space, search.scores),
        "task": task.fingerprint,
        **settings_to_json(search, training, latency),
        "device": search.torch_device.type,  # which of a machine's GPUs is no matter
    }


def ranking_name(space: Space, scores: Scores | None) -> str:
    """Name and digest of what says which channels stay."""
    return f"l2:{digest(space.default_scores)[:8]}" if scores is None else f"given:{digest(scores)[:8]}"
