"""The arithmetic of the tables: medians, ratios of paired rounds, geometric means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

#: What Tessera is compared with, in the order of the columns.
PEERS = ("eager", "compile", "jax")


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of per-round ratios, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}× ({self.low:.2f} – {self.high:.2f})"


def quartiles(values: Sequence[float]) -> Ratio:
    """Median, lower and upper quartile; all three are the value itself where there is only one.

    Raises ValueError when there are none.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    Ratio(median=3.0, low=2.0, high=4.0)
    """
    if not values:
        raise ValueError("no values")
    if len(values) == 1:
        return Ratio(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(middle, low, high)


def paired(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """The ratio ``over / under`` of two series measured in the same rounds.

    The ratio is taken round by round, so that what slows a whole round down cancels out. Raises ValueError
    when the series differ in length.

    >>> paired([2.0, 40.0, 6.0], [1.0, 20.0, 2.0]).median
    2.0
    """
    return quartiles([a / b for a, b in zip(over, under, strict=True)])


def geometric_mean(values: Iterable[float]) -> float:
    """The n-th root of the product of positive numbers; raises ValueError when there are none.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    logs = [math.log(value) for value in values]
    if not logs:
        raise ValueError("no values")
    return math.exp(math.fsum(logs) / len(logs))


def best_peer(rounds: Mapping[str, Sequence[float]]) -> str | None:
    """The peer with the smallest median time among those that were measured; None without any.

    >>> best_peer({"tessera": [1.0], "eager": [3.0], "jax": [2.0], "copy": [0.5]})
    'jax'
    """
    present = [peer for peer in PEERS if rounds.get(peer)]
    return min(present, key=lambda peer: statistics.median(rounds[peer]), default=None)
