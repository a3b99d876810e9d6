"""Sample calls of the records at several sizes and with several kinds of numbers, and what eager torch makes of
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from tessera.backends.eager import run_function
from tessera.ir.dialects.samples import SIZES, Size, T
from tessera.ir.dtype import DType, is_dtype_name
from tessera.ir.dtype import dtype as as_dtype
from tessera.ir.graph import Function, Value
from tessera.ir.interp.convert import Array
from tessera.ir.record import Sample
from tessera.ir.types import TensorType
from tests.fuzz.build import Case, narrowed
from tests.ops import native

#: Values for the names of sample shapes. A sample runs at those that its obligations allow.
ASSIGNMENTS: Mapping[str, Mapping[str, int]] = {
    "samples": SIZES,
    "primes": {"B": 3, "S": 17, "T": 17, "D": 19, "H": 5, "K": 23, "M": 11, "N": 29, "P": 1},
    "block": {"B": 2, "S": 65, "T": 65, "D": 513, "H": 3, "K": 33, "M": 7, "N": 31, "P": 1},
    "ones": dict.fromkeys(SIZES, 1),
    "no batch": {**SIZES, "B": 0},
    "no rows": {**SIZES, "S": 0, "T": 0, "D": 0},
}

#: Kinds of numbers beside the sample's own, as a factor or as a rule.
KINDS = ("offset", "huge", "tiny", "denormal", "zeros", "special")
_SCALES: Mapping[str, Mapping[str, float]] = {
    "huge": {"f16": 3e3, "f64": 1e30, "f32": 1e30, "bf16": 1e30},
    "tiny": {"f16": 1e-3, "f64": 1e-30, "f32": 1e-30, "bf16": 1e-30},
    "denormal": {"f16": 1e-7, "f64": 1e-310, "f32": 1e-40, "bf16": 1e-39},
}


def altered(x: Array, t: DType, kind: str, rng: np.random.Generator) -> Array:
    """Sample contents turned into another kind of numbers; integers and bools stay as they are."""
    if not t.is_float or t.is_fp8:
        return x
    if kind == "offset":
        return narrowed(x + 1e4, t)
    if kind == "zeros":
        return np.where(rng.random(x.shape) < 0.5, -0.0, 0.0)
    if kind == "special":
        chosen = rng.choice(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0]), x.shape)
        return np.where(rng.random(x.shape) < 0.3, chosen, x)
    return narrowed(x * _SCALES[kind][t.name], t)


def admits(function: Function, sizes: Mapping[str, int]) -> bool:
    """Do the sizes keep what the function was traced under?"""
    return all(o.holds(sizes) for o in function.obligations)


def tensors(function: Function, arrays: Sequence[Any]) -> list[Any]:
    """The interpreter's inputs as torch tensors and Python numbers."""
    return [
        native.to_torch(a, p.type.dtype) if isinstance(p.type, TensorType) else _number(a, p)
        for a, p in zip(arrays, function.params, strict=True)
    ]


def _number(a: Any, p: Value) -> int | float:
    return float(a) if p.type.dtype.is_float else int(a)


def eager(case: Case, sample: Sample, given: Sequence[Any], sizes: Mapping[str, int]) -> list[torch.Tensor] | None:
    """torch's own function for the sample's call where the record names one that takes it; else its primitives.

    None where torch refuses both.
    """
    if case.record.torch and not case.seeded:
        try:
            found = flat(_direct(case, sample, given, sizes))
            if all(isinstance(x, torch.Tensor) for x in found):
                return found
        except Exception:
            pass
    try:
        return run_function(case.function, given, sizes=sizes)
    except Exception:
        return None


def _direct(case: Case, sample: Sample, given: Sequence[Any], sizes: Mapping[str, int]) -> Any:
    function = reduce(getattr, case.record.torch[0].split(".")[1:], torch)
    waiting = iter(given)

    def argument(x: Any) -> Any:
        if isinstance(x, T):
            return next(waiting)
        if isinstance(x, Size):
            return x.value(sizes)
        if isinstance(x, DType) or (isinstance(x, str) and is_dtype_name(x)):
            return native.torch_dtype(as_dtype(x))
        if isinstance(x, tuple | list):
            return type(x)(argument(y) for y in x)
        return x

    args = [argument(a) for a in sample.args]
    return function(*args, **{k: argument(v) for k, v in sample.kwargs.items()})


def flat(x: Any) -> list[Any]:
    """The leaves of nested sequences."""
    return [y for part in x for y in flat(part)] if isinstance(x, tuple | list) else [x]
