"""Text made safe and measured for a terminal."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

#: Characters of one message, label or note that are shown; the rest is counted.
LONGEST_TEXT = 4000

_TAB = "    "
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@lru_cache(maxsize=4096)
def show_char(char: str) -> str:
    """A character as it may be printed: controls, escapes, bidi and other invisible ones are spelled out.

    >>> show_char("a"), show_char("\\x1b"), show_char("\\u202e")
    ('a', '\\\\x1b', '\\\\u202e')
    """
    if " " <= char <= "~":
        return char
    if char == "\t":
        return _TAB
    if unicodedata.category(char) not in _HIDDEN:
        return char
    point = ord(char)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def visible(text: str) -> str:
    """The text with every character that a terminal would obey spelled out; line ends become `\\n`.

    >>> visible("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("\\n" if char == "\n" else show_char(char) for char in text)


def visible_lines(text: str) -> list[str]:
    """The lines of a text, each safe to print; a very long text is cut and the rest counted."""
    rest = len(text) - LONGEST_TEXT
    if rest > 0:
        text = f"{text[:LONGEST_TEXT]}… ({rest} more characters)"
    return [visible(line) for line in text.split("\n")]


@lru_cache(maxsize=4096)
def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def width_of(text: str) -> int:
    """Terminal columns of a text that is already visible.

    >>> width_of("abc"), width_of("日本")
    (3, 4)
    """
    return len(text) if text.isascii() else sum(map(_char_width, text))


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at spaces; a longer word stays whole.

    >>> wrap("one two three", 8)
    ['one two', 'three']
    """
    if width_of(text) <= width:
        return [text]
    first, *words = text.split(" ")
    lines, used = [first], width_of(first)
    for word in words:
        size = width_of(word)
        if used + 1 + size > width:
            lines.append(word)
            used = size
        else:
            lines[-1] += f" {word}"
            used += 1 + size
    return lines
