"""What every function on tiles of blocks is made of: its programs, where they stand along each side, and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tessera.backends.triton import intrinsics
from tessera.backends.triton.block_memory import BlockStatements, Place
from tessera.backends.triton.blocks import EIGHT, PART, Side
from tessera.backends.triton.fold import FoldPlan
from tessera.backends.triton.function import merge_function
from tessera.backends.triton.source import KernelFunction, arguments
from tessera.backends.triton.statements import dim
from tessera.ir.graph import Literal, Operand, Value

#: Rows of tiles that programs take one after the other, down each column of them.
GROUP = 8


def grouped(rows: str, cols: str) -> tuple[str, ...]:
    """Take the number ``tile`` apart into a row ``tile`` and a column ``strip`` so that neighbours share most of what
    they read: a few rows of tiles at a time.
    """
    return (
        f"across = {GROUP} * {cols}",
        f"first = tile // across * {GROUP}",
        f"group = tl.minimum({rows} - first, {GROUP})",
        "strip = tile % across // group",
        "tile = first + tile % across % group",
    )


@dataclass
class BlockParts(BlockStatements):
    """The state of emitting one function. ``merges`` (text to name) is shared by those of a kernel."""

    name: str = ""
    merges: dict[str, str] = field(default_factory=dict)
    offsets: dict[str, str] = field(default_factory=dict)

    # -- the function as a whole

    def source(self) -> str:
        """The text of the function, once its lines are written."""
        return self.function().text(self.lines.text)

    def function(self) -> KernelFunction:
        """The function's name and arguments; complete after ``run``."""
        return KernelFunction(self.name, arguments(self.taken, self.exprs.sizes.names), self.flags(), self.looks_up)

    def flags(self) -> tuple[str, ...]:
        """The constants: how long each side is, whether blocks fill it, how many columns are finished at a time, and
        whether positions need 64 bits.
        """
        sides = self.layout.sides
        parts = (PART,) if self.layout.parted else ()
        return (*(s.block for s in sides), *(s.even for s in sides), *parts, "WIDE")

    # -- where a program stands

    def numbered(self, counts: Sequence[tuple[str, str, str]], several: bool = False) -> None:
        """Take the number of the program apart, the last part first: (axis or none, name, how many there are). With
        ``several`` a program carries out as many of them as it must, all that follows in a loop.
        """
        add = self.lines.add
        if several:
            total = " * ".join(count for *_, count in counts)
            # The next tile is read while one is finished, where no bounds have to be kept for that.
            even = " & ".join(f"({s.even} == 1)" for s in self.layout.tiled)
            add(f"for number in tl.range(tl.program_id(0), {total}, tl.num_programs(0), flatten={even}):")
            self.lines.depth += 1
            add("program = tl.cast(number, tl.int32)")
        else:
            add("program = tl.program_id(0)")
        for axis, name, count in reversed(counts):
            count = count if " * " not in count else f"({count})"
            add(f"{name} = (program % {count}).to(tl.int64)")
            add(f"program = program // {count}")
            if axis:
                self.exprs.axes[axis] = name

    def lanes(self, s: Side) -> str:
        """Offsets inside a block."""
        name = self.offsets.get(s.block)
        if name is None:
            name = self.offsets[s.block] = self.fresh(s.block.lower())
            self.lines.add(f"{name} = tl.arange(0, {self.length(s)})")
            self.lines.add("if WIDE:")
            self.lines.add(f"    {name} = {name}.to(tl.int64)")
        return name

    def stand(self, s: Side, start: str) -> None:
        """Stand at the block of a side that begins at ``start``."""
        lanes = self.lanes(s)
        first = self.define("start", start) if start else ""
        at = f"{first} + {lanes}" if first else lanes
        end = self.exprs.text(s.hi[0] if len(s.axes) == 1 else s.extent)
        mask = self.define(f"in_{s.block.lower()}", f"({at} < {end}) | ({s.even} == 1)")
        vectors: dict[str, str] = {}
        if len(s.axes) > 1:
            rest = self.define("at", at)
            for axis, n in reversed(list(zip(s.axes, s.hi, strict=True))):
                size = self.exprs.text(n)
                vectors[axis] = self.define("at", f"{rest} % {size}")
                rest = self.define("at", f"{rest} // {size}")
        self.places[s.block] = Place(first, lanes, mask, vectors)

    # -- folds

    def elements(self, plan: FoldPlan, over: Sequence[str]) -> list[str]:
        """The state of a single element at each point of the current frame, the start state beyond the bounds of the
        sides that are folded.
        """
        x = plan.op.operands[0]
        starts: Mapping[Value, Literal] = {v: Literal(n) for v, n in zip(plan.state, plan.start, strict=True)}
        new = [self.text(x)]
        if not plan.plain:
            given = {plan.element: self.text(x)}
            if plan.step.reads(plan.index):
                at = self.place(dim(plan.op.attrs["position"]))
                given[plan.index] = self.define("at", f"tl.cast({at}, tl.int64)")
            results = self.inline(plan.step, given, starts)
            new = [self.text(r, t) for r, t in zip(results, plan.dtypes, strict=True)]
        mask = " & ".join(self.masks(over))
        out = []
        for value, start, t in zip(new, plan.start, plan.dtypes, strict=True):
            name = self.fresh(plan.op.name)
            self.lines.add(f"{name} = tl.where({mask}, {value}, {intrinsics.literal(start, t)})")
            out.append(name)
        return out

    def joined(self, plan: FoldPlan, states: Sequence[str], axis: int) -> None:
        """Join states along one side of a tile, under their names."""
        names = ", ".join(states)
        if plan.additive:
            self.lines.add(f"{names} = tl.sum({names}, axis={axis})")
            return
        given = names if len(states) == 1 else f"({names})"
        merge = merge_function(plan, self.used, self.merges)
        self.lines.add(f"{names} = tl.reduce({given}, {axis}, {merge})")

    def finish(self, plan: FoldPlan, state: Sequence[str]) -> list[str]:
        """The results of a fold from its state."""
        with self.along(()):
            results = self.inline(plan.finish, dict(zip(plan.state, state, strict=True)), {})
            out = []
            for r, made in zip(plan.op.results, results, strict=True):
                to = r.type.dtype
                same = isinstance(made, Value) and made.type.dtype is to
                out.append(self.text(made) if same else self.define("cast", self.cast(made, to)))
        return out

    # -- operands of products

    def sources(self, a: Operand, b: Operand) -> tuple[Operand, Operand]:
        """The narrow operands that two f32 operands are conversions of, where a product can take them."""
        if not (isinstance(a, Value) and isinstance(b, Value)):
            return a, b
        x, y = self.layout.source(a), self.layout.source(b)
        both = {x.type.dtype.name, y.type.dtype.name}
        narrow = x is not a and y is not b and (len(both) == 1 or both <= set(EIGHT))
        return (x, y) if narrow else (a, b)

    def padded(self, x: Operand, over: Side) -> str:
        """An operand that is 0 beyond the bounds of a side, in the current frame."""
        text = self.text(x)
        if isinstance(x, Value) and over.block in self.zeroed.get(x, ()):
            return text
        (mask,) = self.masks((over.block,))
        return self.define("padded", f"tl.where({mask}, {text}, 0.0)")
