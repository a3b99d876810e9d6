"""Joining tensors and cutting them into parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tessera.ir.dialects.calls import flat
from tessera.ir.dialects.composite_shape import axis_of, rank_of, real_axis
from tessera.ir.dialects.rules import composite, function_and_method
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dialects.shape import ZERO
from tessera.ir.dim import Dim, build_atom
from tessera.ir.infer import ONE, Blame
from tessera.ir.record import OpRecord


def _stack(t: Any, tensors: Sequence[Any], dim: int = 0) -> Any:
    if not tensors:
        t.fail("TSR0206", "stack of no tensors", Blame(None))
    first = t.dims(tensors[0])
    for number, x in enumerate(tensors[1:], 1):
        have = t.dims(x)
        if len(have) != len(first):
            t.fail(
                "TSR0206",
                f"stack of rank {len(first)} with rank {len(have)}",
                Blame(number, None, f"has rank {len(have)}"),
            )
    at = axis_of(t, tensors[0], dim, 1)
    return t.cat([t.unsqueeze(x, at) for x in tensors], at)


def _at_least(t: Any, x: Any, rank: int, front: int) -> Any:
    """Axes of size 1 added until the rank is reached, ``front`` of them before the others."""
    dims = t.dims(x)
    missing = rank - len(dims)
    if missing <= 0:
        return x
    before = min(front, missing) if len(dims) else missing
    return t.reshape(x, *([1] * before), *dims, *([1] * (missing - before)))


def _atleast(rank: int) -> Any:
    def define(t: Any, *tensors: Any) -> Any:
        given = flat(tensors)
        made = tuple(_at_least(t, x, rank, 0 if rank_of(t, x) == 2 else 1) for x in given)
        return made[0] if len(tensors) == 1 and t.is_tensor(tensors[0]) else made

    return define


def _hstack(t: Any, tensors: Sequence[Any]) -> Any:
    if not tensors:
        t.fail("TSR0206", "hstack of no tensors", Blame(None))
    given = [_at_least(t, x, 1, 1) for x in tensors]
    return t.cat(given, 0 if rank_of(t, given[0]) == 1 else 1)


def _vstack(t: Any, tensors: Sequence[Any]) -> Any:
    return t.cat([_at_least(t, x, 2, 1) for x in tensors], 0)


def _dstack(t: Any, tensors: Sequence[Any]) -> Any:
    return t.cat([_at_least(t, x, 3, 0 if rank_of(t, x) == 2 else 1) for x in tensors], 2)


def _column_stack(t: Any, tensors: Sequence[Any]) -> Any:
    return t.cat([x if rank_of(t, x) > 1 else t.reshape(x, -1, 1) for x in tensors], 1)


def _cuts(t: Any, x: Any, at: int, parts: Sequence[Any]) -> tuple[Any, ...]:
    """Consecutive slices of the given sizes."""
    out, start = [], ZERO
    for part in parts:
        out.append(t.emit("slice", (x,), dim=at, start=start, stop=start + part, step=ONE))
        start = start + part
    return tuple(out)


def _split(t: Any, x: Any, split_size: Any, dim: int = 0) -> Any:
    """Parts of one size, the last one possibly smaller; or of the listed sizes, which must add up."""
    at = real_axis(t, x, dim)
    total = t.dims(x)[at]
    if isinstance(split_size, tuple | list):
        parts = [t.size(s) for s in split_size]
        whole = ZERO
        for part in parts:
            whole = whole + part
        t.context.equal(
            total,
            whole,
            "TSR0208",
            f"split of `{total}` into parts that add up to `{whole}`",
            Blame(0, at, f"`{total}`"),
        )
        return _cuts(t, x, at, parts)
    each = t.size(split_size)
    if each.is_const and each.value < 1:
        t.fail("TSR0208", f"split into parts of {each}", Blame(0, at))
    quotient = total // each if not (total.is_const and each.is_const) else None
    if quotient is None:
        full, rest = divmod(total.value, each.value)
        return _cuts(t, x, at, [each] * full + ([Dim.const(rest)] if rest else []) or [ZERO])
    count = cut_into(total, each)
    if count is not None:
        return _chunk(t, x, count, at)
    exact = total / each
    if not exact.is_const:
        t.fail("TSR0208", f"split of `{total}` into parts of `{each}`", Blame(0, at, f"`{total}`"),
               helps=["the number of parts must be known: use `chunk`, or `unflatten` for a new axis"])  # fmt: skip
    return _cuts(t, x, at, [each] * exact.value)


def cut_into(total: Dim, each: Dim) -> int | None:
    """The number of parts n when each is ``total // n``."""
    atoms = [atom for atom in each.atoms.values() if atom.kind == "//" and build_atom("//", atom.args) is each]
    if len(atoms) != 1 or atoms[0].args[0] is not total or not atoms[0].args[1].is_const:
        return None
    return atoms[0].args[1].value


