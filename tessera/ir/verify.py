"""The invariants that passes, schedulers and backends rely on, checked in one place.

``cheap`` looks at names and arity only and is linear; ``full`` also asks every record for its result types
and checks the rules of the dialect. Passes never check any of this again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tessera.diag import Diagnostic, Help, Label, TesseraError, VerifyError
from tessera.ir.dialects.block import BLOCK_OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.facts import Facts
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Attr, Block, Function, Obligation, Operation, Value, walk
from tessera.ir.infer import InferContext, Refused
from tessera.ir.loop import DEEPEST
from tessera.ir.printer import exports, printed
from tessera.ir.record import Kind, OpRecord, Param
from tessera.ir.solver import Verdict, judge_eq
from tessera.ir.source import label_at
from tessera.ir.types import BufferType, ScalarType, TensorType, TileType, Type
from tessera.ir.verify_block import BLOCK_FORM, block_problems
from tessera.ir.verify_tile import tile_problems

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule: at which operation, which operand of it, and what is wrong.

    ``about`` is ``name`` for definitions and uses, ``op`` for everything else.
    """

    op: Operation | None
    text: str
    operand: int | None = None
    label: str = ""
    about: str = "op"
    helps: tuple[str, ...] = ()


def verify(f: Function, level: str = "full") -> Function:
    """The function itself when it keeps every rule.

    Raises VerifyError (TSR0504) with up to ten broken rules, each shown on the line of the printed IR.

    >>> from tessera.ir.parser import parse
    >>> verify(parse("fn f(x: f32[B]) -> f32[B] { %y = exp(x) : f32[B] return %y }")).name
    'f'
    """
    found = list(islice(problems(f, level), _SHOWN))
    if found:
        raise VerifyError.from_diagnostics(_diagnostics(f, found))
    return f


def problems(f: Function, level: str = "full") -> Iterator[Problem]:
    """Every broken rule, in textual order; names first, since types mean nothing without them."""
    if level not in ("full", "cheap"):
        raise ValueError(f"level `{level}`, not full or cheap")
    broken = False
    for problem in _Names(f).run():
        broken = True
        yield problem
    if broken:
        return
    yield from _updates(f)
    for op in walk(f.body):
        yield from arity_problems(op, f.dialect)
    if level == "full":
        yield from _full(f)


def _updates(f: Function) -> Iterator[Problem]:
    """Parameters are updated once each, by tensors of their own type."""
    if f.updates and f.dialect != "tensor":
        yield Problem(None, "a kernel updates buffers, not parameters")
    elif len(f.updates) > len(f.outputs):
        yield Problem(None, f"{len(f.updates)} updates among {len(f.outputs)} outputs")
    elif len(set(f.updates)) < len(f.updates) or not set(f.updates) <= set(f.params):
        yield Problem(None, "an update is of one parameter, and the only one of it")
    else:
        for p, x in f.written:
            if not isinstance(p.type, TensorType) or x.type != p.type:
                yield Problem(None, f"`{p.name}` is {p.type} and is updated with {x.type}")


def _readers(block: Block) -> Iterator[Operation]:
    """The operations whose operands are all that a block reads: a group inside it lists its own reads."""
    for op in block.ops:
        yield op
        if op.body is not None and not exports(op.record):
            yield from walk(op.body)


# -- names: one definition each, before every use, in scope


@dataclass(slots=True)
class _Scope:
    rest: Iterator[Operation]
    owner: Operation | None
    block: Block
    defined: list[Value] = field(default_factory=list)

    @property
    def controls(self) -> bool:
        """Is it the step of a control operation?"""
        return self.owner is not None and self.owner.record.kind is Kind.CONTROL


