"""Steps many at a time: the same values, for every kind of step whose algebra allows it, and for no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import tessera
from tessera.backends.eager.function import run_function
from tessera.cli import main
from tessera.ir.graph import Function, Operation
from tessera.ir.interp import interpret
from tessera.ir.loop import Loop
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.record import Kind
from tessera.ir.verify import verify
from tessera.passes.chunk import CPU, GPU, Chunk
from tessera.passes.pipeline import PASSES, pipeline
from tessera.schedule.schedule import schedule
from tests.fuzz.programs import run_program
from tests.ops import recurrences
from tests.passes.affine_steps import MISSES, STEPS, arguments

SIZES = {"B": 2, "H": 2, "S": 7, "D": 5, "E": 3}


def before(function: Any, *args: Any) -> Function:
    return parse(function.ir("canonicalize", *args))


def in_chunks(f: Function, rows: int) -> Function:
    for step in (Chunk(rows=rows), PASSES["cse"], PASSES["dce"]):
        f = step.run(f)
        verify(f)
    return f


def scan_of(f: Function) -> Operation:
    return next(op for op in f.ops if op.record.kind is Kind.CONTROL)


def same(f: Function, g: Function, given: list[torch.Tensor], sizes: dict[str, int]) -> None:
    inputs = [x.double().numpy() for x in given]
    for one, other in zip(interpret(g, inputs, sizes=sizes), interpret(f, inputs, sizes=sizes), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", STEPS)
def test_steps_many_at_a_time_compute_the_same(name: str) -> None:
    f = before(STEPS[name])
    for rows, lengths in ((4, (0, 1, 3, 4, 5, 13)), (2, (7,)), (8, (7,))):
        g = in_chunks(f, rows)
        assert Loop.of(scan_of(g)).rows == rows
        assert parse(print_function(g)) == g
        for s in lengths:
            sizes = {**SIZES, "S": s}
            same(f, g, arguments(STEPS[name], sizes), sizes)


@pytest.mark.parametrize("name", STEPS)
def test_kernels_of_steps_many_at_a_time(name: str) -> None:
    """One kernel, valid, and the interpreter finds the right values in it."""
    f = before(STEPS[name])
    program = schedule(PASSES["fuse"].run(in_chunks(f, 4)))
    (kernel,) = program.kernels
    assert kernel.form == "recurrence" and not program.cuts
    verify(kernel.function)
    assert parse(print_function(kernel.function)) == kernel.function
    given = [x.double().numpy() for x in arguments(STEPS[name], SIZES)]
    pairs = zip(run_program(program, given, SIZES), interpret(f, given, sizes=SIZES), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MISSES)
def test_near_misses_stay_step_by_step(name: str) -> None:
    function, reason = MISSES[name]
    f = before(function)
    g = Chunk(rows=4).run(f)
    assert g == f
    assert reason in g.notes[-1].details[0]


@pytest.mark.parametrize("name", ["linear", "gated", "gated_delta", "covariance", "selective"])
def test_programs_as_people_write_them(name: str) -> None:
    given = recurrences.arguments(name)
    f = before(tessera.function(recurrences.PROGRAMS[name][0]), *given)
    g = in_chunks(f, 8)
    assert Loop.of(scan_of(g)).rows == 8
    same(f, g, given, recurrences.SIZES)


def chosen(f: Function, speeds: Any) -> int:
    return Loop.of(scan_of(Chunk(speeds=speeds).run(f))).rows


@pytest.mark.parametrize("name", ["linear", "gated", "gated_delta"])
def test_the_machine_decides_how_many(name: str) -> None:
    f = before(tessera.function(recurrences.PROGRAMS[name][0]), *recurrences.arguments(name))
    assert chosen(f, CPU) == 0 and chosen(f, GPU) == 0  # units for products would round the factors of f32
    assert chosen(f, replace(GPU, narrow=False)) == 16
    assert chosen(f, replace(CPU, products=100 * CPU.products)) == 16


def test_elementwise_states_stay_step_by_step_everywhere() -> None:
    """Nothing of such a state is a product of matrices."""
    f = before(tessera.function(recurrences.PROGRAMS["selective"][0]), *recurrences.arguments("selective"))
    assert chosen(f, CPU) == chosen(f, GPU) == 0


def test_the_pipeline_of_a_machine_has_its_speeds() -> None:
    def chunk(rows: Any) -> Any:
        return next(row.step for row in rows if row.step.name == "chunk")

    assert chunk(pipeline()).speeds is CPU and chunk(pipeline(speeds=GPU)).speeds is GPU


def test_explain_says_which_form_and_why() -> None:
    q = torch.randn(1, 1, 5, 4)
    text = str(STEPS["retention"].explain(q, q, q, torch.zeros(1, 1, 4, 4)))
    assert "scan %" in text and "step by step: " in text and " ns a step on a processor, " in text


def test_the_command_line_knows_the_pass(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    file = tmp_path / "f.tsr"
    file.write_text(STEPS["retention"].ir("canonicalize"))
    assert main(["opt", str(file), "-p", "chunk"]) == 0
    assert "scan(" in capsys.readouterr().out


@pytest.mark.parametrize("name", STEPS)
def test_eager_runs_what_the_pass_writes(name: str) -> None:
    """Steps over rows without a kernel: each operation of a step is one of torch."""
    f = before(STEPS[name])
    given = arguments(STEPS[name], SIZES)
    wanted = interpret(f, [x.double().numpy() for x in given], sizes=SIZES)
    found = run_function(in_chunks(f, 4), given, sizes=SIZES)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-5, atol=1e-6)
