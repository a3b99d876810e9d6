"""What every op record must be: total, callable on symbolic sizes, and of torch's shape, dtype and value."""

from __future__ import annotations

import inspect

import pytest
import torch

from tessera.backends.eager import from_torch_dtype, resolve, run_function
from tessera.ir.dialects import OPS, TENSOR_OPS, missing
from tessera.ir.dialects.samples import SIZES
from tessera.ir.graph import Function
from tessera.ir.record import Kind, OpRecord
from tests.ir.record_cases import CASES, Case, flat, inputs, torch_result, traced

#: Sizes that are neither the usual ones nor equal to each other where names differ.
OTHER_SIZES = {**SIZES, "B": 3, "S": 6, "T": 4, "H": 2, "K": 5, "M": 2, "N": 4}
_IDS = [c.id for c in CASES]


def test_every_record_is_total() -> None:
    assert missing() == []


def test_names_are_unique_and_keyed() -> None:
    assert all(name == record.name for name, record in OPS.items())


@pytest.mark.parametrize("record", TENSOR_OPS, ids=lambda r: r.name)
def test_signature_parses_and_matches_the_definition(record: OpRecord) -> None:
    assert len({p.name for p in record.params}) == len(record.params)
    if record.kind is not Kind.COMPOSITE:
        return
    assert record.define is not None
    given = list(inspect.signature(record.define).parameters.values())[1:]
    names = [p.name for p in given if p.kind is not p.VAR_KEYWORD]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in given)
    assert variadic or {p.name for p in record.params} <= {*names, "dtype"}, (record.signature, names)


@pytest.mark.parametrize("record", TENSOR_OPS, ids=lambda r: r.name)
def test_torch_names_exist(record: OpRecord) -> None:
    assert [name for name in record.torch if resolve(name) is None] == []


def test_primitives_without_torch_can_run() -> None:
    unable = [
        r.name for r in TENSOR_OPS
        if r.kind is not Kind.COMPOSITE and not (r.torch or r.eager or (r.kind is Kind.MAP and r.define))
    ]  # fmt: skip
    assert unable == []


@pytest.mark.parametrize("case", CASES, ids=_IDS)
def test_shape_dtype_and_value_are_torchs(case: Case) -> None:
    """One rule for symbolic and concrete sizes, and torch's answer for both."""
    f, given = traced(case), inputs(case)
    found = execute(f, given)
    for result, out, concrete in zip(found, f.outputs, traced(case, SIZES).outputs, strict=True):
        assert from_torch_dtype(result.dtype) is out.type.dtype is concrete.type.dtype
        sizes = [d.evaluate(SIZES) for d in out.type.dims]
        assert list(result.shape) == sizes == [d.value for d in concrete.type.dims]
    wanted = torch_result(case, given)
    if wanted is None:
        return
    expected = [w if isinstance(w, torch.Tensor) else torch.tensor(w) for w in flat(wanted)]
    assert [r.shape for r in found] == [w.shape for w in expected]
    assert [r.dtype for r in found] == [w.dtype for w in expected]
    if not random(f):
        for result, want in zip(found, expected, strict=True):
            assert_near(result, want)


def execute(f: Function, given: list[torch.Tensor]) -> list[torch.Tensor]:
    """Run through torch; a seed stands last where there is one."""
    return run_function(f, [*given, 1234][: len(f.params)], sizes=SIZES)


def random(f: Function) -> bool:
    return any(op.record.kind is Kind.RANDOM for op in f.ops)


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within a few roundings of the dtype: two ways to the same number."""
    near = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 2e-5}.get(wanted.dtype, 1e-9)
    torch.testing.assert_close(found.double(), wanted.double(), rtol=near, atol=near, equal_nan=True)


@pytest.mark.parametrize("case", [c for c in CASES if c.number == 0], ids=lambda c: c.id)
def test_one_symbolic_trace_serves_other_sizes(case: Case) -> None:
    """A trace on names is right for every size that its annotations allow."""
    f = traced(case)
    try:
        given = inputs(case, OTHER_SIZES)
        wanted = torch_result(case, given, OTHER_SIZES)
    except RuntimeError:
        pytest.skip("the sample's own numbers fit only the usual sizes")
    found = run_function(f, [*given, 1234][: len(f.params)], sizes=OTHER_SIZES)
    if wanted is None or random(f):
        return
    for result, want in zip(found, flat(wanted), strict=True):
        assert result.shape == want.shape
        assert_near(result, want)
