"""From a study file to a study: what the command line does, without a terminal. Start at `search`.

A study's folder holds `study.toml`, the file it was made from with every override; so `resume`, `export` and the others
need the folder alone. While the base network is trained, all there is lies in a folder beside it, `NAME.part`.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from ..evaluators.modes import present
from ..spaces import Budget, Space
from .disk.artifact_mirror import ArtifactMirror
from .disk.files import locked, write_atomic
from .drivers.given import own_costs
from .runners.dispatch import executor
from .settings.search import UNTRAINED
from .study import Study
from .study_files.file import Ends, StudyFile, read
from .study_files.held import MAY_CHANGE, differences, held
from .study_files.parts import BASE_STATE, make_model, make_parts, make_task, search_of, traced, train_base, training_of
from .trials.events import Listener
from .trials.folder import STUDY_JSON, check_free, described_storage, making, part_of
from .trials.storage import check_file, connect, disconnect
from .trials.urls import file_of, is_server
from .views.trackers import Trackers, trackers_of

logger = logging.getLogger("secateur")

STUDY_TOML = "study.toml"
_HELD = "study_file"  # how the study notes what its file said


def trace(file: StudyFile) -> Space:
    """The space of a study file's network, whose weights are those before any training."""
    return traced(file, *make_parts(file))


def search(file: StudyFile, out: str | Path, *, progress: Listener | None = None) -> Study:
    """A new study in the folder `out`, run to its number of trials.

    Args:
        file: the study file.
        out: the folder; must not exist.
        progress: called with events: those of `Study.run`, and one after every epoch of the base network:
            `Epoch`; see `trials/events.py`.

    Raises:
        FileExistsError: `out` exists, or is being made.
        ValueError: something in the file, the model or the data is off; nothing was trained.
    """
    out = Path(out)
    if (out / STUDY_JSON).exists() or (part_of(out) / STUDY_TOML).exists():
        raise FileExistsError(f"{out} is a study already; go on with `secateur resume {out}`, or choose another folder")
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists and is no study; remove it or choose another folder")
    study = create(file, out, progress)
    _run(study, file, progress)
    return study


def resume(
    folder: str | Path,
    *,
    budget: Budget | None = None,
    runner: Mapping[str, Any] | None = None,
    keep_gb: float | None = None,
    track: Sequence[str] | None = None,
    device: str | None = None,
    settings: Sequence[str] = (),
    base: Path | None = None,
    progress: Listener | None = None,
    **ends: Unpack[Ends],
) -> Study:
    """The study in a folder, run further: to its number of trials, or to another total, under another budget.

    Args:
        folder: of the study.
        budget: in place of the last one.
        runner: settings of `Runner` that change, by name; the last ones where None.
        keep_gb: how much of the folder weights and rankings may take; as before where None.
        track: where trials are shown too; `["none"]` is nowhere, and None as before.
        device: another GPU, of the same kind.
        settings: `TABLE.NAME=VALUE` of the study file, of what may change.
        base: where code and data have moved to.
        progress: called with events.
        ends: what ends it now; see `StudyFile.changed`.

    Raises:
        FileNotFoundError: the folder holds no study, or none that a study file made.
        ValueError: it is locked, damaged, read-only, or no longer what its model and data say.
    """
    folder = Path(folder)
    changes: dict[str, Any] = {"budget": budget, "runner": runner, "keep_gb": keep_gb, "track": track, "device": device}
    changes |= ends
    if (part_of(folder) / STUDY_TOML).is_file() and not (folder / STUDY_JSON).exists():
        file = _set(part_of(folder) / STUDY_TOML, settings, base).changed(**changes)
        study = create(file, folder, progress)
    else:
        before = _file_of(folder)
        file = _set(folder / STUDY_TOML, settings, base).changed(**changes)
        study = _as_made(before, opened(file, folder))
        if _HELD not in study._ledger.notes:  # an older secateur made it
            study._ledger.note(_HELD, held(before))
        done = int(study.trials()["evaluated"].size)
        if done >= file.study.trials:
            logger.warning(
                "%s has %d trials, and %d in all are asked for: none is added; ask for more, such as --trials %d",
                *(folder, done, file.study.trials, done + 20),
            )
        if file != before:  # what is refused is not to be remembered, and another process may run the study
            study._engine.at_begin.append(lambda: write_atomic(folder / STUDY_TOML, file.to_toml(folder)))
    _run(study, file, progress)
    return study


