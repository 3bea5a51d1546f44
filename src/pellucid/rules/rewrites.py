"""Operations as the simpler ones they are made of, whose rules are then used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..inputs import accurate
from .recurrent import Gate, gru, lstm, plain, recurrent, single

__all__ = ["REWRITES", "gated", "with_constant_scales"]


# What the deviation is made of: the values themselves, or for a rule that takes it for a constant, detached.
Hold = Callable[[Tensor], Tensor]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any,
    hold: Hold = _same
) -> Tensor:  # fmt: skip
    dims = tuple(range(-len(normalized_shape), 0))
    return _scaled(_normalised(input, dims, eps, hold), weight, bias)


def native_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dims = tuple(range(-len(normalized_shape), 0))
    mean, scale = input.mean(dims, keepdim=True), torch.rsqrt(input.var(dims, correction=0, keepdim=True) + eps)
    return layer_norm(input, normalized_shape, weight, bias, eps), mean, scale


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None, *, hold: Hold = _same
) -> Tensor:
    dims, wide = tuple(range(-len(normalized_shape), 0)), input.to(accurate(input.dtype))
    square = hold(wide).pow(2).mean(dims, keepdim=True)
    normal = wide / torch.sqrt(square + (torch.finfo(wide.dtype).eps if eps is None else eps))
    return _scaled(normal.to(input.dtype), weight, None)


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5, *_: Any, hold: Hold = _same
) -> Any:  # fmt: skip
    """By the statistics of the batch; by fixed ones it is linear."""
    if running_mean is not None and not training:
        return NotImplemented
    return _by_channel(_normalised(input, (0, *range(2, input.dim())), eps, hold), weight, bias)


def fixed_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    found = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return found, input.new_empty(0), input.new_empty(0)


def native_group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, examples: int, channels: int, places: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return group_norm(input, groups, weight, bias, eps), input.new_empty(0), input.new_empty(0)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any, hold: Hold = _same
) -> Tensor:
    grouped = input.reshape(input.shape[0], num_groups, -1)
    return _by_channel(_normalised(grouped, (-1,), eps, hold).reshape(input.shape), weight, bias)


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5, *_: Any,
    hold: Hold = _same
) -> Tensor:  # fmt: skip
    if not use_input_stats and running_mean is not None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _by_channel(_normalised(input, tuple(range(2, input.dim())), eps, hold), weight, bias)


def _normalised(input: Tensor, dims: tuple[int, ...], eps: float, hold: Hold) -> Tensor:
    wide = input.to(accurate(input.dtype))  # squares of half precision overflow
    centred = wide - wide.mean(dims, keepdim=True)
    return (centred / torch.sqrt(hold(centred).pow(2).mean(dims, keepdim=True) + eps)).to(input.dtype)


def _scaled(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = normal if weight is None else normal * weight
    return scaled if bias is None else scaled + bias


def _by_channel(normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *(1,) * (normal.dim() - 2))
    return _scaled(normal, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape))


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Any:
    if not 0 < p < math.inf:
        return NotImplemented
    wide = input.to(accurate(input.dtype))
    size = wide.pow(2).sum(dim, keepdim=True).sqrt() if p == 2 else wide.abs().pow(p).sum(dim, keepdim=True).pow(1 / p)
    return (wide / size.clamp(min=eps)).to(input.dtype)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    shape = torch.broadcast_shapes(x1.shape, x2.shape)
    x1, x2 = x1.expand(shape), x2.expand(shape)
    sizes = [x.pow(2).sum(dim).sqrt().clamp(min=eps) for x in (x1, x2)]
    return (x1 * x2).sum(dim) / (sizes[0] * sizes[1])


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False
) -> Tensor:  # fmt: skip
    """`softmax(q k' / sqrt(d) + mask) v`."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = torch.matmul(query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale), key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        weights = torch.softmax(scores, -1)
    elif attn_mask.dtype == torch.bool:  # a row that may look at nothing gets zeros, as in torch
        blind = ~attn_mask.any(-1, keepdim=True)
        weights = torch.softmax(scores.masked_fill(~(attn_mask | blind), -torch.inf), -1).masked_fill(blind, 0.0)
    else:
        weights = torch.softmax(scores + attn_mask, -1)
    return torch.matmul(F.dropout(weights, dropout_p) if dropout_p else weights, value)


