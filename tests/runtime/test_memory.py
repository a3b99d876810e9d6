"""The memory pool: tensors that are like any others, whose memory is used again."""

from __future__ import annotations

import copy
import gc
import io
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera import config
from tessera.runtime import memory
from tessera.runtime.memory import SMALLEST, Pool, class_size
from tests.runtime import forking

MIB = 1 << 20
SHAPE = (512, 1024)
BYTES = 512 * 1024 * 4

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64,
    torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.fixture
def pool() -> Pool:
    return Pool(limit=1 << 30)


def make(pool: Pool, nbytes: int = BYTES) -> torch.Tensor:
    return pool.empty((nbytes,), torch.uint8)


def test_freed_memory_is_used_again(pool: Pool) -> None:
    first = pool.empty(SHAPE, torch.float32)
    place = first.data_ptr()
    assert pool.stats()["in_use"] == BYTES and pool.stats()["misses"] == 1
    del first
    assert pool.stats() == {
        "in_use": 0,
        "cached": BYTES,
        "hits": 0,
        "misses": 1,
        "returned": 1,
        "trimmed": 0,
        "limit": 1 << 30,
    }
    again = pool.empty((1024, 1024), torch.int16)
    assert again.data_ptr() == place
    assert pool.stats()["hits"] == 1 and pool.stats()["cached"] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1024, 512), (1 << 19,), (2, 1, 4, 65536), (999, 701)])
def test_tensors_are_ordinary(pool: Pool, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor, reference = pool.empty(shape, dtype), torch.empty(shape, dtype=dtype)
    assert tensor.shape == reference.shape and tensor.stride() == reference.stride()
    assert tensor.dtype == dtype and tensor.device.type == "cpu" and tensor.is_contiguous()
    assert tensor._base is None and tensor.is_leaf and not tensor.requires_grad
    assert tensor.storage_offset() == 0 and tensor.data_ptr() % 64 == 0
    assert tensor.untyped_storage().nbytes() == reference.untyped_storage().nbytes()
    if reference.untyped_storage().nbytes() >= SMALLEST:
        assert pool.stats()["misses"] == 1


def test_what_torch_serves(pool: Pool) -> None:
    for shape in ((), (0,), (0, 1 << 40), (1 << 15,), (3, 0, 5)):
        assert pool.empty(shape, torch.float32).shape == shape
    assert Pool(1 << 30, enabled=False).empty(SHAPE, torch.float32).shape == SHAPE
    assert pool.stats()["misses"] == 0


@pytest.mark.parametrize("shape", [(1 << 61,), (1 << 40, 1 << 40), (1 << 45,), (-1 << 20, -4), (-5,)])
def test_errors_are_those_of_torch(pool: Pool, shape: tuple[int, ...]) -> None:
    with pytest.raises(Exception) as expected:
        torch.empty(shape, dtype=torch.float32)
    with pytest.raises(expected.type) as caught:
        pool.empty(shape, torch.float32)
    assert str(caught.value) == str(expected.value)
    del caught, expected  # their tracebacks hold the frames
    gc.collect()
    assert pool.stats()["in_use"] == 0


def test_writes_stay_inside(pool: Pool) -> None:
    tensors = [pool.empty((70_001 + n,), torch.float32).fill_(n) for n in range(20)]
    assert all(bool((tensor == n).all()) for n, tensor in enumerate(tensors))


def test_storages_and_views_keep_the_memory(pool: Pool) -> None:
    tensor = pool.empty(SHAPE, torch.float32).fill_(7)
    row, storage, array = tensor[3], tensor.untyped_storage(), tensor.numpy()
    del tensor
    assert pool.stats()["in_use"] == BYTES
    del row, storage
    assert pool.stats()["in_use"] == BYTES and float(array[0, 0]) == 7
    del array
    assert pool.stats()["in_use"] == 0


def test_torch_functions(pool: Pool) -> None:
    tensor = pool.empty(SHAPE, torch.float32)
    tensor.copy_(torch.arange(512 * 1024).view(SHAPE))
    stream = io.BytesIO()
    torch.save(tensor, stream)
    assert len(stream.getvalue()) < BYTES + 8192
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=True), tensor)
    assert torch.equal(copy.deepcopy(tensor), tensor)
    assert torch.equal(torch.from_dlpack(tensor), tensor)
    expected = tensor.clone()
    tensor.share_memory_()
    assert tensor.is_shared() and torch.equal(tensor, expected)
    assert pool.stats()["in_use"] == 0  # the values moved to shared memory


