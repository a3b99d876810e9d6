"""What the first calls of a process cost, for one participant; the caches are those of the environment."""

from __future__ import annotations

import importlib
import time
from typing import Any

import torch

from benchmarks.job import Job

#: What counts as the imports of a participant. What it imports later, on a first call, is part of that call.
_IMPORTS = {"tessera": ("tessera",), "eager": (), "compile": (), "jax": ("jax", "jax.numpy")}


def run(job: Job) -> dict[str, Any]:
    """Seconds of the definitions and of each case's first call, in the order of the table.

    `job.peers` names the participant. The result is `{"definitions": s, "first": {case: s}}`. Making the
    arguments, and handing them to the participant, is outside of the timing.
    """
    (peer,) = job.peers
    for name in _IMPORTS[peer]:
        importlib.import_module(name)
    start = time.perf_counter()
    # The decorators prove their functions here; of a peer, nothing.
    importlib.import_module("examples.quickstart")
    definitions = time.perf_counter() - start

    from benchmarks import peers
    from benchmarks.cases import CASES

    peers.limit_threads()
    torch.randn(8).sum()
    first = {}
    for name in job.cases:
        case = CASES[name]
        call = peers.call_of(peer, case, case.make(job.quick))
        start = time.perf_counter()
        call()
        first[name] = time.perf_counter() - start
    return {"definitions": definitions if peer == "tessera" else 0.0, "first": first}
