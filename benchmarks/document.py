"""From what the sections measured to one document: rows with ratios, means, bars beside values."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.stats import PEERS, best_peer, geometric_mean, paired, quartiles

Row = dict[str, Any]
Document = dict[str, Any]

SCHEMA = 1
#: Cases whose time is nothing but memory traffic.
STREAMS = ("rms_norm", "swiglu_gate", "adamw")


def speed_rows(mode: str, measured: Mapping[str, Any], least: Mapping[str, int]) -> list[Row]:
    """One row a case: milliseconds of all, the ratio to the best peer, the share of a copy.

    `copy_share` is the time of copying as many bytes as the case must move over the time of the case, both
    from the same rounds.
    """
    rows = []
    for case, rounds in measured["seconds"].items():
        row: Row = {"mode": mode, "case": case}
        for name in ("tessera", *PEERS, "copy"):
            row[f"{name}_ms"] = statistics.median(rounds[name]) * 1e3 if rounds.get(name) else None
        best = best_peer(rounds)
        row["best"] = best
        if "tessera" in rounds:
            row["gb_per_s"] = least[case] / statistics.median(rounds["tessera"]) / 1e9
            if best is not None:
                ratio = paired(rounds[best], rounds["tessera"])
                row |= {"ratio": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high}
            for peer in PEERS:
                row[f"{peer}_ratio"] = paired(rounds[peer], rounds["tessera"]).median if rounds.get(peer) else None
            if "copy" in rounds:
                row["copy_share"] = paired(rounds["copy"], rounds["tessera"]).median
        rows.append(row)
    return rows


def mean_rows(rows: Iterable[Row]) -> list[Row]:
    """Geometric means and smallest ratios for each mode and opponent, the best peer among them."""
    found = []
    rows = list(rows)
    for mode in dict.fromkeys(row["mode"] for row in rows):
        for against, column in (("best", "ratio"), *((peer, f"{peer}_ratio") for peer in PEERS)):
            ratios = [row[column] for row in rows if row["mode"] == mode and row.get(column)]
            if ratios:
                found.append(
                    {
                        "mode": mode,
                        "against": against,
                        "cases": len(ratios),
                        "geometric_mean": geometric_mean(ratios),
                        "smallest": min(ratios),
                    }
                )
    return found


def latency_rows(measured: Mapping[str, Any]) -> list[Row]:
    """Microseconds of a warm call, median and quartiles of the blocks."""
    rows = []
    for name, blocks in measured["micros"].items():
        spread = quartiles(blocks)
        rows.append(
            {
                "participant": name,
                "micros": spread.median,
                "low": spread.low,
                "high": spread.high,
                "calls": measured["calls"],
            }
        )
    return rows


def cold_rows(measured: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Seconds of the first case and of each further one, medians over the processes.

    `first` includes the definitions of all the functions, which is where Tessera proves them.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in measured:
        groups.setdefault((one["participant"], one["cache"]), []).append(one)
    rows = []
    for (participant, cache), runs in groups.items():
        cases = list(runs[0]["first"])
        typical = {case: statistics.median(run["first"][case] for run in runs) for case in cases}
        defined = statistics.median(run["definitions"] for run in runs)
        further = [typical[case] for case in cases[1:]]
        rows.append(
            {
                "participant": participant,
                "cache": cache,
                "definitions": defined,
                "first": defined + typical[cases[0]],
                "further_median": statistics.median(further) if further else None,
                "further_most": max(further, default=None),
                "processes": len(runs),
            }
        )
    return rows


# -- bars -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A required value: how it is read from a document, how it is shown, whether it holds.

    `value` gives None where the document has nothing to say.
    """

    name: str
    required: str
    value: Callable[[Document], float | None]
    form: str
    holds: Callable[[float], bool]


def _mean(mode: str, column: str) -> Callable[[Document], float | None]:
    """Of all the cases: a mean over those that ran would hide the others."""

    def value(doc: Document) -> float | None:
        for row in doc["means"]:
            if (row["mode"], row["against"], row["cases"]) == (mode, "best", len(doc["cases"])):
                return float(row[column])
        return None

    return value


def _most(table: str, column: str) -> Callable[[Document], float | None]:
    return lambda doc: max((row[column] for row in doc[table]), default=None)


def _share(case: str) -> Callable[[Document], float | None]:
    return lambda doc: next(
        (row.get("copy_share") for row in doc["speed"] if (row["mode"], row["case"]) == ("recycled", case)),
        None,
    )


def _micros(doc: Document, name: str) -> float | None:
    return next((row["micros"] for row in doc["latency"] if row["participant"] == name), None)


