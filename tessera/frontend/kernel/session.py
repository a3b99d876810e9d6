"""The state of reading one kernel: the program that grows, what is in scope, and what was found wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from tessera.diag import Diagnostic, Help, Label, Span, TesseraError, TraceError
from tessera.frontend import blame
from tessera.frontend.context import TraceContext
from tessera.frontend.handles import PoisonHandle, SizeHandle, TensorHandle
from tessera.frontend.kernel.values import OnChip, View
from tessera.frontend.session import Call, InnerRefused, Session
from tessera.frontend.table import TorchTable
from tessera.ir.build import Builder
from tessera.ir.dialects.block import FETCH, NUMBER
from tessera.ir.dialects.calls import NotCovered, Sym
from tessera.ir.dim import Dim
from tessera.ir.dtype import int64
from tessera.ir.graph import Attr, Block, Literal, Operand, Operation, Value
from tessera.ir.infer import Refused
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import BufferType, TensorType, Type
from tessera.ir.window import SINGLE, WHOLE, Row, shape

#: Operations of one program, beyond which an unrolled loop has got out of hand.
MOST_OPERATIONS = 20_000


class Poisoned(Exception):
    """An argument comes from an operation that failed."""


@dataclass(frozen=True)
class Axis:
    """A loop around: where it begins, and its step."""

    lo: Dim
    step: Dim


class KernelSession(Session):
    """The state of one reading. ``here`` is the place of what is being evaluated; ``numbers`` are the integers known
    while the kernel runs, by the names that stand for them in sizes; ``axes`` the loops around.
    """

    def __init__(self, table: TorchTable, spec: Any, sizes: Mapping[str, int] | None, settings: Mapping[str, Any]):
        context = TraceContext()
        builder = Builder(table.records["cast"], context)
        super().__init__(table, builder, context)
        self.wrap = lambda session, value: OnChip(self, value)
        self.report = blame.report
        self.scopes.append(spec)
        self.known = sizes
        self.settings = settings
        self.here: Span | None = None
        self.numbers: dict[str, Value] = {}
        self.axes: dict[str, Axis] = {}
        self.stored: set[Value] = set()
        self.fetched: set[Value] = set()

    # -- places and errors

    def site(self, name: str, form: str, args: Sequence[Any], kwargs: Mapping[str, Any], function: Any = None) -> Call:
        return Call(name, form, tuple(args), kwargs, None, -1, self.here, function)

    def refuse(
        self, error: type[TesseraError], code: str, message: str, label: str = "", *,
        helps: Sequence[str] = (), notes: Sequence[str] = (), span: Span | None = None,
    ) -> NoReturn:  # fmt: skip
        """End the reading with a fault at the place of what is being evaluated."""
        at = span or self.here
        labels = [] if at is None else [Label(at, label, True)]
        raise error(message, code=code, labels=labels, helps=helps, notes=notes)

    def unsupported(self, construct: str, instead: str, span: Span | None = None) -> NoReturn:
        """Refuse Python that a kernel does not have, and say what it has (TSR0419)."""
        self.refuse(TraceError, "TSR0419", f"{construct} in a kernel", "not supported", helps=[instead], span=span)

    def fault(
        self, error: type[TesseraError], code: str, message: str, *labels: Label, helps: Sequence[str] = ()
    ) -> Any:
        """Note a fault and go on with poison."""
        given = labels or (() if self.here is None else (Label(self.here, "", True),))
        self.fail(error, Diagnostic(code, message, tuple(given), (), tuple(map(Help, helps))))
        return self.poison

    # -- operations

    def call(self, record: OpRecord, args: Sequence[Any], kwargs: Mapping[str, Any], form: str, name: str = "") -> Any:
        """Append an operation on blocks as the user called it; poison after an error."""
        blocks = [x for x in args if isinstance(x, OnChip | View)]
        named = bool(blocks) and all(isinstance(x, OnChip) and x.named for x in blocks)
        if record.kind in (Kind.MAP, Kind.COMPOSITE):
            args = self._aligned(args)
        call = self.site(name or record.name, form, args, kwargs)
        ops = self.builder.ops
        mark = len(ops)
        if mark > MOST_OPERATIONS:
            self.refuse(TraceError, "TSR0405", f"a kernel of more than {MOST_OPERATIONS} operations", "too long",
                        helps=["`tile.range` is a loop that the program keeps"])  # fmt: skip
        self.context.span = self.here
        try:
            lowered = [self.lower(x) for x in args]
            found = self.lift(self.ops.invoke(record, *lowered, **{k: self.lower(x) for k, x in kwargs.items()}))
        except Poisoned:
            return self.poison
        except (Refused, InnerRefused, NotCovered, TypeError) as error:
            self.report(self, call, error)
            del ops[mark:]
            return self.poison
        if named and isinstance(found, OnChip) and record.kind is Kind.MAP:
            found.named = True
        return found

    def do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """An operation by the name of its record."""
        return self.call(self.table.records[name], args, kwargs, "function")

    def emit(
        self, record: OpRecord, operands: Sequence[Operand], types: Sequence[Type], attrs: Mapping[str, Attr],
        body: Block | None = None, hint: str = "",
    ) -> tuple[Value, ...]:  # fmt: skip
        """Append an operation of block programs."""
        results = tuple(Value(self.builder.fresh(hint or record.name), t) for t in types)
        self.builder.ops.append(Operation(record, tuple(operands), results, dict(attrs), self.here, "", body))
        return results

    @contextmanager
    def body(self) -> Iterator[list[Operation]]:
        """Operations go to a body of their own."""
        outer, self.builder.ops = self.builder.ops, []
        try:
            yield self.builder.ops
        finally:
            self.builder.ops = outer

    def _aligned(self, args: Sequence[Any]) -> list[Any]:
        """Blocks that are aligned by the names of their dims, in the form in which plain broadcasting aligns them."""
        shapes = [x.dims for x in args if isinstance(x, OnChip | View) and not getattr(x, "named", False)]
        widest = max(shapes, key=len, default=())
        return [self._by_name(x, widest) if isinstance(x, OnChip) and x.named else x for x in args]

    def _by_name(self, x: OnChip, dims: tuple[Dim, ...]) -> Any:
        missing = [d for d in x.dims if d not in dims and not (d.is_const and d.value == 1)]
        order = [d for d in dims if d in x.dims]
        if missing or not dims or tuple(order) != x.dims or dims[-len(order) :] == x.dims:
            return x
        first = dims.index(order[0])
        return self.do("reshape", x, tuple(d if d in x.dims else Dim.const(1) for d in dims[first:]))

    # -- between what the source names and the program

    def lower(self, x: Any) -> Any:
        if isinstance(x, View):
            x = self.fetch(x)
        if isinstance(x, SizeHandle):
            return Sym(self.ops, self.number(x._dim)) if x._dim.names() & self.numbers.keys() else x._dim
        if isinstance(x, PoisonHandle):
            raise Poisoned
        if isinstance(x, tuple | list):
            return type(x)(self.lower(member) for member in x)
        return super().lower(x)

    def lift(self, x: Any) -> Any:
        if isinstance(x, tuple) and not isinstance(x, Dim):
            return tuple(self.lift(member) for member in x)
        return super().lift(x)

    def capture(self, tensor: object) -> TensorHandle:
        self.refuse(TraceError, "TSR0419", "a tensor from outside of the kernel", "not a parameter",
                    helps=["pass the tensor as an argument"])  # fmt: skip

    def given(self, dim: Dim) -> Any:
        """A size: an int where it is one number."""
        return dim.value if dim.is_const else SizeHandle(self, dim)

    def dim(self, x: Any, what: str = "a position") -> Dim:
        """An integer of the source as a Dim; one that is known while the kernel runs gets a name."""
        if isinstance(x, View):
            x = self.fetch(x)
        if isinstance(x, SizeHandle):
            return x._dim
        if isinstance(x, int) and not isinstance(x, bool):
            return Dim.const(x)
        if isinstance(x, OnChip) and not x.dims and x.dtype.is_int:
            return self.named(x._value)
        if isinstance(x, PoisonHandle):
            raise Poisoned
        kind = f"a block {list(map(str, x.dims))}" if isinstance(x, OnChip) else f"a {type(x).__name__}"
        self.refuse(TraceError, "TSR0419", f"{kind} as {what}", "no integer", helps=["give an integer"])

    def named(self, value: Value) -> Dim:
        """The name of an integer of rank 0 in sizes."""
        self.numbers[value.name] = value
        return Dim.name(value.name)

    def is_static(self, dim: Dim) -> bool:
        """Whether a size is the same for the whole run."""
        return not dim.names() & (self.numbers.keys() | self.axes.keys())

    def number(self, dim: Dim) -> Value:
        """The value of a size as an integer of rank 0."""
        if dim.is_name and (value := self.numbers.get(str(dim))) is not None:
            return value
        looked, (of,) = self.looked_up((dim,))
        return self.emit(NUMBER, looked, (TensorType(int64, ()),), {"of": of})[0]

    def looked_up(self, dims: Sequence[Dim]) -> tuple[list[Value], list[Dim]]:
        """Sizes in which integers of the run are lookups, and these in order."""
        names = [n for n in dict.fromkeys(n for d in dims for n in sorted(d.names())) if n in self.numbers]
        meant = {name: Dim.name(f"_l{n}") for n, name in enumerate(names)}
        return [self.numbers[n] for n in names], [d.substitute(meant) if meant else d for d in dims]

    def window(self, rows: Sequence[Row]) -> tuple[list[Value], tuple[Attr, ...]]:
        """The lookups and the attribute of a window."""
        looked, dims = self.looked_up([d for r in rows for d in r.dims])
        parts = zip(dims[::3], dims[1::3], dims[2::3], rows, strict=True)
        made = [Row(start, extent, end, r.kind) for start, extent, end, r in parts]
        return looked, tuple(r.attr for r in made)

    def fetch(self, view: View, other: int | float | None = None, hint: str = "") -> Any:
        """Load a view: a block, a scalar, or, of an integer, a size."""
        for n in view.kept:
            if not self.is_static(view.rows[n].extent):
                self.run_time_size(view.rows[n].extent)
        self.fetched.add(view.buffer)
        looked, at = self.window(view.rows)
        attrs: dict[str, Attr] = {"at": at}
        if other is not None:
            attrs["other"] = other
        kind = TensorType(view.dtype, shape(view.rows))
        (value,) = self.emit(FETCH, (view.buffer, *looked), (kind,), attrs, hint=hint or view.name)
        if not kind.dims and kind.dtype.is_int:
            return SizeHandle(self, self.named(value))
        return OnChip(self, value)

    def run_time_size(self, dim: Dim) -> NoReturn:
        """Refuse a block whose size is known only while the kernel runs."""
        text = f"a block of the size `{dim}`, which is known only while the kernel runs"
        helps = ["take blocks of a fixed size, and mask what is too much"]
        self.refuse(TraceError, "TSR0419", text, "size not known before", helps=helps)

    def base(self, value: Value, name: str, lead: Sequence[Dim] = ()) -> View:
        """The view of a whole buffer; ``lead`` are the positions of its first dims."""
        assert isinstance(value.type, BufferType)
        dims = value.type.dims
        rows = [Row(at, Dim.const(1), d, SINGLE) for at, d in zip(lead, dims, strict=False)]
        rows += [Row(Dim.const(0), d, d, WHOLE) for d in dims[len(lead) :]]
        return View(value, tuple(rows), name)

    def operand(self, x: Any) -> Operand:
        lowered = self.lower(x)
        return Literal(lowered) if isinstance(lowered, Dim) else self.ops.operand(lowered)
