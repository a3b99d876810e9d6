"""Scans: their derivatives are scans from the other end, one recurrence where the forward pass is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessera
from tests.gradients.compiled import asking, check, derived, forms, gradients
from tests.ops.recurrences import PROGRAMS, arguments

#: Steps whose backward pass takes long to compile.
LONG = frozenset({"lstm", "gated_delta", "selective", "normalised", "gated", "linear"})
#: Programs that the tests of every run leave out, others being much like them.
ALIKE = frozenset({"alone", "segments", "window", "counted"})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly) if name in LONG | ALIKE else name for name in PROGRAMS],
)
def test_programs(name: str) -> None:
    function = tessera.function(PROGRAMS[name][0], strict=True)
    wide = asking(arguments(name), torch.float64)
    with tessera.backend("c"):
        found = gradients(function, wide)
    for got, want in zip(found, gradients(function.eager, wide), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)
    (one,) = derived(function)
    assert forms(one.forward.program).count("recurrence") == forms(one.backward.program).count("recurrence") == 1


def leaf(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed + len(sizes)))


def closed(x, w, h):
    """Reads a parameter and a value of the function in every step, and carries an integer beside floats."""
    scale = torch.tanh(w)

    def step(carry, now):
        state, count = carry
        state = state * scale + now * w.sum()
        return (state, count + 1), state * count

    (state, count), found = tessera.scan(step, (h, 1), x)
    return state * count, found


def nested(x, h):
    """A scan in the step of a scan."""

    def outer(state, row):
        def inner(part, element):
            part = torch.sin(part) * element + state
            return part, part * part

        last, squares = tessera.scan(inner, state, row)
        return last, squares.sum(0)

    return tessera.scan(outer, h, x)


def backwards(x, h):
    def step(state, now):
        a, b = now
        state = state * a.cos() + b
        return state, {"kept": state * a, "other": None}

    last, found = tessera.scan(step, h, (x, x.flip(0)), reverse=True)
    return last, found["kept"]


def unused(x, h):
    """Only the last carry of two is a result."""

    def step(carry, now):
        a, b = carry
        return (a * now, b + a), now.exp()

    return tessera.scan(step, (h, h * 2), x)[0][1]


CASES: dict[str, tuple[Any, tuple[torch.Tensor, ...]]] = {
    "closed": (closed, (leaf(5, 3), leaf(3, seed=1), leaf(3, seed=2))),
    "nested": (nested, (leaf(3, 4, 2), leaf(2))),
    "backwards": (backwards, (leaf(5, 3), leaf(3))),
    "unused": (unused, (leaf(5, 3), leaf(3))),
    "one step": (closed, (leaf(1, 3), leaf(3, seed=1), leaf(3, seed=2))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_forms_of_steps(name: str) -> None:
    plain, args = CASES[name]
    check(tessera.function(plain, strict=True), args, plain, ratio=2.0)


def test_no_steps() -> None:
    args = asking([leaf(0, 3), leaf(3, seed=1), leaf(3, seed=2)], torch.float64)
    function = tessera.function(closed)
    for got, want in zip(gradients(function, args), gradients(closed, args), strict=True):
        torch.testing.assert_close(got, want)


def test_some_leaves_alone_ask_for_gradients() -> None:
    function = tessera.function(closed, strict=True)
    for n in range(3):
        args = [x.double() for x in CASES["closed"][1]]
        args[n].requires_grad_()
        with tessera.backend("c"):
            (got,) = gradients(function, args)
        torch.testing.assert_close(got, gradients(closed, args)[0])
        args[n].requires_grad_(False)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["closed", "nested", "backwards"])
def test_checked_twice(name: str) -> None:
    plain, args = CASES[name]
    function = tessera.function(plain, strict=True)
    given = asking(args, torch.float64)

    def floats(*x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(y for y in function(*x) if y.is_floating_point())

    with tessera.backend("c"):
        assert torch.autograd.gradcheck(floats, given, fast_mode=True)
        assert torch.autograd.gradgradcheck(floats, given, fast_mode=True)
