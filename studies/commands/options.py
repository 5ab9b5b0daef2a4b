"""Arguments and options that several commands have; those of a runner are made from the settings that runners have."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_types import Ge

from ...spaces.checked import first_sentence, near, texts_of
from ..settings.runner import KINDS

if TYPE_CHECKING:
    from ...spaces import Budget

StudyFile = Annotated[str, typer.Argument(metavar="STUDY.toml", help="A study file, or the name of a shipped one.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")]
_BUDGET = (
    "A limit on macs, params, peak_bytes or latency_ms: macs=0.5 and macs=50% are shares of the full network, "
    "params=30000 is a number. May be repeated; replaces the study file's."
)
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="NAME=LIMIT", help=_BUDGET),
]
Trials = Annotated[int | None, typer.Option("--trials", metavar="N", help="Trials in all, earlier runs included.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="S", help="Of everything that is random.")]
LastEpochs = Annotated[int | None, typer.Option("--finetune-epochs", metavar="N", help="Epochs of the last training.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages, only warnings and errors.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Show trials in tensorboard, mlflow or wandb too; may be repeated. none ends it.",
    ),
]
KeepGb = Annotated[
    float | None,
    typer.Option("--keep-gb", metavar="GB", help="What weights and rankings of trials may take in its folder."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="TABLE.NAME=VALUE", help="Any key of the study file, as training.lr=0.01. Repeat it."
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Where networks are trained: auto, cpu, cuda:1.")
]
Base = Annotated[
    Path | None,
    typer.Option("--base", metavar="FOLDER", help="Where the study's code and data have moved to."),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to standard output.")]

Connect = Annotated[
    bool, typer.Option("--connect", help="Connect to the database server that the folder names; otherwise none is.")
]

_GOING_ON: dict[str, Any] = {"device": Device, "keep_gb": KeepGb, "track": Track}
_COMMAS = "Numbers with commas between, one a channel, as the network was trained."
_NUMBERS: dict[str, Any] = {
    "side": Annotated[int | None, typer.Option("--side", metavar="N", help="Images of a folder are made so large.")],
    "mean": Annotated[str | None, typer.Option("--mean", metavar="NUMBERS", help=_COMMAS)],
    "std": Annotated[str | None, typer.Option("--std", metavar="NUMBERS", help=_COMMAS)],
}
_VERBATIM = "\b\n"  # before lines that are not to be wrapped
_RUNNER = {  # settings of runners that are options: the option, and what its value is called
    "workers": ("--workers", "N"),
    "gpus_per_trial": ("--gpus-per-trial", "SHARE"),
    "address": ("--address", "URL"),
    "timeout_s": ("--timeout", "SECONDS"),
    "retries": ("--retries", "N"),
    "asynchronous": ("--async/--batches", None),
    "scheduler": ("--scheduler", "NAME"),
}

TRAINING: dict[str, Any] = {
    "epochs": Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Epochs of a method that prunes while it trains.")
    ],
    "finetune_epochs": LastEpochs,
}
"""Options of `prune` where networks are trained."""
ENDS: dict[str, Any] = {
    "trials": Trials,
    "seconds": Annotated[
        float | None, typer.Option("--seconds", metavar="S", min=0, help="End after so many, all runs together.")
    ],
    "until": Annotated[
        float | None, typer.Option("--until", metavar="ERROR", help="End at an error within the budget, as 0.03.")
    ],
    "patience": Annotated[
        int | None, typer.Option("--patience", metavar="N", min=0, help="End when so many in a row gained nothing.")
    ],
}
"""Options of what ends a search; 0 takes back what an earlier run was told."""
PICTURES: dict[str, Any] = {
    "images": Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="FOLDER", help="Pictures without labels: nothing is trained, layers are solved again."
        ),
    ],
    "side": Annotated[
        int | None, typer.Option("--side", metavar="N", min=1, help="Resize and crop the pictures to this side.")
    ],
    "resolution": Annotated[
        int | None,
        typer.Option("--resolution", metavar="N", min=1, help="The smaller network takes pictures of this side."),
    ],
    "most": Annotated[
        int | None,
        typer.Option("--most", metavar="N", min=2, help="Pictures that are used, where there are more (1024)."),
    ],
    "depth": Annotated[
        float | None, typer.Option("--depth", metavar="SHARE", help="Of the blocks that may go, so many stay (1.0).")
    ],
    "distill": Annotated[
        int | None,
        typer.Option("--distill", metavar="N", min=0, help="Steps on the full network's answers, afterwards."),
    ],
    "trust": Annotated[
        bool | None, typer.Option("--trust-images", help="Go on where the pictures seem unlike those of the training.")
    ],
}
"""Options of `prune` where none is, with `--images`."""


def examples(*lines: str) -> str:
    """The lines below a command's help."""
    return "\n".join([f"{_VERBATIM}Examples:", *(f"  {line}" for line in lines)])


