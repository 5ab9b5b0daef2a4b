"""Values of the tensors that a forward makes of plain numbers, where it runs on tensors that have none.

An export and a dry run have shapes only. What a forward makes of numbers alone (strides, anchors, a table of scales)
has values all the same: they are kept beside, so that the forward can read an item of them, and so that two runs can be
held against each other: a number of channels that was made into a tensor is a number of channels all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from types import GetSetDescriptorType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from .modes import DRAWS, DataAsDetached

LARGEST = 1 << 16  # elements of a tensor whose value is kept
_OF_DATA = {"tensor", "as_tensor", "asarray", "new_tensor", "scalar_tensor"}
_OF_NUMBERS = {"arange", "linspace", "logspace", "full", "zeros", "ones", "eye", "empty", "new_full", "full_like"}
_OF_SIZES = {"pad", "view", "reshape", "expand", "repeat", "narrow", "interpolate"}
_READS = {"item", "tolist", "__float__", "__int__", "__index__", "__bool__", "__complex__", "is_nonzero"}

_PLAIN = (int, float, str, type(None), torch.dtype, torch.device)
_GIVING = {"T", "H", "mT", "mH", "data", "_grad", "_base", "real", "imag"}  # tensors
_FACTS = {  # of tensors, which are most calls: none gives a tensor that is calculated
    *(
        fact.__get__
        for name, fact in vars(torch._C.TensorBase).items()
        if name not in _GIVING and isinstance(fact, GetSetDescriptorType)
    ),
    *(Tensor.dim, Tensor.size, Tensor.stride, Tensor.storage_offset, Tensor.numel, Tensor.untyped_storage),
    *(Tensor.is_floating_point, Tensor.is_complex, Tensor.is_contiguous, Tensor.is_conj, Tensor.is_neg),
    *(Tensor.is_inference, Tensor._is_view, torch.sym_max, torch.sym_min, torch.device),
}


class Known(TorchFunctionMode):
    """Keeps the values of tensors that are made of numbers, and reads items of them.

    Args:
        note: called with each value that the forward did not calculate: data that it writes down, tensors that it holds
            beside parameters and buffers.
        sizes: whether a size that is free in an export is a number as well.
    """

    def __init__(self, note: Callable[[Tensor], None] = lambda value: None, *, sizes: bool = True) -> None:
        super().__init__()
        self._sizes = sizes
        self._note = note
        self._values: MutableMapping[Tensor, Tensor] = WeakIdKeyDictionary()
        self._lent: MutableMapping[Tensor, Tensor] = WeakIdKeyDictionary()  # copied before anything is done with them

    def know(self, tensors: Iterable[tuple[str, Tensor]], values: Mapping[str, Tensor]) -> None:
        """Say that tensors without values stand for those of the same names and shapes."""
        for name, tensor in tensors:
            value = values.get(name)
            if value is not None and value.shape == tensor.shape and value.numel() <= LARGEST:
                self._lent[tensor] = value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch; keep the value of what it makes, where all that it takes is known."""
        if func in _FACTS:
            return func(*args, **(kwargs or {}))
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "__iter__" and args[0].ndim:
            return iter(self.__torch_function__(Tensor.unbind, types, args[:1]))
        if name in _OF_SIZES or name == "__getitem__":
            args, kwargs = self._sized(name, args, kwargs)
        given = _tensors((args, kwargs))
        with torch._C.DisableTorchFunction():
            values = [self._value(tensor) for tensor in given]
        if name in _OF_NUMBERS and given:  # an item as a fill value or as a bound
            args, kwargs = pytree.tree_map_only(Tensor, self._number, (args, kwargs))
        known = all(value is not None for value in values) and name.rstrip("_") not in DRAWS
        if given and known and name in _READS:
            read = self._apply(func, args, kwargs)
            return func(*args, **kwargs) if read is None else read
        result = func(*args, **kwargs)
        if name in _OF_DATA:
            self._written(result, args[1:] if name == "new_tensor" else args)
        elif known and (given or name in _OF_NUMBERS) and all(one.numel() <= LARGEST for one in _tensors(result)):
            for tensor, value in zip(_tensors(result), _tensors(self._apply(func, args, kwargs)), strict=False):
                self._values[tensor] = value
        elif name == "__setitem__" or "out" in kwargs or (name.endswith("_") and not name.endswith("__")):
            self._forget([value for value in values if value is not None])
        return result

    def _value(self, tensor: Tensor) -> Tensor | None:
        """What is known of a tensor; a real one that is no parameter stands for itself."""
        value = self._values.get(tensor)
        if value is None and self._lent:
            value = self._lent.get(tensor)
        real = type(tensor) is Tensor and tensor.device.type != "meta" and not torch._is_functional_tensor(tensor)
        if value is None and real:
            self._note(tensor)
            if tensor.numel() <= LARGEST:
                value = self._values[tensor] = self._apply(_cloned, (tensor,), {})
        return value

    def _number(self, tensor: Tensor) -> Any:
        """The number that a tensor is; the tensor where it is none, or not known."""
        value = self._value(tensor)
        return tensor if value is None or value.ndim else self._apply(Tensor.item, (value,), {})

    def _sized(self, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Operands with numbers in the place of sizes, paddings and bounds of slices that are tensors."""
        bounds = name == "__getitem__"

        def plain(value: Any) -> Any:
            if isinstance(value, slice):
                return slice(*(self._number(one) if isinstance(one, Tensor) else one for one in _ends(value)))
            if type(value) in (tuple, list) and any(isinstance(one, (Tensor, slice)) for one in value):
                return type(value)(plain(one) for one in value)
            return self._number(value) if isinstance(value, Tensor) and not bounds else value

        return (*args[:1], *map(plain, args[1:])), {key: plain(value) for key, value in kwargs.items()}

    def _written(self, result: Tensor, data: tuple[Any, ...]) -> None:
        """Keep and note what the forward wrote down as data."""
        if data and all(self._value(tensor) is not None for tensor in _tensors(data[0])):
            value = self._apply(torch.tensor, data[:1], {"dtype": result.dtype})
            if value is not None:
                self._values[result] = value
                self._note(value)

    def _forget(self, values: list[Tensor]) -> None:
        """Something unknown was written into one of these, and into all that share its memory."""
        touched = {value.untyped_storage()._cdata for value in values}
        for held in (self._values, self._lent) if touched else ():
            for tensor, value in list(held.items()):
                if value.untyped_storage()._cdata in touched:
                    del held[tensor]

    def _apply(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A function of values; None where it fails, or takes a free size that is no number."""
        if not self._sizes and any(isinstance(one, torch.SymInt) for one in pytree.tree_leaves((args, kwargs))):
            return None
        args, kwargs = pytree.tree_map_only(Tensor, self._own, (args, kwargs))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": None}
        with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
            try:
                result = func(*args, **kwargs)
            except Exception:  # noqa: BLE001 - what the forward calls may need more than values
                return None
        return None if any(one.device.type == "meta" for one in _tensors(result)) else result

    def _own(self, tensor: Tensor) -> Tensor:
        """The value of a tensor, which may be written into; itself where it has no other."""
        lent = self._lent.pop(tensor, None)
        if lent is not None:
            with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
                self._values[tensor] = _cloned(lent)
        return self._values.get(tensor, tensor)


def _ends(value: slice) -> tuple[Any, Any, Any]:
    return value.start, value.stop, value.step


def _cloned(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if type(values) in (tuple, list):
        return [tensor for value in values for tensor in _tensors(value)]
    if isinstance(values, _PLAIN):
        return []
    if type(values) is dict:
        return _tensors(list(values.values()))
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


@contextlib.contextmanager
def reading_items(model: nn.Module, *, buffers: bool) -> Iterator[None]:
    """While a forward may read items of tensors that it makes of numbers; of the model's buffers too, if wanted.

    An export has tensors without values in the place of buffers by the time that the forward is called; what it does
    before and after is no business of the forward's, and much.
    """
    values, known = dict(model.named_buffers()) if buffers else {}, Known(sizes=buffers)
    entered = contextlib.ExitStack()

    def begin(module: nn.Module, _: Any) -> None:
        known.know(module.named_buffers(), values)
        entered.enter_context(DataAsDetached())
        entered.enter_context(known)

    # Hooks, and not a forward in the place of the model's: an export calls that with another self, which notes by what
    # name a module is called that has several.
    hooks = [
        model.register_forward_pre_hook(begin),
        model.register_forward_hook(lambda *_: entered.close(), always_call=True),
    ]
    try:
        yield
    finally:
        entered.close()  # an export does not call the hooks of a forward that fails
        for hook in hooks:
            hook.remove()
