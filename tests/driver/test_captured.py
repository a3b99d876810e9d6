"""What a function reads of the world around it is followed: compiled calls give what eager ones give."""

from __future__ import annotations

import types
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import pytest
import torch

import tessera
from tessera import Tensor
from tests.driver import settings_module

SCALE: Any = 2.0
SIZES = [1.0, 2.0]
OPTIONS = {"eps": 1.0, "deep": {"a": [3.0]}}
W = torch.tensor([1.0, 2.0, 3.0])
ACT: Any = torch.relu
COUNT = 0
LOG: list[str] = []
DTYPE: Any = torch.float32


@dataclass
class Config:
    eps: float = 1.0
    sizes: list[float] = field(default_factory=lambda: [1.0])
    flag = False

    def shift(self) -> float:
        return self.eps + SCALE

    @property
    def twice(self) -> float:
        return self.eps * 2


class Slots:
    __slots__ = ("eps",)
    kind = 1.0

    def __init__(self) -> None:
        self.eps = 1.0


CFG, SLOTS = Config(), Slots()
SPACE = types.SimpleNamespace(inner=types.SimpleNamespace(eps=1.0))
LAYER = torch.nn.Linear(3, 3).requires_grad_(False)
X = torch.tensor([-1.0, 0.5, 2.0])


def agrees(f: Any, *args: Any) -> None:
    """Three calls, so that the last ones are recognised, each as eager."""
    for _ in range(3):
        torch.testing.assert_close(f(*args), f.eager(*args), rtol=1e-6, atol=1e-6)


