"""The decorated kernel: read and checked at definition, run on tensors."""

from __future__ import annotations

import ast
import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch

from tessera import config
from tessera.backends.base import Target
from tessera.diag import (
    Label,
    TesseraError,
    TesseraWarning,
    TraceError,
    user_frames,
    warn_user,
)
from tessera.driver import inspect
from tessera.driver.guards import parse_target
from tessera.driver.kernel_blocks import BlockKernel
from tessera.driver.kernel_call import (
    KernelCall,
    bind_kernel,
    bind_traced,
    call_labels,
    check_overlap,
    interpret_kernel,
    key_of,
)
from tessera.driver.kernel_grad import Derivative, Differentiable, Undifferentiable
from tessera.driver.kernel_graph import graph_form
from tessera.driver.kernel_method import KernelMethod, is_method
from tessera.driver.kernel_report import KernelReport, of_blocks, of_whole
from tessera.driver.kernel_signature import check_obligations, check_settings, check_signature, inplace_of, outputs_of
from tessera.driver.kernel_step import call_opaque
from tessera.driver.kernel_tune import Tuned
from tessera.driver.kernel_ways import MISSING, Again, Form, Ways, again_of, carried_out, interpreted, kinds_of
from tessera.driver.kernel_whole import WholeKernel
from tessera.driver.latest import Latest
from tessera.driver.layout import TABLE
from tessera.driver.opaque import called
from tessera.frontend.accept import require_function
from tessera.frontend.handles import Deferred, PoisonHandle
from tessera.frontend.inline import inline_call
from tessera.frontend.kernel.context import BLOCKS
from tessera.frontend.kernel.program import KernelProgram, check_kernel, read_kernel, ways
from tessera.frontend.kernel.source import Source, source_of
from tessera.frontend.session import current
from tessera.frontend.spec import FunctionSpec
from tessera.ir.dialects.library import named
from tessera.ir.graph import Function as IRFunction
from tessera.ir.printer import print_function
from tessera.passes.whole import Partial, whole

#: Programs kept for one kernel: ways of calling it, and sizes where Python needs them.
_KEPT = 256
#: Block sizes where nothing else is said.
_BLOCK = 32
_dynamo = torch.compiler.is_dynamo_compiling


