"""A study's parts, made new or found again in a folder: what `Study.create` and `Study.open` do; see there."""

from __future__ import annotations

import logging
import math
import platform
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from ... import __version__
from ...evaluators import ImageTask, Latency, Task, Training, check_task
from ...search import SamplerFactory, sampler_factory
from ...spaces import Budget, Cost, Space, build, copied
from ..disk.artifact_mirror import ArtifactMirror
from ..disk.files import new_folder, to_json, write
from ..disk.weights import ModelSource, digest, read_tensors, state_of, with_kept_weights, write_tensors
from ..exports.conversion import rehearse
from ..settings.search import (
    AUTO,
    EVALUATORS,
    LADDER,
    UNTRAINED,
    Search,
    evaluator_name,
    fingerprint,
    ranking_name,
    settings_from_json,
    settings_to_json,
)
from ..trials.folder import (
    BASE,
    DATABASE,
    FORMAT,
    SCORES,
    STUDY_JSON,
    VERSION,
    check_same,
    described_storage,
    read_study_json,
    storage_url,
)
from ..trials.ledger import Ledger, Retry, make_ledger
from ..trials.storage import connect, disconnect, make_sqlite, sqlite_url
from ..trials.urls import is_server, without_password
from .engine import Engine
from .given import check_costs, floor, judged, own_costs

_code = logging.getLogger("secateur.code")  # silent with --trust


@dataclass(frozen=True)
class Parts:
    """What a study is made of: what it searches with, its budget, and where its artifacts are kept besides."""

    engine: Engine
    budget: Budget
    mirror: ArtifactMirror | None


class Again(TypedDict, total=False):
    """What `Study.open` takes beside its parts."""

    costs: Sequence[Cost]


class Further(TypedDict, total=False):
    """What `Study.create` takes beside its parts."""

    expect_error: float | str | None


