"""Nested arguments and results as flat leaves, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.diag import TraceError

#: Containers nested deeper than this are refused.
DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Tree:
    """The shape of a nested value. ``kind`` is ``leaf``, ``tuple``, ``list``, ``dict``, ``named`` or
    ``data``.

    ``type`` rebuilds a named tuple or dataclass; ``keys`` are the keys or fields, in order. Two values of
    the same structure have equal trees, so a tree can stand in a cache key.
    """

    kind: str
    children: tuple[Tree, ...] = ()
    keys: tuple[Any, ...] = ()
    type: type | None = None

    @property
    def leaves(self) -> int:
        """How many leaves the structure has."""
        if self.kind == "leaf":
            return 1
        return sum(child.leaves for child in self.children)


LEAF = Tree("leaf")


def parts(value: object) -> tuple[str, tuple[Any, ...], tuple[Any, ...]] | None:
    """Kind, keys and members of a container; None for a leaf."""
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        return ("tuple", (), tuple(value)) if names is None else ("named", tuple(names), tuple(value))
    if isinstance(value, list):
        return "list", (), tuple(value)
    if isinstance(value, Mapping) and isinstance(value, dict):
        return "dict", tuple(value), tuple(value.values())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = tuple(field.name for field in dataclasses.fields(value))
        return "data", names, tuple(getattr(value, name) for name in names)
    return None


def flatten(value: object, is_leaf: Callable[[object], bool] = lambda x: False) -> tuple[list[Any], Tree]:
    """The leaves in order and the structure that holds them.

    Raises TraceError (TSR0404) for containers nested more than 64 deep, which includes cyclic ones.

    >>> flatten({"a": 1, "b": (2, 3)})[0]
    [1, 2, 3]
    """
    leaves: list[Any] = []
    return leaves, _flatten(value, is_leaf, leaves, 0)


def _flatten(value: object, is_leaf: Callable[[object], bool], leaves: list[Any], depth: int) -> Tree:
    found = None if is_leaf(value) else parts(value)
    if found is None:
        leaves.append(value)
        return LEAF
    if depth == DEEPEST:
        raise TraceError(f"containers are nested more than {DEEPEST} deep", code="TSR0404")
    kind, keys, members = found
    children = tuple(_flatten(member, is_leaf, leaves, depth + 1) for member in members)
    return Tree(kind, children, keys, type(value) if kind in ("named", "data") else None)


def unflatten(tree: Tree, leaves: Sequence[Any]) -> Any:
    """The value with this structure and these leaves.

    >>> unflatten(flatten((1, [2, 3]))[1], "xyz")
    ('x', ['y', 'z'])
    """
    if tree.kind == "leaf":
        (leaf,) = leaves
        return leaf
    rest = iter(leaves)
    return _unflatten(tree, rest)


def _unflatten(tree: Tree, leaves: Iterator[Any]) -> Any:
    if tree.kind == "leaf":
        return next(leaves)
    members = [_unflatten(child, leaves) for child in tree.children]
    if tree.kind == "tuple":
        return tuple(members)
    if tree.kind == "list":
        return members
    if tree.kind == "dict":
        return dict(zip(tree.keys, members, strict=True))
    assert tree.type is not None
    if tree.kind == "named":
        return tree.type(*members)
    rebuilt: Any = object.__new__(tree.type)
    for key, member in zip(tree.keys, members, strict=True):
        object.__setattr__(rebuilt, key, member)
    return rebuilt


def leaf_paths(tree: Tree, root: str) -> list[str]:
    """How a reader writes each leaf: ``state[0]``, ``batch['ids']``, ``cfg.scale``.

    >>> leaf_paths(flatten({"a": 1, "b": (2, 3)})[1], "x")
    ["x['a']", "x['b'][0]", "x['b'][1]"]
    """
    if tree.kind == "leaf":
        return [root]
    keys = tree.keys or range(len(tree.children))
    dotted = tree.kind in ("named", "data")
    found: list[str] = []
    for key, child in zip(keys, tree.children, strict=True):
        found += leaf_paths(child, f"{root}.{key}" if dotted else f"{root}[{key!r}]")
    return found
