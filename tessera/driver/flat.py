"""Calls of functions that take many tensors for one: the lists of a call as pieces, or joined for torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tessera.diag import ShapeError
from tessera.driver.guards import check_memory
from tessera.frontend.session import current
from tessera.frontend.spec import FunctionSpec
from tessera.ir.dim import Dim
from tessera.runtime.pieces import Forms, Pieces


def is_watched() -> bool:
    """Is the call part of a trace, of ours or of torch's?"""
    return current() is not None or torch.compiler.is_compiling() or torch.jit.is_tracing()


def in_pieces(
    spec: FunctionSpec, forms: Forms, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments of a call with the lists that stand for one tensor as such. Raises ShapeError (TSR0107) for lists
    of the same size that differ in a place.
    """
    found = list(args)
    named = dict(kwargs)
    first: dict[Dim, tuple[str, Pieces]] = {}
    for place, name, size in spec.flats:
        where: Any = found if place < len(found) else named
        at: Any = place if place < len(found) else name
        given = where[at] if place < len(found) else named.get(name)
        if type(given) is list or type(given) is tuple:
            given = where[at] = forms.pieces(name, given, check_memory)
        if isinstance(given, Pieces):
            _alike(*first.setdefault(size, (name, given)), name, given)
    return tuple(found), named


def _alike(known: str, other: Pieces, name: str, given: Pieces) -> None:
    """Lists of the same size are cut alike, piece by piece. Where the sizes differ others say so."""
    if other.cuts == given.cuts or other.shape != given.shape:
        return
    counts = zip(_counts(other), _counts(given), strict=False)
    place = next((n for n, (a, b) in enumerate(counts) if a != b), 0)
    raise ShapeError(
        f"`{known}` and `{name}` have as many elements, and differ in place {place}", code="TSR0107",
        notes=[f"there `{known}` has {_counts(other)[place]} elements and `{name}` has {_counts(given)[place]}"],
    )  # fmt: skip


def _counts(x: Pieces) -> list[int]:
    return [t.numel() for t in x.tensors]


def joined_call(spec: FunctionSpec, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The Python function on torch tensors: lists that stand for one tensor are joined, and get what it became."""
    bound = spec.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    written: list[tuple[Any, torch.Tensor]] = []
    for _, name, _ in spec.flats:
        given = bound.arguments.get(name)
        if isinstance(given, list | tuple):
            given = Pieces(name, given)
        if isinstance(given, Pieces):
            bound.arguments[name] = flat = given.joined()
            if name in spec.updates:
                written.append((given, flat))
    result = fn(*bound.args, **bound.kwargs)
    for pieces, flat in written:
        pieces.write(flat)
    return result
