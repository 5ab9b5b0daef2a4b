"""Labels of channels: how a value says which channel each of its elements carries, and what is known of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node

Labels = npt.NDArray[np.int64]
BLANK = 1  # label of a constant filling: it fits whatever it meets


class Layers(tuple[Tensor, ...]):
    """Label tensors of one value, each of its shape, that change along different axes."""


@dataclass(frozen=True)
class Source:
    """A parameter or buffer of the model, as a value of the graph."""

    name: str
    shape: tuple[int, ...]


def nothing(shape: Sequence[int]) -> Tensor:
    """Labels of a value that carries no channel."""
    return torch.zeros((1,) * len(shape), dtype=torch.float64).expand(tuple(shape))


def blank(shape: Sequence[int]) -> Tensor:
    """Labels of a constant filling."""
    return torch.full((1,) * len(shape), float(BLANK), dtype=torch.float64).expand(tuple(shape))


def is_blank(value: Any) -> bool:
    """Whether a value is nothing but constant filling."""
    return is_uniform(value) and int(squashed(value).reshape(())) == BLANK


def is_uniform(value: Any) -> bool:
    """Whether a value is nothing but constant filling or one channel, repeated or not."""
    if not isinstance(value, Tensor) or not value.numel():
        return False
    small = squashed(value)
    return small.numel() == 1 and int(small.reshape(())) >= BLANK


def packed(layers: Sequence[Tensor], shape: Sequence[int]) -> Tensor | Layers:
    """One value of several label tensors of the same shape; those without labels are left out."""
    varying = [layer for layer in layers if squashed(layer).numel() > 1]
    if len(varying) > 1:
        return Layers(varying)
    if varying:
        return varying[0]
    ones = [layer for layer in layers if layer.numel() and float(squashed(layer).reshape(-1)[0]) != 0]
    return ones[0] if ones else nothing(shape)


def narrowed(labels: Tensor, shape: Sequence[int]) -> Tensor:
    """The labels of a value that is broadcast to these; none where it is one element along their axis."""
    labels = labels[(0,) * (labels.ndim - len(shape))]
    for axis, size in enumerate(shape):
        labels = labels if labels.shape[axis] == size else labels.narrow(axis, 0, 1)
    return labels


def constant(labels: Tensor, axis: int) -> bool:
    """Whether the label does not change along an axis (after `compressed`)."""
    return labels.shape[axis] <= 1 or labels.stride(axis) == 0


def squashed(labels: Tensor) -> Tensor:
    """The labels with each axis along which they do not change cut to one."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1 and labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels


def compressed(labels: Tensor) -> Tensor:
    """Equal labels, with stride 0 along each axis on which they do not change."""
    shape = labels.shape
    if 0 in shape:
        return nothing(shape)
    small = squashed(labels)
    for axis in range(small.ndim):
        if small.shape[axis] > 1:
            head = small.narrow(axis, 0, 1)
            if bool((small == head).all()):
                small = head
    return small.expand(shape)


def compact(labels: Tensor) -> Labels:
    """The labels as integers, each axis along which they do not change cut to one."""
    array: Labels = squashed(labels).numpy().astype(np.int64)
    return array


def flat(labels: Tensor) -> Labels:
    """All labels in order, as integers."""
    array: Labels = labels.reshape(-1).numpy().astype(np.int64)
    return array


def spread(labels: Labels, axis: int, shape: Sequence[int]) -> Tensor:
    """A label tensor of `shape` that changes along one axis."""
    axis %= len(shape)
    tensor = torch.from_numpy(labels.astype(np.float64))
    return tensor.reshape([-1 if other == axis else 1 for other in range(len(shape))]).expand(tuple(shape))


def tensors_in(value: Any) -> list[Tensor]:
    """All label tensors of a value of the graph, which may be several tensors."""
    return [value] if type(value) is Tensor else [one for one in operands([value]) if isinstance(one, Tensor)]


def operands(values: Any) -> list[Any]:
    """All label tensors and sources among values, which may be nested."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (Tensor, Source)):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += operands(value)
    return found


# --- what is known of labels ------------------------------------------------------------------------------------------


@dataclass
class Blocks:
    """Channels that come in `count` consecutive blocks: a grouped convolution or a group norm.

    Either whole blocks go, or the same positions go in every block; the choice is made once all joins are known.

    Attributes:
        node: the operator.
        whole: pairs to join when whole blocks go.
        aligned: pairs to join when the same positions go in every block.
        first: one label of each block; distinct and free ones allow whole blocks.
        attribute: module attribute that counts the blocks, set when whole blocks go.
        shared: whether several blocks may go together, such as the heads that share keys.
    """

    node: Node
    whole: list[tuple[Labels, Labels]]
    aligned: list[tuple[Labels, Labels]]
    first: Labels
    attribute: Attribute | None
    shared: bool = False


@dataclass(frozen=True)
class Attribute:
    """A module attribute that counts channels: `how many of labels stay // divide`; `item` of it if it is a tuple.

    The name may be a pattern such as `*head*`: all attributes of such names whose value is the count.
    """

    module: str
    name: str
    labels: Labels
    divide: int = 1
    item: int = -1


@dataclass(frozen=True)
class Number:
    """A number that a call of PyTorch's must be given, because the forward works out another with fewer channels.

    Attributes:
        module: whose forward calls.
        function: the name of the function.
        operands: how many it is given.
        earlier: for each such call that this forward makes before, the module in which.
        place: of the number among the operands, or its name where the call leaves it to the function.
        lines: `(full, n)` labels of what it counts; in a `Layout`, their unit numbers. None where it counts none.
        full: the number in the full network.
    """

    module: str
    function: str
    operands: int
    earlier: tuple[str, ...]
    place: int | str
    lines: Labels | None
    full: float

    def left(self, stays: npt.NDArray[np.bool_]) -> float:
        """The number where only some units stay: of lines of which something does."""
        return self.full if self.lines is None else int(stays[self.lines].any(axis=1).sum())


@dataclass(frozen=True)
class Constraints:
    """What the rules found of labels: which go together, which stay. `components` makes units of them.

    Attributes:
        joins: labels that go together.
        frozen: labels that stay, and why.
        fixed: parameters that stay whole, and why.
        blocks: grouped operators.
        attributes: module attributes that count channels.
        counts: such attributes, and numbers that calls must be given, as trials have shown.
        makers: modules that make channels.
        ties: why channels go together.
        told: why channels do not go as they might, should they stay.
    """

    joins: list[tuple[Labels, Labels]] = field(default_factory=list)
    frozen: list[tuple[Labels, str]] = field(default_factory=list)
    fixed: dict[str, str] = field(default_factory=dict)
    blocks: list[Blocks] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    counts: list[Attribute | Number] = field(default_factory=list)
    makers: list[tuple[str, Labels]] = field(default_factory=list)
    ties: list[tuple[Labels, str]] = field(default_factory=list)
    told: list[tuple[Labels, str]] = field(default_factory=list)
