"""Launches: compiled once a class of sizes and alignments, handed over without analysis, refused with a reason."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tessera.backends.base import Target
from tessera.backends.triton import launch
from tessera.backends.triton.emit import emit
from tessera.backends.triton.launch import Launcher
from tessera.backends.triton.source import Bound, TritonSource
from tessera.diag import ResourceError
from tests.backends.stream_cases import CASES as STREAMS
from tests.backends.triton_cases import CASES

X, W, Y = 4096, 8192, 1 << 40
SIZES = {"B": 2, "S": 64, "D": 4096}


class Recorded:
    """Stands for a compiled kernel; remembers how it was launched."""

    function, packed_metadata = "function", "metadata"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def run(self, *args: Any) -> None:
        self.calls.append(args)


class Compiler:
    """Stands for Triton: remembers what it was asked to compile."""

    def __init__(self) -> None:
        self.made: list[tuple[Bound, dict[str, str], Recorded]] = []
        self.fails: Exception | None = None
        self.asked = 0

    def __call__(self, module: Any, bound: Bound, signature: Mapping[str, str]) -> Recorded:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        self.made.append((bound, dict(signature), Recorded()))
        return self.made[-1][2]


def source(name: str) -> TritonSource:
    (kernel, *_) = next(c for c in CASES if c.name == name).stages[2].kernels
    return emit(kernel, Target("cuda", "90"))


def load(text: str, folder: Path) -> str:
    return text


def test_compiled_once_a_class_and_launched_directly() -> None:
    compiler = Compiler()
    launcher = Launcher(source("rms_norm"), compiler, load)
    for tokens in (64, 96, 128):
        assert launcher.at({**SIZES, "S": tokens})([X, W, Y], [1e-6], 7) == 1
    ((b, signature, compiled),) = compiler.made
    assert signature["b0"] == "*bf16:16" and b.config.cols == 4096
    grid, _, _, stream, function, metadata, *rest = compiled.calls[2]
    assert (grid, stream, function, metadata) == (256, 7, "function", "metadata")
    assert rest == [None, None, None, X, W, Y, 256, 4096, 1e-6, 1, 4096, 0]


def test_alignment_is_a_class() -> None:
    compiler = Compiler()
    at = Launcher(source("rms_norm"), compiler, load).at(SIZES)
    for x in (X, X + 16, X + 2, X + 4):
        at([x, W, Y], [1e-6], 7)
    assert [signature["b0"] for _, signature, _ in compiler.made] == ["*bf16:16", "*bf16"]
    assert [len(made.calls) for *_, made in compiler.made] == [2, 2]


def product() -> TritonSource:
    (case,) = (c for c in STREAMS if c.name == "narrow_linear")
    return emit(case.stages[1].kernels[0], Target("cuda", "90"))


def test_descriptors_need_aligned_buffers() -> None:
    compiler = Compiler()
    at = Launcher(product(), compiler, load).at({"S": 8192, "T": 8192, "D": 4096})
    at([X, W, Y, X], [], 7)
    at([X, W + 2, Y, X], [], 7)
    assert [b.config.mode for b, *_ in compiler.made] == ["streamed", "walked"]
    assert [made.calls[0][0] for *_, made in compiler.made] == [132, 2048]


@pytest.mark.skipif(not launch.available(), reason="Triton is not installed")
def test_memory_for_descriptors_is_named_for_one_launch() -> None:
    from triton.runtime import _allocation

    before, seen = _allocation._allocator.get(), []

    class Asking(Recorded):
        def run(self, *args: Any) -> None:
            seen.append((_allocation._allocator.get(), args))

    made = launch.WithMemory(Asking())
    made.run(1, 2, 3)
    assert seen == [(launch._memory, (1, 2, 3))] and _allocation._allocator.get() is before
    assert (made.function, made.packed_metadata) == ("function", "metadata")


def test_nothing_to_do_launches_nothing() -> None:
    compiler = Compiler()
    at = Launcher(source("rms_norm"), compiler, load).at({**SIZES, "B": 0})
    assert at([0, W, 0], [1e-6], 7) == 0
    assert compiler.asked == 0


def test_many_threads_compile_once() -> None:
    compiler = Compiler()
    launcher = Launcher(source("rms_norm"), compiler, load)
    start = threading.Barrier(16)

    def work() -> None:
        start.wait()
        launcher.at(SIZES)([X, W, Y], [1e-6], 7)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(compiler.made) == 1 and len(compiler.made[0][2].calls) == 16


def test_a_refusal_is_typed_and_remembered() -> None:
    compiler = Compiler()
    compiler.fails = RuntimeError("PassManager::run failed\nand pages of it")
    launcher = Launcher(source("rms_norm"), compiler, load)
    for _ in range(3):
        with pytest.raises(ResourceError, match="PassManager::run failed") as found:
            launcher.at(SIZES)([X, W, Y], [1e-6], 7)
        assert found.value.code == "TSR0607" and "pages" not in str(found.value)
    assert compiler.asked == 1


def test_code_that_does_not_load_is_refused() -> None:
    class Unloadable(Recorded):
        @property
        def run(self) -> Any:  # type: ignore[override]
            raise OSError("out of resource: shared memory")

    launcher = Launcher(source("rms_norm"), lambda *_: Unloadable(), load)
    with pytest.raises(ResourceError, match="shared memory"):
        launcher.at(SIZES)([X, W, Y], [1e-6], 7)


def test_an_interrupt_passes_and_is_not_remembered() -> None:
    compiler = Compiler()
    launcher = Launcher(source("rms_norm"), compiler, load)
    compiler.fails = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        launcher.at(SIZES)([X, W, Y], [1e-6], 7)
    compiler.fails = None
    assert launcher.at(SIZES)([X, W, Y], [1e-6], 7) == 1


def test_no_code_is_loaded_while_a_graph_is_captured() -> None:
    compiler, capturing = Compiler(), [True]
    launcher = Launcher(source("rms_norm"), compiler, load, lambda: capturing[0])
    with pytest.raises(ResourceError, match="captured"):
        launcher.at(SIZES)([X, W, Y], [1e-6], 7)
    capturing[0] = False
    assert launcher.at(SIZES)([X, W, Y], [1e-6], 7) == 1
    capturing[0] = True  # what is loaded may be captured
    assert launcher.at({**SIZES, "S": 96})([X, W, Y], [1e-6], 7) == 1
    assert compiler.asked == 1


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "available", lambda: False)
    with pytest.raises(ResourceError, match="not installed"):
        Launcher(source("rms_norm")).at(SIZES)([X, W, Y], [1e-6], 7)


def test_the_text_is_in_a_private_folder_that_goes_with_the_launcher() -> None:
    seen: list[Path] = []

    def keep(text: str, folder: Path) -> str:
        seen.append(folder)
        return text

    launcher = Launcher(source("rms_norm"), Compiler(), keep)
    launcher.at(SIZES)([X, W, Y], [1e-6], 7)
    (folder,) = seen
    assert folder.stat().st_mode & 0o777 == 0o700 and folder.stat().st_uid == os.geteuid()
    del launcher
    assert not folder.exists()