@pytest.fixture(autouse=True)
def compiled_without_warning(request: pytest.FixtureRequest) -> Any:
    """Nothing here may run eagerly unnoticed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_number_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * SCALE

    agrees(f, X)
    for value in (3.0, 2.0, 2, -0.0, 0.0, float("inf")):
        monkeypatch.setitem(globals(), "SCALE", value)
        agrees(f, X)
        assert torch.equal(torch.signbit(f(X)), torch.signbit(f.eager(X)))


def test_an_equal_number_needs_no_new_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * SCALE

    for _ in range(4):
        monkeypatch.setitem(globals(), "SCALE", float(f"{2.5}"))
        agrees(f, X)
    assert f.cache_info().variants == 1
    for n in (2, 3, 2, 3):
        monkeypatch.setitem(globals(), "SCALE", n)
        agrees(f, X)
    assert f.cache_info().variants == 3


def test_dtypes_texts_and_tuples(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return (x.to(DTYPE) * 1.5).float()

    agrees(f, X)
    monkeypatch.setitem(globals(), "DTYPE", torch.float64)
    agrees(f, X)
    monkeypatch.setitem(globals(), "DTYPE", torch.float16)
    agrees(f, X)


def test_a_closure_and_nested_functions() -> None:
    scale, shift = 2.0, [1.0]

    def inner(x: Any) -> Any:
        def innermost(y: Any) -> Any:
            return y * scale + shift[0]

        return innermost(x)

    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return inner(x)

    agrees(f, X)
    scale = 3.0
    agrees(f, X)
    shift[0] = 5.0
    agrees(f, X)
    shift = [7.0]
    agrees(f, X)


def test_functions_made_in_a_loop() -> None:
    made = []
    for n in range(3):

        @tessera.function
        def f(x: Tensor["N"]) -> Tensor["N"]:
            return x * n  # noqa: B023

        made.append(f)
        agrees(f, X)
    for f in made:  # all see the last n
        agrees(f, X)
        assert torch.equal(f(X), X * 2)


def test_containers_changed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        for s in SIZES:
            x = x + s
        return x * OPTIONS["eps"] + sum(OPTIONS["deep"]["a"])  # type: ignore[index]

    agrees(f, X)
    SIZES.append(4.0)
    agrees(f, X)
    monkeypatch.setitem(OPTIONS, "eps", 5.0)
    agrees(f, X)
    OPTIONS["deep"]["a"][0] = 9.0  # type: ignore[index]
    agrees(f, X)
    monkeypatch.setitem(OPTIONS, "deep", {"a": [1.0, 1.0]})
    agrees(f, X)


def test_a_list_and_a_dict_given_as_arguments() -> None:
    @tessera.function
    def f(x: Tensor["N"], sizes: list, options: dict) -> Tensor["N"]:
        return x * sum(sizes) + options["a"]

    sizes, options = [1.0, 2.0], {"a": 1.0}
    agrees(f, X, sizes, options)
    sizes[0] = 5.0
    agrees(f, X, sizes, options)
    options["a"] = 7.0
    agrees(f, X, sizes, options)


def test_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = {"double"}

    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * 2 if "double" in switches else x

    agrees(f, X)
    switches.clear()
    agrees(f, X)


def helper(x: Any, by: float = 2.0, *, plus: float = 1.0) -> Any:
    return other(x) * by + plus


def other(x: Any) -> Any:
    return x - SCALE


def test_helpers_their_globals_and_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return helper(x)

    agrees(f, X)
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    agrees(f, X)
    monkeypatch.setattr(helper, "__defaults__", (7.0,))
    agrees(f, X)
    monkeypatch.setitem(helper.__kwdefaults__, "plus", 3.0)
    agrees(f, X)
    monkeypatch.setitem(globals(), "other", lambda x: x * 10)
    agrees(f, X)


def test_own_defaults() -> None:
    @tessera.function
    def f(x: Tensor["N"], by: float = 2.0, times: int = 1) -> Tensor["N"]:
        return x * by * times

    agrees(f, X)
    f.fn.__defaults__ = (3.0, 1)  # type: ignore[attr-defined]
    agrees(f, X)
    f.fn.__defaults__ = (3.0, 4)  # type: ignore[attr-defined]
    agrees(f, X)


def test_calls_between_compiled_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def inner(x: Tensor["N"], by: float = 2.0) -> Tensor["N"]:
        return x * SCALE * by

    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return inner(x) + 1

    agrees(f, X)
    monkeypatch.setitem(globals(), "SCALE", 4.0)
    agrees(f, X)
    inner.fn.__defaults__ = (5.0,)  # type: ignore[attr-defined]
    agrees(f, X)


def test_a_function_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return ACT(x)

    agrees(f, X)
    monkeypatch.setitem(globals(), "ACT", torch.tanh)
    agrees(f, X)
    monkeypatch.setitem(globals(), "ACT", partial(helper, by=3.0))
    agrees(f, X)
    monkeypatch.setitem(globals(), "SCALE", 9.0)
    agrees(f, X)


def test_a_module_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * settings_module.eps + settings_module.inner.eps

    agrees(f, X)
    monkeypatch.setattr(settings_module, "eps", 3.0)
    agrees(f, X)
    monkeypatch.setattr(settings_module.inner, "eps", 4.0)
    agrees(f, X)


def test_attributes_of_objects_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        y = x * CFG.eps + CFG.sizes[0] + CFG.shift() * SPACE.inner.eps - CFG.twice
        return y * SLOTS.eps * Slots.kind if Config.flag else y + 1

    agrees(f, X)
    for owner, name, value in [
        (CFG, "eps", 2.0), (CFG, "sizes", [3.0]), (Config, "flag", True), (SLOTS, "eps", 5.0), (Slots, "kind", 3.0),
        (SPACE.inner, "eps", 7.0), (SPACE, "inner", types.SimpleNamespace(eps=8.0)), (CFG, "flag", False),
    ]:  # fmt: skip
        monkeypatch.setattr(owner, name, value)
        agrees(f, X)
    CFG.sizes[0] = 11.0
    agrees(f, X)
    monkeypatch.setitem(globals(), "SCALE", 6.0)  # read by a method
    agrees(f, X)


def test_an_object_that_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(x: Any, cfg: Any) -> Any:
        return x * cfg.eps + (1 if cfg.flag else 2)

    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return scaled(x, CFG)

    agrees(f, X)
    monkeypatch.setattr(CFG, "eps", 4.0)
    agrees(f, X)
    monkeypatch.setattr(Config, "flag", True)
    agrees(f, X)


class Model:
    gain = 1.0

    def __init__(self) -> None:
        self.parts = {"a": [1.0]}

    @tessera.function
    def __call__(self, x: Tensor["N"]) -> Tensor["N"]:
        return x * self.gain * SCALE + self.parts["a"][0] + self.more()

    def more(self) -> float:
        return SIZES[0]


def test_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Model()
    agrees(m.__call__, X)
    monkeypatch.setattr(Model, "gain", 2.0)
    agrees(m.__call__, X)
    monkeypatch.setitem(globals(), "SCALE", 6.0)
    agrees(m.__call__, X)
    m.parts["a"][0] = 4.0
    agrees(m.__call__, X)
    monkeypatch.setitem(globals(), "SIZES", [44.0])
    agrees(m.__call__, X)


def test_tensors_are_rebound_written_and_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * W

    agrees(f, X)
    W.mul_(2)
    agrees(f, X)
    for n in range(30):
        monkeypatch.setitem(globals(), "W", torch.full((3,), float(n)))
        agrees(f, X)
    assert f.cache_info().variants == 1
    monkeypatch.setitem(globals(), "W", torch.arange(3))
    agrees(f, X)
    monkeypatch.setitem(globals(), "W", torch.arange(6.0)[::2])
    agrees(f, X)
    monkeypatch.setitem(globals(), "W", torch.tensor(3.0))
    agrees(f, X)
    monkeypatch.setitem(globals(), "W", torch.ones(3))
    agrees(f, X)
    W.data = torch.tensor([5.0], dtype=torch.float64)
    agrees(f, X)
    monkeypatch.setitem(globals(), "W", 4.0)
    agrees(f, X)


def test_a_tensor_that_needs_a_gradient() -> None:
    weight = torch.ones(3)

    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * weight

    agrees(f, X)
    weight.requires_grad_(True)
    assert f(X).requires_grad
    weight = torch.full((3,), 2.0)
    assert not f(X).requires_grad
    agrees(f, X)


def test_one_tensor_under_two_names() -> None:
    a = b = torch.ones(3)

    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * a - b

    agrees(f, X)
    b = torch.full((3,), 7.0)
    agrees(f, X)
    a = torch.full((3,), 5.0)
    agrees(f, X)


def test_a_layer_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N", 3]) -> Tensor["N", 3]:
        return LAYER(x) + LAYER.bias

    x = torch.randn(4, 3)
    agrees(f, x)
    with torch.no_grad():
        LAYER.weight.zero_()
    agrees(f, x)
    LAYER.bias = torch.nn.Parameter(torch.full((3,), 9.0), requires_grad=False)
    agrees(f, x)
    monkeypatch.setitem(globals(), "LAYER", torch.nn.Linear(3, 3, bias=True).requires_grad_(False))
    agrees(f, x)


def test_effects_of_the_function_itself_are_no_inputs() -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        global COUNT
        COUNT += 1
        LOG.append("traced")
        return x + 1

    agrees(f, X)
    before = f.cache_info().variants
    f(X)
    assert f.cache_info().variants == before == 1


def test_nothing_is_compared_where_nothing_is_read() -> None:
    @tessera.function
    def add(x: Tensor["N"], y: Tensor["N"]) -> Tensor["N"]:
        return x + y

    agrees(add, X, X + 1)
    (variant,) = add.compiled.all()
    assert not variant.watch


class Scales:
    """Class attributes that are no functions, and that no dict takes as keys."""

    table: ClassVar[dict[str, float]] = {"a": 2.0}
    steps: ClassVar[list[float]] = [1.0, 3.0]


def test_class_attributes_that_cannot_be_hashed() -> None:
    scales = Scales()

    @tessera.function(strict=True)
    def scaled(x: Tensor["N"], by: Scales) -> Tensor["N"]:
        return x * by.table["a"] + scales.steps[1] + scales.table["a"]

    x = torch.ones(3)
    assert torch.equal(scaled(x, scales), torch.full((3,), 7.0))
    assert torch.equal(scaled(x, scales), torch.full((3,), 7.0))


class Answers:
    """Refuses names that it does not know, with an exception of its own."""

    def __getattr__(self, name: str) -> float:
        if name != "known":
            raise RuntimeError(f"no {name} here")
        return 2.0


class Holds:
    inner = Answers()


def test_objects_are_not_asked_for_what_the_code_does_not_read() -> None:
    holds = Holds()

    @tessera.function(strict=True)
    def scaled(x: Tensor["N"]) -> Tensor["N"]:
        return x * holds.inner.known

    assert torch.equal(scaled(torch.ones(3)), torch.full((3,), 2.0))
