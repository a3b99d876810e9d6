"""Calls with no compiler, one that fails, crashes, hangs or lies, and disks that are full: right, with one warning."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tessera
from tessera import ResourceError, config
from tessera.backends.c import toolchain
from tessera.runtime import store
from tests.faults.harness import caught, entry, fresh, other, right, scale, script
from tests.runtime import forking


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files, empty so far."""
    folder = tmp_path / "temporary"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """No option of an earlier test is remembered."""
    config.refresh()
    yield
    config.refresh()


def runs_eagerly(folder: Path, said: str, **options: Any) -> None:
    """Four calls of two kinds are right; one warning names the reason. Asked for by name it is an error."""
    with fresh(folder, **options), caught() as warned:
        f = scale()
        assert right(f) and right(f) and right(f)
        assert f.cache_info().eager == 3 and f.cache_info().variants == 0
    (line,) = warned.lines
    assert "TSR06" in line and "runs eagerly from here on" in line
    with fresh(folder, **options), tessera.backend("c"), pytest.raises(ResourceError) as refused:
        right(scale())
    assert said in " ".join(str(refused.value).split())
    with fresh(folder), caught() as warned:
        assert right(scale())
    assert warned.lines == []  # nothing of the failure is left


def test_no_compiler(tmp_path: Path) -> None:
    runs_eagerly(tmp_path, "TSR0601", cc="no-such-compiler-anywhere")


def test_an_empty_search_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with fresh(tmp_path / "cache"), caught() as warned:
        assert right(scale())
    assert len(warned.lines) == 1 and "no C compiler" in warned.lines[0]


@pytest.mark.parametrize("name", ["gcc; touch x", "$(touch x)"])
def test_a_compiler_is_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TESSERA_CC", name)
    with caught() as warned:
        assert right(scale())
    assert len(warned.lines) == 1 and "TSR0601" in warned.lines[0]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("exit 3", "exit status 3"),
        ("kill -SEGV $$", "SIGSEGV"),
        ('echo "cc1: internal compiler error: in fold" >&2; exit 4', "internal compiler error"),
        ("exit 0", "without a result"),
    ],
)
def test_a_compiler_that_fails(tmp_path: Path, temporary: Path, body: str, said: str) -> None:
    runs_eagerly(tmp_path, said, cc=script(tmp_path / "failing", body))
    assert list(temporary.iterdir()) == []


def test_a_compiler_that_writes_what_is_no_library(tmp_path: Path, temporary: Path) -> None:
    """What cannot be loaded does not stay in the cache either."""
    body = 'while [ "$1" != -o ]; do shift; done; head -c 9000 /dev/zero > "$2"'
    with fresh(tmp_path, cc=script(tmp_path / "lying", body)) as cache, caught() as warned:
        assert right(scale())
        assert cache.stats().entries == 0
    assert len(warned.lines) == 1 and "cannot be loaded" in warned.lines[0]
    assert list(temporary.iterdir()) == []


def test_a_compiler_that_hangs(tmp_path: Path, temporary: Path) -> None:
    runs_eagerly(tmp_path, "took longer than", cc=script(tmp_path / "hanging", "sleep 600"), compile_timeout=0.1)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_no_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Compiled all the same and kept in memory; one warning for the process, not one a function."""
    written = os.write

    def fails(descriptor: int, data: Any) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(tmp_path)):
            raise OSError(code, os.strerror(code))
        return written(descriptor, data)

    with fresh(tmp_path) as cache, caught() as warned:
        monkeypatch.setattr(store.os, "write", fails)
        f, g = scale(), other()
        assert right(f) and right(g) and right(f)
        monkeypatch.setattr(store.os, "write", written)
        assert f.cache_info().eager == g.cache_info().eager == 0 and f.cache_info().compiles == 1
        assert cache.stats().entries == 0
    (line,) = warned.lines
    assert "TSR0606" in line and os.strerror(code) in line
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_files_that_may_not_grow(tmp_path: Path, temporary: Path) -> None:
    """A limit on the size of files stands for a full disk: neither the compiler nor the cache can write."""

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
        with fresh(tmp_path / "cache"), caught() as warned:
            f = scale()
            assert right(f) and right(f)
            assert f.cache_info().eager == 2
        assert len(warned.lines) == 1 and "runs eagerly from here on" in warned.lines[0]

    assert forking.run(child, limit=60) == 0
    assert list(temporary.iterdir()) == []


def test_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with fresh(tmp_path / "cache"), caught() as warned:
        f = scale()
        assert right(f) and right(f)
        assert f.cache_info().compiles == 1  # the system has another one
    assert warned.lines == []
    monkeypatch.setattr(config, "temporary_folder", lambda: tmp_path / "missing")
    toolchain._identify.cache_clear()
    with fresh(tmp_path / "other"), caught() as warned:
        f = other()
        assert right(f) and right(f)
    (line,) = warned.lines
    assert "runs eagerly from here on" in line and "TMPDIR" in line and "C compiler" not in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_file_system(tmp_path: Path) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(tmp_path)
    if libc.mount(b"tmpfs", place, b"tmpfs", 0, b"size=16k,mode=0700") != 0:
        pytest.skip("no permission to mount")
    try:
        (tmp_path / "filler").write_bytes(bytes(8 << 10))
        with fresh(tmp_path / "cache"), caught() as warned:
            f = scale()
            assert right(f) and f.cache_info().eager == 0
        assert len(warned.lines) == 1 and "No space" in warned.lines[0]
    finally:
        libc.umount2(place, 2)


def test_a_file_in_the_place_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with fresh(tmp_path / "cache"), caught() as warned:
        f = scale()
        assert right(f) and right(f) and f.cache_info().eager == 0
    assert len(warned.lines) == 1 and "TSR0606" in warned.lines[0]


def running(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")


def test_ctrl_c_while_compiling(tmp_path: Path, temporary: Path) -> None:
    """It reaches the caller; the compiler is gone, nothing is left, and the next call works."""
    pid = tmp_path / "pid"
    body = f"echo $$ > {pid}\nsleep 0.1\nkill -INT $PPID\nsleep 600"
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with fresh(tmp_path / "cache", cc=script(tmp_path / "slow", body)) as cache, caught() as warned:
            f = scale()
            with pytest.raises(KeyboardInterrupt):
                right(f)
            with pytest.raises(KeyboardInterrupt):
                right(f)  # not remembered as a failure
            assert f.cache_info().variants == 0 and f.cache_info().eager == 0
            assert cache.stats().entries == 0
    finally:
        signal.signal(signal.SIGINT, handler)
    assert warned.lines == [] and list(temporary.iterdir()) == []
    assert not running(int(pid.read_text()))
    with fresh(tmp_path / "cache"):
        assert right(f) and f.cache_info().compiles == 1
        assert entry(tmp_path / "cache").exists()
