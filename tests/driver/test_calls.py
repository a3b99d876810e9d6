"""Calls beside the usual ones: other threads look on, torch has a default device, storages shrink, shapes repeat."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tessera
from tessera import ResourceError, ShapeError, Tensor, config
from tessera.diag import DTypeError, TesseraWarning
from tessera.runtime import dispatch


def doubled() -> Any:
    @tessera.function
    def double(x: Tensor["N", "D"]) -> Tensor["N", "D"]:
        return x + x

    return double


@pytest.fixture
def default_device() -> Iterator[Any]:
    yield torch.set_default_device
    torch.set_default_device(None)


# ---- looking on --------------------------------------------------------------------------------------------------


def test_information_while_other_threads_compile() -> None:
    @tessera.function
    def power(x: Tensor["N"], n: int) -> Tensor["N"]:
        return x * n

    failed: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                power.cache_info()
                power.variants()
        except BaseException as e:
            failed.append(e)

    onlookers = [threading.Thread(target=look) for _ in range(2)]
    for t in onlookers:
        t.start()
    x = torch.ones(3)

    def work(start: int) -> None:
        for n in range(start, start + 10):
            power(x, n)

    with config.override(cache="off"):
        workers = [threading.Thread(target=work, args=(s,)) for s in (0, 100)]
        for t in workers:
            t.start()
        for t in workers:
            t.join()
    done.set()
    for t in onlookers:
        t.join()
    assert not failed
    assert power.cache_info().variants == 20


# ---- remembered signatures ---------------------------------------------------------------------------------------


def test_what_is_used_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "REMEMBERED", 3)
    memo = dispatch.Memo()
    for key in "abc":
        memo.put(key, key)
    memo.entries["a"].used = True
    memo.put("d", "d")
    assert list(memo.entries) == ["c", "d", "a"]  # b was oldest of those that nobody used
    for found in memo.entries.values():
        found.used = True
    memo.put("e", "e")
    assert "e" in memo.entries and len(memo.entries) == 3


def test_a_size_in_use_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "REMEMBERED", 4)
    f = doubled()
    x = torch.ones(2, 3)
    f(x)
    for n in range(3, 30):
        f(torch.ones(n, 3))
        before = f.cache_info().hits
        f(x)
        assert f.cache_info().hits == before + 1


# ---- threads of kernels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "asks"), [((8, 8192), True), ((8, 8), False)])
def test_work_decides_about_threads(shape: tuple[int, int], asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of many elements writes few bytes, and shares its work out all the same."""

    @tessera.function
    def rows(x: Tensor["M", "N"]) -> Tensor["M"]:
        return x.sum(-1)

    x = torch.ones(shape)
    rows(x)
    asked: list[int] = []
    know = torch.get_num_threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked.append(1) or know())
    rows(x)
    assert bool(asked) is asks


# ---- default devices ---------------------------------------------------------------------------------------------


def test_a_default_device_that_is_the_tensors_own(default_device: Any) -> None:
    @tessera.function
    def ramp(x: Tensor["N"]) -> Tensor["N"]:
        return x + torch.arange(x.shape[0]) + torch.ones(3)[0]

    default_device("cpu")
    x = torch.ones(5)
    for _ in range(4):
        assert torch.equal(ramp(x), ramp.eager(x))
    assert ramp.cache_info().eager == 0
    assert ramp.cache_info().hits == 3
    with torch.device("cpu"):
        ramp(x)
    assert ramp.cache_info().eager == 0


def test_another_default_device_goes_through_torch(default_device: Any) -> None:
    @tessera.function
    def fill(x: Tensor["N"]) -> Tensor[3]:
        return torch.ones(3)

    x = torch.ones(5)
    for _ in range(3):
        assert fill(x).device.type == "cpu"
    default_device("meta")
    x = torch.ones(5, device="cpu")
    assert fill(x).device.type == "meta"
    assert fill.cache_info().eager == 1


def test_a_mode_of_the_user_goes_through_torch() -> None:
    seen: list[str] = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    f, x = doubled(), torch.ones(2, 3)
    for _ in range(3):
        f(x)
    with Mode():
        f(x)
    assert "add" in seen
    with Mode(), torch.device("cpu"):
        seen.clear()
        f(x)
    assert "add" in seen


# ---- storages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [0, 3])
def test_a_storage_that_was_shrunk(warm: int) -> None:
    f, x = doubled(), torch.ones(256, 1024)
    for _ in range(warm):
        f(x)
    x.untyped_storage().resize_(4096)
    with pytest.raises(ResourceError, match="shrunk to 4096 of 1048576 bytes") as caught:
        f(x)
    assert caught.value.code == "TSR0604"


