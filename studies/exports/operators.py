"""Which operators a loaded program may call: those that calculate, of torch's own; others where a caller names them.

An operator is any code that a library has registered: torchvision's `image::write_file` writes a file. So a namespace
is trusted, not a name in a file: `aten`, and in it what takes or gives tensors, no texts but those that are known to be
options, and nothing that reads files, prints, or trusts sizes that no one has checked.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import torch

from ..disk.files import FormatError

_PYTHON = re.compile(
    r"_operator\.(getitem|eq|ne|le|ge|lt|gt|neg|pos|abs|and_|or_|not_|add|sub|mul|floordiv|truediv|mod|pow)"
    r"|math\.(trunc|ceil|floor)|torch\.sym_(not|int|float|ite|max|min|sqrt|sum)|torch\._sym_sqrt"
)
_CONTROL_FLOW = {"cond", "while_loop", "map_impl", "wrap_with_set_grad_enabled", "wrap_with_autocast"}
_OPTIONS = re.compile(  # a text among their arguments is an option or a message
    r"_assert_async|_functional_assert_(async|scalar)|_convolution_mode|conv[123]d|div(ide)?_?|einsum|fft_\w+"
    r"|gelu(_|_backward)?|index_reduce_?|linalg_\w+|_linalg_(eigh|svd)|meshgrid|(nan)?quantile|pad|pad_sequence"
    r"|scatter(_reduce)?_?|searchsorted|segment_reduce|stft"
)
_NO_TENSOR = {"_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"}
_PRIVATE = re.compile(
    r"__(and|or|xor|lshift|rshift|iand|ior|ixor)__|_adaptive_avg_pool[23]d|_add_relu_?|_aminmax|_assert_\w+"
    r"|_batch_norm_\w+|_native_batch_norm_\w+|_cast_\w+|_cdist_forward|_conj(_copy|_physical)?|_convolution(_mode)?"
    r"|_embedding_bag(_forward_only)?|_euclidean_dist|_fft_\w+|_functional_\w+|_fused_(rms_norm|sdp_choice)|_int_mm"
    r"|_is_(all|any)_true|_linalg_(det|eigh|eigvals|slogdet|solve_ex|svd)|_local_scalar_dense|_log_softmax"
    r"|_logcumsumexp|_lu_with_info|_masked_softmax|_native_multi_head_attention|_neg_view|_pack_padded_sequence"
    r"|_pad_(circular|enum|packed_sequence)|_pdist_forward|_prelu_kernel|_reshape_(alias|copy)|_safe_softmax"
    r"|_scaled_dot_product_\w+|_shape_as_tensor|_softmax|_stack|_thnn_fused_(lstm|gru)_cell|_to_copy"
    r"|_transform_bias_rescale_qkv|_transformer_encoder_layer_fwd|_trilinear|_unique2?"
    r"|_unsafe_(index|index_put|view|masked_index|masked_index_put_accumulate)|_upsample_\w+"
    r"|_weight_norm(_interface)?"
)
_NEVER = {"from_file", "record_stream", "set_", "rename", "rename_"}


def check_operator(target: str, named: Collection[str]) -> None:
    """Refuse a call that is not of a calculation.

    Args:
        target: as a program writes it, such as "torch.ops.aten.relu.default".
        named: operators that the caller trusts besides, such as "torchvision::nms".

    Raises:
        FormatError: it is none.
    """
    if _PYTHON.fullmatch(target):
        return
    match = re.fullmatch(r"torch\.ops\.(\w+)\.(\w+)(?:\.(\w+))?", target)
    if match is None:
        raise FormatError(f"refused: the graph calls {target[:80]!r}, which a plain network does not")
    space, name, overload = match.groups()
    if space == "higher_order":
        allowed = name in _CONTROL_FLOW and overload is None
    elif overload is None:
        allowed = False
    elif space == "aten":
        allowed = f"{space}::{name}" in named or _calculates(name, overload)
    elif f"{space}::{name}" in named:
        allowed = True
    else:
        raise FormatError(
            f"refused: the graph calls {space}::{name}, an operator of a library, which may be any code; if you trust "
            f"it, load with operators=['{space}::{name}']"
        )
    if not allowed:
        raise FormatError(f"refused: the graph calls {target[:80]!r}, which a plain network does not")


def of_libraries(program: torch.export.ExportedProgram) -> list[str]:
    """The operators of a program that a caller has to name, sorted."""
    found = set()
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            if isinstance(node.target, torch._ops.OpOverload):
                name = node.target._schema.name
                space, _, plain = name.partition("::")
                if space != "aten" or not _calculates(plain, node.target._overloadname):
                    found.add(name)
    return sorted(found)


def _calculates(name: str, overload: str) -> bool:
    if name in _NEVER or (name.startswith("_") and not _PRIVATE.fullmatch(name)):
        return False
    try:
        schema = getattr(getattr(torch.ops.aten, name), overload)._schema
    except AttributeError:
        return False
    kinds = [str(one.type) for one in (*schema.arguments, *schema.returns)]
    tensors = any("Tensor" in kind for kind in kinds) or name in _NO_TENSOR
    texts = any("str" in kind.lower() for kind in kinds)
    return tensors and (not texts or _OPTIONS.fullmatch(name) is not None)
