"""How long the memory between the steps of a program lives."""

from __future__ import annotations

from typing import Any

import torch

from tessera.runtime.dispatch import Alloc, CallStep, Plan, bind, lifetimes


def _step(reads: tuple[int, ...], write: int, run: Any) -> CallStep:
    return CallStep(lambda xs, scalars, sizes: (run(*xs),), reads, (write,))


def _chain(seen: list[list[bool]]) -> Plan:
    """x -> a -> b -> c, where b is a result as well, and one allocated slot that the last step reads."""

    def noted(f: Any) -> Any:
        return lambda *xs: (seen.append([x is not None for x in xs]), f(*xs))[1]

    steps = (
        _step((0,), 1, noted(lambda x: x + 1)),
        _step((1,), 2, noted(lambda a: a * 2)),
        _step((2, 4), 3, noted(lambda b, made: b + made.zero_() - 3)),
    )
    return Plan(1, 5, (Alloc(4, (lambda sizes: 3,), torch.float32),), steps, (2, 3))


def test_a_slot_lives_from_the_first_step_that_uses_it_to_the_last() -> None:
    assert lifetimes(_chain([])) == [([], []), ([], [1]), ([4], [4])]


def test_results_and_arguments_stay() -> None:
    seen: list[list[bool]] = []
    run = bind(_chain(seen), {})
    x = torch.arange(3.0)
    b, c = run([x], ())
    assert torch.equal(b, (x + 1) * 2) and torch.equal(c, (x + 1) * 2 - 3)
    assert seen == [[True], [True], [True, True]]
