"""Costs of the user's own that an export has: its time in ONNX Runtime, and the bytes of its file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, final

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ...spaces import copied, device_of
from ..disk.weights import state_of
from .conversion import FORMATS, Converted, convert, onnx_model, onnx_session
from .program import program_bytes
from .taking import Taking

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
            model = onnx_model(_converted(network, example), {})
            self._last = network, onnx_session(model, threads=self._threads, providers=self._providers)
        session = self._last[1]
        given = dict(
            zip([one.name for one in session.get_inputs()], [one.cpu().numpy() for one in example], strict=True)
        )
        times = []
        for _ in range(self._repeats + 3):
            start = time.perf_counter()
            session.run(None, given)
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times[3:])


@final
class _FileBytes:
    """What `file_bytes` gives."""

    def __init__(self, kind: str) -> None:
        self._kind, self.fingerprint = kind, f"file_bytes {kind}"

    def __call__(self, network: nn.Module, example: Example) -> float:
        if self._kind == "onnx":
            return len(onnx_model(_converted(network, example), {}))
        if self._kind == "pt2":
            return len(program_bytes(_converted(network, example).program))
        return len(save(state_of(network), metadata={"format": "pt"}))


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
    """For `Cost`: bytes of the network's file as an export writes it, but for its notes.

    Args:
        kind: `"onnx"`, `"pt2"` or `"safetensors"`.
    """
    if kind not in FORMATS:
        raise ValueError(f"file_bytes({kind!r}): expected one of {', '.join(FORMATS)}")
    return _FileBytes(kind)


def _converted(network: nn.Module, example: Example) -> Converted:
    """The network as an export has it: with a free batch where it can be, which takes ONNX Runtime longer."""
    here = network if device_of(network).type == "cpu" else copied(network).cpu()
    one = tuple(given.cpu() for given in example)
    try:
        return convert(Taking(here.eval(), tuple(torch.cat([given, given]) for given in one)), None)
    except ValueError:
        return convert(Taking(here.eval(), one), len(one[0]))
