"""A network layer by layer, before and after: widths, and where multiply-adds, memory and milliseconds are.

Needs the network, because only a trace knows its layers: the study file's factory is called again, or the caller gives
one. Costs are arithmetic; times are measured here and now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...evaluators import Latency
from ...spaces import Candidate, Layer, Space, build
from ..study_files.file import read
from ..study_files.parts import make_model
from ..trials.trial import Trial

QUANTITIES = {"macs": "multiply-adds", "params": "parameters", "peak_bytes": "bytes alive at the peak"}
ROWS = 40  # of a chart; deeper modules are joined until there are no more
_SECONDS = 4.0  # that both networks are timed for
_RUNS = (3, 20)  # least and most timed runs of each


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The full network and smaller ones, part by part in the order of the forward.

    Attributes:
        layers: `{"layer", "kind", "full"}`: convolutions and linear layers with their number of outputs.
        widths: of every network shown, by trial, the outputs of each layer; 0 where its block is gone.
        parts: `{"part", "full": {quantity: number}, "picked": {...}}`: modules, joined where there are many; the
            quantities are those of `QUANTITIES`, and `ms` where it was measured.
        total_ms: milliseconds of the full network and of the picked one; None where they were not measured.
        timed: under what conditions they were, or why they were not.
    """

    layers: list[dict[str, Any]]
    widths: dict[int, list[int]]
    parts: list[dict[str, Any]]
    total_ms: tuple[float, float] | None
    timed: str


def anatomy(
    found: Mapping[str, Any],
    model: nn.Module,
    *,
    picked: Trial | None,
    front: Sequence[Trial],
    untimed: str,
) -> Anatomy:
    """The anatomy of a study's full network, of its pick, and the widths of its front.

    Args:
        found: what its study.json holds.
        model: the full network.
        picked: the trial beside the full network; None where there is none yet.
        front: whose widths are asked for.
        untimed: why times are not to be measured; empty where they are.

    Raises:
        ValueError: the network is another than that of the study.
    """
    space = Space.from_settings(model, found["space"])
    if space.fingerprint != found["fingerprint"]["space"]:
        raise ValueError("the network that its factory makes now is another than that of the study")
    costs = {"full": _costs(space, space.full)}
    if picked is not None:
        costs["picked"] = _costs(space, picked.candidate)
    total, said = None, untimed
    if picked is not None and not untimed:
        total, said = _time(model, space, picked.candidate, found["settings"], costs)
    layers = [one for one in space.layers if one.weight in space.shapes]
    return Anatomy(
        layers=[{"layer": one.name, "kind": _kind(one, space), "full": _outputs(one, space)} for one in layers],
        widths={trial.number: [_outputs(one, space, trial.candidate) for one in layers] for trial in front},
        parts=_joined(costs),
        total_ms=total,
        timed=said,
    )


def remade(folder: Path, run: bool) -> nn.Module:
    """The full network of the study in `folder`, made as its study file says.

    Raises:
        ValueError: it says no such thing, or no code is to `run`.
        Exception: what the user's factory raises.
    """
    path = folder / "study.toml"
    if not path.is_file():
        raise ValueError("the study was made in Python; write the report there, where its network is at hand")
    if not run:
        raise ValueError("no code of the study was run; --layers runs what study.toml names, or give the network")
    file = read(path)
    return make_model(file.model_copy(update={"model": file.model.model_copy(update={"checkpoint": None})}))


# --- widths -----------------------------------------------------------------------------------------------------------


def _kind(layer: Layer, space: Space) -> str:
    return "depthwise convolution" if layer.depthwise else _KINDS[layer.kind]


_KINDS = {"conv": "convolution", "conv_transpose": "transposed convolution", "linear": "linear"}


def _outputs(layer: Layer, space: Space, candidate: Candidate | None = None) -> int:
    """The number of outputs that stay."""
    units = layer.makes
    if candidate is None:
        return len(units)
    if any(layer.name == gone or layer.name.startswith(f"{gone}.") for gone in space.removed(candidate)):
        return 0
    stay = float((units == 0).sum())
    for group, width in zip(space.groups, candidate, strict=False):
        inside = group.holds(units).sum()
        stay += float(inside) * width / group.width
    return round(stay)


# --- costs ------------------------------------------------------------------------------------------------------------


def _costs(space: Space, candidate: Candidate) -> dict[str, dict[str, float]]:
    """The quantities of each module, in the order of the forward."""
    table = space.breakdown(candidate)
    return {
        str(row["module"]): {name: float(row[name]) for name in QUANTITIES} for row in table.to_dict(orient="records")
    }


