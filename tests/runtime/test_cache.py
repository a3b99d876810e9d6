"""The artifact cache: what goes in comes out, whole, in memory and from disk."""

from __future__ import annotations

import itertools
import os
import stat
import threading
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera import config
from tessera.backends.base import Packed
from tessera.runtime.cache import ArtifactCache, default_cache
from tessera.runtime.keys import Part, content_key, environment_parts
from tessera.runtime.store import decode, encode

KEY = content_key("kernel")


def packed(key: str = KEY, data: bytes = b"\x7fELF code") -> Packed:
    return Packed(key, "c", {"library": data, "notes": b""}, {"entries": ["run"], "sizes": {"x": 1.5}})


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_an_artifact_comes_back_in_the_next_process(tmp_path: Path) -> None:
    ArtifactCache(tmp_path).put(packed())
    later = ArtifactCache(tmp_path)
    assert later.get(KEY) == packed()
    assert later.get(KEY) == packed()
    stats = later.stats()
    assert (stats.disk_hits, stats.memory_hits, stats.misses, stats.entries) == (1, 1, 0, 1)
    assert stats.bytes > len(packed().payloads["library"])


def test_builds_once(tmp_path: Path) -> None:
    cache, calls = ArtifactCache(tmp_path), []

    def build() -> Packed:
        calls.append(1)
        return packed()

    assert cache.get_or_build(KEY, build) == cache.get_or_build(KEY, build) == packed()
    assert ArtifactCache(tmp_path).get_or_build(KEY, build) == packed()
    assert len(calls) == 1


