"""Faults in graphs, losses, recurrences, and in the Python around tensors."""

# ruff: noqa: F722, RUF059

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float

import tessera
from tessera import Tensor, bool_, f16, f32, int8, int64
from tests.corpus.table import faulty


@faulty("TSR0215", "m")
def selected_by_another_mask(x: Tensor["B", "S"], m: Tensor["B", "T", bool_]) -> Any:
    return x[m].mean()


@faulty("TSR0202", "x")
def behind_a_number_that_is_read(x: Tensor["B", "S"], y: Tensor["T"]) -> Any:
    if x.sum().item() > 0:
        return x
    return x + y


@faulty("TSR0202", "x")
def in_a_setting_that_is_not_the_default(x: Tensor["B", "D"], y: Tensor["B"], causal: bool = False) -> Any:
    return x * y if causal else x


@faulty("TSR0202", "x")
def in_one_of_the_choices(x: Tensor["B", "D"], y: Tensor["B"], mode: Literal["mean", "sum"] = "mean") -> Any:
    return x + y if mode == "sum" else x


@tessera.function
def dense(x: Tensor["...", "I"], w: Tensor["O", "I"]) -> Tensor["...", "O"]:
    return F.linear(x, w)


@tessera.function
def two(x: Tensor["B", "D"]) -> tuple[Tensor["B", 1], Tensor["B", "D"]]:
    m = x.mean(-1, keepdim=True)
    return m, x - m


@tessera.function
def kw(x: Tensor["B", "D"], *, scale: Tensor["D"]) -> Tensor["B", "D"]:
    return x * scale


@faulty("TSR0202", "(x @ w)[src]")
def gcn_norm(x: Tensor["N", "D"], edges: Tensor[2, "M", int64], w: Tensor["D", "F"], norm: Tensor["N"]) -> Any:
    src, dst = edges
    return (x @ w)[src] * norm[src]


@faulty("TSR0215", "dst")
def gcn_index_add(x: Tensor["N", "D"], dst: Tensor["M", int64]) -> Any:
    msg = x * 2
    return torch.zeros(x.size(0), x.size(1)).index_add(0, dst, msg)


@faulty("TSR0202", "pair")
def gat_width(x: Tensor["N", "D"], src: Tensor["M", int64], dst: Tensor["M", int64], a: Tensor["D"]) -> Any:
    pair = torch.cat([x[src], x[dst]], dim=-1)
    return (pair * a).sum(-1)


@faulty("TSR0304", "dst")
def gat_float_index(x: Tensor["N", "D"], dst: Tensor["M", f32]) -> Any:
    return x[dst]


@faulty("TSR0202", "torch.eye(a.size(0), dtype=torch.bool)")
def simclr_mask(a: Tensor["B", "D"], b: Tensor["B", "D"]) -> Any:
    z = torch.cat([a, b])
    sim = z @ z.t()
    return sim.masked_fill(torch.eye(a.size(0), dtype=torch.bool), -1e9)


@faulty("TSR0215", "torch.arange(img.size(1))")
def clip_labels(img: Tensor["B", "D"], txt: Tensor["B", "D"]) -> Any:
    return F.cross_entropy(img @ txt.t(), torch.arange(img.size(1)))


@faulty("TSR0201", "a")
def barlow_no_t(a: Tensor["N", "D"], b: Tensor["N", "D"]) -> Any:
    return a @ b / a.shape[0]


@faulty("TSR0202", "cov")
def vicreg_eye(x: Tensor["N", "D"]) -> Any:
    n, d = x.shape
    cov = x.T @ x
    return cov * ~torch.eye(n, dtype=torch.bool)


@faulty("TSR0217", "logits")
def supcon_keep(z: Tensor["N", "D"], m: Tensor["M", "D"]) -> Any:
    logits = z @ m.T
    return logits - logits.max(dim=1)[0]


@faulty("TSR0202", "ratio")
def ppo_shape(logits: Tensor["N", 5], actions: Tensor["N", int64], old: Tensor["M"]) -> Any:
    ratio = logits.log_softmax(-1).gather(-1, actions[:, None])[:, 0]
    return ratio - old


@faulty("TSR0202", "rewards[t]")
def gae_values(rewards: Tensor[5, "B"], values: Tensor[6, "N"]) -> Any:
    out = []
    for t in reversed(range(5)):
        out.append(rewards[t] + values[t + 1])
    return torch.stack(out)


