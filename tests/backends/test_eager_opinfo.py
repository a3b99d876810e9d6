"""Every record against torch's own samples of the operators that it stands for."""

from __future__ import annotations

import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tessera.backends.eager import run_function
from tessera.ir.dialects.calls import NotCovered
from tessera.ir.infer import Refused
from tessera.ir.record import Kind
from tests.backends.opinfo_cases import EXPLAINED, Sample, record_of, samples, traced

pytest.importorskip("expecttest")
pytestmark = pytest.mark.slow

#: Samples of each entry, spread evenly over what torch generates.
MOST = {torch.float32: 8, torch.bfloat16: 3, torch.int64: 3, torch.bool: 3}
_NEAR = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-5, torch.float64: 1e-12}
#: Mixing dtypes or whole-number parameters with integer tensors in ways that only torch's integer kernels know.
_FLOATS_ONLY = frozenset({
    "linspace", "logspace", "arange", "addmv", "addbmm", "baddbmm", "addmm", "addr", "local_response_norm",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "heaviside", "cosine_embedding_loss", "add",
    "conv_transpose1d", "sum_to_size",
})  # fmt: skip


def entries() -> list[Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    return [op for op in op_db if record_of(op) is not None and not op.name.startswith("masked.")]


def difference(sample: Sample) -> str:
    """What differs from torch, in a word; empty when nothing does."""
    try:
        f, inputs = traced(sample)
    except NotCovered:
        return ""
    except Refused as refused:
        return refused.code
    found = run_function(f, inputs)
    random = any(op.record.kind is Kind.RANDOM for op in f.ops)
    if len(found) != len(sample.results):
        return "count"
    for n, (x, y) in enumerate(zip(found, sample.results, strict=True)):
        want = y if isinstance(y, torch.Tensor) else torch.tensor(y)
        if x.dtype != want.dtype or x.shape != want.shape:
            return f"{x.dtype}{list(x.shape)} for {want.dtype}{list(want.shape)}"
        if not random and not (near(x, want) or as_exact(sample, n, x, want)):
            return "value"
    return ""


def near(x: torch.Tensor, want: torch.Tensor) -> bool:
    bound = _NEAR.get(want.dtype, 0.0)
    return torch.allclose(x.double(), want.double(), rtol=bound, atol=bound, equal_nan=True)


def as_exact(sample: Sample, n: int, x: torch.Tensor, want: torch.Tensor) -> bool:
    """Where the two disagree, float64 decides: ours may not be farther from it than torch's."""
    exact = sample.exact()[n]
    if not want.is_floating_point():
        return False
    ours, torchs = (float((v.double() - exact.double()).norm()) for v in (x, want))
    return ours <= 1.05 * torchs + torch.finfo(want.dtype).eps * float(exact.double().norm())


@dataclass
class Tally:
    """How many samples each entry gave, and which differed from torch, meant or not."""

    seen: Counter[str] = field(default_factory=Counter)
    meant: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)


def compare(dtype: torch.dtype) -> Tally:
    tally = Tally()
    for op in entries():
        if dtype not in op.supported_dtypes("cpu"):
            continue
        for sample in samples(op, dtype, MOST[dtype]):
            name = sample.record.name
            tally.seen[op.name] += 1
            if not dtype.is_floating_point and name in _FLOATS_ONLY:
                continue
            what = difference(sample)
            codes, _ = EXPLAINED.get(name, (frozenset(), ""))
            if what:
                (tally.meant if what in codes else tally.wrong)[f"{op.name} [{name}]: {what}"] += 1
    return tally


@pytest.mark.parametrize("dtype", list(MOST), ids=str)
def test_records_agree_with_torch_on_its_own_samples(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # torch keeps a stack trace at every seeding; a thread of its own keeps that stack short.
        with ThreadPoolExecutor(1) as pool:
            tally = pool.submit(compare, dtype).result()
    assert not tally.wrong, "\n".join(f"{n} x {text}" for text, n in tally.wrong.most_common())
    if dtype is torch.float32:
        assert len(tally.seen) >= 330 and sum(tally.seen.values()) >= 1500
        assert {"chunk [chunk]: TSR0208", "squeeze [squeeze]: TSR0207"} <= set(tally.meant)
