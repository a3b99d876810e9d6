"""Faults in steps in many styles of Python, and of vision."""

# ruff: noqa: E731, F722, RUF059

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float

from tessera import Tensor, bool_, f32, int64
from tests.corpus.table import faulty


class Attn:
    H = 4

    @staticmethod
    def split(x: Any, h: int) -> Any:
        return x.reshape(*x.shape[:-1], h, -1).transpose(-2, -3)


@faulty("TSR0210", 'Tensor["B", "F"]')
def dict_out_bad(x: Tensor["B", "D"], w: Tensor["D", "F"]) -> dict[str, Tensor["B", "F"]]:
    h = x @ w
    return {"logits": h, "loss": h.mean()}


@faulty("TSR0210", 'list[Tensor["B", "S", "D"]]')
def list_out_bad(x: Tensor["B", "S", "D"]) -> list[Tensor["B", "S", "D"]]:
    return [f(x) for f in (torch.relu, lambda t: t.sum(-1))]


@faulty("TSR0210", 'tuple[Tensor["B"], Tensor["D"], Tensor[()]]')
def arity(x: Tensor["B", "D"]) -> tuple[Tensor["B"], Tensor["D"], Tensor[()]]:
    return x.sum(1), x.sum(0)


@faulty("TSR0202", "y")
def kwonly_bad(x: Tensor["B", "S", "D"], *, b: Tensor["S"] | None = None) -> Any:
    y = x * 2
    if b is not None:
        y = y + b
    return y


@faulty("TSR0210", 'Tensor["B", "S", "4*K"]')
def comprehension_stack(x: Tensor["B", "S", "D"], w: Tensor[4, "D", "K"]) -> Tensor["B", "S", "4*K"]:
    return torch.stack([x @ w[i] for i in range(4)], dim=-1)


@faulty("TSR0212", "w")
def comprehension_range(x: Tensor["B", "S", "D"], w: Tensor[4, "D", "K"]) -> Any:
    return torch.cat([x @ w[i] for i in range(5)], dim=-1)


@faulty("TSR0216", "q, k")
def unbind_two(qkv: Tensor["B", "S", 3, "H", "D"]) -> Any:
    q, k = qkv.unbind(2)
    return q @ k.mT


@faulty("TSR0201", "h")
def lambda_apply_bad(x: Tensor["B", "D"], w: Tensor["D", "F"]) -> Any:
    block = lambda h: torch.tanh(h @ w)
    for _ in range(3):
        x = block(x)
    return x


@faulty("TSR0208", "x")
def asserted_wrong(x: Tensor["B", "S", 10]) -> Any:
    return x.unflatten(-1, (4, -1))


@faulty("TSR0210", 'Tensor["B", "D"]')
def early_return_bad(x: Tensor["B", "S", "D"]) -> Tensor["B", "D"]:
    if x.dim() == 3:
        return x.mean(2)
    return x


