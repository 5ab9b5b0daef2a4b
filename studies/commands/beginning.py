"""`secateur init`: a study file from flags, and from a few questions where someone is there to answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Budgets, Device, Set, Trials, budget_of, examples, with_numbers

beginning = typer.Typer(rich_markup_mode=None)

_FILE = Annotated[Path, typer.Argument(metavar="FILE.toml", help="The file to write; study.toml unless named.")]
_MODEL = Annotated[
    str | None, typer.Option("--model", metavar="MODULE:NAME", help="What makes the network, as in networks.py: net.")
]
_CHECKPOINT = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="FILE", help="Its trained weights, a plain state dict.")
]
_DATA = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="WHERE",
        help="A folder of images a class, or of images and masks; an .npz or .csv file; MODULE:NAME; or a reader.",
    ),
]


@beginning.command(
    short_help="Write a study file with comments.",
    epilog=examples(
        "secateur init",
        "secateur init --model nets:net --checkpoint weights.pt --data flowers",
    ),
)
@with_numbers
def init(
    file: _FILE = Path("study.toml"),
    model: _MODEL = None,
    checkpoint: _CHECKPOINT = None,
    data: _DATA = None,
    *,
    numbers: dict[str, Any],
    resolutions: Annotated[
        str | None, typer.Option(metavar="SIDES", help="Input sides to search, such as 64,48,32.")
    ] = None,
    budget: Budgets = None,
    trials: Trials = None,
    device: Device = None,
    settings: Set = None,
) -> None:
    """Write a study file with a comment on every key, from these options; at a terminal it asks for what is missing.

    Without a checkpoint the study trains the network first.
    """
    from ..study_files import initial

    asks = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    if asks and not (model and data):
        model = model or _asked("The network, as MODULE:NAME of what makes it")
        if checkpoint is None and (named := _asked("Its weights, a file (empty: the study trains it)", "")):
            checkpoint = Path(named)
        data = data or _asked("The data: a folder of images a class, an .npz file, or MODULE:NAME of a task")
        budget = budget or [_asked("The budget", "macs=0.5")]
    if model is None or data is None:
        missing = "--model" if model is None else "--data"
        raise ValueError(f"{missing} is not given; give it, or call `secateur init` at a terminal, where it asks")
    beside = file.absolute().parent
    network: dict[str, Any] = {"factory": model, "train": True}
    if checkpoint is not None:
        if not checkpoint.is_file():
            raise FileNotFoundError(f"--checkpoint {checkpoint} is no file; give the weights of the network")
        network = {"factory": model, "checkpoint": initial.relative(checkpoint, beside)}
    for name in ("mean", "std"):
        numbers[name] = _numbers(f"--{name}", numbers.get(name), float)
    asked = budget_of(budget)
    tables: dict[str, dict[str, Any]] = {
        "model": network,
        "data": initial.data_at(data, beside) | _given(numbers),
        "space": _given({"resolutions": _numbers("--resolutions", resolutions, int)}),
        "budget": {"macs": 0.5} if asked is None else dict(asked.given()),
        "study": _given({"trials": trials, "device": device}),
    }
    initial.write(file, tables, settings or ())
    print(file)
    said = f"secateur: look at it, then: secateur trace {file}, and secateur search {file} --out runs/a"
    print(said, file=sys.stderr)


def _asked(question: str, default: str | None = None) -> str:
    answer: str = typer.prompt(question, default=default, err=True, show_default=bool(default))
    return answer.strip()


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _numbers(option: str, text: str | None, kind: type[int] | type[float]) -> list[int] | list[float] | None:
    try:
        return None if text is None else [kind(one) for one in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected numbers with commas between, such as 1,2,3") from None
