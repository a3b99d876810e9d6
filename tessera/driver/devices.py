"""Which backend runs a call: by the device of its tensors. What a kind of GPU needs stands in one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from tessera.backends.base import Target
from tessera.backends.triton import launch
from tessera.backends.triton.aot import available
from tessera.backends.triton.emit import emit
from tessera.backends.triton.rooms import ENOUGH_PROGRAMS
from tessera.diag import ResourceError
from tessera.runtime import gpu
from tessera.schedule.plan import Kernel, Unschedulable

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Devices of one kind: how torch manages them, how kernels get there, and what they are to a compiler.

    ``ready`` says whether kernels can be compiled at all, ``target`` what one device is, ``wait`` waits for all its
    work, ``capturing`` says whether the current stream is being captured in a graph.
    """

    platform: gpu.Platform
    target: Callable[[torch.device], Target]
    wait: Callable[[torch.device], object]
    capturing: Callable[[], bool]
    #: How many programs keep a large one busy. The same for all, so that all sum in the same order.
    programs: int = ENOUGH_PROGRAMS
    ready: Callable[[], bool] = available
    compile: launch.Compile = launch.compile_here
    load: Callable[[str, Path], Any] = launch.load_here

    def launcher(self, kernel: Kernel, device: torch.device) -> launch.Launcher:
        """What runs a kernel on a device. Raises ResourceError (TSR0607) for what the device cannot do."""
        if not self.ready():
            raise ResourceError("Triton is not installed", code="TSR0607", helps=["pip install triton"])
        try:
            source = emit(kernel, self.target(device))
        except Unschedulable as e:
            raise ResourceError(f"kernel `{kernel.name}` cannot run on {device}: {e}", code="TSR0607") from e
        return launch.Launcher(source, self.compile, self.load, self.capturing)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def _stream(index: int) -> int:
    return torch._C._cuda_getCurrentRawStream(index)


def _on(index: int) -> AbstractContextManager[object]:
    return torch.cuda.device(index)


def _target(device: torch.device) -> Target:
    """An NVIDIA or AMD device as a target; torch calls both "cuda"."""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return Target("hip", properties.gcnArchName.partition(":")[0], units=properties.multi_processor_count)
    return Target("cuda", f"{properties.major}{properties.minor}", units=properties.multi_processor_count)


#: The kinds of devices that kernels are compiled for, besides the CPU, by torch's name.
ACCELERATORS: dict[str, Accelerator] = {
    "cuda": Accelerator(
        gpu.Platform(_empty, _stream, torch.cuda.current_device, _on),
        _target,
        torch.cuda.synchronize,
        torch.cuda.is_current_stream_capturing,
    )
}


def device_of(tensors: Sequence[torch.Tensor]) -> torch.device:
    """The device that a call's kernels run on: that of its tensors, of those with dims before numbers; else the CPU."""
    found = next((t.device for t in tensors if t.dim()), None)
    return found if found is not None else tensors[0].device if tensors else CPU


def backend_of(tensors: Sequence[torch.Tensor]) -> Literal["c", "triton"] | None:
    """What can run a call on these tensors; None where only torch can: other kinds of devices, or several of them."""
    device = device_of(tensors)
    if any(t.device != device for t in tensors):
        return None
    if device.type in ACCELERATORS:
        return "triton"
    return "c" if device.type == "cpu" else None


def usable(tensors: Sequence[torch.Tensor], wanted: str) -> bool:
    """May compiled code of the wanted backend run a call on these tensors?

    Raises ResourceError (TSR0607) when a backend is asked for by name that runs on other devices.
    """
    found = backend_of(tensors)
    if wanted == "triton" and found == "c":
        raise ResourceError("backend `triton` needs tensors on a GPU", code="TSR0607")
    if wanted == "c" and found == "triton":
        raise ResourceError("backend `c` needs tensors on the CPU", code="TSR0607")
    return found is not None


def wait(device: torch.device) -> None:
    """Wait until a device has done all its work; the CPU always has."""
    if device.type in ACCELERATORS:
        ACCELERATORS[device.type].wait(device)
