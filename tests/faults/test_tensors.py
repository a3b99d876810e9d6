"""Calls with tensors of every awkward kind: what eager gives, or a typed error, never a wrong address."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tessera import BoundsError, ResourceError, ShapeError, Tensor, TesseraError

F = Callable[..., Any]


@tessera.function
def mixed(x: Tensor["N", "D"], w: Tensor["D"]) -> tuple[Tensor["N", "D"], Tensor["N"], Tensor["D"]]:
    """Elementwise work, a sum along rows and one down columns: every form of kernel."""
    y = x * w + 0.5
    return y, torch.exp(y).sum(dim=1), y.amax(dim=0)


@tessera.function
def norm(x: Tensor["N", "D"]) -> Tensor["N", "D"]:
    return x / (x * x).mean(dim=-1, keepdim=True).sqrt()


@tessera.function
def plus(x: Tensor["N", "D"], y: Tensor["N", "D"]) -> Tensor["N", "D"]:
    return x * 2 + y


def same(f: Any, *args: Any, eagerly: bool = False, exactly: bool = False) -> None:
    """Cold and warm calls give what eager gives, compiled unless ``eagerly``; the arguments are as they were."""
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    wanted = f.eager(*args)
    count = f.cache_info().eager
    for _ in range(2):
        found = f(*args)
        pairs = [(found, wanted)] if isinstance(found, torch.Tensor) else list(zip(found, wanted, strict=True))
        for a, b in pairs:
            torch.testing.assert_close(a, b, equal_nan=True, rtol=0 if exactly else None, atol=0 if exactly else None)
    assert (f.cache_info().eager > count) == eagerly
    for a, b in zip(args, before, strict=True):
        if isinstance(a, torch.Tensor):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 1), (1, 5), (5, 1), (2, 2), (7, 13)])
def test_small_sizes(n: int, d: int) -> None:
    same(mixed, torch.randn(n, d), torch.randn(d)) if n else same(norm, torch.randn(n, d), eagerly=True)


def test_reductions_of_nothing_are_those_of_torch() -> None:
    @tessera.function
    def total(x: Tensor["N", "D"]) -> tuple[Tensor["N"], Tensor["N"]]:
        return x.sum(dim=1), x.mean(dim=1)

    same(total, torch.randn(3, 0), eagerly=True)
    with pytest.raises((IndexError, RuntimeError, TesseraError)):
        mixed(torch.randn(0, 5), torch.randn(5))  # the largest of nothing


def test_sizes_follow_one_another_in_one_variant() -> None:
    for n, d in itertools.product((2, 3, 16, 33), (2, 15, 16, 64)):
        same(norm, torch.randn(n, d))
    assert norm.cache_info().variants <= 4


# -- strides and memory ------------------------------------------------------------------------------------------------


def views() -> dict[str, torch.Tensor]:
    base = torch.randn(64, 64)
    line = torch.randn(400)
    return {
        "transposed": base.T[:6, :9],
        "every third column": base[:6, ::3][:, :9],
        "every other row": base[::2][:6, :9],
        "offset of one element": base.view(-1)[1:55].view(6, 9),
        "rows repeated": torch.randn(1, 9).expand(6, 9),
        "columns repeated": torch.randn(6, 1).expand(6, 9),
        "one number": torch.randn(1, 1).expand(6, 9),
        "windows that overlap": line.as_strided((6, 9), (2, 1)),
        "columns that overlap": line.as_strided((6, 9), (1, 3)),
        "one row with any stride": line.as_strided((1, 9), (1234, 1)),
        "one column with any stride": line.as_strided((6, 1), (1, 77)),
        "channels last": torch.randn(1, 6, 3, 3).to(memory_format=torch.channels_last)[0].flatten(1),
        "flipped": base.flip(0)[:6, :9],
    }


@pytest.mark.parametrize("name", views())
def test_views(name: str) -> None:
    x = views()[name]
    same(mixed, x, torch.randn(x.shape[1]))
    same(norm, x)
    same(plus, x, torch.randn(x.shape))
    same(plus, torch.randn(x.shape), x)


def test_arguments_that_share_memory() -> None:
    line = torch.randn(100)
    same(plus, line[:54].view(6, 9), line[:54].view(6, 9))
    same(plus, line[:54].view(6, 9), line[3:57].view(6, 9))
    x = torch.randn(6, 9)
    same(plus, x, x)


def test_results_have_memory_of_their_own() -> None:
    """Also where they equal an argument or one another."""

    @tessera.function
    def pairs(x: Tensor["N"]) -> tuple[Tensor["N"], Tensor["N"]]:
        y = x + 1
        return y, y * 1

    x = torch.randn(300_000)
    a, b = pairs(x)
    assert len({t.untyped_storage().data_ptr() for t in (x, a, b)}) == 3
    kept = a.clone()
    b.zero_()
    pairs(torch.zeros(300_000))
    assert torch.equal(a, kept)

    @tessera.function
    def itself(x: Tensor["N", "D"]) -> tuple[Tensor["N", "D"], ...]:
        return x * 1, x, x.view(-1).view(x.shape), (x + 0.0) * 1.0, x.T.T * 1

    y = torch.randn(4, 5)
    places = [t.data_ptr() == y.data_ptr() for t in itself(y)]
    assert places == [t.data_ptr() == y.data_ptr() for t in itself.eager(y)] == [False, True, True, False, False]
    assert itself.cache_info().eager == 0


def test_writing_where_memory_overlaps_is_refused() -> None:
    @tessera.function
    def update(x: Tensor["N", "D"]) -> Tensor["N", "D"]:
        y = x.clone()
        y += 1
        return y

    same(update, torch.randn(6, 1).expand(6, 9))  # the copy has memory of its own

    with pytest.raises(TesseraError):

        @tessera.function
        def write(x: Tensor["N", "D"]) -> Tensor["N", "D"]:
            x += 1
            return x

        write(torch.randn(1, 9).expand(6, 9))


def test_tensors_without_memory() -> None:
    freed = torch.ones(6, 9)
    freed.untyped_storage().resize_(0)
    assert plus(torch.ones(0, 9), torch.ones(0, 9)).shape == (0, 9)
    meta = plus(torch.empty(6, 9, device="meta"), torch.empty(6, 9, device="meta"))
    assert meta.device.type == "meta" and meta.shape == (6, 9)
    x = torch.ones(6, 9)
    plus(x, x)
    for args in ((freed, x), (x, freed)):
        with pytest.raises(ResourceError, match="freed"):
            plus(*args)


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        x = torch.empty(6, 9)
        assert plus(x, x).shape == (6, 9)
    y = mode.from_tensor(torch.ones(6, 9))
    assert type(plus(y, y)) is type(y)


# -- kinds -------------------------------------------------------------------------------------------------------------


def test_views_with_a_pending_sign() -> None:
    z = torch.randn(6, 9, dtype=torch.complex64)
    x = z.conj().imag
    assert x.is_neg()
    same(norm, x, eagerly=True)
    same(plus, x, torch.randn(6, 9), eagerly=True)
    same(plus, torch.randn(6, 9), x, eagerly=True)
    same(plus, x.resolve_neg(), torch.randn(6, 9))


def test_complex_numbers_are_refused() -> None:
    z = torch.randn(6, 9, dtype=torch.complex64)
    for x in (z, z.conj()):
        with pytest.raises(TesseraError):
            norm(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(6).to_sparse(),
        lambda: torch.eye(6).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.eye(6), 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(6), torch.ones(6)]),
    ],
    ids=["sparse", "csr", "quantized", "nested"],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
def test_what_is_no_plain_array_is_refused(make: Callable[[], torch.Tensor]) -> None:
    with pytest.raises(TesseraError):
        norm(make())


def test_zero_tensors() -> None:
    same(norm, torch._efficientzerotensor((6, 9)), eagerly=True)


def test_subclasses_go_through_torch() -> None:
    class Logged(torch.Tensor):
        pass

    x = torch.randn(6, 9).as_subclass(Logged)
    assert type(norm(x)) is Logged
    assert norm.cache_info().eager > 0


def test_tensors_on_different_devices() -> None:
    with pytest.raises(ResourceError, match="`w` on meta") as refused:
        mixed(torch.ones(6, 9), torch.ones(9, device="meta"))
    assert refused.value.code == "TSR0603" and "`x` on cpu" in str(refused.value)


# -- numbers -----------------------------------------------------------------------------------------------------------

SPECIAL = torch.tensor([0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), 1e-42, -1e-42, 3e38, 1e-38])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_nan_infinity_and_denormals(dtype: torch.dtype) -> None:
    """Where eager has them, and nowhere else."""

    @tessera.function
    def special(x: Tensor["N", "D"], y: Tensor["N", "D"]) -> tuple[Tensor["N", "D"], ...]:
        return x + y, x * y, torch.relu(x), torch.maximum(x, y), torch.tanh(x), x.softmax(-1), torch.exp(x)

    x = SPECIAL.expand(10, 10).to(dtype)
    found, wanted = special(x, x.T), special.eager(x, x.T)
    assert special.cache_info().eager == 0
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.isinf(), b.isinf())


def test_denormals_are_kept() -> None:
    same(plus, torch.full((6, 9), 1e-42), torch.zeros(6, 9), exactly=True)
    assert (torch.full((1,), 1e-42) * 0.5).item() != 0  # torch's own mode is as it was


def test_an_index_out_of_range() -> None:
    @tessera.function
    def pick(table: Tensor["V", "D"], at: Tensor["N", tessera.int64]) -> Tensor["N", "D"]:
        return table[at] + 1

    table = torch.randn(7, 3)
    same(pick, table, torch.tensor([0, 6, -7]))
    for wrong in (7, -8, 1 << 40):
        with pytest.raises((BoundsError, IndexError)):
            pick(table, torch.tensor([0, wrong]))
    same(pick, table, torch.tensor([1]))


def test_results_too_large_to_exist() -> None:
    @tessera.function
    def outer(x: Tensor["N"], y: Tensor["M"]) -> Tensor["N", "M"]:
        return x[:, None] + y[None, :]

    wide = torch.ones(1).expand(1 << 33)
    with pytest.raises((ResourceError, RuntimeError, MemoryError)):
        outer(wide, wide)
    same(outer, torch.randn(3), torch.randn(4))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError):
        mixed(torch.ones(6, 9), torch.ones(8))


# -- modes of torch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("needed", [False, True])
@pytest.mark.parametrize("kind", [torch.Tensor, torch.nn.Parameter])
def test_modes_of_autograd(mode: str, needed: bool, kind: type) -> None:
    context = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}[mode]
    x = torch.randn(6, 9)
    if kind is torch.nn.Parameter:
        x = torch.nn.Parameter(x, requires_grad=needed)
    else:
        x.requires_grad_(needed)
    with context():
        y = norm(x)
        wanted = norm.eager(x)
    assert torch.allclose(y, wanted, atol=1e-6)
    assert y.requires_grad == wanted.requires_grad
    assert y.is_inference() == wanted.is_inference()


def test_inference_then_training() -> None:
    f = tessera.function(norm.fn)
    x = torch.randn(6, 9)
    with torch.inference_mode():
        f(x)
    p = torch.nn.Parameter(x.clone())
    f(p).sum().backward()
    with torch.no_grad():
        f(p)
    assert p.grad is not None and f.cache_info().variants == 1


def test_transformations_of_functions() -> None:
    x = torch.randn(4, 6, 9)
    found = torch.vmap(norm)(x)
    assert torch.allclose(found, torch.stack([norm.eager(v) for v in x]), atol=1e-6)
    gradient = torch.func.grad(lambda v: norm(v).sum())(x[0])
    assert torch.allclose(gradient, torch.func.grad(lambda v: norm.eager(v).sum())(x[0]))
    value, tangent = torch.func.jvp(norm, (x[0],), (torch.ones(6, 9),))
    wanted = torch.func.jvp(norm.eager, (x[0],), (torch.ones(6, 9),))
    assert torch.allclose(value, wanted[0]) and torch.allclose(tangent, wanted[1])


def test_forward_gradients() -> None:
    import torch.autograd.forward_ad as fwd

    with fwd.dual_level():
        x = fwd.make_dual(torch.randn(6, 9), torch.ones(6, 9))
        found, wanted = fwd.unpack_dual(norm(x)), fwd.unpack_dual(norm.eager(x))
    assert found.tangent is not None and torch.allclose(found.tangent, wanted.tangent)


def test_tracing_by_others() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.randn(6, 9)
    graph = make_fx(lambda v: norm(v) + 1)(x)
    other = torch.randn(6, 9)
    assert torch.allclose(graph(other), norm.eager(other) + 1, atol=1e-6)


def test_autocast_is_followed() -> None:
    """Compiled before or under autocast: products are in bf16 there, and only there."""

    @tessera.function
    def product(x: Tensor["N", "D"], w: Tensor["D", "H"]) -> Tensor["N", "H"]:
        return x @ w + 1

    x, w = torch.randn(16, 32), torch.randn(32, 8)
    want = product(x, w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cold = tessera.function(product.fn)(x, w)
        warm = product(x, w)
        narrow = product.eager(x, w)
    assert cold.dtype == warm.dtype == narrow.dtype == torch.bfloat16
    assert torch.equal(cold, warm) and torch.equal(product(x, w), want)
