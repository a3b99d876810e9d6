"""Where the parts of definitions and expressions stand in the source, found with `ast`."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Literal

from tessera.diag.span import Span, char_column

_Position = tuple[int, int, int, int]
_Parts = Mapping[str, _Position]
_PARSE_PROBLEMS = (SyntaxError, ValueError, RecursionError, MemoryError)

#: Files whose definitions are remembered.
_MOST_FILES = 64
#: Steps through `__wrapped__` before a decorated function is taken as it is.
_MOST_WRAPPERS = 100

_files: dict[str, tuple[list[str], Mapping[tuple[int, str], _Parts]]] = {}


def definition_span(function: Callable[..., object], name: str | None = None) -> Span | None:
    """The place of a parameter's annotation in a function's definition.

    `name` is a parameter, `"return"` for the return annotation, or None for the function's own name.
    A parameter without an annotation gives the place of the parameter. None when the source is missing,
    does not parse, or has no such part. Files are parsed once.

    >>> def scale(x: "Tensor[B]", by: float) -> "Tensor[B]": ...
    >>> definition_span(scale, "by").text()
    'float'
    """
    code = _code_of(function)
    if code is None:
        return None
    parts = _definitions(code.co_filename).get((code.co_firstlineno, code.co_name))
    position = None if parts is None else parts.get("def" if name is None else name)
    return None if position is None else Span(code.co_filename, *position, code.co_qualname)


def _code_of(function: object) -> CodeType | None:
    for _ in range(_MOST_WRAPPERS):
        inner = getattr(function, "__func__", None) or getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _definitions(file: str) -> Mapping[tuple[int, str], _Parts]:
    """The parts of every function of a file, by first line (of the decorators) and name."""
    lines = linecache.getlines(file)
    known = _files.get(file)
    if known is not None and known[0] == lines:
        return known[1]
    try:
        tree: ast.AST | None = ast.parse("".join(lines))
    except _PARSE_PROBLEMS:
        tree = None
    found = {} if tree is None else dict(_functions(tree, file))
    while len(_files) >= _MOST_FILES:
        _files.pop(next(iter(_files)), None)
    _files[file] = (lines, found)
    return found


def _functions(tree: ast.AST, file: str) -> Iterator[tuple[tuple[int, str], _Parts]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        text = linecache.getline(file, node.lineno)
        start = max(text.find(node.name, node.col_offset + 3), 0)
        parts: dict[str, _Position] = {"def": (node.lineno, start, node.lineno, start + len(node.name))}
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        for argument in every:
            parts[argument.arg] = _position(file, argument.annotation or argument)
        if node.returns is not None:
            parts["return"] = _position(file, node.returns)
        yield (first, node.name), parts


def _position(file: str, node: ast.expr | ast.arg) -> _Position:
    end_line = node.end_lineno or node.lineno
    end_offset = node.col_offset + 1 if node.end_col_offset is None else node.end_col_offset
    start = char_column(file, node.lineno, node.col_offset)
    return (node.lineno, start, end_line, char_column(file, end_line, end_offset))


Kind = Literal["binary", "unary", "compare", "call", "subscript", "attribute", "sequence", "other"]


@dataclass(frozen=True, slots=True)
class ExpressionParts:
    """The operands of an expression in the source, so that labels can stand under them.

    `operands` holds both sides of a binary operation or comparison, the positional arguments of a call,
    the value and then the items of a subscript, the items of a tuple or list. `receiver` is what a
    method is called on, `operator` the sign or the name called.
    """

    kind: Kind
    operator: str = ""
    operands: tuple[Span, ...] = ()
    receiver: Span | None = None
    keywords: Mapping[str, Span] = field(default_factory=dict)


_SIGNS: Mapping[type[ast.AST], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.MatMult: "@",
    ast.Div: "/",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.BitAnd: "&",
    ast.FloorDiv: "//",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.UAdd: "+",
    ast.USub: "-",
    ast.Not: "not",
    ast.Invert: "~",
}


def expression_parts(span: Span) -> ExpressionParts | None:
    """The operands of the expression at a place; None when its source is missing or is no expression.

    Meant for error paths: it parses the text of the span.
    """
    text = span.text()
    if text is None or not text.strip():
        return None
    try:
        # The brackets let an expression run over several lines; they shift its first line by one.
        locate = _Locator(span, text, shift=1)
        return _parts_of(ast.parse(f"({text}\n)", mode="eval").body, locate)
    except _PARSE_PROBLEMS:
        pass
    try:
        statements = ast.parse(text).body
    except _PARSE_PROBLEMS:
        return None
    if len(statements) == 1 and isinstance(update := statements[0], ast.AugAssign):
        locate = _Locator(span, text, shift=0)
        operands = (locate(update.target), locate(update.value))
        return ExpressionParts("binary", f"{_SIGNS[type(update.op)]}=", operands)
    return None


@dataclass(frozen=True, slots=True)
class _Locator:
    """Turns places in the text of a span into places in its file."""

    span: Span
    text: str
    shift: int

    def __call__(self, node: ast.expr) -> Span:
        start = self._place(node.lineno, node.col_offset)
        end_line = node.lineno if node.end_lineno is None else node.end_lineno
        end_offset = node.col_offset + 1 if node.end_col_offset is None else node.end_col_offset
        end = self._place(end_line, end_offset)
        return Span(self.span.file, *start, *end, self.span.function)

    def _place(self, line: int, offset: int) -> tuple[int, int]:
        of_line = self.text.split("\n")[line - 1].encode("utf-8", "surrogatepass")
        offset -= self.shift if line == 1 else 0
        column = len(of_line[: max(offset, 0)].decode("utf-8", "ignore"))
        return (self.span.line + line - 1, column + (self.span.column if line == 1 else 0))


def _parts_of(node: ast.expr, locate: _Locator) -> ExpressionParts:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return ExpressionParts("binary", _SIGNS[type(op)], (locate(left), locate(right)))
        case ast.UnaryOp(op=op, operand=operand):
            return ExpressionParts("unary", _SIGNS[type(op)], (locate(operand),))
        case ast.Compare(left=left, ops=[op, *_], comparators=others):
            return ExpressionParts("compare", _SIGNS[type(op)], (locate(left), *map(locate, others)))
        case ast.Call():
            return _call_parts(node, locate)
        case ast.Subscript(value=value, slice=ast.Tuple(elts=items)) if items:
            return ExpressionParts("subscript", "", (locate(value), *map(locate, items)))
        case ast.Subscript(value=value, slice=item):
            return ExpressionParts("subscript", "", (locate(value), locate(item)))
        case ast.Attribute(value=value, attr=name):
            return ExpressionParts("attribute", name, (locate(value),), receiver=locate(value))
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return ExpressionParts("sequence", "", tuple(map(locate, items)))
    return ExpressionParts("other")


def _call_parts(node: ast.Call, locate: _Locator) -> ExpressionParts:
    receiver = locate(node.func.value) if isinstance(node.func, ast.Attribute) else None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if isinstance(node.func, ast.Name):
        name = node.func.id
    keywords = {word.arg: locate(word.value) for word in node.keywords if word.arg is not None}
    return ExpressionParts("call", name, tuple(map(locate, node.args)), receiver, keywords)
