"""The space for people: the first thing a user looks at. `facts` gives the same as plain values."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .budget import Budget
from .candidate import Axis, Costed
from .graph.network import Side
from .tracing.surprises import NUMBER, WRITTEN

if TYPE_CHECKING:
    from .channels.layout import Group, Layout

COLUMNS = 80
SAMPLES = 10_000
SHARES = (0.75, 0.5, 0.25)
BUDGETED = ("macs", "params", "peak_bytes")
MANY = 20  # groups; from there on alike ones share a line


class Described(Costed, Protocol):
    """What is shown: a space."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        """What may be chosen."""

    @property
    def frozen(self) -> Mapping[str, str]:
        """`{module: reason}` of what is left whole."""

    @property
    def whole_blocks(self) -> Mapping[str, str]:
        """`{module: reason}` of what looks like a block that may be dropped, and may not."""

    @property
    def ruled(self) -> Mapping[str, str]:
        """What each of the rules did."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was traced."""

    @property
    def layout(self) -> Layout:
        """Where the units of all groups are, and the numbers that calls are given."""

    @property
    def traced_side(self) -> Side:
        """The largest side."""

    @property
    def as_graph(self) -> bool:
        """Whether networks are graphs."""

    @property
    def side_multiple(self) -> int:
        """Sides that are smaller by steps of it, down to half, are taken too."""

    @property
    def proof(self) -> str:
        """What was compared at the end of the trace."""

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Operators that are in no sum of costs."""

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Operators for which there are no costs."""


def facts(space: Described, budget: Budget | None = None) -> dict[str, Any]:
    """What `describe` shows, and every list whole, as plain values.

    Args:
        space: the traced space.
        budget: limits to hold against it.
    """
    unknown = list(space.unpriced)
    found: dict[str, Any] = {
        "axes": {axis.name: list(axis.choices) for axis in space.axes},
        "groups": [
            {"name": g.name, "members": list(g.members), "width": g.width, "unit": g.unit, "widths": list(g.widths)}
            for g in space.groups
        ],
        "stages": [{"name": s.name, "blocks": list(s.blocks), "order": list(s.order)} for s in space.stages],
        "resolutions": [list(side) for side in space.resolutions],
        "traced_side": list(space.traced_side),
        "side_multiple": space.side_multiple,
        "frozen": dict(space.frozen),
        "whole_blocks": dict(space.whole_blocks),
        "rules": dict(space.ruled),
        "given": list(dict.fromkeys(one.module for one in space.layout.numbers)),
        "proof": space.proof,
        "combinations": math.prod(len(axis.choices) for axis in space.axes),
        "unknown": unknown,
        "uncounted": list(space.uncounted),
    }
    if unknown:
        return found
    sampled = space.cost_table(_drawn(space))
    full = {name: int(cost) for name, cost in space.full_costs.items()}
    found["smallest"] = {name: int(cost) for name, cost in space.smallest_costs.items()}
    found["full"] = full
    found["sampled"] = SAMPLES
    found["within"] = {
        name: {str(share): float((sampled[name] <= share * full[name]).mean()) for share in SHARES} for name in full
    }
    if budget is not None:
        found["budget"] = _held(budget, found, sampled)
    return found


def describe(space: Described, budget: Budget | None = None) -> str:
    """Groups, stages, resolutions, what is frozen and why, and the range of every cost; fits 80 columns.

    Args:
        space: the traced space.
        budget: limits to hold against it.
    """
    found = facts(space, budget)
    parts = [
        _axes(space, found),
        [*_widths(space.groups), *_undivided(space)],
        _depths(space),
        _stay(space.whole_blocks),
    ]
    parts += [_rules(space.ruled), _given(found["given"]), _frozen(space)]
    parts += [_wrapped(f"proof: {space.proof}", ""), _costs(found)]
    if found.get("budget"):
        parts.append(_limits(found))
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _drawn(space: Described) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`(SAMPLES, d)` candidates, each axis drawn evenly."""
    random = np.random.default_rng(0)
    columns = [random.choice(axis.choices, size=SAMPLES) for axis in space.axes]
    return np.stack(columns, axis=1) if columns else np.zeros((SAMPLES, 0), np.int64)


def _held(budget: Budget, found: Mapping[str, Any], sampled: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each limit, whether any network meets it, and the share of the sample that does."""
    rows = []
    known = {name: limit for name, limit in budget.asked().items() if name in found["full"]}
    limits = budget.limits(found["full"])
    for name, asked in budget.asked().items():
        row: dict[str, Any] = {"name": name, "asked": asked, "limit": None, "satisfiable": None, "within": None}
        if name in known:
            row["limit"] = limits[name]
            row["satisfiable"] = bool(found["smallest"][name] <= limits[name])
            row["within"] = float((sampled[name] <= limits[name]).mean())
        rows.append(row)
    if len(known) > 1:  # costs rise with every axis, so the smallest network meets all limits where it meets each
        all_of_them = np.logical_and.reduce([sampled[name] <= limits[name] for name in known])
        satisfiable = all(row["satisfiable"] is not False for row in rows)
        both = {"limit": None, "satisfiable": satisfiable, "within": float(all_of_them.mean())}
        rows.append({"name": "all", "asked": None} | both)
    return rows


