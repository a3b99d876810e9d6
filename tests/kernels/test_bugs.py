"""Planted bugs: each is found, by its code, at its place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tessera import BoundsError, RaceError, TesseraError
from tests.kernels.bugs import RUN
from tests.kernels.refused import READ

_BUG = re.compile(r"# bug: (TSR\d{4}) (.+)$")


def _planted(fn: Callable[..., Any]) -> tuple[str, str, int]:
    """The code, the marked source and the line of the bug in a function."""
    lines, first = inspect.getsourcelines(fn)
    found = [(m[1], m[2], first + n) for n, line in enumerate(lines) if (m := _BUG.search(line))]
    assert len(found) == 1
    return found[0]


def _assert_found(error: TesseraError, fn: Callable[..., Any]) -> None:
    code, text, line = _planted(fn)
    assert error.codes == (code,), str(error)
    span = error.diagnostics[0].primary.span if error.diagnostics[0].primary else None
    assert span is not None, str(error)
    assert (span.line, (span.text() or "").split("\n")[0]) == (line, text), str(error)


@pytest.mark.parametrize("name", RUN)
def test_found_while_running(name: str) -> None:
    fn, args = RUN[name]
    kernel = tessera.kernel(fn)
    given = [x.clone() for x in args]
    with pytest.raises((BoundsError, RaceError)) as caught:
        kernel(*given)
    _assert_found(caught.value, fn)
    assert all(torch.equal(a, b) for a, b in zip(given, args, strict=True)), "nothing is written by a wrong kernel"


@pytest.mark.parametrize("name", READ)
def test_refused_at_definition(name: str) -> None:
    with pytest.raises(TesseraError) as caught:
        tessera.kernel(READ[name])
    _assert_found(caught.value, READ[name])


def test_there_are_enough_of_them() -> None:
    assert len(RUN) >= 30 and len(READ) >= 25
