"""The benchmark of kernels, with small sizes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import kernels


def test_a_quick_run_measures_and_writes(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert kernels.main(["--quick", "--cases", "rms_norm,rope", "--output", str(path)]) == 0
    found = json.loads(path.read_text())
    assert set(found["cases"]) == {"rms_norm", "rope"}
    row = found["cases"]["rms_norm"]
    assert row["launches"] == 1 and set(row["ratios"]) == {"blocks", "eager", "function"}
    assert row["error_ratio"]["kernel"] <= 1.05
    assert found["lines"]["rms_norm"] == 10
