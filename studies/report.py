"""Events, fronts and standings as text and JSON: what the command line writes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def event_line(event: Mapping[str, Any]) -> str:
    """An event of a search or an export in one line."""
    kind = event["event"]
    if kind == "base":
        return f"base network: epoch {event['done']}/{event['total']}, loss {event['loss']:.4f}{_left(event)}"
    if kind == "trial":
        last, best = event["last"], event["best"]
        said = f"error {_percent(last['error'])}" if last["error"] is not None else last["reason"]
        known = f"; best {_percent(best['error'])} (trial {best['trial']})" if best else ""
        others = f"; {event['running']} running" if event.get("running") else ""
        return (
            f"trial {event['done']}/{event['total']}: {said}, {_count(last['macs'])} MACs{known}{others}{_left(event)}"
        )
    if kind == "calibration":
        return f"latency: {event['done']}/{event['total']} networks measured"
    if kind == "pruning":
        return f"{event['method']}: epoch {event['done']}/{event['total']}, loss {event['loss']:.4f}{_left(event)}"
    if kind == "proposed":
        costs = f"{_count(event['macs'])} MACs, {_count(event['params'])} parameters"
        return f"{event['method']} proposes a network of {costs}, in {duration(event['seconds'])}"
    place = f"network {event['network']}/{event['networks']} (trial {event['trial']})"
    if kind == "epoch":
        return f"{place}: epoch {event['done']}/{event['total']}, loss {event['loss']:.4f}"
    if kind == "finished":
        return f"{place}: trained, {_errors(event)}"
    worst = max((difference for name, figures in _compared(event["verified"]) for difference in figures), default=0.0)
    formats = ", ".join(name for name, _ in _compared(event["verified"]))
    return f"{event['folder']}: {formats}; largest difference {worst:.1e} of the largest output"


def front_text(front: pd.DataFrame, full: Mapping[str, float], resolutions: Sequence[Sequence[int]]) -> str:
    """A front as a table for people: errors in percent, costs beside their share of the full network's."""
    if front.empty:
        return "the front is empty: no trial is within the budget yet"
    costs = [name for name in (*full, "latency_ms") if name in front and name not in _DERIVED]
    axes = [name for name in map(str, front) if name.startswith("depth:") or name == "resolution"]
    rows = [["trial", "key", "error %", *costs, *axes]]
    for row in frame_json(front):
        error = f"{100 * row['error']:.2f}" + ("" if row["error_std"] is None else f" +- {100 * row['error_std']:.2f}")
        shown = [_cost(name, row[name], full) for name in costs]
        chosen = [_side(resolutions[row[name]]) if name == "resolution" else str(row[name]) for name in axes]
        rows.append([str(row["trial"]), str(row["key"]), error, *shown, *chosen])
    return table(rows)


def standing_text(standing: Mapping[str, Any]) -> str:
    """What `Study.status` or `View.status` says, for people: 80 columns."""
    best = standing["best"]
    found = "none yet" if best is None else f"trial {best['trial']}, error {_percent(best['error'])}, {_costs(best)}"
    asked = ", ".join(f"{name}={limit}" for name, limit in standing["budget"].items()) or "none"
    foretold: dict[str, str] = {}
    for proxy in standing["proxies"]:  # best first; a method that was asked at several costs is named once
        name = proxy["proxy"].partition(":")[0]
        foretold.setdefault(name, f"{name} {proxy['correlation']:.2f}")
    rows = [
        ["trials", _counts(standing)],
        *([["left", f"about {duration(standing['left_s'])}"]] if standing.get("left_s") is not None else []),
        *(["driver", _driver(driver)] for driver in standing.get("drivers", [])),
        ["front", f"{standing['front']} networks"],
        ["best", found],
        ["budget", asked],
        ["sampler", f"{standing['sampler']}, minimising {' and '.join(standing['objectives'])}"],
        ["fidelity", standing["fidelity"]],
        *([["seeds", _worth(standing["seeds"])]] if standing["seeds"] else []),
        *([["surrogate", _foresight(standing["foresight"])]] if standing["foresight"] else []),
        *([["proxies", f"{', '.join(foretold.values())} (rank correlation with the errors)"]] if foretold else []),
        ["spent", f"{duration(standing['seconds'])} evaluating"],
        *(["failed", _failure(failure)] for failure in standing["failures"][:_REASONS]),
        *(["gpu", _gpu(gpu)] for gpu in standing.get("gpus", [])),
    ]
    slots = [slot for driver in standing.get("drivers", []) for slot in driver["slots"]]
    return _wrapped(rows) + (f"\n\n{_slots(slots)}" if slots else "")


