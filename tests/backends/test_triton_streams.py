"""Contractions with the folds over them as Triton kernels: interpreted and compared with float64, compiled and read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tessera.backends.base import Target
from tessera.backends.triton.aot import CompiledNest, TritonArtifact, Worker, available, compile_aot
from tessera.backends.triton.emit import emit, emit_function
from tessera.backends.triton.report import instructions
from tessera.ir.graph import Block, Function
from tessera.ir.interp import interpret
from tessera.ir.interp.convert import round_to
from tessera.ir.parser import parse
from tessera.ir.types import TensorType
from tessera.passes.pipeline import pipeline
from tessera.schedule.plan import Program, Unschedulable
from tessera.schedule.schedule import schedule
from tests.backends.stream_cases import CASES, IN_PIECES, Stream, narrow_gelu
from tests.backends.triton_runs import Run, execute, judge, kernel_runs

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")


def inputs(case: Stream, before: Function, sizes: dict[str, int], rng: np.random.Generator) -> Iterator[Any]:
    for p in before.params:
        if not isinstance(p.type, TensorType):
            yield case.numbers.get(p.name, 5)
            continue
        shape = tuple(d.evaluate(sizes) for d in p.type.dims)
        if p.type.dtype.is_int:
            yield rng.integers(*case.integers[p.name], shape)
        else:
            yield round_to(rng.standard_normal(shape), p.type.dtype)


def planned(case: Stream) -> Iterator[Run]:
    before, program = case.stages
    rng = np.random.default_rng(7)
    for size in case.sizes:
        sizes = dict(size)
        given = list(inputs(case, before, sizes, rng))
        values = list(dict.fromkeys(v for k in program.kernels for v in (*k.inputs, *k.outputs)))
        whole = Function(before.name, Block(program.function.ops, before.params, tuple(values)))
        known = dict(zip(values, interpret(whole, given, sizes=sizes), strict=True))
        near = dict(zip(values, interpret(whole, given, sizes=sizes, dtype_mode="storage"), strict=True))
        scalars = dict(zip(before.params, given, strict=True))
        for k in program.kernels:
            reads, wanted = ([known[v] for v in vs] for vs in (k.inputs, k.outputs))
            yield from kernel_runs(
                case.name, k, reads, [scalars[s] for s in k.scalars], wanted, sizes, [near[v] for v in k.outputs]
            )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """All runs of all cases in one process, by case."""
    found = {case.name: list(planned(case)) for case in CASES}
    execute([r for runs in found.values() for r in runs], tmp_path_factory.mktemp("triton"))
    return found


@pytest.fixture(scope="module")
def results_in_pieces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """The same for the programs that a GPU runs another way at some sizes."""
    found = {case.name: list(planned(case)) for case in IN_PIECES}
    execute([r for runs in found.values() for r in runs], tmp_path_factory.mktemp("pieces"))
    return found


@pytest.mark.parametrize("case", IN_PIECES, ids=lambda c: c.name)
def test_pieces_compute_what_the_interpreter_computes(case: Stream, results_in_pieces: dict[str, list[Run]]) -> None:
    assert [k.form for k in case.stages[1].kernels] == ["stream"]
    for run in results_in_pieces[case.name]:
        judge(run)


def test_matrices_are_read_through_descriptors(results_in_pieces: dict[str, list[Run]]) -> None:
    ran = {x["function"] for runs in results_in_pieces.values() for r in runs for x in r.job["launches"]}
    assert {"nest1_streamed", "nest2_streamed"} <= ran


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_streams_compute_what_the_interpreter_computes(case: Stream, results: dict[str, list[Run]]) -> None:
    assert [k.form for k in case.stages[1].kernels] == ["stream"]
    for run in results[case.name]:
        judge(run)


#: Bytes of shared memory that one program may have, and what its tensor cores' instructions are called, by target.
TARGETS = {"cuda:80": (166912, "HMMA"), "cuda:90": (232448, "HGMMA"), "hip:gfx942": (65536, "v_mfma")}
LARGE = {"B": 4, "H": 16, "S": 2048, "T": 2048}
#: Where sums are cut there are few results.
FEW = {"S": 256, "T": 512, "D": 8192}
COMPILED = ("narrow", "narrow_causal", "biased", "logged", "capped", "narrow_linear", "gated")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def compiled(name: str, target: str, width: int, worker: Worker) -> TritonArtifact:
    (case,) = (c for c in CASES if c.name == name)
    (kernel,) = case.stages[1].kernels
    kind, _, arch = target.partition(":")
    source = emit(kernel, Target(kind, arch))  # type: ignore[arg-type]
    strides = {str(s): width for p in kernel.function.params for s in getattr(p.type, "strides", None) or ()}
    return compile_aot(source, target, source.bind({**LARGE, "D": width, "E": width, **strides}), worker=worker)


def kept_sides(nest: CompiledNest) -> list[str]:
    """The constants that give the lengths of a nest's sides; one without folds has three."""
    return [b for b in nest.bound.function.blocks if f"{b}_EVEN" in nest.bound.function.blocks]


