"""Multiply-adds of every operator: small formulas, registered by operator name.

A formula takes a `Call` and returns products of sizes; their sum is the operator's multiply-adds for the whole batch.
Counted is what contracts: an inner product of two tensors along an axis, each multiply-add once. Elementwise
operators, norms, reductions, pooling and interpolation, softmax and whatever only moves or makes data count as none.
An operator that is in neither list is `Unpriced`; `model.py` says what comes of it. Start at `register` to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.fx import Node

from ..graph.network import dispatched_name, is_pointwise, overloads
from .free import FREE
from .sizes import Size, Sizes

Products = list[list[Size]]


class Unpriced(Exception):
    """An operator has no formula and is not known to be free of multiply-adds; the text is its name."""


@dataclass(frozen=True)
class Call:
    """One call of an operator: its arguments by name, and the sizes of its operands."""

    node: Node
    sizes: Sizes
    arguments: dict[str, Any]

    def axes(self, operand: Any) -> list[Size]:
        """Sizes of the axes of an operand, given by its argument's name or as a node."""
        node = self.arguments[operand] if isinstance(operand, str) else operand
        return self.sizes.axes(node)

    @property
    def out(self) -> list[Size]:
        """Sizes of the axes of the result."""
        return self.sizes.axes(self.node)


Formula = Callable[[Call], Sequence[Sequence[Size | int | float]]]
Ours = Callable[[Call], Products]
_FORMULAS: dict[str, Formula] = {}


