"""The syntax tree of a function that the user wrote, and the places of its parts."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from tessera.diag import Label, Span, TraceError
from tessera.diag.span import char_column


@dataclass(frozen=True, eq=False)
class Source:
    """One function: its definition, the names around it, and where it stands. ``held`` is what the object that it is a
    method of holds beside tensors, by path; None for what is no method.
    """

    node: ast.FunctionDef
    function: Callable[..., Any]
    file: str
    name: str
    held: Mapping[tuple[str, ...], Any] | None = None

    @property
    def receiver(self) -> str:
        """How a method calls its object."""
        return self.node.args.args[0].arg if self.node.args.args else ""

    def span(self, node: ast.AST) -> Span:
        """The place of a part; of a statement with others in it, of its head."""
        line, end_line = getattr(node, "lineno", 1), getattr(node, "end_lineno", None)
        start, end = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", None)
        if isinstance(getattr(node, "body", None), list):
            text = linecache.getline(self.file, line)
            head = text[: text.index(":", start) + 1] if ":" in text[start:] else text.rstrip()
            return Span(self.file, line, char_column(self.file, line, start), line, len(head), self.name)
        end_line = line if end_line is None else end_line
        start = char_column(self.file, line, start)
        end = start + 1 if end is None else char_column(self.file, end_line, end)
        return Span(self.file, line, start, end_line, end, self.name)

    def look_up(self, name: str) -> Any:
        """What a name means outside of the function. Raises KeyError."""
        code: CodeType = self.function.__code__
        if name in code.co_freevars:
            cell = (self.function.__closure__ or ())[code.co_freevars.index(name)]
            try:
                return cell.cell_contents
            except ValueError:
                raise KeyError(name) from None
        scope = self.function.__globals__
        if name in scope:
            return scope[name]
        builtins = scope.get("__builtins__", {})
        return (builtins if isinstance(builtins, dict) else vars(builtins))[name]


def source_of(function: Callable[..., Any]) -> Source:
    """The source of a plain function. Raises TraceError (TSR0409) where there is none to read."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        raise TraceError(f"a {type(function).__name__} instead of a function", code="TSR0409")
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == code.co_firstlineno:
                return Source(node, function, code.co_filename, code.co_qualname)
    labels = [Label(Span(code.co_filename, code.co_firstlineno), "defined here", True)]
    raise TraceError(
        f"the source of `{code.co_name}` cannot be read", code="TSR0409", labels=labels,
        helps=["a kernel is a function defined with `def` in a file or a notebook cell"],
    )  # fmt: skip
