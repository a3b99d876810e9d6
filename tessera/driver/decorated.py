"""The decorated function: proved at definition, compiled at the first call of each kind, dispatched in microseconds."""

from __future__ import annotations

import functools
import os
import threading
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

import torch
import torch.autograd.forward_ad as fwd

from tessera import config
from tessera.backends.base import Target
from tessera.diag import (
    Diagnostic,
    Note,
    ResourceError,
    TesseraError,
    TesseraWarning,
    TraceError,
    user_frames,
)
from tessera.driver import devices, inspect
from tessera.driver.guards import (
    check_devices,
    check_guards,
    check_kinds,
    check_memory,
    parse_target,
    serves,
    variant_classes,
)
from tessera.driver.layout import TABLE
from tessera.driver.method import Method, by_name, fingerprints, is_plain
from tessera.driver.variant import Layout, Variant
from tessera.frontend.binding import Bound, bind_arguments
from tessera.frontend.check import CheckReport, check
from tessera.frontend.inline import inline_call
from tessera.frontend.session import current, error_of
from tessera.frontend.spec import FunctionSpec
from tessera.frontend.trace import Input, Run, Traced
from tessera.frontend.tree import unflatten
from tessera.frontend.unifying import CallTypes, call_types, check_call
from tessera.ir.dtype import f32, f64
from tessera.runtime import dispatch
from tessera.runtime.recent import Recent, recent_call

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class CacheInfo:
    """What a function has compiled so far. ``variants`` are compiled forms, ``hits`` calls served by one, ``eager``
    calls run eagerly.
    """

    variants: int
    compiles: int
    from_cache: int
    hits: int
    eager: int
    signatures: int


@dataclass
class Counters:
    """Running counts behind ``CacheInfo``."""

    compiles: int = 0
    from_cache: int = 0
    hits: int = 0
    eager: int = 0


@dataclass
class Resolved:
    """A call matched with a compiled form."""

    bound: Bound
    types: CallTypes
    variant: Variant
    tensors: list[torch.Tensor] = field(default_factory=list)


