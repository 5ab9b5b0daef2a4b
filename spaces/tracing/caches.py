"""What a forward keeps on its modules for the next call, such as the anchors of a detector for inputs of one shape.

A forward that finds what it needs there does not show where it comes from, and what it finds depends on what the
network was run on before. So while a network is traced, it holds what a run on inputs of another shape keeps.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from ..cutting.surgery import Cut
from ..examples import device_of
from ..graph.modes import REGISTERED, Kept, attributes, keeping, quietly, restore, unfused
from ..graph.network import BATCH, Examples, Side, as_call, resized
from .probe import Record, empty_like, sketch

logger = logging.getLogger("secateur")

Written = dict[tuple[str, str], Any]
"""`{(module, attribute): value}` of what a run left behind."""


@contextlib.contextmanager
def made_again(model: nn.Module, examples: Examples, side: Side, other_batch: int = BATCH + 1) -> Iterator[Written]:
    """While a forward makes again what it keeps for inputs of one shape; all of it is put back in the end.

    Args:
        model: the network.
        examples: example inputs.
        side: spatial side at which it will run.
        other_batch: at which it will not run; what it keeps for that is what it finds.

    Yields:
        What it keeps for those.
    """
    with keeping(model):
        others = (tuple(2 * size for size in side), tuple(size + 32 for size in side), side)
        runs = (_written(model, examples, other, other_batch) for other in dict.fromkeys(others))
        stale = next((run for run in runs if run is not None), {})
        if stale:
            before = {path: attributes(module) for path, module in model.named_modules()}
            device = device_of(model)
            empty = partial(pytree.tree_map_only, Tensor, lambda one: torch.zeros_like(one, device=device))
            _hold(model, _once_each(stale, empty))
            again = _written(model, examples, side, BATCH) or {}
            for path, name in stale.keys() - again.keys():  # kept once and for all
                logger.debug("%s.%s is not made again for inputs of another shape", path, name)
                _put_back(model.get_submodule(path), name, before[path])
        yield stale


def _written(model: nn.Module, examples: Examples, side: Side, batch: int) -> Written | None:
    """What a run without arithmetic leaves in attributes that was not there before; None where it does not run."""
    args, kwargs = as_call(resized(examples, side or None, batch))
    for device in ("meta", None):
        mode: Any = torch.device("meta") if device else FakeTensorMode(allow_non_fake_inputs=True)
        with quietly(), torch.no_grad(), unfused(), mode, Record():  # which finds results of like shapes once
            try:
                small = sketch(model, Cut({}, {}, ()), device, None if device else mode).eval()
                before = {path: attributes(module) for path, module in small.named_modules()}
                small(
                    *(empty_like(one, device) for one in args),
                    **{name: empty_like(one, device) for name, one in kwargs.items()},
                )
            except Exception as error:  # noqa: BLE001 - the user's forward may raise anything
                logger.debug("a run at %s does not end: %s", side, error)
                continue
        left = {
            (path, name): (before[path].get(name, ()), value)
            for path, module in small.named_modules()
            for name, (value, _) in attributes(module).items()
            if name not in REGISTERED and _differs(before[path].get(name, ()), value)
        }
        known = {id(value): _without(old, value) for old, value in left.values()}
        return {place: known[id(value)] for place, (_, value) in left.items()}
    return None


def _once_each(values: Written, change: Callable[[Any], Any]) -> Written:
    """Every value changed, once: modules that share a dictionary go on sharing one."""
    known = {id(value): change(value) for value in {id(one): one for one in values.values()}.values()}
    return {place: known[id(value)] for place, value in values.items()}


def _without(before: tuple[Any, ...], value: Any) -> Any:
    """A value that a run left; of a dictionary without the tensors that it held before, as under other shapes."""
    if not isinstance(value, dict) or not before or not isinstance(before[1], dict):
        return value
    old = before[1]
    tensors = {key for key in value if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value[key]))}
    return {key: one for key, one in value.items() if key not in tensors or one is not old.get(key)}


def _differs(before: tuple[Any, ...], value: Any) -> bool:
    """Whether a value is not what was there before, which is the value and a copy of its contents."""
    if not before or type(before[0]) is not type(value):
        return True
    old = before[0] if before[1] is None else before[1]
    leaves, others = pytree.tree_leaves(old), pytree.tree_leaves(value)
    return len(leaves) != len(others) or any(
        one is not other and (isinstance(one, Tensor) or isinstance(other, Tensor) or one != other)
        for one, other in zip(leaves, others, strict=True)
    )


def _hold(model: nn.Module, values: Written) -> None:
    for (path, name), value in values.items():
        vars(model.get_submodule(path))[name] = value


def _put_back(module: nn.Module, name: str, before: Kept) -> None:
    if name in before:
        restore(module, {**attributes(module), name: before[name]})
    else:
        vars(module).pop(name, None)
