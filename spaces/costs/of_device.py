"""Costs of the user's own that are ready: `table`, what each operator takes on a device, and `measured_peak`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_VIEWS = ("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze")


@final
class _Table:
    """What `table` gives.

    Args:
        rows: of each operator, sizes that rise, and what each costs.
        where: of the file, for messages.
    """

    def __init__(self, rows: dict[str, list[tuple[float, float]]], where: str) -> None:
        self._rows, self._where = rows, where
        self.fingerprint = f"table {sorted(rows.items())}"

    def __call__(self, network: nn.Module, example: tuple[Tensor, ...]) -> float:
        with torch.no_grad(), _Calls() as calls:
            network(*example)
        lacking = sorted({name for name, _ in calls.found if name not in self._rows})
        if lacking:
            names = ", ".join(lacking)
            raise ValueError(f"{self._where} has no row for: {names}; add one each, with 0 where it costs nothing")
        return sum(self._cost(name, size) for name, size in calls.found)

    def _cost(self, name: str, size: int) -> float:
        """Straight between rows, in proportion beyond the last, and never less than the first."""
        sizes, costs = zip(*self._rows[name], strict=True)
        return costs[-1] * size / sizes[-1] if size > sizes[-1] else float(np.interp(size, sizes, costs))


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operators of `aten` that compute, each with its size."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in flop_registry:
            size = flop_registry[packet](*args, **(kwargs or {}), out_val=out) // 2
        else:
            first = out[0] if isinstance(out, tuple | list) and out else out
            size = first.numel() if isinstance(first, Tensor) else 0
        name = packet.__name__
        if size and name not in _VIEWS and name != "detach":
            self.found.append((name.removesuffix("_"), size))
        return out


def table(path: str | Path) -> _Table:
    """For `Cost`: the sum over a network's operators of what a table says of each, such as milliseconds of a phone.

    A CSV with the columns `operator` (its name in `torch.ops.aten`, such as `convolution`), `size` (multiply-adds where
    it has any, else elements of its output) and `cost` (any unit). Between two rows of an operator the cost is
    straight, beyond the last in proportion to the size, below the first that of the first. Views cost nothing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or a row has no number; when a network is asked: an operator has no row.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; give a CSV with the columns operator, size and cost")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV ({error}); expected the columns operator, size and cost") from None
    for number, row in enumerate(rows, 2):
        try:
            size, cost = float(row["size"]), float(row["cost"])
            if not (0 < size < float("inf") and 0 <= cost < float("inf")):
                raise ValueError
            found.setdefault(row["operator"].strip(), []).append((size, cost))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(
                f"{path}, line {number}: expected the columns operator, size and cost: a name, a number above 0, "
                f"and one of at least 0; it has {str(dict(row))[:200]}"
            ) from None
    if not found:
        raise ValueError(f"{path} has no row; expected the columns operator, size and cost")
    return _Table({name: sorted(rows) for name, rows in found.items()}, str(path))


@final
class _MeasuredPeak:
    """What `measured_peak` gives."""

    fingerprint = "measured peak"

    def __call__(self, network: nn.Module, example: tuple[Tensor, ...]) -> float:
        held = [*network.parameters(), *network.buffers(), *example]
        device = held[0].device.type
        if device not in ("cpu", "cuda"):
            raise ValueError(f"the peak of memory is measured on cpu and cuda; the network is on {device}")
        storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}
        with torch.no_grad():
            network(*example)  # what is set up at the first call is no part of it
            most = _cuda_peak if device == "cuda" else _cpu_peak
            return sum(storages.values()) + most(network, example)


def _cpu_peak(network: nn.Module, example: tuple[Tensor, ...]) -> int:
    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        network(*example)
    given = [event.nbytes() for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    return int(np.cumsum([0, *given]).max())


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """The profiler says on standard error that it begins and ends, unless its own variable is set when it begins."""
    given = os.environ.get(_LEVEL)
    os.environ[_LEVEL] = "99" if given is None else given
    try:
        yield
    finally:
        if given is None:
            del os.environ[_LEVEL]


_LEVEL = "KINETO_LOG_LEVEL"


def _cuda_peak(network: nn.Module, example: tuple[Tensor, ...]) -> int:
    torch.cuda.synchronize(example[0].device)
    before = torch.cuda.memory_allocated(example[0].device)
    torch.cuda.reset_peak_memory_stats(example[0].device)
    network(*example)
    return torch.cuda.max_memory_allocated(example[0].device) - before


def measured_peak() -> _MeasuredPeak:
    """For `Cost`: bytes of parameters, buffers and input, and the most that one forward holds beside them.

    `peak_bytes` is arithmetic on what operators give; this is what the allocator really gave out, the workspace of
    kernels and copies included: on a processor by PyTorch's profiler, on a GPU by its `max_memory_allocated`.
    """
    return _MeasuredPeak()
