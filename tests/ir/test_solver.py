"""Verdicts: the table of what is proved, refuted and guarded, with and without facts."""

from __future__ import annotations

import threading

import pytest

from tessera.ir.dim import Dim
from tessera.ir.dim_parse import parse_dim
from tessera.ir.facts import Facts
from tessera.ir.solver import Verdict, judge_divides, judge_eq, judge_ge
from tessera.ir.solver_witness import equal_sizes

P, R, G = Verdict.PROVED, Verdict.REFUTED, Verdict.GUARDED
NONE = Facts()


def known(*texts: str) -> Facts:
    """Facts from text: ``D == H*K``, ``S >= T``, ``2 | D``."""
    facts = NONE
    for text in texts:
        if "|" in text:
            den, num = text.split("|")
            facts = facts.with_divides(parse_dim(num.strip()), parse_dim(den.strip()))
        elif "==" in text:
            a, b = text.split("==")
            facts = facts.with_eq(parse_dim(a.strip()), parse_dim(b.strip()))
        else:
            a, b = text.split(">=")
            facts = facts.with_ge(parse_dim(a.strip()), parse_dim(b.strip()))
    return facts


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ("D/2 + D/2", "D", P),
        ("ceildiv(D, 2)", "(D + 1)//2", P),
        ("2*(D//2) + D%2", "D", P),
        ("min(S, S + T)", "S", P),
        ("max(S, T) + min(S, T)", "S + T", P),
        ("(S - 1)//8", "(S + 7)//8 - 1", P),
        ("D//2//3", "D//6", P),
        ("(S*S - T*T)/(S - T)", "S + T", P),
        ("S", "T", R),
        ("S", "1", R),
        ("S", "0", R),
        ("D/2", "D", R),
        ("D/2", "H/2", R),
        ("S + 1", "S", R),
        ("2*S", "2*T + 1", R),
        ("S*T", "S", R),
        ("D*2", "D", R),
        ("B*S*D", "B*S", R),
        ("S*S", "T*T", R),
        ("S*T + 1", "S*U", R),
        ("S**2 + 1", "3*T", R),
        ("D//2", "D", R),
        ("(D + 1)//2", "D", R),
        ("ceildiv(D, 2)", "D//2 + 2", R),
        ("D%2", "3", R),
        ("min(S, T)", "S + 1", R),
        ("S**2", "50", R),
        ("D", "H*K", G),
        ("D", "768", G),
        ("D", "2*(D//2)", G),
        ("S*T", "U*V", G),
        ("S + T", "U", G),
        ("S - 5", "T", G),
        ("S**2", "2*T", G),
        ("S**2", "49", G),
        ("ceildiv(D, 2)", "D//2", G),
        ("D//4", "D//5", G),
        ("D/(H + K)", "3", G),
        ("max(S, T)", "S", G),
        ("4*(H//K)*K", "D", G),
    ],
)
def test_equalities(a: str, b: str, verdict: Verdict) -> None:
    left, right = parse_dim(a), parse_dim(b)
    assert judge_eq(left, right) is verdict
    assert judge_eq(right, left) is verdict
    found = equal_sizes(left, right, NONE)
    assert (found is not None) is (verdict is not R)
    if found is not None:
        assert left.evaluate(found) == right.evaluate(found)


@pytest.mark.parametrize(
    ("facts", "a", "b", "verdict"),
    [
        (["D == H*K"], "D/H", "K", P),
        (["D == H*K"], "B*D", "B*H*K", P),
        (["D == H*K"], "D", "H", R),
        (["S == T"], "S", "T", P),
        (["S == T"], "S + 1", "T", R),
        (["S == 7"], "D", "2*S", G),
        (["S == 7"], "2*S", "14", P),
        (["S*T == U*V"], "B*S*T", "B*U*V", P),
        (["2 | D"], "2*(D//2)", "D", P),
        (["2 | D"], "D%2", "0", P),
        (["2 | D"], "D", "2*S + 1", R),
        (["3 | D + 1"], "D%3", "2", P),
        (["2 | D", "3 | D"], "D%6", "0", P),
        (["H | D"], "D//H*H", "D", P),
        (["S >= T"], "min(S, T)", "T", P),
        (["S >= T"], "max(S - T, 0)", "S - T", P),
        (["S >= 3", "10 >= S"], "S", "11", R),
        (["S >= 3", "10 >= S"], "S", "10", G),
    ],
)
def test_equalities_under_facts(facts: list[str], a: str, b: str, verdict: Verdict) -> None:
    assert judge_eq(parse_dim(a), parse_dim(b), known(*facts)) is verdict


