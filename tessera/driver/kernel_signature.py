"""What a kernel takes and writes, as its signature and its source say it, and what its programs need of sizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from tessera.diag import Diagnostic, Label, ShapeError, TraceError
from tessera.frontend.kernel.context import BLOCKS, SETTINGS
from tessera.frontend.kernel.program import KernelProgram
from tessera.frontend.kernel.source import Source
from tessera.frontend.kernel.table import TILE_TABLE, TileOp
from tessera.frontend.spec import FunctionSpec
from tessera.ir.graph import Function as IRFunction

_OWN = re.compile(r"_|lead_\d")


def check_signature(spec: FunctionSpec) -> None:
    """Refuse dims with the names of the compiler's own (TSR0101), and containers of tensors (TSR0419)."""
    own = next((n for n in spec.dim_names if _OWN.match(n)), None)
    if own is not None:
        labels = [] if spec.span is None else [Label(spec.span, "declared here", True)]
        raise ShapeError(f"`{own}` as the name of a dim of a kernel", code="TSR0101", labels=labels,
                         helps=["names with `_` or `lead_` in front are those of the compiler"])  # fmt: skip
    for p in spec.params:
        if p.how != "plain" or p.kind not in ("tensor", "optional", "size", "scalar", "static", "any"):
            what = "any number of arguments" if p.how != "plain" else "a container of tensors"
            labels = [] if p.span is None else [Label(p.span, "this parameter", True)]
            raise TraceError(f"`{p.name}` of the kernel `{spec.name}` takes {what}", code="TSR0419", labels=labels,
                             helps=["give each tensor a parameter of its own"])  # fmt: skip


def check_settings(settings: Mapping[str, object]) -> None:
    """Refuse block sizes and settings that a kernel does not have (TSR0404, TSR0106)."""
    for name, x in settings.items():
        if name not in (*BLOCKS, *SETTINGS):
            known = ", ".join((*BLOCKS, *SETTINGS))
            raise TraceError(f"no setting `{name}`", code="TSR0404", helps=[f"there are {known}"])
        if not isinstance(x, int) or isinstance(x, bool) or x < 1:
            raise ShapeError(f"`{name}={x}`", code="TSR0106", helps=["give a number of at least 1"])


def inplace_of(checked: tuple[KernelProgram, ...]) -> frozenset[tuple[str, str]]:
    """Outputs with the parameters whose memory they may be."""
    return frozenset(pair for program in checked for pair in program.inplace)


def outputs_of(spec: FunctionSpec, source: Source, checked: tuple[KernelProgram, ...]) -> tuple[str, ...]:
    """The parameters that a kernel writes: those that its programs write, or, without programs, those in its source."""
    if checked:
        written = {name for program in checked for name in program.outputs}
    else:
        written = {n.id for node in ast.walk(source.node) for n in _targets(node)}
    return tuple(p.name for p in spec.params if p.name in written)


def _targets(node: ast.AST) -> list[ast.Name]:
    """The names that a statement writes through."""
    found: ast.expr | None = None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        found = node
    elif isinstance(node, ast.Call):
        op = TILE_TABLE.get(ast.unparse(node.func).rpartition(".")[2])
        found = None if op is None or op.place is None else _argument(op, node, op.place)
    while isinstance(found, ast.Subscript):
        found = found.value
    return [found] if isinstance(found, ast.Name) else []


def _argument(op: TileOp, call: ast.Call, place: int) -> ast.expr | None:
    """What a call of an operation gives for one of its parameters."""
    name = list(op.signature.parameters)[place]
    named = (w.value for w in call.keywords if w.arg == name)
    return call.args[place] if len(call.args) > place else next(named, None)


def check_obligations(f: IRFunction, sizes: Mapping[str, int]) -> None:
    """Refuse a call whose sizes break what the program needs of them."""
    broken = [o for o in f.obligations if not o.holds(sizes)]
    if broken:
        names = sorted({n for o in broken for n in o.left.names() | o.right.names()})
        at = ", ".join(f"{n}={sizes[n]}" for n in names if n in sizes)
        raise ShapeError.from_diagnostics(
            Diagnostic("TSR0105", f"`{o}` does not hold with {at}",
                       () if o.span is None else (Label(o.span, o.why or "needed here", True),))
            for o in broken
        )  # fmt: skip


__all__ = ["check_obligations", "check_settings", "check_signature", "inplace_of", "outputs_of"]
