"""Trace, costs and build beside `torch.export`, the bare copies and Torch-Pruning.

    pip install torch-pruning==1.6.1
    python benchmarks/surgery.py            # all networks; or some: --only ResNet-50@224

For each network, medians over alternating runs, so that drift of the machine hits both sides alike; with one thread
they are seconds of the processor, so that other load does not enter. The half-width candidate keeps half of every
group. The peer's figures stand beside ours: its dependency graph, its count of one pruned network's costs, and what a
search loop with it does for a candidate (copy, graph, prune at ratio 0.5). Memory of tracing is how far the resident
set of a new process rises above where it stood (Linux counts it), after the trace of a single convolution has loaded
what tracing needs; the peer's is that of its dependency graph.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import logging
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from models import networks  # noqa: E402

from secateur.spaces import Space, build, channel_map, named_tensors  # noqa: E402

CANDIDATES = 100_000


def clock(function):
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = now()
    function()
    return now() - start


def medians(runs, **functions):
    """Median seconds of each function; they take turns."""
    times = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            times[name].append(clock(function))
    return {name: statistics.median(values) for name, values in times.items()}


FIRST = """
import pathlib, re, sys, time, warnings, logging; warnings.simplefilter("ignore"); logging.disable(logging.WARNING)
sys.path.insert(0, {folder!r})
import torch, torch.export
from models import networks
from secateur.spaces import Space
torch.set_num_threads(1)
make, x = networks()[{name!r}]
model, pair = make().eval(), x.expand(2, *x.shape[1:]).contiguous()
{before}
resident = lambda which: int(re.search(which + r":\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text()).group(1))
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
before, start = resident("VmRSS"), time.process_time()
{call}
print(time.process_time() - start, 1024 * (resident("VmHWM") - before))
"""
WARM = "Space.trace(torch.nn.Conv2d(3, 8, 3), torch.rand(1, 3, 8, 8))"
WARM_PEER = (
    "import torch_pruning as tp; "
    "tp.DependencyGraph().build_dependency(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), torch.rand(1, 3, 8, 8))"
)
CALLS = {
    "trace": "Space.trace(model, x)",
    "export": "torch.export.export(model, (pair,), strict=False)",
    "peer": "tp.DependencyGraph().build_dependency(model, x)",
}


def first(name, call, before="", runs=3):
    """Median seconds of the first call in a new process, and its growth of memory in bytes."""
    found = []
    for _ in range(runs):
        code = FIRST.format(folder=str(Path(__file__).parent), name=name, before=before, call=CALLS[call])
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found.append([float(word) for word in run.stdout.split()[-2:]])
    return [statistics.median(column) for column in zip(*found, strict=True)]


def different(space, n):
    """`(n, d)` candidates drawn evenly on every axis."""
    random = np.random.default_rng(0)
    return np.stack([random.choice(axis.choices, n) for axis in space.axes], axis=1)


def selecting(model, space, candidate):
    """The `index_select` calls of a build and nothing else; what they give is held, as a network holds it."""
    kept = channel_map(space, candidate)
    work, seen = [], set()
    for name, tensor in named_tensors(model).items():
        if id(tensor) not in seen and name in kept:
            seen.add(id(tensor))
            axes = sorted(kept[name].items(), key=lambda item: len(item[1]) / tensor.shape[item[0]])
            work.append((tensor.detach(), axes))

    def select():
        held = []
        for tensor, axes in work:
            for axis, indices in axes:
                tensor = tensor.index_select(axis, indices)
            held.append(tensor)
        return held

    return select


def peer_of(model, x):
    """What Torch-Pruning does, as functions by name; none where it is not installed."""
    try:
        import torch_pruning as tp
    except ImportError:
        return {}
    last = list(model.modules())[-1] if not hasattr(model, "classifier") else list(model.classifier.modules())[-1]
    heads = [module for name, module in model.named_modules() if name in ("head", "fc")] or [last]

    def pruned():
        twin = copy.deepcopy(model)
        memo = dict(zip(model.modules(), twin.modules(), strict=True))
        tp.pruner.MagnitudePruner(
            twin,
            x,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[memo[head] for head in heads],
        ).step()
        return twin

    small = pruned()
    return {
        "peer_graph": lambda: tp.DependencyGraph().build_dependency(model, x),
        "peer_count": lambda: tp.utils.count_ops_and_params(small, x),
        "peer_build": pruned,
    }


def measured(name, make, x, runs):
    """Figures of one network, by name: seconds, bytes and counts."""
    model, pair = make().eval(), x.expand(2, *x.shape[1:]).contiguous()
    space = Space.trace(model, x)
    candidate, encoded = space.uniform(width=0.5), different(space, CANDIDATES)
    build(model, space, candidate)
    peer = peer_of(model, x)
    slow = {
        "export": lambda: torch.export.export(model, (pair,), strict=False),
        "trace": lambda: Space.trace(model, x),
        "costs": lambda: space.costs(encoded),
    }
    quick = {
        "build": lambda: build(model, space, candidate),
        "select": selecting(model, space, candidate),
    }
    found = medians(runs, **slow, **{n: f for n, f in peer.items() if n != "peer_build"})
    found |= medians(3 * runs, **quick)
    if peer:
        found |= medians(runs, peer_build=peer["peer_build"])
        found["peer_bytes"] = first(name, "peer", WARM_PEER)[1]
    found["first_trace"], found["first_export"] = first(name, "trace")[0], first(name, "export")[0]
    found["bytes"] = first(name, "trace", WARM)[1]
    found["share"] = space.costs([candidate]).macs[0] / space.costs([space.full]).macs[0]
    found["weights"] = sum(tensor.nbytes for tensor in named_tensors(model).values())
    return found


def rows(found):
    """What is printed of one network: what, ours, goal, and what stands beside it."""
    rate = CANDIDATES / found["costs"]
    goal = 1.5 * found["export"] + 0.3
    build_goal = 1.5 * found["select"] + 0.015
    peer = "peer_build" in found
    yield (
        "trace",
        _s(found["trace"]),
        _s(goal),
        f"export {_s(found['export'])}",
        (f"graph {_s(found['peer_graph'])}" if peer else ""),
    )
    yield "first trace of a process", _s(found["first_trace"]), "", f"export {_s(found['first_export'])}", ""
    yield (
        "memory of tracing",
        _mb(found["bytes"]),
        "",
        f"weights {_mb(found['weights'])}",
        (f"graph {_mb(found['peer_bytes'])}" if peer else ""),
    )
    yield "costs, candidates/s", f"{rate:,.0f}", "200,000", "", f"{1 / found['peer_count']:,.0f}" if peer else ""
    yield (
        f"build, half ({found['share']:.2f} of MACs)",
        _ms(found["build"]),
        _ms(build_goal),
        (f"index_select {_ms(found['select'])}"),
        _ms(found["peer_build"]) if peer else "",
    )


def _s(seconds):
    return f"{seconds:.2f} s"


def _ms(seconds):
    return f"{1e3 * seconds:.1f} ms"


def _mb(size):
    return f"{size / 2**20:.0f} MB"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of networks")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = {name: pair for name, pair in networks().items() if not arguments.only or name in arguments.only}
    print(
        f"{arguments.threads} thread(s), medians of {arguments.runs} runs, Torch-Pruning in the last column\n",
        flush=True,
    )
    lines = [("network", "", "ours", "goal", "beside", "peer")]
    for name, (make, x) in chosen.items():
        found = measured(name, make, x, arguments.runs)
        lines += [(name if n == 0 else "", *row) for n, row in enumerate(rows(found))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in itertools.chain([lines[0], ["-" * w for w in widths]], lines[1:]):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


if __name__ == "__main__":
    main()
