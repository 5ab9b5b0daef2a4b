"""The command line: `secateur trace | search | resume | status | front | export | prune | dashboard`.

Nothing heavy is imported before a command runs; what the commands do is in `studies/launch.py`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__

app = typer.Typer(
    rich_markup_mode=None,  # rich costs 80 ms at import
    pretty_exceptions_enable=False,
    add_completion=False,
    help="The best smaller networks inside a trained CNN, over width, depth and resolution, under hard budgets.",
)

StudyFile = Annotated[str, typer.Argument(metavar="STUDY.toml", help="A study file, or the name of a shipped one.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", metavar="NAME=LIMIT", help="Such as macs=0.5 or latency_ms=3; replaces the study file's."),
]
Trials = Annotated[int | None, typer.Option("--trials", metavar="N", help="Trials in all, earlier runs included.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages, only warnings and errors.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]

RunnerKind = Annotated[
    str | None, typer.Option("--runner", metavar="KIND", help="Where trials run: serial, processes, ray or tune.")
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Trials that run at a time.")]
Gpus = Annotated[
    float | None, typer.Option("--gpus-per-trial", metavar="SHARE", help="Of one GPU, or a whole number of them.")
]
Address = Annotated[
    str | None, typer.Option("--address", metavar="URL", help="Of a running Ray cluster, such as ray://host:10001.")
]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up a trial after so long.")]
Async = Annotated[
    bool | None,
    typer.Option("--async/--batches", help="Propose whenever a slot is free: faster, and no two runs are the same."),
]

_EXPECTED = (ValueError, TypeError, OSError, ImportError, NotImplementedError, RuntimeError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. Bad input is one line and 2, an interrupt 130."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in arguments
    try:
        code = app(args=[one for one in arguments if one != "--debug"], prog_name="secateur", standalone_mode=False)
    except typer.TyperException as error:
        return _complain(error.format_message())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        return 1
    except typer.Abort:
        return 130
    except _EXPECTED as error:
        if debug:
            raise
        return _complain(str(error) or type(error).__name__)
    return code if isinstance(code, int) else 0


def _complain(said: str) -> int:
    print("secateur: error:", " ".join(said.split()), file=sys.stderr)
    return 2


def _version(asked: bool) -> None:
    if asked:
        print(f"secateur {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


@app.command()
def trace(study: StudyFile, budget: Budgets = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show what may be searched: groups, stages, resolutions, what is frozen and why, and what any budget can reach.

    The budget, of the file or of --budget, is held against it: whether any network meets each limit, and how many do.
    """
    with _messages(quiet):
        from .spaces.describe import describe, facts
        from .studies import config, launch

        file = config.read(study).changed(budget=_budget(budget))
        space = launch.trace(file)
    if as_json:
        _print_json(facts(space, file.budget))
    else:
        print(describe(space, file.budget))


@app.command()
def search(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the study.")],
    budget: Budgets = None,
    trials: Trials = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="Of everything random.")] = None,
    runner: RunnerKind = None,
    workers: Workers = None,
    gpus_per_trial: Gpus = None,
    address: Address = None,
    timeout: Timeout = None,
    asynchronous: Async = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Start a study in a new folder: train the network if the file says so, then search. Safe to kill at any time."""
    with _messages(quiet) as progress, _resumable(out):
        from .studies import config, launch

        where = _runner(runner, workers, gpus_per_trial, address, timeout, asynchronous)
        file = config.read(study).changed(budget=_budget(budget), trials=trials, seed=seed, runner=where)
        launch.search(file, out, progress=progress)
    _show(out, as_json)


@app.command()
def resume(
    folder: Folder,
    budget: Budgets = None,
    trials: Trials = None,
    runner: RunnerKind = None,
    workers: Workers = None,
    gpus_per_trial: Gpus = None,
    address: Address = None,
    timeout: Timeout = None,
    asynchronous: Async = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a study, to its number of trials or to another total, under its budget or another, here or there."""
    with _messages(quiet) as progress, _resumable(folder):
        from .studies import launch

        where = _runner(runner, workers, gpus_per_trial, address, timeout, asynchronous)
        launch.resume(folder, budget=_budget(budget), trials=trials, runner=where, progress=progress)
    _show(folder, as_json)


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """Show how far a study is, and the best network so far."""
    from .studies import report, view

    standing = view.View(folder).status()
    if as_json:
        _print_json(standing)
    else:
        print(report.standing_text(standing))


@app.command()
def front(folder: Folder, as_json: Json = False, csv: Annotated[bool, typer.Option("--csv")] = False) -> None:
    """Show the networks that no other one beats within the budget, cheapest first."""
    from .studies import view

    if as_json and csv:
        raise ValueError("--json and --csv are both given; keep one")
    if csv:
        print(view.View(folder).front().to_csv(index=False), end="")
    else:
        _show(folder, as_json)


