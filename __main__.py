"""The command line: `secateur trace | search | resume | status | front | export | prune | dashboard`.

The commands are in `studies/commands/app.py`; here is what becomes of their errors.
"""

from __future__ import annotations

import os
import sys

import typer

from .studies.commands.app import app
from .studies.commands.output import EXPECTED, text_of
from .studies.trials.words import escaped

_WATCH_S = "2"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. Bad input is one line and 2, an interrupt 130, any other error 1."""
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
    except EXPECTED as error:
        if debug:
            raise
        return _complain(text_of(error))
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


def _complain(said: str) -> int:
    print("secateur: error:", escaped(" ".join(said.split())), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
