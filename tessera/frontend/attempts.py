"""Tracing a function as if it were called: each variant of its arguments, each dtype, each way through it."""

from __future__ import annotations

import inspect
import itertools
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

from tessera.diag import CallError, Diagnostic, DTypeError, ShapeError, Span
from tessera.frontend.annotation import DTypeClass
from tessera.frontend.handles import UNKNOWN
from tessera.frontend.hints import Hint
from tessera.frontend.session import Finding, Path
from tessera.frontend.spec import EMPTY, FunctionSpec, ParamSpec, lead_dims
from tessera.frontend.table import TorchTable
from tessera.frontend.trace import Run, Traced
from tessera.frontend.tree import LEAF, Tree
from tessera.frontend.words import told_apart
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bf16, bool_, dtype, f32, int64, is_dtype_name
from tessera.ir.graph import Obligation
from tessera.ir.types import ScalarType, TensorType

#: Ways through a function's questions about sizes that are followed.
MOST_PATHS = 16
#: Sizes tried where Python needs the number itself.
TRIED_SIZES = (5, 7, 4, 11)
#: Choices of present and absent arguments, and of bools, that are followed.
MOST_VARIANTS = 8


#: Entries of a dict of tensors at definition: those that the function mentions.
MOST_KEYS = 32
#: A name in a message.
_QUOTED = re.compile(r"`(\w+)`")
#: Combinations of dtypes that are tried for arguments that do not declare one.
MOST_DTYPES = 24


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a report: ``verdict`` is ``proved``, ``guarded``, ``refuted`` or ``deferred``."""

    verdict: str
    text: str
    span: Span | None = None

    def __str__(self) -> str:
        where = "" if self.span is None else f"   {self.span.file}:{self.span.line}"
        return f"  {self.verdict:<8} {self.text}{where}"


def line_of(d: Diagnostic) -> int:
    """The line that a diagnostic points at; 0 without a place."""
    return d.primary.span.line if d.primary is not None else 0


@dataclass(frozen=True)
class Attempt:
    """What came out of tracing a function in every way that is followed."""

    findings: tuple[Finding, ...]
    obligations: tuple[Obligation, ...]
    deferred: tuple[Item, ...]
    traced: tuple[Traced, ...]


def attempt(spec: FunctionSpec, table: TorchTable, count: int, receiver: object) -> Attempt:
    """Trace a function with ``count`` dims for each variadic part, along every variant, dtype and way."""
    findings: dict[tuple[str, str, object], Finding] = {}
    obligations: dict[tuple[str, Dim, Dim], Obligation] = {}
    deferred: dict[str, Item] = {}
    done: list[Traced] = []
    for variant in itertools.islice(_variants(spec), MOST_VARIANTS):
        for traced in _with_dtypes(Arguments(spec, count, variant, receiver), table):
            done.append(traced)
            for f in traced.findings:
                if _counts(f, traced):
                    findings.setdefault((f.diagnostic.code, f.diagnostic.message, line_of(f.diagnostic)), f)
                else:
                    _defer(deferred, f.diagnostic.message, f.diagnostic)
            for o in (*traced.open, *traced.function.obligations):
                obligations.setdefault((o.kind, o.left, o.right), o)
            for what, (_, span) in traced.specialised.items():
                deferred.setdefault(what, Item("deferred", f"specialises on `{what}`, known at the first call", span))
    for variant in itertools.islice(_other_settings(spec), MOST_VARIANTS):
        for traced in _with_dtypes(Arguments(spec, count, variant, receiver), table):
            for f in traced.findings:
                if f.diagnostic.code not in _OF_A_SETTING and issubclass(f.error, ShapeError | DTypeError | CallError):
                    findings.setdefault((f.diagnostic.code, f.diagnostic.message, line_of(f.diagnostic)), f)
    return Attempt(tuple(findings.values()), tuple(obligations.values()), tuple(deferred.values()), tuple(done))


def _defer(deferred: dict[str, Item], text: str, d: Diagnostic) -> None:
    span = d.primary.span if d.primary is not None else None
    deferred.setdefault(text, Item("deferred", f"{text}: checked at the first call", span))


def _counts(f: Finding, traced: Traced) -> bool:
    """Whether a fault is one for sure: code that cannot be traced, and errors behind a guessed number, may
    be fine.
    """
    if not issubclass(f.error, ShapeError | DTypeError | CallError):
        return f.diagnostic.code in ("TSR0403", "TSR0404", "TSR0411", "TSR0412", "TSR0413")
    if traced.choices and f.diagnostic.code == "TSR0406":
        return False
    return not (
        traced.guessed and any(c.isdigit() and int(c) > 1 for c in f.diagnostic.message.replace(",", " ").split())
    )


#: What a setting other than the default may be to blame for itself: a combination that nobody means, a result
#: that the annotation leaves out.
_OF_A_SETTING = frozenset({"TSR0210", "TSR0212", "TSR0406", "TSR0407"})


def _other_settings(spec: FunctionSpec) -> Iterator[dict[str, Any]]:
    """Bools, ``Literal`` choices and words with a default, one at a time with the values they do not have by
    default; of words those that the function tells apart.
    """
    for p in spec.params:
        choices: Iterable[Any] = ()
        if p.default is EMPTY or p.hint.optional:
            continue
        if p.hint.type is bool:
            choices = (True, False)
        elif typing.get_origin(p.hint.type) is typing.Literal:
            choices = typing.get_args(p.hint.type)
        elif p.hint.type is str:
            choices = told_apart(spec.function, p.name)
        yield from ({p.name: c} for c in choices if c != p.default)


def _strings(function: Callable[..., Any]) -> Iterator[str]:
    """The strings without spaces in a function's code, that of functions inside it included."""
    code: CodeType | None = getattr(inspect.unwrap(function), "__code__", None)
    waiting: list[Any] = [] if code is None else [*code.co_consts[1 if function.__doc__ else 0 :]]
    while waiting:
        c = waiting.pop(0)
        if isinstance(c, CodeType):
            waiting += c.co_consts
        elif isinstance(c, tuple | frozenset):
            waiting += c
        elif isinstance(c, str) and c and not any(map(str.isspace, c)):
            yield c