@app.command()
def export(
    folder: Folder,
    to: Annotated[Path, typer.Option("--to", metavar="OUT", help="A new folder, with one folder a network.")],
    pick: Annotated[
        str, typer.Option(metavar="PICK", help="best, all, the number of a trial, or budgets such as macs=0.3.")
    ] = "best",
    finetune_epochs: Annotated[int | None, typer.Option(metavar="N", help="Epochs of the last training.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train picks of the front to the end and write them, each format reloaded and compared."""
    with _messages(quiet) as progress, _resumable(folder, "call it again; what is trained is kept"):
        from .studies import launch

        folders = launch.export(folder, to, pick=pick, finetune_epochs=finetune_epochs, progress=progress)
    if as_json:
        _print_json([json.loads((one / "config.json").read_text()) | {"folder": str(one)} for one in folders])
    else:
        print(*folders, sep="\n")


@app.command()
def prune(
    study: StudyFile,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="Such as ranp-f, epruner, resrep, l1.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the network.")],
    budget: Budgets = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method, such as normalise=none."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", help="Epochs of a method that prunes while it trains.")
    ] = None,
    finetune_epochs: Annotated[int | None, typer.Option(metavar="N", help="Epochs of the last training.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="Of everything random.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune with one method of the literature, fine-tune, and write the network.

    STUDY.toml may also be the folder of a study, whose trained network is then taken. Safe to kill: call it again.
    """
    with _messages(quiet) as progress, _resumable(out, "call it again; what is done is kept"):
        from .studies import prune as alone

        file, folder = alone.source(study)
        file = file.changed(budget=_budget(budget), seed=seed, pruning_epochs=epochs)
        made = alone.prune(
            file,
            method,
            out,
            settings=_settings(settings),
            study=folder,
            finetune_epochs=finetune_epochs,
            progress=progress,
        )
    config = json.loads((made / "config.json").read_text())
    if as_json:
        _print_json(config | {"folder": str(made)})
    else:
        from .studies import report

        print(report.pruned_text(config))
        print(made)


@app.command()
def dashboard(
    folder: Folder,
    port: Annotated[int, typer.Option(help="Where it listens.")] = 8080,
) -> None:
    """Open Optuna's dashboard on a study."""
    command = shutil.which("optuna-dashboard", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        raise ValueError("optuna-dashboard is not installed: pip install 'secateur[dashboard]'")
    from .studies import view

    storage = view.View(folder).storage
    print("the dashboard shows budgets as the user attribute 'constraints' (met where <= 0)", file=sys.stderr)
    os.execv(command, [command, storage, "--port", str(port)])


def _budget(texts: list[str] | None) -> Any:
    from .spaces import Budget

    return Budget.parse(texts) if texts else None


def _runner(
    kind: str | None,
    workers: int | None,
    gpus_per_trial: float | None,
    address: str | None,
    timeout_s: float | None,
    asynchronous: bool | None,
) -> dict[str, Any]:
    """The settings of a runner that were given."""
    given = {
        "kind": kind,
        "workers": workers,
        "gpus_per_trial": gpus_per_trial,
        "address": address,
        "timeout_s": timeout_s,
        "asynchronous": asynchronous,
    }
    return {name: value for name, value in given.items() if value is not None}


def _settings(texts: list[str] | None) -> dict[str, Any]:
    """What `["strength=15", "normalise=none"]` says: numbers and JSON are read, anything else is text."""
    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise ValueError(f"--set {text!r}: expected NAME=VALUE, every name once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _show(folder: Path, as_json: bool) -> None:
    from .studies import report, view

    seen = view.View(folder)
    if as_json:
        _print_json({"status": seen.status(), "front": report.frame_json(seen.front())})
    else:
        print(report.front_text(seen.front(), seen.full, seen.resolutions))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


@contextlib.contextmanager
def _resumable(folder: Path, mend: str | None = None) -> Iterator[None]:
    """Say how to go on after an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"secateur: stopped; {mend or f'go on with: secateur resume {folder}'}", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _messages(quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Send the package's log to the terminal, and what is yielded: a bar there, plain lines elsewhere."""
    handler = _Lines()
    logger = logging.getLogger("secateur")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    try:
        if quiet:
            yield lambda event: None
        elif not sys.stderr.isatty():
            from .studies import report

            yield lambda event: logger.info("%s", report.event_line(event))
        else:
            with _bar() as show:
                yield show
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Lines(logging.Handler):
    """Writes to whatever standard error is at the moment; a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: " * (record.levelno > logging.INFO) + self.format(record), file=sys.stderr)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar that is moved by events; finished networks and lines of the log scroll above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from .studies import report

    with Progress(BarColumn(8), TextColumn("{task.description}", markup=False), console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None)

        def show(event: dict[str, Any]) -> None:
            line = report.event_line(event)
            if event["event"] in ("finished", "export"):
                bar.console.print(line, markup=False, highlight=False)
            bar.update(task, description=line, completed=event.get("done"), total=event.get("total"))

        yield show


if __name__ == "__main__":
    sys.exit(main())
