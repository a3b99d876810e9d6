"""From what the sections of the contractions measured to rows, bars and tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contractions import CONTRACTIONS
from benchmarks.stats import Ratio, paired
from benchmarks.table import number, render

Row = dict[str, Any]
Seconds = Mapping[str, Mapping[str, Sequence[float]]]


def time_rows(mode: str, seconds: Seconds, best: Mapping[str, Sequence[str]], work: Mapping[str, float]) -> list[Row]:
    """One row a case: milliseconds by participant, the ratio to the best peer, the ratio to each other participant.

    ``best`` names the peers of each case; ``work`` the multiplications of a case over those of the product alone it
    is measured beside. A ratio is time of the other over time of Tessera, median over the rounds.
    """
    rows = []
    for case, rounds in seconds.items():
        found = {name: statistics.median(series) for name, series in rounds.items()}
        peers = [name for name in best[case] if name in found]
        row: Row = {"mode": mode, "case": case, "ms": {name: 1e3 * value for name, value in found.items()}}
        row["best"] = min(peers, key=lambda name: found[name], default=None)
        if "tessera" in rounds:
            ratios = {name: paired(series, rounds["tessera"]) for name, series in rounds.items() if name != "tessera"}
            row["ratios"] = {name: ratio.median for name, ratio in ratios.items()}
            if row["best"] is not None:
                first: Ratio = ratios[row["best"]]
                row |= {"ratio": first.median, "ratio_low": first.low, "ratio_high": first.high}
            if case in work and "sgemm" in ratios:
                row["peak_share"] = ratios["sgemm"].median * work[case]
        rows.append(row)
    return rows


# -- bars -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """A required value and how it is read from a document; ``most`` says which side of it is wanted."""

    name: str
    limit: float
    most: bool
    value: Callable[[Mapping[str, Any]], float | None]
    form: str = ".2f"
    unit: str = ""

    @property
    def required(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.limit:g}{self.unit}"

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.most else value >= self.limit


def _values(doc: Mapping[str, Any], case: str, read: Callable[[Row], float | None]) -> list[float]:
    found = [read(row) for row in doc["contractions"] if row["case"] == case]
    return [value for value in found if value is not None]


def _faster(case: str, other: str | None = None) -> Callable[[Mapping[str, Any]], float | None]:
    """Time of another, or of the best peer, over Tessera's: the smaller one of the allocation modes."""

    def read(row: Row) -> float | None:
        return row.get("ratio") if other is None else row.get("ratios", {}).get(other)

    return lambda doc: min(_values(doc, case, read), default=None)


def _slower(case: str, other: str) -> Callable[[Mapping[str, Any]], float | None]:
    """Tessera's time over that of another: the larger one of the allocation modes."""

    def value(doc: Mapping[str, Any]) -> float | None:
        least = _faster(case, other)(doc)
        return None if least is None else 1 / least

    return value


def _peak(doc: Mapping[str, Any]) -> float | None:
    shares = _values(doc, "full_attention", lambda row: row.get("peak_share"))
    return 100 * min(shares) if shares else None


def _most(table: str, column: str) -> Callable[[Mapping[str, Any]], float | None]:
    def value(doc: Mapping[str, Any]) -> float | None:
        rows = doc["contraction_facts"].get(table, [])
        return max((row[column] for row in rows if row[column] is not None), default=None)

    return value


def _of(case: str, read: Callable[[Row], float]) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda doc: next(
        (read(row) for row in doc["contraction_facts"].get("cases", []) if row["case"] == case), None
    )


def _steps(row: Row) -> float:
    return float(row["kernels"] + row["calls"])


_RECURRENCES = ("linear_recurrence", "gated_recurrence", "delta_rule", "selective_scan")
_ONE_KERNEL = ("linear_gelu", "swiglu_mlp", "bf16_linear", "int8_linear", *_RECURRENCES, "top_p")

