"""How a nest is laid over programs: which axes share a tile, which are walked, and how large the blocks are
for given sizes.

A program holds one tile of at most two sides. One side is the innermost swept axis; the other is made of
parallel axes. The side along which memory is contiguous comes last. All other axes have one value in a
program, or are loops in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tessera.backends.triton.expr import bound_parts
from tessera.ir.dialects.tile import LOAD, STORE
from tessera.ir.dim import Dim, dim_max, dim_min, product
from tessera.ir.dim_range import bounds, coefficient
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Attr, Operation, Value
from tessera.ir.record import Kind
from tessera.schedule.plan import ONE, ZERO, Unschedulable
from tessera.schedule.ranges import provably_ge

#: ``tile``: nothing is folded, tiles of the sweep are programs. ``hold``: a tile covers the whole sweep
#: and stays in registers.
#: ``loop``: a program walks the sweep tile by tile and computes again what a later sweep needs.
#: ``held``, ``walked``: a nest of blocks (see ``blocks``), its inner sides whole or walked.
#: ``streamed``: as ``walked``, with descriptors (see ``descriptors``); a program takes one tile after the other.
#: ``stepped``: a nest with an ordered sweep (see ``recurrence``).
#: ``written``: a block program, as it is written (see ``program``).
Mode = Literal["tile", "hold", "loop", "held", "walked", "streamed", "stepped", "written"]

#: Elements of a tile of a nest without folds.
MAP_TILE = 1024
#: Longest sweep that is held in registers, by the values held an element: up to 2, up to 4, more.
HOLD_LIMITS = (32768, 16384, 8192)
#: The same where nothing is read again, so that holding only saves the loop.
SINGLE_LIMIT = 8192
#: The same down columns.
COLUMN_LIMIT = 512
#: Sides of a tile that reads along both.
CROSSED_TILE = 32
#: Elements of a tile of a looped fold.
LOOP_TILE = 4096
#: Programs that keep a large GPU busy; tiles get no more rows than leave so many.
ENOUGH_PROGRAMS = 512


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep whose operations stand by themselves: what it takes over from earlier sweeps is part of
    ``ops``.
    """

    axes: tuple[str, ...]
    lo: tuple[Dim, ...]
    hi: tuple[Dim, ...]
    ops: tuple[Operation, ...]

    @property
    def range(self) -> tuple[object, ...]:
        return (self.axes, self.lo, self.hi)


@dataclass(frozen=True, slots=True)
class Tiling:
    """A nest laid over programs.

    ``tiled`` are the parallel axes that make one side of the tile (as one flat axis), ``single`` those
    with one value in a program. ``last`` says that the parallel side is the contiguous one. ``span``
    bounds the length of the innermost swept axis from above (None without sweeps), ``held`` counts the
    values an element that later sweeps read again, and ``crossed`` says that some memory is contiguous
    along the other side.
    """

    steps: tuple[Operation | Sweep, ...]
    extents: Mapping[str, Dim]
    tiled: tuple[str, ...]
    single: tuple[str, ...]
    last: bool
    span: Dim | None
    modes: tuple[Mode, ...]
    held: int
    crossed: bool

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        return tuple(s for s in self.steps if isinstance(s, Sweep))

    @property
    def sides(self) -> int:
        return (self.span is not None) + bool(self.tiled)

    @property
    def swept_side(self) -> int:
        """Which side of the tile the sweep runs along."""
        return 0 if self.sides == 1 or self.last else 1

    @property
    def points(self) -> Dim:
        """Extent of the parallel side."""
        return product(self.extents[a] for a in self.tiled)

    @property
    def outer(self) -> Dim:
        """How many combinations of the single axes there are."""
        return product(self.extents[a] for a in self.single)


@dataclass(frozen=True, slots=True)
class Config:
    """One way to launch a nest: which function, block sizes (rows, columns), warps, and the number of
    programs; for nests of blocks all constants by name, and how many blocks are under way at a time (0: as the
    compiler likes).
    """

    mode: Mode
    rows: int
    cols: int
    warps: int
    grid: int
    more: tuple[tuple[str, int], ...] = ()
    stages: int = 0


