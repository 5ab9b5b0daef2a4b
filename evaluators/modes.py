"""Small things every user of a model must leave as found: modes, frozen norms, generators, threads.

Also devices of this machine, and seeds from seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Put `train`/`eval` of every module back on leaving, whatever happened inside."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def norms_with_statistics(model: nn.Module) -> list[_NormBase]:
    """The normalisations with running statistics that may change; frozen ones are left out.

    A norm is frozen when it tracks no statistics, or when it stands in eval mode and its parameters need no gradient:
    the way one writes "keep the pretrained statistics".
    """
    norms = (module for module in model.modules() if isinstance(module, _NormBase))
    return [norm for norm in norms if norm.running_mean is not None and not _frozen(norm)]


def train_mode(model: nn.Module) -> None:
    """Switch the model to training, apart from its frozen norms."""
    frozen = [module for module in model.modules() if isinstance(module, _NormBase) and _frozen(module)]
    model.train()
    for norm in frozen:
        norm.eval()


@contextmanager
def threads_set(count: int | None) -> Iterator[None]:
    """Run with so many threads of PyTorch; None leaves their number."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def generators_restored(*devices: torch.device) -> Iterator[None]:
    """Fork the global generators of the CPU and of the devices: modules like dropout draw from nothing else."""
    with torch.random.fork_rng(devices=list(dict.fromkeys(device for device in devices if device.type == "cuda"))):
        yield


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed the global generators of the CPU and of `device`, and of no other device as `torch.manual_seed` would."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def floating_name(dtype: torch.dtype | str | None) -> str | None:
    """The name of a floating dtype, such as `"bfloat16"`; None for None.

    Raises:
        ValueError: PyTorch has no such dtype, or it is not floating.
    """
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name is not None and not getattr(getattr(torch, name, None), "is_floating_point", False):
        raise ValueError("expected a floating one such as 'float32' or 'bfloat16'")
    return name


def derived_seed(*numbers: int) -> int:
    """A seed made of several non-negative ones; different numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _frozen(norm: _NormBase) -> bool:
    parameters = list(norm.parameters(recurse=False))
    kept = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
    return not norm.track_running_stats or (kept and not norm.training)


@contextmanager
def reproducible(threads: int, device: torch.device) -> Iterator[None]:
    """Run with so many threads and PyTorch's deterministic algorithms; everything is put back afterwards."""
    before = torch.get_num_threads()
    strict, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    try:
        torch.set_num_threads(threads)
        # On CUDA some backward passes exist in no deterministic form (PyTorch 2.13); there it is asked for, not forced.
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict, warn_only=warned)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic


def device_named(name: str) -> torch.device:
    """A device by its name; "auto" is the GPU of this machine where it has one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def present(name: str) -> torch.device:
    """A device by its name, for work of this process; workers may have what this machine has not.

    Raises:
        ValueError: it is not here, or no device at all.
    """
    try:
        device = device_named(name)
    except RuntimeError:
        raise ValueError(f"device={name!r}: expected 'auto', 'cpu', 'cuda' or 'cuda:N'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={name!r}: no CUDA device is here; use device='cpu', or a runner whose workers have one"
        )
    return device


def seed_of(*parts: int) -> int:
    """As `derived_seed`, in the 31 bits that every sampler takes."""
    return derived_seed(*parts) & 0x7FFFFFFF
