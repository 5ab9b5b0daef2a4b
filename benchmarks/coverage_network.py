"""One network of the coverage sweep: traced, halved, verified and exported. Start at `measure`."""

from __future__ import annotations

import contextlib
import time
from collections import Counter

import numpy as np
import torch
from torch import nn

from secateur.spaces import Space, build, verify
from secateur.spaces.cutting.masked import relative_error
from secateur.spaces.graph.modes import DataAsDetached

LARGE = 200_000_000  # parameters; above it, trace and costs only


def measure(entry, record):
    """Everything about one network; `record` is filled as far as it gets and says at which stage it is."""
    stage(record, "make")
    model = entry.make().eval()
    record["parameters"] = sum(p.numel() for p in model.parameters())
    record["large"] = record["parameters"] > LARGE
    if not record["large"]:
        stage(record, "run")
        side = smallest_side(entry, model)
        liven(entry, model, side)
        model, dtype = doubled(entry, model, side)
        record.update(side="x".join(map(str, side)) or "fixed", dtype=str(dtype).removeprefix("torch."))
    else:
        dtype = torch.float32
    stage(record, "trace")
    space = Space.trace(model, entry.example(1).to(dtype))
    stage(record, "costs")
    describe(model, space, record)
    if record["large"]:
        return stage(record, "done")
    stage(record, "halve")
    candidate = half(space)
    if not is_half(space, candidate):
        space, candidate = other_ways(model, entry.example(1, side).to(dtype), space, candidate, record)
    record["ratio"] = share(space, candidate)
    x = entry.example(2, side).to(dtype)
    stage(record, "build")
    small = build(model, space, candidate).eval()
    with torch.no_grad():
        got = tensors(small(x))
        record["noise"] = relative_error(tensors(small(x * (1 + 2**-50))), got)
        record["changes"] = relative_error(got, tensors(model(x)))
    stage(record, "verify")
    record["error"] = verify(model, space, candidate, x)
    record["error_random"] = verify(model, space, space.sample(1, seed=0)[0], x)
    stage(record, "export")
    try:
        record["exported"] = exported(small, entry, side, dtype)
    except Exception:
        with contextlib.suppress(Exception):
            record["full exports"] = exported(model, entry, side, dtype)
        raise
    return stage(record, "done")


def describe(model, space, record):
    """Full costs, and what the space holds."""
    record.update(
        macs=int(space.costs([space.full]).macs[0]),
        reachable=1 - share(space, space.smallest),
        groups=len(space.groups),
        stages=len(space.stages),
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
    now = time.perf_counter()
    if record["stage"]:
        record["seconds"][record["stage"]] = now - record["began"]
    record["stage"], record["began"] = name, now
    record["write"]()


def tensors(outputs):
    """All tensors of an output, flat."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in tensors(output)]
    return [outputs] if isinstance(outputs, torch.Tensor) else []


def smallest_side(entry, model):
    """The first of the smaller sides at which the network runs; the side it is made for where none does."""
    for side in entry.sides:
        try:
            with torch.no_grad():
                model(entry.example(2, side))
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
            model(entry.example(4, side, seed=1))
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
            model.double()(entry.example(2, side).double())
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


def exported(model, entry, side, dtype):
    """`any batch` or `one batch`, where the exported program gives what the network gives.

    Raises:
        ValueError: it gives something else.
        Exception: of `torch.export`, where none of its ways takes the network.
    """
    x, other = entry.example(2, side).to(dtype), entry.example(3, side, seed=2).to(dtype)
    failure = None
    for answer in ("any batch", "one batch"):
        for strict in (False, True):
            batch = ({0: torch.export.Dim("batch", max=64)},) if answer == "any batch" else None
            given = other if answer == "any batch" else x
            try:
                with DataAsDetached():
                    program = torch.export.export(model, (x,), dynamic_shapes=batch, strict=strict)
                with torch.no_grad():
                    error = relative_error(tensors(program.module()(given)), tensors(model(given)))
            except Exception as raised:  # noqa: BLE001 - the next way may take it
                failure = failure or raised
                continue
            if not error <= tolerance(dtype):
                raise ValueError(f"the exported program differs by {error:.2g}")
            return answer
    raise failure


def tolerance(dtype):
    return 1e-10 if dtype in (torch.float64, "float64") else 1e-4
