"""Generated Triton kernels, compiled ahead of time for three GPUs: what the machine code really uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tessera.backends.base import Artifact, Target
from tessera.backends.triton.aot import TritonArtifact, Worker, available, compile_aot
from tessera.backends.triton.emit import emit, emit_function
from tessera.backends.triton.report import amd_instructions, instructions
from tessera.diag import ResourceError
from tessera.ir.dialects.samples import SIZES
from tessera.ir.parser import parse
from tessera.passes.pipeline import pipeline
from tessera.schedule.plan import Unschedulable
from tests.backends.triton_cases import FUNCTIONS, INTRINSICS, Case
from tests.fuzz import programs
from tests.fuzz.build import every_sample, function_of

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")

#: Bytes of shared memory that one program may have, by target.
SHARED_LIMITS = {"cuda:80": 166912, "cuda:90": 232448, "hip:gfx942": 65536}
TARGETS = tuple(SHARED_LIMITS)
FORMS = (
    "rms_norm",
    "layer_norm",
    "softmax",
    "softmax_down",
    "silu_mul",
    "rope",
    "cross_entropy",
    "sum_leading",
    "argmax",
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def compiled(case: Case, target: str, worker: Worker) -> list[TritonArtifact]:
    program = case.stages[2]
    assert case.large is not None
    kind, _, arch = target.partition(":")
    out = []
    for kernel in program.kernels:
        source = emit(kernel, Target(kind, arch))  # type: ignore[arg-type]
        sizes = dict(case.large)
        for p in kernel.function.params:
            for axis, s in enumerate(getattr(p.type, "strides", None) or ()):
                last = axis == len(p.type.dims) - 1
                sizes[str(s)] = 1 if last else p.type.dims[-1].evaluate(case.large) + 64
        bound = source.bind(sizes)
        out.append(compile_aot(source, target, bound, worker=worker))
    return out


def targets() -> Iterator[Any]:
    """Every function for the newer GPU of each vendor, one of each form for the older one as well."""
    for case in FUNCTIONS:
        for target in TARGETS if case.name in FORMS else TARGETS[1:]:
            yield pytest.param(case, target, id=f"{case.name}-{target}")


@pytest.mark.parametrize(("case", "target"), targets())
def test_code_fits_and_reads_wide(case: Case, target: str, worker: Worker) -> None:
    for artifact in compiled(case, target, worker):
        assert isinstance(artifact, Artifact)
        for nest in artifact.nests:
            used, label = nest.resources, f"{nest.bound.function.name} {nest.bound.config} {nest.resources}"
            assert used["spills"] == 0 and used["stack"] == 0, label
            assert used["shared"] <= SHARED_LIMITS[target], label
            config, wave = nest.bound.config, 64 if target.startswith("hip") else 32
            lane = config.rows * config.cols // (config.warps * wave)
            if case.wide and used["loads"] and lane >= 8:
                assert used["loads_128"] > 0, label


@pytest.mark.parametrize("target", TARGETS[1:])
@pytest.mark.parametrize("case", [c for c in INTRINSICS if c.large is not None], ids=lambda c: c.name)
def test_every_intrinsic_compiles(case: Case, target: str, worker: Worker) -> None:
    for artifact in compiled(case, target, worker):
        assert all(nest.binary for nest in artifact.nests)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
def test_no_sample_of_any_op_spills(target: str, worker: Worker) -> None:
    kind, _, arch = target.partition(":")
    seen: set[str] = set()
    for name, number, record, sample in every_sample():
        _, program = programs.compiled(function_of(record, sample).function, pipeline(integers=False))
        for kernel in program.kernels:
            try:
                source = emit(kernel, Target(kind, arch))  # type: ignore[arg-type]
            except Unschedulable:  # an element type that the target does not have
                continue
            strides = {str(s): 64 for p in kernel.function.params for s in getattr(p.type, "strides", None) or ()}
            bound = source.bind({**SIZES, **strides})
            if source.text in seen or not bound:
                continue
            seen.add(source.text)
            artifact = compile_aot(source, target, bound, worker=worker)
            assert all(nest.resources["spills"] == 0 for nest in artifact.nests), (name, number, artifact.resources)
    assert len(seen) > 800


def flat(aligned: bool, worker: Worker) -> TritonArtifact:
    f = parse(DOUBLE)
    source = emit_function(f, Target("cuda", "90"))
    return compile_aot(source, "cuda:90", source.bind({"D": 1 << 16}), None if aligned else frozenset(), worker)


DOUBLE = """kernel double(x: in f32[D], y: out f32[D]) {
  nest(axes=("i",), extents=[D], vector="i") {
    %a = load(x, index=[i]) : f32<i>
    %b = add(%a, %a)        : f32<i>
         store(y, %b, index=[i])
  }
}"""


def test_alignment_makes_accesses_wide(worker: Worker) -> None:
    wide, narrow = (flat(aligned, worker).nests[0].resources for aligned in (True, False))
    assert wide["loads"] == wide["loads_128"] and wide["stores"] == wide["stores_128"]
    assert narrow["loads_128"] == narrow["stores_128"] == 0


def test_an_artifact_shows_its_stages_and_packs(worker: Worker) -> None:
    artifact = flat(True, worker)
    names = [s.name for s in artifact.sources]
    assert names[0] == "triton"
    assert {"nest0_tile.ttir", "nest0_tile.ttgir", "nest0_tile.llir", "nest0_tile.ptx"} <= set(names)
    assert artifact.resources["launches"] == 1
    packed = artifact.pack()
    assert packed.kind == "triton" and len(packed.key) == 64
    assert packed.payloads["nest0_tile.bin"][:4] == b"\x7fELF"
    assert artifact.key == flat(True, worker).key != flat(False, worker).key
    with pytest.raises(ResourceError, match="launcher"):
        artifact.load()


def test_a_dead_compiler_is_an_error_and_is_replaced() -> None:
    worker = Worker()
    flat(True, worker)
    assert worker._process is not None
    worker._process.kill()
    worker._process.wait()
    assert flat(True, worker).nests
    with pytest.raises(ResourceError, match="refused"):
        worker.ask({"text": "no python", "jobs": [], "target": "cuda:90"})
    with pytest.raises(ResourceError, match="failed"):
        worker.ask(
            {"text": "import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n", "jobs": [], "target": "cuda:90"}
        )
    assert flat(True, worker).nests
    worker.close()
    worker.close()


def test_listings_are_counted_by_width() -> None:
    sass = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E.U16 R8, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E R8, desc[UR4][R2.64] ;
        /*0040*/               @P1 STG.E.64 desc[UR4][R2.64], R4 ;
    """
    assert instructions(sass) == {
        "LDC": 1, "LDG.128": 1, "LDG.U16": 1, "LDG.32": 1, "STG.64": 1, "total": 5,
    }  # fmt: skip
    amd = "\tglobal_load_dwordx4 v[0:3], v[4:5], off\n\tv_add_f32_e32 v0, v1, v2\n\ts_endpgm\n"
    assert amd_instructions(amd) == {"global_load_dwordx4": 1, "add": 1, "endpgm": 1, "total": 3}
