"""What a search found beside the unpruned network at every side: agreement, seconds and memory, table and chart."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
from network import LinkNet3d
from scipy import stats
from task import BrainMask, DiceError
from torch import Tensor, nn

import secateur as sc
from secateur.evaluators import Latency, measure_error, measure_latencies, train

Sets = dict[str, tuple[Tensor, Tensor]]
Row = dict[str, Any]


def compared(study: sc.Study, exports: Path, model: nn.Module, sets: Sets) -> list[Row]:
    """A row a network: the unpruned one at every side, trained on where it is fast enough, and the found ones."""
    space, training = study.space, study.training
    limit = study.status().limits.get("latency_ms", math.inf)
    networks: list[tuple[str, sc.Candidate, nn.Module]] = [
        ("unpruned", space.check((*space.full[:-1], number)), model) for number in range(len(space.resolutions))
    ]
    for folder in sorted(exports.glob("trial-*")):
        record = json.loads((folder / "config.json").read_text())
        found = sc.load(folder, model=LinkNet3d())
        networks.append((f"trial {record['trial']}", space.check(record["candidate"]), found))
    calls = [(network, space.example(candidate)) for _, candidate, network in networks]
    times = [timing.ms for timing in measure_latencies(calls, Latency(repeats=5, warmup=1))]
    for place, (name, candidate, _) in enumerate(list(networks)):
        if name == "unpruned" and times[place] <= limit:
            trained, side = sc.build(model, space, candidate), space.side(candidate)
            train(trained, study.task, training, epochs=training.long_epochs, resolution=side)
            networks.append(("unpruned, trained on", candidate, trained))
            times.append(times[place])
    costs = space.costs([candidate for _, candidate, _ in networks])
    return [
        {
            "network": name,
            "side": space.side(candidate)[0],
            **{cost: int(costs[cost].iloc[place]) for cost in ("macs", "params", "peak_bytes")},
            "seconds": times[place] / 1000,
            **{split: agreements(network, space.side(candidate), data) for split, data in sets.items()},
        }
        for place, (name, candidate, network) in enumerate(networks)
    ]


def agreements(network: nn.Module, side: tuple[int, ...], data: tuple[Tensor, Tensor]) -> list[float]:
    """Dice of every volume with the teacher's mask."""
    found = measure_error(network, BrainMask({"test": data}), split="test", resolution=side)
    assert isinstance(found, DiceError)
    return [1 - error for error in found.errors]


def interval(values: list[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval (Student's t)."""
    spread = statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), float(stats.t.ppf(0.975, len(values) - 1)) * spread


def table(rows: list[Row]) -> str:
    """Markdown, the most expensive first."""
    lines = [
        "| network | side | million MACs | parameters | peak MB | seconds | Dice, other copies | the other head |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: -row["seconds"]):
        found = ["{:.3f} ± {:.3f}".format(*interval(row[name])) for name in ("test", "other")]
        lines.append(
            f"| {row['network']} | {row['side']} | {row['macs'] / 1e6:,.0f} | {row['params']:,} "
            f"| {row['peak_bytes'] / 1e6:.1f} | {row['seconds']:.3f} | {found[0]} | {found[1]} |"
        )
    return "\n".join(lines)


def chart(trials: pd.DataFrame, rows: list[Row], file: Path) -> None:
    """Agreement against seconds and against memory; hollow on the other head."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    trials = trials[trials["evaluated"]]
    kinds = {"unpruned": ("unpruned", "s", "C7"), "trained": ("unpruned, trained on", "^", "C1")}
    for axes, cost, unit in zip(figure.subplots(1, 2, sharey=True), ("seconds", "peak_bytes"), (1, 1e6), strict=True):
        if cost == "peak_bytes":  # trials are timed one by one, while the machine does other things
            axes.plot(trials[cost] / unit, 1 - trials["error"], ".", color="0.8", label="trials, validation copies")
        for label, mark, colour in (*kinds.values(), ("found, trained to the end", "o", "C0")):
            chosen = [row for row in rows if row["network"] == label or (mark == "o" and "trial" in row["network"])]
            for split, fill in (("test", colour), ("other", "none")):
                found = [interval(row[split]) for row in chosen]
                axes.errorbar(
                    [row[cost] / unit for row in chosen],
                    [mean for mean, _ in found],
                    yerr=[half for _, half in found],
                    fmt=mark,
                    color=colour,
                    markerfacecolor=fill,
                    capsize=2,
                    label=label if split == "test" else None,
                )
        axes.set(xscale="log", xlabel={"seconds": "seconds a volume, one core"}.get(cost, "peak memory, MB"))
        least, most = axes.get_xlim()
        axes.set_xticks([tick for tick in _TICKS if least <= tick <= most], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("Dice with the full network's mask")
    lines, names = figure.axes[1].get_legend_handles_labels()
    title = "full marks: other copies of the head, hollow marks: the other head"
    figure.legend(
        lines, names, title=title, loc="outside lower center", ncols=4, fontsize="small", title_fontsize="small"
    )
    figure.savefig(file, dpi=110)


_TICKS = [step * 10.0**power for power in range(-4, 5) for step in (1, 2, 5)]
