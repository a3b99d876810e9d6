"""What a result was measured on: processor, memory, versions, commit; no names of hosts, users or folders."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Features that decide what the kernels look like.
_FEATURES = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
    "bf16",
    "i8mm",
)
_PACKAGES = ("torch", "jax", "jaxlib", "numpy", "triton")


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def describe() -> dict[str, str | int | float]:
    """The processor, how many cores this process may use, its features, its caches, and the memory in GiB."""
    text = _cpuinfo()
    flags = set((_field(text, "flags") or _field(text, "Features")).split())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "processor": _field(text, "model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": usable,
        "features": " ".join(name for name in _FEATURES if name in flags),
        "cache": _field(text, "cache size"),
        "memory_gib": _memory(),
        "system": platform.system(),
    }


def load() -> float:
    """How many processes were running or waiting in the last minute; 0 where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def _memory() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return 0.0


def versions() -> dict[str, str]:
    """Python, the C compiler and the packages that take part; those that are missing are left out."""
    found = {"python": platform.python_version(), "compiler": _compiler()}
    for name in (*_PACKAGES, "tessera-dsl"):
        if importlib.util.find_spec("tessera" if name == "tessera-dsl" else name) is None:
            continue
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {name: version for name, version in found.items() if version}


def _compiler() -> str:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return _first_line([compiler, "--version"]) if compiler else ""


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(done.stdout.splitlines()), "")


def commit() -> str:
    """The commit of the tree, with a `+` when files that git follows have changed; empty outside of git."""
    head = _first_line(["git", "rev-parse", "--short=12", "HEAD"])
    changed = _first_line(["git", "status", "--porcelain", "--untracked-files=no"])
    return head + ("+" if head and changed else "")


def heading(section: str, quick: bool, load: float) -> dict[str, Any]:
    """What a result file of one section begins with: what was run, when, and on what."""
    return {
        "section": section, "date": datetime.date.today().isoformat(), "quick": quick, "commit": commit(),
        "load": load, "machine": describe(), "versions": versions(),
    }  # fmt: skip
