"""Recurrences as Triton kernels: interpreted and compared with float64, compiled and read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tessera.backends.base import Target
from tessera.backends.triton.aot import Worker, available, compile_aot
from tessera.backends.triton.emit import emit, emit_function
from tessera.backends.triton.launch import Launcher
from tessera.backends.triton.report import instructions
from tessera.backends.triton.source import TritonSource
from tessera.diag import ResourceError
from tessera.ir.parser import parse
from tessera.schedule.plan import Unschedulable
from tests.backends.recurrence_cases import RECURRENCES
from tests.backends.stream_cases import Stream
from tests.backends.test_triton_streams import planned
from tests.backends.triton_runs import Run, execute, judge

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """All runs of all cases in one process, by case."""
    found = {case.name: list(planned(case)) for case in RECURRENCES}
    execute([r for runs in found.values() for r in runs], tmp_path_factory.mktemp("triton"))
    return found


@pytest.mark.parametrize("case", RECURRENCES, ids=lambda c: c.name)
def test_recurrences_compute_what_the_interpreter_computes(case: Stream, results: dict[str, list[Run]]) -> None:
    assert "recurrence" in [k.form for k in case.stages[1].kernels]
    for run in results[case.name]:
        judge(run)


#: Bytes of shared memory that one program may have, by target.
TARGETS = {"cuda:80": 166912, "cuda:90": 232448, "hip:gfx942": 65536}
LARGE = {"B": 4, "H": 16, "S": 2048, "N": 16}
ROWS = ("selective", "counted", "looked", "average_rows")
EVERYWHERE = ("gated", "delta")
#: Programs whose steps are not made for a GPU of this size: their tensors are larger than one program should hold.
SMALLER = {"surrounded": 16, "gates": 64}


def source(name: str, target: str = "cuda:90") -> TritonSource:
    (case,) = (c for c in RECURRENCES if c.name == name)
    kernel = next(k for k in case.stages[1].kernels if k.form == "recurrence")
    kind, _, arch = target.partition(":")
    return emit(kernel, Target(kind, arch))  # type: ignore[arg-type]


def sizes(name: str, width: int) -> dict[str, int]:
    strides = {f"_s{axis}_{v}": width ** (3 - axis) for v in "qkv" for axis in range(4)}
    return {**LARGE, **strides, "D": width, "E": 2048 if name in ROWS else width}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def on_targets() -> Iterator[Any]:
    """Every program for one GPU, some for the others as well."""
    for case in RECURRENCES:
        for target in TARGETS if case.name in EVERYWHERE else ("cuda:90",):
            for width in (64, 128) if case.name in EVERYWHERE else (SMALLER.get(case.name, 64),):
                yield pytest.param(case.name, target, width, id=f"{case.name}-{target}-{width}")


@pytest.mark.parametrize(("name", "target", "width"), tuple(on_targets()))
def test_steps_fit_into_registers_and_read_ahead(name: str, target: str, width: int, worker: Worker) -> None:
    made = source(name, target)
    (nest,) = compile_aot(made, target, made.bind(sizes(name, width)), worker=worker).nests
    used, label = nest.resources, f"{nest.bound.config} {nest.resources}"
    assert used["spills"] == 0 and used["stack"] == 0, label
    assert used["shared"] <= TARGETS[target], label
    if target.startswith("cuda") and name in EVERYWHERE:
        found = instructions(nest.stages["sass"])
        assert sum(n for word, n in found.items() if word.startswith("LDGSTS")) > 0, label
        assert nest.bound.config.warps == 1, label


def test_what_one_step_holds_decides_lanes_and_warps() -> None:
    made = source("gated")
    chosen = {}
    for d in (1, 16, 64, 128, 512, 4096):
        (bound,) = made.bind({**sizes("gated", 64), "D": d, "E": 4096})
        chosen[d] = (bound.config.cols, bound.config.warps, bound.constants["HELD0"], bound.constants["STAGES"])
    assert chosen == {
        1: (128, 1, 1, 3), 16: (64, 1, 16, 3), 64: (16, 1, 64, 3), 128: (8, 1, 128, 3), 512: (4, 2, 512, 3),
        4096: (1, 4, 4096, 2),
    }  # fmt: skip


def test_a_step_that_no_program_can_hold_is_refused_before_it_is_launched() -> None:
    made = source("surrounded")
    with pytest.raises(Unschedulable, match="a step needs 262144 registers"):
        made.bind(sizes("surrounded", 512))
    launch = Launcher(made).at(sizes("surrounded", 512))
    for _ in range(2):
        with pytest.raises(ResourceError, match="a step needs 262144 registers"):
            launch([16, 16, 16, 16], [], 0)


STEPS = """kernel k(x: in f32[S, D], y: out f32[S, D]) {
  nest(axes=("i",), extents=[D], vector="i") {
    %m = local() : local f32[D]
    sweep(axes=("k",), lo=[0], hi=[D]) {
      %z = cast(0, dtype=f32) : f32<>
      store(%m, %z, index=[k])
    }
    sweep(axes=("t",), lo=[0], hi=[S], ordered=true) {
      sweep(axes=("k",), lo=[0], hi=[D]) {
        %a = load(x, index=[D*t + k]) : f32<t, k>
        %b = load(%m, index=[k])      : f32<i, t, k>
        %c = add(%a, %b)              : f32<i, t, k>
        %d = sum(%c, over=("k",), position=`k`, dtype=f32) : f32<i, t>
        store(%m, %c, index=[k])
      }
      store(y, %d, index=[D*t + i])
    }
  }
}"""


def test_what_lanes_share_is_held_once() -> None:
    text = emit_function(parse(STEPS), Target("cuda", "90")).text
    assert "tl.full([HELD0], " in text and "[:, None]" not in text


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('store(%m, %c, index=[k])', 'store(%m, %c, index=[D - 1 - k])', "at a part of it"),
        ('store(%m, %z, index=[k])', "", "read before it is written"),
        ('("t",), lo=[0], hi=[S], ordered', '("t", "u"), lo=[0, 0], hi=[S, 1], ordered', "one axis"),
        ('hi=[D]) {\n        %a', 'hi=[t]) {\n        %a', "different bounds"),
    ],
)  # fmt: skip
def test_what_has_no_such_form_is_refused_with_a_reason(old: str, new: str, reason: str) -> None:
    assert old in STEPS
    with pytest.raises(Unschedulable, match=reason):
        emit_function(parse(STEPS.replace(old, new)), Target("cuda", "90"))
