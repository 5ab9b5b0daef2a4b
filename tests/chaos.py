"""Evaluators that misbehave, for tests of runners: an importable module, because workers import it too."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from landscapes import Instant

from secateur.evaluators import Result


@dataclass(frozen=True)
class Deadly:
    """Answers by formula; the first attempt at some candidates kills its process, hangs or raises."""

    instant: Instant
    folder: Path
    fingerprint: str = "deadly"

    def __call__(self, build, *, candidate, resolution, fidelity, seed, report=None) -> Result:
        mark = self.folder / f"mark-{candidate.key}"
        kind = seed % 5
        if kind == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == 1:
            raise ValueError("a bad network")
        if kind == 2:
            time.sleep(60)
        return self.instant(build, candidate=candidate, resolution=resolution, fidelity=fidelity, seed=seed)
