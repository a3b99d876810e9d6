"""Diagnostics as text for people: source lines, carets, notes and advice."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator

from tessera.diag.model import Diagnostic, Help, Label, Note
from tessera.diag.snippet import Row, Style, file_rows, fix_rows, shown_lines
from tessera.diag.span import Span, source_line
from tessera.diag.text import visible, visible_lines, wrap

_COLORS: dict[Style, str] = {
    "plain": "",
    "bold": "\x1b[1m",
    "gutter": "\x1b[34m",
    "primary": "\x1b[1;31m",
    "secondary": "\x1b[36m",
    "note": "\x1b[1;32m",
    "help": "\x1b[1;33m",
}
_RESET = "\x1b[0m"

#: Narrower terminals get lines of this many columns.
NARROWEST = 40


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False, width: int = 100) -> str:
    """The findings as text, one block each, with an empty line between blocks.

    `width` is in terminal columns. Whatever comes from input is shown with control characters,
    terminal escapes and bidirectional controls spelled out.

    >>> print(render([Diagnostic("TSR0501", "expected `{`", notes=(Note("the text ends here"),))]))
    error[TSR0501]: expected `{`
    note: the text ends here
    """
    found = tuple(diagnostics)
    for file in {label.span.file for diagnostic in found for label in diagnostic.labels}:
        linecache.checkcache(file)
    width = max(width, NARROWEST)
    return "\n\n".join("\n".join(_paint(row, color) for row in _rows(item, width)) for item in found)


def _paint(row: Row, color: bool) -> str:
    if not color:
        return "".join(text for text, _ in row).rstrip()
    return "".join(
        f"{code}{text}{_RESET}" if (code := _COLORS[style]) and text.strip() else text for text, style in row
    )


def _rows(diagnostic: Diagnostic, width: int) -> Iterator[Row]:
    head: Style = "primary" if diagnostic.severity == "error" else "help"
    first, *rest = visible_lines(diagnostic.message)
    yield [(f"{diagnostic.severity}[{visible(diagnostic.code)}]", head), (f": {first}", "bold")]
    for line in rest:
        yield [(f"    {line}", "bold")]
    primary = diagnostic.primary
    gutter = _gutter(diagnostic)
    if primary is not None:
        yield from _label_rows(diagnostic.labels, primary, gutter, width)
    for note in diagnostic.notes:
        yield from _prose("note", _note_text(note), width)
    for item in diagnostic.helps:
        yield from _prose("help", item.text, width)
        yield from _fix(item, gutter, width)


def _gutter(diagnostic: Diagnostic) -> int:
    """Digits of the largest line number that is shown."""
    lines = [line for label in diagnostic.labels for line in shown_lines(label)]
    lines += [item.span.line for item in diagnostic.helps if item.span is not None]
    return len(str(max(lines, default=1)))


def _label_rows(labels: tuple[Label, ...], primary: Label, gutter: int, width: int) -> Iterator[Row]:
    """The file of the primary label first, then the others in order of appearance."""
    files: dict[str, list[Label]] = {primary.span.file: []}
    for label in labels:
        files.setdefault(label.span.file, []).append(label)
    for file, of_file in files.items():
        leading = primary if primary in of_file else of_file[0]
        arrow = "-->" if leading is primary else ":::"
        yield [(" " * gutter + arrow, "gutter"), (f" {_place(leading.span)}", "plain")]
        yield from file_rows(file, of_file, primary, gutter, width)


def _place(span: Span) -> str:
    return f"{visible(span.file)}:{span.line}:{span.column + 1}"


def _note_text(note: Note) -> str:
    return note.text if note.span is None else f"{note.text} at {visible(note.span.file)}:{note.span.line}"


def _prose(word: Style, text: str, width: int) -> Iterator[Row]:
    """A note or help; further lines are indented, so that input cannot pass for one of its own."""
    lines = [piece for line in visible_lines(text) for piece in wrap(line, width - 6)]
    yield [(word, word), (f": {lines[0]}", "plain")]
    for line in lines[1:]:
        yield [(f"      {line}", "plain")]


def _fix(item: Help, gutter: int, width: int) -> Iterator[Row]:
    span = item.span
    if span is None or item.replacement is None or span.line != span.end_line or "\n" in item.replacement:
        return
    text = source_line(span.file, span.line)
    if text is not None:
        yield from fix_rows(text, span.line, span.column, span.end_column, item.replacement, gutter, width)
