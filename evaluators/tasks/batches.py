"""What can be done with the batches of any task: in parts where memory ends, their outputs joined, and looked through.

A task may say how its batches are split (`Splits`); all others are trees of tuples, lists, mappings and dataclasses
whose tensors have the examples along their first axis. `refuse_spoiled` says whether numbers that are not finite came
from the data: what would else look like a training that diverged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..modes import modes_restored
from .task import Side, Task, abilities


class Unsplittable(ValueError):
    """A batch does not show which part of it is which example."""


def in_parts(task: object, batch: Any, parts: int) -> list[tuple[Any, int]]:
    """The batch in so many parts, or fewer where it has no more examples, each with its number of examples.

    Args:
        task: whose batch it is.
        batch: as its loader gave it.
        parts: how many.

    Raises:
        Unsplittable: the tensors in it differ in length, or there are none.
    """
    own = abilities(task).split
    return cut(batch, parts) if own is None else list(own(batch, parts))


def cut(tree: Any, parts: int) -> list[tuple[Any, int]]:
    """As `in_parts`, of a tree."""
    lengths = sorted({len(tensor) for tensor in _tensors(tree)})
    if len(lengths) != 1:
        found = f"tensors of lengths {', '.join(map(str, lengths))}" if lengths else "no tensor"
        raise Unsplittable(f"a batch can't be split: it holds {found}; give the task a method split(batch, parts)")
    return [(_part(tree, lengths[0], start, stop), stop - start) for start, stop in bounds(lengths[0], parts)]


def bounds(examples: int, parts: int) -> list[tuple[int, int]]:
    """Where parts begin and end, the larger ones first; at least one example each.

    >>> bounds(5, 2), bounds(1, 2)
    ([(0, 3), (3, 5)], [(0, 1)])
    """
    size = max(1, -(-examples // parts))
    return [(start, min(start + size, examples)) for start in range(0, examples, size)]


def joined(parts: Sequence[Any]) -> Any:
    """The outputs of parts as the whole would have given them."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(parts)) if first.ndim else torch.stack(list(parts))
    if isinstance(first, Mapping):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple | list):
        return tuple(joined(column) for column in zip(*parts, strict=True))
    return first


def taken(tree: Any, rows: Tensor, examples: int) -> Any:
    """The examples `rows` of a batch of so many; a tree as of `cut`."""
    if sorted({len(tensor) for tensor in _tensors(tree)}) != [examples]:
        raise Unsplittable(
            f"examples can't be taken out of a batch whose tensors do not all have the length {examples}"
        )
    return _chosen(tree, examples, lambda value: _rows(value, rows))


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The tree with every tensor changed."""
    return _rebuilt(tree, lambda value: change(value) if isinstance(value, Tensor) else value)


def _tensors(tree: Any) -> Iterator[Tensor]:
    found: list[Tensor] = []
    mapped(tree, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return (tensor for tensor in found if tensor.ndim)


def _part(tree: Any, examples: int, start: int, stop: int) -> Any:
    return _chosen(tree, examples, lambda value: value[start:stop])


def _rows(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows.to(value.device)]
    return type(value)(value[row] for row in rows.tolist())


def _chosen(tree: Any, examples: int, choose: Callable[[Any], Any]) -> Any:
    """The tree with some of the examples of every tensor, and of lists that have one entry each."""

    def take(value: Any) -> Any:
        if isinstance(value, Tensor):
            return choose(value) if value.ndim else value
        one_each = isinstance(value, list | tuple) and len(value) == examples
        return choose(value) if one_each else value

    return _rebuilt(tree, take)


def _rebuilt(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with its leaves changed; lists and tuples without any tensor, such as names of files, are leaves."""
    if isinstance(tree, Mapping):
        changed = {name: _rebuilt(value, change) for name, value in tree.items()}
        return changed if type(tree) is dict else type(tree)(changed)  # type: ignore[call-arg]
    if isinstance(tree, list | tuple) and _holds_tensors(tree):
        values = [_rebuilt(value, change) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = [field.name for field in dataclasses.fields(tree) if field.init]
        return dataclasses.replace(tree, **{name: _rebuilt(getattr(tree, name), change) for name in fields})
    return change(tree)


def _holds_tensors(tree: Any) -> bool:
    if isinstance(tree, Tensor):
        return True
    if isinstance(tree, Mapping):
        return any(map(_holds_tensors, tree.values()))
    if isinstance(tree, list | tuple):
        return any(map(_holds_tensors, tree))
    return dataclasses.is_dataclass(tree) and any(_holds_tensors(value) for value in vars(tree).values())


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
    for place, tensor in _named(tree, ""):
        finite = tensor.isfinite() if tensor.is_floating_point() else torch.ones((), dtype=torch.bool)
        if not bool(finite.all()):
            rows = "" if not tensor.ndim else f", first in example {int((~finite).nonzero()[0][0])}"
            count = int((~finite).sum())
            where = f" in {name}{place}" if place else ""
            what = "a value that is" if count == 1 else f"{count} values that are"
            raise Spoiled(f"{said} {what} not finite{where}{rows}; repair the data, or leave the example out")


def _named(tree: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a batch, and where it is."""
    if isinstance(tree, Tensor):
        yield place, tree
    elif isinstance(tree, Mapping):
        for name, one in tree.items():
            yield from _named(one, f"{place}.{name}".lstrip("."))
    elif isinstance(tree, list | tuple):
        for number, one in enumerate(tree):
            yield from _named(one, f"{place}[{number}]" if place else f"{number}")
    elif dataclasses.is_dataclass(tree) or hasattr(tree, "__dict__"):
        for name, one in vars(tree).items():
            if isinstance(one, Tensor | Mapping | list | tuple):
                yield from _named(one, f"{place}.{name}".lstrip("."))
