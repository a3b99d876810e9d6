"""Choosing settings of a kernel by measuring them beforehand; what was found stands in a JSON file to be read."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tessera.backends.c.host import cpu_identity
from tessera.backends.eager.dtypes import from_torch_dtype
from tessera.diag import ConfigError, TesseraError
from tessera.driver.kernel_call import bind_kernel
from tessera.driver.progress import Progress

#: Bounds on the difference between what a candidate gives and the checking interpreter, by bits of the dtype.
_CLOSE = {64: 1e-10, 32: 1e-4, 16: 2e-2, 8: 2e-1}
#: The layout of the file.
_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """What was measured for calls of one kind: ``settings`` are the fastest right ones, none those of the compiler.
    ``milliseconds`` are medians, ``rejected`` the candidates that fail or are wrong, with the reason.
    """

    sizes: Mapping[str, int]
    dtypes: tuple[str, ...]
    device: str
    settings: Mapping[str, int]
    milliseconds: Mapping[str, float]
    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(sorted(self.sizes.items())), self.dtypes, self.device


@dataclass
class Table:
    """The entries for one kernel, whose text has this digest."""

    name: str
    digest: str
    entries: dict[Any, Entry] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """The file anew, all of it or nothing; what it has of other kernels stays."""
        known = [t for t in read(path) if t.name != self.name] if path.exists() else []
        text = json.dumps({"format": _FORMAT, "kernels": [_as_json(t) for t in (*known, self)]}, indent=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            fresh.write_text(text + "\n")
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


def _as_json(table: Table) -> dict[str, Any]:
    entries = [
        {"sizes": dict(e.sizes), "dtypes": list(e.dtypes), "device": e.device, "settings": dict(e.settings),
         "milliseconds": dict(e.milliseconds), "rejected": dict(e.rejected)}
        for e in table.entries.values()
    ]  # fmt: skip
    return {"name": table.name, "digest": table.digest, "entries": entries}


def read(path: Path) -> list[Table]:
    """The tables of a file. Raises ConfigError for one that is none."""
    try:
        found = json.loads(path.read_text())
        if found["format"] != _FORMAT:
            raise ValueError(f"format {found['format']}")
        return [_table(t) for t in found["kernels"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"`{path}` is no file of measured settings: {error}", helps=["delete it, and tune again"]
        ) from None


def _table(given: Mapping[str, Any]) -> Table:
    table = Table(str(given["name"]), str(given["digest"]))
    for e in given["entries"]:
        sizes = {str(k): int(n) for k, n in e["sizes"].items()}
        settings = {str(k): int(n) for k, n in e["settings"].items()}
        times = {str(k): float(t) for k, t in e["milliseconds"].items()}
        entry = Entry(sizes, tuple(map(str, e["dtypes"])), str(e["device"]), settings, times, dict(e["rejected"]))
        table.entries[entry.key] = entry
    return table


def load(name: str, digest: str, path: Path | None) -> Table:
    """The table of a kernel in a file; without entries where there is none, or the kernel was another then."""
    for table in read(path) if path is not None and path.exists() else ():
        if (table.name, table.digest) == (name, digest):
            return table
    return Table(name, digest)


def digest_of(text: str) -> str:
    """What tells one text of a kernel from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def kind_of(sizes: Mapping[str, int], names: Sequence[str] | None, tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """What calls that share settings have in common: the sizes of these names, dtypes and the device."""
    chosen = sizes if names is None else {n: sizes[n] for n in names if n in sizes}
    first = tensors[0] if tensors else None
    where = cpu_identity() if first is None or first.device.type == "cpu" else torch.cuda.get_device_name(first.device)
    dtypes = tuple(str(from_torch_dtype(t.dtype)) for t in tensors)
    return tuple(sorted(chosen.items())), dtypes, where


def measure(
    candidates: Mapping[str, Callable[[], Any]], wanted: Any, warmup: int, reps: int, label: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Medians in milliseconds of the candidates that give what is wanted, in turns; why others were rejected."""
    rejected: dict[str, str] = {}
    good: dict[str, Callable[[], Any]] = {}
    times: dict[str, list[float]] = {}
    with Progress(label, len(candidates) + reps) as progress:
        for name, run in candidates.items():
            progress.step(name)
            try:
                wrong = _difference(run(), wanted)
            except TesseraError as error:
                wrong = error.message
            if wrong:
                rejected[name] = wrong
                continue
            good[name], times[name] = run, []
            for _ in range(warmup):
                run()
        for _ in range(reps):
            progress.step()
            for name, run in good.items():
                started = time.perf_counter()
                run()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}, rejected


def _difference(found: Any, wanted: Any) -> str:
    """What is wrong with results; nothing where they are right."""
    pairs = [(found, wanted)] if isinstance(wanted, torch.Tensor) else list(zip(found, wanted, strict=True))
    for a, b in pairs:
        if not b.is_floating_point():
            if not torch.equal(a, b):
                return f"{int((a != b).sum())} of {a.numel()} elements differ"
            continue
        bound = _CLOSE[torch.finfo(b.dtype).bits]
        x, y = a.double(), b.double()
        largest = float(y.nan_to_num(0, 0, 0).abs().max()) if y.numel() else 0.0
        if not torch.allclose(x, y, rtol=bound, atol=bound * largest, equal_nan=True):
            return f"differs from the interpreter by {float((x - y).abs().max()):.2g}"
    return ""


@dataclass
class Tuned:
    """What was measured for a kernel: ``kernels`` are those with other settings, by the kind of call."""

    kernel: Any
    names: tuple[str, ...] | None
    table: Table
    kernels: dict[Any, Any]

    @staticmethod
    def of(
        kernel: Any, text: str, configs: Sequence[Mapping[str, int]], arguments: Sequence[tuple[Any, ...]],
        names: Sequence[str] | None, runs: tuple[int, int], path: Path | None,
    ) -> Tuned:  # fmt: skip
        """Measure what the file does not have yet, and write it there."""
        table = load(kernel.spec.name, digest_of(text), path)
        found = Tuned(kernel, None if names is None else tuple(names), table, {})
        options = {_told(c): kernel.configure(**c) for c in configs}
        known = {_told(c): dict(c) for c in configs} | {_told({}): {}}
        for args in arguments:
            call = bind_kernel(kernel.spec, kernel.outputs, args, {})
            if any(name in call.tensors for name in kernel.outputs):
                raise ConfigError("a kernel is tuned without outputs that are given", helps=["leave them out"])
            kind, every = found.kind(args, {}), {_told({}): kernel, **options}
            known_entry = table.entries.get(kind)
            if known_entry is not None and every.keys() <= {*known_entry.milliseconds, *known_entry.rejected}:
                continue
            runs_of = {name: functools.partial(k, *args) for name, k in every.items()}
            times, rejected = measure(runs_of, kernel.check(*args), *runs, f"tuning {kernel.spec.name}")
            best = min(times, key=lambda n: times[n]) if times else _told({})
            sizes, dtypes, device = kind
            table.entries[kind] = Entry(dict(sizes), dtypes, device, known[best], times, rejected)
            if path is not None:
                table.write(path)
        for kind, entry in table.entries.items():
            if entry.settings:
                found.kernels[kind] = kernel.configure(**entry.settings)
        return found

    def kind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a call shares its settings by."""
        call = bind_kernel(self.kernel.spec, self.kernel.outputs, args, kwargs)
        return kind_of(call.sizes, self.names, list(call.tensors.values()))

    def of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The kernel with the settings for a call; None where it has those of the compiler."""
        return self.kernels.get(self.kind(args, kwargs)) if self.kernels else None


def _told(settings: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={x}" for name, x in settings.items()) or "the compiler's choice"


__all__ = ["Entry", "Table", "Tuned", "read"]
