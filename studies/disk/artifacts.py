"""Rankings and weights that trials name: kept in the study's folder under their digests, and networks built from them.

rankings/NAME-DIGEST.safetensors    scores of a pruning method, `{group: (units,)}`
weights/NAME-DIGEST.safetensors     state dict of a small network whose weights are not simply inherited
weights/trial-NUMBER.safetensors    state dict that a trial ended with, where others may start from it
weights/round-NUMBER.safetensors    state dict of the full network, trained so that its parts are good too
proposals/KEY.json                  what a method proposed: candidate, names of the above, notes
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from safetensors.torch import save
from torch import Tensor, nn

from ...pruners import Proposal
from ...spaces import Candidate, Cut, Scores, Space, build, cut, inherited
from .files import FormatError, check_name, path_of, read_json, to_json, write_atomic
from .weights import digest, read_described, read_tensors

INHERITED = "inherited"
PARENT = "trial:"
ROUND = "round:"
_DIGITS = 16
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """Turns the names in a trial into a network.

    Attributes:
        folder: of the study.
        space: the traced space.
        scores: the study's own ranking; None for the space's.
        ranking: its name in trials.
    """

    folder: Path
    space: Space
    scores: Scores | None
    ranking: str

    def build(self, model: nn.Module, candidate: Candidate, ranking: str, weights: str) -> nn.Module:
        """The small network of a trial, with its weights; `model` is the full network."""
        scores = self.scores_of(ranking)
        if weights.startswith(ROUND):
            return build(model, self.space, candidate, scores, weights=self._described("weights", weights)[0])
        small = build(model, self.space, candidate, scores)
        if weights.startswith(PARENT):
            trained, said = self._described("weights", weights)
            parent = Candidate(json.loads(said["candidate"]))
            small.load_state_dict(inherited(self.space, parent, candidate, trained, scores))
        elif weights != INHERITED:
            small.load_state_dict(self._read("weights", weights))
        return small

    def keep_trained(self, number: int, candidate: Candidate, tensors: Mapping[str, Tensor]) -> None:
        """Keep what a trial's network became, for trials that start there: `"trial:NUMBER"`."""
        plain = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        path = self._path("weights", f"{PARENT}{number}")
        path.parent.mkdir(exist_ok=True)
        said = {"format": "pt", "candidate": json.dumps(list(candidate)), "digest": digest(plain)}
        write_atomic(path, save(plain, metadata=said))

    def cut(self, candidate: Candidate, ranking: str) -> Cut:
        """What a trial changes in the full network."""
        return cut(self.space, candidate, self.scores_of(ranking))

    def scores_of(self, ranking: str) -> Scores | None:
        """The scores that a ranking names; None for the space's own."""
        return self.scores if ranking == self.ranking else self._read("rankings", ranking)

    def paths(self, ranking: str, weights: str) -> list[str]:
        """The files, as paths in the study, that `build` reads for these names."""
        found = [] if ranking == self.ranking else [path_of("rankings", ranking)]
        return found if weights == INHERITED else [*found, path_of("weights", weights)]

    def check(self, ranking: str, weights: str) -> None:
        """Read what these names name.

        Raises:
            FormatError: it is lost or damaged; shared weights that are not there are trained again.
        """
        self.scores_of(ranking)
        if weights.startswith(PARENT) or (weights.startswith(ROUND) and self._path("weights", weights).exists()):
            self._described("weights", weights)
        elif weights != INHERITED and not weights.startswith(ROUND):
            self._read("weights", weights)

    def rankings(self) -> list[str]:
        """Names of the rankings that methods gave."""
        found = sorted((self.folder / "rankings").glob("*.safetensors"))
        return [":".join(path.stem.rsplit("-", 1)) for path in found]

    def keep(self, key: str, method: str, proposal: Proposal, *, selects: bool, seconds: float) -> dict[str, Any]:
        """Write a proposal under a key; what `proposed` reads.

        Args:
            key: the same for the same question.
            method: its name.
            proposal: what it said.
            selects: whether its scores are its own; the study's ranking is named where they are not.
            seconds: it took.
        """
        ranking = self._write("rankings", method, proposal.scores) if selects else self.ranking
        weights = INHERITED if proposal.weights is None else self._write("weights", method, proposal.weights)
        said = {
            "method": method,
            "candidate": list(proposal.candidate),
            "ranking": ranking,
            "weights": weights,
            "seconds": seconds,
            "notes": dict(proposal.notes),
        }
        (self.folder / "proposals").mkdir(exist_ok=True)
        write_atomic(self._proposal(key), to_json(said))
        return said

    def proposed(self, key: str) -> dict[str, Any] | None:
        """The proposal under a key, if there is one whose ranking and weights are still there."""
        if not self._proposal(key).exists():
            return None
        said = read_json(self._proposal(key))
        there = all((self.folder / path).exists() for path in self.paths(said["ranking"], said["weights"]))
        return said if there else None

    def _proposal(self, key: str) -> Path:
        check_name(key)
        return self.folder / "proposals" / f"{key}.json"

    def _write(self, kind: str, name: str, tensors: Mapping[str, Tensor]) -> str:
        plain = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        named = f"{name}:{digest(plain)[:_DIGITS]}"
        path = self._path(kind, named)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, save(plain, metadata={"format": "pt"}))
        return named

    def _described(self, kind: str, named: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        return _kept(lambda: read_described(self._there(kind, named)))

    def _read(self, kind: str, named: str) -> dict[str, Tensor]:
        return _kept(lambda: read_tensors(self._there(kind, named), named.rpartition(":")[2]))

    def _there(self, kind: str, named: str) -> Path:
        path = self._path(kind, named)
        if not path.exists():
            raise FormatError(
                f"{path} is missing: removed to stay within keep_gb, or lost; restore it from a copy and go on, or "
                "choose a trial that does not start from it"
            )
        return path

    def _path(self, kind: str, named: str) -> Path:
        return self.folder / path_of(kind, named)


def _kept(read: Callable[[], T]) -> T:
    """What is read from the study's own files: no trial is to blame where that fails."""
    try:
        return read()
    except ValueError as error:
        raise FormatError(str(error)) from error


FOLDERS = ("rankings", "weights")  # of a study, that hold artifacts


STATE = ".state"  # how files end that change from one job to the next


def place_artifact(folder: Path, name: str, data: bytes | None) -> None:
    """Write an artifact under its path in a study, or take it away where there is no data.

    Raises:
        ValueError: the path leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    if len(parts) != 2 or parts[0] not in FOLDERS or parts[1].startswith(".") or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no artifact of a study; expected a file in {' or '.join(FOLDERS)}")
    path = folder.joinpath(*parts)
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, data)
