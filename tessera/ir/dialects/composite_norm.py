"""Softmax, normalisations and attention, each as steps over simpler records; narrow floats are f32 in between."""

from __future__ import annotations

import math
from typing import Any

from tessera.ir.dialects.composite_reduce import centered_squares, count, need_float, wide
from tessera.ir.dialects.create import triangle
from tessera.ir.dialects.fits import need_expand, need_one_rank, need_shape
from tessera.ir.dialects.reduce import peak
from tessera.ir.dialects.rules import composite, torch_names
from tessera.ir.dialects.samples import T, call, samples, size
from tessera.ir.dialects.takes import need_same
from tessera.ir.dim import product
from tessera.ir.dtype import dtype as as_dtype
from tessera.ir.dtype import f64
from tessera.ir.infer import Blame, result_dtype
from tessera.ir.record import OpRecord


def _result_kind(t: Any, x: Any, dtype: Any) -> Any:
    """Of integers there is a softmax in the float dtype that is asked for alone."""
    if dtype is not None:
        return as_dtype(dtype)
    need_float(t, x, "softmax")
    return t.dtype_of(x)


def _axis(t: Any, x: Any, dim: Any) -> int:
    """torch's old default when ``dim`` is left out: 0 for rank 0, 1 and 3, else 1."""
    rank = t.type_of(x).rank
    if dim is None:
        dim = 0 if rank in (0, 1, 3) else 1
    return int(t.context.axis(int(dim), rank))


