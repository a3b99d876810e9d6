"""Kernels as Triton: interpreted against the checking interpreter, compiled ahead of time, launched, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tessera
from tessera import Tile, tile
from tessera.backends.base import Target
from tessera.backends.triton.aot import Worker, available, compile_aot
from tessera.backends.triton.program import bound_sizes, emit_program, source
from tessera.backends.triton.program_config import default_blocks
from tessera.backends.triton.report import amd_instructions, instructions
from tessera.diag import ResourceError, ShapeError
from tessera.driver.kernel import Kernel
from tessera.ir.types import BufferType
from tessera.ops import kernels as K
from tests.backends.triton_runs import Run, execute, judge
from tests.kernels import test_language as L
from tests.kernels.given import f, ints
from tests.kernels.triton_cases import CALLS
from tests.kernels.triton_programs import dense, planned, read

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")
LABELS = [label for label, *_ in CALLS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """All calls in one process."""
    found = {label: planned(label, kernel, *args, **kwargs) for label, kernel, args, kwargs in CALLS}
    assert len(found) == len(CALLS)
    found["outside"] = planned("outside", K.casted_embedding_kernel, ints(0, 3), f(11, 7))
    found["outside"].arrays["0"][1] = 11
    found |= {f"wide {call[0]}": far(*call) for call in CALLS if call[0] in _FAR}
    execute(list(found.values()), tmp_path_factory.mktemp("kernels"))
    return found


#: Calls that are carried out once more with positions of 64 bits and bounds that no constant settles.
_FAR = ("rms bf16", "sparse 4", "attention 17 4", "growing", "grids in loops", "halves of products")


def far(label: str, kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
    run = planned(f"wide {label}", kernel, *args, **kwargs)
    for launch in run.job["launches"]:
        launch["constants"] = {name: int(name == "WIDE") for name in launch["constants"]}
    return run


@pytest.mark.parametrize("label", LABELS)
def test_a_kernel_gives_what_the_checking_interpreter_gives(label: str, runs: dict[str, Run]) -> None:
    judge(runs[label])


@pytest.mark.parametrize("label", _FAR)
def test_positions_may_have_64_bits(label: str, runs: dict[str, Run]) -> None:
    judge(runs[f"wide {label}"])


def test_an_index_from_memory_is_checked(runs: dict[str, Run]) -> None:
    assert any("index out of range" in line for line in runs["outside"].complaints)


# -- text


def test_texts_are_the_same_each_time_and_have_no_names_of_users() -> None:
    for label, kernel, args, kwargs in CALLS:
        given = {k: x for k, x in kwargs.items() if k != "padded"}
        program, _, sizes = read(kernel, args, given)
        texts = {source(program.function, sizes, Target("cuda", "90")) for _ in range(2)}
        assert len(texts) == 1, label
        words = set("".join(c if c.isalnum() or c == "_" else " " for c in texts.pop()).split())
        assert not words & {"weight", "eps", "block_m", "Q", "logits", "acc"}, label


def test_each_nest_of_grids_is_a_launch() -> None:
    for kernel, args, count in ((K.flash_attention_kernel, (f(2, 5, 4),) * 3, 1), (L.prefix, (f(5, 3),), 1)):
        program, _, sizes = read(kernel, args, {})
        assert len(emit_program(program.function, sizes, Target("cuda", "90")).triton.nests) == count
    found = next(planned(*call[:2], *call[2]) for call in CALLS if call[0] == "two grids")
    assert [launch["grid"] for launch in found.job["launches"]] == [5, 5]


#: Three buffers with copies to values, and two with memory for each program.
_STAGED = ("staged products", "reversed blocks")


def test_memory_that_is_written_and_read_whole_takes_none() -> None:
    jobs = {label: planned(label, kernel, *args).job for label, kernel, args, _ in CALLS if label in _STAGED}
    assert [len(jobs[label]["buffers"]) for label in _STAGED] == [3, 3]
    assert ["debug_barrier" in jobs[label]["text"] for label in _STAGED] == [False, True]


def test_a_stop_at_a_position_becomes_a_bound() -> None:
    for causal in (False, True):
        program, _, sizes = read(K.flash_attention_kernel, (f(2, 5, 4),) * 3, {"is_causal": causal})
        text = source(program.function, sizes, Target("cuda", "90"))
        assert "while" not in text and "device_assert" not in text and ("bound_" in text) is causal
    program, _, sizes = read(L.first_above, (f(3, 4), 0.5, torch.zeros(3, dtype=torch.int64)), {})
    assert "while runs" in source(program.function, sizes, Target("cuda", "90"))


# -- sizes of blocks


def chosen(kernel: Kernel, args: tuple[Any, ...], target: str, **kwargs: Any) -> tuple[Any, dict[str, int], Any]:
    """The program of a call, and all of its sizes with blocks as a target has them."""
    program, call, _ = read(kernel, args, kwargs)
    kind, _, arch = target.partition(":")
    sizes = {**call.sizes, **{n: x for n, x in kernel.settings.items() if n in program.blocks}}
    at = Target(kind, arch)  # type: ignore[arg-type]
    return program, sizes | default_blocks(program.function, program.blocks, sizes, at), at


def test_blocks_are_powers_of_two_that_fit() -> None:
    for rows, width in ((1, 64), (4096, 1024), (100, 5000)):
        sizes = chosen(K.rms_norm_kernel, (torch.empty(rows, width), torch.empty(width)), "cuda:90")[1]
        assert sizes["block_m"] & (sizes["block_m"] - 1) == 0 and sizes["block_m"] * width <= 1 << 14
    q = torch.empty(32, 2048, 128, dtype=torch.bfloat16)
    sizes = chosen(K.flash_attention_kernel, (q, q, q), "cuda:90")[1]
    assert (sizes["block_m"], sizes["block_n"]) == (128, 64)
    few = chosen(K.flash_attention_kernel, (q[:2], q[:2], q[:2]), "cuda:90")[1]
    assert few["block_m"] == 64
    own = chosen(K.flash_attention_kernel.configure(block_m=32), (q, q, q), "cuda:90")[1]
    assert own["block_m"] == 32


def test_settings_are_honoured() -> None:
    kernel = L.matmul.configure(num_warps=2, num_stages=4)
    program, sizes, target = chosen(kernel, (f(64, 64), f(64, 64)), "cuda:90")
    made = emit_program(program.function, sizes, target, kernel.settings)
    (bound,) = made.triton.bind(bound_sizes(sizes, [[64, 1]] * 3))
    assert (bound.config.warps, bound.config.stages) == (2, 4)


# -- compiled ahead of time


def large(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype)


_Q, _F, _I = large(32, 1024, 64), torch.float32, torch.int64
#: The kernels of models at sizes of models, and whether they have products.
MODELS: dict[str, tuple[Kernel, tuple[Any, ...], dict[str, Any], bool]] = {
    "rms": (K.rms_norm_kernel, (large(4096, 4096), large(4096)), {}, False),
    "swiglu": (
        K.swiglu_fused_kernel, (large(4096, 256), large(256, 1024), large(256, 1024), large(1024, 256)), {}, True,
    ),
    "rotary": (
        K.rotary_embedding_kernel, (large(2048, 32, 128), large(2048, 64, dtype=_F), large(2048, 64, dtype=_F)), {},
        False,
    ),
    "embedding": (K.casted_embedding_kernel, (large(8192, dtype=_I), large(32000, 1024)), {}, False),
    "int8": (
        K.int8_linear_kernel,
        (torch.empty(4096, 1024, dtype=torch.int8), torch.empty(4096, 1024, dtype=torch.int8), large(4096, dtype=_F),
         large(4096, 4096), 0.1, large(4096, dtype=_F)), {}, True,
    ),
    "sparse": (
        K.sparse_embedding_kernel,
        (large(4096, dtype=_I), large(500, 32, 32), large(500, dtype=_I), large(1001, dtype=_I), large(500, dtype=_F),
         large(4096, 1024)), {}, False,
    ),
    "stable loss": (K.stable_cross_entropy_kernel, (large(4096, 32000), large(4096, dtype=_I)), {}, False),
    "loss": (K.fused_softmax_cross_entropy_kernel, (large(4096, 32000), large(4096, dtype=_I)), {}, False),
    "attention": (K.flash_attention_kernel, (_Q, _Q, _Q), {}, True),
    "causal attention": (K.flash_attention_kernel, (_Q, _Q, _Q), {"is_causal": True}, True),
}  # fmt: skip
#: By target: bytes of shared memory, and what its instructions for products of matrices have in their names.
LIMITS = {"cuda:80": (166912, "MMA"), "cuda:90": (232448, "GMMA"), "hip:gfx942": (65536, "mfma")}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def targets() -> list[Any]:
    """Every kernel for one GPU, and for the others at night."""
    return [
        pytest.param(name, target, id=f"{name}-{target}", marks=() if target == "cuda:90" else pytest.mark.nightly)
        for name in MODELS for target in LIMITS
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "target"), targets())
def test_code_fits(name: str, target: str, worker: Worker) -> None:
    kernel, args, kwargs, products = MODELS[name]
    aligned = name != "sparse"  # its columns begin where memory says
    program, sizes, at = chosen(kernel, args, target, **kwargs)
    made = emit_program(program.function, sizes, at).triton
    buffers = [p.type for p in program.function.params if isinstance(p.type, BufferType)]
    strides = [dense(tuple(d.evaluate(sizes) for d in t.dims)) for t in buffers]
    artifact = compile_aot(made, target, made.bind(bound_sizes(sizes, strides)), worker=worker)
    shared, matrices = LIMITS[target]
    for nest in artifact.nests:
        used = nest.resources
        hip = target.startswith("hip")
        # Scalar registers of AMD spill to vector registers, which takes no memory.
        assert used["stack"] == 0 and (hip or used["spills"] == 0), used
        assert used["shared"] <= shared, used
        mix = amd_instructions(nest.stages["amdgcn"]) if hip else instructions(nest.stages["sass"])
        assert any(matrices in op for op in mix) is products, mix
        assert used["loads_128"] > 0 or "LDGSTS.128" in mix or not aligned, used


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", LIMITS)
def test_every_kernel_compiles(target: str, worker: Worker) -> None:
    kind, _, arch = target.partition(":")
    for label, kernel, args, kwargs in CALLS:
        program, _, sizes = read(kernel, args, {k: x for k, x in kwargs.items() if k != "padded"})
        if target == "cuda:80" and any(p.type.dtype.is_fp8 for p in program.function.params):
            continue
        made = emit_program(program.function, sizes, Target(kind, arch), kernel.settings).triton  # type: ignore[arg-type]
        buffers = [p.type for p in program.function.params if isinstance(p.type, BufferType)]
        strides = [dense(tuple(d.evaluate(sizes) for d in t.dims)) for t in buffers]
        artifact = compile_aot(made, target, made.bind(bound_sizes(sizes, strides)), worker=worker)
        assert all(nest.resources["spills"] == 0 for nest in artifact.nests), label


# -- launched


def test_launches_give_what_the_checking_interpreter_gives() -> None:
    """In a process of its own: interpreting and compiling never meet in one."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("triton_launches.py"))]
    done = subprocess.run(command, env=environment, check=True, timeout=280, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    assert {"rms again", "two grids", *K.__all__} <= set(found)
    assert {name: said for name, said in found.items() if said} == {}


# -- refused


@tessera.kernel
def enormous(x: Tile["N"], y: Tile["N"]):
    tile.store(y, tile.load(x) * 2.0)


def test_a_block_that_no_program_can_hold_is_refused() -> None:
    program, _, sizes = read(enormous, (torch.empty(1 << 21),), {})
    with pytest.raises(ResourceError, match="a block of 2097152 elements") as caught:
        source(program.function, sizes, Target("cuda", "90"))
    assert caught.value.code == "TSR0608"
    (label,) = caught.value.diagnostics[0].labels
    assert label.span is not None and label.span.file.endswith("test_triton_kernels.py")


def test_a_block_without_a_size_is_refused() -> None:
    with pytest.raises(ShapeError, match="size `block_m` is not known"):
        source(L.add.checked[0].function, {"N": 4}, Target("cuda", "90"))


def test_a_dtype_that_a_target_lacks_is_refused() -> None:
    table = torch.empty(4, 4).to(torch.float8_e4m3fn)
    program, _, sizes = read(K.casted_embedding_kernel, (ints(1), table, torch.empty(1, 4)), {})
    with pytest.raises(ResourceError, match="no element type"):
        source(program.function, sizes, Target("cuda", "80"))
