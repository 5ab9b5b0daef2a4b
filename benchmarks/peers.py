"""Other libraries on one network of the coverage sweep: half of the MACs, and the same test of equality.

The comparison leans towards them: a library is told the layers that make the network's output, its ratio is found by
bisection on the MACs that PyTorch itself counts, and its finest widths are allowed (multiples of 8). What it removed is
read off the numbers: the smaller network's weights are looked up in the full one's, whose numbers are all different.
Torch-Pruning is told which layers make queries, keys and values, and of how many heads, by the names that they usually
have; attributes with the size of a head are set afterwards, as its users do by hand.
"""

from __future__ import annotations

import contextlib
import copy
import io
import re

import torch
from coverage_network import LARGE, call, doubled, liven, smallest_side, stage, tensors, tolerance
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from secateur.spaces import Space, named_tensors
from secateur.spaces.cutting.masked import masked_outputs, relative_error

DIVISOR = 8
TRIES = 12


def measure(peer, entry, record):
    """Halve one network with `peer` and compare it with the full one, masked; `record` is filled on the way."""
    stage(record, "make")
    model = entry.make().eval()
    record["parameters"] = sum(p.numel() for p in model.parameters())
    record["large"] = record["parameters"] > LARGE
    if record["large"]:
        return stage(record, "done")
    stage(record, "run")
    side = smallest_side(entry, model)
    liven(entry, model, side)
    model, dtype = doubled(entry, model, side)
    generator = torch.Generator().manual_seed(1)
    for tensor in named_tensors(model).values():
        if tensor.is_floating_point() and tensor.numel() > 1:
            tensor.data.mul_(1 + 1e-6 * torch.rand(tensor.shape, generator=generator, dtype=dtype))
    x = entry.example(2, side, dtype=dtype)
    last = last_layers(model, entry.example(1, dtype=dtype), x)
    full = macs(model, entry, dtype)
    stage(record, "prune")
    halve = {"torch-pruning": torch_pruning, "fastnas": fastnas}[peer]
    small = halve(model, x, last, lambda network: macs(network, entry, dtype) / full).eval()
    record["ratio"] = macs(small, entry, dtype) / full
    stage(record, "compare")
    with torch.no_grad():
        got, whole = tensors(call(small, x)), tensors(call(model, x))
    record["runs"] = [t.shape for t in got] == [t.shape for t in whole]
    if not record["runs"]:
        raise ValueError("the outputs have other shapes than the full network's")
    kept = {}
    theirs = named_tensors(small)
    for name, tensor in named_tensors(model).items():
        if tensor.ndim and tensor.is_floating_point():
            kept[name] = box(theirs[name].detach(), tensor.detach())
    record["error"] = relative_error(got, masked_outputs(copy.deepcopy(model), kept, x))
    record["equal"] = record["error"] <= tolerance(dtype)
    return stage(record, "done")


def last_layers(model, example, x):
    """Modules that make the network's output; by our trace, or else linear layers and convolutions of its width."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            space = Space.trace(model, example)
        return [name for name, reason in space.frozen.items() if "network's output" in reason]
    except Exception:  # noqa: BLE001 - then by width
        with torch.no_grad():
            widths = {tensor.shape[1] for tensor in tensors(call(model, x)) if tensor.ndim > 1}
        makers = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
        sizes = {n: getattr(m, "out_features", getattr(m, "out_channels", 0)) for n, m in model.named_modules()}
        return [n for n, m in model.named_modules() if isinstance(m, makers) and sizes[n] in widths]


def macs(model, entry, dtype):
    """Multiply-adds of one example at the network's own side, counted by PyTorch without arithmetic where it can."""
    for device in ("meta", "cpu"):
        try:
            twin = copy.deepcopy(model).to(device)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                call(twin, tree_map(lambda one, device=device: one.to(device), entry.example(1, dtype=dtype)))
            return counter.get_total_flops() / 2
        except Exception:  # noqa: BLE001 - a forward that makes tensors of its own does not run on meta
            if device == "cpu":
                raise
    raise AssertionError


