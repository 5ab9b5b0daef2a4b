"""Names that trials give to rankings and weights, and the files they stand for: always in the study's own folders."""

from __future__ import annotations

import re

from .files import FormatError

_NUMBERED = re.compile(r"(trial|round):(0|[1-9][0-9]{0,8})")
_NAME = re.compile(r"\w[^/\\\x00-\x1f]{0,199}")  # of one folder, and no hidden file


def path_of(kind: str, named: str) -> str:
    """The file, as a path in the study, of a name in a trial.

    Raises:
        FormatError: it is no name.
    """
    check_name(named)
    return f"{kind}/{named.replace(':', '-')}.safetensors"


def check_name(named: object) -> None:
    """Refuse what cannot name a ranking or weights, above all what would lead out of their folder.

    Raises:
        FormatError: it is no name, so nothing of ours wrote it.
    """
    numbered = isinstance(named, str) and named.startswith(("trial:", "round:"))
    if not isinstance(named, str) or not (_NUMBERED if numbered else _NAME).fullmatch(named):
        raise FormatError(
            f"{named!r:.80} in the study names no ranking or weights; expected such as 'inherited', 'trial:3' or "
            "'l1:0123abcd': restore the trials from a copy"
        )
