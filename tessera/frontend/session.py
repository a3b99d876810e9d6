"""One run of a function under tracing: the graph that grows, what was decided, and what was found wrong."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import Any

from tessera.diag import (
    Diagnostic,
    DTypeError,
    Label,
    ShapeError,
    Span,
    TesseraError,
    TraceError,
    caller_frame,
    caller_span,
)
from tessera.diag.span import is_machinery
from tessera.frontend.context import TraceContext
from tessera.frontend.handles import (
    Deferred,
    Dropped,
    PoisonHandle,
    SizeHandle,
    Step,
    Stopped,
    Storage,
    TensorHandle,
    leaked,
)
from tessera.frontend.names import targets
from tessera.frontend.table import TorchTable
from tessera.ir.build import Builder
from tessera.ir.dialects.calls import NotCovered, Ops, Sym, cast_floats, constant
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, f32
from tessera.ir.graph import Attr, Literal, Operand, Value
from tessera.ir.infer import Refused
from tessera.ir.record import OpRecord

#: An operation that one place of the source makes more often than this is an unrolled loop that got out of
#: hand.
MOST_REPEATS = 10_000
#: How rules name the dtype of an operand that they refuse.
_OF_DTYPE = re.compile(r"is (\w+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, with the class of the error that reports it; ``roots`` are the arguments that the guilty
    operands view.
    """

    error: type[TesseraError]
    diagnostic: Diagnostic
    roots: tuple[str, ...] = ()


def error_of(findings: Sequence[Finding]) -> TesseraError:
    """One error for all findings: faults in shapes and dtypes first, then code that cannot be traced."""
    ordered = sorted(findings, key=lambda f: not issubclass(f.error, ShapeError | DTypeError))
    return ordered[0].error.from_diagnostics(dict.fromkeys(f.diagnostic for f in ordered))


class InnerRefused(Exception):
    """A rule refused an operation inside a call; ``operands`` are those of that operation, before any
    cast."""

    def __init__(
        self, refused: Refused, record: OpRecord, operands: Sequence[Operand], attrs: Mapping[str, Attr]
    ) -> None:
        super().__init__(refused.message)
        self.refused, self.record, self.operands, self.attrs = refused, record, tuple(operands), attrs


class Undescribed(TypeError):
    """A library call that may be right, whose results are known in a call alone."""


class TraceOps(Ops):
    """``Ops`` that remembers which operation refused and what it was given."""

    def emit(self, name: str, operands: Sequence[Any], /, **attrs: Any) -> Any:
        try:
            return super().emit(name, operands, **attrs)
        except Refused as refused:
            given = [self.operand(x) for x in operands]
            raise InnerRefused(_aimed(refused, given), self.table[name], given, attrs) from None

    @property
    def seed(self) -> Operand | None:
        """The seed parameter, once a random operation has asked for it."""
        return self._seed

    #: Is the step of a scan being traced, which is one for all?
    repeated = False

    def random_key(self) -> tuple[Operand, int]:
        if self.repeated:
            raise Refused(
                TraceError, "TSR0412", "random numbers drawn in the step of a scan: the same ones in every step",
                helps=["draw them before the scan, and scan them with the other tensors"],
            )  # fmt: skip
        return super().random_key()


@dataclass(frozen=True, slots=True)
class Call:
    """One operation as the user wrote it: for error messages and for names.

    ``form`` is ``operator``, ``method``, ``attribute``, ``subscript`` or ``function``: where the arguments
    stand in the source. ``function`` is the framework's own, which takes over where a record does not know
    the arguments.
    """

    name: str
    form: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    code: CodeType | None
    lasti: int
    span: Span | None
    function: Callable[..., Any] | None = None


@dataclass
class Path:
    """Answers to questions about sizes that the code asked, in order; the first ones are given, the rest
    are True.
    """

    given: tuple[bool, ...] = ()
    taken: list[bool] = field(default_factory=list)

    def answer(self) -> bool:
        place = len(self.taken)
        self.taken.append(self.given[place] if place < len(self.given) else True)
        return self.taken[-1]


