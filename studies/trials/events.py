"""What is told while something runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...evaluators import Loop


Listener = Callable[[dict[str, Any]], object]


class Watch:
    """Tells a listener of every epoch of a training: `{**event, "done", "total", "left", "eta" (seconds), "loss"}`."""

    def __init__(self, listener: Listener | None, event: Mapping[str, Any], *, began: int) -> None:
        """Tell `listener`; `began` epochs were trained by an earlier run."""
        self._listener = listener
        self._event = dict(event)
        self._began = began
        self._started = time.perf_counter()

    def after_epoch(self, loop: Loop) -> None:
        """Announce it."""
        if self._listener is not None:
            each = (time.perf_counter() - self._started) / max(1, loop.epoch - self._began)
            left = loop.epochs - loop.epoch
            event = {"done": loop.epoch, "total": loop.epochs, "left": left, "eta": each * left}
            self._listener({**self._event, **event, "loss": loop.losses[-1]})