def _variants(spec: FunctionSpec) -> Iterator[dict[str, Any]]:
    """Which optional arguments are there, and which bools are true: all present first, then all absent,
    then mixed.
    """
    options: list[tuple[str, tuple[Any, ...]]] = []
    for p in spec.params:
        if (p.hint.optional and p.kind in ("optional", "container")) or (p.hint.type is bool and p.default is EMPTY):
            options.append((p.name, (True, False)))
    names = [name for name, _ in options]
    every = [dict(zip(names, values, strict=True)) for values in itertools.product(*(v for _, v in options))]
    yield from sorted(every, key=lambda v: 0 < sum(map(bool, v.values())) < len(v))


@dataclass(frozen=True)
class Arguments:
    """How a function is called for a check: so many leading dims, these variants, these dtypes where none
    is declared.
    """

    spec: FunctionSpec
    count: int
    variant: Mapping[str, Any]
    receiver: object
    dtypes: Mapping[str, DType] | None = None
    sizes: Mapping[str, int] | None = None

    def build(self) -> tuple[tuple[Any, ...], Tree, tuple[str, ...]]:
        """Inputs of a trace, their tree, and the anonymous names."""
        inputs: list[Any] = []
        children: list[Tree] = []
        names: list[str] = []
        anonymous: list[str] = []
        for p in self.spec.params:
            before = len(inputs)
            children.append(self._param(p, inputs, anonymous))
            names.append(p.name)
            assert len(inputs) - before == children[-1].leaves
        return tuple(inputs), Tree("dict", tuple(children), tuple(names)), tuple(anonymous)

    def _param(self, p: ParamSpec, inputs: list[Any], anonymous: list[str]) -> Tree:
        if p.how != "plain":
            several = 2 if p.how == "args" and p.hint.tensors() else 0
            members = [self._hinted(p.hint, f"{p.name}_{n}", inputs, anonymous) for n in range(several)]
            return Tree("tuple" if p.how == "args" else "dict", tuple(members))
        if p.name == "self" and p.kind == "static" and p.default is EMPTY:
            inputs.append(UNKNOWN if self.receiver is None else self.receiver)
            return LEAF
        if p.binds:
            inputs.append(self._size(p.name))
            return LEAF
        if p.kind in ("tensor", "optional") or p.hint.tensors():
            if self.variant.get(p.name) is False:
                inputs.append(None)
                return LEAF
            return self._hinted(p.hint, p.name, inputs, anonymous)
        if p.hint.kind == "scalar" and not (p.hint.optional and p.default is None):
            inputs.append(ScalarType(f32))
            return LEAF
        inputs.append(self._static(p, anonymous))
        return LEAF

    def _static(self, p: ParamSpec, anonymous: list[str]) -> Any:
        if p.default is not EMPTY:
            return self.variant.get(p.name, p.default)
        if p.hint.type is bool:
            return self.variant.get(p.name, True)
        if p.hint.type is int:
            anonymous.append(p.name)
            return self._size(p.name)
        return None

    def _size(self, name: str) -> Any:
        return (self.sizes or {}).get(name, Dim.name(name))

    def _hinted(self, hint: Hint, path: str, inputs: list[Any], anonymous: list[str]) -> Tree:
        if hint.kind == "union":
            return self._hinted(hint.members[0], path, inputs, anonymous)
        if hint.annotation is not None:
            inputs.append(self._tensor(hint, path, anonymous))
            return LEAF
        if hint.kind == "scalar":
            inputs.append(ScalarType(f32))
            return LEAF
        if not hint.members:
            inputs.append(None)
            return LEAF
        members = hint.members * 2 if hint.variadic or hint.kind == "list" else hint.members
        keys: tuple[Any, ...] = hint.names if hint.kind == "data" else ()
        if hint.kind == "dict":
            keys = tuple(itertools.islice(dict.fromkeys(_strings(self.spec.function)), MOST_KEYS)) or ("a",)
            members = hint.members * len(keys)
        children = tuple(self._hinted(m, f"{path}_{n}", inputs, anonymous) for n, m in enumerate(members))
        kind = hint.kind
        if kind == "data" and issubclass(hint.type, tuple):
            kind = "named"
        return Tree(kind, children, keys, hint.type if kind in ("named", "data") else None)

    def _tensor(self, hint: Hint, path: str, anonymous: list[str]) -> TensorType:
        a = hint.annotation
        assert a is not None
        declared = a.dtype
        dtype = declared if isinstance(declared, DType) else (self.dtypes or {}).get(path)
        if dtype is None:
            dtype = _usual(declared)
        if a.dims is None:
            names = [f"{path}_{n}" for n in range(self.count)]
            anonymous += names
            return TensorType(dtype, tuple(map(Dim.name, names)))
        dims = a.expand(lead_dims(a.lead.name, self.count)) if a.lead is not None else a.fixed
        if self.sizes:
            dims = tuple(d.substitute(self.sizes) for d in dims)
        return TensorType(dtype, dims)


