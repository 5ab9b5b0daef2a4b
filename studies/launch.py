"""From a study file to a study: what the command line does, without a terminal. Start at `search`.

A study's folder holds `study.toml`, the file it was made from with every override; so `resume`, `export` and the others
need the folder alone. While the base network is trained, all there is lies in a folder beside it, `NAME.part`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..search import SamplerFactory
from ..spaces import Budget, Space
from .config import StudyFile, read
from .determinism import present
from .files import write_atomic
from .folder import STUDY_JSON
from .lock import locked
from .parts import make_model, make_task, named, part_of, traced, train_base
from .progress import Listener
from .runner import check
from .settings import settle
from .storage import connect, disconnect
from .study import Study
from .urls import is_server

STUDY_TOML = "study.toml"

_OF_A_RUN = ("trials", "keep_gb")  # of the table [study], but no settings of the study itself


def trace(file: StudyFile) -> Space:
    """The space of a study file's network, whose weights are those before any training."""
    return traced(file, make_model(file), make_task(file))


def search(file: StudyFile, out: str | Path, *, progress: Listener | None = None) -> Study:
    """A new study in the folder `out`, run to its number of trials.

    Args:
        file: the study file.
        out: the folder; must not exist.
        progress: called with events: those of `Study.run`, and one after every epoch of the base network:
            `{"event": "base", "done", "total", "left", "eta", "loss"}`.

    Raises:
        FileExistsError: `out` exists, or is being made.
        ValueError: something in the file, the model or the data is off; nothing was trained.
    """
    out = Path(out)
    if (out / STUDY_JSON).exists() or part_of(out).exists():
        raise FileExistsError(f"{out} is a study already; go on with `secateur resume {out}`, or choose another folder")
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists and is no study; remove it or choose another folder")
    study = _create(file, out, progress)
    study.run(file.study.trials, progress, runner=file.runner, keep_gb=file.study.keep_gb)
    return study


def resume(
    folder: str | Path,
    *,
    budget: Budget | None = None,
    trials: int | None = None,
    runner: Mapping[str, Any] | None = None,
    join: bool = False,
    progress: Listener | None = None,
) -> Study:
    """The study in a folder, run further: to its number of trials, or to another total, under another budget.

    Args:
        folder: of the study.
        budget: in place of the last one.
        trials: the total.
        runner: settings of `Runner` that change, by name; the last ones where None.
        join: share the study with other drivers that join it.
        progress: called with events.

    Raises:
        FileNotFoundError: the folder holds no study, or none that a study file made.
        ValueError: it is locked, damaged, read-only, or no longer what its model and data say.
    """
    folder = Path(folder)
    before: StudyFile | None = None
    if part_of(folder).is_dir() and not (folder / STUDY_JSON).exists():
        file = read(part_of(folder) / STUDY_TOML).changed(budget=budget, trials=trials, runner=runner)
        study = _create(file, folder, progress)
    else:
        before = _file_of(folder)
        file = before.changed(budget=budget, trials=trials, runner=runner)
        study = _opened(file, folder)
        if file != before:
            write_atomic(folder / STUDY_TOML, file.to_toml())
    try:
        study.run(file.study.trials, progress, runner=file.runner, join=join, keep_gb=file.study.keep_gb)
    except (ValueError, ImportError):  # nothing ran, so nothing is to be remembered
        if before is not None and file != before:
            write_atomic(folder / STUDY_TOML, before.to_toml())
        raise
    return study


def open_study(folder: str | Path) -> Study:
    """The study in a folder, as its study file says."""
    folder = Path(folder)
    return _opened(_file_of(folder), folder)


def export(
    folder: str | Path,
    to: str | Path,
    *,
    pick: str = "best",
    finetune_epochs: int | None = None,
    progress: Listener | None = None,
) -> list[Path]:
    """The folders of exported networks; see `Study.export`.

    Args:
        folder: of the study.
        to: a new folder.
        pick: `"best"`, `"all"`, a trial's number, or budgets such as `"macs=0.3,params=20000"`.
        finetune_epochs: of the last training.
        progress: called with events.
    """
    if os.path.lexists(to):
        raise FileExistsError(f"{to} exists already; remove it or choose another folder")
    picked = parse_pick(pick)
    return open_study(folder).export(to, pick=picked, finetune_epochs=finetune_epochs, progress=progress)


