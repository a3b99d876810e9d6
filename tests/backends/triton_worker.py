"""A process that interprets generated kernels: ``python triton_worker.py JOB``, with TRITON_INTERPRET=1.

``JOB`` is a folder with ``job.json`` (runs: text, buffers, launches) and ``in.npz``; ``out.npz`` and
``out.json`` (what was complained about) are written next to them.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton.language as tl
import triton_check
import triton_shim
from triton.runtime.interpreter import TensorHandle

TORCH = {
    "f64": torch.float64,
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "bool": torch.bool,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
}


def buffer(spec: dict[str, Any], arrays: Any) -> torch.Tensor:
    """One buffer; what a kernel must write is filled with what it cannot mean."""
    kind, shape = TORCH[spec["dtype"]], spec["shape"]
    if spec["array"] is None:
        whole = torch.empty(math.prod(shape), dtype=kind)
        bytes_ = whole.view(torch.uint8) if kind is not torch.bool else whole
        bytes_.fill_(1 if kind is torch.bool else 0xFF)
        return whole.reshape(shape)
    values = torch.from_numpy(np.asarray(arrays[spec["array"]]))
    values = values.to(kind)
    if spec["strides"] is None:
        return values.contiguous()
    extent = sum((n - 1) * s for n, s in zip(shape, spec["strides"], strict=True)) + 1 if values.numel() else 0
    out = torch.empty(max(extent, 1), dtype=kind).as_strided(shape, spec["strides"])
    return out.copy_(values)


def scalar(x: float | int) -> tl.tensor:
    """A number with the type that the kernel's signature gives it; left to itself Triton makes floats f32."""
    kind, dtype = (tl.float64, np.float64) if isinstance(x, float) else (tl.int64, np.int64)
    return tl.tensor(TensorHandle(np.array([x], dtype), kind), kind)


def run(number: int, job: dict[str, Any], arrays: Any, folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    path = folder / f"kernel_{number}.py"
    path.write_text(job["text"], encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    buffers = [buffer(b, arrays) for b in job["buffers"]]
    complaints: list[str] = []
    for launch in job["launches"]:
        given = {"b": buffers, "s": [scalar(x) for x in job["scalars"]]}
        args = [given[kind][value] if kind in given else value for kind, value in launch["args"]]
        named = {f"b{n}": b for n, b in enumerate(buffers)}
        with triton_check.watching(named) as watch:
            getattr(module, launch["function"])[(launch["grid"],)](*args, **launch["constants"])
        complaints += [f"{launch['function']}: {c}" for c in watch.complaints]
    outs = {}
    for n, (b, s) in enumerate(zip(buffers, job["buffers"], strict=True)):
        if s["array"] is None or s.get("out"):
            outs[f"{number}_{n}"] = (b.double() if b.is_floating_point() else b).numpy()
    return outs, complaints


def main() -> None:
    folder = Path(sys.argv[1])
    triton_shim.install()
    jobs = json.loads((folder / "job.json").read_text())
    arrays = np.load(folder / "in.npz")
    outs: dict[str, np.ndarray] = {}
    said: list[list[str]] = []
    for number, job in enumerate(jobs):
        try:
            found, complaints = run(number, job, arrays, folder)
        except Exception as e:
            found, complaints = {}, [f"{type(e).__name__}: {e}"]
        outs |= found
        said.append(complaints)
    np.savez(folder / "out.npz", **outs)
    (folder / "out.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
