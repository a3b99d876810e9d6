"""Options with values that are not allowed: one error or warning names the variable, the value and what is allowed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tessera
from tessera import Tensor, config
from tessera.diag import ConfigError, TesseraWarning
from tests.faults.harness import right, scale

BAD = [
    ("TESSERA_BACKEND", "gpu", "auto, c, triton, eager"),
    ("TESSERA_CACHE", "/dev/null", "on, off, readonly"),
    ("TESSERA_CACHE_DIR", "relative", "an absolute path"),
    ("TESSERA_CC", "-O2", "the name or path of one program"),
    ("TESSERA_CFLAGS_OPT", "nonsense", "1, 2 or 3"),
    ("TESSERA_COMPILE_TIMEOUT", "-1", "seconds above 0"),
    ("TESSERA_SHAPES", "maybe", "strict, warn, off"),
    ("TESSERA_STREAM_STORES", "huh", "auto, on, off"),
    ("TESSERA_VERIFY", "full", "on or off"),
]


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No option of an earlier test is remembered."""
    config.refresh()
    yield
    monkeypatch.undo()
    config.refresh()


@pytest.mark.parametrize(("variable", "value", "allowed"), BAD)
def test_a_value_that_is_not_allowed(
    variable: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(variable, value)
    config.refresh()
    for _ in range(2):  # it is not forgotten
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            try:
                assert right(scale())  # eagerly: what the option is about is not used
                (text,) = (str(one.message) for one in found)
            except ConfigError as error:
                text = str(error)
        assert variable in text and f"`{value}`" in text and f"allowed: {allowed}" in text
    monkeypatch.delenv(variable)
    monkeypatch.setenv("TESSERA_CACHE_DIR", str(tmp_path / "cache"))
    config.refresh()
    f = scale()
    assert right(f) and f.cache_info().eager == 0


def test_a_function_goes_on_when_the_option_is_set_right(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * 1.25

    monkeypatch.setenv("TESSERA_CFLAGS_OPT", "fast")
    config.refresh()
    with pytest.warns(TesseraWarning, match="`fast` is not a value of TESSERA_CFLAGS_OPT"):
        assert f(torch.ones(3)).sum() == 3.75
    monkeypatch.setenv("TESSERA_CFLAGS_OPT", "1")
    config.refresh()
    assert f(torch.ones(3)).sum() == 3.75
    assert f.cache_info().eager == 1 and f.cache_info().variants == 1