def register(operator: Any, formula: Formula) -> None:
    """Say what an operator costs, in this process: in every space that is traced from now on.

    A custom operator without one is a constant, by PyTorch's own counter where that knows it. Ours may be replaced.

        sc.costs.register(torch.ops.mine.correlate, lambda call: [[*call.out, *call.axes("kernel")]])

    Args:
        operator: such as `torch.ops.mine.correlate`, one of its overloads, or its name, `"mine::correlate"`.
        formula: from a `Call` to the multiply-adds of the whole batch, as a sum of products of sizes: those of
            `call.out` and `call.axes("name of an argument")`, and plain numbers. `[]` is none.

    Raises:
        TypeError: the operator is none, or the formula cannot be called.
    """
    if isinstance(operator, str):
        space, _, name = operator.partition("::")
        found = getattr(getattr(torch.ops, space), name, None) if name else None
    else:
        found = operator
    if not isinstance(found, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        raise TypeError(
            f"costs.register takes an operator that PyTorch knows, such as torch.ops.mine.correlate or its name "
            f"'mine::correlate'; got {operator!r}"
        )
    if not callable(formula):
        raise TypeError(f"the formula of {operator} is a {type(formula).__name__}; expected a function of one call")
    _FORMULAS[dispatched_name(found)] = formula


def formula(*names: str) -> Callable[[Ours], Ours]:
    """Register a formula for ATen operators by name, without overload."""

    def add(function: Ours) -> Ours:
        _FORMULAS.update({f"aten.{name}": function for name in names})
        return function

    return add


def products(node: Node, sizes: Sizes, steps: Sequence[str] = ()) -> Products:
    """An operator's multiply-adds for the whole batch, as a sum of products of sizes.

    Args:
        node: the call.
        sizes: sizes of all values.
        steps: the operators that PyTorch runs for it, where that is known.

    Raises:
        Unpriced: the operator has no formula and is not known to be free of multiply-adds.
    """
    name = sizes.network.names[node]
    if name in _FORMULAS:
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        arguments = {argument.name: argument.default_value for argument in schema}
        arguments |= dict(zip(arguments, node.args, strict=False))
        found = _FORMULAS[name](Call(node, sizes, arguments | dict(node.kwargs)))
        return [[sizes.number(size) for size in product] for product in found]
    if _is_free(name) or (steps and all(_is_free(step) for step in steps)):
        return []
    raise Unpriced(name)


@cache
def _is_free(name: str) -> bool:
    """Whether an operator is elementwise, only gives another view of its operand, or is in the list of `free.py`."""
    if name in FREE:
        return True
    return is_pointwise(name) or any(_is_view(overload) for overload in overloads(name))


def _is_view(overload: torch._ops.OpOverload) -> bool:
    results = [result.alias_info for result in overload._schema.returns]
    return bool(results) and all(alias is not None and not alias.is_write for alias in results)


# --- convolutions and linear layers -----------------------------------------------------------------------------------


@formula("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
def _convolution(call: Call) -> Products:
    """The whole weight at each position of the result."""
    if call.arguments.get("transposed"):
        return _transposed(call)
    return [_positions(call.out, call.axes("weight")) + call.axes("weight")]


@formula("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(call: Call) -> Products:
    """The whole weight at each position of the operand."""
    return [_positions(call.axes("input"), call.axes("weight")) + call.axes("weight")]


def _positions(data: list[Size], weight: list[Size]) -> list[Size]:
    """All axes of `(batch, channels, *side)` or `(channels, *side)` but the channels."""
    channels = len(data) + 1 - len(weight)
    return data[:channels] + data[channels + 1 :]


@formula("linear")
def _linear(call: Call) -> Products:
    return [call.axes("input")[:-1] + call.axes("weight")]


@formula("bilinear")
def _bilinear(call: Call) -> Products:
    return [call.axes("input1")[:-1] + call.axes("weight")]


# --- products of matrices ---------------------------------------------------------------------------------------------


def _product(left: str, *names: str) -> None:
    @formula(*names)
    def apply(call: Call) -> Products:
        return [[*call.out, call.axes(left)[-1]]]


_product("self", "matmul", "linalg_matmul", "mm", "bmm", "mv", "dot", "vdot", "inner")
_product("mat1", "addmm")
_product("batch1", "baddbmm")
_product("mat", "addmv")


@formula("addbmm")
def _addbmm(call: Call) -> Products:
    return [[*call.axes("batch1"), call.axes("batch2")[-1]]]


@formula("tensordot")
def _tensordot(call: Call) -> Products:
    other = call.axes("other")
    contracted = {axis % len(other) for axis in call.arguments["dims_other"]}
    return [call.axes("self") + [size for axis, size in enumerate(other) if axis not in contracted]]


@formula("einsum")
def _einsum(call: Call) -> Products:
    """Two operands at a time, in the order that PyTorch takes them.

    A letter of one operand only that is not needed any more is summed before the product, and a product in which
    nothing is summed is elementwise: neither counts.
    """
    operands = call.arguments["tensors"]
    terms, kept = _letters(call.arguments["equation"], [len(call.axes(operand)) for operand in operands])
    size_of: dict[str, Size] = {}
    left: list[set[str]] = []
    for operand, term in zip(operands, terms, strict=True):
        axes = dict(zip(term, call.axes(operand), strict=True))
        long = {letter: size for letter, size in axes.items() if size.form or any(n != 1 for n in size.counts)}
        size_of |= long
        left.append(set(long))  # an axis of one is broadcast
    path = list(call.arguments.get("path") or [])
    found: Products = []
    while len(left) > 1:
        first, second = sorted((path.pop(0), path.pop(0))) if path else (0, 1)
        b, a = left.pop(second), left.pop(first)
        needed = set(kept).union(*left)
        together = (a & b) | ((a | b) & needed)
        if (a & b) - needed:
            found.append([size_of[letter] for letter in sorted(together)])
        left.insert(len(left) if call.arguments.get("path") else 0, (a | b) & needed)
    return found


def _letters(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand and of the result, with numbers in the place of an ellipsis."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    texts = given.split(",")
    hidden = max((rank - len(text) + 3 for text, rank in zip(texts, ranks, strict=True) if "..." in text), default=0)

    def split(text: str, rank: int) -> list[str]:
        before, dots, after = text.partition("...")
        many = rank - len(before) - len(after) if dots else 0
        return [*before, *(str(i) for i in range(hidden - many, hidden)), *after]

    terms = [split(text, rank) for text, rank in zip(texts, ranks, strict=True)]
    if arrow:
        return terms, split(result, len(result) - 3 + hidden)
    once = [letter for term in terms for letter in term]
    return terms, [letter for letter in set(once) if once.count(letter) == 1 or letter.isdigit()]


@formula("scaled_dot_product_attention")
def _attention(call: Call) -> Products:
    """Two dense products, whatever the mask; each head of the query has its own."""
    keys = call.axes("key")[-2]
    return [[*call.out[:-1], keys, call.axes("query")[-1]], [*call.out, keys]]


# --- recurrent layers -------------------------------------------------------------------------------------------------


@formula("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(call: Call) -> Products:
    """Every matrix of every layer and direction, once at each step."""
    data = call.axes(call.node.args[0])[:-1]
    weights = [call.axes(weight) for weight in call.arguments["params"]]
    return [data + weight for weight in weights if len(weight) == 2]


@formula("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(call: Call) -> Products:
    return [call.axes("input")[:-1] + call.axes(weight) for weight in ("w_ih", "w_hh")]
