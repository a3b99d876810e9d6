"""From a call to its kernels in a few microseconds.

A plan says, for all sizes, which memory a compiled function needs and which steps it runs. ``bind`` fixes it for one
set of sizes; the dispatcher remembers bound plans by the exact signature of a call, so that a warm call checks its
tensors, allocates its results and enters the kernels, and does nothing else.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as fwd
from torch.utils._device import DeviceContext

from tessera import config
from tessera.diag import BoundsError, ResourceError, TesseraError
from tessera.runtime import memory
from tessera.runtime.pieces import Pieces
from tessera.runtime.pieces import plain as plain_tensor
from tessera.runtime.writes import writing

Sizes = Mapping[str, int]
Size = Callable[[Sizes], int]
Runner = Callable[[Sequence[torch.Tensor], Sequence[float]], Any]

#: Results of at least so many bytes are written past the caches: nobody reads them back before they would be evicted.
STREAM_FROM = 4 << 20
#: A kernel whose loops visit at least so many points may use threads, and OpenMP must know torch's number of them.
THREADS_FROM = 16 << 10
#: A bound plan keeps a tensor to copy for each that it allocates of up to so many bytes.
COPIED = 16 << 10
#: Bound plans kept for one function.
REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Alloc:
    """A slot that the plan allocates: an output or a temporary."""

    slot: int
    shape: tuple[Size, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class KernelStep:
    """A native kernel: its entry, the slots of its buffers, the sizes it is given, its scalars (number, is_float), the
    bytes of scratch memory that each thread needs, the bytes that it writes and the points that its loops visit.
    """

    entry: Callable[[bytes], int]
    slots: tuple[int, ...]
    sizes: tuple[Size, ...]
    scalars: tuple[tuple[int, bool], ...]
    scratch: Size
    written: Size
    work: Size
    name: str


@dataclass(frozen=True, slots=True)
class CallStep:
    """A library call: ``run(tensors, scalars, sizes)`` gives one tensor for each of ``writes``."""

    run: Callable[[Sequence[torch.Tensor], Sequence[float], Sizes], Sequence[torch.Tensor]]
    reads: tuple[int, ...]
    writes: tuple[int, ...]


#: Adds what operands give to a sum: ``add(sum, operands, scalars, sizes, first)``, where the sum begins with the first.
Add = Callable[[torch.Tensor, Sequence[torch.Tensor], Sequence[float], Sizes, bool], None]


@dataclass(frozen=True, slots=True)
class BlockStep:
    """A plan that is carried out for one block of rows after the other, ``rows`` of ``along`` at a time. It reads
    ``reads``, those in ``dense`` row by row, of those in ``cut`` the rows of the block, and the scalars with the
    numbers ``scalars``; ``block`` is its name for the number of its rows. For each of ``writes`` there are the numbers
    of outputs, and what adds them to a sum; or None, where the only one is the block of a result.
    """

    plan: Plan
    reads: tuple[int, ...]
    dense: frozenset[int]
    cut: frozenset[int]
    scalars: tuple[int, ...]
    writes: tuple[int, ...]
    parts: tuple[tuple[tuple[int, ...], Add | None], ...]
    block: str
    along: Size
    rows: Size


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled function for all sizes. Slots 0 … ``inputs`` - 1 are its tensor arguments; to those in ``updates`` its
    steps write.
    """

    inputs: int
    slots: int
    allocs: tuple[Alloc, ...]
    steps: tuple[KernelStep | CallStep | BlockStep, ...]
    outputs: tuple[int, ...]
    updates: tuple[int, ...] = ()

    def bind(self, sizes: Sizes, alone: bool = False) -> Runner:
        """The plan for one set of sizes; as the function ``bind``."""
        run = bind(self, sizes, alone)
        return writing(run, self.updates) if self.updates else run


class NoAddressError(Exception):
    """An argument has elements but no memory (a tensor that torch has not filled in, or whose storage was freed)."""


