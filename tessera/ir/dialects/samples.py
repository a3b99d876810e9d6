"""Sample calls: what tests and the op pages run. A tensor is written as its named shape, dtype and kind of content.

Sizes are names or numbers. ``SIZES`` gives each name a value; every test may give it others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tessera.ir.dim import Dim, product
from tessera.ir.dtype import DType, dtype
from tessera.ir.record import Sample

Array = npt.NDArray[Any]

#: The size that each name in a sample stands for.
SIZES: Final[Mapping[str, int]] = MappingProxyType(
    {"B": 2, "S": 5, "T": 5, "D": 4, "H": 3, "K": 6, "M": 3, "N": 7, "P": 1}
)


@dataclass(frozen=True, slots=True)
class T:
    """A tensor argument of a sample: ``T(("B", 3), "bf16")``.

    ``fill`` is ``domain`` (uniform over the interval, default the record's), ``bool``, ``sign`` (-1 or 1), ``sorted``,
    ``perm`` (distinct integers along the last axis, from 0),
    ``perm0`` (along the first one) or an int n (integers in [0, n)).
    """

    shape: tuple[str | int, ...]
    dtype: str = "f32"
    fill: str | int = "domain"
    domain: tuple[float, float] | None = None

    @property
    def dims(self) -> tuple[Dim, ...]:
        return tuple(Dim.name(s) if isinstance(s, str) else Dim.const(s) for s in self.shape)

    @property
    def type(self) -> DType:
        return dtype(self.dtype)

    def sizes(self, sizes: Mapping[str, int] = SIZES) -> tuple[int, ...]:
        return tuple(sizes[s] if isinstance(s, str) else s for s in self.shape)

    def array(self, rng: np.random.Generator, domain: tuple[float, float], sizes: Mapping[str, int] = SIZES) -> Array:
        """Values of the fill as float64, int64 or bool; floats are not yet rounded to the dtype."""
        shape, kind = self.sizes(sizes), self.type
        if self.fill in ("perm", "perm0"):
            axis = 0 if self.fill == "perm0" else len(shape) - 1
            return rng.random(shape).argsort(axis) if shape else np.zeros((), np.int64)
        if isinstance(self.fill, int):
            return np.asarray(rng.integers(0, self.fill, shape))
        if self.fill == "bool" or kind.is_bool:
            return np.asarray(rng.random(shape) < 0.5)
        if self.fill == "sign":
            return np.where(rng.random(shape) < 0.5, -1.0, 1.0)
        low, high = self.domain or domain
        values = np.asarray(rng.uniform(low, high, shape))
        if kind.is_int:
            return np.floor(np.maximum(values, float(kind.min))).astype(np.int64)
        return np.sort(values) if self.fill == "sorted" else values


@dataclass(frozen=True, slots=True)
class Size:
    """A size argument of a sample: the product of the factors, plus a constant. ``Size("B", 3)`` is ``3*B``."""

    factors: tuple[str | int, ...]
    plus: int = 0

    def dim(self) -> Dim:
        parts = tuple(Dim.name(f) if isinstance(f, str) else Dim.const(f) for f in self.factors)
        return product(parts) + self.plus

    def value(self, sizes: Mapping[str, int] = SIZES) -> int:
        total = 1
        for f in self.factors:
            total *= sizes[f] if isinstance(f, str) else f
        return total + self.plus


def size(*factors: str | int, plus: int = 0) -> Size:
    """A size argument: ``size("B", 3)`` is three times B."""
    return Size(factors, plus)


def elementwise(
    arity: int,
    dtypes: str = "f32 bf16",
    domain: tuple[float, float] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Callable[[], Iterable[Sample]]:
    """Samples of an elementwise op: same shapes, broadcasting shapes and rank 0, in each of the dtypes."""

    def make() -> Iterable[Sample]:
        for name in dtypes.split():
            fill: str | int = {"bool": "bool"}.get(name, "domain")
            yield Sample(tuple(T(("B", "D"), name, fill, domain) for _ in range(arity)), kwargs or {})
        first = dtypes.split()[0]
        fill = "bool" if first == "bool" else "domain"
        yield Sample(tuple(T((), first, fill, domain) for _ in range(arity)), kwargs or {})
        if arity > 1:
            shapes: Sequence[tuple[str | int, ...]] = (("B", 1, "D"), ("S", "D"), ("D",))
            yield Sample(tuple(T(shapes[n % 3], first, fill, domain) for n in range(arity)), kwargs or {})

    return make


def samples(*calls: Sample) -> Callable[[], Iterable[Sample]]:
    """A fixed list of samples."""
    return lambda: calls


def call(*args: Any, **kwargs: Any) -> Sample:
    """One sample, written as the call: ``call(T(("B", "D")), dim=-1)``."""
    return Sample(args, kwargs)


def replaced(x: Any, tensor: Callable[[T], Any], size_: Callable[[Size], Any]) -> Any:
    """An argument of a sample with every tensor and size in it turned into something else."""
    if isinstance(x, T):
        return tensor(x)
    if isinstance(x, Size):
        return size_(x)
    if isinstance(x, tuple | list):
        return type(x)(replaced(member, tensor, size_) for member in x)
    if isinstance(x, slice):
        return slice(*(replaced(part, tensor, size_) for part in (x.start, x.stop, x.step)))
    return x