def bisect(try_ratio, small_enough):
    """The result nearest to half of the MACs that bisection over a library's ratio finds."""
    low, high, best, distance = 0.0, 1.0, None, 1.0
    failure = None
    for _ in range(TRIES):
        middle = (low + high) / 2
        try:
            found = try_ratio(middle)
            share = small_enough(found)
        except Exception as error:  # noqa: BLE001 - a ratio may be out of what the library can do
            failure, share, found = error, None, None
        if share is not None and abs(share - 0.5) < distance:
            best, distance = copy.deepcopy(found), abs(share - 0.5)
        if distance < 0.01:
            break
        low, high = (middle, high) if share is not None and share > 0.5 else (low, middle)
    if best is None:
        raise failure or RuntimeError("no ratio gives a network that runs")
    return best


def heads(model):
    """Attention modules, each with its layers of queries, keys and values (or one of all three), and its heads."""
    found = {}
    for module in model.modules():
        counts = [getattr(module, name, None) for name in ("num_heads", "num_attention_heads", "n_heads", "heads")]
        count = next((one for one in counts if isinstance(one, int)), None)
        layers = [
            child
            for name, child in module.named_children()
            if isinstance(child, torch.nn.Linear)
            and re.fullmatch("qkv|in_proj|[qkv](_proj|_lin)?|query|key|value", name)
        ]
        if count and layers:
            found[module] = layers, count
    return found


def torch_pruning(model, x, last, share):
    """Torch-Pruning's MagnitudePruner at one ratio for all layers."""
    import torch_pruning as tp

    def at(ratio):
        twin = copy.deepcopy(model)
        ignored = [module for name, module in twin.named_modules() if name in last]
        importance = tp.importance.GroupMagnitudeImportance(p=2)
        told = heads(twin)
        pruner = tp.pruner.MagnitudePruner(
            twin,
            x,
            importance,
            pruning_ratio=ratio,
            ignored_layers=ignored,
            round_to=None,
            num_heads={layer: module_heads for layers, module_heads in told.values() for layer in layers},
        )
        pruner.step()
        for module, (layers, count) in told.items():
            size = layers[0].out_features // (count * (3 if len(layers) == 1 else 1))
            for name in ("head_dim", "attention_head_size", "dim_head"):
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, size)
            if isinstance(getattr(module, "all_head_size", None), int):
                module.all_head_size = size * count
        with torch.no_grad():
            call(twin, x)
        return twin

    return bisect(at, share)


def fastnas(model, x, last, share):
    """ModelOpt's FastNAS space with sorted channels, at one ratio for all widths."""
    import modelopt.torch.nas as mtn
    from modelopt.torch.nas.utils import select, sort_parameters
    from modelopt.torch.opt.utils import named_hparams
    from modelopt.torch.prune.fastnas import FastNASConfig

    rules = FastNASConfig().model_dump()
    for rule in rules.values():
        for setting in rule["*"] if "*" in rule else []:
            if setting.endswith("divisor"):
                rule["*"][setting] = DIVISOR
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        space = mtn.convert(copy.deepcopy(model), [("fastnas", rules)])
        sort_parameters(space)
        widths = {name: hp.choices for name, hp in named_hparams(space, configurable=True)}

        def at(ratio):
            chosen = {n: min(c, key=lambda w, c=c: abs(w - (1 - ratio) * max(c))) for n, c in widths.items()}
            select(space, chosen, strict=False)
            return mtn.export(copy.deepcopy(space))

        return bisect(at, share)


def box(small, full):
    """`{axis: indices}` such that `small` is `full` at these indices.

    Raises:
        ValueError: it is no such part.
    """
    if small.shape == full.shape and torch.equal(small, full):
        return {}
    order = torch.argsort(full.flatten())
    values = full.flatten()[order]
    places = torch.searchsorted(values, small.flatten()).clamp(max=len(values) - 1)
    if not torch.equal(values[places], small.flatten()):
        raise ValueError("the smaller network holds other numbers than the full one")
    where = torch.unravel_index(order[places].reshape(small.shape), full.shape)
    found = {}
    for axis, indices in enumerate(where):
        line = indices.movedim(axis, 0).reshape(indices.shape[axis], -1)
        if not bool((line == line[:, :1]).all()):
            raise ValueError("the smaller network's weights are no rows and columns of the full one's")
        if len(line) != full.shape[axis] or not torch.equal(line[:, 0], torch.arange(len(line))):
            found[axis] = line[:, 0].sort().values
    return found
