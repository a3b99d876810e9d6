"""Where following what a function reads ends: values without end, refusals, threads."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor, TraceError
from tests.driver.test_captured import agrees

SCALE: Any = 2.0
X = torch.tensor([-1.0, 0.5, 2.0])


def test_values_without_end_run_eagerly() -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * step

    def run(n: int) -> None:
        nonlocal step
        step = n
        torch.testing.assert_close(f(X), f.eager(X))

    step = 0
    for n in range(16):
        run(n + 2)
    with pytest.warns(tessera.diag.TesseraWarning, match="has had 16 values"):
        run(100)
    for n in range(200, 210):
        run(n)
    assert f.cache_info().variants == 16 and f.cache_info().eager == 11
    run(5)
    assert f.cache_info().eager == 11


def test_a_refusal_ends_with_its_cause() -> None:
    limit = 20_000

    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        for _ in range(limit):
            x = x + 1
        return x

    with pytest.warns(tessera.diag.TesseraWarning, match="copies"):
        f(X)
    limit = 3
    agrees(f, X)
    assert f.cache_info().variants == 1


def test_threads_see_one_of_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * SCALE

    wrong: list[torch.Tensor] = []
    allowed = [X * 2.0, X * 3.0]
    done = threading.Event()

    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(300):
                got = f(X)
                if not any(torch.equal(got, a) for a in allowed):
                    wrong.append(got)

    def flip() -> None:
        n = 0
        while not done.is_set():
            globals()["SCALE"] = 2.0 + n % 2
            n += 1

    monkeypatch.setitem(globals(), "SCALE", 2.0)
    workers, flipper = [threading.Thread(target=work) for _ in range(4)], threading.Thread(target=flip)
    flipper.start()
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    done.set()
    flipper.join()
    assert not wrong
    for value in (2.0, 3.0):
        globals()["SCALE"] = value
        assert torch.equal(f(X), X * value)


def test_strict_refuses_too_many_values() -> None:
    step = 1

    @tessera.function(strict=True)
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * step

    for step in range(2, 18):  # noqa: B007
        f(X)
    step = 50
    with pytest.raises(TraceError, match="has had 16 values"):
        f(X)
