"""What a terminal shows: tables as wide as it is, sparklines, and colours where they are wanted.

Texts are never read as markup, a layer may be called `[red]`, and control characters in them are shown as escapes.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TextIO, final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..trials.words import escaped

COLUMNS = 80  # where no one says how wide it is
_BLOCKS = "▁▂▃▄▅▆▇█"
_CODES = {"bold": "1", "bad": "31"}
_NO_COLOUR = re.compile(r"\x1b(?!\[[\d;]*m)")
_END = re.compile(r"(?:\x1b\[[\d;]*m| )+$")


@final
@dataclass(frozen=True)
class Style:
    """What can be shown.

    Attributes:
        colours: whether there are any.
        blocks: whether there are block characters, for sparklines.
        width: of a line, in characters.
    """

    colours: bool = False
    blocks: bool = True
    width: int = COLUMNS

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """What a stream can show: colours on a terminal, unless `NO_COLOR` is set or it is a dumb one.

        The width is the terminal's; elsewhere what `COLUMNS` says, or 80.
        """
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return cls(stream.isatty() and wanted, shown(_BLOCKS, stream) == _BLOCKS, _width(stream))

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
    """The text as the stream's encoding has it, with question marks for what it has not.

    Of control characters only ends of lines and colours, which are ours by now, come through.
    """
    text = _NO_COLOUR.sub(r"\\x1b", escaped(text, keep="\n\x1b"))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def table(
    rows: Sequence[Sequence[str]], *, right: Collection[int] = (), best: int | None = None, style: Style = PLAIN
) -> str:
    """Columns as wide as their widest cell, and broken into lines where there is no room for that.

    Args:
        rows: of cells; the first one is the head.
        right: numbers of the columns that end alike.
        best: number of the row that is painted.
        style: of what can be shown.
    """
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column, head in enumerate(rows[0]):
        made.add_column(_cell(head), justify="right" if column in right else "left", overflow="fold")
    for number, row in enumerate(rows[1:], start=1):
        made.add_row(*map(_cell, row), style="green" if number == best else "")
    return _rendered(made, style)


def fitting(columns: Sequence[Sequence[str]], wanted: Sequence[int], width: int = COLUMNS) -> list[int]:
    """Numbers of the columns that fit beside one another, in order; those that are `wanted` first get the room."""
    widths = [max(map(cell_len, column)) for column in columns]
    kept: list[int] = []
    for column in wanted:
        if sum(widths[one] + 2 for one in (*kept, column)) - 2 <= width:
            kept.append(column)
    return sorted(kept)


def beside(rows: Sequence[tuple[str, str]], *, bad: Collection[str] = (), style: Style = PLAIN) -> str:
    """Names, and what is said of them beside, over as many lines as it takes.

    Args:
        rows: names, and what is said of each.
        bad: names whose rows are painted as bad news.
        style: of what can be shown.
    """
    made = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, said in rows:
        made.add_row(_cell(name), _cell(said.replace("\n", " "), "red" if name in bad else ""))
    return _rendered(made, style)


def headed(text: str, style: Style) -> str:
    """A text whose lines that are not indented are painted as heads, and a lone "no" as bad news."""
    text = escaped(text, keep="\n")
    if not style.colours:
        return text
    lines = [line if line.startswith(" ") else _painted("bold", line) for line in text.splitlines()]
    return "\n".join(re.sub(r"(?<=  )no(?=  )", _painted("bad", "no"), line) for line in lines)


def _cell(text: str, style: str = "") -> Text:
    return Text(escaped(text), style=style)


def _painted(how: str, text: str) -> str:
    return f"\x1b[{_CODES[how]}m{text}\x1b[0m" if text else text


def _rendered(made: Table, style: Style) -> str:
    """The table's lines, without blanks at their ends."""
    console = Console(
        file=io.StringIO(),
        width=style.width,
        height=25,  # with both given, neither is asked of the environment
        force_terminal=style.colours,
        color_system="standard" if style.colours else None,
        no_color=False,
        legacy_windows=False,
    )
    with console.capture() as said:
        console.print(made)
    end = "\x1b[0m" if style.colours else ""
    return "\n".join(_END.sub("", line) + end for line in said.get().splitlines())


def _width(stream: TextIO) -> int:
    if stream.isatty():
        try:
            return os.get_terminal_size(stream.fileno()).columns or COLUMNS
        except OSError:
            pass
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdecimal() and int(asked) else COLUMNS
