"""Fronts and standings as text: what the command line writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..trials.words import count, duration, percent, shortened
from .status import Reason, Status, verdict
from .terminal import PLAIN, Style, beside, fitting, table

if TYPE_CHECKING:
    import pandas as pd

_DERIVED = ("param_bytes", "activation_bytes")  # in the CSV, not on the screen
_RAN = "one call of the network in eager PyTorch; an export runs at another speed, see sc.onnxruntime_ms"
_MAIN = 2  # costs that have room before anything else does
_BRIEF = 60  # letters of what is done to images
_REASONS, _REASON = 5, 200  # of failures, that are shown; and how many letters of one


def front_text(
    front: pd.DataFrame,
    full: Mapping[str, float],
    *,
    first: Sequence[str] = (),
    style: Style = PLAIN,
) -> str:
    """A front as a table for people: errors in percent, costs beside their share of the full network's.

    Args:
        front: as `Study.front` gives it.
        full: costs of the full network.
        first: costs that are shown before others, where there is no room for all.
        style: of what can be shown.
    """
    if front.empty:
        return "the front is empty: no trial is within the budget yet"
    rows = frame_json(front)
    costs = [name for name in (*full, "latency_ms") if name in front and name not in _DERIVED]
    costs.sort(key=lambda name: list(first).index(name) if name in first else len(first))
    columns = [["trial", *(str(row["trial"]) for row in rows)]]
    columns.append(["error %", *(_error_cell(row["error"], row["error_std"]) for row in rows)])
    columns += [[name, *(_cost(name, row[name], full) for row in rows)] for name in costs]
    if "resolution" in front:
        columns.append(["side", *(str(row["resolution"]) for row in rows)])
    stages = [name for name in map(str, front) if name.startswith("depth:")]
    if stages:
        columns.append(["depth", *("-".join(str(row[name]) for name in stages) for row in rows)])
    columns.append(["key", *(str(row["key"]) for row in rows)])
    last = 2 + len(costs)
    main = range(2, min(last, 2 + _MAIN))
    kept = fitting(columns, [0, 1, *main, *range(last, len(columns)), *range(main.stop, last)], style.width)
    best = min(range(len(rows)), key=lambda number: rows[number]["error"])
    cells = [[columns[column][row] for column in kept] for row in range(len(rows) + 1)]
    right = [place for place, column in enumerate(kept) if column < last]
    said = table(cells, right=right, best=best + 1, style=style)
    hidden = [columns[column][0] for column in range(len(columns)) if column not in kept]
    said += f"\nno room for {', '.join(hidden)}: see --csv or --json" if hidden else ""
    return said + (f"\nlatency_ms: {_RAN}" if "latency_ms" in costs and "latency_ms" not in hidden else "")


def status_text(status: Status, style: Style = PLAIN) -> str:
    """Where a study stands, for people."""
    best = status.best
    found = "none yet"
    if best is not None:
        hoped = "" if status.best_expected is None else f" ({percent(status.best_expected)} expected)"
        found = f"trial {best.number}, error {percent(best.measures['error'])}{hoped}, {_costs(best.measures)}"
    proxies: dict[str, str] = {}
    for proxy in status.proxies:  # best first; a method that was asked at several costs is named once
        name = proxy["proxy"].partition(":")[0]
        proxies.setdefault(name, f"{name} {proxy['correlation']:.2f}")
    drivers = status.drivers or []
    rows = [
        ("trials", _counts(status)),
        ("left", "" if status.left_s is None else f"about {duration(status.left_s)}"),
        *(("driver", _driver(driver)) for driver in drivers),
        ("ended", "" if status.ended is None else f"by {status.ended['by']}: {status.ended['said']}"),
        ("best", found),
        ("error", _best_so_far(status, style)),
        ("front", f"{status.front} network{'s' * (status.front != 1)}{_volume_so_far(status, style)}"),
        ("full", full_text(status)),
        ("inputs", _inputs(status)),
        ("budget", _asked(status)),
        ("floor", _floor(status)),
        ("sampler", f"{status.sampler}, minimising {' and '.join(status.objectives)}"),
        ("fidelity", status.fidelity),
        ("seeds", _worth(status.seeds) if status.seeds else ""),
        ("surrogate", _foresight(status.foresight) if status.foresight else ""),
        *(("foretold", _foretold(name, found)) for name, found in status.foretold.items()),
        ("proxies", f"{', '.join(proxies.values())} (rank correlation with the errors)" if proxies else ""),
        ("spent", f"{duration(status.seconds)} evaluating"),
        *(("failed", _failure(failure)) for failure in status.failures[:_REASONS]),
        *(("gpu", _gpu(gpu)) for gpu in status.gpus),
    ]
    slots = [slot for driver in drivers for slot in driver["slots"]]
    said = beside([row for row in rows if row[1]], bad=("failed",), style=style)
    return said + (f"\n\n{_slots(slots, style)}" if slots else "")


def full_text(status: Status) -> str:
    """The full network's error as it was given, in words; empty where the study does not know it."""
    full = status.full
    if "error" not in full:
        return f"not measured: {full['reason']}" if "reason" in full else ""
    said = f"error {percent(full['error'])}" + (f" +- {100 * full['error_std']:.2f}" if "error_std" in full else "")
    said += f" on {full['size']:,} validation examples" if "size" in full else ""
    return said + (f"; {percent(full['expected'])} was expected" if isinstance(full.get("expected"), float) else "")


