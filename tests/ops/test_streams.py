"""Contractions with what surrounds them, in one kernel: its extent, its rounding, odd sizes and contents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import tessera
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.schedule.plan import Kernel
from tessera.schedule.schedule import schedule
from tests.fuzz.programs import run_program
from tests.ops import stream_programs as programs
from tests.ops.compare import difference
from tests.ops.stream_programs import PROGRAMS, Draw, cast, results

#: Calls that move nothing, or only what the kernel gave.
VIEWS = {"permute", "reshape", "squeeze", "unsqueeze"}
#: Kernels of programs that have more than one: what folds over both axes, or has no contraction behind it.
FORMS = {programs.best: ["row", "stream"], programs.mean_loss: ["row", "stream", "row"]}


def named(found: Any) -> str:
    return str(found.__name__) if hasattr(found, "__name__") else str(found)


EACH = [pytest.param(f, make, id=f.__name__) for f, make in PROGRAMS.items()]


def arguments(make: Callable[[Draw], tuple[Any, ...]], dtype: torch.dtype = torch.float32, **sizes: int) -> Any:
    return cast(make(Draw(**sizes)), dtype)


def close(got: Any, exact: Any, dtype: torch.dtype = torch.float32) -> None:
    """NaN and infinite where float64 is, and near it elsewhere."""
    bound = 16 * torch.finfo(dtype).eps
    for g, x in zip(results(got), results(exact), strict=True):
        assert g.shape == x.shape
        size = max(1.0, float(x.double().nan_to_num(0.0, 0.0, 0.0).abs().max())) if x.numel() else 1.0
        torch.testing.assert_close(g.double(), x.double(), rtol=bound, atol=bound * size, equal_nan=True)


@pytest.mark.parametrize(("f", "make"), EACH)
def test_one_kernel(f: Any, make: Callable[[Draw], tuple[Any, ...]]) -> None:
    lowered = f.lower(*arguments(make))
    assert [k.form for k in lowered.kernels] == FORMS.get(f, ["stream"])
    assert set(lowered.calls) <= VIEWS


@pytest.mark.parametrize(("f", "make"), EACH)
def test_error_is_no_larger_than_eager(f: Any, make: Callable[[Draw], tuple[Any, ...]]) -> None:
    accurate(f, arguments(make))


#: Programs that differ in what is between the contractions.
VARIED = [programs.full, programs.alibi, programs.causal_bias, programs.guarded, programs.deferred, programs.mlp]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("f", VARIED, ids=named)
def test_error_in_other_dtypes(f: Any, dtype: torch.dtype) -> None:
    accurate(f, arguments(PROGRAMS[f], dtype))


def accurate(f: Any, args: tuple[Any, ...]) -> None:
    got, eager, exact = f(*args), f.eager(*args), f.eager(*cast(args, torch.float64))
    for g, e, x in zip(results(got), results(eager), results(exact), strict=True):
        if g.dtype is torch.float64:
            torch.testing.assert_close(g, x, rtol=1e-13, atol=1e-14)
        else:
            assert difference(g, e, x) is None


@pytest.mark.parametrize(("f", "make"), EACH)
def test_the_tile_form_computes_the_same(f: Any, make: Callable[[Draw], tuple[Any, ...]]) -> None:
    args = arguments(make, torch.float64, H=2, S=9, T=11, D=3, E=4)
    fused = parse(f.ir("fuse", *args))
    verify(fused)
    program = schedule(fused)
    for kernel in program.kernels:
        verify(kernel.function)
        assert parse(print_function(kernel.function)) == kernel.function
    inputs = [x.numpy() for x in args if isinstance(x, torch.Tensor)]
    names = {"G": 2} if f in (programs.grouped_repeated, programs.grouped_expanded) else {}
    want = [x.numpy() for x in results(f.eager(*args))]
    for found in (interpret(fused, inputs, sizes=names), run_program(program, inputs, sizes_of(fused, inputs, names))):
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def sizes_of(f: Any, inputs: list[Any], names: dict[str, int]) -> dict[str, int]:
    """What the sizes in the shapes of the parameters are."""
    known = dict(names)
    for p, x in zip(f.params, inputs, strict=True):
        for d, n in zip(getattr(p.type, "dims", ()), np.shape(x), strict=True):
            known.setdefault(str(d), n)
    return {name: n for name, n in known.items() if name.isidentifier()}


@pytest.mark.parametrize(("f", "make"), EACH)
def test_nothing_as_large_as_the_scores_is_stored(f: Any, make: Callable[[Draw], tuple[Any, ...]]) -> None:
    args = arguments(make)
    fused = parse(f.ir("fuse", *args))
    kernels = [s for s in schedule(fused).steps if isinstance(s, Kernel)]
    assert all(len(v.type.dims) < 2 for k in kernels for v in k.temps)  # parts of sums over all rows have one dim
    assert [op.name for op in fused.ops if op.name != "extern"] == FORMS.get(f, ["stream"])


# -- sizes and layouts

#: (S, T, D, E): each of the sizes where blocks, vectors and rows of registers begin or end, at least once.
SIZES = [
    (0, 9, 4, 4), (1, 127, 1, 8), (7, 128, 8, 1), (37, 129, 80, 96), (129, 1, 96, 80), (129, 257, 16, 16), (1, 1, 1, 1),
    (37, 127, 128, 7), (7, 129, 256, 256), (16, 384, 5, 17), (33, 65, 3, 2),
]  # fmt: skip
SIZED = [programs.full, programs.causal, programs.bottom_right, programs.with_lse, programs.alibi, programs.guarded,
         programs.prefix, programs.bool_mask, programs.grouped_repeated, programs.mlp, programs.best]  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("f", SIZED, ids=named)
def test_sizes(f: Any, sizes: tuple[int, int, int, int]) -> None:
    args = arguments(PROGRAMS[f], B=1, H=2, **dict(zip("STDE", sizes, strict=True)))
    close(f(*args), f.eager(*cast(args, torch.float64)))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("f", [programs.window, programs.document, programs.linear_attention], ids=named)
def test_sizes_of_square_scores(f: Any, sizes: tuple[int, int, int, int]) -> None:
    args = arguments(PROGRAMS[f], B=2, H=1, **dict(zip("STDE", sizes, strict=True)))
    close(f(*args), f.eager(*cast(args, torch.float64)))


@pytest.mark.parametrize("f", [programs.full, programs.causal, programs.with_lse, programs.alibi], ids=named)
def test_no_keys(f: Any) -> None:
    args = arguments(PROGRAMS[f], T=0, S=7)
    close(f(*args), f.eager(*args))
    first = results(f(*args))[0]
    assert first.shape == (2, 3, 7, 24) and not first.any()


@pytest.mark.parametrize("sizes", [{"B": 0}, {"H": 0}, {"E": 0}, {"D": 0}, {"S": 0, "T": 0}], ids=str)
def test_nothing_at_all(sizes: dict[str, int]) -> None:
    args = arguments(PROGRAMS[programs.causal], **sizes)
    close(programs.causal(*args), programs.causal.eager(*args))


#: Sizes S, T, D, E of which some are 1; batch dims are combined with the first two, in a nightly run with all.
ONES = [(1, 9, 1, 1), (7, 1, 5, 4), (7, 9, 5, 1), (7, 9, 1, 4), (1, 9, 5, 4), (1, 1, 1, 1)]


def sizes_of_one() -> Iterator[Any]:
    for lead in ((), (2,), (1, 3)):
        yield pytest.param(lead, ONES[:2] if lead else ONES, id=f"{lead}")
        if lead:
            yield pytest.param(lead, ONES[2:], id=f"{lead}, more", marks=pytest.mark.nightly)


@pytest.mark.parametrize(("lead", "sizes"), tuple(sizes_of_one()))
def test_a_constant_size_of_one_or_more(lead: tuple[int, ...], sizes: list[tuple[int, int, int, int]]) -> None:
    """Where shapes are constants, dims of size 1 are no loops."""

    def attention(q, k, v):  # type: ignore[no-untyped-def]
        return torch.softmax(q @ k.mT, -1) @ v

    fused = tessera.function(attention)
    for s, t, d, e in sizes:
        q, k, v = torch.randn(*lead, s, d), torch.randn(*lead, t, d), torch.randn(*lead, t, e)
        close(fused(q, k, v), attention(q.double(), k.double(), v.double()))


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "heads inside": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
    "every second row": lambda x: torch.stack([x, -x], -2).flatten(-3, -2)[..., ::2, :],
    "one row": lambda x: x[..., :1, :].expand(x.shape),
    "one element": lambda x: x[..., :1].expand(x.shape),
    "one head": lambda x: x[:, :1].expand(x.shape),
    "a part": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[..., 1:-4, 3:-2],
}


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout: Callable[[torch.Tensor], torch.Tensor], which: tuple[int, ...]) -> None:
    args = list(arguments(PROGRAMS[programs.causal], S=37, T=131))
    for n in which:
        args[n] = layout(args[n])
    close(programs.causal(*args), programs.causal.eager(*cast(tuple(args), torch.float64)))


def attention(q, k, v):  # type: ignore[no-untyped-def]
    return torch.softmax(q @ k.mT * 0.3, -1) @ v


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 1, 3), (2, 2, 1, 3)], ids=str)
def test_ranks(lead: tuple[int, ...]) -> None:
    q, k, v = torch.randn(*lead, 37, 8), torch.randn(*lead, 41, 8), torch.randn(*lead, 41, 5)
    fused = tessera.function(attention)
    close(fused(q, k, v), attention(q.double(), k.double(), v.double()))
    assert [kernel.form for kernel in fused.lower(q, k, v).kernels] == ["stream"]


def test_dims_that_only_some_operands_have() -> None:
    fused = tessera.function(attention)
    for lead in (((2, 3), (3,), (1,)), ((3,), (2, 3), (2, 1)), ((), (3,), (2, 3)), ((2, 1), (1, 3), ())):
        q, k, v = (torch.randn(*a, n, d) for a, n, d in zip(lead, (7, 9, 9), (4, 4, 5), strict=True))
        close(fused(q, k, v), attention(q.double(), k.double(), v.double()))


def test_a_single_query() -> None:
    def single(q, k, v):  # type: ignore[no-untyped-def]
        return torch.softmax(k @ q, -1) @ v

    q, k, v = torch.randn(8), torch.randn(131, 8), torch.randn(131, 5)
    close(tessera.function(single)(q, k, v), single(q.double(), k.double(), v.double()))
    close(tessera.function(attention)(q[None], k, v), attention(q[None].double(), k.double(), v.double()))