def open_study(folder: str | Path, base: Path | None = None) -> Study:
    """The study in a folder, as its study file says; code and data lie in `base` where they have moved.

    Raises:
        ValueError: the file was edited, but for what may change, or is another study's.
    """
    folder = Path(folder)
    file = _file_of(folder, base)
    return _as_made(file, opened(file, folder))


def export(
    folder: str | Path,
    to: str | Path,
    *,
    pick: str = "best",
    finetune_epochs: int | None = None,
    finalists: int = 1,
    pictures: bool = False,
    any_side: bool = False,
    base: Path | None = None,
    progress: Listener | None = None,
) -> list[Path]:
    """The folders of exported networks; see `Study.export`.

    Args:
        folder: of the study.
        to: a new folder.
        pick: `"best"`, `"all"`, `"knee"`, a trial's number, `"error=0.03"`, or budgets as `"macs=0.3,params=20000"`.
        finetune_epochs: of the last training.
        finalists: how many trials are trained a little to find the best of them.
        pictures: programs take pictures.
        any_side: programs take every side.
        base: where code and data have moved to.
        progress: called with events.
    """
    check_free(Path(to))
    picked = parse_pick(pick)
    return open_study(folder, base).export(
        to,
        pick=picked,
        finetune_epochs=finetune_epochs,
        finalists=finalists,
        pictures=pictures,
        any_side=any_side,
        progress=progress,
    )


def parse_pick(pick: str) -> str | int | Budget | Mapping[str, Any]:
    """What `Study.export` takes, from text.

    >>> parse_pick("12"), parse_pick("macs=0.3").macs, parse_pick("error=0.03,macs=50%")
    (12, 0.3, {'error': 0.03, 'macs': '50%'})
    """
    if pick in ("best", "all", "knee"):
        return pick
    if pick.isdecimal():
        return int(pick)
    parts = [part.strip() for part in pick.split(",")]
    errors = [part for part in parts if part.partition("=")[0].strip() == "error"]
    if len(errors) == 1:
        try:
            error = float(errors[0].partition("=")[2])
        except ValueError:
            raise ValueError(f"pick {errors[0]!r}: expected a number, as error=0.03") from None
        return {"error": error, **Budget.parse([part for part in parts if part not in errors]).asked()}
    if "=" in pick:
        return Budget.parse(parts)
    raise ValueError(
        f"pick is {pick!r}; expected best, all, knee, the number of a trial, error=0.03, or budgets such as macs=0.3"
    )


# --- from parts to a study --------------------------------------------------------------------------------------------


def create(file: StudyFile, out: Path, progress: Listener | None, *, base: Mapping[str, Tensor] | None = None) -> Study:
    """A new study in `out`, its base network trained where the file says so; goes on where it was killed.

    Args:
        file: the study file.
        out: the folder; must not exist.
        progress: called with events.
        base: weights that the network is given, in place of what the file says.
    """
    if base is not None:
        file = file.without_weights()
    model, task = make_parts(file)
    if base is not None:
        model.load_state_dict(dict(base), strict=False)
    space = traced(file, model, task)
    limits = _arithmetic_limits(file.budget, space)
    space.check_limits(limits)  # before minutes of training
    _mention(file.budget, limits, space)
    search, training = search_of(file), training_of(file)
    if file.model.train:
        present(file.study.device)
        resolved = search.resolved(file.budget)
        own_costs(model, space, resolved, out)  # a faulty one is found now, and so is a prior
        if search.prior is not None:
            from .drivers.prior import with_prior

            with_prior(resolved, search.prior, space, limits)
    trackers_of(file.study.track)
    executor(file.runner).check(
        threads=file.study.threads or torch.get_num_threads(), device=str(file.study.torch_device)
    )
    _check_places(file, out)
    expected = file.model.expect_error
    with making(out) as part:
        begun = (part / STUDY_TOML).exists()
        try:
            write_atomic(part / STUDY_TOML, file.to_toml(out))
            if file.model.train:
                train_base(file, model, task, space, part, progress)
                space = traced(file, model, task)  # the default scores are norms of the trained weights
            study = Study.create(
                out,
                model=model,
                task=task,
                space=space,
                budget=file.budget,
                search=search,
                training=training,
                latency=file.latency,
                storage=file.study.storage,
                artifacts=file.study.artifacts,
                # What the study trains itself may come out as badly as it was asked to.
                expect_error=UNTRAINED if expected is None and (file.model.train or base is not None) else expected,
            )
            study._ledger.note(_HELD, held(file))
            os.replace(part / STUDY_TOML, out / STUDY_TOML)
        except Exception:
            if not begun and not (part / BASE_STATE).exists() and not (out / STUDY_JSON).exists():
                shutil.rmtree(part, ignore_errors=True)  # nothing in it is worth going on with
            raise
        shutil.rmtree(part)
    return study


