"""Source lines with their labels drawn underneath."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tessera.diag.model import Label
from tessera.diag.span import source_line
from tessera.diag.text import show_char, visible_lines, width_of, wrap

Style = Literal["plain", "bold", "gutter", "primary", "secondary", "note", "help"]
Segment = tuple[str, Style]
Row = list[Segment]
Pen = tuple[str, Style]

_PRIMARY: Pen = ("^", "primary")
_SECONDARY: Pen = ("-", "secondary")
_REPLACED: Pen = ("~", "help")
_INSERTED: Pen = ("+", "help")

#: Lines of one long expression that are shown before the rest is left out.
_SHOWN_OF_LONG_SPAN = 4

#: Columns a label gets at least, however far right it stands.
_NARROWEST_LABEL = 40


@dataclass(frozen=True, slots=True)
class Mark:
    """A label's part on one source line, in terminal columns."""

    start: int
    end: int
    pen: Pen
    text: str = ""

    @property
    def style(self) -> Style:
        return self.pen[1]


@dataclass(frozen=True, slots=True)
class _Part:
    """A label's part on one source line, in characters; `end` None runs to the line's end."""

    line: int
    start: int
    end: int | None
    pen: Pen
    text: str


def file_rows(file: str, labels: Sequence[Label], primary: Label, gutter: int, width: int) -> list[Row]:
    """The labelled lines of one file, in order, with `...` where lines are left out."""
    parts: dict[int, list[_Part]] = {}
    for label in labels:
        for part in _parts(label, _PRIMARY if label is primary else _SECONDARY):
            parts.setdefault(part.line, []).append(part)
    rows: list[Row] = []
    previous: int | None = None
    for line in sorted(parts):
        if previous is not None and line == previous + 2:
            rows += line_rows(source_line(file, line - 1), line - 1, (), gutter, width)
        elif previous is not None and line > previous + 2:
            rows.append([("...", "gutter")])
        rows += line_rows(source_line(file, line), line, parts[line], gutter, width)
        previous = line
    return rows


def shown_lines(label: Label) -> tuple[int, ...]:
    """The lines of a label that are drawn: all of a short one, the first ones and the last of a long one."""
    first, last = label.span.line, max(label.span.line, label.span.end_line)
    if last - first < _SHOWN_OF_LONG_SPAN:
        return tuple(range(first, last + 1))
    return (*range(first, first + _SHOWN_OF_LONG_SPAN - 2), last)


def _parts(label: Label, pen: Pen) -> Iterable[_Part]:
    span, lines = label.span, shown_lines(label)
    for line in lines:
        start = span.column if line == span.line else -1
        end = span.end_column if line == lines[-1] else None
        yield _Part(line, start, end, pen, label.text if line == lines[-1] else "")


def line_rows(text: str | None, line: int, parts: Sequence[_Part], gutter: int, width: int) -> list[Row]:
    """One source line and, below it, its marks and their labels."""
    number: Row = [(f"{line:>{gutter}} | ", "gutter")]
    blank: Row = [(" " * gutter + " | ", "gutter")]
    if text is None:
        rows = [[*number, ("(source not available)", "plain")]]
        for part in parts:
            sign, style = part.pen
            rows += [[*blank, (f"{sign} {row}", style)] for row in visible_lines(part.text)]
        return rows
    room = max(width - gutter - 3, 20)
    shown, marks = _place(text, parts, room)
    rows = [[*number, (shown, "plain")] if shown else [(number[0][0].rstrip(), "gutter")]]
    return rows + [[*blank, *row] for row in mark_rows(marks, room)]


def _place(text: str, parts: Sequence[_Part], room: int) -> tuple[str, list[Mark]]:
    """The line as it is printed, cut to `room` columns around its parts, and the parts in columns."""
    length = len(text)
    bounds: list[tuple[int, int]] = []
    for part in parts:
        start = length - len(text.lstrip()) if part.start < 0 else min(part.start, length)
        end = len(text.rstrip()) if part.end is None else min(part.end, length)
        bounds.append((start, max(end, start)))
    first, last = _window(text, bounds, room)
    shown = "".join(show_char(char) for char in text[first:last]).rstrip()
    head, tail = "…" if first else "", "…" if last < length else ""
    columns = _columns(text, first, last, len(head))
    marks = []
    for part, (start, end) in zip(parts, bounds, strict=True):
        left = columns[min(max(start, first), last) - first]
        right = columns[min(max(end, first), last) - first]
        marks.append(Mark(left, max(right, left + 1), part.pen, part.text))
    return head + shown + tail, marks