LIMITS: tuple[Limit, ...] = (
    Limit("kernels of a variant of attention, most", 1, True, _most("attentions", "kernels"), ".0f"),
    *(Limit(f"kernels and calls, {case}", 1, True, _of(case, _steps), ".0f") for case in _ONE_KERNEL),
    Limit("extra memory at twice the positions, most", 2.2, True, _most("attentions", "growth"), ".2f", "×"),
    Limit("causal attention, naive eager", 2.5, False, _faster("causal_attention", "eager"), unit="×"),
    Limit("causal attention, torch.compile", 2.3, False, _faster("causal_attention", "compile"), unit="×"),
    Limit("causal attention, SDPA", 1.2, False, _faster("causal_attention", "sdpa"), unit="×"),
    Limit("causal attention, compiled FlexAttention", 4, False, _faster("causal_attention", "flex"), unit="×"),
    Limit("full attention, share of sgemm", 60, False, _peak, ".0f", " %"),
    Limit("window, causal of the same length", 5, False, _faster("window_attention", "causal"), unit="×"),
    Limit("linear + bias + GELU over the product alone", 1.06, True, _slower("linear_gelu", "mm"), ".3f"),
    Limit("gated MLP, best peer", 1, False, _faster("swiglu_mlp"), unit="×"),
    Limit("gated MLP over its three products", 1.08, True, _slower("swiglu_mlp", "three products"), ".3f"),
    Limit("bf16 linear over float32", 1.3, True, _slower("bf16_linear", "in f32")),
    Limit("int8 linear of one row, torch.mv in float32", 2.5, False, _faster("int8_linear", "mv in f32"), unit="×"),
    Limit("int8 linear of one row, torch's own", 1, False, _faster("int8_linear", "int8pack"), unit="×"),
    Limit("linear + cross-entropy, extra MB", 8, True, _of("linear_loss", lambda row: row["extra"] / 1e6)),
    Limit("linear + cross-entropy, best peer", 1, False, _faster("linear_loss"), unit="×"),
    Limit("transformer block, best peer", 1.2, False, _faster("block"), unit="×"),
    Limit("transformer block, kernels and calls", 8, True, _of("block", _steps), ".0f"),
    Limit("linear attention, naive softmax attention", 10, False, _faster("linear_recurrence", "softmax"), unit="×"),
    Limit("gated linear attention, its loop", 20, False, _faster("gated_recurrence", "eager"), unit="×"),
    Limit("delta rule, its loop", 20, False, _faster("delta_rule", "eager"), unit="×"),
    *(Limit(f"{case}, best peer", 1, False, _faster(case), unit="×") for case in (*_RECURRENCES, "top_p")),
    *(
        Limit(f"relative error, {case}", 1e-5, True, _of(case, lambda row: row["relative"]), ".1e")
        for case in ("gated_recurrence", "delta_rule")
    ),
    Limit("error against float64 over eager's, attention, most", 1.05, True, _most("attentions", "error"), ".3f"),
    Limit("error against float64 over eager's, cases, most", 1.05, True, _most("cases", "error"), ".3f"),
)


def bar_rows(doc: Mapping[str, Any]) -> list[Row]:
    """Every bar with its value and the verdict: PASS, short, not measured; small sizes are not judged."""
    rows = []
    for limit in LIMITS:
        value = limit.value(doc)
        verdict = "not measured" if value is None else "PASS" if limit.holds(value) else "short"
        rows.append(
            {
                "bar": limit.name,
                "required": limit.required,
                "verdict": "not judged" if doc["quick"] and value is not None else verdict,
                "value": None if value is None else f"{value:{limit.form}}",
            }
        )
    return rows


def extend(doc: dict[str, Any], sections: Mapping[str, Any]) -> None:
    """Add the rows of the contractions, and their bars: beside the others, or alone where nothing else was measured."""
    best = {case.name: case.best for case in CONTRACTIONS.values()}
    attention = CONTRACTIONS["full_attention"]
    s = attention.quick if doc["quick"] else attention.sizes
    work = {attention.name: 2 * s["H"] * s["S"] ** 2 * s["D"] / s["P"] ** 3}
    measured = sections.get("contractions", {})
    doc["contractions"] = [row for mode, one in measured.items() for row in time_rows(mode, one["seconds"], best, work)]
    facts = sections.get("contraction_facts", {})
    doc["contraction_facts"] = {key: facts.get(key, []) for key in ("cases", "attentions")}
    alone = not any(doc[key] for key in ("speed", "latency", "cold", "kernels"))
    doc["bars"] = [*([] if alone else doc["bars"]), *bar_rows(doc)]
    if alone:
        rows = (*doc["contractions"], *doc["contraction_facts"]["cases"])
        doc["cases"] = list(dict.fromkeys(row["case"] for row in rows))


# -- tables ---------------------------------------------------------------------------------------


def tables(doc: Mapping[str, Any], mode_names: Mapping[str, str]) -> list[str]:
    """The tables of the contractions: one of times for each mode, kernels and memory of cases and of variants."""
    rows = doc.get("contractions", [])
    found = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        cells = [line for row in rows if row["mode"] == mode for line in _time_cells(row)]
        title = f"contractions, {mode_names.get(mode, mode)}; ratio: time over Tessera's"
        found.append(render(title, ["case", "participant", "ms", "ratio", ""], cells))
    facts = doc.get("contraction_facts", {})
    if facts.get("cases"):
        found.append(_fact_table("kernels and memory", "case", facts["cases"]))
    if facts.get("attentions"):
        found.append(_fact_table("variants of attention", "variant", facts["attentions"]))
    return found


def _time_cells(row: Row) -> list[list[str]]:
    ratios = row.get("ratios", {})
    return [
        [
            row["case"] if n == 0 else "",
            name,
            number(value),
            number(ratios.get(name), unit="×") if name != "tessera" else "",
            "best peer" if name == row["best"] else "",
        ]
        for n, (name, value) in enumerate(row["ms"].items())
    ]


def _fact_table(title: str, key: str, rows: Sequence[Row]) -> str:
    head = [key, "kernels", "calls", "extra kB", "growth", "error over eager's"]
    cells = [
        [row[key], str(row["kernels"]), str(row["calls"]), number(row["extra"] / 1e3, ".0f"),
         number(row.get("growth"), unit="×"), number(row["error"], ".3f")]
        for row in rows
    ]  # fmt: skip
    return render(title, head, cells)
