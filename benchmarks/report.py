"""A document as tables for a terminal, and as a chart of the ratios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from benchmarks import contraction_document
from benchmarks.document import Document, Row
from benchmarks.stats import PEERS
from benchmarks.table import number, render

MODE_NAMES: Mapping[str, str] = {"recycled": "recycled pages", "installed": "as installed"}


def _speed(doc: Document, mode: str) -> str:
    head = [
        "case",
        "tessera ms",
        *(f"{peer} ms" for peer in PEERS),
        "best peer",
        "ratio",
        "quartiles",
        "GB/s",
        "of copy",
    ]
    rows = [_speed_cells(row) for row in doc["speed"] if row["mode"] == mode]
    rows += [_mean_cells(row) for row in doc["means"] if (row["mode"], row["against"]) == (mode, "best")]
    return render(f"time per call, {MODE_NAMES.get(mode, mode)}", head, rows)


def _speed_cells(row: Row) -> list[str]:
    spread = "–" if row.get("ratio") is None else f"{row['ratio_low']:.2f} – {row['ratio_high']:.2f}"
    share = row.get("copy_share")
    return [
        row["case"],
        *(number(row[f"{name}_ms"]) for name in ("tessera", *PEERS)),
        row["best"] or "–",
        number(row.get("ratio"), unit="×"),
        spread,
        number(row.get("gb_per_s"), ".1f"),
        number(None if share is None else 100 * share, ".0f", " %"),
    ]


def _mean_cells(row: Row) -> list[str]:
    blank = [""] * (1 + len(PEERS))
    return ["geometric mean", *blank, "", number(row["geometric_mean"], unit="×"), "", "", ""]


def _means(doc: Document) -> str:
    rows = [
        [
            MODE_NAMES.get(row["mode"], row["mode"]),
            row["against"],
            str(row["cases"]),
            number(row["geometric_mean"], unit="×"),
            number(row["smallest"], unit="×"),
        ]
        for row in doc["means"]
    ]
    return render("how many times faster than", ["mode", "peer", "cases", "geometric mean", "smallest"], rows)


def _copy(doc: Document) -> str:
    best = {
        mode: max(r["gb_per_s"] for r in doc["copy"] if r["mode"] == mode)
        for mode in dict.fromkeys(r["mode"] for r in doc["copy"])
    }
    rows = [
        [
            row["method"],
            MODE_NAMES.get(row["mode"], row["mode"]),
            number(row["gb_per_s"], ".1f"),
            "taken" if row["gb_per_s"] == best[row["mode"]] else "",
        ]
        for row in doc["copy"]
    ]
    return render("copy bandwidth, read and written together", ["method", "mode", "GB/s", ""], rows)


def _latency(doc: Document) -> str:
    rows = [
        [
            row["participant"],
            number(row["micros"]),
            f"{row['low']:.2f} – {row['high']:.2f}",
            str(row["calls"]),
        ]
        for row in doc["latency"]
    ]
    return render("warm call of an eight-element add", ["participant", "µs", "quartiles", "calls"], rows)


def _cold(doc: Document) -> str:
    head = ["participant", "cache", "definitions s", "first s", "further s", "most s", "processes"]
    rows = [
        [
            row["participant"],
            row["cache"],
            number(row["definitions"], ".3f"),
            number(row["first"], ".3f"),
            number(row["further_median"], ".3f"),
            number(row["further_most"], ".3f"),
            str(row["processes"]),
        ]
        for row in doc["cold"]
    ]
    return render("first calls of a process, beyond the imports; `first` includes the definitions", head, rows)


def _kernels(doc: Document) -> str:
    rows = [
        [
            row["case"],
            str(row["kernels"]),
            f"{row['moved']:,}",
            f"{row['least']:,}",
            number(row["factor"], ".3f"),
        ]
        for row in doc["kernels"]
    ]
    return render("kernels and bytes", ["case", "kernels", "bytes moved", "lower bound", "factor"], rows)


def _errors(doc: Document) -> str:
    head = ["case", "result", "tessera", "eager form", "torch", "rounding once", "ratio"]
    rows = [
        [
            row["case"],
            str(row["result"]),
            *(number(row[k], ".1e") for k in ("tessera", "eager", "torch", "floor")),
            number(row["ratio"], ".3f"),
        ]
        for row in doc["errors"]
    ]
    return render("relative L2 error against float64", head, rows)


def _pairs(doc: Document) -> str:
    pairs = doc["pairs"]
    rows = [[str(pairs["pairs"]), str(pairs["compiles"]), str(pairs["variants"])]]
    return render("one function, many sizes", ["sizes", "compiles", "variants"], rows)


def _bars(doc: Document) -> str:
    rows = [[row["bar"], row["required"], row["value"] or "–", row["verdict"]] for row in doc["bars"]]
    return render("bars", ["bar", "required", "value", "verdict"], rows)


def _failures(doc: Document) -> str:
    rows = [[row["section"], row["what"], ": ".join(row["why"].splitlines()[:2])] for row in doc["failures"]]
    return render("what did not run", ["section", "what", "why"], rows)


def tables(doc: Document) -> str:
    """Every table that the document has rows for, the bars last."""
    found = [_speed(doc, mode) for mode in dict.fromkeys(row["mode"] for row in doc["speed"])]
    shown = (
        ("means", _means),
        ("copy", _copy),
        ("latency", _latency),
        ("cold", _cold),
        ("kernels", _kernels),
        ("errors", _errors),
        ("pairs", _pairs),
    )
    found += [table(doc) for key, table in shown if doc[key]]
    found += contraction_document.tables(doc, MODE_NAMES)
    found += [table(doc) for key, table in (("failures", _failures), ("bars", _bars)) if doc[key]]
    return "\n\n".join(found)


# -- chart ----------------------------------------------------------------------------------------

_COLOURS: Mapping[str, str] = {"recycled": "#2f6f9f", "installed": "#b9772f"}
_LEFT, _RIGHT, _BAR, _GAP = 170, 70, 14, 12


def chart(doc: Document) -> str:
    """An SVG of the ratios to the best peer: one group of bars a case, a line at 1; quartiles as whiskers.

    Empty when the document has no ratios.
    """
    rows = [row for row in (*doc["speed"], *doc.get("contractions", ())) if row.get("ratio") is not None]
    if not rows:
        return ""
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    cases = list(dict.fromkeys(row["case"] for row in rows))
    scale = 420 / max(*(row["ratio_high"] for row in rows), 1.0)
    parts, top = [*_legend(modes)], 40
    for case in cases:
        group = {row["mode"]: row for row in rows if row["case"] == case}
        middle = top + len(modes) * _BAR / 2 + 4
        parts.append(_text(_LEFT - 8, middle, case, "end"))
        for mode in modes:
            if mode in group:
                parts += _bar(group[mode], top, scale)
            top += _BAR
        top += _GAP
    one = _LEFT + scale
    parts.append(f'<line x1="{one:.1f}" y1="34" x2="{one:.1f}" y2="{top}" stroke="#888" stroke-dasharray="3 3"/>')
    parts.append(_text(one, top + 14, "1×", "middle"))
    size = f'width="{_LEFT + 420 + _RIGHT}" height="{top + 24}"'
    style = 'font-family="sans-serif" font-size="12"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'


def _legend(modes: Iterable[str]) -> list[str]:
    parts = [_text(_LEFT, 16, "times faster than the best peer", "start")]
    for n, mode in enumerate(modes):
        x = _LEFT + 220 + 110 * n
        parts.append(f'<rect x="{x}" y="7" width="10" height="10" fill="{_COLOURS.get(mode, "#666")}"/>')
        parts.append(_text(x + 14, 16, MODE_NAMES.get(mode, mode), "start"))
    return parts


def _bar(row: dict[str, Any], top: float, scale: float) -> list[str]:
    width, low, high = (row[key] * scale for key in ("ratio", "ratio_low", "ratio_high"))
    y = top + _BAR / 2
    colour = _COLOURS.get(row["mode"], "#666")
    return [
        f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>',
        f'<line x1="{_LEFT + low:.1f}" y1="{y:.1f}" x2="{_LEFT + high:.1f}" y2="{y:.1f}" stroke="#222"/>',
        _text(_LEFT + max(width, high) + 5, y + 4, f"{row['ratio']:.2f}", "start"),
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#444">{escape(text)}</text>'
