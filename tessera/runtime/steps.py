"""A compiled function laid out for all sizes: its tensors by number, what is allocated, its steps in order."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tessera.diag import BoundsError, ResourceError, TesseraError

Sizes = Mapping[str, int]
Size = Callable[[Sizes], int]
Runner = Callable[[Sequence[torch.Tensor], Sequence[float]], Any]
#: A library call at given sizes: from tensors and numbers to tensors.
Routine = Callable[[Sequence[Any], Sequence[float]], Sequence[torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Alloc:
    """A slot that the plan allocates: an output or a temporary."""

    slot: int
    shape: tuple[Size, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Given:
    """How a tensor argument lies in memory: dense without ``strides``, in elements."""

    shape: tuple[Size, ...]
    dtype: torch.dtype
    strides: tuple[Size, ...] | None = None


@dataclass(frozen=True, slots=True)
class Native:
    """The entry of a kernel: where it is, and as a Python callable that takes its packed arguments."""

    address: int
    call: Callable[[bytes], int]

    @staticmethod
    def at(address: int) -> Native:
        """The entry at an address. The interpreter lock is released while it runs."""
        return Native(address, ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)(address))


@dataclass(frozen=True, slots=True)
class Library:
    """What a library has beside kernels: ``run(table, bases)`` runs many of them in one call, ``product`` and ``copy``
    are the addresses of the entries for matrix products and dense copies, ``blas`` has those of the functions for
    products, by dtype, and ``added`` those of the entries that add rows to rows.
    """

    run: Callable[[bytes, bytes], int]
    product: int
    copy: int
    blas: Mapping[torch.dtype, int]
    added: Mapping[torch.dtype, int]

    @staticmethod
    def at(
        run: int, product: int, copy: int, blas: Mapping[torch.dtype, int], added: Mapping[torch.dtype, int]
    ) -> Library:
        """The library whose entries are at these addresses."""
        call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p, ctypes.c_char_p)(run)
        return Library(call, product, copy, blas, added)


@dataclass(frozen=True, slots=True)
class KernelStep:
    """A native kernel: its entry, the slots of its buffers, the sizes it is given, its scalars (number, is_float), the
    bytes of scratch memory that each thread needs, the bytes that it writes and the points that its loops visit.
    """

    entry: Native
    slots: tuple[int, ...]
    sizes: tuple[Size, ...]
    scalars: tuple[tuple[int, bool], ...]
    scratch: Size
    written: Size
    work: Size
    name: str

    @property
    def uses(self) -> tuple[int, ...]:
        """The slots that it reads or writes."""
        return self.slots


@dataclass(frozen=True, slots=True)
class CallStep:
    """A library call: ``at(sizes)(tensors, numbers)`` gives one tensor for each of ``writes``.

    ``view`` says that by its kind it is another look at the memory of the tensors that it reads, whatever the numbers.
    For a sum of products ``letters`` name the axes of both operands and of the result; of what adds its third operand
    to the first at the positions in the second ``adds`` is the axis. ``dense`` are the results that are known to be
    row-major blocks of their own.
    """

    at: Callable[[Sizes], Routine]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    name: str = "call"
    view: bool = False
    letters: tuple[str, str, str] | None = None
    dense: tuple[Given, ...] = ()
    adds: int | None = None

    @property
    def uses(self) -> tuple[int, ...]:
        """The slots that it reads or writes."""
        return (*self.reads, *self.writes)


@dataclass(frozen=True, slots=True)
class Laid:
    """Slots 0 … ``inputs`` - 1 are the tensor arguments; to those in ``updates`` the steps write. Of arguments that are
    ``given`` the layout is known.
    """

    inputs: int
    slots: int
    allocs: tuple[Alloc, ...]
    steps: tuple[KernelStep | CallStep, ...]
    outputs: tuple[int, ...]
    updates: tuple[int, ...] = ()
    given: tuple[Given | None, ...] = ()
    library: Library | None = None


class NoAddressError(Exception):
    """An argument has elements but no memory (a tensor that torch has not filled in, or whose storage was freed)."""


def failed(code: int, name: str) -> TesseraError | ZeroDivisionError | NoAddressError:
    """The exception that a kernel's return code stands for."""
    if code == 4:
        return NoAddressError(name)
    if code & 2:
        return BoundsError("an index is out of range", notes=[f"read by kernel `{name}`"])
    return ZeroDivisionError("integer division by zero")


def addressable(shape: Sequence[int], dtype: torch.dtype) -> int:
    """The bytes of a tensor. Raises ResourceError (TSR0608) for more than an address reaches."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes >= 2**63:
        raise ResourceError(f"a tensor of shape {list(shape)} is too large to be addressed", code="TSR0608")
    return nbytes


def sized(allocs: Sequence[Alloc], sizes: Sizes) -> list[tuple[int, tuple[int, ...], torch.dtype]]:
    """Slots, shapes and dtypes for one set of sizes. Raises ResourceError (TSR0608) for what no address reaches."""
    found = [(a.slot, tuple(f(sizes) for f in a.shape), a.dtype) for a in allocs]
    for _, shape, dtype in found:
        addressable(shape, dtype)
    return found
