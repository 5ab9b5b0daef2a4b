"""How a quantity goes from one value to another while a network trains; `progress` is 0 at first, 1 at the end."""

from __future__ import annotations

import math


def cubic(initial: float, final: float, progress: float) -> float:
    """Sparsity when `progress` of the pruning, 0..1, is done: `s_f + (s_i - s_f) (1 - progress)^3`."""
    return final + (initial - final) * (1 - min(1.0, max(0.0, progress))) ** 3


def cosine(initial: float, final: float, progress: float) -> float:
    """The ratio that moves when `progress` of the training, 0..1, is done."""
    return final + 0.5 * (initial - final) * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
