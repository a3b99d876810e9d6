"""Kernels as C: the same as in the interpreter, whatever the block sizes, and to the bit on any number of threads."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import tessera
from tessera import BoundsError, ShapeError
from tessera.ir.dialects.block import PART
from tessera.ir.graph import walk
from tessera.ops import kernels as K
from tessera.schedule.block_sizes import default_blocks
from tests.kernels import bugs, programs
from tests.kernels import test_language as language
from tests.kernels.given import f, ints
from tests.kernels.native import agrees, built, native, prepared
from tests.kernels.test_models import BOUNDS, attention, blocks

# -- the kernels of models


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (31, 7), (33, 65), (2, 3, 16)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for rows in (1, 5, 16):
        agrees(K.rms_norm_kernel.configure(block_m=rows), (f(*shape) * 3).to(dtype), f(shape[-1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 1, 2), (5, 3, 8), (33, 2, 6)])
def test_rotary_embedding(sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    s, h, d = sizes
    x, angle = f(2, s, h, d).to(dtype), f(s, d // 2) * 3
    agrees(K.rotary_embedding_kernel.configure(block_m=4), x, angle.cos(), angle.sin())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_casted_embedding(dtype: torch.dtype) -> None:
    agrees(K.casted_embedding_kernel, ints(0, 10, 3, 3), f(11, 7).to(dtype), torch.empty(4, 7), scale=0.5)
    agrees(K.casted_embedding_kernel, ints(), f(11, 7).to(dtype), torch.empty(0, 7), scale=0.5)


@pytest.mark.parametrize("at", [11, -1, 2**31 - 1, -(2**31)])
def test_a_row_outside_of_its_table(at: int) -> None:
    with pytest.raises(BoundsError) as caught:
        native(K.casted_embedding_kernel, ints(0, at), f(11, 7), torch.empty(2, 7), scale=1.0)
    assert caught.value.code == "TSR0605"
    assert "embeddings[indices[n]]" in str(caught.value)
    far = torch.tensor([2**63 - 1, -(2**63)])
    with pytest.raises(BoundsError):
        native(K.casted_embedding_kernel, far, f(11, 7), torch.empty(2, 7), scale=1.0)


@pytest.mark.parametrize("size", [1, 4])
def test_sparse_embedding(size: int) -> None:
    _, stored = blocks(12, 16, size)
    agrees(K.sparse_embedding_kernel, ints(0, 11, 5, 5, 7), *stored, torch.empty(5, 16))


@pytest.mark.parametrize(("sizes", "block"), [((1, 1, 1), 1), ((5, 40, 37), 5), ((33, 7, 64), 64)])
def test_int8_linear(sizes: tuple[int, int, int], block: int) -> None:
    n, k, o = sizes
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-128, 128, shape, dtype=torch.int8, generator=g) for shape in ((n, k), (o, k)))
    scale, bias = torch.rand(o, generator=g), torch.randn(o, generator=g)
    kernel = K.int8_linear_kernel.configure(block_m=block, block_n=16, block_k=block)
    agrees(kernel, x, w, None, torch.empty(n, o), 0.01, scale)
    agrees(kernel, x, w, bias, torch.empty(n, o, dtype=torch.bfloat16), 0.01, scale, rtol=2**-7)
    agrees(kernel, x, w, bias, torch.empty(n, o, dtype=torch.int8), 0.01, scale, 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (5, 31), (3, 33), (2, 4, 70)])
def test_cross_entropy(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    z = (f(*shape) * 20).to(dtype)
    target = torch.arange(z[..., 0].numel(), dtype=torch.int32).reshape(shape[:-1]) % shape[-1]
    for block in (1, 5, 64):
        agrees(K.stable_cross_entropy_kernel.configure(block_n=block), z, target)
    agrees(K.fused_softmax_cross_entropy_kernel, z, target)


def test_cross_entropy_at_its_edges() -> None:
    z = f(4, 10)
    z[0, 3], z[1, :] = -torch.inf, 0.0
    z[2, 1], z[3, 0] = torch.nan, 300.0
    agrees(K.stable_cross_entropy_kernel, z, ints(3, -100, 0, 5))
    agrees(K.stable_cross_entropy_kernel, z[3:], ints(5), vocab_size=7)
    with pytest.raises(BoundsError):
        native(K.fused_softmax_cross_entropy_kernel, z, ints(0, 1, 2, 10))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 33, 7), (33, 16, 37)])
@pytest.mark.parametrize("block", [(5, 3, 2), (16, 16, 16), (64, 128, 32)])
def test_swiglu(sizes: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    s, d, hidden = sizes
    kernel = K.swiglu_fused_kernel.configure(block_m=block[0], block_n=block[1], block_k=block[2])
    given = f(s, d), f(d, hidden) / d**0.5, f(d, hidden).flip(0) / d**0.5, f(hidden, d) / hidden**0.5
    agrees(kernel, *given, beta=1.5)
    if block[0] > 5:
        agrees(kernel, *(t.bfloat16() for t in given), rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("block", "sizes"), [((16, 16), (1, 1, 4)), ((5, 7), (7, 16, 8)), ((32, 64), (33, 65, 16)), ((16, 1), (0, 3, 4))]
)
def test_flash_attention(block: tuple[int, int], sizes: tuple[int, int, int]) -> None:
    s, t, d = sizes
    kernel = K.flash_attention_kernel.configure(block_m=block[0], block_n=block[1])
    q, k, v = f(2, s, d), f(2, t, d).flip(1), f(2, t, d) + 1
    allowed, bias = f(s, t) > 0, f(s, t)
    for given in (
        {}, {"mask": allowed}, {"mask": bias, "scale": 0.0}, {"is_causal": True}, {"is_causal": True, "mask": allowed},
        {"dropout_p": 0.5, "dropout_seed": torch.tensor([7])},
    ):  # fmt: skip
        agrees(kernel, q, k, v, **given)
    agrees(kernel, *(x.bfloat16() for x in (q, k, v)), rtol=0.03, atol=0.02)


def test_flash_attention_over_many_blocks() -> None:
    q, k, v = f(3, 200, 32), f(3, 200, 32).flip(1), f(3, 200, 32) + 1
    kernel = K.flash_attention_kernel.configure(block_m=32, block_n=16)
    found = native(kernel, q, k, v, is_causal=True)["O"]
    causal = torch.ones(200, 200, dtype=torch.bool).tril()
    torch.testing.assert_close(found.double(), attention(q, k, v, causal, None, 32**-0.5), rtol=1e-5, atol=1e-5)
    agrees(kernel, q, k, v, is_causal=True)


# -- the language


@pytest.mark.parametrize(
    ("kernel", "args"),
    [
        (language.add.configure(block_m=5), (f(3, 33), f(3, 33) * 2)),
        (language.add, (f(6, 4).T, f(4, 6))),
        (language.prefix, (f(5, 3),)),
        (language.prefix, (f(2, 0, 3),)),
        (language.first_above, (f(7, 11) * 4, 0.5, torch.zeros(7, dtype=torch.int64))),
        (language.masked, (f(3, 4), torch.zeros(3), f(3, 4) > 0, True)),
        (language.cube, (f(7).double(),)),
        (language.per_head, (f(4, 3, 5),)),
        (language.total_of_segments, (ints(0, 2, 2, 6), f(6), torch.zeros(3))),
        (language.staged, (f(2, 5, 3),)),
        (language.reversed_rows, (f(3, 4),)),
        (language.doubled_in_place, (f(4),)),
        (language.narrow, (torch.tensor([1.00390625, 300.7, -300.0, float("nan"), -1.9]),)),
        (language.matmul.configure(block_m=16, block_n=8, block_k=4), (f(40, 16), f(16, 35))),
        (language.matmul, (f(4, 4), f(4, 4).half(), torch.zeros(4, 4))),
        (language.scaled, (f(2, 4, 3, 5), f(3))),
        (language.scaled_in_f32, (f(3, 5), f(3).bfloat16())),
        (language.dropped.configure(block_m=7), (torch.ones(50, 40), 0.25, 7)),
    ],
)
def test_the_language(kernel: Any, args: tuple[Any, ...]) -> None:
    agrees(kernel, *args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int8, torch.bool])
def test_columns(dtype: torch.dtype) -> None:
    agrees(programs.columns, (f(6, 5) * 3).to(dtype))
    agrees(programs.columns_out, (f(6, 5) * 3).to(dtype))


@pytest.mark.parametrize("block", [(1, 1), (2, 3), (4, 8), (16, 16)])
def test_tiles(block: tuple[int, int]) -> None:
    """Windows that are not dense are read where they lie, but for the last ones."""
    kernel = programs.tiles.configure(block_m=block[0], block_n=block[1])
    for x in (f(8, 16), f(2, 7, 9), f(5, 9).bfloat16()):
        agrees(kernel, x)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_carries_that_change_places(n: int) -> None:
    agrees(programs.swap, f(5), n)
    agrees(programs.counts, f(3), n=n)


@pytest.mark.parametrize("sizes", [(5, 7, 6), (1, 7, 1), (3, 0, 4)])
def test_products_of_integers(sizes: tuple[int, int, int]) -> None:
    m, k, n = sizes
    agrees(programs.int_gemm, torch.arange(m * k).reshape(m, k) - 9, torch.arange(k * n).reshape(k, n) - 7)


@pytest.mark.parametrize(
    ("kernel", "args"),
    [
        (programs.signed, (f(9),)),
        (programs.signed_mask, (f(9),)),
        (programs.two_outputs.configure(block_m=3), (f(7, 5), *torch.zeros(2, 7, 5), torch.zeros(7).bfloat16())),
        (programs.nested, (f(3, 5, 4), torch.zeros(3))),
        (programs.chosen, (f(2, 4, 3), ints(0, 1, 2, 3))),
        (programs.grid_in_loop, (f(4, 300),)),
        (programs.other_fill.configure(block_n=4), (f(4, 30) - 5, torch.zeros(4))),
        (programs.other_fill.configure(block_n=7), (f(4, 30).bfloat16() - 5, torch.zeros(4).bfloat16())),
        (programs.vecs, (f(9), f(9, 5))),
        (programs.vecs, (f(1).double(), f(1, 1).double())),
        (programs.histogram, (ints(0, 1, 1, 3), torch.zeros(5))),
        (programs.shared_tiles, (f(2, 8, 3),)),
        (programs.passes_through, (f(7).bfloat16(),)),
        (programs.triangle, (f(9, 9),)),
        (programs.bools, (f(9) > 0,)),
        (programs.searches, (ints(1, 3, 3, 7, 9), ints(0, 1, 3, 4, 9, 10), torch.zeros(6, dtype=torch.int64))),
        (programs.paged, (f(3, 4), f(5, 6, 4), ints(4, 0, 2), torch.zeros(3, 4))),
    ],
)
def test_programs(kernel: Any, args: tuple[Any, ...]) -> None:
    if kernel.fn.__name__ == "two_outputs":
        args = (args[0], args[1], args[2][:, 0].contiguous(), args[3])
    agrees(kernel, *args)


# -- what goes wrong, and what is made


OUTSIDE = {name: given for name, given in bugs.RUN.items() if "TSR0605" in inspect.getsource(given[0])}


@pytest.mark.parametrize("name", OUTSIDE)
def test_out_of_bounds(name: str) -> None:
    fn, args = OUTSIDE[name]
    with pytest.raises(BoundsError) as caught:
        native(tessera.kernel(fn), *args)
    line = next(s for s in inspect.getsource(fn).splitlines() if "# bug:" in s)
    assert caught.value.spans[0].text() in line.partition("#")[0]


def test_divisions_by_nothing() -> None:
    given = (ints(0), f(1, 1, 1), ints(0), ints(0, 1), f(1), torch.zeros(1, 1))
    program, _, sizes = prepared(K.sparse_embedding_kernel, given, {})
    tensors = {name: torch.zeros(4) for name in program.params}
    with pytest.raises(ZeroDivisionError):
        built(program).run(tensors, {}, {**sizes, "block_size": 0})


def test_steps_below_one() -> None:
    program, _, sizes = prepared(language.add, (f(3), f(3)), {})
    with pytest.raises(ShapeError) as caught:
        built(program).run({name: f(3) for name in program.params}, {}, {**sizes, "block_m": 0})
    assert caught.value.code == "TSR0106"


def test_the_loop_of_attention_is_three_kernels() -> None:
    q = f(1, 8, 4)
    program, _, _ = prepared(K.flash_attention_kernel, (q, q, q), {})
    kernel = built(program)
    loop = next(op for op in walk(kernel.function.body) if op.name == "loop")
    assert loop.body is not None
    (part,) = (op for op in loop.body.ops if op.record is PART)
    assert [k.form for k in kernel.parts[part].kernels] == ["stream", "row", "stream"]
    assert kernel.source.count("#pragma omp") == 1


@pytest.mark.parametrize(
    ("kernel", "sizes", "wanted"),
    [
        (K.flash_attention_kernel, {"B": 1, "H": 8, "S": 1024, "T": 1024, "D": 64}, {"block_m": 128, "block_n": 64}),
        (K.flash_attention_kernel, {"B": 1, "H": 8, "S": 7, "T": 0, "D": 64}, {"block_m": 8, "block_n": 1}),
        (K.rms_norm_kernel, {"S": 4096, "D": 1024}, {"block_m": 8}),
        (K.rms_norm_kernel, {"S": 4096, "D": 1 << 20}, {"block_m": 1}),
    ],
)
def test_default_blocks(kernel: Any, sizes: dict[str, int], wanted: dict[str, int]) -> None:
    program = kernel.checked[-1]  # nothing optional is given
    assert default_blocks(program.function, sizes, program.blocks) == wanted