def _usual(declared: DType | DTypeClass | None) -> DType:
    """The dtype that stands for all that an annotation allows: f32 where it may be, else the widest."""
    if isinstance(declared, DType):
        return declared
    if declared is None or f32 in declared:
        return f32
    return min(declared.members, key=lambda t: (-t.bits, t.name))


def _open_dtypes(spec: FunctionSpec) -> tuple[str, ...]:
    """Tensor parameters (by name) whose annotation leaves the dtype open, or a class of dtypes."""
    return tuple(dict.fromkeys(p.name for p in spec.params for a in p.hint.tensors() if not isinstance(a.dtype, DType)))


def _admits(spec: FunctionSpec, guess: Guess) -> bool:
    """Whether the annotations allow these dtypes: a class of dtypes is a declaration, too."""
    wanted = dict(guess)
    declared = ((p.name, a) for p in spec.params for a in p.hint.tensors() if p.name in wanted)
    return all(isinstance(a.dtype, DType) or a.admits(wanted[name]) for name, a in declared)


def _with_dtypes(arguments: Arguments, table: TorchTable) -> list[Traced]:
    """Trace with f32 where no dtype is declared. What is refused then is tried with other kinds of dtype: the
    argument that the fault names first, then each one alone, then two; a fault is one only with all of them.
    """
    open_ = _open_dtypes(arguments.spec)
    best = _paths(arguments, table)
    tried: set[Guess] = {()}
    waiting = _guesses(best, open_)
    while open_ and _faults(best) and waiting and len(tried) < MOST_DTYPES:
        guess = waiting.pop(0)
        if guess in tried or not _admits(arguments.spec, guess):
            continue
        tried.add(guess)
        traced = _paths(replace(arguments, dtypes=dict(guess)), table)
        if _badness(traced) < _badness(best):
            best = traced
            waiting = _guesses(best, open_, guess) + waiting
    return best


Guess = tuple[tuple[str, DType], ...]


def _faults(traced: Sequence[Traced]) -> int:
    return sum(_counts(f, t) for t in traced for f in t.findings)


