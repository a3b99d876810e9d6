"""From a rule's refusal to a diagnostic: labels under the guilty parts of the expression, where the names
come from, advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.diag import Diagnostic, ExpressionParts, Help, Label, Note, Span, TraceError, expression_parts
from tessera.frontend.accept import in_words
from tessera.frontend.handles import TensorHandle
from tessera.frontend.session import Call, InnerRefused, Session, Undescribed
from tessera.frontend.suggest import suggestions
from tessera.ir.dialects.calls import rename_keywords
from tessera.ir.dim import Dim
from tessera.ir.graph import Literal, Operand, Value
from tessera.ir.infer import Blame, Refused
from tessera.ir.record import Kind

#: What stands to the right of `=`, up to a comment.
_ASSIGNED = re.compile(r"\s*=\s*([^#]+?)\s*(?:#.*)?$")
#: Longer expressions are not repeated in a label.
LONGEST_NAME = 32


@dataclass(frozen=True, slots=True)
class Place:
    """One tensor argument of a call: the object, where it stands in the source, and how to call it."""

    handle: TensorHandle
    span: Span | None
    name: str


def report(session: Session, call: Call, error: Exception) -> None:
    """Put what went wrong in a call on the session."""
    if isinstance(error, InnerRefused):
        found = _refused(session, call, error.refused, error.operands, error)
        session.fail(error.refused.cls, found, _roots(session, error.refused, error.operands))
    elif isinstance(error, Refused):
        operands: Sequence[Operand] = error.operands or _given(session, call)
        session.fail(error.cls, _refused(session, call, error, operands, None), _roots(session, error, operands))
    else:
        labels = () if call.span is None else (Label(call.span, "called here", True),)
        code = "TSR0402" if isinstance(error, Undescribed) else "TSR0404"
        record = session.table.records.get(call.name)
        notes = (Note(f"its signature is {call.name}({record.signature})"),) if record and record.signature else ()
        session.fail(TraceError, Diagnostic(code, in_words(call.name, error), labels, notes))


def _given(session: Session, call: Call) -> list[Operand]:
    """What the parameters of a record were given, in their order; a number stands for all that is no tensor."""
    record = session.table.records.get(call.name)
    if record is None or any(p.kind == "tensors" or p.variadic for p in record.params):
        return [x._value for x in _tensors(call.args)]
    named = rename_keywords(record, call.kwargs)
    given = [*call.args, *(named.get(p.name) for p in record.params[len(call.args) :])]
    return [x._value if isinstance(x, TensorHandle) else Literal(0) for x in given]


def _tensors(args: Sequence[Any]) -> Iterator[TensorHandle]:
    for x in args:
        if isinstance(x, TensorHandle):
            yield x
        elif isinstance(x, tuple | list):
            yield from (member for member in x if isinstance(member, TensorHandle))


def _refused(
    session: Session, call: Call, refused: Refused, operands: Sequence[Operand], inner: InnerRefused | None
) -> Diagnostic:
    places = list(argument_places(call))
    code, helps = suggestions(session, call, refused, operands, inner, places)
    labels: list[Label] = []
    sources = [_source(session, x, places) for x in operands]
    placed = [blame for blame in refused.blame if _has_place(blame, sources, places)]
    for blame in placed + [blame for blame in refused.blame if blame not in placed]:
        label = _label(call, _seen(blame, operands, sources), sources, places)
        if label is not None and all((label.span, label.text) != (old.span, old.text) for old in labels):
            labels.append(label)
    if call.span is not None and not labels:
        labels.append(Label(call.span, "", True))
    if call.name == "setitem" and call.span is not None and all(label.span != call.span for label in labels):
        labels.append(Label(call.span, "assigned to"))
    if labels:
        labels[0] = Label(labels[0].span, labels[0].text, True)
    notes = [*_origins(session, _dims(refused, operands)), *(Note(text) for text in refused.notes)]
    if inner is not None and inner.record.name != call.name and call.name not in ("getitem", "setitem"):
        written = call.name if call.form == "operator" else f"{call.name}"
        if inner.record.name not in ("cast",) and _composite(session, call):
            notes.append(Note(f"inside `{written}`, at its `{inner.record.name}`"))
    tried = inner is not None and inner.record.kind is Kind.CONTRACT
    own = not helps and not tried and (not _composite(session, call) or len(placed) == len(refused.blame))
    all_helps = [*helps, *(Help(text) for text in refused.helps if own)]
    return Diagnostic(code or refused.code, refused.message, tuple(labels), tuple(notes), tuple(all_helps))


def _source(session: Session, operand: Operand, places: Sequence[Place]) -> Operand:
    """The argument whose elements an operand inside a composite has, when it is one of the call's."""
    wanted = {p.handle._value for p in places}
    value: Operand = operand
    for op in reversed(session.builder.ops):
        if value in wanted:
            return value
        if op.results[0] is value and op.record.kind in (Kind.VIEW, Kind.MAP) and len(op.operands) == 1:
            value = op.operands[0]
    return value if value in wanted else operand


