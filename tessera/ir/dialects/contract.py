"""Sums of products: batched matrix products, and the general contraction of two tensors behind ``einsum``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tessera.ir.derive import Point
from tessera.ir.dialects.rules import arithmetic, torch_names
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dialects.shape import Attrs, Types
from tessera.ir.dialects.takes import need_same
from tessera.ir.dim import Dim
from tessera.ir.infer import ONE, Blame, InferContext
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType, Type

_RULE = arithmetic("float int")


def _name(rank: int, axis: int) -> str:
    """Where an axis stands, in words."""
    return "last dim" if axis == rank - 1 else "first dim" if axis == 0 else f"dim {axis}"


def meet(a: Dim, b: Dim) -> str:
    """The message about two sizes that are contracted and differ."""
    return f"dimension `{a}` meets `{b}` in a contraction"


def _matmul_helps(a: Type, b: Type) -> list[str]:
    """What would make the sizes fit: a transposed operand, or the operands swapped."""
    inner, outer = a.dims[-1], b.dims[-1]
    shown = TensorType(b.dtype, (*b.dims[:-2], outer, b.dims[-2]))
    if inner is outer:
        return [f"the second operand transposed, `.mT`, has type {shown}"]
    if a.dims[-2] is b.dims[-2]:
        return [
            f"the first operand transposed, `.mT`, has type {TensorType(a.dtype, (*a.dims[:-2], inner, a.dims[-2]))}"
        ]
    if outer is a.dims[-2]:
        return ["the operands swapped fit: `b @ a`"]
    return []


def _matmul_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    a, b = types
    dtype = _RULE.result(ctx, types, attrs)
    for number, t in enumerate(types):
        if t.rank < 2:
            ctx.fail("TSR0204", f"matmul with a rank-{t.rank} operand", Blame(number, None, f"has rank {t.rank}"))
    k, j = a.dims[-1], b.dims[-2]
    ctx.equal(k, j, "TSR0201", meet(k, j), Blame(0, a.rank - 1, f"`{k}`, {_name(a.rank, a.rank - 1)}"),
              Blame(1, b.rank - 2, f"`{j}`, {_name(b.rank, b.rank - 2)}"), helps=_matmul_helps(a, b))  # fmt: skip
    batch = ctx.broadcast([TensorType(dtype, a.dims[:-2]), TensorType(dtype, b.dims[:-2])])
    return (TensorType(dtype, (*batch, a.dims[-2], b.dims[-1])),)


def _matmul(t: Any, x: Any, other: Any, *, accumulate_dtype: Any = None) -> Any:
    """Vectors become matrices with an axis of size 1, which is dropped again."""
    left, right = t.type_of(x).rank, t.type_of(other).rank
    for number, rank in enumerate((left, right)):
        if rank == 0:
            t.fail("TSR0204", "matmul with a rank-0 operand", Blame(number, None, "has rank 0"), helps=["use `*`"])
    if right == 1 or left == 1:
        k, j = t.dims(x)[-1], t.dims(other)[0 if right == 1 else -2]
        t.context.equal(k, j, "TSR0201", meet(k, j), Blame(0, left - 1, f"`{k}`, {_name(left, left - 1)}"),
                        Blame(1, max(right - 2, 0), f"`{j}`, {_name(right, max(right - 2, 0))}"))  # fmt: skip
    a = t.unsqueeze(x, 0) if left == 1 else x
    b = t.unsqueeze(other, 1) if right == 1 else other
    y = t.emit("matmul", (a, b), accumulate_dtype=accumulate_dtype)
    drop = ([-1] if right == 1 else []) + ([-2] if left == 1 else [])
    return t.squeeze(y, tuple(drop)) if drop else y


def _accumulated(torch: Any, function: Any, operands: Sequence[Any], accumulate: Any) -> Any:
    """A product in the wider of its own dtype and ``accumulate``, rounded back."""
    if accumulate is None or not operands[0].is_floating_point():
        return function(*operands)
    return function(*(x.to(accumulate) for x in operands)).to(operands[0].dtype)


def _matmul_eager(torch: Any, x: Any, other: Any, *, accumulate_dtype: Any = None) -> Any:
    if x.ndim == 2 and other.ndim == 2 and x.shape[0] == 1 and other.shape[1] == 1:
        # One row times one column: a library's dot product is more accurate than its matrix product.
        return _accumulated(torch, torch.dot, (x[0], other[:, 0]), accumulate_dtype).reshape(1, 1)
    return _accumulated(torch, torch.matmul, (x, other), accumulate_dtype)


def _matmul_reference(x: Any, other: Any, **attrs: Any) -> Any:
    return x @ other


# --- derivative -------------------------------------------------------------------------------------------------------


def _contraction(p: Point) -> tuple[Any, ...]:
    """The cotangent contracted with the other operand."""
    (a, b), (left, right, result) = p.inputs, letters(p.op)
    return (
        _product_like(p, p.g, result, b, right, 0, left) if p.needs[0] else None,
        _product_like(p, a, left, p.g, result, 1, right) if p.needs[1] else None,
    )


def _product_like(p: Point, a: Any, la: str, b: Any, lb: str, operand: int, wanted: str) -> Any:
    """Two tensors contracted to the letters of an operand. An axis of size 1 that was broadcast has no letter, and a
    letter that only the operand has is one along which it was summed alone.
    """
    t = p.t
    dims = dict(zip(letters(p.op)[2], t.dims(p.outputs[0]), strict=True))
    own = p.inputs[operand]
    a, la = _without_ones(t, a, la, dims)
    b, lb = _without_ones(t, b, lb, dims)
    shape = t.dims(own)
    there = [c for c in wanted if c in la or c in lb]
    kept = "".join(c for c in there if not (shape[wanted.index(c)] is ONE and dims.get(c, ONE) is not ONE))
    a, la, b, lb = _merged(t, a, la, b, lb, kept)
    g = t.einsum(f"{la},{lb}->{kept}", a, b)
    for n, c in enumerate(wanted):
        if c not in kept:
            g = t.unsqueeze(g, n)
    return g if t.dims(g) == shape else t.expand(g, *shape)


def _without_ones(t: Any, x: Any, subscripts: str, dims: Any) -> tuple[Any, str]:
    gone = tuple(n for n, c in enumerate(subscripts) if t.dims(x)[n] is ONE and dims.get(c, ONE) is not ONE)
    if not gone:
        return x, subscripts
    return t.emit("squeeze", (x,), dim=gone), "".join(c for n, c in enumerate(subscripts) if n not in gone)


def _merged(t: Any, a: Any, la: str, b: Any, lb: str, kept: str) -> tuple[Any, str, Any, str]:
    """Summed axes that lie side by side in both become one, so that a plain product is left."""
    summed = [c for c in la if c in lb and c not in kept]
    run = "".join(summed)
    if len(run) < 2 or run not in la or run not in lb:
        return a, la, b, lb
    return _folded(t, a, la, run), la.replace(run, run[0]), _folded(t, b, lb, run), lb.replace(run, run[0])


def _folded(t: Any, x: Any, subscripts: str, run: str) -> Any:
    at, dims = subscripts.index(run), t.dims(x)
    size = ONE
    for d in dims[at : at + len(run)]:
        size = size * d
    return t.reshape(x, *dims[:at], size, *dims[at + len(run) :])


MATMUL = OpRecord(
    "matmul", Kind.CONTRACT, "x: tensor, other: tensor, *, accumulate_dtype: dtype = None",
    "Matrix product over the last two axes, the leading ones broadcast; `accumulate_dtype` widens the sum, not the "
    "result.",
    _matmul_infer, _RULE.operands_as, reference=_matmul_reference, call=_matmul, eager=_matmul_eager,
    torch=(*torch_names("matmul", "t", "m"), "torch.Tensor.__matmul__", "torch.linalg.matmul"), methods=("matmul",),
    flops=2,
    samples=samples(call(T(("B", "S", "D")), T(("D", "K"))),
                    call(T(("B", "S", "D"), "bf16"), T(("B", "D", "K"), "bf16")),
                    call(T(("D",)), T(("D",))), call(T(("B", "S", "D")), T(("D",))),
                    call(T(("D",)), T(("B", "D", "K"))),
                    call(T(("S", "D"), "int32", 5), T(("D", 3), "int32", 5)),
                    call(T((1, "S", "D")), T(("B", "D", "K")))),
    derivative=_contraction,
)  # fmt: skip


# --- contract ---------------------------------------------------------------------------------------------------------


def equation_parts(equation: str) -> tuple[list[str], str]:
    """Operand subscripts and result subscripts of a canonical equation: letters, commas and one arrow."""
    left, _, right = equation.partition("->")
    return left.split(","), right


def letters(op: Any) -> tuple[str, str, str]:
    """The subscripts of a contraction's operands and result: the equation, or that of a matrix product.

    A leading dim of size 1 that is broadcast has the letter of the dim that it stands for.
    """
    equation = op.attrs.get("equation")
    if equation is not None:
        (left, right), result = equation_parts(str(equation))
        return left, right, result
    a, b = (x.type.rank for x in op.operands)
    batch = "".join(chr(ord("A") + n) for n in range(max(a, b) - 2))
    tail = len(batch)
    return f"{batch[tail - a + 2 :]}ik", f"{batch[tail - b + 2 :]}kj", f"{batch}ij"


def extents(op: Any) -> dict[str, Dim]:
    """The size of each letter of a contraction's operands; of one that is broadcast, that of the other operand."""
    found: dict[str, Dim] = {}
    for part, x in zip(letters(op), op.operands, strict=False):
        found.update((c, d) for c, d in zip(part, x.type.dims, strict=True) if found.get(c, ONE) is ONE)
    return found