class _Names:
    """Walks the function once with a stack of blocks; ``visible`` holds the values that may be read here.

    What a control operation's body defines ends with it. What a group defines stays, but only its results may
    be read outside; in the tile dialect loops let everything through, and the dialect's own rules say what
    may be read.
    """

    def __init__(self, f: Function) -> None:
        self.f = f
        self.names: dict[str, Value] = {}
        self.visible: set[Value] = set()
        self.inside: set[Value] = set()

    def run(self) -> Iterator[Problem]:
        yield from self._params(self.f.body.params, None)
        scopes = [_Scope(iter(self.f.body.ops), None, self.f.body)]
        while scopes:
            scope = scopes[-1]
            op = next(scope.rest, None)
            if op is None:
                yield from self._close(scopes)
                continue
            for number, x in enumerate(op.operands):
                if isinstance(x, Value) and x not in self.visible:
                    yield self._unknown(op, number, x)
            if op.body is None or not exports(op.record):
                yield from self._define(op.results, op, scope)
            if op.body is not None:
                if op.record.kind is Kind.CONTROL and sum(s.controls for s in scopes) == DEEPEST:
                    yield Problem(op, f"steps are nested deeper than {DEEPEST}")
                    return
                inner = _Scope(iter(op.body.ops), op, op.body)
                yield from self._params(op.body.params, op)
                inner.defined.extend(op.body.params)
                scopes.append(inner)

    def _params(self, params: Sequence[Value], op: Operation | None) -> Iterator[Problem]:
        for p in params:
            yield from self._new(p, op)

    def _define(self, results: Sequence[Value], op: Operation, scope: _Scope) -> Iterator[Problem]:
        for r in results:
            yield from self._new(r, op)
            scope.defined.append(r)

    def _new(self, v: Value, op: Operation | None) -> Iterator[Problem]:
        if not _NAME.fullmatch(v.name):
            yield Problem(op, f"`{v.name[:80]}` is not a name", about="name")
        elif v.name in self.names:
            yield Problem(op, f"`%{v.name}` is defined twice", about="name")
        self.names[v.name] = v
        self.visible.add(v)

    def _unknown(self, op: Operation | None, number: int | None, x: Value) -> Problem:
        if x in self.inside:
            text = f"`%{x.name}` is read outside the group that defines it and is not one of its results"
            return Problem(op, text, number, "not visible here", "name")
        if op is None:
            return Problem(op, f"`%{x.name}` is returned, not defined", about="name")
        return Problem(op, f"`%{x.name}` is not defined before this", number, "read here", "name")

    def _close(self, scopes: list[_Scope]) -> Iterator[Problem]:
        scope = scopes.pop()
        op = scope.owner
        for x in scope.block.yields:
            if isinstance(x, Value) and x not in self.visible:
                yield self._unknown(op, None, x)
        if op is None or op.body is None:
            return
        if not exports(op.record):
            self._hide(scope.defined)
            return
        within = set(scope.defined)
        for r in op.results:
            if r not in within:
                yield Problem(op, f"result `%{r.name}` is not defined inside", about="name")
        if op.record.kind is Kind.REGION:
            yield from self._reads(op, within)
            self._hide([v for v in scope.defined if v not in op.results])
        scopes[-1].defined.extend(v for v in scope.defined if v in self.visible)

    def _hide(self, values: Sequence[Value]) -> None:
        self.visible.difference_update(values)
        self.inside.update(values)

    def _reads(self, op: Operation, within: set[Value]) -> Iterator[Problem]:
        """The operands of a group are exactly the values it reads from outside."""
        assert op.body is not None
        readers = list(_readers(op.body))
        own = {v for inner in readers if inner.body for v in (*inner.body.params, *inner.results)}
        own.update(r for inner in readers for r in inner.results)
        read = {v for inner in readers for v in inner.inputs if v not in within and v not in own}
        given = set(op.inputs)
        for v in sorted(read - given, key=lambda v: v.name):
            yield Problem(op, f"`%{v.name}` is read inside and not an operand", about="name")
        for number, x in enumerate(op.operands):
            if not isinstance(x, Value) or x not in read:
                yield Problem(op, "operand that nothing inside reads", number, "not read")


# -- arity and attributes


