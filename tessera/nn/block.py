"""The layers of decoders: gated networks, and blocks of attention and network."""

from typing import Any

import torch.nn.functional as F

from tessera import Module, ModuleError, Tensor
from tessera.nn.attention import SelfAttention
from tessera.nn.linear import Linear
from tessera.nn.norm import LayerNorm, RMSNorm


class SwiGLU(Module):
    """``down(silu(gate(x)) * up(x))``: ``[..., dim]`` to the same, through ``hidden`` gated channels.

    Without ``hidden`` it is two thirds of ``4 * dim``, which makes three matrices as large as the two of a plain
    network, rounded up to a multiple of ``multiple_of``.
    Parameters: ``gate.weight`` and ``up.weight`` ``[hidden, dim]``, ``down.weight [dim, hidden]``, with biases where
    ``bias``.
    Source: Shazeer 2020, arXiv:2002.05202.

    >>> import torch
    >>> from tessera import nn
    >>> layer = nn.SwiGLU(48, multiple_of=32)
    >>> layer(torch.randn(2, 48)).shape, layer.hidden
    (torch.Size([2, 48]), 128)
    """

    dim: int
    hidden: int

    def __init__(
        self, dim: int, hidden: int | None = None, bias: bool = False, multiple_of: int = 1, device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        wanted = -(-8 * dim // 3) if hidden is None else hidden
        self.dim, self.hidden = dim, -(-wanted // multiple_of) * multiple_of if hidden is None else wanted
        of: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.gate = Linear(dim, self.hidden, **of)
        self.up = Linear(dim, self.hidden, **of)
        self.down = Linear(self.hidden, dim, **of)

    def forward(self, x: Tensor["...", "dim"]) -> Tensor["...", "dim"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class FeedForward(Module):
    """``down(gelu(up(x)))``, with the approximation of GELU by tanh: ``[..., dim]`` to the same. ``hidden`` is
    ``4 * dim`` unless given.

    >>> import torch
    >>> from tessera import nn
    >>> nn.FeedForward(8)(torch.randn(2, 8)).shape
    torch.Size([2, 8])
    """

    dim: int
    hidden: int

    def __init__(
        self, dim: int, hidden: int | None = None, bias: bool = False, device: Any = None, dtype: Any = None
    ) -> None:
        self.dim, self.hidden = dim, 4 * dim if hidden is None else hidden
        of: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        self.up = Linear(dim, self.hidden, **of)
        self.down = Linear(self.hidden, dim, **of)

    def forward(self, x: Tensor["...", "dim"]) -> Tensor["...", "dim"]:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


_NORMS = {"rms": RMSNorm, "layer": LayerNorm}
_NETWORKS = {"swiglu": SwiGLU, "gelu": FeedForward}


class TransformerBlock(Module):
    """A block of a decoder with its norms in front: ``[B, S, dim]`` to the same.

    ``x + attn(norm1(x))`` and then ``x + mlp(norm2(x))``; each sum drops out what it adds with probability
    ``dropout``, and so does the attention its weights.

    - ``norm``: ``"rms"`` or ``"layer"``, with ``eps``; ``mlp``: ``"swiglu"`` or ``"gelu"``, with ``hidden`` channels.
    - ``rope_base``: turn queries and keys by position; None for models that add positions to their input.
    - ``num_kv_heads``, ``causal``, ``bias``: as in `SelfAttention`.

    Raises ModuleError (TSR0113) for an unknown norm or network.

    >>> import torch
    >>> from tessera import nn
    >>> block = nn.TransformerBlock(16, 4, num_kv_heads=2)
    >>> block(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    dim: int

    def __init__(
        self, dim: int, num_heads: int, num_kv_heads: int | None = None, hidden: int | None = None, *,
        norm: str = "rms", mlp: str = "swiglu", rope_base: float | None = 10000.0, causal: bool = True,
        dropout: float = 0.0, bias: bool = False, eps: float = 1e-6, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        of: dict[str, Any] = {"device": device, "dtype": dtype}
        make_norm, network = _chosen("norm", norm, _NORMS), _chosen("mlp", mlp, _NETWORKS)
        self.dim, self.dropout = dim, dropout
        self.norm1 = make_norm(dim, eps=eps, **of)
        self.attn = SelfAttention(dim, num_heads, num_kv_heads, rope_base, causal, dropout, bias, **of)
        self.norm2 = make_norm(dim, eps=eps, **of)
        self.mlp = network(dim, hidden, bias, **of)

    def forward(self, x: Tensor["B", "S", "dim"], mask: Tensor | None = None) -> Tensor["B", "S", "dim"]:
        x = x + F.dropout(self.attn(self.norm1(x), mask), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.norm2(x)), self.dropout, self.training)


def _chosen(name: str, given: str, options: dict[str, Any]) -> Any:
    if given not in options:
        known = " and ".join(f"`{option}`" for option in options)
        raise ModuleError(f"`{name}` is `{given}`", code="TSR0113", helps=[f"the kinds are {known}"])
    return options[given]


__all__ = ["FeedForward", "SwiGLU", "TransformerBlock"]