def _columns(text: str, first: int, last: int, offset: int) -> list[int]:
    columns = [offset]
    for char in text[first:last]:
        columns.append(columns[-1] + width_of(show_char(char)))
    return columns


def _window(text: str, bounds: Sequence[tuple[int, int]], room: int) -> tuple[int, int]:
    """The range of characters to print when the line is wider than `room` columns."""
    if len(text) <= room and width_of("".join(map(show_char, text))) <= room:
        return 0, len(text)
    start = min((low for low, _ in bounds), default=0)
    end = max((high for _, high in bounds), default=0)
    lead = max((room - (end - start)) // 2, 8)
    first = 0 if end + 8 <= room else max(start - lead, 0)
    last, used = first, 2
    while last < len(text) and used + (step := width_of(show_char(text[last]))) <= room:
        used += step
        last += 1
    return first, last


def mark_rows(marks: Sequence[Mark], room: int) -> list[Row]:
    """The row of `^^^` and `---`, then the labels: the last beside its mark, the others below it."""
    if not marks:
        return []
    ordered = sorted(marks, key=lambda mark: (mark.start, -mark.end, mark.pen))
    cells = _underline(ordered)
    inline = _inline_mark(ordered, room)
    rows: list[Row] = [_cell_row(cells)]
    if inline is not None:
        first, *rest = _label_lines(inline.text, inline.end, room)
        rows[0].append((f" {first}", inline.style))
        below = [mark for mark in ordered if mark is not inline and mark.text]
        rows += [_text_row(below, inline.end + 1, piece, inline.style) for piece in rest]
    else:
        below = [mark for mark in ordered if mark.text]
    if below:
        rows.append(_bar_row(below))
    while below:
        mark = below.pop()
        left = [other for other in below if other.start < mark.start]
        lines = _label_lines(mark.text, mark.start, room)
        rows += [_text_row(left, mark.start, line, mark.style) for line in lines]
    return rows


def _label_lines(text: str, column: int, room: int) -> list[str]:
    width = max(room - column - 1, _NARROWEST_LABEL)
    return [piece for line in visible_lines(text) for piece in wrap(line, width)]


def _inline_mark(ordered: Sequence[Mark], room: int) -> Mark | None:
    """The mark whose label may stand beside it: the last one, when it is apart from the others."""
    last = ordered[-1]
    if not last.text or any(mark.end > last.start for mark in ordered[:-1]):
        return None
    fits = len(_label_lines(last.text, last.end, room)) == 1
    return last if fits or len(ordered) == 1 else None


def _underline(ordered: Sequence[Mark]) -> list[Pen]:
    """The signs of all marks; a shorter mark lies over a longer one."""
    cells: list[Pen] = [(" ", "plain")] * max(mark.end for mark in ordered)
    for mark in sorted(ordered, key=lambda mark: (mark.start - mark.end, mark.pen)):
        cells[mark.start : mark.end] = [mark.pen] * (mark.end - mark.start)
    return cells


def _cell_row(cells: Iterable[Pen]) -> Row:
    """Neighbouring cells of one style become one segment."""
    row: Row = []
    for char, style in cells:
        if row and row[-1][1] == style:
            row[-1] = (row[-1][0] + char, style)
        else:
            row.append((char, style))
    return row


def _bar_row(marks: Sequence[Mark]) -> Row:
    cells: list[Pen] = [(" ", "plain")] * (max(mark.start for mark in marks) + 1)
    for mark in marks:
        if cells[mark.start][1] != "primary":
            cells[mark.start] = ("|", mark.style)
    return _cell_row(cells)


def _text_row(bars: Sequence[Mark], column: int, text: str, style: Style) -> Row:
    row = _bar_row(bars) if bars else []
    used = sum(len(part) for part, _ in row)
    return [*row, (" " * (column - used), "plain"), (text, style)]


def fix_rows(text: str, line: int, start: int, end: int, new: str, gutter: int, width: int) -> list[Row]:
    """A source line after a mechanical fix: `~~~` under what was replaced, `+++` under what was added."""
    fixed = text[:start] + new + text[end:]
    part = _Part(line, start, start + len(new), _INSERTED if start == end else _REPLACED, "")
    return line_rows(fixed, line, (part,), gutter, width)