class Function(Generic[P, R]):
    """A Python function with a compiled form. Made by ``tessera.function``."""

    def __init__(self, fn: Callable[P, R], *, strict: bool = False) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.strict = strict
        self.spec = FunctionSpec.of(fn)
        self._lock = threading.RLock()
        _functions.add(self)
        self._variants: dict[Any, list[Variant]] = {}
        self._memos: dict[str, dispatch.Memo] = defaultdict(dispatch.Memo)
        self._latest: Any = None
        self._recent: Recent | None = None
        self._counters = Counters()
        self._warned = False
        self._refused: dict[Any, TesseraError] = {}
        self._report: CheckReport | None = None
        if config.current().shapes != "off":
            self._prove()

    # -- definition ------------------------------------------------------------------------------------------------

    def _prove(self) -> None:
        report = self.check()
        if self.strict:
            untraceable = [f for t in report.traced for f in t.findings if issubclass(f.error, TraceError)]
            if untraceable:
                raise error_of(untraceable)
        if report.ok:
            return
        if config.current().shapes == "warn":
            warnings.warn(TesseraWarning.from_diagnostics(report.diagnostics), stacklevel=4)
        else:
            report.raise_if_refuted()

    def check(self) -> CheckReport:
        """Prove the shapes for every size, without data; prints each need with its verdict."""
        if self._report is None:
            self._report = check(self.spec, TABLE)
        return self._report

    # -- calls -----------------------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        recent = self._recent
        if (
            recent is not None and not kwargs and len(args) == recent.count
            and recent.settings is config.current() and recent.dtype is torch.get_default_dtype()
            and not _function_modes() and fwd._current_level < 0 and recent.check(*args)
        ):  # fmt: skip
            self._counters.hits += 1
            try:
                return recent.entry(args, [])
            except (dispatch.NoAddressError, ResourceError):
                return self._slow(args, kwargs)
        return self._general(args, kwargs)

    def _general(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call that is not like the one before: by its exact signature, or the slow way."""
        if kwargs or _transforms() is not None or _dispatch_modes() or _function_modes() or fwd._current_level >= 0:
            return self._slow(args, kwargs)
        key: list[Any] = []
        tensors: list[Any] = []
        scalars: list[float] = []
        for a in args:
            t = type(a)
            if t is _TENSOR or t is _PARAMETER:
                if a.layout is not _STRIDED or a.is_neg() or a.is_nested:
                    return self._slow(args, kwargs)
                if a.requires_grad and torch.is_grad_enabled():
                    return self._slow(args, kwargs)
                if not a.is_cpu:
                    key.append(a.device)
                key.append(a.shape)
                key.append(a.dtype if a.is_contiguous() else (a.dtype, a.stride()))
                tensors.append(a)
            elif t is float:
                key.append(float)
                scalars.append(a)
            elif t is int or t is bool or a is None or t is str:
                key += (t, a)
            else:
                return self._slow(args, kwargs)
        key.append(torch.get_default_dtype())
        found = tuple(key)
        entry = self._memos[config.current().backend].entries.get(found)
        if entry is None:
            return self._slow(args, kwargs, found)
        self._counters.hits += 1
        if entry is self._latest and len(tensors) == len(args):
            self._recent = recent_call(tensors, entry, config.current())
        self._latest = entry
        try:
            return entry(tensors, scalars)
        except (dispatch.NoAddressError, ResourceError):
            return self._slow(args, kwargs)

    @user_frames
    def _slow(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: tuple[Any, ...] | None = None) -> Any:
        """Everything but the warm path: tracing calls, checks, compilation, eager execution."""
        if torch.compiler.is_compiling():
            return self.fn(*args, **kwargs)
        if current() is not None:
            return inline_call(self.spec, args, kwargs)
        bound = bind_arguments(self.spec, args, kwargs)
        tensors = [leaf.value for leaf in bound.tensors]
        check_kinds(bound)
        check_devices(bound)
        sizes = check_call(self.spec, bound, [t.shape for t in tensors], [TABLE.tensor_type(t).dtype for t in tensors])
        if not self._compiles(tensors):
            self._counters.eager += 1
            return self.fn(*args, **kwargs)
        try:
            resolved = self._resolve(bound, sizes, tensors)
            plan = resolved.variant.plan()
        except (TraceError, ResourceError) as error:
            return self._eagerly(error, args, kwargs)
        named = resolved.types.hints
        given = [self._input(i, bound) for i in resolved.variant.traced.inputs]
        flat = [x for x in given if isinstance(x, torch.Tensor)]
        # A captured tensor may need what an argument did not, or live elsewhere.
        if not self._compiles(flat) or devices.device_of(flat) != resolved.variant.device:
            self._counters.eager += 1
            return self.fn(*args, **kwargs)
        numbers = [x for x in given if not isinstance(x, torch.Tensor)]
        finish = self._finisher(resolved, named)
        runner = plan.bind(resolved.variant.sizes(named, flat), alone=finish is None)
        try:
            made = runner(flat, numbers)
        except dispatch.NoAddressError:
            check_memory(flat)
            return self.fn(*args, **kwargs)
        except ResourceError as error:  # code for a GPU is made when it is first launched
            return self._eagerly(error, args, kwargs)
        if key is not None and self._memorable(resolved, bound):
            defaults = numbers[sum(type(a) is float for a in args) :]
            self._memos[config.current().backend].put(key, _entry(runner, finish, defaults))
        return made if finish is None else finish(made)

    def _compiles(self, tensors: Sequence[torch.Tensor]) -> bool:
        """May this call run compiled kernels? Gradients, transformed and extraordinary tensors go through torch, and
        tensors without elements, which torch reduces to what it likes or refuses.
        """
        wanted = config.current().backend
        if wanted == "eager" or dispatch.intercepted():
            return False
        if not devices.usable(tensors, wanted):
            return False
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return False
        if torch.get_default_dtype() is not torch.float32:  # what numbers mean beside integers was traced as f32
            return False
        return all(dispatch.plain(t) and t.numel() for t in tensors)

    def _eagerly(self, error: TesseraError, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the Python function as it is, with one warning that says why; or refuse."""
        explicit = isinstance(error, ResourceError) and config.current().backend in ("c", "triton")
        if explicit or (self.strict and isinstance(error, TraceError)):
            raise error
        if not self._warned:
            self._warned = True
            first = error.diagnostics[0]
            note = Note(f"`{self.spec.name}` runs eagerly from here on")
            warnings.warn(
                TesseraWarning.from_diagnostics(
                    [Diagnostic(first.code, first.message, first.labels, (note,), first.helps)]
                ),
                stacklevel=6,
            )
        self._counters.eager += 1
        return self.fn(*args, **kwargs)

    def _input(self, source: Input, bound: Bound) -> Any:
        if source.kind == "leaf":
            return bound.leaves[source.leaf].value
        if source.kind == "seed":
            return int(torch.empty((), dtype=torch.int64).random_())
        return source.captured

    def _memorable(self, resolved: Resolved, bound: Bound) -> bool:
        """May later calls of the same signature skip the binding of arguments?"""
        simple = all(i.kind == "leaf" for i in resolved.variant.traced.inputs)
        order = [i.leaf for i in resolved.variant.traced.inputs]
        known = all(leaf.kind in ("tensor", "scalar") or is_plain(leaf) for leaf in bound.leaves)
        floats = all(type(leaf.value) is float for leaf in bound.leaves if leaf.kind == "scalar")
        tensors = [n for n, leaf in enumerate(bound.leaves) if leaf.kind == "tensor"]
        scalars = [n for n, leaf in enumerate(bound.leaves) if leaf.kind == "scalar"]
        given = [n for n in order if n in tensors] == tensors and [n for n in order if n in scalars] == scalars
        return simple and known and floats and given and not resolved.variant.traced.specialised

    def _resolve(self, bound: Bound, sizes: Any, tensors: list[torch.Tensor]) -> Resolved:
        """The compiled form for a call; traced and compiled when there is none yet."""
        dtypes = [TABLE.tensor_type(t).dtype for t in tensors]
        scalar = f64 if f64 in dtypes else f32
        kinds = call_types(self.spec, bound, sizes, [t.shape for t in tensors], dtypes, scalar)
        dense = tuple(t.is_contiguous() for t in tensors)
        device = devices.device_of(tensors)
        if device.type not in devices.ACCELERATORS:
            device = devices.CPU
        ranks = tuple(t.dim() for t in tensors)
        key = (bound.key, device, tuple(dtypes), ranks, kinds.ones, dense, fingerprints(bound))
        with self._lock:
            known = self._variants.setdefault(key, [])
            for variant in known:
                if serves(variant.traced, kinds):
                    return Resolved(bound, kinds, variant, tensors)
            refusal = (key, config.current())  # another compiler may do better
            if refusal in self._refused:
                raise self._refused[refusal].with_traceback(None)
            try:
                variant = self._compile(bound, kinds, device)
            except (TraceError, ResourceError) as error:
                # The same call would fail again, and slowly.
                self._refused[refusal] = error
                raise
            known.append(variant)
            return Resolved(bound, kinds, variant, tensors)

    def _compile(self, bound: Bound, kinds: CallTypes, device: torch.device) -> Variant:
        """Trace and compile a form for a call."""
        traced = self._trace(bound, kinds, device)
        strided = frozenset(
            p.name
            for p, source in zip(traced.function.params, traced.inputs, strict=True)
            if source.kind != "seed" and _is_strided(self._input(source, bound))
        )
        variant = Variant(traced, Layout(strided), device)
        variant.plan()
        self._counters.compiles += not variant.from_cache
        self._counters.from_cache += variant.from_cache
        return variant

    def _trace(self, bound: Bound, kinds: CallTypes, device: torch.device) -> Traced:
        """Trace with the actual sizes at hand. Raises what the function's code got wrong."""
        run = Run(
            self.spec, kinds.inputs, TABLE, kinds.hints, bound.tree, kinds.flexible, kinds.scalars, device=device,
            leads=kinds.leads,
        )  # fmt: skip
        traced = run.trace()
        if traced.findings:
            raise error_of(traced.findings)
        if traced.deferred is not None:
            raise TraceError(f"the value of `{traced.deferred.what}` is not known", code="TSR0402")
        check_guards(traced, kinds)
        return traced

    def _finisher(self, resolved: Resolved, sizes: Mapping[str, int]) -> Callable[[Sequence[torch.Tensor]], Any] | None:
        """From the plan's outputs to the function's result; None for a function that returns one tensor."""
        traced = resolved.variant.traced
        if traced.out_tree.kind == "leaf" and traced.outputs[0].kind == "tensor":
            return None
        described = traced.outputs
        tree = traced.out_tree
        values = [o.value.evaluate(sizes) if o.kind == "size" else o.value for o in described]
        if tree.kind == "tuple" and all(o.kind == "tensor" for o in described) and len(tree.children) == len(described):
            return tuple

        def finish(outputs: Sequence[torch.Tensor]) -> Any:
            return unflatten(
                tree, [outputs[o.place] if o.kind == "tensor" else v for o, v in zip(described, values, strict=True)]
            )

        return finish

    # -- methods ---------------------------------------------------------------------------------------------------

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else Method(self, instance)

    def eager(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The undecorated function: every operation through torch."""
        return self.fn(*args, **kwargs)

    def resolve(self, *args: P.args, **kwargs: P.kwargs) -> Resolved:
        """Match a call with its compiled form, compiling when needed, without running it. Raises what the call
        would.
        """
        bound = bind_arguments(self.spec, args, kwargs)
        tensors = [leaf.value for leaf in bound.tensors]
        check_kinds(bound)
        check_devices(bound)
        sizes = check_call(self.spec, bound, [t.shape for t in tensors], [TABLE.tensor_type(t).dtype for t in tensors])
        return self._resolve(bound, sizes, tensors)

    def _form(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Variant:
        """The compiled form for given arguments; without any, the last one used, or one for the declared shapes."""
        if args or kwargs:
            return self.resolve(*args, **kwargs).variant
        known = [v for group in self._variants.values() for v in group]
        if known:
            return known[-1]
        traced = next((t for t in self.check().traced if not t.findings and t.deferred is None), None)
        if traced is None:
            raise TraceError(
                f"`{self.spec.name}` has no form before its first call", code="TSR0406",
                helps=["pass example arguments, or declare the shapes of every tensor"],
            )  # fmt: skip
        return Variant(traced)

    def ir(self, stage: str = "fused", *args: Any, **kwargs: Any) -> str:
        """The IR as text after a stage: ``traced``, a pass by name, ``fused``, or ``tile`` for the loops of the
        kernels.

        Arguments choose the form; without any, it is the last one called, or the declared shapes.
        """
        return inspect.ir(self._form(args, kwargs), stage)

    def lower(
        self, *args: Any, backend: str | None = None, target: Target | str | None = None, **kwargs: Any
    ) -> inspect.Lowered:
        """The kernels for a backend (``c``, ``triton``, ``eager``) and a target such as ``"cuda:90"``.

        Left out, they are those of the device that the arguments are on.
        Works for targets that this machine does not have. Raises ResourceError (TSR0607) for an unknown backend.
        """
        wanted = parse_target(target)
        if not (args or kwargs):
            return inspect.lower(self._form((), {}), backend, wanted)
        resolved = self.resolve(*args, **kwargs)
        return inspect.lower(resolved.variant, backend, wanted, resolved.types.hints)

    def explain(self, *args: Any, **kwargs: Any) -> inspect.Explanation:
        """What every pass did, which sizes Python asked for, and the kernels with their cost."""
        return inspect.explain(self._form(args, kwargs), self.spec.name)

    def cost(self, *args: Any, **kwargs: Any) -> inspect.CostReport:
        """Bytes, arithmetic and peak memory as polynomials in the dims, fused and eager."""
        return inspect.cost(self._form(args, kwargs), self.spec.name)

    def variants(self) -> inspect.VariantList:
        """The classes by which compiled forms of this function differ, before anything runs."""
        return inspect.VariantList(
            tuple(variant_classes(self.spec, self.check())), sum(map(len, self._variants.values()))
        )

    def cache_info(self) -> CacheInfo:
        """Counts of compiled forms and of calls."""
        c = self._counters
        variants = sum(len(v) for v in self._variants.values())
        return CacheInfo(
            variants, c.compiles, c.from_cache, c.hits, c.eager, sum(len(m.entries) for m in self._memos.values())
        )

    def __repr__(self) -> str:
        return f"<tessera.function {self.spec.name}>"

    def __reduce__(self) -> Any:
        return (by_name, (self.fn.__module__, self.fn.__qualname__))


def _entry(runner: dispatch.Runner, finish: Callable[[Any], Any] | None, defaults: list[Any]) -> Callable[..., Any]:
    """What a warm call runs; ``defaults`` are the numbers that the caller left out."""
    if finish is None and not defaults:
        return runner
    if finish is None:
        return lambda tensors, numbers: runner(tensors, numbers + defaults)
    return lambda tensors, numbers: finish(runner(tensors, numbers + defaults))


_transforms = torch._C._functorch.peek_interpreter_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_TENSOR, _PARAMETER, _STRIDED = torch.Tensor, torch.nn.Parameter, torch.strided


_functions: weakref.WeakSet[Function[Any, Any]] = weakref.WeakSet()


def _after_fork() -> None:
    """New locks: in a forked child the old ones may belong to threads that do not exist there."""
    for f in list(_functions):
        f._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def _is_strided(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not x.is_contiguous()
