"""All of `benchmarks.gpu` without a GPU: Triton's interpreter in the place of the device, nothing compiled for peers.

`python -m benchmarks.gpu --dry` starts it, with TRITON_INTERPRET=1 in the environment. The numbers mean nothing.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks import gpu, peers
from tessera.driver import devices
from tests.backends import triton_device, triton_shim


def _unchanged(function: Any) -> Any:
    return function


def _seconds(call: peers.Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) * 1e3


DRY = gpu.Place("cpu", _unchanged, _seconds, lambda: {"device": "none", "target": "cuda:90"}, lambda: None)


def main() -> int:
    """Run as the command line says."""
    triton_shim.install()
    devices.ACCELERATORS["cpu"] = triton_device.interpreted()
    gpu.BATCH_MS, gpu.CASE_MS, gpu.LEAST_ROUNDS = 0.0, 0.0, 1
    return gpu.report(gpu.options(None), DRY)


if __name__ == "__main__":
    sys.exit(main())