def _micros_over(peer: str) -> Callable[[Document], float | None]:
    def value(doc: Document) -> float | None:
        ours, theirs = _micros(doc, "tessera"), _micros(doc, peer)
        return None if ours is None or theirs is None else ours / theirs

    return value


def _cold(cache: str, column: str) -> Callable[[Document], float | None]:
    return lambda doc: next(
        (row[column] for row in doc["cold"] if (row["participant"], row["cache"]) == ("tessera", cache)), None
    )


def _variants(doc: Document) -> float | None:
    pairs = doc["pairs"]
    if not pairs:
        return None
    return float(pairs["variants"]) if pairs["variants"] == pairs["compiles"] else float("inf")


BARS: tuple[Bar, ...] = (
    Bar("kernels, most of any function", "1", _most("kernels", "kernels"), ".0f", lambda v: v == 1),
    Bar("bytes over the lower bound, most", "≤ 1.05", _most("kernels", "factor"), ".3f", lambda v: v <= 1.05),
    Bar(
        "recycled pages, best peer, geometric mean",
        "≥ 1.6×",
        _mean("recycled", "geometric_mean"),
        ".2f",
        lambda v: v >= 1.6,
    ),
    Bar(
        "recycled pages, best peer, smallest",
        "≥ 1.0×",
        _mean("recycled", "smallest"),
        ".2f",
        lambda v: v >= 1.0,
    ),
    Bar(
        "as installed, best peer, geometric mean",
        "≥ 3.3×",
        _mean("installed", "geometric_mean"),
        ".2f",
        lambda v: v >= 3.3,
    ),
    *(Bar(f"share of copy bandwidth, {case}", "≥ 0.85", _share(case), ".2f", lambda v: v >= 0.85) for case in STREAMS),
    Bar("warm call of a small add, µs", "≤ 7", lambda doc: _micros(doc, "tessera"), ".2f", lambda v: v <= 7),
    Bar("the same over JAX", "< 1", _micros_over("jax"), ".2f", lambda v: v < 1),
    Bar("the same over torch.compile", "≤ 0.25", _micros_over("compile"), ".2f", lambda v: v <= 0.25),
    Bar("first call, empty cache, s", "≤ 0.6", _cold("empty", "first"), ".3f", lambda v: v <= 0.6),
    Bar(
        "each further function, empty cache, s",
        "≤ 0.3",
        _cold("empty", "further_most"),
        ".3f",
        lambda v: v <= 0.3,
    ),
    Bar("first call, warm cache, s", "≤ 0.1", _cold("warm", "first"), ".3f", lambda v: v <= 0.1),
    Bar("variants of 50 shapes", "compiles = variants ≤ 4", _variants, ".0f", lambda v: v <= 4),
    Bar(
        "error against float64 over eager's, most",
        "≤ 1.05",
        _most("errors", "ratio"),
        ".3f",
        lambda v: v <= 1.05,
    ),
)


def bar_rows(doc: Document) -> list[Row]:
    """Every bar with its value and the verdict: PASS, short, not measured; small sizes are not judged."""
    rows = []
    for bar in BARS:
        value = bar.value(doc)
        verdict = "not measured" if value is None else "PASS" if bar.holds(value) else "short"
        if doc["quick"] and value is not None:
            verdict = "not judged"
        rows.append(
            {
                "bar": bar.name,
                "required": bar.required,
                "verdict": verdict,
                "value": None if value is None else f"{value:{bar.form}}",
            }
        )
    return rows


def assemble(head: Mapping[str, Any], sections: Mapping[str, Any], least: Mapping[str, int]) -> Document:
    """The document of a run from its head (date, machine, …) and its sections; missing ones are empty.

    `sections` holds `"speed"`: results by mode, `"latency"`, `"facts"`, and `"cold"`: a list of processes.
    """
    speed = sections.get("speed", {})
    facts = sections.get("facts", {})
    rows = [row for mode, measured in speed.items() for row in speed_rows(mode, measured, least)]
    doc: Document = {
        "schema": SCHEMA,
        **head,
        "cases": list(least),
        "speed": rows,
        "means": mean_rows(rows),
        "copy": [
            {"mode": mode, "method": method, "gb_per_s": value / 1e9}
            for mode, measured in speed.items()
            for method, value in measured["copy"].items()
        ],
        "latency": latency_rows(sections["latency"]) if "latency" in sections else [],
        "cold": cold_rows(sections.get("cold", [])),
        "kernels": facts.get("kernels", []),
        "errors": facts.get("errors", []),
        "pairs": facts.get("pairs", {}),
        "failures": sections.get("failures", []),
    }
    doc["bars"] = bar_rows(doc)
    return doc
