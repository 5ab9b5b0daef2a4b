"""The commands that look at a study: nothing of it changes, no code of it runs, and nothing is sent."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..disk.files import as_written
from .options import Connect, Folder, Json, Quiet, examples
from .output import follow, messages, own_output, print_json, print_text, show

looking = typer.Typer(rich_markup_mode=None)


@looking.command(
    short_help="Show how far a study is, what runs, what failed, the best.",
    epilog=examples(
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
    connect: Connect = False,
    as_json: Json = False,
) -> None:
    """Show how far a study is, what runs now, what failed, and the best network so far."""
    from ..views import text as report
    from ..views import view
    from ..views.terminal import Style

    with as_written(folder):
        if watch is not None:
            with contextlib.suppress(KeyboardInterrupt), messages(quiet=True):
                follow(view.watch(folder, watch, logging.getLogger("secateur").warning, connect=connect), as_json)
        elif as_json:
            print_json(view.View(folder, connect=connect).status().as_dict())
        else:
            print_text(report.status_text(view.View(folder, connect=connect).status(), Style.of(sys.stdout)))


@looking.command(
    short_help="Show the networks that no other one beats.",
    epilog=examples(
        "secateur front runs/a",
        "secateur front runs/a --csv > front.csv",
    ),
)
def front(
    folder: Folder,
    connect: Connect = False,
    as_json: Json = False,
    csv: Annotated[bool, typer.Option("--csv")] = False,
) -> None:
    """Show the networks that no other one beats within the budget, cheapest first."""
    from ..views import view

    if as_json and csv:
        raise ValueError("--json and --csv are both given; keep one")
    if csv:
        print_text(view.View(folder, connect=connect).front().to_csv(index=False).removesuffix("\n"))
    else:
        show(folder, as_json, connect=connect)


@looking.command(
    short_help="Write what a study found, and how, as one HTML page.",
    epilog=examples(
        "secateur report runs/a --layers",
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
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Show layers too: runs the code that makes the network, as study.toml says."),
    ] = False,
    timed: Annotated[
        bool, typer.Option("--time/--no-time", help="Time the layers of two networks, for a few seconds.")
    ] = True,
    connect: Connect = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what a study found, and how, as one HTML page that needs no network; at any time, also while it runs."""
    with own_output(), messages(quiet):
        from .. import pages

        made = pages.report(folder, to, beside=beside, pictures=png, timed=timed, connect=connect, remake=layers)
    if as_json:
        print_json({"page": str(made.page), "pictures": [str(picture) for picture in made.pictures]})
    else:
        print_text("\n".join(map(str, (made.page, *made.pictures))))


@looking.command(
    short_help="Open Optuna's dashboard on a study.",
    epilog=examples(
        "secateur dashboard runs/a",
        "secateur dashboard runs/a --port 0 --host 0.0.0.0",
    ),
)
def dashboard(
    folder: Folder,
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Where it listens; 0 for any that is free.")
    ] = 8080,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="0.0.0.0 lets other machines look too.")] = "127.0.0.1",
    connect: Connect = False,
) -> None:
    """Open Optuna's dashboard on a study: to look at, while it runs or later. Ctrl-C ends it."""
    from ..views import dashboard as board
    from ..views import view

    seen = view.View(folder, connect=connect)
    with contextlib.suppress(KeyboardInterrupt):
        board.serve(seen.glimpse.storage, seen.name, port=port, host=host, ready=lambda url: print(url, flush=True))
