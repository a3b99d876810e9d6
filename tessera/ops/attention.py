"""Attention over whole sequences, one kernel in every option, without an array of all the scores."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

import tessera
from tessera import DTypeError, ShapeError, Tensor, TesseraError

_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF
_INF = float("inf")

#: The sizes of the scores, which a mask has the last of.
_NAMES = "B", "H", "S", "T"


def flash_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    dropout_seed: int | None = None,
    window: int | None = None,
) -> Any:
    """``softmax(scale · q kᵀ + mask) v``, a tensor ``[B, H, S, E]``.

    The shapes are q ``[B, H, S, D]``, k ``[B, K, T, D]`` and v ``[B, K, T, E]``.
    All three in one floating dtype, which is that of the result. ``H`` is a multiple of ``K``; query head h reads
    key head ``h // (H / K)``, and no key or value is copied.

    - ``mask``: ``[S, T]``, ``[B, S, T]`` or ``[B, H, S, T]``, where an axis may be 1. A bool mask says what may be
      attended, a float one is added to the scores. It may stand beside ``is_causal``.
    - ``is_causal``: query i attends the keys up to i + T - S, so that the last query sees all of them.
    - ``window``: only keys less than so many positions away, counted as for ``is_causal``. An int.
    - ``scale``: 1/√D unless given.
    - ``dropout_p``: the probability with which each weight is dropped, after the weights were divided by their sum;
      the others are scaled by 1/(1 - p). With ``dropout_seed`` what is dropped is a function of seed, batch, head,
      query and key alone (Philox 4x32-10), else it follows torch's generator.
    - ``return_lse``: also give ``[B, H, S]`` of float32 (float64 beside float64): the logarithm of the sum of the
      exponentials of each row's scores, dropout left out.

    A query with nothing to attend gives 0, and -inf as its logarithm; so does every query where T is 0.
    Beyond inputs and results memory does not grow with S·T.

    On tensors it runs compiled; inside a `tessera.function` it becomes part of it.

    Raises ShapeError for ranks or sizes that do not fit, for heads that are no multiple and for D = 0, DTypeError for
    a mask of integers or another dtype than that of q, and TesseraError for a probability outside [0, 1] or a window
    below 1.

    Source: online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135.

    >>> import torch
    >>> from tessera import ops
    >>> x = torch.eye(3)[None, None]
    >>> ops.flash_attention(x, x, x, is_causal=True, scale=0.0)[0, 0, 1].tolist()
    [0.5, 0.5, 0.0]
    """
    _check(q, k, mask)
    _check_numbers(dropout_p, window)
    random = not (isinstance(dropout_p, int | float) and dropout_p == 0)
    fixed = (random, is_causal, return_lse, window)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if not isinstance(q, torch.Tensor):
        return _attend(q, k, v, mask, dropout_p, scale, dropout_seed, *fixed)
    seed = None if dropout_seed is None or not random else torch.tensor([dropout_seed], dtype=torch.int64)
    if mask is None:
        return _program(None)(q, k, v, None, dropout_p, scale, seed, *fixed)
    mask = mask.unsqueeze(1) if mask.ndim == 3 else mask
    whole = (*q.shape[:3], k.shape[2])[4 - mask.ndim :]
    ones = tuple(have == 1 != want for have, want in zip(mask.shape, whole, strict=True))
    return _program(ones)(q, k, v, mask, dropout_p, scale, seed, *fixed)


def _check(q: Any, k: Any, mask: Any) -> None:
    """What the definition itself would not say in these words: ranks, heads, width, the kind of mask."""
    if (q.ndim, k.ndim) != (4, 4):
        raise ShapeError(
            f"attention of queries of rank {q.ndim} and keys of rank {k.ndim}",
            code="TSR0204",
            helps=["give queries, keys and values as [batch, heads, positions, width]"],
        )
    heads, shared, width = q.shape[1], k.shape[1], q.shape[3]
    if isinstance(width, int) and width == 0:
        raise ShapeError("attention over vectors of width 0", code="TSR0105", helps=["the last size is at least 1"])
    if isinstance(heads, int) and isinstance(shared, int) and (shared == 0 or heads % shared):
        raise ShapeError(
            f"{heads} query heads over {shared} key heads",
            code="TSR0208",
            helps=["make the number of query heads a multiple of the number of key heads"],
        )
    if mask is None:
        return
    if mask.ndim not in (2, 3, 4):
        raise ShapeError(
            f"mask of rank {mask.ndim} for scores of rank 4",
            code="TSR0204",
            helps=["give a mask as [S, T], [B, S, T] or [B, H, S, T], where an axis may be 1"],
        )
    if mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise DTypeError(
            f"mask of dtype {str(mask.dtype).removeprefix('torch.')}",
            code="TSR0301",
            helps=["give a bool mask of what may be attended, or a float mask that is added to the scores"],
        )


def _check_numbers(dropout_p: Any, window: Any) -> None:
    if isinstance(dropout_p, int | float) and not 0 <= dropout_p <= 1:
        raise TesseraError(
            f"dropout with probability {dropout_p}", code="TSR0109", helps=["give a probability from 0 to 1"]
        )
    if window is not None and window < 1:
        raise TesseraError(f"window of {window} positions", code="TSR0109", helps=["give a window of 1 or more"])


@lru_cache(maxsize=64)
def _program(ones: tuple[bool, ...] | None) -> Callable[..., Any]:
    """The compiled form for a mask whose axes of size 1 are known."""
    mask: Any = None
    if ones is not None:
        names = _NAMES[4 - len(ones) :]
        mask = Tensor[tuple(1 if one else name for one, name in zip(ones, names, strict=True))]

    def flash_attention(
        q: Tensor["B", "H", "S", "D"],
        k: Tensor["B", "K", "T", "D"],
        v: Tensor["B", "K", "T", "E"],
        mask: Any,
        dropout_p: float,
        scale: float,
        seed: Tensor[1, torch.int64] | None,
        random: bool,
        is_causal: bool,
        return_lse: bool,
        window: int | None,
    ) -> Any:
        return _attend(q, k, v, mask, dropout_p, scale, seed, random, is_causal, return_lse, window)

    flash_attention.__annotations__["mask"] = mask
    return tessera.function(flash_attention)


# -- the definition -------------------------------------------------------------------------------


def _attend(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    dropout_p: Any,
    scale: Any,
    seed: Any,
    random: bool,
    is_causal: bool,
    return_lse: bool,
    window: int | None,
) -> Any:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT
    scores = (scores if scores.dtype == torch.float64 else scores.float()) * scale
    hidden = _hidden(q.shape[2], k.shape[2], is_causal, window)
    for one in hidden:
        scores = scores.masked_fill(one, -_INF)
    if mask is not None:
        scores = _masked(scores, mask.unsqueeze(1) if mask.ndim == 3 else mask)
    weights = torch.softmax(scores, -1)
    if random:
        weights = _dropped(weights, dropout_p, seed)
    result = weights.to(v.dtype) @ v
    if mask is not None or hidden:
        result = torch.where((scores != -_INF).any(-1, keepdim=True), result, 0.0)
    return (result, torch.logsumexp(scores, -1)) if return_lse else result


def _hidden(s: Any, t: Any, is_causal: bool, window: int | None) -> list[Any]:
    """Conditions on positions under which a key is out of reach of a query. The last of both stand side by side."""
    i = torch.arange(s)[:, None] + (t - s)
    j = torch.arange(t)[None, :]
    found = [j > i] if is_causal else []
    if window is not None:
        found.append(i - j >= window)
        if not is_causal:
            found.append(j - i >= window)
    return found


def _masked(scores: Any, mask: Any) -> Any:
    if mask.dtype == torch.bool:
        return torch.where(mask, scores, -_INF)
    return scores + mask.to(scores.dtype)


def _dropped(weights: Any, p: Any, seed: Any) -> Any:
    """Weights dropped with probability ``p``, the others scaled up."""
    if seed is None:
        return F.dropout(weights, p)
    b, h, s, t = weights.shape
    head = torch.arange(b)[:, None, None, None] * h + torch.arange(h)[:, None, None]
    word = _philox((torch.arange(t), torch.arange(s)[:, None], head, 0), seed)
    kept = (word >> 8).to(torch.float32) * 2.0**-24 >= p
    # Where nothing is kept the gradients of what would be are numbers, too.
    return torch.where(kept, weights / (1.0 - p * (p < 1.0)), 0.0)


def _philox(counter: tuple[Any, Any, Any, Any], seed: Any) -> Any:
    """The first word of Philox 4x32-10 (Salmon et al. 2011) for four counters below 2**32 and a seed of 64 bits.

    Words are kept in int64: the upper half of a product of two is right although its sign is not.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _WORD, (seed >> 32) & _WORD
    for number in range(_ROUNDS):
        if number:
            k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (right >> 32) & _WORD ^ c1 ^ k0, right & _WORD, (left >> 32) & _WORD ^ c3 ^ k1, left & _WORD
    return c0
