"""Reductions and products of blocks of a block program in Triton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tessera.backends.triton import intrinsics
from tessera.backends.triton.blocks import EIGHT
from tessera.backends.triton.fold import FoldPlan, plan_fold
from tessera.backends.triton.function import merge_function
from tessera.backends.triton.program_memory import ProgramMemory
from tessera.backends.triton.program_plan import ZERO
from tessera.backends.triton.program_products import Roles, factors, is_tiles
from tessera.ir.dialects.contract import contracted_dtype, letters
from tessera.ir.dtype import DType, compute_dtype, f16, f32
from tessera.ir.graph import Literal, Operation, Value
from tessera.ir.types import TensorType, TileType

#: Elements of the largest block of single products.
MOST_PRODUCTS = 1 << 17


@dataclass
class ProgramFolds(ProgramMemory):
    """``merges`` (text to name) is shared by the functions of a program."""

    merges: dict[str, str] = field(default_factory=dict)

    # -- reductions

    def reduce(self, op: Operation) -> None:
        x = op.operands[0]
        t = x.type
        if not isinstance(x, Value) or not isinstance(t, TensorType):
            raise self.refuse(op, f"`{op.name}` of a number")
        wide = compute_dtype(t.dtype)
        element = Value("x", TileType(wide, ()))
        results = tuple(Value(r.name, TileType(compute_dtype(r.type.dtype), ())) for r in op.results)
        plan = plan_fold(replace(op, operands=(element,), results=results))
        extents, axes = self.extents(t.dims), op.axes()
        with self.framed(extents):
            states = self.elements(plan, self.converted(self.values[x], t.dtype, wide), axes)
        self.join(plan, states, extents, axes)
        found = self.inline(plan.finish, dict(zip(plan.state, states, strict=True)), {})
        for r, made, wanted in zip(op.results, found, results, strict=True):
            same = isinstance(made, Value) and made.type.dtype is wanted.type.dtype
            text = self.text(made) if same else self.define("cast", self.cast(made, wanted.type.dtype))
            text = self.converted(text, wanted.type.dtype, r.type.dtype)
            if op.attrs["keepdim"]:
                shape = [1 if n in axes else self.padded(e) for n, e in enumerate(extents)]
                text = self.define(op.name, f"tl.reshape({text}, {shape})")
            self.values[r] = text

    def elements(self, plan: FoldPlan, text: str, axes: Sequence[int]) -> list[str]:
        """The state of each element alone, the start state beyond the true lengths; all lanes of the frame."""
        new = [text]
        if not plan.plain:
            given = {plan.element: text}
            if plan.step.reads(plan.index):
                at = ZERO
                for n in axes:
                    at = at * self.frame[n] + self.identity[n]
                given[plan.index] = self.define("at", f"tl.cast({self.place(at)}, tl.int64)")
            starts: Mapping[Value, Literal] = {v: Literal(n) for v, n in zip(plan.state, plan.start, strict=True)}
            results = self.inline(plan.step, given, starts)
            new = [self.text(r, t, alone=True) for r, t in zip(results, plan.dtypes, strict=True)]
            if self.frame:
                new = [f"tl.broadcast_to({one}, {self.shape(self.frame)})" for one in new]
        mask = " & ".join(f"({p.text})" for p in self.pads(axes))
        out = []
        for value, start, t in zip(new, plan.start, plan.dtypes, strict=True):
            name = self.fresh(plan.op.name)
            text = f"tl.where({mask}, {value}, {intrinsics.literal(start, t)})" if mask else value
            self.lines.add(f"{name} = {self.used.note(text)}")
            out.append(name)
        return out

    def join(self, plan: FoldPlan, states: Sequence[str], extents: Sequence[int], axes: Sequence[int]) -> None:
        """Join states along axes, under their names; several axes become one first, the last the fastest."""
        if not axes:
            return
        axis = axes[0]
        if len(axes) > 1:
            order = [n for n in range(len(extents)) if n not in axes] + list(axes)
            kept = [self.padded(extents[n]) for n in order[: -len(axes)]]
            count = 1
            for n in axes:
                count *= self.padded(extents[n])
            for s in states:
                turned = s if order == sorted(order) else f"tl.permute({s}, {order})"
                self.lines.add(f"{s} = tl.reshape({turned}, {[*kept, count]})")
            axis = len(kept)
        names = ", ".join(states)
        if plan.additive:
            self.lines.add(f"{names} = tl.sum({names}, axis={axis})")
            return
        given = names if len(states) == 1 else f"({names})"
        self.lines.add(f"{names} = tl.reduce({given}, {axis}, {merge_function(plan, self.used, self.merges)})")

    # -- products

    def contract(self, op: Operation) -> None:
        roles = Roles.of(op, self.static)
        a, b = factors(op, self.makers)
        wide = compute_dtype(contracted_dtype(op))
        if is_tiles(op, self.makers, self.static):
            text = self.tiles(op, roles, a, b, wide)
        else:
            text = self.points(op, roles, wide)
        self.values[op.result] = self.converted(self.define(op.name, text), wide, op.result.type.dtype)

    def tiles(self, op: Operation, roles: Roles, a: Value, b: Value, wide: DType) -> str:
        """A product of matrices."""
        left, right, result = letters(op)
        texts = []
        for x, subscripts, order in ((a, left, roles.rows + roles.inner), (b, right, roles.inner + roles.cols)):
            with self.framed([roles.lengths[c] for c in subscripts]):
                text = self.cleared(x, subscripts.index(roles.inner))
            texts.append(text if subscripts == order else self.define("turned", f"tl.permute({text}, [1, 0])"))
        exact = ', input_precision="ieee"' if a.type.dtype.bits == 32 else ""
        out = f", out_dtype={intrinsics.type_name(wide)}" if wide is not f32 else ""
        text = f"tl.dot({', '.join(texts)}{exact}{out})"
        return text if result == roles.rows + roles.cols else f"tl.permute({self.define('dot', text)}, [1, 0])"

    def cleared(self, x: Value, axis: int) -> str:
        """A factor that is 0 beyond its true length along an axis of the frame."""
        text, t = self.values[x], x.type.dtype
        if t.name in EIGHT:
            text, t = self.define("wide", f"{text}.to(tl.float16)"), f16
        mask = self.pads((axis,))
        if not mask or x in self.zeroed:
            return text
        return self.define("cleared", f"tl.where({mask[0].text}, {text}, {intrinsics.literal(0, t)})")

    def points(self, op: Operation, roles: Roles, wide: DType) -> str:
        """Products one by one, and their sums."""
        left, right, result = letters(op)
        order = result + roles.inner
        extents = [roles.lengths[c] for c in order]
        count = 1
        for n in extents:
            count *= self.padded(n)
        if count > MOST_PRODUCTS:
            raise self.refuse(op, f"a contraction of {count} products that is no product of matrices", "TSR0608")
        with self.framed(extents):
            texts = []
            for x, subscripts in zip(op.operands, (left, right), strict=True):
                assert isinstance(x, Value)
                own = self.extents(x.type.dims)
                lanes = (self.identity[order.index(c)] for c in subscripts)
                at = tuple(ZERO if n == 1 else lane for lane, n in zip(lanes, own, strict=True))
                texts.append(self.converted(self.read(x, at).text, x.type.dtype, wide))
            shape = self.shape(extents)
            made = f"tl.broadcast_to({texts[0]} * {texts[1]}, {shape})"
            mask = " & ".join(f"({p.text})" for p in self.pads(range(len(result), len(order))))
            zero = intrinsics.literal(0, wide)
            text = self.define("terms", f"tl.where({mask}, {made}, {zero})" if mask else made)
        for axis in range(len(order) - 1, len(result) - 1, -1):
            text = self.define("sum", f"tl.sum({text}, axis={axis})")
        return text


__all__ = ["ProgramFolds"]
