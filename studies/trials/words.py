"""Numbers and times as a terminal shows them."""

from __future__ import annotations

import unicodedata

_ODD = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control and format characters, halves of pairs, separators of lines
_LONGEST = 1000  # letters of a reason


class Hopeless(RuntimeError):
    """A search that stops because its trials fail; no input of a command is wrong."""


def escaped(text: str, keep: str = "") -> str:
    r"""The text with escapes for what moves a cursor, changes colours or turns the direction of writing.

    >>> print(escaped("a\x1b[31mb\u202ec"))
    a\x1b[31mb\u202ec
    """
    if text.isprintable():
        return text
    return "".join(
        one.encode("unicode_escape").decode() if one not in keep and unicodedata.category(one) in _ODD else one
        for one in text
    )


def percent(error: float) -> str:
    """An error for people.

    >>> percent(0.12345)
    '12.35%'
    """
    return f"{100 * error:.2f}%"


def count(value: float) -> str:
    """A large number for people.

    >>> count(4_200_000), count(12)
    ('4.2 M', '12')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(7), duration(130), duration(7300)
    ('7 s', '2 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shortened(text: str, width: int) -> str:
    """The text, cut at its end where it is longer.

    >>> shortened("a long name", 8)
    'a lon...'
    """
    return text if len(text) <= width else f"{text[: width - 3]}..."


def said_by(error: BaseException) -> str:
    """What an error says; empty where it says nothing, or cannot: its class may be anyone's."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - of someone else's `__str__`
        return ""


def reason_of(error: BaseException) -> str:
    r"""The kind of an error and what it says, in one line that a terminal and a database can hold.

    >>> reason_of(ValueError("a\nb")), reason_of(KeyError())
    ('ValueError: a b', 'KeyError')
    """
    kind, said = type(error).__name__, " ".join(said_by(error).split())
    return shortened(f"{kind}: {said}" if said else kind, _LONGEST)


def first_line(error: BaseException) -> str:
    """What an error says first; its name where it says nothing."""
    return " ".join(said_by(error).strip().split("\n", 1)[0].split()) or type(error).__name__