class OutdatedError(Exception):
    """What a variant read outside of the function has changed."""


def failed(code: int, name: str) -> TesseraError | ZeroDivisionError | NoAddressError:
    """The exception that a kernel's return code stands for."""
    if code == 4:
        return NoAddressError(name)
    if code & 2:
        return BoundsError("an index is out of range", notes=[f"read by kernel `{name}`"])
    return ZeroDivisionError("integer division by zero")


def bind(plan: Plan, sizes: Sizes, alone: bool = False) -> Runner:
    """The plan for one set of sizes. It gives the outputs as a list; ``alone`` asks for the only one by itself."""
    allocs = sized(plan.allocs, sizes)
    steps = [_bound(step, sizes) for step in plan.steps]
    if len(steps) == 1 and isinstance(plan.steps[0], KernelStep) and steps[0].simple:
        runner = _single(plan, plan.steps[0], allocs, sizes, alone)
        if runner is not None:
            return runner
    inputs, count, outputs = plan.inputs, plan.slots, plan.outputs
    makers = {slot: _maker(shape, dtype) for slot, shape, dtype in allocs}
    lives = [([(slot, makers[slot]) for slot in born], dead) for born, dead in lifetimes(plan)]
    large = any(step.threads for step in steps)
    needs: list[int] = []

    def run(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
        if large:
            check_storage(tensors, needs)
        slots: list[Any] = [None] * count
        slots[:inputs] = tensors
        for step, (born, dead) in zip(steps, lives, strict=True):
            for slot, make in born:
                slots[slot] = make()
            step(slots, scalars)
            for slot in dead:
                slots[slot] = None
        return [slots[o] for o in outputs]

    return (lambda tensors, scalars: run(tensors, scalars)[0]) if alone else run


def lifetimes(plan: Plan) -> list[tuple[list[int], list[int]]]:
    """For each step the slots that are allocated before it and those that nobody needs after it: what one step leaves
    is the next one's memory, which is still in a cache.
    """
    used = [step.slots if isinstance(step, KernelStep) else (*step.reads, *step.writes) for step in plan.steps]
    last = {slot: n for n, slots in enumerate(used) for slot in slots}
    waiting = {a.slot for a in plan.allocs}
    found: list[tuple[list[int], list[int]]] = []
    for n, slots in enumerate(used):
        born = [slot for slot in dict.fromkeys(slots) if slot in waiting]
        waiting.difference_update(born)
        dead = [s for s in dict.fromkeys(slots) if last[s] == n and s >= plan.inputs and s not in plan.outputs]
        found.append((born, dead))
    if waiting and found:  # an output that no step writes to: it has no elements
        found[-1][0].extend(sorted(waiting))
    return found


def _maker(shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """What allocates such a tensor. Of a small one torch parses the arguments of `empty_like` in half the time of those
    of `empty`.
    """
    if math.prod(shape) * dtype.itemsize <= COPIED:
        return partial(torch.empty_like, torch.empty(shape, dtype=dtype, device="cpu"))
    return partial(memory.empty, shape, dtype)


def sized(allocs: Sequence[Alloc], sizes: Sizes) -> list[tuple[int, tuple[int, ...], torch.dtype]]:
    """Slots, shapes and dtypes for one set of sizes. Raises ResourceError (TSR0608) for what no address reaches."""
    found = [(a.slot, tuple(f(sizes) for f in a.shape), a.dtype) for a in allocs]
    for _, shape, dtype in found:
        if math.prod(shape) * dtype.itemsize >= 2**63:
            raise ResourceError(f"a tensor of shape {list(shape)} is too large to be addressed", code="TSR0608")
    return found


@dataclass(frozen=True, slots=True)
class _BoundCall:
    step: CallStep
    sizes: Sizes
    simple: bool = False
    threads: bool = False

    def __call__(self, slots: list[Any], scalars: Sequence[float]) -> None:
        results = self.step.run([slots[s] for s in self.step.reads], scalars, self.sizes)
        for slot, value in zip(self.step.writes, results, strict=True):
            slots[slot] = value


@dataclass(frozen=True, slots=True)
class _BoundKernel:
    step: KernelStep
    pack: Callable[..., bytes]
    tail: bytes
    scratch: int
    threads: bool
    simple: bool

    def __call__(self, slots: list[Any], scalars: Sequence[float]) -> None:
        step = self.step
        if self.threads:
            torch.get_num_threads()
        hold = memory.empty((self.scratch * torch.get_num_threads(),), torch.uint8) if self.scratch else None
        pointers = [slots[s].data_ptr() for s in step.slots]
        packed = self.pack(*pointers, 0 if hold is None else hold.data_ptr()) + self.tail
        if step.scalars:
            packed += b"".join([_DOUBLE(scalars[n]) if real else _LONG(int(scalars[n])) for n, real in step.scalars])
        code = step.entry(packed)
        if code:
            raise failed(code, step.name)


class _BoundBlocks:
    """The plan of a block is bound once for whole blocks, and once more for a last one that has fewer rows."""

    simple = False
    threads = True

    def __init__(self, step: BlockStep, sizes: Sizes) -> None:
        self.step, self.sizes = step, sizes
        self.count, self.rows = step.along(sizes), max(step.rows(sizes), 1)
        lengths = {min(self.rows, self.count), self.count % self.rows} - {0}
        self.runs = {n: bind(step.plan, {**sizes, step.block: n}) for n in lengths}

    def __call__(self, slots: list[Any], scalars: Sequence[float]) -> None:
        step = self.step
        numbers = [scalars[n] for n in step.scalars]
        whole = {s: slots[s].contiguous() if s in step.dense else slots[s] for s in step.reads}
        for start in range(0, self.count, self.rows):
            rows = min(self.rows, self.count - start)
            given = [whole[s].narrow(0, start, rows) if s in step.cut else whole[s] for s in step.reads]
            made = self.runs[rows](given, numbers)
            for slot, (places, add) in zip(step.writes, step.parts, strict=True):
                if add is None:
                    slots[slot].narrow(0, start, rows).copy_(made[places[0]])
                else:
                    add(slots[slot], [made[n] for n in places], numbers, self.sizes, not start)
            del given, made  # before the next block takes its memory
        if not self.count:
            for slot in step.writes:
                slots[slot].zero_()


_DOUBLE = struct.Struct("=d").pack
_LONG = struct.Struct("=q").pack


def _bound(step: KernelStep | CallStep | BlockStep, sizes: Sizes) -> _BoundKernel | _BoundCall | _BoundBlocks:
    if isinstance(step, BlockStep):
        return _BoundBlocks(step, sizes)
    if isinstance(step, CallStep):
        return _BoundCall(step, sizes)
    written = step.written(sizes)
    mode = config.current().stream_stores
    stream = written >= STREAM_FROM if mode == "auto" else mode == "on"
    numbers = [int(stream), *(f(sizes) for f in step.sizes)]
    tail = struct.pack(f"={len(numbers)}q", *numbers)
    pack = struct.Struct(f"={len(step.slots) + 1}q").pack
    scratch = -(-step.scratch(sizes) // 64) * 64
    return _BoundKernel(step, pack, tail, scratch, step.work(sizes) >= THREADS_FROM, not (scratch or step.scalars))


def _single(
    plan: Plan, step: KernelStep, allocs: Sequence[tuple[int, tuple[int, ...], torch.dtype]], sizes: Sizes, alone: bool
) -> Runner | None:
    """The runner of a function that is one kernel with one output and no temporaries: the latency case."""
    if len(allocs) != 1 or step.slots != tuple(range(plan.inputs + 1)) or plan.outputs != (allocs[0][0],) or not alone:
        return None
    bound = _bound(step, sizes)
    assert isinstance(bound, _BoundKernel)
    _, shape, dtype = allocs[0]
    make = _maker(shape, dtype)
    pack, tail, entry, name = bound.pack, bound.tail, step.entry, step.name
    if bound.threads:
        needs: list[int] = []

        def large(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
            check_storage(tensors, needs)
            torch.get_num_threads()
            out = make()
            code = entry(pack(*[t.data_ptr() for t in tensors], out.data_ptr(), 0) + tail)
            if code:
                raise failed(code, name)
            return out

        return large
    if plan.inputs == 2:

        def pair(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
            x, y = tensors
            out = make()
            code = entry(pack(x.data_ptr(), y.data_ptr(), out.data_ptr(), 0) + tail)
            if code:
                raise failed(code, name)
            return out

        return pair

    def small(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
        out = make()
        code = entry(pack(*[t.data_ptr() for t in tensors], out.data_ptr(), 0) + tail)
        if code:
            raise failed(code, name)
        return out

    return small


def native(address: int) -> Callable[[bytes], int]:
    """The entry of a native kernel as a Python callable that takes its packed arguments. The interpreter lock is
    released.
    """
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)(address)


class Remembered:
    """A bound plan, and whether a call has used it since it was last looked at for dropping."""

    __slots__ = ("entry", "used")

    def __init__(self, entry: Any) -> None:
        self.entry = entry
        self.used = False


class Memo:
    """Bound plans by call signature. Reading takes no lock and moves nothing: who reads an entry marks it as used, and
    where one has to go the oldest that is not marked does; those that are lose their mark and count as new.
    """

    def __init__(self) -> None:
        self.entries: OrderedDict[Any, Remembered] = OrderedDict()

    def put(self, key: Any, entry: Any) -> None:
        """Remember an entry."""
        new = self.entries[key] = Remembered(entry)
        while len(self.entries) > REMEMBERED:
            try:
                oldest, found = self.entries.popitem(last=False)
            except KeyError:
                return
            if found.used or found is new:
                found.used = False
                self.entries[oldest] = found


def spanned(x: torch.Tensor) -> int:
    """The bytes from the first element of a tensor to behind its last one in memory; 0 without elements.

    >>> spanned(torch.empty(3, 4)[:, 1])
    36
    """
    if not x.numel():
        return 0
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return (last + 1) * x.itemsize


def check_storage(tensors: Sequence[torch.Tensor], needs: list[int]) -> None:
    """Raise NoAddressError where a storage has been shrunk (``untyped_storage().resize_``) below what its tensor spans.

    ``needs`` keeps the spans for calls with tensors of the same sizes and strides. It takes 0.1 µs a tensor, so kernels
    of few points go without, as torch's own do.
    """
    if any(isinstance(x, Pieces) for x in tensors):  # which were looked at when they were put together
        tensors = [x for x in tensors if not isinstance(x, Pieces)]
    if not needs:
        needs[:] = [spanned(x) for x in tensors]  # at once: other threads read it
    for x, need in zip(tensors, needs, strict=True):
        if x.untyped_storage().nbytes() < need + x.storage_offset() * x.itemsize:
            raise NoAddressError


def plain(x: torch.Tensor | Pieces) -> bool:
    """May the memory of ``x``, or of its pieces, be read through addresses, by code for its device?"""
    return x.form.plain if isinstance(x, Pieces) else plain_tensor(x)


def intercepted(device: torch.device) -> bool:
    """Is torch transforming or watching a call on this device (torch.func, a dispatch or function mode, forward
    gradients), so that addresses do not say everything?
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch._C._len_torch_function_stack() > 0 and not at_home(device))
        or fwd._current_level >= 0
    )


def at_home(device: torch.device) -> bool:
    """Do all function modes only say that tensors are made on this device (``torch.set_default_device``,
    ``with torch.device(...)``)? Compiled code makes them there anyway.
    """
    for n in range(torch._C._len_torch_function_stack()):
        mode = torch._C._get_function_stack_at(n)
        if type(mode) is not DeviceContext or mode.device.type != device.type:
            return False
        if mode.device.index not in (None, device.index):
            return False
    return True
