"""Reads the C texts into units: one function, or a group of macros, with the names it defines and mentions.

Paragraphs are separated by blank lines. A paragraph with a line ``// for T U in f32/u32 f64/u64`` is a
template: it is repeated with ``$T`` and ``$U`` replaced. A paragraph that defines nothing is a heading and
is dropped. Files are read in the order of ``FILES``, and a unit mentions only what stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

FILES: Final = (
    "types", "native", "storage", "memory", "square", "pairs", "convert", "arithmetic", "bits", "exponential",
    "trigonometry", "special", "reduce", "scan", "rows",
)  # fmt: skip

_WIDE_LANES = "f64/vf64/vf64 i64/vi64/vi64 u64/vu64/vu64"
_NARROW = "i16/vi32/vi16 i8/vi32/vi8 u8/vi32/vu8 b8/vm/vu8 bf16/vf32/vu16 f16/vf32/vu16 e4m3/vf32/vu8 e5m2/vf32/vu8"
_LISTS: Final = {
    "STORED": f"f32/vf32/vf32 i32/vi32/vi32 u32/vu32/vu32 {_WIDE_LANES} {_NARROW}",
    "UNMASKED": f"{_WIDE_LANES} {_NARROW}",
    "EXTREMES": " ".join(f"argmax/{t}/> argmin/{t}/<" for t in ("f32", "f64", "i32", "i64", "u32", "u64")),
}

_TEMPLATE = re.compile(r"^// for ([A-Z ]+) in (.+)\n", re.MULTILINE)
_DEFINED = re.compile(
    r"^(?:T_FN|static inline|static)\s[^;={]*?\b(t_\w+)[(\[]"  # a function or a table
    r"|^\s*#define ([tT]_\w+)"
    r"|^T_(?:VIA_F64|BY_PART|LIBM)(?:_2)?\((t_\w+),"
    r"|^typedef .*\b(t_\w+) __attribute__",
    re.MULTILINE,
)
_MENTIONED = re.compile(r"\b[tT]_\w+")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of C text. ``always`` marks the types, which every kernel gets."""

    text: str
    defines: tuple[str, ...]
    mentions: frozenset[str]
    always: bool = False


@cache
def units() -> tuple[Unit, ...]:
    """All units in the order in which they may be printed."""
    return tuple(unit for name in FILES for unit in _read(name))


def _read(name: str) -> Iterator[Unit]:
    text = resources.files("tessera.backends.c.mathlib").joinpath(f"{name}.c").read_text(encoding="utf-8")
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        for piece in _instances(paragraph):
            defined = tuple(dict.fromkeys(n for m in _DEFINED.finditer(piece) for n in m.groups() if n))
            if defined or name == "types":
                mentioned = frozenset(_MENTIONED.findall(piece)) - set(defined)
                yield Unit(piece, defined, mentioned, name == "types")


def _instances(paragraph: str) -> Iterator[str]:
    found = _TEMPLATE.search(paragraph)
    if not found:
        yield paragraph
        return
    names = found[1].split()
    body = paragraph[: found.start()] + paragraph[found.end() :]
    for values in _LISTS.get(found[2], found[2]).split():
        by_name = dict(zip(names, values.split("/"), strict=True))
        yield re.sub(r"\$([A-Z]+)", lambda m, d=by_name: d[m[1]], body)  # type: ignore[misc]
