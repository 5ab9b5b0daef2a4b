"""What operators give on tensors without values, found once: a trace runs a network many times, mostly at known shapes.

PyTorch works out many results in Python, which takes up to a millisecond an operator. They depend on shapes, strides,
dtypes and plain values alone, so what was given for those is given again; of a few operators shapes have a formula, so
that what they give at new shapes is known as well. Start at `dispatched`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

_MOST = 1 << 16  # results that are kept
_PLAIN = {int, float, bool, str, type(None), torch.dtype, torch.layout}
_SHARING = {"aten::_unsafe_view", "aten::lift", "aten::lift_fresh"}  # memory, though their schemas do not say so
_NORM = torch.ops.aten.native_batch_norm.default

_Result = tuple[tuple[int, ...] | int, tuple[int, ...], torch.dtype, int]
_known: dict[Any, tuple[type, tuple[_Result, ...]]] = {}
"""By an operator and all that it is given: the type of its result, and of each tensor shape (or the number of the
operand that it is like), strides, dtype and where it begins in the memory of the operand, of which it may be a view."""


class _Unlike(Exception):
    """An operator, or what it is given, of which more than shapes may count."""


def dispatched(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator gives; it is called where it was not called so before.

    Args:
        func: the operator, as a dispatch mode is given it, without gradients.
        args: its operands: tensors without values, and plain values.
        kwargs: those given by name.
    """
    kind = _kind(func)
    tensors: list[Tensor] = []
    if func in _FORMULAS and not kwargs:
        foretold = _by_formula(func, args, kind)
        if foretold is not None:
            return foretold
    try:
        if not kind:
            raise _Unlike
        plain = _described((*args, *kwargs, *kwargs.values()), tensors)
        first = _one_kind(tensors)
    except _Unlike:
        return func(*args, **kwargs)
    if kind == "view" and (len(tensors) > 1 or type(first) is not FakeTensor):  # others are as fast themselves
        return func(*args, **kwargs)
    like = _like(func, kind, args, tensors)
    shapes = first.ndim if like else tuple((one.shape, one.stride()) for one in tensors)
    given = (func, plain, shapes, type(first), first.device.type, torch.get_default_dtype())
    found = _known.get(given)
    if found is None:
        result = func(*args, **kwargs)
        found = _noted(result, tensors, like=like, view=kind == "view", in_place=kind == "in place")
        if found is not None and len(_known) < _MOST:
            _known[given] = found
        return result
    if kind == "in place":
        return args[0]
    made = [_made(tensors, one, view=kind == "view") for one in found[1]]
    return made[0] if found[0] is Tensor else found[0](made)


def _by_formula(func: Any, args: tuple[Any, ...], kind: str) -> Any:
    """What an operator gives whose shapes have a formula; None where that does not hold."""
    tensors = [one for one in args if isinstance(one, Tensor)]
    try:
        first = _one_kind(tensors)
    except _Unlike:
        return None
    if kind == "view" and type(first) is not FakeTensor:  # others are as fast themselves
        return None
    if func not in _PRODUCTS and any(one.stride() != _dense(one.shape) for one in tensors):
        return None
    shapes = _FORMULAS[func](*args)
    if shapes is None:
        return None
    dtypes = tuple(one.dtype for one in tensors)
    given = (func, "formula", dtypes, type(first), first.device.type, torch.get_default_dtype())
    if given not in _known:
        result = func(*args)
        found = _noted(result, tensors, like=False, view=kind == "view", in_place=False)
        fits = found is not None and [one[:2] for one in found[1]] == [(shape, _dense(shape)) for shape in shapes]
        _known[given] = found if found is not None and fits else (type(None), ())
        return result
    kept, results = _known[given]
    if kept is type(None):  # it does not hold here
        return None
    made = [
        _made(tensors, (shape, _dense(shape), dtype, 0), view=kind == "view")
        for shape, (_, _, dtype, _) in zip(shapes, results, strict=True)
    ]
    return made[0] if kept is Tensor else kept(made)


