"""How long a network takes and how much memory, measured where it stands: on its own device.

Times are wall-clock milliseconds of one call in eval mode without gradients, the device waited for. Several networks
are measured *interleaved*, turn by turn, so that whatever else the machine does hits all of them alike; each time is a
median, with a spread beside it. Threads, modes, precision and layout are put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import PlainValidator
from torch import Tensor, nn

from ...spaces import copied, device_of
from ...spaces.checked import AT_LEAST_0, AT_LEAST_1, check
from ..modes import floating_name, modes_restored, threads_set

TURN = 6  # timed calls of one network before the next has its turn
SETTLING = 3  # calls that are not timed as a turn begins; a 1 ms network took 29, 26 and 8 % more in them than alone

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of axes

Example = tuple[Tensor, ...]
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How networks are timed.

    Attributes:
        batch: examples in a call. The caller makes so many.
        threads: of PyTorch on the CPU; as many as it has now when None.
        dtype: precision of weights and inputs, as `"bfloat16"`; the network's own when None.
        channels_last: lay out images and volumes, and the weights that meet them, with the channels last.
        cuda_graph: time the replay of a recorded CUDA graph instead of calls from Python.
        repeats: timed calls of each network.
        warmup: calls of each network before any is timed.

    Raises:
        ValueError: a number out of range, or a dtype that PyTorch has not.
    """

    batch: Annotated[int, AT_LEAST_1] = 1
    threads: Annotated[int, AT_LEAST_1] | None = None
    dtype: Annotated[str | None, PlainValidator(floating_name)] = None
    channels_last: bool = False
    cuda_graph: bool = False
    repeats: Annotated[int, AT_LEAST_1] = 30
    warmup: Annotated[int, AT_LEAST_0] = 5

    def __post_init__(self) -> None:
        """Refuse what can't be measured."""
        check(self)


@dataclass(frozen=True)
class Timing:
    """What a network took.

    Attributes:
        ms: median milliseconds of one call.
        spread: of the single calls: a quarter each lies outside an interval as wide as so many medians.
    """

    ms: float
    spread: float


def measure_latency(model: nn.Module, example: Example, *, repeats: int = 30, warmup: int = 5) -> float:
    """Median milliseconds of one call on the example, batch as given, on the model's device; modes are put back."""
    return measure_latencies([(model, example)], Latency(repeats=repeats, warmup=warmup))[0].ms


def measure_latencies(networks: Sequence[tuple[nn.Module, Example]], options: Latency = Latency()) -> list[Timing]:
    """The time of each network on its example, interleaved.

    Every turn of one among several begins with calls that are not timed, because the network before it took the caches:
    a network takes as long here as alone.

    Args:
        networks: each with its example inputs, `options.batch` examples; they run on the network's device.
        options: how; networks are left as they are, whatever it asks.

    Raises:
        ValueError: no network, or a CUDA graph of a network that is not on CUDA.
    """
    if not networks:
        raise ValueError("no network was given to measure; give at least one (network, example) pair")
    times: list[list[float]] = [[] for _ in networks]
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(threads_set(options.threads))
        calls = [stack.enter_context(_ready(model, example, options)) for model, example in networks]
        for call, _ in calls:
            for _ in range(options.warmup):
                call()
        for start in range(0, options.repeats, TURN):
            for (call, device), found in zip(calls, times, strict=True):
                for _ in range(SETTLING if len(networks) > 1 else 0):
                    call()
                for _ in range(min(TURN, options.repeats - start)):
                    found.append(_seconds(call, device))
    return [_timing(found) for found in times]


def measure_peak_bytes(model: nn.Module, example: Example, options: Latency = Latency()) -> int:
    """Most bytes that PyTorch's allocator held on the GPU at once for one call: weights, inputs, outputs and scratch.

    Args:
        model: on a CUDA device; left as it is.
        example: its inputs, `options.batch` examples.
        options: dtype, layout and warm-up calls; the rest is left aside.

    Raises:
        ValueError: the network is not on a CUDA device, where it is not counted.
    """
    device = device_of(model)
    if device.type != "cuda":
        raise ValueError(
            f"peak memory is counted on CUDA only, the network is on {device}; move it there, or take the peak_bytes "
            "of Space.costs"
        )
    with torch.inference_mode(), _prepared(model, example, options) as (network, inputs):
        own = {tensor.data_ptr(): tensor.nbytes for tensor in (*network.parameters(), *network.buffers(), *inputs)}
        for _ in range(max(options.warmup, 1)):
            network(*inputs)
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        network(*inputs)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before + sum(own.values())


@contextmanager
def _ready(model: nn.Module, example: Example, options: Latency) -> Iterator[tuple[Call, torch.device]]:
    """One call of the network as the options ask, and its device."""
    device = device_of(model)
    if options.cuda_graph and device.type != "cuda":
        raise ValueError(f"cuda_graph needs a network on a CUDA device; it is on {device}")
    with _prepared(model, example, options) as (network, inputs):
        if options.cuda_graph:
            graph = _recorded(network, inputs, device)
            yield graph.replay, device
        else:
            yield lambda: network(*inputs), device


@contextmanager
def _prepared(model: nn.Module, example: Example, options: Latency) -> Iterator[tuple[nn.Module, Example]]:
    """The network, or a copy where something of it changes, and its inputs, in eval mode."""
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    network = model
    if dtype is not None or options.channels_last:
        network = copied(model).to(dtype=dtype)
        if options.channels_last:
            _lay_out(network)
    inputs = tuple(_input(tensor.to(device_of(model)), dtype, options.channels_last) for tensor in example)
    with modes_restored(network):
        network.eval()
        yield network, inputs


def _input(tensor: Tensor, dtype: torch.dtype | None, channels_last: bool) -> Tensor:
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    layout = _LAYOUTS.get(tensor.ndim) if channels_last else None
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


def _lay_out(network: nn.Module) -> None:
    """Convolution weights of both dimensions: `Module.to(memory_format=)` of PyTorch 2.13 takes either, not both."""
    for tensor in (*network.parameters(), *network.buffers()):
        layout = _LAYOUTS.get(tensor.ndim)
        if layout is not None:
            tensor.data = tensor.data.contiguous(memory_format=layout)


def _recorded(network: nn.Module, inputs: Example, device: torch.device) -> torch.cuda.CUDAGraph:
    """The graph of one call, recorded after a few calls on a stream of its own, as PyTorch asks."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                network(*inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            network(*inputs)
    return graph


def _seconds(call: Call, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timing(seconds: Sequence[float]) -> Timing:
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return Timing(1000 * float(middle), float((high - low) / middle))
