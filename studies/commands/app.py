"""The commands, from a command line to what they show; what they do is in `launch.py`.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ... import __version__
from .beginning import beginning
from .looking import looking
from .options import (
    Base,
    Budgets,
    Device,
    Folder,
    Json,
    LastEpochs,
    Quiet,
    Seed,
    Set,
    StudyFile,
    budget_of,
    examples,
    keys_of,
    on_a_runner,
    settings_of,
    with_a_way,
)
from .output import messages, none_is_left, own_output, print_json, print_text, resumable, show

app = typer.Typer(
    rich_markup_mode=None,  # rich costs 80 ms at import
    pretty_exceptions_enable=False,
    help="The best smaller networks inside a trained CNN, over width, depth and resolution, under hard budgets.",
    epilog=examples(
        "secateur init                          write a study file",
        "secateur trace mnist                   what may be searched",
        "secateur search mnist --out runs/a     train the network, then search",
        "secateur status runs/a                 how far it is",
        "secateur front runs/a                  what was found",
        "secateur export runs/a --to out/a      train it to the end, and write it",
    ),
)


def _version(asked: bool) -> None:
    if asked:
        print(f"secateur {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Say nothing of whose code a study file runs.")] = False,
) -> None:
    pass


app.add_typer(beginning)


@app.command(
    short_help="Show what may be searched, and what a budget can reach.",
    epilog=examples(
        "secateur trace mnist",
        "secateur trace study.toml --budget macs=0.3 --budget params=50%",
        "secateur trace study.toml --json > space.json",
    ),
)
def trace(
    study: StudyFile, budget: Budgets = None, settings: Set = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Show what may be searched: groups, stages, resolutions, what is frozen and why, and what any budget can reach.

    The budget, of the file or of --budget, is held against it: whether any network meets each limit, and how many do.
    """
    with own_output(), messages(quiet):
        from ...spaces.describe import describe, facts
        from .. import launch
        from ..study_files import file as config
        from ..views.terminal import Style, headed

        file = config.read(study, settings or ()).changed(budget=budget_of(budget))
        space = launch.trace(file)
    if as_json:
        print_json(facts(space, file.budget))
    else:
        print_text(headed(describe(space, file.budget), Style.of(sys.stdout)))


@app.command(
    short_help="Start a study: train the network, then search.",
    epilog=examples(
        "secateur search mnist --out runs/a",
        "secateur search study.toml --out runs/b --budget latency_ms=3 --trials 100",
        "secateur search study.toml --out runs/c --runner processes --workers 4",
    ),
)
@on_a_runner
def search(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the study.")],
    budget: Budgets = None,
    *,
    changes: dict[str, Any],
    seed: Seed = None,
    settings: Set = None,
    runner: dict[str, Any],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Start a study in a new folder: train the network if the file says so, then search. Safe to kill at any time."""
    with own_output(), messages(quiet) as progress, resumable(out):
        from .. import launch
        from ..study_files import file as config

        file = config.read(study, settings or ()).changed(budget=budget_of(budget), seed=seed, runner=runner, **changes)
        launch.search(file, out, progress=progress)
    none_is_left(show(out, as_json, quiet=quiet, storage=file.study.storage))


@app.command(
    short_help="Go on with a study, to more trials, under another budget.",
    epilog=examples(
        "secateur resume runs/a",
        "secateur resume runs/a --trials 100 --budget macs=0.3",
        "secateur resume runs/a --trials 500 --seconds 3600 --patience 60",
        "secateur resume runs/a --runner ray --address auto --track tensorboard",
    ),
)
@on_a_runner
def resume(
    folder: Folder,
    budget: Budgets = None,
    *,
    changes: dict[str, Any],
    settings: Set = None,
    base: Base = None,
    runner: dict[str, Any],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a study, to its number of trials or to another total, under its budget or another, here or there."""
    with own_output(), messages(quiet) as progress, resumable(folder):
        from .. import launch

        launch.resume(
            folder,
            budget=budget_of(budget),
            runner=runner,
            **changes,
            settings=settings or (),
            base=base,
            progress=progress,
        )
    none_is_left(show(folder, as_json, quiet=quiet, connect=True))


@app.command(
    short_help="Train networks of the front to the end and write them.",
    epilog=examples(
        "secateur export runs/a --to out/best",
        "secateur export runs/a --to out/all --pick all",
        "secateur export runs/a --to out/good --pick error=0.03",
        "secateur export runs/a --to out/small --pick macs=0.2,params=30000",
    ),
)
def export(
    folder: Folder,
    to: Annotated[Path, typer.Option("--to", metavar="OUT", help="A new folder, with one folder a network.")],
    pick: Annotated[
        str, typer.Option(metavar="PICK", help="best, all, knee, the number of a trial, error=0.03, or macs=0.3.")
    ] = "best",
    finetune_epochs: LastEpochs = None,
    finalists: Annotated[
        int,
        typer.Option(
            metavar="N", help="Train so many a little, the best of every resolution, and the better half longer."
        ),
    ] = 1,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Programs take uint8 pictures, and scale and normalise them.")
    ] = False,
    any_side: Annotated[
        bool, typer.Option("--any-side", help="Programs take every side that the network takes.")
    ] = False,
    base: Base = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train picks of the front to the end and write them, each format reloaded and compared."""
    with own_output(), messages(quiet) as progress, resumable(folder, "call it again; what is trained is kept"):
        from .. import launch
        from ..views import text as report
        from ..views.terminal import Style

        folders = launch.export(
            folder,
            to,
            pick=pick,
            finetune_epochs=finetune_epochs,
            finalists=finalists,
            pictures=pictures,
            any_side=any_side,
            base=base,
            progress=progress,
        )
    configs = [json.loads((one / "config.json").read_text()) | {"folder": str(one)} for one in folders]
    if as_json:
        print_json(configs)
    else:
        print_text(report.exported_text(configs, Style.of(sys.stdout)))


@app.command(
    short_help="Prune with one method of the literature, and write.",
    epilog=examples(
        "secateur prune mnist --method ranp-f --budget macs=0.3 --out out/ranp",
        "secateur prune runs/a --method resrep --epochs 20 --out out/resrep",
        "secateur prune model.toml --images photos --budget macs=0.7 --out out/m",
    ),
)
@with_a_way
def prune(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the network.")],
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="Such as ranp-f, resrep; l2 with --images.")
    ] = None,
    budget: Budgets = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the method, as normalise=none, or TABLE.NAME=VALUE."
        ),
    ] = None,
    device: Device = None,
    *,
    way: dict[str, Any],
    seed: Seed = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune with one method of the literature, fine-tune, and write the network.

    STUDY.toml may also be the folder of a study, whose trained network is then taken. Safe to kill: call it again.

    With --images nothing is trained, and no labels are needed, nor a table [data]: layers are solved again.
    """
    with own_output(), messages(quiet) as progress, resumable(out, "call it again; what is done is kept"):
        from .. import prune as alone
        from ..views import text as report
        from ..views.terminal import Style
        from .pruning import pruned

        file, folder = alone.source(study, keys_of(settings))
        file = file.changed(budget=budget_of(budget), seed=seed, pruning_epochs=way.get("epochs"), device=device)
        made = pruned(
            file, out, method, way, {"settings": settings_of(settings), "study": folder, "progress": progress}
        )
    config = json.loads((made / "config.json").read_text())
    if as_json:
        print_json(config | {"folder": str(made)})
    else:
        print_text(report.pruned_text(config, Style.of(sys.stdout)))
        print_text(str(made))


app.add_typer(looking)
