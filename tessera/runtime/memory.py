"""A recycling pool for the larger results and temporaries on the CPU.

A fresh page costs its zeroing and a fault, several times what a memory-bound kernel spends on it. The pool
keeps the pages of tensors that torch has freed and hands them to the next tensor of their size.

A tensor is made by `torch.frombuffer` over an exporter object. Torch drops the exporter when it frees the
storage, on whatever thread that happens, and the exporter's finalizer puts the pages back. So a tensor of
the pool is an ordinary one: no base, storage of exactly its size; only growing its storage is refused,
as for every tensor whose memory torch did not allocate.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

import torch

from tessera import config

#: Tensors of fewer bytes come from torch, whose allocator recycles them well.
SMALLEST = 256 << 10

#: Blocks from this size on ask for huge pages and begin on one, in bytes.
_HUGE = 2 << 20
_PAGE = mmap.PAGESIZE


class MemoryStats(TypedDict):
    """State of the pool: `in_use`, `cached`, `trimmed`, `limit` in bytes, the others counts.

    `in_use` counts blocks that tensors hold, `cached` those waiting for the next tensor, both by the size
    of their class; `trimmed` is what was given back to the system so far.
    """

    in_use: int
    cached: int
    hits: int
    misses: int
    returned: int
    trimmed: int
    limit: int


def class_size(nbytes: int) -> int:
    """The size of the block that serves a request: at most an eighth more, in whole pages.

    There are eight classes to each doubling, so that tensors of nearly one size share blocks.

    >>> class_size(8 << 20) == 8 << 20, class_size((8 << 20) + 1) == 9 << 20
    (True, True)
    """
    step = max(_PAGE, 1 << max((nbytes - 1).bit_length() - 4, 0))
    return -(-nbytes // step) * step


class _Block:
    """Pages of one class. They go back to the system when the block is dropped."""

    __slots__ = ("address", "exporter", "mapping", "pool", "size")

    def __init__(self, pool: Pool, size: int, exporter: type[_Exporter]) -> None:
        """Map `size` bytes, on a huge page where they fill one; raises OSError when the system has none."""
        slack = _HUGE if size >= _HUGE else 0
        # Private: a forked child gets copies of the pages, not a share in them.
        self.mapping = mmap.mmap(-1, size + slack, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.pool = pool
        self.size = size
        self.exporter = exporter
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
        self.address = -(-start // _HUGE) * _HUGE if slack else start
        if slack and hasattr(mmap, "MADV_HUGEPAGE"):
            # Only whole huge pages, or the last one would make more memory resident than was asked for.
            self.mapping.madvise(mmap.MADV_HUGEPAGE, self.address - start, size // _HUGE * _HUGE)


class _Exporter(ctypes.Array[ctypes.c_char]):
    """What a tensor holds on to: the buffer of a block, which goes back to the pool with the tensor."""

    _type_ = ctypes.c_char
    _length_ = 0
    block: _Block | None = None

    def __del__(self) -> None:
        block = self.block
        if block is not None:
            block.pool.give_back(block)


class Pool:
    """Recycled memory for CPU tensors, safe between threads, in finalizers, after a fork and at exit.

    `limit` bounds the bytes kept while nobody uses them; the longest unused go first. Blocks come back
    through a queue that needs no lock, because a finalizer may run anywhere, even inside an allocation of
    the same thread.

    >>> pool = Pool(limit=64 << 20)
    >>> first = pool.empty((1024, 1024), torch.float32)
    >>> place = first.data_ptr()
    >>> del first
    >>> pool.empty((1024, 1024), torch.float32).data_ptr() == place
    True
    """

    def __init__(self, limit: int, *, enabled: bool = True) -> None:
        self.limit = limit
        self.enabled = enabled
        self._returns: deque[_Block] = deque()
        self._in_use = self._hits = self._misses = self._returned = self._trimmed = 0
        self._exporters: dict[int, type[_Exporter]] = {}
        self._start_empty()
        _pools.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.RLock()
        self._busy = False
        self._free: dict[int, list[_Block]] = {}
        # The same blocks, the longest unused first.
        self._idle: OrderedDict[_Block, None] = OrderedDict()
        self._cached = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous CPU tensor with undefined contents, like `torch.empty`.

        Tensors below 256 KiB and everything the pool cannot serve come from `torch.empty`, with its errors.
        """
        count = math.prod(shape)
        size = count * dtype.itemsize
        if size < SMALLEST or not self.enabled:
            return torch.empty(shape, dtype=dtype, device="cpu")
        block = self._take(class_size(size))
        if block is None:
            return torch.empty(shape, dtype=dtype, device="cpu")
        exporter = block.exporter.from_address(block.address)
        exporter.block = block
        try:
            # `resize_` to the number of elements there are only sets sizes: a view would keep a base.
            return torch.frombuffer(exporter, dtype=dtype, count=count).resize_(shape)
        except RuntimeError:
            # A dtype that buffers cannot have, or two negative sizes: torch knows what to say.
            return torch.empty(shape, dtype=dtype, device="cpu")

    def _take(self, size: int) -> _Block | None:
        """A block of a class, idle or new; None when there is no memory or this thread is already here."""
        with self._lock:
            if self._busy:
                return None
            self._busy = True
            try:
                if self._returns:
                    self._settle()
                waiting = self._free.get(size)
                if waiting:
                    block = waiting.pop()
                    del self._idle[block]
                    self._cached -= size
                    self._hits += 1
                else:
                    block = self._map(size)
                    self._misses += 1
                self._in_use += size
            except (OSError, OverflowError, ValueError):
                return None
            finally:
                self._busy = False
        if self._returns:
            self._settle_now()
        return block

    def _map(self, size: int) -> _Block:
        exporter = self._exporters.get(size)
        if exporter is None:
            exporter = type("_Exporter", (_Exporter,), {"_length_": size})
            self._exporters[size] = exporter
        try:
            return _Block(self, size, exporter)
        except OSError:
            self._drop(self._cached)
            return _Block(self, size, exporter)

    def give_back(self, block: _Block) -> None:
        """Take a block that no tensor uses any more; never waits."""
        self._returns.append(block)
        self._settle_now()

    def _settle_now(self) -> None:
        """Sort in what has come back, unless somebody is at work here, who does it on leaving."""
        while self._returns and self._lock.acquire(blocking=False):
            try:
                if self._busy:
                    return
                self._busy = True
                try:
                    self._settle()
                finally:
                    self._busy = False
            finally:
                self._lock.release()

    def _settle(self) -> None:
        returns = self._returns
        while returns:
            block = returns.popleft()
            size = block.size
            self._in_use -= size
            self._returned += 1
            self._cached += size
            self._free.setdefault(size, []).append(block)
            self._idle[block] = None
        if self._cached > self.limit:
            self._drop(self._cached - self.limit)

    def _drop(self, nbytes: int) -> int:
        """Give at least so many idle bytes back to the system, as far as there are any."""
        dropped = 0
        while dropped < nbytes and self._idle:
            block, _ = self._idle.popitem(last=False)
            self._free[block.size].remove(block)
            dropped += block.size
        self._cached -= dropped
        self._trimmed += dropped
        return dropped

    def trim(self) -> int:
        """Give all idle memory back to the system; how many bytes that were."""
        self._settle_now()
        with self._lock:
            if self._busy:
                return 0
            return self._drop(self._cached)

    def stats(self) -> MemoryStats:
        """The state of the pool now."""
        self._settle_now()
        with self._lock:
            return MemoryStats(
                in_use=self._in_use,
                cached=self._cached,
                hits=self._hits,
                misses=self._misses,
                returned=self._returned,
                trimmed=self._trimmed,
                limit=self.limit,
            )

    def after_fork(self) -> None:
        """In a child: no idle blocks, a lock of its own; inherited tensors keep their copied pages."""
        self._in_use -= sum(block.size for block in self._returns)
        self._returns.clear()
        self._start_empty()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool.after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _memory_size() -> int:
    """Bytes of memory this process may count on: the machine's, or its control group's where less."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return size
    return min(size, int(text)) if text.isdigit() else size


@lru_cache(maxsize=1)
def default_pool() -> Pool:
    """The pool of this process, as TESSERA_POOL and TESSERA_POOL_LIMIT say; an eighth of memory at most."""
    settings = config.current()
    limit = settings.pool_limit
    return Pool(_memory_size() // 8 if limit is None else limit, enabled=settings.pool)


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A CPU tensor with undefined contents, from the pool of this process when it is large enough.

    >>> empty((512, 1024), torch.float32).shape
    torch.Size([512, 1024])
    """
    return default_pool().empty(shape, dtype)


def memory_stats() -> MemoryStats:
    """State of this process's pool: bytes in use, cached, trimmed and allowed; hits, misses, returns.

    >>> sorted(memory_stats())
    ['cached', 'hits', 'in_use', 'limit', 'misses', 'returned', 'trimmed']
    """
    return default_pool().stats()


def trim() -> int:
    """Give the idle memory of this process's pool back to the system; how many bytes that were."""
    return default_pool().trim()
