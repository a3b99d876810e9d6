"""Calls that write to their arguments: nothing else may lie there, and torch must know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from tessera.diag import TraceError
from tessera.runtime.pieces import Pieces, members

Runner = Callable[[Sequence[Any], Sequence[float]], Any]


def writing(run: Runner, updates: Sequence[int]) -> Runner:
    """A runner whose steps write to the tensors with these numbers, as one that takes care of them."""
    apart: list[list[int]] = []

    def go(tensors: Sequence[Any], scalars: Sequence[float]) -> Any:
        where: list[int] = []
        for x in tensors:
            where += (*x.addresses, *x.cuts) if isinstance(x, Pieces) else (x.data_ptr(),)
        if apart != [where]:
            check_apart(tensors, updates)
            apart[:] = [where]
        made = run(tensors, scalars)
        settle([tensors[n] for n in updates])
        return made

    return go


def settle(written: Iterable[Any]) -> None:
    """After a call: copies brought back, and the tensors marked as changed for whoever has saved them."""
    changed: list[torch.Tensor] = []
    for x in written:
        if isinstance(x, Pieces):
            x.settle()
        if x.form.counted if isinstance(x, Pieces) else not x.is_inference():
            changed += members([x])
    if changed:
        torch.autograd.graph.increment_version(changed)


def check_apart(tensors: Sequence[Any], updates: Sequence[int]) -> None:
    """Refuse tensors that are written to and share memory with others, or with themselves. Raises TraceError
    (TSR0417).
    """
    for n in updates:
        if any(_repeats(x) for x in members([tensors[n]])):
            raise TraceError(
                "an argument that is updated has elements that share memory", code="TSR0417",
                helps=["make it dense with `.contiguous()`"],
            )  # fmt: skip
    spans = sorted(_spans(tensors, frozenset(updates)))
    end = wrote = 0
    for start, stop, written in spans:
        if start < (end if written else wrote):
            raise TraceError(
                "an argument that is updated lies in memory that another one is in", code="TSR0417",
                helps=["clone one of them before the call"],
            )  # fmt: skip
        end, wrote = max(end, stop), max(wrote, stop if written else 0)


def _spans(tensors: Sequence[Any], updates: frozenset[int]) -> Iterator[tuple[int, int, bool]]:
    """The bytes from the first to the last element of every tensor, and whether it is written to."""
    for n, given in enumerate(tensors):
        for x in members([given]):
            if x.numel():
                last = sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
                yield x.data_ptr(), x.data_ptr() + (last + 1) * x.itemsize, n in updates


def _repeats(x: torch.Tensor) -> bool:
    return any(step == 0 and size > 1 for size, step in zip(x.shape, x.stride(), strict=True))
