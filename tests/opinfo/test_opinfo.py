"""torch's own samples of its operators, compiled to C, and the calls that it refuses.

What differs for a reason stands in `expected.toml`, and only there. A normal run takes one sample of every entry and
every refused call; `-m nightly` takes all samples in three dtypes, dense and strided. Where everything of an entry
runs, a row of the table that says what no longer holds is an error too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("expecttest")

from tests.opinfo.harness import Entry, Outcome, entries, run_errors, run_sample, samples
from tests.opinfo.table import Row, rows, unexplained, unmet

ROWS = rows()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Parts that a run may share out among its workers.
GROUPS = 8
#: One entry in so many also runs in a half-width dtype, by turns in each.
SPARSE = 12


def every(entry: Entry, dtype: torch.dtype, strided: bool = False) -> Iterator[Outcome]:
    for number, sample in enumerate(samples(entry, dtype)):
        yield from run(entry, dtype, number, sample.noncontiguous() if strided else sample)


def one(entry: Entry, dtype: torch.dtype) -> Iterator[Outcome]:
    """The sample in the middle: the first ones are often scalars."""
    given = samples(entry, dtype)
    if given:
        yield from run(entry, dtype, len(given) // 2, given[len(given) // 2])


def run(entry: Entry, dtype: torch.dtype, number: int, sample: object) -> Iterator[Outcome]:
    found = run_sample(entry, dtype, number, sample)
    if found is not None:
        yield found


def aside(work: Callable[[], list[Outcome]]) -> list[Outcome]:
    """The result of ``work``, done in a thread: torch keeps a stack trace at every seeding, and there it is short."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def judge(found: Sequence[Outcome], table: Sequence[Row] = ROWS) -> None:
    bad = unexplained(found, table)
    assert not bad, f"{len(bad)} unexplained\n" + "\n".join(map(str, bad))


def judge_whole(entry: Entry, dtype: str, found: Sequence[Outcome], table: Sequence[Row] = ROWS) -> None:
    """Every sample of an entry: differences without a row, and rows without a difference."""
    judge(found, table)
    wrong = list(unmet(entry.name, dtype, found, table))
    assert not wrong, f"no longer true of {entry.name} {dtype}; mend the table\n" + "\n".join(wrong)


def supporting(dtype: torch.dtype) -> list[Entry]:
    return [e for e in entries() if dtype in e.info.dtypes]


def name_of(x: object) -> str:
    return x.name if isinstance(x, Entry) else str(x).removeprefix("torch.")


def test_enough_entries_match_a_record() -> None:
    assert len({e.info.name for e in entries()}) >= 390
    assert len({e.record.name for e in entries()}) >= 300


def test_every_row_gives_a_reason_and_names_entries() -> None:
    names = {e.name for e in entries()}
    for row in ROWS:
        assert row.reason and row.dtypes and row.entries and set(row.entries) <= names, row
        assert set(row.dtypes) <= {*map(name_of, DTYPES), "error"}, row


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_a_sample_of_every_entry(group: int) -> None:
    found = aside(lambda: [o for e in supporting(torch.float32)[group::GROUPS] for o in one(e, torch.float32)])
    judge(found)
    assert sum(o.kernels > 0 for o in found) > len(found) // 3, "most samples run compiled kernels"


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(2))
def test_a_half_width_sample_of_some_entries(turn: int) -> None:
    dtype = DTYPES[1 + turn]
    judge(aside(lambda: [o for e in supporting(dtype)[turn * SPARSE // 2 :: SPARSE] for o in one(e, dtype)]))


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_what_torch_refuses_is_refused(group: int) -> None:
    chosen = entries()[group::GROUPS]
    found = aside(lambda: [o for e in chosen for o in run_errors(e)])
    for entry in chosen:
        judge_whole(entry, "error", [o for o in found if o.entry == entry.name])


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("entry", "dtype"), [(e, d) for d in DTYPES for e in supporting(d)], ids=name_of)
def test_every_sample(entry: Entry, dtype: torch.dtype) -> None:
    judge_whole(entry, name_of(dtype), aside(lambda: list(every(entry, dtype))))


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("entry", supporting(torch.float32), ids=name_of)
def test_every_strided_sample(entry: Entry) -> None:
    judge(aside(lambda: list(every(entry, torch.float32, strided=True))))
