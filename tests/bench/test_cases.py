"""The table of cases: every form of a function computes the same, and the lower bounds are right."""

from __future__ import annotations

import importlib.util
import inspect

import pytest
import torch

from benchmarks import facts, gpu, jax_functions, peers
from benchmarks.cases import CASES
from benchmarks.gpu_cases import GPU_CASES, scaled
from examples import quickstart

HAS_JAX = importlib.util.find_spec("jax") is not None


@pytest.mark.parametrize("name", CASES)
def test_the_lower_bound_is_the_size_of_arguments_and_results(name: str) -> None:
    case = CASES[name]
    arguments = case.make(quick=True)
    results = facts.tensors(case.torch(*arguments))
    given = [a for a in arguments if isinstance(a, torch.Tensor)]
    assert case.least_bytes(quick=True) == sum(t.nbytes for t in (*given, *results))


@pytest.mark.parametrize("name", CASES)
def test_arguments_are_the_same_every_time(name: str) -> None:
    before = torch.random.get_rng_state()
    first, second = CASES[name].make(quick=True), CASES[name].make(quick=True)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", CASES)
def test_every_result_is_as_close_to_float64_as_eager(name: str) -> None:
    for row in facts.errors(CASES[name], quick=True):
        assert row["tessera"] <= 3e-7
        assert row["torch"] <= 3e-7


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_one_kernel_at_the_lower_bound(name: str) -> None:
    row = facts.kernels(CASES[name], quick=True)
    assert row["kernels"] == 1
    assert row["factor"] <= 1.05


@pytest.mark.skipif(not HAS_JAX, reason="JAX is not installed")
@pytest.mark.parametrize("name", CASES)
def test_the_jax_form_computes_the_same(name: str) -> None:
    case = CASES[name]
    arguments = case.make(quick=True)
    ours = facts.tensors(case.torch(*arguments))
    theirs = case.jax(*map(peers.to_jax, arguments))
    for a, b in zip(ours, theirs if isinstance(theirs, tuple) else (theirs,), strict=True):
        torch.testing.assert_close(torch.tensor(b.__array__()), a, rtol=1e-5, atol=1e-6)


def test_the_constants_of_adamw_agree() -> None:
    for name in ("BETA1", "BETA2", "EPS", "DECAY"):
        assert getattr(jax_functions, name) == getattr(quickstart, name)


@pytest.mark.parametrize("name", CASES)
def test_the_measured_functions_are_those_of_the_example(name: str) -> None:
    assert CASES[name].function is getattr(quickstart, name)
    assert inspect.getdoc(CASES[name].function)


def test_many_shapes_make_few_compiled_forms() -> None:
    counted = facts.count_variants()
    assert counted["pairs"] == 50
    assert counted["compiles"] == counted["variants"] <= 4


def test_the_check_for_gpus_works_on_the_cpu_too() -> None:
    case = GPU_CASES["softmax"]
    (row,) = gpu.check(case, case.make("cpu", scaled(case.dry, 2)))
    assert row["compiled"]
    assert row["ratio"] <= 1.05


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "no GPU" in capsys.readouterr().err
