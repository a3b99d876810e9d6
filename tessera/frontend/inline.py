"""A call of one Tessera function inside another: arguments unified with the annotations, then traced in
place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tessera.diag import Diagnostic, DTypeError, Help, Label, Note, ShapeError, Span, TraceError
from tessera.frontend import returns
from tessera.frontend.accept import meant, misfit, takes
from tessera.frontend.annotation import Lead, TensorAnnotation
from tessera.frontend.binding import Leaf, bind_arguments
from tessera.frontend.blame import argument_places, origin
from tessera.frontend.handles import PoisonHandle, SizeHandle, TensorHandle
from tessera.frontend.invert import invert
from tessera.frontend.receiver import receiver_of, sizes_of
from tessera.frontend.region import region
from tessera.frontend.session import Call, Session, current
from tessera.frontend.spec import FunctionSpec
from tessera.frontend.suggest import exchange, reshape_help
from tessera.ir.dim import Dim
from tessera.ir.types import TensorType, Type

#: Tessera functions that call each other deeper than this do not end. Python's own limit allows some 190.
DEEPEST = 100


@dataclass
class _Boundary:
    """The unification of one call's arguments with the callee's annotations."""

    session: Session
    spec: FunctionSpec
    call: Call
    bound: dict[str, Dim]
    leads: dict[str, tuple[Dim, ...]]
    leaves: list[Leaf]
    faults: int = 0


def inline_call(spec: FunctionSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Trace ``spec``'s body into the running trace; gives what it returns.

    The callee's dim names are its own. Arguments that do not fit are reported with both sides (TSR0211,
    TSR0108), and the result is checked against the return annotation. Raises TraceError (TSR0406) for
    unbounded recursion.
    """
    session = current()
    if session is None:
        raise TraceError(f"`{spec.name}` is called with a value of a trace that has ended", code="TSR0406")
    call = session.site(spec.name, "function", args, kwargs)
    if len(session.scopes) > DEEPEST:
        raise _endless(session, spec, call)
    if any(isinstance(x, PoisonHandle) for x in (*args, *kwargs.values())):
        return session.poison
    try:
        spec.signature.bind(*args, **kwargs)
    except TypeError as error:
        labels = () if call.span is None else (Label(call.span, "called here", True),)
        notes, helps = (Note(takes(spec)),), tuple(meant(spec, kwargs))
        session.fail(ShapeError, Diagnostic("TSR0211", misfit(spec, error), labels, notes, helps))
        return session.poison
    bound = bind_arguments(spec, args, kwargs, _is_traced(session))
    receiver = receiver_of(spec, args)
    edge = _Boundary(session, spec, call, sizes_of(spec, receiver), {}, [x for x in bound.leaves if x.kind == "tensor"])
    _unify(edge, bound.leaves)
    if edge.faults:
        return session.poison
    session.scopes.append(spec)
    try:
        with region(session) if spec.checkpointed else nullcontext():
            result = spec.function(*args, **kwargs)
        session.context.span = call.span
        returns.compare(session, spec, result, returns.Scope(edge.bound, edge.leads, receiver))
    finally:
        session.scopes.pop()
    return result


def _endless(session: Session, spec: FunctionSpec, call: Call) -> TraceError:
    """TSR0410, with the functions that call each other in a circle."""
    labels = [] if call.span is None else [Label(call.span, f"{DEEPEST} calls inside each other", True)]
    names = [scope.name for scope in session.scopes]
    again = next((n for n, scope in enumerate(reversed(session.scopes)) if scope is spec), 0)
    notes = [f"the calls go round: {' -> '.join([*names[len(names) - again - 1 :], spec.name])}"] if again else []
    return TraceError(f"`{spec.name}` calls itself without end", code="TSR0410", labels=labels, notes=notes)


def _is_traced(session: Session) -> Any:
    return lambda x: isinstance(x, TensorHandle) or session.table.is_tensor(x)


