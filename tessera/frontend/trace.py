"""Running a Python function on traced arguments: what comes out is an IR function, or every fault that was
found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import CodeType, TracebackType
from typing import Any

from tessera.diag import Diagnostic, Help, Label, ShapeError, Span, TesseraError, TraceError
from tessera.diag.span import is_machinery
from tessera.frontend import blame, extern, returns
from tessera.frontend.annotation import Lead
from tessera.frontend.context import Choice, TraceContext
from tessera.frontend.handles import (
    UNKNOWN,
    Deferred,
    ObjectOf,
    PoisonHandle,
    SizeHandle,
    Stopped,
    Storage,
    TensorHandle,
    leaked,
)
from tessera.frontend.interop import dispatch
from tessera.frontend.proxy import Poison, make
from tessera.frontend.receiver import receiver_of, sizes_of, stand_in
from tessera.frontend.region import region
from tessera.frontend.session import Finding, Path, Session, enter, error_of
from tessera.frontend.size import Size
from tessera.frontend.spec import FunctionSpec
from tessera.frontend.table import TorchTable
from tessera.frontend.tree import LEAF, Tree, flatten, leaf_paths, unflatten
from tessera.ir.build import Builder
from tessera.ir.dim import Dim
from tessera.ir.dtype import f32, f64
from tessera.ir.facts import Facts
from tessera.ir.graph import Block, Function, Literal, Obligation, Operand, Value
from tessera.ir.types import ScalarType, TensorType

ArgType = Any  # a TensorType, a ScalarType, a Dim (a size that stays symbolic), or any static Python value

_NO_NAME = re.compile(r"[^A-Za-z0-9_]+")
_NO_OPERAND = re.compile(
    r"unsupported operand type\(s\) for (\S+?):? '(Proxy|Pair|tuple|list|dict|str|set)' and "
    r"'(Proxy|Pair|tuple|list|dict|str|set)'"
)


@dataclass(frozen=True, slots=True)
class Input:
    """Where a parameter of the IR function comes from: ``leaf`` (number of the argument leaf), ``capture``
    or ``seed``.
    """

    kind: str
    leaf: int = -1
    captured: object = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Output:
    """One leaf of the result: ``tensor`` (number of the IR function's output), ``size`` or ``static``.

    ``memory`` is one number for tensors that share memory: that of a parameter of the IR function, or a higher one.
    ``dense`` says that the code asked for a row-major block.
    """

    kind: str
    place: int = -1
    value: Any = None
    memory: int = -1
    dense: bool = False


@dataclass(frozen=True)
class Traced:
    """A traced function.

    ``choices`` are answers about sizes that Python code was given, and ``specialised`` the sizes (by
    expression) and floats (by argument) that it asked the value of; the compiled function serves a call
    only where they agree. ``open`` could not be decided without a call. ``visited`` is the user's code that ran
    inside the function, with its globals.
    """

    function: Function
    inputs: tuple[Input, ...]
    out_tree: Tree
    outputs: tuple[Output, ...]
    choices: tuple[Choice, ...] = ()
    specialised: Mapping[str, tuple[int | float, Span | None]] = field(default_factory=dict)
    open: tuple[Obligation, ...] = ()
    findings: tuple[Finding, ...] = ()
    deferred: Deferred | None = None
    guessed: bool = False
    notes: tuple[str, ...] = ()
    visited: tuple[tuple[CodeType, Mapping[str, object]], ...] = field(default=(), repr=False, compare=False)

    def detached(self) -> Traced:
        """The trace without the tensors that it captured, which it would keep alive."""
        return replace(self, inputs=tuple(replace(i, captured=None) for i in self.inputs))

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What was found wrong, in the order of the source."""
        return tuple(f.diagnostic for f in self.findings)


def trace(
    spec: FunctionSpec,
    inputs: Sequence[ArgType],
    *,
    table: TorchTable,
    hints: Mapping[str, int] | None = None,
    tree: Tree | None = None,
    flexible: Sequence[str] = (),
    scalars: Mapping[str, float] | None = None,
    facts: Facts | None = None,
    leads: Mapping[str, tuple[Dim, ...]] | None = None,
    device: object = None,
) -> Traced:
    """Trace one call of a function.

    ``inputs`` holds, for each leaf of ``tree`` (a dict from parameter to value; by default one leaf a
    parameter), a TensorType, a ScalarType, a Dim or the static value itself. ``hints`` are the actual sizes
    by name, ``flexible`` the names that no annotation gave, ``scalars`` the values of floats by argument,
    ``leads`` the dims of each variadic part. Raises TesseraError with every fault at once.
    """
    run = Run(spec, tuple(inputs), table, hints, tree, tuple(flexible), scalars, facts, device, leads or {})
    traced = run.trace()
    if traced.findings:
        raise error_of(traced.findings)
    if traced.deferred is not None:
        where = traced.deferred.span
        labels = (Label(where, "asked for here", True),) if isinstance(where, Span) else ()
        raise TraceError.from_diagnostics(
            [Diagnostic("TSR0402", f"the size `{traced.deferred.what}` has no value before the first call", labels)]
        )
    return traced


@dataclass
class Run:
    """One trace with its settings; ``path`` answers questions about sizes at definition."""

    spec: FunctionSpec
    inputs: tuple[ArgType, ...]
    table: TorchTable
    hints: Mapping[str, int] | None = None
    tree: Tree | None = None
    flexible: tuple[str, ...] = ()
    scalars: Mapping[str, float] | None = None
    facts: Facts | None = None
    device: object = None
    leads: Mapping[str, tuple[Dim, ...]] = field(default_factory=dict)
    bindings: Mapping[str, Dim] = field(default_factory=dict)
    stand_ins: Mapping[int, str] = field(default_factory=dict)
    path: Path | None = None

    def trace(self) -> Traced:
        """Run the function; faults are in the result, not raised.

        In a call, names that the guards make one size are one in a second run: loops over the same sizes are then seen
        to be the same.
        """
        first = self._once()
        same = {} if self.hints is None or first.findings or first.deferred else _settled(first.function.obligations)
        if not same:
            return first
        again = replace(self, bindings={**self.bindings, **same})._once()
        if again.findings or again.deferred is not None:
            return first
        kept = [o for o in first.function.obligations if o.kind == "eq" and o.left.names() | o.right.names()]
        obligations = tuple(dict.fromkeys((*kept, *again.function.obligations)))
        choices = tuple(dict.fromkeys((*first.choices, *again.choices)))
        asked = {**first.specialised, **again.specialised}
        function = replace(again.function, obligations=obligations)
        return replace(again, function=function, choices=choices, specialised=asked)

    def _once(self) -> Traced:
        session = self._session()
        tree = self.tree or Tree("dict", (LEAF,) * len(self.spec.params), tuple(p.name for p in self.spec.params))
        leaves, params, sources = self._arguments(session, tree)
        args, kwargs = arguments(self.spec, unflatten(tree, leaves))
        result, deferred = execute(session, self.spec, args, kwargs)
        if deferred is None and "self" in session.specialised:
            deferred = Deferred("self", session.specialised["self"][1])
        outputs: list[Operand] = []
        out_tree: Tree = LEAF
        described: list[Output] = []
        if deferred is None and not isinstance(result, PoisonHandle):
            out_tree, described = _results(session, self.spec, result, outputs, args, leaves)
        updates = _updates(leaves, params, outputs)
        session.open = False
        sources += [Input("capture", captured=tensor) for tensor, _ in session.captures.values()]
        params += [handle._storage.value for _, handle in session.captures.values()]
        seed = session.ops.seed
        if isinstance(seed, Value):
            params.append(seed)
            sources.append(Input("seed"))
        block = Block(tuple(session.builder.ops), tuple(params), tuple(outputs))
        context = session.context
        undecided = [replace(o, verdict="guarded") for o in context.open]
        obligations = (*_as_obligations(context.choices), *context.obligations.values(), *undecided)
        name = self.spec.function.__name__
        function = Function(name, block, "tensor", obligations, span=self.spec.span, updates=updates)
        return Traced(
            function,
            tuple(sources),
            out_tree,
            tuple(described),
            tuple(context.choices),
            dict(session.specialised),
            tuple(context.open),
            tuple(session.findings),
            deferred,
            session.guessed,
            tuple(session.notes),
            tuple(session.visited.values()),
        )

    def _session(self) -> Session:
        wide = any(isinstance(x, TensorType) and x.dtype is f64 for x in self.inputs)
        context = TraceContext(
            self.facts or Facts(),
            hints=self.hints,
            flexible=set(self.flexible),
            numbers=frozenset(p.name for p in self.spec.params),
            stand_ins=self.stand_ins,
        )
        builder = Builder(self.table.records["cast"], context)
        session = Session(
            self.table,
            builder,
            context,
            self.hints,
            self.path,
            f64 if wide else f32,
            # Code may ask for `x.device.type`, at definition too, where no tensor says.
            self.device or self.table.default_device,
            make,
            Size,
            blame.report,
            extern.take_over,
        )
        session.poison = Poison(session)
        session.scopes.append(self.spec)
        session.scalars = self.scalars
        session.leads.update(self.leads or _leads(self.spec, self.inputs))
        receiver = receiver_of(self.spec, self.inputs)
        if receiver is not UNKNOWN and not isinstance(receiver, ObjectOf):
            session.bindings.update(sizes_of(self.spec, receiver))
        session.bindings.update(self.bindings)
        return session

    def _arguments(self, session: Session, tree: Tree) -> tuple[list[Any], list[Value], list[Input]]:
        """The traced arguments in order, the parameters of the IR function, and where these come from."""
        leaves: list[Any] = []
        params: list[Value] = []
        sources: list[Input] = []
        paths = [p for name, child in zip(tree.keys, tree.children, strict=True) for p in leaf_paths(child, name)]
        for number, (given, path) in enumerate(zip(self.inputs, paths, strict=True)):
            if isinstance(given, Dim):
                leaves.append(session.size(given.substitute(session.bindings)))
                continue
            if given is UNKNOWN or isinstance(given, ObjectOf):
                leaves.append(stand_in(session, given))
                continue
            if not isinstance(given, TensorType | ScalarType):
                leaves.append(given)
                continue
            if isinstance(given, TensorType):
                given = given.with_dims(tuple(d.substitute(session.bindings) for d in given.dims))
            value = session.builder.param(_NO_NAME.sub("_", path).strip("_") or "arg", given)
            handle = make(session, value)
            root = re.split(r"[.\[]", path)[0]
            handle._storage = Storage(value, "" if root in self.spec.updates else f"argument `{path}`")
            if isinstance(given, ScalarType):
                session.scalar_paths[value] = path
            session.param_names[value] = root
            leaves.append(handle)
            params.append(value)
            sources.append(Input("leaf", number))
        return leaves, params, sources


def _settled(obligations: Sequence[Obligation]) -> dict[str, Dim]:
    """What guarded equalities of names say: each name by the number, or the one name, that it equals."""
    found: dict[str, Dim] = {}
    for o in obligations:
        left, right = (d.substitute(found) for d in (o.left, o.right))
        if o.kind != "eq" or o.verdict != "guarded" or left is right:
            continue
        name, size = (right, left) if right.is_name else (left, right)
        if name.is_name and (size.is_name or size.is_const):
            one = {next(iter(name.names())): size}
            found = {**{key: d.substitute(one) for key, d in found.items()}, **one}
    return found


def _updates(leaves: Sequence[Any], params: Sequence[Value], outputs: list[Operand]) -> tuple[Value, ...]:
    """The parameters whose memory was written; what they have become joins the outputs."""
    storages = (x._storage for x in leaves if isinstance(x, TensorHandle) and x._storage is not None)
    written = [(p, s.value) for p, s in zip(params, storages, strict=False) if s.value is not p]
    outputs.extend(new for _, new in written)
    return tuple(p for p, _ in written)


def _leads(spec: FunctionSpec, inputs: Sequence[ArgType]) -> dict[str, tuple[Dim, ...]]:
    """The dims of each variadic part, read off the inputs of plain tensor parameters."""
    found: dict[str, tuple[Dim, ...]] = {}
    if len(inputs) != len(spec.params):
        return found
    for p, given in zip(spec.params, inputs, strict=True):
        a = p.hint.annotation
        if a is None or a.lead is None or a.dims is None or not isinstance(given, TensorType):
            continue
        at = next(n for n, d in enumerate(a.dims) if isinstance(d, Lead))
        found.setdefault(a.lead.name, given.dims[at : at + given.rank - len(a.fixed)])
    return found


def arguments(spec: FunctionSpec, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of the Python function from the values by parameter."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for p in spec.params:
        if p.name not in values:
            continue
        if p.how == "args":
            args.extend(values[p.name])
        elif p.how == "kwargs":
            kwargs.update(values[p.name])
        elif p.keyword_only:
            kwargs[p.name] = values[p.name]
        else:
            args.append(values[p.name])
    return args, kwargs


def execute(
    session: Session, spec: FunctionSpec, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Deferred | None]:
    """Run the Python function under the session; its faults go to the session."""
    before = enter(session)
    try:
        with session.table.intercept(dispatch), region(session) if spec.checkpointed else nullcontext():
            return spec.function(*args, **kwargs), None
    except Deferred as signal:
        return session.poison, signal
    except Stopped:
        return session.poison, None
    except TesseraError as error:
        session.findings += [Finding(type(error), d) for d in error.diagnostics]
    except Exception as error:
        if not session.findings:
            session.fail(*python_error(session, spec, error))
    finally:
        enter(before)
    return session.poison, None


def python_error(session: Session, spec: FunctionSpec, error: Exception) -> tuple[type[TesseraError], Diagnostic]:
    """A Python exception in traced code as a diagnostic: TSR0216 for unpacking a shape, TSR0410 for endless
    recursion, else TSR0406.
    """
    if isinstance(error, RecursionError):
        return TraceError, endless(error.__traceback__)
    span = _user_place(error.__traceback__) or spec.span
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    session.cause = error
    if isinstance(error, ValueError) and "values to unpack" in str(error):
        return ShapeError, _unpacked(session, span, str(error))
    wrong = _NO_OPERAND.search(str(error)) if isinstance(error, TypeError) else None
    if wrong is not None and "Proxy" in wrong.groups()[1:]:
        return TraceError, _no_operand(span, *wrong.groups())
    labels = () if span is None else (Label(span, "raised here", True),)
    return TraceError, Diagnostic("TSR0406", f"the function cannot be traced: {text}", labels)


def _unpacked(session: Session, span: Span | None, text: str) -> Diagnostic:
    """A sequence, mostly a shape, unpacked into another number of names."""
    line = "" if span is None else span.source_line() or ""
    if session.shapes_read and (".shape" in line or ".size()" in line):
        name, rank = session.shapes_read[-1]
        labels = () if span is None else (Label(span, f"`{name}` has {rank} dims", True),)
        return Diagnostic("TSR0216", f"the shape of a rank-{rank} tensor unpacked: {text}", labels)
    labels = () if span is None else (Label(span, "unpacked here", True),)
    return Diagnostic("TSR0216", text, labels)


def _no_operand(span: Span | None, sign: str, left: str, right: str) -> Diagnostic:
    """A tensor combined with something that no tensor library combines it with."""
    sides = ["a tensor" if side == "Proxy" else f"a {side.lower()}" for side in (left, right)]
    labels = () if span is None else (Label(span, f"{sides[0]} and {sides[1]}", True),)
    paired = "Pair" in (left, right)
    helps = (Help("take `.values` or `.indices` of the pair"),) if paired else ()
    return Diagnostic("TSR0404", f"`{sign}` of {sides[0]} and {sides[1]}", labels, (), helps)


def _user_place(traceback: TracebackType | None) -> Span | None:
    """Where the innermost frame of the user stood."""
    found: Span | None = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not is_machinery(code.co_filename):
            found = Span.at(code, traceback.tb_lasti)
        traceback = traceback.tb_next
    return found


def endless(traceback: TracebackType | None) -> Diagnostic:
    """TSR0410 at the call that a traceback holds about as often as any other: of a cycle, the outermost."""
    seen: dict[tuple[CodeType, int], int] = {}
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not is_machinery(code.co_filename):
            key = (code, traceback.tb_lasti)
            seen[key] = seen.get(key, 0) + 1
        traceback = traceback.tb_next
    if not seen:
        return Diagnostic("TSR0410", "recursion without end")
    most = max(seen.values())
    (code, lasti), times = next(item for item in seen.items() if 2 * item[1] > most)
    name = code.co_qualname.rpartition("<locals>.")[2]
    label = Label(Span.at(code, lasti), f"{times} calls inside each other", True)
    return Diagnostic("TSR0410", f"`{name}` calls itself without end", (label,))


def _as_obligations(choices: Sequence[Choice]) -> list[Obligation]:
    """The choices that an obligation can say; the others are checked by themselves."""
    found: list[Obligation] = []
    for c in choices:
        if c.kind == "ge":
            left, right = (c.left, c.right) if c.holds else (c.right, c.left + 1)
            found.append(Obligation("ge", left, right, "guarded", "asked by the code", c.span))
        elif c.holds:
            found.append(Obligation("eq", c.left, c.right, "guarded", "asked by the code", c.span))
    return found


def _results(
    session: Session, spec: FunctionSpec, result: Any, outputs: list[Operand], args: Sequence[Any], given: Sequence[Any]
) -> tuple[Tree, list[Output]]:
    """The result's structure, and each leaf as an output of the IR function or a static value. ``given`` are the
    leaves of the arguments.
    """
    leaves, tree = flatten(result, lambda x: isinstance(x, TensorHandle | SizeHandle))
    leaves = [session.capture(leaf) if session.table.is_tensor(leaf) else leaf for leaf in leaves]
    returns.check(session, spec, result, args)
    described: list[Output] = []
    owners = [x for x in (*given, *(handle for _, handle in session.captures.values())) if isinstance(x, TensorHandle)]
    memory = {id(x._storage): n for n, x in enumerate(owners)}
    for leaf in leaves:
        if isinstance(leaf, TensorHandle) and leaf._step is not None:
            session.fail(TraceError, leaked(leaf, spec.span))
            described.append(Output("static"))
        elif isinstance(leaf, TensorHandle):
            own = memory.setdefault(id(leaf._storage or leaf), len(memory))
            described.append(Output("tensor", len(outputs), memory=own, dense=leaf._dense))
            outputs.append(session.read(leaf))
        elif isinstance(leaf, SizeHandle):
            described.append(Output("size", value=leaf._dim))
        elif isinstance(leaf, PoisonHandle):
            described.append(Output("static"))
        elif leaf is None or isinstance(leaf, bool | int | float | str | bytes):
            described.append(Output("static", value=leaf))
        else:
            _no_tensor(session, spec, leaf)
    return tree, described


def _no_tensor(session: Session, spec: FunctionSpec, leaf: object) -> None:
    label = () if spec.span is None else (Label(spec.span, f"gives a {type(leaf).__name__}", True),)
    session.fail(TraceError, Diagnostic("TSR0407", f"a result of type {type(leaf).__name__}", label))


__all__ = ["Input", "Literal", "Output", "Run", "Traced", "arguments", "endless", "error_of", "execute", "trace"]
