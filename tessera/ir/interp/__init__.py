"""The reference interpreter: any stage of either dialect, executed in NumPy float64. It is the oracle of
every test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tessera.diag import ShapeError
from tessera.ir.graph import Function, Value
from tessera.ir.interp.block import run_program
from tessera.ir.interp.convert import Array, round_to, settle
from tessera.ir.interp.memory import Memory
from tessera.ir.interp.namespace import NumpyNamespace
from tessera.ir.interp.sizes import bind_sizes, shape_of
from tessera.ir.interp.tensor import TensorMachine
from tessera.ir.interp.tile import TileMachine
from tessera.ir.types import BufferType, ScalarType, TensorType

__all__ = ["NumpyNamespace", "interpret"]

Number = bool | int | float
#: Roles of the buffers that a kernel is given with contents, and of those whose contents it makes.
_GIVEN, _MADE = ("in", "update"), ("out", "update")


def interpret(
    f: Function,
    inputs: Sequence[Array | Number],
    *,
    sizes: Mapping[str, int] | None = None,
    dtype_mode: str = "f64",
) -> list[Array]:
    """The results of a function, or the contents of a kernel's ``out`` and ``update`` buffers, in order.

    ``inputs`` follow the parameters; a kernel takes its ``in`` and ``update`` buffers and its scalars and makes the
    others itself. ``sizes`` binds names that no input has. Floats are float64 throughout; with ``dtype_mode="f64"``
    only an explicit cast to a narrower float rounds, with ``"storage"`` every value is rounded to its dtype.
    Integers have their own width and wrap around.

    Raises ShapeError for inputs that do not fit, BoundsError for an index outside, RaceError for a kernel
    whose result would depend on the order of its iterations, ResourceError (TSR0608) before allocating what
    is too large.

    >>> from tessera.ir.parser import parse
    >>> f = parse("fn f(x: f32[B, D]) -> f32[B] { %m = amax(x) over [D] : f32[B] return %m }")
    >>> interpret(f, [np.array([[1.0, 5.0], [7.0, 2.0]])])[0].tolist()
    [5.0, 7.0]
    """
    if dtype_mode not in ("f64", "storage"):
        raise ValueError(f"dtype_mode `{dtype_mode}`, not f64 or storage")
    exact = dtype_mode == "f64"
    taken = [p for p in f.params if not isinstance(p.type, BufferType) or p.type.role in _GIVEN]
    if len(inputs) != len(taken):
        raise ShapeError(f"`{f.name}` takes {len(taken)} inputs, not {len(inputs)}", code="TSR0105")
    arrays = {p: _array(p, x, exact) for p, x in zip(taken, inputs, strict=True)}
    shapes = [
        (p.name, p.type.dims, a.shape)
        for p, a in arrays.items()
        if isinstance(p.type, TensorType | BufferType)
    ]
    bound = bind_sizes(f, shapes, sizes)
    if f.dialect == "tile":
        return _kernel(f, arrays, bound, exact)
    if f.dialect == "block":
        made = run_program(f, arrays, bound, exact)
        return [made[p] for p in f.params if p in made]
    machine = TensorMachine(bound, exact, dict(arrays))
    return [np.array(x) for x in machine.run(f.body)]


def _array(p: Value, x: Array | Number, exact: bool) -> Array:
    if isinstance(p.type, ScalarType) and np.ndim(x):
        raise ShapeError(f"`{p.name}` is a number, not an array of rank {np.ndim(x)}", code="TSR0105")
    a = settle(x, p.type.dtype)
    return a if exact or not p.type.dtype.is_float else round_to(a, p.type.dtype)


def _kernel(f: Function, arrays: Mapping[Value, Array], sizes: dict[str, int], exact: bool) -> list[Array]:
    buffers: dict[Value, Memory] = {}
    shapes: dict[Value, tuple[int, ...]] = {}
    for p in f.params:
        if not isinstance(p.type, BufferType):
            continue
        shape = shapes[p] = arrays[p].shape if p in arrays else shape_of(p.type, sizes)
        for axis, stride in enumerate(p.type.strides or ()):
            if stride.is_name:
                sizes[str(stride)] = int(np.prod(shape[axis + 1 :], dtype=np.int64))
        if p in arrays:
            buffers[p] = Memory.given(p.name, p.type, arrays[p], exact)
        else:
            buffers[p] = Memory.fresh(p.name, p.type, int(np.prod(shape, dtype=np.int64)), exact)
    scalars = {p: a for p, a in arrays.items() if isinstance(p.type, ScalarType)}
    TileMachine(sizes, buffers, scalars, exact).run(f.body)
    outs = [(p, m) for p, m in buffers.items() if isinstance(p.type, BufferType) and p.type.role in _MADE]
    for p, m in outs:
        if m.written is not None and not m.written.all():
            missing = int(np.argmin(m.written))
            raise ShapeError(f"element {missing} of `{p.name}` is never written", code="TSR0105")
    return [m.data.reshape(shapes[p]) for p, m in outs]
