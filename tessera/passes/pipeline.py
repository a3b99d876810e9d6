"""The order of the tensor-level passes, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tessera.passes.autodiff import Autodiff
from tessera.passes.base import Pass, Row
from tessera.passes.blocks import Blocks
from tessera.passes.canonicalize import Canonicalize
from tessera.passes.chunk import CPU, Chunk, Speeds
from tessera.passes.cse import CommonSubexpressions
from tessera.passes.dce import DeadCode
from tessera.passes.fuse import Fuse
from tessera.passes.shapes import Shapes

PIPELINE: tuple[Row, ...] = (
    Row(Shapes(), "first: a refuted size must be reported on what the user wrote, before anything is rewritten"),
    Row(Canonicalize(), "one form for equal things, so that sharing finds them"),
    Row(Chunk(), "before cse, which shares what the rows of a chunk are made of alike"),
    Row(CommonSubexpressions(), "before dce, which then drops what sharing left unread"),
    Row(DeadCode(), "before fuse, so that no region carries work nobody reads"),
    Row(Blocks(), "before fuse, which takes the inside of a run by blocks for itself"),
    Row(Fuse(), "last: regions are what the scheduler takes"),
)


def pipeline(
    library: tuple[str, ...] = (),
    lookups: bool = True,
    across: bool = True,
    speeds: Speeds = CPU,
    sizes: tuple[tuple[str, int], ...] = (),
    integers: bool = True,
) -> tuple[Row, ...]:
    """The pipeline with options of its passes that depend on the machine, and on what sizes are known beforehand."""
    fuse = Fuse(library=library, lookups=lookups, across=across, sizes=sizes, integers=integers)
    chosen: dict[str, Pass] = {"fuse": fuse, "chunk": Chunk(speeds=speeds), "blocks": Blocks(sizes)}
    return tuple(replace(row, step=chosen.get(row.step.name, row.step)) for row in PIPELINE)


#: Passes by name: those of the pipeline, and the derivative, which a call with gradients takes before them.
PASSES: Mapping[str, Pass] = {row.step.name: row.step for row in PIPELINE} | {"autodiff": Autodiff()}
