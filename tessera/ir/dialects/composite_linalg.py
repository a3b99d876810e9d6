"""Products of matrices and vectors written with ``matmul`` and elementwise operations."""

from __future__ import annotations

from typing import Any

from tessera.ir.dialects.composite_shape import axis_of, rank_of
from tessera.ir.dialects.contract import meet
from tessera.ir.dialects.fits import need_expand, need_one_rank, need_shape
from tessera.ir.dialects.rules import composite, function_and_method, torch_names
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dim import product
from tessera.ir.infer import Blame
from tessera.ir.record import OpRecord


def _ranks(t: Any, what: str, *wanted: tuple[Any, int]) -> None:
    for number, (x, rank) in enumerate(wanted):
        if rank_of(t, x) != rank:
            t.fail(
                "TSR0204",
                f"{what} with a rank-{rank_of(t, x)} operand",
                Blame(number, None, f"has rank {rank_of(t, x)}, not {rank}"),
            )


def _of_ranks(name: str, left: int, right: int) -> Any:
    """A matmul of operands of fixed ranks."""

    def define(t: Any, x: Any, other: Any) -> Any:
        _ranks(t, name, (x, left), (other, right))
        return t.matmul(x, other)

    return define


def _bmm(t: Any, x: Any, other: Any) -> Any:
    _ranks(t, "bmm", (x, 3), (other, 3))
    a, b = t.dims(x)[0], t.dims(other)[0]
    t.context.equal(a, b, "TSR0202", f"batch `{a}` meets `{b}` in bmm", Blame(0, 0, f"`{a}`"), Blame(1, 0, f"`{b}`"))
    return t.matmul(x, other)


def _outer(t: Any, x: Any, other: Any) -> Any:
    _ranks(t, "outer", (x, 1), (other, 1))
    return t.mul(t.unsqueeze(x, 1), t.unsqueeze(other, 0))


def _inner(t: Any, x: Any, other: Any) -> Any:
    if not rank_of(t, x) or not rank_of(t, other):
        return t.mul(x, other)
    a, b = t.dims(x), t.dims(other)
    t.context.equal(a[-1], b[-1], "TSR0201", meet(a[-1], b[-1]), Blame(0, len(a) - 1), Blame(1, len(b) - 1))
    return t.tensordot(x, other, ([-1], [-1]))


def _vecdot(t: Any, x: Any, other: Any, *, dim: int = -1) -> Any:
    return t.sum(t.mul(x, other), dim)


def _scaled(t: Any, x: Any, by: Any) -> Any:
    return x if isinstance(by, int | float) and by == 1 else t.mul(x, by)


