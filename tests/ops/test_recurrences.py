"""Recurrences are one kernel, compute what the loop computes, and round no more than that."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor, ops
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.schedule.schedule import schedule
from tests.fuzz.programs import run_program
from tests.ops.recurrences import PROGRAMS, SIZES, arguments

#: One element, no step, one past a vector and past four, wide and narrow.
OTHER_SIZES = (
    {"B": 1, "H": 1, "S": 1, "D": 1, "E": 1, "C": 1, "N": 1},
    {"B": 1, "H": 2, "S": 0, "D": 3, "E": 5, "C": 4, "N": 3},
    {"B": 3, "H": 1, "S": 7, "D": 64, "E": 65, "C": 17, "N": 5},
    {"B": 2, "H": 1, "S": 3, "D": 5, "E": 7, "C": 67, "N": 70},
    {"B": 17, "H": 1, "S": 4, "D": 2, "E": 3, "C": 66, "N": 16},
)


def leaves(x: Any) -> list[torch.Tensor]:
    return [x] if isinstance(x, torch.Tensor) else [leaf for part in x for leaf in leaves(part)]


def relative(x: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((x.double() - wanted).norm() / wanted.double().norm().clamp_min(1e-30))


def check(name: str, args: list[torch.Tensor]) -> None:
    """Values, shapes and dtypes of eager, and an error against float64 that is not larger."""
    plain = PROGRAMS[name][0]
    function = tessera.function(plain)
    found, eager = leaves(function(*args)), leaves(function.eager(*args))
    wide = leaves(plain(*(x.double() if x.is_floating_point() else x for x in args)))
    # Calls without a single element to compute are left to torch.
    assert function.cache_info().eager == (0 in args[0].shape)
    for one, other, wanted in zip(found, eager, wide, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if not one.is_floating_point():
            assert torch.equal(one, other)
        elif wanted.numel():
            # Of few numbers the error is a matter of luck: a few roundings are granted to them.
            assert relative(one, wanted) <= max(1.05 * relative(other, wanted), 2e-7)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    check(name, arguments(name))
    function = tessera.function(PROGRAMS[name][0])
    lowered = function.lower(*arguments(name))
    assert [k.form for k in lowered.kernels].count("recurrence") == 1
    assert set(lowered.calls) <= {"permute"}  # a view of the result


@pytest.mark.parametrize("sizes", OTHER_SIZES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_of_other_sizes(name: str, sizes: dict[str, int]) -> None:
    check(name, arguments(name, sizes))


@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels_in_float64(name: str) -> None:
    """The tile program is valid, reads back, and the interpreter finds no race in it and the right values."""
    args = arguments(name)
    f = parse(tessera.function(PROGRAMS[name][0]).ir("fuse", *args))
    program = schedule(f)
    for kernel in program.kernels:
        verify(kernel.function)
        assert parse(print_function(kernel.function)) == kernel.function
    inputs = [x.double().numpy() if x.is_floating_point() else x.numpy() for x in args]
    found, wanted = run_program(program, inputs, SIZES), interpret(f, inputs, sizes=SIZES)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["linear", "gated_delta", "selective", "average"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    args = [x.to(dtype) for x in arguments(name)]
    plain = PROGRAMS[name][0]
    wide = leaves(plain(*(x.double() for x in args)))
    function = tessera.function(plain)
    eager = leaves(plain(*args))
    for one, other, wanted in zip(leaves(function(*args)), eager, wide, strict=True):
        assert one.dtype is other.dtype
        assert relative(one, wanted) <= max(1.05 * relative(other, wanted), 1e-15)


def test_strides_are_read_as_they_are() -> None:
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in arguments("linear"))
    found = tessera.function(PROGRAMS["linear"][0])(q, k, v)
    torch.testing.assert_close(found, PROGRAMS["linear"][0](q, k, v))


def test_what_is_no_number_spreads_as_in_the_loop() -> None:
    args = arguments("average")
    args[0][0, 3, 2], args[0][1, 5, 1] = float("nan"), float("inf")
    function = tessera.function(PROGRAMS["average"][0])
    for one, other in zip(leaves(function(*args)), leaves(function.eager(*args)), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_elementwise_work_on_what_is_walked_along_is_part_of_the_kernel() -> None:
    @tessera.function
    def f(x: Tensor["B", "S", "C"]) -> Any:
        return tessera.scan(lambda h, y: (h + y, h), torch.zeros(x.shape[0], x.shape[2]), x.tanh() * 2, dim=1)[1]

    assert len(f.lower(torch.randn(2, 3, 4)).kernels) == 1


def test_what_every_step_would_repeat_is_computed_once() -> None:
    args = arguments("selective")
    text = tessera.function(PROGRAMS["selective"][0]).ir("fuse", *args)
    before, _, inside = text.partition("scan(")
    assert before.count("exp(a)") == 1 and "exp(a)" not in inside


def test_a_step_with_a_library_call_is_a_loop() -> None:
    @tessera.function
    def f(x: Tensor["S", "N"]) -> Any:
        return tessera.scan(lambda h, y: (torch.sort(h + y)[0], h), torch.zeros(x.shape[1]), x)

    x = torch.randn(5, 7)
    lowered = f.lower(x)
    assert lowered.calls == ("scan",) and all(k.form == "map" for k in lowered.kernels)
    assert "`sort` is a call of its own in every step" in str(f.explain(x))
    for one, other in zip(leaves(f(x)), leaves(f.eager(x)), strict=True):
        torch.testing.assert_close(one, other)


def test_results_that_nobody_asks_for_are_not_stored() -> None:
    @tessera.function
    def f(x: Tensor["S", "C"]) -> Any:
        return tessera.scan(lambda h, y: (h + y, h * 2), torch.zeros(x.shape[1]), x)[0]

    x = torch.randn(9, 5)
    torch.testing.assert_close(f(x), x.sum(0))
    kernel = f.lower(x).kernels[0].ir
    assert (kernel if isinstance(kernel, str) else kernel()).count("out f32") == 1


ONES = {
    "sum": lambda c, x: (c * 0.5 + x, c.sum(-1)),
    "amax": lambda c, x: (c * 0.5 + x, c.amax(-1, keepdim=True)),
    "argmax": lambda c, x: (c * 0.5 + x, c.argmax(-1)),
    "softmax": lambda c, x: (c * 0.5 + x, torch.softmax(x, -1)),
    "product": lambda c, x: (torch.tanh(c @ c.mT @ c + x), c),
}


@pytest.mark.parametrize("name", ONES)
def test_folds_of_a_single_element(name: str) -> None:
    @tessera.function
    def f(x: Tensor["S", "B", 1]) -> Any:
        return tessera.scan(ONES[name], x[0], x)

    x = torch.randn(4, 3, 1)
    for one, other in zip(leaves(f(x)), leaves(f.eager(x)), strict=True):
        torch.testing.assert_close(one, other)
    assert len(f.lower(x).kernels) == 1


def test_what_steps_read_whole_is_made_once() -> None:
    """`a` is walked along through `b` and read whole: it stays outside, where it is computed once."""

    @tessera.function
    def f(w: Tensor["S", "C"]) -> Any:
        a = w.tanh()
        b = a * 2
        return tessera.scan(lambda h, y: (h + y * a[0], h), torch.zeros(w.shape[1]), b)

    w = torch.randn(4, 5)
    text = f.ir("fuse", w)
    assert text.index("tanh(") < text.index("recurrence(")
    for one, other in zip(leaves(f(w)), leaves(f.eager(w)), strict=True):
        torch.testing.assert_close(one, other)


def test_work_that_a_view_repeats_is_not_repeated() -> None:
    @tessera.function
    def f(w: Tensor["S", "C"], n: Tensor["N"]) -> Any:
        x = w.exp()[:, None].expand(w.shape[0], n.shape[0], w.shape[1])
        return tessera.scan(lambda h, y: (h + y, h), n[:, None] * torch.ones(w.shape[1]), x)

    text = f.ir("fuse", torch.randn(4, 5), torch.randn(3))
    assert text.index("exp(") < text.index("recurrence(")


def test_a_matrix_that_is_read_rolled() -> None:
    """Reads under many conditions, which are not written out for several vectors at once."""

    @tessera.function
    def f(g: Tensor["H", "W"], n: Tensor["S"]) -> Any:
        return tessera.scan(lambda g, _: (g * 0.5 + torch.roll(g, (1, -1), (0, 1)) * 0.1, None), g, n)[0]

    g, n = torch.randn(5, 19), torch.zeros(3)
    torch.testing.assert_close(f(g, n), f.eager(g, n))


# -- the operations -------------------------------------------------------------------------------


def naive(q: Any, k: Any, v: Any, g: Any, beta: Any, h: Any) -> tuple[Any, Any]:
    outputs = []
    for t in range(q.shape[2]):
        if g is not None:
            decay = g[:, :, t].exp()
            h = h * (decay[..., None] if decay.ndim == 3 else decay[..., None, None])
        new = v[:, :, t]
        if beta is not None:
            new = beta[:, :, t, None] * (new - torch.einsum("bhd,bhde->bhe", k[:, :, t], h))
        h = h + torch.einsum("bhd,bhe->bhde", k[:, :, t], new)
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, :, t] * q.shape[-1] ** -0.5, h))
    return torch.stack(outputs, 2), h


@pytest.mark.parametrize("gate", [None, 3, 4])
@pytest.mark.parametrize("corrects", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_operations(gate: int | None, corrects: bool, begun: bool) -> None:
    q, k, v, g = arguments("gated", {**SIZES, "S": 33})
    k = torch.nn.functional.normalize(k, dim=-1)
    decay = None if gate is None else -(g.abs() if gate == 4 else g[..., 0].abs())
    beta = torch.rand(q.shape[:3]) if corrects else None
    state = torch.randn(*q.shape[:2], q.shape[3], v.shape[3]) if begun else None
    given = {"initial_state": state, "return_state": True}
    if corrects:
        found = ops.delta_rule(q, k, v, beta, decay, **given)
    elif gate is not None:
        found = ops.gated_linear_attention(q, k, v, decay, **given)
    else:
        found = ops.linear_attention(q, k, v, **given)
    wide = [None if x is None else x.double() for x in (q, k, v, decay, beta)]
    first = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3]).double() if state is None else state.double()
    for one, wanted in zip(found, naive(*wide, first), strict=True):
        assert one.dtype is torch.float32 and relative(one, wanted) < 1e-6


def test_operations_in_bf16_keep_their_state_in_float32() -> None:
    q, k, v = (x.bfloat16() for x in arguments("linear"))
    out, state = ops.linear_attention(q, k, v, return_state=True)
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    wanted, last = naive(q.double(), k.double(), v.double(), None, None, torch.zeros(2, 2, 9, 21).double())
    assert relative(out, wanted) < 4e-3 and relative(state, last) < 1e-6


def test_mistakes_in_operations() -> None:
    q, k, v = arguments("linear")
    with pytest.raises(tessera.ShapeError, match="`q` of rank 3, not 4"):
        ops.linear_attention(q[0], k, v)
    with pytest.raises(tessera.DTypeError, match="`q` is float32, `k` is float64"):
        ops.linear_attention(q, k.double(), v)
    with pytest.raises(tessera.DTypeError, match="`q` is int64"):
        ops.linear_attention(q.long(), k.long(), v.long())
    with pytest.raises(tessera.ShapeError, match="`initial_state`"):
        ops.linear_attention(q, k, v, initial_state=torch.zeros(2, 2, 3, 3))
    with pytest.raises(tessera.ShapeError, match="`g` of rank 2"):
        ops.gated_linear_attention(q, k, v, q[0, 0])
    with pytest.raises(tessera.ShapeError, match="`D`"):
        ops.linear_attention(q, k[..., :4], v)
    with pytest.raises(tessera.ShapeError, match="`S`"):
        ops.delta_rule(q, k, v, torch.rand(2, 2, 4))
