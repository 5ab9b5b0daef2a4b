"""The study file: TOML, one table a room, every key an argument of the same name in Python.

    [model]       factory, arguments, checkpoint, train, expect_error
    [images]      side, mode, mean, std: pictures without labels (`Images`), of `secateur prune --images`
    [data]        a reader and its settings (`Data`), or a factory of your own and its arguments
    [space]       resolutions, divisor, ignore, rules, plain_blocks, as_graph, prove (`Space.trace`)
    [costs]       costs of your own, a table each: measure, arguments, of (`sc.Cost`)
    [budget]      macs, params, peak_bytes, latency_ms, reserve, and costs of your own (`Budget`)
    [training]    how networks are trained (`Training`)
    [latency]     batch, threads, dtype, channels_last, cuda_graph: how networks are timed (`Latency`)
    [study]       sampler, seed, ... (`Search`), trials, storage, ... (`Launch`)
    [runner]      kind, workers, gpus_per_trial, ...: where trials run (`KINDS`); or the kind alone

Tables that Python knows as dataclasses are those dataclasses: nothing is written down twice. Start at `read`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict, Unpack

import tomli_w
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Tag,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    model_validator,
)

from ...evaluators import Latency, Training
from ...spaces import Budget
from ...spaces.checked import AT_LEAST_1, FINITE, POSITIVE, check, near
from ...spaces.costs.own import check_name
from ...spaces.tracing.parts import checked_rules
from ..settings.runner import Processes, Ray, Runner, Serial, Tune, check_kind, runner_of
from ..settings.search import Search
from ..settings.trackers import check_trackers
from ..trials.urls import without_password
from .data import Data
from .pictures import Images
from .saying import sentence
from .tables import FROM_HERE, base_of, tables_of


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, ser_json_inf_nan="constants")


def _is_place(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", name):
        raise ValueError("expected 'package.module:name', the place of a factory")
    return name


Name = Annotated[str, AfterValidator(_is_place)]

_READY = "onnxruntime_ms file_bytes costs.table costs.measured_peak"
READY = {place.rpartition(".")[2]: place for place in _READY.split()}
"""Costs that are ready: where the package has what makes each."""


def _is_measure(name: str) -> str:
    if name not in READY and ":" not in name:
        known = f"one of {', '.join(READY)}, or 'package.module:name'"
        raise ValueError(f"expected {known}, the place of a function{near(name, tuple(READY))}")
    return name if name in READY else _is_place(name)


class Model(_Table):
    """Where the full network comes from.

    Attributes:
        factory: `package.module:name` of what gives the network when it is called.
        arguments: what it is called with.
        checkpoint: a plain state dict to start from.
        train: whether the study trains the network first, for `base_epochs` of the training table.
        expect_error: the validation error that the network is known by, which the measured one must be near; or
            "untrained", where nothing is expected of it.
    """

    factory: Name
    arguments: dict[str, Any] = {}
    checkpoint: Path | None = None
    train: bool = False
    expect_error: float | Literal["untrained"] | None = None


class OwnData(_Table):
    """A task of the user's own.

    Attributes:
        factory: `package.module:name` of what gives a `Task` when it is called.
        arguments: what it is called with.
    """

    factory: Name
    arguments: dict[str, Any] = {}


class OwnCost(_Table):
    """A cost of the user's own; its name in `[costs]` is what budget and objectives call it. See `secateur.Cost`.

    Attributes:
        measure: "onnxruntime_ms", "file_bytes", "table" or "measured_peak", which are ready; or a function of yours,
            `package.module:name`.
        arguments: what a ready one is called with; a function of yours that has them is called with them first, and
            gives the one that measures.
        of: "network" of what is built and measured, "candidate" of arithmetic.
    """

    measure: Annotated[str, AfterValidator(_is_measure)]
    arguments: dict[str, Any] = {}
    of: Literal["network", "candidate"] = "network"


class Axes(_Table):
    """What is searched; see `Space.trace`.

    Attributes:
        resolutions: input sides, numbers or lists of one number an axis.
        divisor: widths are multiples of it.
        ignore: modules to leave whole: names, patterns of them, or names of classes.
        rules: `{name, pattern or class: rule}`: `"ignore"`, or a table of `least`, `divisor`, `depth` and
            `attention`.
        plain_blocks: names of blocks that may be dropped though no identity path leads around them.
        as_graph: let channel numbers that the forward writes as constants follow.
        prove: whether a few candidates are built and held against the full network.
        block_order: of blocks that may be dropped: "last-first", or "measured" on training images without labels.
    """

    resolutions: tuple[int | tuple[int, ...], ...] = ()
    divisor: int = 8
    ignore: tuple[str, ...] = ()
    rules: Annotated[dict[str, Any], AfterValidator(checked_rules)] = {}
    plain_blocks: tuple[str, ...] = ()
    as_graph: bool = False
    prove: bool = True
    block_order: Literal["last-first", "measured"] = "last-first"


class Ends(TypedDict, total=False):
    """What may end a search; see `Launch`."""

    trials: int | None
    seconds: float | None
    until: float | None
    patience: int | None


@dataclass(frozen=True, kw_only=True)
class Launch(Search):
    """The table `[study]`: how it is searched, and what only a run of the file needs.

    Attributes:
        trials: how many in all, at most.
        seconds: how long all runs take together; see `Study.run`.
        until: the error at which it ends.
        patience: trials in a row that may bring the front no further.
        storage: URL of where the trials are kept, without its password; None keeps them in the study's folder.
        artifacts: where weights and rankings are copied to, any fsspec path; None keeps them in the folder alone.
        keep_gb: how much of the folder weights and rankings may take; None: all they need.
        track: where trials are shown too: "tensorboard", "mlflow", "wandb", or one that a package brings.
    """

    trials: Annotated[int, AT_LEAST_1] = 50
    seconds: Annotated[float, POSITIVE, FINITE] | None = None
    until: Annotated[float, FINITE] | None = None
    patience: Annotated[int, AT_LEAST_1] | None = None
    storage: str | None = None
    artifacts: str | None = None
    keep_gb: Annotated[float, POSITIVE, FINITE] | None = None
    track: Annotated[tuple[str, ...], AfterValidator(check_trackers)] = ()

    def __post_init__(self) -> None:
        """Refuse what no study could follow; costs of the user's own are in another table."""
        check(self)