def on_targets() -> Iterator[Any]:
    """Every program for one GPU, some for the others as well."""
    for name in COMPILED:
        for target in TARGETS if name in ("narrow", "narrow_causal") else ("cuda:90",):
            for width in (64, 128):
                yield pytest.param(name, target, width, id=f"{name}-{target}-{width}")


@pytest.mark.parametrize(("name", "target", "width"), tuple(on_targets()))
def test_products_fit_into_registers_and_use_tensor_cores(name: str, target: str, width: int, worker: Worker) -> None:
    (nest,) = compiled(name, target, width, worker).nests
    used, label = nest.resources, f"{nest.bound.config} {nest.resources}"
    shared, product = TARGETS[target]
    assert used["spills"] == 0 and used["stack"] == 0, label
    assert used["shared"] <= shared, label
    if name.startswith("narrow"):
        assert nest.bound.config.rows >= 64
        listing = nest.stages.get("sass") or nest.stages["amdgcn"]
        assert product in listing, label
        pipelined = target.startswith("cuda") and (nest.bound.config.mode == "walked" or len(kept_sides(nest)) > 3)
        assert not pipelined or instructions(listing).get("LDGSTS.128", 0) > 0, label


@pytest.mark.parametrize("target", TARGETS)
def test_pieces_of_sums_fill_the_device_and_use_tensor_cores(target: str, worker: Worker) -> None:
    (case,) = (c for c in IN_PIECES if c.name == "narrow_linear_in_pieces")
    (kernel,) = case.stages[1].kernels
    kind, _, arch = target.partition(":")
    source = emit(kernel, Target(kind, arch))  # type: ignore[arg-type]
    made, added = compile_aot(source, target, source.bind(FEW), worker=worker).nests
    assert made.bound.config.grid >= 100 and made.bound.config.rows >= 64
    assert TARGETS[target][1] in (made.stages.get("sass") or made.stages["amdgcn"])
    for nest in (made, added):
        assert nest.resources["spills"] == 0 and nest.resources["shared"] <= TARGETS[target][0]
    mix = instructions(made.stages.get("sass", ""))
    assert made.resources["loads_128"] or mix.get("LDGSTS.128") or mix.get("UTMALDG")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["linear", "narrow_linear", "gated"])
def test_tiles_are_as_large_as_registers_allow(name: str, target: str, worker: Worker) -> None:
    (case,) = (c for c in CASES if c.name == name)
    (kernel,) = case.stages[1].kernels
    kind, _, arch = target.partition(":")
    source = emit(kernel, Target(kind, arch))  # type: ignore[arg-type]
    (nest,) = compile_aot(source, target, source.bind({"S": 8192, "T": 8192, "D": 4096}), worker=worker).nests
    config, label = nest.bound.config, f"{nest.bound.config} {nest.resources}"
    assert nest.resources["spills"] == 0 and nest.resources["shared"] <= TARGETS[target][0], label
    assert config.rows * config.cols >= (128 * 128 if name == "narrow_linear" else 64 * 64), label


def test_many_operations_are_carried_out_for_a_part_of_the_columns() -> None:
    (kernel,) = heavy().kernels
    source = emit(kernel, Target("cuda", "90"))
    (bound,) = source.bind({"S": 8192, "T": 8192, "D": 4096})
    assert (bound.config.rows, bound.config.cols, bound.constants["PART"]) == (128, 256, 64)
    (bound,) = emit(kernel, Target("hip", "gfx942")).bind({"S": 8192, "T": 8192, "D": 4096})
    assert bound.constants["PART"] <= bound.config.cols
    assert "for part in tl.static_range(COLS // PART):" in source.text


@pytest.mark.parametrize("target", TARGETS)
def test_a_heavy_epilogue_does_not_spill(target: str, worker: Worker) -> None:
    (kernel,) = heavy().kernels
    kind, _, arch = target.partition(":")
    source = emit(kernel, Target(kind, arch))  # type: ignore[arg-type]
    (nest,) = compile_aot(source, target, source.bind({"S": 8192, "T": 8192, "D": 4096}), worker=worker).nests
    assert nest.resources["spills"] == 0 and nest.resources["shared"] <= TARGETS[target][0], nest.resources
    assert TARGETS[target][1] in (nest.stages.get("sass") or nest.stages["amdgcn"])


@pytest.mark.parametrize("name", ["narrow_linear", "narrow_gelu", "narrow_gradient_in_pieces", "gated_mlp_in_pieces"])
def test_newer_gpus_read_matrices_by_themselves(name: str, worker: Worker) -> None:
    (case,) = (c for c in (*CASES, *IN_PIECES) if c.name == name)
    (kernel,) = case.stages[1].kernels
    sizes = {"S": 1024, "T": 1024, "D": 65536, "E": 4096} if name == "narrow_gradient_in_pieces" else {
        "S": 8192, "T": 8192, "D": 4096, "E": 4096}  # fmt: skip
    source = emit(kernel, Target("cuda", "90"))
    found = [b for b in source.bind(sizes) if b.config.mode == "streamed"]
    assert found and all(100 <= b.config.grid <= 132 for b in found)
    for nest in compile_aot(source, "cuda:90", found, worker=worker).nests:
        label = f"{nest.bound.config} {nest.resources}"
        assert "cp.async.bulk.tensor" in nest.stages["ptx"] and "HGMMA" in nest.stages["sass"], label
        assert nest.resources["spills"] == 0 and nest.resources["stack"] == 0, label
        assert nest.resources["shared"] <= TARGETS["cuda:90"][0], label
    for other in ("cuda:80", "hip:gfx942"):
        kind, _, arch = other.partition(":")
        assert "make_tensor_descriptor" not in emit(kernel, Target(kind, arch)).text  # type: ignore[arg-type]


