"""What is required on a GPU, beside what a document of `benchmarks.gpu` says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """A required value: the least of what a document gives for it, or the most."""

    name: str
    limit: float
    values: Callable[[Document], Iterable[float | None]]
    most: bool = False

    @property
    def required(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.limit:g}"

    def row(self, doc: Document) -> dict[str, Any]:
        """The bar with its value and the verdict: PASS, short, not measured; a dry run is not judged."""
        found = [v for v in self.values(doc) if v is not None]
        value = (max(found) if self.most else min(found)) if found else None
        if value is None:
            verdict = "not measured"
        elif doc["quick"]:
            verdict = "not judged"
        else:
            verdict = "PASS" if (value <= self.limit if self.most else value >= self.limit) else "short"
        return {"bar": self.name, "required": self.required, "value": value, "verdict": verdict}


def _speed(column: str, *starts: str) -> Callable[[Document], Iterable[float | None]]:
    return lambda doc: (row[column] for row in doc["speed"] if row["case"].startswith(starts))


def _ratio(peer: str, *starts: str) -> Callable[[Document], Iterable[float | None]]:
    return lambda doc: (row["ratio"].get(peer) for row in doc["speed"] if row["case"].startswith(starts))


#: What only moves memory, and has to do so as fast as a copy.
MOVING = ("rms_norm", "add_layer_norm", "softmax", "cross_entropy")

BARS: tuple[Bar, ...] = (
    Bar("attention forward, TFLOP/s, least", 450, _speed("tflop_per_s", "flash_")),
    Bar("FlexAttention, least of all variants", 1.0, _ratio("flex", "attention_", "flash_")),
    Bar("product with epilogue, share of cuBLAS", 0.9, _ratio("cublas", "linear_gelu")),
    Bar("share of copy bandwidth, least", 0.9, _ratio("copy", *MOVING)),
    Bar("error against float64 over eager's, most", 1.05, lambda doc: (r["ratio"] for r in doc["errors"]), most=True),
    Bar("bytes spilled, most of any launch", 0, lambda doc: _spills(doc), most=True),
)  # fmt: skip


def _spills(doc: Document) -> Iterable[float]:
    parts = (part for row in doc["kernels"] for part in row.values() if isinstance(part, dict))
    return (part["spills"] for part in parts if "spills" in part)


def bar_rows(doc: Document) -> list[dict[str, Any]]:
    """Every bar with its value.

    >>> doc = {"quick": False, "speed": [], "errors": [{"ratio": 1.0}, {"ratio": None}], "kernels": []}
    >>> [row["verdict"] for row in bar_rows(doc)][-2:]
    ['PASS', 'not measured']
    """
    return [bar.row(doc) for bar in BARS]
