"""When rows that are added to rows of a tensor are one walk over memory, and what that walk is."""

from __future__ import annotations

import pytest
import torch

from tessera.runtime.added import Added, added
from tessera.runtime.place import Place


def place(x: torch.Tensor) -> Place:
    return Place(0, 0, tuple(x.shape), x.stride(), x.dtype)


def found(axis: int, shape: tuple[int, ...], index: torch.Tensor, rows: torch.Tensor) -> Added | None:
    return added(axis, shape, place(index), place(rows))


AT, NEW = torch.zeros(5, dtype=torch.int64), torch.zeros(2, 5, 3, 4)
ALONG = AT[None, :, None, None].expand(2, 5, 3, 4)
SHAPE = (2, 9, 3, 4)


def test_axes_before_and_behind_are_one_each() -> None:
    assert found(1, SHAPE, ALONG, NEW) == Added(2, 9, 12, 5, 12, 60, 1)
    assert found(0, (9, 4), AT[:, None].expand(5, 4), NEW[0, :, 0]) == Added(1, 9, 4, 5, 12, 0, 1)
    assert found(1, SHAPE, AT[::2][None, :, None, None].expand(2, 3, 3, 4), NEW) == Added(2, 9, 12, 3, 12, 60, 2)


def test_rows_may_be_the_same_and_positions_too() -> None:
    assert found(1, SHAPE, ALONG, NEW[:, :1].expand(2, 5, 3, 4)) == Added(2, 9, 12, 5, 0, 60, 1)
    assert found(1, SHAPE, ALONG, NEW[:1].expand(2, 5, 3, 4)) == Added(2, 9, 12, 5, 12, 0, 1)
    assert found(1, SHAPE, AT[:1][None, :, None, None].expand(2, 5, 3, 4), NEW) == Added(2, 9, 12, 5, 12, 60, 0)


@pytest.mark.parametrize(
    ("axis", "shape", "index", "rows"),
    [
        (1, SHAPE, torch.zeros(2, 5, 3, 4, dtype=torch.int64), NEW),  # a position for each element
        (1, SHAPE, torch.zeros(2, 5, 1, 1, dtype=torch.int64).expand(2, 5, 3, 4), NEW),  # and for each matrix
        (1, SHAPE, ALONG[:1], NEW[:1]),  # not all matrices
        (1, SHAPE, ALONG[..., :2], NEW[..., :2]),  # not all of a row
        (1, SHAPE, ALONG, NEW.mT.contiguous().mT),  # a row in another order
        (1, SHAPE, ALONG, NEW[..., :1].expand(2, 5, 3, 4)),  # a row of one element
        (3, (2, 5, 3, 9), AT[:4].expand(2, 5, 3, 4), NEW),  # rows of one element
        (1, (2, 2**32, 3, 4), ALONG, NEW),
        (1, SHAPE, ALONG.int(), NEW),
    ],
)
def test_what_is_left_to_the_library(
    axis: int, shape: tuple[int, ...], index: torch.Tensor, rows: torch.Tensor
) -> None:  # fmt: skip
    assert found(axis, shape, index, rows) is None


def test_one_element_for_all_rows_is_no_row() -> None:
    index = Place(1, 0, (3, 40), (1, 0), torch.int64)
    assert added(0, (9, 40), index, Place.dense(2, (), torch.float32)) is None
