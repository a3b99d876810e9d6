"""How long the memory between the steps of a program lives, and where it lies."""

from __future__ import annotations

import random
import weakref
from typing import Any

import torch

from tessera.runtime import arena
from tessera.runtime.arena import Life
from tessera.runtime.dispatch import Alloc, CallStep, Given, Plan, bind


def _step(reads: tuple[int, ...], write: int, run: Any) -> CallStep:
    return CallStep(lambda sizes: lambda xs, numbers: (run(*xs),), reads, (write,))


def test_results_and_arguments_stay_and_what_is_between_goes() -> None:
    """x -> a -> b -> c, where b is a result as well, and one allocated slot that the last step reads."""
    freed: list[bool] = []
    kept: list[Any] = []

    def first(x: torch.Tensor) -> torch.Tensor:
        made = x + 1
        kept.append(weakref.ref(made))
        return made

    def last(b: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        freed.append(kept[0]() is None)
        return b + made.zero_() - 3

    steps = (_step((0,), 1, first), _step((1,), 2, lambda a: a * 2), _step((2, 4), 3, last))
    plan = Plan(1, 5, (Alloc(4, (lambda sizes: 3,), torch.float32),), steps, (2, 3), given=(None,))
    x = torch.arange(3.0)
    b, c = bind(plan, {})([x], ())
    assert torch.equal(b, (x + 1) * 2) and torch.equal(c, (x + 1) * 2 - 3)
    assert freed == [True]


def test_a_library_that_hands_its_operand_on_leaves_nothing_in_shared_memory() -> None:
    def size(sizes: Any) -> int:
        return 4

    fill = _step((1,), 2, lambda x: x.fill_(7.0))
    again = _step((3,), 4, lambda x: x.fill_(9.0))
    plan = Plan(
        1, 6, (Alloc(1, (size,), torch.float32), Alloc(3, (size,), torch.float32)),
        (fill, again, _step((2, 4), 5, lambda a, b: a - b)), (5, 2), given=(Given((size,), torch.float32),),
    )  # fmt: skip
    difference, filled = bind(plan, {})([torch.zeros(4)], ())
    assert difference.tolist() == [-2.0] * 4 and filled.tolist() == [7.0] * 4


def test_what_lives_at_the_same_time_lies_apart() -> None:
    rng = random.Random(0)
    for _ in range(50):
        lives = {}
        for n in range(40):
            first = rng.randrange(30)
            lives[n] = Life(rng.choice([0, 4, 64, 100, 4096, 70000]), first, first + rng.randrange(8))
        offsets, whole = arena.placed(lives)
        for n, one in lives.items():
            assert offsets[n] % arena.LINE == 0 and offsets[n] + one.nbytes <= whole
            for m, two in lives.items():
                if n < m and one.first <= two.last and two.first <= one.last and one.nbytes and two.nbytes:
                    assert offsets[n] + one.nbytes <= offsets[m] or offsets[m] + two.nbytes <= offsets[n]
        assert arena.most(lives) <= whole