def _an_own_cost(value: Any) -> Any:
    return {"measure": value} if isinstance(value, str) else value


def _with_own_limits(value: Any, handler: Any, info: ValidationInfo) -> Any:
    """The budget with limits on costs of the file's own table."""
    if "costs" not in info.data:
        return Budget()  # what is wrong with the costs is said alone
    own = info.data["costs"]
    if not isinstance(value, Mapping) or not own:
        return handler(value)
    ours = handler({name: limit for name, limit in value.items() if name not in own})
    return Budget(**ours.given(), **{name: limit for name, limit in value.items() if name in own})


def _named(value: Any) -> Any:
    return {"factory": value} if isinstance(value, str) else value


def _kinded(value: Any) -> Any:
    """The table of a runner, which may be just its kind."""
    table = {"kind": value} if isinstance(value, str) else value
    if isinstance(table, Mapping):
        # Files of 0.1 have the resources of Ray, none, for every kind.
        table = {name: one for name, one in table.items() if name != "resources" or one}
        check_kind(_runner_kind(table), {name: one for name, one in table.items() if name != "kind"})
    return table


def _runner_kind(value: Any) -> str:
    return (
        value.kind
        if isinstance(value, Runner)
        else str(value.get("kind", "serial"))
        if isinstance(value, Mapping)
        else "serial"
    )


def _without_kind(value: Any) -> Any:
    return {name: one for name, one in value.items() if name != "kind"} if isinstance(value, Mapping) else value


_NoKind = BeforeValidator(_without_kind)
AnyRunner = Annotated[
    Annotated[Serial, _NoKind, Tag("serial")]
    | Annotated[Processes, _NoKind, Tag("processes")]
    | Annotated[Ray, _NoKind, Tag("ray")]
    | Annotated[Tune, _NoKind, Tag("tune")],
    Discriminator(_runner_kind),
    BeforeValidator(_kinded),
]


def _kind(value: Any) -> str:
    own = isinstance(value, OwnData) or (isinstance(value, Mapping) and "factory" in value)
    return "own" if own else "ready"


