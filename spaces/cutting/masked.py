"""The masked network, which uses nothing of the graph: the full one with exactly the removed channels zeroed.

Zeros pass unchanged through most operators, so a full network whose removed channels are zero gives what the smaller
one must give. Where an operator takes statistics over channels (layer, RMS and group norm, local response norm, means
and variances, standardised weights) the zeros would count; those calls are caught and see the kept channels only.
Which those are is read off the norm's own weight, or, where it has none, off the zeros themselves. Start at
`masked_outputs`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from ..graph.network import Examples, as_call, plain
from .surgery import named_tensors

Kept = dict[int, Tensor]
"""`{axis: LongTensor of kept indices}`."""
_CAUGHT = {
    "layer_norm": "layer_norm",
    "rms_norm": "layer_norm",
    "group_norm": "group_norm",
    "batch_norm": "batch_norm",
    "local_response_norm": "local_response_norm",
    "_weight_norm": "weight_norm",
    **dict.fromkeys(("mean", "var", "std", "var_mean", "std_mean"), "statistic"),
}
_ACTIVATIONS = set(
    "relu relu6 hardtanh hardswish threshold clamp clamp_min clip gelu silu mish elu celu selu hardshrink softshrink "
    "leaky_relu prelu rrelu".split()
)
_ELEMENTWISE = set(
    "add sub rsub subtract mul multiply div truediv rtruediv true_divide pow square abs neg float double half to "
    "type_as clone contiguous".split()
)


def masked_outputs(model: nn.Module, kept: Mapping[str, Kept], examples: Examples) -> list[Tensor]:
    """All output tensors of `model` in its present mode, with zeros everywhere but in what is kept.

    Where zeros are divided by, as in a table of knots, buffers keep theirs, then vectors too: weights tell as much.

    Args:
        model: the full network; its weights are put back.
        kept: indices that stay, of every parameter and buffer of which some go.
        examples: inputs of the forward.
    """
    tensors = named_tensors(model)
    kept = {name: {axis: i.to(tensors[name].device) for axis, i in axes.items()} for name, axes in kept.items()}
    weights = {name: axes for name, axes in kept.items() if isinstance(tensors[name], nn.Parameter)}
    matrices = {name: axes for name, axes in weights.items() if tensors[name].ndim > 1}
    found: list[list[Tensor]] = []
    for zeroed in (kept, weights, matrices):
        found.append(_outputs(model, tensors, kept, zeroed, examples))
        if all(bool(torch.isfinite(one).all()) for one in found[-1]):
            return found[-1]
    return found[0]


def _outputs(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    everything: Mapping[str, Kept],
    kept: Mapping[str, Kept],
    examples: Examples,
) -> list[Tensor]:
    """With zeros in some of the tensors of which only parts are kept; norms see what is kept of everything."""
    known = {id(tensor): everything.get(name, {}) for name, tensor in tensors.items()}
    with torch.no_grad():
        with _masked(tensors, kept), contextlib.suppress(_Asked), _KeptOnly(known, found=[]) as told:
            outputs = outputs_of(model, examples)
        if not told.asked:
            return outputs
        with _KeptOnly({id(tensor): {} for tensor in tensors.values()}) as unmasked:  # weights do not tell all
            outputs_of(model, examples)
        with _masked(tensors, kept):
            with _KeptOnly(known, zeros=unmasked.zeros) as marked:
                outputs_of(model, examples)
            with _KeptOnly(known, found=marked.found):
                return outputs_of(model, examples)


@contextlib.contextmanager
def _masked(tensors: Mapping[str, Tensor], kept: Mapping[str, Kept]) -> Iterator[None]:
    """While the tensors hold zeros everywhere but in what is kept; memory that several share is filled in place."""
    owners = Counter(one.untyped_storage()._cdata for one in {id(one): one for one in tensors.values()}.values())
    before: list[tuple[Tensor, Tensor, bool]] = []
    try:
        for name, axes in kept.items():
            tensor = tensors[name]
            cut = {axis: indices for axis, indices in axes.items() if len(indices) < tensor.shape[axis]}
            if cut:
                masked = torch.where(_inside(tensor, cut), tensor, tensor.new_zeros(()))
                alone = type(tensor) in (Tensor, nn.Parameter) and owners[tensor.untyped_storage()._cdata] == 1
                before.append((tensor, tensor.data if alone else tensor.clone(), alone))
                if alone:
                    tensor.data = masked
                else:
                    tensor.copy_(masked)
        yield
    finally:
        for tensor, whole, alone in reversed(before):  # one of two names was copied when it was masked
            if alone:
                tensor.data = whole
            else:
                tensor.copy_(whole)


def _inside(tensor: Tensor, kept: Kept) -> Tensor:
    """Whether each element is kept; of a shape that goes with the tensor's."""
    found = torch.ones((), dtype=torch.bool, device=tensor.device)
    for axis, indices in kept.items():
        line = torch.zeros(tensor.shape[axis], dtype=torch.bool, device=tensor.device).index_fill_(0, indices, True)
        found = found & line.reshape([-1 if other == axis else 1 for other in range(tensor.ndim)])
    return found


