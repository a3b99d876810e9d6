"""Attention of several heads with torch's parameters, and self-attention of decoders."""

from typing import Any

import torch
import torch.nn.functional as F

from tessera import Module, ShapeError, Tensor
from tessera.nn.linear import Linear

_INF = float("inf")


class MultiheadAttention(torch.nn.MultiheadAttention, Module):
    """Attention of ``num_heads`` heads over projected queries, keys and values.

    Arguments, parameters and conventions as ``torch.nn.MultiheadAttention``: query ``[L, N, embed_dim]``, key
    ``[S, N, kdim]`` and value ``[S, N, vdim]``, with ``batch_first`` the batch in front, or all without a batch. A bool
    mask is True where attention is *not* allowed; a float mask is added to the scores. ``attn_mask`` is ``[L, S]`` or
    ``[N * num_heads, L, S]``, ``key_padding_mask`` ``[N, S]``. Gives the result and, with ``need_weights``, the weights
    ``[N, L, S]``, or ``[N, num_heads, L, S]`` unless they are averaged. Without the weights no array of scores is made.

    Raises ShapeError for sizes that do not fit, and for ``is_causal`` without ``attn_mask``, of which it is a hint.
    Source: Vaswani et al. 2017, arXiv:1706.03762.

    >>> import torch
    >>> from tessera import nn
    >>> x = torch.randn(2, 5, 8)
    >>> y, weights = nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> y.shape, weights.shape
    (torch.Size([2, 5, 8]), torch.Size([2, 5, 5]))
    """

    in_proj_weight: Tensor["3*embed_dim", "embed_dim"] | None  # type: ignore[assignment]
    q_proj_weight: Tensor["embed_dim", "embed_dim"] | None  # type: ignore[assignment]
    k_proj_weight: Tensor["embed_dim", "kdim"] | None  # type: ignore[assignment]
    v_proj_weight: Tensor["embed_dim", "vdim"] | None  # type: ignore[assignment]
    in_proj_bias: Tensor["3*embed_dim"] | None  # type: ignore[assignment]

    def forward(
        self,
        query: Tensor["*q", "embed_dim"],
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor["*q", "embed_dim"], Tensor | None]:
        if is_causal and attn_mask is None:
            raise ShapeError("`is_causal` without `attn_mask`", code="TSR0204", helps=["give the mask as well"])
        batched = query.ndim == 3
        lead = 0 if not batched or self.batch_first else 1
        query, key, value = (x if batched else x.unsqueeze(0) for x in (query, key, value))
        query, key, value = (x.transpose(0, 1) if lead else x for x in (query, key, value))
        q, k, v = (self._heads(x) for x in self._projected(query, key, value))
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        mask = _mask(q, k, key_padding_mask, attn_mask)
        k, v, mask = self._extended(k, v, mask)
        made, weights = _attend(q, k, v, mask, self.dropout if self.training else 0.0, need_weights)
        made = self.out_proj(made.transpose(1, 2).flatten(2))
        made = made.transpose(0, 1) if lead else made
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return made.squeeze(0), None if weights is None else weights.squeeze(0)
        return made, weights

    def _projected(self, query: Any, key: Any, value: Any) -> Any:
        """Queries, keys and values ``[N, L, embed_dim]``."""
        given = (query, key, value)
        whole, size = self.in_proj_bias, self.embed_dim
        biases = [None] * 3 if whole is None else [whole[n * size : (n + 1) * size] for n in range(3)]
        if self._qkv_same_embed_dim:
            joint: Any = self.in_proj_weight
            if query is key is value:
                return F.linear(query, joint, whole).split(size, -1)
            weights = [joint[n * size : (n + 1) * size] for n in range(3)]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        return [F.linear(x, w, b) for x, w, b in zip(given, weights, biases, strict=True)]

    def _heads(self, x: Any) -> Any:
        """``[N, L, embed_dim]`` as ``[N, num_heads, L, head_dim]``."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _extended(self, k: Any, v: Any, mask: Any) -> Any:
        """Keys and values with the learnt one and the zero that torch may put behind them; all may attend those."""
        n = k.shape[0]
        parts = [(k, v)]
        if self.bias_k is not None and self.bias_v is not None:
            parts.append((self._heads(self.bias_k.expand(n, 1, -1)), self._heads(self.bias_v.expand(n, 1, -1))))
        if self.add_zero_attn:
            zero = torch.zeros_like(k[:, :, :1])
            parts.append((zero, zero))
        more = len(parts) - 1
        if not more:
            return k, v, mask
        mask = None if mask is None else F.pad(mask, (0, more))
        return torch.cat([p[0] for p in parts], 2), torch.cat([p[1] for p in parts], 2), mask


def _mask(q: Any, k: Any, padding: Any, mask: Any) -> Any:
    """Both masks as one that is added to scores ``[N, H, L, S]``; None where there is none."""
    found = None
    if mask is not None:
        if mask.ndim not in (2, 3):
            raise ShapeError(f"`attn_mask` of rank {mask.ndim}", code="TSR0204", helps=["give [L, S] or [N * H, L, S]"])
        found = _added(mask, q)
        found = found if mask.ndim == 2 else found.unflatten(0, (q.shape[0], q.shape[1]))
    if padding is not None:
        keys = _added(padding, q)[:, None, None, :]
        found = keys if found is None else found + keys
    return found


def _added(mask: Any, like: Any) -> Any:
    """A mask as numbers that are added: -inf where a bool one forbids."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -_INF)
    return mask.to(like.dtype)


