"""Folders and entries that somebody else could have made: refused, reported once, never believed."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tessera.backends.base import Packed
from tessera.diag import TesseraWarning
from tessera.runtime import private_dir
from tessera.runtime.cache import ArtifactCache
from tessera.runtime.keys import content_key
from tessera.runtime.private_dir import UnsafeFolderError, open_private
from tessera.runtime.store import encode

KEY = content_key("kernel")
ROOT = os.geteuid() == 0


def packed(key: str = KEY, data: bytes = b"\x7fELF code") -> Packed:
    return Packed(key, "c", {"library": data}, {"entries": ["run"]})


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """The file of a stored artifact."""
    ArtifactCache(tmp_path).put(packed())
    return tmp_path / "artifacts" / f"{KEY}.artifact"


@pytest.fixture
def open_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


def use(folder: Path) -> tuple[ArtifactCache, list[str]]:
    """Store and fetch through a cache at a folder; the cache and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cache = ArtifactCache(folder, memory_limit=0)
        for name in ("one", "two"):
            key = content_key(name)
            assert cache.get_or_build(key, lambda key=key: packed(key)) == packed(key)
            assert cache.get(key) in (packed(key), None)
    assert all(issubclass(found.category, TesseraWarning) for found in caught)
    return cache, [" ".join(str(found.message).split()) for found in caught]


# Folders.