def _joined(costs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """The modules of both networks, those deep inside added up until no more than `ROWS` are left."""
    modules = list(dict.fromkeys(module for table in costs.values() for module in table))
    depth = max((module.count(".") for module in modules), default=0) + 1
    while depth > 1 and len({_cut(module, depth) for module in modules}) > ROWS:
        depth -= 1
    parts: dict[str, dict[str, Any]] = {}
    for module in modules:
        part = parts.setdefault(_cut(module, depth), {"full": {}, "picked": {}})
        for which, table in costs.items():
            for name, value in table.get(module, {}).items():
                part[which][name] = part[which].get(name, 0.0) + value
    return [
        {"part": name, **part}
        for name, part in parts.items()
        if any(value for which in costs for value in part[which].values())
    ]


def _cut(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth]) or "(the network itself)"


# --- times ------------------------------------------------------------------------------------------------------------


def _time(
    model: nn.Module,
    space: Space,
    candidate: Candidate,
    settings: Mapping[str, Any],
    costs: Mapping[str, dict[str, dict[str, float]]],
) -> tuple[tuple[float, float] | None, str]:
    """Add `ms` to the costs of each module; milliseconds of the two networks, and the conditions."""
    if space.as_graph:
        return None, "not measured, because the networks are graphs that do not say which layer an operator is of"
    device = torch.device(str(settings.get("device", "cpu")))
    if device.type == "cuda" and not torch.cuda.is_available():
        return None, f"not measured, because the study ran on {device}, which is not here"
    options = settings.get("latency") or {}
    batch = int(options.get("batch", Latency().batch))
    dtype = None if settings.get("dtype") is None else getattr(torch, str(settings["dtype"]))
    threads, before = settings.get("threads"), torch.get_num_threads()
    try:
        if threads:
            torch.set_num_threads(int(threads))
        watches = []
        for one in (space.full, candidate):
            network = build(model, space, one).eval().to(device, dtype)
            called, inputs = space.call(network, one, batch=batch)
            watches.append(_Watch(network, partial(called, *inputs), device))
        _take_turns(watches)
        said = f"measured with batch {batch} on {_named(device)}, {_threads(torch.get_num_threads())}"
    finally:
        torch.set_num_threads(before)
    for which, watch in zip(("full", "picked"), watches, strict=True):
        for module, ms in watch.by_module().items():
            part = costs[which].setdefault(_counted(module, costs["full"]), dict.fromkeys(QUANTITIES, 0.0))
            part["ms"] = part.get("ms", 0.0) + ms
    return (watches[0].total(), watches[1].total()), said


def _counted(module: str, known: Collection[str]) -> str:
    """The module, or the nearest one around it that has operators of its own: what only holds others has none."""
    while module and module not in known:
        module = module.rpartition(".")[0]
    return module


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _named(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


class _Watch:
    """Times the modules of a network, run by run: each without the modules that it calls."""

    def __init__(self, network: nn.Module, call: Callable[[], object], device: torch.device) -> None:
        self._call, self._device = call, device
        self._names = {module: name for name, module in network.named_modules()}
        self._runs: list[dict[str, float]] = []

    def run(self) -> None:
        """One call."""
        found: dict[str, float] = {}
        called: list[list[float]] = []  # of every module that is at work: when it began, and how long others were

        def before(*_: Any) -> None:
            called.append([self._now(), 0.0])

        def after(module: nn.Module, *_: Any) -> None:
            began, inside = called.pop()
            took = 1000 * (self._now() - began)
            found[self._names[module]] = found.get(self._names[module], 0.0) + took - inside
            if called:
                called[-1][1] += took

        handles = [module.register_forward_pre_hook(before) for module in self._names]
        handles += [module.register_forward_hook(after) for module in self._names]
        try:
            with torch.inference_mode():
                self._call()
        finally:
            for handle in handles:
                handle.remove()
        self._runs.append(found)

    def forget(self) -> None:
        """Begin again: what ran so far was to warm up."""
        self._runs = []

    def by_module(self) -> dict[str, float]:
        """Median milliseconds."""
        names = dict.fromkeys(name for run in self._runs for name in run)
        return {name: float(np.median([run.get(name, 0.0) for run in self._runs])) for name in names}

    def total(self) -> float:
        """Median milliseconds of a call."""
        return float(np.median([sum(run.values()) for run in self._runs]))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _take_turns(watches: Sequence[_Watch], clock: Callable[[], float] = time.monotonic) -> None:
    """Run them in turn, so that whatever else the machine does hits all of them alike."""
    for watch in watches:
        watch.run()
        watch.forget()
    end, runs = clock() + _SECONDS, 0
    while runs < _RUNS[0] or (runs < _RUNS[1] and clock() < end):
        for watch in watches:
            watch.run()
        runs += 1
