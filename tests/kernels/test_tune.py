"""Settings measured beforehand: the right ones are chosen, wrong ones rejected, and the file is what says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tessera
from tessera import ShapeError, Tile, tile
from tessera.diag import ConfigError
from tessera.driver import kernel_tune
from tests.kernels.given import f


@tessera.kernel
def doubled(x: Tile["N"], y: Tile["N"]):
    b = tile.context().block_m
    for i in tile.grid(0, tile.context().N, b):
        tile.store(y[i : i + b], tile.load(x[i : i + b]) * 2)


@tessera.kernel
def block_of(x: Tile["N"], y: Tile["N"]):
    """Wrong: what it gives depends on the block size."""
    b = tile.context().block_m
    for i in tile.grid(0, tile.context().N, b):
        tile.store(y[i : i + b], tile.load(x[i : i + b]) + b)


def test_the_fastest_is_chosen_for_its_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"the compiler's choice": 2.0, "block_m=4": 1.0, "block_m=8": 3.0}

    def measured(candidates: Any, wanted: Any, *_: Any) -> Any:
        assert list(candidates) == list(speeds)
        assert all(torch.equal(run(), wanted) for run in candidates.values())
        return speeds, {}

    monkeypatch.setattr(kernel_tune, "measure", measured)
    path = tmp_path / "new" / "found.json"
    tuned = doubled.autotune([{"block_m": 4}, {"block_m": 8}], [(f(10),)], cache=path)
    assert tuned._tuned.of_call((f(10),), {}).settings == {"block_m": 4}
    assert tuned._tuned.of_call((f(11),), {}) is None and tuned._tuned.of_call((f(10).double(),), {}) is None
    assert torch.equal(tuned(f(10)), f(10) * 2) and torch.equal(tuned(f(11)), f(11) * 2)
    (entry,) = json.loads(path.read_text())["kernels"][0]["entries"]
    assert (entry["sizes"], entry["dtypes"], entry["settings"]) == ({"N": 10}, ["f32"], {"block_m": 4})
    assert entry["milliseconds"] == speeds

    monkeypatch.setattr(kernel_tune, "measure", None)  # what the file has is not measured again
    again = doubled.autotune([{"block_m": 4}], [(f(10),)], cache=path)
    assert again._tuned.of_call((f(10),), {}).settings == {"block_m": 4}
    read = doubled.autotune([], cache=path)
    assert read._tuned.of_call((f(10),), {}).settings == {"block_m": 4}
    assert not list(tmp_path.glob("new/*.json.*"))


def test_sizes_that_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_tune, "measure", lambda *_: ({"the compiler's choice": 2.0, "block_m=4": 1.0}, {}))
    tuned = doubled.autotune([{"block_m": 4}], [(f(10),)], key=())
    assert tuned._tuned.of_call((f(12),), {}).settings == {"block_m": 4}


def test_candidates_are_measured_and_wrong_ones_rejected() -> None:
    tuned = block_of.autotune([{"block_m": 5}, {"block_m": 32}], [(f(10),)], warmup=0, reps=2)
    (entry,) = tuned._tuned.table.entries.values()
    assert "differs from the interpreter by" in entry.rejected["block_m=5"]
    assert set(entry.milliseconds) <= {"the compiler's choice", "block_m=32"} and "block_m=32" in entry.milliseconds
    assert all(t > 0 for t in entry.milliseconds.values())


def test_another_kernel_has_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    doubled.autotune([{"block_m": 4}], [(f(6),)], warmup=0, reps=1, cache=path)
    block_of.autotune([{"block_m": 32}], [(f(6),)], warmup=0, reps=1, cache=path)
    found = json.loads(path.read_text())["kernels"]
    assert [k["name"] for k in found] == ["doubled", "block_of"]
    assert found[0]["digest"] != found[1]["digest"]


def test_what_is_no_such_file(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    for text in ("", "[]", '{"format": 9, "kernels": []}', '{"format": 1, "kernels": [{}]}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is no file of measured settings"):
            doubled.autotune([], cache=path)
        assert path.read_text() == text
    with pytest.raises(ShapeError):
        doubled.autotune([{"block_m": 0}])
