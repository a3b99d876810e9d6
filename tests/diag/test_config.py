"""Options: what the environment may say, how it is read, and how it is set for a while."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera import config
from tessera.config import OPTIONS, parse_bytes
from tessera.diag import ConfigError, TesseraWarning

FIELD = {option.variable: option.name for option in OPTIONS}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)
    config.refresh()
    yield
    monkeypatch.undo()
    config.refresh()


def _value(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> object:
    monkeypatch.setenv(variable, text)
    config.refresh()
    return getattr(config.current(), FIELD[variable])


def test_the_variables() -> None:
    assert set(FIELD) == {
        "TESSERA_BACKEND",
        "TESSERA_CACHE_DIR",
        "TESSERA_CACHE",
        "TESSERA_POOL",
        "TESSERA_POOL_LIMIT",
        "TESSERA_CC",
        "TESSERA_CFLAGS_OPT",
        "TESSERA_COMPILE_TIMEOUT",
        "TESSERA_SHAPES",
        "TESSERA_FULL_TRACEBACK",
        "TESSERA_VERIFY",
        "TESSERA_STREAM_STORES",
        "TESSERA_PROGRESS",
        "NO_COLOR",
    }


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    settings = config.current()
    assert settings.backend == "auto"
    assert settings.cache_dir == Path("/x/cache/tessera")
    assert settings.cache == "on"
    assert settings.pool is True
    assert settings.pool_limit is None
    assert settings.cc is None
    assert settings.cflags_opt == 2
    assert settings.compile_timeout == 120.0
    assert settings.shapes == "strict"
    assert settings.full_traceback is False
    assert settings.verify is False
    assert settings.stream_stores == "auto"
    assert settings.progress == "auto"
    assert settings.no_color is False


GOOD = [
    ("TESSERA_BACKEND", "eager", "eager"),
    ("TESSERA_BACKEND", " C ", "c"),
    ("TESSERA_BACKEND", "", "auto"),
    ("TESSERA_CACHE_DIR", "/var/cache/t", Path("/var/cache/t")),
    ("TESSERA_CACHE_DIR", "~/t", Path("/h/t")),
    ("TESSERA_CACHE", "readonly", "readonly"),
    ("TESSERA_POOL", "off", False),
    ("TESSERA_POOL", "1", True),
    ("TESSERA_POOL", "False", False),
    ("TESSERA_POOL_LIMIT", "2GB", 2 * 10**9),
    ("TESSERA_POOL_LIMIT", "512 mib", 512 * 2**20),
    ("TESSERA_POOL_LIMIT", "1.5k", 1500),
    ("TESSERA_POOL_LIMIT", "0", 0),
    ("TESSERA_POOL_LIMIT", str(2**63 - 1), 2**63 - 1),
    ("TESSERA_CC", "/opt/my tools/cc", "/opt/my tools/cc"),
    ("TESSERA_CFLAGS_OPT", "2", 2),
    ("TESSERA_COMPILE_TIMEOUT", "0.5", 0.5),
    ("TESSERA_SHAPES", "warn", "warn"),
    ("TESSERA_FULL_TRACEBACK", "1", True),
    ("TESSERA_VERIFY", "yes", True),
    ("TESSERA_STREAM_STORES", "on", "on"),
    ("TESSERA_PROGRESS", "off", "off"),
    ("NO_COLOR", "anything", True),
]


@pytest.mark.parametrize(("variable", "text", "value"), GOOD)
def test_values(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object) -> None:
    monkeypatch.setenv("HOME", "/h")
    found = _value(monkeypatch, variable, text)
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


BAD = [
    ("TESSERA_BACKEND", "gpu"),
    ("TESSERA_CACHE_DIR", "relative/folder"),
    ("TESSERA_CACHE_DIR", "/bell\x07"),
    ("TESSERA_CACHE", "maybe"),
    ("TESSERA_POOL", "2"),
    ("TESSERA_POOL_LIMIT", "-1"),
    ("TESSERA_POOL_LIMIT", "1e9"),
    ("TESSERA_POOL_LIMIT", "٣GB"),
    ("TESSERA_POOL_LIMIT", str(2**63)),
    ("TESSERA_POOL_LIMIT", "i"),
    ("TESSERA_CC", "--version"),
    ("TESSERA_CC", "cc\nrm"),
    ("TESSERA_CFLAGS_OPT", "fast"),
    ("TESSERA_CFLAGS_OPT", "3 -ffast-math"),
    ("TESSERA_COMPILE_TIMEOUT", "0"),
    ("TESSERA_COMPILE_TIMEOUT", "inf"),
    ("TESSERA_COMPILE_TIMEOUT", "nan"),
    ("TESSERA_COMPILE_TIMEOUT", "100000"),
    ("TESSERA_SHAPES", "on"),
    ("TESSERA_VERIFY", "full"),
    ("TESSERA_PROGRESS", "x" * 10_000),
    ("TESSERA_STREAM_STORES", "\x1b[31m"),
]


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_malformed_values(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _value(monkeypatch, variable, text)
    shown = str(caught.value)
    assert caught.value.code == "TSR0609"
    assert variable in shown
    assert "note: allowed: " in shown
    assert "\x1b" not in shown
    assert len(shown) < 500


def test_other_options_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_BACKEND", "gpu")
    assert config.current().cache == "on"


def test_a_value_is_read_once_and_again_after_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.current().cache == "on"
    monkeypatch.setenv("TESSERA_CACHE", "off")
    assert config.current().cache == "on"
    config.refresh()
    assert config.current().cache == "off"


def test_overrides_nest_and_end() -> None:
    with config.override(backend="eager", pool=False) as outer:
        assert config.current() is outer
        with config.override(backend="c", pool_limit="1GiB", cache_dir=Path("/a")):
            now = config.current()
            assert (now.backend, now.pool, now.pool_limit, now.cache) == ("c", False, 2**30, "on")
        assert config.current().backend == "eager"
    assert config.current().backend == "auto"


def test_an_override_ends_with_an_error() -> None:
    with pytest.raises(KeyError), config.override(verify=True):
        raise KeyError
    assert config.current().verify is False


def test_refresh_reaches_what_is_not_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    with config.override(backend="eager"):
        assert config.current().cache == "on"
        monkeypatch.setenv("TESSERA_CACHE", "off")
        config.refresh()
        assert (config.current().backend, config.current().cache) == ("eager", "off")


def test_overrides_stay_in_their_thread() -> None:
    seen: list[str] = []
    with config.override(backend="eager"):
        thread = threading.Thread(target=lambda: seen.append(config.current().backend))
        thread.start()
        thread.join()
    assert seen == ["auto"]


@pytest.mark.parametrize(
    "values",
    [
        {"backend": "gpu"},
        {"backend": None},
        {"pool": 3},
        {"pool_limit": -1},
        {"pool_limit": True},
        {"cflags_opt": 0},
        {"cflags_opt": 2.0},
        {"compile_timeout": float("nan")},
        {"compile_timeout": float("inf")},
        {"cache_dir": Path("here")},
        {"cc": b"cc"},
        {"no_color": 1},
    ],
)
def test_overrides_are_checked(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught, config.override(**values):
        pass
    assert caught.value.code == "TSR0609"


def test_an_unknown_option() -> None:
    with (
        pytest.raises(ConfigError, match="there is no option `bakend`") as caught,
        config.override(bakend="c"),
    ):
        pass
    assert "help: `backend` is one" in str(caught.value)


def test_misspelt_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_BAKEND", "c")
    assert "TESSERA_BAKEND" in config.unknown_variables()
    assert "TESSERA_BACKEND" not in config.unknown_variables()


def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert config.home_folder() == Path("/h")
    assert config.xdg_cache_folder() == Path("/h/.cache")
    assert config.temporary_folder() == tmp_path
    monkeypatch.delenv("HOME")
    assert config.home_folder() is None
    assert config.xdg_cache_folder() is None
    assert config.current().cache_dir.parent == tmp_path
    assert config.current().cache_dir.name.startswith("tessera-cache-")
    for unusable in ("missing", "file"):
        (tmp_path / "file").touch()
        monkeypatch.setenv("TMPDIR", str(tmp_path / unusable))
        assert config.temporary_folder().is_dir()
    with pytest.raises(ConfigError):
        _value(monkeypatch, "TESSERA_CACHE_DIR", "~/t")


def test_what_a_child_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setenv("LD_PRELOAD", "/evil.so")
    child = config.child_environment()
    assert child["PATH"] == "/bin"
    assert child["LC_ALL"] == "C"
    assert "LD_PRELOAD" not in child
    monkeypatch.delenv("PATH")
    assert config.search_path() == os.defpath


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_and_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert config.color_wanted(Terminal())
    assert not config.color_wanted(io.StringIO())
    assert config.progress_wanted(Terminal())
    assert not config.progress_wanted(io.StringIO())
    with config.override(no_color=True, progress="on"):
        assert not config.color_wanted(Terminal())
        assert config.progress_wanted(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not config.color_wanted(Terminal())
    closed = io.StringIO()
    closed.close()
    assert not config.color_wanted(closed)


def test_the_table_for_the_documentation() -> None:
    for row in config.rows():
        assert re.fullmatch(r"[A-Z].*\.", row.meaning)
        assert row.allowed
        assert row.default
    assert len(config.rows()) == len(OPTIONS)


@given(st.text(max_size=30))
def test_any_text_is_bytes_or_refused(text: str) -> None:
    size = parse_bytes(text)
    assert size is None or 0 <= size < 2**63


@given(st.integers(0, 2**63 - 1))
def test_plain_numbers_count_bytes(size: int) -> None:
    assert parse_bytes(str(size)) == size


def test_a_misspelt_variable_is_warned_of_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_BAKEND", "eager")
    with pytest.warns(TesseraWarning, match="`TESSERA_BAKEND` is no option; `TESSERA_BACKEND` is one"):
        config.warn_of_unknown_variables()
