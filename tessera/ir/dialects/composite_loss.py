"""Losses. ``reduction`` is "none", "mean" or "sum", as in torch; its older spellings are understood."""

from __future__ import annotations

import math
from typing import Any

from tessera.ir.dialects.composite_reduce import need_float, wide
from tessera.ir.dialects.fits import need_expand, need_one_rank, need_shape
from tessera.ir.dialects.loss_targets import alike, apart, check_classes, check_probabilities, class_axis
from tessera.ir.dialects.reduce import peak
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dtype import int64
from tessera.ir.infer import Blame
from tessera.ir.record import Kind, OpRecord


def reduction_of(t: Any, reduction: str, size_average: Any = None, reduce: Any = None) -> str:
    """The reduction to make; refuses unknown names (TSR0301)."""
    if size_average is not None or reduce is not None:
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    if reduction not in ("none", "mean", "sum", "batchmean"):
        t.fail("TSR0301", f"reduction `{reduction}`", Blame(None), helps=['use "none", "mean" or "sum"'])
    return reduction


def reduced(t: Any, loss: Any, reduction: str) -> Any:
    """The loss as it is, or its mean or sum."""
    return loss if reduction == "none" else t.mean(loss) if reduction == "mean" else t.sum(loss)


def _pick(t: Any, x: Any, target: Any, axis: int) -> Any:
    return t.squeeze(t.gather(x, axis, t.unsqueeze(target, axis)), axis)


def _weights(t: Any, target: Any, safe: Any, weight: Any, ignore_index: Any) -> Any:
    """Each example's share: its class weight, 0 for ignored ones."""
    valid = t.ne(target, ignore_index)
    if weight is None:
        return valid
    return t.where(valid, wide(t, t.emit("index_select", (weight, safe), dim=0)), 0.0)


def _weighted(t: Any, loss: Any, share: Any, reduction: str) -> Any:
    """The loss of valid examples, and their weighted mean or sum; ignored ones give exactly 0."""
    if t.dtype_of(share).is_bool:
        loss = t.where(share, loss, 0.0)
        share = t.cast(share, t.dtype_of(loss))
    else:
        loss = t.where(t.eq(share, 0.0), 0.0, t.mul(loss, share))
    if reduction == "none":
        return loss
    return t.sum(loss) if reduction == "sum" else t.div(t.sum(loss), t.sum(share))


