"""When something is there: conditions on the blocks that stay, and what they come to for a number of blocks kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..graph.blocks import Stage

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clause:
    """True where one of `stays` stays, and where all of `gone` are gone, if there are any.

    Attributes:
        stays: names of blocks, of one stage or of several.
        gone: likewise.
    """

    stays: frozenset[str]
    gone: frozenset[str] = frozenset()


When = frozenset[Clause]
"""All of them are true; always, if there are none."""
ALWAYS: When = frozenset()


def where_one_stays(blocks: frozenset[str]) -> When:
    """True where any of some blocks stays; always, if there are none."""
    return frozenset({Clause(blocks)}) if blocks else ALWAYS


@dataclass(frozen=True)
class Gate:
    """1 where a condition is true, else 0.

    Attributes:
        when: the condition.
        stages: of the blocks.
    """

    when: When
    stages: tuple[Stage, ...]

    def under(self, stages: Sequence[Stage]) -> Gate:
        """The same gate when the blocks go in another order."""
        return Gate(self.when, tuple(stages))

    def of(self, depths: npt.NDArray[np.int64]) -> Array:
        """`(n,)` of `(n, stages)` blocks kept."""
        found = np.ones(len(depths), bool)
        for stays, gone in self._tables:
            one = _any(stays, depths)
            found &= one | ~_any(gone, depths) if gone else one
        return found.astype(float)

    @cached_property
    def _tables(self) -> list[tuple[dict[int, npt.NDArray[np.bool_]], dict[int, npt.NDArray[np.bool_]]]]:
        return [(self._table(clause.stays), self._table(clause.gone)) for clause in self.when]

    def _table(self, blocks: frozenset[str]) -> dict[int, npt.NDArray[np.bool_]]:
        """For each stage with some of the blocks, whether one of them stays, by the number that is kept."""
        found = {}
        for number, stage in enumerate(self.stages):
            places = [place for place, block in enumerate(stage.order) if block in blocks]
            if places:
                count = len(stage.blocks)
                found[number] = np.arange(count + 1) >= count - places[-1]
        return found


def _any(tables: dict[int, npt.NDArray[np.bool_]], depths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(depths), bool)
    for stage, table in tables.items():
        found |= table[depths[:, stage]]
    return found
