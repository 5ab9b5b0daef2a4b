"""Ctrl-C: once to finish what runs, twice to leave at once. SIGTERM, which a scheduler sends, leaves at once."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, final

logger = logging.getLogger("secateur")


@final
class Interrupts:
    """While the block runs, the first interrupt only sets `asked`; the next one is a KeyboardInterrupt.

    SIGTERM is a SystemExit, so that workers are ended and locks given back before the time of grace is over, and the
    exit code is 143. Trials that ran are redone when the study goes on.

    Outside the main thread nothing changes, nor for signals that are ignored or that the caller handles: SIGINT is
    left alone where it is ignored, SIGTERM wherever it does not have its default meaning.

    Attributes:
        asked: whether the user asked to stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._hear)
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put things back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        _say("finishing the trials that run; interrupt once more to leave at once, and they are redone")

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not strike while workers are ended
        _say("asked to end: leaving at once; the trials that run are redone when the study goes on")
        raise SystemExit(128 + number)


def _say(text: str) -> None:
    with contextlib.suppress(RuntimeError):  # Python's, where the signal came while something else was being written
        logger.warning(text)
