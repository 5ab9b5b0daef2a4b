"""One method of the literature alone: a study of the one network it proposes, and its export. Start at `prune`.

Until the network is done, the study is a folder beside it, `NAME.part`: the trained base network, the pruning phase
after every epoch, what was proposed, the fine-tuning. The same call goes on from there after a kill.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..evaluators.modes import present, reproducible
from ..pruners import Even, Method, check_method, trains
from ..spaces import Budget, Candidate
from .disk.files import read_json, to_json, write_atomic
from .disk.weights import read_tensors
from .exports.exporter import errors
from .launch import create, opened
from .outcomes.latency import Latencies
from .proposals.pruning import method_named, settings_of
from .proposals.seeds import Seed
from .settings.runner import Serial
from .study import Study
from .study_files.data import Data
from .study_files.file import StudyFile, read
from .trials.events import Exported, Listener, Network
from .trials.folder import BASE, STUDY_JSON, making, part_of, read_study_json
from .trials.trial import Scored

_STEPS = 7  # halvings of the multiply-adds in the search for a latency
_MARGIN = 0.97  # of a latency budget that the search for multiply-adds aims at: a second measurement differs a little
_NOTE = "prune.json"


def prune(
    file: StudyFile,
    method: str | Method,
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    study: Path | None = None,
    finetune_epochs: int | None = None,
    progress: Listener | None = None,
) -> Path:
    """The folder of the network that one method made within the file's budget, fine-tuned, exported and verified.

    Args:
        file: the study file.
        method: name of a method, or a method of the user's.
        out: a new folder.
        settings: of a method that is given by name, such as `{"strength": 15.0}`.
        study: a study's folder, whose base network is taken as it is; None makes it as the file says.
        finetune_epochs: of the last training; the file's `long_epochs` when None.
        progress: called with events: `Epoch`, `Proposed`, `Trained`, `Exported`; see `trials/events.py`.

    Raises:
        FileExistsError: `out` exists, or was begun with other settings.
        ValueError: the method is unknown or can't do what is asked, or something in the file is off.
    """
    out, pruner = Path(out), method_named(method, settings) if isinstance(method, str) else check_method(method)
    epochs = file.training.long_epochs if finetune_epochs is None else finetune_epochs
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"finetune_epochs={epochs!r}: expected an integer of at least 0")
    file.budget.check()
    if not file.budget.asked():
        raise ValueError(f"{pruner.name} needs a budget; give one, such as --budget macs=0.5")
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists already; remove it or choose another folder")
    present(file.study.device)
    with making(out) as part:
        _begin(part, {"file": file.to_toml(), "finetune_epochs": epochs, **settings_of(pruner)})
        try:
            one = _study(file, part / "study", study, progress)
        except Exception:
            if not part_of(part / "study").exists():
                shutil.rmtree(part, ignore_errors=True)  # nothing in it is worth going on with
            raise
        one.budget = replace(file.budget, latency_ms=None)
        if not one.status().told:
            seed, latency_ms = _proposed(one, pruner, file.budget, progress)
            write_atomic(part / "proposed.json", to_json(dict(seed.notes)))
            one.enqueue(seed)
            trial = one.ask()
            assert trial is not None and trial.candidate == seed.candidate, "a proposal is within the budget"
            outcome = one.evaluate(trial)  # the share of the ranking that is lost: nothing is trained for it
            one.tell(trial, replace(outcome, latency_ms=latency_ms) if isinstance(outcome, Scored) else outcome)
        one.budget = file.budget
        shutil.rmtree(part / "export", ignore_errors=True)
        notes = _notes(one, pruner) | {"study": out.name, "notes": read_json(part / "proposed.json")}
        [made] = one.export(part / "export", 0, epochs, _but_exported(progress), notes=notes)
        os.rename(made, out)
        shutil.rmtree(part)
    if progress is not None:
        config = read_json(out / "config.json")
        network = Network(key=config["key"])
        progress(Exported(network=network, folder=str(out), verified=config["verified"], figures=config["errors"]))
    return out


def _study(file: StudyFile, folder: Path, base: Path | None, progress: Listener | None) -> Study:
    """The study of the one network: as the file says, but that nothing is searched, and with another study's base."""
    search = replace(
        file.study, sampler="random", seeds=(), evaluator="ladder", fidelity="zero-shot", batch=1, early_stopping=False
    )
    alone = {"study": replace(search, trials=1, storage=None, artifacts=None, track=()), "runner": Serial()}
    file = file.model_copy(update=alone)
    if (folder / STUDY_JSON).exists():
        return opened(file, folder)
    kept = None
    if base is not None:
        kept = read_tensors(base / BASE, read_study_json(base, to_write=False)["fingerprint"]["weights"])
    return create(file, folder, progress, base=kept)


