"""The entries of a table that a library runs in one call, and what stands between such tables."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.runtime.steps import CallStep, Routine

#: The first bases of a table: nothing, the shared block, and the one that the call gives.
NOTHING, BLOCK, PACK, FIRST = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of a table with its arguments. ``scratch`` are the bytes for each thread behind the shared block, to
    which a Scratch among them points; ``room`` are bytes there that it needs but once.
    """

    entry: int
    arguments: tuple[Argument, ...]
    name: str
    scratch: int
    threads: bool
    room: int = 0


@dataclass(frozen=True, slots=True)
class At:
    """An argument that is an address: so many bytes behind the first of a slot's block."""

    root: int
    offset: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """An argument that is one of the call's numbers."""

    number: int
    real: bool


@dataclass(frozen=True, slots=True)
class Scratch:
    """The argument that is the address of a row's scratch memory."""


Argument = At | Scalar | Scratch | int


@dataclass(frozen=True, slots=True)
class Opaque:
    """A step that a library runs on tensors."""

    step: CallStep
    routine: Routine