def _roots(session: Session, refused: Refused, operands: Sequence[Operand]) -> list[str]:
    """The arguments whose elements the blamed operands are."""
    makers = {result: op for op in session.builder.ops for result in op.results}
    found: list[str] = []
    for blame in refused.blame:
        value = operands[blame.operand] if blame.operand is not None and 0 <= blame.operand < len(operands) else None
        while isinstance(value, Value) and (op := makers.get(value)) is not None:
            value = op.operands[0] if op.record.kind is Kind.VIEW else None
        if isinstance(value, Value) and value in session.param_names:
            found.append(session.param_names[value])
    return found


def _composite(session: Session, call: Call) -> bool:
    record = session.table.records.get(call.name)
    return record is not None and record.infer is None


def _label(call: Call, blame: Blame, operands: Sequence[Operand], places: Sequence[Place]) -> Label | None:
    """A label under the blamed operand; under the whole expression when it has no place of its own."""
    if call.span is None:
        return None
    place = _place_of(blame, operands, places)
    if place is None:
        return _bearer(blame, operands, places) or Label(call.span, blame.text)
    if place.span is None:
        return Label(call.span, _said_of(blame, place.name))
    return Label(place.span, _said_of(blame, place.name))


def _seen(blame: Blame, operands: Sequence[Operand], sources: Sequence[Operand]) -> Blame:
    """What is said of an operand, as it looks where the user wrote it: a composite may have turned it around."""
    n = blame.operand
    if n is None or blame.axis is None or not 0 <= n < len(operands) or operands[n] is sources[n]:
        return blame
    size, source = operands[n].type.dims[blame.axis], sources[n]
    dims = source.type.dims if isinstance(source, Value) else ()
    return Blame(n, dims.index(size), f"`{size}`, {_which(dims.index(size), len(dims))}") if size in dims else blame


def _which(axis: int, rank: int) -> str:
    return "last dim" if axis == rank - 1 else f"dim {axis}"


def _has_place(blame: Blame, operands: Sequence[Operand], places: Sequence[Place]) -> bool:
    place = _place_of(blame, operands, places)
    return place is not None and place.span is not None


def _bearer(blame: Blame, operands: Sequence[Operand], places: Sequence[Place]) -> Label | None:
    """A label under the argument that a size came in with, for an operand that a composite made on the way."""
    operand = operands[blame.operand] if blame.operand is not None and 0 <= blame.operand < len(operands) else None
    if not isinstance(operand, Value) or blame.axis is None:
        return None
    size = operand.type.dims[blame.axis]
    for place in places:
        dims = place.handle._value.type.dims
        if place.span is not None and not size.is_const and size in dims:
            said = f"`{size}`, {_which(dims.index(size), len(dims))}"
            return Label(place.span, said + (f" of `{place.name}`" if place.name else ""))
    return None


def _place_of(blame: Blame, operands: Sequence[Operand], places: Sequence[Place]) -> Place | None:
    if blame.operand is None or not 0 <= blame.operand < len(operands):
        return None
    wanted = operands[blame.operand]
    found = [p for p in places if p.handle._value is wanted]
    if len(found) > 1:  # the same tensor twice: take the operand's own position
        same = [n for n, x in enumerate(operands) if x is wanted]
        return found[min(same.index(blame.operand) if blame.operand in same else 0, len(found) - 1)]
    return found[0] if found else None


def _said_of(blame: Blame, name: str) -> str:
    """What a rule says about an operand, with the operand's name in it."""
    text = blame.text
    if not name:
        return text
    if text.startswith("`"):
        return f"{text} of `{name}`" if "dim" in text or blame.axis is not None else f"{text}, `{name}`"
    return f"`{name}` {text}" if text else f"`{name}`"


# ---- where arguments stand -------------------------------------------------------------------------------


def argument_places(call: Call) -> Iterator[Place]:
    """The tensor arguments of a call with their places in the source, one level of nesting deep."""
    parts = None if call.span is None else expression_parts(call.span)
    if call.form == "subscript":
        yield from _subscripted(call, parts)
        return
    if parts is not None and _through_another(call, parts):
        yield from _passed_on(call, parts)
        return
    for n, x in enumerate(call.args):
        yield from _argument(x, _positional(call, parts, n))
    for n, (key, x) in enumerate(call.kwargs.items(), len(call.args)):
        span = None if parts is None else parts.keywords.get(key)
        # A library may have given names to what is written without.
        yield from _argument(x, span or (_positional(call, parts, n) if call.form == "function" else None))