class _Asked(BaseException):
    """Statistics are asked for, of which no weight tells what is removed; no forward may catch that."""


def relative_error(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """Largest difference / largest wanted number, the worst of all tensors; NaN where one is not finite.

    Raises:
        ValueError: the shapes differ.
    """
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (got, want)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the built network gives tensors of {shapes[0]}; the full network's are {shapes[1]}")
    errors = [0.0]
    for one, other in zip(got, want, strict=True):
        if one.numel():
            difference, scale = float((one.double() - other.double()).abs().max()), float(other.double().abs().max())
            errors.append(0.0 if difference == 0 else difference / scale if scale else float("inf"))
    return max(errors, key=lambda error: (error != error, error))  # NaN, which differs from itself, is the worst


class Leaking(TorchFunctionMode):
    """Activations leak: what is negative everywhere, as before a last ReLU that is dead, still reaches an output."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _dies(getattr(func, "__name__", ""), args[0] if args else kwargs.get("input")):
            return _leaking(func, args, kwargs)
        return func(*args, **kwargs)


def _dies(name: str, value: Any) -> bool:
    """Whether a call is of an activation, which may be flat where its input is negative."""
    return name.removesuffix("_") in _ACTIVATIONS and isinstance(value, Tensor) and value.is_floating_point()


def _leaking(func: Any, args: Any, kwargs: Any) -> Tensor:
    """What an activation gives, and a hundredth of its input; in place where it works so."""
    value: Tensor = args[0] if args else kwargs["input"]
    given = value.clone()
    result = func(given, *args[1:], **kwargs) if args else func(**{**kwargs, "input": given})
    leaked: Tensor = result + value * 0.01
    return value.copy_(leaked) if result is given else leaked


def outputs_of(model: nn.Module, examples: Examples) -> list[Tensor]:
    """All tensors that a network gives for inputs of its forward; complex ones with their two parts as a last axis."""
    args, kwargs = as_call(examples)
    found = [one for one in pytree.tree_leaves(plain(model(*args, **kwargs))) if isinstance(one, Tensor)]
    return [torch.view_as_real(one.resolve_conj()) if one.is_complex() else one for one in found]


def _scattered(value: Tensor, kept: Kept, shape: Sequence[int]) -> Tensor:
    """The value in zeros of the full shape."""
    for axis, indices in reversed(kept.items()):
        sizes = list(value.shape)
        sizes[axis] = shape[axis]
        value = value.new_zeros(sizes).index_copy_(axis, indices, value)
    return value


def _gathered(value: Tensor, kept: Kept) -> Tensor:
    for axis, indices in kept.items():
        value = value.index_select(axis, indices)
    return value


class _KeptOnly(TorchFunctionMode):
    """Norms and statistics see the kept channels only.

    A norm's own weight tells by its identity which channels are removed. Otherwise the lines of the input that are all
    zero tell, which takes two runs before: one with nothing masked, for lines that are zero anyhow, and one with all
    removed elements zero. In both of them activations leak, so that no line is zero because its inputs are negative.
    What is made element by element of a tensor that was normalised so has the same lines, also where a mean that was
    subtracted would fill those that are removed: a norm may be written out.

    Args:
        known: kept indices of each tensor of the model, by `id`.
        zeros: of the run with nothing masked: which lines were zero, in order of asking.
        found: of the run that looked for zeros: the kept lines, in order of asking. One too many is refused.
    """

    def __init__(
        self, known: dict[int, Kept], zeros: list[Tensor] | None = None, found: list[Tensor | None] | None = None
    ) -> None:
        super().__init__()
        self.known = known
        self.leaks = found is None
        self.asked = False
        self._given_zeros = None if zeros is None else iter(zeros)
        self._given_found = None if found is None else iter(found)
        self.zeros: list[Tensor] = []
        self.found: list[Tensor | None] = []
        self._lines_of: MutableMapping[Tensor, Kept] = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first = args[0] if args else kwargs.get("input")
        if isinstance(first, Tensor) and name in _CAUGHT:
            return getattr(self, _CAUGHT[name])(func, *args, **kwargs)
        if self.leaks and _dies(name, first):
            return _leaking(func, args, kwargs)
        result = func(*args, **kwargs)
        if name.strip("_") in _ELEMENTWISE and isinstance(result, Tensor):
            result = self._like(result, args[:2], in_place=name.endswith("_") and name[0] != "_")
        return result

    def _like(self, result: Tensor, operands: Sequence[Any], in_place: bool) -> Tensor:
        """An elementwise result without the lines that its operand lacks."""
        operand = next((one for one in operands if isinstance(one, Tensor) and one.shape == result.shape), None)
        if operand is None:
            return result
        kept = self._lines_of.setdefault(operand, {})
        if kept:
            masked = _scattered(_gathered(result, kept), kept, result.shape)
            result = result.copy_(masked) if in_place else masked
        self._lines_of[result] = kept
        return result

    def removed(self, x: Tensor, axes: Sequence[int]) -> Kept:
        """The kept lines along each of these axes of which some are removed."""
        kept = {axis: self._lines(x, axis) for axis in axes}
        return {axis: indices for axis, indices in kept.items() if indices is not None}

    def _lines(self, x: Tensor, axis: int) -> Tensor | None:
        if self._given_found is not None:
            for kept in self._given_found:
                return kept
            self.asked = True
            raise _Asked
        others = [other for other in range(x.ndim) if other != axis]
        self.zeros.append((x == 0).all(dim=others) if others else x == 0)
        self.found.append(None)
        if self._given_zeros is not None:
            gone = self.zeros[-1] & ~next(self._given_zeros)
            if gone.any() and not gone.all():
                self.found[-1] = (~gone).nonzero().flatten()
        return self.found[-1]

    def layer_norm(
        self, func: Any, input: Tensor, normalized_shape: Any, weight: Any = None, *rest: Any, **kw: Any
    ) -> Any:
        """Layer and RMS norm: over the last axes; weight and bias have those axes."""
        first = input.ndim - len(normalized_shape)
        if id(weight) in self.known:
            inner = self.known[id(weight)]
            kept = {first + axis: indices for axis, indices in inner.items()}
        else:
            kept = self.removed(input, range(first, input.ndim))
            inner = {axis - first: indices for axis, indices in kept.items()}
        if not kept:
            return func(input, normalized_shape, weight, *rest, **kw)
        small = _gathered(input, kept)
        weights = [_gathered(one, inner) if isinstance(one, Tensor) else one for one in (weight, *rest)]
        named = {name: _gathered(one, inner) if isinstance(one, Tensor) else one for name, one in kw.items()}
        return _scattered(func(small, small.shape[first:], *weights, **named), kept, input.shape)

    def group_norm(
        self,
        func: Any,
        input: Tensor,
        num_groups: int,
        weight: Any = None,
        bias: Any = None,
        eps: float = 1e-5,
        *_: Any,
    ) -> Any:
        """Group norm: each group by itself."""
        found = self.known[id(weight)].get(0) if id(weight) in self.known else self.removed(input, [1]).get(1)
        if found is None:
            return func(input, num_groups, weight, bias, eps)
        result = torch.zeros_like(input)
        width = input.shape[1] // num_groups
        for group in range(num_groups):
            inside = found[(found >= group * width) & (found < (group + 1) * width)]
            if len(inside):
                parts = [one if one is None else one[inside] for one in (weight, bias)]
                result[:, inside] = F.group_norm(input[:, inside], 1, parts[0], parts[1], eps)
        return result

    def batch_norm(self, func: Any, input: Tensor, *rest: Any, **kw: Any) -> Any:
        """Batch norm with statistics of its own input, as over standardised weights `(1, out, in)`."""
        call = {**dict(zip(("running_mean", "running_var", "weight", "bias", "training"), rest, strict=False)), **kw}
        if not call.get("training") and call.get("running_mean") is not None:
            return func(input, *rest, **kw)
        kept = self.removed(input, [axis for axis in range(input.ndim) if axis != 1])
        return _scattered(func(_gathered(input, kept), *rest, **kw), kept, input.shape)

    def local_response_norm(self, func: Any, input: Tensor, *rest: Any, **kw: Any) -> Any:
        """Local response norm: the neighbours are those that stay."""
        kept = self.removed(input, [1])
        return _scattered(func(_gathered(input, kept), *rest, **kw), kept, input.shape)

    def statistic(self, func: Any, input: Tensor, *rest: Any, **kw: Any) -> Any:
        """Mean, variance, deviation: of the kept lines along the axes that vanish."""
        dims = rest[0] if rest and not isinstance(rest[0], bool) else kw.get("dim", kw.get("axis"))
        dims = range(input.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
        axes = {axis % input.ndim for axis in dims}
        known = self._lines_of.setdefault(input, {})
        known.update(self.removed(input, sorted(axes)) | known)
        return func(_gathered(input, {axis: known[axis] for axis in axes & known.keys()}), *rest, **kw)

    def weight_norm(self, func: Any, input: Tensor, *rest: Any, **kw: Any) -> Any:
        """A row of zeros has no direction: it stays zero instead of becoming NaN."""
        return func(input, *rest, **kw).masked_fill(input == 0, 0)
