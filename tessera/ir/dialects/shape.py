"""Views: every result element is one operand element, or a constant, chosen by position alone.

Attributes are canonical: axes are non-negative, sizes and bounds are Dims. ``call`` makes them so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.ir.dialects import adjoints
from tessera.ir.dialects.calls import flat
from tessera.ir.dialects.rules import ANY, axes_of, torch_names
from tessera.ir.dialects.samples import T, call, samples, size
from tessera.ir.dim import Dim, build_atom, product
from tessera.ir.graph import Attr
from tessera.ir.infer import ONE, Blame, InferContext, result_dtype
from tessera.ir.record import Kind, OpRecord, Piece
from tessera.ir.types import TensorType, Type

Attrs = Mapping[str, Attr]
Types = tuple[Type, ...]
Index = Sequence[Dim]
ZERO = Dim.const(0)


def ints(attr: Attr) -> tuple[int, ...]:
    """An attribute that holds axes or other plain integers."""
    assert isinstance(attr, tuple)
    return tuple(int(a) for a in attr)  # type: ignore[arg-type]


def axis_attr(attrs: Attrs) -> int:
    """The attribute ``dim``: one axis."""
    axis = attrs["dim"]
    assert isinstance(axis, int)
    return axis


def dims_of(attr: Attr) -> tuple[Dim, ...]:
    """An attribute that holds sizes."""
    assert isinstance(attr, tuple)
    return tuple(as_dim(a) for a in attr)


def as_dim(attr: Attr) -> Dim:
    """An attribute that holds one size."""
    assert isinstance(attr, Dim | int)
    return attr if isinstance(attr, Dim) else Dim.const(attr)


# --- dims in front ----------------------------------------------------------------------------------------------------


def in_front(*keys: str) -> Any:
    """The rule for attributes with one entry a dim: the sizes in front, or for those of ends nothing, come first."""

    def lead(types: Sequence[Type], attrs: Attrs, sizes: tuple[Dim, ...]) -> Attrs | None:
        first = sizes if keys == ("shape",) else (ZERO,) * len(sizes)
        return {**attrs, **{key: (*first, *dims_of(attrs[key])) for key in keys}}

    return lead


def _lead_permute(types: Sequence[Type], attrs: Attrs, sizes: tuple[Dim, ...]) -> Attrs:
    count = len(sizes)
    return {"dims": (*range(count), *(n + count for n in ints(attrs["dims"])))}


def _lead_expand(types: Sequence[Type], attrs: Attrs, sizes: tuple[Dim, ...]) -> Attrs | None:
    """Not where the op puts dims before those that there are."""
    shape = dims_of(attrs["shape"])
    return {"shape": (*sizes, *shape)} if len(shape) == types[0].rank else None


# --- permute ----------------------------------------------------------------------------------------------------------


def _permute_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    order, x = ints(attrs["dims"]), types[0]
    if sorted(order) != list(range(x.rank)):
        ctx.fail("TSR0214", f"({', '.join(map(str, order))}) is no permutation of {x.rank} dims",
                 Blame(0, None, f"has {x.rank} dims"))  # fmt: skip
    return (TensorType(x.dtype, tuple(x.dims[n] for n in order)),)


def _permute_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    order = ints(attrs["dims"])
    return (Piece(0, tuple(index[order.index(n)] for n in range(len(order)))),)


def _permute(t: Any, x: Any, *dims: Any) -> Any:
    rank, given = t.type_of(x).rank, flat(dims)
    if len(given) != rank:
        t.fail("TSR0214", f"{len(given)} dims given for a rank-{rank} tensor", Blame(0, None, f"has {rank} dims"))
    order = tuple(t.context.axis(int(d), rank) for d in given)
    return t.emit("permute", (x,), dims=order)


PERMUTE = OpRecord(
    "permute", Kind.VIEW, "x: tensor, *dims: dim", "The axes in another order.", _permute_infer, pieces=_permute_pieces,
    call=_permute, eager=lambda torch, x, *, dims: torch.permute(x, dims), torch=torch_names("permute", "t", "m"),
    methods=("permute",), samples=samples(call(T(("B", "S", "D")), (2, 0, 1)),
                                          call(T(("B", "D"), "int32", 5), (-1, 0))),
    lead=_lead_permute, derivative=adjoints.permute,
)  # fmt: skip


# --- reshape ----------------------------------------------------------------------------------------------------------


def cancel(left: Sequence[Dim], right: Sequence[Dim]) -> tuple[list[Dim], list[Dim]]:
    """Both lists without the factors that they share."""
    rest, kept = list(right), []
    for d in left:
        if d in rest:
            rest.remove(d)
        else:
            kept.append(d)
    return kept, rest


def _reshape_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    shape, x = dims_of(attrs["shape"]), types[0]
    have, want = (product(part) for part in cancel(x.dims, shape))
    if product(x.dims) is product(shape):
        return (TensorType(x.dtype, shape),)
    why = f"reshape of [{_list(x.dims)}] to [{_list(shape)}]"
    if ctx.rules_out(_meant(have), _meant(want)) or not ctx.holds("eq", have, want, why):
        ctx.fail("TSR0205", why, Blame(0, None, f"has {product(x.dims)} elements"),
                 Blame(None, None, f"takes {product(shape)} elements"),
                 helps=["the product of the sizes must stay the same; one size may be -1"])  # fmt: skip
    return (TensorType(x.dtype, shape),)


def _meant(elements: Dim) -> Dim:
    """A number of elements with ``H * (D // H)`` read as ``D``: code that cuts a size into parts means all of it,
    and sizes that only fit with a remainder left over are a fault.
    """
    total = ZERO
    for monomial, coefficient in elements.terms:
        if not isinstance(coefficient, int):
            return elements
        powers = dict(monomial)
        part = Dim.const(coefficient)
        for factor, power in monomial:
            atom = elements.atoms.get(factor)
            divisor = str(atom.args[1]) if atom is not None and atom.kind == "//" else ""
            if atom is not None and power == 1 and powers.get(divisor, 0) > 0 and atom.args[1].is_name:
                powers[divisor] -= 1
                powers[factor] = 0
                part = part * atom.args[0]
        if any(power < 0 for power in powers.values()):
            return elements
        for factor, power in powers.items():
            atom = elements.atoms.get(factor)
            one = Dim.name(factor) if atom is None else build_atom(atom.kind, atom.args)
            part = product((part, *[one] * power))
        total = total + part
    return total


def _list(dims: Sequence[Dim]) -> str:
    return ", ".join(map(str, dims))


def linear(index: Sequence[Dim], dims: Sequence[Dim]) -> Dim:
    """The row-major position of an index in a block of the given sizes."""
    total = ZERO
    for i, d in zip(index, dims, strict=True):
        total = total * d + i
    return total


def unlinear(position: Dim, dims: Sequence[Dim]) -> list[Dim]:
    """The index of a row-major position; the inverse of ``linear``."""
    found: list[Dim] = []
    for n in range(len(dims) - 1, 0, -1):
        found.append(position % dims[n])
        position = position // dims[n]
    return [position, *reversed(found)] if dims else []


def reshape_index(index: Index, source: Sequence[Dim], target: Sequence[Dim]) -> tuple[Dim, ...]:
    """Where an element of the reshaped tensor lies in the source: equal runs of sizes are matched on their own."""
    src = [n for n, d in enumerate(source) if d is not ONE]
    dst = [n for n, d in enumerate(target) if d is not ONE]
    found: list[Dim] = [ZERO] * len(source)
    while src and dst and source[src[-1]] is target[dst[-1]]:
        found[src.pop()] = index[dst.pop()]
    while src or dst:
        s, d = _run(src, dst, source, target)
        position = linear([index[n] for n in dst[:d]], [target[n] for n in dst[:d]])
        for n, i in zip(src[:s], unlinear(position, [source[n] for n in src[:s]]), strict=True):
            found[n] = i
        src, dst = src[s:], dst[d:]
    return tuple(found)


def _run(src: Sequence[int], dst: Sequence[int], source: Sequence[Dim], target: Sequence[Dim]) -> tuple[int, int]:
    """Lengths of the shortest leading runs with the same product; everything when there are none."""
    products: dict[Dim, int] = {}
    total = ONE
    for n, axis in enumerate(src):
        total = total * source[axis]
        products.setdefault(total, n + 1)
    total = ONE
    for n, axis in enumerate(dst):
        total = total * target[axis]
        if total in products:
            return products[total], n + 1
    return len(src), len(dst)


def _reshape_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    return (Piece(0, reshape_index(index, types[0].dims, result.dims)),)


def solve_shape(t: Any, dims: Sequence[Dim], shape: Sequence[Any]) -> tuple[Dim, ...]:
    """The target sizes with a -1 replaced by what is left over; raises TSR0205 when it does not divide."""
    wanted = [s if isinstance(s, int) and s == -1 else t.size(s) for s in flat(shape)]
    open_at = [n for n, s in enumerate(wanted) if isinstance(s, int)]
    for n, s in enumerate(wanted):
        if isinstance(s, Dim) and s.is_const and s.value < 0 and n not in open_at:
            t.fail("TSR0205", f"size {s} in a reshape", Blame(None))
    if len(open_at) > 1:
        t.fail("TSR0205", "two sizes of -1 in a reshape", Blame(None), helps=["give all sizes but one"])
    if open_at:
        fixed = [s for s in wanted if isinstance(s, Dim)]
        have, want = (product(part) for part in cancel(dims, fixed))
        if ZERO in fixed and ZERO in dims:
            have, want = product(dims), product(fixed)
        if want.is_const and want.value == 0:
            t.fail("TSR0205", "a size of -1 beside a size of 0", Blame(None), helps=["give every size"])
        wanted[open_at[0]] = t.context.divides(
            want, have, "TSR0205", f"reshape of [{_list(dims)}] to [{', '.join(map(str, wanted))}]",
            Blame(0, None, f"has {product(dims)} elements"), Blame(None, None, f"takes a multiple of {product(fixed)}"),
        )  # fmt: skip
    return tuple(s for s in wanted if isinstance(s, Dim))


def _reshape(t: Any, x: Any, *shape: Any) -> Any:
    return t.emit("reshape", (x,), shape=solve_shape(t, t.dims(x), shape))


RESHAPE = OpRecord(
    "reshape", Kind.VIEW, "x: tensor, *shape: size",
    "The same elements, row-major, in another shape; one size may be -1.",
    _reshape_infer, pieces=_reshape_pieces, call=_reshape, eager=lambda torch, x, *, shape: x.reshape(shape),
    torch=(*torch_names("reshape", "t", "m"),), methods=("reshape",),
    samples=samples(
        call(T(("B", "S", "D")), (size("B", "S"), size("D"))), call(T(("B", 6)), (size("B"), 2, 3)),
        call(T(("B", "S", 4)), (-1, 4)), call(T(("B", "S"), "bf16"), (-1,)), call(T((1, 1)), ()),
    ),
    lead=in_front("shape"), derivative=adjoints.reshape,
)  # fmt: skip


# --- expand -----------------------------------------------------------------------------------------------------------


def _expand_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    shape, x = dims_of(attrs["shape"]), types[0]
    lead = len(shape) - x.rank
    if lead < 0:
        ctx.fail(
            "TSR0213", f"expand of a rank-{x.rank} tensor to {len(shape)} dims", Blame(0, None, f"has {x.rank} dims")
        )
    out = list(shape)
    for n, d in enumerate(x.dims):
        if d is not ONE:
            out[lead + n] = ctx.equal(
                shape[lead + n], d, "TSR0213", f"dimension `{d}` expanded to `{shape[lead + n]}`",
                Blame(0, n, f"`{d}`"),
                helps=["only a dimension of size 1 can be expanded"])  # fmt: skip
    return (TensorType(x.dtype, tuple(out)),)


def _expand_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    lead = result.rank - types[0].rank
    return (Piece(0, tuple(ZERO if d is ONE else index[lead + n] for n, d in enumerate(types[0].dims))),)


def _expand(t: Any, x: Any, *shape: Any, implicit: bool = False) -> Any:
    given, dims = flat(shape), t.dims(x)
    lead = len(given) - len(dims)
    wanted: list[Dim] = []
    for n, s in enumerate(given):
        if isinstance(s, int) and s == -1:
            if n < lead:
                t.fail("TSR0213", "a new leading dimension of -1 in expand", Blame(None), helps=["give its size"])
            wanted.append(dims[n - lead])
        else:
            wanted.append(t.size(s))
    return x if tuple(wanted) == dims else t.emit("expand", (x,), shape=tuple(wanted))


EXPAND = OpRecord(
    "expand", Kind.VIEW, "x: tensor, *shape: size", "Dimensions of size 1 repeated; -1 keeps a size.", _expand_infer,
    pieces=_expand_pieces, call=_expand, eager=lambda torch, x, *, shape: x.expand(shape),
    torch=("torch.Tensor.expand",), methods=("expand",),
    samples=samples(call(T(("B", 1, "D")), (size("B"), size("S"), -1)), call(T(("D",)), 3, -1),
                    call(T(()), size("B"), 2)),
    lead=_lead_expand, derivative=adjoints.expand,
)  # fmt: skip


# --- unsqueeze, squeeze -----------------------------------------------------------------------------------------------


def _unsqueeze_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    at, dims = ctx.axis(axis_attr(attrs), types[0].rank + 1), types[0].dims
    return (TensorType(types[0].dtype, (*dims[:at], ONE, *dims[at:])),)


def _unsqueeze_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    return (Piece(0, tuple(i for n, i in enumerate(index) if n != attrs["dim"])),)


def _unsqueeze(t: Any, x: Any, dim: int) -> Any:
    rank = t.type_of(x).rank + 1
    return t.emit("unsqueeze", (x,), dim=t.context.axis(int(dim), rank))


UNSQUEEZE = OpRecord(
    "unsqueeze", Kind.VIEW, "x: tensor, dim: dim", "A new axis of size 1.", _unsqueeze_infer, pieces=_unsqueeze_pieces,
    call=_unsqueeze, torch=torch_names("unsqueeze", "t", "m"), methods=("unsqueeze",),
    samples=samples(call(T(("B", "D")), 1), call(T(("B", "D"), "bf16"), -1), call(T(()), 0)),
    derivative=adjoints.unsqueeze,
)  # fmt: skip


def _squeeze_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    axes, x = ints(attrs["dim"]), types[0]
    for axis in axes:
        ctx.equal(x.dims[ctx.axis(axis, x.rank)], ONE, "TSR0207", f"squeeze of dimension `{x.dims[axis]}`",
                  Blame(0, axis, f"`{x.dims[axis]}` is not 1"),
                  helps=["select one position with an index, or reduce over it"])  # fmt: skip
    return (TensorType(x.dtype, tuple(d for n, d in enumerate(x.dims) if n not in axes)),)


def _squeeze_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    axes, rest = ints(attrs["dim"]), iter(index)
    return (Piece(0, tuple(ZERO if n in axes else next(rest) for n in range(types[0].rank))),)


def _squeeze(t: Any, x: Any, dim: Any = None) -> Any:
    """Without ``dim`` every axis of literal size 1 goes; a named one must be 1, unlike in torch, which ignores it."""
    dims = t.dims(x)
    if dim is None:
        axes = tuple(n for n, d in enumerate(dims) if d is ONE)
    else:
        axes = axes_of(t.context, dim, len(dims)) if dims and dim != () else ()
    return t.emit("squeeze", (x,), dim=axes) if axes else x


SQUEEZE = OpRecord(
    "squeeze", Kind.VIEW, "x: tensor, dim: dims = None",
    "Axes of size 1 removed; a named axis of another size is an error.",
    _squeeze_infer, pieces=_squeeze_pieces, call=_squeeze, torch=torch_names("squeeze", "t", "m"), methods=("squeeze",),
    samples=samples(call(T(("B", 1, "D")), 1), call(T((1, "B", 1))), call(T(("B", 1, 1)), (1, -1))),
    derivative=adjoints.squeeze,
)  # fmt: skip


# --- flip -------------------------------------------------------------------------------------------------------------


def _same_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    return (TensorType(types[0].dtype, types[0].dims),)


def _flip_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    axes = ints(attrs["dims"])
    return (Piece(0, tuple(result.dims[n] - 1 - i if n in axes else i for n, i in enumerate(index))),)


def _flip(t: Any, x: Any, *dims: Any) -> Any:
    return t.emit("flip", (x,), dims=axes_of(t.context, flat(dims), t.type_of(x).rank)) if flat(dims) else x


FLIP = OpRecord(
    "flip", Kind.VIEW, "x: tensor, *dims: dim", "The order along the axes reversed.", _same_infer, pieces=_flip_pieces,
    call=_flip, eager=lambda torch, x, *, dims: x.flip(dims), torch=torch_names("flip", "t", "m"), methods=("flip",),
    samples=samples(call(T(("B", "S")), (0,)), call(T(("B", "S"), "int32", 9), (-1, 0))),
    derivative=adjoints.flip,
)  # fmt: skip


# --- cat --------------------------------------------------------------------------------------------------------------


def _cat_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    axis = axis_attr(attrs)
    first = types[0]
    for number, t in enumerate(types):
        if t.rank != first.rank:
            ctx.fail("TSR0206", f"cat of rank {first.rank} with rank {t.rank}",
                     Blame(0, None, f"has rank {first.rank}"),
                     Blame(number, None, f"has rank {t.rank}"))  # fmt: skip
    ctx.axis(axis, first.rank)
    dims = list(first.dims)
    for number, t in enumerate(types[1:], 1):
        for n, d in enumerate(t.dims):
            if n != axis:
                dims[n] = ctx.equal(dims[n], d, "TSR0206",
                                    f"dimension `{dims[n]}` meets `{d}` in a cat along dim {axis}",
                                    Blame(0, n, f"`{dims[n]}`"), Blame(number, n, f"`{d}`"))  # fmt: skip
    total = ZERO
    for t in types:
        total = total + t.dims[axis]
    dims[axis] = total
    return (TensorType(result_dtype(types), tuple(dims)),)


def _cat_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    axis = axis_attr(attrs)
    pieces: list[Piece] = []
    offset = ZERO
    for number, t in enumerate(types):
        at = tuple(i - offset if n == axis else i for n, i in enumerate(index))
        end = offset + t.dims[axis]
        last = number == len(types) - 1
        pieces.append(Piece(number, at, () if last else ((axis, offset, end),)))
        offset = end
    return tuple(pieces)


def _cat(t: Any, tensors: Sequence[Any], dim: int = 0) -> Any:
    if not tensors:
        t.fail("TSR0206", "cat of no tensors", Blame(None))
    tensors = [x for x in tensors if t.dims(x) != (ZERO,)] or list(tensors[:1])
    rank = t.type_of(tensors[0]).rank
    if rank == 0:
        t.fail("TSR0204", "cat of rank-0 tensors", Blame(0, None, "has rank 0"), helps=["use `stack`"])
    axis = t.context.axis(int(dim), rank)
    return tensors[0] if len(tensors) == 1 else t.emit("cat", tuple(tensors), dim=axis)


CAT = OpRecord(
    "cat", Kind.VIEW, "tensors: tensors, dim: dim = 0", "Tensors joined along an existing axis.", _cat_infer,
    ANY.operands_as, pieces=_cat_pieces, call=_cat, eager=lambda torch, *tensors, dim: torch.cat(tensors, dim),
    torch=("torch.cat", "torch.concat", "torch.concatenate"),
    samples=samples(call((T(("B", "S")), T(("B", "D"))), 1),
                    call((T(("B", 2)), T(("B", 3), "bf16"), T(("B", 1))), dim=-1),
                    call((T(("S", "D"), "int32", 5), T(("B", "D"), "int32", 5)))),
    derivative=adjoints.cat,
)  # fmt: skip


OPS: tuple[OpRecord, ...] = (PERMUTE, RESHAPE, EXPAND, UNSQUEEZE, SQUEEZE, FLIP, CAT)
