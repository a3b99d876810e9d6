"""The processor this process runs on, as a `Target`."""

from __future__ import annotations

import hashlib
import platform
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
    """The host as a target: its architecture and the features of its processor.

    >>> host_target().kind
    'cpu'
    """
    flags, _ = _cpuinfo()
    machine = platform.machine().lower()
    features = {_SPELLINGS[flag] for flag in flags if flag in _SPELLINGS}
    if machine in ("arm64", "aarch64"):
        features.add("neon")
    return Target("cpu", machine, tuple(sorted(features)))


def library_dtypes() -> tuple[str, ...]:
    """The narrow dtypes whose products the processor has instructions for, which libraries use and kernels do not."""
    features = set(host_target().features)
    found = {"bf16": {"bf16"}, "f16": {"avx512_fp16", "fp16"}}
    return tuple(dtype for dtype, any_of in found.items() if any_of & features)


@lru_cache(maxsize=1)
def cpu_identity() -> str:
    """A digest of everything `-march=native` looks at: code made under another one may not run here."""
    flags, model = _cpuinfo()
    text = "\n".join([platform.machine(), platform.system(), model, *sorted(flags)])
    return hashlib.sha256(text.encode()).hexdigest()


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