def tiling(nest: Operation) -> Tiling:
    """Lay one nest over programs."""
    assert nest.body is not None
    axes, extents, ops = unchunked(_names(nest.attrs["axes"]), _dims(nest.attrs["extents"]), nest.body.ops)
    steps = standing([without_units(op) for op in ops])
    sweeps = [s for s in steps if isinstance(s, Sweep)]
    bounded = {n for s in sweeps for e in (*s.lo, *s.hi) for n in e.names()}
    last = bool(sweeps and axes) and down_columns(sweeps, axes[-1], nest.attrs["vector"] in axes)
    tiled = axes[-1:] if last else axes
    if bounded & set(tiled):
        tiled, last = (), False
    folds = any(o.record.kind in FOLDS for s in sweeps for o in s.ops)
    one_axis = all(len(s.axes) == 1 for s in sweeps)
    modes: tuple[Mode, ...] = ("tile",) if not folds else ("hold", "loop") if one_axis else ("loop",)
    span = None
    for s in sweeps:
        length = span_bound(s.lo[-1], s.hi[-1], dict(zip(axes, extents, strict=True)))
        span = length if span is None else dim_max(span, length)
    single = tuple(a for a in axes if a not in tiled)
    return Tiling(
        steps,
        dict(zip(axes, extents, strict=True)),
        tiled,
        single,
        last,
        span,
        modes,
        held(ops),
        crossed(_every(ops), tiled[-1:], sweeps, last),
    )


def _names(a: object) -> tuple[str, ...]:
    assert isinstance(a, tuple)
    return tuple(str(x) for x in a)


def _dims(a: object) -> tuple[Dim, ...]:
    assert isinstance(a, tuple)
    return tuple(Dim.of(x) for x in a)


def _every(ops: Sequence[Operation]) -> list[Operation]:
    return [o for op in ops for o in ((op,) if op.body is None else op.body.ops)]


def down_columns(sweeps: Sequence[Sweep], points: str, wanted: bool) -> bool:
    """Is memory contiguous along the parallel axis rather than along the swept one?

    Only accesses inside the sweeps count, since there are many times more of them; ``wanted`` breaks a tie.
    """
    votes = 0
    for s in sweeps:
        for o in s.ops:
            if o.record in (LOAD, STORE):
                (e,) = _dims(o.attrs["index"])
                votes += (coefficient(e, points) is ONE) - (coefficient(e, s.axes[-1]) is ONE)
    return wanted if votes == 0 else votes > 0


def span_bound(lo: Dim, hi: Dim, extents: Mapping[str, Dim]) -> Dim:
    """A bound of ``hi - lo`` that names no axis. Raises Unschedulable where there is none."""
    low, high = bound_parts(lo, "max"), bound_parts(hi, "min")
    found = [p - q for p in high for q in low]
    least, _ = bounds(low[0], {a: (ZERO, e) for a, e in extents.items()})
    if least is not None and provably_ge(least, ZERO):
        found += high
    free = [e for e in found if not e.names() & extents.keys()]
    if not free:
        raise Unschedulable(f"the sweep from `{lo}` to `{hi}` has no length that is known before it runs")
    out = free[0]
    for e in free[1:]:
        out = dim_min(out, e)
    return out


def unchunked(
    axes: tuple[str, ...], extents: tuple[Dim, ...], ops: tuple[Operation, ...]
) -> tuple[tuple[str, ...], tuple[Dim, ...], tuple[Operation, ...]]:
    """Undo the cutting of a flat map into pieces: tiles cut finer, and one axis is simpler to mask.

    Only where the one parallel axis does nothing but number pieces of the sweeps.
    """
    if len(axes) != 1 or any(o.record.kind in FOLDS for o in _every(ops)):
        return axes, extents, ops
    piece = axes[0]
    if any(piece in e.names() for o in _every(ops) for e in _deep_dims(tuple(o.attrs.values()))):
        return axes, extents, ops
    if any(op.body is None for op in ops if _uses(op, piece)):
        return axes, extents, ops
    whole: list[Operation] = []
    for op in ops:
        if op.body is None:
            whole.append(op)
            continue
        bounds = without_piece(_dims(op.attrs["lo"])[-1], _dims(op.attrs["hi"])[-1], piece)
        if bounds is None or len(_names(op.attrs["axes"])) != 1:
            return axes, extents, ops
        whole.append(replace(op, attrs={**op.attrs, "lo": bounds[:1], "hi": bounds[1:]}))
    return (), (), tuple(whole)


def _uses(op: Operation, axis: str) -> bool:
    return any(axis in getattr(r.type, "axes", ()) for r in op.results)