def _unify(edge: _Boundary, leaves: Sequence[Leaf]) -> None:
    """Bind names left to right, then the expressions."""
    later: list[tuple[Leaf, TensorHandle, Dim, int]] = []
    for leaf in leaves:
        if leaf.kind == "size" or isinstance(leaf.value, SizeHandle):
            if leaf.param.binds:
                value = leaf.value
                edge.bound[leaf.param.name] = value._dim if isinstance(value, SizeHandle) else Dim.const(int(value))
            continue
        if leaf.kind != "tensor" or leaf.annotation is None:
            continue
        handle = leaf.value if isinstance(leaf.value, TensorHandle) else edge.session.capture(leaf.value)
        if isinstance(handle._value.type, TensorType):
            known, faults = set(edge.bound), edge.faults
            _tensor(edge, leaf, handle, leaf.annotation, handle._value.type, later)
            if edge.faults > faults:  # what a wrong argument binds says nothing about the others
                edge.bound = {name: size for name, size in edge.bound.items() if name in known}
    _expressions(edge, later)


def _tensor(
    edge: _Boundary,
    leaf: Leaf,
    handle: TensorHandle,
    a: TensorAnnotation,
    found: TensorType,
    later: list[tuple[Leaf, TensorHandle, Dim, int]],
) -> None:
    if not a.admits(found.dtype):
        _fault(
            edge,
            leaf,
            handle,
            f"`{leaf.path}` of {edge.spec.name} takes {a.dtype}, not {found.dtype}",
            "TSR0108",
        )
    if a.dims is None:
        return
    extra = found.rank - len(a.fixed)
    if extra < 0 or (extra and a.lead is None):
        least = "at least " if a.lead is not None else ""
        _fault(
            edge,
            leaf,
            handle,
            f"`{leaf.path}` of {edge.spec.name} takes {least}{len(a.fixed)} dims, not {found.rank}",
        )
        return
    axis = 0
    for d in a.dims:
        if isinstance(d, Lead):
            have = found.dims[axis : axis + extra]
            _lead(edge, leaf, handle, d, have)
            axis += extra
            continue
        if d.is_name:
            name = next(iter(d.names()))
            if edge.bound.setdefault(name, found.dims[axis]) is not found.dims[axis]:
                _equal(edge, leaf, handle, d, edge.bound[name], found.dims[axis], axis)
        elif d.is_const:
            _equal(edge, leaf, handle, d, d, found.dims[axis], axis)
        else:
            later.append((leaf, handle, d, axis))
        axis += 1


def _lead(edge: _Boundary, leaf: Leaf, handle: TensorHandle, lead: Lead, have: tuple[Dim, ...]) -> None:
    known = edge.leads.setdefault(lead.name, have)
    if len(known) != len(have):
        _fault(edge, leaf, handle, f"`{lead}` of {edge.spec.name} is {len(known)} dims and {len(have)} dims")
        return
    for n, (a, b) in enumerate(zip(known, have, strict=True)):
        if a is not b:
            _equal(edge, leaf, handle, a, a, b, n)


def _expressions(edge: _Boundary, later: list[tuple[Leaf, TensorHandle, Dim, int]]) -> None:
    pending = later
    while pending:
        rest = []
        for leaf, handle, d, axis in pending:
            have = handle._value.type.dims[axis]
            unknown = d.names() - edge.bound.keys()
            if not unknown:
                _equal(edge, leaf, handle, d, d.substitute(edge.bound), have, axis)
            elif len(unknown) == 1 and (found := invert(d, next(iter(unknown)), have, edge.bound)) is not None:
                edge.bound[next(iter(unknown))] = found
            else:
                rest.append((leaf, handle, d, axis))
        if len(rest) == len(pending):
            return
        pending = rest