@pytest.mark.parametrize(
    ("facts", "a", "b", "verdict"),
    [
        ([], "S", "0", P),
        ([], "S + T", "S", P),
        ([], "S*S", "S", P),
        ([], "S", "S//2", P),
        ([], "4*ceildiv(S, 4)", "S", P),
        ([], "S", "S%4", P),
        ([], "3", "S%4", P),
        ([], "S", "min(S, T)", P),
        ([], "max(S, T)", "T", P),
        ([], "ceildiv(S, T)", "S//T", P),
        ([], "S//4096*4096 + 4095", "S", P),
        ([], "S", "1", G),
        ([], "S", "T", G),
        ([], "S - 1", "S", R),
        ([], "S - 1", "max(S, T)", R),
        ([], "1", "S", R),
        (["S >= T"], "S", "T", P),
        (["S >= T"], "B*S + 1", "B*T", P),
        (["S >= T"], "T", "S + 1", R),
        (["S >= 3"], "S*S", "9", P),
        (["S >= 3", "10 >= S"], "20", "2*S", P),
        (["S >= 3", "10 >= S"], "S", "11", R),
    ],
)
def test_inequalities(facts: list[str], a: str, b: str, verdict: Verdict) -> None:
    assert judge_ge(parse_dim(a), parse_dim(b), known(*facts)) is verdict


@pytest.mark.parametrize(
    ("facts", "den", "num", "verdict"),
    [
        ([], "4", "8*S", P),
        ([], "S", "B*S", P),
        ([], "S", "0", P),
        ([], "S + T", "S*S + S*T", P),
        ([], "4", "S", G),
        ([], "S", "T", G),
        ([], "S", "S + 5", G),
        ([], "4", "2*S*T", G),
        ([], "2", "2*S + 1", R),
        ([], "2*S", "2*T + 1", R),
        ([], "S", "S + 1", R),
        ([], "S*T", "S", R),
        ([], "S + T", "S", R),
        ([], "0", "S", R),
        (["2 | D"], "2", "D*S", P),
        (["4 | D"], "2", "D + 2", P),
        (["H | D"], "H", "D*S + H", P),
        (["H | D"], "2*H", "D", G),
        (["H*K | D*S"], "H", "D*S", P),
        (["D == H*K"], "K", "D", P),
    ],
)
def test_divisibility(facts: list[str], den: str, num: str, verdict: Verdict) -> None:
    assert judge_divides(parse_dim(den), parse_dim(num), known(*facts)) is verdict


def test_a_proof_holds_for_sizes_0_and_1_too() -> None:
    """True for every size from 2, but not for 1: this is a guard, not a proof."""
    assert judge_eq(parse_dim("min(S, 2)"), Dim.of(2)) is G
    assert judge_ge(Dim.of("S"), Dim.of(1)) is G
    assert judge_ge(parse_dim("S*T"), Dim.of("T")) is G


def test_an_equality_divides_by_no_name_that_may_be_0() -> None:
    """``A == A/B`` says ``B == 1`` only where ``A`` is not 0."""
    facts = known("A == A/B")
    assert facts.normalise(Dim.of("B")) is Dim.of("B")
    assert judge_ge(parse_dim("A + 2"), Dim.of("B"), facts) is not P


def test_facts_normalise() -> None:
    facts = known("D == H*K", "H == 8")
    assert facts.normalise(parse_dim("D + 1")) is parse_dim("8*K + 1")
    assert facts.with_eq(Dim.of("D"), Dim.of("D")) is facts
    assert NONE.empty and not facts.empty
    assert hash(known("2 | D")) == hash(known("2 | D"))


def test_large_forms_end_in_a_verdict() -> None:
    wide = Dim.of(0)
    for i in range(300):
        wide = wide + Dim.of(f"n{i}") * (i + 1)
    assert judge_eq(wide, wide + 1) is R
    assert judge_eq(wide, Dim.of("M")) is G
    deep = Dim.of("S")
    for i in range(40):
        deep = (deep + i) // 2 + Dim.of("T") if i % 2 else deep
    assert judge_eq(deep, Dim.of("S")) in (G, R)


def test_threads_agree() -> None:
    texts = [f"(S + {i})//4*T + ceildiv(D, {i + 1})" for i in range(40)]
    results: list[list[int]] = []

    def work() -> None:
        results.append([id(parse_dim(t)) + (judge_eq(parse_dim(t), Dim.of("X")) is G) * 0 for t in texts])

    kept = [parse_dim(t) for t in texts]
    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(r == [id(d) for d in kept] for r in results)
