"""One network of the coverage sweep: traced, halved, verified and exported. Start at `measure`."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from secateur.spaces import Space, build, plain, verify
from secateur.spaces.cutting.masked import relative_error
from secateur.spaces.graph.modes import DataAsDetached
from secateur.studies.exports.model import save

LARGE = 200_000_000  # parameters; above it, trace and costs only


def measure(entry, record):
    """Everything about one network; `record` is filled as far as it gets and says at which stage it is."""
    stage(record, "make")
    model = entry.make().eval()
    record["parameters"] = sum(p.numel() for p in model.parameters())
    record["large"] = record["parameters"] > LARGE
    twin, dtype = model, torch.float32
    if not record["large"]:
        stage(record, "run")
        side = smallest_side(entry, model)
        liven(entry, model, side)
        twin, dtype = doubled(entry, copy.deepcopy(model), side)
        record.update(side="x".join(map(str, side)) or "fixed", dtype=str(dtype).removeprefix("torch."))
    stage(record, "trace")
    space = Space.trace(model, entry.example(1))
    stage(record, "costs")
    describe(model, space, record)
    record["counter"] = counted(model, entry)
    if record["large"]:
        return stage(record, "done")
    stage(record, "halve")
    candidate = half(space)
    if not is_half(space, candidate):
        space, candidate = other_ways(model, entry.example(1, side), space, candidate, record)
    record["ratio"] = share(space, candidate)
    if space.as_graph:  # its graph holds the types that it was traced with
        twin, dtype = model, torch.float32
        record["dtype"] = "float32"
    x = entry.example(2, side, dtype=dtype)
    stage(record, "build")
    small = build(twin, space, candidate).eval()
    with torch.no_grad():
        got = tensors(call(small, x))
        nearly = pytree.tree_map(lambda t: t * (1 + 2**-50) if t.is_floating_point() else t, x)
        record["noise"] = relative_error(tensors(call(small, nearly)), got)
        record["changes"] = relative_error(got, tensors(call(twin, x)))
    stage(record, "verify")
    record["error"] = verify(twin, space, candidate, x)
    record["error_random"] = verify(twin, space, space.sample(1, seed=0)[0], x)
    stage(record, "train")
    small = build(model, space, candidate)
    record["train"] = trained(small, entry.example(2, side))
    if record["train"] != "yes" and trained(copy.deepcopy(model), entry.example(2, side)) != "yes":
        record["train"] = "nor does the full network"
    stage(record, "export")
    if entry.library in ("wild", "transformers"):
        record["exported"], record["left out"] = saved(small, model, space, candidate)
        return stage(record, "done")
    try:
        record["exported"] = exported(small, entry, side)
    except Exception:
        with contextlib.suppress(Exception):
            record["full exports"] = exported(model, entry, side)
        raise
    return stage(record, "done")


def describe(model, space, record):
    """Full costs, and what the space holds."""
    record.update(
        macs=int(space.costs([space.full]).macs[0]),
        reachable=1 - share(space, space.smallest),
        groups=len(space.groups),
        heads=sum(group.unit > 1 for group in space.groups),
        stages=len(space.stages),
        blocks=sum(len(one.blocks) for one in space.stages),
        side_multiple=space.side_multiple,
        uncounted=list(space.uncounted),
        proof=space.proof,
        **frozen(model, space),
    )


def other_ways(model, example, space, candidate, record):
    """The first way of tracing that reaches half of the MACs, in the order a user would try; else the one there is."""
    for settings in ({"divisor": 1}, {"as_graph": True}, {"as_graph": True, "divisor": 1}):
        with contextlib.suppress(ValueError, NotImplementedError):
            other = Space.trace(model, example, **settings)
            found = half(other)
            if is_half(other, found):
                describe(model, other, record)
                record["settings"] = ", ".join(f"{name}={value}" for name, value in settings.items())
                return other, found
    return space, candidate


def share(space, candidate):
    """Of the full network's MACs."""
    costs = space.costs([candidate, space.full]).macs
    return float(costs[0] / costs[1])


def is_half(space, candidate):
    """Whether it has 50 +- 2 % of the MACs."""
    return 0.48 <= share(space, candidate) <= 0.52


def stage(record, name):
    now = time.process_time()
    if record["stage"]:
        record["seconds"][record["stage"]] = now - record["began"]
    record["stage"], record["began"] = name, now
    record["write"]()


def call(network, x):
    """With one input or several, in order or by name."""
    if isinstance(x, dict):
        return network(**x)
    return network(*x) if isinstance(x, tuple) else network(x)


