"""Signatures, calls against them, and what a call that does not fit is told."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from tessera.diag import TesseraError
from tessera.frontend.annotation import Tensor
from tessera.frontend.binding import bind_arguments
from tessera.frontend.spec import FunctionSpec
from tessera.frontend.unifying import check_call
from tessera.ir.dtype import f32, int32
from tests.frontend.harness import TABLE, bound_call


def every_kind(
    x: Tensor["B", "S"],
    mask: Tensor["S"] | None,
    n: int,
    S: int,
    p: float,
    flag: bool,
    name: str,
    other,
    pair: tuple[Tensor["B"], int],
) -> Tensor["B"]:  # type: ignore[no-untyped-def]
    return x


class Layer:
    def method(self, x: Tensor["B"]) -> Any:
        return x

    @staticmethod
    def static(x: Tensor["B"]) -> Any:
        return x

    @classmethod
    def made(cls, x: Tensor["B"]) -> Any:
        return x


def test_kinds_of_parameters() -> None:
    spec = FunctionSpec.of(every_kind)
    kinds = {p.name: p.kind for p in spec.params}
    assert kinds == {
        "x": "tensor",
        "mask": "optional",
        "n": "static",
        "S": "size",
        "p": "scalar",
        "flag": "static",
        "name": "static",
        "other": "any",
        "pair": "container",
    }
    assert spec.dim_names == ("B", "S")
    assert spec.by_name["x"].span is not None and spec.by_name["x"].span.text() == 'Tensor["B", "S"]'
    assert spec.returns_span is not None and spec.returns_span.text() == 'Tensor["B"]'


def test_methods() -> None:
    assert [p.kind for p in FunctionSpec.of(Layer.method).params] == ["static", "tensor"]
    assert [p.kind for p in FunctionSpec.of(vars(Layer)["static"]).params] == ["tensor"]
    assert [p.kind for p in FunctionSpec.of(vars(Layer)["made"]).params] == ["static", "tensor"]


def scale(x: Tensor["B", "D"], w: Tensor["D"], eps: float = 1e-6, axis: int = -1, mode: str = "a") -> Any:
    return x


def key(*args: Any, **kwargs: Any) -> Any:
    return bind_arguments(FunctionSpec.of(scale), args, kwargs).key


def test_the_key_holds_what_is_static() -> None:
    x, w = torch.ones(2, 3), torch.ones(3)
    assert key(x, w) == key(torch.ones(5, 7), w, 1e-3) == key(x=x, w=w, eps=2.0)
    assert key(x, w, axis=0) != key(x, w) and key(x, w, mode="b") != key(x, w)
    assert key(x, w, axis=1) != key(x, w, axis=2)


def test_leaves() -> None:
    bound = bind_arguments(FunctionSpec.of(scale), (torch.ones(2, 3), torch.ones(3)), {"eps": 1})
    assert [(leaf.path, leaf.kind) for leaf in bound.leaves] == [
        ("x", "tensor"),
        ("w", "tensor"),
        ("eps", "scalar"),
        ("axis", "static"),
        ("mode", "static"),
    ]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, torch.ones(3)), {}, "argument `x` of scale is a int"),
        ((torch.ones(2, 3), None), {}, "argument `w` of scale is a NoneType"),
        ((torch.ones(2, 3), torch.ones(3)), {"eps": "a"}, "argument `eps` of scale is a str"),
        ((torch.ones(2, 3), torch.ones(3)), {"axis": 1.5}, "argument `axis` of scale is a float"),
        ((torch.ones(2, 3), torch.ones(3)), {"mode": 3}, "argument `mode` of scale is a int"),
    ],
)
def test_wrong_python_types(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TesseraError) as caught:
        bind_arguments(FunctionSpec.of(scale), args, kwargs)
    assert caught.value.codes == ("TSR0109",) and caught.value.message == message


def test_every_wrong_type_at_once() -> None:
    with pytest.raises(TesseraError) as caught:
        bind_arguments(FunctionSpec.of(scale), (1, 2), {"mode": 3})
    assert caught.value.codes == ("TSR0109",) * 3


def test_a_call_that_does_not_fit_the_signature_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="missing a required argument"):
        bind_arguments(FunctionSpec.of(scale), (torch.ones(2, 3),), {})


# ---- sizes -----------------------------------------------------------------------------------------------------------


def expressions(x: Tensor["B", "S*2"], half: Tensor["D/2"], d: Tensor["D"], one: Tensor[1, 3]) -> Any:
    return x


def names(x: Tensor["B", "S"], y: Tensor["S", "B", f32], S: int = 4) -> Any:
    return x


def lead(x: Tensor["...", "D"], y: Tensor["...", "D"]) -> Any:
    return x


def unify(f: Any, *tensors: torch.Tensor) -> Any:
    spec = FunctionSpec.of(f)
    bound = bind_arguments(spec, tensors, {})
    dtypes = [TABLE.tensor_type(leaf.value).dtype for leaf in bound.tensors]
    return check_call(spec, bound, [leaf.value.shape for leaf in bound.tensors], dtypes)


def test_names_and_expressions_are_solved() -> None:
    sizes = unify(expressions, torch.ones(2, 6), torch.ones(4), torch.ones(8), torch.ones(1, 3))
    assert sizes.names == {"B": 2, "S": 3, "D": 8}
    sizes = unify(lead, torch.ones(2, 3, 4), torch.ones(2, 3, 4))
    assert sizes.leads == {"...": (2, 3)}


@pytest.mark.parametrize(
    ("f", "args", "codes", "words"),
    [
        (names, (torch.ones(2, 4), torch.ones(4, 3)), ("TSR0107",), "`B` is 2 by `x`, dim 0 and 3 by `y`, dim 1"),
        (
            names,
            (torch.ones(2, 5), torch.ones(5, 2)),
            ("TSR0107", "TSR0107"),
            "`S` is 4 by argument `S` and 5 by `x`, dim 1",
        ),
        (names, (torch.ones(2, 4), torch.ones(4, 2).double()), ("TSR0108",), "argument `y` is f64"),
        (names, (torch.ones(4), torch.ones(4, 2)), ("TSR0105",), "argument `x` has rank 1, 2 expected"),
        (
            expressions,
            (torch.ones(2, 7), torch.ones(4), torch.ones(8), torch.ones(1, 3)),
            ("TSR0106",),
            "no size `S` makes `2*S` equal to 7",
        ),
        (
            expressions,
            (torch.ones(2, 6), torch.ones(4), torch.ones(7), torch.ones(1, 3)),
            ("TSR0106",),
            "`D/2` has no value with D=7",
        ),
        (
            expressions,
            (torch.ones(2, 6), torch.ones(3), torch.ones(8), torch.ones(1, 3)),
            ("TSR0105",),
            "argument `half` has size 3 in dim 0, `D/2` = 4 expected",
        ),
        (
            expressions,
            (torch.ones(2, 6), torch.ones(4), torch.ones(8), torch.ones(2, 3)),
            ("TSR0105",),
            "argument `one` has size 2 in dim 0, 1 expected",
        ),
        (lead, (torch.ones(2, 3, 4), torch.ones(5, 4)), ("TSR0107",), "`...` is [2, 3] by `x` and [5] by `y`"),
    ],
)
def test_mismatches(f: Any, args: tuple[Any, ...], codes: tuple[str, ...], words: str) -> None:
    with pytest.raises(TesseraError) as caught:
        unify(f, *args)
    assert caught.value.codes == codes
    assert words in caught.value.message
    assert __file__ in str(caught.value.spans[0])


def test_all_mismatches_at_once_with_history_and_declaration() -> None:
    with pytest.raises(TesseraError) as caught:
        unify(names, torch.ones(2, 4), torch.ones(9, 3, dtype=torch.int32))
    assert set(caught.value.codes) == {"TSR0107", "TSR0108"} and len(caught.value.codes) == 3
    text = str(caught.value)
    assert "note: S=4 by argument `S`, B=2 by `x`, dim 0" in text
    assert 'declared Tensor["S", "B", f32]' in text


def test_rank_repairs_are_offered() -> None:
    with pytest.raises(TesseraError, match=r"help: `x.unsqueeze\(0\)` has 2 dims"):
        unify(names, torch.ones(4), torch.ones(4, 2))


def test_anonymous_sizes() -> None:
    def f(x: Tensor, y) -> Any:  # type: ignore[no-untyped-def]
        return x

    bound, types = bound_call(FunctionSpec.of(f), (torch.ones(2, 1), torch.ones(3, dtype=torch.int32)), {})
    assert [str(t) for t in types.inputs] == ["f32[x_0, 1]", "int32[y_0]"]
    assert types.hints == {"x_0": 2, "y_0": 3} and types.ones == ("x_1",) and types.flexible == ("x_0", "y_0")
    assert bound.leaves[1].kind == "tensor" and int32.is_int


def choosing(x: Tensor["N"], mode: Literal["a", "b"] = "a") -> Tensor["N"]:
    return x


def test_a_value_that_is_no_choice_is_shown() -> None:
    with pytest.raises(TesseraError, match="takes a Literal") as caught:
        bind_arguments(FunctionSpec.of(choosing), (torch.ones(3),), {"mode": "c"})
    assert caught.value.codes == ("TSR0109",) and caught.value.message == "argument `mode` of choosing is 'c'"
