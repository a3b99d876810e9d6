"""How a call of a kernel runs: compiled, on whole tensors where the program has such a form, else as it is written.

The first call of a program whose arguments are small is run in the checking interpreter, too: what is wrong with what
it does with memory is found there, and not in what comes out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from tessera import config
from tessera.diag import BoundsError, Note, ResourceError, ShapeError, TesseraWarning, TraceError, warn_user
from tessera.driver import devices
from tessera.driver.kernel_blocks import BlockKernel
from tessera.driver.kernel_call import KernelCall, as_tensor, bind_traced, in_place, interpret_kernel
from tessera.driver.kernel_whole import WholeKernel, may_fail
from tessera.driver.latest import Latest
from tessera.frontend.kernel.program import KernelProgram
from tessera.frontend.spec import FunctionSpec
from tessera.passes.whole import Partial
from tessera.runtime import dispatch

#: Elements of all arguments up to which the first call of a program is checked.
CHECKED = 2048
#: Iterations after which that is enough.
LOOKED = 4096
MISSING: Final = object()
_function_modes = torch._C._len_torch_function_stack
_PLAIN = frozenset({bool, int, str, type(None)})
_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})

Kinds = tuple[tuple[Any, ...] | None, ...]
#: A kernel on whole tensors, and for each of its arguments which argument of the call it is, or what it is always.
Form = tuple[WholeKernel, tuple[int | tuple[Any], ...]]
Reads = Callable[[Mapping[str, Any]], KernelProgram | None]


class Ways:
    """The ways in which one kernel runs, by program. ``settings`` are those that it was given."""

    def __init__(self, spec: FunctionSpec, outputs: Sequence[str], settings: Mapping[str, int]) -> None:
        self.spec = spec
        self.outputs = tuple(outputs)
        self.settings = settings
        #: Programs by identity, which lasts as long as they are kept here.
        self._whole: dict[Any, tuple[KernelProgram, WholeKernel | None]] = {}
        #: Why a program has no form on whole tensors.
        self.partial: dict[int, Partial] = {}
        self._blocks: dict[int, tuple[KernelProgram, BlockKernel]] = {}
        self._checked: set[int] = set()
        self._warned = False
        self.forms: Latest[tuple[Kinds, tuple[str, ...]], tuple[Form | None]] = Latest(dispatch.REMEMBERED)
        #: The kernels of forms that torch's graphs call, by number.
        self.numbered: list[WholeKernel] = []
        #: What carries out a call between two of torch's graphs.
        self.apart: Callable[..., Any] = _unset
        #: Forms that have served a call.
        self._served: Latest[tuple[Kinds, tuple[str, ...]], Form] = Latest(dispatch.REMEMBERED)
        self._lock = threading.RLock()

    def whole(
        self, program: KernelProgram, given: Mapping[str, Any], written: Sequence[str] = ()
    ) -> WholeKernel | None:  # fmt: skip
        """The kernel on whole tensors; None where it has no such form."""
        with self._lock:
            key = (id(program), tuple(written))
            if key not in self._whole:
                free = tuple(b for b in program.blocks if b not in self.settings)
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
        return deliver(program, call, self.in_blocks(program, call, sizes)) if found is MISSING else found

    def reason(self, program: KernelProgram) -> str:
        """Why a program has no form on whole tensors."""
        return str(self.partial[id(program)])

    def blocks(self, program: KernelProgram) -> BlockKernel:
        """The kernel in its own blocks."""
        with self._lock:
            if id(program) not in self._blocks:
                self._blocks[id(program)] = program, BlockKernel(program, self.settings)
            return self._blocks[id(program)][1]

    def in_blocks(
        self, program: KernelProgram, call: KernelCall, sizes: Mapping[str, int]
    ) -> Mapping[str, torch.Tensor]:  # fmt: skip
        """The outputs of a call that runs as the kernel is written; in the interpreter where it is not compiled."""
        made, wanted = self.blocks(program), config.current().backend
        if made.prints or wanted == "eager" or not call.readable:
            return interpreted(program, call, sizes)
        if not devices.usable(list(call.tensors.values()), wanted):
            return interpreted(program, call, sizes)
        self.look(program, call, sizes)
        try:
            with self._lock:
                made.prepare(call.device)
            return made.run(call, sizes)
        except (BoundsError, ShapeError):  # the interpreter knows which element
            return interpreted(program, call, sizes)
        except (ResourceError, TraceError) as error:
            if wanted in ("c", "triton"):
                raise
            if not self._warned:
                self._warned = True
                first = error.diagnostics[0]
                notes = (*first.notes, Note(f"`{self.spec.name}` runs in the checking interpreter from here on"))
                warn_user(TesseraWarning.from_diagnostics([replace(first, notes=notes)]))
            return interpreted(program, call, sizes)

    def look(self, program: KernelProgram, call: KernelCall, sizes: Mapping[str, int]) -> None:
        """Run the first call of a program in the checking interpreter, if it is small."""
        if id(program) in self._checked:
            return
        if call.readable and sum(t.numel() for t in call.tensors.values()) <= CHECKED:
            interpret_kernel(program, call, sizes, exact=False, most=LOOKED)
            self._checked.add(id(program))

    def compiled(self, program: KernelProgram, call: KernelCall, sizes: Mapping[str, int]) -> Any:
        """The results of a call that runs compiled; MISSING where it does not."""
        tensors = list(call.tensors.values())
        if config.current().backend == "eager" or not (all(t.numel() for t in tensors) or _is_empty(program, sizes)):
            return MISSING
        made = self.whole(program, call.given)
        if made is None:
            return MISSING
        self.look(program, call, sizes)
        written = tuple(name for name in program.outputs if name in call.tensors)
        if not made.added.isdisjoint(written):
            return MISSING
        apart = not written or may_fail(made.made.function) or in_place(call, program.outputs)
        direct = None if apart else self.whole(program, call.given, written)
        try:
            if direct is not None:
                return direct(*direct.arguments(call.values))
            found = made(*made.arguments(call.values))
        except (BoundsError, ShapeError, ZeroDivisionError):  # in blocks it is known where, or it is right with others
            return MISSING
        if not written:
            return found
        return deliver(program, call, dict(zip(program.outputs, _several(found), strict=True)))

    def form(self, kinds: Kinds, names: tuple[str, ...], read: Reads) -> Form | None:
        """The kernel on whole tensors for arguments of these kinds, the last of them given by ``names``; None where it
        has no such form, or outputs are given. ``read`` reads a program.
        """
        key = (kinds, names)
        with self._lock:
            found = self.forms.get(key) or self.forms.put(key, (self._form(kinds, names, read),))
        return found[0]

    def _form(self, kinds: Kinds, names: tuple[str, ...], read: Reads) -> Form | None:
        stand = [_stand_in(n, kind) for n, kind in enumerate(kinds)]
        first = len(stand) - len(names)
        named = dict(zip(names, stand[first:], strict=True))
        values, given, written = bind_traced(self.spec, self.outputs, stand[:first], named)
        program = None if written else read(given)
        made = None if program is None else self.whole(program, given)
        if made is None:
            return None
        at = {id(x): n for n, x in enumerate(stand)}
        places = [at.get(id(x), (x,)) for x in made.arguments(values)]
        while places and isinstance(places[-1], tuple) and made.leaves_out(len(places) - 1, places[-1][0]):
            places.pop()
        return made, tuple(places)

    def served(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Form | None:
        """The form of a call like an earlier one that ran on whole tensors; None where it is none."""
        every = (*args, *kwargs.values())
        with self._lock:
            form = self._served.get((kinds_of(every), tuple(kwargs)))
        if form is None or config.current().backend == "eager":
            return None
        return form if all(a.numel() for a in every if isinstance(a, torch.Tensor)) else None

    def note(self, args: Sequence[Any], kwargs: Mapping[str, Any], read: Reads) -> Form | None:
        """A call has run; others like it need not be looked at again. Gives the form that serves it."""
        key = kinds_of((*args, *kwargs.values())), tuple(kwargs)
        if any(k is None for k in key[0]):
            return None
        form = self.form(*key, read)
        with self._lock:
            return None if form is None else self._served.put(key, form)

    def forget(self, program: KernelProgram) -> None:
        """Drop what was made of a program."""
        with self._lock:
            for key in [key for key, (one, _) in self._whole.items() if one is program]:
                del self._whole[key]
            for table in (self.partial, self._blocks):
                table.pop(id(program), None)
            self._checked.discard(id(program))


def carried_out(form: Form, given: Sequence[Any]) -> Any:
    """The results of a call on whole tensors; MISSING where it is right, or known better, in blocks."""
    made, places = form
    try:
        return made(*[given[p] if type(p) is int else p[0] for p in places])  # type: ignore[index]
    except (BoundsError, ShapeError, ZeroDivisionError):
        return MISSING


@dataclass(frozen=True, slots=True)
class Again:
    """The latest call that ran on whole tensors, of which the next one may be the like: its form, the number of its
    arguments and the ``names`` of the last of them, which are the tensors that the form takes and nothing else, and
    ``fixed``: the place and the value of each of the others.
    """

    form: Form
    count: int
    names: tuple[str, ...]
    tensors: tuple[int, ...]
    fixed: tuple[tuple[int, Any], ...]

    def serve(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The results of a call if its tensors are like those in all that compiled code depends on, else MISSING."""
        if kwargs or self.names:
            if tuple(kwargs) != self.names:
                return MISSING
            args = (*args, *kwargs.values())
        recent = self.form[0].recent
        if recent is None or len(args) != self.count or recent.settings is not config.current():
            return MISSING
        given = args
        if len(self.tensors) < self.count:
            for at, value in self.fixed:
                if type(args[at]) is not type(value) or args[at] != value:
                    return MISSING
            given = tuple([args[at] for at in self.tensors])
        if _function_modes() or not recent.check(*given):
            return MISSING
        try:
            return self.form[0](*given)
        except (BoundsError, ShapeError, ZeroDivisionError):
            return MISSING


