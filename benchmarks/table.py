"""Plain-text tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence


def width(text: str) -> int:
    """Columns a text takes in a terminal.

    >>> width("µs"), width("e\u0301")
    (2, 1)
    """
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def render(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A title, a head and rows; the first column to the left, the others to the right.

    Raises ValueError when a row has another number of cells than the head.

    >>> print(render("times", ["case", "ms"], [["softmax", "1.5"], ["rope", "12.0"]]))
    times
    case       ms
    -------  ----
    softmax   1.5
    rope     12.0
    """
    lines = [list(head), *map(list, rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    shown = [_line(cells, widths) for cells in lines]
    rule = "  ".join("-" * w for w in widths)
    return "\n".join([title, shown[0], rule, *shown[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        " " * (w - width(c)) + c if n else c + " " * (w - width(c))
        for n, (c, w) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def number(value: float | None, form: str = ".2f", unit: str = "") -> str:
    """A number as a cell; a dash where there is none.

    >>> number(1.234, ".1f", "×"), number(None)
    ('1.2×', '–')
    """
    return "–" if value is None else f"{value:{form}}{unit}"
