"""Many threads and forked processes that call one function."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor, config
from tests.faults.harness import arguments, fresh, right, scale, script
from tests.runtime import forking


def at_once(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Run each task in a thread of its own, all started together; their results, or what they raised."""
    start, results = threading.Barrier(len(tasks)), [None] * len(tasks)

    def work(n: int) -> None:
        start.wait()
        try:
            results[n] = tasks[n]()
        except BaseException as e:
            results[n] = e

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(tasks))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def counting(folder: Path) -> tuple[str, Callable[[], int]]:
    """A compiler that counts the kernels it compiles, and the count."""
    from tessera.backends.c.toolchain import find_compiler

    calls = folder / "calls"
    body = f'case "$*" in *tessera-*.c*) echo x >> {calls};; esac\nexec {find_compiler().path} "$@"'
    return script(folder / "counting", body), lambda: len(calls.read_text().split()) if calls.exists() else 0


def test_sixteen_threads_and_one_cold_function(tmp_path: Path) -> None:
    name, count = counting(tmp_path)
    f, (x, w) = scale(), arguments()
    want = f.eager(x, w)

    def call() -> torch.Tensor:
        with config.override(cc=name, cache_dir=tmp_path / "cache", cache="on"):
            return f(x, w)

    with fresh(tmp_path / "cache", cc=name) as cache:
        found = at_once([call] * 16)
        assert cache.stats().stored == 1
    assert all(torch.allclose(y, want) for y in found)
    assert (f.cache_info().compiles, f.cache_info().variants) == (1, 1)
    assert count() == 1


def test_sixteen_threads_and_as_many_equal_functions(tmp_path: Path) -> None:
    """What compiles to the same text is compiled once, too."""
    name, count = counting(tmp_path)
    functions = [scale() for _ in range(16)]

    def call(f: Any) -> bool:
        with config.override(cc=name, cache_dir=tmp_path / "cache", cache="on"):
            return right(f)

    with fresh(tmp_path / "cache", cc=name):
        assert at_once([lambda f=f: call(f) for f in functions]) == [True] * 16
    assert count() == 1
    assert sum(f.cache_info().compiles for f in functions) == 1


def test_sixteen_threads_and_sizes_of_their_own() -> None:
    f, w = scale(), torch.linspace(1, 2, 10)
    inputs = [torch.randn(n + 1, 10) for n in range(16)]

    def calls(x: torch.Tensor) -> bool:
        want = f.eager(x, w)
        return all(torch.allclose(f(x, w), want, atol=1e-6) for _ in range(50))

    assert at_once([lambda x=x: calls(x) for x in inputs]) == [True] * 16


def test_a_function_that_calls_itself_while_it_compiles() -> None:
    """Tracing runs Python code, which may call anything."""
    f, (x, w) = scale(), arguments()

    @tessera.function
    def outer(x: Tensor["N", "D"], w: Tensor["D"]) -> Tensor["N", "D"]:
        return f(x, w) * 2

    assert torch.allclose(outer(x, w), f.eager(x, w) * 2, atol=1e-6)


BIG = torch.linspace(-1, 1, 1 << 20).view(1024, 1024)


def big(f: Any) -> bool:
    w = torch.ones(1024)
    return bool(torch.allclose(f(BIG, w), f.eager(BIG, w), atol=1e-6))


def test_a_fork_after_warm_calls() -> None:
    """Kernels that used threads before the fork run in the child, and in its child."""
    f = scale()
    assert big(f)

    def grandchild() -> None:
        assert big(f) and f.cache_info().hits >= 2

    def child() -> None:
        assert big(f)
        assert forking.run(grandchild) == 0

    assert forking.run(child, limit=60) == 0
    assert big(f)


def test_a_fork_after_somebody_has_told_torch_how_many_threads() -> None:
    f = scale()
    torch.set_num_threads(torch.get_num_threads())
    assert big(f) and bool((BIG @ BIG).isfinite().all())

    def child() -> None:
        assert big(f) and bool((BIG @ BIG).isfinite().all())
        assert torch.get_num_threads() == 1

    assert forking.run(child, limit=60) == 0


def test_a_fork_before_the_first_call(tmp_path: Path) -> None:
    f = scale()
    with fresh(tmp_path):
        assert [forking.run(lambda: None if right(f) else os.abort(), limit=60) for _ in range(2)] == [0, 0]
        assert right(f) and f.cache_info().from_cache == 1


def test_a_fork_while_another_thread_compiles(tmp_path: Path) -> None:
    """The child has locks of its own; it does not wait for a thread that it does not have."""
    hold, held = tmp_path / "hold", tmp_path / "held"
    os.mkfifo(hold)
    os.mkfifo(held)
    f = scale()

    def compiles() -> bool:
        name = script(tmp_path / "slow", f"echo x > {held}\nread x < {hold}\nexit 3")
        with config.override(cc=name, cache_dir=tmp_path / "cache", cache="on"):
            return right(f)

    builder = threading.Thread(target=compiles)
    with pytest.warns(tessera.TesseraWarning):
        builder.start()
        held.read_text()  # the compiler runs now
        try:
            with config.override(cache="off"):
                code = forking.run(lambda: None if right(f) else os.abort(), limit=60)
        finally:
            hold.write_text("x\n")
            builder.join()
    assert code == 0


def _called(f: Any, results: Any) -> None:
    results.put(right(f))


@tessera.function
def module_level(x: Tensor["N", "D"], w: Tensor["D"]) -> Tensor["N", "D"]:
    """One that other processes can find by its name."""
    return torch.tanh(x * w) + 1


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_of_multiprocessing(method: str) -> None:
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=_called, args=(module_level, results))
    process.start()
    assert results.get(timeout=120) is True
    process.join(timeout=60)


def test_copies_are_the_function() -> None:
    assert copy.copy(module_level) is module_level
    assert copy.deepcopy(module_level) is module_level
    saved = io.BytesIO()
    torch.save({"f": 1}, saved)  # binaries are never part of what is saved
    assert module_level.__reduce__() == "module_level"


def test_two_processes_and_one_empty_cache(tmp_path: Path) -> None:
    def task() -> None:
        with fresh(tmp_path):
            assert right(scale())

    children = [forking.start(task) for _ in range(4)]
    assert [forking.finish(c, limit=60) for c in children] == [0] * 4
    assert len(list((tmp_path / "artifacts").iterdir())) == 1


def test_killed_while_compiling(tmp_path: Path) -> None:
    """The folder is as it was, and the next process compiles."""
    started = tmp_path / "started"
    os.mkfifo(started)
    name = script(tmp_path / "slow", f"echo $$ > {started}\nsleep 600")

    def task() -> None:
        with fresh(tmp_path / "cache", cc=name):
            right(scale())

    child = forking.start(task)
    compiler = int(started.read_text())
    os.kill(child, 9)
    assert forking.finish(child) == -9
    os.killpg(compiler, 9)
    with fresh(tmp_path / "cache"):
        f = scale()
        assert right(f) and f.cache_info().compiles == 1
