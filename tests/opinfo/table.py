"""Reading `expected.toml`, the differences from torch that are meant."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.opinfo.harness import Outcome

PATH = Path(__file__).parent / "expected.toml"


@dataclass(frozen=True)
class Row:
    """One explained difference; the fields are told in `expected.toml`."""

    entries: tuple[str, ...]
    dtypes: tuple[str, ...]
    kind: str
    reason: str
    code: str = ""
    within: float | None = None
    samples: tuple[int, ...] = ()

    def speaks_of(self, entry: str, dtype: str) -> bool:
        return entry in self.entries and dtype in self.dtypes

    def explains(self, found: Outcome) -> bool:
        """Is this a difference that the row allows?"""
        return (
            self.speaks_of(found.entry, found.dtype)
            and found.kind == self.kind
            and found.code == self.code
            and (not self.samples or found.number in self.samples)
            and (self.within is None or found.error <= self.within)
        )


def _row(fields: dict[str, Any]) -> Row:
    return Row(**{key: tuple(x) if isinstance(x, list) else x for key, x in fields.items()})


def rows(path: Path = PATH) -> tuple[Row, ...]:
    """A table, in its order."""
    return tuple(_row(fields) for fields in tomllib.loads(path.read_text(encoding="utf-8"))["difference"])


def unexplained(found: Iterable[Outcome], table: Sequence[Row]) -> list[Outcome]:
    """Differences without a row."""
    return [o for o in found if o.kind != "ok" and not any(row.explains(o) for row in table)]


def unmet(entry: str, dtype: str, found: Sequence[Outcome], table: Sequence[Row]) -> Iterator[str]:
    """Rows, and numbers of samples, that say of an entry what no longer holds. Bounds are no predictions."""
    for row in table:
        if row.speaks_of(entry, dtype) and row.within is None:
            hit = {o.number for o in found if row.explains(o)}
            if not hit or set(row.samples) - hit:
                yield f"{row.kind} {row.code} {sorted(set(row.samples) - hit)}: {row.reason}"
