"""Tensors whose axes say what they run along, and their products, whatever the order of their axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, f32, int64
from tessera.ir.graph import Literal, Operand, Value
from tessera.ir.infer import ONE
from tessera.ir.types import TensorType
from tessera.passes.affine import Factor, Label, Labels
from tessera.passes.rowwise import Rowwise

#: The rows of a chunk, and once more where they meet each other.
ROW, EARLIER = "t", "j"


@dataclass(frozen=True, slots=True)
class Laid:
    """A value, and what each of its axes runs along; None for an axis of size 1."""

    value: Operand
    labels: Labels

    def as_earlier(self) -> Laid:
        """The same, its rows those that come before other rows."""
        return Laid(self.value, tuple(EARLIER if c == ROW else c for c in self.labels))


def order(labels: Iterable[Label | None]) -> tuple[Label, ...]:
    """Labels in the order that results have them: rows, what else has names, the axes of the carry."""
    found = {c for c in labels if c is not None}
    names = sorted(c for c in found if isinstance(c, str))
    names.sort(key=lambda c: {ROW: 0, EARLIER: 1}.get(c, 2))
    return (*names, *sorted(c for c in found if isinstance(c, int)))


@dataclass
class Algebra(Rowwise):
    """Rowwise operations, and those on labelled tensors; ``dtype`` is that of the carry they are about."""

    dtype: DType = f32

    def lay(self, f: Factor) -> Laid:
        new = self.at(f.value)
        return Laid(new, (ROW, *f.labels) if new is not f.value else f.labels)

    def bare(self, x: Laid) -> Laid:
        """Without axes of size 1."""
        dims = tuple(n for n, c in enumerate(x.labels) if c is None)
        if not dims or not isinstance(x.value, Value):
            return x
        return Laid(self.emit("squeeze", x.value, dim=dims), tuple(c for c in x.labels if c is not None))

    def arrange(self, x: Laid, to: Sequence[Label]) -> Operand:
        """With axes for just these labels, in this order; of size 1 where the value has none. A number stays one."""
        if not isinstance(x.value, Value) or not isinstance(x.value.type, TensorType):
            return x.value
        x = self.bare(x)
        v = x.value
        present = [c for c in to if c in x.labels]
        turn = tuple(x.labels.index(c) for c in present)
        if turn != tuple(range(len(turn))):
            v = self.emit("permute", v, dims=turn)
        for n, c in enumerate(to):
            if c not in present:
                v = self.emit("unsqueeze", v, dim=n)
        return v

    def join(self, name: str, *xs: Laid, fixed: Sequence[Label] = ()) -> Laid:
        """One elementwise operation of laid operands, of which each broadcasts."""
        to = tuple(fixed) or order(c for x in xs for c in x.labels)
        operands = [self.arrange(x, to) for x in xs]
        (value,) = self.build.call(OPS[name], operands, span=self.span)
        return Laid(value, tuple(c if d is not ONE else None for c, d in zip(to, value.type.dims, strict=True)))

    def times(self, xs: Iterable[Laid | None]) -> Laid | None:
        """The product of all that there are."""
        found: Laid | None = None
        for x in xs:
            if x is not None:
                found = x if found is None else self.join("mul", found, x)
        return found

    def filled(self, value: float | bool, labels: Sequence[Label], dims: Sequence[Dim], dtype: DType) -> Laid:
        return Laid(self.emit("full", Literal(value), shape=tuple(dims), dtype=dtype), tuple(labels))

    def sum(self, a: Laid, b: Laid, keep: Iterable[Label | None]) -> Laid:
        """The sum of products over the labels that are not kept."""
        a, b = self.bare(a), self.bare(b)
        result = tuple(c for c in order((*a.labels, *b.labels)) if c in set(keep))
        letters = {c: chr(ord("a") + n) for n, c in enumerate(order((*a.labels, *b.labels)))}
        left, right, out = ("".join(letters[c] for c in part) for part in (a.labels, b.labels, result))  # type: ignore[index]
        value = self.emit("contract", a.value, b.value, equation=f"{left},{right}->{out}", accumulate_dtype=None)
        return Laid(value, result)

    def choose(self, where: Laid, a: Laid, b: Laid) -> Laid:
        found = self.join("where", where, a, b)
        same = found.value.type.dtype is self.dtype
        return found if same else Laid(self.emit("cast", found.value, dtype=self.dtype), found.labels)

    def shaped(self, x: Laid, labels: Labels, dims: Sequence[Dim]) -> Value:
        """With axes for all labels, as large as ``dims`` says."""
        v = self.arrange(x, [c for c in labels if c is not None])
        assert isinstance(v, Value)
        for n, c in enumerate(labels):
            if c is None:
                v = self.emit("unsqueeze", v, dim=n)
        return v if v.type.dims == tuple(dims) else self.emit("expand", v, shape=tuple(dims))

    def rows(self, label: Label = ROW) -> Laid:
        """The number of each row."""
        count = Dim.const(self.count)
        return Laid(self.emit("iota", Literal(0), Literal(1), size=count, dtype=int64), (label,))

    def number(self, value: bool | int | float) -> Laid:
        return Laid(Literal(value), ())


__all__ = ["EARLIER", "ROW", "Algebra", "Laid", "order"]
