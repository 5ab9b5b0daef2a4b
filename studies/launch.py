"""From a study file to a study: what the command line does, without a terminal. Start at `search`.

A study's folder holds `study.toml`, the file it was made from with every override; so `resume`, `export` and the others
need the folder alone. While the base network is trained, all there is lies in a folder beside it, `NAME.part`.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..evaluators import Loop, Task, measure_error, train
from ..search import SamplerFactory
from ..spaces import Budget, Space
from .checkpoints import load_checkpoint
from .config import StudyFile, read
from .data import Data
from .files import write_atomic
from .finish import Keeper
from .folder import STUDY_JSON
from .lock import locked
from .progress import Listener
from .runner import reproducible
from .study import Study

logger = logging.getLogger("secateur")

STUDY_TOML = "study.toml"


def trace(file: StudyFile) -> Space:
    """The space of a study file's network, whose weights are those before any training."""
    return _traced(file, make_model(file), make_task(file))


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
    if (out / STUDY_JSON).exists() or _part(out).exists():
        raise FileExistsError(f"{out} is a study already; go on with `secateur resume {out}`, or choose another folder")
    if os.path.lexists(out):
        raise FileExistsError(f"{out} exists and is no study; remove it or choose another folder")
    study = _create(file, out, progress)
    study.run(file.study.trials, progress)
    return study


def resume(
    folder: str | Path, *, budget: Budget | None = None, trials: int | None = None, progress: Listener | None = None
) -> Study:
    """The study in a folder, run further: to its number of trials, or to another total, under another budget.

    Raises:
        FileNotFoundError: the folder holds no study, or none that a study file made.
        ValueError: it is locked, damaged, read-only, or no longer what its model and data say.
    """
    folder = Path(folder)
    if _part(folder).is_dir() and not (folder / STUDY_JSON).exists():
        file = read(_part(folder) / STUDY_TOML).changed(budget=budget, trials=trials)
        study = _create(file, folder, progress)
    else:
        before = _file_of(folder)
        file = before.changed(budget=budget, trials=trials)
        study = _opened(file, folder)
        if file != before:
            write_atomic(folder / STUDY_TOML, file.to_toml())
    study.run(file.study.trials, progress)
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


# --- the parts of a study file ----------------------------------------------------------------------------------------


def make_model(file: StudyFile) -> nn.Module:
    """The file's full network, in eval mode, with its checkpoint if there is one; seeded where it is random."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(file.study.seed)
        model = _call(file, "model", file.model.factory, file.model.arguments)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model factory {file.model.factory} gave a {type(model).__name__}; expected a torch.nn.Module")
    if file.model.checkpoint is not None:
        load_checkpoint(model, file.path(file.model.checkpoint))
    return model.eval()


def make_task(file: StudyFile) -> Task:
    """The file's data as a task."""
    data = file.data
    if isinstance(data, Data):
        path = data.path if data.path is None else file.path(data.path)
        return dataclasses.replace(data, path=path).task()
    task: Task = _call(file, "data", data.factory, data.arguments)
    missing = [name for name in _TASK if not hasattr(task, name)]
    if missing:
        raise TypeError(
            f"data factory {data.factory} gave a {type(task).__name__} without {', '.join(missing)}; expected a Task"
        )
    return task


_TASK = ("fingerprint", "preprocessing", "sizes", "loader", "forward", "loss", "error")


def _sampler(file: StudyFile) -> str | SamplerFactory:
    name = file.study.sampler
    if ":" not in name:
        return name
    factory: SamplerFactory = _object(file, "sampler", name)
    return factory


def _call(file: StudyFile, what: str, name: str, arguments: Mapping[str, Any]) -> Any:
    factory = _object(file, what, name)
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{what} factory {name} does not take the arguments {dict(arguments)}: {error}") from None
    except ValueError:
        pass  # a factory without a signature, written in C
    return factory(**arguments)


def _object(file: StudyFile, what: str, name: str) -> Any:
    """What `package.module:name` names, installed or in the file's folder."""
    if str(file.folder) not in sys.path:
        sys.path.append(
            str(file.folder)
        )  # at the end: a user's random.py shadows nobody's; for good: imports may be late
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"{what} factory {name}: {module} needs {error.name}, which is not installed") from error
        raise ValueError(
            f"{what} factory {name}: there is no module {error.name!r}, neither installed nor in {file.folder}"
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{what} factory {name}: {module} has no {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{what} factory {name} is a {type(found).__name__}; expected something to call")
    return found


# --- from parts to a study --------------------------------------------------------------------------------------------


def _traced(file: StudyFile, model: nn.Module, task: Task) -> Space:
    return Space.trace(
        model,
        example_inputs(model, task),
        resolutions=file.space.resolutions,
        divisor=file.space.divisor,
        ignore=file.space.ignore,
        plain_blocks=file.space.plain_blocks,
        as_graph=file.space.as_graph,
    )


def example_inputs(model: nn.Module, task: Task) -> tuple[Tensor, ...] | dict[str, Tensor]:
    """One example of what `task` feeds to `model`: a tuple where it goes by position, a dict where it goes by name.

    Raises:
        ValueError: the model and the data do not fit together.
    """
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))

    probe = copy.deepcopy(model).eval()
    probe.register_forward_pre_hook(keep, with_kwargs=True)
    batch = next(iter(task.loader("train", None, None)))
    try:
        with torch.no_grad():
            task.forward(probe, batch)
    except RuntimeError as error:
        raise ValueError(f"the model does not take the data: {str(error).strip().splitlines()[0]}") from error
    args, kwargs = seen[0]
    if args and kwargs:
        raise ValueError("the task calls the model with inputs by position and by name; give all of them one way")
    return {name: value[:1].clone() for name, value in kwargs.items()} or tuple(value[:1].clone() for value in args)


