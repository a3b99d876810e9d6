"""Functions that write to their arguments, and those that take many tensors for one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessera
from tessera import DTypeError, Flat, ResourceError, ShapeError, Tensor, TraceError


@tessera.function(updates=("p", "m"))
def descend(p: Flat["N"], g: Flat["N"], m: Flat["N"], rate: float) -> Tensor[()]:
    norm = tessera.sqrt(tessera.sum(g * g))
    m.lerp_(g * tessera.minimum(1.0 / (norm + 1e-6), 1.0), 0.1)
    p -= rate * m
    return norm


@tessera.function(updates="p")
def shift(p: Tensor["N"], q: Tensor["N"]) -> Tensor["N"]:
    p[1:] += q[:-1]
    return p


@tessera.function(updates=("p", "q"))
def swap(p: Tensor["N"], q: Tensor["N"]) -> None:
    before = p.clone()
    p.copy_(q)
    q.copy_(before)


@tessera.function(updates="p")
def mirrored(p: Flat["N"], q: Flat["N"]) -> Tensor[()]:
    p += p.flip(0) + q
    return tessera.sum(p)


def lists(*shapes: tuple[int, ...], count: int = 3, dtype: torch.dtype = torch.float32) -> list[list[torch.Tensor]]:
    torch.manual_seed(0)
    return [[torch.randn(s, dtype=dtype) for s in shapes] for _ in range(count)]


SHAPES = ((100, 33), (7,), (1,), (300, 70), (5000,), (0,), (16,), ())


def both(f: Any, *args: Any, close: float = 1e-5) -> tuple[Any, Any]:
    """The function on the arguments, and its Python code on copies: results are equal, and so are the arguments."""
    copies = [[x.clone() for x in a] if isinstance(a, list) else a.clone() if hasattr(a, "clone") else a for a in args]
    found, wanted = f(*args), f.eager(*copies)
    for a, b in zip(args, copies, strict=True):
        if isinstance(a, float):
            continue
        for x, y in zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]:
            torch.testing.assert_close(x, y, rtol=close, atol=close)
    if found is not None:
        torch.testing.assert_close(found, wanted, rtol=close, atol=close)
    return found, wanted


def test_lists_are_walked_in_one_kernel_without_a_copy() -> None:
    args = lists(*SHAPES)
    for _ in range(3):
        both(descend, *args, 0.1)
    program = descend.resolve(*args, 0.1).variant.program
    assert len(program.steps) == 1 and not program.joined and not program.copied
    assert descend.cache_info().eager == 0


def test_cuts_are_no_part_of_what_is_compiled() -> None:
    both(descend, *lists((40,), (3, 5)), 0.1)
    made = descend.cache_info().variants
    both(descend, *lists((9, 9), (1,), (200,)), 0.1)
    both(descend, *lists((55,)), 0.1)
    assert descend.cache_info().variants == made


def test_one_tensor_of_rank_one_is_taken_too() -> None:
    (p, g, m) = lists((50,), (3, 5))
    both(descend, p, torch.cat([x.reshape(-1) for x in g]), m, 0.1)


def test_other_orders_of_reading_are_joined_first() -> None:
    args = lists((3,), (2, 2), (40, 30), count=2)
    both(mirrored, *args)
    program = mirrored.resolve(*args).variant.program
    assert program.joined == {"p"} and len(program.copied) == 1
    assert "join   p" in str(mirrored.explain()) and "copy   to p" in str(mirrored.explain())


def test_the_argument_itself_is_returned() -> None:
    p, q = torch.arange(5.0), torch.ones(5)
    assert shift(p, q) is p
    assert p.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0]


def test_arguments_may_change_places() -> None:
    both(swap, torch.arange(5.0), torch.ones(5))


def test_a_copy_of_what_was_is_not_overwritten() -> None:
    @tessera.function(updates="p")
    def replaced(p: Tensor["N"]) -> tuple[Tensor["N"], Tensor["N"]]:
        before = p.clone()
        p.mul_(2.0)
        return before, p.clone()

    p = torch.arange(4.0)
    before, after = replaced(p)
    assert before.tolist() == [0.0, 1.0, 2.0, 3.0] and p.tolist() == after.tolist() == [0.0, 2.0, 4.0, 6.0]
    p.zero_()
    assert after.tolist() == [0.0, 2.0, 4.0, 6.0]


def test_a_matrix_is_updated_row_by_row() -> None:
    @tessera.function(updates="x")
    def softmax_(x: Tensor["B", "D"]) -> None:
        x.copy_(tessera.softmax(x, dim=-1))

    x = torch.randn(300, 70)
    both(softmax_, x)
    (kernel,) = softmax_.resolve(x).variant.program.kernels
    assert len(kernel.updates) == 1


def test_what_reads_other_elements_than_it_writes_is_copied() -> None:
    @tessera.function(updates="x")
    def turned(x: Tensor["D", "D"]) -> None:
        x.copy_(x.T + 1.0)

    x = torch.randn(90, 90)
    both(turned, x)
    assert len(turned.resolve(x).variant.program.copied) == 1


def test_tensors_that_are_not_dense_are_written_to() -> None:
    @tessera.function(updates="x")
    def double(x: Tensor["A", "B"]) -> None:
        x.mul_(2.0)

    whole = torch.randn(20, 30)
    wanted = whole.clone()
    wanted[:, ::2] *= 2
    double(whole[:, ::2])
    assert torch.equal(whole, wanted)
    both(double, torch.randn(5, 6).t())


def test_pieces_that_are_not_dense_are_written_to() -> None:
    p, g, m = lists((6, 4), (5,), (3, 3))
    p[0], m[2] = torch.randn(4, 6).t(), torch.randn(3, 6)[:, ::2]
    both(descend, p, g, m, 0.1)


def test_pieces_that_are_not_dense_take_what_another_argument_is() -> None:
    @tessera.function(updates=("p", "m"))
    def taken(p: Flat["N"], g: Flat["N"], m: Flat["N"]) -> None:
        m.copy_(g)
        p += g

    p, g, m = lists((6, 4), (5,))
    p[0], m[0] = torch.randn(4, 6).t(), torch.randn(4, 6).t()
    both(taken, p, g, m)


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, 1e-12), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)], ids=str
)
def test_dtypes(dtype: torch.dtype, close: float) -> None:
    both(descend, *lists((300, 70), (5,), dtype=dtype), 0.1, close=close)


def test_torch_sees_the_change() -> None:
    p, q = torch.ones(4), torch.ones(4)
    version = p._version
    shift(p, q)
    assert p._version > version
    leaf = torch.ones(4, requires_grad=True)
    saved = leaf * p  # keeps p for the backward pass
    shift(p, q)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


def test_a_parameter_is_refused_while_gradients_are_recorded() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(RuntimeError, match="leaf Variable"):
        shift(p, torch.ones(4))
    with torch.no_grad():
        assert shift(p, torch.ones(4)) is p
    parts = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(3))]
    given = [[torch.ones(2, 2), torch.ones(3)] for _ in range(2)]
    with pytest.raises(RuntimeError, match="leaf Variable"):
        descend(parts, *given, 0.1)


def test_gradients_flow_to_lists_that_are_only_read() -> None:
    @tessera.function
    def squared(g: Flat["N"]) -> Tensor[()]:
        return tessera.sum(g * g)

    parts = [torch.ones(2, 2, requires_grad=True), torch.ones(3, requires_grad=True)]
    squared(parts).backward()
    assert parts[0].grad is not None and parts[0].grad.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_without_a_backend_the_lists_are_joined() -> None:
    with tessera.backend("eager"):
        args = lists(*SHAPES)
        both(descend, *args, 0.1)


def test_inside_of_another_function_updates_stay_in_it() -> None:
    @tessera.function
    def outer(x: Tensor["N"]) -> Tensor["N"]:
        y = x + 0.0
        shift(y, x)
        return y

    x = torch.arange(4.0)
    assert outer(x).tolist() == [0.0, 1.0, 3.0, 5.0] and x.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_compare_leaves_its_arguments_alone() -> None:
    args = lists((40, 30), (5,))
    before = [x.clone() for a in args for x in a]
    found = tessera.compare(descend, *args, 0.1)
    assert all(torch.equal(x, y) for x, y in zip((x for a in args for x in a), before, strict=True))
    assert len(found.outputs) == 3 and all(o.fused < 1e-6 for o in found.outputs)


def test_cost_counts_no_memory_for_updates() -> None:
    sizes = {"N": 1 << 20}
    args = lists((1 << 10,))
    cost = descend.cost(*args, 0.1)
    assert cost.fused.peak.evaluate(sizes) < cost.fused.peak.evaluate({"N": 0}) + 13 * sizes["N"]


# ---- refusals ------------------------------------------------------------------------------------------


def code(call: Any, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(getattr(caught.value, "code", ""))


def test_shared_memory_is_refused() -> None:
    p, g, m = lists((6,), (5,))
    assert code(lambda: descend(p, p, m, 0.1), TraceError) == "TSR0417"
    assert code(lambda: descend([p[0], p[0]], [p[0] + 1, m[0]], [g[0], g[0] + 1], 0.1), TraceError) == "TSR0417"
    whole = torch.randn(12)
    assert code(lambda: shift(whole[:8], whole[4:]), TraceError) == "TSR0417"
    assert code(lambda: shift(torch.ones(1).expand(5), torch.ones(5)), TraceError) == "TSR0417"
    descend(p, [g[0], g[1]], m, 0.1)
    shift(whole[:6], whole[6:])


def test_what_is_only_read_may_be_shared() -> None:
    p, g, _ = lists((6,), (6,))

    @tessera.function(updates="p")
    def mixed(p: Flat["N"], a: Flat["N"], b: Flat["N"]) -> None:
        p += a * b

    mixed(p, g, g)
    mixed(p, [g[0], g[0]], g)


def test_lists_cut_otherwise_are_refused() -> None:
    p, g, m = lists((6,), (5,))
    assert code(lambda: descend(p, g[::-1], m, 0.1), ShapeError) == "TSR0107"
    assert code(lambda: descend(p, g[:1], m, 0.1), ShapeError) == "TSR0107"


def test_lists_of_other_things_are_refused() -> None:
    p, g, m = lists((6,), (5,))
    assert code(lambda: descend([], g, m, 0.1), ShapeError) == "TSR0105"
    assert code(lambda: descend([p[0], 3.0], g, m, 0.1), TraceError) == "TSR0109"
    assert code(lambda: descend([p[0], p[1].double()], g, m, 0.1), DTypeError) == "TSR0108"
    sparse = [torch.eye(2, 3).to_sparse(), torch.ones(5)]
    assert code(lambda: descend(sparse, g, m, 0.1), ResourceError) == "TSR0604"
    freed = [p[0].clone(), p[1]]
    freed[0].untyped_storage().resize_(0)
    assert code(lambda: descend(p, freed, m, 0.1), ResourceError) == "TSR0604"


def test_declarations_that_mean_nothing_are_refused() -> None:
    def plain(x: Tensor["N"], n: float) -> Tensor["N"]:
        return x * n

    assert code(lambda: tessera.function(updates="y")(plain), TraceError) == "TSR0409"
    assert code(lambda: tessera.function(updates=("n",))(plain), TraceError) == "TSR0409"


def test_an_undeclared_update_is_still_an_error() -> None:
    with pytest.raises(TraceError, match="update of argument `q`"):

        @tessera.function(updates="p")
        def wrong(p: Tensor["N"], q: Tensor["N"]) -> None:
            p += q
            q += p


def test_an_update_keeps_sizes_and_dtype() -> None:
    with pytest.raises(ShapeError):

        @tessera.function(updates="p")
        def wider(p: Tensor["N"], q: Tensor["M", "N"]) -> None:
            p += q

    with pytest.raises(DTypeError):

        @tessera.function(updates="p")
        def cast(p: Tensor["N", tessera.int32], q: Tensor["N", tessera.f32]) -> None:
            p += q


def test_a_flat_annotation_has_one_size() -> None:
    assert str(Flat["N", tessera.f32]) == 'Flat["N", f32]'
    for items in (("B", "N"), "...", ()):
        assert code(lambda items=items: Flat[items], ShapeError) == "TSR0104"
