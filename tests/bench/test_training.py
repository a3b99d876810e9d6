"""The benchmark of the training example, on a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import training


def test_a_quick_run_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    assert training.main(["--quick", "--no-compile", "--no-first", "--output", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["section"] == "training" and found["steps"] == 8
    assert found["apart"]["compiled"] < 1e-4
    assert set(found["ratios"]) == {"eager"} and set(found["ms"]) == {"compiled", "eager"}
    assert len(found["losses"]["eager"]) == len(found["seconds"]["compiled"]) == 8
    assert "tokens/s" in capsys.readouterr().out


def test_a_first_step_is_measured_from_the_start_of_python() -> None:
    found = training.cold(training.EAGER, quick=True)
    assert found["cpu"] > 0 and found["seconds"] > 0


def test_the_number_of_steps_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        training.main(["--quick", "--steps", "3"])
    assert "at least 4 steps" in capsys.readouterr().err
