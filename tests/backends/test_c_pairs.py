"""Sums of products in bf16 that take two summed points at a time: their text, their values, and what is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor, bf16, int8, int32
from tessera.backends.base import Target
from tessera.backends.c import backend, intrinsics
from tessera.backends.c.host import host_target
from tessera.driver import variant
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.passes.base import run_pipeline
from tessera.passes.pipeline import PIPELINE
from tessera.schedule.schedule import schedule
from tests.ops.compare import difference

Run = Callable[..., torch.Tensor]
AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")


def linear(x: Tensor["M", "K", bf16], w: Tensor["N", "K", bf16], b: Tensor["N", bf16]) -> Tensor["M", "N", bf16]:
    return F.gelu(x @ w.T + b)


def plain(x: Tensor["M", "K", bf16], w: Tensor["K", "N", bf16], r: Tensor["M", "N", bf16]) -> Tensor["M", "N", bf16]:
    return r + F.relu(x @ w)


def gated(x: Tensor["M", "K", bf16], w: Tensor["N", "K", bf16], u: Tensor["N", "K", bf16]) -> Tensor["M", "N", bf16]:
    return F.silu(F.linear(x, w)) * F.linear(x, u)


def batched(
    x: Tensor["G", "M", "K", bf16], w: Tensor["G", "K", "N", bf16], b: Tensor["N", bf16]
) -> Tensor["G", "M", "N", bf16]:
    return torch.tanh(x @ w + b)


def attention(
    q: Tensor["G", "M", "K", bf16], k: Tensor["G", "N", "K", bf16], v: Tensor["G", "N", "E", bf16]
) -> Tensor["G", "M", "E", bf16]:
    return torch.softmax(q @ k.mT / 8, -1) @ v


def small_codes(x: Tensor["M", "K", bf16], w: Tensor["N", "K", int8], b: Tensor["N", bf16]) -> Tensor["M", "N", bf16]:
    return F.relu(F.linear(x, w.bfloat16(), b))


def coded_rows(x: Tensor["M", "K", int8], w: Tensor["N", "K", bf16], b: Tensor["N", bf16]) -> Tensor["M", "N", bf16]:
    return F.relu(F.linear(x.bfloat16(), w, b))


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def codes(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


#: (M, K, N): blocks, pieces, pairs, rows and vectors that are begun, full, or one more; primes; one of each.
SIZES = [(2, 1, 3), (7, 2, 17), (9, 127, 33), (13, 129, 31), (131, 257, 35), (515, 64, 40), (3, 34, 1), (1, 5, 7)]

MAKE: dict[Any, Callable[[int, int, int], tuple[torch.Tensor, ...]]] = {
    linear: lambda m, k, n: (random(1, m, k), random(2, n, k), random(3, n)),
    plain: lambda m, k, n: (random(1, m, k), random(2, k, n), random(3, m, n)),
    gated: lambda m, k, n: (random(1, m, k), random(2, n, k), random(3, n, k)),
    batched: lambda m, k, n: (random(1, 3, m, k), random(2, 3, k, n), random(3, n)),
    attention: lambda m, k, n: (random(1, 2, m, k), random(2, 2, n, k), random(3, 2, n, 8)),
    small_codes: lambda m, k, n: (random(1, m, k), codes(2, n, k), random(3, n)),
    coded_rows: lambda m, k, n: (codes(1, m, k), random(2, n, k), random(3, n)),
}
EACH = [pytest.param(f, make, id=f.__name__) for f, make in MAKE.items()]
#: Each with as many lanes as the instruction has, and some with fewer, where a pair is two products.
NARROWER = [(f, MAKE[f], lanes) for f in (linear, plain) for lanes in (4, 8)]


def compiled(f: Run, monkeypatch: pytest.MonkeyPatch, lanes: int, pairs: bool) -> Any:
    """The function for a processor with so many lanes, with or without products of pairs."""
    monkeypatch.setattr(backend, "natural_lanes", lambda features: lanes)
    monkeypatch.setattr(backend, "has_pairs", lambda features, lanes: pairs)
    monkeypatch.setattr(variant, "library_dtypes", lambda: ())
    return tessera.function(f)


def double(f: Run, args: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What the function means: nothing is rounded, and casts to a narrow float are none."""
    wide = [x.double() for x in args]
    return F.relu(F.linear(*wide)) if f in (small_codes, coded_rows) else f(*wide)