_Shapes = list[tuple[int, ...]]


def _matrix(one: Tensor, other: Tensor) -> _Shapes | None:
    """Of a product of two matrices, or of as many pairs."""
    left, right = one.shape, other.shape
    fits = len(left) == len(right) and left[:-2] == right[:-2] and left[-1] == right[-2] and 0 not in (*left, *right)
    return [(*left[:-1], right[-1])] if fits else None


def _added(bias: Tensor, one: Tensor, other: Tensor) -> _Shapes | None:
    found = _matrix(one, other)
    return found if found is not None and tuple(bias.shape) == found[0][1:] else None


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
    transposed: bool,
    more: Sequence[int],
    groups: int,
) -> _Shapes | None:
    filters, each, *kernel = weight.shape
    sides = x.shape[2:]
    if transposed or x.ndim != weight.ndim or {len(strides), len(paddings), len(dilations)} != {len(sides)}:
        return None
    if min(*strides, *dilations) < 1 or min(paddings) < 0:
        return None
    if x.shape[1] != each * groups or filters % groups or (bias is not None and tuple(bias.shape) != (filters,)):
        return None
    steps = zip(sides, kernel, strides, paddings, dilations, strict=True)
    left = [(side + 2 * edge - step * (size - 1) - 1) // stride + 1 for side, size, stride, edge, step in steps]
    return [(x.shape[0], filters, *left)] if min(*x.shape, *weight.shape, *left) > 0 else None


def _layer_normed(
    x: Tensor, sizes: Sequence[int], weight: Tensor | None, bias: Tensor | None, _: float
) -> _Shapes | None:
    start = x.ndim - len(sizes)
    own = [tuple(one.shape) for one in (weight, bias) if one is not None]
    if start < 1 or any(one != tuple(sizes) for one in (*own, tuple(x.shape[start:]))):
        return None
    each = (*x.shape[:start], *(1 for _ in sizes))
    return [tuple(x.shape), each, each]


def _resized(x: Tensor, size: Sequence[int], *_: Any) -> _Shapes | None:
    return [(*x.shape[:2], *size)] if x.ndim == 2 + len(size) and min(*x.shape, *size) > 0 else None


def _viewed(x: Tensor, size: Sequence[int]) -> _Shapes | None:
    count, given = x.numel(), prod(one for one in size if one != -1)
    if not count or not given or list(size).count(-1) > 1 or count % given or (-1 not in size and count != given):
        return None
    return [tuple(count // given if one == -1 else one for one in size)]


_ATEN = torch.ops.aten
_PRODUCTS = {_ATEN.mm.default, _ATEN.bmm.default, _ATEN.addmm.default}  # contiguous, whatever their operands are
_FORMULAS: dict[Any, Callable[..., _Shapes | None]] = {
    _ATEN.mm.default: _matrix,
    _ATEN.bmm.default: _matrix,
    _ATEN.addmm.default: _added,
    _ATEN.convolution.default: _convolved,
    _ATEN.native_layer_norm.default: _layer_normed,
    _ATEN.upsample_bilinear2d.default: _resized,
    _ATEN.upsample_nearest2d.default: _resized,
    _ATEN.view.default: _viewed,
}
"""By an operator, shapes of what it gives, contiguous for contiguous operands; None: its own rules are to say it."""


def _like(func: Any, kind: str, args: tuple[Any, ...], tensors: Sequence[Tensor]) -> bool:
    """Whether results are like operands, whatever the shapes of those."""
    if any(one.stride() != _dense(one.shape) for one in tensors):
        return False
    if func is _NORM:  # with statistics of its own
        channels = tensors[0].shape[1:2]
        return len(args) > 5 and args[5] is False and all(one.shape == channels for one in tensors[1:])
    return kind in ("pointwise", "in place") and all(one.shape == tensors[0].shape for one in tensors)


@cache
def _kind(func: Any) -> str:
    """What an operator gives: something of its operands, element by element, in place or not, a view, or else."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace != "aten" or func._schema.name in _SHARING:
        return ""
    written = [argument.alias_info is not None for argument in func._schema.arguments]
    if (
        torch.Tag.inplace_view in func.tags
        or torch.Tag.nondeterministic_seeded in func.tags
        or not func._schema.returns
    ):
        return ""
    pointwise = torch.Tag.pointwise in func.tags
    if not any(written) and not any(result.alias_info is not None for result in func._schema.returns):
        return "pointwise" if pointwise else "other"
    if not written[0] or any(written[1:]):
        return ""
    return "view" if not func._schema.is_mutable else "in place" if pointwise else ""


def _described(values: Sequence[Any], tensors: list[Tensor]) -> tuple[Any, ...]:
    """All but the shapes of what an operator is given; its tensors are put into a list.

    Raises:
        _Unlike: something that is neither a tensor nor plain.
    """
    found: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
            found.append(value.dtype)
        elif type(value) in _PLAIN:
            found.append((type(value), value))
        elif isinstance(value, (list, tuple)):
            found.append(_described(value, tensors))
        else:
            raise _Unlike
    return tuple(found)


def _one_kind(tensors: Sequence[Tensor]) -> Tensor:
    """The first of the tensors, where all are on one device and none has a value.

    Raises:
        _Unlike: they are otherwise, or there is none.
    """
    for one in tensors:
        if type(one) is FakeTensor:
            if one.constant is not None or one.fake_mode is not getattr(tensors[0], "fake_mode", None):
                raise _Unlike
        elif type(one) not in (Tensor, nn.Parameter) or not one.is_meta or type(tensors[0]) is FakeTensor:
            raise _Unlike
        if one.device != tensors[0].device or one.is_complex() or one.layout is not torch.strided:
            raise _Unlike
    if not tensors:
        raise _Unlike
    return tensors[0]


def _noted(
    result: Any, tensors: Sequence[Tensor], *, like: bool, view: bool, in_place: bool
) -> tuple[type, tuple[_Result, ...]] | None:
    """What is kept of a result; None where more counts than that."""
    found = [result] if isinstance(result, Tensor) else result
    first = tensors[0]
    if not isinstance(found, (list, tuple)):
        return None
    if result is first:
        return (Tensor, ()) if in_place else None
    memory = {one.untyped_storage()._cdata for one in tensors}
    for one in found:
        fits = type(one) is type(first) or (type(first) is nn.Parameter and type(one) is Tensor)
        if not fits or one.device != first.device or (type(one) is FakeTensor and one.constant is not None):
            return None
        if (one.untyped_storage()._cdata in memory) != view or (one.storage_offset() and not view):
            return None
        if view and one.dtype is not first.dtype:
            return None
        if like and one.numel() and not any(_same(one, other) for other in tensors):
            return None
    start = first.storage_offset() if view else 0
    results: list[_Result] = []
    for one in found:
        shape: Any = next((n for n, other in enumerate(tensors) if _same(one, other)), one.shape) if like else one.shape
        results.append((shape, one.stride(), one.dtype, one.storage_offset() - start))
    return Tensor if isinstance(result, Tensor) else type(result), tuple(results)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.stride() == other.stride()


def _made(tensors: Sequence[Tensor], result: _Result, *, view: bool) -> Tensor:
    """A tensor without values, of the kind of the operands."""
    like, stride, dtype, start = result
    first = tensors[0]
    if isinstance(like, int):
        shape, stride = tuple(tensors[like].shape), tensors[like].stride()
    else:
        shape = like
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
        if view:
            made = torch.as_strided(first, shape, stride, first.storage_offset() + start)
        else:
            made = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        return made if type(first) is not FakeTensor else FakeTensor(first.fake_mode, made, first.device)


@cache
def _dense(shape: torch.Size) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()