def test_gradients(pool: Pool) -> None:
    tensor = pool.empty(SHAPE, torch.float32).fill_(3).requires_grad_()
    (tensor * tensor).sum().backward()
    assert tensor.grad is not None and float(tensor.grad[0, 0]) == 6
    with torch.inference_mode():
        assert pool.empty(SHAPE, torch.float32).is_inference()


def test_growing_the_storage_is_refused(pool: Pool) -> None:
    tensor = pool.empty(SHAPE, torch.float32)
    assert tensor.resize_(1024, 512).shape == (1024, 512)
    assert tensor.resize_(10, 10).shape == (10, 10)
    with pytest.raises(RuntimeError, match="not resizable"):
        pool.empty(SHAPE, torch.float32).resize_(1024, 1024)


def test_idle_memory_is_bounded() -> None:
    pool = Pool(limit=5 * MIB)
    tensors = [make(pool, MIB) for _ in range(10)]
    assert pool.stats()["in_use"] == 10 * MIB
    places = [tensor.data_ptr() for tensor in tensors]
    while tensors:
        del tensors[0]
    assert (pool.stats()["cached"], pool.stats()["trimmed"]) == (5 * MIB, 5 * MIB)
    assert {make(pool, MIB).data_ptr()} <= set(places[5:])
    large = make(pool, 6 * MIB)
    del large
    stats = pool.stats()
    assert stats["cached"] <= 5 * MIB and stats["in_use"] == 0


