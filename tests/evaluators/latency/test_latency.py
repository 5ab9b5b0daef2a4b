"""Measuring time and memory: medians, turns, and everything put back."""

import time

import networks
import pytest
import torch
from torch import nn

from secateur.evaluators import Latency, measure_latencies, measure_latency, measure_peak_bytes


class Sleeper(nn.Module):
    """Takes as many milliseconds as the list says, call by call, the last one for ever; writes its name in a diary."""

    def __init__(self, times, name="", diary=None):
        super().__init__()
        self.times, self.name, self.modes = list(times), name, []
        self.diary = [] if diary is None else diary

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        self.diary.append(self.name)
        time.sleep((self.times.pop(0) if len(self.times) > 1 else self.times[0]) / 1000)
        return x


def watched(model):
    """What each call saw: dtypes of input and weight, whether both have their channels last, and the threads."""
    seen = []

    def look(module, inputs):
        layout = torch.channels_last if inputs[0].ndim == 4 else torch.channels_last_3d
        last = all(t.is_contiguous(memory_format=layout) and not t.is_contiguous() for t in (inputs[0], module.weight))
        seen.append((inputs[0].dtype, module.weight.dtype, last, torch.get_num_threads()))

    model.register_forward_pre_hook(look)
    return seen


X = (torch.zeros(1),)


def test_networks_take_turns_after_calls_that_do_not_count():
    diary = []
    slow, fast = Sleeper([9], "slow", diary), Sleeper([2], "fast", diary)
    found = measure_latencies([(slow, X), (fast, X)], Latency(repeats=8, warmup=1))
    assert 9 <= found[0].ms < 30 and 2 <= found[1].ms < 9
    # One warm-up each; then turns of six and of two timed calls, each after three that are not timed.
    assert diary == ["slow", "fast", *["slow"] * 9, *["fast"] * 9, *["slow"] * 5, *["fast"] * 5]
    assert set(slow.modes) == {(False, False)} and slow.training


def test_one_network_has_the_caches_to_itself():
    model = Sleeper([1])
    measure_latencies([(model, X)], Latency(repeats=4, warmup=1))
    assert len(model.modes) == 5


def test_the_spread_tells_a_shaken_median_from_a_steady_one():
    steady = measure_latencies([(Sleeper([20]), X)], Latency(repeats=8, warmup=0))[0]
    shaken = measure_latencies([(Sleeper([20, 60] * 4), X)], Latency(repeats=8, warmup=0))[0]
    # Half of the calls take 20 ms and half 60: quartiles 20 and 60, median 40, so a spread of 1.
    assert steady.spread < 0.6 < shaken.spread < 1.4


def test_threads_are_put_back_even_after_an_error():
    model, before = nn.Conv2d(3, 4, 3), torch.get_num_threads()
    seen = watched(model)
    measure_latencies([(model, (torch.zeros(1, 3, 8, 8),))], Latency(threads=2, repeats=1))
    assert seen[-1] == (torch.float32, torch.float32, False, 2) and torch.get_num_threads() == before
    with pytest.raises(RuntimeError):
        measure_latencies([(model, (torch.zeros(1, 5, 8, 8),))], Latency(threads=2))
    assert torch.get_num_threads() == before and model.training


@pytest.mark.parametrize("model", [nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3)], ids=["2d", "3d"])
def test_precision_and_layout_are_of_a_copy(model):
    seen, weight = watched(model), model.weight.detach().clone()
    example = (torch.rand(2, 3, *[6] * (model.weight.ndim - 2)),)
    measure_latencies([(model, example)], Latency(dtype="float64", channels_last=True, repeats=1, warmup=0))
    assert seen == [(torch.float64, torch.float64, True, torch.get_num_threads())]
    assert model.weight.dtype == torch.float32 and model.weight.is_contiguous() and torch.equal(model.weight, weight)


def test_dtype_reaches_weights_and_inputs_but_no_integers():
    seen = []

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 3)

        def forward(self, number, x):
            seen.append((number.dtype, x.dtype, self.table.weight.dtype))
            return self.table(number) * x

    measure_latencies([(Both(), (torch.tensor([1]), torch.rand(1, 3)))], Latency(dtype="float64", repeats=1, warmup=0))
    assert seen == [(torch.int64, torch.float64, torch.float64)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch=0: expected at least 1"),
        ({"threads": 0}, "threads=0"),
        ({"repeats": True}, "repeats=True: expected a whole number"),
        ({"warmup": -1}, "warmup=-1: expected at least 0"),
        ({"dtype": "int8"}, "dtype='int8': expected a floating one"),
        ({"dtype": "single precision"}, "dtype='single precision'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Latency(**options)


def test_what_cannot_be_measured_here():
    with pytest.raises(ValueError, match="no network was given"):
        measure_latencies([])
    with pytest.raises(ValueError, match="cuda_graph needs a network on a CUDA device; it is on cpu"):
        measure_latencies([(nn.Linear(2, 2), (torch.zeros(1, 2),))], Latency(cuda_graph=True))
    with pytest.raises(ValueError, match="peak memory is counted on CUDA only"):
        measure_peak_bytes(nn.Linear(2, 2), (torch.zeros(1, 2),))
    with pytest.raises(ValueError, match="repeats=0"):
        measure_latency(nn.Identity(), X, repeats=0)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_network_on_a_gpu(graph):
    model = networks.Plain(16, 10).cuda()
    example = (torch.rand(4, 3, 32, 32, device="cuda"),)
    bigger = (networks.Plain(64, 10).cuda(), (torch.rand(64, 3, 64, 64, device="cuda"),))
    small, big = measure_latencies([(model, example), bigger], Latency(cuda_graph=graph))
    assert 0 < small.ms < big.ms and model.training


@pytest.mark.gpu
def test_a_graph_is_faster_than_calls():
    layers = [layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.ReLU())]
    pair = (nn.Sequential(*layers).cuda(), (torch.rand(1, 8, device="cuda"),))
    assert measure_latencies([pair], Latency(cuda_graph=True))[0].ms < measure_latencies([pair])[0].ms


@pytest.mark.gpu
def test_peak_bytes_on_a_gpu():
    model, x = nn.Linear(1024, 4096, bias=False).cuda(), torch.rand(256, 1024, device="cuda")
    # Weights 16 MiB, inputs 1 MiB, outputs 4 MiB; another MiB at most for rounding.
    found = measure_peak_bytes(model, (x,))
    assert 21 * 2**20 <= found <= 22 * 2**20
    elsewhere = torch.empty(2**26, device="cuda")
    assert measure_peak_bytes(model, (x,)) == found
    half = measure_peak_bytes(model, (x,), Latency(dtype="float16"))
    del elsewhere
    assert 10 * 2**20 <= half <= 12 * 2**20 and model.weight.dtype == torch.float32