@faulty("TSR0210", 'Tensor["B", "S", "4", "D//4"]')
def static_helper_bad(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", "4", "D//4"]:
    return Attn.split(x, Attn.H)


@faulty("TSR0210", 'Float[torch.Tensor, "*b t s"]')
def jax_style_bad(q: Float[torch.Tensor, "*b s d"], k: Float[torch.Tensor, "*b t d"]) -> Float[torch.Tensor, "*b t s"]:
    return torch.einsum("...sd,...td->...st", q, k)


@faulty("TSR0209", "q")
def jax_einsum_bad(q: Float[torch.Tensor, "b s d"], k: Float[torch.Tensor, "b t e"]) -> Any:
    return torch.einsum("...sd,...td->...st", q, k)


@faulty("TSR0304", "ids")
def jax_int_bad(table: Float[torch.Tensor, "v d"], ids: Float[torch.Tensor, "b s"]) -> Any:
    return table[ids]


@faulty("TSR0301", "m")
def bool_neg(m: Bool[torch.Tensor, "b s"]) -> Any:
    return -m


@faulty("TSR0301", "m")
def bool_sub(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Any:
    return x * (1 - m)


@faulty("TSR0301", "a")
def bool_sub2(a: Tensor["B", "S", bool_], b: Tensor["B", "S", bool_]) -> Any:
    return a - b


@faulty("TSR0301", "x")
def invert_float(x: Tensor["B", "S", f32]) -> Any:
    return ~x


@faulty("TSR0301", "x")
def and_float(x: Tensor["B", "S", f32], m: Tensor["B", "S", bool_]) -> Any:
    return x & m


@faulty("TSR0301", "x")
def shift_float(x: Tensor["B", "S", f32]) -> Any:
    return x << 2


@faulty("TSR0301", "x")
def int_mean(x: Tensor["B", "S", int64]) -> Any:
    return x.mean(-1)


@faulty("TSR0303", "m")
def fill_int_mask(x: Tensor["B", "S"], m: Tensor["B", "S", int64]) -> Any:
    return x.masked_fill(m, 0.0)


@faulty("TSR0303", "m")
def where_int(x: Tensor["B", "S"], m: Tensor["B", "S", int64]) -> Any:
    return torch.where(m, x, 0.0)


@faulty("TSR0301", "x")
def softmax_int(x: Tensor["B", "S", int64]) -> Any:
    return F.softmax(x, dim=-1)


@faulty("TSR0304", "idx")
def float_index(x: Tensor["N", "D"], idx: Tensor["B", f32]) -> Any:
    return x[idx]


@faulty("TSR0304", "idx")
def float_index_select(x: Tensor["N", "D"], idx: Tensor["B", f32]) -> Any:
    return x.index_select(0, idx)


@faulty("TSR0301", "x += y")
def inplace_float_into_int(n: Tensor["B", "D", int64], y: Tensor["B", "D", f32]) -> Any:
    x = n.clone()
    x += y
    return x


@faulty("TSR0202", "x += y")
def inplace_grow(x0: Tensor["B", 1], y: Tensor["B", "D"]) -> Any:
    x = x0.clone()
    x += y
    return x


@faulty("TSR0202", "x.add_(y)")
def inplace_add_grow(x0: Tensor["D"], y: Tensor["B", "D"]) -> Any:
    x = x0.clone()
    return x.add_(y)


@faulty("TSR0210", 'Tensor["B", "H*W", "16*C"]')
def patchify_bad(x: Tensor["B", "C", "4*H", "4*W"]) -> Tensor["B", "H*W", "16*C"]:
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // 4, 4, W // 4, 4).permute(0, 2, 4, 3, 5, 1)
    return x.flatten(3).flatten(0, 1)


@faulty("TSR0202", "torch.cat((t, x), dim=1)")
def vit_pos_short(x: Tensor["B", "N", "D"], cls: Tensor[1, 1, "D"], pos: Tensor[1, "N", "D"]) -> Any:
    t = cls.expand(x.shape[0], -1, -1)
    return torch.cat((t, x), dim=1) + pos


@faulty("TSR0206", "cls")
def vit_no_expand(x: Tensor["B", "N", "D"], cls: Tensor[1, 1, "D"]) -> Any:
    return torch.cat((cls, x), dim=1)


@faulty("TSR0210", 'Tensor["B", "C", "2*H", "2*W"]')
def pixel_shuffle_bad(x: Tensor["B", "4*C", "H", "W"]) -> Tensor["B", "C", "2*H", "2*W"]:
    B, C4, H, W = x.shape
    x = x.view(B, C4 // 4, 2, 2, H, W)
    return x.permute(0, 1, 4, 2, 5, 3).reshape(B, C4 // 4, W * 2, H * 2)


@faulty("TSR0206", "s")
def unet_pad_bad(x: Tensor["B", "C", "2*H", "2*W"], w: Tensor["C", "C", 3, 3]) -> Any:
    s = F.conv2d(x, w)
    u = F.interpolate(F.max_pool2d(x, 2), scale_factor=2)
    return torch.cat([s, u], 1)


@faulty("TSR0201", "torch.cat([s, u], 1)")
def unet_channels(s: Tensor["B", "C", "H", "W"], u: Tensor["B", "C", "H", "W"], w2: Tensor["C", "C", 3, 3]) -> Any:
    return F.conv2d(torch.cat([s, u], 1), w2)


@faulty("TSR0202", "x")
def resnet_stride(x: Tensor["B", "C", "H", "W"], w: Tensor["C", "C", 3, 3]) -> Any:
    y = F.conv2d(x, w, stride=2, padding=1)
    return F.relu(x + y)


@faulty("TSR0205", "x")
def window_partition_bad(x: Tensor["B", "4*H", "4*W", "C"]) -> Any:
    B, H, W, C = x.shape
    ws = 4
    x = x.view(B, H // ws, ws, W // ws, ws)
    return x


@faulty("TSR0210", 'Tensor["B", "O", "L-3"]')
def im2col_bad(x: Tensor["B", "C", "L"], w: Tensor["O", "C", 3]) -> Tensor["B", "O", "L-3"]:
    return torch.einsum("bclk,ock->bol", x.unfold(2, 3, 1), w)


@faulty("TSR0210", 'Tensor["H", "W", 2]')
def meshgrid_xy(H: int, W: int, z: Tensor["H", "W"]) -> Tensor["H", "W", 2]:
    ys, xs = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="xy")
    return torch.stack([ys, xs], dim=-1)


@faulty("TSR0202", "t")
def time_embed_bad(t: Tensor["B"], x: Tensor["B", "D"]) -> Any:
    freqs = torch.exp(torch.arange(16).float())
    emb = t[:, None] * freqs
    return t * x + emb.sum()
