"""Small residual networks on Fashion-MNIST, and Torch-Pruning's cuts of a network: what several benchmarks share."""

from __future__ import annotations

import copy
import math
import statistics
import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from secateur import Classification, Training
from secateur.evaluators import train
from secateur.studies.study_files.data import Data
from secateur.studies.study_files.networks import resnet20

KEPT = Path(__file__).parents[1] / "build" / "pruners"
IMAGES, BASE_EPOCHS = 10_000, 15


def data(folder):
    """10,000 training, 5,000 validation and 10,000 test images."""
    task = Data(reader="fashion_mnist", path=folder, validation=5000).task()
    splits = {}
    for name, count in (("train", IMAGES), ("validation", 5000), ("test", 10_000)):
        batches = list(task.loader(name, None, None))
        images = torch.cat([batch.inputs for batch in batches])[:count]
        splits[name] = images, torch.cat([batch.targets for batch in batches])[:count]
    return Classification(**splits, batch=128, normalise="measure")


def network(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return resnet20(widths=(16, 32, 64), blocks=(1, 1, 1))


def base(seed, task):
    """The trained full network of a seed."""
    path = KEPT / f"base-{seed}.safetensors"
    model = network(seed)
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        train(model, task, Training(lr=0.1, warmup=0.1), epochs=BASE_EPOCHS, seed=seed)
        KEPT.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), path)
    return model.eval()


def section(lines, title):
    """The lines of a page under a title, which is one of them, up to the next; none without it."""
    if f"## {title}" not in lines:
        return []
    start = lines.index(f"## {title}")
    after = (number for number in range(start + 1, len(lines)) if lines[number].startswith("## "))
    return ["", *lines[start : next(after, len(lines))]][:-1]


def macs_of(model, side=28):
    """Multiply-adds of the convolutions and linear layers for a grey picture, as Secateur counts, without tracing."""
    found = []

    def count(layer, inputs, output):
        found.append(output.numel() * layer.weight[0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.rand(1, 1, side, side))
    for hook in hooks:
        hook.remove()
    return sum(found)


def peer(kind, model, limit, task, side=28):
    """Torch-Pruning's network within the limit: global pruning, the largest ratio of a bisection."""
    import torch_pruning as tp

    importance = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "taylor": tp.importance.GroupTaylorImportance,
    }
    example = torch.rand(1, 1, side, side)

    def pruned(ratio):
        small = copy.deepcopy(model)
        if kind == "taylor":
            for _, batch in zip(range(8), task.loader("train", None, None), strict=False):
                outputs, targets = task.forward(small, batch)
                task.loss(outputs, targets).backward()
        tp.pruner.MetaPruner(
            small,
            example,
            importance=importance[kind](),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            ignored_layers=[small.head],
        ).step()
        small.zero_grad(set_to_none=True)
        return small

    low, high = 0.0, 0.95
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (low, middle) if macs_of(pruned(middle), side) <= limit else (middle, high)
    return pruned(high)


def commit():
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=KEPT.parents[1])
    return said.stdout.strip() or "unknown"


def mean_and_error(values):
    """Mean and standard error; NaN with one value."""
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