def contracted_dtype(op: Any) -> Any:
    """The dtype in which a contraction is summed."""
    return op.attrs.get("accumulate_dtype") or op.results[0].type.dtype


def _contract_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    operands, result = equation_parts(str(attrs["equation"]))
    dtype = _RULE.result(ctx, types, attrs)
    sizes: dict[str, tuple[Dim, int, int]] = {}
    for number, (subscripts, t) in enumerate(zip(operands, types, strict=True)):
        if len(subscripts) != t.rank:
            ctx.fail(
                "TSR0209", f"`{subscripts}` for a rank-{t.rank} operand", Blame(number, None, f"has rank {t.rank}")
            )
        for axis, (letter, d) in enumerate(zip(subscripts, t.dims, strict=True)):
            known = sizes.get(letter)
            if known is not None:
                d = ctx.equal(known[0], d, "TSR0209", f"`{letter}` is `{known[0]}` and `{d}` in `{attrs['equation']}`",
                              Blame(known[1], known[2], f"`{known[0]}`"), Blame(number, axis, f"`{d}`"))  # fmt: skip
            sizes[letter] = (d, number, axis)
    return (TensorType(dtype, tuple(sizes[letter][0] for letter in result)),)


def _contract_eager(torch: Any, x: Any, other: Any, *, equation: str, accumulate_dtype: Any = None) -> Any:
    whole = x.ndim == other.ndim == 1 and equation.endswith("->") and x.shape == other.shape
    product = torch.dot if whole and equation[0] == equation[2] else lambda a, b: _as_matrices(torch, equation, a, b)
    return _accumulated(torch, product, (x, other), accumulate_dtype)


