"""Learning rates over time, as schedulers of torch: each multiplies the rates that the optimizer was made with.

``scheduler.step()`` is called after each ``optimizer.step()``. They work with any optimizer of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR


def constant(optimizer: torch.optim.Optimizer, warmup: int = 0) -> LambdaLR:
    """A linear rise over ``warmup`` steps, then the full rate.

    >>> rates(constant, 5, warmup=2)
    [0.5, 1.0, 1.0, 1.0, 1.0]
    """
    return LambdaLR(optimizer, _after(warmup, lambda n: 1.0))


def linear(optimizer: torch.optim.Optimizer, steps: int, warmup: int = 0, floor: float = 0.0) -> LambdaLR:
    """A linear rise over ``warmup`` steps, then a linear fall that ends at ``floor`` after ``steps`` in all.

    >>> rates(linear, 6, steps=6, warmup=2)
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    length = _length(steps, warmup, floor)
    return LambdaLR(optimizer, _after(warmup, lambda n: floor + (1 - floor) * (1 - min(n / length, 1.0))))


def cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: int = 0, floor: float = 0.0) -> LambdaLR:
    """A linear rise over ``warmup`` steps, then half a cosine that ends at ``floor`` after ``steps`` in all.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.

    >>> rates(cosine, 6, steps=6, warmup=2, floor=0.1)
    [0.5, 1.0, 1.0, 0.8682, 0.55, 0.2318]
    """
    length = _length(steps, warmup, floor)

    def fall(n: int) -> float:
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(n / length, 1.0)))

    return LambdaLR(optimizer, _after(warmup, fall))


def inverse_sqrt(optimizer: torch.optim.Optimizer, warmup: int) -> LambdaLR:
    """A linear rise over ``warmup`` steps, at least one, then a fall with one over the square root of the step.

    Source: Vaswani et al. 2017, arXiv:1706.03762, with the peak at the rate of the optimizer.

    >>> rates(inverse_sqrt, 5, warmup=2)
    [0.5, 1.0, 1.0, 0.8165, 0.7071]
    """
    if warmup < 1:
        raise ValueError(f"warmup is {warmup}, not 1 or more")
    return LambdaLR(optimizer, _after(warmup, lambda n: math.sqrt(warmup / (warmup + n))))


def rates(schedule: Callable[..., LambdaLR], count: int, **options: float) -> list[float]:
    """The first ``count`` factors of a schedule, to four digits: what it does, without training.

    >>> rates(constant, 3)
    [1.0, 1.0, 1.0]
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = schedule(optimizer, **options)
    found: list[float] = []
    for _ in range(count):
        found.append(round(float(scheduler.get_last_lr()[0]), 4))
        optimizer.step()
        scheduler.step()
    return found


def _after(warmup: int, then: Callable[[int], float]) -> Callable[[int], float]:
    """The factor of each step from 0: a rise to 1 over ``warmup`` steps, then ``then`` of the steps since."""
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}, not 0 or more")
    return lambda n: (n + 1) / warmup if n < warmup else then(n - warmup)


def _length(steps: int, warmup: int, floor: float) -> int:
    if not steps > warmup >= 0:
        raise ValueError(f"{steps} steps with {warmup} of them to warm up: at least one must be left")
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor is {floor}, not from 0 to 1")
    return steps - warmup