def test_what_lies_elsewhere_is_read_element_by_element(worker: Worker) -> None:
    (case,) = (c for c in CASES if c.name == "narrow_linear")
    source = emit(case.stages[1].kernels[0], Target("cuda", "90"))
    (bound,) = source.bind({"S": 8192, "T": 8192, "D": 4096})
    (nest,) = compile_aot(source, "cuda:90", [bound], frozenset({0, 2, 3}), worker).nests
    assert (bound.config.mode, nest.bound.config.mode) == ("streamed", "walked")
    assert "cp.async.bulk.tensor" not in nest.stages["ptx"]
    modes = {d: source.bind({"S": 8192, "T": 8192, "D": d})[0].config.mode for d in (4096, 4104, 4100, 4095, 64)}
    assert modes == {4096: "streamed", 4104: "streamed", 4100: "walked", 4095: "walked", 64: "held"}


def heavy() -> Program:
    """A layer of bf16 with a long activation."""
    before = parse(str(narrow_gelu.ir("dce")))
    return schedule(pipeline(lookups=False)[-1].step.run(before))


def test_sums_are_cut_where_results_are_few() -> None:
    (case,) = (c for c in IN_PIECES if c.name == "narrow_linear_in_pieces")
    (kernel,) = case.stages[1].kernels
    source = emit(kernel, Target("cuda", "90"))

    def nests(**sizes: int) -> list[str]:
        return [b.function.name.partition("_")[0] for b in source.bind(sizes)]

    assert nests(S=16, T=8192, D=8192) == nests(S=1024, T=1024, D=65536) == ["nest2", "nest3"]
    assert nests(S=8192, T=8192, D=8192) == nests(S=16, T=8192, D=512) == nests(S=16, T=8192, D=0) == ["nest0"]
    assert nests(S=1, T=8192, D=8192) == ["nest1"]
    (parts,) = kernel.temps
    pieces = [parts.type.dims[0].evaluate({"S": s, "T": 8192, "D": 8192}) for s in (16, 512, 4096)]
    assert pieces == [2, 0, 0]
    assert emit(case.stages[1].kernels[0], Target("cuda", "90")).text == source.text


def test_conditions_on_positions_bound_the_loop() -> None:
    text = {c.name: emit(c.stages[1].kernels[0], Target("cuda", "90")).text for c in CASES}
    assert "for start in range(0, stop_" in text["causal"]
    assert "for start in range(first_" in text["behind"]
    assert "for start in range(0, stop_" in text["limited"]
    assert "for start in range(0, stop_" not in text["full"] and "range(first_" not in text["documents"]


def test_long_inner_sides_are_walked_and_short_ones_held() -> None:
    source = emit(CASES[0].stages[1].kernels[0], Target("cuda", "90"))
    sizes = {"B": 1, "H": 1, "S": 64, "T": 64, "E": 64}
    modes = {d: source.bind({**sizes, "D": d})[0].config.mode for d in (24, 64, 65, 4096)}
    assert modes == {24: "held", 64: "held", 65: "walked", 4096: "walked"}
    (bound,) = source.bind({**sizes, "D": 64, "S": 1 << 33})
    assert bound.constants["WIDE"] == 1 and bound.constants["ROWS_EVEN"] == 1


NEST = """kernel k(x: in f32[S, T, D], y: in f32[S, T, D], z: out f32[S]) {
  nest(axes=("i",), extents=[S], vector="i") {
    sweep(axes=("j",), lo=[0], hi=[T]) {
      sweep(axes=("k",), lo=[0], hi=[D]) {
        %a = load(x, index=[D*T*i + D*j + k])       : f32<i, j, k>
        %b = load(y, index=[D*T*i + D*j + k])       : f32<i, j, k>
        %c = mma(%a, %b, over=("k",), dtype=f32)    : f32<i, j>
      }
      %d = sum(%c, over=("j",), position=`j`, dtype=f32) : f32<i>
    }
    store(z, %d, index=[i])
  }
}"""


def test_what_has_three_sides_is_refused_with_a_reason() -> None:
    target = Target("cuda", "90")
    alone = emit_function(parse(NEST), target)  # there is no side for what both operands differ along
    assert "ROWS" not in alone.functions[0].blocks
    with pytest.raises(Unschedulable, match="three sides"):
        emit_function(parse(NEST.replace("load(y, index=[D*T*i + D*j + k])       : f32<i, j, k>",
                                         "load(y, index=[k])       : f32<k>")), target)  # fmt: skip
