"""The check at definition: a function traced with rigid dims, before any tensor exists; what was proved,
guarded, refuted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from tessera.diag import Diagnostic, Span, render
from tessera.frontend.attempts import Attempt, Item, attempt, line_of
from tessera.frontend.hints import Hint
from tessera.frontend.receiver import declared_names
from tessera.frontend.session import Finding, error_of
from tessera.frontend.spec import EMPTY, FunctionSpec
from tessera.frontend.table import TorchTable
from tessera.frontend.trace import Traced
from tessera.ir.dim import Dim

#: Numbers of leading dims that stand for `...`, and ranks for a tensor of any rank.
LEADS = (1, 2, 3)
RANKS = (2, 3, 1, 4)


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
    part that stands for any dims is tried with 1 to 3 of them, and only what fails with all is refuted.
    """
    missing = _unknown(spec)
    if missing:
        text = f"`{missing}` has no type: checked at the first call"
        return CheckReport(spec.name, spec.span, (Item("deferred", text, spec.span),))
    failed: list[Attempt] = []
    bare = any(_is_bare(p.hint) for p in spec.params)
    counts = LEADS if spec.leads else RANKS if bare else (1,)
    for count in counts:
        found = attempt(spec, table, count, receiver)
        if not found.findings:
            return _report(spec, found, bare, receiver)
        failed.append(found)
    same = {(f.diagnostic.code, line_of(f.diagnostic)) for f in failed[0].findings}
    for other in failed[1:]:
        same &= {(f.diagnostic.code, line_of(f.diagnostic)) for f in other.findings}
    if bare and not same:
        return _report(spec, replace(failed[0], findings=()), bare, receiver)
    return _report(spec, failed[0], bare, receiver)


def _unknown(spec: FunctionSpec) -> str:
    """The first parameter about which nothing is known: no hint, or a Python type without a default.

    Of ``*args`` alone not even the number is known; beside other parameters they are taken as empty.
    """
    if spec.params and all(p.how != "plain" and p.kind == "any" for p in spec.params):
        return spec.params[0].name
    for p in spec.params:
        if p.how != "plain" or p.default is not EMPTY:
            continue
        if p.kind == "any" or (p.kind == "static" and p.hint.type not in (int, bool, object) and not p.hint.optional):
            return p.name
    return ""


def _is_bare(hint: Hint) -> bool:
    return any(a.dims is None for a in hint.tensors())


# ---- the report ------------------------------------------------------------------------------------------


def _report(spec: FunctionSpec, attempt: Attempt, bare: bool, receiver: object) -> CheckReport:
    items: list[Item] = []
    both = _both_ways(attempt.traced)
    for o in attempt.obligations:
        if (o.kind, o.left, o.right) in both:
            continue
        verdict = {"proved": "proved", "open": "deferred"}.get(o.verdict, "guarded")
        items.append(Item(verdict, f"{o}{f' ({o.why})' if o.why else ''}", o.span))
    if not attempt.findings and spec.returns.kind != "any":
        open_ = bare or any(t.deferred is not None for t in attempt.traced)
        text = f"returns {_returned(spec, declared_names(receiver))}"
        items.insert(0, Item("deferred" if open_ else "proved", text, spec.returns_span))
    items += attempt.deferred
    if bare:
        items.append(Item("deferred", "tensors of any rank: checked at the first call", spec.span))
    items += [
        Item("refuted", f.diagnostic.message, f.diagnostic.primary.span if f.diagnostic.primary else None)
        for f in attempt.findings
    ]
    traced = tuple(t.detached() for t in attempt.traced)
    return CheckReport(spec.name, spec.span, tuple(items), attempt.findings, spec.dim_names, traced)


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


def _returned(spec: FunctionSpec, known: Iterable[str]) -> str:
    text = None if spec.returns_span is None else spec.returns_span.text()
    shown = text if text is not None and "\n" not in text else "what it declares"
    return shown + "".join(_misspelt(spec, known))


def _misspelt(spec: FunctionSpec, known: Iterable[str]) -> Iterator[str]:
    """Names that only the result has, where a parameter has one that is written almost alike: whatever the body gives
    fits such a name.
    """
    told = {*spec.dim_names, *known}
    for name in dict.fromkeys(n for a in spec.returns.tensors() for n in a.names if n not in told):
        close = get_close_matches(name, spec.dim_names, 1, 0.75)
        if close:
            yield f"; only the result names `{name}`, `{close[0]}` is close"
