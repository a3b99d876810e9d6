"""Decorated functions in a process that knows nothing yet, with an artifact cache of their own.

A new process is stood for by emptying what this one remembers: functions are defined anew and the cache of the
folder is opened again, so that a call meets what lies on disk.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import tessera
from tessera import Tensor, config
from tessera.backends.base import Packed
from tessera.runtime import cache
from tessera.runtime.cache import ArtifactCache
from tessera.runtime.store import decode, encode


def scale() -> Any:
    """A function of one kernel, defined anew."""

    @tessera.function
    def scale(x: Tensor["N", "D"], w: Tensor["D"]) -> Tensor["N", "D"]:
        return torch.tanh(x * w) + 1

    return scale


def other() -> Any:
    """Another one."""

    @tessera.function
    def other(x: Tensor["N", "D"], w: Tensor["D"]) -> Tensor["N", "D"]:
        return torch.exp(-x) * w

    return other


def arguments() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.linspace(-2, 2, 60).view(6, 10), torch.linspace(1, 2, 10)


def right(f: Any) -> bool:
    """Does a call give what torch gives?"""
    x, w = arguments()
    return bool(torch.allclose(f(x, w), f.eager(x, w), rtol=1e-6, atol=1e-6))


def script(path: Path, body: str) -> str:
    """A program of the shell that says it is gcc; ``body`` runs when it is asked to compile."""
    path.write_text(f'#!/bin/sh\ncase "$*" in *--version*) echo "gcc 12.2.0"; exit 0;; esac\n{body}\n')
    path.chmod(0o755)
    return str(path)


@contextmanager
def fresh(folder: Path, mode: str = "on", **options: Any) -> Iterator[ArtifactCache]:
    """As in a new process that keeps its artifacts in ``folder``."""
    cache._cache_for.cache_clear()
    with config.override(cache_dir=folder, cache=mode, **options):
        yield cache.default_cache()
    cache._cache_for.cache_clear()


@dataclass
class Caught:
    """The warnings of a block, as one line each."""

    lines: list[str] = field(default_factory=list)


@contextmanager
def caught() -> Iterator[Caught]:
    """Collect warnings; all of them must be Tessera's."""
    found = Caught()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield found
    for w in seen:
        assert issubclass(w.category, tessera.TesseraWarning), w
        found.lines.append(" ".join(str(w.message).split()))


def entry(folder: Path) -> Path:
    """The only artifact in a folder."""
    (found,) = (folder / "artifacts").glob("*.artifact")
    return found


def warm(folder: Path, make: Callable[[], Any] = scale) -> Path:
    """Compile a function into a folder; its entry."""
    with fresh(folder):
        assert right(make())
    return entry(folder)


def repacked(path: Path, library: bytes) -> bytes:
    """The entry with another library and a digest that fits."""
    key = path.name.removesuffix(".artifact")
    found = decode(path.read_bytes(), key)
    assert found is not None
    return encode(Packed(key, found.kind, {**found.payloads, "library": library}, found.metadata))


def trace_opens(log: Path) -> None:
    """Write the path of every file that this process opens from now on; for children only, it cannot be ended."""
    descriptor = log.open("ab", buffering=0)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str):
            descriptor.write(args[0].encode() + b"\n")

    sys.addaudithook(hook)
