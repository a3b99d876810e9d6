"""Running kernels on the GPU of this machine: compiled there once a class of sizes, then launched directly.

The machine's own Triton compiles the text, through its own cache. A launch hands the compiled function
its arguments without going through ``kernel[grid]``, whose argument analysis costs more than a small
kernel.
"""

from __future__ import annotations

import contextvars
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from tessera import config
from tessera.backends.triton.aot import available
from tessera.backends.triton.source import Bound, TritonSource
from tessera.diag import ResourceError
from tessera.schedule.plan import Unschedulable


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
    made = triton.compile(source, options=options(*bound.options))
    return WithMemory(made) if getattr(made.metadata, "global_scratch_size", 0) else made


@dataclass(frozen=True, slots=True)
class WithMemory:
    """A compiled kernel whose programs write descriptors to memory. Triton asks for that at each launch, from what the
    context of the call names; the context of the caller stays as it is.
    """

    made: Any

    @property
    def run(self) -> Callable[..., object]:
        from triton import set_allocator

        start = self.made.run

        def launch(*args: object) -> None:
            set_allocator(_memory)
            start(*args)

        return lambda *args: contextvars.copy_context().run(launch, *args)

    @property
    def function(self) -> object:
        return self.made.function

    @property
    def packed_metadata(self) -> object:
        return self.made.packed_metadata


def _memory(size: int, alignment: int, stream: int | None) -> object:
    """Memory for one launch on the current device and stream, which torch aligns to 512 bytes."""
    import torch

    return torch.empty(size, dtype=torch.int8, device="cuda")


def load_here(text: str, folder: Path) -> ModuleType:
    """The module of a generated text."""
    from tessera.backends.triton.worker import load_module

    return load_module(text, folder, 0)


@dataclass(frozen=True, slots=True)
class Planned:
    """One launch with everything but the addresses and scalars filled in."""

    compiled: Compiled
    run: Callable[..., object]
    grid: int
    fill: tuple[tuple[str, int], ...]


def never() -> bool:
    """No stream is being captured."""
    return False


@dataclass
class Launcher:
    """Runs one kernel on the device that is current when it is first used. Keeps every compiled kernel alive, since
    Triton unloads the code of those that are dropped.

    ``capturing`` says whether the current stream is being captured in a graph, when no code can be loaded.
    """

    source: TritonSource
    compile: Compile = compile_here
    load: Callable[[str, Path], Any] = load_here
    capturing: Callable[[], bool] = never
    _compiled: dict[tuple[object, ...], tuple[Compiled, Callable[..., object]]] = field(default_factory=dict)
    _refused: dict[tuple[object, ...], ResourceError] = field(default_factory=dict)
    _module: Any = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def at(self, sizes: Mapping[str, int]) -> Launch:
        """The kernel at fixed sizes; ``sizes`` binds every size and stride name. Nothing is compiled yet.

        What is too large for a program says so when it is called.
        """
        try:
            return Launch(self, self.source.bind(sizes))
        except Unschedulable as e:
            return Launch(self, (), ResourceError(f"the kernel cannot run at these sizes: {e}", code="TSR0607"))

    def one(self, bound: Bound, aligned: frozenset[int]) -> Planned:
        """A launch that is compiled and loaded for the current device, now or earlier.

        Raises ResourceError (TSR0607) when Triton is missing or refuses, at once when it refused before.
        """
        bound = bound.at(aligned)
        signature = bound.signature(aligned)
        key = (bound.function.name, *bound.options, *bound.constants.items(), *signature.items())
        with self._lock:
            if key in self._refused:
                raise self._refused[key].with_traceback(None)
            known = self._compiled.get(key)
            if known is None:
                known = self._compiled[key] = self._make(key, bound, signature)
        values = iter(bound.sizes)
        fill = [(a.kind, next(values) if a.kind == "size" else a.number) for a in bound.function.arguments]
        # Block sizes are compiled in, but keep their places.
        blocks = [("size", bound.constants[b]) for b in bound.function.blocks]
        return Planned(*known, bound.config.grid, (*fill, *blocks))

    def _make(
        self, key: tuple[object, ...], bound: Bound, signature: Mapping[str, str]
    ) -> tuple[Compiled, Callable[..., object]]:
        if self.capturing():
            raise ResourceError(
                f"the code of `{bound.function.name}` cannot be loaded while a graph is captured", code="TSR0607",
                helps=["call the function once with tensors of these sizes before the capture"],
            )  # fmt: skip
        try:
            made = self.compile(self._loaded(), bound, signature)
            return made, made.run
        except ResourceError as e:
            self._refused[key] = e
            raise
        except Exception as e:
            # Whatever a compiler or a driver says; their exceptions share no class.
            said = next(iter(str(e).strip().splitlines()), "")
            why = f"Triton refused `{bound.function.name}`: {type(e).__name__}: {said[:200]}"
            self._refused[key] = ResourceError(why, code="TSR0607")
            raise self._refused[key] from e

    def _loaded(self) -> Any:
        """The module of the text."""
        if self._module is None:
            if not available() and self.load is load_here:
                raise ResourceError("Triton is not installed", code="TSR0607", helps=["pip install triton"])
            # Triton reads the text of its functions back, so it stays as long as they may be called.
            folder = tempfile.mkdtemp(prefix="tessera-triton-", dir=config.temporary_folder())
            weakref.finalize(self, _remove, folder, os.getpid())
            self._module = self.load(self.source.text, Path(folder))
        return self._module


def _remove(folder: str, owner: int) -> None:
    """A forked child inherits the launcher but not the folder."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Launch:
    """One kernel at fixed sizes. Which addresses divide by 16 decides what code serves a call."""

    launcher: Launcher
    bound: Sequence[Bound]
    refused: ResourceError | None = None
    _plans: dict[tuple[bool, ...], tuple[Planned, ...]] = field(default_factory=dict)

    def __call__(self, addresses: Sequence[int], scalars: Sequence[float | int], stream: int) -> int:
        """Launch every nest on ``stream``, in order; gives the number of launches.

        ``addresses`` are those of inputs, outputs and temporaries in the kernel's order. Raises ResourceError
        (TSR0607) before anything is launched when the code cannot be made.
        """
        if self.refused is not None:
            raise self.refused.with_traceback(None)
        aligned = tuple([a & 15 == 0 for a in addresses])
        plans = self._plans.get(aligned)
        if plans is None:
            known = frozenset(n for n, yes in enumerate(aligned) if yes)
            plans = self._plans[aligned] = tuple(self.launcher.one(b, known) for b in self.bound)
        for p in plans:
            args = [addresses[n] if kind == "buffer" else scalars[n] if kind == "scalar" else n for kind, n in p.fill]
            made = p.compiled
            p.run(p.grid, 1, 1, stream, made.function, made.packed_metadata, None, None, None, *args)
        return len(plans)
