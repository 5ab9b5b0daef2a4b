"""Multiply-adds of every operator: small formulas, registered by operator name.

A formula takes a `Call` and returns products of sizes; their sum is the operator's multiply-adds for the whole batch.
Counted is what contracts: an inner product of two tensors along an axis, each multiply-add once. Elementwise
operators, norms, reductions, pooling and interpolation, softmax and whatever only moves or makes data count as none,
and only they: an operator that is in neither list raises when costs are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from ..graph.network import operator_name
from .sizes import Size, Sizes

Products = list[list[Size]]


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


Formula = Callable[[Call], Products]
_FORMULAS: dict[str, Formula] = {}


def formula(*names: str) -> Callable[[Formula], Formula]:
    """Register a formula for ATen operators by name, without overload."""

    def register(function: Formula) -> Formula:
        _FORMULAS.update({f"aten.{name}": function for name in names})
        return function

    return register


def products(node: Node, sizes: Sizes, steps: Sequence[str] = ()) -> Products:
    """An operator's multiply-adds for the whole batch, as a sum of products of sizes.

    Args:
        node: the call.
        sizes: sizes of all values.
        steps: the operators that PyTorch runs for it, where that is known.

    Raises:
        NotImplementedError: the operator has no formula and is not known to be free of multiply-adds.
    """
    name = operator_name(node)
    if name in _FORMULAS:
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        arguments = {argument.name: argument.default_value for argument in schema}
        arguments |= dict(zip(arguments, node.args, strict=False))
        return _FORMULAS[name](Call(node, sizes, arguments | dict(node.kwargs)))
    if _is_free(node) or (steps and set(steps) <= _FREE):
        return []
    raise NotImplementedError(name)


def _is_free(node: Node) -> bool:
    """Whether an operator is elementwise, only gives another view of its operand, or is in the list below."""
    if operator_name(node) in _FREE:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    results = [result.alias_info for result in node.target._schema.returns]
    views = bool(results) and all(alias is not None and not alias.is_write for alias in results)
    return views or torch.Tag.pointwise in node.target.tags


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


# --- operators without multiply-adds ----------------------------------------------------------------------------------


def _named(*texts: str) -> Iterable[str]:
    return (f"aten.{name}" for text in texts for name in text.split())


_MADE = """
    arange bernoulli complex empty empty_like empty_permuted empty_strided eye fill full full_like hann_window lift
    lift_fresh lift_fresh_copy linspace logspace meshgrid multinomial new_empty new_empty_strided new_full new_ones
    new_zeros normal ones ones_like one_hot rand rand_like randint randint_like randn randn_like randperm
    scalar_tensor tril_indices triu_indices uniform zero zeros zeros_like
"""
_MOVED = """
    alias detach _reshape_alias _reshape_copy _shape_as_tensor _to_copy _unsafe_index _unsafe_masked_index _unsafe_view
    alias_copy argwhere as_strided as_strided_copy as_strided_scatter atleast_1d atleast_2d atleast_3d block_diag
    broadcast_tensors broadcast_to cat channel_shuffle chunk clone col2im combinations concat concatenate
    constant_pad_nd contiguous copy cpu cuda detach_copy diag diag_embed diagonal_copy diagonal_scatter dropout
    dsplit dstack embedding embedding_bag expand_as expand_copy feature_dropout flatten flip fliplr flipud gather
    hsplit hstack im2col index index_copy index_fill index_put index_select item masked_fill masked_scatter
    masked_select movedim moveaxis narrow narrow_copy native_channel_shuffle native_dropout nonzero nonzero_numpy
    pad permute_copy pixel_shuffle pixel_unshuffle put ravel reflection_pad1d reflection_pad2d reflection_pad3d
    repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resize roll
    rot90 row_stack scatter select_copy select_scatter slice_copy slice_scatter split split_copy split_with_sizes
    squeeze_copy stack swapaxes swapdims take take_along_dim tensor_split tile to transpose_copy tril triu type_as
    unbind_copy unfold unfold_copy unsqueeze_copy view_copy vsplit vstack column_stack alpha_dropout
    feature_alpha_dropout _pad_circular _pad_enum pad_sequence _assert_async _assert_scalar _assert_tensor_metadata
    sym_size sym_numel sym_stride
"""
_REDUCED = """
    all amax amin aminmax any argmax argmin argsort binary_cross_entropy binary_cross_entropy_with_logits bincount
    bucketize count_nonzero cross_entropy_loss cummax cummin cumprod cumsum diff frobenius_norm histc huber_loss
    index_add index_reduce isin kl_div kthvalue l1_loss linalg_vector_norm log_softmax _log_softmax logcumsumexp
    logsumexp max mean median min mode mse_loss msort nanmean nanmedian nanquantile nansum nll_loss nll_loss2d
    nll_loss_nd norm prod quantile renorm scatter_add scatter_reduce searchsorted smooth_l1_loss _softmax softmax
    sort std std_mean sum sum_to_size topk trace _unique2 unique_consecutive unique_dim var var_mean
"""
_NORMALISED = """
    _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _weight_norm _weight_norm_interface
    batch_norm cudnn_batch_norm group_norm instance_norm layer_norm miopen_batch_norm native_batch_norm
    native_group_norm native_layer_norm rms_norm
"""
_RESAMPLED = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
    avg_pool2d avg_pool3d fractional_max_pool2d fractional_max_pool3d glu grid_sampler grid_sampler_2d
    grid_sampler_3d max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices max_unpool2d max_unpool3d mkldnn_max_pool2d mkldnn_max_pool3d upsample_bicubic2d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d _upsample_lanczos2d_aa
"""
_ELEMENTWISE = """
    _prelu_kernel absolute arccos arccosh arcsin arcsinh arctan arctan2 arctanh cartesian_prod cross divide fix
    floor_divide ger greater greater_equal hardshrink hardswish isclose isfinite isinf isnan isreal kron less less_equal
    log_sigmoid log_sigmoid_forward multiply negative norm_except_dim not_equal outer polar prelu rrelu_with_noise
    softshrink subtract threshold true_divide unsafe_chunk unsafe_split unsafe_split_with_sizes
"""  # most elementwise operators carry PyTorch's tag; these do not
_FREE = {"getitem", *_named(_MADE, _MOVED, _REDUCED, _NORMALISED, _RESAMPLED, _ELEMENTWISE)}
