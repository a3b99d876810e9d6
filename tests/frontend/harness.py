"""Trace a Python function and run what comes out in the interpreter, beside the function itself in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tessera.backends.eager import run_function
from tessera.backends.eager.table import TorchTable
from tessera.diag import Diagnostic, TesseraError
from tessera.frontend.binding import Bound, bind_arguments
from tessera.frontend.check import CheckReport, check
from tessera.frontend.spec import FunctionSpec
from tessera.frontend.trace import Traced, trace
from tessera.frontend.tree import flatten, unflatten
from tessera.frontend.unifying import CallTypes, call_types, check_call
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, f32, f64
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.types import TensorType
from tessera.ir.verify import verify

TABLE = TorchTable()


def T(*dims: str | int | Dim, dtype: DType = f32) -> TensorType:
    """A tensor type from names and numbers."""
    return TensorType(dtype, tuple(Dim.of(d) for d in dims))


def checked(f: Callable[..., Any]) -> CheckReport:
    return check(FunctionSpec.of(f), TABLE)


def faults(f: Callable[..., Any]) -> tuple[Diagnostic, ...]:
    return checked(f).diagnostics


def only(f: Callable[..., Any]) -> Diagnostic:
    """The one fault that the check finds."""
    (found,) = faults(f)
    return found


def traced(f: Callable[..., Any], *inputs: Any, **options: Any) -> Traced:
    found = trace(FunctionSpec.of(f), inputs, table=TABLE, **options)
    well_formed(found)
    return found


def bound_call(spec: FunctionSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bound, CallTypes]:
    """Bind and unify a call of concrete tensors."""
    bound = bind_arguments(spec, args, kwargs)
    shapes = [tuple(leaf.value.shape) for leaf in bound.tensors]
    dtypes = [TABLE.tensor_type(leaf.value).dtype for leaf in bound.tensors]
    sizes = check_call(spec, bound, shapes, dtypes)
    scalar = f64 if f64 in dtypes else f32
    return bound, call_types(bound, sizes, shapes, dtypes, scalar)


def trace_call(f: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Bound, CallTypes, Traced]:
    spec = FunctionSpec.of(f)
    bound, types = bound_call(spec, args, kwargs)
    found = trace(
        spec, types.inputs, table=TABLE, hints=types.hints, tree=bound.tree, flexible=types.flexible,
        scalars=types.scalars, leads=types.leads, device=torch.device("cpu"),
    )  # fmt: skip
    well_formed(found)
    return bound, types, found


def well_formed(found: Traced) -> None:
    """What the tracer makes passes the verifier, and its text reads back to the same function."""
    verify(found.function, level="full")
    assert parse(print_function(found.function)) == found.function


def run(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the traced function computes, in the structure that the Python function returns; floats in f64."""
    bound, types, found = trace_call(f, *args, **kwargs)
    inputs: list[Any] = []
    for source in found.inputs:
        if source.kind == "leaf":
            value = bound.leaves[source.leaf].value
        else:
            value = source.captured if source.kind == "capture" else 0
        inputs.append(value.detach().numpy() if isinstance(value, torch.Tensor) else value)
    if any(op.name == "library_call" for op in found.function.ops):
        given = [torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in inputs]
        results = [r.numpy() for r in run_function(found.function, given, sizes=types.hints)]
    else:
        results = interpret(found.function, inputs, sizes=types.hints)
    leaves = [
        results[o.place] if o.kind == "tensor" else o.value.evaluate(types.hints) if o.kind == "size" else o.value
        for o in found.outputs
    ]
    return unflatten(found.out_tree, leaves)


def agrees(f: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """The traced function gives what the Python function gives on torch tensors, in the same structure."""
    copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    expected, tree = flatten(f(*copies, **kwargs))
    actual, other = flatten(run(f, *args, **kwargs))
    assert len(expected) == len(actual), (tree, other)
    for want, have in zip(expected, actual, strict=True):
        if isinstance(want, torch.Tensor):
            assert tuple(want.shape) == np.shape(have)
            np.testing.assert_allclose(
                np.asarray(have, dtype=np.float64), want.detach().double().numpy(), rtol=1e-5, atol=1e-5
            )
        else:
            assert want == have


def code_of(error: TesseraError) -> list[str]:
    return list(error.codes)
