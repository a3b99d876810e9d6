"""Derivatives of library calls, made by the library: for each such record one more, its vector-Jacobian product.

``conv_vjp`` takes the operands of ``conv`` and a cotangent of its result and gives the cotangents of some operands;
``conv_vjp_vjp`` is the same for ``conv_vjp``, so that derivatives of derivatives exist as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tessera.ir.derive import Derivative, Point
from tessera.ir.dialects.shape import Attrs, Types, ints
from tessera.ir.infer import InferContext
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType

#: How often a library call can be differentiated.
ORDER = 2


def differentiable(record: OpRecord) -> tuple[OpRecord, ...]:
    """A library call with its derivatives, as records."""
    found: list[OpRecord] = []
    for _ in range(ORDER):
        vjp = _vjp(record)
        found.append(replace(record, derivative=_through(vjp.name)))
        record = vjp
    return (*found, record)


def _through(name: str) -> Derivative:
    def derivative(p: Point) -> tuple[Any, ...]:
        given = tuple(n for n, g in enumerate(p.cotangents) if g is not None and p.op.results[n].type.dtype.is_float)
        wrt = tuple(n for n, needed in enumerate(p.needs) if needed)
        operands = (*p.inputs, *(p.cotangents[n] for n in given))
        made = p.t.emit(name, operands, **p.attrs, **_level(p.attrs, given, wrt))
        parts = dict(zip(wrt, made if isinstance(made, tuple) else (made,), strict=True))
        return tuple(parts.get(n) for n in range(len(p.inputs)))

    return derivative


def _level(attrs: Attrs, given: tuple[int, ...], wrt: tuple[int, ...]) -> dict[str, Any]:
    """The attributes of one derivative more; those of a derivative before it keep their names."""
    n = sum(name.startswith("wrt") for name in attrs) + 1
    return {f"given{n}": given, f"wrt{n}": wrt}


def _vjp(record: OpRecord) -> OpRecord:
    level = record.name.count("_vjp") + 1
    given, wrt = f"given{level}", f"wrt{level}"
    own = ", ".join(f"{name}: any" for name in (*record.attr_names, given, wrt))

    def infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        return tuple(TensorType(types[n].dtype, types[n].dims) for n in ints(attrs[wrt]))

    def parts(operands: Sequence[Any], attrs: dict[str, Any]) -> tuple[list[Any], list[Any], tuple[int, ...], Any]:
        numbers, by = attrs.pop(given), attrs.pop(wrt)
        end = len(operands) - len(numbers)
        return list(operands[:end]), list(operands[end:]), numbers, by

    def eager(torch: Any, *operands: Any, **attrs: Any) -> Any:
        xs, cotangents, numbers, by = parts(operands, attrs)
        again = torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in operands)
        assert record.eager is not None
        with torch.enable_grad():
            for n in by:
                xs[n] = xs[n].view_as(xs[n]) if xs[n].requires_grad else xs[n].detach().requires_grad_()
            made = record.eager(torch, *xs, **attrs)
            results = made if isinstance(made, tuple | list) else (made,)
            wanted = [xs[n] for n in by]
            found = torch.autograd.grad(
                [results[n] for n in numbers], wanted, cotangents, create_graph=again, allow_unused=True
            )
        return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True))

    def reference(*operands: Any, **attrs: Any) -> Any:
        xs, cotangents, numbers, by = parts(operands, attrs)
        found = tuple(_probed(record, xs, n, cotangents, numbers, attrs) for n in by)
        return found if len(found) > 1 else found[0]

    opaque = record.attr_names[:1] == ("target",)
    return OpRecord(
        f"{record.name}_vjp", Kind.EXTERN, f"xs: tensors, *, {own}",
        f"The cotangents of operands of `{record.name}` from those of its results, made by the library.", infer,
        reference=record.reference if opaque else reference, eager=eager,
    )  # fmt: skip


def _probed(
    record: OpRecord, xs: list[Any], n: int, cotangents: list[Any], numbers: tuple[int, ...], attrs: dict[str, Any]
) -> Any:
    """One derivative of an operation that is affine in each operand: its differences at unit vectors from 0."""
    reference: Callable[..., Any] | None = record.reference
    assert reference is not None

    def at(x: Any) -> list[Any]:
        made = reference(*xs[:n], x, *xs[n + 1 :], **attrs)
        several = made if isinstance(made, tuple) else (made,)
        return [np.asarray(several[k], np.float64) for k in numbers]

    zero, out = np.zeros_like(xs[n]), np.zeros(np.shape(xs[n]), np.float64)
    base = at(zero)
    for place in np.ndindex(*np.shape(xs[n])):
        unit = zero.copy()
        unit[place] = 1
        out[place] = sum(float((g * (y - b)).sum()) for g, y, b in zip(cotangents, at(unit), base, strict=True))
    return out


__all__ = ["ORDER", "differentiable"]
