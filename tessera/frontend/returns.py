"""Does the result fit the return annotation? Names that only stand there are bound by what the body gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tessera.diag import Diagnostic, DTypeError, Label, Note, ShapeError, Span, expression_parts
from tessera.frontend.annotation import Lead, TensorAnnotation
from tessera.frontend.handles import PoisonHandle, SizeHandle, TensorHandle
from tessera.frontend.hints import Hint
from tessera.frontend.receiver import receiver_of, size_of
from tessera.frontend.session import Session
from tessera.frontend.spec import FunctionSpec, shown
from tessera.frontend.tree import parts
from tessera.ir.dim import Dim
from tessera.ir.facts import Facts
from tessera.ir.solver import Verdict, judge_eq
from tessera.ir.types import TensorType


class Scope:
    """The dim names of one call of a function: those its parameters bound, and those its result adds."""

    def __init__(self, bound: dict[str, Dim], leads: dict[str, tuple[Dim, ...]], receiver: object = None) -> None:
        self.bound, self.leads, self.receiver = bound, leads, receiver

    def lookup(self, name: str) -> Dim | None:
        """What a name stands for: a binding, or a size that ``self`` has."""
        found = self.bound.get(name)
        if found is None and self.receiver is not None:
            found = size_of(self.receiver, name)
            if found is not None:
                self.bound[name] = found
        return found

    def put(self, d: Dim) -> Dim | None:
        """An annotated size with every name replaced; None when a name has no meaning yet."""
        known = {name: self.lookup(name) for name in d.names()}
        if any(value is None for value in known.values()):
            return None
        return d.substitute({name: value for name, value in known.items() if value is not None})


def own_scope(session: Session, spec: FunctionSpec, args: Sequence[Any]) -> Scope:
    """The scope of the function being traced itself: each of its names is its own dim."""
    receiver = receiver_of(spec, args)
    bound = {name: Dim.name(name) for name in spec.dim_names}
    bound |= session.bindings
    return Scope(bound, dict(session.leads), receiver)


def check(session: Session, spec: FunctionSpec, result: Any, args: Sequence[Any]) -> None:
    """Report every part of a result that differs from the return annotation (TSR0210, TSR0305)."""
    compare(session, spec, result, own_scope(session, spec, args))


@dataclass(frozen=True, slots=True)
class _At:
    """Where a part of the result is annotated and made, and the dim names in its annotation."""

    span: Span | None
    made: Span | None
    names: tuple[str, ...]


def compare(session: Session, spec: FunctionSpec, result: Any, scope: Scope) -> None:
    """As ``check``, with the names meaning what ``scope`` says."""
    if spec.returns.kind == "any":
        return
    pending: list[tuple[Any, Hint, str, Span | None]] = [(result, spec.returns, "", spec.returns_span)]
    while pending:
        value, hint, path, place = pending.pop()
        at = _At(place, _made_at(session, spec, value), tuple(n for a in hint.tensors() for n in a.names))
        if isinstance(value, PoisonHandle):
            continue
        if hint.kind == "union":
            _any_of(session, spec, value, hint, scope, at)
            continue
        if hint.kind == "tensor" and hint.annotation is not None:
            _tensor(session, spec, value, hint, path, scope, at)
            continue
        found = None if isinstance(value, TensorHandle | SizeHandle) else parts(value)
        if found is None or not hint.members:
            if hint.kind == "tuple" and hint.tensors():
                _wrong(session, spec, f"one value where {len(hint.members)} are annotated", "one value", at)
            continue
        kind, keys, members = found
        places = _members(place, len(members))
        if hint.kind == "tuple" and not hint.variadic and len(members) != len(hint.members):
            _wrong(
                session,
                spec,
                f"{len(members)} results where {len(hint.members)} are annotated",
                f"{len(members)} results",
                at,
            )
            continue
        for n, member in reversed(list(enumerate(members))):
            key = keys[n] if keys else n
            where = f"{path}.{key}" if kind in ("named", "data") else f"{path}[{key!r}]"
            pending.append((member, hint.part(key, n), where, places[n]))


def _members(place: Span | None, count: int) -> list[Span | None]:
    """Where the annotations of a tuple's members stand."""
    parts = None if place is None else expression_parts(place)
    items = parts.operands[1:] if parts is not None and parts.kind == "subscript" else ()
    return [items[n] if len(items) == count else place for n in range(count)]


def _made_at(session: Session, spec: FunctionSpec, value: Any) -> Span | None:
    """The expression of the function itself that a result comes from."""
    if not isinstance(value, TensorHandle):
        return None
    made = next((op.span for op in reversed(session.builder.ops) if value._value in op.results), None)
    return made if made is not None and made.function == spec.function.__qualname__ else None


