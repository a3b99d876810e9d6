"""Dimension expressions from text: what is read, what is refused and where, limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.diag import ShapeError
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min
from tessera.ir.dim_parse import parse_dim

D, S, T = Dim.of("D"), Dim.of("S"), Dim.of("T")


@pytest.mark.parametrize(
    ("text", "dim"),
    [
        ("D", D),
        ("768", Dim.of(768)),
        (" D  + 1 ", D + 1),
        ("D - S - T", (D - S) - T),
        ("D/2*S", (D / 2) * S),
        ("D // 2 % 3", (D // 2) % 3),
        ("-D // 2", (-D) // 2),
        ("-2**2", Dim.of(-4)),
        ("2**3**2", Dim.of(512)),
        ("+D", D),
        ("--D", D),
        ("D*-1", -D),
        ("((D))", D),
        ("ceildiv(D, 2)", ceildiv(D, 2)),
        ("floordiv(D, 2) + mod(D, 2)", D // 2 + D % 2),
        ("min(D, S, 4)", dim_min(D, S, 4)),
        ("max(D)", dim_max(D)),
        ("min + max", Dim.of("min") + Dim.of("max")),
        ("9223372036854775807", Dim.of(2**63 - 1)),
    ],
)
def test_read(text: str, dim: Dim) -> None:
    assert parse_dim(text) is dim


@pytest.mark.parametrize("name", ["int", "restrict", "class", "self", "inf", "i", "_", "lambda", "None"])
def test_words_of_other_languages_are_names(name: str) -> None:
    assert parse_dim(name) is Dim.name(name)
    assert parse_dim(f"{name} + 1") is Dim.name(name) + 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "too early"),
        ("  ", "too early"),
        ("S+", "too early"),
        ("f(x", "too early"),
        ("S)", "')' at column 2"),
        ("S T", "'T' at column 3"),
        ("D // // 2", "'/' at column 6"),
        ("1.5", "'.' at column 2"),
        ("1e9", "'e' at column 2"),
        ("()", "')' at column 2"),
        ("D == 2", "'=' at column 3"),
        ("D,S", "',' at column 2"),
        ("__import__('os').system('x')", '"\'" at column 12'),
        ('a;system("id")', "';' at column 2"),
        ("N*/}", "'}' at column 4"),
        ("N\n#include", "'\\n' at column 2"),
        ("D\n", "'\\n' at column 2"),
        ("%s", "'%' at column 1"),
        ("{0}", "'{' at column 1"),
        ("N\0", "'\\x00' at column 2"),
        ("ﬁ", "'\\ufb01' at column 1"),
        ("\u0430", "'\\u0430' at column 1"),
        ("a\u202eb", "'\\u202e' at column 2"),
        ("\x1b[31mS", "'\\x1b' at column 1"),
        ("\u0661", "'\\u0661' at column 1"),
        ("eval(1)", "`eval` at column 1 is not a function"),
        ("1 + len(S)", "`len` at column 5 is not a function"),
        ("ceildiv(1)", "`ceildiv` at column 1 takes 2 arguments, not 1"),
        ("min()", "at least 1 arguments, not 0"),
        ("9223372036854775808", "too large"),
        ("9" * 900, "too large"),
        ("D**S", "not an exponent"),
        ("D**-1", "not an exponent"),
        ("x" * 65, "not a dimension name"),
        ("1 + " + "x" * 65, "not a dimension name"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(ShapeError) as error:
        parse_dim(text)
    assert error.value.code == "TSR0101"
    assert says in error.value.message
    assert error.value.message.isascii() and error.value.message.isprintable()


@pytest.mark.parametrize("text", ["1/2", "D/0", "D//0", "D%(1-1)"])
def test_without_any_value(text: str) -> None:
    with pytest.raises(ShapeError) as error:
        parse_dim(text)
    assert error.value.code == "TSR0106"


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1001,
        "x" * 10**7,
        "(" * 65 + "x" + ")" * 65,
        "(" * 100_000,
        "((x**64)**64)**64",
        "2**64**64",
        "(a+b+c+d+e+f+g+h+i+j)**20",
    ],
)
def test_limits(text: str) -> None:
    with pytest.raises(ShapeError) as error:
        parse_dim(text)
    assert error.value.code == "TSR0102"
    assert len(error.value.message) < 300


def test_long_chains_are_fine() -> None:
    assert parse_dim("-" * 999 + "x") is -Dim.of("x")
    assert parse_dim("+".join(["S"] * 500)) is 500 * S
    assert parse_dim("(" * 64 + "S" + ")" * 64) is S
    assert parse_dim("*".join(["9223372036854775807"] * 40)).value == (2**63 - 1) ** 40


@given(st.text(alphabet="SD09+-*/%(),. _ceildvmn;'\n\u202e", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        dim = parse_dim(text)
    except ShapeError as error:
        assert error.code in ("TSR0101", "TSR0102", "TSR0106")
    else:
        assert parse_dim(str(dim)) is dim
