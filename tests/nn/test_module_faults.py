"""What is proved of a module's forward and where; what a module cannot have."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tessera import ModuleError, ShapeError, Tensor, nn
from tests.nn.test_modules import Affine, Based, X, still

# ---- proofs ------------------------------------------------------------------------------------------------


def test_a_forward_is_proved_with_what_the_class_declares() -> None:
    assert str(Affine.forward.check()).startswith("Affine.forward: proved for every width")
    assert Affine(4, 3).forward.check().verdict == "proved"


def test_a_fault_is_one_where_the_class_is_defined() -> None:
    with pytest.raises(ShapeError) as caught:

        @tessera.module
        class Wrong:
            weight: Tensor["F", "D"]

            def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "F"]:
                return x @ self.weight

    assert caught.value.code == "TSR0201" and "`self.weight`" in str(caught.value)
    assert "`F`, first dim" in str(caught.value) and "self.weight.T" in str(caught.value)

    with pytest.raises(ShapeError) as caught:

        class Result(nn.Module):
            heads: int

            def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "heads"]:
                return x

    assert caught.value.code == "TSR0210"


def test_a_call_is_held_to_what_the_object_has() -> None:
    with pytest.raises(ShapeError) as caught:
        Affine(4, 3)(torch.ones(2, 5))
    assert caught.value.code == "TSR0107" and "`width` is 4 by `self` and 5 by `x`, dim 1" in str(caught.value)

    class Outer(nn.Module):
        def __init__(self) -> None:
            self.inner = Affine(4, 3)

        def forward(self, x: Tensor["B", "D"]) -> Tensor["B", 3]:
            return self.inner(x)

    with pytest.raises(ShapeError) as caught:
        Outer()(torch.ones(2, 5))
    assert caught.value.code == "TSR0105" and "D=5" in str(caught.value)
    with pytest.raises(ShapeError, match="TSR0211"):

        class Fixed(nn.Module):
            def __init__(self) -> None:
                self.inner = Affine(4, 3)

            def forward(self, x: Tensor["B", 5]) -> Tensor["B", 3]:
                return self.inner(x)

        Fixed()(torch.ones(2, 5))


def test_sizes_come_from_declared_tensors_too() -> None:
    with pytest.raises(ShapeError, match="`D` is 4 by `self`"):
        Based(4)(torch.ones(2, 3))


# ---- what is refused ---------------------------------------------------------------------------------------


def shadowed() -> None:
    @tessera.module
    class Shadowed:
        def __init__(self) -> None:
            self.half = nn.Linear(2, 1)

    Shadowed()


def in_the_class() -> None:
    @tessera.module
    class InTheClass:
        parameters: Any = 3


def mixed() -> None:
    @tessera.module
    class Mixed:
        def __init__(self) -> None:
            self.parts = [nn.Linear(2, 1), 3]

    Mixed()


def keys() -> None:
    @tessera.module
    class Keys:
        def __init__(self) -> None:
            self.parts = {3: nn.Linear(2, 1)}

    Keys()


def frozen() -> None:
    @tessera.module
    @dataclasses.dataclass(frozen=True)
    class Frozen:
        width: int


def no_class() -> None:
    tessera.module(3)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("act", "text", "line"),
    [
        (shadowed, "`half` of `Shadowed` is a method of every module, and a Linear is assigned", "self.half = "),
        (in_the_class, "`parameters` of `InTheClass` is a method of every module, and an int", "@tessera.module"),
        (mixed, "`parts` of `Mixed` holds a Module beside an int", "self.parts = "),
        (keys, "`parts` of `Keys` has keys that cannot be part of a name", "self.parts = "),
        (frozen, "`Frozen` is a frozen dataclass, and modules take attributes", "tessera.module"),
        (no_class, "an int where a class is needed", "tessera.module(3)"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_no_module_can_have(act: Callable[[], None], text: str, line: str) -> None:
    with pytest.raises(ModuleError) as caught:
        act()
    assert caught.value.code == "TSR0113" and text in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert line in (caught.value.spans[0].source_line() or "")


def test_what_a_class_defines_itself_is_its_own() -> None:
    @tessera.module
    class Own:
        def __init__(self) -> None:
            self.calls = OrderedDict(a=nn.Linear(4, 4))

        def train(self, mode: bool = True) -> Any:
            return super().train(mode)  # type: ignore[misc]

        def forward(self, x: Tensor["B", 4]) -> Tensor["B", 4]:
            return self.calls["a"](x)

    own = still(Own())
    own.forward = own.forward
    assert own.eval().training is False
    torch.testing.assert_close(own(X), own.calls["a"](X))
