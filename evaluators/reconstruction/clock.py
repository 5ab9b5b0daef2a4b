"""Where the seconds of a reconstruction go."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by what was done; what is inside something else counts for itself alone.

    Attributes:
        seconds: of everything that is over.
    """

    def __init__(self) -> None:
        """Nothing was done yet."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = 0.0

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count the seconds within for something."""
        outside, self._inside = self._inside, 0.0
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.seconds[what] += took - self._inside
            self._inside = outside + took
