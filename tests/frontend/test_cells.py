"""The dtypes that calls take are torch's: each operand of each sample in each dtype, refused by both or by neither."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest

from tessera.ir.dialects import OPS
from tests.frontend.cells import bases, check_takes, torch_takes, variants

#: Records for which the check takes what torch does not, with the reason.
WIDER: Mapping[str, str] = {
    "ldexp": "torch takes an exponent that is a bool beside an integer, and none beside a float",
    "matmul": "operands of a product promote to one dtype",
    "rmatmul": "operands of a product promote to one dtype",
    "floordiv": "a division by zero: elements are not looked at",
    "remainder": "a division by zero: elements are not looked at",
    "fmod": "a division by zero: elements are not looked at",
    "threshold": "a value outside the range of uint8",
    "randint_like": "a bound outside the range of bool",
    "ndtri": "no bf16 in torch's loop for this processor",
    "cdist": "no bf16 in torch's loop for this processor",
    "avg_pool3d": "no bf16 in torch's loop for this processor",
    "local_response_norm": "no bf16 in torch's loop for this processor",
    "getitem": "bytes and bools select by mask, whose size depends on data",
    "index_put": "bytes and bools select by mask, whose size depends on data",
    "addr": "integers are scaled by a float where the product is",
    "index_reduce": "bools have a product",
}
#: Records for which the check refuses what torch takes, with the reason.
NARROWER: Mapping[str, str] = {
    "heaviside": "a step of bools is a mistake more often than a wish",
    "index_add": "bools scaled by a number are integers",
}
GROUPS = 6
_RECORDS = [r for r in OPS.values() if r.samples is not None and r.torch]


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_the_check_takes_the_dtypes_that_torch_takes(group: int) -> None:
    wrong: list[str] = []
    for record in _RECORDS[group::GROUPS]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for cell in (c for base in bases(record) for c in variants(base)):
                torchs, ours = torch_takes(cell), check_takes(cell)
                table = WIDER if ours else NARROWER
                if torchs != ours and record.name not in table:
                    wrong.append(f"{cell.where} of sample {cell.number}: {'taken' if ours else 'refused'}")
    assert not wrong, "\n".join(wrong)


def test_the_tables_name_records() -> None:
    assert {*WIDER, *NARROWER} <= {r.name for r in _RECORDS}