def _addr(t: Any, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * x + alpha * (an outer product)."""
    if not t.dtype_of(x).is_float or (isinstance(beta, int | float) and beta == 0):
        return _added(_outer)(t, x, a, b, beta=beta, alpha=alpha)
    _ranks(t, "outer", (a, 1), (b, 1))
    need_expand(t, x, (t.dims(a)[0], t.dims(b)[0]), "a tensor added to a product")
    return t.fma(_scaled(t, t.unsqueeze(a, 1), alpha), t.unsqueeze(b, 0), _scaled(t, x, beta))


def _added(multiply: Any) -> Any:
    """beta * x + alpha * (a product)."""

    def define(t: Any, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
        made = _scaled(t, multiply(t, a, b), alpha)
        need_expand(t, x, t.dims(made), "a tensor added to a product")
        made = made if isinstance(beta, int | float) and beta == 0 else t.add(_scaled(t, x, beta), made)
        return made if t.dtype_of(x).is_float else t.cast(made, t.dtype_of(x))

    return define


def _addbmm_product(t: Any, a: Any, b: Any) -> Any:
    product = _bmm(t, a, b)
    return t.sum(product, 0, dtype=t.dtype_of(product))


def _linear(t: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """x times the transposed weight, plus bias."""
    rank = rank_of(t, weight)
    if rank not in (1, 2):
        t.fail("TSR0204", f"linear with a rank-{rank} weight", Blame(1, None, f"has rank {rank}"))
    need_one_rank(t, x, range(1, 65), "linear")
    k, j = t.dims(x)[-1], t.dims(weight)[-1]
    swapped = [f"linear takes a weight of [out, in]: the transposed one, `.T`, has `{t.dims(weight)[0]}` last"]
    t.context.equal(k, j, "TSR0201", meet(k, j), Blame(0, rank_of(t, x) - 1, f"`{k}`, last dim"),
                    Blame(1, rank - 1, f"`{j}`, last dim"),
                    helps=swapped if k is t.dims(weight)[0] else [])  # fmt: skip
    y = t.matmul(x, weight if rank == 1 else t.transpose(weight, 0, 1))
    need_expand(t, bias, t.dims(y), "a bias")
    return y if bias is None else t.add(y, bias)


def _bilinear(t: Any, x: Any, x2: Any, weight: Any, bias: Any = None) -> Any:
    need_one_rank(t, weight, (3,), "bilinear with a weight")
    rows, left, right = t.dims(weight)
    lead = t.dims(x)[:-1]
    need_shape(t, x, (*lead, left), "bilinear with a tensor")
    need_shape(t, x2, (*lead, right), "bilinear with a tensor")
    need_shape(t, bias, (rows,), "bilinear with a bias")
    y = t.einsum("...i,oij,...j->...o", x, weight, x2)
    return y if bias is None else t.add(y, bias)


def _tensordot(t: Any, x: Any, other: Any, dims: Any = 2) -> Any:
    ra, rb = rank_of(t, x), rank_of(t, other)
    if isinstance(dims, int):
        left, right = list(range(ra - dims, ra)), list(range(dims))
    else:
        left, right = ([axis_of(t, y, d) for d in part] for y, part in zip((x, other), dims, strict=True))
    letters = "abcdefghijklmnopqrstuvwxyz"
    sa = list(letters[:ra])
    sb = list(letters[ra : ra + rb])
    for i, j in zip(left, right, strict=True):
        a, b = t.dims(x)[i], t.dims(other)[j]
        t.context.equal(a, b, "TSR0201", meet(a, b), Blame(0, i, f"`{a}`"), Blame(1, j, f"`{b}`"))
        sb[j] = sa[i]
    kept = [c for n, c in enumerate(sa) if n not in left] + [c for n, c in enumerate(sb) if n not in right]
    return t.einsum(f"{''.join(sa)},{''.join(sb)}->{''.join(kept)}", x, other)


def _kron(t: Any, x: Any, other: Any) -> Any:
    rank = max(rank_of(t, x), rank_of(t, other))
    a = (*[t.size(1)] * (rank - rank_of(t, x)), *t.dims(x))
    b = (*[t.size(1)] * (rank - rank_of(t, other)), *t.dims(other))
    wide_a = t.reshape(x, *(d for s in a for d in (s, 1)))
    wide_b = t.reshape(other, *(d for s in b for d in (1, s)))
    return t.reshape(t.mul(wide_a, wide_b), *(p * q for p, q in zip(a, b, strict=True)))


def _linalg_cross(t: Any, x: Any, other: Any, *, dim: int = -1) -> Any:
    return t.cross(x, other, dim)


def _cross(t: Any, x: Any, other: Any, dim: int | None = None) -> Any:
    """Without ``dim`` along the first axis that is known to have size 3, or else the last one."""
    dims = t.dims(x)
    if dim is None:
        dim = next((n for n, d in enumerate(dims) if d.is_const and d.value == 3), -1)
    axis = axis_of(t, x, dim)
    if rank_of(t, other) != len(dims):
        t.fail("TSR0204", f"cross product of ranks {len(dims)} and {rank_of(t, other)}",
               Blame(1, None, f"has rank {rank_of(t, other)}"))  # fmt: skip
    for number, v in enumerate((x, other)):
        three = t.dims(v)[axis]
        t.context.equal(three, t.size(3), "TSR0202", f"cross product of dimension `{three}`",
                        Blame(number, axis, f"`{three}` is not 3"))  # fmt: skip

    def turned(v: Any, by: int) -> Any:
        return t.roll(v, -by, axis)

    return t.fma(turned(x, 1), turned(other, 2), t.neg(t.mul(turned(x, 2), turned(other, 1))))


def _multi_dot(t: Any, *tensors: Any) -> Any:
    given = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else list(tensors)
    for n, x in enumerate(given):
        need_one_rank(t, x, (1, 2) if n in (0, len(given) - 1) else (2,), "a factor")
    out = given[0]
    for x in given[1:]:
        out = t.matmul(out, x)
    return out


def _matrix_power(t: Any, x: Any, n: int) -> Any:
    if n < 0:
        t.not_covered("matrix_power with a negative exponent")
    if rank_of(t, x) > 1:
        need_shape(t, x, (*t.dims(x)[:-1], t.dims(x)[-2]), "a power of matrices")
    if n == 0:
        return t.expand(t.eye(t.dims(x)[-1], dtype=t.dtype_of(x)), *t.dims(x))
    out, square = None, x
    for bit in reversed(bin(n)[2:]):
        if bit == "1":
            out = square if out is None else t.matmul(out, square)
        square = t.matmul(square, square)
    return out


def _cdist(t: Any, x: Any, x2: Any, p: Any = 2.0, compute_mode: Any = None) -> Any:
    for one in (x, x2):
        need_one_rank(t, one, range(2, 65), "distances of rows")
    need_shape(t, x2, (*t.dims(x2)[:-1], t.dims(x)[-1]), "distances to rows")
    return t.norm(t.sub(t.unsqueeze(x, -2), t.unsqueeze(x2, -3)), p, -1)


def _block_diag(t: Any, *tensors: Any) -> Any:
    for x in tensors:
        need_one_rank(t, x, (0, 1, 2), "a block")
    given = [t.reshape(x, 1, -1) if rank_of(t, x) < 2 else x for x in tensors]
    total = [product((t.size(1),)) * 0] * 2
    for x in given:
        total = [a + b for a, b in zip(total, t.dims(x), strict=True)]
    rows, before = [], t.size(0)
    for x in given:
        columns = t.dims(x)[1]
        rows.append(t.pad(x, (before, total[1] - before - columns)))
        before = before + columns
    return t.cat(rows, 0)


_PAIR = "x: tensor, other: tensor like x"
_COUNTED = "x: tensor float int, other: tensor like x"
_ADD = "x: tensor, a: tensor like x, b: tensor like x, *, beta: tensor = 1, alpha: tensor = 1"
_M, _N, _V, _W = T(("S", "D")), T(("D", "K")), T(("D",)), T(("K",))
_A, _B = T(("B", "S", "D")), T(("B", "D", "K"))

OPS: tuple[OpRecord, ...] = (
    composite("mm", _PAIR, "Product of two matrices.", _of_ranks("mm", 2, 2), function_and_method("mm"),
              samples(call(_M, _N))),
    composite("mv", _PAIR, "Matrix times vector.", _of_ranks("mv", 2, 1), function_and_method("mv"),
              samples(call(_M, _V))),
    composite("dot", _PAIR, "Product of two vectors.", _of_ranks("dot", 1, 1), function_and_method("dot", "vdot"),
              samples(call(_V, _V)),
       ("dot", "vdot")),
    composite("bmm", _COUNTED, "Products of two stacks of matrices.", _bmm, function_and_method("bmm"),
       samples(call(_A, _B), call(T(("B", 3, "D"), "bf16"), T(("B", "D", 2), "bf16")))),
    composite("outer", "x: tensor, other: tensor", "Every product of an element of each vector.", _outer,
              function_and_method("outer", "ger"),
       samples(call(_V, _W)), ("outer", "ger")),
    composite("inner", f"{_PAIR} free0", "Sums of products along the last axes.", _inner, function_and_method("inner"),
       samples(call(_A, _M), call(_V, _V), call(_V, T(())))),
    composite("vecdot", "x: tensor float, other: tensor like x, *, dim: dim = -1", "Sums of products along one axis.",
           _vecdot,
              ("torch.linalg.vecdot",),
       samples(call(_A, _V), call(_A, _A, dim=1)), ()),
    composite("addmm", _ADD, "The sum beta x + alpha a b for matrices.", _added(_of_ranks("addmm", 2, 2)),
              function_and_method("addmm"),
       samples(call(_W, _M, _N), call(T(("S", "K")), _M, _N, beta=0.5, alpha=2.0))),
    composite("addmv", _ADD, "The sum beta x + alpha a b for a matrix and a vector.", _added(_of_ranks("addmv", 2, 1)),
              function_and_method("addmv"),
       samples(call(T(("S",)), _M, _V))),
    composite("baddbmm", _ADD, "The sum beta x + alpha a b for stacks of matrices.", _added(_bmm),
              function_and_method("baddbmm"),
       samples(call(T(("B", "S", "K")), _A, _B, beta=0.5))),
    composite("addbmm", _ADD, "The sum of beta x and alpha times the products of a stack.", _added(_addbmm_product),
       function_and_method("addbmm"), samples(call(T(("S", "K")), _A, _B))),
    composite("addr", "x: tensor, a: tensor, b: tensor, *, beta: tensor = 1, alpha: tensor = 1",
           "The sum of beta x and alpha times an outer product.", _addr,
              function_and_method("addr"),
       samples(call(_N, _V, _W, alpha=0.5))),
    composite("linear", "x: tensor, weight: tensor like x, bias: tensor? like x = None",
              "The product x Wᵀ + bias, for a weight of [out, in].",
              _linear,
       ("torch.nn.functional.linear",),
       samples(call(_A, T(("K", "D"))), call(T(("B", "S", "D"), "bf16"), T(("K", "D"), "bf16"), T(("K",), "bf16")),
               call(_V, T(("K", "D")))), ()),
    composite("bilinear",
              "x: tensor, x2: tensor like x, weight: tensor like x, bias: tensor? like x = None",
              "The form x W y + bias, one W per output.",
       _bilinear,
       torch_names("bilinear", "f", "t"), samples(call(_M, T(("S", "K")), T((2, "D", "K")), T((2,)))), ()),
    composite("tensordot", f"{_PAIR}, dims: any = 2", "Sums of products over several axes.", _tensordot,
              ("torch.tensordot",),
       samples(call(_A, T(("S", "D", "K"))), call(_A, _B, ([0, 2], [0, 1]))), ()),
    composite("kron", "x: tensor, other: tensor", "Kronecker product.", _kron, function_and_method("kron"),
              samples(call(_M, T((2, 3))), call(_V, _M))),
    composite("cross", f"{_COUNTED}, dim: dim = None", "Cross product along an axis of size 3.", _cross,
       function_and_method("cross"), samples(call(T(("B", 3)), T(("B", 3)), dim=1), call(T((3, "B")), T((3, "B"))))),
    composite("linalg_cross", f"{_COUNTED}, *, dim: dim = -1", "Cross product along an axis, the last by default.",
              _linalg_cross, ("torch.linalg.cross",), samples(call(T((3, 3)), T((3, 3)))), ()),
    composite("multi_dot", "*tensors: tensors alike", "Product of several matrices, left to right.", _multi_dot,
       ("torch.linalg.multi_dot",),
       samples(call((_M, _N, T(("K", 2))))), ()),
    composite("matrix_power", "x: tensor, n: int", "A matrix multiplied with itself.", _matrix_power,
       ("torch.linalg.matrix_power", *function_and_method("matrix_power")),
       samples(call(T(("D", "D")), 3), call(T(("B", "D", "D")), 0))),
    composite("cdist", "x: tensor float, x2: tensor like x, p: any = 2.0, compute_mode: any = None",
           "Distances between all rows.",
              _cdist,
       ("torch.cdist",),
       samples(call(_A, T(("B", "K", "D"))), call(_M, T(("K", "D")), 1.0)), ()),
    composite("block_diag", "*tensors: tensors", "Matrices along a diagonal.", _block_diag, ("torch.block_diag",),
       samples(call(_M, T((2, 3)), _V)), ()),
)  # fmt: skip
