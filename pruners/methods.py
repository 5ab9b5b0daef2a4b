"""Every method by its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .criteria import l1, l2, shuffled
from .proposal import Method
from .scored import Even, Scored

METHODS: dict[str, Callable[..., Method]] = {
    "l1": partial(Scored, criterion=l1),
    "l2": partial(Scored, criterion=l2),
    "random": partial(Scored, criterion=shuffled(0)),
    "uniform": partial(Even, name="uniform"),
    "layer-wise": partial(Even, name="layer-wise"),
}