@faulty("TSR0212", "values")
def gae_bounds(rewards: Tensor[5, "B"], values: Tensor[5, "B"]) -> Any:
    return [rewards[t] + values[t + 1] for t in range(5)]


@faulty("TSR0215", "labels.view(-1)")
def lm_shift(logits: Tensor["B", "S", "V"], labels: Tensor["B", "S", int64]) -> Any:
    shift = logits[..., :-1, :].contiguous()
    return F.cross_entropy(shift.view(-1, logits.size(-1)), labels.view(-1))


@faulty("TSR0202", "teacher")
def distill_vocab(student: Tensor["B", "V"], teacher: Tensor["B", "U"]) -> Any:
    return F.kl_div(student, teacher)


@faulty("TSR0202", "p")
def lion_state(p: Tensor["N", "M"], g: Tensor["N", "M"], m: Tensor["M", "N"], *, lr: float = 1e-4) -> Any:
    return p - lr * torch.sign(m)


@faulty("TSR0201", "x")
def newton_no_t(g: Tensor["N", "M"]) -> Any:
    x = g / g.norm()
    for _ in range(3):
        x = x @ x @ x
    return x


@faulty("TSR0202", "row.unsqueeze(0)")
def adafactor_rows(g: Tensor["N", "M"], row: Tensor["N"], col: Tensor["M"]) -> Any:
    return g * (row.unsqueeze(0) * col.unsqueeze(0)).rsqrt()


@faulty("TSR0217", "x")
def fake_quant_scale(x: Tensor["N", "D"]) -> Any:
    s = x.abs().amax(dim=1) / 127
    return (x / s).round() * s


@faulty("TSR0301", "p")
def int4_float_shift(p: Tensor["N", "D", f32]) -> Any:
    return p >> 4


@faulty("TSR0305", 'Tensor["N", "D", int8]')
def quant_returns_float(x: Tensor["N", "D", f32], s: Tensor["N", 1, f32]) -> Tensor["N", "D", int8]:
    return (x / s).round().clamp(-128, 127)


@faulty("TSR0202", "table[codes].view(n, -1, 16)")
def nf4_scale(codes: Tensor["N", "K*16", int64], absmax: Tensor["N", "K"], table: Tensor[16]) -> Any:
    n = codes.shape[0]
    return table[codes].view(n, -1, 16) * absmax


@faulty("TSR0202", "x.pow(2).sum(-1)")
def vq_dist(x: Tensor["N", "D"], code: Tensor["K", "D"]) -> Any:
    return x.pow(2).sum(-1) + code.pow(2).sum(-1)


@faulty("TSR0201", "torch.cat([x, h], dim=-1)")
def lstm_w(x: Tensor["B", "E"], h: Tensor["B", "D"], w: Tensor["4*D", "E"]) -> Any:
    return F.linear(torch.cat([x, h], dim=-1), w)


@faulty("TSR0216", "i, f, g")
def lstm_gates(z: Tensor["B", "4*D"]) -> Any:
    i, f, g = z.chunk(4, -1)
    return i * f * g


@faulty("TSR0202", "h")
def ssm_state(h: Tensor["B", "D", "N"], x: Tensor["B", "D"], Bm: Tensor["B", "N"]) -> Any:
    return h + torch.einsum("bd,bn->bnd", x, Bm)


@faulty("TSR0209", "dt")
def ssm_einsum(dt: Tensor["B", "D"], Bm: Tensor["D", "N"]) -> Any:
    return torch.einsum("bd,bn->bdn", dt, Bm)


@faulty("TSR0209", 'torch.einsum("bd,bn->bdm", dt, Bm)')
def einsum_letter(dt: Tensor["B", "D"], Bm: Tensor["B", "N"]) -> Any:
    return torch.einsum("bd,bn->bdm", dt, Bm)


@faulty("TSR0213", "x")
def conv_state(x: Tensor["B", "S"], state: Tensor["B", "D", 4]) -> Any:
    new = state.clone()
    new[:, :, -1] = x
    return new


@faulty("TSR0202", "x")
def closure_fault(x: Tensor["B", 7]) -> Any:
    return x + torch.ones(8)