def standing_line(standing: Mapping[str, Any]) -> str:
    """The same in one line, for a log."""
    best, left_s = standing["best"], standing.get("left_s")
    said = _counts(standing) + ("" if best is None else f"; best {_percent(best['error'])} (trial {best['trial']})")
    return said + ("" if left_s is None else f"; {duration(left_s)} left")


def pruned_text(config: Mapping[str, Any]) -> str:
    """What `secateur prune` made, for people: costs and errors beside the full network's."""
    rows = [["", config["method"], "full"]]
    for name, value in config["costs"].items():
        if name not in _DERIVED:
            whole = config["full_costs"].get(name)
            rows.append([name, _cost(name, value, config["full_costs"]), "" if whole is None else _count(whole)])
    for split in ("validation", "test"):
        if f"{split}_error" in config["errors"]:
            found, whole = config["errors"][f"{split}_error"], config["errors"][f"full_{split}_error"]
            rows.append([f"{split} error", _percent(found), _percent(whole)])
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def frame_json(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as plain values; NaN is None."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return rows


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(7), duration(130), duration(7300)
    ('7 s', '2 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


_DERIVED = ("param_bytes", "activation_bytes")  # in the CSV, not on the screen
_COLUMNS = 80
_REASONS, _REASON = 5, 200  # of failures, that are shown; and how many letters of one


def _counts(standing: Mapping[str, Any]) -> str:
    drivers, left = standing.get("drivers"), standing["running"]
    active = [driver for driver in drivers or () if driver["state"] == "running"]
    slots = [slot for driver in active for slot in driver["slots"]]
    busy = min(left, sum(slot["state"] == "busy" and not slot.get("training") for slot in slots)) if slots else left
    # What nobody runs is not running; `Study.status` does not know who runs it.
    counts = {"running": busy, "waiting": left - busy} if active or drivers is None else {"unfinished": left}
    counts |= {"failed": standing["failed"], "skipped": standing["skipped"]}
    goal = f" of {standing['goal']}" if standing.get("goal") else ""
    said = [f"{count} {name}" for name, count in counts.items() if count]
    return ", ".join([f"{standing['told']}{goal} done", *said])


def _driver(driver: Mapping[str, Any]) -> str:
    who = f"process {driver['pid']} on {driver['host']}"
    if driver["state"] == "gone":
        return f"{who} is gone; resume the study to go on: what it had not finished is done again"
    if driver["state"] == "silent":
        return f"{who}, not heard of for {duration(driver['heard_s'])}"
    return who + ("" if driver["elapsed_s"] is None else f", since {duration(driver['elapsed_s'] + driver['heard_s'])}")


def _failure(failure: Mapping[str, Any]) -> str:
    numbers, reason = ", ".join(map(str, failure["trials"])), _short(failure["reason"], _REASON)
    if failure["count"] == 1:
        return f"trial {numbers}: {reason}"
    more = "... " if failure["count"] > len(failure["trials"]) else ""
    return f"{failure['count']} times: {reason} (trials {more}{numbers})"


def _gpu(gpu: Mapping[str, Any]) -> str:
    said = f"{gpu['gpu']}, {gpu['name']}"
    said += "" if gpu["busy"] is None else f": {100 * gpu['busy']:.0f}% busy"
    if gpu["used_bytes"] is None or gpu["total_bytes"] is None:
        return said
    return f"{said}, {gpu['used_bytes'] / 2**30:.1f} of {gpu['total_bytes'] / 2**30:.1f} GiB"


def _slots(slots: Sequence[Mapping[str, Any]]) -> str:
    rows = [["slot", "does", "for", "process", "on", "gpus"]]
    for slot in slots:
        pid, gpus = slot.get("pid"), slot.get("gpus") or ()
        place = ["" if pid is None else str(pid), _short(str(slot.get("host") or ""), 16), ",".join(map(str, gpus))]
        rows.append([str(slot["slot"]), _does(slot), duration(slot["seconds"]), *place])
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    return "\n".join(_short(line, _COLUMNS) for line in table([[row[i] for i in used] for row in rows]).splitlines())


def _does(slot: Mapping[str, Any]) -> str:
    if slot["state"] == "free":
        return "nothing"
    what = "shared weights" if slot.get("training") else f"trial {slot.get('trial')}"
    if slot["state"] == "lost":
        return f"its worker died in {what}" if "trial" in slot else "its worker died"
    said = what + (f", attempt {slot['attempt']}" if slot.get("attempt", 1) > 1 else "")
    if slot.get("epoch") is not None:
        said += f", epoch {slot['epoch']}" + (f"/{slot['epochs']}" if slot.get("epochs") else "")
    return said + (f", loss {slot['loss']:.4f}" if isinstance(slot.get("loss"), float) else "")


def _wrapped(rows: Sequence[Sequence[str]]) -> str:
    """Names, and what is said of them beside, within the columns."""
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, said in rows:
        broken = textwrap.wrap(said, _COLUMNS - width - 2, break_long_words=False, break_on_hyphens=False)
        lines += [f"{title:{width}}  {line}" for title, line in zip([name, *[""] * len(broken)], broken, strict=False)]
    return "\n".join(lines)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _left(event: Mapping[str, Any]) -> str:
    return f"; {duration(event['eta'])} left" if event["left"] and event["eta"] is not None else ""


def _errors(event: Mapping[str, Any]) -> str:
    names = [name for name in ("validation", "test") if f"{name}_error" in event]
    return ", ".join(
        f"{name} error {_percent(event[f'{name}_error'])} +- {100 * event[f'{name}_error_std']:.2f} "
        f"({event[f'{name}_size']} examples)"
        for name in names
    )


def _compared(verified: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """Each format with its differences, one a batch size."""
    return [
        (name, [float(value) for value in figures.values() if isinstance(value, int | float)])
        for name, figures in verified.items()
        if isinstance(figures, Mapping)
    ]


def _costs(measures: Mapping[str, Any]) -> str:
    said = [f"{_count(measures['macs'])} MACs", f"{_count(measures['params'])} parameters"]
    return ", ".join(said + ([f"{measures['latency_ms']:.3g} ms"] if "latency_ms" in measures else []))


def _cost(name: str, value: float | None, full: Mapping[str, float]) -> str:
    if value is None:
        return ""
    if name == "latency_ms":
        return f"{value:.3g}"
    return f"{_count(value)} ({value / max(full[name], 1):.3f})"


def _side(side: Sequence[int]) -> str:
    return "x".join(map(str, side))


def _count(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"


def _worth(worth: Mapping[str, Any]) -> str:
    best, since = worth["best_error"], worth["best_error_since"]
    said = f"{worth['seeds']} within the budget" + ("" if best is None else f", best error {_percent(best)}")
    said += "" if since is None else f"; {_percent(since)} found since"
    return said + ("" if worth["share"] is None else f"; {worth['share']:.2f} of the front's hypervolume")


def _foresight(found: Mapping[str, Any]) -> str:
    said = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found["model"].items()
    ]
    if "rmse" in found:
        said.append(
            f"foretold {found['trials']} errors within {_percent(found['rmse'])} "
            f"({_percent(found['rmse_of_mean'])} by their mean)"
        )
    return ", ".join(said)


def _percent(error: float) -> str:
    return f"{100 * error:.2f}%"