@pytest.mark.parametrize(("f", "make", "lanes"), [*((f, make, 16) for f, make in MAKE.items()), *NARROWER])
def test_values(
    f: Run, make: Callable[[int, int, int], tuple[torch.Tensor, ...]], lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = compiled(f, monkeypatch, lanes, pairs=True)
    for sizes in SIZES:
        args = make(*sizes)
        assert difference(run(*args), f(*args), double(f, args)) is None, sizes
    (kernel,) = run.lower(*args).kernels
    assert "t_dot_pair_bf16(" in str(kernel.source)


@pytest.mark.parametrize(("f", "make"), EACH)
def test_without_the_instruction_products_are_widened(
    f: Run, make: Callable[[int, int, int], tuple[torch.Tensor, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, args = compiled(f, monkeypatch, 16, pairs=False), make(19, 37, 35)
    assert difference(run(*args), f(*args), double(f, args)) is None
    (kernel,) = run.lower(*args).kernels
    assert "t_dot_pair_bf16(" not in str(kernel.source) and "t_fma_f32(" in str(kernel.source)


def test_the_features_of_the_target_decide() -> None:
    function = tessera.function(linear)
    args = MAKE[linear](2, 3, 4)
    kernels = schedule(parse(fused(function, args))).kernels
    for features, paired in ((AVX512, False), ((*AVX512, "avx512_bf16"), True), (("avx2", "avx512_bf16"), False)):
        text = backend.emit(kernels, Target("cpu", "x86_64", features)).text
        assert ("t_dot_pair_bf16(" in text) is paired
        assert ("vdpbf16ps" in text) is paired


def fused(function: Any, args: tuple[torch.Tensor, ...]) -> str:
    found = list(run_pipeline(parse(function.ir("traced", *args)), PIPELINE, verify).values())[-1]
    return print_function(found)


@pytest.mark.parametrize(("pairs", "nests"), [(False, 2), (True, 1)])
def test_a_single_row_takes_pairs_as_well(pairs: bool, nests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run, args = compiled(linear, monkeypatch, 16, pairs), MAKE[linear](1, 40, 600)
    (kernel,) = run.lower(*args).kernels
    assert str(kernel.source).count("omp parallel") == nests
    assert difference(run(*args), linear(*args), double(linear, args)) is None


@pytest.mark.parametrize("halves", ["bf16", "i16"])
def test_the_dot_product_is_never_a_call(halves: str) -> None:
    assert "noinline" not in intrinsics.library(f"t_dot_pair_{halves}(a, b, c);" * 99, 16)


def whole(x: Tensor["M", "K"], w: Tensor["N", "K"], s: Tensor["N"]) -> Tensor["M", "N"]:
    return (x.int() @ w.int().mT) * s


def crossed(x: Tensor["K", "M"], w: Tensor["K", "N"], s: Tensor["N"]) -> Tensor["M", "N"]:
    return (x.int().mT @ w.int()) * s


def integers(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Numbers of a dtype, its least and largest among them."""
    info = torch.iinfo(dtype)
    x = torch.randint(info.min, info.max + 1, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)
    x.view(-1)[:: 3], x.view(-1)[:: 7] = info.min, info.max
    return x


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("f", [whole, crossed], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("left", "right"),
    [(torch.int8, torch.int8), (torch.uint8, torch.int8), (torch.int16, torch.int16), (torch.int8, torch.int32)],
)
def test_integers_are_exact(
    f: Run, left: torch.dtype, right: torch.dtype, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modulo 2^32, as torch adds them up; the scale is a power of two. 32 bits are not halves of anything."""
    run = compiled(f, monkeypatch, lanes, pairs=False)
    for m, k, n in SIZES:
        shapes = ((m, k), (n, k)) if f is whole else ((k, m), (k, n))
        args = (integers(left, *shapes[0]), integers(right, *shapes[1]), torch.full((n,), 0.5))
        assert torch.equal(run(*args), f(*args)), (m, k, n)
    (kernel,) = run.lower(*args).kernels
    assert ("t_dot_pair_i16(" in str(kernel.source)) is (right is not torch.int32)


def test_products_of_integers_alone_are_kernels() -> None:
    @tessera.function
    def product(x: Tensor["M", "K", int8], w: Tensor["K", "N", int8]) -> Tensor["M", "N", int32]:
        return x.int() @ w.int()

    args = (codes(1, 9, 70), codes(2, 70, 33))
    assert torch.equal(product(*args), args[0].int() @ args[1].int())
    lowered = product.lower(*args)
    assert len(lowered.kernels) == 1 and not lowered.calls


@pytest.mark.parametrize("lanes", [16])
def test_what_varies_and_what_does_not(lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that lie apart, rows that are all the same, and an operand that does not lie along the summed axis."""
    run = compiled(linear, monkeypatch, lanes, pairs=True)
    _, w, b = MAKE[linear](21, 67, 41)
    for one in (random(5, 21, 135)[:, 1:68], random(6, 1, 67).expand(21, 67), random(7, 67, 21).T):
        for other in (w, random(8, 41, 200)[:, 3:70], random(9, 67, 41).T):
            assert difference(run(one, other, b), linear(one, other, b), double(linear, (one, other, b))) is None
            assert "t_dot_pair_bf16(" in str(run.lower(one, other, b).kernels[0].source)


@pytest.mark.parametrize("lanes", [16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_in_its_row_or_column(
    value: float, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = compiled(plain, monkeypatch, lanes, pairs=True)
    for k in (5, 6):  # the last of an odd number has no neighbour
        for at in range(k):
            x, w, r = MAKE[plain](12, k, 20)
            x[3, at], w[at, 17] = value, 0.0
            assert difference(run(x, w, r), plain(x, w, r), double(plain, (x, w, r))) is None
            x, w, r = MAKE[plain](12, k, 20)
            w[at, 7], x[2, at] = value, 0.0
            assert difference(run(x, w, r), plain(x, w, r), double(plain, (x, w, r))) is None


def test_denormal_terms_count_no_more_than_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The instruction takes denormals for zero: what is lost is less than the smallest normal number a term."""
    run = compiled(plain, monkeypatch, 16, pairs=intrinsics.has_pairs(host_target().features, 16))
    tiny = torch.finfo(torch.float32).tiny
    x, w, r = torch.full((4, 6), tiny / 4), torch.ones(6, 20), torch.zeros(4, 20)
    got = run(*(y.bfloat16() for y in (x, w, r)))
    assert float((got.double() - 6 * tiny / 4).abs().max()) <= 6 * tiny


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gelu_of_every_number(dtype: torch.dtype) -> None:
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(dtype)

    @tessera.function
    def gelu(x: Tensor["N"]) -> Tensor["N"]:
        return F.gelu(x)

    exact = x.double() / 2 * torch.special.erfc(-x.double() * 0.5**0.5)
    got, wanted = gelu(x), exact.to(dtype)
    finite, size = wanted.isfinite(), wanted.abs()
    step = torch.nextafter(size, torch.tensor(float("inf"), dtype=dtype)).double() - size.double()
    assert torch.equal(got[~finite].nan_to_num(9.0), wanted[~finite].nan_to_num(9.0))
    assert float(((got.double() - exact).abs() / step)[finite].max()) < 0.51


@pytest.mark.parametrize(("name", "below", "bound"), [("gelu", -14.3, 3.1), ("ndtr", -4.0, 20.0)])
def test_functions_of_the_normal_tail_keep_their_digits(name: str, below: float, bound: float) -> None:
    """To the last denormal number; the distribution function loses what rounding the square does to its exponential."""

    @tessera.function
    def tail(x: Tensor["N"]) -> Tensor["N"]:
        return F.gelu(x) if name == "gelu" else torch.special.ndtr(x)

    generator = torch.Generator().manual_seed(5)
    uniform = torch.rand(100_000, generator=generator, dtype=torch.float64) * (9.0 - below) + below
    tiny = torch.exp2(-60.0 * torch.rand(50_000, generator=generator, dtype=torch.float64))
    x = torch.cat([uniform, tiny, -tiny]).float()
    z = x.double()
    exact = torch.special.erfc(-z * 0.5**0.5) / 2 * (z if name == "gelu" else 1.0)
    step = torch.exp2(torch.floor(torch.log2(exact.abs().clamp(min=2.0**-126))) - 23)
    assert float(((tail(x).double() - exact).abs() / step).max()) <= bound
    edges = tail(torch.tensor([0.0, -0.0, float("inf"), -1e30, float("nan")])).tolist()
    wanted = [0.0, -0.0, float("inf"), -0.0] if name == "gelu" else [0.5, 0.5, 1.0, 0.0]
    assert [str(v) for v in edges[:4]] == [str(v) for v in wanted] or (name == "ndtr" and edges[:4] == wanted)
    assert edges[4] != edges[4]


@pytest.mark.parametrize("width", [3, 4])
@pytest.mark.parametrize("outputs", [1, 6, 19])
def test_rows_that_are_gathered_for_a_few_outputs(width: int, outputs: int) -> None:
    """Which lanes of the outputs are in use says nothing about the rows, which have lanes of their own."""

    @tessera.function
    def merged(x: Tensor["N", "H", "L", "D", bf16], w: Tensor["O", "H*D", bf16], b: Tensor["O", bf16]) -> Tensor:
        return F.gelu(F.linear(x.transpose(1, 2).flatten(2), w, b))

    torch.manual_seed(0)
    given = [torch.randn(s).bfloat16() for s in ((4, 2, 5, width), (outputs, 2 * width), (outputs,))]
    torch.testing.assert_close(merged(*given), merged.eager(*given), rtol=2e-2, atol=2e-2)
