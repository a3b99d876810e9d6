"""Correct programs that mix dtypes as torch allows it, and that update behind masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tessera import Tensor, bf16, bool_, f32, f64, int64, uint8
from tests.corpus.table import correct


@correct("guarded")
def conv_of_open_dtype(x: Tensor["N", 4, "L"], w: Tensor["O", 4, 3]) -> Tensor["N", "O", "L"]:
    return F.conv1d(x, w, padding=1)


@correct(tolerance=2e-2)
def wide_gains_of_a_narrow_norm(
    x: Tensor["B", "D", bf16], g: Tensor["D", f32], b: Tensor["D", f32]
) -> Tensor["B", "D", bf16]:
    return F.layer_norm(x, (x.shape[-1],), g, b)


@correct()
def angles_of_positions(n: Tensor["S", int64], rate: Tensor["D", f32]) -> Tensor["S", "D", f32]:
    return torch.einsum("i,j->ij", n, rate)


@correct()
def loss_of_integer_targets(x: Tensor["B", "D", f32], t: Tensor["B", "D", int64]) -> Tensor[()]:
    return F.mse_loss(x, t) + F.l1_loss(x, t) + F.smooth_l1_loss(x, t)


@correct()
def where_of_bytes(m: Tensor["B", "S", uint8], x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    return torch.where(m != 0, x, 0.0)


@correct()
def filled_ids(ids: Tensor["B", "S", int64], m: Tensor["B", "S", bool_]) -> Tensor["B", "S", int64]:
    return ids.masked_fill(m, -1.0)


@correct()
def evaluated_dropout(n: Tensor["B", "S", int64]) -> Tensor["B", "S", int64]:
    return F.dropout(n, 0.5, training=False)


@correct()
def joined_dtypes(x: Tensor["B", "D", f32], n: Tensor["B", "D", int64], y: Tensor["B", "D", f64]) -> Tensor:
    return torch.cat([x, n, y], dim=1) + torch.where(n > 0, 1, 0.5).sum()


@correct()
def updated_behind_masks(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Tensor["B", "S"]:
    y = x.clone()
    y[m] += 1
    y[~m] *= 2.5
    y[y > 0] /= y.max()
    return y


@correct("guarded")
def rows_updated_behind_a_mask(x: Tensor["B", "S"], m: Tensor["B", bool_], v: Tensor["S"]) -> Tensor["B", "S"]:
    y = x * 1
    part = y[1:]
    part[m[1:]] -= v
    return y


@correct()
def counts_updated_behind_a_mask(n: Tensor["B", "S", int64], m: Tensor["B", "S", bool_]) -> Tensor["B", "S", int64]:
    y = n.clone()
    y[m] -= 3
    return y
