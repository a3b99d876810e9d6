"""Names, spans, sizes and refusals: what a traced object is to Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera.diag import TesseraError
from tessera.frontend.annotation import Tensor
from tessera.frontend.names import targets
from tessera.ir.dim import Dim
from tessera.ir.dtype import f32, int64
from tessera.ir.types import ScalarType
from tests.frontend.harness import T, checked, run, trace_call, traced


def named(x: Tensor["B", "S"]) -> Any:
    centred = x - x.mean(-1, keepdim=True)
    hidden, gate = torch.tanh(centred).chunk(2, dim=1)
    best, where = x.max(1)
    hidden = hidden * gate
    (last := hidden + 1)
    return F.gelu(last).sum(), best, where


def test_values_have_the_user_s_names_and_places() -> None:
    found = traced(named, T("B", "S"))
    names = [op.results[0].name for op in found.function.ops]
    for name in ("centred", "hidden", "gate", "best", "where", "hidden_1", "last"):
        assert name in names, names
    for op in found.function.ops:
        assert op.span is not None and op.span.file == __file__
    by_name = {op.results[0].name: op for op in found.function.ops}
    assert by_name["centred"].span.text() == "x - x.mean(-1, keepdim=True)"
    assert by_name["hidden_1"].span.text() == "hidden * gate"


def test_results_of_functions_of_python_keep_their_names_too() -> None:
    """A call of a function written in Python leaves the frame of the caller at another place than a method in C."""

    def f(x: Tensor["B", "S"]) -> Any:
        shifted = tessera.exp(x)
        best, where = tessera.max(shifted, dim=-1)
        return best, where

    names = [op.results[0].name for op in traced(f, T("B", "S")).function.ops]
    assert "shifted" in names and {"best", "where"} & set(names)


def test_composites_leave_their_origin() -> None:
    def f(x: Tensor["B", "S"]) -> Any:
        p = torch.softmax(x, -1)
        return p

    ops = traced(f, T("B", "S")).function.ops
    assert {op.origin for op in ops} == {"softmax"} and ops[-1].results[0].name == "p"
    assert {op.span.text() for op in ops if op.span} == {"torch.softmax(x, -1)"}


def test_targets_of_stores() -> None:
    def f(x: Any) -> Any:
        a = x.one()
        b, c = x.two()
        x.three().attr = x
        return a, b, c, x.four()

    assert {names for names in targets(f.__code__).values() if names} == {("a",), ("b", "c")}


def test_a_traced_tensor_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: Tensor["B", "S"]) -> Any:
        y = x + 1
        print(y, f"{y}", x.shape, f"{x.shape[0]:>4}", str(x.shape[1]))
        return y

    traced(f, T("B", "S"))
    assert capsys.readouterr().out == "<traced y: f32[B, S]> <traced y: f32[B, S]> (B, S)    B S\n"


def test_tensors_are_told_apart_by_identity() -> None:
    def f(x: Tensor["B"]) -> Any:
        seen = {x: 1, x + 1: 2}
        return seen[x] * x, len({x, x})

    assert traced(f, T("B")).outputs[1].value == 1


def truth(x: Tensor["B"]) -> Any:
    return x if (x > 0).all() else -x


def loop(x: Tensor["B"]) -> Any:
    while x.sum() > 1:
        x = x / 2
    return x


def item(x: Tensor["B"]) -> Any:
    return x * x.max().item()


def as_float(x: Tensor["B"]) -> Any:
    return x * float(x.sum())


def as_list(x: Tensor["B"]) -> Any:
    return x.tolist()


def as_array(x: Tensor["B"]) -> Any:
    return x.numpy()


def contains(x: Tensor["B"]) -> Any:
    return x if 3 in x else x + 1


def strides(x: Tensor["B"]) -> Any:
    return x * x.stride(0)


def missing(x: Tensor["B"]) -> Any:
    return x.frobnicate()


def returns_object(x: Tensor["B"]) -> Any:
    return object()


@pytest.mark.parametrize(
    ("f", "code", "at", "word"),
    [
        (truth, "TSR0401", "x if (x > 0).all() else -x", "where"),
        (loop, "TSR0401", "x.sum() > 1", "where"),
        (item, "TSR0402", "x.max().item()", "argument"),
        (as_float, "TSR0402", "float(x.sum())", "argument"),
        (as_list, "TSR0402", "x.tolist()", "argument"),
        (as_array, "TSR0402", "x.numpy()", "argument"),
        (contains, "TSR0401", "3 in x", "any()"),
        (strides, "TSR0402", "x.stride(0)", "layout"),
        (missing, "TSR0406", "x.frobnicate", "frobnicate"),
        (returns_object, "TSR0407", "returns_object", "object"),
    ],
)
def test_what_needs_a_value_is_refused(f: Any, code: str, at: str, word: str) -> None:
    with pytest.raises(TesseraError) as caught:
        traced(f, T("B"))
    assert caught.value.code == code
    found = caught.value.spans[0].text()
    assert found is not None and (found == at or found in at), found
    assert word in str(caught.value)


def test_a_loop_without_end_is_stopped() -> None:
    def f(x: Tensor["B"]) -> Any:
        for _ in range(10_002):
            x = x + 1
        return x

    with pytest.raises(TesseraError) as caught:
        traced(f, T("B"))
    assert caught.value.code == "TSR0405" and caught.value.spans[0].text() == "x + 1"


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_size_arithmetic_stays_symbolic() -> None:
    kept: list[Any] = []

    def f(x: Tensor["B", "S"]) -> Any:
        b, s = x.shape
        kept.extend([b * s + 1, s // 2, s % 4, -b, 2 * b - s, divmod(s, 3)[0], s**2, x.numel(), max(3, 2)])
        assert x.shape == (b, s) and x.size(-1) == s and x.dim() == x.ndim == 2
        assert s - s == 0 and b * 0 == 0 and (s + 1) > s and not s + 1 <= s
        return x.reshape(s, b)

    traced(f, T("B", "S"))
    assert [str(d) for d in kept] == ["B*S + 1", "S // 2", "S % 4", "-B", "2*B - S", "S // 3", "S**2", "B*S", "3"]


FACTORIES = {
    "ones": lambda s: torch.ones(s, s),
    "ones of a tuple": lambda s: torch.ones((s, 2)),
    "zeros": lambda s: torch.zeros(2, s),
    "full": lambda s: torch.full((s, s), 1.0),
    "eye": lambda s: torch.eye(s),
    "arange": lambda s: torch.arange(s),
    "arange from": lambda s: torch.arange(1, s),
    "empty": lambda s: torch.empty(s, s),
    "rand": lambda s: torch.rand(s, s),
    "randn": lambda s: torch.randn(s, 2),
    "linspace": lambda s: torch.linspace(0, 1, s),
    "bool": lambda s: torch.ones(s, s, dtype=torch.bool),
}


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES.keys())
def test_torch_factories_take_sizes(make: Any) -> None:
    found = traced(lambda x: make(x.shape[0]), T("S"))
    (out,) = found.function.outputs
    assert any(not d.is_const for d in out.type.dims) and found.specialised == {}  # type: ignore[union-attr]


def test_real_tensors_take_sizes() -> None:
    w = torch.arange(12.0)

    def f(x: Tensor["S", 3]) -> Any:
        return w.reshape(x.shape[0], 3) * x.shape[0] + w[: x.shape[0], None] + x

    assert run(f, torch.zeros(4, 3)).shape == (4, 3)


def test_a_size_that_python_needs_specialises_the_call() -> None:
    def f(x: Tensor["B", "S"]) -> Any:
        return [x[:, i] for i in range(x.shape[1])]

    _, _, found = trace_call(f, torch.ones(2, 3))
    assert found.specialised["S"][0] == 3 and len(found.outputs) == 3
    assert [str(c) for c in found.choices] == ["S == 3"]


def test_questions_about_sizes_become_guards() -> None:
    def f(x: Tensor["B", "S"]) -> Any:
        return x[:, :8] if x.shape[1] > 8 else x

    _, _, long = trace_call(f, torch.ones(2, 9))
    _, _, short = trace_call(f, torch.ones(2, 3))
    assert [str(c) for c in long.choices] == ["8 < S"]
    assert [str(c) for c in short.choices] == ["8 >= S"]
    assert long.choices[0].true_for({"S": 9}) and not long.choices[0].true_for({"S": 8})


def test_a_branch_on_equal_names_is_decided_at_the_call() -> None:
    def f(x: Tensor["S"], y: Tensor["T"]) -> Any:
        return x + y if x.shape[0] == y.shape[0] else x

    assert checked(f).ok
    assert run(f, torch.ones(3), torch.ones(3)).tolist() == [2, 2, 2]
    assert run(f, torch.ones(3), torch.ones(4)).tolist() == [1, 1, 1]


def test_anonymous_sizes_are_equal_when_they_are() -> None:
    def f(x: Tensor, y: Tensor) -> Any:
        return x + y

    _, _, found = trace_call(f, torch.ones(2, 3), torch.ones(2, 3))
    assert [str(o) for o in found.function.obligations] == ["x_0 == y_0", "x_1 == y_1"]
    assert {o.verdict for o in found.function.obligations} == {"guarded"}
    _, types, found = trace_call(f, torch.ones(2, 3), torch.ones(1, 3))
    assert types.ones == ("y_0",) and [str(o) for o in found.function.obligations] == ["x_1 == y_1"]
    with pytest.raises(TesseraError) as caught:
        trace_call(f, torch.ones(2, 3), torch.ones(2, 4))
    assert caught.value.code == "TSR0202"


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_floats_are_dynamic_until_python_asks() -> None:
    def f(x: Tensor["B"], p: float = 0.5, eps: float = 1e-6) -> Any:
        if p > 0:
            x = x * (1 - p)
        return x + eps

    _, _, found = trace_call(f, torch.ones(2), 0.25)
    assert {k: v[0] for k, v in found.specialised.items()} == {"p": 0.25}
    assert [i.kind for i in found.inputs] == ["leaf", "leaf", "leaf"]
    assert run(f, torch.ones(2), 0.25).tolist() == pytest.approx([0.750001, 0.750001])


def test_scalars_are_f64_beside_f64() -> None:
    def f(x: Tensor["B"], s: float) -> Any:
        return x * s

    _, types, _ = trace_call(f, torch.ones(2), 0.1)
    assert types.inputs[1] == ScalarType(f32)
    _, types, _ = trace_call(f, torch.ones(2).double(), 0.1)
    assert str(types.inputs[1]) == "scalar f64"


def test_results_that_are_no_tensors() -> None:
    def f(x: Tensor["B", "S", int64]) -> Any:
        return x, x.shape[0] * 2, None, "text", 3

    found = traced(f, T("B", "S", dtype=int64))
    assert [o.kind for o in found.outputs] == ["tensor", "size", "static", "static", "static"]
    assert found.outputs[1].value is Dim.name("B") * 2


# ---- tensors from outside the function -------------------------------------------------------------------

OUTSIDE = torch.arange(4.0)


def reads_outside(x: Tensor["B"]) -> Any:
    return x * OUTSIDE.sum().item()


def branches_outside(x: Tensor["B"]) -> Any:
    return x if OUTSIDE.sum() > 3 else -x


def writes_outside(x: Tensor["B"]) -> Any:
    OUTSIDE.add_(1)
    return x


@pytest.mark.parametrize(
    ("f", "code"), [(reads_outside, "TSR0402"), (branches_outside, "TSR0401"), (writes_outside, "TSR0403")]
)
def test_the_content_of_outside_tensors_is_not_baked_in(f: Any, code: str) -> None:
    with pytest.raises(TesseraError) as caught:
        trace_call(f, torch.ones(4))
    assert caught.value.codes == (code,)
    assert OUTSIDE.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_outside_tensors_are_hidden_arguments() -> None:
    def f(x: Tensor["B"]) -> Any:
        return x * OUTSIDE.shape[0] + OUTSIDE[:2].sum() + (OUTSIDE - 1) * 2

    _, _, found = trace_call(f, torch.ones(4))
    assert [s.kind for s in found.inputs] == ["leaf", "capture"]
    assert run(f, torch.ones(4)).tolist() == [3.0, 5.0, 7.0, 9.0]