def _proposed(study: Study, method: Method, budget: Budget, progress: Listener | None) -> tuple[Seed, float | None]:
    """What the method proposes within the budget, and its measured latency where that is limited."""
    limit_ms = budget.latency_ms
    if limit_ms is None:
        return study.propose(method, progress=progress), None
    timing = _Timing(study, budget)
    macs, seed = _within_latency(study, Even() if trains(method) else method, timing)
    if trains(method):
        seed = study.propose(method, {**study.limits(), "macs": macs}, progress)
        if timing(seed.candidate) > timing.limit_ms:
            raise ValueError(
                f"{method.name} found a network that takes {timing(seed.candidate):.3g} ms, over "
                f"latency_ms={timing.limit_ms:g}; give a lower macs beside it, since a method that trains aims at "
                "multiply-adds"
            )
    return seed, timing(seed.candidate)


class _Timing:
    """Measures networks of a study, each once.

    Attributes:
        limit_ms: the budget in milliseconds.
    """

    def __init__(self, study: Study, budget: Budget) -> None:
        self._latencies = Latencies(
            study.path, model=study.model, space=study.space, device=study.search.here, options=study.latency
        )
        self._known: dict[Candidate, float] = {}
        full = self(study.space.full) if budget.needs_full("latency_ms") else None
        self.limit_ms = budget.limits(study.space, full)["latency_ms"]

    def __call__(self, candidate: Candidate) -> float:
        """Milliseconds of a candidate's network."""
        if candidate not in self._known:
            self._known[candidate] = self._latencies.measure([candidate])[0].ms
        return self._known[candidate]


def _within_latency(study: Study, method: Method, timing: _Timing) -> tuple[float, Seed]:
    """The most multiply-adds at which the method's network is within the latency, and that network."""
    space, limits = study.space, study.limits()
    low, full = float(space.cost_table([space.smallest])["macs"][0]), space.full_costs["macs"]
    most = high = min(limits.get("macs", full), full)
    best = None
    for step in range(_STEPS + 1):
        macs = most if step == 0 else (low + high) / 2
        seed = study.propose(method, {**limits, "macs": macs})
        if timing(seed.candidate) <= _MARGIN * timing.limit_ms:
            best, low = (macs, seed), macs
            if step == 0:
                break
        else:
            high = macs
    if best is None:
        raise ValueError(
            f"{method.name} finds no network within latency_ms={timing.limit_ms:g}: its smallest takes "
            f"{timing(space.smallest):.3g} ms here; raise it, or allow lower resolutions or depths"
        )
    return best


def _notes(study: Study, method: Method) -> dict[str, Any]:
    """What config.json says of the method, and the full network's errors."""
    side, device = study.space.side(study.space.full) or None, study.search.here
    with reproducible(study.search.threads, device):
        whole = errors(study.model, study.task, side, device)
    study.model.cpu()
    return {
        "method": method.name,
        "settings": settings_of(method),
        "decides": {"allocation": method.allocates, "selection": method.selects, "weights": method.weights},
        "errors": {f"full_{name}": value for name, value in whole.items() if name.endswith("error")},
    }


def _but_exported(progress: Listener | None) -> Listener | None:
    """`progress`, not told of the export: the network moves once more."""
    return None if progress is None else lambda event: None if isinstance(event, Exported) else progress(event)


def _begin(part: Path, settings: Mapping[str, Any]) -> None:
    """Note with which settings the network is made, or see that it was begun with the same."""
    note = part / _NOTE
    if note.exists() and read_json(note) != settings:
        raise FileExistsError(
            f"{part} holds what another `prune` left unfinished; remove it, or give the method and budget it "
            "was begun with"
        )
    write_atomic(note, to_json(dict(settings)))


def source(name: str | Path, changes: Sequence[str] = ()) -> tuple[StudyFile, Path | None]:
    """A study file by path, by name, or from a study's folder, with changes; the folder where it is one."""
    file, folder = read(name, changes), Path(name)
    if not (folder / STUDY_JSON).exists():
        return file, None
    if isinstance(file.data, Data) and "preprocessing" not in read_study_json(folder, to_write=False):
        # Earlier versions measured what was not given.
        whole = file.data.mean is not None and file.data.std is not None
        file = file.model_copy(update={"data": replace(file.data, normalise=None if whole else "measure")})
    return file, folder
