"""A bound on what a study's folder keeps of networks: the oldest of what nothing needs any more goes first.

Bounded are weights and rankings that trials name, and the trainings of exported networks. Kept in any case is what the
front is built from, what trials that run start from, what a sampler may still start from, and the newest shared round:
so neither the search nor its table changes. What was removed is made again where somebody asks for it once more, or
its absence is said plainly.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ...search import NOTE
from ..disk.artifact_mirror import PROPOSALS, ArtifactMirror
from ..disk.artifacts import FOLDERS, STATE
from ..disk.files import path_of
from ..trials.events import Event, Listener
from ..trials.folder import EXPORTS
from ..trials.front import on_front
from ..trials.ledger import Ledger
from ..trials.trial import Trial

logger = logging.getLogger("secateur")

_GB = 1e9


@dataclass(frozen=True)
class _Kept:
    path: Path
    bytes: int
    written: float


@final
class Retention:
    """Removes what is too much.

    Args:
        folder: of the study.
        keep_gb: how much may stay, in 10^9 bytes; None keeps all.
        objectives: of the study, for its front.
        ranking: name of the study's own ranking, which is no such file.
        parents: whether the study's sampler starts from other trials' weights.

    Raises:
        ValueError: the bound is none.
    """

    def __init__(
        self, folder: Path, keep_gb: float | None, *, objectives: Sequence[str], ranking: str, parents: bool
    ) -> None:
        keep_gb = math.inf if keep_gb is None else keep_gb
        if isinstance(keep_gb, bool) or not isinstance(keep_gb, int | float) or not keep_gb > 0:
            raise ValueError(f"keep_gb={keep_gb!r}: expected a number above 0, or nothing to keep all")
        self._folder = folder
        self._keep_gb = keep_gb
        self._objectives = objectives
        self._ranking = ranking
        self._parents = parents
        self._complained = False

    def __call__(self, trials: Sequence[Trial], limits: Mapping[str, float]) -> list[str]:
        """Remove the oldest until the rest is within the bound; returns their paths in the study."""
        if self._keep_gb == math.inf:
            return []
        kept = sorted(self._found(), key=lambda one: (one.written, one.path))
        total, most = sum(one.bytes for one in kept), self._keep_gb * _GB
        if total <= most:
            return []
        names = [one.path.relative_to(self._folder).as_posix() for one in kept]
        needed = self.needed(trials, limits, names)
        removed = []
        for one in kept:
            if total <= most:
                break
            name = one.path.relative_to(self._folder).as_posix()
            if name not in needed:
                _remove(one.path)
                total -= one.bytes
                removed.append(name)
        if removed:
            logger.info("keep_gb=%g: removed %s", self._keep_gb, ", ".join(removed))
        if total > most and not self._complained:
            self._complained = True
            logger.warning(
                "keep_gb=%g: the front and what trials start from take %.3g GB, and stay", self._keep_gb, total / _GB
            )
        return removed

    def _found(self) -> Iterator[_Kept]:
        for folder in (*FOLDERS, EXPORTS):
            for path in (self._folder / folder).glob("*"):
                if not path.name.startswith("."):
                    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
                    stats = [one.stat() for one in files]
                    written = max((stat.st_mtime for stat in stats), default=0.0)
                    yield _Kept(path=path, bytes=sum(stat.st_size for stat in stats), written=written)

    def needed(self, trials: Sequence[Trial], limits: Mapping[str, float], names: Sequence[str]) -> set[str]:
        """What stays of these paths in the study, with paths that need not be among them."""
        front = on_front(trials, self._objectives, limits)
        needed = {path_of("weights", f"trial:{trial.number}") for trial in front}
        for trial in [*front, *(trial for trial in trials if not trial.told)]:
            named = [("weights", trial.weights)] + [("rankings", trial.ranking)] * (trial.ranking != self._ranking)
            needed |= {path_of(kind, name) for kind, name in named}
        exported = tuple(f"{EXPORTS}/trial-{trial.number:04d}-" for trial in front)
        needed |= {name for name in names if name.startswith(exported)}
        return needed | self._starts(trials) | _shared(names)

    def _starts(self, trials: Sequence[Trial]) -> set[str]:
        """Weights that the next proposals may start from."""
        if not self._parents:
            return set()
        # What shrinks along several dimensions is never a parent; of another sampler nothing is known.
        said = {trial.number: trial.memory.get(f"{NOTE}dimensions") or {} for trial in trials}
        return {path_of("weights", f"trial:{number}") for number, one in said.items() if one.get("axis") != "several"}


def _shared(names: Sequence[str]) -> set[str]:
    """The newest round, and a training of the next one."""
    rounds = {}
    for name in names:
        number, dot, ending = name.removeprefix("weights/round-").partition(".")
        if name.startswith("weights/round-") and number.isdecimal():
            rounds[name] = (int(number), dot + ending != STATE)
    newest = max((number for number, whole in rounds.values() if whole), default=-1)
    return {name for name, (number, _) in rounds.items() if number >= newest}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def tidying(
    retention: Retention,
    ledger: Ledger,
    limits: Mapping[str, float],
    mirror: ArtifactMirror | None,
    progress: Listener | None,
) -> Listener:
    """What happens after every trial: what is new is copied, and what is too much removed."""
    if mirror is not None:
        names = mirror.names()
        proposals = [name for name in names if name.startswith(PROPOSALS)]
        mirror.pull([*retention.needed(ledger.trials, limits, names), *proposals])

    def tidy(event: Event) -> None:
        removed = retention(ledger.trials, limits)
        if mirror is not None:
            mirror.push()
            mirror.remove(removed)
        if progress is not None:
            progress(event)

    return tidy
