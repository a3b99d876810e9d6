"""How a call of a kernel runs: compiled, on whole tensors where the program has such a form, else as it is written.

The first call of a program whose arguments are small is run in the checking interpreter, too: what is wrong with what
it does with memory is found there, and not in what comes out.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from tessera import config
from tessera.diag import BoundsError, ShapeError
from tessera.driver.kernel_call import KernelCall, as_tensor, interpret_kernel
from tessera.driver.kernel_whole import WholeKernel, may_fail
from tessera.frontend.kernel.program import KernelProgram
from tessera.frontend.spec import FunctionSpec
from tessera.passes.whole import Partial
from tessera.runtime import dispatch

#: Elements of all arguments up to which the first call of a program is checked.
CHECKED = 2048
MISSING: Final = object()
_PLAIN = frozenset({bool, int, str, type(None)})


class Ways:
    """The ways in which one kernel runs, by program. ``fixed`` are the settings that it was given."""

    def __init__(self, spec: FunctionSpec, outputs: Sequence[str], fixed: frozenset[str]) -> None:
        self.spec = spec
        self.outputs = tuple(outputs)
        self.fixed = fixed
        #: Programs by identity, which lasts as long as they are kept here.
        self._whole: dict[Any, tuple[KernelProgram, WholeKernel | None]] = {}
        #: Why a program has no form on whole tensors.
        self.partial: dict[int, Partial] = {}
        self._checked: set[int] = set()
        self._quick: dict[Any, tuple[WholeKernel, tuple[int, ...]]] = {}
        self._lock = threading.RLock()

    def whole(
        self, program: KernelProgram, given: Mapping[str, Any], written: Sequence[str] = ()
    ) -> WholeKernel | None:  # fmt: skip
        """The kernel on whole tensors; None where it has no such form."""
        with self._lock:
            key = (id(program), tuple(written))
            if key not in self._whole:
                free = tuple(b for b in program.blocks if b not in self.fixed)
                found: WholeKernel | None = None
                try:
                    found = WholeKernel(self.spec, program, given, written, free)
                except Partial as failure:
                    self.partial[id(program)] = failure
                self._whole[key] = program, found
        return self._whole[key][1]

    def run(self, program: KernelProgram, call: KernelCall, sizes: Mapping[str, int]) -> Any:
        """The results of a call; outputs that it gives are written."""
        found = self.compiled(program, call, sizes)
        return deliver(program, call, interpreted(program, call, sizes)) if found is MISSING else found

    def compiled(self, program: KernelProgram, call: KernelCall, sizes: Mapping[str, int]) -> Any:
        """The results of a call that runs compiled; MISSING where it does not."""
        tensors = list(call.tensors.values())
        if config.current().backend == "eager" or not all(t.numel() for t in tensors):
            return MISSING
        made = self.whole(program, call.given)
        if made is None:
            return MISSING
        if id(program) not in self._checked:
            if sum(t.numel() for t in tensors) <= CHECKED and all(map(dispatch.plain, tensors)):
                interpret_kernel(program, call, sizes, exact=False)
            self._checked.add(id(program))
        written = tuple(name for name in program.outputs if name in call.tensors)
        direct = None if not written or may_fail(made.made.function) else self.whole(program, call.given, written)
        try:
            if direct is not None:
                return direct(*(call.values[name] for name in direct.names))
            found = made(*(call.values[name] for name in made.names))
        except (BoundsError, ShapeError):  # the interpreter knows where, and serves what is right for other blocks
            return MISSING
        if not written:
            self._note(made, call)
            return found
        return deliver(program, call, dict(zip(program.outputs, _several(found), strict=True)))

    def _note(self, made: WholeKernel, call: KernelCall) -> None:
        """Serve calls like this one at once: without outputs and with all arguments in order."""
        args = list(call.values.values())
        while args and args[-1] is None:
            args.pop()
        names = list(call.values)
        key = _kind(args)
        if key is not None and all(names.index(name) < len(args) for name in made.names):
            self._quick[key, config.current().backend] = made, tuple(names.index(name) for name in made.names)

    def again(self, args: Sequence[Any]) -> Any:
        """The results of a call like an earlier one; MISSING where it is none."""
        key = _kind(args)
        found = None if key is None else self._quick.get((key, config.current().backend))
        if found is None:
            return MISSING
        made, places = found
        try:
            return made(*[args[n] for n in places])
        except (BoundsError, ShapeError):
            return MISSING


def _kind(args: Sequence[Any]) -> tuple[Any, ...] | None:
    """What programs differ by, for arguments that are taken as they are."""
    found: list[Any] = []
    for a in args:
        if type(a) is torch.Tensor or type(a) is torch.nn.Parameter:
            if not a.numel():
                return None
            found += (a.dtype, a.ndim)
        elif type(a) is float:
            found.append(float)
        elif type(a) in _PLAIN:
            found += (type(a), a)
        else:
            return None
    return tuple(found)


def interpreted(program: KernelProgram, call: KernelCall, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """The outputs of a call, as the checking interpreter finds them."""
    found = interpret_kernel(program, call, sizes, exact=False)
    like = next(iter(call.tensors.values()), None)
    return {name: as_tensor(found[name], program.params[name].type.dtype, like) for name in program.outputs}


def deliver(program: KernelProgram, call: KernelCall, found: Mapping[str, torch.Tensor]) -> Any:
    """Write the outputs that the caller gave, and give the others."""
    with torch.no_grad():
        for name, x in found.items():
            if name in call.tensors:
                call.tensors[name].copy_(x)
    made = tuple(x for name, x in found.items() if name not in call.tensors)
    return None if not made else made[0] if len(made) == 1 else made


def _several(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


__all__ = ["CHECKED", "MISSING", "Ways", "deliver", "interpreted"]
