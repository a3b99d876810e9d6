"""Kernels run on the OpenMP runtime and the threads that torch has, and survive a fork."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tessera.backends.c import openmp
from tessera.backends.c.load import SharedObject, load_shared
from tessera.backends.c.toolchain import compile_shared
from tests.runtime import forking

SOURCE = """
__attribute__((visibility("default"))) int team(void) {
  int members = 0;
  #pragma omp parallel
  {
    #pragma omp atomic
    members++;
  }
  return members;
}
__attribute__((visibility("default"))) int sum(const float* x, float* y, long n) {
  #pragma omp parallel for schedule(static)
  for (long i = 0; i < n; i++) y[i] = x[i] + 1.0f;
  return 0;
}
"""

pytestmark = pytest.mark.skipif(openmp.loaded() is None, reason="this torch has no OpenMP runtime")


@pytest.fixture(scope="module")
def kernel() -> SharedObject:
    return load_shared(compile_shared(SOURCE, openmp=openmp.loaded()), "team")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def mapped_runtimes() -> set[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    return {path for path in paths if re.search(r"lib[gi]?omp\w*[-.]", Path(path).name)}


def test_one_runtime_in_the_process(kernel: SharedObject) -> None:
    found = openmp.loaded()
    assert found is not None
    assert kernel.entry("team")() == torch.get_num_threads()
    assert {os.path.realpath(path) for path in mapped_runtimes()} == {os.path.realpath(found.path)}


def test_torch_sets_the_number_of_threads(kernel: SharedObject, threads: None) -> None:
    for count in (1, 3, 2):
        torch.set_num_threads(count)
        assert kernel.entry("team")() == torch.get_num_threads() == count


def test_threads_of_other_python_threads(kernel: SharedObject, threads: None) -> None:
    """The number belongs to a thread in OpenMP; asking torch, as a call does, carries it over."""
    torch.set_num_threads(3)
    seen: list[int] = []

    def work() -> None:
        torch.get_num_threads()
        seen.append(int(str(kernel.entry("team")())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [3]


def test_a_fork_after_parallel_work_does_not_hang(kernel: SharedObject) -> None:
    parent = kernel.entry("team")()

    def child() -> None:
        assert kernel.entry("team")() == 1
        assert torch.get_num_threads() == 1
        assert torch.ones(1 << 20).add(1).sum().item() == 2 << 20

    assert forking.run(child) == 0
    assert kernel.entry("team")() == parent


def test_forked_children_of_a_thread_do_not_hang(kernel: SharedObject) -> None:
    codes: list[int] = []

    def work() -> None:
        torch.get_num_threads()
        kernel.entry("team")()
        codes.append(forking.run(lambda: None if kernel.entry("team")() == 1 else os._exit(3)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0]


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    """Rows that are computed by a kernel, in whatever process asks for them."""

    def __init__(self, kernel: SharedObject) -> None:
        self.kernel = kernel

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        x = torch.full((1 << 16,), float(index))
        y = torch.empty_like(x)
        add_one(self.kernel, x, y)
        return y[:4]


def add_one(kernel: SharedObject, x: torch.Tensor, y: torch.Tensor) -> None:
    kernel.entry("sum")(
        ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()), ctypes.c_long(x.numel())
    )


def test_kernels_in_the_workers_of_a_data_loader(kernel: SharedObject) -> None:
    rows = Rows(kernel)
    first = rows[0]  # the parent's threads exist before the workers are forked
    loader = torch.utils.data.DataLoader(rows, batch_size=2, num_workers=2, timeout=60)
    batches = torch.cat(list(loader))
    assert torch.equal(batches[0], first)
    assert batches[:, 0].tolist() == [float(index + 1) for index in range(8)]


def test_sixteen_threads_share_one_kernel(kernel: SharedObject) -> None:
    x = torch.arange(1 << 15, dtype=torch.float32)
    results: list[bool] = []

    def work() -> None:
        for _ in range(10):
            y = torch.empty_like(x)
            add_one(kernel, x, y)
            results.append(bool(torch.equal(y, x + 1)))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 160


def test_a_serial_kernel_needs_no_runtime() -> None:
    data = compile_shared(SOURCE, openmp=None)
    assert load_shared(data, "serial", parallel=False).entry("team")() == 1


def test_only_matching_runtimes_are_linked() -> None:
    gomp, omp = openmp.OpenMP(__file__, "gomp"), openmp.OpenMP(__file__, "omp")
    assert gomp.serves("gcc") and omp.serves("gcc") and omp.serves("clang")
    assert not gomp.serves("clang") and not omp.serves("other")
