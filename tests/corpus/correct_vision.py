"""Images, boxes, speech, and code of all sorts around tensors."""

# ruff: noqa: B905, RUF005

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tessera import Tensor, bf16, f32, f64, int64
from tests.corpus.table import correct

TABLE = torch.linspace(0, 1, 11 * 8).view(11, 8)
EMB = nn.Embedding(11, 8).requires_grad_(False)
CONV = nn.Conv1d(8, 12, 3, padding=1).requires_grad_(False)
BN = nn.BatchNorm1d(12).eval().requires_grad_(False)


class Out(NamedTuple):
    """A mean and a variance."""

    mean: Tensor["B"]
    var: Tensor["B"]


@correct("guarded", sizes={"H": 6, "W": 8})
def conv_of_channels_last(
    x: Tensor["B", "H", "W", "C"], w: Tensor["O", "C", 3, 3], b: Tensor["O"]
) -> Tensor["B", "O", "H-2", "W-2"]:
    return F.relu(F.conv2d(x.permute(0, 3, 1, 2), w)) + b[:, None, None]


@correct("guarded", sizes={"H": 6, "W": 8})
def pool_of_channels_last(x: Tensor["B", "H", "W", "C"]) -> Tensor["B", "C", "H/2", "W/2"]:
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2) * 2


@correct("proved")
def sorted_over_a_moved_axis(x: Tensor["B", "S", "D"]) -> Tensor["B", "D", "S"]:
    return x.transpose(1, 2).sort(dim=1).values * 2


@correct("guarded", sizes={"H": 8, "W": 12, "C": 3})
def patch_embed(img: Tensor["B", "C", "H", "W"], w: Tensor["D", "C", 4, 4], b: Tensor["D"]) -> Tensor["B", "L", "D"]:
    x = F.conv2d(img, w, b, stride=4)
    return x.flatten(2).transpose(1, 2)


@correct("guarded", sizes={"H": 8, "W": 12})
def conv_block(
    x: Tensor["B", "C", "H", "W"], w1: Tensor["O", "C", 3, 3], w2: Tensor["O", "O", 3, 3], skip: Tensor["O", "C", 1, 1]
) -> Tensor["B", "O", "H/2", "W/2"]:
    y = F.relu(F.conv2d(x, w1, stride=2, padding=1))
    y = F.conv2d(y, w2, padding="same")
    return F.relu(y + F.conv2d(x, skip, stride=2))


@correct("guarded", sizes={"H": 8, "W": 12})
def unet_skip(
    low: Tensor["B", "C", "H", "W"], high: Tensor["B", "E", "2*H", "2*W"]
) -> Tensor["B", "C+E", "2*H", "2*W"]:
    up = F.interpolate(low, scale_factor=2, mode="nearest")
    return torch.cat([up, high], dim=1)


@correct("guarded", sizes={"H": 8, "W": 12})
def depthwise_separable(
    x: Tensor["B", "C", "H", "W"], dw: Tensor["C", 1, 3, 3], pw: Tensor["O", "C", 1, 1]
) -> Tensor["B", "O", "H", "W"]:
    y = F.conv2d(x, dw, padding=1, groups=x.shape[1])
    return F.conv2d(F.relu6(y), pw)


@correct("proved")
def box_iou(a: Tensor["N", 4], b: Tensor["M", 4]) -> Tensor["N", "M"]:
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    lt = torch.max(a[:, None, :2], b[:, :2])
    rb = torch.min(a[:, None, 2:], b[:, 2:])
    wh = (rb - lt).clamp(min=0)
    inter = wh[:, :, 0] * wh[:, :, 1]
    return inter / (area_a[:, None] + area_b - inter)


@correct("proved")
def box_decode(anchors: Tensor["N", 4], deltas: Tensor["B", "N", 4]) -> Tensor["B", "N", 4]:
    wh = anchors[..., 2:] - anchors[..., :2]
    ctr = anchors[..., :2] + 0.5 * wh
    new_ctr = deltas[..., :2] * wh + ctr
    new_wh = torch.exp(deltas[..., 2:].clamp(max=4.0)) * wh
    return torch.cat((new_ctr - new_wh / 2, new_ctr + new_wh / 2), dim=-1)