def _chunk(t: Any, x: Any, chunks: int, dim: int = 0) -> Any:
    """Equal parts; the size must divide, unlike in torch, where the last one may be short."""
    at, n = real_axis(t, x, dim), int(chunks)
    total = t.dims(x)[at]
    if n < 1:
        t.fail("TSR0208", f"chunk into {n} parts", Blame(0, at))
    each = t.context.divides(Dim.const(n), total, "TSR0208", f"chunk of `{total}` into {n} parts",
                             Blame(0, at, f"`{total}`"),
                             helps=["use `split` for parts of different sizes"])  # fmt: skip
    return _cuts(t, x, at, [each] * n)


def _tensor_split(t: Any, x: Any, indices_or_sections: Any, dim: int = 0) -> Any:
    at = real_axis(t, x, dim)
    total = t.dims(x)[at]
    if t.is_tensor(indices_or_sections):
        t.not_covered("tensor_split at positions in a tensor")
    if isinstance(indices_or_sections, int):
        n = indices_or_sections
        if not total.is_const:
            return _chunk(t, x, n, dim)
        small, more = divmod(total.value, n)
        return _cuts(t, x, at, [Dim.const(small + 1)] * more + [Dim.const(small)] * (n - more))
    edges = [None, *indices_or_sections, None]
    return tuple(t.slice(x, at, a, b) for a, b in pairwise(edges))


def _unbind(t: Any, x: Any, dim: int = 0) -> Any:
    at = real_axis(t, x, dim)
    total = t.dims(x)[at]
    if not total.is_const:
        t.fail(
            "TSR0208", f"unbind of `{total}`", Blame(0, at, f"`{total}`"), helps=["the number of parts must be known"]
        )
    return tuple(t.select(x, at, n) for n in range(total.value))


def _glu(t: Any, x: Any, dim: int = -1) -> Any:
    a, b = _chunk(t, x, 2, dim)
    return t.mul(a, t.sigmoid(b))


_M, _X, _H = T(("S", "D")), T(("B", "S", "D")), T(("B", "S", 6), "bf16")
_LIST = ((T(("S", "D")), T(("S", "D"))),)

OPS: tuple[OpRecord, ...] = (
    composite("stack", "tensors: tensors, dim: dim = 0", "Tensors joined along a new axis.", _stack, ("torch.stack",),
       samples(call(*_LIST), call(*_LIST, -1)), ()),
    composite("hstack", "tensors: tensors", "Joined along axis 1, or 0 for vectors.", _hstack, ("torch.hstack",),
       samples(call(*_LIST), call((T(("S",)), T(("D",))))), ()),
    composite("vstack", "tensors: tensors", "Joined along axis 0, vectors as rows.", _vstack,
       ("torch.vstack", "torch.row_stack"),
       samples(call(*_LIST), call((T(("S",)), T(("S",))))), ()),
    composite("dstack", "tensors: tensors", "Joined along axis 2.", _dstack, ("torch.dstack",),
       samples(call(*_LIST), call((T(("S",)), T(("S",))))), ()),
    composite("column_stack", "tensors: tensors", "Vectors as columns, joined along axis 1.", _column_stack,
       ("torch.column_stack",),
       samples(call((T(("S",)), _M))), ()),
    composite("atleast_1d", "*tensors: tensors", "Rank 1 or more.", _atleast(1), ("torch.atleast_1d",),
       samples(call(T(())), call(T(()), _M)), ()),
    composite("atleast_2d", "*tensors: tensors", "Rank 2 or more.", _atleast(2), ("torch.atleast_2d",),
       samples(call(T(("S",)))), ()),
    composite("atleast_3d", "*tensors: tensors", "Rank 3 or more.", _atleast(3), ("torch.atleast_3d",),
       samples(call(T(("S",)), _M, T(())), call(_M)), ()),
    composite("split", "x: tensor, split_size: sizes, dim: dim = 0", "Parts of one size, or of listed sizes.", _split,
       (*function_and_method("split", "split_with_sizes"), "torch.unsafe_split", "torch.unsafe_split_with_sizes"),
       samples(call(_H, 4, -1), call(_H, (1, 5), 2), call(T((8, "D")), 3)), ("split", "split_with_sizes")),
    composite("chunk", "x: tensor, chunks: int, dim: dim = 0", "Equal parts.", _chunk,
              (*function_and_method("chunk"), "torch.unsafe_chunk"),
       samples(call(_H, 3, -1))),
    composite("tensor_split", "x: tensor, indices_or_sections: any, dim: dim = 0", "Parts between given positions.",
       _tensor_split,
       function_and_method("tensor_split"), samples(call(_H, 4, -1), call(_H, (1, 4), 2))),
    composite("unbind", "x: tensor, dim: dim = 0", "The slices of one axis.", _unbind, function_and_method("unbind"),
              samples(call(_H, -1))),
    composite("glu", "x: tensor float, dim: dim = -1", "One half times the sigmoid of the other.", _glu,
       ("torch.nn.functional.glu",), samples(call(_H)), ()),
)  # fmt: skip
