"""Every sample of every record: compiled C against the float64 interpreter and eager torch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tessera.diag import ShapeError, TesseraError
from tessera.ir.dialects.samples import SIZES
from tessera.ir.interp import interpret
from tessera.ir.record import OpRecord, Sample
from tessera.ir.types import TensorType
from tests.fuzz.build import Case, every_sample, function_of
from tests.ops import native
from tests.ops.cases import ASSIGNMENTS, KINDS, admits, altered, eager, tensors
from tests.ops.compare import difference

#: What a mask leaves out is not read: there an infinity or a NaN does not spread, as 0 times it does in the definition.
UNREAD = frozenset({"scaled_dot_product_attention"})

SAMPLES = every_sample()
#: Samples of one group share a few libraries.
GROUPS = 24
#: Larger tensors than this are left to the benchmarks.
MOST = 1 << 18
Problem = tuple[str, str]
#: Where torch rounds less often than a product of matrices followed by other work does: the product is a library call
#: that ends in memory. Their errors stay within a few roundings, but above eager's.
EXPLAINED: Mapping[str, str] = {
    "addbmm": "the sum of products is rounded before the first term is added",
    "matrix_power": "products in another order",
    "scaled_dot_product_attention": "scores add up in another order, and the exponential magnifies what they round",
}


def inputs(case: Case, sizes: Mapping[str, int], kind: str, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    arrays = case.inputs(sizes, seed)
    if not kind:
        return arrays
    # A domain of an operand's own says what the operation asks of it.
    given = [a if t.domain else altered(a, t.type, kind, rng) for a, t in zip(arrays, case.tensors, strict=False)]
    return [*given, *arrays[len(case.tensors) :]]


def runs(case: Case) -> Iterator[tuple[str, Mapping[str, int], list[Any]]]:
    """Names, sizes and inputs of the runs of one compiled sample."""
    seed = zlib.crc32(case.record.name.encode())
    floats = any(t.type.is_float and not t.type.is_fp8 for t in case.tensors)
    for label, sizes in ASSIGNMENTS.items():
        if admits(case.function, sizes) and largest(case, sizes) <= MOST:
            yield label, sizes, inputs(case, sizes, "", seed)
    for kind in KINDS if floats else ():
        for label in ("samples", "primes"):
            if admits(case.function, ASSIGNMENTS[label]):
                yield f"{label}, {kind}", ASSIGNMENTS[label], inputs(case, ASSIGNMENTS[label], kind, seed)


def largest(case: Case, sizes: Mapping[str, int]) -> int:
    """Elements of the largest value."""
    kinds = [v.type for op in case.function.ops for v in op.results]
    try:
        return max((t.numel.evaluate(sizes, signed=True) for t in kinds if isinstance(t, TensorType)), default=0)
    except ShapeError:  # a size that these sizes give no value, such as S - 1 of an empty S
        return MOST + 1


def judged(case: Case, sample: Sample, run: native.Compiled, sizes: Mapping[str, int], arrays: list[Any]) -> str | None:
    """Why the compiled function's results for these inputs are not acceptable, or None."""
    try:
        exact = [torch.from_numpy(np.array(x)) for x in interpret(case.function, arrays, sizes=sizes)]
    except Exception as refused:
        return None if not admissible(case, sizes) else f"the interpreter refuses: {refused}"
    given = tensors(case.function, arrays)
    theirs = eager(case, sample, given, sizes)
    try:
        got = run(given, sizes)
    except (IndexError, RuntimeError, TesseraError):
        if theirs is None:
            return None
        raise
    for n, (g, x, value) in enumerate(zip(got, exact, case.function.outputs, strict=True)):
        if g.dtype != native.torch_dtype(value.type.dtype):
            return f"result {n} is {g.dtype}"
        e = theirs[n] if theirs is not None and theirs[n].dtype == g.dtype and theirs[n].shape == g.shape else None
        found = difference(g, e, x)
        if found is not None:
            return f"result {n}: {found}"
    return None


def admissible(case: Case, sizes: Mapping[str, int]) -> bool:
    return sizes is SIZES


def problems(record: OpRecord, number: int, sample: Sample, case: Case, run: native.Compiled) -> Iterator[str]:
    for label, sizes, arrays in runs(case):
        try:
            found = judged(case, sample, run, sizes, arrays)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if found is None or ("relative error" in found and record.name in EXPLAINED):
            continue
        if not ("where float64 has nan" in found and record.name in UNREAD):
            yield f"{record.name} {number} ({label}): {found}"


@pytest.mark.parametrize("group", range(GROUPS))
def test_samples_compile_and_keep_eagers_accuracy(group: int) -> None:
    cases = [(r, n, s, function_of(r, s)) for _, n, r, s in SAMPLES[group::GROUPS]]
    made = [native.prepare(case.function) for *_, case in cases]
    native.compile_all(made)
    found = [p for (r, n, s, case), run in zip(cases, made, strict=True) for p in problems(r, n, s, case, run)]
    assert not found, f"{len(found)} problems\n" + "\n".join(found)
