"""The object that a kernel is a method of: which of its attributes the source reads, and what they stand for.

Tensors among them are arguments of the kernel, of which a call says nothing; everything else is known while the kernel
is read. A method of the object that the kernel calls is read in place, with what it reads of the object.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType, MethodType
from typing import Any

from tessera.diag import TraceError
from tessera.frontend.kernel.session import KernelSession
from tessera.frontend.kernel.source import Source, source_of

#: The names that lead from the object to what is read of it.
Path = tuple[str, ...]


@dataclass(frozen=True)
class Helper:
    """A method of the object, as its class has it."""

    function: FunctionType


@dataclass(frozen=True, eq=False)
class Held:
    """The object while a kernel is read, or one inside of it. ``members`` are what is known of it, by path."""

    members: Mapping[Path, Any]
    path: Path = ()

    def read(self, session: KernelSession, name: str) -> Any:
        """What an attribute stands for. Raises TraceError (TSR0404) for what the object does not have."""
        path = (*self.path, name)
        if path in self.members:
            found = self.members[path]
            return HeldMethod(found.function, self) if isinstance(found, Helper) else found
        if any(p[: len(path)] == path for p in self.members):
            return Held(self.members, path)
        text = ".".join(("self", *path))
        session.refuse(TraceError, "TSR0404", f"`{text}` is not known", "read here",
                       helps=["the kernel reads `self` by name: `self.weight`"])  # fmt: skip


@dataclass(frozen=True, eq=False)
class HeldMethod:
    """A method of the object, before it is called."""

    function: FunctionType
    owner: Held


def held_by(x: object, source: Source, is_known: Callable[[object], bool]) -> dict[Path, Any]:
    """What a kernel reads of its object, by path: as far as attributes are followed, which ``is_known`` ends."""
    found: dict[Path, Any] = {}
    todo: list[tuple[tuple[Path, ...], object, Path]] = [(_read_by(source), x, ())]
    seen: set[tuple[object, Path]] = set()
    while todo:
        chains, owner, prefix = todo.pop()
        for chain in chains:
            for path, value in _followed(owner, chain, prefix, is_known):
                if isinstance(value, Helper) and (value.function, path) not in seen:
                    seen.add((value.function, path))
                    todo.append((_read_in(value.function), _owner(x, path), path[:-1]))
                found[path] = value
    return found


def _owner(x: object, path: Path) -> object:
    for name in path[:-1]:
        x = getattr(x, name)
    return x


def _followed(
    x: object, chain: Path, prefix: Path, is_known: Callable[[object], bool]
) -> Iterator[tuple[Path, Any]]:  # fmt: skip
    """The end of one chain of attributes; nothing where there is none."""
    value = x
    for n, name in enumerate(chain, 1):
        owner = value
        try:
            value = getattr(owner, name)
        except AttributeError:  # the reading says so, with its place
            return
        path = (*prefix, *chain[:n])
        if isinstance(value, MethodType) and value.__self__ is owner and isinstance(value.__func__, FunctionType):
            yield path, Helper(value.__func__)
            return
        if is_known(value):
            break
    yield path, value


@lru_cache(maxsize=256)
def _read_in(function: FunctionType) -> tuple[Path, ...]:
    return _read_by(source_of(function))


@lru_cache(maxsize=256)
def _read_by(source: Source) -> tuple[Path, ...]:
    """The chains of attributes that a method reads of its object."""
    return tuple(dict.fromkeys(_chains(source.node, source.receiver)))


def _chains(node: ast.AST, receiver: str) -> Iterator[Path]:
    names: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        names.insert(0, inner.attr)
        inner = inner.value
    if names and isinstance(inner, ast.Name) and inner.id == receiver:
        yield tuple(names)
        return
    for child in ast.iter_child_nodes(node):
        yield from _chains(child, receiver)


__all__ = ["Held", "HeldMethod", "Helper", "Path", "held_by"]
