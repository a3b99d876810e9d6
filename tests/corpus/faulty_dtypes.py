"""Faults in dtypes, and in the sizes of parameters, sources and targets, that only a run would show elsewhere."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tessera import Tensor, bf16, bool_, f32, f64, int32, int64
from tests.corpus.table import faulty


@faulty("TSR0301", "ids")
def softplus_of_ids(ids: Tensor["B", "S", int64]) -> Any:
    return F.softplus(ids)


@faulty("TSR0301", "n")
def leaky_counts(x: Tensor["B", "S"], n: Tensor["B", "S", int32]) -> Any:
    return x * F.leaky_relu(n, 0.1)


@faulty("TSR0301", "n")
def glu_of_counts(n: Tensor["B", 8, int64]) -> Any:
    return F.glu(n)


@faulty("TSR0301", "w")
def conv_in_two_widths(x: Tensor["N", 4, "L", bf16], w: Tensor["O", 4, 3, f32]) -> Any:
    return F.conv1d(x, w, padding=1)


@faulty("TSR0301", "b")
def linear_with_a_wide_bias(x: Tensor["B", "D", f32], w: Tensor["K", "D", f32], b: Tensor["K", f64]) -> Any:
    return F.linear(x, w, b)


@faulty("TSR0301", "b")
def norm_in_three_widths(x: Tensor["B", "D", bf16], g: Tensor["D", bf16], b: Tensor["D", f32]) -> Any:
    return F.layer_norm(x, (x.shape[-1],), g, b)


@faulty("TSR0301", "t")
def lerp_to_ids(x: Tensor["B", "D", f32], t: Tensor["B", "D", int64]) -> Any:
    return torch.lerp(x, t, 0.5)


@faulty("TSR0301", "b")
def einsum_in_two_widths(a: Tensor["B", "S", "D", f32], b: Tensor["B", "D", "K", f64]) -> Any:
    return torch.einsum("bsd,bdk->bsk", a, b)


@faulty("TSR0301", "k")
def attention_in_two_widths(
    q: Tensor["B", "H", "S", "D", bf16], k: Tensor["B", "H", "S", "D", f32], v: Tensor["B", "H", "S", "D", bf16]
) -> Any:
    return F.scaled_dot_product_attention(q, k, v)


@faulty("TSR0304", "where")
def scatter_at_floats(x: Tensor["N", "D"], where: Tensor["M", "D", f32], y: Tensor["M", "D"]) -> Any:
    return torch.zeros(x.shape).scatter_add(0, where, y)


@faulty("TSR0303", "m")
def masked_scatter_by_numbers(x: Tensor["B", "S"], m: Tensor["B", "S", int64], y: Tensor["B", "S"]) -> Any:
    return x.masked_scatter(m, y)


@faulty("TSR0301", "rows")
def index_add_of_counts(x: Tensor["N", "D", f32], at: Tensor["M", int64], rows: Tensor["M", "D", int64]) -> Any:
    return x.index_add(0, at, rows)


@faulty("TSR0301", "x")
def squares_of_ids(x: Tensor["B", int64], y: Tensor["B", int64]) -> Any:
    return F.mse_loss(x, y)


@faulty("TSR0301", "m")
def largest_flags(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Any:
    return x[:, :2] * m.topk(2).values


@faulty("TSR0301", "n")
def dropped_counts(n: Tensor["B", "S", int64]) -> Any:
    return F.dropout(n, 0.1, training=True)


@faulty("TSR0301", "torch.zeros_like(n)")
def noise_of_integers(n: Tensor["B", "S", int64]) -> Any:
    return torch.zeros_like(n).uniform_()


@faulty("TSR0202", "g")
def norm_with_one_gain(x: Tensor["B", "D"], g: Tensor[1]) -> Any:
    return F.layer_norm(x, (x.shape[-1],), g)


@faulty("TSR0202", "mean")
def statistics_of_the_batch(x: Tensor["B", "C", "L"], mean: Tensor["B"], var: Tensor["C"]) -> Any:
    return F.batch_norm(x, mean, var)


@faulty("TSR0202", "b")
def transposed_bias(x: Tensor["N", 4, "L"], w: Tensor[4, "O", 3], b: Tensor["L"]) -> Any:
    return F.conv_transpose1d(x, w, b)


@faulty("TSR0204", "x")
def pooled_without_channels(x: Tensor["L"]) -> Any:
    return F.avg_pool1d(x, 2)


@faulty("TSR0204", "x")
def reflected_in_two_axes(x: Tensor["H", "W"]) -> Any:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


@faulty("TSR0202", "row")
def column_put_in_a_row(x: Tensor["B", "S", "D"], row: Tensor["B", "S"]) -> Any:
    return x.select_scatter(row, 1, 0)


@faulty("TSR0204", "c")
def added_stack(c: Tensor["B", "N", "M"], a: Tensor["N", "K"], b: Tensor["K", "M"]) -> Any:
    return torch.addmm(c, a, b)


@faulty("TSR0204", "far")
def triplets_of_two_ranks(x: Tensor["B", "D"], near: Tensor["B", "D"], far: Tensor["B", "N", "D"]) -> Any:
    return F.triplet_margin_loss(x, near, far)


@faulty("TSR0215", "m")
def another_mask_updated(x: Tensor["B", "S"], m: Tensor["B", "T", bool_]) -> Any:
    y = x.clone()
    y[m] += 1
    return y


@faulty("TSR0301", "y[m]")
def halves_added_to_counts(n: Tensor["B", "S", int64], m: Tensor["B", "S", bool_]) -> Any:
    y = n.clone()
    y[m] += 0.5
    return y
