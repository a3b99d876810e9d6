"""Compiling ahead of time, without a GPU: the parent's side of the worker, and the artifact that comes of
it.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import selectors
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tessera import config
from tessera.backends.base import Json, Loaded, Packed, Stage
from tessera.backends.triton.report import amd_resources, cuda_resources
from tessera.backends.triton.source import Bound, TritonSource
from tessera.diag import ResourceError

#: Seconds that one request may take.
PATIENCE = 300.0


def available() -> bool:
    """Whether Triton is installed; nothing is imported."""
    return importlib.util.find_spec("triton") is not None


@dataclass
class Worker:
    """A compiling process, started when first needed and again after it died. Safe to use from several
    threads.
    """

    _process: subprocess.Popen[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's reply. Raises ResourceError (TSR0607) when it died, took too long, or could not read
        the text.
        """
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                line = self._line(process)
            except OSError as e:
                line, why = "", str(e)
            else:
                why = "it ended" if process.poll() is not None else "it did not answer in time"
            if not line:
                self._stop()
                raise ResourceError(f"the Triton compiler process failed: {why}", code="TSR0607")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ResourceError(f"Triton refused the kernel: {reply['error']}", code="TSR0607")
        return reply

    def _started(self) -> subprocess.Popen[str]:
        if not available():
            raise ResourceError("Triton is not installed", code="TSR0607", helps=["pip install triton"])
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
                env=config.child_environment(),
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            return process.stdout.readline() if ready.select(PATIENCE) else ""

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
        self._process = None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()


@dataclass(frozen=True)
class CompiledNest:
    """One launch compiled: its configuration, its stages, its binary, what it uses, or why it could not be
    compiled.
    """

    bound: Bound
    signature: Mapping[str, str]
    name: str
    stages: Mapping[str, str] = field(repr=False)
    binary: bytes = field(repr=False)
    resources: Mapping[str, int]


@dataclass(frozen=True)
class TritonArtifact:
    """A kernel compiled for one target and one choice of blocks and alignments."""

    source: TritonSource
    target: str
    version: str
    nests: tuple[CompiledNest, ...]

    @cached_property
    def key(self) -> str:
        shape = [
            [n.bound.function.name, dict(n.signature), n.bound.constants, *n.bound.options] for n in self.nests
        ]
        text = json.dumps([self.source.text, self.target, self.version, shape], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def kind(self) -> str:
        return "triton"

    @property
    def sources(self) -> tuple[Stage, ...]:
        """The Triton text, then the compiler's stages of each launch, such as ``nest0_hold.ptx``."""
        stages = [Stage("triton", self.source.text)]
        for nest in self.nests:
            stages += [Stage(f"{nest.bound.function.name}.{name}", text) for name, text in nest.stages.items()]
        return tuple(stages)

    @property
    def resources(self) -> Mapping[str, Json]:
        """By function: registers, spills and shared memory in bytes, access widths, instructions; and the
        launches.
        """
        found: dict[str, Json] = {n.bound.function.name: dict(n.resources) for n in self.nests}
        found["launches"] = len(self.nests)
        return found

    def pack(self) -> Packed:
        payloads = {f"{n.bound.function.name}.bin": n.binary for n in self.nests}
        payloads["triton.py"] = self.source.text.encode()
        metadata: dict[str, Json] = {
            "target": self.target,
            "version": self.version,
            "resources": dict(self.resources),
            "entries": [[n.bound.function.name, n.name, n.bound.config.warps] for n in self.nests],
        }
        return Packed(self.key, self.kind, payloads, metadata)

    def load(self) -> Loaded:
        """Raises ResourceError (TSR0607): launches go through ``launch.Launcher``, which compiles on the
        machine itself.
        """
        raise ResourceError(f"code for `{self.target}` is loaded by a launcher on that device", code="TSR0607")


_SHARED = Worker()


def compile_aot(
    source: TritonSource,
    target: str,
    bound: Sequence[Bound],
    aligned: frozenset[int] | None = None,
    worker: Worker = _SHARED,
) -> TritonArtifact:
    """Compile launches (see ``TritonSource.bind``) for "cuda:80", "cuda:90", "hip:gfx942" and the like.

    ``aligned`` are the numbers of the buffers whose address is known to be a multiple of 16; None means all.
    Raises ResourceError (TSR0607) when Triton is missing or refuses.
    """
    every = frozenset(range(len(source.dtypes))) if aligned is None else aligned
    bound = [b.at(every) for b in bound]
    signatures = [b.signature(every) for b in bound]
    jobs = [
        {
            "function": b.function.name,
            "signature": s,
            "constants": b.constants,
            "options": b.options,
        }
        for b, s in zip(bound, signatures, strict=True)
    ]
    reply = worker.ask({"text": source.text, "target": target, "jobs": jobs})
    nests = []
    for b, s, r in zip(bound, signatures, reply["results"], strict=True):
        if "error" in r:
            raise ResourceError(f"Triton refused `{b.function.name}` for {target}: {r['error']}", code="TSR0607")
        nests.append(CompiledNest(b, s, r["name"], r["stages"], base64.b64decode(r["binary"]), _resources(r, target)))
    return TritonArtifact(source, target, reply["version"], tuple(nests))


def _resources(result: Mapping[str, Any], target: str) -> dict[str, int]:
    stages: Mapping[str, str] = result["stages"]
    if target.startswith("hip"):
        return amd_resources(stages["amdgcn"], result["shared"])
    return cuda_resources(result["log"], result["usage"], stages.get("sass", ""), result["shared"])