def _as_matrices(torch: Any, equation: str, a: Any, b: Any) -> Any:
    """A contraction as a batch of matrix products: unlike ``torch.einsum``, which takes a list, it goes through every
    way of torch to run a function on many tensors at once. The operand whose axes come first is the first one, so that
    the product lies in memory as the result does.
    """
    (left, right), result = equation_parts(equation)
    if result and result[-1] in left and result[-1] not in right:
        (a, left), (b, right) = (b, right), (a, left)
    a, left = _kept(a, left, right + result)
    b, right = _kept(b, right, left + result)
    sizes = {**dict(zip(left, a.shape, strict=True)), **dict(zip(right, b.shape, strict=True))}
    both = [c for c in result if c in left and c in right]
    rows, columns = ([c for c in result if c in part and c not in both] for part in (left, right))
    summed = [c for c in left if c not in result]

    def matrices(x: Any, subscripts: str, *groups: list[str]) -> Any:
        moved = x.permute([subscripts.index(c) for group in groups for c in group])
        shape = [math.prod(sizes[c] for c in group) for group in groups]
        return moved if list(moved.shape) == shape else moved.reshape(shape)

    if both:
        product = torch.bmm(matrices(a, left, both, rows, summed), matrices(b, right, both, summed, columns))
    else:
        product = torch.mm(matrices(a, left, rows, summed), matrices(b, right, summed, columns))
    order = [*both, *rows, *columns]
    return product.reshape([sizes[c] for c in order]).permute([order.index(c) for c in result])


def _kept(x: Any, subscripts: str, letters: str) -> tuple[Any, str]:
    """An operand without the axes that stand in it alone, summed."""
    alone = [n for n, c in enumerate(subscripts) if c not in letters]
    return (x.sum(alone) if alone else x), "".join(c for c in subscripts if c in letters)


def _contract_reference(x: Any, other: Any, *, equation: str, **_: Any) -> Any:
    """Products over the union of the letters, summed over those that the result lacks."""
    (left, right), result = equation_parts(equation)
    letters = list(dict.fromkeys(result + left + right))
    summed = tuple(range(len(result), len(letters)))
    return (_aligned(x, left, letters) * _aligned(other, right, letters)).sum(axis=summed)


