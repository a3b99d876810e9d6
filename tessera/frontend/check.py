"""The check at definition: a function traced with rigid dims, before any tensor exists; what was proved,
guarded, refuted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tessera.diag import Diagnostic, DTypeError, ShapeError, Span, render
from tessera.frontend.annotation import DTypeClass
from tessera.frontend.hints import Hint
from tessera.frontend.session import Finding, Path, error_of
from tessera.frontend.spec import EMPTY, FunctionSpec, ParamSpec, lead_dims
from tessera.frontend.table import TorchTable
from tessera.frontend.trace import Run, Traced
from tessera.frontend.tree import LEAF, Tree
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bf16, bool_, f32, int64
from tessera.ir.graph import Obligation
from tessera.ir.types import ScalarType, TensorType

#: Ways through a function's questions about sizes that are followed.
MOST_PATHS = 16
#: Numbers of leading dims that stand for `...`, and ranks for a tensor of any rank.
LEADS = (1, 0, 2, 3)
RANKS = (2, 3, 1, 4)
#: Sizes tried where Python needs the number itself.
TRIED_SIZES = (5, 7, 4, 11)
#: Choices of present and absent arguments, and of bools, that are followed.
MOST_VARIANTS = 8


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a report: ``verdict`` is ``proved``, ``guarded``, ``refuted`` or ``deferred``."""

    verdict: str
    text: str
    span: Span | None = None

    def __str__(self) -> str:
        where = "" if self.span is None else f"   {self.span.file}:{self.span.line}"
        return f"  {self.verdict:<8} {self.text}{where}"


@dataclass(frozen=True)
class CheckReport:
    """What the check found. ``verdict`` is the worst of the items; ``diagnostics`` are the refutations.

    It prints as one line a finding, with carets for what is refuted.
    """

    name: str
    span: Span | None
    items: tuple[Item, ...]
    findings: tuple[Finding, ...] = ()
    over: tuple[str, ...] = ()
    traced: tuple[Traced, ...] = field(default=(), repr=False, compare=False)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        return tuple(f.diagnostic for f in self.findings)

    @property
    def ok(self) -> bool:
        """Nothing is refuted."""
        return not self.findings

    @property
    def verdict(self) -> str:
        kinds = {item.verdict for item in self.items}
        if self.findings:
            return "refuted"
        return next((v for v in ("deferred", "guarded") if v in kinds), "proved")

    def raise_if_refuted(self) -> None:
        """Raise one error with every refutation."""
        if self.findings:
            raise error_of(self.findings)

    def __str__(self) -> str:
        head = f"{self.name}: {self.verdict}"
        if self.over and self.verdict in ("proved", "guarded"):
            head += f" for every {', '.join(self.over)}"
            if self.verdict == "guarded":
                head += " that meets the guards"
        lines = [head, *map(str, self.items)]
        if self.findings:
            lines += ["", render(self.diagnostics)]
        return "\n".join(lines)


def check(spec: FunctionSpec, table: TorchTable, *, receiver: object = None) -> CheckReport:
    """Trace a function with every declared size unknown and report each need of its sizes.

    What cannot be known before a call (a tensor of any rank, a value that Python needs) is ``deferred``. A
    part that stands for any dims is tried with 0 to 3 of them, and only what fails with all is refuted.
    """
    missing = _unknown(spec)
    if missing:
        text = f"`{missing}` has no type: checked at the first call"
        return CheckReport(spec.name, spec.span, (Item("deferred", text, spec.span),))
    failed: list[_Attempt] = []
    bare = any(_is_bare(p.hint) for p in spec.params)
    counts = LEADS if spec.leads else RANKS if bare else (1,)
    for count in counts:
        attempt = _attempt(spec, table, count, receiver)
        if not attempt.findings:
            return _report(spec, attempt, bare)
        failed.append(attempt)
    same = {(f.diagnostic.code, _line(f.diagnostic)) for f in failed[0].findings}
    for attempt in failed[1:]:
        same &= {(f.diagnostic.code, _line(f.diagnostic)) for f in attempt.findings}
    if bare and not same:
        return _report(spec, replace(failed[0], findings=()), bare)
    return _report(spec, failed[0], bare)


