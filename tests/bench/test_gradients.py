"""The benchmark of forward and backward passes, on small sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gradients


def test_a_quick_run_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    names = "rms_norm,rope,cross_entropy,attention"
    assert gradients.main(["--quick", "--no-compile", "--cases", names, "--output", str(out)]) == 0
    rows = json.loads(out.read_text())["cases"]
    assert list(rows) == names.split(",")
    assert all(row["error_ratio"] < 4 and row["ms"]["tessera"] > 0 for row in rows.values())
    assert rows["cross_entropy"]["kept"]["tessera"] < rows["cross_entropy"]["kept"]["eager"]
    assert rows["cross_entropy"]["peak"]["tessera"] < rows["cross_entropy"]["peak"]["eager"]
    assert set(rows["attention"]["ratios"]) == {"eager", "sdpa"}
    assert "geometric mean" in capsys.readouterr().out


def test_an_unknown_case_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gradients.main(["--cases", "norm"])
    assert "no case norm" in capsys.readouterr().err