def parse_pick(pick: str) -> str | int | Budget:
    """What `Study.export` takes, from text.

    >>> parse_pick("12"), parse_pick("macs=0.3").macs
    (12, 0.3)
    """
    if pick in ("best", "all"):
        return pick
    if pick.isdecimal():
        return int(pick)
    if "=" in pick:
        return Budget.parse(pick.split(","))
    raise ValueError(f"pick is {pick!r}; expected best, all, the number of a trial, or budgets such as macs=0.3")


# --- from parts to a study --------------------------------------------------------------------------------------------


def _create(file: StudyFile, out: Path, progress: Listener | None) -> Study:
    """A new study in `out`, its base network trained where the file says so; goes on where it was killed."""
    model, task = make_model(file), make_task(file)
    space = traced(file, model, task)
    space.check_limits(_arithmetic_limits(file.budget, space))  # before minutes of training
    if file.model.train:
        present(file.study.device)
    check(file.runner, threads=file.study.threads or torch.get_num_threads(), device=file.study.device)
    settle(
        file.budget, **{name: value for name, value in _settings(file).items() if name not in ("storage", "artifacts")}
    )
    if file.study.storage is not None and is_server(file.study.storage):
        disconnect(connect(file.study.storage))
    part = part_of(out)
    try:
        part.mkdir(parents=True, exist_ok=True)
        write_atomic(part / STUDY_TOML, file.to_toml())
    except OSError as error:
        raise OSError(error.errno, f"{out} can't be made ({error.strerror}); choose a folder that can") from error
    with locked(part):
        if file.model.train:
            train_base(file, model, task, space, part, progress)
            space = traced(file, model, task)  # the default scores are norms of the trained weights
        study = Study.create(out, model=model, task=task, space=space, budget=file.budget, **_settings(file))
        os.replace(part / STUDY_TOML, out / STUDY_TOML)
    shutil.rmtree(part)
    return study


def _settings(file: StudyFile) -> dict[str, Any]:
    settings = {name: getattr(file.study, name) for name in type(file.study).model_fields if name not in _OF_A_RUN}
    return settings | {"sampler": _sampler(file), "training": file.training, "latency": file.latency}


def _opened(file: StudyFile, folder: Path) -> Study:
    sampler = _sampler(file)
    return Study.open(
        folder,
        model=lambda: make_model(file.model_copy(update={"model": file.model.model_copy(update={"checkpoint": None})})),
        task=make_task(file),
        budget=file.budget,
        sampler=None if isinstance(sampler, str) else sampler,
    )


def _sampler(file: StudyFile) -> str | SamplerFactory:
    name = file.study.sampler
    if ":" not in name:
        return name
    factory: SamplerFactory = named(file, "sampler", name)
    return factory


def _arithmetic_limits(budget: Budget, space: Space) -> dict[str, float]:
    full = {name: float(column[0]) for name, column in space.cost_table([space.full]).items()}
    return {name: limit for name, limit in budget.limits(full | {"latency_ms": 1.0}).items() if name in full}


def _file_of(folder: Path) -> StudyFile:
    if not (folder / STUDY_JSON).exists():
        if part_of(folder).is_dir():
            raise FileNotFoundError(
                f"{folder} is not made yet: its network is still to be trained; go on with `secateur resume {folder}`"
            )
        raise FileNotFoundError(f"{folder} holds no study; make one with `secateur search STUDY.toml --out {folder}`")
    toml = folder / STUDY_TOML
    if not toml.is_file() and (part_of(folder) / STUDY_TOML).is_file():  # killed just after the study appeared
        os.replace(part_of(folder) / STUDY_TOML, toml)
        shutil.rmtree(part_of(folder))
    if not toml.is_file():
        raise FileNotFoundError(f"{folder} has no {STUDY_TOML}: it was made in Python; open it there with Study.open")
    return read(toml)