def _any_of(session: Session, spec: FunctionSpec, value: Any, hint: Hint, scope: Scope, at: _At) -> None:
    ranks = []
    for member in hint.members:
        a = member.annotation
        if a is None or not isinstance(value, TensorHandle):
            return
        type_ = value._value.type
        if a.dims is None or a.lead is not None or len(a.dims) == type_.rank:
            _tensor(session, spec, value, member, "", scope, at)
            return
        ranks.append(str(len(a.dims)))
    _wrong(
        session,
        spec,
        f"a result of rank {value._value.type.rank} where {' or '.join(ranks)} is annotated",
        f"a {value._value.type}",
        at,
    )


def _tensor(session: Session, spec: FunctionSpec, value: Any, hint: Hint, path: str, scope: Scope, at: _At) -> None:
    a = hint.annotation
    assert a is not None
    if not isinstance(value, TensorHandle):
        if value is None and hint.optional:
            return
        _wrong(
            session,
            spec,
            f"a result of type {type(value).__name__} where a tensor is annotated",
            f"a {type(value).__name__}",
            at,
        )
        return
    type_ = value._value.type
    if not isinstance(type_, TensorType):
        type_ = TensorType(type_.dtype, ())
    where = f"result{path}"
    if not a.admits(type_.dtype):
        _wrong(session, spec, f"{where} is {type_.dtype} where {a.dtype} is annotated", f"a {type_}", at, dtype=True)
    if a.dims is not None:
        _dims(session, spec, a, type_, where, scope, at)


def _dims(
    session: Session,
    spec: FunctionSpec,
    a: TensorAnnotation,
    found: TensorType,
    where: str,
    scope: Scope,
    at: _At,
) -> None:
    wanted = _expanded(a, found, scope)
    if wanted is None or len(wanted) != found.rank:
        text = f"{where} has rank {found.rank} where {a} is annotated"
        _wrong(session, spec, text, f"a {found}", at)
        return
    bad: list[str] = []
    facts = session.context.facts
    swapped = session.hints is None and _is_swapped([scope.put(want) for want in wanted], found.dims, facts)
    for axis, (want, have) in enumerate(zip(wanted, found.dims, strict=True)):
        known = scope.put(want)
        if known is None:
            if want.is_name:
                scope.bound[next(iter(want.names()))] = have
            continue
        session.context.span = spec.returns_span
        guess = swapped and judge_eq(known, have, session.context.facts) is not Verdict.PROVED
        if guess or not session.context.holds("eq", known, have, f"{where}, dim {axis}"):
            bad.append(f"dim {axis} is `{have}`, annotated `{want}`")
    if bad:
        _wrong(session, spec, f"{where} is [{', '.join(map(str, found.dims))}]: {'; '.join(bad)}", f"a {found}", at)


def _is_swapped(wanted: Sequence[Dim | None], found: Sequence[Dim], facts: Facts) -> bool:
    """Whether a result has the annotated sizes in another order: that they might happen to be equal is no excuse."""
    left = list(found)
    for want in wanted:
        same = (n for n, have in enumerate(left) if want is not None and judge_eq(want, have, facts) is Verdict.PROVED)
        place = next(same, None)
        if place is None:
            return False
        del left[place]
    return list(wanted) != list(found)


def _expanded(a: TensorAnnotation, found: TensorType, scope: Scope) -> list[Dim] | None:
    """The annotated dims at the result's rank; the variadic part is what the parameters made it, or what is
    left over.
    """
    assert a.dims is not None
    lead = a.lead
    if lead is None:
        return list(a.fixed)
    if lead.name not in scope.leads:
        count = found.rank - len(a.fixed)
        if count < 0:
            return None
        at = next(n for n, d in enumerate(a.dims) if isinstance(d, Lead))
        scope.leads[lead.name] = found.dims[at : at + count]
    for d in scope.leads[lead.name]:
        scope.bound.update({n: scope.bound.get(n, Dim.name(n)) for n in d.names()})
    return list(a.expand(scope.leads[lead.name]))


def _wrong(session: Session, spec: FunctionSpec, message: str, label: str, at: _At, dtype: bool = False) -> None:
    labels: list[Label] = []
    if at.span is not None:
        labels.append(Label(at.span, f"the body gives {label}", True))
    if at.made is not None:
        labels.append(Label(at.made, label))
    notes = [note for name in dict.fromkeys(at.names) if (note := spec.origin(name)) is not None]
    session.fail(
        DTypeError if dtype else ShapeError,
        Diagnostic("TSR0305" if dtype else "TSR0210", message, tuple(labels), tuple(notes[:3])),
    )


__all__ = ["Note", "Scope", "check", "compare", "own_scope", "shown"]
