"""The command line: `secateur trace | search | resume | status | front | export | prune | dashboard`.

Nothing heavy is imported before a command runs; what the commands do is in `studies/launch.py`.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__

if TYPE_CHECKING:
    from .studies.views.status import Status

_VERBATIM = "\b\n"  # before lines that are not to be wrapped


def _examples(*lines: str) -> str:
    return "\n".join([f"{_VERBATIM}Examples:", *(f"  {line}" for line in lines)])


app = typer.Typer(
    rich_markup_mode=None,  # rich costs 80 ms at import
    pretty_exceptions_enable=False,
    add_completion=False,
    help="The best smaller networks inside a trained CNN, over width, depth and resolution, under hard budgets.",
    epilog=_examples(
        "secateur trace mnist                   what may be searched",
        "secateur search mnist --out runs/a     train the network, then search",
        "secateur status runs/a                 how far it is",
        "secateur front runs/a                  what was found",
        "secateur export runs/a --to out/a      train it to the end, and write it",
    ),
)

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
Json = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to standard output.")]


def _known_kind(kind: str | None) -> str | None:
    if kind is not None:
        from .studies.settings.runner import KINDS

        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise typer.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}{hint}", param_hint="--runner")
    return kind


# The options of a runner, by the settings of `studies.Runner` that they are.
_RUNNER: dict[str, Any] = {
    "kind": Annotated[
        str | None,
        typer.Option(
            "--runner", metavar="KIND", callback=_known_kind, help="Where trials run: serial, processes, ray or tune."
        ),
    ],
    "workers": Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Trials that run at a time; as many as fit."),
    ],
    "gpus_per_trial": Annotated[
        float | None,
        typer.Option("--gpus-per-trial", metavar="SHARE", help="Such as 0.5 of a GPU, or a whole number of them."),
    ],
    "address": Annotated[
        str | None,
        typer.Option("--address", metavar="URL", help="Of a running Ray cluster: auto, or ray://HOST:10001."),
    ],
    "timeout_s": Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up a trial that takes longer, as failed.")
    ],
    "retries": Annotated[
        int | None,
        typer.Option("--retries", metavar="N", min=0, help="Try a trial again so often when its worker dies."),
    ],
    "asynchronous": Annotated[
        bool | None,
        typer.Option("--async/--batches", help="Propose whenever a slot is free: faster, but no two runs are alike."),
    ],
    "scheduler": Annotated[
        str | None,
        typer.Option("--scheduler", metavar="NAME", help="Of Ray Tune, which ends trials early: asha or median."),
    ],
}


def _on_a_runner(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of a runner: `_RUNNER` takes the place of its argument `runner`.

    It gets the settings that were given.
    """

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        runner = {name: value for name in _RUNNER if (value := given.pop(name)) is not None}
        command(**given, runner=runner)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters: list[inspect.Parameter] = []
    for one in inspect.signature(command, eval_str=True).parameters.values():
        options = _RUNNER if one.name == "runner" else {one.name: one.annotation}
        default = None if one.name == "runner" else one.default
        parameters += [
            inspect.Parameter(name, kind, annotation=option, default=default) for name, option in options.items()
        ]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads the options there
    return wrapped


_WATCH_S = "2"
_EXPECTED = (ValueError, TypeError, OSError, ImportError, NotImplementedError, RuntimeError)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. Bad input is one line and 2, an interrupt 130, what nobody foresaw 1."""
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in arguments
    given = _with_seconds([one for one in arguments if one != "--debug"])
    try:
        code = app(args=given, prog_name="secateur", standalone_mode=False)
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
        return _complain(_said(error))
    except Exception as error:
        if debug:
            raise
        _complain(f"{type(error).__name__}: {error}; this was not foreseen: --debug before the command shows where")
        return 1
    return code if isinstance(code, int) else 0


def _with_seconds(arguments: list[str]) -> list[str]:
    """The arguments with a number after `--watch` where there was none: typer (0.29) knows no optional values."""
    found = []
    for one, after in zip(arguments, [*arguments[1:], ""], strict=True):
        found += [one, _WATCH_S] if one == "--watch" and not after.replace(".", "", 1).isdecimal() else [one]
    return found


def _said(error: Exception) -> str:
    """What an error says, without the number of an operating system's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


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


