"""What ``isinstance(x, torch.Tensor)`` says of a traced object.

Python asks an object for ``__class__`` when its type does not answer. A traced tensor answers "tensor" only
to an ``isinstance`` (or a ``case`` pattern) that stands in Python code: the framework's own C code asks in
the same way, and would then read memory that is not there.
"""

from __future__ import annotations

import dis
from types import CodeType, FrameType
from typing import Final

from tessera.diag.span import is_machinery
from tessera.frontend.names import PerCode

_OURS = ("tessera",)
_CALLS = ("CALL", "PRECALL", "CALL_FUNCTION", "CALL_KW", "CALL_FUNCTION_EX")


def asks(frame: FrameType) -> bool:
    """Whether a frame stands at an ``isinstance`` call or a class pattern of Python code that is not our
    own.
    """
    return frame.f_lasti in _known(frame.f_code)


def questions(code: CodeType) -> frozenset[int]:
    """The byte offsets of the instructions that ask for a class.

    >>> def f(x):
    ...     return isinstance(x, int) or max(x, 1)
    >>> len(questions(f.__code__)) >= 1
    True
    """
    if is_machinery(code.co_filename, _OURS):
        return frozenset()
    starts: set[tuple[int | None, int | None]] = set()
    found: set[int] = set()
    for instruction in dis.get_instructions(code):
        place = instruction.positions
        start = (None, None) if place is None else (place.lineno, place.col_offset)
        if instruction.opname.startswith("LOAD_") and instruction.argval == "isinstance":
            starts.add(start)
        elif instruction.opname == "MATCH_CLASS" or (
            instruction.opname.startswith(_CALLS) and start in starts and start[1] is not None
        ):
            found.add(instruction.offset)
    return frozenset(found)


_known: Final = PerCode(questions)