def _badness(traced: Sequence[Traced]) -> tuple[int, int]:
    """A guess that only trades a fault in sizes for one in dtypes, or for a call that the library refuses, is
    none the better for fewer faults.
    """
    kinds = [f for t in traced for f in t.findings]
    return sum(issubclass(f.error, DTypeError) or f.diagnostic.code == "TSR0404" for f in kinds), _faults(traced)


def _guesses(traced: Sequence[Traced], open_: Sequence[str], known: Guess = ()) -> list[Guess]:
    """Dtypes to try for the arguments whose dtype is open, the likeliest first."""
    left = [name for name in open_ if name not in dict(known)]
    roots = [root for t in traced for f in t.findings for root in f.roots if root in left]
    codes = {f.diagnostic.code for t in traced for f in t.findings}
    kinds = [bool_, int64] if "TSR0303" in codes else [int64, bool_]
    named = list(dict.fromkeys(d for t in traced for f in t.findings for d in _dtypes_of(f)))
    narrow: list[Guess] = [tuple((name, d) for name in open_) for d in named]
    if "TSR0305" in codes:
        narrow.insert(0, tuple((name, bf16) for name in open_))
    kinds += [d for d in named if d not in kinds]
    singles = [(name, kind) for name in (*roots, *left) for kind in kinds]
    found: list[Guess] = [*narrow, *((*known, one) for one in singles)]
    if len(left) <= 4 and not known:
        found += [pair for pair in itertools.combinations(singles, 2) if pair[0][0] != pair[1][0]]
    return list(dict.fromkeys(found))


def _dtypes_of(f: Finding) -> Iterator[DType]:
    """The dtypes that a fault in dtypes speaks of, f32 aside: an argument whose dtype is open may have one of them."""
    if issubclass(f.error, DTypeError):
        words = _QUOTED.findall(f.diagnostic.message)
        yield from (dtype(w) for w in words if is_dtype_name(w) and dtype(w) is not f32)


def _paths(arguments: Arguments, table: TorchTable) -> list[Traced]:
    """Every way through the questions that the code asks about sizes, at most 16."""
    inputs, tree, anonymous = arguments.build()
    done: list[Traced] = []
    waiting: list[tuple[bool, ...]] = [()]
    while waiting and len(done) < MOST_PATHS:
        given = waiting.pop()
        path = Path(given)
        leads = {name: lead_dims(name, arguments.count) for name in arguments.spec.leads}
        bindings = {name: Dim.const(size) for name, size in (arguments.sizes or {}).items()}
        run = Run(
            arguments.spec,
            inputs,
            table,
            tree=tree,
            flexible=anonymous,
            leads=leads,
            bindings=bindings,
            stand_ins={size: name for name, size in (arguments.sizes or {}).items()},
            path=path,
        )
        traced = run.trace()
        done.append(traced)
        waiting += [(*path.taken[:n], False) for n in range(len(given), len(path.taken)) if path.taken[n]]
        if traced.deferred is not None and not arguments.sizes and not traced.findings:
            done[-1] = _with_numbers(arguments, table, traced)
    return _feasible(done)


def _feasible(done: list[Traced]) -> list[Traced]:
    """Leave out ways on which the function itself raises: it states what it needs of its sizes."""
    kept = [t for t in done if not (t.choices and any(f.diagnostic.code == "TSR0406" for f in t.findings))]
    return kept or done


def _with_numbers(arguments: Arguments, table: TorchTable, deferred: Traced) -> Traced:
    """A size whose value Python needs is tried with small numbers; only what fails with all of them is a
    fault.
    """
    assert deferred.deferred is not None
    name = deferred.deferred.what
    if not name.isidentifier() or name == "self":
        return deferred
    first: Traced | None = None
    for size in TRIED_SIZES:
        tried = _paths(replace(arguments, sizes={name: size}), table)
        faulty = next((t for t in tried if any(issubclass(f.error, ShapeError | DTypeError) for f in t.findings)), None)
        if faulty is None:
            return deferred
        first = first or faulty
    assert first is not None
    findings = tuple(replace(f, diagnostic=_renamed(f.diagnostic, TRIED_SIZES[0], name)) for f in first.findings)
    return replace(first, specialised=deferred.specialised, findings=findings)


def _renamed(d: Diagnostic, size: int, name: str) -> Diagnostic:
    """The text with the name in the place of the number that stood for it."""
    old, new = f"`{size}`", f"`{name}`"
    labels = tuple(replace(label, text=label.text.replace(old, new)) for label in d.labels)
    return replace(d, message=d.message.replace(old, new), labels=labels)