def _attend(q: Any, k: Any, v: Any, mask: Any, dropout: float, need_weights: bool) -> Any:
    """The weighted values ``[N, H, L, D]``, and the weights where they are asked for."""
    if not need_weights:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    weights = torch.softmax(scores if mask is None else scores + mask, -1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ v, weights


class SelfAttention(Module):
    """Attention of a sequence over itself, as in decoders: ``[B, S, dim]`` to the same.

    ``num_heads`` query heads share ``num_kv_heads`` key and value heads (all have their own unless given).
    ``rope_base`` turns queries and keys by their positions, None leaves them; ``causal`` lets no position see later
    ones. ``mask``, broadcast to ``[B, num_heads, S, S]``, is True where attention is allowed, or added to the scores.

    Parameters: ``q.weight [dim, dim]``, ``k.weight`` and ``v.weight`` ``[num_kv_heads * head_dim, dim]``,
    ``out.weight [dim, dim]``, with biases where ``bias``.
    Raises ShapeError where heads do not divide ``dim``, or shared ones the query heads.
    Sources: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.

    >>> import torch
    >>> from tessera import nn
    >>> layer = nn.SelfAttention(16, 4, num_kv_heads=2, rope_base=10000.0)
    >>> layer(torch.randn(2, 5, 16)).shape, layer.k.weight.shape
    (torch.Size([2, 5, 16]), torch.Size([8, 16]))
    """

    dim: int

    def __init__(
        self, dim: int, num_heads: int, num_kv_heads: int | None = None, rope_base: float | None = None,
        causal: bool = True, dropout: float = 0.0, bias: bool = False, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        shared = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or shared < 1 or dim % num_heads or num_heads % shared:
            raise ShapeError(
                f"{num_heads} query heads and {shared} key heads of a model of size {dim}", code="TSR0208",
                helps=["the query heads divide the size, and the key heads the query heads"],
            )  # fmt: skip
        self.dim, self.num_heads, self.num_kv_heads, self.head_dim = dim, num_heads, shared, dim // num_heads
        if rope_base is not None and self.head_dim % 2:
            raise ShapeError(f"heads of size {self.head_dim} turned in pairs", code="TSR0208")
        self.rope_base, self.causal, self.dropout = rope_base, causal, dropout
        of: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.q = Linear(dim, dim, **of)
        self.k = Linear(dim, shared * self.head_dim, **of)
        self.v = Linear(dim, shared * self.head_dim, **of)
        self.out = Linear(dim, dim, **of)

    def forward(self, x: Tensor["B", "S", "dim"], mask: Tensor | None = None) -> Tensor["B", "S", "dim"]:
        q = self.q(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        k, v = (p(x).unflatten(-1, (self.num_kv_heads, self.head_dim)).transpose(1, 2) for p in (self.k, self.v))
        if self.rope_base is not None:
            cos, sin = _turns(x.shape[1], self.head_dim, self.rope_base, x.device)
            q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        alone = self.causal and mask is None
        if self.causal and mask is not None:
            mask = _causal(mask, x.shape[1], x.device)
        p = self.dropout if self.training else 0.0
        grouped = self.num_kv_heads != self.num_heads
        made = F.scaled_dot_product_attention(q, k, v, mask, p, alone, enable_gqa=grouped)
        return self.out(made.transpose(1, 2).flatten(2))


def _causal(mask: Any, size: Any, device: Any) -> Any:
    """A mask that also forbids later positions."""
    at = torch.arange(size, device=device)
    later = at[None, :] > at[:, None]
    return mask & ~later if mask.dtype == torch.bool else mask.masked_fill(later, -_INF)


def _turns(size: Any, width: int, base: float, device: Any) -> Any:
    """Cosines and sines ``[size, width / 2]`` of the angles by position, in float32 whatever the model's dtype.

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    pairs = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angles = torch.arange(size, device=device)[:, None] * (1.0 / base ** (pairs / width))
    return angles.cos(), angles.sin()


def _turned(x: Any, cos: Any, sin: Any) -> Any:
    """``x [B, H, S, D]`` with each of the pairs (i, i + D/2) turned by its angle."""
    one, two = (x if x.dtype == torch.float64 else x.float()).chunk(2, -1)
    return torch.cat([one * cos - two * sin, two * cos + one * sin], -1).to(x.dtype)


__all__ = ["MultiheadAttention", "SelfAttention"]
