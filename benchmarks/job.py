"""One measured section in a process of its own: what the parent asks for, and how it is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tessera.driver.progress import shown

ROOT = Path(__file__).resolve().parent.parent
THREADS = 2

#: Allocation modes: what is added to the environment of a section.
MODES: Mapping[str, Mapping[str, str]] = {
    "installed": {},
    "recycled": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"},
}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """What a section is to measure; plain data, so that it travels as JSON.

    `peers` are names of `stats.PEERS`, `cases` names of `cases.CASES`. `label` names the section on the
    progress bar.
    """

    section: str
    label: str
    cases: tuple[str, ...]
    peers: tuple[str, ...]
    quick: bool = False
    rounds: int = 25

    def dumps(self) -> str:
        """The job as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def loads(text: str) -> Job:
        """The job of a JSON text; raises ValueError or TypeError for anything else."""
        data = json.loads(text)
        return Job(**{**data, "cases": tuple(data["cases"]), "peers": tuple(data["peers"])})

    def only(self, *peers: str) -> Job:
        """The same job for fewer peers."""
        return replace(self, peers=tuple(peers))


class SectionError(RuntimeError):
    """A section ended without a result."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a section: two threads, no allocation settings, the tree on the path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    env.update(dict.fromkeys(_THREAD_VARIABLES, str(THREADS)))
    env.update(JAX_PLATFORMS="cpu", TESSERA_PROGRESS="on" if shown() else "off", PYTHONUNBUFFERED="1")
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return {**env, **extra}


def once_more(mode: str, module: str, arguments: Sequence[str]) -> int | None:
    """The status of this very run in a process that allocates as the mode says; None where this one does already."""
    wanted = MODES[mode]
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return None
    return subprocess.run([sys.executable, "-m", module, *arguments], env=environment(wanted), check=False).returncode


def cache_environment(folder: Path) -> dict[str, str]:
    """Every compiler's cache below one private folder."""
    for name in ("tessera", "inductor", "jax"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    return {
        "TESSERA_CACHE_DIR": str(folder / "tessera"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def run(job: Job, extra: Mapping[str, str]) -> dict[str, Any]:
    """Run a job in a fresh interpreter and give its result; raises SectionError, its last lines first."""
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.child", job.dumps(), str(out)]
        log = Path(folder) / "log"
        with log.open("w") as stream:
            # What libraries print goes to the log; a progress bar needs the terminal.
            errors = None if shown() else stream
            done = subprocess.run(command, env=environment(extra), stdout=stream, stderr=errors, check=False)
        if done.returncode or not out.exists():
            said = log.read_text(errors="replace").strip().splitlines()[-20:]
            raise SectionError("\n".join([f"status {done.returncode}", *reversed(said)]))
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return result
