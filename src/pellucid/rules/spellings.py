"""One name for all spellings of an operation: `nn.ReLU()(x)`, `F.relu(x)`, `x.relu_()` and `aten.relu.default(x)` are `relu`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["MOVES", "SUMS", "Spelling", "changed_by", "reads", "spelled", "words"]


class Spelling(NamedTuple):
    """An operation's name, and whether this spelling of it works in place."""

    name: str
    in_place: bool


@lru_cache(4096)
def spelled(func: Callable[..., Any]) -> Spelling:
    """How Pellucid calls the operation behind a function that torch was asked for."""
    written = getattr(func, "__name__", type(func).__name__).split(".")[0]  # `relu.default` is an overload of `relu`
    name = written.strip("_")
    if written.startswith("__") and name[:1] in ("r", "i") and name[1:] in DUNDERS:
        in_place, name = name[0] == "i", OTHER_WAY_ROUND.get(name, name[1:])
    else:
        in_place = written == "__setitem__" or (written.endswith("_") and not written.endswith("__"))
    name = name.removeprefix("special_")
    if name.endswith("_copy") and name.removesuffix("_copy") in MOVES and name != "index_copy":
        name = name.removesuffix("_copy")
    return Spelling(SAME.get(name, name), in_place)


def reads(func: Callable[..., Any]) -> bool:
    """Whether the function only reads a property, but for those that are operations (`x.T`)."""
    return getattr(func, "__name__", "") == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") not in (
        "T",
        "mT",
        "H",
        "mH",
    )


def changed_by(spelling: Spelling, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The tensor that the operation is to change in place, if any."""
    if kwargs.get("out") is not None:
        return kwargs["out"] if isinstance(kwargs["out"], Tensor) else None
    if not (spelling.in_place or kwargs.get("inplace") is True):
        return None
    target = args[0] if args else kwargs.get("input", kwargs.get("self"))
    return target if isinstance(target, Tensor) else None


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


DUNDERS = set(words("add sub mul truediv div pow matmul floordiv mod and or xor lshift rshift"))
# `2 - x` is x.__rsub__(2), `2 / x` x.__rdiv__(2): not the same functions of their first argument.
OTHER_WAY_ROUND = {"rsub": "rsub", "rdiv": "rdiv", "rtruediv": "rdiv", "rpow": "rpow", "rmatmul": "rmatmul", "rmod": "rmod"}
SAME = {
    "truediv": "div", "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub", "negative": "neg",
    "bmm": "matmul", "mm": "matmul", "mv": "matmul", "dot": "matmul", "vdot": "matmul", "linalg_matmul": "matmul",
    "linalg_vecdot": "vecdot",
    "absolute": "abs", "clip": "clamp", "expit": "sigmoid", "float_power": "pow", "fix": "trunc", "sgn": "sign",
    "arctan": "atan", "arcsin": "asin", "arccos": "acos", "arcsinh": "asinh", "arctanh": "atanh", "arccosh": "acosh",
    "safe_softmax": "softmax", "unsafe_view": "view", "concat": "cat", "concatenate": "cat", "fmax": "maximum", "fmin": "minimum",
    "cudnn_batch_norm": "batch_norm", "log_sigmoid": "logsigmoid",
    "max_pool1d_with_indices": "max_pool1d", "max_pool2d_with_indices": "max_pool2d", "max_pool3d_with_indices": "max_pool3d",
    "adaptive_max_pool1d_with_indices": "adaptive_max_pool1d", "adaptive_max_pool2d_with_indices": "adaptive_max_pool2d",
    "adaptive_max_pool3d_with_indices": "adaptive_max_pool3d",
}  # fmt: skip

# What only moves numbers, or gives none that a gradient goes through.
MOVES = frozenset(
    words(
        """get set pack_padded_sequence pad_packed_sequence view reshape transpose permute getitem cat stack hstack vstack
        dstack chunk split split_with_sizes tensor_split unbind expand expand_as broadcast_to broadcast_tensors unsqueeze
        squeeze flatten ravel contiguous clone to type type_as float double half bfloat16 cpu cuda index_select gather take
        take_along_dim roll flip fliplr flipud rot90 tril triu t movedim moveaxis swapaxes swapdims adjoint unflatten narrow
        select diagonal view_as reshape_as as_strided pixel_shuffle pixel_unshuffle channel_shuffle detach requires_grad size
        dim numel nelement element_size stride storage_offset is_contiguous data_ptr set_grad_enabled new_zeros new_ones
        new_full new_empty new_tensor zeros_like ones_like full_like empty_like rand_like randn_like empty zeros ones full
        arange tensor as_tensor linspace eye rand randn randint item tolist numpy len format repr hash iter contains bool int
        long short index eq ne lt gt le ge isclose allclose equal isnan isinf isfinite all any argmax argmin argsort nonzero
        bincount bucketize searchsorted fill zero setitem is_floating_point is_complex untyped_storage storage get_device
        pin_memory logical_not logical_and logical_or bitwise_not bitwise_and bitwise_or floordiv floor_divide one_hot
        multinomial copy alias lift_fresh unsafe_chunk unsafe_split view_as_real view_as_complex real imag deepcopy reduce_ex
        is_inference is_same_size sym_size isin unique meshgrid cartesian_prod result_type can_cast promote_types and or xor
        invert histc repeat tile repeat_interleave unfold im2col pad constant_pad_nd masked_select nan_to_num where
        masked_fill maximum minimum max min amax amin"""
    )
)
# Sums with fixed weights, linear in all their tensors together.
SUMS = frozenset(
    words(
        """add sub rsub neg positive sum mean nanmean nansum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample upsample_nearest1d upsample_nearest2d upsample_nearest3d
        upsample_bilinear2d upsample_linear1d upsample_trilinear3d upsample_bicubic2d fold col2im cumsum diff trace index_add
        scatter_add segment_reduce dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout
        native_dropout stft istft fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn
        fft_ifftn index_put scatter batch_norm"""
    )
)
