"""Many tensors as one of rank 1: what a function is given where it takes all their elements as one axis.

Nothing is moved: compiled code gets a table that says where each piece begins, in elements and in memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NoReturn

import numpy as np
import torch

from tessera.diag import DTypeError, ResourceError, ShapeError, TraceError
from tessera.runtime.recent import tensor_check

#: Kinds of lists that are recognised again, for one parameter.
REMEMBERED = 32
PLAIN = (torch.Tensor, torch.nn.Parameter)


def plain(x: torch.Tensor) -> bool:
    """May the memory of ``x`` be read through its address, by code for its device? Only ordinary strided tensors
    without pending work may.
    """
    return (
        type(x) in PLAIN
        and x.layout is torch.strided
        and not x.is_neg()
        and not x.is_conj()
        and not x._is_zerotensor()
        and not x.is_quantized
    )


def spanned(x: torch.Tensor) -> int:
    """The bytes from the first element of a tensor to behind its last one in memory; 0 without elements.

    >>> spanned(torch.empty(3, 4)[:, 1])
    36
    """
    if not x.numel():
        return 0
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return (last + 1) * x.itemsize


@dataclass
class Form:
    """What lists of tensors of the same kinds and sizes have in common. ``dense`` says that every tensor is, ``full``
    that every one has elements, ``counted`` that torch counts their changes. ``safe`` holds the addresses that were
    last seen to lie within storages large enough, with their table; ``spans`` the bytes that each tensor spans.
    """

    cuts: list[int]
    dtype: torch.dtype
    device: torch.device
    plain: bool
    dense: bool
    requires_grad: bool
    full: bool
    counted: bool
    safe: tuple[list[int], array[int]] = field(default_factory=lambda: ([], array("q")))
    spans: list[int] = field(default_factory=list)

    @cached_property
    def lengths(self) -> Any:
        """The bytes of each tensor that has elements, as an array."""
        return np.diff(self.cuts) * self.dtype.itemsize

    def within(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Are the storages of tensors of this form large enough for them?"""
        if not self.spans:
            self.spans = [spanned(x) for x in tensors]
        pairs = zip(tensors, self.spans, strict=True)
        return all(x.untyped_storage().nbytes() >= n + x.storage_offset() * x.itemsize for x, n in pairs)

    @staticmethod
    def of(name: str, tensors: Sequence[Any]) -> Form:
        """The form of a list. Raises as ``Pieces``."""
        if not tensors:
            raise ShapeError(f"argument `{name}` is empty: no dtype and no device can be told", code="TSR0105")
        for x in tensors:
            if not isinstance(x, torch.Tensor):
                raise TraceError(f"argument `{name}` holds a {type(x).__name__}", code="TSR0109",
                                 helps=["it takes a list of tensors, or one tensor of rank 1"])  # fmt: skip
        dtype, device = tensors[0].dtype, tensors[0].device
        for x in tensors:
            if x.dtype is not dtype:
                raise DTypeError(f"argument `{name}` holds {_short(dtype)} and {_short(x.dtype)}", code="TSR0108",
                                 helps=["call once for each dtype"])  # fmt: skip
            if x.device != device:
                raise ResourceError(f"argument `{name}` holds tensors on {device} and {x.device}", code="TSR0603",
                                    helps=["call once for each device"])  # fmt: skip
        ordinary = all(map(plain, tensors))
        counts = [x.numel() for x in tensors]
        return Form(
            [0, *accumulate(n for n in counts if n)], dtype, device, ordinary,
            ordinary and all(x.is_contiguous() for x in tensors), any(x.requires_grad for x in tensors), all(counts),
            not any(x.is_inference() for x in tensors),
        )  # fmt: skip


