"""Calls that write to their arguments: nothing else may lie there, and torch must know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tessera.diag import TraceError
from tessera.runtime.pieces import Pieces, members, spanned

Runner = Callable[[Sequence[Any], Sequence[float]], Any]


def writing(run: Runner, updates: Sequence[int]) -> Runner:
    """A runner whose steps write to the tensors with these numbers, as one that takes care of them."""
    seen: list[tuple[list[Any], list[Any], Spans]] = []

    def go(tensors: Sequence[Any], scalars: Sequence[float]) -> Any:
        written = [tensors[n] for n in updates]
        read = [x for n, x in enumerate(tensors) if n not in updates]
        before = seen[0] if seen else None
        where, there = _addresses(written), _addresses(read)
        if before is None or before[0] != where:
            spans = Spans.of(written)
            spans.check(read)
            seen[:] = [(where, there, spans)]
        elif before[1] != there:
            before[2].check(read)
            seen[:] = [(where, there, before[2])]
        made = run(tensors, scalars)
        settle(written)
        return made

    return go


def _addresses(tensors: Iterable[Any]) -> list[Any]:
    return [(x.addresses, x.cuts) if isinstance(x, Pieces) else x.data_ptr() for x in tensors]


def settle(written: Iterable[Any]) -> None:
    """After a call: copies brought back, and the tensors marked as changed for whoever has saved them."""
    changed: list[torch.Tensor] = []
    for x in written:
        if isinstance(x, Pieces):
            x.settle()
        if x.form.counted if isinstance(x, Pieces) else not x.is_inference():
            changed += x.tensors if isinstance(x, Pieces) else (x,)
    if changed:
        torch.autograd.graph.increment_version(changed)


@dataclass(frozen=True)
class Spans:
    """The memory that a call writes to: where its pieces begin and end, in order, and one behind them all."""

    starts: Any
    stops: Any

    @staticmethod
    def of(written: Sequence[Any]) -> Spans:
        """That of tensors. Raises TraceError (TSR0417) where they share memory with themselves or each other."""
        if any(_repeats(x) for x in members(x for x in written if not _is_dense(x))):
            raise TraceError(
                "an argument that is updated has elements that share memory", code="TSR0417",
                helps=["make it dense with `.contiguous()`"],
            )  # fmt: skip
        starts, stops = (np.concatenate(side) for side in zip(*map(_spans, written), strict=True))
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], stops[order]
        if (starts[1:] < stops[:-1]).any():
            raise _shared()
        return Spans(np.append(starts, _NOWHERE), np.append(stops, _NOWHERE))

    def check(self, read: Sequence[Any]) -> None:
        """Refuse tensors that lie in that memory. Raises TraceError (TSR0417)."""
        for x in read:
            starts, stops = _spans(x)
            if (self.starts[self.stops.searchsorted(starts, "right")] < stops).any():
                raise _shared()


#: Behind every address.
_NOWHERE = np.iinfo(np.int64).max


def _shared() -> TraceError:
    return TraceError(
        "an argument that is updated lies in memory that another one is in", code="TSR0417",
        helps=["clone one of them before the call"],
    )  # fmt: skip


def _is_dense(x: Any) -> bool:
    return isinstance(x, Pieces) and x.form.dense


def _spans(x: Any) -> tuple[Any, Any]:
    """Where the first element of a tensor, or of each piece, begins, and where the last one ends."""
    if _is_dense(x):
        starts = np.array(x.addresses, np.int64)
        return starts, starts + x.form.lengths
    found = [(t.data_ptr(), t.data_ptr() + spanned(t)) for t in members([x]) if t.numel()]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _repeats(x: torch.Tensor) -> bool:
    return any(step == 0 and size > 1 for size, step in zip(x.shape, x.stride(), strict=True))