def _aligned(x: Any, subscripts: str, letters: Sequence[str]) -> Any:
    present = [c for c in letters if c in subscripts]
    moved = x.transpose([subscripts.index(c) for c in present])
    return moved[tuple(slice(None) if c in subscripts else None for c in letters)]


CONTRACT = OpRecord(
    "contract", Kind.CONTRACT, "x: tensor, other: tensor, *, equation: str, accumulate_dtype: dtype = None",
    "The sum of products of two tensors over the letters that the result lacks; no letter is repeated in an operand.",
    _contract_infer, _RULE.operands_as, reference=_contract_reference, eager=_contract_eager, flops=2,
    samples=samples(call(T(("B", "S", "D")), T(("D", "B", "K")), equation="bsd,dbk->kbs"),
                    call(T(("S", "D"), "bf16"), T(("T", "D"), "bf16"), equation="sd,td->st")),
    derivative=_contraction,
)  # fmt: skip


# --- einsum -----------------------------------------------------------------------------------------------------------


def _letters(t: Any, equation: Any) -> str:
    if not isinstance(equation, str):
        t.fail(
            "TSR0209",
            "einsum without an equation",
            Blame(None),
            helps=['write the equation first: `einsum("ij,jk->ik", a, b)`'],
        )
    clean = equation.replace(" ", "")
    if clean.count("->") > 1 or not all(c.isascii() and (c.isalpha() or c in ",.->") for c in clean):
        t.fail("TSR0209", f"einsum equation `{equation}` cannot be read", Blame(None),
               helps=["an equation is letters, commas, `...` and at most one `->`"])  # fmt: skip
    return clean


def _expand_ellipsis(t: Any, equation: str, tensors: Sequence[Any]) -> tuple[list[str], str]:
    """Subscripts with ``...`` replaced by letters, and the result's subscripts, written out when they were implied."""
    left, arrow, right = equation.partition("->")
    parts = left.split(",")
    if len(parts) != len(tensors):
        t.fail("TSR0209", f"einsum equation for {len(parts)} operands, called with {len(tensors)}", Blame(None))
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    widest = max((t.type_of(x).rank - len(p.replace("...", "")) for p,
                  x in zip(parts, tensors, strict=True) if "..." in p),
                 default=0)  # fmt: skip
    dots = "".join(free[: max(widest, 0)])
    spelled = []
    for number, (p, x) in enumerate(zip(parts, tensors, strict=True)):
        rank = t.type_of(x).rank
        wide = rank - len(p.replace("...", ""))
        if wide < 0 or (wide and "..." not in p) or "." in p.replace("...", "", 1):
            t.fail("TSR0209", f"`{p}` for a rank-{rank} operand", Blame(number, None, f"has rank {rank}"),
                   helps=[f"operand {number + 1} needs {rank} letters"])  # fmt: skip
        spelled.append(p.replace("...", dots[len(dots) - wide :] if wide else ""))
    if arrow:
        result = right.replace("...", dots)
    else:
        once = [c for c in sorted(set("".join(spelled)) - set(dots)) if "".join(spelled).count(c) == 1]
        result = dots + "".join(once)
    _check_result(t, equation, spelled, result)
    return spelled, result


def _check_result(t: Any, equation: str, parts: Sequence[str], result: str) -> None:
    for n, c in enumerate(result):
        if c in result[:n]:
            t.fail("TSR0209", f"`{c}` stands twice in the result of `{equation}`", Blame(None))
        if not any(c in p for p in parts):
            t.fail("TSR0209", f"`{c}` in the result of `{equation}` comes from no operand", Blame(None))


def _check_sizes(t: Any, equation: str, parts: Sequence[str], tensors: Sequence[Any]) -> None:
    """Every letter has one size. A broadcast 1 under ``...`` is expanded later."""
    sizes: dict[str, tuple[Dim, int, int]] = {}
    one = Dim.const(1)
    for number, (p, x) in enumerate(zip(parts, tensors, strict=True)):
        for axis, (c, d) in enumerate(zip(p, t.dims(x), strict=True)):
            known = sizes.get(c)
            if known is not None and (known[1] == number or (known[0] is not one and d is not one)):
                t.context.equal(known[0], d, "TSR0209", f"`{c}` is `{known[0]}` and `{d}` in `{equation}`",
                                Blame(known[1], known[2], f"`{known[0]}`"), Blame(number, axis, f"`{d}`"))  # fmt: skip
            if known is None or known[0] is one:
                sizes[c] = (d, number, axis)