def on_a_runner(command: Callable[..., None]) -> Callable[..., None]:
    """The command with options for its arguments `runner` and `changes`, dicts of those given."""
    return _bundled(_bundled(command, "runner", _runner_options()), "changes", _plain_options(ENDS | _GOING_ON))


def with_a_way(command: Callable[..., None]) -> Callable[..., None]:
    """The command with options on training and pictures in the place of its argument `way`, a dict of those given."""
    return _bundled(command, "way", _plain_options(TRAINING | PICTURES))


def with_numbers(command: Callable[..., None]) -> Callable[..., None]:
    """The command with how images are prepared in the place of its argument `numbers`, a dict of those given."""
    return _bundled(command, "numbers", _plain_options(_NUMBERS))


def _plain_options(options: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    return {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=option, default=None)
        for name, option in options.items()
    }


def _bundled(
    command: Callable[..., None], argument: str, options: Mapping[str, inspect.Parameter]
) -> Callable[..., None]:
    """The command with options in the place of one argument, a dict of those that are given.

    Typer (0.29) reads options from a signature, so this makes one.
    """

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        found = {name: value for name in options if (value := given.pop(name)) is not None}
        command(**given, **{argument: found})

    parameters: list[inspect.Parameter] = []
    for one in inspect.signature(command, eval_str=True).parameters.values():
        parameters += options.values() if one.name == argument else [one.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapped


def budget_of(texts: list[str] | None) -> Budget | None:
    """The budget that `["macs=0.5", "params=30000"]` says; None of nothing."""
    from ...spaces import Budget

    return Budget.parse(texts) if texts else None


def keys_of(texts: list[str] | None) -> list[str]:
    """Those of `--set` that are keys of the study file, `TABLE.NAME=VALUE`; the others are settings of a method."""
    return [text for text in texts or [] if "." in text.partition("=")[0]]


def settings_of(texts: list[str] | None) -> dict[str, Any]:
    """What `["strength=15", "normalise=none"]` says: numbers and JSON are read, anything else is text.

    Raises:
        ValueError: a text is no NAME=VALUE, or a name is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if "." in name:
            continue
        if not equals or not name or name in found:
            raise ValueError(f"--set {text!r}: expected NAME=VALUE, every name once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _runner_options() -> dict[str, inspect.Parameter]:
    """An option for a runner's kind and for every setting in `_RUNNER`; its type and text are those of the field."""
    hints: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for kind in KINDS.values():
        hints |= typing.get_type_hints(kind, include_extras=True)
        texts |= {name: first_sentence(text) for name, text in texts_of(kind).items()}
    options: dict[str, Any] = {
        "kind": Annotated[
            str | None, typer.Option("--runner", metavar="KIND", callback=_known_kind, help=texts.get("kind"))
        ]
    }
    for name, (flag, metavar) in _RUNNER.items():
        value, least = _value(hints[name])
        options[name] = Annotated[value | None, typer.Option(flag, metavar=metavar, min=least, help=texts.get(name))]
    return _plain_options(options)


def _value(hint: Any) -> tuple[Any, int | None]:
    """What the annotation of a field says: the type of its value, and the least whole number that it may be.

    Whatever else it may not be, the runner refuses.
    """
    members = typing.get_args(hint)
    given = members[0] if type(None) in members else hint
    value, *bounds = typing.get_args(given) or [given]
    least: Any = next((one.ge for one in bounds if isinstance(one, Ge)), None) if value is int else None
    return (str if value is Any else value), least


def _known_kind(kind: str | None) -> str | None:
    if kind is not None and kind not in KINDS:
        said = f"{kind!r} is none of {', '.join(KINDS)}{near(kind, tuple(KINDS))}"
        raise typer.BadParameter(said, param_hint="--runner")
    return kind
