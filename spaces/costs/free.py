"""Operators that count as free of multiply-adds, by name; `TRANSFORMS` count as none too, and are named to the user."""

from __future__ import annotations

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
_ALL = _MADE + _MOVED + _REDUCED + _NORMALISED + _RESAMPLED + _ELEMENTWISE
FREE = {"getitem"} | {f"aten.{name}" for name in _ALL.split()}
TRANSFORMS = {f"aten.fft_{kind}{rank}" for kind in "fft ifft rfft irfft hfft ihfft".split() for rank in ("", "2", "n")}
"""Of `n log n` multiply-adds that are no inner product, and that no counter knows."""
