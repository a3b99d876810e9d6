"""Ranges of sizes: for which sizes something applies."""

from __future__ import annotations

from collections.abc import Mapping

from tessera.ir.dim import Dim
from tessera.ir.graph import Attr


def applies(when: Attr, sizes: Mapping[str, int]) -> bool:
    """Do the sizes lie in the range ``(size, lowest, first above)``, either bound of which may be None?

    >>> M, two = Dim.name("M"), Dim.const(2)
    >>> applies((M, two, None), {"M": 5}), applies((M, None, two), {"M": 5}), applies(None, {})
    (True, False, True)
    """
    if not isinstance(when, tuple):
        return True
    size, low, high = when
    assert isinstance(size, Dim)
    n = size.evaluate(sizes)
    above = not isinstance(low, Dim) or n >= low.evaluate(sizes)
    return above and (not isinstance(high, Dim) or n < high.evaluate(sizes))