def made(
    path: Path,
    *,
    model: nn.Module,
    task: Task,
    space: Space,
    budget: Budget,
    search: Search | None,
    training: Training | None,
    latency: Latency | None,
    storage: str | None,
    artifacts: str | None,
    **further: Unpack[Further],
) -> Parts:
    """The parts of a new study, whose folder appears whole or not at all; the arguments are `Study.create`'s."""
    expected = _expected(further)
    _check_arguments(model, task, space, budget, search, training, latency)
    budget.check([cost.name for cost in search.costs] if search else ())
    search, training, latency = (search or Search()).resolved(budget), training or Training(), latency or Latency()
    limits = budget.limits(space)
    space.check_limits(limits)
    if search.prior is not None:
        from .prior import with_prior  # few studies have one

        search = with_prior(search, search.prior, space, limits)
    for candidate in search.candidates:
        space.check_within(candidate, limits)
    mirror = None if artifacts is None else ArtifactMirror(path, artifacts)
    model, base = copied(model), state_of(model)
    build(model, space, space.smallest, search.scores)  # refuses a space or scores that are not of this model
    if not space.as_graph:  # a graph is a program already
        rehearse(model, space.inputs(model, space.full, batch=2))
    judgement = judged(model, task, space, search, expected)
    search = replace(search, max_error=floor(judgement, task, search))
    own = own_costs(model, space, search, path)
    kept = fingerprint(base, space, task, search, training, latency)
    described = {
        "format": FORMAT,
        "format_version": VERSION,
        "name": f"secateur-{uuid.uuid4().hex[:12]}",
        "storage": None if storage is None else without_password(storage),
        "artifacts": artifacts,
        "scores": None if search.scores is None else digest(search.scores),
        "settings": settings_to_json(search, training, latency),
        "space": space.settings,
        "axes": [[axis.name, list(axis.choices)] for axis in space.axes],
        "full_costs": space.full_costs | own,
        "full": asdict(judgement),
        "preprocessing": dict(task.preprocessing),
        "fingerprint": kept,
        "versions": {"secateur": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    with new_folder(path) as making:
        _write_study(making, described, base, search, budget, storage)
    ledger = _ledger(path, described, space, search, storage)
    return Parts(_engine(path, model, task, space, (search, training, latency), kept, ledger), budget, mirror)


def found(
    path: Path,
    *,
    model: ModelSource,
    task: Task,
    budget: Budget | None,
    sampler: SamplerFactory | None,
    evaluator: Callable[..., Any] | None,
    training: Training | None,
    costs: Sequence[Cost] = (),
    storage: str | None,
    device: str | None,
) -> Parts:
    """The parts of the study in a folder; the arguments are `Study.open`'s."""
    said = read_study_json(path)
    kept = said["fingerprint"]
    if device not in (None, AUTO):  # auto was settled at the start
        said["settings"] |= {"device": device}
    if evaluator is not None or kept["evaluator"] not in EVALUATORS:
        check_same(kept, {"evaluator": evaluator_name(evaluator or LADDER)}, path)
    check_task(task)
    task = _as_kept(task, kept["task"])
    check_same(kept, {"task": task.fingerprint}, path)
    check_same(kept, {"sampler": sampler_factory(sampler or kept["sampler"])[0]}, path)
    check_costs(kept.get("costs", {}), costs, path)
    base = read_tensors(path / BASE, kept["weights"])
    search, training, latency = settings_from_json(
        said["settings"],
        training,
        sampler=sampler or kept["sampler"],
        evaluator=evaluator or kept["evaluator"],
        costs=costs,
        scores=None if said["scores"] is None else read_tensors(path / SCORES, said["scores"]),
    )
    check_same(kept, {"device": search.torch_device.type}, path)
    model = with_kept_weights(model, base)
    space = Space.from_settings(model, said["space"])
    check_same(kept, {"space": space.fingerprint, "ranking": ranking_name(space, search.scores)}, path)
    if said["storage"] is not None and storage is None and is_server(said["storage"]):
        _code.info("connects to %s, which study.json in %s names", said["storage"], path)
    ledger = _ledger(path, said, space, search, storage)
    budget = Budget(**ledger.notes["budget"]) if budget is None else budget
    budget.check([cost.name for cost in search.costs])
    space.check_limits(budget.limits(space))
    mirror = None if said.get("artifacts") is None else ArtifactMirror(path, said["artifacts"])
    return Parts(_engine(path, model, task, space, (search, training, latency), kept, ledger), budget, mirror)


def _as_kept(task: Task, fingerprint: str) -> Task:
    """The task, normalised by measured mean and std where an earlier version of the package did so unasked."""
    if not isinstance(task, ImageTask) or task.fingerprint == fingerprint:
        return task
    measured = task.measured()
    return measured if measured.fingerprint == fingerprint else task


def _expected(further: Mapping[str, object]) -> float | str | None:
    """What is expected of the full network; other arguments are refused, those that `Search` has with the new call."""
    moved = [name for name in further if name != "expect_error"]
    strange = sorted(set(moved) - {one.name for one in fields(Search)})
    if strange:
        raise TypeError(f"Study.create does not take {', '.join(strange)}")
    if moved:
        new = ", ".join(f"{name}=..." for name in moved)
        raise TypeError(f"{', '.join(moved)}: expected within `search`, as Study.create(..., search=sc.Search({new}))")
    given = further.get("expect_error")
    if given is None or given == UNTRAINED:
        return None if given is None else UNTRAINED
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        raise ValueError(f"expect_error is {given!r}; expected an error to be held against, or {UNTRAINED!r}")
    return float(given)


def _ledger(path: Path, found: Mapping[str, Any], space: Space, search: Search, given: str | None) -> Ledger:
    retry = Retry(described_storage(path, found["storage"]))
    storage = connect(storage_url(path, found, given), path)
    return Ledger(storage, found["name"], space.axes, search.objectives, retry=retry)


def _engine(
    path: Path,
    model: nn.Module,
    task: Task,
    space: Space,
    settings: tuple[Search, Training, Latency],
    kept: Mapping[str, Any],
    ledger: Ledger,
) -> Engine:
    search, training, latency = settings
    return Engine(
        path=path,
        model=model if search.torch_dtype is None else model.to(search.torch_dtype),
        task=task,
        space=space,
        search=search,
        training=training,
        latency=latency,
        fingerprint=dict(kept),
        ledger=ledger,
    )


def _write_study(
    folder: Path,
    described: Mapping[str, Any],
    base: Mapping[str, Tensor],
    search: Search,
    budget: Budget,
    storage: str | None,
) -> None:
    """All files of a new study, and its trials, of which there are none."""
    write_tensors(folder / BASE, base)
    if search.scores is not None:
        write_tensors(folder / SCORES, search.scores)
    if storage is None:
        make_sqlite(folder / DATABASE)
    opened = connect(sqlite_url(folder / DATABASE) if storage is None else storage, folder)
    make_ledger(opened, described["name"], search.objectives, budget.given())
    disconnect(opened)
    write(folder / STUDY_JSON, to_json(described))


def _check_arguments(
    model: object,
    task: object,
    space: object,
    budget: object,
    search: object,
    training: object,
    latency: object,
) -> None:
    for name, value, kind in (
        ("model", model, nn.Module),
        ("space", space, Space),
        ("budget", budget, Budget),
        ("search", search or Search(), Search),
        ("training", training or Training(), Training),
        ("latency", latency or Latency(), Latency),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} is a {type(value).__name__}; expected a {kind.__name__}")
    check_task(task)
