"""IR text as a source that diagnostics can show: a name for it, and the lines around a fault."""

from __future__ import annotations

import hashlib
import linecache
from collections import OrderedDict

from tessera.diag import Label, Span

#: Texts that errors point into and that are remembered, and characters kept of each.
_REMEMBERED = 32
_LONGEST = 1 << 16
_AROUND = 2

_known: OrderedDict[str, None] = OrderedDict()


class _Window(list[str]):
    """Some lines of a long text, at their own numbers: the others read as empty."""

    def __init__(self, lines: dict[int, str]) -> None:
        super().__init__(lines.values())
        self._lines = lines

    def __len__(self) -> int:
        return max(self._lines, default=0)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._lines.get(index + 1, "\n")


def label_at(text: str, line: int, column: int, end_column: int, what: str, file: str | None = None) -> Label:
    """A label on a piece of IR text: ``line`` from 1, columns from 0. With ``file`` the text is that file's
    own.

    The text itself has no file, so its lines are kept where source lines are looked up, under a name made of
    its digest.
    """
    name = file or f"<ir {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}>"
    if file is None:
        _remember(name, text, line, end_column)
    return Label(Span(name, line, column, line, max(end_column, column + 1)), what, primary=True)


def _remember(name: str, text: str, line: int, end_column: int) -> None:
    lines = {n: s for n, s in _lines_around(text, line).items() if len(s) <= _LONGEST}
    known = linecache.cache.get(name)
    if known is not None and len(known) == 4 and isinstance(known[2], _Window):
        lines = {**known[2]._lines, **lines}
    linecache.cache[name] = (len(text), None, _Window(lines), name)
    _known[name] = None
    _known.move_to_end(name)
    while len(_known) > _REMEMBERED:
        linecache.cache.pop(_known.popitem(last=False)[0], None)


def _lines_around(text: str, line: int) -> dict[int, str]:
    """The line and its neighbours, found without splitting the whole text."""
    start = 0
    for _ in range(line - 1 - _AROUND):
        start = text.find("\n", start) + 1
    first = max(line - _AROUND, 1)
    found: dict[int, str] = {}
    for number in range(first, line + _AROUND + 1):
        end = text.find("\n", start)
        stop = len(text) if end < 0 else end
        if start <= len(text):
            found[number] = text[start:stop].rstrip("\r") + "\n"
        if end < 0:
            break
        start = end + 1
    return found