W = torch.zeros(8, 4)


@faulty("TSR0201", "x")
def global_weight(x: Tensor["B", "S", 10]) -> Any:
    return x @ W


@faulty("TSR0211", "w")
def nested_call(x: Tensor["B", "D"], w: Tensor["D", "F"]) -> Any:
    return F.relu(dense(x, w))


@faulty("TSR0211", "w2")
def nested_twice(x: Tensor["B", "D"], w1: Tensor["F", "D"], w2: Tensor["O", "D"]) -> Any:
    return dense(dense(x, w1), w2)


@faulty("TSR0211", "w")
def in_comprehension(x: Tensor["B", "D"], ws: list[Tensor["F", "E"]]) -> Any:
    return torch.stack([dense(x, w) for w in ws])


@faulty("TSR0202", "m")
def tuple_result(x: Tensor["B", "D"], y: Tensor["D", "D"]) -> Any:
    m, c = two(x)
    return m + c.T


@faulty("TSR0211", "s")
def kwonly_call(x: Tensor["B", "D"], s: Tensor["B"]) -> Any:
    return kw(x, scale=s)


@faulty("TSR0211", "kw(x, s)")
def kwonly_positional(x: Tensor["B", "D"], s: Tensor["D"]) -> Any:
    return kw(x, s)


@faulty("TSR0210", 'tuple[Tensor["B"], Tensor["B"]]')
def tuple_count(x: Tensor["B", "D"]) -> tuple[Tensor["B"], Tensor["B"]]:
    return x.mean(-1), x.std(-1), x


@faulty("TSR0210", 'tuple[Tensor["B"], Tensor["B"]]')
def tuple_missing(x: Tensor["B", "D"]) -> tuple[Tensor["B"], Tensor["B"]]:
    return x.mean(-1)


@dataclass
class P:
    w: Tensor["F", "D"]
    b: Tensor["F"]


@faulty("TSR0201", "x")
def dataclass_fault(x: Tensor["B", "D"], p: P) -> Any:
    return x @ p.w


class Net:
    def __init__(self):
        self.h = 4

    @staticmethod
    @faulty("TSR0201", "x")
    def stat(x: Tensor["B", "D"], w: Tensor["F", "D"]) -> Any:
        return x @ w

    @classmethod
    @faulty("TSR0202", "x")
    def cls_method(cls, x: Tensor["B", "D"], b: Tensor["B"]) -> Any:
        return x + b


@faulty("TSR0201", "x")
def jax_fault(x: Float[torch.Tensor, "b s d"], w: Float[torch.Tensor, "f d"]) -> Float[torch.Tensor, "b s f"]:
    return x @ w


@faulty("TSR0210", 'Float[torch.Tensor, "b d"]')
def jax_return(x: Float[torch.Tensor, "b s d"]) -> Float[torch.Tensor, "b d"]:
    return x.sum(-1)


@faulty("TSR0202", "x")
def lead_dots(x: Tensor["...", "D"], y: Tensor["...", "E"]) -> Any:
    return x * y