def _softmax(t: Any, x: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
    """exp(x - max) / sum. A row of -inf gives NaN, as its terms have no largest one."""
    kind, axis = _result_kind(t, x, dtype), _axis(t, x, dim)
    x = wide(t, t.cast(x, kind))
    if not t.dims(x):
        return t.cast(t.exp(t.sub(x, x)), kind)
    e = t.exp(t.sub(x, peak(t, x, axis)))
    return t.cast(t.div(e, t.sum(e, axis, True)), kind)


def _softmin(t: Any, x: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
    return _softmax(t, t.neg(x), dim, dtype)


def _log_softmax(t: Any, x: Any, dim: Any = None, dtype: Any = None, _stacklevel: int = 3) -> Any:
    """(x - max) - log(sum(exp(x - max)))."""
    kind, axis = _result_kind(t, x, dtype), _axis(t, x, dim)
    x = wide(t, t.cast(x, kind))
    if not t.dims(x):
        return t.cast(t.sub(x, x), kind)
    shifted = t.sub(x, peak(t, x, axis))
    return t.cast(t.sub(shifted, t.log(t.sum(t.exp(shifted), axis, True))), kind)


def _trailing(t: Any, x: Any, normalized_shape: Any, what: str) -> tuple[int, ...]:
    """The axes that ``normalized_shape`` names, which must be the last ones."""
    wanted = t.sizes((normalized_shape,))
    if not wanted:
        t.fail("TSR0204", f"{what} over no dims", Blame(1))
    dims = t.dims(x)
    if len(wanted) > len(dims):
        t.fail(
            "TSR0204",
            f"{what} over {len(wanted)} dims of a rank-{len(dims)} tensor",
            Blame(0, None, f"has rank {len(dims)}"),
        )
    first = len(dims) - len(wanted)
    for n, (d, w) in enumerate(zip(dims[first:], wanted, strict=True), first):
        t.context.equal(
            d, w, "TSR0202", f"{what} over `{w}` of dimension `{d}`", Blame(0, n, f"`{d}`"), Blame(1, None, f"`{w}`")
        )
    return tuple(range(first, len(dims)))


def _layer_norm(
    t: Any,
    x: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: Any = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    need_float(t, x, "layer_norm")
    over = _trailing(t, x, normalized_shape, "layer_norm")
    for v in (weight, bias):
        need_shape(t, v, [t.dims(x)[n] for n in over], "layer_norm with a parameter")
    return t.cast(_affine(t, _standardize(t, wide(t, x), over, eps), weight, bias), t.dtype_of(x))


def _standardize(t: Any, x: Any, over: tuple[int, ...], eps: Any) -> Any:
    """(x - mean) / sqrt(var + eps) over the axes, the variance in two passes."""
    mean, squares = centered_squares(t, x, over, True)
    return t.mul(t.sub(x, mean), t.rsqrt(t.add(t.div(squares, count(t, x, over)), eps)))


def _affine(t: Any, x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else t.mul(x, weight)
    return x if bias is None else t.add(x, bias)


def _rms_norm(t: Any, x: Any, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Any:
    need_float(t, x, "rms_norm")
    over = _trailing(t, x, normalized_shape, "rms_norm")
    need_shape(t, weight, [t.dims(x)[n] for n in over], "rms_norm with a weight")
    y = wide(t, x)
    eps = t.dtype_of(y).eps if eps is None else eps
    scaled = t.mul(y, t.rsqrt(t.add(t.div(t.sum(t.mul(y, y), over, True), count(t, y, over)), eps)))
    return t.cast(_affine(t, scaled, weight, None), t.dtype_of(x))


def per_channel(t: Any, v: Any, rank: int) -> Any:
    """A vector laid along axis 1 of a tensor of the given rank."""
    return None if v is None else t.reshape(v, t.dims(v)[0], *([1] * (rank - 2)))


def _need_channels(t: Any, x: Any, *vectors: Any) -> None:
    """Refuse parameters that are no vectors of one number a channel."""
    if t.type_of(x).rank > 1:
        for v in vectors:
            need_shape(t, v, t.dims(x)[1:2], "a parameter")


def _group_norm(
    t: Any, x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: Any = 1e-5, cudnn_enabled: bool = True
) -> Any:
    need_float(t, x, "group_norm")
    dims = t.dims(x)
    if len(dims) < 2:
        t.fail("TSR0204", f"group_norm of a rank-{len(dims)} tensor", Blame(0, None, f"has rank {len(dims)}"))
    groups = t.size(num_groups)
    t.context.divides(
        groups, dims[1], "TSR0208", f"`{groups}` groups of `{dims[1]}` channels", Blame(0, 1, f"`{dims[1]}`")
    )
    _need_channels(t, x, weight, bias)
    grouped = t.reshape(wide(t, x), dims[0], groups, product(dims[1:]) / groups)
    y = t.reshape(_standardize(t, grouped, (2,), eps), *dims)
    rank = len(dims)
    return t.cast(_affine(t, y, per_channel(t, weight, rank), per_channel(t, bias, rank)), t.dtype_of(x))


def _batch_norm(
    t: Any,
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: Any = 1e-5,
    *_: Any,
) -> Any:
    """With the running statistics, or with those of the batch where there are none; it updates nothing."""
    need_float(t, x, "batch_norm")
    _need_channels(t, x, running_mean, running_var, weight, bias)
    rank, y = t.type_of(x).rank, wide(t, x)
    if running_mean is None or running_var is None:
        y = _standardize(t, y, (0, *range(2, rank)), eps)
    elif training:
        t.not_covered("batch_norm that updates running statistics")
    else:
        scale = t.rsqrt(t.add(wide(t, running_var), eps))
        y = t.mul(t.sub(y, per_channel(t, wide(t, running_mean), rank)), per_channel(t, scale, rank))
    return t.cast(_affine(t, y, per_channel(t, weight, rank), per_channel(t, bias, rank)), t.dtype_of(x))


def _instance_norm(
    t: Any,
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: Any = 0.1,
    eps: Any = 1e-5,
) -> Any:
    need_float(t, x, "instance_norm")
    _need_channels(t, x, running_mean, running_var, weight, bias)
    rank, y = t.type_of(x).rank, wide(t, x)
    if not use_input_stats:
        return _batch_norm(t, x, running_mean, running_var, weight, bias, False, momentum, eps)
    y = _standardize(t, y, tuple(range(2, rank)), eps)
    return t.cast(_affine(t, y, per_channel(t, weight, rank), per_channel(t, bias, rank)), t.dtype_of(x))


def _normalize(t: Any, x: Any, p: Any = 2.0, dim: Any = 1, eps: Any = 1e-12) -> Any:
    return t.div(x, t.maximum(t.norm(x, p, dim, True), eps))


def _cosine_similarity(t: Any, x: Any, x2: Any, dim: int = 1, eps: Any = 1e-8) -> Any:
    kind = result_dtype([t.type_of(x), t.type_of(x2)])
    if not kind.is_float:
        need_float(t, x, "cosine similarity")
    a, b = t.broadcast_tensors(wide(t, t.cast(x, kind)), wide(t, t.cast(x2, kind)))
    one, two = (t.div(v, t.maximum(t.norm(v, 2.0, dim, True), eps)) for v in (a, b))
    return t.cast(t.sum(t.mul(one, two), dim), kind)


def _pairwise_distance(t: Any, x: Any, x2: Any, p: Any = 2.0, eps: Any = 1e-6, keepdim: bool = False) -> Any:
    return t.norm(t.add(t.sub(x, x2), eps), p, -1, keepdim)


def _attention(
    t: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q kᵀ * scale + mask) v; a fully masked row gives 0, and narrow floats round once, at the end."""
    kind = t.dtype_of(query)
    if attn_mask is not None and not t.dtype_of(attn_mask).is_bool:
        need_same("scaled_dot_product_attention", t.operand(query), t.operand(attn_mask))
    query, key, value = (wide(t, x) for x in (query, key, value))
    if enable_gqa:
        key, value = (_grouped(t, query, x) for x in (key, value))
    scale = t.rsqrt(_size_scalar(t, t.dims(query)[-1])) if scale is None else scale
    scores = t.mul(t.matmul(query, t.transpose(key, -2, -1)), scale)
    if attn_mask is not None:
        need_one_rank(t, attn_mask, range(2, t.type_of(scores).rank + 1), "a mask of scores")
        need_expand(t, attn_mask, t.dims(scores), "a mask of scores")
    if is_causal:
        allowed = triangle(t, t.dims(scores)[-2], t.dims(scores)[-1], 0, False)
        scores = t.where(allowed, scores, -math.inf)
    if attn_mask is not None and t.dtype_of(attn_mask).is_bool:
        scores = t.where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = t.add(scores, wide(t, attn_mask))
    weights = _masked_softmax(t, scores)
    return t.cast(t.matmul(t.dropout(weights, dropout_p), value), kind)


def _size_scalar(t: Any, d: Any) -> Any:
    """A size as a number of rank 0, which leaves the dtype of what it meets alone."""
    return t.full((), d, dtype=f64)


def _grouped(t: Any, query: Any, x: Any) -> Any:
    """Key or value heads repeated so that every query head has its own."""
    heads, have = t.dims(query)[-3], t.dims(x)[-3]
    times = t.context.divides(
        have, heads, "TSR0208", f"`{have}` key heads for `{heads}` query heads", Blame(1, None, f"`{have}`")
    )
    return t.repeat_interleave(x, times, -3)


def _masked_softmax(t: Any, x: Any) -> Any:
    top = peak(t, x, -1)
    e = t.exp(t.sub(x, t.where(t.isinf(top), 0.0, top)))
    total = t.sum(e, -1, True)
    return t.where(t.eq(total, 0.0), 0.0, t.div(e, total))


_X, _H = T(("B", "S", "D")), T(("B", "S", "D"), "bf16")
_SOFT = samples(call(_X, -1), call(_H, dim=1), call(T(("S",)), 0), call(_X, 2, dtype="f64"))
_SOFTMAX = "x: tensor, dim: dim = None, dtype: dtype = None, _stacklevel: int = 3"
_RUNNING = "running_mean: tensor? near x = None, running_var: tensor? like running_mean = None"
_AFFINE = "weight: tensor? near x = None, bias: tensor? like weight = None"
_IMAGE, _FOUR = T(("B", 4, 3, 2)), T((4,))

OPS: tuple[OpRecord, ...] = (
    composite("softmax", _SOFTMAX, "Exponentials over their sum along one axis.", _softmax,
       (*torch_names("softmax", "f", "t", "m", "s"),), _SOFT, ("softmax",)),
    composite("softmin", _SOFTMAX, "The softmax of -x.", _softmin, ("torch.nn.functional.softmin",),
              samples(call(_X, -1))),
    composite("log_softmax", _SOFTMAX, "Logarithm of softmax, without overflow.", _log_softmax,
       torch_names("log_softmax", "f", "t", "m", "s"), _SOFT, ("log_softmax",)),
    composite("layer_norm",
              f"x: tensor, normalized_shape: sizes, {_AFFINE}, eps: tensor = 1e-05, cudnn_enable: bool = True",
       "Mean 0 and variance 1 over the last axes, then scaled and shifted.", _layer_norm,
       torch_names("layer_norm", "f", "t"),
       samples(call(_X, (size("D"),)), call(_H, (size("D"),), T(("D",), "bf16"), T(("D",), "bf16")),
               call(_X, (size("S"), size("D")), eps=1e-3))),
    composite("rms_norm", "x: tensor, normalized_shape: sizes, weight: tensor? = None, eps: tensor? = None",
       "Root mean square 1 over the last axes, then scaled.", _rms_norm, torch_names("rms_norm", "f", "t"),
       samples(call(_X, (size("D"),)), call(_H, (size("D"),), T(("D",), "bf16"), 1e-6),
               call(_X, (size("D"),), T(("D",))))),
    composite("group_norm", f"x: tensor, num_groups: size, {_AFFINE}, eps: tensor = 1e-05, cudnn_enabled: bool = True",
       "A layer_norm over groups of channels (axis 1) and what follows them.", _group_norm,
       torch_names("group_norm", "f", "t"),
       samples(call(_IMAGE, 2), call(T(("B", 4, 3), "bf16"), 4, T((4,), "bf16"), T((4,), "bf16")))),
    composite("batch_norm",
              f"x: tensor, {_RUNNING}, {_AFFINE}, training: bool = False, momentum: any = 0.1, eps: tensor = 1e-05",
       "Channels (axis 1) standardised with running statistics, or with those of the batch.", _batch_norm,
       ("torch.nn.functional.batch_norm",),
       samples(call(_IMAGE, _FOUR, T((4,), domain=(0.5, 2.0)), _FOUR, _FOUR), call(_IMAGE, None, None, training=True))),
    composite("instance_norm",
              f"x: tensor, {_RUNNING}, {_AFFINE}, use_input_stats: bool = True, momentum: any = 0.1, "
              f"eps: tensor = 1e-05",
       "Each channel of each example standardised.", _instance_norm, ("torch.nn.functional.instance_norm",),
       samples(call(_IMAGE), call(_IMAGE, weight=_FOUR, bias=_FOUR))),
    composite("normalize", "x: tensor, p: any = 2.0, dim: dims = 1, eps: tensor = 1e-12",
              "The tensor over its norm along an axis.",
       _normalize,
       ("torch.nn.functional.normalize",), samples(call(_X), call(_H, 1.0, -1))),
    composite("cosine_similarity", "x: tensor, x2: tensor, dim: dim = 1, eps: tensor = 1e-08",
       "Cosine of the angle along an axis.",
       _cosine_similarity, torch_names("cosine_similarity", "f", "t"), samples(call(_X, _X), call(_X, T(("D",)), -1))),
    composite("pairwise_distance", "x: tensor, x2: tensor, p: any = 2.0, eps: tensor = 1e-06, keepdim: bool = False",
       "Norm of the difference along the last axis.", _pairwise_distance, torch_names("pairwise_distance", "f", "t"),
       samples(call(_X, _X))),
    composite("scaled_dot_product_attention", "query: tensor float, key: tensor like query, "
       "value: tensor like query, attn_mask: tensor? = None, "
       "dropout_p: tensor = 0.0, is_causal: bool = False, scale: tensor? = None, enable_gqa: bool = False",
       "Attention, softmax(q kᵀ scale + mask) v.", _attention, ("torch.nn.functional.scaled_dot_product_attention",),
       samples(call(T((2, "H", "S", "D")), T((2, "H", "T", "D")), T((2, "H", "T", "K"))),
               call(T((2, 4, "S", "D")), T((2, 2, "S", "D")), T((2, 2, "S", "D")), is_causal=True, enable_gqa=True),
               call(T((2, "H", "S", "D")), T((2, "H", "T", "D")), T((2, "H", "T", "K")), T(("S", "T"), "bool", "bool"),
                    scale=0.3))),
)  # fmt: skip
