"""Dimensions: the normal form, what cancels and folds, text, substitution, evaluation, limits."""

from __future__ import annotations

import copy
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.diag import ShapeError
from tessera.ir.dim import Dim, build_atom, ceildiv, dim_max, dim_min, exact_div, floordiv, mod, product
from tessera.ir.dim_parse import parse_dim
from tests.ir.dim_brute import assignments, expression, run, value_of

B, D, H, K, S, T = (Dim.of(n) for n in "BDHKST")
ZERO, ONE = Dim.of(0), Dim.of(1)


def code_of(error: pytest.ExceptionInfo[ShapeError]) -> str:
    return error.value.code


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (S + T, T + S),
        (S * T, T * S),
        (S - S, ZERO),
        (S * 0, ZERO),
        (2 * S - S, S),
        ((S + T) ** 2, S**2 + 2 * S * T + T**2),
        (S**0, ONE),
        ((D / 2) * 2, D),
        ((D / H) * H, D),
        (D / 2 + D / 2, D),
        ((B * S) / B, S),
        (D / D, ONE),
        (6 * D / 4, 3 * D / 2),
        ((S**2 - T**2) / (S + T), S - T),
        ((D / (S + T)) * (S + T), D),
        ((S + T) * (D / (S + T)), D),
        ((D / (S + T)) * (B * S + B * T), B * D),
        ((S + 1) / 1, S + 1),
        (D * 4 // 4, D),
        (4 * D % 4, ZERO),
        ((4 * D + 3) // 4, D),
        ((4 * D + 3) % 4, Dim.of(3)),
        ((D * S + S) // S, D + 1),
        ((6 * D) // 4, (3 * D) // 2),
        (D // 2 // 3, D // 6),
        (D % 6 % 3, D % 3),
        (6 * D % 4, 2 * (3 * D % 2)),
        ((D / 2) // 3, D // 6),
        (-D // -2, D // 2),
        (ceildiv(D * 4, 4), D),
        (ceildiv(4 * D + 1, 4), D + 1),
        (ceildiv(ceildiv(D, 2), 3), ceildiv(D, 6)),
        (floordiv(7, 2), Dim.of(3)),
        (mod(-7, 2), ONE),
        (ceildiv(7, 2), Dim.of(4)),
        (exact_div(8, 2), Dim.of(4)),
        (dim_min(S, S), S),
        (dim_min(S, S + 1), S),
        (dim_max(S, S + 1, S - 1), S + 1),
        (dim_min(3, 5), Dim.of(3)),
        (dim_min(S, dim_min(T, S)), dim_min(T, S)),
        (dim_max(dim_max(S, 4), 6), dim_max(S, 6)),
        (product([]), ONE),
        (product([B, S, D]), B * S * D),
        (3 - S, -(S - 3)),
        (12 // D, floordiv(12, D)),
        (12 % D, mod(12, D)),
        (12 / D, exact_div(12, D)),
    ],
)
def test_equal_forms_are_one_object(got: Dim, want: Dim) -> None:
    assert got is want


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (B * S, "B*S"),
        (S * B, "B*S"),
        (D / 2, "D/2"),
        (S + 1, "S + 1"),
        (1 - S, "1 - S"),
        (-S, "-S"),
        (D // 2, "D // 2"),
        (D % 2, "D % 2"),
        (ceildiv(D, 2), "ceildiv(D, 2)"),
        (dim_min(B, H, D), "min(B, D, H)"),
        (S**2 * D, "D*S**2"),
        ((D + 1) / 2, "(D + 1)/2"),
        (D / 2 + H / 3, "D/2 + H/3"),
        (D / 2 + S, "D/2 + S"),
        (D / (2 * H), "D/(2*H)"),
        (B * D / H, "B*D/H"),
        ((D // 2) * S, "(D // 2)*S"),
        (-(D // 2), "-(D // 2)"),
        (S - D // 2, "S - D // 2"),
        ((D + 1) // 2, "(D + 1) // 2"),
        (D * S // 2, "(D*S) // 2"),
        (D / (S // 2), "D/(S // 2)"),
        (D / (S + T), "D/(S + T)"),
        (2 * (D / (S + T)), "2*(D/(S + T))"),
        (Dim.of(-3), "-3"),
        (ZERO, "0"),
    ],
)
def test_text(dim: Dim, text: str) -> None:
    assert str(dim) == text
    assert parse_dim(str(dim)) is dim
    assert repr(dim) == f"Dim({text})"


@settings(max_examples=400)
@given(st.integers(0, 2**40))
def test_a_random_form_means_what_was_written_and_reads_back(seed: int) -> None:
    rng = random.Random(seed)
    e = expression(rng, "ABC", 3)
    assert parse_dim(str(e.dim)) is e.dim
    value = value_of(e.dim)
    for sizes in assignments("ABC", 0, 3):
        wanted = run(e.value, sizes)
        if wanted is not None:
            assert run(value, sizes) == wanted, (e.text, str(e.dim), sizes)


@settings(max_examples=300)
@given(st.integers(0, 2**40))
def test_substitution_agrees_with_evaluation(seed: int) -> None:
    rng = random.Random(seed)
    e, inner = expression(rng, "AB", 3), expression(rng, "BC", 1)
    for sizes in assignments("ABC", 0, 2):
        if (inside := run(inner.value, sizes)) is None:
            continue
        direct = run(value_of(e.dim), {**sizes, "A": inside})
        if direct is None:
            continue
        replaced = e.dim.substitute({"A": inner.dim})
        assert run(value_of(replaced), sizes) == direct, (e.text, inner.text, sizes)
        assert e.dim.substitute({**sizes, "A": inside}) is Dim.of(direct)


def test_substitution_is_simultaneous_and_leaves_others() -> None:
    assert (2 * S + T).substitute({"S": T, "T": S}) is 2 * T + S
    assert (S + T).substitute({"D": 3}) is S + T
    assert ((D + 1) / 2).substitute({"D": 3}) is Dim.of(2)
    assert ceildiv(S, T).substitute({"T": 1}) is S
    assert (D / (S + T)).substitute({"D": S * K + T * K}) is K


def test_reading() -> None:
    form = D * S // 4 + ceildiv(K, 2) + 3
    assert form.names() == {"D", "S", "K"}
    assert (ZERO.is_const, ONE.value, S.is_const, S.is_name, (2 * S).is_name, (S // 2).is_name) == (
        True, 1, False, True, False, False,
    )  # fmt: skip
    with pytest.raises(ShapeError, match="not known") as error:
        _ = S.value
    assert code_of(error) == "TSR0106"
    assert sorted([S * T, ONE, S, T, S + 1], key=Dim.degree_key) == [ONE, S, T, S + 1, S * T]
    assert (D / 2 + S // 3).divisibility_obligations() == ((D, Dim.of(2)),)
    assert (D / 2 + 1).divisibility_obligations() == ((D, Dim.of(2)),)
    assert (D / (S + T)).divisibility_obligations() == ((D, S + T),)
    assert ((D / H) // 2 + 1).divisibility_obligations() == ()
    assert dim_min(D / 2, S).divisibility_obligations() == ((D, Dim.of(2)),)


def test_evaluation() -> None:
    sizes = {"B": 2, "D": 8, "S": 5, "H": 4}
    assert (B * S + D / H).evaluate(sizes) == 12
    assert (S // 2 + S % 2 + ceildiv(S, 2)).evaluate(sizes) == 6
    assert dim_max(S, D).evaluate(sizes) == 8
    assert S.evaluator()({"S": 3}) == 3
    assert (S - 9).evaluate(sizes, signed=True) == -4
    with pytest.raises(KeyError):
        (S + T).evaluator()(sizes)


@pytest.mark.parametrize(
    ("dim", "sizes", "code", "text"),
    [
        (D / 2, {"D": 7}, "TSR0106", "`D/2` has no value with D=7: 7/2 is not a whole number"),
        (D - 9, {"D": 7}, "TSR0106", "`D - 9` has no value with D=7: -2 is negative"),
        (D / H, {"D": 7, "H": 0}, "TSR0106", "`D/H` has no value with D=7, H=0: it divides by zero"),
        (D // H, {"D": 7, "H": 0}, "TSR0106", "`D // H` has no value with D=7, H=0: it divides by zero"),
        (D / (S + 1), {"D": 7, "S": 1}, "TSR0106", "`D/(S + 1)` has no value with D=7, S=1: 7/2 is not a whole number"),
        (D + S, {"D": 7}, "TSR0110", "no size is known for `S` in `D + S`"),
    ],
)
def test_evaluation_that_has_no_value(dim: Dim, sizes: dict[str, int], code: str, text: str) -> None:
    with pytest.raises(ShapeError) as error:
        dim.evaluate(sizes)
    assert (error.value.code, error.value.message) == (code, text)


def test_arithmetic_that_has_no_value() -> None:
    for make in (
        lambda: D / 0,
        lambda: D // 0,
        lambda: D % 0,
        lambda: ceildiv(D, 0),
        lambda: ONE / 2,
        lambda: 3 / Dim.of(2),
    ):
        with pytest.raises(ShapeError) as error:
            make()
        assert code_of(error) == "TSR0106"
    with pytest.raises(ShapeError, match="`D/2` has no value with D=7") as error:
        (D / 2).substitute({"D": 7})
    assert code_of(error) == "TSR0106"


def test_other_operands_are_left_to_python() -> None:
    for wrong in (1.5, "S", None):
        with pytest.raises(TypeError):
            _ = S + wrong  # type: ignore[operator]
        with pytest.raises(TypeError):
            _ = S // wrong  # type: ignore[operator]
    with pytest.raises(TypeError):
        Dim.of(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Dim()
    assert S != "S" and Dim.of(3) != 3


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "\ufb01", "\u0430", "a\n", "a\0", "a" * 65, "é"])
def test_names_are_ascii_identifiers(name: str) -> None:
    with pytest.raises(ShapeError) as error:
        Dim.of(name)
    assert code_of(error) == "TSR0101"
    assert error.value.message.isascii()


def test_limits() -> None:
    wide = Dim.of(0)
    for i in range(60):
        wide = wide + Dim.of(f"n{i}")
    deep, long = S, S
    too_much = [
        lambda: wide**3,
        lambda: (S + T) ** 300,
        lambda: Dim.of(2) ** 5000,
        lambda: S**-1,
    ]
    for make in too_much:
        with pytest.raises(ShapeError) as error:
            make()
        assert code_of(error) in ("TSR0102", "TSR0101")
    with pytest.raises(ShapeError) as error:
        for i in range(100):
            deep = dim_max(deep % 7, dim_min(deep, 3 + i))
    assert code_of(error) == "TSR0102"
    with pytest.raises(ShapeError) as error:
        for _ in range(400):
            long = long * (10**18)
    assert code_of(error) == "TSR0102"


def test_long_sums_are_fine() -> None:
    total = Dim.of(0)
    for i in range(400):
        total = total + Dim.of(f"n{i}") * i
    assert len(total.terms) == 399
    assert total.evaluate({f"n{i}": 1 for i in range(400)}) == sum(range(400))


def test_copies_are_the_same_object() -> None:
    assert copy.copy(S) is S and copy.deepcopy([S + 1])[0] is S + 1
    form = (S + 12345) // 7
    remake, (terms, atoms) = form.__reduce__()
    assert remake(terms, atoms) is form  # type: ignore[operator]
    assert build_atom("min", [S, T]) is dim_min(S, T)


def test_threads_make_the_same_objects() -> None:
    found: list[list[Dim]] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        found.append([(Dim.of(f"t{i}") + i) // 3 * Dim.of("S") for i in range(300)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(a is b for other in found for a, b in zip(found[0], other, strict=True))