@faulty("TSR0205", "x")
def star_shape_bad(x: Tensor["...", "H*K"], H: int) -> Any:
    return x.view(*x.shape[:-1], H, H, x.shape[-1] // H)


@faulty("TSR0217", "x")
def walrus_fault(x: Tensor["B", "S"]) -> Any:
    if (m := x.mean(1)) is not None:
        return x / m
    return x


@faulty("TSR0202", "t")
def with_fault(x: Tensor["B", "D"], y: Tensor["D", "B"]) -> Any:
    with torch.no_grad():
        t = x * 2
    return t + y


@faulty("TSR0202", "x")
def try_fault(x: Tensor["B", "D"], y: Tensor["D", "B"]) -> Any:
    try:
        return x + y
    except ValueError:
        return x


@faulty("TSR0202", "x")
def nested_branch(x: Tensor["B", "D"], y: Tensor["B"], mode: str = "none") -> Any:
    if mode == "none":
        return x
    elif mode == "bad":
        return x * y
    return x + 1


@faulty("TSR0213", "x")
def expand_bad(x: Tensor["B", "S"], y: Tensor["N", "S"]) -> Any:
    return x.expand_as(y)


@faulty("TSR0205", "x")
def view_as_bad(x: Tensor["B", "S"], y: Tensor["S", "D"]) -> Any:
    return x.view_as(y)


@faulty("TSR0203", "x")
def movedim_bad(x: Tensor["B", "S", "D"]) -> Any:
    return x.movedim(3, 0)


@faulty("TSR0203", "x")
def flatten_bad(x: Tensor["B", "S"]) -> Any:
    return x.flatten(1, 2)


@faulty("TSR0208", "x")
def unflatten_bad(x: Tensor["B", 12]) -> Any:
    return x.unflatten(-1, (5, 3))


@faulty("TSR0206", "x")
def hstack_bad(x: Tensor["B", "S"], y: Tensor["N", "T"]) -> Any:
    return torch.hstack([x, y])


@faulty("TSR0202", "x[:, 0::2]")
def stride_bad(x: Tensor["B", "2*K+1"]) -> Any:
    return x[:, 0::2] + x[:, 1::2]


@faulty("TSR0202", "x")
def arange_len(x: Tensor["B", "S"]) -> Any:
    return x + torch.arange(1, x.shape[1])


@faulty("TSR0202", "q")
def sdpa_rank(q: Tensor["B", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    return F.scaled_dot_product_attention(q, k, k)


@faulty("TSR0215", "target")
def nll_target(logp: Tensor["N", "V"], target: Tensor["M", int64]) -> Any:
    return F.nll_loss(logp, target)


@faulty("TSR0208", "x")
def group_norm_div(x: Tensor["B", 10, "L"]) -> Any:
    return F.group_norm(x, 4)


@faulty("TSR0201", "x")
def conv_groups(x: Tensor["B", "C", "H", "W"], w: Tensor["O", 1, 3, 3]) -> Any:
    return F.conv2d(x, w)


@faulty("TSR0202", "b")
def conv_bias(x: Tensor["B", "C", "H", "W"], w: Tensor["O", "C", 3, 3], b: Tensor["C"]) -> Any:
    return F.conv2d(x, w, b)


@faulty("TSR0201", "x")
def dot_bad(x: Tensor["N"], y: Tensor["M"]) -> Any:
    return torch.dot(x, y)


@faulty("TSR0201", "w")
def mv_bad(w: Tensor["O", "I"], x: Tensor["O"]) -> Any:
    return torch.mv(w, x)


@faulty("TSR0202", "b")
def addmm_bad(b: Tensor["I"], x: Tensor["N", "I"], w: Tensor["I", "O"]) -> Any:
    return torch.addmm(b, x, w)


@faulty("TSR0203", "x")
def keyword_dim(x: Tensor["B", "D"]) -> Any:
    return torch.cumsum(x, dim=2)


@faulty("TSR0202", "x > 0")
def where_bad(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    return torch.where(x > 0, y, 0.0)


@faulty("TSR0303", "x")
def where_cond_dtype(x: Tensor["B", "S", f32], y: Tensor["B", "S", f32]) -> Any:
    return torch.where(x, y, 0.0)


@faulty("TSR0305", 'Tensor["B", "D", f32]')
def half_returned(x: Tensor["B", "D", f16]) -> Tensor["B", "D", f32]:
    return x * 2


@faulty("TSR0204", "x")
def trace_rank(x: Tensor["B", "N", "N"]) -> Any:
    return torch.trace(x)


@faulty("TSR0404", "torch.linalg.inv(x)")
def inverse_rect(x: Tensor["B", "N", "M"]) -> Any:
    return torch.linalg.inv(x)


@faulty("TSR0210", 'Tensor["B", 2, "D"]')
def stacked_in_front(x: Tensor["B", "D"]) -> Tensor["B", 2, "D"]:
    return torch.stack([x, x])


@faulty("TSR0210", 'Tensor["N*P", "M*Q"]')
def product_returned_turned(x: Tensor["N", "M"], y: Tensor["P", "Q"]) -> Tensor["N*P", "M*Q"]:
    return torch.einsum("nm,pq->nmpq", x, y).reshape(x.shape[0] * y.shape[0], -1).T


@faulty("TSR0201", "x")
def entry_of_a_dict(x: Tensor["B", "D"], w: dict[str, Tensor["D", "F"]]) -> Tensor["B", "F"]:
    return x @ w["gate.weight"].T