def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int, in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float,
    out_proj_weight: Tensor, out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None, use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None, k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None, static_v: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`nn.MultiheadAttention`, in its order of dimensions: places, examples, features; or without examples."""
    single = query.dim() == 2
    if single:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    weights = (
        (q_proj_weight, k_proj_weight, v_proj_weight) if in_proj_weight is None or use_separate_proj_weight else in_proj_weight.chunk(3)
    )
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True))  # type: ignore[arg-type]
    k, v = (t if s is None else s for t, s in ((k, static_k), (v, static_v)))
    batch = q.shape[1]
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat([t, b.expand(1, batch, -1)]) for t, b in ((k, bias_k), (v, bias_v)))
    if add_zero_attn:
        k, v = (torch.cat([t, t.new_zeros(1, batch, t.shape[2])]) for t in (k, v))
    q, k, v = (t.unflatten(2, (num_heads, -1)).permute(1, 2, 0, 3) for t in (q, k, v))
    mask = _mask(attn_mask, key_padding_mask, batch, num_heads, k.shape[2], q)
    scores = torch.matmul(q / math.sqrt(q.shape[-1]), k.transpose(-2, -1))
    blind = None if mask is None or need_weights else (mask == -torch.inf).all(-1, keepdim=True)
    if mask is not None and blind is not None:  # who may look at nothing gets zeros then, as in torch
        mask = mask.masked_fill(blind, 0.0)
    chances = torch.softmax(scores if mask is None else scores + mask, -1)
    chances = chances if blind is None else chances.masked_fill(blind, 0.0)
    chances = F.dropout(chances, dropout_p, training)
    out = torch.matmul(chances, v).permute(2, 0, 1, 3).flatten(2)
    out = F.linear(out, out_proj_weight, out_proj_bias)
    shown = (chances.mean(1) if average_attn_weights else chances) if need_weights else None
    return (out.squeeze(1), None if shown is None else shown.squeeze(0)) if single else (out, shown)


def _mask(
    attn_mask: Tensor | None, padding: Tensor | None, batch: int, heads: int, keys: int, like: Tensor
) -> Tensor | None:  # fmt: skip
    """What is added to the scores `(batch, heads, queries, keys)`; what was put behind the keys may be seen by all."""
    parts = []
    if attn_mask is not None:
        own = _added(attn_mask, like)
        parts.append(own.view(batch, heads, *own.shape[1:]) if own.dim() == 3 else own)
    if padding is not None:
        parts.append(_added(padding, like)[:, None, None, :])
    parts = [F.pad(part, (0, keys - part.shape[-1])) for part in parts]
    return None if not parts else parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _added(mask: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Any:
    """Bounds that are tensors may change with the inputs."""
    if not isinstance(min, Tensor) and not isinstance(max, Tensor):
        return NotImplemented
    bounded = input if min is None else torch.maximum(input, torch.as_tensor(min).to(input))
    return bounded if max is None else torch.minimum(bounded, torch.as_tensor(max).to(input))


def set_by_mask(input: Tensor, index: Any, value: Any) -> Any:
    """`x[mask] = number`: a choice, if the mask changes with the inputs."""
    if not isinstance(index, Tensor) or index.dtype != torch.bool or isinstance(value, Tensor):
        return NotImplemented
    return torch.where(index.view(*index.shape, *(1,) * (input.dim() - index.dim())), value, input)


def clamp_min(input: Tensor, min: Any) -> Any:
    return torch.clamp(input, min=min)


def clamp_max(input: Tensor, max: Any) -> Any:
    return torch.clamp(input, max=max)


def distances(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Any:
    if p != 2:
        return NotImplemented
    return (x1.unsqueeze(-2) - x2.unsqueeze(-3)).pow(2).sum(-1).sqrt()


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    return F.softmax(-input, dim, dtype=dtype)


def glu(gate: Gate) -> Callable[..., Tensor]:
    def run(input: Tensor, dim: int = -1) -> Tensor:
        value, gating = input.chunk(2, dim)
        return value * gate(gating)

    return run


TANH, RELU = plain(torch.tanh), plain(torch.relu)

REWRITES: Mapping[str, Callable[..., Any]] = {
    "layer_norm": layer_norm,
    "native_layer_norm": native_layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "normalize": normalize,
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
    "native_group_norm": native_group_norm,
    "batch_norm": batch_norm,
    "native_batch_norm_legit_no_training": fixed_batch_norm,
    "cosine_similarity": cosine_similarity,
    "clamp_min": clamp_min,
    "clamp_max": clamp_max,
    "cdist": distances,
    "softmin": softmin,
    "clamp": clamp,
    "setitem": set_by_mask,
    "rnn_tanh": recurrent(TANH, 1),
    "rnn_relu": recurrent(RELU, 1),
    "rnn_tanh_cell": single(TANH, 1),
    "rnn_relu_cell": single(RELU, 1),
}


def gated(gate: Gate) -> Mapping[str, Callable[..., Any]]:
    """The operations with gates, for a way to make these."""
    return {
        "glu": glu(gate),
        "lstm": recurrent(lstm(gate), 2),
        "gru": recurrent(gru(gate), 1),
        "lstm_cell": single(lstm(gate), 2),
        "gru_cell": single(gru(gate), 1),
    }


def with_constant_scales() -> Mapping[str, Callable[..., Any]]:
    """The normalisations, for rules that take what they divide by for a constant."""
    names = ("layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm")
    return {name: partial(REWRITES[name], hold=Tensor.detach) for name in names}
