"""Operations of models as kernels: what each computes is said at it, with the rule for its edges.

Where a kernel takes rows, a tensor with more dims in front is taken part by part. Outputs may be left out; arithmetic
on floats of at most 16 bits is f32, and results are rounded once, when they are stored.
"""

import math
from typing import Any

import tessera
from tessera import Tile, f32, int8, int64, tile


def _wide(x: Any) -> Any:
    """Floats of at most 16 bits as f32."""
    return x if x.dtype.bits >= 32 else tile.cast(x, f32)


def _sum_of(x: Any) -> Any:
    """The dtype in which products of such floats are added up."""
    return tessera.f64 if x.dtype == tessera.f64 else f32


@tessera.kernel
def rms_norm_kernel(x: Tile["S", "D"], weight: Tile["D"], output: Tile["S", "D"], eps: float = 1e-6) -> None:
    """x / sqrt(mean(x²) + eps) · weight for each row; 0 for a row of zeros, with eps = 0, too.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    ctx = tile.context()
    assert ctx.D >= 1, "a row has at least one element"
    rows = ctx.block_m
    for i in tile.grid(0, ctx.S, rows):
        block = _wide(tile.load(x[i : i + rows]))
        square = tile.warp.reduce_mean(block * block, axis=1) + eps
        scale = tile.where(square == 0.0, 0.0, tile.rsqrt(square))
        tile.store(output[i : i + rows], block * tile.broadcast(scale, axis=1) * tile.load_broadcast(weight))


@tessera.kernel
def swiglu_fused_kernel(
    x: Tile["S", "D"],
    W_gate: Tile["D", "D_ff"],
    W_up: Tile["D", "D_ff"],
    W_down: Tile["D_ff", "D"],
    output: Tile["S", "D"],
    beta: float = 1.0,
) -> None:
    """(swish(x·W_gate) · (x·W_up))·W_down with swish(z) = z·sigmoid(beta·z); the hidden row is never whole.

    Source: Shazeer 2020, arXiv:2002.05202.
    """
    ctx = tile.context()
    bm, bn, bk = ctx.block_m, ctx.block_n, ctx.block_k
    for i in tile.grid(0, ctx.S, bm):
        acc = tile.zeros((bm, ctx.D), _sum_of(x))
        for f in tile.range(0, ctx.D_ff, bn):
            gate = tile.zeros((bm, bn), _sum_of(x))
            up = tile.zeros((bm, bn), _sum_of(x))
            for d in tile.range(0, ctx.D, bk):
                part = tile.load(x[i : i + bm, d : d + bk])
                gate = tile.mma(part, W_gate[d : d + bk, f : f + bn], gate)
                up = tile.mma(part, W_up[d : d + bk, f : f + bn], up)
            acc = tile.mma(tile.swish(gate, beta) * up, W_down[f : f + bn], acc)
        tile.store(output[i : i + bm], acc)


@tessera.kernel
def rotary_embedding_kernel(
    x: Tile["S", "H", "D"], cos_cache: Tile["S", "D/2"], sin_cache: Tile["S", "D/2"], output: Tile["S", "H", "D"]
) -> None:
    """The halves of each vector rotated by the angles of its position: (a·c - b·s, a·s + b·c).

    Source: Su et al. 2021, arXiv:2104.09864, with halves in the place of neighbours.
    """
    ctx = tile.context()
    rows = ctx.block_m
    for i in tile.grid(0, ctx.S, rows):
        cos, sin = tile.load_broadcast(cos_cache[i : i + rows]), tile.load_broadcast(sin_cache[i : i + rows])
        tile.store(output[i : i + rows], tile.apply_rope(tile.load(x[i : i + rows]), cos, sin))


@tessera.kernel
def casted_embedding_kernel(
    indices: Tile["N", tessera.integer], embeddings: Tile["V", "D"], output: Tile["N", "D"], scale: float = 1.0
) -> None:
    """Row ``indices[n]`` of the table, times ``scale``; only the rows asked for are widened."""
    for n in tile.thread_range(tile.context().N):
        row = tile.load_vector(embeddings[indices[n]], dtype=f32)
        tile.store_vector(output[n], row * scale)


@tessera.kernel
def int8_linear_kernel(
    x: Tile["N", "D_in", int8],
    weight: Tile["D_out", "D_in", int8],
    bias: Tile["D_out"] | None,
    output: Tile["N", "D_out"],
    x_scale: float,
    w_scale: Tile["D_out"],
    output_scale: float = 1.0,
) -> None:
    """x·weightᵀ in int32, times x_scale and the scale of each output, plus bias.

    An int8 output is divided by ``output_scale``, rounded half to even and saturated; others take no such scale.
    """
    ctx = tile.context()
    bm, bn, bk = ctx.block_m, ctx.block_n, ctx.block_k
    for i in tile.grid(0, ctx.N, bm):
        for o in tile.grid(0, ctx.D_out, bn):
            acc = tile.zeros((bm, bn), tessera.int32)
            for k in tile.range(0, ctx.D_in, bk):
                acc = tile.mma(x[i : i + bm, k : k + bk], tile.transpose(weight[o : o + bn, k : k + bk]), acc)
            y = tile.cast(acc, f32) * x_scale * tile.load(w_scale[o : o + bn])
            if bias is not None:
                y = y + tile.load(bias[o : o + bn])
            if output.dtype == int8:
                y = tile.cast(tile.clamp(tile.round(y / output_scale), -128.0, 127.0), int8)
            tile.store(output[i : i + bm, o : o + bn], y)


@tessera.kernel
def sparse_embedding_kernel(
    indices: Tile["N", tessera.integer],
    block_data: Tile["N_blocks", "block_size", "block_size"],
    block_indices: Tile["N_blocks", tessera.integer],
    block_ptr: Tile["V/block_size+1", tessera.integer],
    block_scales: Tile["N_blocks"],
    output: Tile["N", "D"],
) -> None:
    """Rows of a table that is stored in square blocks: those of block row r are ``block_ptr[r]`` to the next.

    Block p stands in block column ``block_indices[p]`` and is multiplied by ``block_scales[p]``; elsewhere is 0.
    """
    ctx = tile.context()
    size = ctx.block_size
    for n in tile.thread_range(ctx.N):
        at = indices[n]
        row = tile.zeros(ctx.D)
        for p in tile.range(block_ptr[at // size], block_ptr[at // size + 1]):
            column = block_indices[p] * size
            part = tile.load(block_data[p, at % size], dtype=f32) * tile.load(block_scales[p])
            tile.copy(part, row[column : column + size])
        tile.store(output[n], row)


def _row_loss(logits: Any, target: Any, columns: Any, block: Any) -> Any:
    """log Σ exp z - z[target] of one row, whose maximum and sum are carried from block to block."""
    top, total = tile.full((), -math.inf), tile.zeros(())
    for c in tile.range(0, columns, block):
        z = tile.mask_cols(_wide(tile.load(logits[c : c + block])), c, columns)
        new = tile.maximum(top, tile.reduce_max(z))
        safe = tile.where(new == -math.inf, 0.0, new)
        total = total * tile.exp(top - safe) + tile.reduce_sum(tile.exp(z - safe))
        top = tile.cast(new, f32)
    return tile.log(total) + top - _wide(tile.load(logits[target]))


@tessera.kernel
def stable_cross_entropy_kernel(
    logits: Tile["N", "V"],
    targets: Tile["N", tessera.integer],
    loss: Tile["N", f32],
    vocab_size: int | None = None,
    ignore_index: int = -100,
) -> None:
    """log Σ exp(z) - z[target] of each row, over blocks of the row; 0 where the target is ``ignore_index``.

    Columns from ``vocab_size`` on are no classes. Source: Milakov and Gimelshein 2018, arXiv:1805.02867.
    """
    ctx = tile.context()
    columns = ctx.V if vocab_size is None else vocab_size
    assert columns <= ctx.V, "there are no more classes than columns"
    for n in tile.grid(ctx.N):
        target = targets[n]
        if target == ignore_index:
            loss[n] = 0.0
            continue
        loss[n] = _row_loss(logits[n], target, columns, ctx.block_n)


@tessera.kernel
def fused_softmax_cross_entropy_kernel(
    logits: Tile["B", "C"], targets: Tile["B", tessera.integer], loss: Tile["B", f32], num_classes: int | None = None
) -> None:
    """log Σ exp(z) - z[target] of each row, in one pass over it; columns from ``num_classes`` on are no classes."""
    ctx = tile.context()
    columns = ctx.C if num_classes is None else num_classes
    assert columns <= ctx.C, "there are no more classes than columns"
    for n in tile.grid(ctx.B):
        loss[n] = _row_loss(logits[n], targets[n], columns, ctx.block_n)


@tessera.kernel
def flash_attention_kernel(
    Q: Tile["B*H", "S", "D"],
    K: Tile["B*H", "T", "D"],
    V: Tile["B*H", "T", "D"],
    O: Tile["B*H", "S", "D"],  # noqa: E741 - as in the formula
    mask: Tile["S", "T"] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_seed: Tile["1", int64] | None = None,
    lse: Tile["B*H", "S", f32] | None = None,
) -> None:
    """softmax(scale·Q·Kᵀ + mask)·V, over blocks of keys; a query with nothing to attend gives 0.

    A bool mask says what may be attended, another is added. With ``is_causal`` the last query sees every key. ``scale``
    is 1/√D unless given. With a ``dropout_seed`` each weight is left out with the probability ``dropout_p``, in [0, 1],
    and the others are divided by 1 - ``dropout_p``, after what they add up to is known. The seed and the position of a
    weight among these dims say whether it is: parts of tensors with more dims in front lose the same ones. With
    ``lse=True``, log Σ exp of what the softmax is taken of comes second, -inf where there is nothing to attend.
    Source: Dao et al. 2022, arXiv:2205.14135.
    """
    ctx = tile.context()
    bm, bn = ctx.block_m, ctx.block_n
    factor = tile.rsqrt(tile.cast(ctx.D, _sum_of(Q))) if scale is None else scale
    shift = ctx.T - ctx.S
    for b in tile.grid(ctx.BH):
        for i in tile.grid(0, ctx.S, bm):
            q = tile.load(Q[b, i : i + bm])
            kind = _sum_of(Q)
            top, total, acc = tile.full(bm, -math.inf, kind), tile.zeros(bm, kind), tile.zeros((bm, ctx.D), kind)
            for j in tile.range(0, ctx.T, bn):
                if is_causal and j >= i + bm + shift:
                    break
                scores = tile.mma(q, tile.transpose(K[b, j : j + bn])) * factor
                if mask is not None:
                    seen = tile.load(mask[i : i + bm, j : j + bn])
                    scores = tile.where(seen, scores, -math.inf) if mask.dtype == tessera.bool_ else scores + seen
                scores = tile.mask_cols(scores, j, ctx.T)
                if is_causal:
                    tile.apply_causal_mask(scores, i, j, shift)
                new = tile.maximum(top, tile.max(scores, axis=1))
                safe = tile.where(new == -math.inf, 0.0, new)
                p = tile.exp(scores - tile.broadcast(safe, axis=1))
                keep = tile.exp(top - safe)
                total = total * keep + tile.sum(p, axis=1)
                if dropout_seed is not None:
                    p = tile.dropout(p, dropout_p, dropout_seed[0], (b, i, j))
                acc = tile.mma(p, V[b, j : j + bn], acc * tile.broadcast(keep, axis=1))
                top = new
            if lse is not None:
                tile.store(lse[b, i : i + bm], top + tile.log(total))
            total = tile.where(total == 0.0, 1.0, total)
            tile.store(O[b, i : i + bm], acc / tile.broadcast(total, axis=1))


@tessera.kernel.fused
def fused_attention_block_kernel(
    x: Tile["B*S", "D"],
    norm_weight: Tile["D"],
    W_qkv: Tile["D", "D+2*D_kv"],
    W_out: Tile["D", "D"],
    rope_cos: Tile["S", "D_head/2"],
    rope_sin: Tile["S", "D_head/2"],
    output: Tile["B*S", "D"],
    mask: Tile["S", "S"] | None = None,
    eps: float = 1e-6,
    is_causal: bool = True,
) -> None:
    """x + attention(q, k, v)·W_out, where q, k and v are the parts of rms_norm(x)·W_qkv, in heads of twice the width of
    the tables, by which queries and keys are rotated.

    There may be fewer heads of keys and values; ``mask`` is as that of ``flash_attention_kernel``.
    """
    ctx = tile.context()
    width = ctx.D_head
    heads, few = (ctx.B, ctx.S, ctx.D // width, width), (ctx.B, ctx.S, ctx.D_kv // width, width)
    rows = tile.load(x)
    qkv = tile.mma(tile.rms_norm(rows, eps, tile.load(norm_weight)), W_qkv)
    keys, values = ctx.D, ctx.D + ctx.D_kv
    cos, sin = tile.load_broadcast(rope_cos), tile.load_broadcast(rope_sin)
    q = tile.apply_rope(tile.reshape(qkv[:, :keys], heads), cos, sin)
    k = tile.apply_rope(tile.reshape(qkv[:, keys:values], few), cos, sin)
    v = tile.reshape(qkv[:, values:], few)
    allowed = None if mask is None else tile.load(mask)
    o = tile.flash_attention(q, k, v, causal=is_causal, mask=allowed)
    tile.store(output, rows + tile.mma(tile.reshape(o, (ctx.BS, ctx.D)), W_out))


@tessera.kernel.fused
def fused_mlp_block_kernel(
    x: Tile["B*S", "D"],
    norm_weight: Tile["D"],
    W_gate: Tile["D", "D_ff"],
    W_up: Tile["D", "D_ff"],
    W_down: Tile["D_ff", "D"],
    output: Tile["B*S", "D"],
    eps: float = 1e-6,
) -> None:
    """x + (swish(h·W_gate)·(h·W_up))·W_down, where h is rms_norm(x)."""
    rows = tile.load(x)
    h = tile.rms_norm(rows, eps, tile.load(norm_weight))
    tile.store(output, rows + tile.mma(tile.swish(tile.mma(h, W_gate)) * tile.mma(h, W_up), W_down))


__all__ = [
    "casted_embedding_kernel", "flash_attention_kernel", "fused_attention_block_kernel", "fused_mlp_block_kernel",
    "fused_softmax_cross_entropy_kernel", "int8_linear_kernel",
    "rms_norm_kernel", "rotary_embedding_kernel", "sparse_embedding_kernel", "stable_cross_entropy_kernel",
    "swiglu_fused_kernel",
]  # fmt: skip
