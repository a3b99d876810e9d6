"""Block sizes where whoever wrote a kernel left them open: as large as still lies in the nearest caches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tessera.diag import ShapeError
from tessera.ir.dim import Dim, product
from tessera.ir.graph import Function, walk
from tessera.ir.types import BufferType, TensorType
from tessera.schedule.ranges import most

#: Bytes of the largest block.
LARGEST = 1 << 15


def default_blocks(f: Function, sizes: Mapping[str, int], names: tuple[str, ...]) -> dict[str, int]:
    """A size for each of these names of block sizes: powers of two, which grow in turns as long as no block of the
    program is larger than it should be, and none is larger than what it steps over, rounded up.
    """
    ends = {name: max((_size(e, sizes) for e in _extents(f, name)), default=0) for name in names}
    blocks = [e for e in _blocks(f) if not e.names().isdisjoint(names)]
    found = dict.fromkeys(names, 1)
    growing = list(names)
    while growing:
        for name in list(growing):
            larger = {**found, name: found[name] * 2}
            room = all(_size(e, {**sizes, **larger}) <= LARGEST for e in blocks)
            if found[name] < ends[name] and room:
                found = larger
            else:
                growing.remove(name)
    return found


def _blocks(f: Function) -> Iterator[Dim]:
    """The bytes of the blocks of a program, as far as sizes tell."""
    ranges = _ranges(f)
    for v in (r for op in walk(f.body) for r in op.results):
        if isinstance(v.type, TensorType | BufferType):
            found = most(product(v.type.dims) * v.type.dtype.bytes, ranges)
            if found is not None:
                yield found


def _extents(f: Function, name: str) -> Iterator[Dim]:
    """What loops in steps of a block size go over, as far as sizes tell."""
    ranges, step = _ranges(f), Dim.name(name)
    for op in walk(f.body):
        if "step" in op.attrs and op.attrs["step"] is step:
            lo, hi = (Dim.of(x) for x in (op.attrs["lo"], op.attrs["hi"]) if isinstance(x, Dim | int))
            found = most(hi - lo, ranges)
            yield Dim.const(1 << 16) if found is None else found


def _ranges(f: Function) -> dict[str, tuple[Dim, Dim]]:
    found: dict[str, tuple[Dim, Dim]] = {}
    for op in walk(f.body):
        lo, hi = op.attrs.get("lo"), op.attrs.get("hi")
        if "axis" in op.attrs and isinstance(lo, Dim | int) and isinstance(hi, Dim | int):
            found[str(op.attrs["axis"])] = Dim.of(lo), Dim.of(hi)
    return found


def _size(e: Dim, sizes: Mapping[str, int]) -> int:
    try:
        return e.evaluate(sizes, signed=True)
    except ShapeError:
        return 0


__all__ = ["LARGEST", "default_blocks"]
