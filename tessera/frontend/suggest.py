"""Mechanical repairs for a refused operation. Each is tried out with the operation's own rule before it is
offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tessera.diag import Help, Span, TesseraError, expression_parts
from tessera.frontend.handles import Dropped
from tessera.frontend.session import Call, InnerRefused, Session
from tessera.ir.dim import Dim
from tessera.ir.graph import Operand, Value
from tessera.ir.infer import Refused
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType, Type

if TYPE_CHECKING:
    from tessera.frontend.blame import Place

#: Refusals about sizes and ranks that a repair of an operand's shape may cure.
_CURABLE = frozenset({"TSR0201", "TSR0202", "TSR0204", "TSR0206"})


def suggestions(
    session: Session,
    call: Call,
    refused: Refused,
    operands: Sequence[Operand],
    inner: InnerRefused | None,
    places: Sequence[Place],
) -> tuple[str, list[Help]]:
    """A better code where there is one (TSR0217), and the repairs that pass the rule, most likely first."""
    if inner is None or inner.record.infer is None or refused.code not in _CURABLE:
        return "", []
    types = [x.type for x in operands]
    fits = _tester(session, inner)
    by_value = {place.handle._value: place for place in places}
    found: list[tuple[tuple[int, int], Help]] = []
    contraction = inner.record.kind is Kind.CONTRACT
    for number, operand in enumerate(operands):
        place = by_value.get(operand) if isinstance(operand, Value) else None
        if place is None or not isinstance(types[number], TensorType):
            continue
        dropped = place.handle._dropped or _dropped_before(session, place.handle._value)
        widest = max(len(t.dims) for t in types if isinstance(t, TensorType))
        kept = None if dropped is None else _kept(types[number], dropped)
        here = dropped is not None and _same_function(dropped.span, call.span)
        small = here and kept is not None and kept.rank <= widest
        if dropped is not None and kept is not None and small and fits(_with(types, number, kept)):
            return "TSR0217", [_keepdim_help(dropped)]
        for after, new in _reshaped(types[number]):
            if new.rank <= widest and fits(_with(types, number, new)) is not None:
                # Weights stand second in a product; elsewhere it is the smaller operand that is to be fitted in.
                likely = -number if contraction else len(types[number].dims)
                found.append(((likely, len(found)), reshape_help(place, after, new)))
                break
    helps = [help_ for _, help_ in sorted(found, key=lambda one: one[0])]
    if contraction and len(types) == 2 and fits([types[1], types[0]]) is not None:
        helps.append(_order_help(call, inner, places))
    return "", helps[:3]


def _same_function(one: object, other: Span | None) -> bool:
    return isinstance(one, Span) and other is not None and (one.file, one.function) == (other.file, other.function)


def _dropped_before(session: Session, value: Value) -> Dropped | None:
    """A reduction that dropped a dim and whose result went through elementwise work since."""
    makers = {result: op for op in session.builder.ops for result in op.results}
    while value not in session.dropped:
        op = makers.get(value)
        whole = [] if op is None else [x for x in op.operands if isinstance(x, Value) and _rank(x) == _rank(value)]
        if op is None or op.record.kind is not Kind.MAP or len(whole) != 1:
            return None
        value = whole[0]
    return session.dropped[value]


def _rank(x: Value) -> int:
    return len(x.type.dims)


def _with(types: Sequence[Type], number: int, new: Type) -> list[Type]:
    return [new if n == number else t for n, t in enumerate(types)]


def _tester(session: Session, inner: InnerRefused) -> Callable[[Sequence[Type]], tuple[TensorType, ...] | None]:
    """Whether the refused operation takes these operand types; its attributes are kept."""
    record: OpRecord = inner.record
    attrs = inner.attrs

    def fits(types: Sequence[Type]) -> tuple[TensorType, ...] | None:
        assert record.infer is not None
        try:
            return record.infer(session.context.scratch(), tuple(types), attrs)
        except (Refused, TesseraError, IndexError, ValueError):
            return None

    return fits


def _kept(t: Type, dropped: Dropped) -> TensorType | None:
    """The type that the reduction would have given with ``keepdim=True``."""
    if not isinstance(t, TensorType):
        return None
    dims = list(t.dims)
    for axis in dropped.axes:
        if axis > len(dims):
            return None
        dims.insert(axis, Dim.const(1))
    return t.with_dims(dims)


def _keepdim_help(dropped: Dropped) -> Help:
    axes = ", ".join(map(str, dropped.axes))
    text = f"`{dropped.name}` dropped dim {axes}; with `keepdim=True` it stays as size 1 and broadcasts"
    span = dropped.span
    written = span.text() if isinstance(span, Span) else None
    if not isinstance(span, Span) or written is None or not written.endswith(")") or "keepdim" in written:
        return Help(text)
    line, column = span.end_line, span.end_column - 1
    return Help(text, Span(span.file, line, column, line, column), ", keepdim=True")


def _reshaped(t: Any) -> Iterator[tuple[str, TensorType]]:
    """Ways to give a tensor another shape without changing what it holds, as what is written behind it."""
    if t.rank >= 2:
        *lead, a, b = t.dims
        yield ".T" if t.rank == 2 else ".mT", t.with_dims((*lead, b, a))
    if t.rank >= 1:
        yield ".unsqueeze(-1)", t.with_dims((*t.dims, Dim.const(1)))
    if t.rank >= 2:
        yield ".unsqueeze(-2)", t.with_dims((*t.dims[:-1], Dim.const(1), t.dims[-1]))


def reshape_help(place: Place, after: str, new: TensorType) -> Help:
    """Advice to write something behind an operand; in brackets unless it binds as tightly."""
    written = None if place.span is None else place.span.text()
    if place.span is None or written is None:
        return Help(f"`{place.name}{after}` has type {new} and fits")
    parts = expression_parts(place.span)
    tight = written.isidentifier() or (parts is not None and parts.kind in ("call", "subscript", "attribute"))
    fixed = f"{written}{after}" if tight else f"({written}){after}"
    said = f"`{fixed}` has" if place.name else f"with `{after}` it has"
    return Help(f"{said} type {new} and fits", place.span, fixed)


def _order_help(call: Call, inner: InnerRefused, places: Sequence[Place]) -> Help:
    """Advice to exchange the two operands, spelled out where they stand side by side."""
    spans = [p.span for x in inner.operands for p in places if p.handle._value is x and p.span is not None]
    return exchange("the arguments fit in the other order", call.span, spans)


def exchange(text: str, whole: Span | None, spans: Sequence[Span]) -> Help:
    """Advice to exchange two parts of an expression; with the fix when all of it is on one line."""
    lines = {n for s in (*spans, whole) if s is not None for n in (s.line, s.end_line)}
    if whole is None or len(spans) != 2 or len(lines) != 1:
        return Help(text)
    (first, second), written = sorted(spans, key=lambda s: s.column), whole.text() or ""
    a, b, c, d = (n - whole.column for n in (first.column, first.end_column, second.column, second.end_column))
    return Help(text, whole, written[:a] + written[c:d] + written[b:c] + written[a:b] + written[d:])