@dataclass
class Session:
    """The state of one trace. Made by ``trace`` and ``check``; one thread uses it. ``hints`` maps the names in sizes to
    their actual values when a call is being traced, and is None at definition.
    """

    table: TorchTable
    builder: Builder
    context: TraceContext
    hints: Mapping[str, int] | None = None
    path: Path | None = None
    scalar: DType = f32
    device: object = None
    wrap: Callable[[Session, Value], Any] = TensorHandle
    make_size: Callable[[Session, Dim], Any] = SizeHandle
    report: Callable[[Session, Call, Exception], None] = lambda session, call, error: None
    library: Callable[[Session, Call, Callable[..., Any]], Any] = lambda session, call, function: session.poison
    findings: list[Finding] = field(default_factory=list)
    specialised: dict[str, tuple[int | float, Span | None]] = field(default_factory=dict)
    captures: dict[int, tuple[object, Any]] = field(default_factory=dict)
    guessed: bool = False
    shapes_read: list[tuple[str, int]] = field(default_factory=list)
    scopes: list[Any] = field(default_factory=list)
    scalars: Mapping[str, float] | None = None
    scalar_paths: dict[Value, str] = field(default_factory=dict)
    bindings: dict[str, Dim] = field(default_factory=dict)
    leads: dict[str, tuple[Dim, ...]] = field(default_factory=dict)
    param_names: dict[Value, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cause: Exception | None = None
    regions: int = 0

    def __post_init__(self) -> None:
        #: The innermost step of a scan that is being traced, and the operations of the function itself.
        self.step: Step | None = None
        self.ground = self.builder.ops
        self.ops = TraceOps(self.builder, self.table.records)
        self.counts: dict[tuple[CodeType, int], int] = {}
        self.visited: dict[tuple[CodeType, int], tuple[CodeType, Mapping[str, object]]] = {}
        self.dropped: dict[Value, Dropped] = {}
        self.poison: Any = PoisonHandle(self)
        self.open = True

    # ---- operations --------------------------------------------------------------------------------------

    def apply(
        self,
        record: OpRecord,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        form: str = "function",
        name: str = "",
        function: Callable[..., Any] | None = None,
    ) -> Any:
        """Append ``record`` called as the user called it; gives traced objects, or poison after an error."""
        call = self.site(name or record.name, form, args, kwargs, function)
        result = self.perform(call, lambda a, k: self._invoke(record, a, k, function is None))
        if "keepdim" in record.attr_names:
            for one in result if isinstance(result, tuple) else (result,):
                if isinstance(one, TensorHandle):
                    one._dropped = _dropped(call, one)
                    if one._dropped is not None:
                        self.dropped[one._value] = one._dropped
        return result

    def _invoke(self, record: OpRecord, args: list[Any], kwargs: dict[str, Any], alone: bool) -> Any:
        """Call a record. A size that stands for an axis is asked for its value; so is one for another int, where the
        record does not take sizes there and stands ``alone``, without a library's function that may."""
        args, kwargs = cast_floats(self.ops, (args, kwargs), self.table.autocast(record, self.device))
        if not any(map(_has_size, (*args, *kwargs.values()))):
            return self.ops.invoke(record, *args, **kwargs)
        args, kwargs = self._numbers(record, args, kwargs, ("dim", "dims"))
        mark = len(self.builder.ops)
        try:
            return self.ops.invoke(record, *args, **kwargs)
        except TypeError:
            plain, named = self._numbers(record, args, kwargs, ("int",))
            if not alone or (plain, named) == (args, kwargs):
                raise
            del self.builder.ops[mark:]
            return self.ops.invoke(record, *plain, **named)

    def _numbers(
        self, record: OpRecord, args: list[Any], kwargs: dict[str, Any], kinds: tuple[str, ...]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with numbers for sizes where the parameter is of one of these kinds."""

        def number(x: Any, kind: str) -> Any:
            if kind not in kinds or not _has_size(x):
                return x
            if isinstance(x, tuple | list):
                return type(x)(number(member, kind) for member in x)
            if self.hints is None and kind != "int":  # an axis is no size that others could be tried for
                self.specialised.setdefault(str(x), (0, caller_span()))
                raise Deferred(f"axis {x}", caller_span())
            return int(self.size(x))

        of = {p.name: p.kind for p in record.params}
        at = [p.kind for p in record.params]
        many = next((n for n, p in enumerate(record.params) if p.variadic), len(at) - 1)
        plain = [number(x, at[min(n, many)]) for n, x in enumerate(args)]
        return plain, {key: number(x, of.get(key, "dim" if key == "axis" else "")) for key, x in kwargs.items()}

    def site(
        self,
        name: str,
        form: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        function: Callable[..., Any] | None = None,
    ) -> Call:
        """The place of the user's expression that is being evaluated; counts how often it was."""
        if not self.open:
            raise TraceError(f"`{name}` uses a value of a trace that has ended", code="TSR0406")
        if (frame := caller_frame()) is None:
            return Call(name, form, tuple(args), kwargs, None, -1, None, function)
        code, lasti = frame.f_code, frame.f_lasti
        call = Call(name, form, tuple(args), kwargs, code, lasti, Span.at(code, lasti), function)
        count = self.counts[code, lasti] = self.counts.get((code, lasti), 0) + 1
        if count == 1:
            self._visit(frame)
        elif count > MOST_REPEATS:
            self._too_long(call)
        return call

    def _visit(self, frame: FrameType | None) -> None:
        """Remember the user's functions that are running, up to the traced one, with their globals."""
        root = getattr(self.scopes[0], "code", None) if self.scopes else None
        if root is not None and is_machinery(root.co_filename):  # only its callers are the user's, and no part of it
            return
        found: dict[tuple[CodeType, int], tuple[CodeType, Mapping[str, object]]] = {}
        while frame is not None and frame.f_code is not root:
            if not is_machinery(frame.f_code.co_filename):
                found[frame.f_code, id(frame.f_globals)] = (frame.f_code, frame.f_globals)
            frame = frame.f_back if root is not None else None
        if frame is not None or root is None:  # else the traced function has returned, and these are its callers
            self.visited |= found

    def perform(self, call: Call, act: Callable[[list[Any], dict[str, Any]], Any]) -> Any:
        """Run ``act`` on the arguments as the IR sees them; errors are reported at the call's place."""
        ops = self.builder.ops
        mark = len(ops)
        self.context.span = call.span
        try:
            args = [self.lower(x) for x in call.args]
            kwargs = {key: self.lower(x) for key, x in call.kwargs.items()}
            result = act(args, kwargs) if self.table.records_gradients else constant(self.ops, act(args, kwargs))
        except _Poisoned:
            return self.poison
        except (Refused, InnerRefused, NotCovered, TypeError) as error:
            if call.function is None or not _unknown(error):
                self.report(self, call, error)
                del ops[mark:]
                return self.poison
            del ops[mark:]
            return self.library(self, replace(call, function=None), call.function)
        lifted = self.lift(result)
        if call.code is not None and len(ops) > mark:
            self._name(call, result)
        return lifted

    def _too_long(self, call: Call) -> None:
        label = () if call.span is None else (Label(call.span, f"runs more than {MOST_REPEATS} times", True),)
        self.fail(
            TraceError,
            Diagnostic("TSR0405", f"a loop makes more than {MOST_REPEATS} copies of one operation", label),
        )
        raise Stopped

    def fail(self, error: type[TesseraError], diagnostic: Diagnostic, roots: Sequence[str] = ()) -> None:
        """Keep one fault; the trace goes on with poison."""
        self.findings.append(Finding(error, diagnostic, tuple(roots)))

    def _name(self, call: Call, result: Any) -> None:
        """Give the results the variable names that they are stored under."""
        assert call.code is not None
        names = targets(call.code).get(call.lasti)
        if names is None:
            return
        values = list(result) if isinstance(result, tuple | list) else [result]
        if len(names) == 1 and len(values) != 1:
            names = tuple(f"{names[0]}_{n}" for n in range(len(values)))
        for name, value in zip(names, values, strict=False):
            if isinstance(value, Sym) and isinstance(value.value, Value) and name != "_":
                self.rename(value.value, name)

    def rename(self, value: Value, name: str) -> None:
        """Call a value by the user's name, unless an earlier expression has named it."""
        names = self.builder.names
        if value.name in self.context.named:
            return
        names.pop(value.name, None)
        value.name = self.builder.fresh(name)
        self.context.named.add(value.name)

    # ---- between traced objects and the IR ---------------------------------------------------------------

    def lower(self, x: Any) -> Any:
        """An argument as the records take it. Raises when it comes from an operation that failed."""
        if isinstance(x, TensorHandle):
            return Sym(self.ops, self.read(x))
        if x is None or type(x) in _PLAIN:
            return x
        if isinstance(x, int | float):  # NumPy's float64, an IntEnum
            return float(x) if isinstance(x, float) else int(x)
        if isinstance(x, SizeHandle):
            return x._dim
        if isinstance(x, PoisonHandle):
            raise _Poisoned
        if isinstance(x, tuple | list):
            return type(x)(map(self.lower, x)) if type(x) in (tuple, list) else tuple(map(self.lower, x))
        if isinstance(x, slice):
            return slice(self.lower(x.start), self.lower(x.stop), self.lower(x.step))
        if self.table.is_tensor(x):
            return Sym(self.ops, self.read(self.capture(x)))
        found = self.table.to_dtype(x)
        if found is None and getattr(x, "ndim", None) == 0 and callable(getattr(x, "item", None)):
            return x.item()  # a NumPy scalar
        return x if found is None else found

    def lift(self, x: Any) -> Any:
        """A result as the user sees it."""
        if isinstance(x, Sym):
            return self.wrap(self, x.value)
        if isinstance(x, tuple | list):
            members = [self.lift(member) for member in x]
            if isinstance(x, list):
                return members
            return Pair(members) if len(members) == 2 else tuple(members)
        if isinstance(x, Dim):
            return self.size(x)
        return x

    def read(self, handle: TensorHandle) -> Value:
        """The current value of a traced tensor: derived again when the memory it looks at was written."""
        if handle._step is not None and not handle._step.open:
            raise TraceError.from_diagnostics([leaked(handle, caller_span())])
        storage = handle._storage
        if storage is None or storage.version == handle._version:
            return handle._value
        value, here = storage.value, self.builder.ops
        # What was made outside of a step is there for what follows the step, too.
        self.builder.ops = self.ground if handle._step is None else handle._step.ops
        try:
            for step in handle._steps:
                (value,) = self.builder.emit(step.record, (value,), step.attrs, span=step.span, origin=step.origin)
        finally:
            self.builder.ops = here
        handle._value, handle._version = value, storage.version
        return value

    def capture(self, tensor: object) -> TensorHandle:
        """A tensor with data that the function reaches without a parameter: a hidden argument."""
        found = self.captures.get(id(tensor))
        if found is None:
            value = self.builder.param("captured", self.table.tensor_type(tensor))
            handle = self.wrap(self, value)
            handle._storage, handle._step = Storage(value, "a tensor from outside the function"), None
            found = self.captures[id(tensor)] = (tensor, handle)
        return found[1]

    def size(self, dim: Dim) -> Any:
        """A size as Python sees it: an int when it is one number."""
        return dim.value if dim.is_const else self.make_size(self, dim)

    def scalar_value(self, handle: TensorHandle) -> float:
        """The value of a float argument, which the call is then specialised on; at definition a stand-in."""
        path = self.scalar_paths.get(handle._value)
        if path is not None and self.scalars is not None and path in self.scalars:
            actual = float(self.scalars[path])
            self.specialised[path] = (actual, caller_span())
            return actual
        if self.hints is not None or path is None:
            raise TraceError("the value of a computed number is not known", code="TSR0402")
        self.guessed = True
        self.specialised.setdefault(path, (math.nan, caller_span()))
        return 0.5

    def operand(self, x: Any) -> Operand:
        """An argument as an operand of an operation."""
        lowered = self.lower(x)
        return Literal(lowered) if isinstance(lowered, Dim) else self.ops.operand(lowered)


def _aimed(refused: Refused, given: Sequence[Operand]) -> Refused:
    """A dtype that operands were promoted to is told of the one that brought it in."""
    kinds = [str(x.type.dtype) for x in given]
    blame = list(refused.blame)
    for n, one in enumerate(blame):
        told = _OF_DTYPE.fullmatch(one.text)
        if told is not None and one.operand is not None and told[1] in kinds and kinds[one.operand] != told[1]:
            blame[n] = replace(one, operand=kinds.index(told[1]))
    refused.blame = tuple(blame)
    return refused


def _dropped(call: Call, result: TensorHandle) -> Dropped | None:
    """Which axes a reduction removed, when it did: a later mismatch may come from there."""
    source = call.args[0] if call.args else None
    if not isinstance(source, TensorHandle):
        return None
    rank, left = source._value.type.rank, result._value.type.rank
    dim = call.kwargs.get("dim", call.kwargs.get("axis", call.args[1] if len(call.args) > 1 else None))
    axes = (dim,) if isinstance(dim, int) else dim
    if not isinstance(axes, tuple | list) or left != rank - len(axes):
        return None
    return Dropped(tuple(sorted(int(a) % rank for a in axes)), call.name, call.span)


class Pair(tuple[Any, ...]):
    """Two results with the names that torch gives them: ``values`` and ``indices``."""

    __slots__ = ()

    @property
    def values(self) -> Any:
        return self[0]

    @property
    def indices(self) -> Any:
        return self[1]


def _unknown(error: Exception) -> bool:
    """Whether a record refused a call because it does not know the arguments, not because they do not fit."""
    return isinstance(error, TypeError | NotCovered) or getattr(error, "code", "") == "TSR0404"


def _has_size(x: Any) -> bool:
    """Whether an argument is a size, or holds one, whose value is open."""
    return isinstance(x, Dim) or (isinstance(x, tuple | list) and any(isinstance(member, Dim) for member in x))


_PLAIN = frozenset({bool, int, float, str})


class _Poisoned(Exception):
    """An argument comes from an operation that failed."""


_local = threading.local()


def current() -> Session | None:
    """The trace that this thread is running, if any."""
    return getattr(_local, "session", None)


def enter(session: Session | None) -> Session | None:
    """Make a session the current one of this thread; gives the one before, for putting it back."""
    before = current()
    _local.session = session
    return before
