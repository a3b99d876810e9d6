"""Unification: names bound, expressions inverted, everything that does not fit collected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.ir.dim import Dim
from tessera.ir.dim_parse import parse_dim, parse_dims
from tessera.ir.facts import Facts
from tessera.ir.unify import Binding, DimPattern, Unified, align, unify


def matched(
    spec: dict[str, str], actual: list[int | str], given: dict[str, int] | None = None, facts: Facts | None = None
) -> Unified:
    patterns = [DimPattern(label, axis, p) for label, text in spec.items() for axis, p in enumerate(parse_dims(text))]
    bound = [Binding(n, Dim.of(x), f"argument `{n}`") for n, x in (given or {}).items()]
    dims = [parse_dim(a) if isinstance(a, str) else a for a in actual]
    return unify(patterns, dims, bound, facts or Facts())


@pytest.mark.parametrize(
    ("spec", "actual", "sizes"),
    [
        ({"x": "B, S, D", "w": "D"}, [2, 3, 8, 8], {"B": 2, "S": 3, "D": 8}),
        ({"x": "B, S, 1, D/2", "q": "B, S, H, D"}, [2, 3, 1, 4, 2, 3, 5, 8], {"B": 2, "S": 3, "D": 8, "H": 5}),
        ({"x": "D/2"}, [64], {"D": 128}),
        ({"x": "V + 1"}, [10], {"V": 9}),
        ({"x": "2*(V - 1)"}, [10], {"V": 6}),
        ({"x": "B*S", "y": "S"}, [12, 3], {"S": 3, "B": 4}),
        ({"x": "B*S", "y": "S*T", "z": "T"}, [12, 6, 2], {"T": 2, "S": 3, "B": 4}),
        ({"x": "B*S + B", "y": "S"}, [8, 3], {"S": 3, "B": 2}),
        ({"x": "S**2"}, [64], {"S": 8}),
        ({"x": "3*S**2 + 1"}, [13], {"S": 2}),
        ({"x": "D // 2", "y": "D"}, [3, 7], {"D": 7}),
        ({"x": "5, 1"}, [5, 1], {}),
        ({"x": "B", "y": "B"}, [0, 0], {"B": 0}),
    ],
)
def test_solved_for_numbers(spec: dict[str, str], actual: list[int | str], sizes: dict[str, int]) -> None:
    found = matched(spec, actual)
    assert {n: d.value for n, d in found.sizes.items()} == sizes
    assert not found.conflicts and not found.needs and not found.unsolved


def test_history_says_where_each_size_came_from() -> None:
    found = matched({"x": "B, S", "y": "B*D"}, [2, 3, 8], given={"K": 5})
    assert [str(b) for b in found.bindings.values()] == [
        "`K` = 5, bound by argument `K`",
        "`B` = 2, bound by `x` axis 0",
        "`S` = 3, bound by `x` axis 1",
        "`D` = 4, bound by `y` axis 0",
    ]


def test_all_conflicts_are_collected_in_order() -> None:
    found = matched({"x": "B, S, D", "y": "S, D/2", "z": "1, K + 9"}, [2, 3, 7, 4, 4, 2, 4])
    assert [str(c) for c in found.conflicts] == [
        "`y` axis 0 is 4: expected `S` = 3 (`S` = 3, bound by `x` axis 1)",
        "`y` axis 1 is 4: `D/2` has no value with D=7: 7/2 is not a whole number",
        "`z` axis 0 is 2: expected 1",
        "`z` axis 1 is 4: `K + 9` would need `K` = -5, which is negative",
    ]
    first = found.conflicts[0]
    assert (first.label, first.axis, first.pattern, first.expected, first.actual) == (
        "y",
        0,
        Dim.of("S"),
        Dim.of(3),
        Dim.of(4),
    )
    assert first.binding == Binding("S", Dim.of(3), "`x` axis 1")


@pytest.mark.parametrize(
    ("spec", "actual", "reason"),
    [
        ({"x": "B*S", "y": "S"}, [13, 3], "no size of `B` makes `B*S` equal to 13"),
        ({"x": "S**2"}, [65], "no size of `S` makes `S**2` equal to 65"),
        ({"x": "2*S + 1"}, [4], "no size of `S` makes `2*S + 1` equal to 4"),
        ({"x": "2 - B", "y": "B"}, [3, 5], "`2 - B` = -3 (`B` = 5, bound by `y` axis 0) is negative"),
    ],
)
def test_remainders_and_negative_sizes(spec: dict[str, str], actual: list[int | str], reason: str) -> None:
    (conflict,) = matched(spec, actual).conflicts
    assert conflict.reason == reason


def test_a_failed_name_does_not_fail_everything_that_has_it() -> None:
    found = matched({"x": "2*S", "y": "S + 1", "z": "S*T"}, [5, 9, 12])
    assert len(found.conflicts) == 1 and not found.unsolved


@pytest.mark.parametrize(("pattern", "size"), [("B*S", 64), ("D // 2", 3), ("min(D, 4)", 4)])
def test_what_stays_open_is_listed(pattern: str, size: int) -> None:
    found = matched({"x": pattern}, [size])
    assert [p.pattern for p in found.unsolved] == [parse_dim(pattern)]
    assert not found.conflicts


def test_a_factor_of_0_leaves_the_other_open() -> None:
    found = matched({"x": "B*S, S"}, [0, 0])
    assert list(found.sizes) == ["S"] and len(found.unsolved) == 1 and not found.conflicts


def test_forms_of_the_caller() -> None:
    found = matched({"x": "B*S", "y": "S"}, ["N", "T"])
    assert found.sizes == {"S": Dim.of("T"), "B": parse_dim("N/T")}
    assert [(n.kind, str(n.left), str(n.right), n.label, n.axis) for n in found.needs] == [
        ("divides", "T", "N", "x", 0)
    ]
    found = matched({"x": "D, D"}, ["H*K", "M"])
    assert [(n.kind, str(n.left), str(n.right)) for n in found.needs] == [("eq", "H*K", "M")]
    assert matched({"x": "D, D"}, ["H", "M"]).conflicts[0].reason == "expected `D` = H (`D` = H, bound by `x` axis 0)"
    assert matched({"x": "D/2"}, ["S"]).sizes == {"D": parse_dim("2*S")}


def test_facts_of_the_caller_decide_needs() -> None:
    facts = Facts().with_divides(Dim.of("K"), Dim.of(2))
    spec = {"x": "D", "y": "D/2"}
    assert [n.kind for n in matched(spec, ["K", "K/2"]).needs] == ["divides"]
    assert not matched(spec, ["K", "K/2"], facts=facts).needs


def test_names_of_caller_and_callee_are_kept_apart() -> None:
    assert matched({"x": "B, S"}, ["S", "B"]).sizes == {"B": Dim.of("S"), "S": Dim.of("B")}
    found = matched({"x": "B + S", "y": "B"}, ["S", "B"])
    assert found.sizes == {"B": Dim.of("B"), "S": parse_dim("S - B")}
    assert matched({"x": "_u + B", "y": "B"}, ["_u", "_u"]).sizes["_u"] is Dim.of(0)


def test_the_ellipsis_takes_leading_axes() -> None:
    s, d = Dim.of("S"), Dim.of("D")
    assert align([..., d], 3) == (2, (d,))
    assert align([..., d], 1) == (0, (d,))
    assert align([..., s, d], 1) is None
    assert align([s, d], 2) == (0, (s, d))
    assert align([s, d], 3) is None
    assert align([...], 0) == (0, ())
    with pytest.raises(ValueError, match="leading"):
        align([d, ...], 3)


def test_patterns_and_dims_are_paired() -> None:
    with pytest.raises(ValueError, match="1 patterns for 2 dims"):
        unify([DimPattern("x", 0, Dim.of("S"))], [1, 2])


FORMS = ["B", "S", "D", "B*S", "B*S*D", "D/2", "S + 1", "2*D - S", "ceildiv(S, 2)", "B*S + B", "S**2", "min(S, D)", "3"]


@given(st.lists(st.sampled_from(FORMS), min_size=1, max_size=6), st.tuples(*[st.integers(1, 9)] * 3))
def test_sizes_that_made_the_dims_always_fit(forms: list[str], sizes: tuple[int, int, int]) -> None:
    truth = dict(zip("BSD", (sizes[0], sizes[1], 2 * sizes[2] + 2 * sizes[1]), strict=True))
    patterns = [DimPattern("x", i, parse_dim(f)) for i, f in enumerate(forms)]
    found = unify(patterns, [p.pattern.evaluate(truth) for p in patterns])
    assert not found.conflicts
    assert all(truth[n] == d.value for n, d in found.sizes.items())
    assert all(not p.pattern.names() <= found.bindings.keys() for p in found.unsolved)
