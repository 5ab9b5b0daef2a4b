"""A batch in parts, for networks that a whole one does not fit into memory with, and the outputs of parts joined.

A task may say how its batches are split (`Splits`); all others are trees of tuples, lists, mappings and dataclasses
whose tensors have the examples along their first axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .task import abilities


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
