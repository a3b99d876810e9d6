"""Decorated calls through the dispatch for GPUs: everything real but the compiler and the driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tessera.backends.triton.aot import available
from tests.backends.triton_runs import HERE

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")


def test_calls_give_what_eager_gives() -> None:
    """In a process of its own: interpreting and compiling never meet in one."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "triton_dispatch.py")]
    done = subprocess.run(command, env=environment, check=True, timeout=280, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    assert len(found) > 20
    assert {name: said for name, said in found.items() if said} == {}
