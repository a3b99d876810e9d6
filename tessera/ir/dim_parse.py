"""Dimension expressions from text. Plain names and numbers are read directly; Lark is loaded for the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tessera.diag import ShapeError
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min, exact_div, floordiv, mod
from tessera.ir.dim_limits import MAX_INT, MAX_NAME, MAX_NESTING, MAX_TEXT

if TYPE_CHECKING:
    from lark import Lark

_PLAIN_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME - 1}}}")
_PLAIN_INT = re.compile(r"[0-9]{1,18}")
_STRANGE = re.compile(r"[^A-Za-z0-9_ +\-*/%(),]")

GRAMMAR = r"""
?start: sum
?sum: product
    | sum "+" product -> add
    | sum "-" product -> sub
?product: unary
    | product "*" unary -> mul
    | product "/" unary -> div
    | product "//" unary -> floordiv
    | product "%" unary -> mod
?unary: power
    | "-" unary -> neg
    | "+" unary -> pos
?power: atom
    | atom "**" unary -> pow
?atom: INT -> number
    | NAME -> name
    | NAME "(" [sum ("," sum)*] ")" -> call
    | "(" sum ")"
NAME: /[A-Za-z_][A-Za-z0-9_]*/
INT: /[0-9]+/
%ignore " "
"""

#: Functions of the grammar, with their least and greatest number of arguments.
CALLS: Mapping[str, tuple[Callable[..., Dim], int, int]] = {
    "ceildiv": (ceildiv, 2, 2),
    "floordiv": (floordiv, 2, 2),
    "mod": (mod, 2, 2),
    "min": (dim_min, 1, MAX_TEXT),
    "max": (dim_max, 1, MAX_TEXT),
}


def parse_dim(text: str, longest: int = MAX_TEXT) -> Dim:
    """The dimension a text denotes; ``longest`` is the most characters it may have.

    Raises ShapeError: TSR0101 for text that is no expression, with the column where reading stops, TSR0102
    beyond ``longest`` or 64 nested parentheses, TSR0106 for one that has no value at all, such as ``1/2``.

    >>> str(parse_dim("(D + D) // 4 * S"))
    '(D // 2)*S'
    """
    if _PLAIN_NAME.fullmatch(text):
        return Dim.name(text)
    if _PLAIN_INT.fullmatch(text):
        return Dim.const(int(text))
    if len(text) > longest:
        raise ShapeError(f"a dimension expression of {len(text)} characters, over {longest}", code="TSR0102")
    return _parse(text)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Dim:
    _check_limits(text)
    from lark.exceptions import UnexpectedInput, UnexpectedToken

    try:
        return _parser().parse(text)  # type: ignore[return-value]
    except UnexpectedInput as error:
        ends = isinstance(error, UnexpectedToken) and error.token.type == "$END"
        raise _refused(text, len(text.rstrip(" ")) if ends else error.pos_in_stream or 0, ends) from None


def _check_limits(text: str) -> None:
    strange = _STRANGE.search(text)
    if strange:
        raise _refused(text, strange.start(), False)
    depth = 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if depth > MAX_NESTING:
            raise ShapeError(f"a dimension expression nested deeper than {MAX_NESTING}", code="TSR0102")


def _refused(text: str, at: int, ends: bool) -> ShapeError:
    """TSR0101 with the place; the text is shown escaped and cut, as it may come from a file."""
    shown = ascii(text if len(text) <= 80 else text[:80] + "...")
    what = (
        f"{text[at]!a} at column {at + 1} does not fit there"
        if at < len(text) and not ends
        else "it ends too early"
    )
    rule = "expressions have integers, names, + - * / // % **, parentheses and " + ", ".join(sorted(CALLS))
    return ShapeError(f"{shown} is not a dimension expression: {what}", code="TSR0101", notes=(rule,))


def _number(text: str) -> Dim:
    if len(text) > 19 or int(text) >= MAX_INT:
        raise ShapeError(
            f"{text[:24]} is too large for a size", code="TSR0101", notes=("sizes are below 2**63",)
        )
    return Dim.const(int(text))


def _call(name: str, at: int, args: Sequence[Dim]) -> Dim:
    if name not in CALLS:
        raise ShapeError(
            f"`{name[:MAX_NAME]}` at column {at + 1} is not a function of dimensions",
            code="TSR0101",
            notes=(f"the functions are {', '.join(sorted(CALLS))}",),
        )
    function, least, most = CALLS[name]
    if not least <= len(args) <= most:
        expected = str(least) if least == most else f"at least {least}"
        raise ShapeError(
            f"`{name}` at column {at + 1} takes {expected} arguments, not {len(args)}", code="TSR0101"
        )
    return function(*args)


#: What each rule of the grammar builds from its children, bottom up while the text is read: no tree is made.
RULES: Mapping[str, Callable[[Sequence[Any]], Dim]] = {
    "add": lambda c: c[0] + c[1],
    "sub": lambda c: c[0] - c[1],
    "mul": lambda c: c[0] * c[1],
    "div": lambda c: exact_div(c[0], c[1]),
    "floordiv": lambda c: floordiv(c[0], c[1]),
    "mod": lambda c: mod(c[0], c[1]),
    "pow": lambda c: c[0] ** c[1],
    "neg": lambda c: -c[0],
    "pos": lambda c: c[0],
    "name": lambda c: Dim.name(str(c[0])),
    "number": lambda c: _number(str(c[0])),
    "call": lambda c: _call(str(c[0]), c[0].start_pos, c[1:]),
}


@lru_cache(maxsize=1)
def _parser() -> Lark:
    from lark import Lark

    # Lark only looks the rules' names up on the object.
    build = SimpleNamespace(**RULES)
    return Lark(GRAMMAR, parser="lalr", transformer=build, maybe_placeholders=False)
