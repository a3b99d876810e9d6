"""What is launched at given sizes, and why it is that: a line for each launch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tessera.backends.triton.blocks import Blocks, Sized
from tessera.backends.triton.descriptors import described
from tessera.backends.triton.estimate import estimate
from tessera.backends.triton.rooms import units_of
from tessera.backends.triton.source import Bound, Nest, TritonSource
from tessera.ir.within import applies


def launches(source: TritonSource, sizes: Mapping[str, int]) -> Iterator[str]:
    """The launches of a kernel at given sizes, in order.

    >>> from tessera.backends.base import Target
    >>> from tessera.backends.triton.emit import emit_function
    >>> from tessera.ir.parser import parse
    >>> f = parse('''kernel double(x: in f32[D], y: out f32[D]) {
    ...   nest(axes=("i",), extents=[D], vector="i") {
    ...     %a = load(x, index=[i]) : f32<i>
    ...     %b = add(%a, %a)        : f32<i>
    ...          store(y, %b, index=[i])
    ...   }
    ... }''')
    >>> list(launches(emit_function(f, Target("cuda", "90")), {"D": 5000}))
    ['nest0_tile: 5 programs, 4 warps each, blocks of 1 x 1024']
    """
    for nest in source.nests:
        if not applies(nest.when, sizes):
            continue
        bound = nest.bind(sizes, source.wave)
        c = bound.config
        if not c.grid:
            continue
        text = f"{bound.function.name}: {c.grid} programs, {c.warps} warps each, blocks of {c.rows} x {c.cols}"
        tiled = isinstance(nest, Nest) and isinstance(nest.tiling, Blocks) and c.mode in ("held", "walked", "streamed")
        yield text + (_of_tiles(nest, bound, sizes) if tiled and isinstance(nest, Nest) else "")


def _of_tiles(nest: Nest, bound: Bound, sizes: Mapping[str, int]) -> str:
    """More about a nest of blocks: how it reads, and what limits it."""
    t, c = nest.tiling, bound.config
    assert isinstance(t, Blocks)
    text = "" if c.mode == "held" else f", {c.stages} steps under way"
    if c.mode == "streamed":
        assert bound.unaligned is not None
        tiles = bound.unaligned.config.grid
        text += f", {tiles} tiles in all, read by descriptors where buffers begin at multiples of 16 bytes"
    elif "streamed" in nest.functions:
        text += f", read by addresses: {_obstacle(t, bound, sizes)}"
    if t.walks or not t.products:
        return text
    e = estimate(Sized(t, sizes), c if bound.unaligned is None else replace(bound.unaligned.config, stages=c.stages))
    return f"{text}; about {e.total} cycles on {units_of(t.target)} units, most of them {e.limit}"


def _obstacle(t: Blocks, bound: Bound, sizes: Mapping[str, int]) -> str:
    """Why a nest that could does not read by descriptors."""
    c = bound.config
    if c.mode == "held":
        return "the sums are short"
    if not described(t, sizes, dict(c.more)):
        return "a matrix does not lie as descriptors need it"
    return "tiles are small"
