"""A plan that is carried out for one block of rows after the other, as one step of another plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tessera.runtime import memory
from tessera.runtime.bound import runner
from tessera.runtime.steps import Given, Laid, Routine, Size, Sizes

#: Adds what operands give to a sum: ``add(sum, operands, scalars, sizes, first)``, where the sum begins with the first.
Add = Callable[[torch.Tensor, Sequence[torch.Tensor], Sequence[float], Sizes, bool], None]


@dataclass(frozen=True, slots=True)
class ByBlocks:
    """The step takes ``rows`` of ``along`` at a time; ``block`` is the plan's name for how many. Of the tensors that it
    is given those in ``dense`` are read row by row, and of those in ``cut`` only the rows of the block; it has the
    scalars with the numbers ``scalars``. For each of ``results`` there are the numbers of the plan's outputs, and what
    adds them to a sum; or None, where the only one is the block of the result.
    """

    plan: Laid
    dense: frozenset[int]
    cut: frozenset[int]
    scalars: tuple[int, ...]
    results: tuple[Given, ...]
    parts: tuple[tuple[tuple[int, ...], Add | None], ...]
    block: str
    along: Size
    rows: Size

    def at(self, sizes: Sizes) -> Routine:
        """The step at given sizes. The plan is bound once for whole blocks, and once more for a last one that has fewer
        rows.
        """
        count, most = self.along(sizes), max(self.rows(sizes), 1)
        lengths = {min(most, count), count % most} - {0}
        runs = {n: runner(self.plan, {**sizes, self.block: n}) for n in lengths}
        shapes = [(tuple(f(sizes) for f in r.shape), r.dtype) for r in self.results]

        def run(tensors: Sequence[Any], numbers: Sequence[float]) -> Sequence[torch.Tensor]:
            mine = [numbers[n] for n in self.scalars]
            whole = [x.contiguous() if n in self.dense else x for n, x in enumerate(tensors)]
            results = [memory.empty(shape, dtype) for shape, dtype in shapes]
            for start in range(0, count, most):
                rows = min(most, count - start)
                given = [x.narrow(0, start, rows) if n in self.cut else x for n, x in enumerate(whole)]
                made = runs[rows](given, mine)
                for result, (places, add) in zip(results, self.parts, strict=True):
                    if add is None:
                        result.narrow(0, start, rows).copy_(made[places[0]])
                    else:
                        add(result, [made[n] for n in places], mine, sizes, not start)
                del given, made  # before the next block takes its memory
            if not count:
                for result in results:
                    result.zero_()
            return results

        return run