def test_a_failed_build_is_tried_again(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_build(KEY, interrupt)
    assert cache.get_or_build(KEY, packed) == packed()


def interrupt() -> Packed:
    raise KeyboardInterrupt


def test_a_build_may_ask_for_its_own_key(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    assert cache.get_or_build(KEY, lambda: cache.get_or_build(KEY, packed)) == packed()


def test_a_build_of_another_key_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        ArtifactCache(tmp_path).get_or_build(content_key("other"), packed)


@pytest.mark.parametrize("key", ["", "0" * 63, "../" + "0" * 61, "A" * 64, "0" * 64 + "\n", "\u0660" * 64])
def test_only_content_keys_name_files(tmp_path: Path, key: str) -> None:
    cache = ArtifactCache(tmp_path)
    with pytest.raises(ValueError):
        cache.get(key)
    with pytest.raises(ValueError):
        cache.put(packed(key))


def test_sixteen_threads_build_each_key_once(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    keys = [content_key(n) for n in range(8)]
    built: list[str] = []
    start = threading.Barrier(16)

    def build(key: str) -> Packed:
        built.append(key)
        return packed(key)

    def work() -> None:
        start.wait()
        for key in keys:
            assert cache.get_or_build(key, lambda key=key: build(key)).key == key

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(built) == sorted(keys)
    assert cache._building == {}


def test_off_keeps_nothing_on_disk(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache", "off")
    cache.put(packed())
    assert cache.get(KEY) == packed()
    assert list(tmp_path.iterdir()) == []


def test_readonly_reads_and_never_writes(tmp_path: Path) -> None:
    ArtifactCache(tmp_path).put(packed())
    bad = content_key("bad")
    (tmp_path / "artifacts" / f"{bad}.artifact").write_bytes(b"x" * 500)
    before = snapshot(tmp_path)
    cache = ArtifactCache(tmp_path, "readonly")
    assert cache.get(KEY) == packed()
    assert cache.get(bad) is None
    cache.put(packed(content_key("new")))
    assert cache.stats().rejected == 1
    assert snapshot(tmp_path) == before


def snapshot(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(folder.rglob("*"))
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def test_readonly_without_a_folder_is_quiet(tmp_path: Path) -> None:
    assert ArtifactCache(tmp_path / "none", "readonly").get(KEY) is None
    assert list(tmp_path.iterdir()) == []


def test_the_longest_unused_entries_go_first(tmp_path: Path) -> None:
    size = 20_000
    keys = [content_key(n) for n in range(40)]
    cache = ArtifactCache(tmp_path, disk_limit=16 * size)
    folder = tmp_path / "artifacts"
    for position, key in enumerate(keys):
        cache.put(packed(key, bytes(size)))
        os.utime(folder / f"{key}.artifact", (position, position))
        if position > 0:
            os.utime(folder / f"{keys[0]}.artifact", (position, position))
    stats = cache.stats()
    assert stats.evicted > 0 and stats.bytes <= 17 * size + 16 * 500
    later = ArtifactCache(tmp_path, disk_limit=16 * size)
    assert later.get(keys[0]) is not None and later.get(keys[-1]) is not None
    assert later.get(keys[1]) is None


def test_a_hit_marks_the_entry_as_used(tmp_path: Path) -> None:
    ArtifactCache(tmp_path).put(packed())
    file = tmp_path / "artifacts" / f"{KEY}.artifact"
    os.utime(file, (0, 0))
    ArtifactCache(tmp_path).get(KEY)
    assert file.stat().st_mtime > 0


def test_eviction_and_replacement_do_not_disturb_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ArtifactCache(tmp_path).put(packed())
    file = tmp_path / "artifacts" / f"{KEY}.artifact"
    real = os.fstat

    def unlinked_meanwhile(descriptor: int) -> os.stat_result:
        if file.exists() and stat.S_ISREG(real(descriptor).st_mode):
            file.unlink()
        return real(descriptor)

    reader = ArtifactCache(tmp_path)
    reader.stats()
    assert reader.get(content_key("opens the folder")) is None
    monkeypatch.setattr(os, "fstat", unlinked_meanwhile)
    assert reader.get(KEY) == packed()


def test_the_layer_in_memory_is_bounded(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, memory_limit=50_000)
    for n in range(20):
        cache.put(packed(content_key(n), bytes(10_000)))
    assert cache._memory_bytes <= 50_000 and len(cache._memory) < 6
    assert cache.get(content_key(0)) is not None and cache.stats().disk_hits == 1


def test_the_configured_cache(tmp_path: Path) -> None:
    with config.override(cache_dir=tmp_path / "configured", cache="on"):
        default_cache().put(packed())
    assert (tmp_path / "configured" / "artifacts" / f"{KEY}.artifact").is_file()


parts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def canonical(part: Part) -> object:
    """An independent spelling of a part that keeps all that a key distinguishes."""
    if isinstance(part, (list, tuple)):
        return ("list", *map(canonical, part))
    if isinstance(part, dict):
        return ("map", *((name, canonical(value)) for name, value in sorted(part.items())))
    return (type(part).__name__, part.hex() if isinstance(part, float) else part)


@given(st.lists(parts, max_size=4), st.lists(parts, max_size=4))
def test_keys_are_equal_exactly_when_the_parts_are(left: list[Part], right: list[Part]) -> None:
    assert (content_key(*left) == content_key(*right)) == (canonical(left) == canonical(right))


def test_keys_of_neighbours_differ() -> None:
    groups: list[tuple[Part, ...]] = [
        (),
        ("",),
        (b"",),
        (None,),
        (0,),
        (False,),
        (0.0,),
        (-0.0,),
        ("0",),
        ([],),
        ({},),
        ([], []),
        ([[]],),
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (["a", "b"], "c"),
        (["a"], "b", "c"),
        ({"a": "b"},),
        (["a", "b"],),
    ]
    keys = [content_key(*group) for group in groups]
    assert all(a != b for a, b in itertools.combinations(keys, 2))


def test_keys_go_as_deep_as_the_parts() -> None:
    deep: Part = 0
    for _ in range(100_000):
        deep = [deep]
    assert content_key(deep) != content_key([deep])
    while isinstance(deep, list):
        deep = deep.pop()


def test_other_types_have_no_place_in_a_key() -> None:
    with pytest.raises(TypeError):
        content_key(object())  # type: ignore[arg-type]


def test_the_environment_is_named() -> None:
    assert environment_parts()[0] == "tessera" and len(environment_parts()[1]) == 64


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_no_damage_is_overlooked(noise: bytes, place: int) -> None:
    good = encode(packed())
    for damaged in (good[: place % len(good)], good + noise, noise, good[: place % len(good)] + noise):
        assert damaged == good or decode(damaged, KEY) is None
    assert decode(good, KEY) == packed()


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_bit_is_overlooked(place: int, change: int) -> None:
    data = bytearray(encode(packed()))
    data[place % len(data)] ^= change
    assert decode(bytes(data), KEY) is None


def test_metadata_that_is_not_json_is_a_mistake() -> None:
    with pytest.raises(TypeError):
        encode(Packed(KEY, "c", {}, {"x": object()}))  # type: ignore[dict-item]
