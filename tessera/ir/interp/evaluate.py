"""Dimension expressions over index arrays."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm
from typing import Any

import numpy as np

from tessera.diag import ShapeError
from tessera.ir.dim import Atom, Dim
from tessera.ir.interp.convert import Array


def over_grid(d: Dim, env: Mapping[str, Any]) -> Array:
    """The value of ``d`` at every point, int64; ``env`` gives sizes as ints and axes as index arrays that
    broadcast.

    Raises ShapeError (TSR0106) when a division leaves a remainder or divides by zero somewhere.

    >>> i = Dim.name("i")
    >>> over_grid(2 * i + i % 2, {"i": np.arange(4)}).tolist()
    [0, 3, 4, 7]
    """
    if d.is_const:
        return np.asarray(d.value, np.int64)
    scale = lcm(*(c.denominator for _, c in d.terms))
    below: dict[str, int] = {}
    for monomial, _ in d.terms:
        for factor, exponent in monomial:
            if exponent < 0:
                below[factor] = max(below.get(factor, 0), -exponent)
    values = {f: _factor(d, f, env) for m, _ in d.terms for f, _ in m}
    total: Array = np.asarray(0, np.int64)
    for monomial, c in d.terms:
        powers = dict(below)
        for factor, exponent in monomial:
            powers[factor] = powers.get(factor, 0) + exponent
        part: Array = np.asarray((c * scale).numerator, np.int64)
        for factor, exponent in powers.items():
            part = part * values[factor] ** exponent
        total = total + part
    if scale == 1 and not below:
        return np.asarray(total, np.int64)
    bottom: Array = np.asarray(scale, np.int64)
    for factor, exponent in below.items():
        bottom = bottom * values[factor] ** exponent
    return _exact(total, bottom, d)


def _factor(d: Dim, factor: str, env: Mapping[str, Any]) -> Array:
    atom = d.atoms.get(factor)
    return np.asarray(env[factor], np.int64) if atom is None else _atom(atom, factor, env)


def _atom(atom: Atom, text: str, env: Mapping[str, Any]) -> Array:
    args = [over_grid(a, env) for a in atom.args]
    if atom.kind in ("min", "max"):
        out = args[0]
        for a in args[1:]:
            out = np.minimum(out, a) if atom.kind == "min" else np.maximum(out, a)
        return out
    left, right = args
    if np.any(right == 0):
        raise ShapeError(f"`{text}` divides by zero", code="TSR0106")
    if atom.kind == "/":
        return _exact(left, right, text)
    if atom.kind == "ceildiv":
        return -((-left) // right)
    return left // right if atom.kind == "//" else left % right


def _exact(above: Array, below: Array, what: object) -> Array:
    if np.any(below == 0) or np.any(above % below):
        raise ShapeError(f"`{what}` is not a whole number everywhere", code="TSR0106")
    return above // below
