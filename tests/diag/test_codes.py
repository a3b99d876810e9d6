"""The pages of the codes are complete, in form and true: each failing example fails, each repair runs."""

from __future__ import annotations

import ast
import linecache
import re
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import tessera
from tessera.diag import CODES, TesseraError, page, read_page

PAGES = Path(read_page.__code__.co_filename).with_name("pages")
SECTIONS = ["What it means", "A failing example", "Why", "Repair"]

# The pages speak about the public names; they run as soon as there are any.
RUNNABLE = sorted(CODES) if hasattr(tessera, "function") else []


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert sorted(path.stem for path in PAGES.iterdir()) == sorted(CODES)
    assert all(re.fullmatch(r"TSR0[1-6]\d\d", code) for code in CODES)
    assert len({info.title for info in CODES.values()}) == len(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_page_agrees_with_the_table(code: str) -> None:
    info, parts = CODES[code], read_page(code)
    assert dict(parts.front) == {"title": info.title, "class": info.error.__name__}
    assert [name for name in parts.sections if name] == SECTIONS
    assert f"# {code}: {info.title}" in page(code)
    for name in SECTIONS:
        assert parts.sections[name].strip()
    for name in ("A failing example", "Repair"):
        example = parts.python(name)
        assert example is not None
        ast.parse(example)


@pytest.mark.parametrize("code", CODES)
def test_titles_are_statements(code: str) -> None:
    title = CODES[code].title
    assert not title.endswith(".")
    assert title[0].islower() or title.split()[0] in {"C", "IR", "Python"}


def test_an_unknown_code() -> None:
    with pytest.raises(KeyError):
        page("TSR9999")
    with pytest.raises(KeyError):
        page("../../errors")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    """A file for an example, forgotten afterwards."""
    path = tmp_path / "example.py"
    with warnings.catch_warnings():
        yield path
    linecache.checkcache(str(path))


def _run(path: Path, source: str | None) -> None:
    assert source is not None
    path.write_text(source, encoding="utf-8")
    runpy.run_path(str(path), run_name="example")


@pytest.mark.parametrize("code", RUNNABLE)
def test_the_failing_example_fails_with_its_code(code: str, fresh: Path) -> None:
    with pytest.raises(TesseraError) as caught:
        _run(fresh, read_page(code).python("A failing example"))
    assert caught.value.codes == (code,), str(caught.value)
    assert isinstance(caught.value, CODES[code].error)


@pytest.mark.parametrize("code", RUNNABLE)
def test_the_repair_runs(code: str, fresh: Path) -> None:
    _run(fresh, read_page(code).python("Repair"))
