"""``scan`` in a traced function: the step runs once, on a carry and slices that stand for those of every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.diag import Note, TesseraError
from tessera.frontend.blame import origin
from tessera.frontend.carried import CARRY, INIT, STACKED, XS, ScanCall, Where, slices, stored_pair
from tessera.frontend.handles import PoisonHandle, SizeHandle, Step, Storage, TensorHandle
from tessera.frontend.names import targets
from tessera.frontend.session import Call, Finding, Session
from tessera.frontend.tree import Tree, flatten, leaf_paths, unflatten
from tessera.ir.dialects.calls import Sym
from tessera.ir.dialects.control import SCAN
from tessera.ir.dim import Dim
from tessera.ir.graph import Block, Operand, Operation, Value
from tessera.ir.loop import outer_values
from tessera.ir.types import TensorType


def scan(
    session: Session, combine_fn: Callable[..., Any], init: Any, xs: Any, dim: int = 0, reverse: bool = False
) -> tuple[Any, Any]:
    """Append a scan to the trace; gives the last carry and the stacks, in the structures that the step uses.

    What is wrong with the arguments or with what the step gives goes to the session (see ``ScanCall``), and the
    result is poison.
    """
    call = session.site("scan", "function", (combine_fn, init, xs), {})
    try:
        rules = ScanCall(call.span, combine_fn, lambda dims: _origins(session, dims))
        return _Scan(session, call, rules, bool(reverse)).run(init, xs, dim, reverse)
    except _Poisoned:
        pass
    except _Wrong as wrong:
        session.findings += [Finding(type(wrong.error), d) for d in wrong.error.diagnostics]
    return session.poison, session.poison


class _Poisoned(Exception):
    """A value comes from an operation that failed."""


class _Wrong(Exception):
    """The scan itself breaks a rule."""

    def __init__(self, error: TesseraError) -> None:
        super().__init__(error.message)
        self.error = error


def _origins(session: Session, dims: Sequence[Dim]) -> list[Note]:
    names = dict.fromkeys(n for d in dims for n in sorted(d.names()))
    return [note for name in names if (note := origin(session, name)) is not None][:4]


def _is_leaf(x: object) -> bool:
    return isinstance(x, TensorHandle | SizeHandle | PoisonHandle)


@dataclass
class _Scan:
    session: Session
    call: Call
    rules: ScanCall
    reverse: bool

    def run(self, init: Any, xs: Any, dim: Any, reverse: Any) -> tuple[Any, Any]:
        state, _ = self.rules.names
        try:
            self.rules.check_call(dim, reverse)
            first, carry_tree = self.values(*flatten(init, _is_leaf), INIT)
            scanned, xs_tree = self.values(*flatten(xs, _is_leaf), XS)
            kinds = [_tensor_type(v) for v in scanned]
            axis, size = self.rules.check_xs(kinds, xs_tree, dim, self.equal)
        except TesseraError as error:
            raise _Wrong(error) from None
        hints = leaf_paths(carry_tree, state)
        carries = [Value(self.fresh(hint), v.type) for hint, v in zip(hints, first, strict=True)]
        parts = [Value(self.fresh(f"{v.name}_t"), slices(t, axis)) for v, t in zip(scanned, kinds, strict=True)]
        body, y_tree, places = self.traced(carry_tree, carries, xs_tree, parts)
        stacks = [TensorType(t.dtype, (size, *t.dims)) for t in map(_tensor_type, body.yields[len(carries) :])]
        results = self.results(carries, stacks)
        attrs = {"carries": len(carries), "dim": axis, "reverse": self.reverse}
        if results:
            operands = (*first, *scanned, *outer_values(body))
            self.session.builder.ops.append(Operation(SCAN, operands, results, attrs, self.call.span, body=body))
        made = [self.session.wrap(self.session, v) for v in results]
        ys = iter(made[len(carries) :])
        stacked = unflatten(y_tree, [next(ys) if there else None for there in places])
        return unflatten(carry_tree, made[: len(carries)]), stacked

    def fresh(self, hint: str) -> str:
        text = "".join(c if c.isalnum() or c == "_" else " " for c in hint)
        return self.session.builder.fresh("_".join(text.split()))

    def equal(self, a: Dim, b: Dim) -> bool:
        self.session.context.span = self.call.span
        return a is b or self.session.context.holds("eq", a, b, "scan")

    def results(self, carries: Sequence[Value], stacks: Sequence[TensorType]) -> tuple[Value, ...]:
        """Values for what the scan gives, named as the variables they are stored in."""
        names: Sequence[str] = () if self.call.code is None else targets(self.call.code).get(self.call.lasti, ())
        stored = list(stored_pair(names, len(carries), len(stacks))) if len(names) == 2 else []
        hints = [*(p.name for p in carries), *("stacked" for _ in stacks)]
        values = [Value(self.session.builder.fresh(hint), t) for hint, t in zip(
            hints, (*(p.type for p in carries), *stacks), strict=True)]  # fmt: skip
        for value, name in zip(values, stored, strict=False):
            if name != "_":
                self.session.rename(value, name)
        return tuple(values)

    # ---- the step --------------------------------------------------------------------------------------------

    def traced(
        self, carry_tree: Tree, carries: Sequence[Value], xs_tree: Tree, parts: Sequence[Value]
    ) -> tuple[Block, Tree, list[bool]]:
        """The body, the structure of what is stacked, and which of its leaves are tensors."""
        session, step = self.session, Step()
        ops, outer, repeated = session.builder.ops, session.step, session.ops.repeated
        session.builder.ops, session.step, session.ops.repeated = step.ops, step, True
        try:
            carry = [self.given(v, f"`{v.name}`, the carry of a scan") for v in carries]
            xs = [self.given(v, f"`{v.name}`, a slice of what is scanned") for v in parts]
            result = self.rules.step(unflatten(carry_tree, carry), unflatten(xs_tree, xs))
            yields, y_tree, places = self.yielded(result, carry_tree, carries)
        finally:
            session.builder.ops, session.step, session.ops.repeated = ops, outer, repeated
            step.open = False
        return Block(tuple(step.ops), (*carries, *parts), tuple(yields)), y_tree, places

    def given(self, value: Value, what: str) -> TensorHandle:
        """A block parameter as the step sees it; a write to it would reach the first carry, or what is scanned."""
        handle: TensorHandle = self.session.wrap(self.session, value)
        handle._storage = Storage(value, what, self.session.step)
        return handle

    def yielded(
        self, result: Any, carry_tree: Tree, carries: Sequence[Value]
    ) -> tuple[list[Value], Tree, list[bool]]:
        """The values that the step gives: next carries, and what is stacked."""
        if isinstance(result, PoisonHandle):
            raise _Poisoned
        state, _ = self.rules.names
        try:
            carry, y = self.rules.pair(result)
            where = (CARRY, state)
            after, _ = self.values(self.rules.like(carry_tree, carry, where, _is_leaf), carry_tree, where)
            for p, v, path in zip(carries, after, leaf_paths(carry_tree, state), strict=True):
                self.rules.check_carry(path, _tensor_type(p), _tensor_type(v), self.equal)
            leaves, y_tree = flatten(y, _is_leaf)
            stacked = [None if x is None else self.value(x, n, y_tree, (STACKED, "y")) for n, x in enumerate(leaves)]
        except TesseraError as error:
            raise _Wrong(error) from None
        return [*after, *(v for v in stacked if v is not None)], y_tree, [v is not None for v in stacked]

    # ---- values ----------------------------------------------------------------------------------------------

    def values(self, leaves: Sequence[Any], tree: Tree, where: Where) -> tuple[list[Value], Tree]:
        """The tensors of a structure, in order, and the structure."""
        return [self.value(x, n, tree, where) for n, x in enumerate(leaves)], tree

    def value(self, x: Any, n: int, tree: Tree, where: Where) -> Value:
        """A tensor, or a number as a tensor of rank 0; ``x`` is leaf ``n`` of a structure."""
        session = self.session
        if isinstance(x, PoisonHandle):
            raise _Poisoned
        if session.table.is_tensor(x) and not isinstance(x, TensorHandle):
            x = session.capture(x)
        if isinstance(x, TensorHandle) and isinstance(x._value.type, TensorType):
            return session.read(x)
        if where == XS or not isinstance(x, TensorHandle | SizeHandle | bool | int | float):
            self.rules.no_tensor(x, where, tree, n)
        session.context.span = self.call.span
        made = session.ops.full((), session.lower(x))
        assert isinstance(made, Sym)
        return made.value


def _tensor_type(v: Operand) -> TensorType:
    assert isinstance(v.type, TensorType)
    return v.type