def arity_problems(op: Operation, dialect: str = "tensor") -> Iterator[Problem]:
    """Number of operands, and names and kinds of attributes, against the record's signature.

    A fold of the tile dialect has operands and attributes of its own (see ``verify_tile``).
    """
    least, most = operand_range(op.record)
    count = len(op.operands)
    folds = dialect == "tile" and op.record.kind in FOLDS
    if folds and op.record.kind is Kind.REDUCE and count == least + 1:
        return
    if count < least or (most is not None and count > most):
        wanted = str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        yield Problem(
            op,
            f"`{op.name}` takes {wanted} operands, not {count}",
            label=f"`{op.name}({op.record.signature})`",
        )
        return
    if folds:
        return
    params = {p.name: p for p in op.record.params if not p.is_operand}
    for name, value in op.attrs.items():
        param = params.get(name)
        if param is None:
            known = ", ".join(params) or "none"
            yield Problem(op, f"`{op.name}` has no attribute `{name}`", label=f"attributes: {known}")
        elif not attr_fits(param, value):
            yield Problem(op, f"attribute `{name}` of `{op.name}` is not of kind {param.kind}")
    for name, param in params.items():
        if param.required and name not in op.attrs:
            yield Problem(op, f"`{op.name}` lacks the attribute `{name}`")


_RANGES: dict[OpRecord, tuple[int, int | None]] = {}


def operand_range(record: OpRecord) -> tuple[int, int | None]:
    """Least and greatest number of operands; None when there is no greatest."""
    known = _RANGES.get(record)
    if known is None:
        kinds = [p.kind for p in record.params if p.is_operand]
        optional = sum(k == "tensor?" or (k == "tensor" and not p.required) for k, p in _operand_params(record))
        fixed = sum(k != "tensors" for k in kinds)
        known = _RANGES[record] = (fixed - optional, None if "tensors" in kinds else fixed)
    return known


def _operand_params(record: OpRecord) -> list[tuple[str, Param]]:
    return [(p.kind, p) for p in record.params if p.is_operand]


def _whole(x: Attr) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _is_size(x: Attr) -> bool:
    return isinstance(x, Dim) or _whole(x)


def _every(test: Callable[[Attr], bool]) -> Callable[[Attr], bool]:
    return lambda x: isinstance(x, tuple) and all(map(test, x))


_KINDS: Mapping[str, Callable[[Attr], bool]] = {
    "int": _whole,
    "float": lambda x: isinstance(x, float) or _whole(x),
    "bool": lambda x: isinstance(x, bool),
    "str": lambda x: isinstance(x, str),
    "dtype": lambda x: isinstance(x, DType),
    "number": lambda x: isinstance(x, bool | int | float),
    "dim": _whole,
    "dims": lambda x: _whole(x) or _every(_whole)(x),
    "size": _is_size,
    "sizes": _every(_is_size),
}


def attr_fits(param: Param, value: Attr) -> bool:
    """Whether an attribute has the kind that its parameter names; None fits where it is the default."""
    if value is None:
        return param.default is None or param.kind in ("any", "dims", "sizes", "size")
    test = _KINDS.get(param.kind)
    if test is None:
        return True
    return test(value) or (param.variadic and isinstance(value, tuple) and all(map(test, value)))


# -- types and the dialect's rules


class Known:
    """What a function may take for granted about its sizes: its obligations, and what follows from the
    forms alone.
    """

    def __init__(self, obligations: Sequence[Obligation]) -> None:
        self._pairs = {pair for o in obligations if o.kind == "eq" for pair in ((o.left, o.right), (o.right, o.left))}
        self.facts = Facts()
        for o in obligations:
            if o.kind == "eq" and o.verdict != "proved":
                self.facts = self.facts.with_eq(o.left, o.right)

    def equal(self, a: Dim, b: Dim) -> bool:
        return a is b or (a, b) in self._pairs or judge_eq(a, b, self.facts) is Verdict.PROVED


def _full(f: Function) -> Iterator[Problem]:
    known = Known(f.obligations)
    yield from _kinds(f)
    if f.dialect == "tile":
        yield from (Problem(op, text, operand) for op, text, operand in tile_problems(f))
        return
    if f.dialect == "block":
        yield from (Problem(op, text, operand) for op, text, operand in block_problems(f))
    for op in walk(f.body):
        if f.dialect == "block" and op.record in BLOCK_FORM:
            continue
        ruled = op.record.kind not in (Kind.REGION, Kind.CONTROL) if op.body is None else op.record.infer_body
        if ruled:
            yield from _typed(op, known)