def tensors(outputs):
    """All tensors of numbers in an output, flat."""
    leaves = pytree.tree_leaves(plain(outputs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def smallest_side(entry, model):
    """The first of the smaller sides at which the network runs; the side it is made for where none does."""
    for side in entry.sides:
        try:
            with torch.no_grad():
                call(model, entry.example(2, side))
        except Exception:  # noqa: BLE001 - a network may refuse a side in any way
            continue
        return side
    return entry.shape[1:]


def liven(entry, model, side):
    """Random values where constants would hide a mistake, and batch norm statistics that keep the signal alive."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        data = parameter.data
        if data.is_floating_point() and data.numel() and bool((data == data.flatten()[0]).all()):
            low, high = (0.5, 1.5) if float(data.flatten()[0]) else (-0.2, 0.2)
            data.uniform_(low, high, generator=generator)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.momentum, memory = None, norm.momentum
        norm.reset_running_stats()
        norm.train()
        norm.memory = memory
    try:
        with torch.no_grad():
            call(model, entry.example(4, side, seed=1))
    finally:
        for norm in norms:
            norm.momentum = norm.memory
            del norm.memory
            norm.eval()
            norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()))  # a dead channel would amplify rounding
            spread = norm.running_var.sqrt()
            norm.running_mean += 0.2 * spread * torch.randn(spread.shape, generator=generator)
            norm.running_var *= 1 + 2 * torch.rand(spread.shape, generator=generator)  # damped: deep networks explode


def doubled(entry, model, side):
    """The network in float64 where it runs so, and the type."""
    try:
        with torch.no_grad():
            call(model.double(), entry.example(2, side, dtype=torch.float64))
    except Exception:  # noqa: BLE001 - a forward may write float32 somewhere
        return model.float(), torch.float32
    return model, torch.float64


def half(space):
    """The candidate of all widths shrunk alike to half of the MACs, then filled up; the smallest where half is out."""
    full = space.costs([space.full]).macs[0]
    if space.costs([space.smallest]).macs[0] > full / 2:
        return space.smallest
    candidate = space.repair(space.full, {"macs": full / 2})
    for _ in range(1000):
        steps = [
            (*candidate[:number], axis.choices[axis.choices.index(value) + 1], *candidate[number + 1 :])
            for number, (axis, value) in enumerate(zip(space.axes, candidate, strict=True))
            if axis.kind == "width" and value < axis.full
        ]
        macs = space.costs(space.encode(steps)).macs.to_numpy() if steps else np.zeros(0)
        macs = np.where(macs <= full / 2, macs, 0)
        if not macs.any() or space.costs([candidate]).macs[0] >= 0.495 * full:
            break
        candidate = space.canonical(steps[int(macs.argmax())])
    return candidate


def frozen(model, space):
    """Share of parameters that no width takes away, and the reasons by the parameters of the modules they name."""
    total = whole = 0
    of_module = Counter()
    for name, tensor in dict(model.named_parameters()).items():
        stays = tensor.numel()
        for ids in space.slots.get(name, {}).values():
            stays *= float((ids == 0).mean())
        total += tensor.numel()
        whole += stays
        of_module[name.rpartition(".")[0]] += stays
    reasons = Counter()
    for module, reason in space.frozen.items():
        reasons[reason] += sum(count for name, count in of_module.items() if f"{name}.".startswith(f"{module}."))
    return {"frozen": whole / max(total, 1), "reasons": [[r, n / max(total, 1)] for r, n in reasons.most_common(8)]}


def exported(model, entry, side):
    """`any batch` or `one batch`, where the exported program gives what the network gives.

    Raises:
        ValueError: it gives something else.
        Exception: of `torch.export`, where none of its ways takes the network.
    """
    x, other = entry.example(2, side), entry.example(3, side, seed=2)
    failure = None
    for answer in ("any batch", "one batch"):
        for strict in (False, True):
            batch = ({0: torch.export.Dim("batch", max=64)},) if answer == "any batch" else None
            given = other if answer == "any batch" else x
            try:
                with DataAsDetached():
                    program = torch.export.export(model, x, dynamic_shapes=batch, strict=strict)
                with torch.no_grad():
                    error = relative_error(tensors(program.module()(given)), tensors(model(given)))
            except Exception as raised:  # noqa: BLE001 - the next way may take it
                failure = failure or raised
                continue
            if not error <= tolerance(torch.float32):
                raise ValueError(f"the exported program differs by {error:.2g}")
            return answer
    raise failure


def counted(model, entry):
    """What PyTorch's counter counts on one example; None where it finds none or the network does not run.

    On the CPU it knows no fused attention, so that is taken apart.
    """
    for device in ("meta", "cpu"):
        x = pytree.tree_map(lambda tensor, device=device: tensor.to(device), entry.example(1))
        with (
            contextlib.suppress(Exception),
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            call(copy.deepcopy(model).to(device), x)
            return counter.get_total_flops() / 2 or None
    return None


def trained(network, x):
    """`yes`, or what a forward, a backward and a step of SGD in training raise."""
    network = network.train()
    try:
        outputs = [tensor for tensor in tensors(call(network, x)) if tensor.requires_grad]
        sum(tensor.square().mean() for tensor in outputs).backward()
        torch.optim.SGD(network.parameters(), lr=1e-4).step()
    except Exception as error:  # noqa: BLE001 - whatever it raises is the result
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        network.eval()
    return "yes"


def saved(small, model, space, candidate):
    """The formats that an export has, with `one batch` where it does not vary, and why others are left out."""
    with tempfile.TemporaryDirectory() as folder:
        figures = save(Path(folder) / "export", small, model=model, space=space, candidate=candidate)
    formats = {name: found for name, found in figures.items() if isinstance(found, dict) and name != "batches"}
    written = [
        name + (" (one batch)" if found.get("fixed_batch") else "")
        for name, found in formats.items()
        if "left_out" not in found
    ]
    return ", ".join(written), {name: found["left_out"][:300] for name, found in formats.items() if "left_out" in found}


def tolerance(dtype):
    return 1e-10 if dtype in (torch.float64, "float64") else 1e-4