def _inputs(status: Status) -> str:
    """What is done to images before the network sees them."""
    known = status.full.get("preprocessing", {})
    return ", ".join(f"{name} {_brief(known[name])}" for name in ("scale", "mean", "std") if name in known)


def _brief(value: Any) -> str:
    text = " ".join(_value(one) for one in value) if isinstance(value, list) else _value(value)
    return shortened(text, _BRIEF)


def status_line(status: Status) -> str:
    """The same in one line, for a log."""
    best = status.best
    known = "" if best is None else f"; best {percent(best.measures['error'])} (trial {best.number})"
    return _counts(status) + known + ("" if status.left_s is None else f"; {duration(status.left_s)} left")


def pruned_text(config: Mapping[str, Any], style: Style = PLAIN) -> str:
    """What `secateur prune` made, for people: costs and errors beside the full network's, or the agreement with it."""
    rows = [["", config["method"], "full"]]
    for name, value in config["costs"].items():
        if name not in _DERIVED:
            whole = config["full_costs"].get(name)
            rows.append([name, _cost(name, value, config["full_costs"]), "" if whole is None else count(whole)])
    for split in ("validation", "test"):
        if f"{split}_error" in config["errors"]:
            found, whole = config["errors"][f"{split}_error"], config["errors"][f"full_{split}_error"]
            rows.append([f"{split} error", percent(found), percent(whole)])
    if config.get("agreement") is not None:
        rows.append(["agreement", percent(config["agreement"]), ""])
        if config["reconstruction"].get("agreement_interval") is not None:
            low, high = (percent(bound) for bound in config["reconstruction"]["agreement_interval"])
            rows.append([f"  on {config['reconstruction']['held_out']} pictures", f"{low} to {high}", ""])
    return table(rows, right=(1, 2), style=style)


