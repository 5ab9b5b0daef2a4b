"""Waiting for a storage that is away: a server that restarts, a network that fails, a file system that is not mounted.

Storages say so by an `OSError` (`storage.py` sees to it). What is tried again here may be done twice, or says
how to find out that it was done: a connection may break just after the server wrote what it was asked to.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar, final

from ..disk.files import FULL
from .words import first_line

logger = logging.getLogger("secateur")

T = TypeVar("T")

LIMIT_S = 120.0
_FIRST_S, _LONGEST_S = 0.05, 5.0
_LASTING = (errno.EACCES, errno.EPERM, errno.EROFS, *FULL)  # no use in waiting


@final
class Retry:
    """Does things again until a storage answers.

    Args:
        where: the storage, for messages; no password in it.
        seconds: how long it may be away.
        sleep: waits.
    """

    def __init__(self, where: str, *, seconds: float = LIMIT_S, sleep: Callable[[float], object] = time.sleep) -> None:
        self._where = where
        self._seconds = seconds
        self._sleep = sleep

    def __call__(self, do: Callable[[], T], *, done: Callable[[], T | None] = lambda: None) -> T:
        """What `do` returns, as soon as it does.

        Args:
            do: what is wanted; tried again where it raises an `OSError`.
            done: asked before every new attempt: what an earlier one came to, if it was carried out after all.

        Raises:
            ConnectionError: the storage stayed away.
            OSError: it is full or must not be written, which no waiting mends.
        """
        start, wait, attempts = time.monotonic(), _FIRST_S, 0
        while True:
            try:
                found = done() if attempts else None
                result = do() if found is None else found
            except OSError as error:
                if error.errno in _LASTING:
                    raise
                attempts += 1
                away = time.monotonic() - start
                if away + wait > self._seconds:
                    raise ConnectionError(self._gave_up(away, error)) from error
                if attempts == 3:  # a connection that was idle for long is often dead, and the next one good
                    logger.warning("%s; trying again for up to %.0f s", self._said(error), self._seconds)
                self._sleep(wait * random.uniform(0.5, 1.0))  # several drivers must not ask all at once
                wait = min(2 * wait, _LONGEST_S)
            else:
                if attempts >= 3:
                    logger.warning("the storage %s is back after %.0f s", self._where, time.monotonic() - start)
                return result

    def _said(self, error: OSError) -> str:
        return f"the storage {self._where} is away ({first_line(error)})"

    def _gave_up(self, away: float, error: OSError) -> str:
        return (
            f"{self._said(error)}, for {away:.0f} s now; nothing that was told is lost: see that it runs and can be "
            "reached, and go on with the study"
        )
