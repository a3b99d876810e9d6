"""Many tensors as one of rank 1: what a function is given where it takes all their elements as one axis.

Nothing is moved: compiled code gets a table that says where each piece begins, in elements and in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NoReturn

import torch

from tessera.diag import DTypeError, ResourceError, ShapeError, TraceError


class Pieces:
    """Tensors of one dtype on one device, taken for one of all their elements in order.

    It has of a tensor what the way of a call looks at. ``tensors`` are the pieces that have elements. Raises
    TraceError (TSR0109) for what is no tensor, ShapeError (TSR0105) for none at all, DTypeError (TSR0108) and
    ResourceError (TSR0603) where they differ.

    >>> x = Pieces("x", [torch.ones(2, 3), torch.zeros(2)])
    >>> x.shape, x.cuts, x.joined().sum().item()
    ((8,), [0, 6, 8], 6.0)
    """

    __slots__ = ("_copies", "_table", "cuts", "device", "dtype", "shape", "tensors")

    def __init__(self, name: str, tensors: Sequence[Any]) -> None:
        if not tensors:
            raise ShapeError(f"argument `{name}` is empty: no dtype and no device can be told", code="TSR0105")
        for x in tensors:
            if not isinstance(x, torch.Tensor):
                raise TraceError(f"argument `{name}` holds a {type(x).__name__}", code="TSR0109",
                                 helps=["it takes a list of tensors, or one tensor of rank 1"])  # fmt: skip
        first = tensors[0]
        self.dtype, self.device = first.dtype, first.device
        for x in tensors:
            if x.dtype is not self.dtype:
                raise DTypeError(f"argument `{name}` holds {_short(self.dtype)} and {_short(x.dtype)}", code="TSR0108",
                                 helps=["call once for each dtype"])  # fmt: skip
            if x.device != self.device:
                raise ResourceError(f"argument `{name}` holds tensors on {self.device} and {x.device}", code="TSR0603",
                                    helps=["call once for each device"])  # fmt: skip
        counts = [x.numel() for x in tensors]
        if not all(counts):
            tensors = [x for x, n in zip(tensors, counts, strict=True) if n]
            counts = [n for n in counts if n]
        self.tensors = tuple(tensors)
        self.cuts = [0, *accumulate(counts)]
        self.shape = (self.cuts[-1],)
        self._table: array[int] | None = None
        #: Dense copies of pieces that are not, with those.
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    # -- what calls look at, as a tensor has it

    @property
    def layout(self) -> torch.layout:
        """That of the first piece that is not strided, else strided."""
        return next((x.layout for x in self.tensors if x.layout is not torch.strided), torch.strided)

    @property
    def is_quantized(self) -> bool:
        """Is any piece?"""
        return any(x.is_quantized for x in self.tensors)

    @property
    def is_nested(self) -> bool:
        """Is any piece?"""
        return any(x.is_nested for x in self.tensors)

    @property
    def requires_grad(self) -> bool:
        """Does any piece?"""
        return any(x.requires_grad for x in self.tensors)

    def dim(self) -> int:
        """1."""
        return 1

    def numel(self) -> int:
        """The elements of all pieces."""
        return self.shape[0]

    def is_contiguous(self) -> bool:
        """The elements stand one behind the other, as far as anybody can see."""
        return True

    def data_ptr(self) -> int:
        """The address of the table: number of pieces, their first elements and the end, their addresses."""
        if self._table is None:
            addresses = [x.data_ptr() for x in map(self._dense, self.tensors)]
            self._table = array("q", [len(addresses), *self.cuts, *addresses])
        return self._table.buffer_info()[0]

    def _dense(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_contiguous():
            return x
        self._copies.append((x, x.contiguous()))
        return self._copies[-1][1]

    # -- from and to a tensor

    def joined(self) -> torch.Tensor:
        """All elements as one tensor."""
        return join(self.tensors, self.dtype, self.device)

    def write(self, flat: torch.Tensor) -> None:
        """Give the pieces the elements of one tensor."""
        for x, part in zip(self.tensors, flat.split([b - a for a, b in zip(self.cuts, self.cuts[1:], strict=False)]),
                           strict=True):  # fmt: skip
            x.copy_(part.view(x.shape))

    def settle(self) -> None:
        """Bring back what compiled code wrote to copies of pieces that are not dense."""
        for x, copy in self._copies:
            x.copy_(copy)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.tensors)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise TypeError("many tensors that stand for one cannot be given to torch")


def join(tensors: Sequence[torch.Tensor], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The elements of tensors as one of rank 1."""
    return torch.cat([x.reshape(-1) for x in tensors]) if tensors else torch.empty(0, dtype=dtype, device=device)


def members(given: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors, and the pieces of those that are in pieces."""
    for x in given:
        if isinstance(x, Pieces):
            yield from x.tensors
        else:
            yield x


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
