"""The solver against brute force: 20 000 random judgements over small sizes, none of them unsound."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.ir.dim import Dim
from tessera.ir.facts import Facts
from tessera.ir.solver import Verdict, judge_divides, judge_eq, judge_ge
from tessera.ir.solver_witness import equal_sizes
from tests.ir.dim_brute import Known, divides, expression, facts, no_facts, truth

Judge = Callable[[Dim, Dim, Facts], Verdict]
JUDGES: dict[str, tuple[Judge, Callable[[int, int], bool]]] = {
    "eq": (judge_eq, lambda a, b: a == b),
    "ge": (judge_ge, lambda a, b: a >= b),
    "divides": (judge_divides, divides),
}
TOP = {1: 16, 2: 5, 3: 3}
CHUNKS, CASES = 50, 400


def judged(seed: int, known_facts: bool) -> tuple[str, Verdict, str]:
    """One random judgement: (what was judged, the verdict, what brute force has against it)."""
    rng = random.Random(seed)
    names = "ABC"[: rng.choice([1, 1, 2, 2, 2, 3])]
    depth = rng.choice([1, 1, 2, 2, 3])
    a, b = expression(rng, names, depth), expression(rng, names, depth)
    known: Known = facts(rng, names) if known_facts else no_facts()
    kind = rng.choice(["eq", "eq", "ge", "divides"])
    judge, test = JUDGES[kind]
    verdict = judge(a.dim, b.dim, known.facts)
    if verdict is Verdict.GUARDED:
        return kind, verdict, ""
    told = truth(a.dim, b.dim, test, known, names, TOP[len(names)])
    wrong = told.always is False if verdict is Verdict.PROVED else not told.never
    shown = f"{kind} {verdict.value}: {a.dim} and {b.dim} with {known.text or 'no facts'}"
    return kind, verdict, shown if wrong else ""


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_verdict_is_unsound(chunk: int) -> None:
    wrong = [judged(chunk * CASES + case, known_facts=chunk % 2 == 1)[2] for case in range(CASES)]
    assert not any(wrong), "\n".join(w for w in wrong if w)


def test_all_three_verdicts_occur() -> None:
    """Random judgements are not all guarded: the solver decides most of them."""
    seen = Counter(judged(10**6 + case, known_facts=False)[:2] for case in range(600))
    for kind in JUDGES:
        assert all(seen[kind, verdict] for verdict in Verdict)
    assert sum(n for (_, v), n in seen.items() if v is not Verdict.GUARDED) > 300


@settings(max_examples=150)
@given(st.integers(0, 2**40), st.booleans())
def test_no_verdict_is_unsound_for_drawn_seeds(seed: int, known_facts: bool) -> None:
    assert not judged(seed, known_facts)[2]


@settings(max_examples=150)
@given(st.integers(0, 2**40))
def test_a_witness_is_one(seed: int) -> None:
    rng = random.Random(seed)
    a, b = expression(rng, "AB", 2), expression(rng, "AB", 2)
    found = equal_sizes(a.dim, b.dim, Facts())
    if found is not None:
        assert a.dim.evaluate(found) == b.dim.evaluate(found)
        assert min(found.values(), default=2) >= 2 and len(set(found.values())) == len(found)
        assert judge_eq(a.dim, b.dim) is not Verdict.REFUTED


LINEAR = st.tuples(st.integers(1, 6), st.integers(-6, 6), st.sampled_from([None, 2, 3, 4]))


@settings(max_examples=300)
@given(LINEAR, LINEAR)
def test_linear_forms_in_one_name_are_decided(
    left: tuple[int, int, int | None], right: tuple[int, int, int | None]
) -> None:
    """Forms ``(a·D + b) // c`` in one name are simple enough that "guarded" must have a witness."""
    forms = [(Dim.of("D") * a + b) // (c or 1) for a, b, c in (left, right)]
    if judge_eq(*forms) is Verdict.GUARDED:
        found = [
            n
            for n in range(2, 200)
            if forms[0].evaluate({"D": n}, signed=True) == forms[1].evaluate({"D": n}, signed=True)
        ]
        assert found and len(found) + 2 <= 200
