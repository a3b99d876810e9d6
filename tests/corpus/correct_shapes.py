"""Reshaping, indexing, updates, calls between functions, methods, control flow over sizes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor, bool_, f32, int8, int64
from tests.corpus.table import correct


@correct("guarded", sizes={"H": 4, "W": 6})
def pool_by_reshape(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "C", "H/2", "W/2"]:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).mean(dim=(3, 5))


@correct("proved", sizes={"H": 2, "W": 3})
def pool_declared(x: Tensor["B", "C", "2*H", "2*W"]) -> Tensor["B", "C", "H", "W"]:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).amax(dim=(-3, -1))


@correct("proved", sizes={"H": 2, "W": 3, "P": 2})
def patchify(x: Tensor["B", "C", "H*P", "W*P"], P: int) -> Tensor["B", "H*W", "C*P*P"]:
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // P, P, w // P, P)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // P) * (w // P), c * P * P)


@correct("proved", sizes={"H": 3, "W": 2, "C": 3})
def pixel_shuffle_by_hand(x: Tensor["B", "C*4", "H", "W"]) -> Tensor["B", "C", "2*H", "2*W"]:
    b, c, h, w = x.shape
    x = x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(b, c // 4, h * 2, w * 2)


@correct("proved", sizes={"H": 3, "W": 2, "C": 3})
def pixel_shuffle_torch(x: Tensor["B", "4*C", "H", "W"]) -> Tensor["B", "C", "2*H", "2*W"]:
    return F.pixel_shuffle(x, 2)


@correct("proved")
def flatten_tokens(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "H*W", "C"]:
    return x.flatten(2).transpose(1, 2)


@correct("proved")
def unflatten_tokens(x: Tensor["B", "H*W", "C"], H: int, W: int) -> Tensor["B", "C", "H", "W"]:
    return x.mT.unflatten(-1, (H, W))


@correct("proved")
def merge_batch(x: Tensor["B", "S", "D"], w: Tensor["D", "F"]) -> Tensor["B", "S", "F"]:
    b, s, d = x.shape
    return (x.view(b * s, d) @ w).view(b, s, -1)


@correct("proved")
def channels_last(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "H", "W", "C"]:
    return x.permute(0, 2, 3, 1).contiguous()


@correct("proved")
def add_class_token(x: Tensor["B", "S", "D"], token: Tensor[1, 1, "D"]) -> Tensor["B", "S+1", "D"]:
    return torch.cat([token.expand(x.shape[0], -1, -1), x], dim=1)


@correct("guarded")
def drop_class_token(x: Tensor["B", "S", "D"]) -> Tensor["B", "S-1", "D"]:
    return x[:, 1:]


@correct("proved")
def drop_class_token_declared(x: Tensor["B", "S+1", "D"]) -> tuple[Tensor["B", "D"], Tensor["B", "S", "D"]]:
    return x[:, 0], x[:, 1:]


@correct("guarded")
def differences(x: Tensor["B", "S"]) -> Tensor["B", "S-1"]:
    return x[:, 1:] - x[:, :-1]


@correct("guarded")
def conv1d_by_unfold(x: Tensor["B", "C", "L+2"], w: Tensor["O", "C", 3]) -> Tensor["B", "O", "L"]:
    windows = x.unfold(2, 3, 1)
    return torch.einsum("bclk,ock->bol", windows, w)


@correct("proved")
def conv1d_by_slices(x: Tensor["B", "L+2", "C"], w: Tensor[3, "C", "O"]) -> Tensor["B", "L", "O"]:
    n = x.shape[1] - 2
    return sum(x[:, i : i + n] @ w[i] for i in range(3))


@correct("guarded", sizes={"L": 14})
def causal_conv(x: Tensor["B", "C", "L"], w: Tensor["C", 4]) -> Tensor["B", "C", "L"]:
    padded = F.pad(x, (3, 0))
    return (padded.unfold(-1, 4, 1) * w[:, None, :]).sum(-1)


@correct("guarded")
def conv2d_same(x: Tensor["B", "C", "H", "W"], w: Tensor["O", "C", 3, 3], b: Tensor["O"]) -> Tensor["B", "O", "H", "W"]:
    return F.conv2d(x, w, b, padding=1)


@correct("proved")
def moving_average(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    total = x.cumsum(dim=1)
    count = torch.arange(1, x.shape[1] + 1)
    return total / count


@correct("guarded", sizes={"E": 6})
def moe_gate(x: Tensor["N", "D"], router: Tensor["D", "E"]) -> tuple[Tensor["N", 2], Tensor["N", 2, int64]]:
    probs = (x @ router).softmax(dim=-1)
    weights, experts = torch.topk(probs, k=2, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True), experts


@correct("proved")
def moe_dense(x: Tensor["N", "D"], router: Tensor["D", "E"], w: Tensor["E", "D", "F"]) -> Tensor["N", "F"]:
    gates = torch.softmax(x @ router, dim=-1)
    outputs = torch.einsum("nd,edf->nef", x, w)
    return (gates.unsqueeze(-1) * outputs).sum(dim=1)


@correct("guarded", sizes={"E": 6})
def moe_load(probs: Tensor["N", "E"]) -> Tensor["E"]:
    _, chosen = probs.topk(2, dim=-1)
    return F.one_hot(chosen, probs.shape[-1]).sum(dim=1).float().mean(dim=0)


@correct("proved")
def quantize(x: Tensor["N", "D"]) -> tuple[Tensor["N", "D", int8], Tensor["N", 1]]:
    scale = x.abs().amax(dim=-1, keepdim=True) / 127.0
    q = torch.clamp(torch.round(x / scale), -128, 127).to(torch.int8)
    return q, scale


@correct("proved")
def dequantize(q: Tensor["N", "D", int8], scale: Tensor["N", 1, f32]) -> Tensor["N", "D", f32]:
    return q.float() * scale


@correct("proved")
def dequantized_matmul(
    x: Tensor["B", "D", f32], q: Tensor["F", "D", int8], scale: Tensor["F", f32]
) -> Tensor["B", "F"]:
    return (x @ q.to(x.dtype).T) * scale


@correct("proved")
def quantize_in_blocks(x: Tensor["N", "K*32"]) -> Tensor["N", "K*32"]:
    blocks = x.reshape(x.shape[0], -1, 32)
    scale = blocks.abs().max(dim=-1, keepdim=True)[0] / 7
    return ((blocks / scale).round().clamp(-8, 7) * scale).reshape(x.shape)


@correct("guarded")
def update_in_place(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    out = torch.zeros_like(x)
    out += x * 2
    out[:, 0] = 1.0
    out.mul_(0.5)
    return out


@correct("proved")
def fill_by_mask(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Tensor["B", "S"]:
    y = x.clone()
    y[m] = 0.0
    return y


@correct("proved")
def accumulate_heads(x: Tensor["B", 4, "S", "D"]) -> Tensor["B", "S", "D"]:
    total = torch.zeros(x.shape[0], x.shape[2], x.shape[3])
    for h in range(4):
        total = total + x[:, h]
    return total


@correct("proved")
def stack_layers(x: Tensor["B", "D"], w: list[Tensor["D", "D"]]) -> Tensor["B", "D"]:
    for layer in w:
        x = torch.tanh(x @ layer) + x
    return x


@correct("proved")
def dict_of_weights(x: Tensor["B", "D"], w: dict[str, Tensor["D", "D"]]) -> Tensor["B", "D"]:
    return x @ w["a"]


class State(NamedTuple):
    """A recurrent state."""

    h: Tensor["B", "D"]
    c: Tensor["B", "D"]


@correct("proved")
def lstm_cell(
    x: Tensor["B", "E"], h: Tensor["B", "D"], c: Tensor["B", "D"], wi: Tensor["4*D", "E"], wh: Tensor["4*D", "D"]
) -> tuple[Tensor["B", "D"], Tensor["B", "D"]]:
    gates = F.linear(x, wi) + F.linear(h, wh)
    i, f, g, o = gates.chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@correct("proved")
def gru_cell(
    x: Tensor["B", "E"], h: Tensor["B", "D"], wi: Tensor["E", "3*D"], wh: Tensor["D", "3*D"]
) -> Tensor["B", "D"]:
    xr, xz, xn = torch.chunk(x @ wi, 3, dim=1)
    hr, hz, hn = torch.chunk(h @ wh, 3, dim=1)
    z = torch.sigmoid(xz + hz)
    n = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return (1 - z) * n + z * h


@correct("guarded", given={"pool": True})
def both_kinds_of_pooling(x: Tensor["B", "S", "D"], pool: bool) -> Tensor["B", "D"]:
    if pool:
        return x.mean(dim=1)
    return x[:, 0]


@correct("proved")
def by_rank(x: Tensor["B", "S", "D"]) -> Tensor["B", "D"]:
    if x.dim() == 3:
        x = x.mean(1)
    assert x.ndim == 2
    return x


@correct("guarded", sizes={"D": 8, "E": 8})
def asserted_sizes(x: Tensor["B", "S", "D"], w: Tensor["E", "F"]) -> Tensor["B", "S", "F"]:
    assert x.shape[-1] == w.shape[0], "widths differ"
    return x @ w


@correct("proved")
def long_or_short(x: Tensor["B", "S"]) -> Tensor["B"]:
    return x.sum(1) if x.shape[1] > 512 else x.mean(1)


@correct("proved")
def min_of_sizes(x: Tensor["S", "T"]) -> Tensor["S", "T"]:
    n = min(x.shape[0], 4)
    return x * n


@tessera.function
def linear(x: Tensor["...", "I"], w: Tensor["O", "I"], b: Tensor["O"] | None = None) -> Tensor["...", "O"]:
    y = x @ w.T
    return y if b is None else y + b


@tessera.function
def norm(x: Tensor["...", "D"], weight: Tensor["D"]) -> Tensor["...", "D"]:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


@tessera.function
def split_heads(x: Tensor["B", "S", "H*K"], H: int) -> Tensor["B", "H", "S", "K"]:
    b, s, e = x.shape
    return x.view(b, s, H, e // H).transpose(1, 2)


@tessera.function
def attend(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "T", "D"]
) -> Tensor["B", "H", "S", "D"]:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v


@correct("proved")
def calls_linear(
    x: Tensor["B", "S", "D"], w1: Tensor["F", "D"], b1: Tensor["F"], w2: Tensor["D", "F"]
) -> Tensor["B", "S", "D"]:
    return x + linear(F.gelu(linear(x, w1, b1)), w2)


@correct("proved", sizes={"H": 4, "K": 2})
def transformer_block(
    x: Tensor["B", "S", "H*K"], wq: Tensor["H*K", "H*K"], wk: Tensor["H*K", "H*K"], wv: Tensor["H*K", "H*K"],
    n1: Tensor["H*K"], n2: Tensor["H*K"], up: Tensor["F", "H*K"], down: Tensor["H*K", "F"], H: int,
) -> Tensor["B", "S", "H*K"]:  # fmt: skip
    h = norm(x, n1)
    q, k, v = (split_heads(linear(h, w), H) for w in (wq, wk, wv))
    x = x + attend(q, k, v).transpose(1, 2).flatten(2)
    return x + linear(torch.relu(linear(norm(x, n2), up)), down)


@correct("proved")
def calls_by_keyword(a: Tensor["B", "I"], b: Tensor["O", "I"]) -> Tensor["B", "O"]:
    return linear(w=b, x=a)


@correct("proved")
def calls_twice(
    x: Tensor["B", "D"], y: Tensor["B", "S", "E"], wx: Tensor["F", "D"], wy: Tensor["F", "E"]
) -> Tensor["B", "S", "F"]:
    return linear(y, wy) + linear(x, wx).unsqueeze(1)


@correct("proved")
def helper_without_types(x: Tensor["B", "S"], y: Tensor["B", "S"]) -> Tensor["B", "S"]:
    def blend(a, b):  # type: ignore[no-untyped-def]
        return a * 0.25 + b * 0.75

    return blend(x, y)


class Head:
    """A class with compiled methods."""

    def __init__(self) -> None:
        self.weight = torch.randn(10, 8)
        self.scale = 0.5
        self.width = 10

    @correct("deferred", owner=lambda: Head())
    def project(self, x: Tensor["B", "S", 8]) -> Tensor["B", "S", "width"]:
        return F.linear(x, self.weight) * self.scale

    @correct("proved", owner=lambda: Head())
    def shift(self, x: Tensor["B", "S"], by: Tensor["S"]) -> Tensor["B", "S"]:
        return x + by

    @staticmethod
    @correct("proved")
    def relu_squared(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
        return F.relu(x) ** 2


@correct("proved")
def existential_concat(x: Tensor["B", "S", "D"], y: Tensor["B", "T", "D"]) -> Tensor["B", "L", "D"]:
    return torch.cat((x, y), dim=1)


@correct("proved")
def existential_twice(x: Tensor["N", "D"]) -> Tensor["X", "X"]:
    return x @ x.T


@correct("proved")
def any_return(x: Tensor["B", "S"], reduction: str = "mean") -> Tensor:
    loss = x.square().sum(-1)
    return loss.mean() if reduction == "mean" else loss


@correct("proved")
def union_return(x: Tensor["B", "S"], full: bool = False) -> Tensor["B"] | Tensor["B", "S"]:
    return x if full else x.sum(-1)


@correct("proved", ids={"index": 6})
def gather_positions(x: Tensor["B", "S", "D"], index: Tensor["B", "K", int64]) -> Tensor["B", "K", "D"]:
    return torch.gather(x, 1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


@correct("proved", ids={"last": 6})
def last_token(x: Tensor["B", "S", "D"], last: Tensor["B", int64]) -> Tensor["B", "D"]:
    return x[torch.arange(x.shape[0]), last]


@correct("proved", ids={"index": 7})
def scatter_mean(x: Tensor["M", "D"], index: Tensor["M", int64], N: int) -> Tensor["N", "D"]:
    total = torch.zeros(N, x.shape[1]).index_add(0, index, x)
    count = torch.zeros(N).index_add(0, index, torch.ones(x.shape[0]))
    return total / count.clamp(min=1).unsqueeze(-1)


@correct("proved")
def outer_product(x: Tensor["B", "I"], y: Tensor["B", "J"]) -> Tensor["B", "I", "J"]:
    return x.unsqueeze(-1) * y.unsqueeze(-2)


@correct("proved")
def bilinear(x: Tensor["B", "I"], w: Tensor["O", "I", "J"], y: Tensor["B", "J"]) -> Tensor["B", "O"]:
    return torch.einsum("bi,oij,bj->bo", x, w, y)


@correct("proved")
def batched_trace(x: Tensor["B", "N", "N"]) -> Tensor["B"]:
    return torch.einsum("bii->b", x)


@correct("proved")
def literal_one(x: Tensor["B", 1, "D"], y: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
    return (x + y) * x.squeeze(1).unsqueeze(1)


@correct("proved")
def meshgrid_positions(H: int, W: int) -> Tensor["H", "W", 2]:
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return torch.stack([y, x], dim=-1).float()


@correct("proved")
def shapes_of_all_sorts(B: int, S: int) -> Tensor["B", "S"]:
    return torch.zeros(B, S) + torch.ones((B, S)) + torch.full((B, S), 2.0) + torch.eye(B, S)


@correct("proved")
def interleave(x: Tensor["B", "S"], y: Tensor["B", "S"]) -> Tensor["B", "2*S"]:
    return torch.stack([x, y], dim=-1).reshape(x.shape[0], -1)


@correct("guarded")
def space_to_depth(x: Tensor["B", "2*S", "D"]) -> Tensor["B", "S", "2*D"]:
    return torch.cat([x[:, 0::2], x[:, 1::2]], dim=-1)


@correct("guarded", sizes={"S": 6})
def chunks_of_two(x: Tensor["B", "S", "D"]) -> Tensor["B", "S/2", 2, "D"]:
    b, s, d = x.shape
    if s % 2:
        raise ValueError("an even number of positions")
    return x.view(b, s // 2, 2, d)


@correct("guarded")
def flip_and_roll(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    return x.flip(-1) + torch.roll(x, shifts=1, dims=-1)


@correct("proved")
def broadcast_leading(x: Tensor["...", "S", "D"], y: Tensor["S", "D"]) -> Tensor["...", "S"]:
    return (x * y).sum(-1)


@correct("proved")
def histogram_free(x: Tensor["B", "N"], edges: Tensor["K"]) -> Tensor["B", "K"]:
    return (x.unsqueeze(-1) > edges).float().mean(dim=1)
