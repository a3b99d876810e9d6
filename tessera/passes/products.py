"""The products of a derivative, in the form in which they fuse best.

Deriving a product gives products of transposed operands. Here they read the operands as they lie: a permutation of axes
is another order of letters. Of batches of products, the larger operand comes first: there kernels look for what they
sweep, such as scores; what is multiplied with one matrix stays in front of that. And a sum
over a product with a contraction is taken over the shorter axis where the other contraction is there already:
``sum_k p[i, k] * (sum_d g[i, d] v[k, d])`` is ``sum_d g[i, d] * o[i, d]`` with ``o = p @ v`` (Dao et al. 2022, section
3.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from tessera.ir.build import numbered
from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import letters
from tessera.ir.dim import Dim, product
from tessera.ir.graph import Attr, Function, Literal, Note, Operand, Operation, Value, users
from tessera.ir.origin import GRAD
from tessera.ir.record import Kind, Law
from tessera.ir.types import TensorType

#: Factors of a product that are looked at.
MOST = 16
#: A size that is not known.
USUAL = 256


@dataclass(frozen=True, slots=True)
class Products:
    """Rewrite the contractions of a derivative; those of the function itself stay as they were written. ``sizes`` says
    which operands are large; a name that it lacks counts as 256.
    """

    sizes: tuple[tuple[str, int], ...] = ()
    name: str = "products"

    def run(self, f: Function) -> Function:
        names = {n for v in f.params for d in v.type.dims for n in d.names()}
        work = _Products(f, dict.fromkeys(names, USUAL) | dict(self.sizes))
        ops = tuple(new for op in f.ops for new in work.visit(op))
        if not work.changed:
            return f
        outputs = tuple(work.now(x) for x in f.outputs)
        return f.with_ops(ops, outputs).with_note(Note(self.name, 0.0, f"rewrote {work.changed}"))


@dataclass(frozen=True, slots=True)
class Zeroed:
    """The factor of what is 0 where a condition holds, or where it does not: once is as good as many times."""

    condition: Operand
    where: bool


def _zeroed(op: Operation) -> Zeroed | None:
    """The factor by which an operation multiplies one of its operands, if it puts zeros in it."""
    if op.record is not OPS["where"]:
        return None
    condition, yes, no = op.operands
    for other, x, where in ((yes, no, True), (no, yes, False)):
        if isinstance(other, Literal) and other.value == 0 and x.type == op.result.type:
            return Zeroed(condition, where)
    return None


@dataclass
class _Products:
    f: Function
    sizes: Mapping[str, int]
    maker: dict[Value, Operation] = field(default_factory=dict)
    replaced: dict[Value, Operand] = field(default_factory=dict)
    changed: int = 0

    def __post_init__(self) -> None:
        self.readers = users(self.f.body)
        self.names = {r.name for op in self.f.ops for r in op.results} | {p.name for p in self.f.params}

    def now(self, x: Operand) -> Operand:
        return self.replaced.get(x, x) if isinstance(x, Value) else x

    def visit(self, op: Operation) -> Iterator[Operation]:
        new = op.with_operands(tuple(self.now(x) for x in op.operands))
        made = [new]
        if new.origin.endswith(GRAD):
            if new.record.kind is Kind.CONTRACT:
                made = [self.straight(new)]
            elif new.record is OPS["permute"]:
                made = self.turned(new)
            elif new.record is OPS["sum"]:
                made = self.shorter(new)
        for one in made:
            self.maker.update(dict.fromkeys(one.results, one))
        self.changed += made != [new]
        yield from made

    # -- permutations ----------------------------------------------------------------------------------------------

    def permuted(self, x: Operand) -> Operation | None:
        """The permutation that gives a value, if one does."""
        op = self.maker.get(x) if isinstance(x, Value) else None
        return op if op is not None and op.record is OPS["permute"] else None

    def straight(self, op: Operation) -> Operation:
        """A contraction of what its permuted operands are made of, the larger one first if it is many small ones."""
        *given, result = letters(op)
        if any(d != e for d, e in self.paired(op)):
            return op  # an axis of size 1 that is broadcast has no letter of its own
        operands = list(op.operands)
        for n, x in enumerate(op.operands):
            while (turn := self.permuted(operands[n])) is not None:
                order = turn.axes("dims")
                given[n] = "".join(given[n][order.index(a)] for a in range(len(order)))
                operands[n] = turn.operands[0]
            del x
        first, second = (product(x.type.dims).evaluate(self.sizes) for x in operands)
        if second > first and any(c in given[0] and c in given[1] for c in result):
            operands.reverse()
            given.reverse()
        if tuple(operands) == op.operands:
            return op
        return self.contract(op, operands, f"{given[0]},{given[1]}->{result}")

    def paired(self, op: Operation) -> Iterator[tuple[object, object]]:
        sizes: dict[str, object] = {}
        for subscripts, x in zip(letters(op), (*op.operands, op.result), strict=True):
            for c, d in zip(subscripts, x.type.dims, strict=True):
                yield sizes.setdefault(c, d), d

    def contract(self, op: Operation, operands: list[Operand], equation: str) -> Operation:
        attrs = {"equation": equation, "accumulate_dtype": op.attrs.get("accumulate_dtype")}
        return replace(op, record=OPS["contract"], operands=tuple(operands), attrs=attrs)

    def turned(self, op: Operation) -> list[Operation]:
        """A permutation of a permutation, or of a contraction that nothing else reads, is one of those."""
        x, order = op.operands[0], op.axes("dims")
        inner = self.permuted(x)
        if inner is not None:
            whole = tuple(inner.axes("dims")[a] for a in order)
            if whole == tuple(range(len(whole))):
                self.replaced[op.result] = inner.operands[0]
                return []
            return [replace(op, operands=inner.operands, attrs={"dims": whole})]
        made = self.maker.get(x) if isinstance(x, Value) else None
        if made is None or made.record.kind is not Kind.CONTRACT or not made.origin.endswith(GRAD):
            return [op]
        if len(self.readers.get(made.result, ())) > 1 or made.result in self.f.outputs:
            return [op]
        if any(d != e for d, e in self.paired(made)):
            return [op]
        left, right, result = letters(made)
        straight = self.contract(made, list(made.operands), f"{left},{right}->{''.join(result[a] for a in order)}")
        return [replace(straight, results=op.results)]  # the one before is dead

    # -- sums ------------------------------------------------------------------------------------------------------

    def shorter(self, op: Operation) -> list[Operation]:
        """A sum over a product with a contraction, over the axis that this is over."""
        axes = op.axes()
        if len(axes) != 1:
            return [op]
        factors = self.factors(op.operands[0])
        for n, x in enumerate(factors):
            inner = self.maker.get(x) if isinstance(x, Value) else None
            if inner is None or inner.record.kind is not Kind.CONTRACT:
                continue
            rest = Counter(map(_key, (*factors[:n], *factors[n + 1 :])))
            found = self.other_way(op, inner, axes[0], rest)
            if found is not None:
                return found
        return [op]

    def factors(self, x: Operand) -> list[Operand | Zeroed]:
        """What a value is a product of, as far as that has its shape."""
        found: list[Operand | Zeroed] = []
        pending = [x]
        while pending and len(found) < MOST:
            y = pending.pop()
            op = self.maker.get(y) if isinstance(y, Value) else None
            zeroed = None if op is None or y.type != x.type else _zeroed(op)
            if op is not None and op.record.law is Law.PRODUCT and op.result.type == x.type:
                pending.extend(op.operands)
            elif op is not None and zeroed is not None:
                found += [zeroed] if zeroed not in found else []
                pending.append(op.operands[2 if zeroed.where else 1])
            else:
                found.append(y)
        return [*found, *pending]

    def other_way(
        self, op: Operation, inner: Operation, axis: int, rest: Counter[object]
    ) -> list[Operation] | None:
        """With ``inner`` = sum_d g[i, d] v[k, d] and a contraction o = rest @ v over k: the sum of g * o over d."""
        left, right, result = letters(inner)
        swept = result[axis]
        for mine, its, g, v in (
            (left, right, inner.operands[0], inner.operands[1]), (right, left, inner.operands[1], inner.operands[0]),
        ):  # fmt: skip
            summed = [c for c in mine if c not in result]
            if swept in mine or swept not in its or len(summed) != 1:
                continue
            for o in self.contractions(v, its, swept):
                a, _, out = letters(o)
                names = dict(zip(a, result, strict=False))
                if len(a) != len(result) or Counter(map(_key, self.factors(o.operands[0]))) != rest:
                    continue
                there = "".join(names.get(c, summed[0]) for c in out)
                if sorted(there) == sorted(mine) and o.result.type.dtype is op.result.type.dtype:
                    return self.products(op, g, mine, o.result, there, summed[0], result, axis)
        return None

    def contractions(self, v: Operand, subscripts: str, swept: str) -> Iterator[Operation]:
        """Contractions, made before, of something with what ``v`` lies in, over the axis that is swept."""
        base, order = self.base(v)
        for op in self.maker.values():
            if op.record.kind is not Kind.CONTRACT or op.operands[1].type.rank != len(subscripts):
                continue
            other, turn = self.base(op.operands[1])
            if other is not base:
                continue
            _, right, out = letters(op)
            mine = {order[n]: c for n, c in enumerate(subscripts)}
            theirs = {turn[n]: c for n, c in enumerate(right)}
            gone = [axis for axis, c in theirs.items() if c not in out]
            if len(gone) == 1 and mine[gone[0]] == swept:
                yield op

    def base(self, x: Operand) -> tuple[Operand, tuple[int, ...]]:
        """What a value is a permutation of, and for each of its axes the axis of that."""
        order = tuple(range(x.type.rank))
        while (turn := self.permuted(x)) is not None:
            dims = turn.axes("dims")
            order = tuple(dims[a] for a in order)
            x = turn.operands[0]
        return x, order

    def products(
        self, op: Operation, g: Operand, mine: str, o: Value, there: str, summed: str, result: str, axis: int
    ) -> list[Operation]:
        """The sum of ``g`` times ``o``, which has the letters of ``g`` in another order, with the axes of ``op``."""
        made: list[Operation] = []

        def step(name: str, operands: tuple[Operand, ...], space: Iterable[Dim], **attrs: Attr) -> Value:
            kind = op.result.type
            assert isinstance(kind, TensorType)
            value = Value(numbered("shorter_", self.names), kind.with_dims(space))
            made.append(replace(op, record=OPS[name], operands=operands, results=(value,), attrs=attrs))
            return value

        if there != mine:
            order = tuple(there.index(c) for c in mine)
            o = step("permute", (o,), (o.type.dims[a] for a in order), dims=order)
        x = step("mul", (g, o), g.type.dims)
        at, left = mine.index(summed), mine.replace(summed, "")
        x = step("sum", (x,), (d for n, d in enumerate(g.type.dims) if n != at), dim=(at,), keepdim=False)
        wanted = result.replace(result[axis], "")
        if left != wanted:
            order = tuple(left.index(c) for c in wanted)
            x = step("permute", (x,), (x.type.dims[a] for a in order), dims=order)
        if op.attrs["keepdim"]:
            x = step("unsqueeze", (x,), op.result.type.dims, dim=axis)
        made[-1] = replace(made[-1], results=op.results)
        return made


def _key(x: Operand | Zeroed) -> object:
    return id(x) if isinstance(x, Value) else x