def _deep_dims(a: object) -> list[Dim]:
    if isinstance(a, Dim):
        return [a]
    return [d for x in a for d in _deep_dims(x)] if isinstance(a, tuple) else []


def without_piece(lo: Dim, hi: Dim, piece: str) -> tuple[Dim, Dim] | None:
    """Bounds of the uncut sweep; None unless the piece number cuts them evenly."""
    low, high = bound_parts(lo, "max"), bound_parts(hi, "min")
    start = [e for e in low if piece in e.names()]
    stop = [e for e in high if piece in e.names()]
    if len(start) != 1 or len(stop) != 1 or len(high) < 2:
        return None
    size = stop[0] - start[0]
    if not size.is_const or start[0] is not Dim.name(piece) * size:
        return None
    first, *more = [e for e in low if e is not start[0]] or [ZERO]
    for e in more:
        first = dim_max(first, e)
    end, *rest = [e for e in high if e is not stop[0]]
    for e in rest:
        end = dim_min(end, e)
    return first, end


def without_units(op: Operation) -> Operation:
    """A sweep without those of several axes that have one point."""
    if op.body is None:
        return op
    axes, lo, hi = _names(op.attrs["axes"]), _dims(op.attrs["lo"]), _dims(op.attrs["hi"])
    at = {a: first for a, first, end in zip(axes, lo, hi, strict=True) if end - first is ONE}
    if not at or len(axes) == 1:
        return op
    kept = [n for n, a in enumerate(axes) if a not in at] or [len(axes) - 1]
    gone = {a: first for a, first in at.items() if axes.index(a) not in kept}
    body = tuple(replace(o, attrs={k: _fixed(v, gone) for k, v in o.attrs.items()}) for o in op.body.ops)
    chosen = {k: tuple(v[n] for n in kept) for k, v in (("axes", axes), ("lo", lo), ("hi", hi))}
    return replace(op, attrs={**op.attrs, **chosen}, body=replace(op.body, ops=body))


def _fixed(a: Attr, at: Mapping[str, Dim]) -> Attr:
    if isinstance(a, Dim):
        return a.substitute(at)
    return tuple(_fixed(x, at) for x in a) if isinstance(a, tuple) else a


def standing(ops: Sequence[Operation]) -> tuple[Operation | Sweep, ...]:
    """The steps of a nest, each sweep with the operations that it takes over from earlier ones."""
    inside: dict[Value, Operation] = {}
    steps: list[Operation | Sweep] = []
    for op in ops:
        if op.body is None:
            steps.append(op)
            continue
        steps.append(
            Sweep(
                _names(op.attrs["axes"]),
                _dims(op.attrs["lo"]),
                _dims(op.attrs["hi"]),
                _with_cone(op.body.ops, inside),
            )
        )
        for o in op.body.ops:
            if o.record.kind is not Kind.REDUCE:
                inside.update(dict.fromkeys(o.results, o))
    return tuple(steps)


def _with_cone(ops: tuple[Operation, ...], earlier: Mapping[Value, Operation]) -> tuple[Operation, ...]:
    """``ops``, preceded by the operations of earlier sweeps that they read, in dependence order."""
    own = {r for o in ops for r in o.results}
    needed: dict[Operation, None] = {}
    stack = [(v, False) for o in reversed(ops) for v in o.inputs if v not in own]
    while stack:
        v, done = stack.pop()
        op = earlier.get(v)
        if op is None or op in needed:
            continue
        if done:
            needed[op] = None
            continue
        stack.append((v, True))
        stack.extend((x, False) for x in op.inputs)
    return (*needed, *ops)


def held(ops: Sequence[Operation]) -> int:
    """Values an element that stay in registers: from one sweep to a later one, and the states of scans, which all
    elements have at once.
    """
    sweeps = [op for op in ops if op.body is not None]
    loads: set[object] = set()
    count = 0
    for op in sweeps:
        assert op.body is not None
        own = {r for o in op.body.ops for r in o.results}
        count += len({v for o in op.body.ops for v in o.inputs if v not in own and _swept(v, op)})
        count += sum(_state_words(o) for o in op.body.ops if o.record.kind is Kind.SCAN)
        for o in op.body.ops:
            key = (o.operands, o.attrs.get("index"))
            count += o.record is LOAD and key in loads and _swept(o.result, op)
            if o.record is LOAD:
                loads.add(key)
    return max(count, 1)


