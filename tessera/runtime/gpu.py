"""From a call to its kernels on a GPU: allocations by torch, launches on its current stream, no waiting.

Everything a warm call does goes to the stream in order, so a call can be captured in a graph and replayed.
A plan belongs to one device; a call made while another device is the current one switches for its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from tessera.runtime.steps import Alloc, CallStep, NoAddressError, Runner, Sizes, sized
from tessera.runtime.writes import writing

#: Launches one kernel at fixed sizes: (buffer addresses, scalars, stream) to the number of launches.
Launch = Callable[[Sequence[int], Sequence[float | int], int], int]


@dataclass(frozen=True, slots=True)
class Platform:
    """What the runtime asks of the library that owns the devices of one kind, by the number of the device.

    ``empty`` makes a tensor with undefined contents, ``stream`` gives the handle of the current stream, ``current``
    the number of the current device, and ``on`` makes a device the current one inside a ``with`` block.
    """

    empty: Callable[[tuple[int, ...], torch.dtype, torch.device], torch.Tensor]
    stream: Callable[[int], int]
    current: Callable[[], int]
    on: Callable[[int], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class LaunchStep:
    """A kernel: what binds it to sizes, the slots of its buffers, and its scalars (number, is_float)."""

    at: Callable[[Sizes], Launch]
    slots: tuple[int, ...]
    scalars: tuple[tuple[int, bool], ...]
    name: str


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A compiled function for all sizes on one device; slots as in ``dispatch.Plan``."""

    device: torch.device
    platform: Platform
    inputs: int
    slots: int
    allocs: tuple[Alloc, ...]
    steps: tuple[LaunchStep | CallStep, ...]
    outputs: tuple[int, ...]
    updates: tuple[int, ...] = ()

    def bind(self, sizes: Sizes, alone: bool = False) -> Runner:
        """The plan for one set of sizes; as ``dispatch.Plan.bind``."""
        run = bind(self, sizes, alone)
        return writing(run, self.updates) if self.updates else run


def bind(plan: DevicePlan, sizes: Sizes, alone: bool = False) -> Runner:
    """The plan for one set of sizes. It gives the outputs as a list; ``alone`` asks for the only one by itself.

    What it returns raises NoAddressError for a tensor without memory, and the ResourceError of a launch whose code
    cannot be made. Raises ResourceError (TSR0608) for a tensor that cannot be addressed.
    """
    device, platform = plan.device, plan.platform
    index = device.index or 0
    allocs = sized(plan.allocs, sizes)
    steps = [_bound(step, sizes) for step in plan.steps]
    inputs, count, outputs = plan.inputs, plan.slots, plan.outputs
    empty, current, stream_of = platform.empty, platform.current, platform.stream

    def here(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
        slots: list[Any] = [None] * count
        slots[:inputs] = tensors
        for slot, shape, dtype in allocs:
            slots[slot] = empty(shape, dtype, device)
        stream = stream_of(index)
        for step in steps:
            step(slots, scalars, stream)
        return slots[outputs[0]] if alone else [slots[o] for o in outputs]

    def run(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
        if current() == index:
            return here(tensors, scalars)
        with platform.on(index):
            return here(tensors, scalars)

    return run


def _bound(step: LaunchStep | CallStep, sizes: Sizes) -> Callable[[list[Any], Sequence[float], int], None]:
    return _launching(step, sizes) if isinstance(step, LaunchStep) else _calling(step, sizes)


def _launching(step: LaunchStep, sizes: Sizes) -> Callable[[list[Any], Sequence[float], int], None]:
    launch, places, scalars = step.at(sizes), step.slots, step.scalars

    def go(slots: list[Any], numbers: Sequence[float], stream: int) -> None:
        addresses = [slots[s].data_ptr() for s in places]
        if not all(addresses):
            _check_memory([slots[s] for s in places], step.name)
        launch(addresses, [float(numbers[n]) if real else int(numbers[n]) for n, real in scalars], stream)

    return go


def _check_memory(buffers: Sequence[torch.Tensor], name: str) -> None:
    """Only a tensor without elements may be nowhere."""
    if any(b.numel() and not b.data_ptr() for b in buffers):
        raise NoAddressError(name)


def _calling(step: CallStep, sizes: Sizes) -> Callable[[list[Any], Sequence[float], int], None]:
    routine = step.at(sizes)

    def go(slots: list[Any], numbers: Sequence[float], stream: int) -> None:
        results = routine([slots[s] for s in step.reads], numbers)
        for slot, value in zip(step.writes, results, strict=True):
            slots[slot] = value

    return go
