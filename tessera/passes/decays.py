"""What a carry is multiplied by between two rows of a chunk, made by products alone: a factor may be 0, so nothing is
divided by it.

Blocks of 1, 2, 4, … rows: the factors of two rows meet in the smallest block that has both, in its halves. They are the
product of those from the earlier row to the end of its half, and from the start of the other half to the later row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tessera.ir.dim import Dim
from tessera.ir.graph import Value
from tessera.passes.labelled import EARLIER, ROW, Algebra, Laid, order


@dataclass
class Decays:
    """The factor of each row of one carry, and products of them; ``factor`` is None where a carry keeps all it has.

    ``until[n]``: at each row the product of the factors before it in its block of 2ⁿ rows. ``after[n]``: of those after
    it. None stands for 1.
    """

    algebra: Algebra
    factor: Laid | None
    until: list[Laid | None] = field(default_factory=lambda: [None])
    after: list[Laid | None] = field(default_factory=lambda: [None])

    def __post_init__(self) -> None:
        a, size = self.algebra, 1
        while self.factor is not None and size < a.count:
            whole = a.times([self.until[-1], self.factor])
            assert whole is not None
            right = self.bit(size, ROW)
            before, beyond = self.pick(whole, size, size - 1), self.pick(whole, size, 2 * size - 1)
            more, less = a.times([self.until[-1], before]), a.times([self.after[-1], beyond])
            assert more is not None and less is not None
            self.until.append(a.choose(right, more, self.until[-1] or a.number(1.0)))
            self.after.append(a.choose(right, self.after[-1] or a.number(1.0), less))
            size *= 2

    def bit(self, size: int, label: str) -> Laid:
        """Is a row in the second half of its block of twice the size?"""
        a = self.algebra
        masked = a.join("bitwise_and", a.rows(label), a.number(size))
        return a.join("ne", masked, a.number(0))

    def pick(self, x: Laid, size: int, at: int) -> Laid:
        """At each row the value at one row of its block of twice the size."""
        a = self.algebra
        to = order(x.labels)
        assert to[0] == ROW
        v = a.arrange(x, to)
        assert isinstance(v, Value)
        rest, count, blocks = v.type.dims[1:], Dim.const(a.count), Dim.const(a.count // (2 * size))
        v = a.emit("reshape", v, shape=(blocks, Dim.const(2 * size), *rest))
        v = a.emit("slice", v, dim=1, start=Dim.const(at), stop=Dim.const(at + 1), step=Dim.const(1))
        v = a.emit("expand", v, shape=(blocks, Dim.const(2 * size), *rest))
        return Laid(a.emit("reshape", v, shape=(count, *rest)), to)

    @property
    def whole(self) -> Laid | None:
        """The product of all rows."""
        a = self.algebra
        if self.factor is None:
            return None
        product = a.times([self.until[-1], self.factor])
        assert product is not None
        to = order(product.labels)
        v = a.arrange(product, to)
        assert isinstance(v, Value)
        last = Dim.const(a.count - 1)
        v = a.emit("slice", v, dim=0, start=last, stop=last + 1, step=Dim.const(1))
        return a.bare(Laid(v, (None, *to[1:])))

    def meet(self, size: int) -> Laid:
        """Do two rows meet in the halves of one block of twice the size, the earlier one in the first?"""
        a = self.algebra
        apart = a.join("bitwise_xor", a.rows(), a.rows(EARLIER))
        near = a.join("lt", apart, a.number(2 * size))
        crossing = a.join("ge", apart, a.number(size))
        later = a.join("gt", a.rows(), a.rows(EARLIER))
        return a.join("logical_and", a.join("logical_and", near, crossing), later)

    def between(self, pair: Callable[[Laid | None, Laid | None], Laid | None]) -> Laid:
        """Something of each two rows, the later one first; 0 where the other is not earlier. ``pair`` makes it of the
        factors up to the later and after the earlier one.
        """
        a = self.algebra
        if self.factor is None:
            found = pair(None, None) or a.number(1.0)
            return a.choose(a.join("gt", a.rows(), a.rows(EARLIER)), found, a.number(0.0))
        total, size = a.number(0.0), 1
        for until, after in zip(self.until[:-1], self.after[:-1], strict=True):
            found = pair(until, None if after is None else after.as_earlier()) or a.number(1.0)
            total = a.choose(self.meet(size), found, total)
            size *= 2
        return total

    def is_deep(self, depth: int) -> bool:
        """Does the factor differ along the depth?"""
        return self.factor is not None and depth in self.factor.labels


__all__ = ["Decays"]
