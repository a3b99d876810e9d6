"""IR text to statements: limits first, then the Lark grammar, with every fault at its line and column.

Nothing here knows an operation, a type or a size: statements keep their tokens and ``parser`` gives them a
meaning.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from lark import (
    Lark,
    Token,
    Transformer,
    UnexpectedCharacters,
    UnexpectedEOF,
    UnexpectedInput,
    UnexpectedToken,
)

from tessera.diag import ParseError
from tessera.diag.text import show_char, visible
from tessera.ir.source import label_at

#: Limits of IR text: characters, open brackets, characters of one name or number.
MAX_TEXT = 64 << 20
MAX_DEPTH = 500
MAX_WORD = 64

_GRAMMAR = Path(__file__).with_name("text.lark")
_MARKS = re.compile(r'"(?:[^"\\\r\n]++|\\.)*+"?|`[^`\r\n]*+`?|\#[^\r\n]*+|[()\[\]{}]|[A-Za-z0-9_%@]{65,}+')
_OPENING = frozenset("([{")

_SPOKEN = {
    "LPAR": "`(`", "RPAR": "`)`", "LBRACE": "`{`", "RBRACE": "`}`", "COMMA": "`,`", "COLON": "`:`",
    "EQUAL": "`=`", "CIRCUMFLEX": "`^`", "__ANON_0": "`->`", "WHERE": "`where`", "OVER": "`over`",
    "KEEPDIM": "`keepdim`", "EXIT": "`return` or `yield`", "KIND": "`fn`, `kernel` or `program`",
    "RELATION": "`==`, `>=` or `divides`", "IDENT": "a name", "VALUE": "a value (`%name`)", "TYPE": "a type",
    "NUMBER": "a number", "STRING": "a string", "DIM": "a size in backquotes", "DIMS": "sizes in brackets",
    "ORIGIN": "an origin (`@name`)", "$END": "the end of the text",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keyword:
    """``name=value`` in a call."""

    name: Token
    value: Token | Group


@dataclass(frozen=True, slots=True)
class Group:
    """``(a, b)`` as an attribute."""

    items: tuple[Token | Group, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """``parameter = value`` among what a function returns."""

    param: Token
    value: Token


@dataclass(frozen=True, slots=True)
class Over:
    """``over [D] keepdim``: a token with names, or numbers."""

    axes: Token | tuple[Token, ...]
    keepdim: bool


@dataclass(frozen=True, slots=True)
class ParamNode:
    """``name: type``."""

    name: Token
    type: Token


@dataclass(frozen=True, slots=True)
class ObligationNode:
    """One row of a ``where``."""

    left: Token
    relation: Token
    right: Token
    verdict: Token
    why: Token | None


@dataclass(frozen=True, slots=True)
class BlockNode:
    """What stands between braces; ``exit`` is its ``return`` or ``yield``."""

    statements: tuple[Statement, ...]
    exit: Token | None
    operands: tuple[Token | Update, ...]
    params: tuple[ParamNode, ...] = ()


@dataclass(frozen=True, slots=True)
class Statement:
    """One operation as written; ``exported`` names values that its body defines."""

    results: tuple[Token, ...]
    name: Token
    args: tuple[Token | Keyword, ...]
    over: Over | None
    origin: Token | None
    exported: tuple[Token, ...]
    types: tuple[Token, ...]
    body: BlockNode | None


@dataclass(frozen=True, slots=True)
class FunctionNode:
    """One function or kernel."""

    kind: Token
    name: Token
    params: tuple[ParamNode, ...]
    returns: tuple[Token, ...]
    where: tuple[ObligationNode, ...]
    body: BlockNode


class _Nodes(Transformer[Token, tuple[FunctionNode, ...]]):
    """Builds the nodes above while the parser reduces, so that no parse tree is ever kept."""

    def start(self, c: list[Any]) -> tuple[FunctionNode, ...]:
        return tuple(c)

    def function(self, c: list[Any]) -> FunctionNode:
        return FunctionNode(*c)

    def name(self, c: list[Any]) -> Token:
        return c[0]

    def _tuple(self, c: list[Any]) -> tuple[Any, ...]:
        return tuple(c)

    params = returns = where = operands = results = types = _tuple

    def param(self, c: list[Any]) -> ParamNode:
        return ParamNode(*c)

    def obligation(self, c: list[Any]) -> ObligationNode:
        left, relation, right, verdict, *why = c
        return ObligationNode(left, relation, right, verdict, why[0] if why else None)

    def block(self, c: list[Any]) -> BlockNode:
        last = c.pop() if c and isinstance(c[-1], tuple) else (None, ())
        return BlockNode(tuple(c), *last)

    def ret(self, c: list[Any]) -> tuple[Token, tuple[Token | Update, ...]]:
        return (c[0], c[1])

    def operand(self, c: list[Any]) -> Token:
        return c[0]

    def update(self, c: list[Any]) -> Update:
        return Update(c[0], c[1])

    def arg(self, c: list[Any]) -> Token:
        return c[0]

    attr = arg

    def keyword(self, c: list[Any]) -> Keyword:
        return Keyword(c[0], c[1])

    def group(self, c: list[Any]) -> Group:
        return Group(tuple(c))

    def axes(self, c: list[Any]) -> Over:
        keepdim = bool(c) and c[-1].type == "KEEPDIM"
        tokens = c[:-1] if keepdim else c
        named = bool(tokens) and tokens[0].type == "DIMS"
        return Over(tokens[0] if named else tuple(tokens), keepdim)

    def over(self, c: list[Any]) -> Over | None:
        return c[0] if c else None

    def exported(self, c: list[Any]) -> tuple[Token, ...]:
        return c[0] if c else ()

    def body(self, c: list[Any]) -> BlockNode | None:
        if not c:
            return None
        block = c[-1]
        return block if len(c) == 1 else BlockNode(block.statements, block.exit, block.operands, c[0])

    def stmt(self, c: list[Any]) -> Statement:
        results: tuple[Token, ...] = c.pop(0) if isinstance(c[0], tuple) else ()
        *tail, exported, types, body = c[1:]
        origin = tail.pop() if tail and isinstance(tail[-1], Token) and tail[-1].type == "ORIGIN" else None
        over = tail.pop()
        return Statement(results, c[0], tuple(tail), over, origin, exported, types, body)


@lru_cache(maxsize=1)
def _lark() -> Lark:
    return Lark(
        _GRAMMAR.read_text(encoding="utf-8"), parser="lalr", lexer="contextual", propagate_positions=False,
        maybe_placeholders=False, transformer=_Nodes(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A text being parsed: where its faults are shown."""

    text: str
    file: str | None = None

    def fail(
        self, code: str, message: str, token: Token, what: str = "", helps: Sequence[str] = ()
    ) -> NoReturn:
        """Raise a ParseError at a token."""
        start = (token.column or 1) - 1
        end = start + 1 if "\n" in token else start + len(token)
        self.fail_at(code, message, (token.line or 1, start, end), what, helps)

    def fail_at(
        self, code: str, message: str, place: tuple[int, int, int], what: str = "", helps: Sequence[str] = ()
    ) -> NoReturn:
        """Raise a ParseError at a line (from 1) and a range of columns (from 0)."""
        label = label_at(self.text, *place, what, self.file)
        raise ParseError(message, code=code, labels=[label], helps=helps) from None

    def statements(self) -> tuple[FunctionNode, ...]:
        """The functions of the text; raises ParseError TSR0501 for its form, TSR0505 for its size."""
        self._check_limits()
        try:
            return _lark().parse(self.text)  # type: ignore[return-value]
        except UnexpectedInput as error:
            self._unexpected(error)

    def _check_limits(self) -> None:
        """One pass over strings, comments, brackets and long words, before anything keeps state for them."""
        if len(self.text) > MAX_TEXT:
            raise ParseError(f"text of {len(self.text)} characters, more than {MAX_TEXT}", code="TSR0505")
        depth = 0
        for mark in _MARKS.finditer(self.text):
            text = mark[0]
            if text in _OPENING:
                depth += 1
                if depth > MAX_DEPTH:
                    self._fail_offset("TSR0505", f"brackets nested deeper than {MAX_DEPTH}", mark.start(), 1)
            elif len(text) == 1:
                depth -= text in ")]}"
            elif text[0] not in '"`#' and len(text) > MAX_WORD + (text[0] in "%@"):
                what = f"has {len(text)} characters"
                self._fail_offset(
                    "TSR0505", f"name or number longer than {MAX_WORD} characters", mark.start(), 1, what
                )

    def _fail_offset(self, code: str, message: str, start: int, length: int, what: str = "") -> NoReturn:
        line_start = self.text.rfind("\n", 0, start) + 1
        line = self.text.count("\n", 0, start) + 1
        self.fail_at(code, message, (line, start - line_start, start - line_start + length), what)

    def _unexpected(self, error: UnexpectedInput) -> NoReturn:
        if isinstance(error, UnexpectedToken) and error.token.type != "$END":
            token = error.token
            found = f"found `{visible(token[:40])}`" + ("…" if len(token) > 40 else "")
            self.fail("TSR0501", f"{_expected(error.expected)}, {found}", token)
        if isinstance(error, UnexpectedCharacters):
            at = error.pos_in_stream or 0
            self._fail_offset(
                "TSR0501", f"{_expected(error.allowed)}, found `{show_char(self.text[at])}`", at, 1
            )
        wanted = error.expected if isinstance(error, UnexpectedEOF | UnexpectedToken) else ()
        last = max(len(self.text.rstrip()) - 1, 0)
        self._fail_offset("TSR0501", f"{_expected(wanted)}, found the end of the text", last, 1)


def _expected(names: Iterable[str] | None) -> str:
    spoken = sorted({_SPOKEN.get(name, f"`{name.lower()}`") for name in names or ()})
    if not spoken:
        return "unexpected text"
    *most, last = spoken[:6]
    return "expected " + (f"{', '.join(most)} or {last}" if most else last)


class Comments:
    """The ``file:line`` comments of a text, found by the line they stand on."""

    _FORM = re.compile(r"\#[ \t]*(\S[^\r\n]{0,254}?):([0-9]{1,9})[ \t]*\r?$", re.MULTILINE)

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._found: list[tuple[str, int]] = []
        for mark in _MARKS.finditer(text):
            if text[mark.start()] == "#" and (form := self._FORM.match(text, mark.start(), mark.end())):
                self._starts.append(mark.start())
                self._found.append((form[1], int(form[2])))

    def between(self, start: int, end: int | None) -> tuple[str, int] | None:
        """The first comment after one place of the text and before another."""
        at = bisect_right(self._starts, start)
        if at == len(self._starts) or (end is not None and self._starts[at] > end):
            return None
        return self._found[at]
