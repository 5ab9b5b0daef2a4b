"""What commands write: results to standard output, and nothing else there; the rest to standard error."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..disk.files import as_written
from ..disk.secrets import hidden
from ..trials.words import Hopeless, escaped, said_by

if TYPE_CHECKING:
    from ..views.status import Status

EXPECTED = (ValueError, TypeError, OSError, ImportError, NotImplementedError, RuntimeError)
"""Errors whose text says all there is to say."""


@contextlib.contextmanager
def own_output() -> Iterator[None]:
    """Keep standard output for what the command shows: what networks, data and workers print goes to standard error."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # closed by what started us
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


@contextlib.contextmanager
def resumable(folder: Path, mend: str | None = None) -> Iterator[None]:
    """Say how to go on after an interrupt, and after an error that struck when the study was made."""
    how, made = mend or f"go on with: secateur resume {folder}", folder.exists()
    try:
        yield
    except KeyboardInterrupt:
        print(escaped(f"secateur: stopped; {how}"), file=sys.stderr)
        raise typer.Exit(130) from None
    except EXPECTED as error:
        if made or not (folder / "study.json").exists():
            raise
        kind = Hopeless if isinstance(error, Hopeless) else RuntimeError
        raise kind(f"{text_of(error)}; the study is kept: once that is mended, {how}") from error


@contextlib.contextmanager
def messages(quiet: bool) -> Iterator[Callable[[object], None]]:
    """Send the package's log to the terminal, and what is yielded: a bar there, plain lines elsewhere."""
    from ..trials.events import TrialEnded  # with NumPy and Optuna, which the help needs not
    from ..views.progress import bar

    handler = _Lines()
    logger, trials = logging.getLogger("secateur"), logging.getLogger("secateur.trials")
    level, propagate, of_trials = logger.level, logger.propagate, trials.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
    try:
        if quiet:
            yield lambda event: None
        elif not sys.stderr.isatty():
            # Trials are in the log anyway.
            yield lambda event: None if isinstance(event, TrialEnded) else logger.info("%s", event)
        else:
            trials.setLevel(logging.WARNING)  # the bar shows them
            with bar() as move:
                yield move
    finally:
        trials.setLevel(of_trials)
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def show(
    folder: Path, as_json: bool, *, quiet: bool = True, storage: str | None = None, connect: bool = False
) -> Status:
    """Where a study stands, after its front is shown, and unless quiet what to do with it.

    Args:
        folder: the study's.
        as_json: whether as JSON.
        quiet: whether nothing is said besides.
        storage: the URL of its storage, with a password that it needs.
        connect: whether a server that only the folder names may be connected to.
    """
    from ..views import text as report
    from ..views import view
    from ..views.terminal import Style

    seen = view.View(folder, storage=storage, connect=connect)
    with as_written(folder):
        front, status = seen.front(), seen.status()
        if as_json:
            print_json({"status": status.as_dict(), "front": report.frame_json(front)})
            return status
        first = (*seen.objectives, *seen.limits)
        print_text(report.front_text(front, seen.full, first=first, style=Style.of(sys.stdout)))
        if full := report.full_text(status):
            print_text(f"full network: {full}")
    if not quiet and len(front):
        said = f"secateur: write these networks with: secateur export {folder} --to OUT --pick all"
        print(escaped(said), file=sys.stderr)
    return status


def none_is_left(status: Status) -> None:
    """End the command with 1 where every trial of a study failed: there is no network to choose."""
    if status.told and status.failed == status.told:
        said = f"all {status.told} trials failed, so nothing was found; the last: {status.failures[0].reason}"
        print(escaped(f"secateur: error: {said}"), file=sys.stderr)
        raise typer.Exit(1)


def follow(statuses: Iterator[Status], as_json: bool) -> None:
    """Show where a study stands: in place on a terminal; elsewhere line by line, and all of it at the end."""
    from ..views import text as report
    from ..views.terminal import Style

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
        print_text(json.dumps(_finite(status.as_dict())) if as_json else report.status_line(status))
    if last is not None and not as_json:
        print_text(f"\n{report.status_text(last, Style.of(sys.stdout))}")


def print_text(text: str) -> None:
    """Print, whatever the terminal's encoding."""
    from ..views.terminal import shown

    print(shown(text, sys.stdout), flush=True)


def print_json(value: Any) -> None:
    """Print as JSON, whose numbers are finite: None for any other."""
    print(json.dumps(_finite(value), indent=2), flush=True)


def text_of(error: Exception) -> str:
    """What an error says, without the number of an operating system's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return said_by(error) or type(error).__name__


def _finite(value: Any) -> Any:
    """The value with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Lines(logging.Handler):
    """Writes to what standard error is at the moment; a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        said = f"{record.levelname.lower()}: " * (record.levelno > logging.INFO) + self.format(record)
        print(escaped(hidden(said), keep="\n"), file=sys.stderr)
