"""What a kernel becomes for a call: its launches, their source, and what they take of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tessera.driver import inspect
from tessera.driver.inspect import Lowered, LoweredKernel
from tessera.ir.record import Kind
from tessera.schedule.plan import ZERO, Program

_PLACES = {"whole": "on whole tensors", "blocks": "in its own blocks", "interpreter": "in the interpreter"}


@dataclass(frozen=True)
class KernelReport:
    """How a kernel runs. ``form`` is ``whole`` where its blocks were left to the compiler, so that it is fused as
    tensor code is, ``blocks`` where it runs as it is written, and ``interpreter`` where it is not compiled; ``reason``
    is why. Prints as text.
    """

    name: str
    form: str
    launches: int
    kernels: tuple[LoweredKernel, ...]
    calls: tuple[str, ...] = ()
    reason: str = ""
    text: str = ""

    def __str__(self) -> str:
        count = "1 launch" if self.launches == 1 else f"{self.launches} launches"
        how = _PLACES[self.form]
        how += f": {self.reason}" if self.reason else ""
        lines = [f"{self.name}: {count}, {how}"]
        for n, k in enumerate(self.kernels):
            cost = f": {k.bytes} bytes, {k.flops} flops" if k.flops is not ZERO else ""
            lines.append(f"  {n}  {k.name} ({k.form}){cost}")
            lines += [f"     {what}: {x}" for what, x in k.resources.items()]
        lines += [f"  -  library call {name}" for name in self.calls]
        return "\n".join([*lines, self.text] if self.text else lines)


def launches(program: Program) -> int:
    """How many kernels and library calls run one after the other."""
    return len(program.kernels) + sum(c.op.record.kind is not Kind.VIEW for c in program.calls)


def of_whole(name: str, variant: Any, lowered: Lowered) -> KernelReport:
    """The report of a kernel on whole tensors."""
    program: Program = variant.program
    calls = tuple(c.op.name for c in program.calls if c.op.record.kind is not Kind.VIEW)
    text = str(inspect.explain(variant, name))
    return KernelReport(name, "whole", launches(program), lowered.kernels, calls, text=text)


def of_blocks(name: str, reason: str, lowered: Lowered) -> KernelReport:
    """The report of a kernel that runs as it is written: all of it is one launch on the CPU."""
    return KernelReport(name, "blocks", sum(k.launches for k in lowered.kernels), lowered.kernels, (), reason)


__all__ = ["KernelReport", "launches", "of_blocks", "of_whole"]
