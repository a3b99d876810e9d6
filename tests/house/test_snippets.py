"""The documents run: every fenced Python block of the README and the docs, with its claims."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.snippets import SnippetError, blocks, run_document, type_text
from tests.house.source import ROOT, label, surface

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [path for path in DOCUMENTS if path.exists() and list(blocks(path.read_text(encoding="utf-8")))]


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """A process that runs documents."""
    command = [sys.executable, "-m", "tests.house.snippets", "--serve"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, process_group=0) as running:
        yield running
        os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.parametrize("path", WITH_CODE, ids=label)
def test_document(path: Path, server: subprocess.Popen[str], tmp_path: Path) -> None:
    if surface() is None:
        return
    assert server.stdin is not None and server.stdout is not None
    output = tmp_path / "output"
    print(path, output, sep="\t", file=server.stdin, flush=True)
    assert server.stdout.readline() == "0\n", output.read_text(encoding="utf-8")


def _document(tmp_path: Path, *parts: str) -> Path:
    path = tmp_path / "page.md"
    path.write_text("# title\n\n" + "\n\ntext\n\n".join(f"```python\n{part}\n```" for part in parts))
    return path


def test_blocks_share_their_names(tmp_path: Path) -> None:
    assert run_document(_document(tmp_path, "x = 3\ndef f(): return x", "assert f() == 3")) == 2


def test_code_keeps_its_line_numbers(tmp_path: Path) -> None:
    path = _document(tmp_path, "x = 3", "import sys\nassert sys._getframe().f_lineno == 11")
    assert path.read_text().splitlines()[10].startswith("assert")
    run_document(path)


def test_other_fences_do_not_run(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    text = "```text\nraise\n```\n~~~python\nx = 1\n~~~\n- item\n\n    ```python\n    y = x\n    ```\n"
    path.write_text(text)
    assert run_document(path) == 2


class _Typed:
    type = "f32[B, S]"


@pytest.mark.parametrize(
    "code",
    [
        "thing  # revealed: f32[B, S]",
        "y = thing  # revealed: f32[B, S]",
        "y = (\n    thing\n)  # revealed: f32[B, S]",
        "def f():\n    y = thing  # revealed: f32[B, S]\n    return y\nf()",
        "print('a', 1)  # prints: a 1",
        "for i in (1, 2):\n    print(i)\n# prints: 1\n# prints: 2\nprint('b')  # prints: b",
        "print(\n    'é')  # prints: é",
        "print('a')\nprint('b')\n# prints: a\n# prints: b",
        "print('a long line')\n# prints: a lo…",
        "print(1)\nprint(2)\nprint(3)\n# prints: 1\n# prints: …",
        "raise error  # error: [TSR0202]",
        "x = 1  # error: [TSR0202] said here, raised below\nraise error",
    ],
)
def test_true_claims_hold(code: str, tmp_path: Path) -> None:
    prelude = (
        "class Thing:\n    type = 'f32[B, S]'\nthing = Thing()\n"
        "class Wrong(Exception):\n    code = 'TSR0202'\n    codes = ('TSR0202', 'TSR0203')\nerror = Wrong()"
    )
    run_document(_document(tmp_path, prelude, code))


@pytest.mark.parametrize(
    "code",
    [
        "3  # revealed: 4",
        "print('a')  # prints: b",
        "x = 1  # prints: b",
        "print(1)\nprint(2)\n# prints: 1",
        "x = 1  # error: [TSR0202]",
        "raise KeyError(1)  # error: [TSR0202]",
        "for x in []: pass  # revealed: 4",
        "def f():\n    y = 'x'  # revealed: z\nf()",
        "print(1)\nx = 1\n# prints: 2",
    ],
)
def test_false_claims_fail(code: str, tmp_path: Path) -> None:
    with pytest.raises(SnippetError):
        run_document(_document(tmp_path, code))


def test_an_error_nobody_announced_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run_document(_document(tmp_path, "1 / 0"))


def test_type_text() -> None:
    assert type_text(_Typed()) == "f32[B, S]"
    assert type_text("plain") == "plain"