_FORBIDDEN: Mapping[str, frozenset[Kind]] = {
    "tensor": frozenset({Kind.TILE, Kind.COMPOSITE}),
    "tile": frozenset({Kind.REGION, Kind.COMPOSITE, Kind.VIEW, Kind.INDEX, Kind.CREATE, Kind.CONTRACT, Kind.EXTERN}),
    "block": frozenset({Kind.REGION, Kind.COMPOSITE, Kind.EXTERN, Kind.COLLECTIVE}),
}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "tensor": (TensorType, ScalarType),
    "tile": (BufferType, ScalarType, TileType),
    "block": (BufferType, ScalarType, TensorType),
}


def _kinds(f: Function) -> Iterator[Problem]:
    """Which operations and types a dialect has at all."""
    if f.dialect not in _FORBIDDEN:
        yield Problem(None, f"no dialect `{f.dialect}`")
        return
    for p in f.params:
        if not isinstance(p.type, _TYPES[f.dialect]):
            yield Problem(None, f"parameter `{p.name}` of type `{p.type}` in a function of the {f.dialect} dialect")
    for op in walk(f.body):
        if op.record.kind in _FORBIDDEN[f.dialect] or (op.record in BLOCK_OPS and f.dialect != "block"):
            yield Problem(op, f"`{op.name}` has no place in the {f.dialect} dialect")
        elif op.record.kind in (Kind.REGION, Kind.CONTROL) and op.body is None:
            yield Problem(op, f"`{op.name}` has no body")
        for r in op.results:
            if not isinstance(r.type, _TYPES[f.dialect]):
                yield Problem(op, f"`%{r.name}` has the type `{r.type}`, which the {f.dialect} dialect does not have")


def _typed(op: Operation, known: Known) -> Iterator[Problem]:
    """The declared result types against those that the record infers."""
    rule, within, context = op.record.infer, op.record.infer_body, InferContext(known.facts)
    if rule is None and within is None:
        yield Problem(op, f"`{op.name}` has no type rule")
        return
    try:
        if within is not None:
            wanted = within(context, op)
        else:
            assert rule is not None
            wanted = rule(context, tuple(x.type for x in op.operands), op.attrs)
    except Refused as refused:
        operand = next((b.operand for b in refused.blame if b.operand is not None), None)
        yield Problem(op, refused.message, operand, next((b.text for b in refused.blame), ""), helps=refused.helps)
        return
    except TesseraError as error:
        yield Problem(op, error.message)
        return
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A rule may assume the attributes that its own `call` makes; text can hold any others.
        yield Problem(op, f"`{op.name}` does not take these operands and attributes", label=type(error).__name__)
        return
    found = tuple(r.type for r in op.results)
    if len(found) != len(wanted):
        yield Problem(op, f"`{op.name}` has {len(wanted)} results, not {len(found)}")
    for r, want in zip(op.results, wanted, strict=False):
        if not _same_type(r.type, want, known):
            yield Problem(op, f"`%{r.name}` has the type `{r.type}` where `{op.name}` gives `{want}`")


def _same_type(found: Type, wanted: Type, known: Known) -> bool:
    if found == wanted:
        return True
    if not isinstance(found, TensorType) or not isinstance(wanted, TensorType):
        return False
    if found.dtype is not wanted.dtype or found.rank != wanted.rank:
        return False
    return all(known.equal(a, b) for a, b in zip(found.dims, wanted.dims, strict=True))


# -- showing


def _diagnostics(f: Function, found: Sequence[Problem]) -> Iterator[Diagnostic]:
    """Each problem on the line of the printed function that it is about."""
    page = printed(f, spans=False, header=False)
    for problem in found:
        line, start, end = 1, 0, len(page.text.split("\n", 1)[0])
        if problem.op is not None:
            line, start, end = page.places[problem.op]
        label: Label = label_at(page.text, line, start, end, problem.label)
        helps = tuple(Help(h) for h in problem.helps)
        yield Diagnostic("TSR0504", problem.text, (label,), helps=helps)