def test_views_into_a_storage_that_was_shrunk() -> None:
    f, x = doubled(), torch.ones(8, 64)
    top, bottom, strided = x[:2], x[6:], x[:, ::2]
    for view in (top, bottom, strided):
        f(view)
    x.untyped_storage().resize_(4 * 64 * 4)
    assert torch.equal(f(top), top + top)
    g = doubled()
    with pytest.raises(ResourceError, match="shrunk"):
        g(bottom)
    with pytest.raises(ResourceError, match="shrunk"):
        g(strided)


# ---- refusals ----------------------------------------------------------------------------------------------------


def test_a_size_that_is_refused_says_nothing_of_others() -> None:
    @tessera.function
    def unrolled(x: Tensor["N"]) -> Tensor["N"]:
        y = x
        for n in range(x.shape[0]):
            y = y + n
        return y

    with pytest.warns(TesseraWarning, match="copies"):
        unrolled(torch.zeros(10_001))
    unrolled(torch.zeros(10_001))
    assert unrolled.cache_info().eager == 2
    x = torch.zeros(4)
    assert torch.equal(unrolled(x), unrolled.eager(x))
    assert unrolled.cache_info().eager == 2 and unrolled.cache_info().variants == 1


def test_a_refusal_is_found_again_without_tracing() -> None:
    traced: list[int] = []

    @tessera.function
    def odd(x: Tensor["N"]) -> Tensor["N"]:
        traced.append(1)
        return x * float(x.sum().item())

    with pytest.warns(TesseraWarning):
        odd(torch.ones(3))
    traced.clear()
    for n in range(3, 9):
        odd(torch.ones(n))
    assert len(traced) == 6  # once a call, eagerly


# ---- what a shape that does not fit does -------------------------------------------------------------------------


def pair() -> Any:
    @tessera.function
    def pair(x: Tensor["N", "D"], w: Tensor["D"]) -> Tensor["N", "D"]:
        return x * w

    return pair


def test_shapes_are_refused_by_default() -> None:
    with pytest.raises(ShapeError):
        pair()(torch.ones(2, 3), torch.ones(1))


@pytest.mark.parametrize("mode", ["warn", "off"])
def test_shapes_that_do_not_fit_run_eagerly(mode: str) -> None:
    f = pair()
    x, w = torch.ones(2, 3), torch.ones(1)
    f(x, torch.ones(3))
    with config.override(shapes=mode), warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        line = _line() + 1
        assert torch.equal(f(x, w), x * w)
    assert f.cache_info().eager == 1
    if mode == "off":
        assert not found
        return
    (one,) = found
    assert one.filename == __file__ and one.lineno == line
    assert isinstance(one.message, TesseraWarning) and one.message.code == "TSR0107"


@pytest.mark.parametrize("mode", ["warn", "off"])
def test_dtypes_and_guards_too(mode: str) -> None:
    @tessera.function
    def halves(x: Tensor["N", tessera.f32], n: int) -> Tensor["M"]:
        return x.reshape(n, -1)[0]

    with config.override(shapes=mode), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.ones(6, dtype=torch.float64)
        assert halves(x, 2).dtype is torch.float64
        with pytest.raises(RuntimeError, match="shape"):
            halves(torch.ones(7), 2)
    with pytest.raises(DTypeError):
        halves(x, 2)


def test_faults_at_definition_are_warned_of_or_nothing() -> None:
    def define() -> Any:
        @tessera.function
        def wrong(x: Tensor["N", "D"], w: Tensor["K", "D"]) -> Tensor["N", "K"]:
            return x @ w

        return wrong

    with config.override(shapes="warn"), pytest.warns(TesseraWarning, match="`D` meets `K`"):
        f = define()
    with config.override(shapes="off"):
        f = define()
        x = torch.ones(2, 2)
        assert torch.equal(f(x, x), x @ x)
    with pytest.raises(ShapeError):
        define()


def _line() -> int:
    import sys

    return sys._getframe(1).f_lineno


# ---- dtypes that there are none of -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16])
def test_a_refused_dtype_comes_with_those_that_are_known(dtype: torch.dtype) -> None:
    with pytest.raises(tessera.DTypeError, match=r"(?s)TSR0301.*help: cast it first; known: .*bf16.*uint8"):
        doubled()(torch.zeros(2, 3).to(dtype))
