"""From a kernel's signature and source to its block program."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from tessera.diag import DTypeError, Label, TesseraError, TraceError
from tessera.frontend.handles import Deferred, Stopped
from tessera.frontend.kernel.context import BLOCKS
from tessera.frontend.kernel.execute import Walker
from tessera.frontend.kernel.held import Held
from tessera.frontend.kernel.session import Axis, KernelSession, Poisoned
from tessera.frontend.kernel.source import Source
from tessera.frontend.kernel.table import TILE_TABLE
from tessera.frontend.kernel.values import OnChip, View
from tessera.frontend.session import Finding, error_of
from tessera.frontend.spec import EMPTY, FunctionSpec, ParamSpec
from tessera.frontend.table import TorchTable
from tessera.ir.dialects.block import EACH
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bool_, f32, int64
from tessera.ir.graph import Attr, Block, Function, Operation, Value
from tessera.ir.types import BufferType, ScalarType
from tessera.ir.verify import verify

#: Ways of calling a kernel that are read when it is defined.
_MOST_WAYS = 16


@dataclass(frozen=True)
class Buffer:
    """A tensor argument: its dtype, and how many dims stand before those that the kernel declares."""

    dtype: DType
    leads: int = 0


@dataclass(frozen=True)
class Unknown:
    """An int that has no value yet."""


@dataclass(frozen=True)
class Number:
    """A float argument, whose value is known when the kernel runs."""


@dataclass(frozen=True)
class KernelProgram:
    """A kernel for one way of calling it. ``params`` are the values of the arguments that the program has, ``outputs``
    the parameters that it writes, ``leads`` the sizes that stand for dims before the declared ones, ``blocks`` the
    block sizes that it asks for, ``inplace`` outputs with the parameters whose memory they may be.
    """

    function: Function
    params: Mapping[str, Value]
    outputs: tuple[str, ...]
    leads: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    inplace: tuple[tuple[str, str], ...] = ()

    def updated(self, names: Iterable[str]) -> bool:
        """Does it read of these outputs what they held before?"""
        kinds = (self.params[name].type for name in names)
        return any(isinstance(kind, BufferType) and kind.role == "update" for kind in kinds)


def read_kernel(
    spec: FunctionSpec, source: Source, table: TorchTable, given: Mapping[str, Any],
    sizes: Mapping[str, int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> KernelProgram:  # fmt: skip
    """Read a kernel for one way of calling it.

    ``given`` has, by parameter, a Buffer, a Number, None or another static value. With ``sizes`` every size is a
    number. Raises what is wrong with the kernel as one TesseraError, and Deferred where Python needs a size without.
    """
    blocks: set[str] = set()
    inplace: set[tuple[str, str]] = set()
    noted = {"table": TILE_TABLE, "blocks": blocks, "inplace": inplace}
    session = KernelSession(table, spec, sizes, {**(settings or {}), **noted})
    session.builder.names.update(dict.fromkeys((*spec.dim_names, *BLOCKS), 0))
    count = max((g.leads for g in given.values() if isinstance(g, Buffer)), default=0)
    leads = tuple(f"lead_{n}" for n in range(count))
    axes = tuple(session.builder.fresh(f"at_{n}") for n in range(count))
    session.axes.update((axis, Axis(Dim.const(0), Dim.const(1))) for axis in axes)
    env: dict[str, Any] = {}
    params: dict[str, Value] = {}
    for p in spec.params:
        env[p.name] = _argument(session, p, given.get(p.name), (leads, axes), params)
    walker = Walker(session, source, env if source.held is None else _of_method(source, spec, env))
    with session.body() as ops:
        _carry_out(walker, session)
    for n in reversed(range(count)):
        attrs: dict[str, Attr] = {
            "axis": axes[n],
            "lo": Dim.const(0),
            "hi": _size(session, leads[n]),
            "step": Dim.const(1),
        }
        ops = [Operation(EACH, (), (), attrs, spec.span, "", Block(tuple(ops)))]
    if session.findings:
        raise error_of(session.findings)
    outputs = tuple(name for name, v in params.items() if v in session.stored)
    for name in outputs:
        _writes(session, params[name])
    if not outputs:
        labels = [] if spec.span is None else [Label(spec.span, "writes nothing", True)]
        raise TraceError(f"`{spec.name}` writes to none of its parameters", code="TSR0419", labels=labels,
                         helps=["`tile.store` writes a block to a parameter"])  # fmt: skip
    obligations = tuple(session.context.obligations.values())
    body = Block(tuple(ops), tuple(params.values()))
    function = Function(spec.function.__name__, body, "block", obligations, span=spec.span)
    return KernelProgram(verify(function), params, outputs, leads, tuple(sorted(blocks)), tuple(sorted(inplace)))


def _of_method(source: Source, spec: FunctionSpec, env: Mapping[str, Any]) -> dict[str, Any]:
    """What a method sees: its own parameters, and its object, which has the others."""
    own = {name: x for name, x in env.items() if not spec.by_name[name].path}
    tensors = {spec.by_name[name].path: x for name, x in env.items() if name not in own}
    return {**own, source.receiver: Held({**(source.held or {}), **tensors})}


def _size(session: KernelSession, name: str) -> Dim:
    known = session.known or {}
    return Dim.const(known[name]) if name in known else Dim.name(name)


def _writes(session: KernelSession, value: Value) -> None:
    kind = value.type
    assert isinstance(kind, BufferType)
    role = "update" if value in session.fetched else "out"
    value.type = BufferType(kind.dtype, kind.dims, role)


def _argument(
    session: KernelSession, p: ParamSpec, given: Any, lead: tuple[tuple[str, ...], tuple[str, ...]],
    params: dict[str, Value],
) -> Any:  # fmt: skip
    """What the source sees of an argument."""
    if isinstance(given, Buffer):
        a = p.hint.annotation
        names, axes = (part[len(part) - given.leads :] if given.leads else () for part in lead)
        known = dict(session.known or {})
        dims = tuple(d.substitute(known) for d in (() if a is None else a.fixed))
        kind = BufferType(given.dtype, (*(_size(session, n) for n in names), *dims), "in")
        value = params[p.name] = session.builder.param(p.name.replace(".", "_"), kind)
        session.param_names[value] = p.name
        return View(value, session.base(value, p.name, [Dim.name(a) for a in axes]).rows, p.name)
    if isinstance(given, Number):
        value = params[p.name] = session.builder.param(p.name, ScalarType(f32))
        return OnChip(session, value)
    if isinstance(given, Unknown) or p.binds:
        return session.given(_size(session, p.name))
    return given


def _carry_out(walker: Walker, session: KernelSession) -> None:
    """Read the body; faults go to the session."""
    try:
        walker.run(walker.source.node.body)
    except (Poisoned, Stopped) as signal:
        if isinstance(signal, Deferred) and not session.findings:
            raise
    except RecursionError:
        raise TraceError("an expression too deep to be read", code="TSR0410") from None
    except TesseraError as error:
        session.findings += [Finding(type(error), d) for d in error.diagnostics]


# -- the check at definition


def ways(spec: FunctionSpec) -> Iterator[dict[str, Any]]:
    """Arguments for the ways in which a kernel may be called, as far as its source may tell them apart."""
    choices = [[(p.name, x) for x in _choices(p)] for p in spec.params]
    for combination in itertools.islice(itertools.product(*choices), _MOST_WAYS):
        yield dict(combination)


def default_dtype(p: ParamSpec) -> DType:
    """A dtype that a parameter takes: the one that it declares, else f32 or int64 if it takes them."""
    wanted = None if p.hint.annotation is None else p.hint.annotation.dtype
    if isinstance(wanted, DType):
        return wanted
    return next((t for t in (f32, int64) if wanted is None or t in wanted), f32)


def _choices(p: ParamSpec) -> list[Any]:
    kind = p.kind
    if kind in ("tensor", "optional"):
        dtype = default_dtype(p)
        return [Buffer(dtype), None] if kind == "optional" else [Buffer(dtype)]
    if kind == "scalar":
        return [Number(), None] if p.hint.optional else [Number()]
    if p.hint.type is bool:
        return [False, True]
    if set(get_args(p.hint.type)) == {int, type(None)}:
        return [Unknown(), None]
    if kind == "size" or (p.hint.type is int and p.default is EMPTY):
        return [Unknown()]
    return [None if p.default is EMPTY else p.default]


def check_kernel(spec: FunctionSpec, source: Source, table: TorchTable) -> tuple[KernelProgram, ...]:
    """Read a kernel in every way of calling it. Raises what is wrong with it; ways that need sizes are left out.

    What declares no dtype is taken for floats, and where these are refused for something that is taken.
    """
    found: list[KernelProgram] = []
    faults: list[Finding] = []
    for given in ways(spec):
        wrong: TesseraError | None = None
        for one in (given, *_other_dtypes(spec, given)):
            try:
                found.append(read_kernel(spec, source, table, one))
                wrong = None
            except Deferred:
                wrong = None
            except DTypeError as error:
                wrong = wrong or error
                continue
            except TesseraError as error:
                wrong = wrong or error
            break
        if wrong is not None:
            faults += [Finding(type(wrong), d) for d in wrong.diagnostics]
    if faults:
        raise error_of(faults)
    return tuple(found)


def _other_dtypes(spec: FunctionSpec, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The same arguments with other dtypes where none is declared."""
    for p in spec.params:
        a = p.hint.annotation
        if isinstance(given[p.name], Buffer) and (a is None or a.dtype is None):
            for dtype in (bool_, int64):
                yield {**given, p.name: Buffer(dtype)}
