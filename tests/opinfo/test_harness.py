"""Does the comparison with torch see what it is for? Each operation here is wrong in one way when it is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("expecttest")

from torch.testing._internal.opinfo.core import ErrorInput, SampleInput

from tests.opinfo.harness import Entry, Outcome, entries, run_errors, run_sample
from tests.opinfo.table import Row, unexplained, unmet


@dataclass(frozen=True)
class _Fault(Entry):
    """An entry that calls one function eagerly and another one traced."""

    traced: Callable[..., Any] = torch.exp
    eager: Callable[..., Any] = torch.exp

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self.eager if type(args[0]) is torch.Tensor else self.traced)(*args, **kwargs)


def fault(traced: Callable[..., Any], eager: Callable[..., Any] = torch.exp) -> Outcome:
    like = next(e for e in entries() if e.name == "exp")
    found = run_sample(_Fault(like.info, like.record, traced, eager), torch.float32, 0, SampleInput(torch.rand(400)))
    assert found is not None
    return found


def test_a_right_result_is_ok_and_came_from_a_compiled_kernel() -> None:
    found = fault(torch.exp)
    assert (found.kind, found.kernels) == ("ok", 1)


def test_an_error_of_a_few_roundings_is_seen() -> None:
    found = fault(lambda x: torch.exp(x) * 1.000001)
    assert found.kind == "value" and 5e-7 < found.error < 2e-6


def test_a_nan_in_another_place_is_seen() -> None:
    found = fault(lambda x: torch.where(x > 0.5, torch.exp(x), torch.nan))
    assert found.kind == "value" and found.error == float("inf")


@pytest.mark.parametrize(
    "wrong",
    [lambda x: torch.exp(x).double(), lambda x: torch.exp(x)[:, None], lambda x: (torch.exp(x), x)],
    ids=["dtype", "shape", "count"],
)
def test_a_result_of_another_type_is_seen(wrong: Callable[..., Any]) -> None:
    assert fault(wrong).kind == "type"


def test_a_refusal_has_the_number_of_its_error() -> None:
    found = fault(lambda x: x.squeeze(3), lambda x: x)
    assert (found.kind, found.code) == ("refused", "TSR0203")


def test_random_results_are_compared_by_type_alone() -> None:
    assert fault(lambda x: torch.rand_like(x), lambda x: torch.rand_like(x)).kind == "ok"
    assert fault(lambda x: torch.rand_like(x).double(), lambda x: torch.rand_like(x)).kind == "type"


def test_a_call_that_should_have_been_refused_is_seen() -> None:
    def inputs(info: object, device: str) -> Iterator[ErrorInput]:
        yield ErrorInput(SampleInput(torch.ones(2), args=(torch.ones(3),)), error_regex="sizes differ")

    like = next(e for e in entries() if e.name == "add")
    info = SimpleNamespace(
        formatted_name="add", error_inputs_func=inputs, error_inputs=lambda device: inputs(None, device)
    )
    (found,) = run_errors(_Fault(info, like.record, lambda x, y: x + 1, torch.add))  # type: ignore[arg-type]
    assert found.kind == "silent"


def test_a_row_explains_only_what_it_says() -> None:
    row = Row(("add",), ("float32",), "refused", "a reason", code="TSR0105", samples=(3,))
    found = Outcome("add", "float32", 3, "refused", code="TSR0105")
    assert not unexplained([found], [row])
    for other in ("add", "float32", 4, "refused"), ("mul", "float32", 3, "refused"), ("add", "bfloat16", 3, "refused"):
        assert unexplained([Outcome(*other, code="TSR0105")], [row])
    assert unexplained([Outcome("add", "float32", 3, "refused", code="TSR0106")], [row])
    assert not list(unmet("add", "float32", [found], [row]))
    assert list(unmet("add", "float32", [Outcome("add", "float32", 3, "ok")], [row]))


def test_a_bound_explains_what_is_within_it() -> None:
    row = Row(("add",), ("float32",), "value", "a reason", within=1e-6)
    near, far = (Outcome("add", "float32", 0, "value", error=e) for e in (9e-7, 2e-6))
    assert unexplained([near, far], [row]) == [far]
