"""The command line: `secateur trace | search | resume | status | front | export | prune | dashboard`.

The commands are in `studies/commands/app.py`; here is what becomes of their errors.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# The rest is imported within `main`, where an interrupt is heard.

_WATCH_S = "2"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code. Bad input is one line and 2, an interrupt 130, any other error 1."""
    try:
        if sys.stderr is None:
            sys.stderr = open(os.devnull, "w")
        if sys.stdout is None:
            return _complain("standard output is closed, so nothing can be shown; leave it open, or send it to a file")
        code = _run(sys.argv[1:] if arguments is None else arguments)
        try:
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
            return code or (
                1 if isinstance(error, BrokenPipeError) else _complain(f"standard output: {error.strerror}")
            )
        return code
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> int:
    import logging

    import typer

    from .studies.commands.app import app
    from .studies.commands.output import EXPECTED, text_of
    from .studies.trials.words import Hopeless, reason_of

    # The root of click's errors; typer names it from 0.28 on, and brings its own click from 0.26 on.
    mistakes: Any = [kind for kind in typer.BadParameter.__mro__ if hasattr(kind, "format_message")][-1]
    debug, code = "--debug" in arguments, logging.getLogger("secateur.code")
    code.disabled = "--trust" in arguments
    given = _with_seconds([one for one in arguments if one not in ("--debug", "--trust")] or ["--help"])
    try:
        ended = app(args=given, prog_name="secateur", standalone_mode=False)
    except mistakes as error:
        return _complain(error.format_message())
    except BrokenPipeError:
        return 1
    except typer.Abort:
        return 130
    except SystemExit as error:
        if isinstance(error.code, int) and error.code > 128:  # asked to end, by a signal
            raise
        if "_SECATEUR_COMPLETE" in os.environ or any(one.endswith("-completion") for one in given):
            return error.code if isinstance(error.code, int) else 0  # how typer ends what it does for a shell
        if isinstance(error.__context__, BrokenPipeError):  # typer's own end where no one reads on, as in `| head`
            return 1
        return _complain(f"the code of the model or the data called sys.exit({error.code!r})") and 1
    except EXPECTED as error:
        if debug:
            raise
        return _complain(text_of(error)) and (1 if isinstance(error, Hopeless) else 2)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's code raises whatever it likes
        if debug:
            raise
        _complain(f"{reason_of(error)}; this was not foreseen: --debug before the command shows where")
        return 1
    finally:
        code.disabled = False
    return ended if isinstance(ended, int) else 0


def _with_seconds(arguments: list[str]) -> list[str]:
    """The arguments with a number after `--watch` where there was none: typer (0.29) knows no optional values."""
    found = []
    for one, after in zip(arguments, [*arguments[1:], ""], strict=True):
        found += [one, _WATCH_S] if one == "--watch" and not after.replace(".", "", 1).isdecimal() else [one]
    return found


def _complain(said: str) -> int:
    from .studies.disk.secrets import hidden
    from .studies.trials.words import escaped

    print("secateur: error:", escaped(hidden(" ".join(said.split()))), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