def _through_another(call: Call, parts: ExpressionParts) -> bool:
    """Whether the function is called by code that the source only names: ``self.fc(x)`` is a module."""
    if call.form != "function" or parts.kind != "call":
        return False
    known = {call.name, getattr(call.function, "__name__", "")}
    given, written = len(call.args) + len(call.kwargs), len(parts.operands) + len(parts.keywords)
    return parts.operator.split(".")[-1] not in known and given != written


def _passed_on(call: Call, parts: ExpressionParts) -> Iterator[Place]:
    """Of what is written, the variables that reach the function unchanged; the rest has no place."""
    written = {span.text(): span for span in (*parts.operands, *parts.keywords.values())}
    for x in _tensors((*call.args, *call.kwargs.values())):
        span = written.get(x._value.name)
        yield Place(x, span, x._value.name if span is not None else "")


def _subscripted(call: Call, parts: ExpressionParts | None) -> Iterator[Place]:
    """``x[i, j]`` and ``x[i, j] = value``: the value assigned stands outside the expression that is known."""
    x, key, *value = call.args
    items = key if isinstance(key, tuple) else (key,)
    spans = [] if parts is None or parts.kind != "subscript" else list(parts.operands)
    for n, one in enumerate((x, *items)):
        yield from _argument(one, spans[n] if n < len(spans) else None)
    for one in value:
        yield from _argument(one, None if call.span is None else _assigned(call.span))


def _assigned(target: Span) -> Span | None:
    """The expression to the right of an assignment on one line."""
    line = target.source_line()
    if line is None or target.end_line != target.line:
        return None
    found = _ASSIGNED.match(line, target.end_column)
    if found is None:
        return None
    span = Span(target.file, target.line, found.start(1), target.line, found.end(1), target.function)
    return span if found[1].isidentifier() or expression_parts(span) is not None else None


def _argument(x: Any, span: Span | None) -> Iterator[Place]:
    if isinstance(x, TensorHandle):
        yield Place(x, span, name_at(span, x))
    elif isinstance(x, tuple | list):
        inner = None if span is None else expression_parts(span)
        for n, member in enumerate(x):
            if isinstance(member, TensorHandle):
                at = inner.operands[n] if inner and inner.kind == "sequence" and n < len(inner.operands) else span
                yield Place(member, at, name_at(at, member))


def _positional(call: Call, parts: ExpressionParts | None, place: int) -> Span | None:
    if parts is None:
        return None
    operands = list(parts.operands)
    if parts.receiver is not None and _is_method(call, parts):
        operands = [parts.receiver, *(parts.operands if parts.kind == "call" else ())]
    elif call.form == "operator" and parts.kind not in ("binary", "unary", "compare"):
        return None
    return operands[place] if place < len(operands) else None


def _is_method(call: Call, parts: ExpressionParts) -> bool:
    """Whether the receiver in the source is the first argument, and not a module that the function is in."""
    if parts.kind != "call" or parts.receiver is None:
        return True
    given, written = len(call.args) + len(call.kwargs), len(parts.operands) + len(parts.keywords)
    words = (parts.receiver.text() or "").split(".")
    if call.code is None or not all(map(str.isidentifier, words)):
        return given != written
    known = (*call.code.co_varnames, *call.code.co_cellvars, *call.code.co_freevars)
    return words[0] in known and given != written


def name_at(span: Span | None, handle: TensorHandle) -> str:
    """How to call an argument in a message: its source text when that is short."""
    text = None if span is None else span.text()
    if text is not None and len(text) <= LONGEST_NAME and "\n" not in text:
        return text
    return handle._value.name if span is None else ""


# ---- where names come from -------------------------------------------------------------------------------


def _dims(refused: Refused, operands: Sequence[Operand]) -> list[Dim]:
    """The sizes that the refusal is about."""
    found: list[Dim] = []
    for blame in refused.blame:
        if blame.operand is None or not 0 <= blame.operand < len(operands):
            continue
        operand = operands[blame.operand]
        dims = operand.type.dims if isinstance(operand, Value) else ()
        found.extend(dims if blame.axis is None else dims[blame.axis : blame.axis + 1 or None])
    return found


def _origins(session: Session, dims: Sequence[Dim]) -> list[Note]:
    """Where each name in the sizes was bound, at most four."""
    names = dict.fromkeys(n for d in dims for n in sorted(d.names()))
    notes = (origin(session, name) for name in names)
    return [note for note in notes if note is not None][:4]


def origin(session: Session, name: str) -> Note | None:
    """Where a dim name was bound, in the function being traced or one that it calls."""
    found = (scope.origin(name) for scope in session.scopes)
    return next((note for note in found if note is not None), None)
