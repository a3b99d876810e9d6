"""The sizes of a call against the annotations: names bound, expressions checked or solved, every mismatch
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.diag import Diagnostic, DTypeError, Help, Label, Note, ShapeError, TesseraError, caller_span
from tessera.frontend.annotation import Lead, TensorAnnotation
from tessera.frontend.binding import Bound, Leaf
from tessera.frontend.invert import solve
from tessera.frontend.receiver import receiver_of, sizes_of
from tessera.frontend.session import Finding, error_of
from tessera.frontend.spec import FunctionSpec, lead_dims
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.types import ScalarType, TensorType


@dataclass
class Sizes:
    """What a call binds: ``names`` to sizes, with where each came from, and the dims of each variadic
    part."""

    names: dict[str, int] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    leads: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lead_source: dict[str, str] = field(default_factory=dict)


def check_call(
    spec: FunctionSpec,
    bound: Bound,
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[DType],
) -> Sizes:
    """Unify the shapes and dtypes of the tensor leaves (in order) with the annotations.

    Raises ShapeError (TSR0105 rank or fixed size, TSR0106 an expression without a value, TSR0107 one name
    and two sizes) or DTypeError (TSR0108) with every mismatch of the call and where each name was bound.
    """
    sizes = Sizes()
    findings: list[Finding] = []
    for name, size in sizes_of(spec, receiver_of(spec, [leaf.value for leaf in bound.leaves])).items():
        sizes.names[name], sizes.source[name] = size.value, "`self`"
    for leaf in bound.leaves:
        if leaf.kind == "size":
            _bind_name(sizes, findings, leaf, leaf.param.name, leaf.value, f"argument `{leaf.path}`")
    later: list[tuple[Leaf, Dim, int, int]] = []
    for leaf, shape, dtype in zip(bound.tensors, shapes, dtypes, strict=True):
        a = leaf.annotation
        if a is None:
            continue
        if not a.admits(dtype):
            findings.append(
                _finding(DTypeError, "TSR0108", leaf, f"argument `{leaf.path}` is {dtype}", f"takes {a.dtype}")
            )
        if a.dims is not None:
            _first_pass(sizes, findings, spec, leaf, a, shape, later)
    _second_pass(sizes, findings, spec, later)
    if findings:
        raise error_of(findings)
    return sizes


def _first_pass(
    sizes: Sizes,
    findings: list[Finding],
    spec: FunctionSpec,
    leaf: Leaf,
    a: TensorAnnotation,
    shape: Sequence[int],
    later: list[tuple[Leaf, Dim, int, int]],
) -> None:
    """Bind plain names and variadic parts, left to right; keep expressions for later."""
    dims = a.dims or ()
    fixed = len(a.fixed)
    if len(shape) < fixed or (a.lead is None and len(shape) != fixed):
        least = "at least " if a.lead is not None else ""
        findings.append(
            _finding(
                ShapeError,
                "TSR0105",
                leaf,
                f"argument `{leaf.path}` has rank {len(shape)}, {least}{fixed} expected",
                f"its shape is {_shape(shape)}",
                help_=_rank_help(leaf, shape, fixed) if a.lead is None else "",
            )
        )
        return
    axis = 0
    for d in dims:
        if isinstance(d, Lead):
            count = len(shape) - fixed
            _bind_lead(sizes, findings, leaf, d, tuple(shape[axis : axis + count]))
            axis += count
            continue
        size = shape[axis]
        if d.is_name:
            _bind_name(sizes, findings, leaf, next(iter(d.names())), size, f"`{leaf.path}`, dim {axis}")
        elif d.is_const:
            if d.value != size:
                findings.append(
                    _finding(
                        ShapeError,
                        "TSR0105",
                        leaf,
                        f"argument `{leaf.path}` has size {size} in dim {axis}, {d} expected",
                        f"its shape is {_shape(shape)}",
                    )
                )
        else:
            later.append((leaf, d, size, axis))
        axis += 1


def _rank_help(leaf: Leaf, shape: Sequence[int], fixed: int) -> str:
    if len(shape) == fixed - 1:
        return f"`{leaf.path}.unsqueeze(0)` has {fixed} dims"
    if len(shape) == fixed + 1 and 1 in shape:
        return f"`{leaf.path}.squeeze({list(shape).index(1)})` has {fixed} dims"
    return ""


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _bind_name(sizes: Sizes, findings: list[Finding], leaf: Leaf, name: str, size: int, source: str) -> None:
    known = sizes.names.get(name)
    if known is None:
        sizes.names[name], sizes.source[name] = size, source
    elif known != size:
        findings.append(
            _finding(
                ShapeError,
                "TSR0107",
                leaf,
                f"`{name}` is {known} by {sizes.source[name]} and {size} by {source}",
                f"`{name}` is {size} here",
                note=_history(sizes),
            )
        )


def _bind_lead(sizes: Sizes, findings: list[Finding], leaf: Leaf, lead: Lead, dims: tuple[int, ...]) -> None:
    known = sizes.leads.get(lead.name)
    if known is None:
        sizes.leads[lead.name], sizes.lead_source[lead.name] = dims, f"`{leaf.path}`"
    elif known != dims:
        findings.append(
            _finding(
                ShapeError,
                "TSR0107",
                leaf,
                f"`{lead}` is {_shape(known)} by {sizes.lead_source[lead.name]} and {_shape(dims)} by `{leaf.path}`",
                f"`{lead}` is {_shape(dims)} here",
            )
        )


def _history(sizes: Sizes) -> str:
    return ", ".join(f"{name}={size} by {sizes.source[name]}" for name, size in sizes.names.items())


def _second_pass(
    sizes: Sizes, findings: list[Finding], spec: FunctionSpec, later: list[tuple[Leaf, Dim, int, int]]
) -> None:
    """Expressions: checked when every name is known, solved when one is not.

    A product of names that nothing else fixes counts as one size: all of its names but one are taken as 1. When
    that leaves a contradiction, the annotations cannot be solved (TSR0110).
    """
    pending = later
    opaque: tuple[Leaf, Dim] | None = None
    settled = len(findings)
    while pending:
        rest: list[tuple[Leaf, Dim, int, int]] = []
        for leaf, d, size, axis in pending:
            unknown = d.names() - sizes.names.keys()
            if not unknown:
                _check_expression(sizes, findings, leaf, d, size, axis)
            elif len(unknown) == 1:
                name = next(iter(unknown))
                found = solve(d, name, size, sizes.names)
                if found is None:
                    findings.append(
                        _finding(
                            ShapeError,
                            "TSR0106",
                            leaf,
                            f"no size `{name}` makes `{d}` equal to {size}",
                            f"dim {axis} of `{leaf.path}` is {size}",
                            note=_history(sizes),
                        )
                    )
                else:
                    _bind_name(sizes, findings, leaf, name, found, f"`{leaf.path}`, dim {axis} = {d}")
            else:
                rest.append((leaf, d, size, axis))
        if len(rest) == len(pending):
            leaf, d, _, axis = rest[0]
            opaque, settled = opaque or (leaf, d), settled if opaque else len(findings)
            for name in sorted(d.names() - sizes.names.keys())[:-1]:
                sizes.names[name], sizes.source[name] = 1, f"`{leaf.path}`, dim {axis} = {d}"
        pending = rest
    if opaque is not None and len(findings) > settled:
        leaf, d = opaque
        text = f"no sizes can be told from `{d}` and the other dims of this call"
        findings[settled:] = [_finding(ShapeError, "TSR0110", leaf, text, f"`{d}` has several unknown names")]


def _check_expression(sizes: Sizes, findings: list[Finding], leaf: Leaf, d: Dim, size: int, axis: int) -> None:
    try:
        wanted = d.evaluate({name: sizes.names[name] for name in d.names()})
    except ShapeError as error:
        findings.append(
            _finding(ShapeError, "TSR0106", leaf, error.message, f"`{d}` has no value", note=_history(sizes))
        )
        return
    if wanted != size:
        findings.append(
            _finding(
                ShapeError,
                "TSR0105",
                leaf,
                f"argument `{leaf.path}` has size {size} in dim {axis}, `{d}` = {wanted} expected",
                f"`{d}` is {wanted}",
                note=_history(sizes),
            )
        )


def _finding(
    error: type[TesseraError],
    code: str,
    leaf: Leaf,
    message: str,
    label: str,
    note: str = "",
    help_: str = "",
) -> Finding:
    labels: list[Label] = []
    called = caller_span()
    if called is not None:
        labels.append(Label(called, label, True))
    if leaf.param.span is not None:
        labels.append(Label(leaf.param.span, f"declared {leaf.annotation or leaf.param.hint.kind}"))
    notes = (Note(note),) if note else ()
    return Finding(error, Diagnostic(code, message, tuple(labels), notes, (Help(help_),) if help_ else ()))


# ---- what the tracer is given ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallTypes:
    """A call as types: the inputs of ``trace``, the hints, and the names that are anonymous.

    ``ones`` are the anonymous sizes that are 1 in this call: they are the literal 1 in the types, and part
    of the key.
    """

    inputs: tuple[Any, ...]
    hints: Mapping[str, int]
    flexible: tuple[str, ...]
    scalars: Mapping[str, float]
    ones: tuple[str, ...]
    leads: Mapping[str, tuple[Dim, ...]]


def call_types(
    bound: Bound, sizes: Sizes, shapes: Sequence[Sequence[int]], dtypes: Sequence[DType], scalar: DType
) -> CallTypes:
    """Types for the tracer: annotated dims as they are written, anonymous ones named after their argument."""
    hints = dict(sizes.names)
    ones: list[str] = []
    flexible: list[str] = []

    def anonymous(name: str, size: int) -> Dim:
        if size == 1:
            ones.append(name)
            return Dim.const(1)
        hints[name] = size
        flexible.append(name)
        return Dim.name(name)

    leads: dict[str, tuple[Dim, ...]] = {}
    for name, dims in sizes.leads.items():
        leads[name] = lead_dims(name, len(dims))
        hints.update({str(d): size for d, size in zip(leads[name], dims, strict=True)})
    inputs: list[Any] = []
    tensors = iter(zip(shapes, dtypes, strict=True))
    scalars: dict[str, float] = {}
    for leaf in bound.leaves:
        if leaf.kind == "tensor":
            shape, dtype = next(tensors)
            inputs.append(TensorType(dtype, _dims(leaf, shape, leads, anonymous)))
        elif leaf.kind == "scalar":
            scalars[leaf.path] = leaf.value
            inputs.append(ScalarType(scalar))
        elif leaf.kind == "size":
            inputs.append(Dim.name(leaf.param.name))
        else:
            inputs.append(leaf.value)
    return CallTypes(tuple(inputs), hints, tuple(flexible), scalars, tuple(ones), leads)


def _dims(
    leaf: Leaf,
    shape: Sequence[int],
    leads: Mapping[str, tuple[Dim, ...]],
    anonymous: Callable[[str, int], Dim],
) -> tuple[Dim, ...]:
    a = leaf.annotation
    if a is None or a.dims is None:
        base = "".join(c if c.isalnum() else "_" for c in leaf.path).strip("_")
        return tuple(anonymous(f"{base}_{n}", size) for n, size in enumerate(shape))
    return a.expand(leads.get(a.lead.name, ()) if a.lead is not None else ())
