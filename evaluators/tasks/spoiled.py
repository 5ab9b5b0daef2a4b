"""Whether numbers that are not finite came from the data: what would else look like a training that diverged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..modes import modes_restored
from .task import Side, Task


class Spoiled(ValueError):
    """A batch holds values that are not finite."""


class _Looked(Exception):
    """A network's inputs were seen, so it need not calculate."""


def refuse_spoiled(
    task: Task, model: nn.Module, split: str, resolution: Side | None, seed: int | None, *, batches: int | None = None
) -> None:
    """Refuse a pass over a split in which a batch, or what it gives a network for inputs, is not finite.

    Args:
        task: whose pass it is.
        model: the network, which calculates nothing.
        split: of the task.
        resolution: of the pass.
        seed: of the pass.
        batches: how many are looked at; None: all.

    Raises:
        Spoiled: the first one that is not finite, by its number.
    """
    inputs: list[Any] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append((*args, kwargs) if kwargs else args)
        raise _Looked

    hook = model.register_forward_pre_hook(look, with_kwargs=True, prepend=True)
    try:
        with modes_restored(model), torch.no_grad():
            model.eval()
            for number, batch in enumerate(task.loader(split, resolution, seed)):
                if number == batches:
                    return
                _refuse(batch, f"batch {number} of {split} has", "")
                inputs.clear()
                try:
                    task.forward(model, batch)
                except Exception:  # noqa: BLE001, S110 - ours; or the user's forward, which fails without a network's outputs
                    pass
                for given in inputs:
                    _refuse(given, f"the task's forward made inputs of batch {number} of {split} that have", "input ")
    finally:
        hook.remove()


def _refuse(tree: Any, said: str, name: str) -> None:
    for place, tensor in _tensors(tree, ""):
        finite = tensor.isfinite() if tensor.is_floating_point() else torch.ones((), dtype=torch.bool)
        if not bool(finite.all()):
            rows = "" if not tensor.ndim else f", first in example {int((~finite).nonzero()[0][0])}"
            count = int((~finite).sum())
            where = f" in {name}{place}" if place else ""
            what = "a value that is" if count == 1 else f"{count} values that are"
            raise Spoiled(f"{said} {what} not finite{where}{rows}; repair the data, or leave the example out")


def _tensors(tree: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a batch, and where it is."""
    if isinstance(tree, Tensor):
        yield place, tree
    elif isinstance(tree, Mapping):
        for name, one in tree.items():
            yield from _tensors(one, f"{place}.{name}".lstrip("."))
    elif isinstance(tree, list | tuple):
        for number, one in enumerate(tree):
            yield from _tensors(one, f"{place}[{number}]" if place else f"{number}")
    elif dataclasses.is_dataclass(tree) or hasattr(tree, "__dict__"):
        for name, one in vars(tree).items():
            if isinstance(one, Tensor | Mapping | list | tuple):
                yield from _tensors(one, f"{place}.{name}".lstrip("."))
