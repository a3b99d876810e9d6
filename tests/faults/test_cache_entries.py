"""What a call does with artifacts that are not what it left there: the right result, and nothing planted runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tessera.backends.c.toolchain import find_compiler
from tessera.driver import variant
from tests.faults.harness import caught, entry, fresh, repacked, right, scale, trace_opens, warm
from tests.runtime import forking


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """A library that leaves a mark where it is loaded, and the mark."""
    folder = tmp_path_factory.mktemp("planted")
    mark = folder / "mark"
    text = f"""#include <fcntl.h>
    __attribute__((constructor)) static void run(void) {{ open("{mark}", O_CREAT | O_WRONLY, 0600); }}
    int tessera_0(const char* p) {{ return 0; }}"""
    (folder / "planted.c").write_text(text)
    command = [find_compiler().path, "-shared", "-fPIC", "-o", "planted.so", "planted.c"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "planted.so").read_bytes(), mark


def serves_and_repairs(folder: Path, path: Path) -> None:
    """A call in a new process is right, says nothing, counts one rejection, and leaves a whole entry again."""
    with fresh(folder) as cache, caught() as warned:
        f = scale()
        assert right(f)
        assert (f.cache_info().compiles, f.cache_info().from_cache, f.cache_info().eager) == (1, 0, 0)
        assert cache.stats().rejected == 1
    assert warned.lines == []
    assert path.is_file() and not path.is_symlink()
    with fresh(folder) as cache:
        f = scale()
        assert right(f) and f.cache_info().from_cache == 1 and cache.stats().rejected == 0


def test_an_entry_serves_the_next_process(tmp_path: Path) -> None:
    warm(tmp_path)
    with fresh(tmp_path) as cache, caught() as warned:
        f = scale()
        assert right(f)
        assert (f.cache_info().compiles, f.cache_info().from_cache) == (0, 1)
        assert cache.stats().disk_hits == 1
    assert warned.lines == []


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = warm(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    serves_and_repairs(tmp_path, path)


@pytest.mark.parametrize("at", [0.01, 0.5, 0.9])
def test_damaged(tmp_path: Path, at: float) -> None:
    path = warm(tmp_path)
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x10
    path.write_bytes(data)
    serves_and_repairs(tmp_path, path)


def test_a_zeroed_page(tmp_path: Path) -> None:
    path = warm(tmp_path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 & ~4095
    data[middle : middle + 4096] = bytes(4096)
    path.write_bytes(data)
    serves_and_repairs(tmp_path, path)


def test_an_entry_of_another_function(tmp_path: Path) -> None:
    from tests.faults.harness import other

    path = warm(tmp_path / "a")
    foreign = warm(tmp_path / "b", other)
    path.write_bytes(foreign.read_bytes())
    serves_and_repairs(tmp_path / "a", path)


def test_a_planted_library_in_place_of_the_entry(tmp_path: Path, planted: tuple[bytes, Path]) -> None:
    path = warm(tmp_path)
    path.write_bytes(planted[0])
    serves_and_repairs(tmp_path, path)
    assert not planted[1].exists()


def test_a_planted_library_with_the_old_digest(tmp_path: Path, planted: tuple[bytes, Path]) -> None:
    path = warm(tmp_path)
    old, new = path.read_bytes(), repacked(path, planted[0])
    head = len(b"tessera artifact 1\n") + 64
    path.write_bytes(old[:head] + new[head:])
    serves_and_repairs(tmp_path, path)
    assert not planted[1].exists()


def _link(path: Path) -> None:
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.symlink_to(aside)


def _second_name(path: Path) -> None:
    os.link(path, path.with_suffix(".second"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [_link, _second_name, _pipe, _folder, lambda path: path.chmod(0o666)])
def test_an_entry_that_is_no_private_file(
    tmp_path: Path, planted: tuple[bytes, Path], change: Callable[[Path], None]
) -> None:
    """Even with a digest that fits: what others could have put there is not believed."""
    path = warm(tmp_path)
    path.write_bytes(repacked(path, planted[0]))
    change(path)
    serves_and_repairs(tmp_path, path)
    assert not planted[1].exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_entry_of_somebody_else(tmp_path: Path, planted: tuple[bytes, Path]) -> None:
    path = warm(tmp_path)
    path.write_bytes(repacked(path, planted[0]))
    os.chown(path, 12345, -1)
    serves_and_repairs(tmp_path, path)
    assert not planted[1].exists()


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write(tmp_path: Path, planted: tuple[bytes, Path], mode: int) -> None:
    """Whole entries there are not used; the call compiles into a folder of its own, with one warning."""
    path = warm(tmp_path)
    path.write_bytes(repacked(path, planted[0]))
    before = path.read_bytes()
    path.parent.chmod(mode)
    with fresh(tmp_path) as cache, caught() as warned:
        for make in (scale, scale):
            assert right(make())
        assert cache.stats().folder != path.parent
    (line,) = warned.lines
    assert "TSR0606" in line and "not safe" in line
    assert not planted[1].exists() and path.read_bytes() == before


def test_a_link_in_place_of_the_folder(tmp_path: Path, planted: tuple[bytes, Path]) -> None:
    path = warm(tmp_path / "real")
    path.write_bytes(repacked(path, planted[0]))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with fresh(tmp_path / "link"), caught() as warned:
        assert right(scale())
    assert len(warned.lines) == 1 and "symbolic link" in warned.lines[0]
    assert not planted[1].exists()


def test_nothing_but_the_entry_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles, tuning tables and settings that lie around, absurd ones too, are none of a call's business."""
    path = warm(tmp_path / "cache")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = ["index.pkl", "tuning.json", "tessera.json", "tessera.toml", "config.yaml", f"{path.stem}.pickle"]
    for folder in (tmp_path / "here", tmp_path / "cache", path.parent):
        for name in names:
            (folder / name).write_text('{"BLOCK": -1, "ROWS": 2147483648, "COLS": "1;x", "unknown": []}')
    log = tmp_path / "log"

    def child() -> None:
        trace_opens(log)
        with fresh(tmp_path / "cache"):
            f = scale()
            assert right(f) and f.cache_info().from_cache == 1

    assert forking.run(child) == 0
    opened = {Path(line).name for line in log.read_text().splitlines()}
    assert path.name in opened and not opened & set(names)


@pytest.mark.parametrize("what", ["torch", "compiler", "processor", "option"])
def test_an_entry_of_another_machine_does_not_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    first = warm(tmp_path)
    parts = variant.environment_parts()
    if what == "torch":
        monkeypatch.setattr(variant, "environment_parts", lambda: (*parts[:-1], "1.0.0"))
    elif what == "compiler":
        from tessera.backends.c import backend

        real = backend.toolchain_key
        monkeypatch.setattr(backend, "toolchain_key", lambda *a: ("another compiler", *real(*a)[1:]))
    elif what == "processor":
        from tessera.backends.c import toolchain

        monkeypatch.setattr(toolchain, "cpu_identity", lambda: "another processor")
    options = {"cflags_opt": 1} if what == "option" else {}
    with fresh(tmp_path, **options) as cache:
        f = scale()
        assert right(f) and f.cache_info().compiles == 1
        assert cache.stats().rejected == 0
    assert first.exists() and len(list(first.parent.glob("*.artifact"))) == 2


def test_a_readonly_cache_is_used_and_left_alone(tmp_path: Path) -> None:
    path = warm(tmp_path)
    path.write_bytes(b"damaged")
    with fresh(tmp_path, "readonly"), caught() as warned:
        assert right(scale())
    assert warned.lines == [] and entry(tmp_path).read_bytes() == b"damaged"