def _equal(edge: _Boundary, leaf: Leaf, handle: TensorHandle, declared: Dim, known: Dim, have: Dim, axis: int) -> None:
    context = edge.session.context
    context.span = edge.call.span
    if known is have or context.holds("eq", known, have, f"call of {edge.spec.name}"):
        return
    if known is declared:
        message = f"`{leaf.path}` of {edge.spec.name} has `{declared}` in dim {axis}, the argument has `{have}`"
    else:
        message = f"`{declared}` of {edge.spec.name} is `{known}` and `{have}`"
    _fault(edge, leaf, handle, message, known=known)


def _fault(
    edge: _Boundary, leaf: Leaf, handle: TensorHandle, message: str, code: str = "TSR0211", known: Dim | None = None
) -> None:
    edge.faults += 1
    helps = repairs(edge)
    if edge.faults > 1 and helps:
        return  # told already, with the same advice
    session = edge.session
    given = _argument_span(edge.call, handle)
    labels = [] if given is None else [Label(given, f"a {handle._value.type}", True)]
    if leaf.param.span is not None:
        labels.append(Label(leaf.param.span, f"declared {leaf.annotation}"))
    dims = (() if known is None else (known,)) + handle._value.type.dims
    names = dict.fromkeys(n for d in dims for n in sorted(d.names()))
    notes: list[Note] = [note for name in names if (note := origin(session, name)) is not None]
    error = DTypeError if code == "TSR0108" else ShapeError
    session.fail(error, Diagnostic(code, message, tuple(labels), tuple(notes[:3]), tuple(helps)))


def _argument_span(call: Call, handle: TensorHandle) -> Span | None:
    return next((p.span for p in argument_places(call) if p.handle is handle and p.span is not None), call.span)


def repairs(edge: _Boundary) -> list[Help]:
    """A help when exchanging two tensor arguments, or turning one around, makes every annotation fit."""
    leaves = [x for x in edge.leaves if isinstance(x.value, TensorHandle) and x.annotation is not None]
    types = [x.value._value.type for x in leaves]
    for one, other in combinations(range(len(leaves)), 2):
        changed = list(types)
        changed[one], changed[other] = types[other], types[one]
        if _fits(leaves, changed):
            first, second = leaves[one], leaves[other]
            text = f"the arguments for `{first.path}` and `{second.path}` fit in the other order"
            given = [p.span for p in argument_places(edge.call) if p.handle is first.value or p.handle is second.value]
            return [exchange(text, edge.call.span, [span for span in given if span is not None])]
    for n, (leaf, type_) in enumerate(zip(leaves, types, strict=True)):
        if not isinstance(type_, TensorType) or type_.rank < 2:
            continue
        turned = type_.with_dims((*type_.dims[:-2], type_.dims[-1], type_.dims[-2]))
        if _fits(leaves, [*types[:n], turned, *types[n + 1 :]]):
            place = next((p for p in argument_places(edge.call) if p.handle is leaf.value), None)
            return [] if place is None else [reshape_help(place, ".T" if type_.rank == 2 else ".mT", turned)]
    return []


def _fits(leaves: Sequence[Leaf], types: Sequence[Type]) -> bool:
    """Whether plain names and numbers of all annotations agree with arguments of these types."""
    bound: dict[str, Dim] = {}
    for leaf, found in zip(leaves, types, strict=True):
        a = leaf.annotation
        if a is None or a.dims is None:
            continue
        extra = (found.rank if isinstance(found, TensorType) else 0) - len(a.fixed)
        if not isinstance(found, TensorType) or extra < 0 or (extra and a.lead is None) or not a.admits(found.dtype):
            return False
        at = next((n for n, d in enumerate(a.dims) if isinstance(d, Lead)), 0)
        for d, have in zip(a.fixed, (*found.dims[:at], *found.dims[at + extra :]), strict=True):
            if d.is_name and bound.setdefault(next(iter(d.names())), have) is not have:
                return False
            if d.is_const and d is not have:
                return False
    return True