def _diagonals(t: Any, x: Any, subscripts: str) -> tuple[Any, str]:
    """A letter that an operand repeats is read along its diagonal."""
    while len(set(subscripts)) < len(subscripts):
        c = next(c for c in subscripts if subscripts.count(c) > 1)
        one = subscripts.index(c)
        two = subscripts.index(c, one + 1)
        x = t.diagonal(x, 0, one, two)
        subscripts = "".join(s for n, s in enumerate(subscripts) if n not in (one, two)) + c
    return x, subscripts


def _sum_out(t: Any, x: Any, subscripts: str, needed: set[str]) -> tuple[Any, str]:
    gone = tuple(n for n, c in enumerate(subscripts) if c not in needed)
    if not gone:
        return x, subscripts
    return t.sum(x, gone), "".join(c for c in subscripts if c in needed)


def _arrange(t: Any, x: Any, subscripts: str, wanted: str) -> Any:
    """x with its axes in the order of ``wanted``, which may lack none of them; missing ones get size 1."""
    order = [subscripts.index(c) for c in wanted if c in subscripts]
    if order != list(range(len(order))):
        x = t.permute(x, order)
    for n, c in enumerate(wanted):
        if c not in subscripts:
            x = t.unsqueeze(x, n)
    return x


def _pair(t: Any, a: Any, sa: str, b: Any, sb: str, needed: set[str]) -> tuple[Any, str]:
    """Two operands become one over the letters that are still needed."""
    (a, sa), (b, sb) = _sum_out(t, a, sa, needed | set(sb)), _sum_out(t, b, sb, needed | set(sa))
    letters = list(dict.fromkeys(sa + sb))
    kept = "".join(c for c in letters if c in needed)
    if kept != "".join(letters):
        need_same("einsum", t.operand(a), t.operand(b))
    one = Dim.const(1)
    stretched = [c for c in sa if c in sb and t.dims(a)[sa.index(c)] is not t.dims(b)[sb.index(c)]
                 and one in (t.dims(a)[sa.index(c)], t.dims(b)[sb.index(c)])]  # fmt: skip
    if stretched or all(c in needed for c in letters):
        joined = "".join(letters)
        product = t.mul(_arrange(t, a, sa, joined), _arrange(t, b, sb, joined))
        return _sum_out(t, product, joined, needed)
    shared = [c for c in sa if c in sb and c not in needed]
    batch = "".join(c for c in sa if c in sb and c in needed)
    rows, columns = "".join(c for c in sa if c not in sb), "".join(c for c in sb if c not in sa)
    if len(shared) == 1 and len(rows) == 1 and len(columns) == 1:
        k = shared[0]
        y = t.matmul(_arrange(t, a, sa, batch + rows + k), _arrange(t, b, sb, batch + k + columns))
        return y, batch + rows + columns
    return t.emit("contract", (a, b), equation=f"{sa},{sb}->{kept}", accumulate_dtype=None), kept


def _einsum(t: Any, equation: str, *operands: Any) -> Any:
    tensors = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], tuple | list) else list(operands)
    clean = _letters(t, equation)
    parts, result = _expand_ellipsis(t, clean, tensors)
    _check_sizes(t, clean, parts, tensors)
    work = [_diagonals(t, x, p) for x, p in zip(tensors, parts, strict=True)]
    x, subscripts = work[0]
    for n, (y, other) in enumerate(work[1:], 1):
        needed = set(result).union(*(p for _, p in work[n + 1 :]))
        x, subscripts = _pair(t, x, subscripts, y, other, needed)
    x, subscripts = _sum_out(t, x, subscripts, set(result))
    return _arrange(t, x, subscripts, result)


EINSUM = OpRecord(
    "einsum", Kind.COMPOSITE, "equation: str, *operands: tensors",
    "A sum of products written with one letter per axis: `einsum(\"bij,bjk->bik\", a, b)`.", define=_einsum,
    torch=("torch.einsum",),
    samples=samples(call("bij,bjk->bik", T(("B", "S", "D")), T(("B", "D", "K"))), call("ij->ji", T(("S", "D"))),
                    call("ii->", T(("S", "S"))), call("...d,kd->...k", T(("B", "S", "D")), T(("K", "D"))),
                    call("i,j", T(("S",)), T(("D",))), call("bhqd,bhkd->bhqk", T((2, "H", "S", "D")),
                                                            T((2, "H", "T", "D"))),
                    call("ij,jk,kl->il", T(("S", "D")), T(("D", "K")), T(("K", 2))),
                    call("bsd,bse->de", T(("B", "S", "D"), "bf16"), T(("B", "S", "K"), "bf16"))),
)  # fmt: skip

OPS: tuple[OpRecord, ...] = (MATMUL, CONTRACT, EINSUM)
