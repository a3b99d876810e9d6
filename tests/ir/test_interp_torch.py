"""The interpreter against torch in float64, for every sample of every record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch

from tessera.ir.dialects.samples import SIZES, Size, T
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, is_dtype_name
from tessera.ir.dtype import dtype as as_dtype
from tessera.ir.graph import Operation, Value
from tessera.ir.interp import interpret
from tessera.ir.record import Kind, OpRecord, Sample
from tests.fuzz.build import Case, every_sample, flat, function_of

SAMPLES = every_sample()
TORCH = {
    "int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8,
    "uint32": torch.uint32, "uint64": torch.uint64, "bool": torch.bool,
}  # fmt: skip
NARROW = {
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
    "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2,
}  # fmt: skip


def tensor(x: np.ndarray, t: DType) -> torch.Tensor:
    """An array of the interpreter as torch sees it: floats in float64."""
    return torch.from_numpy(np.array(x)).to(torch.float64 if t.is_float else TORCH[t.name])


def torch_dtype(t: DType) -> torch.dtype:
    return torch.float64 if t.is_float else TORCH[t.name]


def direct(case: Case, sample: Sample, arrays: list[np.ndarray]) -> Any:
    """The torch function that the record names, called as the sample calls the record."""
    function = reduce(getattr, case.record.torch[0].split(".")[1:], torch)
    waiting = iter(zip(case.tensors, arrays, strict=False))

    def argument(x: Any) -> Any:
        if isinstance(x, T):
            t, a = next(waiting)
            return tensor(a, t.type)
        if isinstance(x, Size):
            return x.value()
        if isinstance(x, DType) or (isinstance(x, str) and is_dtype_name(x)):
            return torch_dtype(as_dtype(x))
        if isinstance(x, tuple | list):
            return type(x)(argument(y) for y in x)
        return x

    args = [argument(a) for a in sample.args]
    return function(*args, **{k: argument(v) for k, v in sample.kwargs.items()})


def stepwise(case: Case, arrays: list[np.ndarray]) -> list[Any]:
    """The primitives of the function, each as torch runs it."""
    f = case.function
    env: dict[Value, Any] = {p: tensor(a, p.type.dtype) for p, a in zip(f.params, arrays, strict=True)}
    for op in f.ops:
        found = run_op(op, [read(x, env) for x in op.operands])
        env.update(zip(op.results, found if isinstance(found, tuple | list) else [found], strict=True))
    return [read(x, env) for x in f.outputs]


def read(x: Any, env: Mapping[Value, Any]) -> Any:
    if isinstance(x, Value):
        return env[x]
    return x.value.evaluate(SIZES) if isinstance(x.value, Dim) else x.value


def run_op(op: Operation, operands: list[Any]) -> Any:
    attrs = {k: attribute(v) for k, v in op.attrs.items()}
    if op.record.eager is not None:
        return op.record.eager(torch, *operands, **attrs)
    try:
        return reduce(getattr, op.record.torch[0].split(".")[1:], torch)(*operands, **attrs)
    except (TypeError, RuntimeError) as error:
        if sum(p.is_operand for p in op.record.params) < 2:
            raise
        pytest.skip(f"torch takes numbers, of one sign, where `{op.name}` takes tensors: {error}")


def attribute(x: Any) -> Any:
    if isinstance(x, Dim):
        return x.evaluate(SIZES)
    if isinstance(x, DType):
        return NARROW.get(x.name) or TORCH[x.name]
    return tuple(map(attribute, x)) if isinstance(x, tuple) else x


def as_numpy(x: Any) -> np.ndarray:
    if not isinstance(x, torch.Tensor):
        return np.asarray(x)
    return x.to(torch.float64).numpy() if x.is_floating_point() else x.numpy()


def tolerance(case: Case) -> float:
    """Narrow floats round where a definition casts; torch's own constants and random numbers are f32."""
    kinds = [v.type.dtype for op in case.function.ops for v in (*op.inputs, *op.results)]
    narrow = [t for t in kinds if t.is_float and t.bits < 32]
    if narrow:
        return 2 * max(t.eps for t in narrow)
    made = any(op.record.kind is Kind.RANDOM for op in case.function.ops)
    floats = any(t.type.is_float for t in case.tensors)
    # A definition that computes in f64 rounds its result to f32.
    rounds = [op for op in case.function.ops if "dtype" in op.attrs and op.results[0].type.dtype.name == "f32"]
    cut = any(v.type.dtype.name == "f64" for op in rounds for v in op.inputs)
    return 1e-6 if made or cut or not floats else 1e-11


#: Records whose meaning depends on the width of their dtype, so that torch in float64 answers another question.
BY_WIDTH = {"nextafter": "the grid is that of f32", "rms_norm": "the default eps is that of f32",
            "polygamma": "torch is right to 1e-9"}  # fmt: skip


def wanted_of(case: Case, sample: Sample, arrays: list[np.ndarray]) -> list[Any]:
    """What torch says: its own function, or its primitives where the record's call is wider than torch's."""
    if case.record.torch and not case.seeded:
        try:
            return flat(direct(case, sample, arrays))
        except (TypeError, RuntimeError):
            pass
    return stepwise(case, arrays)


@pytest.mark.parametrize(("name", "number", "record", "sample"), SAMPLES, ids=[f"{s[0]}-{s[1]}" for s in SAMPLES])
def test_the_interpreter_agrees_with_torch(name: str, number: int, record: OpRecord, sample: Sample) -> None:
    case = function_of(record, sample)
    arrays = case.inputs()
    found = interpret(case.function, arrays, sizes=SIZES)
    wanted = wanted_of(case, sample, arrays)
    assert len(found) == len(wanted)
    rtol = max(1e-6 if name in BY_WIDTH else 0.0, tolerance(case))
    for got, want in zip(found, map(as_numpy, wanted), strict=True):
        assert got.shape == want.shape
        assert (got.dtype.kind == "f") == (want.dtype.kind == "f")
        scale = float(np.max(np.abs(want), initial=0.0, where=np.isfinite(want))) if want.size else 0.0
        np.testing.assert_allclose(got, want, rtol=rtol, atol=(rtol if rtol > 1e-9 else 1e-13) * max(scale, 1.0))