class StudyFile(_Table):
    """A study file, checked. `model` and `data` may be just the name of a factory, `runner` just its kind.

    Attributes:
        folder: where relative paths and the user's own modules are looked for; None: beside the file.
        model: the full network.
        data: the task; None: there is none, and nothing that needs one can be done.
        images: pictures without labels, for `secateur prune --images`.
        space: what is searched.
        costs: of the user's own, by name.
        budget: what a pruned network may cost.
        training: how networks are trained.
        latency: how networks are timed.
        study: how it is searched.
        runner: where trials run.
    """

    folder: Path
    model: Annotated[Model, BeforeValidator(_named)]
    data: (
        Annotated[
            Annotated[OwnData, Tag("own")] | Annotated[Data, Tag("ready")],
            Discriminator(_kind),
            BeforeValidator(_named),
        ]
        | None
    ) = None
    images: Images | None = None
    space: Axes = Axes()
    costs: dict[str, Annotated[OwnCost, BeforeValidator(_an_own_cost)]] = {}
    budget: Annotated[Budget, WrapValidator(_with_own_limits)] = Budget()
    training: Training = Training()
    latency: Latency = Latency()
    study: Launch = Launch()
    runner: AnyRunner = Serial()

    @model_validator(mode="after")
    def _names_its_costs(self) -> Self:
        """Hold the names of costs, and the objectives, against one another."""
        for name in self.costs:
            check_name(name)
        self.study.check_objectives(list(self.costs))
        return self

    def path(self, path: str | Path) -> Path:
        """A path of the file; a relative one starts from its folder."""
        return self.folder / Path(path).expanduser()

    def changed(
        self,
        *,
        budget: Budget | None = None,
        seed: int | None = None,
        pruning_epochs: int | None = None,
        keep_gb: float | None = None,
        track: Sequence[str] | None = None,
        runner: Mapping[str, Any] | None = None,
        device: str | None = None,
        **ends: Unpack[Ends],
    ) -> StudyFile:
        """This file with another budget (whole), number of trials, seed, ..., where given.

        `track` is whole too, and `("none",)` is no tracker. Settings of the runner are changed one by one; another kind
        begins with the defaults. Of what ends a search, 0 takes back all but `trials`.
        """
        asked: dict[str, Any] = {"seed": seed, "keep_gb": keep_gb, "device": device, **ends}
        given = {name: value for name, value in asked.items() if value is not None}
        given |= {name: None for name in ("seconds", "until", "patience") if given.get(name) == 0}
        if track is not None:
            given["track"] = () if tuple(track) == ("none",) else tuple(track)
        changes: dict[str, Any] = {"study": dataclasses.replace(self.study, **given)}
        if budget is not None:
            budget.check(self.costs)
            changes["budget"] = budget
        if pruning_epochs is not None:
            changes["training"] = dataclasses.replace(self.training, pruning_epochs=pruning_epochs)
        if runner:
            kind = runner.get("kind", self.runner.kind)
            kept = {one.name: getattr(self.runner, one.name) for one in dataclasses.fields(self.runner)}
            given = {name: value for name, value in runner.items() if name != "kind"}
            changes["runner"] = runner_of(kind, **(kept if kind == self.runner.kind else {}) | given)
        return self.model_copy(update=changes)

    def without_weights(self) -> StudyFile:
        """This file with a network that is neither trained nor loaded."""
        return self.model_copy(update={"model": self.model.model_copy(update={"checkpoint": None, "train": False})})

    def to_toml(self, place: Path | None = None) -> str:
        """The file as text, defaults and all: it means the same in a later version.

        A `place` is the folder that it is written to; where that lies within the file's own, the whole may be moved.
        """
        python = {"study": {"costs"}, "budget": {"own"}}  # how they are written there
        tables = self.model_dump(mode="json", exclude_none=True, exclude=python)
        tables["budget"] |= dict(self.budget.own)
        if place is not None and place.absolute().is_relative_to(self.folder):
            tables[FROM_HERE] = os.path.relpath(self.folder, place.absolute())
        tables["runner"] = {"kind": self.runner.kind} | tables["runner"]
        if "storage" in tables["study"]:
            tables["study"]["storage"] = without_password(tables["study"]["storage"])
        return tomli_w.dumps({name: value for name, value in tables.items() if value != {}})


def read(name: str | Path, changes: Sequence[str] = (), *, base: Path | None = None) -> StudyFile:
    """The study file at a path, or the shipped one of that name (`SHIPPED`).

    Args:
        name: the path or name.
        changes: `TABLE.NAME=VALUE` of single keys; see `tables.changed`.
        base: the folder that its relative paths begin at, in place of what it says.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: no TOML, an unknown or missing key, or a value that is none; the sentence names file, table and key.
    """
    path = _find(name)
    tables = tables_of(path, changes)
    tables["folder"] = str(base_of(tables, path, base))
    try:
        # As JSON, because then a strict check takes lists for tuples and texts for paths, and nothing else for another.
        return StudyFile.model_validate_json(json.dumps(tables, default=str))
    except (ValueError, TypeError) as error:
        said = sentence(error, StudyFile) if isinstance(error, ValidationError) else str(error)
        raise ValueError(f"{path}{' with --set' if changes else ''}: {said}") from None


def shipped() -> list[str]:
    """Names of the study files that come with the package."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.is_dir() and (path / "study.toml").is_file():
        return path / "study.toml"
    if path.is_file():
        return path
    if str(name) in shipped():
        return Path(__file__).with_name(f"{name}.toml")
    if (path / "study.json").is_file():
        raise FileNotFoundError(
            f"{path} was made in Python and has no study.toml, which says where its network and data come from; give a "
            "study file that does, or go on in Python with Study.open"
        )
    if path.is_dir():
        raise FileNotFoundError(f"{path} is a folder without a study.toml; give a study file, or the folder of a study")
    near = difflib.get_close_matches(str(name), shipped(), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped ones are {', '.join(shipped())}"
    raise FileNotFoundError(f"study file {name} does not exist; {hint}")
