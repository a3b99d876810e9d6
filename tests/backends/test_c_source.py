"""What the C text says about threads and memory."""

from __future__ import annotations

import re

import pytest
import torch

import tessera
from tessera import Tensor
from tessera.backends.c.intrinsics import VISIBLE, library


@tessera.function
def product(a: Tensor["N", "D"], b: Tensor["N", "D"]) -> Tensor["N", "D"]:
    return a * b


@tessera.function
def softmax(x: Tensor["N", "D"]) -> Tensor["N", "D"]:
    return torch.softmax(x, -1)


def source(f: tessera.Function, *args: torch.Tensor) -> str:
    (kernel,) = f.lower(*args, backend="c").kernels
    return str(kernel.source)


@pytest.mark.parametrize(("f", "count"), [(product, 2), (softmax, 1)])
@pytest.mark.parametrize(("n", "d"), [(4096, 2816), (64, 256), (8, 8), (1, 1 << 20)])
def test_threads_share_what_has_enough_points(f: tessera.Function, count: int, n: int, d: int) -> None:
    (condition,) = re.findall(r"parallel if \(\((.*)\) >= (\d+) &&", source(f, *[torch.zeros(3, 5)] * count))
    expression, enough = condition
    points = eval(expression, {"x_cdiv": lambda a, b: -(-a // b), "x_min": min, "n0": n, "n1": d})
    assert (points >= int(enough)) == (n * d >= int(enough))


def test_a_row_that_is_read_again_brings_the_next_one() -> None:
    text = source(softmax, torch.zeros(3, 5))
    asked = re.findall(r"if \(n0 \* \(i64\)sizeof\(f32\) <= \d+\) t_prefetch_far\((.*) \+ n0\);", text)
    assert len(asked) == 4  # vectors at a time; single ones ask for nothing


def test_a_long_function_is_inlined_into_few_places_and_called_from_many() -> None:
    called = "static __attribute__((noinline)) vf32 t_tanh_f32("
    few, many = (f"{VISIBLE} int f(void) {{ {'t_tanh_f32(x); ' * n}}}" for n in (20, 40))
    assert called not in library(few, 8) and called not in library(few * 3, 8)
    assert called in library(many, 8)


def test_a_short_function_with_a_form_for_each_processor_is_inlined_into_many_places() -> None:
    many = f"{VISIBLE} int f(void) {{ {'t_where_f32(m, a, b); ' * 40}}}"
    assert "noinline)) vf32 t_where_f32(" not in library(many, 16)
