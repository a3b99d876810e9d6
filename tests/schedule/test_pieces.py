"""Long sums of few results in pieces: the tile form computes the same, and what is shown says when they are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tessera
from tessera import Tensor
from tessera.driver import inspect
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.verify import verify
from tessera.schedule.plan import Program
from tessera.schedule.schedule import schedule
from tests.fuzz.programs import run_program


@tessera.function
def layer(x: Tensor["M", "K"], w: Tensor["N", "K"], b: Tensor["N"]) -> Tensor["M", "N"]:
    return torch.relu(x @ w.T + b)


@tessera.function
def gates(x: Tensor["B", "M", "K"], w: Tensor["K", "N"], u: Tensor["K", "N"]) -> Tensor["B", "M", "N"]:
    return torch.sigmoid(x @ w) * (x @ u)


@tessera.function
def mlp(x: Tensor["M", "K"], w: Tensor["K", "F"], u: Tensor["K", "F"], v: Tensor["F", "N"]) -> Tensor["M", "N"]:
    return torch.exp((torch.sigmoid(x @ w) * (x @ u)) @ v) + 1


@tessera.function
def two_axes(x: Tensor["M", "H", "K"], w: Tensor["N", "H", "K"]) -> Tensor["M", "N"]:
    return torch.relu(torch.einsum("mhk,nhk->mn", x, w))


def scheduled(f: Any, programs: int = 132) -> Program:
    return schedule(parse(f.ir("fuse")), programs=programs)


@pytest.mark.parametrize("f", [layer, gates], ids=["layer", "gates"])
@pytest.mark.parametrize(("rows", "long"), [(3, 1100), (3, 1601), (3, 700), (1, 1100), (2, 0)])
def test_the_tile_form_computes_the_same(f: Any, rows: int, long: int) -> None:
    rng = np.random.default_rng(3)
    sizes = {"B": 2, "M": rows, "N": 5, "K": long}
    fused = parse(f.ir("fuse"))
    program = scheduled(f)
    for kernel in program.kernels:
        verify(kernel.function)
        assert parse(print_function(kernel.function)) == kernel.function
    given = [rng.standard_normal([d.evaluate(sizes) for d in p.type.dims]) for p in fused.params]
    for a, b in zip(run_program(program, given, sizes), interpret(fused, given, sizes=sizes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("columns", [7, 512, 513])
def test_two_products_go_through_memory_where_the_first_would_be_made_again(columns: int) -> None:
    rng = np.random.default_rng(4)
    sizes = {"M": 3, "K": 4, "F": 6, "N": columns}
    fused = parse(mlp.ir("fuse"))
    (kernel,) = (program := scheduled(mlp)).kernels
    verify(kernel.function)
    assert parse(print_function(kernel.function)) == kernel.function
    ((rows, width),) = (t.type.dims for t in kernel.temps)
    assert rows.evaluate(sizes) * width.evaluate(sizes) == (18 if columns > 512 else 0)
    given = [rng.standard_normal([d.evaluate(sizes) for d in p.type.dims]) for p in fused.params]
    for a, b in zip(run_program(program, given, sizes), interpret(fused, given, sizes=sizes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    assert all(not k.temps for k in scheduled(mlp, 0).kernels)


def test_only_sums_over_one_axis_are_cut_and_only_where_asked() -> None:
    assert [len(k.function.ops) for k in scheduled(layer).kernels] == [4]
    assert [len(k.function.ops) for k in scheduled(gates).kernels] == [4]
    assert all(not k.temps for k in (*scheduled(two_axes).kernels, *scheduled(layer, 0).kernels))


def test_what_is_shown_says_when() -> None:
    here = layer.resolve(torch.ones(4, 8), torch.ones(3, 8), torch.ones(3)).variant
    there = here.on(torch.device("cuda"))
    said = str(inspect.explain(there, "layer"))
    assert "(stream, 4 nests, 1 temporaries)" in said
    assert "nest 2 -> %" in said and "_parts where 3 <= " in said and "nest 3 -> %" in said
    assert "nest 2" not in str(inspect.explain(here, "layer"))


def test_kernels_for_a_gpu_are_those_that_would_run_there() -> None:
    args = torch.ones(16, 4096), torch.ones(64, 4096), torch.ones(64)
    lowered = layer.lower(*args, target="cuda:90")
    (kernel,) = lowered.kernels
    cut, added = lowered.runs
    assert cut.startswith("layer_0: nest2_walked: ") and "cycles on 132 units, most of them " in cut
    assert added.startswith("layer_0: nest3_")
    assert kernel.launches == 2 and "layer_0_parts" not in kernel.source
    (alone,) = layer.lower(torch.ones(16, 64), torch.ones(64, 64), torch.ones(64), target="cuda:90").kernels
    assert alone.launches == 1
