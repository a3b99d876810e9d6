"""What each record refuses: the code, the message, and what the labels point at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dialects.calls import NotCovered, Ops, Sym
from tessera.ir.dim import Dim
from tessera.ir.dtype import dtype
from tessera.ir.infer import Refused
from tessera.ir.types import TensorType


def size(text: str | int) -> Dim:
    """``"2*D"``, ``"D/2"`` or a name or a number, enough for these tests."""
    if isinstance(text, int):
        return Dim.const(text)
    if "*" in text:
        left, right = text.split("*")
        return size(int(left) if left.isdigit() else left) * size(right)
    if "/" in text:
        left, right = text.split("/")
        return size(left) / int(right)
    return Dim.name(text)


class Bench:
    """Makes symbolic tensors: ``b.x("B", "D")``."""

    def __init__(self) -> None:
        self.ops = Ops(Builder(OPS["cast"]), OPS)

    def x(self, *dims: str | int, t: str = "f32") -> Sym:
        return Sym(self.ops, self.ops.builder.param("x", TensorType(dtype(t), tuple(map(size, dims)))))


Call = Callable[[Any, Bench], Any]

REFUSED: list[tuple[str, str, str, Call]] = [
    ("contraction", "TSR0201", "dimension `D` meets `K`", lambda t, b: t.matmul(b.x("B", "S", "D"), b.x("K", "F"))),
    ("contraction of vectors", "TSR0201", "`D` meets `K`", lambda t, b: t.matmul(b.x("D"), b.x("K"))),
    ("linear", "TSR0201", "`D` meets `K`", lambda t, b: t.linear(b.x("B", "D"), b.x("D", "K"))),
    ("tensordot", "TSR0201", "`D` meets `K`", lambda t, b: t.tensordot(b.x("B", "D"), b.x("K", "B"), 1)),
    ("channels of a convolution", "TSR0201", "channels", lambda t, b: t.conv1d(b.x("B", 3, "S"), b.x(4, 5, 3))),
    ("broadcast", "TSR0202", "`S` meets `T`", lambda t, b: t.add(b.x("B", "S"), b.x("B", "T"))),
    ("broadcast with a symbolic 1", "TSR0202", "in a broadcast", lambda t, b: t.mul(b.x("B", "S"), b.x("S", "B"))),
    ("batch of matmul", "TSR0202", "in a broadcast", lambda t, b: t.matmul(b.x("B", "S", "D"), b.x("H", "D", "K"))),
    ("bmm batches", "TSR0202", "bmm", lambda t, b: t.bmm(b.x("B", "S", "D"), b.x("H", "D", "K"))),
    ("layer_norm shape", "TSR0202", "layer_norm", lambda t, b: t.layer_norm(b.x("B", "D"), (Dim.name("K"),))),
    ("slice update", "TSR0213", "expanded to",
     lambda t, b: t.setitem(b.x("B", 6), (slice(None), slice(0, 3)), b.x("B", 4))),
    ("axis", "TSR0203", "dim 3 of a rank-2 tensor", lambda t, b: t.sum(b.x("B", "D"), 3)),
    ("axis twice", "TSR0203", "named twice", lambda t, b: t.sum(b.x("B", "D"), (0, -2))),
    ("softmax axis", "TSR0203", "dim 2", lambda t, b: t.softmax(b.x("B", "D"), 2)),
    ("rank of bmm", "TSR0204", "rank-2", lambda t, b: t.bmm(b.x("B", "D"), b.x("D", "K"))),
    ("rank 0 in matmul", "TSR0204", "rank-0", lambda t, b: t.matmul(b.x(), b.x("D"))),
    (".T of rank 3", "TSR0204", "`.T` of a rank-3 tensor", lambda t, b: t.T(b.x("B", "S", "D"))),
    ("class targets", "TSR0204", "class targets",
     lambda t, b: t.cross_entropy(b.x("B", "S", "V"), b.x("B", t="int64"))),
    ("reshape", "TSR0205", "reshape of [B, 6] to [B, 7]", lambda t, b: t.reshape(b.x("B", 6), Dim.name("B"), 7)),
    ("reshape that leaves a size over", "TSR0205", "reshape of [6]", lambda t, b: t.reshape(b.x(6), 4, -1)),
    ("two open sizes", "TSR0205", "two sizes of -1", lambda t, b: t.reshape(b.x(6), -1, -1)),
    ("cat of other sizes", "TSR0206", "`S` meets `T` in a cat", lambda t, b: t.cat((b.x("B", "S"), b.x("B", "T")), 0)),
    ("cat of other ranks", "TSR0206", "rank", lambda t, b: t.cat((b.x("B", "S"), b.x("B")), 0)),
    ("stack", "TSR0206", "in a cat", lambda t, b: t.stack((b.x("B", "S"), b.x("B", "T")))),
    ("squeeze", "TSR0207", "squeeze of dimension `S`", lambda t, b: t.squeeze(b.x("B", "S"), 1)),
    ("chunk", "TSR0208", "chunk of `5` into 2", lambda t, b: t.chunk(b.x("B", 5), 2, 1)),
    ("split sizes", "TSR0208", "add up to `5`", lambda t, b: t.split(b.x("B", 6), [2, 3], 1)),
    ("split of an unknown number", "TSR0208", "parts of `4`", lambda t, b: t.split(b.x("B", "S"), 4, 1)),
    ("unflatten", "TSR0208", "unflatten", lambda t, b: t.unflatten(b.x("B", 6), 1, (4, -1))),
    ("groups", "TSR0208", "`3` groups of `4` channels", lambda t, b: t.group_norm(b.x("B", 4, "S"), 3)),
    ("einsum sizes", "TSR0209", "`j` is `D` and `K`", lambda t, b: t.einsum("ij,jk->ik", b.x("S", "D"), b.x("K", "F"))),
    ("einsum operands", "TSR0209", "3 operands", lambda t, b: t.einsum("ij,jk,kl->il", b.x("S", "D"), b.x("D", "F"))),
    ("einsum rank", "TSR0209", "rank-3", lambda t, b: t.einsum("ij->ji", b.x("B", "S", "D"))),
    ("einsum result", "TSR0209", "comes from no operand", lambda t, b: t.einsum("ij->ik", b.x("S", "D"))),
    ("einsum text", "TSR0209", "cannot be read", lambda t, b: t.einsum("ij->1", b.x("S", "D"))),
    ("einsum without equation", "TSR0209", "without an equation", lambda t, b: t.einsum(b.x("S"), "i")),
    ("index", "TSR0212", "index 7 of dimension `6`", lambda t, b: b.x("B", 6)[:, 7]),
    ("too many indices", "TSR0212", "3 indices", lambda t, b: b.x("B", 6)[0, 0, 0]),
    ("negative step", "TSR0212", "step -1", lambda t, b: b.x(6)[::-1]),
    ("narrow", "TSR0212", "slice [2:9]", lambda t, b: t.narrow(b.x("B", 6), 1, 2, 7)),
    ("classes of one_hot", "TSR0402", "number of classes", lambda t, b: t.one_hot(b.x("B", t="int64"))),
    ("topk", "TSR0212", "topk of `9`", lambda t, b: t.topk(b.x("B", 6), 9)),
    ("expand", "TSR0213", "`6` expanded to `7`", lambda t, b: t.expand(b.x("B", 6), -1, 7)),
    ("expand to fewer dims", "TSR0213", "rank-2", lambda t, b: t.expand(b.x("B", 6), 6)),
    ("repeat", "TSR0213", "repeat", lambda t, b: t.repeat(b.x("B", 6), 2)),
    ("permute", "TSR0214", "no permutation", lambda t, b: t.permute(b.x("B", "S", "D"), 0, 1, 1)),
    ("permute of fewer", "TSR0214", "2 dims given", lambda t, b: t.permute(b.x("B", "S", "D"), 0, 1)),
    ("gather rank", "TSR0215", "rank", lambda t, b: t.gather(b.x("B", "V"), 1, b.x("B", t="int64"))),
    ("gather sizes", "TSR0215", "index of size `7`", lambda t, b: t.gather(b.x(4, "V"), 1, b.x(7, 2, t="int64"))),
    ("scatter sizes", "TSR0215", "index", lambda t, b: t.scatter(b.x(4, 3), 0, b.x(2, 5, t="int64"), b.x(2, 5))),
    ("mean of integers", "TSR0301", "mean of `int64`", lambda t, b: t.mean(b.x("B", t="int64"))),
    ("difference of bools", "TSR0301", "dtype `bool`", lambda t, b: t.sub(b.x("B", t="bool"), b.x("B", t="bool"))),
    ("bits of floats", "TSR0301", "dtype `f32`", lambda t, b: t.bitwise_and(b.x("B"), b.x("B"))),
    ("float into integers", "TSR0301", "assignment of `f32`", lambda t, b: t.setitem(b.x(4, t="int64"), 0, b.x())),
    ("rounding mode", "TSR0301", "rounding mode", lambda t, b: t.div(b.x("B"), 2.0, rounding_mode="up")),
    ("two 8-bit floats", "TSR0302", "8-bit", lambda t, b: t.mul(b.x("B", t="fp8_e4m3"), b.x("B", t="fp8_e4m3"))),
    ("condition", "TSR0303", "condition of dtype `int64`", lambda t, b: t.where(b.x("B", t="int64"), 1.0, b.x("B"))),
    ("mask", "TSR0303", "mask of dtype `f32`", lambda t, b: t.masked_fill(b.x("B"), b.x("B"), 0.0)),
    ("index by a mask", "TSR0402", "bool mask", lambda t, b: b.x("B", "D")[b.x("B", t="bool")]),
    ("float index", "TSR0304", "index of dtype `f32`", lambda t, b: t.take(b.x("V", "D"), b.x("B"), 0)),
    ("float classes", "TSR0304", "class targets of dtype", lambda t, b: t.nll_loss(b.x("B", "V"), b.x("B"))),
    ("random integers", "TSR0306", "random number of dtype `int8`", lambda t, b: t.randn(4, dtype="int8")),
    ("negative size", "TSR0106", "size -1", lambda t, b: t.zeros(-1)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "code", "text", "act"), REFUSED, ids=[r[0] for r in REFUSED])
def test_refusals(name: str, code: str, text: str, act: Call) -> None:
    bench = Bench()
    with pytest.raises(Refused) as caught:
        act(bench.ops, bench)
    assert caught.value.code == code, caught.value.message
    assert text in caught.value.message
    assert not caught.value.message.endswith(".")


HELPED: list[tuple[str, str, Call]] = [
    ("transpose the second", ".mT`, has type f32[D, K]", lambda t, b: t.matmul(b.x("S", "D"), b.x("K", "D"))),
    ("transpose the first", ".mT`, has type f32[S, D]", lambda t, b: t.matmul(b.x("D", "S"), b.x("D", "K"))),
    ("swap", "swapped", lambda t, b: t.matmul(b.x("D", "S"), b.x("K", "D"))),
    ("weight of linear", "[out, in]", lambda t, b: t.linear(b.x("B", "D"), b.x("D", "K"))),
    ("unsqueeze", "unsqueeze", lambda t, b: t.gather(b.x("B", "V"), 1, b.x("B", t="int64"))),
    ("compare", "mask != 0", lambda t, b: t.where(b.x("B"), 1.0, b.x("B"))),
    (
        "flatten",
        "flatten the leading dims",
        lambda t, b: t.cross_entropy(b.x("B", "S", "V"), b.x("B", "S", "T", t="int64")),
    ),
    ("quantize", "quantize", lambda t, b: t.rand(2, dtype="int8")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "act"), HELPED, ids=[h[0] for h in HELPED])
def test_helps(name: str, text: str, act: Call) -> None:
    bench = Bench()
    with pytest.raises(Refused) as caught:
        act(bench.ops, bench)
    assert any(text in h for h in caught.value.helps), caught.value.helps


def test_the_labels_of_a_contraction_name_both_axes() -> None:
    b = Bench()
    with pytest.raises(Refused) as caught:
        b.ops.matmul(b.x("B", "S", "D"), b.x("K", "F"))
    first, second = caught.value.blame
    assert (first.operand, first.axis, first.text) == (0, 2, "`D`, last dim")
    assert (second.operand, second.axis, second.text) == (1, 0, "`K`, first dim")


def test_undecided_sizes_become_obligations() -> None:
    b = Bench()
    b.ops.reshape(b.x("B", "D"), Dim.name("B"), Dim.name("H"), Dim.name("K"))
    b.ops.chunk(b.x("B", "D"), 2, 1)
    found = {str(o) for o in b.ops.context.obligations.values()}
    assert found == {"D == H*K", "D % 2 == 0"}


def test_calls_that_no_record_covers_are_left_to_the_library() -> None:
    b = Bench()
    with pytest.raises(NotCovered):
        b.ops.norm(b.x("B", "D"), "nuc")


@pytest.mark.parametrize(
    "act",
    [
        lambda t, b: t.exp(),
        lambda t, b: t.exp(b.x("B"), b.x("B")),
        lambda t, b: t.exp(b.x("B"), fast=True),
        lambda t, b: t.exp("text"),
        lambda t, b: t.reshape(b.x("B"), 1.5),
    ],
    ids=["too few", "too many", "unknown name", "no tensor", "no size"],
)
def test_wrong_calls_raise_type_error(act: Call) -> None:
    bench = Bench()
    with pytest.raises(TypeError):
        act(bench.ops, bench)
