"""Processes that die, race or run out of disk while they use the artifact cache."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tessera.backends.base import Packed
from tessera.diag import TesseraWarning
from tessera.runtime.cache import ArtifactCache
from tessera.runtime.keys import content_key
from tessera.runtime.store import decode
from tests.house.source import ROOT
from tests.runtime import forking

KEY = content_key("kernel")


def packed(key: str, fill: int, size: int = 200_000) -> Packed:
    return Packed(key, "c", {"library": bytes([fill]) * size}, {"fill": fill})


def entries(folder: Path) -> list[Path]:
    return [path for path in (folder / "artifacts").iterdir() if not path.name.startswith(".")]


def assert_whole(folder: Path) -> int:
    """Every visible entry verifies; how many there are."""
    found = entries(folder)
    for path in found:
        assert decode(path.read_bytes(), path.name.removesuffix(".artifact")) is not None, path.name
    return len(found)


def publish_for_ever(folder: Path, ready: int, seed: int) -> Callable[[], None]:
    def task() -> None:
        cache = ArtifactCache(folder)
        for turn in range(1_000_000):
            cache.put(packed(content_key((seed + turn) % 5), turn % 256))
            os.write(ready, b".")

    return task


@pytest.mark.parametrize("kills", [100, pytest.param(1000, marks=pytest.mark.nightly)])
def test_killed_while_publishing(tmp_path: Path, kills: int) -> None:
    """From a process of its own: one that ran many tests takes long to fork."""
    code = "import sys; from tests.runtime.test_faults import kill; kill(sys.argv[1], int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(kills)], cwd=ROOT, check=True, timeout=280)
    assert assert_whole(tmp_path) == 6
    assert ArtifactCache(tmp_path).get(KEY) == packed(KEY, 1)


def kill(path: str, kills: int) -> None:
    """Kill so many children in the middle of their writes, after one to three whole ones."""
    folder = Path(path)
    ArtifactCache(folder).put(packed(KEY, 1))
    halves = 0
    for turn in range(kills):
        reading, ready = os.pipe()
        child = forking.start(publish_for_ever(folder, ready, turn))
        os.close(ready)
        for _ in range(1 + turn % 3):
            os.read(reading, 1)
        for _ in range(turn * 37 % 4000):  # somewhere in the next write
            pass
        os.kill(child, signal.SIGKILL)
        os.close(reading)
        assert forking.finish(child) == -signal.SIGKILL
        left = [path for path in (folder / "artifacts").iterdir() if path.name.startswith(".tmp-")]
        halves += len(left)
        for path in left:
            path.unlink()
        if turn % 10 == 0:
            assert_whole(folder)
    assert halves > 0  # some were killed with a half-written file, and it was never visible


def test_two_processes_write_and_read_one_key(tmp_path: Path) -> None:
    """Whatever is read is one of the versions, whole; the last one stays."""

    def work(fill: int) -> Callable[[], None]:
        def task() -> None:
            for _ in range(100):
                cache = ArtifactCache(tmp_path, memory_limit=0)
                cache.put(packed(KEY, fill))
                found = cache.get(KEY)
                assert found in (packed(KEY, 1), packed(KEY, 2))
                assert cache.stats().rejected == 0

        return task

    children = [forking.start(work(1)), forking.start(work(2))]
    assert [forking.finish(child) for child in children] == [0, 0]
    assert assert_whole(tmp_path) == 1
    assert [path for path in (tmp_path / "artifacts").iterdir() if path.name.startswith(".")] == []


def test_readers_while_others_evict(tmp_path: Path) -> None:
    keys = [content_key(n) for n in range(12)]

    def write() -> None:
        cache = ArtifactCache(tmp_path, disk_limit=1_000_000)
        for turn in range(150):
            cache.put(packed(keys[turn % 12], turn % 12))

    def read() -> None:
        cache = ArtifactCache(tmp_path, memory_limit=0)
        for turn in range(400):
            found = cache.get(keys[turn % 12])
            assert found is None or found == packed(keys[turn % 12], turn % 12)
        assert cache.stats().rejected == 0

    children = [forking.start(write), forking.start(read), forking.start(read)]
    assert [forking.finish(child) for child in children] == [0, 0, 0]


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write fails half-way."""
    ArtifactCache(tmp_path).put(packed(KEY, 1))

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        cache = ArtifactCache(tmp_path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for n in range(4):
                key = content_key(n)
                assert cache.get_or_build(key, lambda key=key: packed(key, 7)) == packed(key, 7)
        assert [found.category for found in caught] == [TesseraWarning]
        assert cache.get(KEY) == packed(KEY, 1)

    assert forking.run(child) == 0
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [f"{KEY}.artifact"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk(tmp_path: Path) -> None:
    """The same on a small file system, where this process may mount one."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(tmp_path)
    if libc.mount(b"tmpfs", place, b"tmpfs", 0, b"size=300k,mode=0700") != 0:
        pytest.skip("no permission to mount")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cache = ArtifactCache(tmp_path)
            for n in range(4):
                cache.put(packed(content_key(n), n))
                assert cache.get(content_key(n)) == packed(content_key(n), n)
        assert len(caught) == 1 and "No space" in " ".join(str(caught[0].message).split())
        assert assert_whole(tmp_path) == 1
        assert len(list((tmp_path / "artifacts").iterdir())) == 1
        del cache
    finally:
        libc.umount2(place, 2)


def test_an_interrupt_while_publishing(tmp_path: Path) -> None:
    """A signal in the middle of a write: nothing half-written stays, and the next write works."""

    def child() -> None:
        cache = ArtifactCache(tmp_path)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        interrupted = turn = 0
        while interrupted < 30:
            turn += 1
            signal.setitimer(signal.ITIMER_REAL, 0.0002 + turn % 17 * 0.0001)
            try:
                while True:
                    cache.put(packed(content_key(turn % 5), turn % 256))
            except KeyboardInterrupt:
                interrupted += 1
        cache.put(packed(KEY, 1))

    assert forking.run(child, limit=60) == 0
    assert_whole(tmp_path)
    left = [path.name for path in (tmp_path / "artifacts").iterdir() if path.name.startswith(".")]
    assert len(left) <= 1
    assert ArtifactCache(tmp_path).get(KEY) == packed(KEY, 1)


def test_a_fork_while_another_thread_builds(tmp_path: Path) -> None:
    import threading

    cache = ArtifactCache(tmp_path)
    building, release = threading.Event(), threading.Event()

    def slow() -> Packed:
        building.set()
        release.wait()
        return packed(KEY, 1)

    builder = threading.Thread(target=lambda: cache.get_or_build(KEY, slow))
    builder.start()
    building.wait()
    try:
        code = forking.run(lambda: cache.get_or_build(KEY, lambda: packed(KEY, 2)) and None, limit=20)
    finally:
        release.set()
        builder.join()
    assert code == 0
