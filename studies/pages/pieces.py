"""What a page is made of: sections of blocks, in which charts, tables and texts stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..exports.chart import Chart


@dataclass(frozen=True)
class Table:
    """Rows of texts; `marked` are the numbers of those that stand out."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Text:
    """Something to copy, folded away under its title unless `open`."""

    text: str
    title: str = ""
    open: bool = False


@dataclass(frozen=True, eq=False)
class Block:
    """What a section says of one study, or of both together; the name is of the study where there are two."""

    name: str = ""
    said: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[Text] = ()


@dataclass(frozen=True, eq=False)
class Section:
    """A heading, a sentence or two, and blocks."""

    id: str
    title: str
    said: str
    blocks: Sequence[Block] = ()
