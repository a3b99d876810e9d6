"""What code reads of the world around it: globals and variables of enclosing functions, and what follows from those by
attributes and constant subscripts.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Literal

Step = tuple[Literal["attr", "item"], object]
Kind = Literal["global", "free", "module"]

#: Instructions that load a variable from outside, and which kind it is of.
_LOADS: dict[str, Kind] = {
    "LOAD_GLOBAL": "global", "LOAD_NAME": "global", "LOAD_DEREF": "free", "LOAD_CLASSDEREF": "free",
    "LOAD_FROM_DICT_OR_GLOBALS": "global", "LOAD_FROM_DICT_OR_DEREF": "free", "IMPORT_NAME": "module",
}  # fmt: skip
_STORES: dict[str, Literal["global", "free", "attr", "item"]] = {
    "STORE_GLOBAL": "global", "DELETE_GLOBAL": "global", "STORE_DEREF": "free", "DELETE_DEREF": "free",
    "STORE_ATTR": "attr", "DELETE_ATTR": "attr", "STORE_SUBSCR": "item", "DELETE_SUBSCR": "item",
}  # fmt: skip
#: Instructions with a name or a variable that read nothing from outside.
_QUIET = frozenset(_STORES) | {
    "LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM", "STORE_NAME", "DELETE_NAME", "LOAD_CLOSURE",
    "MAKE_CELL", "COPY_FREE_VARS",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Read:
    """One expression that begins with a variable from outside: ``cfg.sizes[0]``, as far as it is plain to see. Of an
    import, the module, with a dot in front for each level of a relative one.
    """

    kind: Kind
    name: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Reads:
    """The reads of a function, functions inside it included; ``written`` says what it sets itself: variables and
    attributes by kind and name, and whether it sets items of anything.
    """

    reads: tuple[Read, ...]
    written: frozenset[tuple[str, str]]


@lru_cache(maxsize=4096)
def reads_of(code: CodeType) -> Reads:
    """What a function's code reads from outside.

    >>> limit = 3
    >>> def f(x, y):
    ...     return x + limit + y.limit
    >>> reads_of(f.__code__).reads
    (Read(kind='global', name='limit', steps=()),)
    """
    found: dict[Read, None] = {}
    written: set[tuple[str, str]] = set()
    todo = [code]
    while todo:
        inner = todo.pop()
        todo += (c for c in inner.co_consts if isinstance(c, CodeType))
        # What extends an argument is part of the instruction behind it.
        instructions = [one for one in dis.get_instructions(inner) if one.opname != "EXTENDED_ARG"]
        for at, one in enumerate(instructions):
            kind, plain = _kind(one), one.opname in _LOADS
            if kind == "module":
                level = instructions[at - 2].argval if at >= 2 else 0
                found[Read(kind, "." * (level if isinstance(level, int) else 0) + one.argval)] = None
            elif kind is not None and (kind == "global" or one.argval in code.co_freevars):
                found[Read(kind, one.argval, tuple(_steps(instructions, at + 1)) if plain else ())] = None
            store = _STORES.get(one.opname)
            if store is not None and (store != "free" or one.argval in code.co_freevars):
                written.add((store, "" if store == "item" else one.argval))
    return Reads(tuple(found), frozenset(written))


def _kind(one: dis.Instruction) -> Kind | None:
    """What an instruction reads. One of a later Python that has a name is taken for a read of the variable."""
    if one.opname in _LOADS:
        return _LOADS[one.opname]
    if one.opname in _QUIET or not isinstance(one.argval, str):
        return None
    return "global" if one.opcode in dis.hasname else "free" if one.opcode in dis.hasfree else None


def _steps(instructions: Sequence[dis.Instruction], at: int) -> Iterator[Step]:
    """The attributes and constant subscripts that follow a load at once."""
    while at < len(instructions):
        one = instructions[at]
        if one.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            yield ("attr", one.argval)
            at += 1
        elif one.opname in ("LOAD_CONST", "LOAD_SMALL_INT") and at + 1 < len(instructions):
            key, subscript = one.argval, instructions[at + 1]
            if not isinstance(key, str | int) or not _subscripts(subscript):
                return
            yield ("item", key)
            at += 2
        else:
            return


def _subscripts(one: dis.Instruction) -> bool:
    return one.opname == "BINARY_SUBSCR" or (one.opname == "BINARY_OP" and one.argrepr == "[]")