def _state_words(op: Operation) -> int:
    """Registers that the state of one element takes, beyond that of the element itself."""
    assert op.record.reduction is not None
    state = op.record.reduction.state(op.operands[0].type.dtype)
    return sum(max(t.bits // 32, 1) for t in state) - 1


def crossed(ops: Sequence[Operation], points: tuple[str, ...], sweeps: Sequence[Sweep], last: bool) -> bool:
    """Is some access contiguous along the side that does not come last, and not along the other?"""
    if not points or not sweeps:
        return False
    swept = sweeps[-1].axes[-1]
    along, across = (points[0], swept) if last else (swept, points[0])
    found = False
    for o in ops:
        if o.record in (LOAD, STORE):
            (e,) = _dims(o.attrs["index"])
            found |= coefficient(e, across) is ONE and coefficient(e, along) not in (ZERO, ONE)
    return found


def _swept(v: Value, sweep: Operation) -> bool:
    axes = getattr(v.type, "axes", ())
    return len(axes) > 1 and any(a in _names(sweep.attrs["axes"]) for a in axes)


def power(n: int) -> int:
    """The least power of two that is at least ``n``, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


def configure(t: Tiling, sizes: Mapping[str, int], wave: int = 32) -> Config:
    """Blocks, warps and grid for given sizes. ``wave`` is the number of lanes of a warp.

    Sizes decide only through powers of two, so that few variants are ever compiled.
    """
    span = None if t.span is None else max(t.span.evaluate(sizes, signed=True), 0)
    points = t.points.evaluate(sizes)
    mode = t.modes[0]
    if mode == "hold" and power(span or 1) > _hold_limit(t):
        mode = "loop"
    return laid_out(t, sizes, mode, *_blocks(t, mode, span, points), wave)


def laid_out(t: Tiling, sizes: Mapping[str, int], mode: Mode, along: int, across: int, wave: int = 32) -> Config:
    """The launch with a given mode and given blocks, powers of two, along the sweep and across it."""
    rows, cols = (along, across) if t.swept_side == 0 and t.sides == 2 else (across, along)
    if t.sides < 2:
        rows, cols = 1, (along if t.span is not None else across)
    grid = t.outer.evaluate(sizes) * -(-t.points.evaluate(sizes) // across)
    if mode == "tile" and t.span is not None:
        grid *= max(-(-t.span.evaluate(sizes, signed=True) // along), 1)
    return Config(mode, rows, cols, _warps(rows * cols, t, mode, wave), grid)


def _hold_limit(t: Tiling) -> int:
    """Longest sweep that is held. Down columns it is short, so that enough columns stand side by side."""
    if t.last or t.crossed:
        return COLUMN_LIMIT
    if len(t.sweeps) == 1:
        return SINGLE_LIMIT
    return HOLD_LIMITS[0 if t.held <= 2 else 1 if t.held <= 4 else 2]


def _blocks(t: Tiling, mode: Mode, span: int | None, points: int) -> tuple[int, int]:
    """Block along the sweep and block across it."""
    side = power(points) if t.tiled else 1
    if span is None:
        return 1, min(side, MAP_TILE)
    if t.last:
        across = min(side, 64 if mode == "hold" else 128)
        if t.crossed:
            across = min(across, CROSSED_TILE)
        if mode == "hold":
            return power(span), max(1, min(across, 2 * LOOP_TILE // power(span)))
        room = (MAP_TILE if mode == "tile" else LOOP_TILE // 2) // across
        return max(1, min(power(span), room)), across
    if t.crossed and mode != "hold":
        return min(power(span), CROSSED_TILE), min(side, CROSSED_TILE)
    room = MAP_TILE if mode == "tile" else LOOP_TILE if mode == "loop" else power(span)
    along = min(power(span), room)
    across = min(side, max(1, (MAP_TILE if mode == "tile" else 2 * MAP_TILE) // along))
    while across > 1 and points // across < ENOUGH_PROGRAMS:
        across //= 2
    return along, across


def _warps(elements: int, t: Tiling, mode: Mode, wave: int) -> int:
    """Between 8 and 32 elements a lane; fewer where several values an element are held."""
    lane = 8 if mode == "tile" else 16 if elements <= 16384 and t.held < 3 else 8 if t.held >= 3 else 32
    most = 1024 // wave
    least = 128 // wave
    return max(least, min(most, power(elements // (lane * wave))))


__all__ = ["ONE", "Config", "Mode", "Sweep", "Tiling", "configure", "power", "tiling"]
