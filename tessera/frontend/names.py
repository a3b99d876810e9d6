"""What the user calls a result: the variable that the next instruction stores it in.

Python keeps the target of an assignment in the bytecode right after the expression. Reading it there costs
one table look-up an operation, needs no source text and never guesses from line numbers.
"""

from __future__ import annotations

import dis
from collections.abc import Callable
from types import CodeType
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_STORES = ("STORE_FAST", "STORE_NAME", "STORE_DEREF", "STORE_GLOBAL")
_SKIPPED = ("COPY", "SWAP", "EXTENDED_ARG", "CACHE", "NOP")


class PerCode(Generic[T]):
    """Remembers what ``make`` finds in each code object. Keyed by identity: a code object's hash reads all of it."""

    def __init__(self, make: Callable[[CodeType], T], most: int = 4096) -> None:
        self._make, self._most = make, most
        self._known: dict[int, tuple[CodeType, T]] = {}

    def __call__(self, code: CodeType) -> T:
        found = self._known.get(id(code))
        if found is None:
            if len(self._known) >= self._most:
                self._known.clear()
            found = self._known[id(code)] = (code, self._make(code))
        return found[1]


def stored_names(code: CodeType) -> dict[int, tuple[str, ...]]:
    """For each instruction whose value is stored at once: its byte offsets and the names it goes to.

    While a function written in Python is called, a frame stands on the last cache entry of its call.

    >>> def f(x):
    ...     y = x + 1
    ...     a, b = divmod(y, 2)
    ...     return a
    >>> sorted(set(stored_names(f.__code__).values()))
    [('a', 'b'), ('y',)]
    """
    found: dict[int, tuple[str, ...]] = {}
    instructions = list(dis.get_instructions(code))
    for place, instruction in enumerate(instructions):
        if instruction.opname.startswith(("STORE", "LOAD", "UNPACK", *_SKIPPED)):
            continue
        names = _stored_after(instructions, place + 1)
        if names:
            found.update(dict.fromkeys(range(instruction.offset, instructions[place + 1].offset, 2), names))
    return found


targets: Final = PerCode(stored_names)


def read_for_update(code: CodeType) -> frozenset[int]:
    """The byte offsets of every ``y[i]`` that an update ``y[i] += …`` reads: what it stands on is kept for the write.

    >>> def f(y, i):
    ...     y[i] += y[i]
    >>> len(read_for_update(f.__code__)) > 0
    True
    """
    kept = list(dis.get_instructions(code))
    found: set[int] = set()
    for n, (one, two, read) in enumerate(zip(kept, kept[1:], kept[2:], strict=False)):
        if all(i.opname == "COPY" and i.arg == 2 for i in (one, two)) and read.opname.startswith("BINARY"):
            end = kept[n + 3].offset if n + 3 < len(kept) else read.offset + 2
            found.update(range(read.offset, end, 2))
    return frozenset(found)


updates_in_place: Final = PerCode(read_for_update)


def _stored_after(instructions: list[dis.Instruction], place: int) -> tuple[str, ...]:
    """The names stored from the value on top of the stack; () when it goes elsewhere."""
    wanted = 1
    names: list[str] = []
    while place < len(instructions) and len(names) < wanted:
        instruction = instructions[place]
        place += 1
        if instruction.opname in _SKIPPED:
            continue
        if instruction.opname == "UNPACK_SEQUENCE" and wanted == 1 and not names:
            wanted = instruction.arg or 0
        elif instruction.opname.startswith(_STORES):
            value = instruction.argval
            names.extend(value if isinstance(value, tuple) else (str(value),))
        else:
            break
    return tuple(names[:wanted]) if len(names) >= wanted else ()
