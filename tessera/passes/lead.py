"""An operation on tensors, done to every part of larger ones: with dims in front of those that it knows of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

from tessera.ir.dim import Dim, build_atom
from tessera.ir.graph import Attr, Operation
from tessera.ir.record import Kind

T = TypeVar("T")
_ATOMS = {"//": "floordiv", "%": "remainder", "min": "minimum", "max": "maximum"}


def led(
    op: Operation, attrs: Mapping[str, Attr], owned: Sequence[Sequence[str]], sizes: tuple[Dim, ...]
) -> Mapping[str, Attr] | None:
    """The attributes with which an operation does the same where dims of these sizes stand in front; ``owned`` has for
    each operand those that it varies along. None where it does not do it at once.
    """
    record, count = op.record, len(sizes)
    if record.kind is Kind.INDEX and any(owned[1:]):
        return None
    if record.kind is Kind.CONTRACT:
        return None if "equation" in attrs else attrs
    if record.lead is not None:
        return record.lead(tuple(x.type for x in op.operands), attrs, sizes)
    axes = {p.name for p in record.params if p.kind in ("dim", "dims")}
    return {name: _moved(x, count) if name in axes else x for name, x in attrs.items()}


def _moved(x: Attr, count: int) -> Attr:
    """Axes counted from further left."""
    if isinstance(x, tuple):
        return tuple(_moved(one, count) for one in x)
    return x + count if isinstance(x, int) else x


def evaluated(d: Dim, dynamic: frozenset[str], leaf: Callable[[Dim], T], apply: Callable[[str, T, T], T]) -> T | None:
    """A size expression computed by operations where its names are ``dynamic``: ``leaf`` gives what a name, or an
    expression without such, is; ``apply`` is a record on two. None for quotients that are exact.
    """
    if d.is_name or not d.names() & dynamic:
        return leaf(d)
    total: T | None = None
    for monomial, c in d.terms:
        if Fraction(c).denominator != 1 or any(power < 0 for _, power in monomial):
            return None
        fixed, term = Dim.const(int(c)), None
        for base, power in monomial:
            atom = d.atoms.get(base)
            whole = Dim.name(base) if atom is None else build_atom(atom.kind, atom.args)
            if not whole.names() & dynamic:
                fixed = fixed * whole**power
                continue
            found = leaf(whole) if atom is None else _atom(atom.kind, atom.args, dynamic, leaf, apply)
            if found is None:
                return None
            for _ in range(power):
                term = found if term is None else apply("mul", term, found)
        if term is None:
            term = leaf(fixed)
        elif fixed is not Dim.const(1):
            term = apply("mul", term, leaf(fixed))
        total = term if total is None else apply("add", total, term)
    return total


def _atom(
    kind: str, args: Sequence[Dim], dynamic: frozenset[str], leaf: Callable[[Dim], T], apply: Callable[[str, T, T], T]
) -> T | None:
    if kind == "ceildiv":
        return _atom("//", (args[0] + args[1] - 1, args[1]), dynamic, leaf, apply)
    found = [evaluated(Dim.of(a), dynamic, leaf, apply) for a in args]
    total = found[0]
    for one in found[1:]:
        if kind not in _ATOMS or total is None or one is None:
            return None
        total = apply(_ATOMS[kind], total, one)
    return total
