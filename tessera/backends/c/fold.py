"""How a fold becomes straight-line code: its step, its merge and its finish as short lists of tile operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, compute_dtype, f32, f64, int64
from tessera.ir.graph import Literal, Operand, Operation, Value, walk
from tessera.ir.record import Kind, Reduction
from tessera.ir.types import TileType
from tessera.schedule.tilebuild import Container, Expr, Namespace, TileBuilder, unwrap

_EVERYWHERE = ("lanes",)


@dataclass(frozen=True)
class Piece:
    """Operations on the values of ``inputs``, giving ``results``."""

    inputs: tuple[Value, ...]
    ops: tuple[Operation, ...]
    results: tuple[Operand, ...]


@dataclass(frozen=True)
class Fold:
    """A REDUCE or SCAN op taken apart. ``state`` are the dtypes it carries; ``carry`` names the dtype whose sums have a
    carry of twice the precision, or is empty.
    """

    op: Operation
    state: tuple[DType, ...]
    init: tuple[bool | int | float, ...]
    step: Piece
    merge: Piece
    finish: Piece
    position: Dim
    carry: str = ""
    names: list[str] = field(default_factory=list)
    one: Piece | None = None


def flops_of_point(nest: Operation) -> int:
    """What a nest does for a point of its sweeps; without any, of its own."""
    assert nest.body is not None
    swept = [op for sweep in nest.body.ops if sweep.body is not None for op in walk(sweep.body)]
    return sum(op.record.flops for op in swept or walk(nest.body) if op.body is None)


def plan_fold(op: Operation) -> Fold:
    """Expand the record's Reduction once, for the dtype of the operand."""
    reduction = op.record.reduction
    assert reduction is not None
    dtype = op.operands[0].type.dtype
    state = tuple(compute_dtype(d) for d in reduction.state(dtype))
    scans = op.record.kind is Kind.SCAN
    if scans and reduction.rounds:
        state = tuple(f64 if d is f32 else d for d in state)
    states, others = _values("a", state), _values("b", state)
    x = Value("x", TileType(dtype, _EVERYWHERE))
    index = Value("index", TileType(int64, _EVERYWHERE))
    taken = state[0] if reduction.additive or reduction.rounds else dtype
    step = _piece(
        (*states, x, index), state, lambda t, v: reduction.step(t, v[: len(state)], _cast(t, v[-2], taken), v[-1])
    )
    merge = _piece((*states, *others), state, lambda t, v: reduction.merge(t, v[: len(state)], v[len(state) :]))
    results = tuple(r.type.dtype for r in op.results)
    # The parts of f32 sums are few, and f64 is enough for them.
    carried = reduction.additive and not scans and (state == (f32,) or state == results == (f64,))
    carry = state[0].name if carried else ""
    ends = _values("a", results) if carry and results == (f64,) else states
    finish = _piece(ends, results, lambda t, v: reduction.finish(t, v))
    position = op.attrs["position"]
    assert isinstance(position, Dim)
    one = _one(reduction, state, (x, index), taken) if scans else None
    return Fold(op, state, reduction.init(dtype), step, merge, finish, position, carry, one=one)


def _one(reduction: Reduction, state: tuple[DType, ...], element: tuple[Value, ...], taken: DType) -> Piece:
    """The state of one element and its position."""
    start = reduction.init(element[0].type.dtype)

    def define(t: Namespace, v: tuple[Expr, ...]) -> tuple[Expr, ...]:
        x = _cast(t, v[0], taken)
        return reduction.one(t, x, v[1]) if reduction.one else reduction.step(t, start, x, v[1])

    return _piece(element, state, define)


def _values(name: str, dtypes: Sequence[DType]) -> tuple[Value, ...]:
    return tuple(Value(f"{name}{n}", TileType(d, _EVERYWHERE)) for n, d in enumerate(dtypes))


def _cast(t: Namespace, x: Expr, dtype: DType) -> Expr:
    return Expr(t, t.build.cast(x.x, dtype))


def _piece(
    inputs: tuple[Value, ...],
    dtypes: Sequence[DType],
    define: Callable[[Namespace, tuple[Expr, ...]], tuple[Expr, ...]],
) -> Piece:
    build = TileBuilder(Container(), {})
    names = Namespace(build)
    made = define(names, tuple(Expr(names, v) for v in inputs))
    results = tuple(_exactly(build, unwrap(r), d) for r, d in zip(made, dtypes, strict=True))
    return Piece(inputs, tuple(build.top.ops), results)


def _exactly(build: TileBuilder, x: Operand, dtype: DType) -> Operand:
    return x if isinstance(x, Literal) else build.cast(x, dtype)
