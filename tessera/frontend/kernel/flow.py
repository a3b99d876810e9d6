"""Loops and choices that the program keeps: what changes in them is carried through, what differs is merged."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tessera.diag import ShapeError, TraceError
from tessera.frontend.handles import PoisonHandle, SizeHandle
from tessera.frontend.kernel.session import Axis, KernelSession
from tessera.frontend.kernel.source import Source
from tessera.frontend.kernel.values import MISSING, Iteration, OnChip, Unbound, View
from tessera.ir.dialects.block import CASE, CHOOSE, EACH, LOOP
from tessera.ir.dim import Dim
from tessera.ir.dtype import bool_, f32, int64
from tessera.ir.graph import Attr, Block, Literal, Operand, Operation, Value
from tessera.ir.types import ScalarType, TensorType

#: How often the body of a loop is read again because more turned out to be carried.
_MOST_ROUNDS = 32
#: The name under which a loop keeps whether it was left.
STOP = "%stop"


class Runner(Protocol):
    """What carries out statements."""

    session: KernelSession
    source: Source
    env: dict[str, Any]
    inside: str

    def run(self, body: Sequence[ast.stmt]) -> bool: ...


@dataclass(frozen=True)
class _Try:
    """One reading of a body: its operations, and what names stand for behind it."""

    ops: tuple[Operation, ...]
    env: dict[str, Any]


def _read(walker: Runner, body: Sequence[ast.stmt], env: dict[str, Any], inside: str) -> _Try:
    outer, place = walker.env, walker.inside
    walker.env, walker.inside = dict(env), inside
    try:
        with walker.session.body() as ops:
            walker.run(body)
            return _Try(tuple(ops), walker.env)
    finally:
        walker.env, walker.inside = outer, place


def _head(walker: Runner, s: ast.For, over: Iteration) -> tuple[str, list[Value], dict[str, Attr]]:
    """The axis of a loop, its lookups and its attributes."""
    session = walker.session
    assert isinstance(s.target, ast.Name)
    axis = session.builder.fresh(s.target.id)
    looked, (lo, hi, step) = session.looked_up((over.lo, over.hi, over.step))
    session.axes[axis] = Axis(over.lo, over.step)
    return axis, looked, {"axis": axis, "lo": lo, "hi": hi, "step": step}


def each(walker: Runner, s: ast.For, over: Iteration) -> None:
    """``for i in tile.grid(n)``: nothing is carried from one iteration to another."""
    session, here = walker.session, walker.session.here
    axis, looked, attrs = _head(walker, s, over)
    assert isinstance(s.target, ast.Name)
    start = {**walker.env, s.target.id: SizeHandle(session, Dim.name(axis)), STOP: False}
    found = _read(walker, s.body, start, "grid")
    del session.axes[axis]
    for name, x in walker.env.items():
        if name not in (s.target.id, STOP) and found.env.get(name) is not x:
            session.unsupported(f"`{name}` carried from one iteration of a grid to the next",
                                "the iterations are independent; `tile.range` runs them in order",
                                _assigned(walker, s, name))  # fmt: skip
    _hide(walker, s, found.env, "it belongs to an iteration of the grid")
    session.here = here
    session.emit(EACH, looked, (), attrs, Block(found.ops))


def _assigned(walker: Runner, s: ast.For, name: str) -> Any:
    """Where a name is assigned in a loop."""
    for node in ast.walk(s):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return walker.source.span(node)
    return walker.source.span(s)


def _hide(walker: Runner, s: ast.For, after: dict[str, Any], why: str) -> None:
    """Names that only the body gave a value have none behind the loop."""
    for name in after:
        if name not in walker.env and name != STOP:
            walker.env[name] = Unbound(why)
    assert isinstance(s.target, ast.Name)
    walker.env[s.target.id] = Unbound("the loop has ended")


def repeat(walker: Runner, s: ast.For, over: Iteration) -> None:
    """``for i in tile.range(n)``: names that the body gives another value are carried through."""
    session, here = walker.session, walker.session.here
    assert isinstance(s.target, ast.Name)
    before, carried, apart = dict(walker.env), dict[str, Any](), set[str]()
    findings, names = len(session.findings), dict(session.builder.names)
    for _ in range(_MOST_ROUNDS):
        del session.findings[findings:]
        session.builder.names = dict(names)
        session.here = here
        axis, looked, attrs = _head(walker, s, over)
        params = {name: Value(session.builder.fresh(name), _type(x)) for name, x in carried.items()}
        start = {**before, s.target.id: SizeHandle(session, Dim.name(axis)), STOP: False}
        start |= _carries(session, before, carried, params, apart)
        found = _read(walker, s.body, start, "loop")
        del session.axes[axis]
        more = _changed(walker, s, before, carried, start, found.env)
        parted = _parted(start, found.env, carried) - apart
        if not more and not parted:
            break
        carried |= more
        apart |= parted
    _finish(walker, s, found, params, carried, start, (looked, attrs, here))


def _carries(
    session: KernelSession, before: dict[str, Any], carried: dict[str, Any], params: dict[str, Value], apart: set[str]
) -> dict[str, Any]:
    """What carried names stand for in an iteration: two names of one block that may be written to stay such."""
    found: dict[str, Any] = {}
    shared: dict[int, Any] = {}
    for name, p in params.items():
        x = before[name]
        handle = _handle(session, p, carried[name])
        if isinstance(x, OnChip) and x.mutable and name not in apart:
            handle = shared.setdefault(id(x), handle)
        found[name] = handle
    return found


def _parted(start: dict[str, Any], after: dict[str, Any], carried: dict[str, Any]) -> set[str]:
    """Names that stood for one block before an iteration and do not after it."""
    first: dict[int, str] = {}
    found: set[str] = set()
    for name in carried:
        other = first.setdefault(id(start[name]), name)
        if after.get(name) is not after.get(other):
            found |= {name, other}
    return found


def _changed(
    walker: Runner, s: ast.For, before: dict[str, Any], carried: dict[str, Any], start: dict[str, Any],
    after: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Names that turn out to be carried, each with the value that says of what type."""
    assert isinstance(s.target, ast.Name)
    found: dict[str, Any] = {}
    for name, x in before.items():
        new = after.get(name, MISSING)
        if name in (s.target.id, STOP) or name in carried or new is start[name] or _equal(new, x):
            continue
        if isinstance(new, PoisonHandle) or isinstance(x, PoisonHandle):
            continue
        kind = _meet(x, new)
        if kind is None:
            what = f"`{name}`, which changes from {_told(x)} to {_told(new)} in a loop"
            instead = "give it a block or a number before the loop"
            walker.session.unsupported(what, instead, _assigned(walker, s, name))
        found[name] = kind
    return found


