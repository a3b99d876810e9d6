"""A small layout algebra: documents that are written flat where they fit and broken where they do not.

A document is a string, a sequence, or one of ``Line``, ``Nest``, ``Group``. Layout keeps its own stack, so
the depth of a document is bounded by memory only, and looks ahead at most one line, so its time is linear in
the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """A possible line end: ``flat`` is what stands here when the enclosing group stays on one line."""

    flat: str = " "


@dataclass(frozen=True, slots=True)
class Nest:
    """Broken lines inside ``doc`` start ``by`` columns further right."""

    doc: Doc
    by: int = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Everything in ``doc`` on one line if it fits, otherwise each of its own lines is broken."""

    doc: Doc


Doc = str | Line | Nest | Group | Sequence["Doc"]

LINE = Line()
SOFT = Line("")

_Frame = tuple[int, bool, Doc]


def layout(doc: Doc, width: int = 100, indent: int = 0) -> str:
    """The text of a document in at most ``width`` columns where that is possible; further lines start at
    ``indent``.

    >>> call = Group(["f(", Nest([SOFT, "first,", LINE, "second"]), SOFT, ")"])
    >>> layout(call)
    'f(first, second)'
    >>> print(layout(call, width=10))
    f(
        first,
        second
    )
    """
    out: list[str] = []
    column = indent
    stack: list[_Frame] = [(indent, False, doc)]
    while stack:
        at, flat, item = stack.pop()
        if isinstance(item, str):
            out.append(item)
            column += len(item)
        elif isinstance(item, Line):
            out.append(item.flat if flat else "\n" + " " * at)
            column = column + len(item.flat) if flat else at
        elif isinstance(item, Nest):
            stack.append((at + item.by, flat, item.doc))
        elif isinstance(item, Group):
            stack.append((at, flat or _fits(item.doc, stack, width - column), item.doc))
        else:
            stack.extend((at, flat, part) for part in reversed(item))
    return "".join(out)


def _fits(doc: Doc, rest: Sequence[_Frame], room: int) -> bool:
    """Whether ``doc`` written flat, with what follows it up to the next line end, takes at most ``room``
    columns.
    """
    pending: list[tuple[bool, Doc]] = [(True, doc)]
    below = len(rest)
    while room >= 0:
        if not pending:
            if not below:
                return True
            below -= 1
            pending.append(rest[below][1:])
        flat, item = pending.pop()
        if isinstance(item, str):
            room -= len(item)
        elif isinstance(item, Line):
            if not flat:
                return True
            room -= len(item.flat)
        elif isinstance(item, Nest | Group):
            pending.append((flat, item.doc))
        else:
            pending.extend((flat, part) for part in reversed(item))
    return False


def separated(items: Iterable[Doc], mark: str = ",") -> list[Doc]:
    """The items with a mark and a possible line end between them.

    >>> layout(separated(["a", "b"])) == "a,\\nb", layout(Group(separated(["a", "b"])))
    (True, 'a, b')
    """
    out: list[Doc] = []
    for item in items:
        if out:
            out += [mark, LINE]
        out.append(item)
    return out


def bracketed(opening: str, items: Sequence[Doc], closing: str) -> Doc:
    """``f(a, b)`` on one line, or one item a line with the closing bracket below the opening line."""
    if not items:
        return opening + closing
    return Group([opening, Nest([SOFT, *separated(items)]), SOFT, closing])