def test_the_longest_unused_go_first() -> None:
    pool = Pool(limit=4 * MIB)
    old, young = make(pool, 2 * MIB), make(pool, MIB)
    del old, young
    place = make(pool, 2 * MIB).data_ptr()  # used again: now the youngest
    other = make(pool, 2 * MIB), make(pool, 3 * MIB // 2)
    del other
    assert pool.stats()["cached"] <= 4 * MIB
    assert pool._free[MIB] == [] and place


def test_trim(pool: Pool) -> None:
    keep, freed = make(pool), make(pool)
    del freed
    assert pool.trim() == BYTES
    assert pool.stats()["cached"] == 0 and pool.stats()["in_use"] == BYTES
    assert keep.numel() == BYTES


def test_no_memory_first_trims_then_asks_torch(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    freed = make(pool)
    del freed
    real, failures = memory._Block, [1]

    def scarce(*arguments: object) -> memory._Block:
        if failures and pool.stats and pool._cached:
            raise OSError(12, "no memory")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(memory, "_Block", scarce)
    assert make(pool, 8 * MIB).numel() == 8 * MIB
    assert pool.stats()["trimmed"] == BYTES

    def none(*_: object) -> memory._Block:
        raise OSError(12, "no memory")

    monkeypatch.setattr(memory, "_Block", none)
    assert make(pool, 16 * MIB).numel() == 16 * MIB
    assert pool.stats()["in_use"] == 0


@given(st.integers(SMALLEST, 1 << 40))
def test_classes_are_close_and_settled(nbytes: int) -> None:
    size = class_size(nbytes)
    assert nbytes <= size <= nbytes * 1.125 + 4096 and size % 4096 == 0
    assert class_size(size) == size


def test_a_finalizer_that_allocates_inside_an_allocation(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage collection may run anywhere; here it runs while the pool is taking a block."""
    seen: list[int] = []

    class Greedy:
        def __init__(self) -> None:
            self.tensor = make(pool)
            self.me = self

        def __del__(self) -> None:
            seen.append(make(pool).numel())

    real = memory._Block

    def collecting(*arguments: object) -> memory._Block:
        gc.collect()
        return real(*arguments)  # type: ignore[arg-type]

    Greedy()
    monkeypatch.setattr(memory, "_Block", collecting)
    tensor = make(pool, 9 * MIB)
    assert seen == [BYTES]
    del tensor
    stats = pool.stats()
    assert (stats["in_use"], stats["cached"]) == (0, BYTES + 9 * MIB)


def test_sixteen_threads(pool: Pool) -> None:
    errors: list[str] = []
    handed: list[torch.Tensor] = []  # freed on another thread than the one that made it

    def work(number: int) -> None:
        for turn in range(60):
            tensor = pool.empty((SMALLEST + 4096 * (turn % 5),), torch.uint8)
            tensor[:64] = number
            handed.append(tensor)
            if len(handed) > 8:
                handed.pop(0)
            if bool((tensor[:64] != number).any()):
                errors.append(f"thread {number} lost its block")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handed.clear()
    stats = pool.stats()
    assert errors == []
    assert stats["in_use"] == 0 and stats["hits"] + stats["misses"] == stats["returned"] == 16 * 60
    assert stats["cached"] == sum(size * len(blocks) for size, blocks in pool._free.items())


def test_a_forked_child_has_a_pool_of_its_own(pool: Pool) -> None:
    """Only parts small enough for one thread are touched: torch's own threads do not survive a fork."""
    kept, idle = make(pool), make(pool)
    kept[:1000] = 5
    del idle

    def child() -> None:
        assert pool.stats()["cached"] == 0
        assert kept[:1000].tolist() == [5] * 1000
        kept[:1000] = 9
        fresh = make(pool)
        fresh[:1000] = 1
        del fresh
        assert make(pool).numel() == BYTES and pool.stats()["hits"] == 1

    assert forking.run(child) == 0
    assert kept[:1000].tolist() == [5] * 1000
    assert pool.stats()["cached"] == BYTES


def test_a_child_frees_what_it_inherited(pool: Pool) -> None:
    held = [make(pool)]

    def child() -> None:
        held.clear()
        assert pool.stats()["in_use"] == 0
        assert pool.stats()["cached"] == BYTES

    assert forking.run(child) == 0
    assert pool.stats()["in_use"] == BYTES


def test_a_fork_while_the_lock_is_held(pool: Pool) -> None:
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            taken.set()
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    try:
        assert forking.run(lambda: make(pool)[:10].tolist() and None, limit=20) == 0
    finally:
        release.set()
        holder.join()


EXIT = """
import torch, threading, sys, gc
from tessera.runtime import memory
class Keeper:
    def __init__(self): self.tensor = memory.empty((1 << 20,), torch.float32)
    def __del__(self): memory.empty((1 << 20,), torch.float32)
sys.keeper = Keeper()
kept = memory.empty((1 << 20,), torch.float32)
cycle = [memory.empty((1 << 20,), torch.float32)]
cycle.append(cycle)
leaf = memory.empty((1 << 20,), torch.float32).fill_(1).requires_grad_()
loss = (leaf * 2).sum()
loss.backward()
threading.Thread(target=lambda: sys.modules.update(other=memory.empty((1 << 20,), torch.float32))).start()
print("end")
"""


def test_the_end_of_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_the_configured_pool() -> None:
    memory.default_pool.cache_clear()
    try:
        with config.override(pool=False, pool_limit="2MiB"):
            assert memory.empty(SHAPE, torch.float32).shape == SHAPE
        assert memory.memory_stats()["misses"] == 0 and memory.memory_stats()["limit"] == 2 * MIB
        assert memory.trim() == 0
    finally:
        memory.default_pool.cache_clear()
