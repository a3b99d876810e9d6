"""What compiled code really uses, read from the tools' own output: registers, spills, shared memory,
instructions.
"""

from __future__ import annotations

import re
from collections import Counter

_SASS_LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)")
_AMD_LINE = re.compile(r"^\s+((?:v|s|ds|buffer|global|flat)_\w+)", re.MULTILINE)
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


def instructions(sass: str) -> dict[str, int]:
    """Counts of opcodes in a SASS listing; memory accesses are told apart by width, as in ``LDG.128``."""
    found: Counter[str] = Counter()
    for match in _SASS_LINE.finditer(sass):
        parts = match.group(1).split(".")
        name = parts[0]
        if name in ("LDG", "STG", "LDGSTS"):
            # The last width counts: older listings also write the width of the address.
            widths = [p for p in parts if p in ("128", "64", "U8", "U16", "S8", "S16")]
            name = f"{name}.{widths[-1]}" if widths else f"{name}.32"
        found[name] += 1
        found["total"] += 1
    return dict(found)


def amd_instructions(listing: str) -> dict[str, int]:
    """As ``instructions``, for an AMD listing; accesses keep their whole name."""
    found: Counter[str] = Counter()
    for match in _AMD_LINE.finditer(listing):
        name = match.group(1)
        memory = name.startswith(("global_", "buffer_", "flat_", "ds_"))
        found[name if memory else name.split("_")[1]] += 1
        found["total"] += 1
    return dict(found)


def cuda_resources(log: str, usage: str, sass: str, shared: int) -> dict[str, int]:
    """Registers a lane, stack and spills in bytes, shared memory in bytes, and how many accesses are 16
    bytes wide.

    ``log`` is what ptxas said, ``usage`` and ``sass`` what cuobjdump says about the result.
    """
    out = {"shared": shared}
    if found := _USAGE.search(usage):
        out["registers"], out["stack"] = int(found[1]), int(found[2])
    if found := _SPILLS.search(log):
        out["spills"] = int(found[2]) + int(found[3])
    mix = instructions(sass)
    if "stack" not in out and "LDL" not in mix and "STL" not in mix and sass:
        out["spills"] = 0
    wide, all_of = (sum(n for k, n in mix.items() if k.startswith(p)) for p in ("LDG.128", "LDG"))
    out |= {
        "loads": all_of,
        "loads_128": wide,
        "stores": sum(n for k, n in mix.items() if k.startswith("STG")),
        "stores_128": mix.get("STG.128", 0),
        "instructions": mix.get("total", 0),
    }
    return out


def amd_resources(listing: str, shared: int) -> dict[str, int]:
    """The same for AMD code, from its assembly; ``spills`` counts spilled registers."""

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", listing)
        return int(found[1]) if found else 0

    mix = amd_instructions(listing)
    loads = {k: n for k, n in mix.items() if re.match(r"(global|buffer)_load", k)}
    stores = {k: n for k, n in mix.items() if re.match(r"(global|buffer)_store", k)}
    return {
        "shared": shared,
        "registers": number("vgpr_count"),
        "stack": number("private_segment_fixed_size"),
        "spills": number("vgpr_spill_count") + number("sgpr_spill_count"),
        "loads": sum(loads.values()),
        "loads_128": sum(n for k, n in loads.items() if "dwordx4" in k),
        "stores": sum(stores.values()),
        "stores_128": sum(n for k, n in stores.items() if "dwordx4" in k),
        "instructions": mix.get("total", 0),
    }
