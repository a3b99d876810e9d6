"""From a call to its kernels in a few microseconds.

A plan says, for all sizes, which memory a compiled function needs and which steps it runs. ``bind`` fixes it for one
set of sizes; the dispatcher remembers bound plans by the exact signature of a call, so that a warm call checks its
tensors, allocates its results and enters the kernels, and does nothing else.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as fwd
from torch.utils._device import DeviceContext

from tessera.runtime.bound import Bound, check_storage, maker, packing, runner
from tessera.runtime.pieces import Pieces, spanned
from tessera.runtime.pieces import plain as plain_tensor
from tessera.runtime.place import Place
from tessera.runtime.rows import Row
from tessera.runtime.steps import (
    Alloc,
    CallStep,
    Given,
    KernelStep,
    Laid,
    Library,
    Native,
    NoAddressError,
    Runner,
    Size,
    Sizes,
    failed,
    sized,
)
from tessera.runtime.writes import writing

#: Bound plans kept for one function.
REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Plan(Laid):
    """A compiled function for all sizes."""

    def bind(self, sizes: Sizes, alone: bool = False, within: Mapping[int, Place] | None = None) -> Runner:
        """The plan for one set of sizes; as the function ``bind``, or as ``runner`` where arguments are ``within``."""
        run = runner(self, sizes, within) if within else bind(self, sizes, alone)
        if not self.updates:
            return run
        given = [n for n in range(self.inputs) if n not in (within or ())]
        return writing(run, [given.index(n) + bool(within) for n in self.updates])

    def packing(self, sizes: Sizes, together: Collection[int]) -> tuple[Runner, dict[int, Place]]:
        """As the function ``packing``; nothing is where a plan writes to its arguments."""
        return (self.bind(sizes), {}) if self.updates else packing(self, sizes, together)


class OutdatedError(Exception):
    """What a variant read outside of the function has changed."""


def bind(plan: Laid, sizes: Sizes, alone: bool = False) -> Runner:
    """The plan for one set of sizes. It gives the outputs as a list; ``alone`` asks for the only one by itself."""
    if alone and len(plan.steps) == 1 and isinstance(plan.steps[0], KernelStep):
        single = _single(plan, plan.steps[0], sizes)
        if single is not None:
            return single
    run = runner(plan, sizes)
    return (lambda tensors, scalars: run(tensors, scalars)[0]) if alone else run


def _single(plan: Laid, step: KernelStep, sizes: Sizes) -> Runner | None:
    """The runner of a function that is one kernel with one output and no temporaries: the latency case."""
    allocs = sized(plan.allocs, sizes)
    if len(allocs) != 1 or step.slots != tuple(range(plan.inputs + 1)) or plan.outputs != (allocs[0][0],):
        return None
    row = Bound(plan, sizes).steps[0]
    if not isinstance(row, Row) or row.scratch or step.scalars:
        return None
    _, shape, dtype = allocs[0]
    make = maker(shape, dtype)
    rest = [x for x in row.arguments[len(step.slots) + 1 :] if isinstance(x, int)]
    tail = struct.pack(f"={len(rest)}q", *rest)
    pack, entry, name = struct.Struct(f"={len(step.slots) + 1}q").pack, step.entry.call, step.name
    if row.threads:
        needs: list[int] = []

        def large(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
            check_storage(tensors, needs)
            torch.get_num_threads()
            out = make()
            code = entry(pack(*[t.data_ptr() for t in tensors], out.data_ptr(), 0) + tail)
            if code:
                raise failed(code, name)
            return out

        return large
    if plan.inputs == 2:

        def pair(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
            x, y = tensors
            out = make()
            code = entry(pack(x.data_ptr(), y.data_ptr(), out.data_ptr(), 0) + tail)
            if code:
                raise failed(code, name)
            return out

        return pair

    def small(tensors: Sequence[torch.Tensor], scalars: Sequence[float]) -> Any:
        out = make()
        code = entry(pack(*[t.data_ptr() for t in tensors], out.data_ptr(), 0) + tail)
        if code:
            raise failed(code, name)
        return out

    return small


class Remembered:
    """A bound plan, and whether a call has used it since it was last looked at for dropping."""

    __slots__ = ("entry", "used")

    def __init__(self, entry: Any) -> None:
        self.entry = entry
        self.used = False


class Memo:
    """Bound plans by call signature. Reading takes no lock and moves nothing: who reads an entry marks it as used, and
    where one has to go the oldest that is not marked does; those that are lose their mark and count as new.
    """

    def __init__(self) -> None:
        self.entries: OrderedDict[Any, Remembered] = OrderedDict()

    def put(self, key: Any, entry: Any) -> None:
        """Remember an entry."""
        new = self.entries[key] = Remembered(entry)
        while len(self.entries) > REMEMBERED:
            try:
                oldest, found = self.entries.popitem(last=False)
            except KeyError:
                return
            if found.used or found is new:
                found.used = False
                self.entries[oldest] = found


def plain(x: torch.Tensor | Pieces) -> bool:
    """May the memory of ``x``, or of its pieces, be read through addresses, by code for its device?"""
    return x.form.plain if isinstance(x, Pieces) else plain_tensor(x)


def intercepted(device: torch.device) -> bool:
    """Is torch transforming or watching a call on this device (torch.func, a dispatch or function mode, forward
    gradients), so that addresses do not say everything?
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or (torch._C._len_torch_function_stack() > 0 and not at_home(device))
        or fwd._current_level >= 0
    )


def at_home(device: torch.device) -> bool:
    """Do all function modes only say that tensors are made on this device (``torch.set_default_device``,
    ``with torch.device(...)``)? Compiled code makes them there anyway.
    """
    for n in range(torch._C._len_torch_function_stack()):
        mode = torch._C._get_function_stack_at(n)
        if type(mode) is not DeviceContext or mode.device.type != device.type:
            return False
        if mode.device.index not in (None, device.index):
            return False
    return True


__all__ = [
    "Alloc", "CallStep", "Given", "KernelStep", "Library", "Memo", "Native", "NoAddressError", "OutdatedError", "Plan",
    "Remembered", "Runner", "Size", "Sizes", "at_home", "bind", "check_storage", "intercepted", "plain", "spanned",
]  # fmt: skip
