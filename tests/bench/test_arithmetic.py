"""The arithmetic of the benchmark tables: medians, paired ratios, means, bars. No clock is read here."""

from __future__ import annotations

import doctest
import importlib
import math
from types import ModuleType
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import document, report, stats, table
from benchmarks.document import BARS, Document

MODULES = (
    "bandwidth", "cases", "document", "facts", "gpu", "gpu_attention", "gpu_bars", "gpu_cases", "job", "kernels",
    "machine", "peers", "report", "speed", "stats", "table",
)  # fmt: skip
POSITIVE = st.floats(min_value=1e-6, max_value=1e6)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_docstrings_run(name: str) -> None:
    module: ModuleType = importlib.import_module(f"benchmarks.{name}")
    assert doctest.testmod(module).failed == 0


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_a_geometric_mean_lies_between_its_values(values: list[float]) -> None:
    mean = stats.geometric_mean(values)
    assert min(values) * (1 - 1e-9) <= mean <= max(values) * (1 + 1e-9)
    assert stats.geometric_mean([1 / v for v in values]) == pytest.approx(1 / mean)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=20), POSITIVE)
def test_what_slows_a_round_down_for_all_cancels_out(pairs: list[tuple[float, float]], factor: float) -> None:
    over, under = [a for a, _ in pairs], [b for _, b in pairs]
    slow_over, slow_under = [factor * over[0], *over[1:]], [factor * under[0], *under[1:]]
    assert stats.paired(over, under).median == pytest.approx(stats.paired(slow_over, slow_under).median)


@given(st.lists(POSITIVE, min_size=1, max_size=30))
def test_quartiles_are_ordered(values: list[float]) -> None:
    found = stats.quartiles(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


def test_series_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        stats.paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize("function", [stats.geometric_mean, stats.quartiles])
def test_nothing_has_no_mean(function: object) -> None:
    with pytest.raises(ValueError, match="no values"):
        function([])  # type: ignore[operator]


def test_rows_with_missing_cells_are_refused() -> None:
    with pytest.raises(ValueError):
        table.render("t", ["a", "b"], [["1"]])


# -- a document from made-up measurements -----------------------------------------------------------


def _measured(scale: float = 1.0) -> dict[str, object]:
    """Two cases of three rounds; the second round is slow for everyone."""
    noise = (1.0, 10.0, 1.0)

    def series(milliseconds: float) -> list[float]:
        return [milliseconds * n / 1e3 for n in noise]

    return {
        "seconds": {
            "rms_norm": {"tessera": series(2.0), "eager": series(8.0 * scale), "jax": series(6.0 * scale),
                         "copy": series(1.8)},
            "rope": {"tessera": series(1.0), "eager": series(2.0 * scale), "compile": series(1.2 * scale),
                     "copy": series(0.9)},
        },
        "failures": {},
        "copy": {"memcpy": 2e10},
    }  # fmt: skip


LEAST = {"rms_norm": 16_000_000, "rope": 8_000_000}


def _document(**sections: object) -> Document:
    return document.assemble({"quick": False}, sections, LEAST)


def test_rows_hold_ratios_to_the_best_peer() -> None:
    doc = _document(speed={"recycled": _measured()})
    first, second = doc["speed"]
    assert (first["best"], first["ratio"]) == ("jax", pytest.approx(3.0))
    assert (second["best"], second["ratio"]) == ("compile", pytest.approx(1.2))
    assert (first["ratio_low"], first["ratio_high"]) == (pytest.approx(3.0), pytest.approx(3.0))
    assert (first["compile_ms"], first["compile_ratio"]) == (None, None)
    assert first["copy_share"] == pytest.approx(0.9)
    assert first["gb_per_s"] == pytest.approx(8.0)


def test_means_are_geometric_and_count_their_cases() -> None:
    doc = _document(speed={"recycled": _measured(), "installed": _measured(2.0)})
    best = {row["mode"]: row for row in doc["means"] if row["against"] == "best"}
    assert best["recycled"]["geometric_mean"] == pytest.approx(math.sqrt(3.0 * 1.2))
    assert best["installed"]["geometric_mean"] == pytest.approx(2 * math.sqrt(3.0 * 1.2))
    assert best["recycled"]["smallest"] == pytest.approx(1.2)
    counts = {row["against"]: row["cases"] for row in doc["means"] if row["mode"] == "recycled"}
    assert counts == {"best": 2, "eager": 2, "compile": 1, "jax": 1}


def _verdicts(doc: Document) -> dict[str, str]:
    return {row["bar"]: row["verdict"] for row in doc["bars"]}


def test_an_empty_run_judges_nothing() -> None:
    assert set(_verdicts(_document()).values()) == {"not measured"}


def test_bars_are_judged_by_their_values() -> None:
    facts = {
        "kernels": [
            {"case": "rms_norm", "kernels": 1, "factor": 1.0},
            {"case": "rope", "kernels": 2, "factor": 1.01},
        ],
        "errors": [{"case": "rms_norm", "ratio": 1.04}],
        "pairs": {"pairs": 50, "compiles": 3, "variants": 2},
    }
    latency = {"micros": {"tessera": [4.0, 5.0, 6.0], "jax": [10.0], "compile": [25.0]}, "calls": 20_000}
    cold = [
        {
            "participant": "tessera",
            "cache": "empty",
            "definitions": 0.1,
            "first": {"rms_norm": f, "rope": 0.2},
        }
        for f in (0.3, 0.4, 9.0)
    ]
    doc = _document(speed={"recycled": _measured()}, facts=facts, latency=latency, cold=cold)
    verdicts = _verdicts(doc)
    assert verdicts["kernels, most of any function"] == "short"
    assert verdicts["bytes over the lower bound, most"] == "PASS"
    assert verdicts["recycled pages, best peer, geometric mean"] == "PASS"
    assert verdicts["as installed, best peer, geometric mean"] == "not measured"
    assert verdicts["share of copy bandwidth, rms_norm"] == "PASS"
    assert verdicts["warm call of a small add, µs"] == "PASS"
    assert verdicts["the same over torch.compile"] == "PASS"
    assert verdicts["first call, empty cache, s"] == "PASS"
    assert verdicts["variants of 50 shapes"] == "short"
    assert doc["cold"][0]["first"] == pytest.approx(0.5)
    assert doc["cold"][0]["further_most"] == pytest.approx(0.2)


def test_a_case_that_did_not_run_leaves_the_mean_unjudged() -> None:
    measured = _measured()
    del measured["seconds"]["rope"]["tessera"]  # type: ignore[index]
    doc = _document(speed={"recycled": measured})
    assert _verdicts(doc)["recycled pages, best peer, geometric mean"] == "not measured"


def test_small_sizes_are_not_judged() -> None:
    doc = document.assemble({"quick": True}, {"speed": {"recycled": _measured()}}, LEAST)
    assert set(_verdicts(doc).values()) == {"not judged", "not measured"}


def test_bars_have_names_of_their_own() -> None:
    assert len({bar.name for bar in BARS}) == len(BARS)


def test_tables_and_chart_show_every_case() -> None:
    doc = _document(speed={"recycled": _measured(), "installed": _measured(2.0)})
    text = report.tables(doc)
    assert all(word in text for word in ("rms_norm", "rope", "geometric mean", "3.00×", "not measured"))
    drawn = ElementTree.fromstring(report.chart(doc))
    words = {element.text for element in drawn.iter() if element.text}
    assert {"rms_norm", "rope", "3.00", "6.00", "as installed"} <= words
    assert report.chart(_document()) == ""
