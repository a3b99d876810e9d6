"""What an annotation may say, in our own syntax, in jaxtyping's, and as text."""

from __future__ import annotations

from typing import Any, Optional

import pytest
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped

from tessera.diag import TesseraError
from tessera.frontend.annotation import Lead, Tensor, TensorAnnotation, floating, from_jaxtyping, integer
from tessera.frontend.hints import hint_of, resolve
from tessera.frontend.spec import FunctionSpec
from tessera.ir.dim import Dim
from tessera.ir.dtype import bf16, bool_, f32, int32, int64

B, D = Dim.name("B"), Dim.name("D")


def test_items() -> None:
    a = Tensor["B", "S", 1, "D/2", f32]
    assert a == TensorAnnotation((B, Dim.name("S"), Dim.const(1), D / 2), f32)
    assert str(a) == 'Tensor["B", "S", 1, "D/2", f32]'
    assert a.names == ("B", "S", "D") and a.lead is None
    assert Tensor[()] == TensorAnnotation(()) and str(Tensor[()]) == "Tensor[()]"
    assert Tensor["B"] == TensorAnnotation((B,))
    assert Tensor["B", float].dtype is f32 and Tensor["B", bool].dtype is bool_ and Tensor["B", int].dtype is int64
    assert Tensor["B", torch.bfloat16].dtype is bf16
    assert Tensor["...", "D"] == Tensor[..., "D"] == TensorAnnotation((Lead(), D))
    assert Tensor["*batch", "D"].lead == Lead("batch")
    assert Tensor[f32] == TensorAnnotation(None, f32)
    assert Tensor["B*S", "max(B, 2)"].fixed[0] is B * Dim.name("S")


def test_dtype_classes() -> None:
    a = Tensor["B", floating]
    assert a.admits(bf16) and not a.admits(int32)
    assert Tensor["B", integer].admits(int32) and not Tensor["B", integer].admits(bool_)
    assert Tensor["B"].admits(int32) and str(floating) == "floating"


@pytest.mark.parametrize(
    ("items", "code"),
    [
        ("f32", "TSR0103"),
        (("B", "int64"), "TSR0103"),
        ("B S", "TSR0101"),
        ("__import__('os').system('x')", "TSR0101"),
        ("ﬁ", "TSR0101"),
        ("", "TSR0101"),
        ((1.5,), "TSR0104"),
        ((None,), "TSR0104"),
        ((-1,), "TSR0104"),
        ((True,), "TSR0104"),
        (("...", "..."), "TSR0104"),
        (("B", ["S"]), "TSR0104"),
        ("+".join(["B"] * 5000), "TSR0102"),
    ],
)
def test_bad_items(items: Any, code: str) -> None:
    with pytest.raises(TesseraError) as caught:
        Tensor[items]
    assert caught.value.code == code


def test_jaxtyping() -> None:
    def read(x: object) -> str:
        return str(from_jaxtyping(x))

    assert read(Float[torch.Tensor, "B S D"]) == 'Tensor["B", "S", "D", floating]'
    assert read(Float32[torch.Tensor, "B 3 D+1"]) == 'Tensor["B", 3, "D + 1", f32]'
    assert read(Int[torch.Tensor, "... D"]).startswith('Tensor["...", "D", ')
    assert read(Bool[torch.Tensor, "*batch D"]) == 'Tensor["*batch", "D", bool]'
    assert read(Shaped[torch.Tensor, ""]) == "Tensor[()]"
    assert read(Shaped[torch.Tensor, "#B ?D rows=4"]) == 'Tensor["B", "D", 4]'
    assert from_jaxtyping(int) is None
    two = from_jaxtyping(Shaped[torch.Tensor, "_ _"])
    assert two is not None and len(set(two.names)) == 2


def test_text_is_resolved_without_running_it() -> None:
    scope = {"Tensor": Tensor, "f32": f32, "Optional": Optional, "torch": torch}
    assert resolve('Tensor["B", "D/2", f32]', scope) == Tensor["B", "D/2", f32]
    assert resolve("Tensor[B, D / 2, 1]", scope) == Tensor["B", "D/2", 1]
    assert hint_of('Optional[Tensor["S"]]', scope).optional
    assert hint_of('Tensor["S"] | None', scope).optional
    assert hint_of("torch.Tensor", scope).annotation == TensorAnnotation(None)
    for text in ("Tensor[open('x')]", "__import__('os')", "Tensor[", "missing", "torch.nothing", "[x for x in y]"):
        with pytest.raises(TesseraError) as caught:
            resolve(text, scope)
        assert caught.value.code == "TSR0104"


def test_an_error_points_at_the_annotation() -> None:
    def f(x: Missing["B"]) -> None: ...  # type: ignore[name-defined]

    with pytest.raises(TesseraError) as caught:
        FunctionSpec.of(f)
    assert caught.value.code == "TSR0104"
    assert caught.value.spans[0].text() == 'Missing["B"]'
    assert "annotation of `x`" in str(caught.value)
