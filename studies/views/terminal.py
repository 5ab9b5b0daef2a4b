"""What a terminal shows: tables of 80 columns, sparklines, and colours where they are wanted."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TextIO, final

COLUMNS = 80
_BLOCKS = "▁▂▃▄▅▆▇█"
_CODES = {"bold": "1", "good": "32", "bad": "31"}


@final
@dataclass(frozen=True)
class Style:
    """What can be shown.

    Attributes:
        colours: whether there are any.
        blocks: whether there are block characters, for sparklines.
    """

    colours: bool = False
    blocks: bool = True

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """What a stream can show: colours on a terminal, unless `NO_COLOR` is set or it is a dumb one."""
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return cls(colours=stream.isatty() and wanted, blocks=shown(_BLOCKS, stream) == _BLOCKS)

    def __call__(self, how: str, text: str) -> str:
        """The text, painted `"bold"`, `"good"` or `"bad"`; `""` leaves it as it is."""
        return f"\x1b[{_CODES[how]}m{text}\x1b[0m" if self.colours and how and text else text

    def spark(self, values: Sequence[float | None]) -> str:
        """A sparkline of the values, a letter each, blank where there is none; nothing where it can't be shown.

        >>> Style().spark([3, 2, None, 1.5, 1])
        '█▅ ▃▁'
        """
        known = [value for value in values if value is not None]
        if not self.blocks or not known:
            return ""
        low, high = min(known), max(known)
        steps = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
        return "".join(" " if value is None else _BLOCKS[round((value - low) * steps)] for value in values)


PLAIN = Style()


def shown(text: str, stream: TextIO) -> str:
    """The text as the stream's encoding has it, with question marks for what it has not."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def table(
    rows: Sequence[Sequence[str]], *, right: Collection[int] = (), best: int | None = None, style: Style = PLAIN
) -> str:
    """Columns padded to their widest cell.

    Args:
        rows: of cells; the first one is the head.
        right: numbers of the columns that end alike.
        best: number of the row that is painted.
        style: of what can be shown.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        lines.append(style("bold", line) if number == 0 else style("good", line) if number == best else line)
    return "\n".join(lines)


def fitting(columns: Sequence[Sequence[str]], wanted: Sequence[int]) -> list[int]:
    """Numbers of the columns that fit beside one another, in order; those that are `wanted` first get the room."""
    widths = [max(map(len, column)) for column in columns]
    kept: list[int] = []
    for column in wanted:
        if sum(widths[one] + 2 for one in (*kept, column)) - 2 <= COLUMNS:
            kept.append(column)
    return sorted(kept)


def beside(rows: Sequence[tuple[str, str]], *, bad: Collection[str] = (), style: Style = PLAIN) -> str:
    """Names, and what is said of them beside, over as many lines as it takes.

    Args:
        rows: names, and what is said of each.
        bad: names whose rows are painted as bad news.
        style: of what can be shown.
    """
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, said in rows:
        broken = textwrap.wrap(said, COLUMNS - width - 2, break_on_hyphens=False) or [""]
        for title, line in zip([name, *[""] * len(broken)], broken, strict=False):
            padding = " " * (width - len(title) + 2)
            lines.append((style("bold", title) + padding + style("bad" if name in bad else "", line)).rstrip())
    return "\n".join(lines)


def headed(text: str, style: Style) -> str:
    """A text whose lines that are not indented are painted as heads, and a lone "no" as bad news."""
    if not style.colours:
        return text
    lines = [line if line.startswith(" ") else style("bold", line) for line in text.splitlines()]
    return "\n".join(re.sub(r"(?<=  )no(?=  )", style("bad", "no"), line) for line in lines)
