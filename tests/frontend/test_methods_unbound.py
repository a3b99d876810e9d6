"""Methods checked on their class, and annotations given as text that name locals: what is known without an object."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor, int64
from tessera.frontend.names import read_for_update


class Heads:
    count = 2

    def split(self, x: Any, n: int) -> Any:
        return x.unflatten(-1, (n, -1)).transpose(1, 2)

    def later(self, x: Any) -> Any:
        raise NotImplementedError

    @tessera.function
    def good(self, x: Tensor["B", "S", 8]) -> Tensor["B", 2, "S", 4]:
        return self.split(x, 2)

    @tessera.function
    def bad(self, x: Tensor["B", "S", 8], y: Tensor["B", "T", 4]) -> Any:
        return self.split(x, 2) + self.split(y, 2)

    @tessera.function
    def left_open(self, x: Tensor["B", "S", 8]) -> Tensor["B", "S", 8]:
        return self.later(x) * self.count


def test_the_methods_of_a_class_are_followed_without_an_object() -> None:
    assert Heads.good.check().verdict == "proved"
    (found,) = Heads.bad.check().diagnostics
    assert found.code == "TSR0202" and found.primary is not None
    assert found.primary.span.text() == "self.split(x, 2)"


def test_what_a_class_leaves_to_others_is_unknown() -> None:
    assert Heads.left_open.check().verdict == "deferred"


def test_annotations_given_as_text_name_locals() -> None:
    ids, Row = int64, Tensor["B", "D"]

    @tessera.function
    def f(x: Row, n: Tensor["D", ids]) -> Row:
        return x + n

    assert f.check().verdict == "proved"
    assert [str(a.dtype) for a in f.spec.params[1].hint.tensors()] == ["int64"]
    with pytest.raises(tessera.TesseraError, match="TSR0104"):

        @tessera.function
        def g(x: Rwo) -> Row:  # type: ignore[name-defined]
            return x


def test_locals_that_are_gone_leave_an_annotation_to_the_call() -> None:
    def made() -> Any:
        ids, Row = int64, Tensor["B", "D"]

        def f(x: Row, n: Tensor["D", ids]) -> Row:
            return x + n

        return f

    f = tessera.function(made())
    assert f.check().verdict == "deferred"
    assert f(torch.zeros(2, 3), torch.ones(3, dtype=torch.int64)).sum() == 6


def test_an_update_is_told_from_a_read() -> None:
    def update(y: Any, m: Any) -> None:
        y[m] += 1

    def read(y: Any, m: Any) -> Any:
        return y[m] + y[m]

    assert read_for_update(update.__code__) and not read_for_update(read.__code__)
