"""Gradients of torch's own samples through compiled functions; what differs stands in `expected_gradients.toml`.

A normal run takes the sample in the middle of some entries, `-m nightly` all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("expecttest")

from tests.opinfo.gradients import differentiable, run_sample, samples
from tests.opinfo.harness import Entry, Outcome, entries
from tests.opinfo.table import PATH, rows
from tests.opinfo.test_opinfo import aside, judge, judge_whole, name_of

ROWS = rows(Path(PATH).with_name("expected_gradients.toml"))
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
#: One entry in so many runs in a normal run, others in each dtype.
SPARSE = {torch.float64: 24, torch.float32: 24, torch.bfloat16: 48}


def some(entry: Entry, dtype: torch.dtype, every: bool) -> list[Outcome]:
    given = samples(entry, dtype)
    chosen = range(len(given)) if every else [len(given) // 2] if given else []
    found = [run_sample(entry, dtype, n, given[n]) for n in chosen]
    return [o for o in found if o is not None]


def test_rows_give_reasons_and_name_entries() -> None:
    names = {e.name for e in entries()}
    for row in ROWS:
        assert row.reason and set(row.entries) <= names and set(row.dtypes) <= set(map(name_of, DTYPES)), row


def test_enough_entries_are_differentiated() -> None:
    assert len(differentiable(torch.float64)) >= 300


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_a_sample_of_some_entries(dtype: torch.dtype) -> None:
    step = SPARSE[dtype]
    chosen = differentiable(dtype)[DTYPES.index(dtype) * step // 3 :: step]
    found = aside(lambda: [o for e in chosen for o in some(e, dtype, every=False)])
    judge(found, ROWS)
    assert sum(o.kernels > 0 for o in found) > len(found) // 3, "most samples run compiled kernels"


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("entry", "dtype"), [(e, d) for d in DTYPES for e in differentiable(d)], ids=name_of)
def test_every_sample(entry: Entry, dtype: torch.dtype) -> None:
    judge_whole(entry, name_of(dtype), aside(lambda: some(entry, dtype, every=True)), ROWS)