def _finish(
    walker: Runner, s: ast.For, found: _Try, params: dict[str, Value], carried: dict[str, Any], start: dict[str, Any],
    head: tuple[list[Value], dict[str, Attr], Any],
) -> None:  # fmt: skip
    """Append the loop and give the carried names what they are behind it."""
    session = walker.session
    looked, attrs, here = head
    yields: list[Operand] = []
    with session.body() as tail:
        for name, p in params.items():
            yields.append(_yielded(walker, s, name, p, found.env[name]))
        stop = found.env.get(STOP, False)
        if stop is not False:
            yields.insert(0, session.operand(stop))
    session.here = here
    inits = [_operand(session, walker.env[name], p.type) for name, p in params.items()]
    attrs |= {"carries": len(params)}
    if stop is not False:
        attrs["stops"] = True
    block = Block((*found.ops, *tail), tuple(params.values()), tuple(yields))
    hints = list(params)
    results = [Value(session.builder.fresh(h), p.type) for h, p in zip(hints, params.values(), strict=True)]
    session.builder.ops.append(Operation(LOOP, (*inits, *looked), tuple(results), attrs, here, "", block))
    shared: dict[int, Any] = {}
    for name, r in zip(hints, results, strict=True):
        walker.env[name] = shared.setdefault(id(start[name]), _handle(session, r, carried[name]))
    _hide(walker, s, found.env, "only an iteration of the loop gives it one")


def _yielded(walker: Runner, s: ast.For, name: str, p: Value, x: Any) -> Operand:
    """What a carry is after an iteration; its type must not change."""
    session = walker.session
    if isinstance(x, PoisonHandle):
        return p
    session.here = _assigned(walker, s, name)
    kind = p.type
    y = _operand(session, x, kind)
    made = y.type
    if isinstance(y, Value) and isinstance(made, TensorType) and isinstance(kind, TensorType):
        fits = made.rank == kind.rank and all(session.context.holds("eq", a, b, "carry")
                                              for a, b in zip(made.dims, kind.dims, strict=True))  # fmt: skip
        if not fits or made.dtype is not kind.dtype:
            session.fault(ShapeError, "TSR0222", f"`{name}` is {kind} before an iteration and {made} after it",
                          helps=["a name keeps shape and dtype through a loop"])  # fmt: skip
    return y


# -- choices