def test_everything_made_is_private_whatever_the_umask(tmp_path: Path, open_umask: None) -> None:
    folder = tmp_path / "a" / "b"
    _, told = use(folder)
    assert told == []
    for path in [tmp_path / "a", folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_umask_that_takes_everything_away(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        _, told = use(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert told == []
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722, 0o1777])
def test_a_folder_that_others_write(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "cache"
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts").chmod(mode)
    cache, told = use(folder)
    assert len(told) == 1 and "TSR0606" in told[0] and "written by others" in told[0]
    own = cache.stats().folder
    assert own is not None and not own.is_relative_to(tmp_path)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert list((folder / "artifacts").iterdir()) == []


def test_a_folder_above_that_others_write(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    _, told = use(tmp_path / "open" / "cache")
    assert len(told) == 1 and f"{tmp_path / 'open'} can be written by others" in told[0]
    assert list((tmp_path / "open").iterdir()) == []


def test_a_sticky_folder_above_is_fine(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    assert use(tmp_path / "open" / "cache")[1] == []


@pytest.mark.skipif(not ROOT, reason="only root can give a folder away")
@pytest.mark.parametrize("which", ["above", "above/cache", "above/cache/artifacts"])
def test_a_folder_of_somebody_else(tmp_path: Path, which: str) -> None:
    (tmp_path / "above" / "cache" / "artifacts").mkdir(parents=True)
    os.chown(tmp_path / which, 12345, 12345)
    _, told = use(tmp_path / "above" / "cache")
    assert len(told) == 1 and "belongs to user 12345" in told[0]
    assert list((tmp_path / "above" / "cache" / "artifacts").iterdir()) == []


@pytest.mark.parametrize("which", ["above", "above/cache", "above/cache/artifacts"])
def test_a_link_on_the_way(tmp_path: Path, which: str) -> None:
    (tmp_path / "elsewhere" / "cache" / "artifacts").mkdir(parents=True)
    link = tmp_path / which
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    _, told = use(tmp_path / "above" / "cache")
    assert len(told) == 1 and "symbolic link" in told[0]
    assert [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()] == []


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(tmp_path / "nowhere")
    assert len(use(tmp_path / "cache")[1]) == 1
    assert not (tmp_path / "nowhere").exists()


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    assert len(use(tmp_path / "cache")[1]) == 1


def test_a_home_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "homes").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "homes")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert use(tmp_path / "home" / ".cache" / "tessera")[1] == []
    assert (tmp_path / "homes" / ".cache" / "tessera" / "artifacts").is_dir()


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert len(use(tmp_path / "cache")[1]) == 1
    finally:
        tmp_path.chmod(0o700)


def test_nowhere_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the cache folder nor a temporary one: the layer in memory still works."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    cache, told = use(tmp_path / "cache")
    assert len(told) == 1 and "Read-only" in told[0]
    assert cache.stats().folder is None


def test_a_predictable_temporary_folder_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "tmp"
    public.mkdir()
    public.chmod(0o777)
    (public / "tessera").symlink_to("/etc")
    (public / f"tessera-cache-{os.getuid()}").mkdir(mode=0o777)
    monkeypatch.setenv("TMPDIR", str(public))
    cache, told = use(public / f"tessera-cache-{os.getuid()}")
    own = cache.stats().folder
    assert len(told) == 1 and own is not None and own.parent == public
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert list((public / f"tessera-cache-{os.getuid()}").iterdir()) == []


def test_the_folder_may_be_swapped_after_it_was_checked(tmp_path: Path) -> None:
    """Everything is relative to the folder that was checked, under whatever name it is now."""
    cache = ArtifactCache(tmp_path / "cache", memory_limit=0)
    cache.put(packed(content_key("before")))
    (tmp_path / "cache").rename(tmp_path / "moved")
    planted = tmp_path / "cache" / "artifacts"
    planted.mkdir(parents=True)
    (planted / f"{KEY}.artifact").write_bytes(encode(packed(data=b"planted")))
    assert cache.get(KEY) is None
    cache.put(packed())
    assert cache.get(KEY) == packed()
    assert (tmp_path / "moved" / "artifacts" / f"{KEY}.artifact").is_file()


def test_a_component_swapped_for_a_link_while_walking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "above" / "cache"
    target.mkdir(parents=True)
    evil = tmp_path / "evil"
    (evil / "cache").mkdir(parents=True)
    real = private_dir._check

    def swap(descriptor: int, path: str, *, last: bool) -> None:
        real(descriptor, path, last=last)
        if path == str(tmp_path):
            (tmp_path / "above").rename(tmp_path / "old")
            (tmp_path / "above").symlink_to(evil)

    monkeypatch.setattr(private_dir, "_check", swap)
    with pytest.raises(UnsafeFolderError):
        open_private(target)


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    cache.put(packed())
    for path in (tmp_path / "cache" / "artifacts").iterdir():
        path.unlink()
    (tmp_path / "cache" / "artifacts").rmdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(packed())
        cache.put(packed())
    assert (tmp_path / "cache" / "artifacts" / f"{KEY}.artifact").is_file()


# Entries.


def reject(entry: Path) -> None:
    """The entry is not believed, is counted, is replaced by a new build, and the next process reads that."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = ArtifactCache(entry.parent.parent)
        builds: list[int] = []

        def build() -> Packed:
            builds.append(1)
            return packed(data=b"built anew")

        assert cache.get_or_build(KEY, build) == packed(data=b"built anew")
        assert cache.get_or_build(KEY, build) == packed(data=b"built anew")
        assert builds == [1]
        assert cache.stats().rejected == 1
        later = ArtifactCache(entry.parent.parent)
        assert later.get(KEY) == packed(data=b"built anew")
        assert later.stats().rejected == 0


@pytest.mark.parametrize("share", [0, 1, 18, 19, 83, 84, 101, 150, -40, -1])
def test_truncated(entry: Path, share: int) -> None:
    os.truncate(entry, share if share >= 0 else entry.stat().st_size + share)
    reject(entry)


@pytest.mark.parametrize("place", [0, 30, 90, 120, -9])
def test_zeroed(entry: Path, place: int) -> None:
    data = bytearray(entry.read_bytes())
    place %= len(data)
    data[place : place + 8] = bytes(len(data[place : place + 8]))
    entry.write_bytes(data)
    reject(entry)


def test_a_library_in_place_of_an_entry(entry: Path) -> None:
    entry.write_bytes(b"\x7fELF" + bytes(4000))
    reject(entry)


def test_a_whole_entry_under_the_name_of_another(entry: Path) -> None:
    entry.write_bytes(encode(packed(content_key("other"), b"somebody else's")))
    reject(entry)


def test_payload_changed_and_digest_left(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes().replace(b"ELF code", b"ELF evil"))
    reject(entry)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"key":1}',
        b"[" * 100_000,
        b'{"key":"K","kind":"c","payloads":[["a",-5]],"metadata":{}}',
        b'{"key":"K","kind":"c","payloads":[["a",99]],"metadata":{}}',
        b'{"key":"K","kind":"c","payloads":[],"metadata":[]}',
        b'{"key":"K","kind":7,"payloads":[],"metadata":{}}',
        b'{"key":"K","kind":"c","payloads":7,"metadata":{}}',
        b"\xff\xfe",
    ],
)
def test_a_header_that_is_well_digested_but_wrong(entry: Path, header: bytes) -> None:
    header = header.replace(b'"K"', b'"' + KEY.encode() + b'"')
    body = b"%016x\n" % len(header) + header
    entry.write_bytes(b"tessera artifact 1\n" + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    reject(entry)


def test_a_link_in_place_of_an_entry(entry: Path, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    entry.rename(aside)
    entry.symlink_to(aside)
    reject(entry)
    assert aside.exists()


def test_a_second_name_for_an_entry(entry: Path, tmp_path: Path) -> None:
    os.link(entry, tmp_path / "second")
    reject(entry)


def test_a_pipe_in_place_of_an_entry(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)
    reject(entry)


def test_a_folder_in_place_of_an_entry(entry: Path) -> None:
    entry.unlink()
    entry.mkdir()
    (entry / "full").write_text("")
    reject(entry)


def test_an_entry_that_others_write(entry: Path) -> None:
    entry.chmod(0o666)
    reject(entry)


@pytest.mark.skipif(not ROOT, reason="only root can give a file away")
def test_an_entry_of_somebody_else(entry: Path) -> None:
    os.chown(entry, 12345, 12345)
    reject(entry)


def test_an_entry_that_is_too_large(entry: Path) -> None:
    os.truncate(entry, 1 << 40)
    reject(entry)


def opcode_that_touches(marker: Path) -> bytes:
    """A pickle, protocol 0, that would make a file when it is loaded."""
    return b"cos\nmknod\n(V" + str(marker).encode() + b"\ntR."


@pytest.mark.parametrize("name", [f"{KEY}.artifact", f"{KEY}.pkl", KEY, "index.pickle", f"{KEY}.so"])
def test_a_pickle_in_the_folder_is_never_opened(entry: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    place = entry.parent / name
    place.write_bytes(opcode_that_touches(marker) + bytes(400))
    if place == entry:
        reject(entry)
    else:
        assert ArtifactCache(tmp_path).get(KEY) == packed()
    assert not marker.exists()


# Writes that fail.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_disk_that_is_full_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    ArtifactCache(tmp_path).put(packed())

    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    cache, told = use(tmp_path)
    assert len(told) == 1 and "TSR0606" in told[0] and os.strerror(code) in told[0]
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == [f"{KEY}.artifact"]
    assert cache.get(KEY) == packed()  # what is there stays in use


@pytest.mark.parametrize("code", [errno.EBUSY, errno.ESTALE])
def test_a_busy_name_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    real: Callable[..., None] = os.replace
    calls: list[int] = []

    def once(*arguments: object, **names: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(code, os.strerror(code))
        real(*arguments, **names)

    monkeypatch.setattr(os, "replace", once)
    cache, told = use(tmp_path)
    assert told == [] and cache.stats().stored == 1


def test_an_interrupt_while_publishing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    cache = ArtifactCache(tmp_path, memory_limit=0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.put(packed())
    assert list((tmp_path / "artifacts").iterdir()) == []
    cache.put(packed())
    assert cache.get(KEY) == packed()


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    ArtifactCache(tmp_path).put(packed())
    folder = tmp_path / "artifacts"
    for name, age in ((".tmp-old", 7200), (".bad-old", 7200), (".tmp-new", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (os.stat(folder).st_mtime - age,) * 2)
    ArtifactCache(tmp_path).put(packed(content_key("next")))
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [".tmp-new"]
