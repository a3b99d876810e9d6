"""The processor this process runs on, as a `Target`."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tessera.backends.base import Target

#: Feature names that plans and emitters ask for, and how processors and systems spell them.
_SPELLINGS = {
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512dq": "avx512dq",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16",
    "bf16": "bf16",
    "sve": "sve",
}


@lru_cache(maxsize=1)
def host_target() -> Target:
    """The host as a target: features, vector width and cache sizes in bytes, usable processors.

    >>> host_target().kind
    'cpu'
    >>> host_target().vector in (16, 32, 64)
    True
    """
    return _host(_cpuinfo(), Path("/sys/devices/system/cpu/cpu0/cache"))


@lru_cache(maxsize=1)
def cpu_identity() -> str:
    """A digest of everything `-march=native` looks at: code made under another one may not run here."""
    flags, model = _cpuinfo()
    text = "\n".join([platform.machine(), platform.system(), model, *sorted(flags)])
    return hashlib.sha256(text.encode()).hexdigest()


def _host(info: tuple[frozenset[str], str], cache_folder: Path) -> Target:
    flags, _ = info
    machine = platform.machine().lower()
    features = {_SPELLINGS[flag] for flag in flags if flag in _SPELLINGS}
    if machine in ("arm64", "aarch64"):
        features.add("neon")
    vector = 64 if "avx512f" in features else 32 if "avx2" in features else 16
    sizes = _cache_sizes(cache_folder)
    return Target(
        "cpu",
        machine,
        tuple(sorted(features)),
        vector=vector,
        threads=_usable_processors(),
        l1=sizes.get(1, 32 << 10),
        l2=sizes.get(2, 1 << 20),
        l3=sizes.get(3, 0),
    )


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo(path: Path = Path("/proc/cpuinfo")) -> tuple[frozenset[str], str]:
    """Feature flags of the first processor and its model name; empty where the system tells neither."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset(), platform.processor()
    first = text.split("\n\n", 1)[0]
    fields = dict(_field(line) for line in first.splitlines() if ":" in line)
    flags = fields.get("flags") or fields.get("Features") or ""
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "CPU implementer", "CPU part")
    return frozenset(flags.split()), "|".join(fields.get(name, "") for name in names)


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


@dataclass(frozen=True, slots=True)
class _Cache:
    level: int
    kind: str
    size: int


def _cache_sizes(folder: Path) -> dict[int, int]:
    """Bytes of data cache by level, as the Linux kernel reports them."""
    caches = [_read_cache(index) for index in sorted(folder.glob("index*"))]
    return {c.level: c.size for c in caches if c is not None and c.kind in ("Data", "Unified")}


def _read_cache(index: Path) -> _Cache | None:
    try:
        level = int((index / "level").read_text())
        kind = (index / "type").read_text().strip()
        size = re.fullmatch(r"(\d+)([KMG]?)", (index / "size").read_text().strip())
    except (OSError, ValueError):
        return None
    if size is None:
        return None
    return _Cache(level, kind, int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]])