class Kernel:
    """A kernel with the programs for the ways in which it was called. Made by ``tessera.kernel``."""

    def __init__(
        self, fn: Callable[..., Any], settings: Mapping[str, int] = MappingProxyType({}),
        spec: FunctionSpec | None = None, text: Source | None = None,
    ) -> None:  # fmt: skip
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.settings = dict(settings)
        self.spec = spec or FunctionSpec.of(fn)
        check_signature(self.spec)
        #: As it is now: what happens to the file later changes nothing.
        self.text = text or source_of(fn)
        #: None for ways of calling it for which Python needs the sizes.
        self._programs: Latest[Any, tuple[KernelProgram | None]] = Latest(_KEPT, self._forget)
        self._lock = threading.RLock()
        self._derivative: Derivative | None = None
        self._tuned: Tuned | None = None
        self._latest: Again | None = None
        self._fused = False
        self.checked: tuple[KernelProgram, ...] = ()
        if config.current().shapes != "off":
            self._check()
        self.outputs = outputs_of(self.spec, self.text, self.checked)
        #: Outputs that may be the tensor of another parameter.
        self.inplace = inplace_of(self.checked)
        self._ways = Ways(self.spec, self.outputs, self.settings)

    def _check(self) -> None:
        try:
            self.checked = check_kernel(self.spec, self.text, TABLE)
        except TesseraError as error:
            if config.current().shapes != "warn":
                raise
            warn_user(TesseraWarning.from_diagnostics(error.diagnostics))

    @user_frames
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the kernel. Outputs that are left out are allocated and returned, in the order of the parameters; those
        that may be None only where the call says True for them.

        Raises CallError (TSR0111), ShapeError and DTypeError for arguments that do not fit; BoundsError (TSR0605,
        TSR0612) and RaceError (TSR0610, TSR0613) for what the kernel does wrong with them.
        """
        if _dynamo():
            return self._in_graph(args, kwargs)
        found = self.again(args, kwargs)
        return self.call(args, kwargs, self._derivative) if found is MISSING else found

    def again(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The results of a call like the one before; MISSING where it is none."""
        return MISSING if self._latest is None else self._latest.serve(args, kwargs)

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], derivative: Derivative | None) -> Any:
        """A call of the kernel, which has the derivative given."""
        if current() is not None:
            return self._inside(args, kwargs, derivative)
        if self._tuned is not None and (chosen := self._tuned.of_call(args, kwargs)) is not None:
            return chosen(*args, **kwargs)
        if derivative is None:
            form = self._ways.served(args, kwargs)
            found = MISSING if form is None else carried_out(form, (*args, *kwargs.values()))
            if form is not None and found is not MISSING:
                self._note(form, args, kwargs)
                return found
        call = bind_kernel(self.spec, self.outputs, args, kwargs)
        check_overlap(call, self.outputs, self.inplace)
        tensors = tuple(call.tensors.values())
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            if derivative is not None:
                return self._differentiable(call, args, kwargs, derivative)
            found = MISSING if self._given(call) else self._compiled(call)
            if found is MISSING:
                return self._undifferentiable(call, tensors)
        else:
            found = self._run(call)
        if derivative is None:
            form = self._ways.note(args, kwargs, self._program_of)
            if form is not None:
                self._note(form, args, kwargs)
        return found

    def _note(self, form: Form, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The next call may be like this one."""
        if self._tuned is None and (self._latest is None or self._latest.form is not form):
            self._latest = again_of(form, args, kwargs)

    def _undifferentiable(self, call: KernelCall, tensors: tuple[torch.Tensor, ...]) -> Any:
        made = Undifferentiable.apply(self, call, *tensors)[self._given(call) :]
        return None if not made else made[0] if len(made) == 1 else made

    def _given(self, call: KernelCall) -> int:
        """How many outputs a call gives."""
        return sum(name in call.tensors for name in self.outputs)

    def _run(self, call: KernelCall) -> Any:
        program, sizes = self._program(call)
        return self._ways.run(program, call, sizes)

    def _compiled(self, call: KernelCall) -> Any:
        program, sizes = self._program(call)
        return self._ways.compiled(program, call, sizes)

    def _inside(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], derivative: Derivative | None) -> Any:
        """A call in a function that is being traced: on whole tensors it is a part of that, else a step of it."""
        if any(isinstance(x, PoisonHandle) for x in (*args, *kwargs.values())):
            return next(x for x in (*args, *kwargs.values()) if isinstance(x, PoisonHandle))
        values, given, written = bind_traced(self.spec, self.outputs, args, kwargs)
        program = self._program_of(given)
        made = None if program is None else self._ways.whole(program, given, written)
        if made is not None:
            return inline_call(made.spec, made.arguments(values), {})
        reads = bool(written) and (program is None or program.updated(written))
        if reads or derivative is not self._derivative:
            what = "which reads what it is given to write" if reads else "which has a derivative of its object"
            raise TraceError(f"the kernel `{self.spec.name}`, {what}, inside a compiled function", code="TSR0406",
                             labels=call_labels(), helps=["leave its outputs out"] if reads else [])  # fmt: skip
        return call_opaque(self, values, given, written)

    @cached_property
    def target(self) -> str:
        """The name by which programs call the kernel."""
        return named(self, self.spec.name)

    def _in_graph(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call under torch's tracer: an operation of its graph where the kernel has a form on whole tensors."""
        given = (*args, *kwargs.values())
        number, how, tensors, numbers = graph_form(self, kinds_of(given), tuple(kwargs))
        if number < 0:
            return self._ways.apart(self, args, kwargs)
        made = self._ways.numbered[number]
        found = called(made, how, (), [given[p] for p in tensors], [given[p] for p in numbers])
        return self._ways.apart(self, args, kwargs) if found is None else found[0]

    def _program_of(self, given: Mapping[str, Any]) -> KernelProgram | None:
        """The program for arguments of these kinds; None where it takes sizes to read one."""
        return self._read((), given, None)

    @user_frames
    def check(self, *args: Any, **kwargs: Any) -> Any:
        """Run the kernel in the checking interpreter, whatever its size: what it would give, with every access checked.
        Given outputs are not written. Raises what a call does.
        """
        call = bind_kernel(self.spec, self.outputs, args, kwargs)
        check_overlap(call, self.outputs, self.inplace)
        program, sizes = self._program(call)
        found = tuple(interpreted(program, call, sizes).values())
        return found[0] if len(found) == 1 else found

    @user_frames
    def reference(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """What the outputs would be in float64, by parameter, with the same casts and the same checks; nothing is
        written.
        """
        call = bind_kernel(self.spec, self.outputs, args, kwargs)
        program, sizes = self._program(call)
        return {name: torch.from_numpy(x) for name, x in interpret_kernel(program, call, sizes, exact=True).items()}

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> Kernel:
        """Give the kernel a derivative, and give it back.

        ``fwd`` takes what the kernel takes, its outputs left out, and returns what the kernel returns and a second
        object, which ``bwd`` is given with the gradients of the outputs; ``bwd`` returns a tuple with a gradient, or
        None, for each tensor of the call, in the order of the parameters.
        """
        self._derivative, self._latest = (fwd, bwd), None
        return self

    def _differentiable(
        self, call: KernelCall, args: tuple[Any, ...], kwargs: Mapping[str, Any], derivative: Derivative
    ) -> Any:  # fmt: skip
        """A call that torch may differentiate."""
        if self._given(call):
            raise TraceError(f"a derivative of `{self.spec.name}` with an output that is given", code="TSR0413",
                             helps=["leave the outputs out"])  # fmt: skip
        return Differentiable.apply(derivative, args, kwargs, *call.tensors.values())

    def configure(self, **settings: int) -> Kernel:
        """The same kernel with other block sizes (``block_m``, ``block_n``, ``block_k``) or settings (``num_warps``,
        ``num_stages``, ``num_threads``). Raises TraceError (TSR0404) for others, ShapeError (TSR0106) below 1.
        """
        check_settings(settings)
        made = Kernel(self.fn, {**self.settings, **settings}, self.spec, self.text)
        made._derivative = self._derivative
        if self._fused:
            made.require_whole()
        return made

    @user_frames
    def autotune(
        self, configs: Iterable[Mapping[str, int]], arguments: Iterable[tuple[Any, ...]] = (),
        key: Sequence[str] | None = None, warmup: int = 3, reps: int = 10, cache: str | os.PathLike[str] | None = None,
    ) -> Kernel:  # fmt: skip
        """The same kernel with the fastest settings for calls of some sizes, measured now and never in a call.

        ``configs`` are candidates, as ``configure`` takes them, beside the compiler's own choice; one that fails, or
        gives something else than the checking interpreter, is rejected. They are measured for each of ``arguments``,
        tuples of positional arguments, by the median of ``reps`` runs in turns. A call has the settings measured for
        its dtypes, its device and its sizes of the names in ``key``, or all its sizes; others have the compiler's. With
        ``cache`` all of it is kept in a JSON file, and what that has is not measured again.

        Raises what ``configure`` raises, and ConfigError for a file that is none.

        >>> import tessera, torch
        >>> from tessera import Tile, tile
        >>> @tessera.kernel
        ... def double(x: Tile["N"], y: Tile["N"]):
        ...     b = tile.context().block_m
        ...     for i in tile.grid(0, tile.context().N, b):
        ...         tile.store(y[i : i + b], tile.load(x[i : i + b]) * 2)
        >>> tuned = double.autotune([{"block_m": 64}, {"block_m": 256}], [(torch.ones(1000),)], reps=2)
        >>> tuned(torch.ones(3)).tolist()
        [2.0, 2.0, 2.0]
        """
        made = Kernel(self.fn, self.settings, self.spec, self.text)
        made._derivative = self._derivative
        path = None if cache is None else Path(cache)
        made._tuned = Tuned.of(self, self._text(), tuple(configs), tuple(arguments), key, (warmup, reps), path)
        return made

    def _text(self) -> str:
        """What the kernel is, with its settings, as text."""
        text = "".join(print_function(p.function) for p in self.checked) or ast.dump(self.text.node)
        return f"{text}{sorted(self.settings.items())}"

    @user_frames
    def ir(self, *args: Any, **kwargs: Any) -> str:
        """The block program as text, for given arguments or else for the first way of calling the kernel."""
        return print_function(self._function(args, kwargs))

    @user_frames
    def lower(
        self, *args: Any, backend: str | None = None, target: Target | str | None = None, **kwargs: Any
    ) -> inspect.Lowered:
        """The launches for a backend (``c``, ``triton``, ``eager``) and a target such as ``"cuda:90"``, for given
        arguments or the first way of calling the kernel. Raises ResourceError (TSR0607) for an unknown backend.
        """
        made, given, sizes = self._shown(args, kwargs)
        if isinstance(made, BlockKernel):
            return made.lower(backend, parse_target(target), sizes)
        return made.lower(*given, backend=backend, target=target)

    @user_frames
    def source(self, backend: str | None = None, *args: Any, **kwargs: Any) -> str:
        """The text of all launches for a backend; arguments as for ``lower``."""
        return "\n\n".join(k.source for k in self.lower(*args, backend=backend, **kwargs).kernels)

    @user_frames
    def resources(self, *args: Any, target: Target | str = "cuda:90", **kwargs: Any) -> dict[str, Mapping[str, Any]]:
        """What each launch takes of a target, by its name, as far as a compiler says it: registers, spilled bytes,
        shared memory. Arguments, which may be meta tensors, say for which sizes.
        """
        return {k.name: k.resources for k in self.lower(*args, target=target, **kwargs).kernels}

    @user_frames
    def launches(self, *args: Any, **kwargs: Any) -> int:
        """How many kernels and library calls a call runs one after the other."""
        return self.report(*args, **kwargs).launches

    @user_frames
    def report(self, *args: Any, **kwargs: Any) -> KernelReport:
        """How a call runs: in which form and why, its launches, and what each moves and computes."""
        made, given, _ = self._shown(args, kwargs)
        if isinstance(made, BlockKernel):
            if made.prints:
                return KernelReport(self.spec.name, "interpreter", 0, (), (), "it prints")
            return of_blocks(self.spec.name, self._ways.reason(made.program), made.lower(None, None, None))
        return of_whole(self.spec.name, made._variant(tuple(given), {}), made.lower(*given))

    def require_whole(self) -> None:
        """Refuse a kernel that has no form on whole tensors in one of its ways (TSR0419)."""
        self._fused = True
        if not self.checked:
            raise self._unread()
        for program in self.checked:
            try:
                whole(program.function, frozenset(program.blocks) - self.settings.keys())
            except Partial as why:
                span = why.at.span
                labels = [] if span is None else [Label(span, str(why), True)]
                raise TraceError(
                    f"`{self.spec.name}` has no form on whole tensors: {why}", code="TSR0419", labels=labels,
                    helps=["load whole tiles, and leave block sizes to the compiler"],
                ) from None  # fmt: skip

    def _shown(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[WholeKernel | BlockKernel, list[Any], dict[str, int]]:
        """What runs for given arguments, with those that it takes and the sizes, or for the first way of calling the
        kernel without any.
        """
        sizes: dict[str, int] = {}
        if args or kwargs:
            call = bind_kernel(self.spec, self.outputs, args, kwargs)
            (program, sizes), given = self._program(call), call.given
        else:
            call, given = None, next(ways(self.spec))
            found = self._program_of(given)
            if found is None:
                raise self._unread()
            program = found
        made = self._ways.whole(program, given)
        if made is None:
            return self._ways.blocks(program), [], sizes
        return made, [] if call is None else made.arguments(call.values), sizes

    def _unread(self) -> TraceError:
        labels = [] if self.spec.span is None else [Label(self.spec.span, "reads its sizes", True)]
        return TraceError(f"`{self.spec.name}` has no program before its sizes are known", code="TSR0406",
                          labels=labels, helps=["pass example arguments"])  # fmt: skip

    def _function(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> IRFunction:
        if args or kwargs:
            return self._program(bind_kernel(self.spec, self.outputs, args, kwargs))[0].function
        if not self.checked:
            raise self._unread()
        return self.checked[0].function

    def _program(self, call: KernelCall) -> tuple[KernelProgram, dict[str, int]]:
        """The program for a call, and every size in it."""
        sizes = {**call.sizes, **{b: self.settings.get(b, _BLOCK) for b in BLOCKS}}
        found = self._program_of(call.given) or self._read(tuple(sizes.items()), call.given, sizes)
        assert found is not None
        check_obligations(found.function, sizes)
        return found, sizes

    def _read(self, at: Any, given: Mapping[str, Any], sizes: Mapping[str, int] | None) -> KernelProgram | None:
        """The program for some arguments, read when it is first asked for; None where it takes sizes to read it."""
        key = at, key_of(given)
        with self._lock:
            found = self._programs.get(key)
            if found is None:
                try:
                    made = read_kernel(self.spec, self.text, TABLE, given, sizes, self.settings)
                except Deferred:
                    made = None
                found = self._programs.put(key, (made,))
        return found[0]

    def _forget(self, found: tuple[KernelProgram | None]) -> None:
        """Drop what was made of a program that is no longer kept."""
        if found[0] is not None:
            self._ways.forget(found[0])

    def __repr__(self) -> str:
        settings = "".join(f", {name}={x}" for name, x in self.settings.items())
        return f"<tessera.kernel {self.spec.name}{settings}>"

    def __reduce__(self) -> str:
        return self.fn.__qualname__  # found again by where it is defined, never by its code


class Kernels:
    """A program over blocks of its arguments, which are views of tensors: read from its source, checked, and run.

    Parameters are annotated ``Tile["S", "D", tessera.f32]`` and what a function may take besides; those that the body
    writes to are outputs, which a call may leave out. A tensor with more dims than declared is taken part by part. What
    is wrong with shapes, dtypes or the use of the language is an error at definition, with its place. A kernel may be a
    method: tensors that it reads of ``self`` are arguments, and other attributes known while it is read. It is checked
    when an object is known, which is at its first call.

    Raises TraceError (TSR0409, TSR0419), ShapeError and DTypeError.

    >>> import tessera, torch
    >>> from tessera import Tile, tile
    >>> @tessera.kernel
    ... def double(x: Tile["N"], y: Tile["N"]):
    ...     for i in tile.grid(0, tile.context().N, 64):
    ...         tile.store(y[i : i + 64], tile.load(x[i : i + 64]) * 2)
    >>> double(torch.arange(3.0)).tolist()
    [0.0, 2.0, 4.0]
    """

    @user_frames
    def __call__(self, fn: Callable[..., Any], /) -> Kernel:
        if isinstance(fn, Kernel | KernelMethod):
            return cast("Kernel", fn)
        require_function(fn)
        return cast("Kernel", KernelMethod(fn, Kernel)) if is_method(fn) else Kernel(fn)  # of an object it is a kernel

    @user_frames
    def fused(self, fn: Callable[..., Any], /) -> Kernel:
        """A kernel written with operations on whole tiles, which becomes as few launches as its dependencies allow;
        ``launches`` and ``report`` say how many. Raises TraceError (TSR0419) for one that has no form on whole tensors.

        >>> import tessera
        >>> from tessera import Tile, tile
        >>> @tessera.kernel.fused
        ... def gated(x: Tile["S", "D"], W: Tile["D", "F"], V: Tile["D", "F"], y: Tile["S", "F"]):
        ...     tile.store(y, tile.swish(tile.mma(x, W)) * tile.mma(x, V))
        >>> gated.launches()
        1
        """
        made = self(fn)
        made.require_whole()
        return made

    def __repr__(self) -> str:
        return "tessera.kernel"


kernel = Kernels()

__all__ = ["Kernel", "Kernels", "kernel"]