def _nll_loss(
    t: Any,
    x: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: Any = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    check_classes(t, x, target, weight)
    need_float(t, x, "nll_loss")
    target = t.cast(target, int64)
    safe = t.where(t.ne(target, ignore_index), target, 0)
    loss = t.neg(_pick(t, wide(t, x), safe, class_axis(t, x)))
    share = _weights(t, target, safe, weight, ignore_index)
    return t.cast(_weighted(t, loss, share, reduction_of(t, reduction, size_average, reduce)), t.dtype_of(x))


def _cross_entropy(
    t: Any,
    x: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: Any = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: Any = 0.0,
) -> Any:
    """log(sum(exp(x - m))) - (x[target] - m) with m the largest score; or with class probabilities as targets."""
    need_float(t, x, "cross_entropy")
    reduction = reduction_of(t, reduction, size_average, reduce)
    kind, axis, scores = t.dtype_of(x), class_axis(t, x), wide(t, x)
    if t.dtype_of(target).is_float:
        check_probabilities(t, x, target)
        return t.cast(_soft_targets(t, scores, target, weight, reduction, label_smoothing, axis), kind)
    check_classes(t, x, target, weight)
    target = t.cast(target, int64)
    safe = t.where(t.ne(target, ignore_index), target, 0)
    top = peak(t, scores, axis)
    shifted = t.sub(scores, top)
    log_sum = t.log(t.sum(t.exp(shifted), axis))
    hit = t.sub(_pick(t, scores, safe, axis), t.squeeze(top, axis))
    loss = t.sub(log_sum, hit)
    share = _weights(t, target, safe, weight, ignore_index)
    result = _weighted(t, loss, share, reduction)
    if label_smoothing:
        spread = t.sub(t.unsqueeze(log_sum, axis), shifted)
        result = _smoothed(t, result, spread, share, weight, reduction, label_smoothing, axis)
    return t.cast(result, kind)


def _smoothed(
    t: Any, hard: Any, spread: Any, share: Any, weight: Any, reduction: str, smoothing: float, axis: int
) -> Any:
    """Part of the target spread evenly over the classes (``spread`` is -log p of each)."""
    if weight is not None:
        spread = t.mul(spread, _along(t, wide(t, weight), t.type_of(spread).rank, axis))
    classes = t.dims(spread)[axis]
    even = t.div(t.sum(spread, axis), classes)
    valid = share if t.dtype_of(share).is_bool else t.ne(share, 0.0)
    even = t.where(valid, even, 0.0)
    if reduction == "sum":
        even = t.sum(even)
    elif reduction == "mean":
        even = t.div(t.sum(even), t.sum(t.cast(share, t.dtype_of(even))))
    return t.add(t.mul(hard, 1.0 - smoothing), t.mul(even, smoothing))


def _along(t: Any, v: Any, rank: int, axis: int) -> Any:
    return t.reshape(v, *(t.dims(v)[0] if n == axis else 1 for n in range(rank)))


def _soft_targets(t: Any, x: Any, target: Any, weight: Any, reduction: str, smoothing: Any, axis: int) -> Any:
    target = wide(t, target)
    if smoothing:
        target = t.add(t.mul(target, 1.0 - smoothing), t.div(smoothing, t.dims(x)[axis]))
    if weight is not None:
        target = t.mul(target, _along(t, wide(t, weight), t.type_of(x).rank, axis))
    loss = t.neg(t.sum(t.mul(t.log_softmax(x, axis), target), axis))
    return reduced(t, loss, reduction)


def _elementwise(define: Any) -> Any:
    """A loss per element, then the reduction."""

    def loss(
        t: Any,
        x: Any,
        target: Any,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
        *,
        weight: Any = None,
        **options: Any,
    ) -> Any:
        each = define(t, x, target, **options)
        each = each if weight is None else t.mul(each, weight)
        return reduced(t, each, reduction_of(t, reduction, size_average, reduce))

    return loss


def _mse(t: Any, x: Any, target: Any) -> Any:
    return t.square(apart(t, x, target))


def _l1(t: Any, x: Any, target: Any) -> Any:
    return t.abs(apart(t, x, target))


def _smooth_l1(
    t: Any, x: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", beta: Any = 1.0
) -> Any:
    distance = t.abs(apart(t, x, target))
    if isinstance(beta, int | float) and beta == 0:
        each = distance
    else:
        near = t.div(t.mul(0.5, t.square(distance)), beta)
        each = t.where(t.lt(distance, beta), near, t.sub(distance, 0.5 * beta))
    return reduced(t, each, reduction_of(t, reduction, size_average, reduce))


def _huber(t: Any, x: Any, target: Any, reduction: str = "mean", delta: Any = 1.0, weight: Any = None) -> Any:
    if isinstance(delta, int | float) and delta <= 0:
        t.fail("TSR0212", f"a delta of {delta}", Blame(0), helps=["delta is above 0"])
    distance = t.abs(apart(t, x, target))
    far = t.mul(delta, t.sub(distance, 0.5 * delta))
    each = t.where(t.lt(distance, delta), t.mul(0.5, t.square(distance)), far)
    each = each if weight is None else t.mul(each, weight)
    return reduced(t, each, reduction_of(t, reduction))


#: What x (1 - x) is at least, in the slope of a binary cross-entropy.
_END = 1e-12


def _two_logarithms(t: Any, x: Any, target: Any) -> Any:
    yes, no = t.maximum(t.log(x), -100.0), t.maximum(t.log1p(t.neg(x)), -100.0)
    return t.sub(t.mul(t.sub(target, 1.0), no), t.mul(target, yes))


def _bce(
    t: Any,
    x: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    """Logarithms are held above -100, as in torch, and the slope (x - target) / (x (1 - x)) is not more than it is
    where x (1 - x) is 1e-12: a sigmoid is often exactly 0 or 1.
    """
    alike(t, x, target)
    end = t.lt(t.mul(x, t.sub(1.0, x)), _END)
    inside, at, given = t.where(end, 0.5, x), t.detach(x), t.detach(target)
    # At an end a parabola of that slope, which is added to what the loss is there.
    half = t.sub(t.mul(t.add(x, at), 0.5), given)
    bent = t.mul(t.sub(x, at), t.mul(half, 1.0 / _END))
    each = t.where(end, t.add(_two_logarithms(t, at, target), bent), _two_logarithms(t, inside, target))
    each = each if weight is None else t.mul(each, weight)
    return reduced(t, each, reduction_of(t, reduction, size_average, reduce))


def _bce_with_logits(
    t: Any,
    x: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    alike(t, x, target)
    each = t.mul(t.sub(1.0, target), x)
    positive = t.logsigmoid(x)
    if pos_weight is None:
        each = t.sub(each, positive)
    else:
        each = t.sub(each, t.mul(t.add(t.mul(t.sub(pos_weight, 1.0), target), 1.0), positive))
    each = each if weight is None else t.mul(each, weight)
    return reduced(t, each, reduction_of(t, reduction, size_average, reduce))


def _kl_term(t: Any, x: Any, target: Any, log_target: bool) -> Any:
    if log_target:
        return t.mul(t.exp(target), t.sub(target, x))
    return t.sub(t.xlogy(target, target), t.mul(target, x))


def _kl_div(
    t: Any,
    x: Any,
    target: Any,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    for n, one in enumerate((x, target)):
        need_float(t, one, "Kullback-Leibler divergence", n)
    reduction = reduction_of(t, reduction, size_average, reduce)
    each = _kl_term(t, x, target, log_target)
    if reduction == "batchmean":
        return t.div(t.sum(each), t.dims(x)[0])
    return reduced(t, each, reduction)


def _poisson_nll(
    t: Any,
    x: Any,
    target: Any,
    log_input: bool = True,
    full: bool = False,
    size_average: Any = None,
    eps: Any = 1e-8,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    each = t.sub(t.exp(x), t.mul(target, x)) if log_input else t.sub(x, t.mul(target, t.log(t.add(x, eps))))
    if full:
        stirling = t.add(t.sub(t.mul(target, t.log(target)), target), t.mul(0.5, t.log(t.mul(2.0 * math.pi, target))))
        each = t.add(each, t.where(t.le(target, 1.0), 0.0, stirling))
    return reduced(t, each, reduction_of(t, reduction, size_average, reduce))


def _gaussian_nll(
    t: Any, x: Any, target: Any, var: Any, full: bool = False, eps: Any = 1e-6, reduction: str = "mean"
) -> Any:
    dims = t.dims(x)
    if t.is_tensor(var) and t.dims(var) != dims:
        if t.type_of(var).rank == len(dims) - 1:
            need_shape(t, var, dims[:-1], "a variance")
            var = t.unsqueeze(var, -1)
        else:
            need_one_rank(t, var, (len(dims),), "a variance")
            need_expand(t, var, dims, "a variance")
    var = t.maximum(var, eps)
    each = t.mul(0.5, t.add(t.log(var), t.div(t.square(t.sub(x, target)), var)))
    each = t.add(each, 0.5 * math.log(2.0 * math.pi)) if full else each
    return reduced(t, each, reduction_of(t, reduction))


def _soft_margin(t: Any, x: Any, target: Any) -> Any:
    need_expand(t, target, t.dims(x), "targets")
    return t.softplus(t.neg(t.mul(target, x)))


def _hinge_embedding(
    t: Any,
    x: Any,
    target: Any,
    margin: Any = 1.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    if reduction_of(t, reduction, size_average, reduce) == "mean":
        need_float(t, x, "hinge_embedding_loss")
    apart = t.where(t.eq(target, 1), 0.0, t.maximum(t.sub(margin, x), 0.0))
    near = t.where(t.eq(target, -1), 0.0, x)
    return reduced(t, t.add(apart, near), reduction_of(t, reduction, size_average, reduce))


def _margin_ranking(
    t: Any,
    x: Any,
    x2: Any,
    target: Any,
    margin: Any = 0.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    for one in (x2, target):
        need_one_rank(t, one, (t.type_of(x).rank,), "a ranking")
    each = t.maximum(t.add(t.mul(t.neg(target), t.sub(x, x2)), margin), 0.0)
    return reduced(t, each, reduction_of(t, reduction, size_average, reduce))


def _cosine_embedding(
    t: Any,
    x: Any,
    x2: Any,
    target: Any,
    margin: Any = 0.0,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    need_one_rank(t, target, (0, 1), "targets")
    for one in (x, x2):
        need_one_rank(t, one, (t.type_of(target).rank + 1,), "an embedding")
    inner = t.sum(t.mul(x, x2), -1)
    tiny = 1e-12
    lengths = t.mul(t.add(t.sum(t.square(x), -1), tiny), t.add(t.sum(t.square(x2), -1), tiny))
    cosine = t.div(inner, t.sqrt(lengths))
    same = t.where(t.eq(target, 1), t.sub(1.0, cosine), 0.0)
    other = t.where(t.eq(target, -1), t.maximum(t.sub(cosine, margin), 0.0), 0.0)
    return reduced(t, t.add(same, other), reduction_of(t, reduction, size_average, reduce))


def _triplet_margin(
    t: Any,
    x: Any,
    positive: Any,
    negative: Any,
    margin: Any = 1.0,
    p: Any = 2.0,
    eps: Any = 1e-6,
    swap: bool = False,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    if isinstance(margin, int | float) and margin <= 0:
        t.fail("TSR0212", f"a margin of {margin}", Blame(0), helps=["a margin is above 0"])
    for one in (positive, negative):
        need_one_rank(t, one, (t.type_of(x).rank,), "an embedding")
    near, far = t.pairwise_distance(x, positive, p, eps), t.pairwise_distance(x, negative, p, eps)
    if swap:
        far = t.minimum(far, t.pairwise_distance(positive, negative, p, eps))
    each = t.maximum(t.sub(t.add(margin, near), far), 0.0)
    return reduced(t, each, reduction_of(t, reduction, size_average, reduce))


def _multilabel_soft_margin(
    t: Any,
    x: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    each = t.neg(t.add(t.mul(target, t.logsigmoid(x)), t.mul(t.sub(1.0, target), t.logsigmoid(t.neg(x)))))
    each = each if weight is None else t.mul(each, weight)
    return reduced(t, t.mean(each, -1), reduction_of(t, reduction, size_average, reduce))


_LEGACY = "size_average: any = None, reduce: any = None, reduction: str = 'mean'"
_X = T(("B", "D"))
_PROBABILITY = T(("B", "D"), domain=(0.1, 0.9))
_CLASSES = "x: tensor float, target: tensor, weight: tensor? = None, size_average: any = None, " \
           "ignore_index: int = -100, reduce: any = None, reduction: str = 'mean'"  # fmt: skip


def _c(name: str, signature: str, doc: str, define: Any, samples_: Any, also: tuple[str, ...] = ()) -> OpRecord:
    return OpRecord(name, Kind.COMPOSITE, signature, doc, define=define,
                    torch=(f"torch.nn.functional.{name}", *also), samples=samples_)  # fmt: skip


def _pairs(*more: Any) -> Any:
    return samples(call(_X, _X), call(_X, _X, reduction="none"),
                   call(T(("B", "D"), "bf16"), T(("B", "D"), "bf16"), reduction="sum"),
                   *more)  # fmt: skip


_TARGET = T(("B",), "int64", 4)

OPS: tuple[OpRecord, ...] = (
    _c("cross_entropy", f"{_CLASSES}, label_smoothing: any = 0.0", "Negative log-likelihood of softmax scores.",
       _cross_entropy,
       samples(call(_X, _TARGET), call(T(("B", "D"), "bf16"), _TARGET, reduction="none"),
               call(T(("B", 4, "S")), T(("B", "S"), "int64", 4), T((4,), domain=(0.5, 2.0)), ignore_index=1),
               call(_X, _TARGET, label_smoothing=0.1), call(_X, _PROBABILITY, reduction="sum"))),
    _c("nll_loss", _CLASSES, "Negative log-likelihood of given log-probabilities.", _nll_loss,
       samples(call(_X, _TARGET), call(_X, _TARGET, ignore_index=2, reduction="sum"),
               call(T((4,)), T((), "int64", 4)))),
    _c("mse_loss", f"x: tensor, target: tensor with x float, {_LEGACY}, *, weight: tensor? = None",
           "Squared difference.",
       _elementwise(_mse), _pairs()),
    _c("l1_loss", f"x: tensor float int, target: tensor float int, {_LEGACY}, *, weight: tensor? = None",
           "Absolute difference.",
       _elementwise(_l1), _pairs()),
    _c("smooth_l1_loss", f"x: tensor, target: tensor with x float, {_LEGACY}, beta: tensor = 1.0",
       "Squared near 0, absolute beyond beta.",
       _smooth_l1, _pairs(call(_X, _X, beta=0.5))),
    _c("huber_loss",
           "x: tensor float, target: tensor, reduction: str = 'mean', delta: tensor = 1.0, weight: tensor? = None",
       "Squared near 0, linear beyond delta.", _huber, _pairs(call(_X, _X, delta=2.0))),
    _c("binary_cross_entropy", f"x: tensor float, target: tensor like x, weight: tensor? = None, {_LEGACY}",
       "Negative log-likelihood of probabilities of yes.", _bce,
       samples(call(_PROBABILITY, _PROBABILITY), call(_PROBABILITY, _PROBABILITY, T(("D",)), reduction="sum"))),
    _c("binary_cross_entropy_with_logits",
       f"x: tensor, target: tensor, weight: tensor? = None, {_LEGACY}, pos_weight: tensor? = None",
       "Negative log-likelihood of scores for yes.", _bce_with_logits,
       samples(call(_X, _PROBABILITY), call(_X, _PROBABILITY, pos_weight=T(("D",), domain=(0.5, 2.0)),
                                            reduction="none"))),
    _c("kl_div", f"x: tensor, target: tensor, {_LEGACY}, log_target: bool = False",
       "Kullback-Leibler divergence from log-probabilities.",
       _kl_div, samples(call(_X, _PROBABILITY, reduction="batchmean"), call(_X, _X, reduction="sum", log_target=True))),
    _c("poisson_nll_loss",
       "x: tensor, target: tensor, log_input: bool = True, full: bool = False, size_average: any = None, "
       "eps: tensor = 1e-08, reduce: any = None, reduction: str = 'mean'", "Negative log-likelihood of counts.",
       _poisson_nll,
       samples(call(_X, T(("B", "D"), domain=(0.5, 5.0)), full=True), call(_PROBABILITY, _PROBABILITY, False))),
    _c("gaussian_nll_loss",
       "x: tensor, target: tensor, var: tensor float, full: bool = False, eps: tensor = 1e-06, reduction: str = 'mean'",
       "Negative log-likelihood under a normal distribution.", _gaussian_nll,
       samples(call(_X, _X, _PROBABILITY, full=True))),
    _c("soft_margin_loss", f"x: tensor float, target: tensor, {_LEGACY}", "The logistic loss log(1 + exp(-target x)).",
       _elementwise(_soft_margin),
       samples(call(_X, _X))),
    _c("hinge_embedding_loss", f"x: tensor, target: tensor, margin: tensor = 1.0, {_LEGACY}",
       "Distance, or margin minus distance.",
       _hinge_embedding, samples(call(_X, T(("B", "D"), "f32", "sign")))),
    _c("margin_ranking_loss", f"x: tensor, x2: tensor, target: tensor, margin: tensor = 0.0, {_LEGACY}",
       "How far two scores are from the wanted order.", _margin_ranking,
       samples(call(_X, _X, T(("B", "D"), "f32", "sign")))),
    _c("cosine_embedding_loss", f"x: tensor, x2: tensor, target: tensor, margin: tensor = 0.0, {_LEGACY}",
       "The loss 1 - cosine for pairs that belong together, cosine above the margin for others.", _cosine_embedding,
       samples(call(_X, _X, T(("B",), "f32", "sign")))),
    _c("triplet_margin_loss",
       "x: tensor, positive: tensor, negative: tensor, margin: tensor = 1.0, p: any = 2.0, eps: tensor = 1e-06, "
       f"swap: bool = False, {_LEGACY}", "Nearer to the positive than to the negative by a margin.", _triplet_margin,
       samples(call(_X, _X, _X, swap=True))),
    _c("multilabel_soft_margin_loss", f"x: tensor, target: tensor, weight: tensor? = None, {_LEGACY}",
       "Mean binary cross-entropy over labels.", _multilabel_soft_margin, samples(call(_X, _PROBABILITY))),
)  # fmt: skip
