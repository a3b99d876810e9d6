"""What code reads from outside, as its instructions say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tessera.frontend import reads
from tessera.frontend.reads import Read, reads_of

LIMIT = 3


def make(step: int) -> Callable[..., Any]:
    def inner(x: Any) -> Any:
        own = [x.first for _ in range(LIMIT)]
        x.last = own
        return math.pi + step

    return inner


EXPECTED = {
    Read("global", "range"), Read("global", "LIMIT"), Read("global", "math", (("attr", "pi"),)), Read("free", "step"),
}  # fmt: skip


def test_variables_and_what_follows_them() -> None:
    assert set(reads_of(make(1).__code__).reads) == EXPECTED
    assert reads_of(make(1).__code__).written == {("attr", "last")}


@pytest.mark.parametrize("known", ["LOAD_GLOBAL", "LOAD_DEREF"])
def test_instructions_that_are_not_known_read_what_they_name(known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a later Python: nothing goes unseen, though perhaps more is compared than needs be."""
    monkeypatch.delitem(reads._LOADS, known)
    code = make(1).__code__.replace(co_name="anew")
    found = reads_of(code)
    assert {(r.kind, r.name) for r in found.reads} == {(r.kind, r.name) for r in EXPECTED}
    assert found.written == {("attr", "last")}


def test_imports_and_their_levels() -> None:
    def f() -> Any:
        import os.path
        from math import tau

        from .near import far  # noqa: TID252

        return os, tau, far

    assert [r.name for r in reads_of(f.__code__).reads] == ["os.path", "math", ".near"]
    assert {r.kind for r in reads_of(f.__code__).reads} == {"module"}