def _line(d: Diagnostic) -> int:
    return d.primary.span.line if d.primary is not None else 0


def _unknown(spec: FunctionSpec) -> str:
    """The first parameter about which nothing is known: no hint, or a Python type without a default."""
    for p in spec.params:
        if p.how != "plain" or p.default is not EMPTY:
            continue
        if p.kind == "any" or (p.kind == "static" and p.hint.type not in (int, bool, object) and not p.hint.optional):
            return p.name
    return ""


def _is_bare(hint: Hint) -> bool:
    return any(a.dims is None for a in hint.tensors())


# ---- one attempt: a number of leading dims, every variant and path ---------------------------------------


@dataclass(frozen=True)
class _Attempt:
    findings: tuple[Finding, ...]
    obligations: tuple[Obligation, ...]
    deferred: tuple[Item, ...]
    traced: tuple[Traced, ...]


def _attempt(spec: FunctionSpec, table: TorchTable, count: int, receiver: object) -> _Attempt:
    findings: dict[tuple[str, str, object], Finding] = {}
    obligations: dict[tuple[str, Dim, Dim], Obligation] = {}
    deferred: dict[str, Item] = {}
    done: list[Traced] = []
    for variant in itertools.islice(_variants(spec), MOST_VARIANTS):
        for traced in _with_dtypes(_Arguments(spec, count, variant, receiver), table):
            done.append(traced)
            for f in traced.findings:
                if _counts(f, traced):
                    findings.setdefault((f.diagnostic.code, f.diagnostic.message, _line(f.diagnostic)), f)
                else:
                    _defer(deferred, f.diagnostic.message, f.diagnostic)
            for o in (*traced.function.obligations, *traced.open):
                obligations.setdefault((o.kind, o.left, o.right), o)
            for what, (_, span) in traced.specialised.items():
                deferred.setdefault(what, Item("deferred", f"specialises on `{what}`, known at the first call", span))
    return _Attempt(tuple(findings.values()), tuple(obligations.values()), tuple(deferred.values()), tuple(done))


def _defer(deferred: dict[str, Item], text: str, d: Diagnostic) -> None:
    span = d.primary.span if d.primary is not None else None
    deferred.setdefault(text, Item("deferred", f"{text}: checked at the first call", span))


def _counts(f: Finding, traced: Traced) -> bool:
    """Whether a fault is one for sure: code that cannot be traced, and errors behind a guessed number, may
    be fine.
    """
    if not issubclass(f.error, ShapeError | DTypeError):
        return f.diagnostic.code in ("TSR0403", "TSR0404")
    if traced.choices and f.diagnostic.code == "TSR0406":
        return False
    return not (
        traced.guessed and any(c.isdigit() and int(c) > 1 for c in f.diagnostic.message.replace(",", " ").split())
    )


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
class _Arguments:
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
            return Tree("tuple" if p.how == "args" else "dict")
        if p.name == "self" and p.kind == "static" and p.default is EMPTY:
            inputs.append(self.receiver)
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
            return p.default
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
        keys: tuple[Any, ...] = hint.names if hint.kind == "data" else ("a",) if hint.kind == "dict" else ()
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


def _open_dtypes(spec: FunctionSpec) -> set[str]:
    """Tensor parameters (by name) whose annotation leaves the dtype open."""
    return {p.name for p in spec.params for a in p.hint.tensors() if not isinstance(a.dtype, DType)}


