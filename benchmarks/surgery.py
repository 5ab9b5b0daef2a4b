"""Trace, costs and build of ResNet-50 at 224, side by side with `torch.export`, Torch-Pruning and the bare copies.

    pip install torch-pruning==1.6.1
    python benchmarks/surgery.py

Prints medians over alternating runs, so that drift of the machine hits both sides alike. The half-width candidate keeps
half of every group; Torch-Pruning does what a search loop with it does: copy, dependency graph, prune at ratio 0.5.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import torch

warnings.simplefilter("ignore")

from secateur.spaces import Space, build, channel_map, named_tensors  # noqa: E402
from secateur.studies.networks import resnet50  # noqa: E402


def clock(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def medians(runs, **functions):
    """Median seconds of each function; they take turns."""
    times = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            times[name].append(clock(function))
    return {name: statistics.median(values) for name, values in times.items()}


COLD = """
import time, torch, warnings; warnings.simplefilter("ignore")
from secateur.spaces import Space; from secateur.studies.networks import resnet50
import torch.export
model, x = resnet50().eval(), torch.randn({batch}, 3, 224, 224)
start = time.perf_counter()
{call}
print(time.perf_counter() - start)
"""


def cold(runs):
    """Median seconds of the first trace and the first export of a process."""
    calls = {
        "export": COLD.format(batch=2, call="torch.export.export(model, (x,), strict=False)"),
        "trace": COLD.format(batch=1, call="Space.trace(model, x)"),
    }
    times = {name: [] for name in calls}
    for _ in range(runs):
        for name, code in calls.items():
            out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            times[name].append(float(out.split()[-1]))
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, x = resnet50().eval(), torch.randn(1, 3, 224, 224)
    pair = torch.randn(2, 3, 224, 224)
    space = Space.trace(model, x)
    torch.export.export(model, (pair,), strict=False)

    print(f"ResNet-50 at 224, {arguments.threads} thread(s), medians of {arguments.runs}")
    warm = medians(
        arguments.runs,
        export=lambda: torch.export.export(model, (pair,), strict=False),
        trace=lambda: Space.trace(model, x),
    )
    goal = 1.5 * warm["export"] + 0.3
    print(f"trace, warm      {warm['trace']:.3f} s   torch.export {warm['export']:.3f} s   goal {goal:.3f} s")
    first = cold(3)
    goal = first["export"] + 1
    print(f"trace, cold      {first['trace']:.3f} s   torch.export {first['export']:.3f} s   goal {goal:.3f} s")

    encoded = space.encode(space.sample(2000, seed=0)).repeat(5, axis=0)
    took = medians(arguments.runs, costs=lambda: space.costs(encoded))["costs"]
    print(f"costs, 10,000    {took:.3f} s   goal 0.100 s   ({len(encoded) / took:,.0f} candidates/s)")

    candidate = space.uniform(width=0.5)
    kept = channel_map(space, candidate)
    tensors = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    small = build(model, space, candidate)
    contents = [tensor.detach() for tensor in named_tensors(small).values()]

    def select():
        for name, tensor in tensors.items():
            for axis, indices in kept.get(name, {}).items():
                tensor = tensor.index_select(axis, indices)

    functions = {
        "build": lambda: build(model, space, candidate),
        "index_select": select,
        "copy": lambda: [tensor.clone() for tensor in contents],
    }
    try:
        import torch_pruning as tp
    except ImportError:
        print("torch-pruning is not installed; its column is left out")
    else:

        def peer():
            twin = copy.deepcopy(model)
            importance = tp.importance.MagnitudeImportance(p=2)
            tp.pruner.MagnitudePruner(
                twin, x, importance=importance, pruning_ratio=0.5, ignored_layers=[twin.head]
            ).step()

        functions["torch-pruning"] = peer
    times = medians(arguments.runs, **functions)
    print(f"build, half      {1e3 * times['build']:.1f} ms   goal 60 ms")
    print(f"  the bare index_select calls {1e3 * times['index_select']:.1f} ms")
    print(f"  a copy of the kept bytes {1e3 * times['copy']:.1f} ms")
    if "torch-pruning" in times:
        print(f"  Torch-Pruning: copy, graph, prune {1e3 * times['torch-pruning']:.1f} ms")
    share = space.costs([candidate]).macs[0] / space.costs([space.full]).macs[0]
    print(f"full {space.costs([space.full]).macs[0]:,} MACs; the half-width candidate keeps {share:.3f} of them")
    assert np.isfinite(list(times.values())).all()


if __name__ == "__main__":
    main()
