"""Padding: the lanes of a block that lie beyond the end of what it was loaded from, and what depends on them.

A load that names no value for such lanes makes them padding. Padding may be carried along, may be chosen away, and may
enter a sum or a product where it adds nothing. What it changes is padding, too; where that is stored, the kernel lacks
a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tessera.diag import BoundsError, Label
from tessera.ir.graph import Operand, Operation, Value
from tessera.ir.interp.convert import Array, settle
from tessera.ir.interp.fold import fold
from tessera.ir.interp.memory import labels_of
from tessera.ir.interp.tensor import TensorMachine
from tessera.ir.record import Kind, Law


@dataclass(frozen=True)
class Pad:
    """The lanes of a value that are padding. ``cause`` is the operation that padding has changed on the way to it."""

    mask: Array
    cause: Operation | None = None


Pads = dict[Value, Pad]
#: The lanes of a result that are padding or depend on it, and whether padding has changed some of them.
_Found = tuple[Array, bool]


def follow(machine: TensorMachine, op: Operation, pads: Pads, results: Sequence[Array]) -> None:
    """Note which lanes of an operation's results are padding, or depend on it."""
    causes = [pads[x].cause for x in op.operands if isinstance(x, Value) and x in pads]
    rule = _RULES.get(op.record.kind)
    if not causes or rule is None:
        return
    mask, changed = rule(machine, op, pads, results)
    cause = next((c for c in causes if c is not None), op if changed else None)
    if mask.any():
        pads.update(dict.fromkeys(op.results, Pad(mask, cause)))


def refuse(op: Operation, pad: Pad, bad: Array, name: str) -> BoundsError:
    """The error for padding that is stored in the buffer ``name``; ``bad`` says at which lanes."""
    index = ", ".join(str(int(n)) for n in np.argwhere(bad)[0])
    labels = [Label(label.span, f"stored here, at [{index}]", pad.cause is None) for label in labels_of(op)]
    text = f"padding is stored in `{name}`, at [{index}]"
    if pad.cause is not None:
        what = f"padding changes this `{pad.cause.origin or pad.cause.name}`"
        labels = [*(Label(label.span, what, True) for label in labels_of(pad.cause)), *labels]
        text = f"{what}, which reaches `{name}`"
    helps = ["give the load a value with `other=`, such as -inf before a maximum, or mask with `tile.where`"]
    return BoundsError(text, code="TSR0612", labels=labels, helps=helps)


def _of(x: Operand, pads: Pads) -> Array | None:
    return pads[x].mask if isinstance(x, Value) and x in pads else None


def _map(machine: TensorMachine, op: Operation, pads: Pads, results: Sequence[Array]) -> _Found:
    shape = results[0].shape
    masks = [np.zeros((), bool) if (m := _of(x, pads)) is None else m for x in op.operands]
    if op.record.law is Law.CHOICE:
        cond, yes, no = op.operands[0], masks[1], masks[2]
        chosen = np.where(machine.read(cond, cond.type.dtype), yes, no)
        return np.broadcast_to(chosen | masks[0], shape), False
    found = np.zeros(shape, bool)
    for m in masks:
        found = found | m
    return found, False


def _moved(machine: TensorMachine, op: Operation, pads: Pads, results: Sequence[Array]) -> _Found:
    """What moves elements moves their padding: the operation itself, on ones where there is padding."""
    env: dict[Value, Array] = {}
    for number, x in enumerate(op.operands):
        if not isinstance(x, Value):
            continue
        real = machine.env[x]
        looked_up = op.record.kind is Kind.INDEX and number > 0
        mask = _of(x, pads)
        env[x] = real if looked_up else settle(np.zeros(real.shape, bool) if mask is None else mask, x.type.dtype)
    shadow = TensorMachine(machine.sizes, machine.exact, env)
    return np.asarray(shadow.operation(op)[0]) != 0, False


def _folded(machine: TensorMachine, op: Operation, pads: Pads, results: Sequence[Array]) -> _Found:
    x = op.operands[0]
    mask = _of(x, pads)
    assert isinstance(x, Value) and mask is not None and op.record.reduction is not None
    axes, keepdim = op.axes(), bool(op.attrs["keepdim"])
    mask = np.broadcast_to(mask, machine.env[x].shape)
    gone = mask.all(axis=axes, keepdims=keepdim)
    rows, pad = (_rows(a, axes) for a in (machine.env[x], mask))
    differs = np.zeros(gone.shape, bool)
    both = (fold(op.record.reduction, x.type.dtype, rows, valid) for valid in (None, ~pad))
    for a, b in zip(*both, strict=True):
        differs |= ~_same(np.asarray(a), np.asarray(b)).reshape(gone.shape)
    return gone | differs, bool((differs & ~gone).any())


def partly(op: Operation, pad: Pad, shape: tuple[int, ...]) -> Pad:
    """Where some lanes along the axes of an operation are padding and others are not, all of them depend on it."""
    mask = np.broadcast_to(pad.mask, shape)
    axes = op.axes()
    mixed = mask.any(axis=axes, keepdims=True) & ~mask.all(axis=axes, keepdims=True)
    return Pad(mask | mixed, pad.cause or (op if mixed.any() else None))


def _rows(a: Array, axes: Sequence[int]) -> Array:
    kept = [n for n in range(a.ndim) if n not in axes]
    moved = a.transpose(*kept, *axes)
    return moved.reshape(*(a.shape[n] for n in kept), int(np.prod([a.shape[n] for n in axes], dtype=np.int64)))


def _contracted(machine: TensorMachine, op: Operation, pads: Pads, results: Sequence[Array]) -> _Found:
    """Lanes all of whose terms are padding are padding, and those to which it adds something."""
    arrays = [machine.read(x, x.type.dtype) for x in op.operands]
    masks = [np.zeros(a.shape, bool) if (m := _of(x, pads)) is None else m
             for a, x in zip(arrays, op.operands, strict=True)]  # fmt: skip
    clean = [np.where(m, 0, a) for m, a in zip(masks, arrays, strict=True)]
    attrs = {k: machine.attribute(v) for k, v in op.attrs.items()}
    reference: Callable[..., Any] | None = op.record.reference
    assert reference is not None
    gone = np.zeros(results[0].shape, bool)
    for number, m in enumerate(masks):
        if m.any():
            ones = [np.ones(a.shape) for a in arrays]
            ones[number] = (~m).astype(np.float64)
            gone = gone | (np.asarray(reference(*ones, **attrs)) == 0)
    with np.errstate(all="ignore"):
        differs = ~_close(*(np.asarray(reference(*given, **attrs)) for given in (arrays, clean))) & ~gone
    return gone | differs, bool(differs.any())


def _same(a: Array, b: Array) -> Array:
    return (a == b) | ((a != a) & (b != b))


def _close(a: Array, b: Array) -> Array:
    """Equal up to the order of a sum."""
    with np.errstate(all="ignore"):
        return _same(a, b) | (np.abs(a - b) <= 1e-12 * (1 + np.abs(b)))


_RULES: Mapping[Kind, Callable[[TensorMachine, Operation, Pads, Sequence[Array]], _Found]] = {
    Kind.MAP: _map, Kind.VIEW: _moved, Kind.INDEX: _moved, Kind.REDUCE: _folded, Kind.CONTRACT: _contracted,
}  # fmt: skip

__all__ = ["Pad", "Pads", "follow", "refuse"]