def _create(file: StudyFile, out: Path, progress: Listener | None) -> Study:
    """A new study in `out`, its base network trained where the file says so; goes on where it was killed."""
    model, task = make_model(file), make_task(file)
    space = _traced(file, model, task)
    space.check_limits(_arithmetic_limits(file.budget, space))  # before minutes of training
    part = _part(out)
    try:
        part.mkdir(parents=True, exist_ok=True)
        write_atomic(part / STUDY_TOML, file.to_toml())
    except OSError as error:
        raise OSError(error.errno, f"{out} can't be made ({error.strerror}); choose a folder that can") from error
    with locked(part):
        if file.model.train:
            _train_base(file, model, task, space, part, progress)
            space = _traced(file, model, task)  # the default scores are norms of the trained weights
        study = Study.create(out, model=model, task=task, space=space, budget=file.budget, **_settings(file))
        os.replace(part / STUDY_TOML, out / STUDY_TOML)
    shutil.rmtree(part)
    return study


def _settings(file: StudyFile) -> dict[str, Any]:
    settings = {name: getattr(file.study, name) for name in type(file.study).model_fields if name != "trials"}
    return settings | {"sampler": _sampler(file), "training": file.training}


def _opened(file: StudyFile, folder: Path) -> Study:
    sampler = _sampler(file)
    return Study.open(
        folder,
        model=lambda: make_model(file.model_copy(update={"model": file.model.model_copy(update={"checkpoint": None})})),
        task=make_task(file),
        budget=file.budget,
        sampler=None if isinstance(sampler, str) else sampler,
    )


def _train_base(
    file: StudyFile, model: nn.Module, task: Task, space: Space, part: Path, progress: Listener | None
) -> None:
    training, side = file.training, space.side(space.full) or None
    started = [time.perf_counter(), 0]

    def say(loop: Loop) -> None:
        each = (time.perf_counter() - started[0]) / (loop.epoch - began)
        left = loop.epochs - loop.epoch
        if progress is not None:
            event = {"done": loop.epoch, "total": loop.epochs, "left": left, "eta": each * left}
            progress({"event": "base", **event, "loss": loop.losses[-1]})

    keeper = Keeper(part / "base.pt", say)
    state = keeper.kept()
    began = 0 if state is None else state["epoch"]
    device = torch.device(file.study.device)
    with reproducible(file.study.threads or torch.get_num_threads(), device):
        train(
            model,
            task,
            training.from_scratch(),
            epochs=training.base_epochs,
            resolution=side,
            seed=file.study.seed,
            device=device,
            callbacks=(keeper,),
            state=state,
        )
        error = measure_error(model, task, split="validation", resolution=side, device=device)
    logger.info("base network trained: validation error %.2f%% +- %.2f", 100 * error.compute(), 100 * error.std())
    model.cpu().eval()


def _arithmetic_limits(budget: Budget, space: Space) -> dict[str, float]:
    full = {name: float(column[0]) for name, column in space.cost_table([space.full]).items()}
    return {name: limit for name, limit in budget.limits(full | {"latency_ms": 1.0}).items() if name in full}


def _file_of(folder: Path) -> StudyFile:
    if not (folder / STUDY_JSON).exists():
        if _part(folder).is_dir():
            raise FileNotFoundError(
                f"{folder} is not made yet: its network is still to be trained; go on with `secateur resume {folder}`"
            )
        raise FileNotFoundError(f"{folder} holds no study; make one with `secateur search STUDY.toml --out {folder}`")
    toml = folder / STUDY_TOML
    if not toml.is_file() and (_part(folder) / STUDY_TOML).is_file():  # killed just after the study appeared
        os.replace(_part(folder) / STUDY_TOML, toml)
        shutil.rmtree(_part(folder))
    if not toml.is_file():
        raise FileNotFoundError(f"{folder} has no {STUDY_TOML}: it was made in Python; open it there with Study.open")
    return read(toml)


def _part(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")
