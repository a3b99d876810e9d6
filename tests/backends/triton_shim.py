"""Makes Triton's interpreter right for what generated kernels use, in a process that only interprets.

Triton's own interpreter keeps bf16 and 8-bit floats as bit patterns and converts them wrongly, knows no
math library, and folds with a combine function one element at a time. ``install`` replaces those parts;
it must run before the first launch, with TRITON_INTERPRET=1 set before Triton is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter

Handle = interpreter.TensorHandle
Builder = interpreter.InterpreterBuilder

#: Floats that the interpreter holds as unsigned integers.
NARROW = {
    "bf16": torch.bfloat16,
    "fp8e4nv": torch.float8_e4m3fn,
    "fp8e5": torch.float8_e5m2,
}


def widened(bits: np.ndarray, name: str) -> np.ndarray:
    """The values that bit patterns of a narrow float stand for, as f32."""
    flat = torch.from_numpy(np.ascontiguousarray(bits).reshape(-1)).view(NARROW[name])
    return flat.to(torch.float32).numpy().reshape(bits.shape)


def narrowed(values: np.ndarray, name: str) -> np.ndarray:
    """Bit patterns of the nearest narrow floats, ties to even; 8-bit floats saturate."""
    flat = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    kind = NARROW[name]
    if name != "bf16":
        flat = flat.clamp(torch.finfo(kind).min, torch.finfo(kind).max)
    bits = torch.uint16 if name == "bf16" else torch.uint8
    return flat.to(kind).view(bits).numpy().reshape(values.shape)


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    def cast(self: Any, source: Any, to: Any, *rest: Any) -> Any:
        old, new = source.dtype.scalar, to.scalar
        if old.name not in NARROW and new.name not in NARROW:
            with np.errstate(all="ignore"):
                return original(self, source, to, *rest)
        values = widened(source.data, old.name) if old.name in NARROW else source.data
        if new.name in NARROW:
            return Handle(narrowed(values, new.name), new)
        return Handle(values.astype(interpreter._get_np_dtype(new)), new)

    return cast


def _dot(original: Callable[..., Any]) -> Callable[..., Any]:
    """Products of narrow floats are those of their values."""

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = [
            Handle(widened(x.data, x.dtype.scalar.name), tl.float32) if x.dtype.scalar.name in NARROW else x
            for x in (a, b)
        ]
        return original(self, *wide, *rest)

    return dot


def _reduce(self: Any, inputs: tuple[Any, ...]) -> list[Any]:
    """Fold halves of the axis onto each other; lengths are powers of two."""
    axis = self.axis
    arrays = [x.handle.data for x in inputs]
    while arrays[0].shape[axis] > 1:
        half = arrays[0].shape[axis] // 2
        # Neighbours join first, as they do inside a thread.
        pairs = [a.reshape(*a.shape[:axis], half, 2, *a.shape[axis + 1 :]) for a in arrays]
        first, second = ([np.take(p, n, axis=axis + 1) for p in pairs] for n in (0, 1))
        joined = self.combine_fn.fn(
            *(_tensor(a, x) for a, x in zip([*first, *second], [*inputs, *inputs], strict=True))
        )
        arrays = [np.asarray(t.handle.data) for t in (joined if isinstance(joined, tuple) else (joined,))]
    if not self.keep_dims:
        arrays = [np.squeeze(a, axis) for a in arrays]
    return [self.to_tensor(a if a.shape else a.item(), x.dtype) for a, x in zip(arrays, inputs, strict=True)]


def _tensor(data: np.ndarray, like: Any) -> Any:
    scalar = like.dtype.scalar if hasattr(like.dtype, "scalar") else like.dtype
    return tl.tensor(Handle(np.ascontiguousarray(data), scalar), tl.block_type(scalar, list(data.shape)))


def _in_double(function: Callable[..., Any]) -> Callable[..., Any]:
    """A library function: computed in double precision, rounded once."""

    def run(*args: Any, _semantic: Any = None, **_: Any) -> Any:
        tensors = [interpreter.interpreter_semantic.to_tensor(a) for a in args]
        widest = max(tensors, key=lambda t: (t.dtype.primitive_bitwidth, len(t.shape)))
        arrays = np.broadcast_arrays(*(np.asarray(t.handle.data, np.float64) for t in tensors))
        if function is torch.nextafter:
            arrays = [a.astype(widest.handle.data.dtype) for a in arrays]
        with np.errstate(all="ignore"):
            out = function(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)).numpy()
            data = np.asarray(out).astype(widest.handle.data.dtype)
        shaped = next((t for t in tensors if t.type.is_block()), None)
        scalar = widest.dtype
        kind = scalar if shaped is None else tl.block_type(scalar, list(data.shape))
        return tl.tensor(Handle(data, scalar), kind)

    return run


_LIBRARY: dict[str, Callable[..., torch.Tensor]] = {
    **{
        name: getattr(torch, name)
        for name in (
            "exp",
            "exp2",
            "expm1",
            "log",
            "log2",
            "log10",
            "log1p",
            "sin",
            "cos",
            "tan",
            "asin",
            "acos",
            "atan",
            "sinh",
            "cosh",
            "tanh",
            "asinh",
            "acosh",
            "atanh",
            "erf",
            "erfc",
            "erfinv",
            "lgamma",
            "trunc",
            "atan2",
            "copysign",
            "hypot",
            "fmod",
            "pow",
            "rsqrt",
        )
    },
    "rint": torch.round,
    "nextafter": torch.nextafter,
    "cyl_bessel_i0": torch.special.i0,
    "cyl_bessel_i1": torch.special.i1,
}


def _compared(original: Callable[..., Any]) -> Callable[..., Any]:
    """Comparisons give bools, not values of their operands' type."""

    def run(self: Any, left: Any, right: Any, op: Any) -> Any:
        out = original(self, left, right, op)
        return Handle(out.data, tl.int1) if out.data.dtype == np.bool_ else out

    return run


class _Patched:
    """A scope that keeps its patches, and the globals of a function that uses the whole language."""

    __globals__: ClassVar[dict[str, Any]] = {"tl": tl, "core": tl.core}

    def restore(self) -> None:
        pass


def _quiet(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"):
            return original(*args, **kwargs)

    return call


def install() -> None:
    """Replace the wrong parts, for the life of the process."""
    from triton.language.extra import libdevice

    cast = _cast(Builder.cast_impl)
    Builder.cast_impl = cast
    Builder.create_fp_to_fp = cast
    Builder.create_dot = _dot(Builder.create_dot)
    Builder.binary_op = _compared(Builder.binary_op)
    interpreter.ReduceOps.generic_reduce = _reduce
    for name, function in _LIBRARY.items():
        setattr(libdevice, name, _in_double(function))
    interpreter.GridExecutor.__call__ = _quiet(interpreter.GridExecutor.__call__)
    # The language is patched at every call of every function; here nothing ever needs it unpatched.
    interpreter._patch_lang(_Patched())
    interpreter._patch_lang = lambda fn: _Patched()
    # Assertions on indices are part of what is tested.
    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = dataclasses.replace(options, debug=True, sanitize_overflow=False)
