"""Annotations as newcomers write them: each is refused at the item that is wrong, with what was most likely meant."""

from __future__ import annotations

import linecache
from typing import Any

import pytest

import tessera
from tessera import Tensor
from tessera.diag import TesseraError
from tessera.frontend.mistakes import advice, dtype_text
from tessera.ir.dim_parse import parse_dim
from tests.frontend.mistaken import with_text


def refused(item: Any) -> TesseraError:
    with pytest.raises(TesseraError) as caught:
        Tensor[item]
    return caught.value


@pytest.mark.parametrize(
    ("item", "code", "meant"),
    [
        ("B S", "TSR0101", '"B", "S"'),
        ("B, S", "TSR0101", '"B", "S"'),
        ("B S f32", "TSR0101", '"B", "S", tessera.f32'),
        ("B, min(S, 2)", "TSR0101", '"B", "min(S, 2)"'),
        ("*batch D", "TSR0101", '"*batch", "D"'),
        ("... D", "TSR0101", '"...", "D"'),
        ("...D", "TSR0101", '"...", "D"'),
        ("B,", "TSR0101", '"B"'),
        ("1D", "TSR0101", '"1*D"'),
        ("2 D", "TSR0101", '"2*D"'),
        ("B=4", "TSR0101", "4"),
        ("seq.len", "TSR0101", '"seq_len"'),
        ("long", "TSR0103", "tessera.int64"),
        ("int", "TSR0103", "int"),
        ("torch.float32", "TSR0103", "tessera.f32"),
    ],
)
def test_what_was_meant(item: str, code: str, meant: str) -> None:
    error = refused(item)
    assert error.code == code
    assert [h.replacement for h in error.diagnostics[0].helps] == [meant]


@pytest.mark.parametrize(
    ("item", "code", "text"),
    [
        ("D-", "TSR0101", "ends too early"),
        ("", "TSR0101", "ends too early"),
        ("#B", "TSR0101", "column 1"),
        ("-1", "TSR0104", "negative size -1"),
        ((("B", "S"), "D"), "TSR0104", 'dims stand side by side: Tensor["B", "S"]'),
        (["B", "S"], "TSR0104", 'dims stand side by side: Tensor["B", "S"]'),
        ((tessera.f32, "B"), "TSR0104", "one dtype, behind the dims"),
        (("B", 3.0), "TSR0104", "a dim is a name"),
    ],
)
def test_what_cannot_be_meant(item: Any, code: str, text: str) -> None:
    error = refused(item)
    assert error.code == code
    assert text in str(error)


def test_the_arrow_is_under_the_item() -> None:
    with pytest.raises(TesseraError) as caught:
        Tensor["B", "S D"]
    (span,) = caught.value.spans
    assert span.text() == '"S D"'
    assert 'Tensor["B", "S", "D"]' in str(caught.value)  # the repaired line


def test_the_arrow_is_under_the_item_of_an_annotation_given_as_text() -> None:
    with pytest.raises(TesseraError) as caught:
        tessera.function(with_text)
    (span,) = caught.value.spans
    assert (span.text(), linecache.getline(span.file, span.line)[:13]) == ('"D E"', "def with_text")


def test_an_annotation_is_no_tensor() -> None:
    with pytest.raises(TesseraError, match="has brackets"):
        Tensor([1.0, 2.0])


def test_dtypes_as_an_annotation_has_them() -> None:
    assert [dtype_text(x) for x in ("long", "torch.half", "bool", "float", "D")] == [
        "tessera.int64", "tessera.f16", "bool", "float", None,
    ]  # fmt: skip


def test_no_advice_where_nothing_can_be_read() -> None:
    assert advice("B )( S", parse_dim) == []
    assert advice("B " * 200, parse_dim) == []
