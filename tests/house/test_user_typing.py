"""A user's file with `Tensor["B", "S"]` in it: what mypy, ruff and (where installed) pyright say.

``docs/typing.md`` promises this table; the settings in it are taken from there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import ROOT, surface

DECLARED = 'B, S, D, H, n = "B", "S", "D", "H", "n"\n'
USER = """\
import torch

import tessera
from tessera import Tensor, f32, function

{names}

@function
def norm(x: Tensor["B", "S", "D"], w: Tensor["D", f32], m: Tensor["S", 1] | None) -> Tensor["B", "S", "D"]:
    y = x * w + 1e-6
    z = y.transpose(-1, -2).mT
    return y if m is None else torch.softmax(z * m, -1)


@tessera.function
def half(x: Tensor["...", "D"]) -> tuple[Tensor["...", "D/2"], Tensor["B*H"], tessera.Tensor[()]]:
    a, b = x.chunk(2, dim=-1)
    return a, b.reshape(-1), b.sum()


def bare(x: Tensor, n: "Tensor['n', 2]") -> Tensor:
    return torch.softmax(x, -1) + n


class Layer:
    @function
    def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        w: Tensor["D"] = x[0]
        return tessera.exp(x) * w


norm(torch.ones(2, 3, 4), torch.ones(4), None)
Layer().forward(torch.ones(2, 3))
{more}
"""
BARE_STRINGS = USER.format(names="", more="")
NAMES = USER.format(
    names=DECLARED,
    more="\n\n@function\ndef short(x: Tensor[B, S, D], w: Tensor[D]) -> Tensor[B, S, D]:\n    return x * w\n",
)


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280
    )


def _ruff(folder: Path, *options: str) -> list[str]:
    """Lines of the F rules only: what a user's own style is does not matter here."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F"]
    done = _run(*command, "--output-format", "concise", *options, "user.py", cwd=folder)
    return [line for line in done.stdout.splitlines() if line.startswith("user.py")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "user.py").write_text(NAMES, encoding="utf-8")
    return tmp_path


def test_ruff_accepts_declared_names(folder: Path) -> None:
    assert _ruff(folder) == []


def test_ruff_finds_a_misspelt_name(folder: Path) -> None:
    (folder / "user.py").write_text(NAMES + '\n\ndef g(x: Tensor["Q"]) -> None: ...\n', encoding="utf-8")
    assert len(_ruff(folder)) == 1


def test_ruff_accepts_strings_with_the_documented_settings(folder: Path) -> None:
    (folder / "user.py").write_text(BARE_STRINGS, encoding="utf-8")
    assert _ruff(folder) != []
    assert _ruff(folder, "--config", 'builtins = ["B", "S", "D", "H", "n"]') == []
    assert _ruff(folder, "--ignore", "F821") == []


def test_ruff_leaves_postponed_annotations_alone_with_the_documented_settings(folder: Path) -> None:
    text = "from __future__ import annotations\n\n" + BARE_STRINGS
    text = text.replace("n: \"Tensor['n', 2]\"", "n: Tensor['n', 2]")
    (folder / "user.py").write_text(text, encoding="utf-8")
    assert _ruff(folder, "--select", "F,UP037") != []
    assert _ruff(folder, "--select", "F,UP037", "--ignore", "F821,UP037") == []


def _mypy(folder: Path, *options: str) -> list[str]:
    cache = ROOT / ".mypy_cache" / "user"
    done = _run(
        sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, *options, "user.py", cwd=folder
    )
    return [line for line in done.stdout.splitlines() if line.startswith("user.py")]


@pytest.mark.slow
def test_mypy_strict(folder: Path) -> None:
    if surface() is None:
        return
    assert _mypy(folder) == []
    (folder / "user.py").write_text(BARE_STRINGS, encoding="utf-8")
    assert {line.rsplit("[", 1)[1] for line in _mypy(folder)} == {"name-defined]"}
    assert _mypy(folder, "--disable-error-code", "name-defined") == []


@pytest.mark.slow
def test_pyright(folder: Path) -> None:
    """Pyright brings a JavaScript runtime, so it is not a dependency; where it is installed it is asked."""
    pyright = shutil.which("pyright")
    if surface() is None or pyright is None:
        return
    settings = {"extraPaths": [str(ROOT)], "venvPath": str(ROOT), "venv": ".venv"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "user.py").write_text(BARE_STRINGS, encoding="utf-8")
    done = _run(pyright, "user.py", cwd=folder)
    assert done.returncode == 0, done.stdout