def _check_places(file: StudyFile, out: Path) -> None:
    """Refuse a storage or a place for artifacts that is not there, before minutes of training."""
    storage = file.study.storage
    if storage is not None and is_server(storage):
        disconnect(connect(storage))
    elif storage is not None:
        check_file(storage, out)
        place = file_of(storage, out)
        if place is not None and not place.is_relative_to(out.absolute()) and not os.access(place.parent, os.W_OK):
            raise ValueError(
                f"storage {described_storage(out, storage)}: {place.parent} is no folder that can be written; make it, "
                "or name another"
            )
    if file.study.artifacts is not None:
        ArtifactMirror(out, file.study.artifacts)


def _run(study: Study, file: StudyFile, progress: Listener | None) -> None:
    """Search as the file says, with the trackers that it names."""
    with Trackers(file.study.track, study.path, progress) as listener:
        asked = file.study
        study.run(
            asked.trials,
            listener,
            seconds=asked.seconds,
            until=asked.until,
            patience=asked.patience,
            runner=file.runner,
            keep_gb=asked.keep_gb,
        )


def opened(file: StudyFile, folder: Path) -> Study:
    """The study in a folder, made as the file says."""
    search, training = search_of(file), training_of(file)
    return Study.open(
        folder,
        model=lambda: make_model(file.model_copy(update={"model": file.model.model_copy(update={"checkpoint": None})})),
        task=make_task(file),
        budget=file.budget,
        sampler=None if isinstance(search.sampler, str) else search.sampler,
        costs=search.costs,
        training=None if training is file.training else training,
        device=file.study.device,
    )


def _as_made(file: StudyFile, study: Study) -> Study:
    """The study, if its file still says what it was made with; one of an older secateur is not held against its file.

    Raises:
        ValueError: it says something else.
    """
    kept = study._ledger.notes.get(_HELD)
    different = differences(kept, file) if isinstance(kept, dict) else []
    if different:
        raise ValueError(
            f"{study.path / STUDY_TOML} was edited, or is another study's: {'; '.join(different)}; put that back, or "
            f"start a new study; {MAY_CHANGE}"
        )
    return study


def _set(path: Path, settings: Sequence[str], base: Path | None) -> StudyFile:
    """The file of a study that goes on, with keys that may change.

    Raises:
        ValueError: one may not.
    """
    file = read(path, settings, base=base)
    different = differences(held(read(path)), file)
    if different:
        raise ValueError(
            f"--set: {'; '.join(different)}: a study can't go on so; start a new one, or leave it: {MAY_CHANGE}"
        )
    return file


def _mention(budget: Budget, limits: Mapping[str, float], space: Space) -> None:
    """Say of a budget that it limits nothing."""
    if not budget.asked():
        logger.info("no budget is given: networks of any size are tried")
    full = space.costs([space.full]).iloc[0]
    for name, limit in limits.items():
        if limit > full[name]:
            logger.warning(
                "budget %s=%s limits nothing: the full network has %s", name, f"{limit:,.0f}", f"{full[name]:,.0f}"
            )


def _arithmetic_limits(budget: Budget, space: Space) -> dict[str, float]:
    return {name: limit for name, limit in budget.limits(space).items() if name in space.full_costs}


def _file_of(folder: Path, base: Path | None = None) -> StudyFile:
    if not (folder / STUDY_JSON).exists():
        if (part_of(folder) / STUDY_TOML).is_file():
            raise FileNotFoundError(
                f"{folder} is not made yet: its network is still to be trained; go on with `secateur resume {folder}`"
            )
        new = "DIR" if folder.exists() else folder
        raise FileNotFoundError(f"{folder} holds no study; make one with `secateur search STUDY.toml --out {new}`")
    toml = folder / STUDY_TOML
    if not toml.is_file() and (part_of(folder) / STUDY_TOML).is_file():  # killed just after the study appeared
        with locked(part_of(folder)):
            os.replace(part_of(folder) / STUDY_TOML, toml)
            shutil.rmtree(part_of(folder))
    if not toml.is_file():
        raise FileNotFoundError(f"{folder} has no {STUDY_TOML}: it was made in Python; open it there with Study.open")
    return read(toml, base=base)