def _with_dtypes(arguments: _Arguments, table: TorchTable) -> list[Traced]:
    """Trace with f32 where no dtype is declared; an argument that the body uses as an index or a mask
    becomes one.
    """
    open_ = _open_dtypes(arguments.spec)
    tried: set[tuple[tuple[str, DType], ...]] = set()
    best: list[Traced] = []
    for _ in range(4 + 2 * len(open_)):
        traced = _paths(arguments, table)
        better = _fewer(traced, best)
        best = traced if better else best
        change = _dtype_change(traced, open_, arguments.dtypes or {})
        if change is None:
            break
        dtypes = {**(arguments.dtypes or {}), **change}
        key = tuple(sorted(dtypes.items(), key=lambda kv: kv[0]))
        if key in tried:
            break
        tried.add(key)
        arguments = replace(arguments, dtypes=dtypes)
    if open_ and any(f.diagnostic.code == "TSR0305" for t in best for f in t.findings):
        narrow = replace(arguments, dtypes={**dict.fromkeys(open_, bf16), **(arguments.dtypes or {})})
        other = _paths(narrow, table)
        if not any(f.diagnostic.code == "TSR0305" for t in other for f in t.findings):
            return other
    return best


def _fewer(new: Sequence[Traced], old: Sequence[Traced]) -> bool:
    return not old or sum(len(t.findings) for t in new) < sum(len(t.findings) for t in old)


def _dtype_change(traced: Sequence[Traced], open_: set[str], have: Mapping[str, DType]) -> dict[str, DType] | None:
    """The dtype that an argument must have for a refused operation to be possible."""
    for t in traced:
        for f in t.findings:
            wanted = {"TSR0304": int64, "TSR0303": bool_}.get(f.diagnostic.code)
            options = [wanted] if wanted is not None else [int64, bool_] if f.diagnostic.code == "TSR0301" else []
            for root in f.roots:
                for dtype in options:
                    if root in open_ and have.get(root) is not dtype and (wanted is not None or root not in have):
                        return {root: dtype}
    return None


def _paths(arguments: _Arguments, table: TorchTable) -> list[Traced]:
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


def _with_numbers(arguments: _Arguments, table: TorchTable, deferred: Traced) -> Traced:
    """A size whose value Python needs is tried with small numbers; only what fails with all of them is a
    fault.
    """
    assert deferred.deferred is not None
    name = deferred.deferred.what
    if not name.isidentifier():
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


# ---- the report ------------------------------------------------------------------------------------------


def _report(spec: FunctionSpec, attempt: _Attempt, bare: bool) -> CheckReport:
    items: list[Item] = []
    both = _both_ways(attempt.traced)
    for o in attempt.obligations:
        if (o.kind, o.left, o.right) in both:
            continue
        verdict = {"proved": "proved", "open": "deferred"}.get(o.verdict, "guarded")
        items.append(Item(verdict, f"{o}{f' ({o.why})' if o.why else ''}", o.span))
    if not attempt.findings and spec.returns.kind != "any":
        items.insert(0, Item("proved" if not bare else "deferred", f"returns {_returned(spec)}", spec.returns_span))
    items += attempt.deferred
    if bare:
        items.append(Item("deferred", "tensors of any rank: checked at the first call", spec.span))
    items += [
        Item("refuted", f.diagnostic.message, f.diagnostic.primary.span if f.diagnostic.primary else None)
        for f in attempt.findings
    ]
    return CheckReport(spec.name, spec.span, tuple(items), attempt.findings, spec.dim_names, attempt.traced)


def _both_ways(traced: Sequence[Traced]) -> set[tuple[str, Dim, Dim]]:
    """Questions about sizes whose two answers were both followed, as the obligations they became: no need
    of the function.
    """
    choices = {(c.kind, c.left, c.right, c.holds) for t in traced for c in t.choices}
    found: set[tuple[str, Dim, Dim]] = set()
    for kind, left, right, holds in choices:
        if (kind, left, right, not holds) in choices:
            found.add((kind, left, right) if holds or kind == "eq" else (kind, right, left + 1))
    return found


def _returned(spec: FunctionSpec) -> str:
    text = None if spec.returns_span is None else spec.returns_span.text()
    return text if text is not None and "\n" not in text else "what it declares"