def choose(walker: Runner, test: OnChip, yes: Sequence[ast.stmt], no: Sequence[ast.stmt], s: ast.If) -> None:
    """``if`` on a scalar of the run: both cases are read, and names that they give different values are merged."""
    session, here = walker.session, walker.session.here
    before = walker.env
    cases = [_read(walker, body, dict(before), walker.inside) for body in (yes, no)]
    merged: dict[str, tuple[Any, Any, Any]] = {}
    walker.env = {}
    for name in dict.fromkeys((*cases[0].env, *cases[1].env)):
        a, b = (c.env.get(name, MISSING) for c in cases)
        if a is b or _equal(a, b):
            walker.env[name] = a
            continue
        kind = None if MISSING in (a, b) else _meet(a, b)
        if kind is not None:
            merged[name] = (a, b, kind)
        elif isinstance(a, PoisonHandle) or isinstance(b, PoisonHandle):
            walker.env[name] = session.poison
        else:
            one = "only one case of a choice gives it one" if MISSING in (a, b) else "the cases of a choice differ"
            walker.env[name] = Unbound(one)
    session.here = here
    _merge(walker, test, cases, merged)


def _merge(walker: Runner, test: OnChip, cases: Sequence[_Try], merged: dict[str, tuple[Any, Any, Any]]) -> None:
    session = walker.session
    types = {name: _type(kind) for name, (_, _, kind) in merged.items()}
    made: list[Operation] = []
    for n, case in enumerate(cases):
        with session.body() as tail:
            yields = [_operand(session, sides[n], types[name]) for name, sides in merged.items()]
        for (name, _), y in zip(merged.items(), yields, strict=True):
            if isinstance(y, Value) and y.type != types[name]:
                session.fault(ShapeError, "TSR0222", f"`{name}` is {types[name]} in one case and {y.type} in the other")
        made.append(Operation(CASE, (), (), {}, session.here, "", Block((*case.ops, *tail), (), tuple(yields))))
    results = tuple(Value(session.builder.fresh(name.strip("%")), types[name]) for name in merged)
    operation = Operation(CHOOSE, (session.operand(test),), results, {}, session.here, "", Block(tuple(made)))
    session.builder.ops.append(operation)
    shared: dict[tuple[int, int], Any] = {}
    for (name, (a, b, kind)), r in zip(merged.items(), results, strict=True):
        walker.env[name] = shared.setdefault((id(a), id(b)), _handle(session, r, kind))


# -- what can be carried


def _equal(a: Any, b: Any) -> bool:
    """Whether two static values, or sizes, or views, are the same."""
    if isinstance(a, SizeHandle) and isinstance(b, SizeHandle):
        return a._dim is b._dim
    if isinstance(a, View) and isinstance(b, View):
        return a.buffer is b.buffer and a.rows == b.rows
    return type(a) is type(b) and isinstance(a, bool | int | float | str | type(None)) and a == b


def _meet(a: Any, b: Any) -> Any:
    """A value whose type both can have; None where there is none. A number takes the dtype of a scalar beside it."""
    for x in (a, b):
        if not isinstance(x, OnChip | SizeHandle | bool | int | float):
            return None
    chips = [x for x in (a, b) if isinstance(x, OnChip)]
    if len(chips) == 2:
        return a
    if chips:
        return None if chips[0].dims else chips[0]
    if isinstance(a, bool) and isinstance(b, bool):
        return True
    return 0.0 if isinstance(a, float) or isinstance(b, float) else 0


def _type(x: Any) -> TensorType:
    if isinstance(x, OnChip):
        kind = x._value.type
        return kind if isinstance(kind, TensorType) else TensorType(kind.dtype, ())
    return TensorType(bool_ if isinstance(x, bool) else f32 if isinstance(x, float) else int64, ())


def _handle(session: KernelSession, value: Value, like: Any) -> Any:
    """What a carried value is to the source."""
    if value.type.dtype is int64 and not value.type.dims and not isinstance(like, OnChip):
        return SizeHandle(session, session.named(value))
    return OnChip(session, value, mutable=isinstance(like, OnChip) and like.mutable)


def _operand(session: KernelSession, x: Any, kind: Any) -> Operand:
    """A value as an operand of that type; numbers become constants of it."""
    if isinstance(x, PoisonHandle | View | Unbound):
        return Literal(0)
    if isinstance(x, OnChip) and isinstance(x._value.type, ScalarType):
        return session.operand(session.do("cast", x, kind.dtype))
    if isinstance(x, OnChip):
        return x._value
    if isinstance(x, SizeHandle):
        value = session.number(x._dim)
        return value if kind.dtype is int64 else session.operand(session.do("cast", OnChip(session, value), kind.dtype))
    if isinstance(x, bool | int | float):
        return Literal(float(x) if kind.dtype.is_float else x)
    session.refuse(TraceError, "TSR0419", f"{_told(x)} carried through a loop", "no number")


def _told(x: Any) -> str:
    if isinstance(x, OnChip):
        return str(x._value.type)
    if isinstance(x, View):
        return "a view"
    return "a size" if isinstance(x, SizeHandle) else f"a {type(x).__name__}"
