"""A function of the IR carried out in a trace: its operations, with its sizes as they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tessera.diag import Diagnostic, Label, ShapeError
from tessera.frontend.handles import SizeHandle
from tessera.frontend.invert import invert
from tessera.frontend.session import Session
from tessera.ir.dim import Dim
from tessera.ir.graph import Function, Literal, Operand, Value, substituted
from tessera.ir.types import TensorType


def replay(
    session: Session, f: Function, arguments: Sequence[Any], sizes: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Any, ...]:  # fmt: skip
    """The results of a function for arguments of its parameters' types, as the running trace has them. What it needs of
    its sizes, some of which are given by name, is asked of the trace.
    """
    given = [session.operand(x) for x in arguments]
    names = _names(f, given, {name: x._dim if isinstance(x, SizeHandle) else Dim.const(x) for name, x in sizes.items()})
    env: dict[Value, Operand] = dict(zip(f.params, given, strict=True))
    for o in f.obligations:
        session.context.span = o.span
        left, right = o.left.substitute(names), o.right.substitute(names)
        if not session.context.holds(o.kind, left, right, o.why):
            labels = () if o.span is None else (Label(o.span, o.why or "needed here", True),)
            session.fail(ShapeError, Diagnostic("TSR0105", f"`{f.name}` needs {o}, which does not hold", labels))
            return tuple(session.poison for _ in f.outputs)
    for op in f.ops:
        operands = tuple(_operand(x, env, names) for x in op.operands)
        attrs = MappingProxyType({k: substituted(v, names) for k, v in op.attrs.items()})
        hint = op.results[0].name
        made = session.builder.emit(op.record, operands, attrs, span=op.span, origin=op.origin, hint=hint)
        env.update(zip(op.results, made, strict=True))
    return tuple(session.wrap(session, y) if isinstance(y := _operand(x, env, names), Value) else x for x in f.outputs)


def _names(f: Function, given: Sequence[Operand], known: Mapping[str, Dim]) -> dict[str, Dim]:
    """What the names of a function's sizes are in types of arguments."""
    pairs = [pair for p, x in zip(f.params, given, strict=True) if isinstance(p.type, TensorType)
             for pair in zip(p.type.dims, x.type.dims, strict=True)]  # fmt: skip
    return solved_names(pairs, known)


def solved_names(pairs: Sequence[tuple[Dim, Dim]], known: Mapping[str, Dim]) -> dict[str, Dim]:
    """What names of sizes are where each of these expressions is another: plain dims first, then those of expressions;
    of several that only stand together all but the last are 1.
    """
    found = {str(d): have for d, have in reversed(pairs) if d.is_name} | dict(known)
    for d, have in pairs:
        unknown = sorted(d.names() - found.keys())
        if unknown:
            found.update(dict.fromkeys(unknown[:-1], Dim.const(1)))
            found[unknown[-1]] = invert(d, unknown[-1], have, found) or Dim.name(unknown[-1])
    return found


def _operand(x: Operand, env: Mapping[Value, Operand], names: Mapping[str, Dim]) -> Operand:
    if isinstance(x, Value):
        return env[x]
    return Literal(x.value.substitute(names)) if isinstance(x.value, Dim) else x