class Pieces:
    """Tensors of one dtype on one device, taken for one of all their elements in order.

    It has of a tensor what the way of a call looks at. ``tensors`` are the pieces that have elements. Raises
    TraceError (TSR0109) for what is no tensor, ShapeError (TSR0105) for none at all, DTypeError (TSR0108) and
    ResourceError (TSR0603) where they differ.

    >>> x = Pieces("x", [torch.ones(2, 3), torch.zeros(2)])
    >>> x.shape, x.cuts, x.joined().sum().item()
    ((8,), [0, 6, 8], 6.0)
    """

    __slots__ = ("_addresses", "_copies", "_table", "cuts", "device", "dtype", "form", "shape", "tensors")

    def __init__(self, name: str, tensors: Sequence[Any], form: Form | None = None) -> None:
        self.form = form = form or Form.of(name, tensors)
        self.tensors = tensors if form.full else [x for x in tensors if x.numel()]
        self.cuts, self.dtype, self.device = form.cuts, form.dtype, form.device
        self.shape = (form.cuts[-1],)
        self._table: array[int] | None = None
        self._addresses: list[int] | None = None
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
        return self.form.requires_grad

    def dim(self) -> int:
        """1."""
        return 1

    def numel(self) -> int:
        """The elements of all pieces."""
        return self.shape[0]

    def is_contiguous(self) -> bool:
        """The elements stand one behind the other, as far as anybody can see."""
        return True

    @property
    def addresses(self) -> list[int]:
        """Where each piece, or the dense copy of one that is not dense, begins."""
        if self._addresses is None:
            dense = self.tensors if self.form.dense else [self._dense(x) for x in self.tensors]
            found = [x.data_ptr() for x in dense]
            known, table = self.form.safe
            if known and found == known:  # the list itself: then who compares it again need not look into it
                found, self._table = known, table
            self._addresses = found
        return self._addresses

    def data_ptr(self) -> int:
        """The address of the table."""
        return self.table.buffer_info()[0]

    @property
    def table(self) -> array[int]:
        """Number of pieces, their first elements and the end, their addresses."""
        addresses = self.addresses
        if self._table is None:
            self._table = array("q", [len(self.tensors), *self.cuts, *addresses])
        return self._table

    def _dense(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_contiguous():
            return x
        self._copies.append((x, x.contiguous()))
        return self._copies[-1][1]

    # -- from and to a tensor

    def joined(self) -> torch.Tensor:
        """All elements as one tensor."""
        if not self.tensors:
            return torch.empty(0, dtype=self.dtype, device=self.device)
        return torch.cat([x.reshape(-1) for x in self.tensors])

    def write(self, flat: torch.Tensor) -> None:
        """Give the pieces the elements of one tensor."""
        parts = flat.split([stop - start for start, stop in pairwise(self.cuts)])
        for x, part in zip(self.tensors, parts, strict=True):
            x.copy_(part.view(x.shape))
        self._copies.clear()  # which no kernel has written to

    def settle(self) -> None:
        """Bring back what compiled code wrote to copies of pieces that are not dense."""
        for x, copy in self._copies:
            x.copy_(copy)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise TypeError("many tensors that stand for one cannot be given to torch")


class Forms:
    """The kinds of lists that the parameters of a function were last given, recognised by one check for each list."""

    def __init__(self) -> None:
        self.known: dict[object, tuple[Callable[..., bool], Form]] = {}

    def pieces(self, name: str, tensors: Sequence[Any], check: Callable[[Sequence[torch.Tensor]], object]) -> Pieces:
        """A list as pieces. ``check`` refuses tensors whose memory was freed. Raises as ``Pieces``."""
        if not tensors or not isinstance(tensors[0], torch.Tensor):
            return Pieces(name, tensors)
        key = (name, len(tensors), tensors[0].shape)
        known = self.known.get(key)
        made = None
        if known is not None:
            holds, form = known
            made = Pieces(name, tensors, form) if holds(*tensors) else None
        if made is None:
            made = Pieces(name, tensors)
            alike = tensor_check(tensors) if made.form.plain else None
            if alike is not None:
                self.known[key] = (alike, made.form)
            for old in list(self.known)[:-REMEMBERED]:
                self.known.pop(old, None)
        if made.form.plain and made.form.safe[0] is not made.addresses:
            if not made.form.within(made.tensors):
                check(made.tensors)
            if made.form.dense:
                made.form.safe = made.addresses, made.table
        return made


def members(given: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors, and the pieces of those that are in pieces."""
    for x in given:
        if isinstance(x, Pieces):
            yield from x.tensors
        else:
            yield x


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
