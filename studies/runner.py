"""Where trials run. Here: in this process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from .trial import Outcome, Trial


class Runner(Protocol):
    """Runs the trials of a batch, wherever it likes."""

    def __call__(
        self, evaluate: Callable[[Trial], Outcome], trials: Sequence[Trial]
    ) -> Iterable[tuple[Trial, Outcome]]:
        """Each trial with its outcome, as soon as it is known, in any order."""


def serial(evaluate: Callable[[Trial], Outcome], trials: Sequence[Trial]) -> Iterator[tuple[Trial, Outcome]]:
    """In this process, in number order; a trial starts when the outcome before it was taken."""
    for trial in trials:
        yield trial, evaluate(trial)


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
