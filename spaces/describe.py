"""The space as text: the first thing a user looks at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .space import Space


def describe(space: Space) -> str:
    """Groups, stages, resolutions, what is frozen and why, and the range of every cost; fits 80 columns."""
    lines = []
    if space.groups:
        lines.append(f"{len(space.groups)} groups of channels that are cut together")
        rows = [
            (_short(group.name, 34), str(group.width), _choices(group.widths), _short(_others(group.members), 20))
            for group in space.groups
        ]
        lines += _table(("width of", "full", "choices", "with"), rows)
    if space.stages:
        lines += ["", f"{len(space.stages)} stages of blocks that may be dropped"]
        rows = [(_short(s.name, 34), str(len(s.blocks)), f"0 to {len(s.blocks)}", s.order[0]) for s in space.stages]
        lines += _table(("depth of", "full", "choices", "first to go"), rows)
    lines.append("")
    if space.resolutions:
        lines.append("resolutions: " + ", ".join("x".join(map(str, side)) for side in space.resolutions))
    else:
        lines.append(
            "resolution: fixed" + (f" at {'x'.join(map(str, space.traced_side))}" if space.traced_side else "")
        )
    if space.frozen:
        lines += ["", "frozen"]
        lines += [f"  {name}: {reason}" for name, reason in space.frozen.items()]
    costs = space.costs([space.smallest, space.full])
    lines += ["", f"costs of one example; about 10^{_decades(space):.0f} candidates"]
    rows = [
        (name, f"{least:,}", f"{full:,}", f"{least / max(full, 1):.2g}")
        for name, (least, full) in ((name, costs[name].tolist()) for name in costs.columns)
    ]
    lines += _table(("", "smallest", "full", "ratio"), rows)
    return "\n".join(lines)


def _decades(space: Space) -> float:
    return sum(math.log10(len(axis.choices)) for axis in space.axes)


def _choices(choices: tuple[int, ...]) -> str:
    if len(choices) <= 3:
        return " ".join(map(str, choices))
    return f"{choices[0]} {choices[1]} .. {choices[-1]}"


def _others(members: tuple[str, ...]) -> str:
    if len(members) <= 2:
        return ", ".join(members[1:])
    return f"{members[1]} +{len(members) - 2}"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[3 - width :]


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [
        ("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))).rstrip()
        for row in [header, *rows]
    ]
