"""Types of IR values: tensors with named dims, dynamic scalars, and block values of the tile dialect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera.ir.dim import Dim, product
from tessera.ir.dtype import DType


@dataclass(frozen=True, slots=True)
class TensorType:
    """A whole tensor: ``f32[B, S, D]``. ``dims`` may be empty (rank 0)."""

    dtype: DType
    dims: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]"

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def numel(self) -> Dim:
        return product(self.dims)

    def with_dims(self, dims: Iterable[Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(dims))

@dataclass(frozen=True, slots=True)
class ScalarType:
    """A Python number known only at the call: ``scalar f32``. Weak: it never widens a tensor of its own category."""

    dtype: DType

    def __str__(self) -> str:
        return f"scalar {self.dtype}"

    @property
    def dims(self) -> tuple[Dim, ...]:
        return ()

    @property
    def rank(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class TileType:
    """A value inside a kernel: one element per point of the listed loop axes, ``f32<r, d>``; ``f32<>`` is one scalar.

    How many points are held at once (vector lanes, a Triton block) is the backend's choice and not part of the type.
    """

    dtype: DType
    axes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}<{', '.join(self.axes)}>"

    @property
    def dims(self) -> tuple[Dim, ...]:
        """To the rules of the tensor dialect a tile value is one element."""
        return ()

    @property
    def rank(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class BufferType:
    """Memory seen by a kernel: ``in f32[B, S, D]``, with ``role`` one of ``in``, ``out``, ``temp``, ``local``, and
    ``update`` for memory that has contents and is given others.

    ``strides`` is None for a dense row-major buffer; otherwise one Dim (often a fresh name such as ``x_s0``) an axis.
    With ``pieces`` the elements lie in several dense blocks of memory, one behind the other in order only; all such
    buffers of a kernel are cut at the same places.
    """

    dtype: DType
    dims: tuple[Dim, ...]
    role: str = "in"
    strides: tuple[Dim, ...] | None = None
    pieces: bool = False

    @property
    def rank(self) -> int:
        return len(self.dims)

    def __str__(self) -> str:
        dims = ", ".join(map(str, self.dims))
        strides = "" if self.strides is None else f" strides [{', '.join(map(str, self.strides))}]"
        return f"{self.role} {self.dtype}[{dims}]{strides}{' in pieces' if self.pieces else ''}"


Type = TensorType | ScalarType | TileType | BufferType
