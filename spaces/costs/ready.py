"""Ready functions for `Cost`, of a built network: its time in ONNX Runtime, its file's bytes, a table of a device."""

from __future__ import annotations

import csv
import io
import logging
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

FORMATS = ("onnx", "pt2", "safetensors")
_VIEWS = ("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze")
Example = tuple[Tensor, ...]


@final
class _OnnxRuntime:
    """What `onnxruntime_ms` gives."""

    def __init__(self, threads: int, providers: Sequence[str], repeats: int) -> None:
        self._threads, self._providers, self._repeats = threads, list(providers), repeats
        self._last: tuple[nn.Module, Any] | None = None  # exporting takes longer than measuring twice
        self.fingerprint = f"onnxruntime threads={threads} providers={','.join(providers)} repeats={repeats}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _OnnxRuntime, (self._threads, self._providers, self._repeats)

    def __call__(self, network: nn.Module, example: Example) -> float:
        import onnxruntime

        lacking = [name for name in self._providers if name not in onnxruntime.get_available_providers()]
        if lacking:  # it would go on with the processor
            has = ", ".join(onnxruntime.get_available_providers())
            raise ValueError(f"ONNX Runtime has no {lacking[0]} here; it has {has}")
        if self._last is None or self._last[0] is not network:
            self._last = network, self._session(_onnx(network, example))
        session = self._last[1]
        arrays = [tensor.cpu().numpy() for tensor in example]
        given = dict(zip([one.name for one in session.get_inputs()], arrays, strict=True))
        times = []
        for _ in range(self._repeats + 3):
            start = time.perf_counter()
            session.run(None, given)
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times[3:])

    def _session(self, model: bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: it warns on stderr of devices that it looked for
        options.intra_op_num_threads = self._threads
        return onnxruntime.InferenceSession(model, options, providers=self._providers)


@final
class _FileBytes:
    """What `file_bytes` gives."""

    def __init__(self, kind: str) -> None:
        self._kind, self.fingerprint = kind, f"file_bytes {kind}"

    def __call__(self, network: nn.Module, example: Example) -> float:
        if self._kind == "onnx":
            return len(_onnx(network, example))
        if self._kind == "pt2":
            buffer = io.BytesIO()
            with _hushed():
                torch.export.save(torch.export.export(network, example), buffer)
            return buffer.getbuffer().nbytes
        from safetensors.torch import save

        return len(save({name: one.contiguous().clone() for name, one in network.state_dict().items()}))


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

    def __call__(self, network: nn.Module, example: Example) -> float:
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


def onnxruntime_ms(
    *, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",), repeats: int = 20
) -> _OnnxRuntime:
    """For `Cost`: median milliseconds of one call of the exported network in ONNX Runtime (the extra `onnx`).

    Args:
        threads: of an operator.
        providers: of ONNX Runtime, the one that is wanted most first; one that is not there is refused.
        repeats: timed calls, after three that are not timed.
    """
    if threads < 1 or repeats < 1:
        raise ValueError(f"threads={threads!r}, repeats={repeats!r}: expected whole numbers of at least 1")
    return _OnnxRuntime(threads, providers, repeats)


def file_bytes(kind: str) -> _FileBytes:
    """For `Cost`: bytes of the network as a file; an export's are a little more, for its notes and its free batch.

    Args:
        kind: `"onnx"`, `"pt2"` or `"safetensors"`, without compression.
    """
    if kind not in FORMATS:
        raise ValueError(f"file_bytes({kind!r}): expected one of {', '.join(FORMATS)}")
    return _FileBytes(kind)


def table(path: str | Path) -> _Table:
    """For `Cost`: the sum over a network's operators of what a table says of each, such as milliseconds of a phone.

    A CSV with the columns `operator` (its name in `torch.ops.aten`, such as `convolution`), `size` (multiply-adds where
    it has any, else elements of its output) and `cost` (any unit). Between two rows of an operator the cost is
    straight, beyond the last in proportion to the size, below the first that of the first. Views cost nothing.

    Raises:
        ValueError: a column is missing, or a row has no number; when a network is asked: an operator has no row.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    with open(path, newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            try:
                size, cost = float(row["size"]), float(row["cost"])
                if not (0 < size < float("inf") and 0 <= cost < float("inf")):
                    raise ValueError
                found.setdefault(row["operator"].strip(), []).append((size, cost))
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ValueError(
                    f"{path}, line {number}: expected the columns operator, size and cost: a name, a number above 0, "
                    f"and one of at least 0; it has {dict(row)}"
                ) from None
    if not found:
        raise ValueError(f"{path} has no row; expected the columns operator, size and cost")
    return _Table({name: sorted(rows) for name, rows in found.items()}, str(path))


def _onnx(network: nn.Module, example: Example) -> bytes:
    with _hushed():
        program = torch.onnx.export(network, example, dynamo=True, external_data=False, verbose=False)
    assert program is not None  # dynamo=True gives a program
    found: bytes = program.model_proto.SerializeToString()
    return found


@contextmanager
def _hushed() -> Iterator[None]:
    """No prints, log lines or warnings of exporters."""
    known = logging.getLogger("torch.onnx")
    level = known.level
    known.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        known.setLevel(level)
