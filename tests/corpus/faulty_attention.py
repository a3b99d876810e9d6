"""Faults in attention and what surrounds it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor, bool_, f32, int64
from tests.corpus.table import faulty


@faulty("TSR0201", "q", helps=True)
def scores_without_transpose(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]
) -> Tensor["B", "H", "S", "T"]:
    scale = q.shape[-1] ** -0.5
    return torch.matmul(q, k) * scale


@faulty("TSR0201", "q")
def wrong_axes_transposed(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Tensor["B", "H", "S", "T"]:
    return q @ k.transpose(1, 2)


@faulty("TSR0201", "weights", helps=True)
def values_turned(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "T", "D"]
) -> Tensor["B", "H", "S", "D"]:
    scores = q @ k.mT / math.sqrt(64)
    weights = tessera.softmax(scores, dim=-1)
    return weights @ v.mT


@faulty("TSR0201", "scores.softmax(dim=-1)", helps=True)
def keys_for_values(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "S", "D"]
) -> Tensor["B", "H", "S", "D"]:
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    return torch.matmul(scores.softmax(dim=-1), v)


@faulty("TSR0202", "~mask")
def causal_mask_of_wrong_length(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]
) -> Tensor["B", "H", "S", "T"]:
    S = q.shape[2]
    mask = torch.tril(torch.ones(S, S)).bool()
    scores = q @ k.transpose(-1, -2)
    return scores.masked_fill(~mask, float("-inf"))


@faulty("TSR0202", "mask")
def mask_without_heads(
    scores: Tensor["B", "H", "S", "T"], mask: Tensor["B", "S", "T", bool_]
) -> Tensor["B", "H", "S", "T"]:
    return scores.masked_fill(mask, -1e9).softmax(-1)


@faulty("TSR0202", "padding[:, :, None, None]")
def padding_unsqueezed_at_the_wrong_end(
    scores: Tensor["B", "H", "S", "T"], padding: Tensor["B", "T", bool_]
) -> Tensor["B", "H", "S", "T"]:
    return scores.masked_fill(padding[:, :, None, None], -1e9).softmax(dim=-1)


@faulty("TSR0202", "~mask")
def optional_mask_of_wrong_shape(
    scores: Tensor["B", "H", "S", "T"], mask: Tensor["S", "S", bool_] | None = None
) -> Tensor["B", "H", "S", "T"]:
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e9)
    return tessera.softmax(scores, dim=-1)


@faulty("TSR0205", "x @ wq")
def heads_from_the_wrong_width(x: Tensor["B", "S", "D"], wq: Tensor["D", "E"]) -> Any:
    B, S, E = x.shape[0], x.shape[1], wq.shape[1]
    return (x @ wq).view(B, S, S, E).transpose(1, 2)


@faulty("TSR0205", "x")
def heads_without_a_factor(x: Tensor["B", "S", "H*K"], H: int) -> Any:
    B, S, E = x.shape
    return x.view(B, S, H, E).transpose(1, 2)


@faulty("TSR0210", 'Tensor["B", "S", "H", "K"]')
def heads_returned_untransposed(x: Tensor["B", "S", "H*K"], H: int) -> Tensor["B", "S", "H", "K"]:
    B, S, E = x.shape
    return x.view(B, S, H, E // H).transpose(1, 2)


@faulty("TSR0201", "attended.transpose(1, 2).flatten(2)")
def output_projection_turned(
    attended: Tensor["B", "H", "S", "K"], wo: Tensor["D", "2*H*K"]
) -> Tensor["B", "S", "2*H*K"]:
    return attended.transpose(1, 2).flatten(2) @ wo.mT


@faulty("TSR0201", "attended.flatten(2)")
def forgot_to_move_heads_back(attended: Tensor["B", "H", "S", "K"], wo: Tensor["H*K", "D"]) -> Tensor["B", "S", "D"]:
    return attended.flatten(2) @ wo


@faulty("TSR0201", "q", helps=True)
def packed_in_two(x: Tensor["B", "S", "D"], w: Tensor["3*D", "D"], wq: Tensor["D", "D"]) -> Any:
    q = x @ wq
    k, v, _ = F.linear(x, w).split(x.shape[-1], dim=-1)
    return torch.softmax(q @ k, dim=-1) @ v


@faulty("TSR0208", "F.linear(x, w)")
def split_sizes_do_not_add_up(x: Tensor["B", "S", "D"], w: Tensor["3*D", "D"]) -> Any:
    d = x.shape[-1]
    q, k = F.linear(x, w).split([d, d], dim=-1)
    return q @ k.mT


@faulty("TSR0202", "q")
def groups_not_repeated(q: Tensor["B", "G*R", "S", "D"], k: Tensor["B", "G", "T", "D"]) -> Tensor["B", "G*R", "S", "T"]:
    return q @ k.transpose(-2, -1)


@faulty("TSR0202", "q")
def groups_repeated_along_positions(
    q: Tensor["B", "G*R", "S", "D"], k: Tensor["B", "G", "T", "D"], R: int
) -> Tensor["B", "G*R", "S", "T"]:
    k = k.repeat_interleave(R, dim=2)
    return q @ k.transpose(-2, -1)


@faulty("TSR0213", "k[:, :, None]")
def expanded_to_too_few(k: Tensor["B", "G", "T", "D"], R: int) -> Any:
    b, g, t, d = k.shape
    return k[:, :, None].expand(b, g, R, d, t).reshape(b, g * R, t, d)


@faulty("TSR0202", "x1")
def rope_tables_of_full_width(
    x: Tensor["B", "S", "H", "D"], cos: Tensor["S", 1, "D"], sin: Tensor["S", 1, "D"]
) -> Tensor["B", "S", "H", "D"]:
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * cos, x2 * sin + x1 * sin], dim=-1)


@faulty("TSR0202", "x1", helps=True)
def rope_tables_without_head_axis(
    x: Tensor["B", "S", "H", "2*K"], cos: Tensor["S", "K"], sin: Tensor["S", "K"]
) -> Tensor["B", "S", "H", "2*K"]:
    x1, x2 = x.chunk(2, dim=-1)
    rotated = x1 * cos
    return torch.cat([rotated, x2], dim=-1)


@faulty("TSR0210", 'Tensor["B", "S", "H", "D"]')
def rope_half_lost(
    x: Tensor["B", "S", "H", "D"], cos: Tensor["S", 1, "D/2"], sin: Tensor["S", 1, "D/2"]
) -> Tensor["B", "S", "H", "D"]:
    x1, x2 = x.chunk(2, dim=-1)
    return x1 * cos - x2 * sin


@faulty("TSR0202", "q * cos")
def rotate_half_by_one_half(q: Tensor["B", "H", "S", "D"], cos: Tensor["S", "D"], sin: Tensor["S", "D"]) -> Any:
    half = q.shape[-1] // 2
    rotated = -q[..., half:]
    return q * cos + rotated * sin[..., :half]


@faulty("TSR0208", "x")
def rope_over_an_odd_width(x: Tensor["B", "S", "2*K+1"]) -> Any:
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([-x2, x1], dim=-1)


@faulty("TSR0202", "scores", helps=True)
def alibi_slopes_on_keys(scores: Tensor["B", "H", "S", "S"], slopes: Tensor["H"]) -> Tensor["B", "H", "S", "S"]:
    i = torch.arange(scores.shape[-1])
    bias = slopes[:, None] * (i[None, :] - i[:, None])[0]
    return scores + bias


@faulty("TSR0206", "keys")
def cache_joined_over_heads(keys: Tensor["B", "H", "T", "D"], new: Tensor["B", "H", "S", "D"]) -> Any:
    return torch.cat([keys, new], dim=1)


@faulty("TSR0210", 'Tensor["B", "H", "T+1", "D"]')
def cache_grows_by_s(keys: Tensor["B", "H", "T", "D"], new: Tensor["B", "H", "S", "D"]) -> Tensor["B", "H", "T+1", "D"]:
    return torch.cat([keys, new], dim=2)


@faulty("TSR0206", "past[0]")
def cache_of_another_layout(
    k: Tensor["B", "H", "S", "D"], past: tuple[Tensor["B", "T", "H", "D"], Tensor["B", "T", "H", "D"]]
) -> Any:
    return torch.cat([past[0], k], dim=-2)


@faulty("TSR0209", "x")
def einsum_of_the_wrong_weight(x: Tensor["B", "S", "D"], wq: Tensor["E", "H", "K"]) -> Any:
    return torch.einsum("bsd,dhk->bhsk", x, wq)


@faulty("TSR0209", "q")
def einsum_mixes_queries_and_keys(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    return torch.einsum("bhsd,bhsd->bhs", q, k)


@faulty("TSR0209", 'torch.einsum("bhsd,bhtd->bhsk", q, k)')
def einsum_output_letter_unknown(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    return torch.einsum("bhsd,bhtd->bhsk", q, k)


@faulty("TSR0209", 'torch.einsum("bsd,df", x, w, b)')
def einsum_with_an_operand_too_many(x: Tensor["B", "S", "D"], w: Tensor["D", "F"], b: Tensor["F"]) -> Any:
    return torch.einsum("bsd,df", x, w, b)


@faulty("TSR0209", "p")
def einsum_of_too_many_letters(p: Tensor["S", "T"], v: Tensor["B", "T", "D"]) -> Any:
    return tessera.einsum("bst,btd->bsd", p, v)


@faulty("TSR0201 TSR0202", "q")
def sdpa_of_other_widths(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "E"], v: Tensor["B", "H", "T", "D"]
) -> Any:
    return F.scaled_dot_product_attention(q, k, v)


@faulty("TSR0201 TSR0202", "v")
def sdpa_of_other_lengths(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "S", "D"]
) -> Any:
    return F.scaled_dot_product_attention(q, k, v)


@faulty("TSR0202", "x")
def positions_of_another_length(x: Tensor["B", "S", "D"], table: Tensor["T", "D"]) -> Tensor["B", "S", "D"]:
    return x + table


@faulty("TSR0202", "position")
def sinusoidal_without_column(x: Tensor["B", "S", "2*K"]) -> Any:
    _, S, D = x.shape
    position = torch.arange(S).float()
    div = torch.exp(torch.arange(0, D, 2).float() * (-math.log(10000.0) / 512))
    return torch.sin(position * div)


@faulty("TSR0202 TSR0213", "torch.cat([torch.sin(position * div), torch.cos(position * div)], dim=-1)")
def sinusoidal_into_half(x: Tensor["B", "S", "2*K"]) -> Any:
    _, S, D = x.shape
    position = torch.arange(S).unsqueeze(1).float()
    div = torch.exp(torch.arange(0, D, 2).float())
    table = torch.zeros(S, D)
    table[:, 0::2] = torch.cat([torch.sin(position * div), torch.cos(position * div)], dim=-1)
    return x + table


@faulty("TSR0303 TSR0301", "keep")
def mask_as_number(scores: Tensor["B", "S", "T"], keep: Tensor["B", "S", "T", f32]) -> Any:
    return torch.where(keep, scores, -1e9)


@faulty("TSR0301", "doc")
def inverted_integers(scores: Tensor["B", "S", "T"], doc: Tensor["B", "S", "T", f32]) -> Any:
    return scores.masked_fill(~doc, -1e9)


@faulty("TSR0202", "same")
def document_mask_of_one_side(scores: Tensor["B", "S", "T"], doc: Tensor["B", "S", int64]) -> Any:
    same = doc.unsqueeze(-1) == doc.unsqueeze(-2)
    return torch.where(same, scores, -1e9)


@faulty("TSR0202", "state")
def linear_attention_norm(q: Tensor["B", "S", "D"], k: Tensor["B", "T", "D"], state: Tensor["B", "S", "E"]) -> Any:
    norm = torch.einsum("bsd,bd->bs", q, k.sum(dim=1))
    return state / norm.sum(-1)
