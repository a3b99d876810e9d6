"""Running kernels on the GPU of this machine: compiled there once a class of sizes, then launched directly.

The machine's own Triton compiles the text, through its own cache. A launch hands the compiled function
its arguments without going through ``kernel[grid]``, whose argument analysis costs more than a small
kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Protocol

from tessera.backends.triton.aot import available
from tessera.backends.triton.source import Bound, TritonSource
from tessera.diag import ResourceError

#: Sizes and alignments that a launcher remembers; beyond it starts anew.
REMEMBERED = 1024


class Tensor(Protocol):
    """What a buffer argument must offer, as torch's tensors do."""

    def data_ptr(self) -> int: ...


class Compiled(Protocol):
    """A compiled Triton kernel; ``run`` loads it on first use."""

    @property
    def run(self) -> Callable[..., object]: ...

    @property
    def function(self) -> object: ...

    @property
    def packed_metadata(self) -> object: ...


#: Compiles a launch for the current device: (loaded module, launch, signature) to a compiled kernel.
Compile = Callable[[Any, Bound, Mapping[str, str]], Compiled]


def compile_here(module: Any, bound: Bound, signature: Mapping[str, str]) -> Compiled:
    """Compile for the current device with the installed Triton."""
    import triton

    from tessera.backends.triton.worker import ast_source, options

    source = ast_source(getattr(module, bound.function.name), signature, bound.constants)
    made: Compiled = triton.compile(source, options=options(bound.config.warps, bound.function.looks_up))
    return made


def load_here(text: str, folder: Path) -> ModuleType:
    """The module of a generated text."""
    from tessera.backends.triton.worker import load_module

    return load_module(text, folder, 0)


@dataclass(frozen=True, slots=True)
class Planned:
    """One launch with everything but the tensors and scalars filled in."""

    compiled: Compiled
    run: Callable[..., object]
    grid: int
    fill: tuple[tuple[str, int], ...]


@dataclass
class Launcher:
    """Runs one kernel. Keeps every compiled kernel alive, since Triton unloads the code of those that are
    dropped.

    Raises ResourceError (TSR0607) when Triton is missing.
    """

    source: TritonSource
    compile: Compile = compile_here
    load: Callable[[str, Path], Any] = load_here
    _plans: dict[tuple[object, ...], tuple[Planned, ...]] = field(default_factory=dict)
    _compiled: dict[tuple[object, ...], Compiled] = field(default_factory=dict)
    _module: Any = None
    _folder: TemporaryDirectory[str] | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __call__(
        self, buffers: Sequence[Tensor], sizes: Mapping[str, int], scalars: Sequence[float | int], stream: int
    ) -> int:
        """Launch every nest on ``stream``, in order; gives the number of launches.

        ``buffers`` are inputs, outputs and temporaries in the kernel's order, ``sizes`` binds every size
        and stride name.
        """
        aligned = tuple(b.data_ptr() % 16 == 0 for b in buffers)
        key = (tuple(sizes.items()), aligned)
        plans = self._plans.get(key)
        if plans is None:
            plans = self.plan(key, sizes, frozenset(n for n, yes in enumerate(aligned) if yes))
        for p in plans:
            args = [buffers[n] if kind == "buffer" else scalars[n] if kind == "scalar" else n for kind, n in p.fill]
            run, made = p.run, p.compiled
            run(p.grid, 1, 1, stream, made.function, made.packed_metadata, None, None, None, *args)
        return len(plans)

    def plan(self, key: tuple[object, ...], sizes: Mapping[str, int], aligned: frozenset[int]) -> tuple[Planned, ...]:
        """Choose functions and blocks for these sizes, compile what is new, and remember."""
        with self._lock:
            if self._module is None:
                if not available() and self.load is load_here:
                    raise ResourceError("Triton is not installed", code="TSR0607", helps=["pip install triton"])
                self._folder = TemporaryDirectory(prefix="tessera-triton-")
                self._module = self.load(self.source.text, Path(self._folder.name))
            planned = tuple(self.one(b, aligned) for b in self.source.bind(sizes))
            if len(self._plans) >= REMEMBERED:
                self._plans.clear()
            self._plans[key] = planned
            return planned

    def one(self, bound: Bound, aligned: frozenset[int]) -> Planned:
        signature = bound.signature(aligned)
        key = (bound.function.name, bound.config.warps, *bound.constants.items(), *signature.items())
        made = self._compiled.get(key)
        if made is None:
            made = self._compiled[key] = self.compile(self._module, bound, signature)
        values = iter(bound.sizes)
        fill = [(a.kind, next(values) if a.kind == "size" else a.number) for a in bound.function.arguments]
        # Block sizes are compiled in, but keep their places.
        blocks = [("size", bound.constants[b]) for b in bound.function.blocks]
        return Planned(made, made.run, bound.config.grid, (*fill, *blocks))