# --- parts of the text ------------------------------------------------------------------------------------------------


def _axes(space: Described, found: Mapping[str, Any]) -> list[str]:
    kinds = [axis.kind for axis in space.axes]
    counts = [
        (kinds.count("width"), "width"),
        (kinds.count("depth"), "depth"),
        (kinds.count("resolution"), "resolution"),
    ]
    named = ", ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in counts if n)
    axes = f"{len(kinds)} {'axis' if len(kinds) == 1 else 'axes'} ({named})" if kinds else "nothing to choose"
    return [f"{axes}: {_count(found['combinations'])}", _resolution(space)]


def _resolution(space: Described) -> str:
    multiple = space.side_multiple
    none_or_any = {0: "; no regular steps below it", 1: "; any down to half of it"}
    steps = none_or_any.get(multiple, f"; steps of {multiple} down to half of it")
    sides = space.resolutions or ((space.traced_side,) if space.traced_side else ())
    if not sides:
        return "resolution: the input has no sides"
    word = "resolutions" if space.resolutions else "resolution"
    return f"{word}: {', '.join('x'.join(map(str, side)) for side in sides)}{steps}"


def _widths(groups: Sequence[Group]) -> list[str]:
    if not groups:
        return []
    alike = [[group] for group in groups]
    for pattern in (_items_hidden, _numbers_hidden):
        if len(alike) > MANY:
            alike = _alike(groups, pattern)
    rows: list[tuple[str, ...]] = [("width of", "groups", "full", "choices", "cut together with")]
    for same in alike:
        others = _together([_merged(names) for names in zip(*(group.members[1:] for group in same), strict=True)])
        name = _merged([group.name for group in same])
        rows.append((_short(name, 26), str(len(same)), _full(same[0]), _choices(same[0].widths), ", ".join(others)))
    head = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    shown = rows if len(alike) < len(groups) else [row[:1] + row[2:] for row in rows]
    return [f"{head} of channels that are cut together", *_table(shown)]


def _undivided(space: Described) -> list[str]:
    """The groups that have no width by the divisor but the full one, so that it does not hold for them."""
    divisor = space.settings["divisor"]
    names = [one.name for one in space.groups if all(width % divisor for width in one.widths[:-1])]
    if not names:
        return []
    text = f"no narrower multiple of the divisor, {divisor}, so it does not hold: {', '.join(_together(names))}"
    return _wrapped(text, "  ")


def _alike(groups: Sequence[Group], pattern: Callable[[str], str]) -> list[list[Group]]:
    """Groups of the same widths and as many members whose names differ in numbers only."""
    found: dict[Any, list[Group]] = {}
    for group in groups:
        found.setdefault((pattern(group.name), group.widths, len(group.members)), []).append(group)
    return list(found.values())


def _depths(space: Described) -> list[str]:
    if not space.stages:
        return []
    rows = [("depth of", "blocks", "dropped in this order")]
    rows += [
        (_short(s.name, 26), f"0 to {len(s.blocks)}", ", ".join(name.removeprefix(f"{s.name}.") for name in s.order))
        for s in space.stages
    ]
    head = "1 stage" if len(space.stages) == 1 else f"{len(space.stages)} stages"
    return [f"{head} of blocks that may be dropped", *_table(rows)]


def _stay(blocks: Mapping[str, str]) -> list[str]:
    if not blocks:
        return []
    lines = [f"{len(blocks)} block{'s' * (len(blocks) != 1)} that may not be dropped"]
    for reason in dict.fromkeys(blocks.values()):
        names = _together([name for name, why in blocks.items() if why == reason])
        lines += _wrapped(reason, "  ") + _wrapped(_cut(", ".join(names), COLUMNS - 4), "    ")
    return lines


def _rules(ruled: Mapping[str, str]) -> list[str]:
    lines = [line for rule in ruled.items() for line in _wrapped(": ".join(rule), "  ")]
    return ["rules for parts", *lines] if lines else []


def _given(modules: Sequence[str]) -> list[str]:
    """Whose forwards work out other numbers with fewer channels."""
    if not modules:
        return []
    names = ", ".join(_together([name or "the network itself" for name in modules]))
    return ["modules whose calls are given the numbers of what is left", *_wrapped(_cut(names, COLUMNS - 2), "  ")]


def _frozen(space: Described) -> list[str]:
    by_reason, frozen = dict[str, list[str]](), space.frozen
    for name, reason in frozen.items():
        by_reason.setdefault(reason, []).append(name)
    shown = 3 if len(frozen) >= 50 else 12
    lines = [f"frozen, which is left whole: {len(frozen)} module{'s' * (len(frozen) != 1)}"]
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        count = f"{len(names)} modules: " if len(frozen) >= 50 and len(names) > 1 else ""
        listed = count + ", ".join(name or "the network itself" for name in names[:shown]) + more
        lines += _wrapped(reason, "  ") + _wrapped(listed, "    ")
    if not space.as_graph and any(reason.startswith((WRITTEN, NUMBER)) for reason in by_reason):
        lines += _wrapped("as_graph=True may cut what numbers in a forward hold up", "  ")
    return lines if frozen else []


