"""The contractions of the benchmarks: they compute what they should, run from end to end, and are judged rightly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import benchmarks
from benchmarks import contraction_document, contraction_runs, facts
from benchmarks.contractions import ATTENTIONS, CONTRACTIONS, attention_arguments
from benchmarks.job import Job
from tests.bench.test_run import PEERS, check_schema

#: Participants that measure something else than the case.
_OTHER = {"sgemm", "causal", "mm", "three products", "mv in f32", "softmax"}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_participants_compute_the_same(name: str) -> None:
    case = CONTRACTIONS[name]
    calls, failed = contraction_runs.prepare(case, Job("contraction_times", "", (name,), tuple(PEERS.split(",")), True))
    assert failed == {}
    assert set(case.best) <= {*case.participants(True)} - _OTHER
    wanted = facts.tensors(case.function.eager(*facts.widened(case.make(True))))
    for who in set(calls) - _OTHER:
        result = calls[who]()
        results = result if isinstance(result, tuple | list) else (result,)
        tolerance = 1e-2 if name == "bf16_linear" else 1e-5
        for one, other in zip(results, wanted, strict=True):
            found = torch.as_tensor(np.array(one) if who == "jax" else one).double()
            torch.testing.assert_close(found.reshape(other.shape), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_variant_of_attention_is_one_kernel(name: str) -> None:
    row = contraction_runs.attention_row(name, quick=True)
    assert row["kernels"] == 1
    assert row["growth"] <= 2.2
    assert row["error"] is None or row["error"] <= 1.5


def test_arguments_are_the_same_every_time() -> None:
    for one, two in zip(attention_arguments("grouped", 4, 8, 4), attention_arguments("grouped", 4, 8, 4), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(two))


@pytest.mark.nightly
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "small.json"
    chosen = ["--only", "window_attention", "--only", "block", "--modes", "recycled", "--peers", "eager"]
    assert benchmarks.main(["--quick", "--output", str(target), *chosen]) == 0
    doc: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    check_schema(doc)
    assert doc["failures"] == [] and doc["speed"] == []
    assert [row["case"] for row in doc["contractions"]] == doc["cases"] == ["window_attention", "block"]
    assert set(doc["contractions"][0]["ms"]) == {"tessera", "eager", "causal"}
    assert [row["variant"] for row in doc["contraction_facts"]["attentions"]] == list(ATTENTIONS)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("variants of attention", "not judged", "recycled pages", "best peer"))


def _document(**ratios: float) -> dict[str, Any]:
    rounds = {"tessera": [1.0, 2.0], **{name: [value, 2 * value] for name, value in ratios.items()}}
    best = {"full_attention": ("eager", "sdpa")}
    rows = contraction_document.time_rows("recycled", {"full_attention": rounds}, best, {"full_attention": 0.5})
    return {"quick": False, "contractions": rows, "contraction_facts": {"cases": [], "attentions": []}}


def test_ratios_and_bars() -> None:
    doc = _document(eager=3.0, sdpa=2.0, sgemm=1.25)
    (row,) = doc["contractions"]
    assert (row["best"], row["ratio"], row["peak_share"]) == ("sdpa", 2.0, 0.625)
    bars = {bar["bar"]: (bar["value"], bar["verdict"]) for bar in contraction_document.bar_rows(doc)}
    assert bars["full attention, share of sgemm"] == ("62", "PASS")
    assert bars["transformer block, best peer"] == (None, "not measured")
    assert len(bars) == len(contraction_document.LIMITS)
    low = contraction_document.bar_rows(_document(sgemm=1.0))
    assert [bar["verdict"] for bar in low if bar["bar"].startswith("full")] == ["short"]


def test_a_limit_has_a_side() -> None:
    most, least = contraction_document.LIMITS[0], next(x for x in contraction_document.LIMITS if not x.most)
    assert (most.required, least.required[:1]) == ("≤ 1", "≥")
    assert most.holds(1.0) and not most.holds(2.0) and least.holds(100.0) and not least.holds(0.1)
