"""Devices of this machine, and the same numbers from the same seeds on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...evaluators.modes import derived_seed


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


def present(name: str) -> torch.device:
    """A device by its name, for work of this process; workers may have what this machine has not.

    Raises:
        ValueError: it is not here, or no device at all.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r}: expected 'cpu', 'cuda' or 'cuda:N'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={name!r}: no CUDA device is here; use device='cpu', or a runner whose workers have one"
        )
    return device


def seed_of(*parts: int) -> int:
    """As `derived_seed`, in the 31 bits that every sampler takes."""
    return derived_seed(*parts) & 0x7FFFFFFF
