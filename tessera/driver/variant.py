"""A variant, one compiled form of a function: traced, rewritten, scheduled, compiled, laid out for the runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, overload

import torch

from tessera import config
from tessera.backends.base import Packed
from tessera.backends.c import backend as c_backend
from tessera.backends.c.host import library_dtypes
from tessera.backends.c.load import SharedObject
from tessera.diag import ResourceError
from tessera.driver.captured import Link, Watch, kinds, places
from tessera.driver.devices import ACCELERATORS, CPU, Accelerator
from tessera.driver.layout import Copy, Places, copies, lay_out
from tessera.frontend.trace import Traced
from tessera.ir.graph import Function, Value
from tessera.ir.types import TensorType
from tessera.ir.verify import verify
from tessera.passes.base import Row, run_pipeline
from tessera.passes.chunk import GPU
from tessera.passes.defer import Defer
from tessera.passes.pipeline import pipeline
from tessera.runtime import dispatch, gpu
from tessera.runtime.cache import default_cache
from tessera.runtime.keys import content_key, environment_parts
from tessera.schedule.lower import stride_name
from tessera.schedule.plan import Kernel, Program
from tessera.schedule.schedule import schedule

Sizes = Mapping[str, int]


def check_ir(f: Function) -> None:
    """The verifier at the level that the configuration asks for: cheap invariants always, all of them on request."""
    verify(f, level="full" if config.current().verify else "cheap")


T = TypeVar("T")


class Lazy(Generic[T]):
    """An attribute made when it is first read. Unlike ``functools.cached_property`` of Python 3.11 it has no lock for
    all objects, which a fork in the middle of a compilation would leave closed; callers hold one of their own.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self.make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Lazy[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Lazy[T] | T:
        if instance is None:
            return self
        made = instance.__dict__[self.name] = self.make(instance)
        return made


@dataclass(frozen=True)
class Layout:
    """What a variant may assume of its tensor arguments: the names of those that are not dense row-major, and of those
    that lie in pieces.
    """

    strided: frozenset[str] = frozenset()
    pieces: frozenset[str] = frozenset()

    def __str__(self) -> str:
        rows = (("strided", self.strided), ("in pieces", self.pieces))
        return "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in rows if names) or "all dense"


@dataclass
class Variant:
    """A function compiled for one kind of call. The stages are made when first asked for, so that inspecting one costs
    no compilation. ``held`` is what objects among the arguments held; ``cut`` are the sizes for which a function and
    its derivative were cut in two: of the passes only those that make kernels are left to do then; ``late`` are the
    names of the parameters without which a backward pass can compute nothing but what the forward pass had.
    """

    traced: Traced
    layout: Layout = Layout()
    device: torch.device = CPU
    from_cache: bool = False
    watch: Watch = field(default_factory=Watch, repr=False)
    held: tuple[Any, ...] = field(default=(), repr=False)
    cut: Sizes | None = None
    late: tuple[str, ...] = ()
    gradients: dict[Any, Any] = field(default_factory=dict, repr=False)
    _plan: dispatch.Plan | gpu.DevicePlan | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        #: For each parameter the link that gives a captured tensor; -1 for the others.
        self.places = places(self.traced, self.watch)
        # A tensor that the link gives anew at each call is not kept: it may be replaced by another.
        inputs = zip(self.traced.inputs, self.places, strict=True)
        kept = tuple(i if at < 0 else replace(i, captured=None) for i, at in inputs)
        self.traced = replace(self.traced, inputs=kept)
        self._kinds = kinds(self.traced)

    def outside(self) -> tuple[Link, ...] | None:
        """What the variant read outside of the function, where that is as it was; else None."""
        links = self.watch.settle()
        return links if self._kinds == kinds(self.traced) else None

    @Lazy
    def stages(self) -> dict[str, Function]:
        """The function after each pass, by name, in order."""
        check_ir(self.traced.function)
        rows = self.passes(self.cut or {})
        if self.cut is not None:
            rows = tuple(r for r in rows if r.step.name in ("blocks", "fuse"))
        if self.late:
            rows += (Row(Defer(late=self.late), "behind fuse, which finds streams by the order of the source"),)
        return run_pipeline(self.traced.function, rows, check_ir)

    def passes(self, sizes: Sizes) -> tuple[Row, ...]:
        """The passes for the variant's device, where these sizes are known."""
        if self.device.type in ACCELERATORS:
            return pipeline(lookups=False, across=False, speeds=GPU, integers=False)
        return pipeline(library_dtypes(), sizes=tuple(sizes.items()))

    @Lazy
    def fused(self) -> Function:
        return list(self.stages.values())[-1]

    @Lazy
    def program(self) -> Program:
        there, pieces = ACCELERATORS.get(self.device.type), self.layout.pieces
        joined = frozenset() if there is None else pieces  # kernels of others take no pieces
        programs = 0 if there is None else there.programs
        program = schedule(self.fused, self.layout.strided, pieces, joined, programs)
        for kernel in program.kernels:
            check_ir(kernel.function)
        return program

    @Lazy
    def native(self) -> c_backend.CProgram:
        """The kernels as C, with what libraries compute slower."""
        return c_backend.emit(self.program.kernels, added=c_backend.added_dtypes(self.program), sizes=self.cut)

    @Lazy
    def copied(self) -> Mapping[int, Copy]:
        return copies(self.traced, self.program)

    @property
    def compiled(self) -> bool:
        """Is there a plan already?"""
        return self._plan is not None

    def on(self, device: torch.device) -> Variant:
        """The same for tensors on another device, to be looked at: the device need not be there."""
        return replace(self, device=device, _plan=None)

    def plan(self) -> dispatch.Plan | gpu.DevicePlan:
        """Compile, or load from the cache, and lay out. Raises ResourceError (TSR0601, TSR0602, TSR0607).

        On a GPU kernels are compiled when a launch first needs them, for its sizes.
        """
        if self._plan is None:
            there = ACCELERATORS.get(self.device.type)
            self._plan = self._host_plan() if there is None else self._device_plan(there)
        return self._plan

    def _host_plan(self) -> dispatch.Plan:
        library: SharedObject | None = None
        if self.program.kernels:
            try:
                library = self._library()
            except OSError as failure:  # no room or no folder for what the compiler reads and writes
                raise ResourceError(
                    f"the kernels cannot be compiled: {failure.strerror}", code="TSR0602", notes=[str(failure)],
                    helps=["free space in the folder for temporary files, or set TMPDIR"],
                ) from failure  # fmt: skip
        return lay_out(self.program, () if library is None else self.native.kernels, library, self.copied)

    def _library(self) -> SharedObject:
        """The kernels compiled and loaded, or loaded from the cache."""
        native = self.native
        key = content_key(*native.key_parts(), *environment_parts())
        built: list[SharedObject] = []

        def build() -> Packed:
            artifact = native.compile(key)
            built.append(artifact.load())  # what cannot be loaded is not kept
            return artifact.pack()

        packed = default_cache().get_or_build(key, build)
        self.from_cache = not built
        return built[0] if built else c_backend.CArtifact.unpack(packed).load()

    def _device_plan(self, there: Accelerator) -> gpu.DevicePlan:
        def kernel(step: Kernel, places: Places[gpu.LaunchStep]) -> gpu.LaunchStep:
            launcher = there.launcher(step, self.device)
            return gpu.LaunchStep(launcher.at, places.buffers(step), places.numbers(step), step.name)

        laid = Places(self.program, self.device, kernel, self.copied)
        return gpu.DevicePlan(
            self.device, there.platform, laid.inputs, len(laid.slots), tuple(laid.allocs), tuple(laid.steps),
            tuple(laid.outputs), laid.updates,
        )  # fmt: skip

    def sizes(self, named: Sizes, tensors: Sequence[torch.Tensor]) -> Sizes:
        """The sizes of a call with the strides that strided kernels read."""
        if not self.layout.strided:
            return named
        found = dict(named)
        for value, tensor in zip(self.tensor_params, tensors, strict=True):
            if value.name in self.layout.strided:
                for axis, step in enumerate(tensor.stride()):
                    found[stride_name(value.name, axis)] = step
        return found

    @Lazy
    def tensor_params(self) -> tuple[Value, ...]:
        return tuple(p for p in self.traced.function.params if isinstance(p.type, TensorType))