@app.command(
    short_help="Show what may be searched, and what a budget can reach.",
    epilog=_examples(
        "secateur trace mnist",
        "secateur trace study.toml --budget macs=0.3 --budget params=50%",
        "secateur trace study.toml --json > space.json",
    ),
)
def trace(study: StudyFile, budget: Budgets = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show what may be searched: groups, stages, resolutions, what is frozen and why, and what any budget can reach.

    The budget, of the file or of --budget, is held against it: whether any network meets each limit, and how many do.
    """
    with _own_output(), _messages(quiet):
        from .spaces.describe import describe, facts
        from .studies import launch
        from .studies.study_files import file as config
        from .studies.views.terminal import Style, headed

        file = config.read(study).changed(budget=_budget(budget))
        space = launch.trace(file)
    if as_json:
        _print_json(facts(space, file.budget))
    else:
        _print(headed(describe(space, file.budget), Style.of(sys.stdout)))


@app.command(
    short_help="Start a study: train the network, then search.",
    epilog=_examples(
        "secateur search mnist --out runs/a",
        "secateur search study.toml --out runs/b --budget latency_ms=3 --trials 100",
        "secateur search study.toml --out runs/c --runner processes --workers 4",
    ),
)
@_on_a_runner
def search(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the study.")],
    budget: Budgets = None,
    trials: Trials = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="Of everything that is random.")] = None,
    *,
    runner: dict[str, Any],
    keep_gb: KeepGb = None,
    track: Track = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Start a study in a new folder: train the network if the file says so, then search. Safe to kill at any time."""
    with _own_output(), _messages(quiet) as progress, _resumable(out):
        from .studies import launch
        from .studies.study_files import file as config

        file = config.read(study).changed(
            budget=_budget(budget), trials=trials, seed=seed, runner=runner, keep_gb=keep_gb, track=track
        )
        launch.search(file, out, progress=progress)
    _show(out, as_json, quiet=quiet)


@app.command(
    short_help="Go on with a study, to more trials, under another budget.",
    epilog=_examples(
        "secateur resume runs/a",
        "secateur resume runs/a --trials 100 --budget macs=0.3",
        "secateur resume runs/a --runner ray --address auto --track tensorboard",
    ),
)
@_on_a_runner
def resume(
    folder: Folder,
    budget: Budgets = None,
    trials: Trials = None,
    *,
    runner: dict[str, Any],
    keep_gb: KeepGb = None,
    track: Track = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a study, to its number of trials or to another total, under its budget or another, here or there."""
    with _own_output(), _messages(quiet) as progress, _resumable(folder):
        from .studies import launch

        launch.resume(
            folder,
            budget=_budget(budget),
            trials=trials,
            runner=runner,
            keep_gb=keep_gb,
            track=track,
            progress=progress,
        )
    _show(folder, as_json, quiet=quiet)


@app.command(
    short_help="Show how far a study is, what runs, what failed, the best.",
    epilog=_examples(
        "secateur status runs/a",
        "secateur status runs/a --watch",
        "secateur status runs/a --json",
    ),
)
def status(
    folder: Folder,
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="[SECONDS]", min=0.1, help="Again and again (2), until the search ends."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far a study is, what runs now, what failed, and the best network so far."""
    from .studies.views import text as report
    from .studies.views import view
    from .studies.views.terminal import Style

    if watch is not None:
        with contextlib.suppress(KeyboardInterrupt), _messages(quiet=True):
            _follow(view.watch(folder, watch, logging.getLogger("secateur").warning), as_json)
    elif as_json:
        _print_json(view.View(folder).status().as_dict())
    else:
        _print(report.status_text(view.View(folder).status(), Style.of(sys.stdout)))


@app.command(
    short_help="Show the networks that no other one beats.",
    epilog=_examples(
        "secateur front runs/a",
        "secateur front runs/a --csv > front.csv",
    ),
)
def front(folder: Folder, as_json: Json = False, csv: Annotated[bool, typer.Option("--csv")] = False) -> None:
    """Show the networks that no other one beats within the budget, cheapest first."""
    from .studies.views import view

    if as_json and csv:
        raise ValueError("--json and --csv are both given; keep one")
    if csv:
        print(view.View(folder).front().to_csv(index=False), end="")
    else:
        _show(folder, as_json)


@app.command(
    short_help="Train networks of the front to the end and write them.",
    epilog=_examples(
        "secateur export runs/a --to out/best",
        "secateur export runs/a --to out/all --pick all",
        "secateur export runs/a --to out/small --pick macs=0.2,params=30000",
    ),
)
def export(
    folder: Folder,
    to: Annotated[Path, typer.Option("--to", metavar="OUT", help="A new folder, with one folder a network.")],
    pick: Annotated[
        str, typer.Option(metavar="PICK", help="best, all, the number of a trial, or budgets such as macs=0.3.")
    ] = "best",
    finetune_epochs: Annotated[int | None, typer.Option(metavar="N", help="Epochs of the last training.")] = None,
    finalists: Annotated[
        int,
        typer.Option(
            metavar="N", help="Train so many a little, the best of every resolution, and the better half longer."
        ),
    ] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train picks of the front to the end and write them, each format reloaded and compared."""
    with _own_output(), _messages(quiet) as progress, _resumable(folder, "call it again; what is trained is kept"):
        from .studies import launch
        from .studies.views import text as report
        from .studies.views.terminal import Style

        folders = launch.export(
            folder, to, pick=pick, finetune_epochs=finetune_epochs, finalists=finalists, progress=progress
        )
    configs = [json.loads((one / "config.json").read_text()) | {"folder": str(one)} for one in folders]
    if as_json:
        _print_json(configs)
    else:
        _print(report.exported_text(configs, Style.of(sys.stdout)))


@app.command(
    short_help="Prune with one method of the literature, and write.",
    epilog=_examples(
        "secateur prune mnist --method ranp-f --budget macs=0.3 --out out/ranp",
        "secateur prune runs/a --method resrep --epochs 20 --out out/resrep",
        "secateur prune study.toml --method taylor --set normalise=none --out out/t",
    ),
)
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
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="Of everything that is random.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune with one method of the literature, fine-tune, and write the network.

    STUDY.toml may also be the folder of a study, whose trained network is then taken. Safe to kill: call it again.
    """
    with _own_output(), _messages(quiet) as progress, _resumable(out, "call it again; what is done is kept"):
        from .studies import prune as alone
        from .studies.views import text as report
        from .studies.views.terminal import Style

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
        _print(report.pruned_text(config, Style.of(sys.stdout)))
        _print(str(made))


@app.command(
    short_help="Write what a study found, and how, as one HTML page.",
    epilog=_examples(
        "secateur report runs/a",
        "secateur report runs/a --beside runs/b --to both.html --png pictures",
    ),
)
def report(
    folder: Folder,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE.html", help="The file, which replaces an earlier report; DIR/report.html."),
    ] = None,
    beside: Annotated[
        Path | None, typer.Option("--beside", metavar="DIR2", help="Another study, laid beside it on the same page.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FOLDER", help="Write the charts there as PNG files too.")
    ] = None,
    timed: Annotated[
        bool, typer.Option("--time/--no-time", help="Time the layers of two networks, for a few seconds.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what a study found, and how, as one HTML page that needs no network; at any time, also while it runs."""
    with _own_output(), _messages(quiet):
        from .studies import pages

        made = pages.report(folder, to, beside=beside, pictures=png, timed=timed)
    if as_json:
        _print_json({"page": str(made.page), "pictures": [str(picture) for picture in made.pictures]})
    else:
        print(made.page, *made.pictures, sep="\n")


@app.command(
    short_help="Open Optuna's dashboard on a study.",
    epilog=_examples(
        "secateur dashboard runs/a",
        "secateur dashboard runs/a --port 0 --host 0.0.0.0",
    ),
)
def dashboard(
    folder: Folder,
    port: Annotated[int, typer.Option(metavar="N", help="Where it listens; 0 for any that is free.")] = 8080,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0 lets other machines look too.")] = "127.0.0.1",
) -> None:
    """Open Optuna's dashboard on a study: to look at, while it runs or later. Ctrl-C ends it."""
    from .studies.views import dashboard as board
    from .studies.views import view

    seen = view.View(folder)
    with contextlib.suppress(KeyboardInterrupt):
        board.serve(seen.database, seen.name, port=port, host=host, ready=lambda url: print(url, flush=True))


def _budget(texts: list[str] | None) -> Any:
    from .spaces import Budget

    return Budget.parse(texts) if texts else None


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


def _show(folder: Path, as_json: bool, *, quiet: bool = True) -> None:
    """Show a study's front, and unless quiet what to do with it."""
    from .studies.views import text as report
    from .studies.views import view
    from .studies.views.terminal import Style

    seen = view.View(folder)
    front = seen.front()
    if as_json:
        _print_json({"status": seen.status().as_dict(), "front": report.frame_json(front)})
        return
    first = (*seen.objectives, *seen.limits)
    _print(report.front_text(front, seen.full, seen.resolutions, first=first, style=Style.of(sys.stdout)))
    if not quiet and len(front):
        print(f"secateur: write these networks with: secateur export {folder} --to OUT --pick all", file=sys.stderr)


def _follow(statuses: Iterator[Status], as_json: bool) -> None:
    """Show where a study stands: in place on a terminal; elsewhere line by line, and all of it at the end."""
    from .studies.views import text as report
    from .studies.views.terminal import Style

    if sys.stdout.isatty() and not as_json:
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False) as live:
            for status in statuses:
                said = report.status_text(status, Style.of(sys.stdout))
                live.update(Text.from_ansi(said, no_wrap=True, overflow="crop"), refresh=True)
        return
    last = None
    for status in statuses:
        last = status
        _print(json.dumps(_finite(status.as_dict())) if as_json else report.status_line(status))
    if last is not None and not as_json:
        _print(f"\n{report.status_text(last, Style.of(sys.stdout))}")


def _print(text: str) -> None:
    """Print, whatever the terminal's encoding."""
    from .studies.views.terminal import shown

    print(shown(text, sys.stdout), flush=True)


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=2), flush=True)


def _finite(value: Any) -> Any:
    """The value with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _own_output() -> Iterator[None]:
    """Keep standard output for what the command shows: what networks, data and workers print goes to standard error."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # closed by whoever started us
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


@contextlib.contextmanager
def _resumable(folder: Path, mend: str | None = None) -> Iterator[None]:
    """Say how to go on after an interrupt, and after an error that struck when the study was made."""
    how, made = mend or f"go on with: secateur resume {folder}", folder.exists()
    try:
        yield
    except KeyboardInterrupt:
        print(f"secateur: stopped; {how}", file=sys.stderr)
        raise typer.Exit(130) from None
    except _EXPECTED as error:
        if made or not (folder / "study.json").exists():
            raise
        raise RuntimeError(f"{_said(error)}; the study is kept: once that is mended, {how}") from error


@contextlib.contextmanager
def _messages(quiet: bool) -> Iterator[Callable[[object], None]]:
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
            yield lambda event: logger.info("%s", event)
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
def _bar() -> Iterator[Callable[[object], None]]:
    """A bar that is moved by events; finished networks and lines of the log scroll above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from .studies.trials.events import Calibrated, Epoch, Exported, Trained, TrialEnded

    columns = BarColumn(8), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(event: object) -> None:
            if isinstance(event, Trained | Exported):
                bar.console.print(str(event), markup=False, highlight=False)
            bar.update(task, description=event.short if isinstance(event, TrialEnded) else str(event))
            if isinstance(event, TrialEnded | Epoch | Calibrated):
                bar.update(task, completed=event.done, total=event.total)

        yield show


if __name__ == "__main__":
    sys.exit(main())
