"""Kernels planned as interpreter runs, sent to one process together, and judged by what comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tessera.backends.base import Target
from tessera.backends.triton.block_config import laid_out_blocks
from tessera.backends.triton.blocks import COLS, PART, Blocks
from tessera.backends.triton.descriptors import described
from tessera.backends.triton.emit import emit
from tessera.backends.triton.source import Bound, TritonSource
from tessera.backends.triton.tiling import laid_out, power
from tessera.ir.dtype import DType
from tessera.ir.interp.convert import round_to
from tessera.ir.types import BufferType
from tessera.ir.within import applies
from tessera.schedule.plan import Kernel

HERE = Path(__file__).parent
ROUNDING = {
    "f64": 1e-12, "f32": 4e-6, "bf16": 2.0**-8, "f16": 2.0**-10, "fp8_e4m3": 2.0**-3, "fp8_e5m2": 2.0**-2,
}  # fmt: skip


@dataclass
class Run:
    """One kernel at one size in one mode: what goes to the process, what should come back, and what did.

    ``wanted``, ``rounded`` and ``outs`` are by buffer: what float64 gives, what it gives when every value is rounded
    to its dtype, and what came back. ``complaints`` are what the checker and the interpreter said.
    """

    label: str
    job: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    wanted: dict[int, tuple[np.ndarray, DType]] = field(default_factory=dict)
    rounded: dict[int, np.ndarray] = field(default_factory=dict)
    outs: dict[int, np.ndarray] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)


def kernel_runs(
    label: str,
    kernel: Kernel,
    given: Sequence[np.ndarray],
    scalars: Sequence[float],
    wanted: Sequence[np.ndarray],
    sizes: Mapping[str, int],
    rounded: Sequence[np.ndarray] = (),
) -> Iterator[Run]:
    """A kernel as its configuration says, and once more with every nest that can loop looping over short blocks."""
    source = emit(kernel, Target("cuda", "90"))
    every = dict(sizes)
    buffers: list[dict[str, Any]] = []
    params = [p for p in kernel.function.params if isinstance(p.type, BufferType)]
    for n, p in enumerate(params):
        shape = tuple(d.evaluate(sizes) for d in p.type.dims)
        strides = None
        if p.type.strides is not None:
            strides = padded_strides(shape)
            every |= {str(s): k for s, k in zip(p.type.strides, strides, strict=True)}
        array = str(n) if p.type.role == "in" else None
        buffers.append({"array": array, "dtype": p.type.dtype.name, "shape": shape, "strides": strides})
    arrays = {str(n): a for n, a in enumerate(given)}
    first = len(given)
    out = {first + n: (np.asarray(w), params[first + n].type.dtype) for n, w in enumerate(wanted)}
    ways = ("chosen", source.bind(every)), ("loop", looped(source, every)), ("streamed", streamed(source, every))
    for mode, bound in ways:
        if bound is not None:
            launches = [launch(b) for b in bound]
            job = {"text": source.text, "buffers": buffers, "scalars": list(scalars), "launches": launches}
            yield Run(f"{label} {dict(sizes)} {mode}", job, arrays, out, dict(enumerate(rounded, first)))


def padded_strides(shape: tuple[int, ...]) -> list[int]:
    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * n + 3)
    return strides


def looped(source: TritonSource, sizes: Mapping[str, int]) -> list[Bound] | None:
    """Every nest that can loop does, over blocks much shorter than its sweeps; None when none can."""
    if not any(mode in n.functions for n in source.nests for mode in ("loop", "held")):
        return None
    out = []
    for nest in source.nests:
        if not applies(nest.when, sizes):
            continue
        t = nest.tiling
        if isinstance(t, Blocks):
            mode = t.modes[-1]
            lengths = {s.block: 64 if s.parts else 16 for s in t.sides}
            lengths |= {COLS: 64, PART: 16} if t.parted else {}
            config = laid_out_blocks(t, sizes, mode, lengths, 4, 2)
        else:
            mode = "loop" if "loop" in nest.functions else t.modes[0]
            points = power(t.points.evaluate(sizes))
            config = laid_out(t, sizes, mode, 16, min(points, 4))
        if config.grid:
            out.append(nest.bound(config, sizes))
    return out


def streamed(source: TritonSource, sizes: Mapping[str, int]) -> list[Bound] | None:
    """Every nest that can read through descriptors at these sizes does, two programs for all of its tiles."""
    out, found = [], False
    for nest in source.nests:
        if not applies(nest.when, sizes):
            continue
        t = nest.tiling
        bound = nest.bind(sizes, source.wave)
        if isinstance(t, Blocks) and "streamed" in nest.functions:
            lengths = {s.block: 16 for s in t.sides} | ({COLS: 64, PART: 16} if t.parted else {})
            if described(t, sizes, lengths):
                config = laid_out_blocks(t, sizes, "streamed", lengths, 4, 2)
                bound, found = nest.bound(replace(config, grid=min(config.grid, 2)), sizes), True
        if bound.config.grid:
            out.append(bound)
    return out if found else None


def launch(b: Bound) -> dict[str, Any]:
    sizes = iter(b.sizes)
    args = [["n", next(sizes)] if a.kind == "size" else [a.kind[0], a.number] for a in b.function.arguments]
    blocks = {name: value for name, value in b.constants.items() if name in b.function.blocks}
    return {"function": b.function.name, "grid": b.config.grid, "args": args, "constants": blocks}


def execute(runs: Sequence[Run], folder: Path) -> None:
    """Interpret all runs in one process; fills in what came back."""
    jobs, arrays = [], {}
    for number, r in enumerate(runs):
        named = [None if b["array"] is None else f"{number}_{b['array']}" for b in r.job["buffers"]]
        buffers = [{**b, "array": name} for b, name in zip(r.job["buffers"], named, strict=True)]
        jobs.append({**r.job, "buffers": buffers})
        arrays |= {f"{number}_{name}": a for name, a in r.arrays.items()}
    np.savez(folder / "in.npz", **arrays)
    (folder / "job.json").write_text(json.dumps(jobs))
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = {**os.environ, "TRITON_INTERPRET": "1", **threads}
    command = [sys.executable, str(HERE / "triton_worker.py"), str(folder)]
    subprocess.run(command, env=environment, check=True, timeout=280)
    said = json.loads((folder / "out.json").read_text())
    with np.load(folder / "out.npz") as outs:
        for number, r in enumerate(runs):
            r.complaints = said[number]
            r.outs = {n: outs[f"{number}_{n}"] for n in r.wanted if f"{number}_{n}" in outs}


def judge(r: Run, smooth: bool = True, slack: float = 2.0) -> None:
    """Fail unless a run gave what it should. With ``smooth`` errors count against the typical size of the results.

    Where rounding every value to its dtype moves results, a kernel may be off by a few times as much; where it makes
    or unmakes an infinity or a NaN, the element says nothing.
    """
    assert not r.complaints, f"{r.label}: {r.complaints}"
    for n, (wanted, t) in r.wanted.items():
        got = r.outs[n]
        assert got.shape == wanted.shape, r.label
        if not t.is_float:
            wrong = got != wanted
            assert not wrong.any(), f"{r.label}, buffer {n}: {got[wrong][:4]} for {wanted[wrong][:4]}"
            continue
        wanted = np.where(np.isfinite(wanted), round_to(wanted, t), wanted)
        finite = np.abs(wanted[np.isfinite(wanted)])
        with np.errstate(all="ignore"):
            typical = finite.mean() if finite.size and smooth else 0.0
            scale = np.maximum(np.abs(wanted), typical)
            error = np.abs(got - wanted) / np.where(scale == 0, 1.0, scale)
            near = np.asarray(r.rounded.get(n, wanted))
            settled = np.isfinite(near) == np.isfinite(wanted)
            drift = np.abs(near - wanted) / np.where(scale == 0, 1.0, scale)
        drifts = drift[np.isfinite(drift)]
        allowed = slack * ROUNDING[t.name] + 8 * (drifts.max() if drifts.size else 0.0)
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted)) | ~settled
        wrong = ~(same | (error <= allowed))
        assert not wrong.any(), f"{r.label}, buffer {n}: {got[wrong][:4]} for {wanted[wrong][:4]}"
