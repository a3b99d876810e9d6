"""Small runs of the benchmarks from the command to the written file. No time is judged."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import stat
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import benchmarks
from benchmarks import app, bandwidth, gradients, job, machine, peers, speed
from benchmarks.cases import CASES
from benchmarks.job import Job
from tessera import config
from tessera.cli.main import main
from tessera.driver.progress import Progress

PEERS = "eager,jax" if importlib.util.find_spec("jax") is not None else "eager"


def _run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    target = tmp_path / "results" / "small.json"
    assert benchmarks.main(["--quick", "--output", str(target), *arguments]) == 0
    document: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return document


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("--only", "softmax", "--only", "adamw", "--sections", "facts,speed,latency", "--modes", "recycled")
    doc = _run(tmp_path, "--peers", PEERS, *chosen)
    assert doc["failures"] == []
    check_schema(doc)
    assert [(row["mode"], row["case"]) for row in doc["speed"]] == [("recycled", "softmax"), ("recycled", "adamw")]
    for row in doc["speed"]:
        assert row["tessera_ms"] > 0 and row["eager_ms"] > 0 and row["ratio"] > 0
        assert row["compile_ms"] is None
    assert {row["participant"] for row in doc["latency"]} == {"tessera", *PEERS.split(",")}
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("recycled pages", "bars", "not judged", "softmax"))
    raw = json.loads((tmp_path / "results" / "raw" / "small.json").read_text(encoding="utf-8"))
    assert len(raw["speed"]["recycled"]["seconds"]["softmax"]["tessera"]) == 2
    ElementTree.parse(tmp_path / "results" / "small.svg")


def test_a_small_run_of_first_calls(tmp_path: Path) -> None:
    doc = _run(tmp_path, "--peers", "eager", "--sections", "cold", "--only", "rope", "--only", "adamw")
    assert doc["failures"] == []
    check_schema(doc)
    assert [(row["participant"], row["cache"]) for row in doc["cold"]] == [("tessera", "empty"), ("tessera", "warm")]
    assert all(row["first"] > row["definitions"] > 0 and row["further_most"] > 0 for row in doc["cold"])


def test_a_run_without_peers(tmp_path: Path) -> None:
    doc = _run(
        tmp_path,
        "--peers",
        "",
        "--sections",
        "speed",
        "--modes",
        "installed",
        "--only",
        "rope",
        "--rounds",
        "3",
    )
    check_schema(doc)
    (row,) = doc["speed"]
    assert row["best"] is None and "ratio" not in row
    assert row["copy_share"] > 0
    assert doc["means"] == []


HEAD = {
    "schema": int, "name": str, "date": str, "commit": str, "quick": bool, "threads": int, "rounds": int,
    "load": float,
    "machine": dict, "versions": dict, "cases": list, "pairs": dict,
}  # fmt: skip
ROWS = {
    "speed": {"mode", "case", "tessera_ms", "eager_ms", "compile_ms", "jax_ms", "copy_ms", "best"},
    "means": {"mode", "against", "cases", "geometric_mean", "smallest"},
    "copy": {"mode", "method", "gb_per_s"},
    "latency": {"participant", "micros", "low", "high", "calls"},
    "cold": {"participant", "cache", "definitions", "first", "further_median", "further_most", "processes"},
    "kernels": {"case", "kernels", "moved", "least", "factor"},
    "errors": {"case", "result", "tessera", "eager", "torch", "floor", "ratio"},
    "failures": {"section", "what", "why"},
    "bars": {"bar", "required", "value", "verdict"},
}


def check_schema(doc: dict[str, Any]) -> None:
    """What a result file must hold, whatever was measured."""
    for key, kind in HEAD.items():
        assert isinstance(doc[key], kind), key
    for key, columns in ROWS.items():
        assert isinstance(doc[key], list), key
        for row in doc[key]:
            assert columns <= set(row), key
    for row in doc.get("contractions", ()):
        assert {"mode", "case", "ms", "best"} <= set(row)
    for key, name in (("cases", "case"), ("attentions", "variant")):
        for row in doc.get("contraction_facts", {}).get(key, ()):
            assert {name, "kernels", "calls", "extra", "error"} <= set(row)
    assert set(doc) - {"contractions", "contraction_facts"} == {*HEAD, *ROWS}


def test_results_in_the_tree_follow_the_schema() -> None:
    for path in app.RESULTS.glob("*.json"):
        doc = json.loads(path.read_text(encoding="utf-8"))
        section = doc.get("section")
        if section == "gradients":
            assert set(doc["cases"]) == set(gradients.CASES)
        elif section is None and "gpu" not in doc:
            check_schema(doc)
        assert "gpu" in doc or not doc["quick"], f"{path.name} comes from a smoke run"


def test_a_machine_is_described_without_names() -> None:
    text = json.dumps([machine.describe(), machine.versions(), machine.commit()])
    assert os.uname().nodename not in text
    assert "/" not in json.dumps(machine.versions())


def test_a_failing_section_is_reported_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(task: Job, extra: object) -> dict[str, Any]:
        raise job.SectionError("status 1\nthe end of its output")

    monkeypatch.setattr(job, "run", broken)
    target = tmp_path / "r.json"
    assert benchmarks.main(["--quick", "--peers", "eager", "--output", str(target)]) == 1
    doc = json.loads(target.read_text(encoding="utf-8"))
    check_schema(doc)
    assert len(doc["failures"]) == 6
    assert {row["verdict"] for row in doc["bars"]} == {"not measured"}


def test_a_peer_that_fails_does_not_take_the_others_down(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["rope"]
    monkeypatch.setitem(peers._MAKERS, "compile", lambda case, arguments: 1 / 0)
    calls, failures = peers.prepare(("tessera", "eager", "compile"), case, case.make(quick=True))
    assert set(calls) == {"tessera", "eager"}
    assert failures == {"compile": "ZeroDivisionError: division by zero"}


@pytest.mark.parametrize(
    "arguments",
    [["--only", "nothing"], ["--sections", "speed,nothing"], ["--peers", "numpy"], ["--rounds", "0"]],
)
def test_wrong_arguments_end_with_a_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmarks.main(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_jobs_travel_as_text() -> None:
    task = Job("speed", "speed, recycled pages", ("rope", "adamw"), ("eager",), quick=True, rounds=3)
    assert Job.loads(task.dumps()) == task


def test_sections_see_two_threads_and_only_their_own_allocation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    env = job.environment(job.MODES["recycled"])
    assert {name for name in env if name.startswith("MALLOC_")} == {
        "MALLOC_MMAP_MAX_",
        "MALLOC_TRIM_THRESHOLD_",
    }
    assert env["OMP_NUM_THREADS"] == "2"
    assert not any(name.startswith("MALLOC_") for name in job.environment(job.MODES["installed"]))


def test_caches_are_private(tmp_path: Path) -> None:
    folders = [Path(v) for v in job.cache_environment(tmp_path).values() if v.startswith(str(tmp_path))]
    assert len(folders) == 3
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders)


def test_every_way_to_copy_copies() -> None:
    with bandwidth.Copier(2) as copier:
        assert "torch copy_" in copier.methods
        for method in copier.methods[1:]:
            source, target = copier.call(method, 8 * 1_000_003)()  # type: ignore[misc]
            assert source.numel() == 1_000_003
            assert bool((target == 1).all())
        assert set(copier.measure(1 << 16, 2)) == set(copier.methods)


def test_turns_rotate_and_rounds_are_complete() -> None:
    seen: list[str] = []
    calls = {name: (lambda n=name: seen.append(n)) for name in "abc"}
    with config.override(progress="off"), Progress("test", 3) as progress:
        times = speed.interleave(calls, 3, progress)
    assert {name: len(series) for name, series in times.items()} == {"a": 3, "b": 3, "c": 3}
    starts = [seen[i] for i in range(len(seen)) if i == 0 or seen[i] != seen[i - 1]]
    # Once to count the calls of a turn, then three rounds.
    assert "".join(starts) == "abc" + "abc" + "bca" + "cab"


def test_the_bar_is_drawn_only_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    for choice, expected in (("off", False), ("on", True)):
        with config.override(progress=choice), Progress("counting", 2) as progress:
            progress.step("one")
            progress.step("two")
        assert ("counting" in capsys.readouterr().err) is expected


def test_the_module_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("benchmarks", run_name="__main__")
    assert ended.value.code == 0
    assert "--quick" in capsys.readouterr().out


def test_the_command_line_hands_everything_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--quick", "--rounds", "0"])
    assert ended.value.code == 2
    assert "--rounds" in capsys.readouterr().err
