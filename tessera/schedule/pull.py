"""Demand-driven lowering: the tile value of a tensor value at an index, computed where it is asked for.

Views only rewrite the index; elementwise definitions are expanded; what lives in memory is loaded. Deep chains are
walked with an explicit stack of generators, so that the length of a chain does not matter.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.diag import Span
from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import contracted_dtype, letters
from tessera.ir.dim import Dim
from tessera.ir.dim_range import simplify_index
from tessera.ir.dtype import DType, compute_dtype, int64
from tessera.ir.graph import Attr, Literal, Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.record import Kind, Lookup, Piece
from tessera.ir.types import BufferType, ScalarType, TensorType, TileType, Type
from tessera.schedule.plan import ZERO
from tessera.schedule.ranges import bounds, provably_ge
from tessera.schedule.tilebuild import Container, Expr, Namespace, TileBuilder, unwrap

Index = tuple[Dim, ...]
Guard = tuple[tuple[Dim, Dim, Dim], ...]
#: What is asked for next: a value at an index, and whether the points for which it counts are only some of all.
Pull = Generator["tuple[Operand, Index, bool]", Operand, Operand]

#: Arithmetic from which on a value that a later sweep needs again is held instead of computed once more.
KEEP_FLOPS = 4


class Split(Exception):
    """The sweep must be cut at ``point`` of ``axis``, so that each part of a concatenation has a loop of its own."""

    def __init__(self, axis: str, point: Dim) -> None:
        super().__init__(axis, point)
        self.axis, self.point = axis, point


class Misplaced(Exception):
    """A reduction or a scan is read at a position that is not the nest's own: its result must be stored first."""

    def __init__(self, value: Value) -> None:
        super().__init__(value)
        self.value = value


