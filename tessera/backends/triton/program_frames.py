"""The block that a statement of a block program is written for: its lanes, and index expressions over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera.backends.triton.program_plan import ZERO, extent
from tessera.backends.triton.statements import Statements
from tessera.backends.triton.tiling import power
from tessera.diag import Label, ResourceError
from tessera.ir.dim import Dim
from tessera.ir.dim_range import bounds, coefficient, simplify_index
from tessera.ir.dtype import int64
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.schedule.ranges import provably_ge

Coordinates = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Lanes:
    """A text, and the axes of the frame along which it has lanes."""

    text: str
    axes: frozenset[int] = frozenset()


@dataclass
class Frames(Statements):
    """``static`` are the sizes of blocks, ``makers`` the operations that give values, ``whole`` the values that are
    variables, ``least`` the lanes that some lengths have at least, ``steps`` where the axes of loops begin and end.
    """

    static: Mapping[str, int] = field(kw_only=True)
    makers: Mapping[Value, Operation] = field(kw_only=True)
    whole: frozenset[Value] = field(kw_only=True)
    least: Mapping[int, int] = field(default_factory=dict)
    frame: tuple[int, ...] = ()
    #: Where the elements that are being written out are wanted at all.
    alive: tuple[Lanes, ...] = ()
    steps: dict[str, tuple[Dim, Dim, Dim]] = field(default_factory=dict)
    prelude: list[str] = field(default_factory=list)
    looks_up: bool = False
    #: Values whose lanes beyond the true lengths are 0.
    zeroed: set[Value] = field(default_factory=set)
    #: Coordinates that come from memory, by their names.
    found: dict[str, Lanes] = field(default_factory=dict)
    #: Lanes, and by how much an address moves from one to the next.
    slopes: list[tuple[int, Dim]] = field(default_factory=list)
    _names: dict[Value, str] = field(default_factory=dict)

    # -- sizes

    def dim(self, e: object) -> Dim:
        """A size with the sizes of blocks as numbers."""
        return Dim.of(e).substitute(dict(self.static)) if isinstance(e, int | str | Dim) else ZERO

    def extents(self, dims: Iterable[Dim]) -> tuple[int, ...]:
        return tuple(extent(d, self.static) for d in dims)

    def padded(self, n: int) -> int:
        """The lanes that ``n`` elements take."""
        return max(power(n), self.least.get(n, 1))

    def shape(self, extents: Sequence[int]) -> str:
        return f"[{', '.join(str(self.padded(n)) for n in extents)}]"

    def refuse(self, op: Operation, what: str, code: str = "TSR0607") -> ResourceError:
        """What a kernel cannot be on a GPU, with its place."""
        labels = [] if op.span is None else [Label(op.span, f"`{op.origin or op.name}`", True)]
        return ResourceError(f"{what} in a Triton kernel", code=code, labels=labels)

    # -- frames and lanes

    @contextmanager
    def framed(self, extents: Sequence[int]) -> Iterator[None]:
        """Inside, values are written for a block of this shape."""
        kept = self.frame, self.exprs.axes, self.exprs.ranges
        self.frame = tuple(extents)
        lanes = {f"_i{n}": self.lane(n) for n in range(len(self.frame))}
        ranges = {f"_i{n}": (ZERO, Dim.const(size)) for n, size in enumerate(self.frame)}
        outer = {k: v for k, v in self.exprs.axes.items() if not k.startswith("_i")}
        self.exprs.axes = {**outer, **lanes}
        self.exprs.ranges = {**{k: v for k, v in self.exprs.ranges.items() if not k.startswith("_i")}, **ranges}
        yield
        self.frame, self.exprs.axes, self.exprs.ranges = kept

    @property
    def identity(self) -> Coordinates:
        """The coordinates of the frame itself."""
        return tuple(Dim.name(f"_i{n}") for n in range(len(self.frame)))

    def lane(self, axis: int) -> str:
        """The lanes along an axis of the frame."""
        count = self.padded(self.frame[axis])
        if count == 1:
            return "0"
        name = f"lanes_{count}"
        lines = [f"{name} = tl.arange(0, {count})", "if WIDE:", f"    {name} = {name}.to(tl.int64)"]
        if lines[0] not in self.prelude:
            self.prelude += lines
        return self.spread(name, (axis,))

    def spread(self, text: str, axes: Sequence[int]) -> str:
        """A variable whose axes are these of the frame, in order."""
        if len(self.frame) == len(axes) or not axes:
            return text
        return f"{text}[{', '.join(':' if n in axes else 'None' for n in range(len(self.frame)))}]"

    def lanes_of(self, e: Dim) -> frozenset[int]:
        """The axes of the frame along which an index expression differs."""
        found: set[int] = set()
        for n in e.names():
            if n.startswith("_i") and self.padded(self.frame[int(n[2:])]) > 1:
                found.add(int(n[2:]))
            elif n in self.found:
                found |= self.found[n].axes
        return frozenset(found)

    def pads(self, axes: Iterable[int]) -> list[Lanes]:
        """Which lanes along axes of the frame are elements, where not all are."""
        found = []
        for n in sorted(axes):
            size = self.frame[n]
            if not size:
                found.append(Lanes(self.define("inside", "tl.program_id(0) < 0")))
            elif self.padded(size) != size and self.padded(size) > 1:
                found.append(Lanes(self.define("inside", f"{self.lane(n)} < {size}"), frozenset((n,))))
        return found

    # -- index expressions

    def integer(self, x: Operand) -> Dim:
        """An integer of rank 0 as a name in index expressions."""
        if isinstance(x, Literal):
            return self.dim(x.value)
        if x not in self._names:
            self._names[x] = f"_v{len(self._names)}"
        text = self.text(x)
        self.exprs.axes[self._names[x]] = text if x.type.dtype is int64 else f"{text}.to(tl.int64)"
        return Dim.name(self._names[x])

    def looked(self, e: Dim, lookups: Sequence[Operand]) -> Dim:
        """An expression with the values of lookups in it."""
        wanted = {f"_l{n}": self.integer(x) for n, x in enumerate(lookups) if f"_l{n}" in e.names()}
        return self.dim(e.substitute(wanted) if wanted else e)

    def simple(self, e: Dim) -> Dim:
        return simplify_index(e, {n: r for n, r in self.exprs.ranges.items() if n in e.names()})

    def reach(self, e: Dim) -> tuple[Dim | None, Dim | None]:
        """The least and the greatest value of an expression, where it can be told."""
        vary = {n for n in e.names() if n in self.exprs.axes}
        if not vary <= self.exprs.ranges.keys():
            return None, None
        return bounds(e, {n: self.exprs.ranges[n] for n in vary})

    def within(self, e: Dim, lo: Dim, hi: Dim) -> tuple[bool, bool]:
        """Is an expression known to be at least ``lo``; is it known to be less than ``hi``?"""
        low, high = self.reach(e)
        below = high is not None and provably_ge(hi, high + 1)
        return low is not None and provably_ge(low, lo), below

    def place(self, e: Dim) -> str:
        """An index expression in the frame: first what all lanes share."""
        e = self.simple(e)
        vary = sorted(n for n in e.names() if n.startswith("_i") or n in self.found)
        slopes = {n: coefficient(e, n) for n in vary}
        if any(c is None or c.names() & set(vary) for c in slopes.values()):
            known = self.exprs.axes
            wide = {n: f"{known[n]}.to(tl.int64)" for n in vary if known[n] != "0"}
            self.exprs.axes = {**known, **wide}
            try:
                return self.exprs.text(e)
            finally:
                self.exprs.axes = known
        base = e.substitute(dict.fromkeys(vary, ZERO))
        terms = [] if base is ZERO else [self.exprs.text(base)]
        terms += [self.along_lanes(n, slope) for n, slope in slopes.items() if slope and self.exprs.axes[n] != "0"]
        return " + ".join(terms).replace("+ -", "- ") or "0"

    def along_lanes(self, name: str, slope: Dim) -> str:
        """What lanes add to an index, with 32 bits where that is enough."""
        lanes = self.exprs.axes[name]
        if slope.is_const and slope.value == 1:
            return lanes
        if slope.names() & self.exprs.axes.keys():
            lanes = f"{lanes}.to(tl.int64)"
        elif name.startswith("_i"):
            self.slopes.append((self.padded(self.frame[int(name[2:])]), slope))
        return f"{lanes} * {self.exprs.inner(slope)}"


__all__ = ["Coordinates", "Frames", "Lanes"]