def _costs(found: Mapping[str, Any]) -> list[str]:
    if found["unknown"]:
        unknown = (f"costs unknown: operator {name} has no formula; see costs.register" for name in found["unknown"])
        return [line for text in unknown for line in _wrapped(text, "")]
    rows = [("", "smallest", "full", "ratio", *(f"<= {share:.0%}" for share in SHARES))]
    for name in BUDGETED:
        least, full = found["smallest"][name], found["full"][name]
        shares = (_percent(found["within"][name][str(share)]) for share in SHARES)
        rows.append((name, f"{least:,}", f"{full:,}", f"{least / max(full, 1):.2g}", *shares))
    note = f"<= 50%: of {found['sampled']:,} candidates drawn at random, how many cost at most half"
    lines = ["costs of one example", *_table(rows, right=range(1, 7)), f"  ({note})"]
    if found["uncounted"]:
        lines += _wrapped(f"(in no sum of multiply-adds: {', '.join(found['uncounted'])})", "  ")
    return lines


def _limits(found: Mapping[str, Any]) -> list[str]:
    rows = [("limit", "at most", "reachable", "satisfiable", "of the sample")]
    for row in found["budget"]:
        asked = row["name"] if row["asked"] is None else f"{row['name']}={row['asked']}"
        limit = "" if row["limit"] is None else f"{row['limit']:,.0f}"
        least = f"{found['smallest'][row['name']]:,}" if row["name"] in found["smallest"] else ""
        met = {True: "yes", False: "no", None: "measured"}[row["satisfiable"]]
        rows.append((asked, limit, least, met, "" if row["within"] is None else _percent(row["within"])))
    return ["budget", *_table(rows, right=(1, 2))]


# --- words ------------------------------------------------------------------------------------------------------------


def _count(n: int) -> str:
    return f"{n:,} combination{'s' * (n != 1)}" if n < 10**9 else f"about 10^{round(math.log10(n))} combinations"


def _percent(share: float) -> str:
    """A share of the sample; what is not all or none does not read as such."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def _full(group: Group) -> str:
    """The width of the full network; of heads also how many there are."""
    if not group.heads or group.unit == 1:
        return str(group.width)
    together = "" if group.heads == 1 else f" x {group.heads}"
    return f"{group.units}{together} heads ({group.width})"


def _choices(choices: tuple[int, ...]) -> str:
    if len(choices) <= 3:
        return " ".join(map(str, choices))
    step = choices[1] - choices[0]
    regular = choices[-1] - choices[-2] == step
    last = choices[-1] if regular else choices[-2]
    return f"{choices[0]} to {last} by {step}" + ("" if regular else f", {choices[-1]}")


def _items_hidden(name: str) -> str:
    """The path with the items that are numbers hidden: `layer1.*.conv1`."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _numbers_hidden(name: str) -> str:
    """The path with all its numbers hidden: `layer*.*.conv*`."""
    return re.sub(r"\d+", "*", name)


def _merged(names: Sequence[str]) -> str:
    """One text for several paths: `*` where they differ."""
    parts = [re.split(r"(\d+|\.)", name) for name in names]
    if len({len(path) for path in parts}) > 1:
        return f"{names[0]} .."
    return "".join(items[0] if len(set(items)) == 1 else "*" for items in zip(*parts, strict=True))


def _together(names: Sequence[str]) -> list[str]:
    """Paths that differ in numbers only as one, with how many there are."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_items_hidden(name), []).append(name)
    return [_merged(same) + (f" ({len(same)})" if len(same) > 1 else "") for same in alike.values()]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[3 - width :]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, initial_indent=indent, subsequent_indent=indent)


def _table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Columns two apart; the last one is cut where the line ends."""
    *columns, last = range(len(rows[0]))
    widths = [max(len(row[column]) for row in rows) for column in columns]
    rights = set(right)
    room = COLUMNS - 2 - sum(widths) - 2 * len(widths)
    wide = min(room, max(len(row[last]) for row in rows))
    lines = []
    for row in rows:
        cells = [row[c].rjust(widths[c]) if c in rights else row[c].ljust(widths[c]) for c in columns]
        cells.append(row[last].rjust(wide) if last in rights else _cut(row[last], room))
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _cut(text: str, room: int) -> str:
    """As much of a list as fits, and how many more there are."""
    if len(text) <= room:
        return text
    items = text.split(", ")
    for n in range(len(items) - 1, 0, -1):
        shorter = f"{', '.join(items[:n])}, +{len(items) - n} more"
        if len(shorter) <= room:
            return shorter
    more = f", +{len(items) - 1} more" if len(items) > 1 else ""
    return _short(items[0], room - len(more)) + more
