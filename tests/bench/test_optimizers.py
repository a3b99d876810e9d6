"""The benchmark of optimizers: it runs from end to end, and its participants do the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import optimizers


def test_shapes_add_up() -> None:
    for total, count in (optimizers.USUAL, optimizers.QUICK, (1000, 3)):
        sizes = [torch.Size(s).numel() for s in optimizers.shapes(total, count)]
        assert len(sizes) == count and min(sizes) >= 1
        assert abs(sum(sizes) - total) <= 256 * count


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "small.json"
    assert optimizers.main(["--quick", "--no-compile", "--output", str(target)]) == 0
    assert "AdamW with clipping" in capsys.readouterr().out
    found = json.loads(target.read_text(encoding="utf-8"))
    assert set(found["ms"]) == {"tessera", "fused", "foreach"} and set(found["ratios"]) == {"fused", "foreach"}


def test_everyone_begins_alike() -> None:
    sizes = optimizers.shapes(*optimizers.QUICK)
    one, two = (optimizers.parameters(sizes, torch.float32) for _ in range(2))
    assert all(torch.equal(p, q) and torch.equal(p.grad, q.grad) for p, q in zip(one, two, strict=True))  # type: ignore[arg-type]
