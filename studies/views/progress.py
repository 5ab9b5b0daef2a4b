"""Progress where no listener is given: a bar in terminals and notebooks, nothing elsewhere."""

from __future__ import annotations

import contextlib
import functools
import html
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, ParamSpec, TypeVar, cast

from ..trials.events import Calibrated, Epoch, Event, Exported, Listener, Step, Trained, TrialEnded
from ..trials.words import escaped

Asked = Listener | Literal["auto"] | None
"""A listener; "auto", which is a bar where someone sees it; None, which is nothing."""

Given = ParamSpec("Given")
Result = TypeVar("Result")
_COUNTED = (TrialEnded, Epoch, Calibrated, Step)


@contextlib.contextmanager
def listening(asked: Asked) -> Iterator[Listener | None]:
    """What is told of events while the block runs.

    Raises:
        TypeError: what was asked for is none of `Asked`.
    """
    if asked is None or callable(asked):
        yield asked
    elif asked != "auto":
        raise TypeError(f"progress={asked!r}: expected a function that is told of events, 'auto', or None")
    elif (display := _notebook()) is not None:
        yield _notebook_bar(display)
    elif sys.stderr is not None and sys.stderr.isatty():
        with bar() as move:
            yield move
    else:
        yield None


def showing(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, whose keyword `progress` is `Asked`, called with a listener or None."""

    @functools.wraps(function)
    def shown(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with listening(cast("Asked", kwargs.get("progress", "auto"))) as kwargs["progress"]:
            return function(*args, **kwargs)

    return shown


@contextlib.contextmanager
def bar() -> Iterator[Callable[[object], None]]:
    """A bar on standard error that is moved by events; networks that are finished scroll above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = BarColumn(8), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("starting", total=None)

        def move(event: object) -> None:
            if isinstance(event, Trained | Exported):
                shown.console.print(escaped(str(event)), markup=False, highlight=False)
            shown.update(task, description=escaped(_brief(event)))
            if isinstance(event, _COUNTED):
                shown.update(task, completed=event.done, total=event.total)

        yield move


def _brief(event: object) -> str:
    return event.short if isinstance(event, TrialEnded) else str(event)


def _notebook() -> Any:
    """IPython's `display` where a notebook shows it; None elsewhere."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if type(shell).__name__ != "ZMQInteractiveShell":
        return None
    return importlib.import_module("IPython.display")


def _notebook_bar(display: Any) -> Listener:
    """The same in a cell's output: HTML that is replaced, which needs no widgets."""
    handle: Any = None

    def move(event: Event) -> None:
        nonlocal handle
        share = f' max="{event.total}" value="{event.done}"' if isinstance(event, _COUNTED) else ""
        shown = display.HTML(f"<progress{share}></progress> {html.escape(_brief(event))}")
        if handle is None:
            handle = display.display(shown, display_id=True)
        else:
            handle.update(shown)

    return move