def exported_text(configs: Sequence[Mapping[str, Any]], style: Style = PLAIN) -> str:
    """Networks that were exported, for people: the `config.json` of each, and `folder`, its path."""
    split = "test" if all("test_error" in config["errors"] for config in configs) else "validation"
    errors = [(config["errors"][f"{split}_error"], config["errors"][f"{split}_error_std"]) for config in configs]
    columns = [
        ["network", *(Path(config["folder"]).name for config in configs)],
        [f"{split} error %", *(_error_cell(*error) for error in errors)],
    ]
    for name in ("macs", "params", "latency_ms", "peak_bytes"):
        if all(name in config["costs"] for config in configs):
            columns.append([name, *(_cost(name, config["costs"][name], config["full_costs"]) for config in configs)])
    kept = fitting(columns, range(len(columns)), style.width)
    rows = [[columns[column][row] for column in kept] for row in range(len(configs) + 1)]
    said = table(rows, right=[place for place, column in enumerate(kept) if column], style=style)
    verified = (item for config in configs for item in config["verified"].items())
    formats = dict.fromkeys(name for name, found in verified if isinstance(found, Mapping))
    return f"{said}\nin {Path(configs[0]['folder']).parent}: {', '.join(formats)}, each read back and compared"


def frame_json(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as plain values; NaN is None."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return rows


# --- where a study stands ---------------------------------------------------------------------------------------------


def _counts(status: Status) -> str:
    left = status.running
    slots = [slot for driver in status.active for slot in driver["slots"]]
    busy = min(left, sum(slot["state"] == "busy" and not slot.get("training") for slot in slots)) if slots else left
    # What no one runs is not running; `Study.status` does not know who runs it.
    known = status.active or status.drivers is None
    counts = {"running": busy, "waiting": left - busy} if known else {"unfinished": left}
    counts |= {"failed": status.failed, "skipped": status.skipped}
    goal = f" of {status.goal}" if status.goal else ""
    return ", ".join([f"{status.told}{goal} done", *(f"{number} {name}" for name, number in counts.items() if number)])


def _driver(driver: Mapping[str, Any]) -> str:
    said = f"process {driver['pid']} on {driver['host']}"
    if driver["state"] == "gone":
        return f"{said} is gone; resume the study to go on: what it had not finished is done again"
    if driver["state"] == "silent":
        return f"{said}, which wrote nothing for {duration(driver['heard_s'])}"
    return said + (
        "" if driver["elapsed_s"] is None else f", since {duration(driver['elapsed_s'] + driver['heard_s'])}"
    )


def _failure(failure: Reason) -> str:
    numbers, reason = ", ".join(map(str, failure.trials)), shortened(failure.reason, _REASON)
    if failure.count == 1:
        return f"trial {numbers}: {reason}"
    return f"{failure.count} times: {reason} (trials {'... ' * (failure.count > len(failure.trials))}{numbers})"


def _gpu(gpu: Mapping[str, Any]) -> str:
    said = f"{gpu['gpu']}, {gpu['name']}"
    said += "" if gpu["busy"] is None else f": {100 * gpu['busy']:.0f}% busy"
    if gpu["used_bytes"] is None or gpu["total_bytes"] is None:
        return said
    return f"{said}, {gpu['used_bytes'] / 2**30:.1f} of {gpu['total_bytes'] / 2**30:.1f} GiB"


def _slots(slots: Sequence[Mapping[str, Any]], style: Style) -> str:
    rows = [["slot", "does", "for", "process", "on", "gpus"]]
    for slot in slots:
        known = [slot.get("pid"), slot.get("host"), ", ".join(map(str, slot.get("gpus") or ()))]
        place = ["" if one is None else str(one) for one in known]
        rows.append([str(slot["slot"]), _does(slot), duration(slot["seconds"]), *place])
    used = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    return table([[row[column] for column in used] for row in rows], style=style)


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


def _costs(measures: Mapping[str, Any]) -> str:
    said = [f"{count(measures['macs'])} MACs", f"{count(measures['params'])} parameters"]
    return ", ".join(said + ([f"{measures['latency_ms']:.3g} ms"] if "latency_ms" in measures else []))


def _cost(name: str, value: float | None, full: Mapping[str, float]) -> str:
    if value is None:
        return ""
    if name == "latency_ms":
        return f"{value:.3g}"
    share = 100 * value / max(full[name], 1)
    return f"{count(value)} ({share:.1f}%)" if share >= 0.1 else f"{count(value)} ({share:.1g}%)"


def _error_cell(error: float, std: float | None) -> str:
    return f"{100 * error:.2f}" + ("" if std is None else f" +- {100 * std:.2f}")


def _best_so_far(status: Status, style: Style) -> str:
    """The best error over the trials as a sparkline, and from where to where it went."""
    known = [error for error in status.history.get("best_error", ()) if error is not None]
    if len(set(known)) < 2:
        return ""
    line = style.spark(known)
    return f"{line}{'  ' if line else ''}best so far, {percent(known[0])} to {percent(known[-1])}"


def _volume_so_far(status: Status, style: Style) -> str:
    known = [share for share in status.history.get("hypervolume", ()) if share is not None]
    line = style.spark(known) if len(known) > 1 else ""
    return f"; hypervolume {line}" if line else ""


def _asked(status: Status) -> str:
    """The budget as it was asked for; a share with what it comes to."""
    said = []
    for name, limit in status.budget.items():
        comes_to = status.limits.get(name)
        known = "" if comes_to is None or comes_to == limit else f" ({_amount(name, comes_to)})"
        said.append(f"{name}={limit}{known}")
    return ", ".join(said) or "none"


def _floor(status: Status) -> str:
    if status.max_error is None or not status.told:
        return ""
    left_out = f"; {status.useless} above it left out" if status.useless else ""
    return f"error at most {percent(status.max_error)}{left_out}"


def _amount(name: str, value: float) -> str:
    return f"{value:.3g} ms" if name == "latency_ms" else count(value)


def _worth(worth: Mapping[str, Any]) -> str:
    best, since = worth["best_error"], worth["best_error_since"]
    said = f"{worth['seeds']} within the budget" + ("" if best is None else f", best error {percent(best)}")
    said += "" if since is None else f"; {percent(since)} found since"
    return said + ("" if worth["share"] is None else f"; {worth['share']:.2f} of the front's hypervolume")


def _foresight(found: Mapping[str, Any]) -> str:
    said = [verdict(found), _surrogate(found["model"]) if found["model"] else ""]
    return " ".join(one for one in said if one)


def _foretold(name: str, found: Mapping[str, Any]) -> str:
    return (
        f"{name} of {found['rows']} measured networks: errs by {percent(found['error'])} on those left out, differs by "
        f"{percent(found['spread'])} when measured again"
    )


def _surrogate(model: Mapping[str, Any]) -> str:
    """What a sampler noted on its model of the error; that of a sampler of the user's own as it stands."""
    match model:
        case {"kind": "start", "trials": trials}:
            return f"none yet, {trials} {'error is' if trials == 1 else 'errors are'} too few"
        case {"kind": "mean", "trials": trials, "rmse": _, "mean_rmse": _}:
            return f"the mean of {trials} errors; a polynomial {_left_out(model)}"
        case {"kind": "three-dimensions", "samples": samples, "rmse": _, "mean_rmse": _}:
            said = f"polynomial of depth, width and resolution through {samples} networks; {_left_out(model)}"
            return said + (f"; best at {_value(model['optimum'])}" if "optimum" in model else "")
        case {"kind": "polynomial", "degree": degree, "coefficients": number, "trials": trials, "rmse": _,
              "mean_rmse": _, "transform": _}:  # fmt: skip
            counted = f"{number} coefficients{_scale(model)} through {trials} errors"
            beside = f", beside a Gaussian process of {model['process']:.0%} of the say" if model.get("process") else ""
            return f"polynomial of degree {degree}, {counted}{beside}; {_left_out(model)}"
    return ", ".join(f"{name} {_value(value)}" for name, value in model.items())


def _left_out(model: Mapping[str, Any]) -> str:
    return f"errs by {percent(model['rmse'])} on trials left out ({percent(model['mean_rmse'])} by their mean)"


def _scale(model: Mapping[str, Any]) -> str:
    return "" if model.get("transform", "identity") == "identity" else f" of their {model['transform']}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
