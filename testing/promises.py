"""What several suites ask of a call: that it leaves things alone, and that it refuses what it can't do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..studies import Study
from ..studies.trials.front import TIMES


@contextmanager
def untouched(model: nn.Module | None = None) -> Iterator[None]:
    """Hold that a block leaves the global generators alone, and a model with its modes, gradients and hooks."""
    generators, before = _generators(), list(_facts(model))
    yield
    assert _generators() == generators, "the state of `numpy.random` or `torch` has changed"
    for name, one, two in ((name, one, two) for (name, one), (_, two) in zip(before, _facts(model), strict=True)):
        same = torch.equal(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else one == two
        assert same, f"{name} of the full network has changed"


def assert_alike(one: Study, two: Study) -> None:
    """Hold that two studies have the same trials, in all that does not depend on when they were done."""
    mine, theirs = (study.trials().drop(columns=list(TIMES)) for study in (one, two))
    assert mine.equals(theirs), f"these trials differ:\n{mine.compare(theirs) if mine.shape == theirs.shape else mine}"


def refusal(call: Callable[[], object]) -> str:
    """The text of the ValueError that a call must raise."""
    try:
        found = call()
    except ValueError as error:
        return str(error)
    raise AssertionError(f"expected a ValueError; got {found!r}")


def _generators() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    # Not those of `random`: a library that is imported on the way may draw from them, for the name of a file.
    return kind, np.asarray(keys).tobytes(), rest, torch.get_rng_state().numpy().tobytes()


def _facts(model: nn.Module | None) -> Iterator[tuple[str, object]]:
    if model is None:
        return
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield name, tensor.detach().clone()
        yield f"the gradient of {name}", (tensor.requires_grad, tensor.grad is None)
    for name, module in model.named_modules():
        yield f"the mode of {name}", module.training
        yield f"the hooks of {name}", (len(module._forward_hooks), len(module._forward_pre_hooks))