def again_of(form: Form, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Again | None:
    """What recognises a call like this one; None where the form takes more than tensors of it."""
    every = (*args, *kwargs.values())
    tensors = tuple(p for p in form[1] if isinstance(p, int) and isinstance(every[p], torch.Tensor))
    if len(tensors) < len(form[1]) or any(isinstance(x, float) for x in every):
        return None
    fixed = tuple((n, x) for n, x in enumerate(every) if not isinstance(x, torch.Tensor))
    return Again(form, len(every), tuple(kwargs), tensors, fixed)


def kinds_of(args: Sequence[Any]) -> Kinds:
    """What programs differ by, for each of the arguments as they are; None for what is no tensor, float or plain value.

    >>> kinds_of([torch.ones(2, 3), 0.5, None])
    ((torch.float32, 2), (<class 'float'>,), (<class 'NoneType'>, None))
    """
    return tuple(
        (a.dtype, a.ndim) if type(a) in _TENSORS else (float,) if type(a) is float
        else (type(a), a) if type(a) in _PLAIN else None
        for a in args
    )  # fmt: skip


def _stand_in(number: int, kind: tuple[Any, ...] | None) -> Any:
    """An object of its own with what kinds say of an argument."""
    if kind is None:
        return object()
    if kind[0] is float:
        return number + 0.5
    return torch.empty((2,) * kind[1], dtype=kind[0], device="meta") if isinstance(kind[0], torch.dtype) else kind[1]


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


def _is_empty(program: KernelProgram, sizes: Mapping[str, int]) -> bool:
    """Have the outputs no elements?"""
    dims = (program.params[name].type.dims for name in program.outputs)
    return all(any(d.evaluate(sizes) == 0 for d in shape) for shape in dims)


def _unset(*_: Any) -> Any:
    raise AssertionError("torch's tracer asks for the form of a call first")


def _several(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


__all__ = [
    "CHECKED", "MISSING", "Again", "Form", "Ways", "again_of", "carried_out", "deliver", "interpreted", "kinds_of",
]  # fmt: skip