@correct("proved")
def focal_loss(
    logits: Tensor["B", "N", "C"], target: Tensor["B", "N", "C"], alpha: float = 0.25, gamma: float = 2.0
) -> Tensor[()]:
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pt = p * target + (1 - p) * (1 - target)
    loss = ce * (1 - pt).pow(gamma)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * loss).mean(1).sum() / logits.shape[1]


@correct("proved", sizes={"H": 2, "W": 3, "P": 2})
def window_reverse(win: Tensor["B*H*W", "P*P", "C"], B: int, H: int, W: int, P: int) -> Tensor["B", "H*P", "W*P", "C"]:
    C = win.shape[-1]
    x = win.view(B, H, W, P, P, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(B, H * P, W * P, C)


@correct("proved")
def relative_position_index(H: int, W: int) -> Tensor["H*W", "H*W", int64]:
    coords = torch.stack(torch.meshgrid([torch.arange(H), torch.arange(W)], indexing="ij"))
    flat = torch.flatten(coords, 1)
    rel = flat[:, :, None] - flat[:, None, :]
    rel = rel.permute(1, 2, 0).contiguous()
    return (rel[..., 0] + H - 1) * (2 * W - 1) + rel[..., 1] + W - 1


@correct("guarded", sizes={"C": 12})
def channel_shuffle(x: Tensor["B", "C", "H", "W"], groups: int = 3) -> Tensor["B", "C", "H", "W"]:
    b, c, h, w = x.size()
    x = x.view(b, groups, c // groups, h, w)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(b, -1, h, w)


@correct("proved")
def spatial_softmax(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "C", 2]:
    b, c, h, w = x.shape
    p = x.reshape(b, c, -1).softmax(-1).view(b, c, h, w)
    ys = torch.linspace(-1, 1, h)
    xs = torch.linspace(-1, 1, w)
    ey = (p.sum(3) * ys).sum(-1)
    ex = (p.sum(2) * xs).sum(-1)
    return torch.stack([ex, ey], -1)


@correct("proved")
def sinusoid_2d(H: int, W: int, D: int) -> Tensor["H", "W", "2*D"]:
    fx = torch.arange(D) / D
    omega = 1.0 / 10000**fx
    y = torch.arange(H)[:, None] * omega
    x = torch.arange(W)[:, None] * omega
    return torch.cat([y.sin()[:, None, :].expand(H, W, D), x.cos()[None].expand(H, W, D)], dim=-1)


@correct("proved")
def timestep_embedding(t: Tensor["B"], dim: int = 16) -> Tensor["B", 16]:
    half = dim // 2
    freqs = torch.exp(-math.log(10000) * torch.arange(start=0, end=half, dtype=torch.float32) / half)
    args = t[:, None].float() * freqs[None]
    emb = torch.cat([torch.cos(args), torch.sin(args)], dim=-1)
    if dim % 2:
        emb = torch.cat([emb, torch.zeros_like(emb[:, :1])], dim=-1)
    return emb


@correct("proved", ids={"t": 14})
def q_sample(
    x0: Tensor["B", "C", "H", "W"], t: Tensor["B", int64], noise: Tensor["B", "C", "H", "W"], ab: Tensor["L"]
) -> Tensor["B", "C", "H", "W"]:
    a = ab.abs().sqrt()[t].view(-1, *([1] * (x0.ndim - 1)))
    s = (1 - ab).clamp(min=0).sqrt().gather(-1, t).reshape(t.shape[0], *((1,) * (len(x0.shape) - 1)))
    return a * x0 + s * noise


@correct("proved")
def adaln(x: Tensor["B", "S", "D"], c: Tensor["B", "E"], w: Tensor["6*D", "E"]) -> Tensor["B", "S", "D"]:
    shift1, scale1, gate1, shift2, scale2, gate2 = F.linear(F.silu(c), w).chunk(6, dim=1)
    h = F.layer_norm(x, x.shape[-1:])
    x = x + gate1.unsqueeze(1) * (h * (1 + scale1.unsqueeze(1)) + shift1.unsqueeze(1))
    return x + gate2[:, None] * (x * (1 + scale2[:, None]) + shift2[:, None])


@correct("guarded", sizes={"L": 40})
def frames(wave: Tensor["B", "L"], win: Tensor[16]) -> Tensor["B", "N", 16]:
    return wave.unfold(-1, 16, 8) * win


@correct("proved")
def mel_db(power: Tensor["B", "F", "T"], fb: Tensor["F", "M"]) -> Tensor["B", "M", "T"]:
    mel = torch.matmul(power.abs().transpose(-1, -2), fb.abs()).transpose(-1, -2)
    db = 10 * torch.log10(torch.clamp(mel, min=1e-10))
    return torch.maximum(db, db.amax(dim=(-2, -1), keepdim=True) - 80.0)


@correct("proved", ids={"labels": 9}, sizes={"V": 11})
def ctc_step(alpha: Tensor["B", "S"], logp: Tensor["B", "V"], labels: Tensor["B", "S", int64]) -> Tensor["B", "S"]:
    prev1 = F.pad(alpha, (1, 0), value=-1e30)[:, :-1]
    merged = torch.logaddexp(alpha, prev1)
    return merged + logp.gather(-1, labels)


@correct("proved")
def viterbi_step(
    score: Tensor["B", "K"], trans: Tensor["K", "K"], emit: Tensor["B", "K"]
) -> tuple[Tensor["B", "K"], Tensor["B", "K", int64]]:
    s = score.unsqueeze(2) + trans.unsqueeze(0) + emit.unsqueeze(1)
    best, back = s.max(dim=1)
    return best, back


@correct("proved")
def crf_forward(emissions: Tensor[4, "B", "K"], trans: Tensor["K", "K"]) -> Tensor["B"]:
    alpha = emissions[0]
    for t in range(1, emissions.shape[0]):
        alpha = torch.logsumexp(alpha.unsqueeze(-1) + trans, dim=1) + emissions[t]
    return alpha.logsumexp(-1)


@correct("proved", ids={"ids": 11})
def closes_over(ids: Tensor["B", "S", int64]) -> Tensor["B", "S", 8]:
    return TABLE[ids]


@correct("proved")
def walrus(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    if (n := x.shape[1]) > 4 and (m := x.mean(1, keepdim=True)) is not None:
        return (x - m) / n
    return x * 1.0


@correct("proved")
def kwonly(
    x: Tensor["B", "D"], *, weight: Tensor["F", "D"], bias: Tensor["F"] | None = None, act: str = "relu"
) -> Tensor["B", "F"]:
    y = F.linear(x, weight, bias)
    acts = {"relu": F.relu, "gelu": F.gelu, "none": lambda t: t}
    return acts[act](y)


@correct("proved")
def named_out(x: Tensor["B", "D"]) -> Out:
    return Out(x.mean(-1), x.var(-1))


@correct("proved")
def dict_out(x: Tensor["B", "D"]) -> dict[str, Tensor["B"]]:
    return {"mean": x.mean(-1), "max": x.amax(-1)}


@correct("proved")
def zip_layers(x: Tensor["B", "D"], ws: list[Tensor["D", "D"]], bs: list[Tensor["D"]]) -> Tensor["B", "D"]:
    for i, (w, b) in enumerate(zip(ws, bs)):
        x = x @ w + b
        if i < len(ws) - 1:
            x = F.relu(x)
    return x


@correct("proved")
def star_shape(x: Tensor["...", "H*K"], H: int) -> Tensor["...", "H", "K"]:
    return x.view(*x.shape[:-1], H, x.shape[-1] // H)


@correct("proved")
def star_back(x: Tensor["...", "H", "K"]) -> Tensor["...", "H*K"]:
    *lead, h, k = x.shape
    return x.reshape(*lead, h * k)


@correct("proved")
def flatten_lead(x: Tensor["...", "D"], w: Tensor["D", "F"]) -> Tensor["...", "F"]:
    lead = x.shape[:-1]
    y = x.reshape(-1, x.shape[-1]) @ w
    return y.view(*lead, w.shape[-1])


@correct("proved")
def shape_plus(x: Tensor["B", "S", "H*K"], H: int) -> Tensor["B", "H", "S", "K"]:
    new_shape = x.size()[:-1] + (H, x.size(-1) // H)
    return x.view(new_shape).permute(0, 2, 1, 3)


@correct("proved")
def casts(x: Tensor["N", bf16], y: Tensor["N", f32]) -> tuple[Tensor["N", f32], Tensor["N", bf16], Tensor["N", f64]]:
    return x + y, y.type_as(x), x.to(dtype=torch.float64)


@correct("proved")
def linalg(x: Tensor["B", "N", "N"]) -> Tensor["B", "N"]:
    a = x @ x.mT + 10 * torch.eye(x.size(-1))
    L = torch.linalg.cholesky(a)
    y = torch.linalg.solve(a, x)
    return torch.linalg.vector_norm(y, dim=-1) + torch.linalg.norm(L, dim=-1)


@correct("proved")
def in_place_chain(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    y = torch.empty_like(x)
    y.copy_(x)
    y.sub_(y.mean()).div_(y.std() + 1e-5).add_(1.0).clamp_(-3, 3)
    return y


@correct("guarded")
def view_update(x: Tensor["B", 4, "D"]) -> Tensor["B", 4, "D"]:
    y = x.clone()
    first = y[:, 0]
    first.mul_(2)
    y[:, 1:3] += 1
    y[:, ::2, :] = 0
    y[..., 0] = x[..., 1]
    return y


@correct("proved")
def math_prod(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "C*H*W"]:
    return x.reshape(x.size(0), math.prod(x.shape[1:]))


@correct("proved")
def quat_rotate(q: Tensor["...", 4], v: Tensor["...", 3]) -> Tensor["...", 3]:
    w, u = q[..., :1], q[..., 1:]
    t = 2 * torch.linalg.cross(u, v, dim=-1)
    return v + w * t + torch.linalg.cross(u, t, dim=-1)


@correct("proved")
def nerf_encode(x: Tensor["N", 3], L: int = 4) -> Tensor["N", 27]:
    out = [x]
    for i in range(L):
        for fn in (torch.sin, torch.cos):
            out.append(fn(2.0**i * x))
    return torch.cat(out, dim=-1)


@correct("proved")
def volume_render(sigma: Tensor["N", "S"], rgb: Tensor["N", "S", 3], dist: Tensor["N", "S"]) -> Tensor["N", 3]:
    alpha = 1.0 - torch.exp(-F.relu(sigma) * dist.abs())
    T = torch.cumprod(torch.cat([torch.ones((alpha.shape[0], 1)), 1.0 - alpha + 1e-10], -1), -1)[:, :-1]
    weights = alpha * T
    return torch.sum(weights[..., None] * rgb, -2)


@correct("guarded", sizes={"H": 6, "W": 8})
def grid_sample(x: Tensor["B", "C", "H", "W"], grid: Tensor["B", "P", "Q", 2]) -> Tensor["B", "C", "P", "Q"]:
    return F.grid_sample(x, grid.tanh(), mode="bilinear", align_corners=False)


@correct("guarded", sizes={"H": 6, "W": 8})
def unfold_fold(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "C*9", "H*W"]:
    return F.unfold(x, kernel_size=3, padding=1)


@correct("guarded", sizes={"L": 16})
def transposed_conv(x: Tensor["B", "C", "L"], w: Tensor["C", "O", 4]) -> Tensor["B", "O", "2*L"]:
    return F.conv_transpose1d(x, w, stride=2, padding=1)


@correct("guarded", sizes={"T": 16})
def dilated(x: Tensor["B", "C", "T"], w: Tensor["2*C", "C", 3]) -> Tensor["B", "C", "T"]:
    y = F.conv1d(F.pad(x, (4, 0)), w, dilation=2)
    a, b = y.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b) + x


@correct("guarded", ids={"ids": 11})
def conv_module(ids: Tensor["B", "S", int64]) -> Tensor["B", 12, "S"]:
    return BN(CONV(EMB(ids).transpose(1, 2))).relu()