@dataclass
class Puller:
    """Lowers values inside one nest. ``buffers`` maps stored tensor values to buffer parameters."""

    build: TileBuilder
    maker: Mapping[Value, Operation]
    buffers: Mapping[Value, Value]
    scalars: Mapping[Value, Value]
    parallel: Index
    own: frozenset[Value] = frozenset()
    ranges: dict[str, tuple[Dim, Dim]] = field(default_factory=dict)
    splittable: str = ""
    folded: dict[Value, Value] = field(default_factory=dict)
    lookups: dict[str, Value] = field(default_factory=dict)
    mark: str = ""
    earlier: list[tuple[Any, dict[Any, Value]]] = field(default_factory=list)
    weights: dict[Value, int] = field(default_factory=dict)
    #: What tells apart values that the same tensor value has at different times.
    era: str = ""

    def __call__(self, v: Operand, index: Index) -> Operand:
        stack: list[Pull] = [self.value(v, self.simple(index), False)]
        answer: Operand | None = None
        while stack:
            try:
                want = stack[-1].send(answer)  # type: ignore[arg-type]
                stack.append(self.value(*want))
                answer = None
            except StopIteration as done:
                stack.pop()
                answer = done.value
        assert answer is not None
        return answer

    def simple(self, index: Index) -> Index:
        return tuple(simplify_index(e, self.ranges) for e in index)

    def value(self, v: Operand, index: Index, partly: bool) -> Pull:
        if isinstance(v, Literal):
            return v
        if isinstance(v.type, ScalarType):
            return self.scalars[v]
        key = (v, index, partly, self.era)
        found = self.remembered(key, v)
        if found is None and partly:  # what counts for all points counts for some
            found = self.remembered((v, index, False, self.era), v)
        if found is not None:
            return found
        op = self.maker.get(v)
        if self.stored(v):
            result: Operand = self.load(v, index, partly)
        else:
            assert op is not None, f"{v!r} is neither stored nor computed here"
            result = yield from self.compute(op, v, index, partly)
        if isinstance(result, Value) and not isinstance(result.type, ScalarType):
            # A constant piece of a concatenation has no axes, yet holds only in the sweep over that piece.
            named = (n for e in index for n in e.names())
            self.build.container((*result.type.axes, *named)).memo[key] = result  # type: ignore[union-attr]
        return result

    def remembered(self, key: Any, v: Value) -> Value | None:
        """The value from this sweep or from the nest's own level; one of an earlier sweep is kept when that is
        cheaper.
        """
        for c in (*reversed(self.build.inner), self.build.sweep, self.build.top):
            if c is not None and key in c.memo:
                return c.memo[key]
        sweep = self.build.sweep
        if sweep is None:
            return None
        for span, memo in self.earlier:
            if span == (sweep.axes, sweep.lo, sweep.hi) and key in memo and self.weight(v) >= KEEP_FLOPS:
                kept = memo[key]
                sweep.memo[key] = kept
                return kept
        return None

    def weight(self, v: Value) -> int:
        """Arithmetic per element behind ``v``, up to loads and reductions; each load beyond the first counts as
        well.
        """
        if v in self.weights:
            return self.weights[v]
        seen: set[Value] = set()
        stack, total, loads = [v], 0, 0
        while stack and total < KEEP_FLOPS:
            u = stack.pop()
            if u in seen:
                continue
            seen.add(u)
            op = self.maker.get(u)
            if op is None or self.stored(u):
                loads += 1
                total += 2 if loads > 1 and u.type.rank >= v.type.rank else 0
            elif op.record.kind is Kind.SCAN:
                total = KEEP_FLOPS  # it cannot be made once more
            elif op.record.kind is not Kind.REDUCE:
                total += op.record.flops if op.record.kind in (Kind.MAP, Kind.RANDOM) else 0
                stack.extend(op.inputs)
        self.weights[v] = total
        return total

    def load(self, v: Value, index: Index, partly: bool) -> Operand:
        buffer = self.buffers[v]
        kind = buffer.type
        assert isinstance(kind, BufferType)
        strides = kind.strides or dense_strides(kind.dims)
        offset = ZERO
        for e, stride, size in zip(index, strides, kind.dims, strict=True):
            if size is not ONE:
                offset = offset + e * stride
        offset = simplify_index(offset, self.ranges)
        guard = self.inside(index, kind.dims) if partly else ()
        names = offset.names() | {n for g in guard for e in g for n in e.names()}
        axes = tuple(n for n in self.ranges if n in names)
        lookups: list[Value] = []
        rename: dict[str, Dim] = {}
        for n in sorted(names):
            if n in self.lookups:
                rename[n] = Dim.name(f"_l{len(lookups)}")
                lookups.append(self.lookups[n])
        attrs: dict[str, Attr] = {"index": (offset.substitute(rename) if rename else offset,)}
        if guard:
            attrs["guard"] = tuple(tuple(e.substitute(rename) for e in g) for g in guard)
        raw = self.build.emit(OPS["load"], (buffer, *lookups), kind.dtype, attrs, axes=axes, hint=v.name)
        return self.build.cast(raw, compute_dtype(kind.dtype))

    def inside(self, index: Index, dims: Sequence[Dim]) -> Guard:
        """What must hold of an index for there to be such an element, as far as that is not known."""
        rows = ((e, ZERO, d) for e, d in zip(index, dims, strict=True) if d is not ONE and str(e) not in self.lookups)
        return tuple(row for row in rows if self.within(*row) is not True)

    def compute(self, op: Operation, v: Value, index: Index, partly: bool) -> Pull:
        kind = op.record.kind
        if kind is Kind.REDUCE:
            return self.reduced(v, index)
        if kind is Kind.SCAN:
            return self.scanned(v, index)
        if kind in (Kind.VIEW, Kind.INDEX):
            return (yield from self.viewed(op, index, partly))
        if kind is Kind.CONTRACT:
            return (yield from self.contracted(op, v, index, partly))
        names = Namespace(self.build, op)
        xs: list[Operand] = []
        for x in op.operands:
            xs.append((yield (x, self.aligned(x.type, index), partly)))
        if kind in (Kind.CREATE, Kind.RANDOM):
            assert op.record.define is not None
            at = [Expr(names, self.position(e)) for e in index]
            made = op.record.define(names, at, op.result.type, *(Expr(names, x) for x in xs), **op.attrs)
            return self.named(unwrap(made), op)
        assert kind is Kind.MAP, f"{op.name} cannot be part of a kernel"
        if v.type.dtype.is_bool and len(tuple(op.inputs)) > 1:
            # Whether two numbers are equal must not depend on which of them came from memory.
            xs = [x if self.stored(o) else self.rounded(x, o.type.dtype) for x, o in zip(xs, op.operands, strict=True)]
        return self.named(names.apply(op.record, tuple(xs), op.attrs), op)

    def stored(self, v: Operand) -> bool:
        """Is a value read from memory?"""
        return v in self.buffers and v not in self.own

    def rounded(self, x: Operand, dtype: DType) -> Operand:
        """A value as its dtype has it; a narrow float is computed with more digits."""
        narrow = isinstance(x, Value) and dtype.is_float and compute_dtype(dtype) is not dtype
        return Namespace(self.build).convert(x, dtype) if narrow and x not in self.build.numbers else x

    def contracted(self, op: Operation, v: Value, index: Index, partly: bool) -> Pull:
        """A sum of products, in a sweep of its own over what is summed."""
        left, right, result = letters(op)
        at = dict(zip(result, index, strict=True))
        sizes = {c: d for c, d in zip(left, op.operands[0].type.dims, strict=True) if c not in at}
        names = {c: self.summed(d) for c, d in sizes.items()}
        at.update((c, Dim.name(a)) for c, a in names.items())
        axes = tuple(names.values())
        bounds = [self.ranges[a] for a in axes]
        self.build.inner.append(Container(axes, tuple(lo for lo, _ in bounds), tuple(hi for _, hi in bounds)))
        xs: list[Operand] = []
        for x, part in zip(op.operands, (left, right), strict=True):
            where = tuple(ZERO if d is ONE else at[c] for c, d in zip(part, x.type.dims, strict=True))
            xs.append((yield (x, self.simple(where), partly)))
        dtype = compute_dtype(contracted_dtype(op))
        made = self.mma(v, xs[0], xs[1], axes, tuple(a for a in self.ranges if a not in axes), dtype, op)
        self.build.close_inner()
        return self.build.cast(made, compute_dtype(op.result.type.dtype))

    def summed(self, extent: Dim) -> str:
        """The axis of a sum of products."""
        return self.axis(extent)

    def axis(self, extent: Dim) -> str:
        """A further loop axis, for a sweep that something needs of its own."""
        name = f"k{sum(a.startswith('k') for a in self.ranges)}{self.mark}"
        self.ranges[name] = (ZERO, extent)
        return name

    def mma(
        self, v: Value, a: Operand, b: Operand, over: tuple[str, ...], kept: tuple[str, ...], dtype: DType,
        op: Operation, factor: tuple[Operand, ...] = (),
    ) -> Value:  # fmt: skip
        """Fold products in the innermost open sweep."""
        pair = self.pair(a, b, dtype, op)
        depends = {n for x in pair if isinstance(x.type, TileType) for n in x.type.axes}
        result = Value(self.build.fresh(v.name), TileType(dtype, tuple(n for n in kept if n in depends)))
        attrs: dict[str, Attr] = {"over": over, "dtype": dtype}
        record = OPS["mma"]
        self.build.inner[-1].ops.append(Operation(record, (*pair, *factor), (result,), attrs, op.span, op.origin))
        return result

    def pair(self, a: Operand, b: Operand, dtype: DType, op: Operation) -> list[Operand]:
        """Two factors as values of ``dtype``."""
        names = Namespace(self.build, op)
        return [self.build.cast(x if isinstance(x, Value) else names.number(x), dtype) for x in (a, b)]

    def accumulate(self, buffer: Value, a: Operand, b: Operand, index: Index, over: Dim, op: Operation) -> None:
        """Add products, summed ``over`` an axis, to memory in the innermost open sweep."""
        kind = buffer.type
        assert isinstance(kind, BufferType)
        attrs: dict[str, Attr] = {"index": self.simple((dense_offset(kind, index),)), "over": (str(over),)}
        pair = self.pair(a, b, kind.dtype, op)
        self.build.inner[-1].ops.append(Operation(OPS["accumulate"], (buffer, *pair), (), attrs, op.span, op.origin))

    def fold(
        self, op: Operation, x: Value, over: tuple[str, ...], position: Dim, kept: tuple[str, ...],
        factor: tuple[Operand, ...] = (),
    ) -> tuple[Value, ...]:  # fmt: skip
        """Fold a value in the innermost open sweep; gives the results, which have the axes ``kept``."""
        where = self.build.inner[-1] if self.build.inner else self.build.sweep
        assert where is not None
        results = tuple(
            Value(self.build.fresh(r.name), TileType(compute_dtype(r.type.dtype), kept)) for r in op.results
        )
        attrs: dict[str, Attr] = {"over": over, "position": position, "dtype": compute_dtype(op.results[0].type.dtype)}
        where.ops.append(Operation(op.record, (x, *factor), results, attrs, op.span, op.origin))
        return results

    def foldable(self, x: Operand, dtype: DType) -> Value:
        """A value that a fold takes, even of a constant."""
        if isinstance(x, Literal) or x in self.build.numbers:
            wide = compute_dtype(dtype)
            return self.build.emit(OPS["cast"], (x,), wide, {"dtype": wide})
        return x

    def store(self, buffer: Value, x: Operand, index: Index, span: Span | None) -> None:
        """Store one element of a dense buffer, where the axes of its position and of ``x`` have their values."""
        kind = buffer.type
        assert isinstance(kind, BufferType)
        offset = dense_offset(kind, index)
        axes = tuple(n for n in self.ranges if n in offset.names())
        where = self.build.container((*axes, *(x.type.axes if isinstance(x.type, TileType) else ())))
        attrs = {"index": self.simple((offset,))}
        where.ops.append(Operation(OPS["store"], (buffer, x), (), attrs, span))

    def named(self, x: Operand, op: Operation) -> Operand:
        """A result in the compute dtype of the op's type, as a value even when it is constant."""
        exact = not isinstance(x, Value) or (x in self.build.numbers and x.type.dtype.is_float)
        return x if exact else self.build.cast(x, compute_dtype(op.result.type.dtype))

    def position(self, e: Dim) -> Operand:
        if e.is_const:
            return Literal(e.value)
        axes = tuple(n for n in self.ranges if n in e.names())
        looked = [n for n in e.names() if n in self.lookups]
        if e.is_name and looked:
            return self.lookups[looked[0]]
        if looked:
            raise Misplaced(self.lookups[looked[0]])
        return self.build.emit(OPS["position"], (), int64, {"of": e}, axes=axes)

    @staticmethod
    def aligned(t: Type, index: Index) -> Index:
        """The index into an operand of a broadcast: leading dims dropped, dims of size 1 at 0."""
        dims = t.dims
        tail = index[len(index) - len(dims) :] if dims else ()
        return tuple(ZERO if d is ONE else e for d, e in zip(dims, tail, strict=True))

    def reduced(self, v: Value, index: Index) -> Operand:
        at = tuple(e for e, d in zip(index, v.type.dims, strict=True) if d is not ONE)
        own = tuple(e for e in self.parallel if e is not ZERO)
        if at != own or v not in self.folded:
            raise Misplaced(v)
        return self.folded[v]

    def scanned(self, v: Value, index: Index) -> Operand:
        """What a scan has reached at the nest's own position, in its sweep or, kept, in a later one like it."""
        found = self.remembered(self.key(v, index), v)
        if found is None:
            raise Misplaced(v)
        return found

    def key(self, v: Value, index: Index) -> tuple[Value, Index, bool, str]:
        """Under what the result of a scan is remembered: it is the same for everyone who reads it."""
        at = tuple(ZERO if d is ONE else e for e, d in zip(self.simple(index), v.type.dims, strict=True))
        return v, at, False, self.era

    def viewed(self, op: Operation, index: Index, partly: bool) -> Pull:
        assert op.record.pieces is not None
        kind = op.result.type
        assert isinstance(kind, TensorType)
        pieces = op.record.pieces(index, [x.type for x in op.operands], kind, op.attrs)
        chosen: list[tuple[Piece, Guard]] = []
        for piece in pieces:
            inside, undecided = True, []
            for axis, lo, hi in piece.box:
                verdict = self.within(index[axis], lo, hi)
                if verdict is False:
                    inside = False
                    break
                if verdict is None:
                    self.try_split(index[axis], lo, hi)
                    undecided.append((index[axis], lo, hi))
            if inside:
                chosen.append((piece, tuple(undecided)))
                if not undecided:
                    break
        several = partly or len(chosen) > 1
        result: Operand = yield from self.piece(op, chosen[-1][0], several)
        names = Namespace(self.build, op)
        for piece, box in reversed(chosen[:-1]):
            value = yield from self.piece(op, piece, several)
            result = names.apply(OPS["where"], (self.condition(names, box), value, result), {})
        return result

    def condition(self, names: Namespace, box: Guard) -> Operand:
        mask: Operand | None = None
        for e, lo, hi in box:
            at = self.position(e)
            for name, bound in (("ge", lo), ("lt", hi)):
                test = names.apply(OPS[name], (at, Literal(bound.value if bound.is_const else bound)), {})
                mask = test if mask is None else names.apply(OPS["logical_and"], (mask, test), {})
        assert mask is not None
        return mask

    def piece(self, op: Operation, piece: Piece, partly: bool) -> Pull:
        if isinstance(piece.operand, Literal):
            names = Namespace(self.build, op)
            return names.convert(piece.operand, compute_dtype(op.result.type.dtype))
        index: list[Dim] = []
        for e in piece.index:
            if isinstance(e, Lookup):
                index.append((yield from self.looked_up(op, piece.operand, len(index), e, partly)))
            else:
                index.append(simplify_index(e, self.ranges))
        return (yield (op.operands[piece.operand], tuple(index), partly))

    def looked_up(
        self, op: Operation, operand: int, axis: int, e: Lookup, partly: bool
    ) -> Generator[Any, Operand, Dim]:
        raw = yield (op.operands[e.operand], self.simple(e.index), partly)
        size = op.operands[operand].type.dims[axis]
        attrs: dict[str, Attr] = {"size": size, "wraps": True} if e.wraps else {"size": size}
        checked = self.build.emit(OPS["lookup"], (self.build.cast(raw, int64),), int64, attrs, source=op)
        name = f"_g{len(self.lookups)}"
        for known, value in self.lookups.items():
            if value is checked:
                return Dim.name(known)
        self.lookups[name] = checked
        return Dim.name(name)

    def within(self, e: Dim, lo: Dim, hi: Dim) -> bool | None:
        """Is lo <= e < hi for every point of the current loops? None when it depends on the point or is not
        provable.
        """
        low, high = bounds(e, self.ranges)
        if low is None or high is None:
            return None
        if provably_ge(low, lo) and provably_ge(hi, high + 1):
            return True
        if provably_ge(low, hi) or provably_ge(lo, high + 1):
            return False
        return None

    def try_split(self, e: Dim, lo: Dim, hi: Dim) -> None:
        if not self.splittable or self.splittable not in e.names():
            return
        shift = e - Dim.name(self.splittable)
        if self.splittable in shift.names() or any(n in self.ranges for n in shift.names()):
            return
        first, last = self.ranges[self.splittable]
        for point in (lo - shift, hi - shift):
            inside = provably_ge(point, first) and provably_ge(last, point)
            if inside and point is not first and point is not last:
                raise Split(self.splittable, point)


def dense_offset(kind: BufferType, index: Index) -> Dim:
    """Where a dense buffer has the element at ``index``."""
    pairs = zip(index, dense_strides(kind.dims), kind.dims, strict=True)
    return sum((e * stride for e, stride, d in pairs if d is not ONE), ZERO)


def dense_strides(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """The strides, in elements, of a dense row-major array."""
    strides: list[Dim] = []
    running = ONE
    for d in reversed(dims):
        strides.append(running)
        running = running * d
    return tuple(reversed(strides))
