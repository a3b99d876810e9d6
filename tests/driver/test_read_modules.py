"""Values of modules, however a function comes by the module."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor
from tests.driver.test_captured import agrees

X = torch.tensor([-1.0, 0.5, 2.0])
OPTIONS = types.ModuleType("tests.driver.options_of_test")
HOLDER = types.SimpleNamespace(options=OPTIONS)


@pytest.fixture(autouse=True)
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, OPTIONS.__name__, OPTIONS)
    monkeypatch.setattr(OPTIONS, "factor", 2.0, raising=False)
    yield


def _factor(options: Any) -> float:
    return float(options.factor)


@tessera.function
def by_another_name(x: Tensor["N"]) -> Tensor["N"]:
    chosen = OPTIONS
    return x * chosen.factor


@tessera.function
def handed_on(x: Tensor["N"]) -> Tensor["N"]:
    return x * _factor(OPTIONS)


@tessera.function
def imported(x: Tensor["N"]) -> Tensor["N"]:
    import tests.driver.options_of_test as chosen

    return x * chosen.factor


@tessera.function
def value_imported(x: Tensor["N"]) -> Tensor["N"]:
    from tests.driver.options_of_test import factor

    return x * factor


@tessera.function
def near(x: Tensor["N"]) -> Tensor["N"]:
    from .options_of_test import factor  # noqa: TID252

    return x * factor


@tessera.function
def held(x: Tensor["N"]) -> Tensor["N"]:
    chosen = HOLDER
    return x * chosen.options.factor


@tessera.function
def given(x: Tensor["N"], holder: object = HOLDER) -> Tensor["N"]:
    return x * holder.options.factor


@pytest.mark.parametrize("f", [by_another_name, handed_on, imported, value_imported, near, held, given], ids=str)
def test_another_value_is_seen(f: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        agrees(f, X)
    monkeypatch.setattr(OPTIONS, "factor", 3.0)
    agrees(f, X)
    assert f.cache_info().eager == 0 and f.cache_info().variants == 2


def test_a_module_that_the_trace_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "options_from_file.py").write_text("factor = 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        from options_from_file import factor

        return x * factor

    try:
        sys.modules.pop("options_from_file", None)
        f.compiled.variants.clear()
        agrees(f, X)
        sys.modules["options_from_file"].factor = 5.0
        agrees(f, X)
    finally:
        sys.modules.pop("options_from_file", None)


def test_far_names_of_long_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind 255 names an instruction has its argument in two parts."""
    text = "".join(f"    x.n{n}\n" for n in range(300))
    code = compile(f"def f(x):\n{text}    return OPTIONS.factor + OPTIONS.factor\n", "<long>", "exec")
    inner = next(c for c in code.co_consts if isinstance(c, types.CodeType))
    made: Callable[..., Any] = types.FunctionType(inner, globals())
    found = tessera.frontend.reads.reads_of(made.__code__)
    assert [(r.name, r.steps) for r in found.reads] == [("OPTIONS", (("attr", "factor"),))]
