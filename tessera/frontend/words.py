"""The words that a function tells apart: what a parameter may be given, as far as its code says."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any


def told_apart(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """The strings that a function compares its parameter ``name`` with, matches it against or looks up by it, in order.
    Without the source none are known.

    >>> def pooled(x, how="mean"):
    ...     return x.mean(0) if how == "mean" else {"max": x.amax, "sum": x.sum}[how](0)
    >>> told_apart(pooled, "how"), told_apart(pooled, "x")
    (('mean', 'max', 'sum'), ())
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    found = (node for place in ast.walk(tree) for node in _beside(place, name))
    values = (node.value for node in found if isinstance(node, ast.Constant))
    return tuple(dict.fromkeys(value for value in values if isinstance(value, str) and value))


def _beside(node: ast.AST, name: str) -> Iterator[ast.AST]:
    """What stands against the name in one expression or statement."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any(_is_name(side, name) for side in sides):
            for side in sides:
                yield from side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else (side,)
    elif isinstance(node, ast.Subscript):
        if _is_name(node.slice, name) and isinstance(node.value, ast.Dict):
            yield from (key for key in node.value.keys if key is not None)
    elif isinstance(node, ast.Match) and _is_name(node.subject, name):
        for case in node.cases:
            yield from (part.value for part in ast.walk(case.pattern) if isinstance(part, ast.MatchValue))


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
