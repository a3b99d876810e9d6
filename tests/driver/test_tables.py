"""Steps that run from one table, out of one block: many threads, calls within calls, errors in the middle, layouts."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor
from tessera.driver.variant import Variant
from tessera.runtime.bound import Bound
from tessera.runtime.dispatch import CallStep, Given, Plan, bind
from tessera.runtime.place import Place
from tessera.runtime.product import product
from tessera.runtime.rows import Opaque, Row

F32 = torch.float32


@tessera.function
def mlp(x: Tensor["B", "S", "D"], up: Tensor["D", "H"], down: Tensor["H", "D"]) -> Tensor["B", "S", "D"]:
    y = tessera.gelu(x @ up)
    return x + tessera.softmax(y @ down, -1)


def arguments(b: int, s: int, seed: int, learn: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((b, s, 24), (24, 40), (40, 24))
    return [torch.randn(shape, generator=generator).requires_grad_(learn) for shape in shapes]


def bound(f: Any, *args: Any) -> Bound:
    """The steps of the variant that serves a call."""
    f(*args)
    variant: Variant = f.compiled.all()[-1]
    names = zip(variant.traced.function.params, args, strict=True)
    sizes = {str(d): n for p, x in names for d, n in zip(p.type.dims, x.shape, strict=True)}
    plan: Any = variant.plan()
    return Bound(plan, sizes)


def test_products_and_kernels_are_rows_of_one_table() -> None:
    found = bound(heads, torch.randn(2, 3, 4, 5), torch.randn(20, 6))
    assert len(found.steps) > 3 and all(isinstance(step, Row) for step in found.steps)


def test_lowering_says_what_is_entered_at_once() -> None:
    runs = heads.lower(torch.randn(2, 3, 4, 5), torch.randn(20, 6)).runs
    assert runs[0].startswith("table: ") and "matmul" in runs[0]
    assert runs[-1].startswith("block: ") and len(runs) == 2


def test_two_threads_in_one_function() -> None:
    cases = [arguments(2, 5, n) for n in range(4)]
    wanted = [mlp.eager(*args) for args in cases]
    wrong: list[int] = []

    def work(first: int) -> None:
        for n in range(first, first + 40):
            found = mlp(*cases[n % 4])
            if not torch.allclose(found, wanted[n % 4], atol=1e-5):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_second_call_leaves_what_the_first_saved() -> None:
    first, second = arguments(2, 5, 0, learn=True), arguments(2, 5, 1, learn=True)
    y, z = mlp(*first), mlp(*second)
    y.square().sum().backward()
    z.square().sum().backward()
    for args in (first, second):
        wanted = torch.autograd.grad(mlp.eager(*args).square().sum(), args)
        for x, g in zip(args, wanted, strict=True):
            assert x.grad is not None and torch.allclose(x.grad, g, atol=1e-4)


def test_results_have_memory_of_their_own() -> None:
    args = arguments(2, 5, 0)
    one, two = mlp(*args), mlp(*args)
    assert one.untyped_storage().nbytes() == one.numel() * 4
    kept = two.clone()
    one.zero_()
    mlp(*arguments(2, 5, 3))
    assert torch.equal(two, kept)


@tessera.function
def looked_up(x: Tensor["S", "D"], w: Tensor["D", "D"], at: Tensor["N", tessera.int64]) -> Tensor["N", "D"]:
    y = tessera.softmax(x @ w, -1)
    return tessera.softmax(y @ w, -1)[at] @ w


def test_an_error_in_the_middle_names_its_row_and_frees_all() -> None:
    x, w = torch.randn(300, 300), torch.randn(300, 300)
    assert torch.allclose(looked_up(x, w, torch.tensor([1, 2])), looked_up.eager(x, w, torch.tensor([1, 2])), atol=1e-4)
    gc.collect()
    before = tessera.memory_stats()["in_use"]
    with pytest.raises(tessera.BoundsError, match="index 300"):
        looked_up(x, w, torch.tensor([1, 300]))
    gc.collect()
    assert tessera.memory_stats()["in_use"] == before


def test_a_hook_that_calls_the_function_again() -> None:
    args = arguments(2, 5, 0, learn=True)
    seen: list[torch.Tensor] = []
    y = mlp(*args)
    y.register_hook(lambda g: seen.append(mlp(*(x.detach() for x in args))))
    y.sum().backward()
    wanted = torch.autograd.grad(mlp.eager(*args).sum(), args)
    assert torch.allclose(seen[0], y.detach())
    assert all(x.grad is not None and torch.allclose(x.grad, g, atol=1e-4) for x, g in zip(args, wanted, strict=True))


@tessera.function
def heads(x: Tensor["B", "S", "H", "D"], w: Tensor["H * D", "K"]) -> Tensor["B", "H", "S * K"]:
    b, s, h, d = x.shape
    y = tessera.exp(x).transpose(1, 2)
    z = y.transpose(1, 2).reshape(b, s, h * d) @ w
    return (tessera.sum(y, -1, keepdim=True) + z[:, None]).reshape(b, h, s * w.shape[1])


def test_views_are_no_steps_and_those_that_copy_are_rows() -> None:
    args = torch.randn(2, 3, 4, 5), torch.randn(20, 6)
    found = bound(heads, *args)
    assert not any(isinstance(step, Opaque) and step.step.view for step in found.steps)
    assert torch.allclose(heads(*args), heads.eager(*args), atol=1e-4)


def test_a_view_that_copies_has_its_own_shape() -> None:
    step = CallStep(lambda _: lambda xs, numbers: (xs[0].reshape(3, 8),), (0,), (1,), view=True)
    given = Given((lambda _: 4, lambda _: 3, lambda _: 2), F32, (lambda _: 2, lambda _: 8, lambda _: 1))
    plan = Plan(1, 2, (), (step,), (1,), given=(given,), library=bound(mlp, *arguments(2, 3, 0)).plan.library)
    x = torch.randn(3, 4, 2).transpose(0, 1)
    assert isinstance(Bound(plan, {}).steps[0], Row)
    (found,) = bind(plan, {})([x], ())
    assert torch.equal(found, x.reshape(3, 8))


def test_what_one_block_would_take_more_memory_for_is_allocated_step_by_step() -> None:
    @tessera.function
    def chain(x: Tensor["S", "S"]) -> tuple[Tensor["S", "S"], Tensor["S", "S"]]:
        y = tessera.softmax(tessera.softmax(tessera.softmax(x @ x, -1) @ x, -1) @ x, -1)
        z = tessera.sum(y, 0, keepdim=True) + x
        return z, tessera.softmax(z @ x, -1)

    x = torch.randn(520, 520)
    found = bound(chain, x)
    held = found.memory()
    if held.late:
        assert all(slot not in held.offsets for slot in held.late)
    for y, z in zip(chain(x), chain.eager(x), strict=True):
        assert torch.allclose(y, z, atol=1e-4)


EQUATIONS = [
    "ik,kj->ij", "ki,kj->ij", "ik,jk->ij", "ki,jk->ji", "bik,bkj->bij", "bik,bkj->ibj", "bhik,bhkj->bhij",
    "bik,kj->bij", "bki,bkj->ij", "ik,k->i", "k,kj->j", "bshk,bshj->bhkj",
]  # fmt: skip


@pytest.mark.parametrize("equation", EQUATIONS)
def test_a_blas_computes_what_lies_there(equation: str) -> None:
    sizes = dict(zip("ijkbhs", (3, 4, 5, 2, 6, 7), strict=True))
    a, b, wanted, rows = _multiplied(equation, sizes)
    assert rows == 1
    assert torch.allclose(a, b, atol=1e-4) and a.shape == wanted


@pytest.mark.parametrize("sizes", [(1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 5), (3, 1, 1), (1, 1, 1)])
def test_factors_of_one_row_or_column(sizes: tuple[int, int, int]) -> None:
    found, wanted, _, rows = _multiplied("bik,bkj->bij", {"b": 2, **dict(zip("ijk", sizes, strict=True))})
    assert torch.allclose(found, wanted, atol=1e-5) and rows == (sizes[:2] != (1, 1))


def _multiplied(equation: str, sizes: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...], int]:
    """A contraction as a plan of one step, what torch makes of it, the shape, and how many rows the plan has."""
    left, right, result = letters = tuple(equation.replace("->", ",").split(","))
    a, b = (torch.randn([sizes[c] for c in part], dtype=torch.float64) for part in (left, right))
    library = bound(mlp, *arguments(2, 3, 0)).plan.library
    given = tuple(Given(tuple(lambda _, n=n: n for n in x.shape), x.dtype) for x in (a, b))
    step = CallStep(lambda _: lambda xs, numbers: (torch.einsum(equation, *xs),), (0, 1), (2,), letters=letters)
    plan = Plan(2, 3, (), (step,), (2,), given=given, library=library)
    rows = sum(isinstance(made, Row) for made in Bound(plan, {}).steps)
    (found,) = bind(plan, {})([a, b], ())
    return found, torch.einsum(equation, a, b), tuple(sizes[c] for c in result), rows


def test_what_no_call_of_a_blas_says() -> None:
    a, b = Place.dense(0, (3, 5), F32), Place.dense(1, (5, 4), F32)
    into = Place.dense(2, (3, 4), F32)
    assert product(("ik", "kj", "ij"), a, b, into) is not None
    spread = Place(0, 0, (3, 5), (20, 2), F32)
    assert product(("ik", "kj", "ij"), spread, b, into) is None
    stretched = Place(0, 0, (3, 5), (0, 1), F32)
    assert product(("ik", "kj", "ij"), stretched, b, into) is None
    assert product(("ik", "kj", "i"), a, b, Place.dense(2, (3,), F32)) is None


def test_nothing_of_a_call_stays() -> None:
    args = arguments(2, 5, 0, learn=True)
    y = mlp(*args)
    y.sum().backward()
    gone = weakref.ref(y)
    del y
    gc.collect()
    assert gone() is None


def test_a_block_without_a_byte() -> None:
    @tessera.function
    def both(x: Tensor["N", "K"], w: Tensor["K", "M"]) -> tuple[Tensor["N", "M"], Tensor[()]]:
        return torch.relu(x) @ w, torch.tanh(x * 2).sum()

    for rows in (0, 3):
        x, w = torch.randn(rows, 4), torch.randn(4, 3)
        for ours, eager in zip(both(x, w), (torch.relu(x) @ w, torch.tanh(x * 2).sum()), strict=True):
            torch.testing.assert_close(ours, eager)
