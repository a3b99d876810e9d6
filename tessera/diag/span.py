"""Places in the user's source: what every operation and every error points at."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from itertools import islice
from types import CodeType, FrameType, ModuleType

_Fields = tuple[str, int, int, int, int, str]

#: Packages and modules whose frames are machinery, never the user's own code.
MACHINERY = ("tessera", "torch", "jaxtyping", "beartype", "functools", "contextlib", "_contextvars")


class Span:
    """A range of source text: lines count from 1, columns count characters from 0, the end is exclusive.

    A span is an immutable value. One made by `caller_span` holds only the code object and the
    instruction until a field is asked for, because tracing makes one for every operation and almost
    none is ever shown.

    >>> Span("model.py", 14, 11, 14, 16)
    Span('model.py', 14, 11, 14, 16)
    >>> str(Span("model.py", 14, 11, 14, 16))
    'model.py:14:12'
    """

    __slots__ = ("_code", "_fields", "_lasti")

    def __init__(
        self,
        file: str,
        line: int,
        column: int = 0,
        end_line: int | None = None,
        end_column: int | None = None,
        function: str = "",
    ) -> None:
        end_line = line if end_line is None else end_line
        end_column = column + 1 if end_column is None else end_column
        self._fields: _Fields | None = (file, line, column, end_line, end_column, function)
        self._code: CodeType | None = None
        self._lasti = -1

    @classmethod
    def at(cls, code: CodeType, lasti: int) -> Span:
        """The place of one bytecode instruction; nothing is read until a field is asked for."""
        self = cls.__new__(cls)
        self._fields = None
        self._code = code
        self._lasti = lasti
        return self

    def _resolve(self) -> _Fields:
        fields = self._fields
        if fields is None:
            assert self._code is not None
            fields = _instruction_place(self._code, self._lasti)
            self._fields = fields
            self._code = None
        return fields

    @property
    def file(self) -> str:
        """The file name as Python knows it, for instance `<ipython-input-3>` in a notebook."""
        return self._resolve()[0]

    @property
    def line(self) -> int:
        """First line, from 1."""
        return self._resolve()[1]

    @property
    def column(self) -> int:
        """First character in its line, from 0."""
        return self._resolve()[2]

    @property
    def end_line(self) -> int:
        """Last line, from 1."""
        return self._resolve()[3]

    @property
    def end_column(self) -> int:
        """First character after the range in the last line, from 0."""
        return self._resolve()[4]

    @property
    def function(self) -> str:
        """Qualified name of the enclosing function, or an empty string."""
        return self._resolve()[5]

    def source_line(self, line: int | None = None) -> str | None:
        """The text of one line of the file, by default the first; None when the source is missing."""
        return source_line(self.file, self.line if line is None else line)

    def text(self) -> str | None:
        """The source text of the range; None when the source is missing."""
        lines = [source_line(self.file, n) for n in range(self.line, self.end_line + 1)]
        present = [text for text in lines if text is not None]
        if not present or len(present) != len(lines):
            return None
        present[-1] = present[-1][: self.end_column]
        present[0] = present[0][self.column :]
        return "\n".join(present)

    def part(self, start: int, end: int) -> Span:
        """The range from one character of the text to another (exclusive), for places inside a string.

        >>> Span("model.py", 3, 10, 3, 30).part(2, 5)
        Span('model.py', 3, 12, 3, 15)
        """
        text = self.text() or " " * (end + 1)
        return Span(self.file, *self._after(text[:start]), *self._after(text[:end]), self.function)

    def _after(self, head: str) -> tuple[int, int]:
        """Line and column behind the first characters of the text."""
        down = head.count("\n")
        return (self.line + down, len(head) - head.rfind("\n") - 1 if down else self.column + len(head))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Span) and self._resolve() == other._resolve()

    def __hash__(self) -> int:
        return hash(self._resolve())

    def __reduce__(self) -> tuple[type[Span], _Fields]:
        return (Span, self._resolve())

    def __repr__(self) -> str:
        *place, function = self._resolve()
        shown = [repr(item) for item in place] + ([repr(function)] if function else [])
        return f"Span({', '.join(shown)})"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column + 1}"


def source_line(file: str, line: int) -> str | None:
    """One line of a file without its line end; None when there is no such line.

    `linecache` also knows the cells of notebooks and the examples of doctest.
    """
    try:
        text = linecache.getline(file, line)
    except ValueError:  # a name that cannot be a file's: a null character, a lone surrogate
        return None
    return text.rstrip("\r\n") if text else None


def _instruction_place(code: CodeType, lasti: int) -> _Fields:
    """Lines and character columns of an instruction (PEP 657 gives UTF-8 byte offsets)."""
    file, function = code.co_filename, code.co_qualname
    place = next(islice(code.co_positions(), max(lasti, 0) // 2, None), (None, None, None, None))
    line, end_line, column, end_column = place
    if line is None:
        line = code.co_firstlineno
        column = None
    if end_line is None or column is None or end_column is None:
        text = source_line(file, line) or ""
        start = len(text) - len(text.lstrip())
        return (file, line, start, line, max(len(text.rstrip()), start + 1), function)
    start, end = char_column(file, line, column), char_column(file, end_line, end_column)
    return (file, line, start, end_line, end, function)


def char_column(file: str, line: int, offset: int) -> int:
    """The character column of a UTF-8 byte offset in a line (the offset itself when the line is missing)."""
    text = source_line(file, line)
    if text is None or text.isascii():
        return offset
    return len(text.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "ignore"))


_verdicts: dict[tuple[str, ...], dict[str, bool]] = {}


def is_machinery(file: str, packages: tuple[str, ...] = MACHINERY) -> bool:
    """Whether a file belongs to one of the packages (cached per file)."""
    known = _verdicts.setdefault(packages, {})
    if file not in known:
        known[file] = file.startswith("<frozen ") or any(
            file == place or (place.endswith(("/", "\\")) and file.startswith(place))
            for name in packages
            for place in _module_places(sys.modules.get(name))
        )
    return known[file]


def _module_places(module: ModuleType | None) -> Iterator[str]:
    """The file of a module, or the folders (with a closing separator) of a package."""
    if module is None:
        return
    separator = "\\" if sys.platform == "win32" else "/"
    folders = [str(folder) for folder in getattr(module, "__path__", ())]
    if folders:
        yield from (folder.rstrip(separator) + separator for folder in folders)
    elif isinstance(file := getattr(module, "__file__", None), str):
        yield file


def caller_frame(packages: tuple[str, ...] = MACHINERY) -> FrameType | None:
    """The innermost frame that is the user's own code; None when there is none."""
    known = _verdicts.setdefault(packages, {})
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        hidden = known.get(file)
        if hidden is None:
            hidden = is_machinery(file, packages)
        if not hidden:
            return frame
        frame = frame.f_back
    return None


def caller_span(skip_packages: tuple[str, ...] = MACHINERY) -> Span | None:
    """Where the user's innermost running expression stands; None when no frame is the user's.

    Costs about a microsecond: the span finds its lines and columns when first asked.
    """
    frame = caller_frame(skip_packages)
    return None if frame is None else Span.at(frame.f_code, frame.f_lasti)
