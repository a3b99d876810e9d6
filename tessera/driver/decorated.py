"""The decorated function: proved at definition, compiled at the first call of each kind, dispatched in microseconds."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any, Generic, ParamSpec, TypeVar

import torch
import torch.autograd.forward_ad as fwd

from tessera import config
from tessera.backends.base import Target
from tessera.backends.eager.autocast import state, under
from tessera.diag import (
    BoundsError,
    DTypeError,
    Note,
    ResourceError,
    ShapeError,
    TesseraError,
    TesseraWarning,
    TraceError,
    trim_traceback,
    user_frames,
    warn_user,
)
from tessera.driver import bounds, devices, inspect
from tessera.driver.flat import in_pieces, is_watched, joined_call
from tessera.driver.guards import check_devices, check_kinds, check_memory, parse_target, variant_classes
from tessera.driver.layout import TABLE
from tessera.driver.method import Method
from tessera.driver.opaque import inside
from tessera.driver.serving import Resolved, Standing, entry, finisher, memorable
from tessera.driver.variant import Variant
from tessera.driver.variants import Variants
from tessera.frontend.binding import Bound, bind_arguments
from tessera.frontend.check import CheckReport, check
from tessera.frontend.eagerly import eagerly
from tessera.frontend.handles import ObjectOf
from tessera.frontend.inline import inline_call
from tessera.frontend.session import current, error_of
from tessera.frontend.spec import FunctionSpec
from tessera.frontend.trace import endless
from tessera.frontend.unifying import check_call
from tessera.runtime import dispatch
from tessera.runtime.pieces import Forms, Pieces
from tessera.runtime.recent import Recent, recent_call

#: Whether this thread is in a call already.
_slow = threading.local()
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class CacheInfo:
    """What a function has compiled so far. ``variants`` counts what was traced for calls, ``hits`` calls served by
    one, ``eager`` calls run eagerly.
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

    hits: int = 0
    eager: int = 0


class Function(Generic[P, R]):
    """A Python function with its variants. Made by ``tessera.function``."""

    def __init__(
        self, fn: Callable[P, R], *, strict: bool = False, updates: tuple[str, ...] = (), checkpointed: bool = False,
        max_saved: int | None = None, owner: type | None = None,
    ) -> None:  # fmt: skip
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.strict = strict
        self.options: dict[str, Any] = {"updates": updates, "checkpointed": checkpointed, "max_saved": max_saved}
        self.spec = self.describe()
        self.compiled = Variants(self.spec)
        self._defaults = _defaults(fn)
        _functions.add(self)
        self._forms = Forms()
        self._memos: dict[str, dispatch.Memo] = defaultdict(dispatch.Memo)
        self._latest: Any = None
        self._recent: Recent | None = None
        self._counters = Counters()
        self._warned = False
        self._report: CheckReport | None = None
        self._owner = None if owner is None else weakref.ref(owner)
        if config.current().shapes != "off":
            self._prove()

    # -- definition ------------------------------------------------------------------------------------------------

    def describe(self) -> FunctionSpec:
        """The signature with its dims, as it is declared."""
        return FunctionSpec.of(self.fn, **self.options)

    def _prove(self) -> None:
        report = self.check()
        if self.strict:
            untraceable = [f for t in report.traced for f in t.findings if issubclass(f.error, TraceError)]
            if untraceable:
                raise error_of(untraceable)
        if report.ok:
            return
        if config.current().shapes == "warn":
            warn_user(TesseraWarning.from_diagnostics(report.diagnostics))
        else:
            report.raise_if_refuted()

    @user_frames
    def check(self) -> CheckReport:
        """Prove the shapes for every size, without data; prints each need with its verdict."""
        if self._report is None:
            owner = None if self._owner is None else self._owner()
            with under(()):
                self._report = check(self.spec, TABLE, receiver=None if owner is None else ObjectOf(owner))
        return self._report

    # -- calls -----------------------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if _dynamo():
            return inside(self, args, kwargs)
        try:
            recent = self._recent
            if (
                recent is not None and not kwargs and len(args) == recent.count
                and recent.settings is config.current() and recent.dtype is torch.get_default_dtype()
                and fwd._current_level < 0 and recent.check(*args)
                and (not _function_modes() or _home(args))
            ):  # fmt: skip
                try:
                    made = recent.entry(args, [])
                    self._counters.hits += 1
                    return made
                except _UNSERVED:  # the general way sees why
                    self._recent = None
            return self._general(args, kwargs)
        except BaseException as error:  # costs nothing until something is raised
            trim_traceback(error)
            raise

    def _general(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A call that is not like the one before: by its exact signature, or the slow way."""
        if self.spec.flats and not is_watched():
            args, kwargs = in_pieces(self.spec, self._forms, args, kwargs)
        if kwargs or _transforms() is not None or _dispatch_modes() or fwd._current_level >= 0:
            return self._slow(args, kwargs)
        if _function_modes() and not all(type(a) is _TENSOR and dispatch.at_home(a.device) for a in args):
            return self._slow(args, kwargs)
        key: list[Any] = []
        tensors: list[Any] = []
        scalars: list[float] = []
        for a in args:
            t = type(a)
            if t is _TENSOR or t is _PARAMETER:
                if a.layout is not _STRIDED or a.is_neg() or a.is_nested:
                    return self._slow(args, kwargs)
                if a.requires_grad:
                    key.append(_LEARNS)
                if not a.is_cpu:
                    key.append(a.device)
                key.append(a.shape)
                key.append(a.dtype if a.is_contiguous() else (a.dtype, a.stride()))
                tensors.append(a)
            elif t is float:
                key.append(float)
                scalars.append(a)
            elif t is Pieces:
                if not dispatch.plain(a) or (a.requires_grad and torch.is_grad_enabled()):
                    return self._slow(args, kwargs)
                key += (Pieces, a.device, a.shape, a.dtype)
                tensors.append(a)
            elif t is int or t is bool or a is None or t is str:
                key += (t, a)
            elif t.__weakrefoffset__ and not isinstance(a, torch.Tensor):
                key += (object, id(a))
            else:
                return self._slow(args, kwargs)
        key.append(torch.get_default_dtype())
        key.append(torch.is_grad_enabled())
        autocast = state()
        if autocast:
            key.append(autocast)
        found = tuple(key)
        memo = self._memos[config.current().backend].entries.get(found)
        if memo is None:
            return self._slow(args, kwargs, found)
        memo.used = True
        entry = memo.entry
        if entry is self._latest and len(tensors) == len(args) and not (self.spec.flats or autocast):
            self._recent = recent_call(tensors, entry, config.current())
        self._latest = entry
        try:
            made = entry(tensors, scalars)
            self._counters.hits += 1
            return made
        except dispatch.OutdatedError:
            again: tuple[Any, ...] | None = found
        except _UNSERVED:
            again = None
        return self._slow(args, kwargs, again)

    def _slow(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: tuple[Any, ...] | None = None) -> Any:
        """Everything but the warm path; recursion without end becomes one short error, of the outermost call."""
        inside, _slow.inside = getattr(_slow, "inside", False), True
        try:
            return self._any_call(args, kwargs, key)
        except RecursionError as error:
            if inside:
                raise
            found = endless(error.__traceback__)
        except TraceError as error:
            if error.code != "TSR0410":
                raise
            found = error.diagnostics[0]
        finally:
            _slow.inside = inside
        raise TraceError.from_diagnostics([found])  # here, because the frames of the calls inside say nothing more

    def _any_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: tuple[Any, ...] | None) -> Any:
        """Tracing calls, checks, compilation, eager execution."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.eager(*args, **kwargs)
        if _defaults(self.fn) != self._defaults:
            self._redefine()
        if current() is not None:
            return inline_call(self.spec, args, kwargs)
        bound = bind_arguments(self.spec, args, kwargs)
        tensors = [leaf.value for leaf in bound.tensors]
        check_kinds(bound)
        check_devices(bound)
        resolved = self._served(bound, tensors)
        if not isinstance(resolved, Resolved):  # what eager code raises is no consequence of the refusal
            return self._eagerly(resolved, args, kwargs)
        named = resolved.types.hints
        given = resolved.given()
        flat: list[Any] = [x for x in given if isinstance(x, torch.Tensor | Pieces)]
        refused: TesseraError | None = None
        # A captured tensor may need what an argument did not, or live elsewhere.
        if not self._compiles(flat) or devices.device_of(flat) != resolved.variant.device:
            return self._eagerly(None, args, kwargs)
        check_memory(flat)
        numbers = [x for x in given if not isinstance(x, torch.Tensor | Pieces)]
        finish = finisher(resolved, named)
        runner = resolved.runner(flat, finish is None)
        try:
            made = runner(flat, numbers)
        except dispatch.NoAddressError:
            check_memory(flat)
            return self.eager(*args, **kwargs)
        except BoundsError as error:
            raise bounds.located(resolved.variant.traced.function, given, named) or error from None
        except ResourceError as error:  # code for a GPU is made when it is first launched
            refused = error
        if refused is not None:
            return self._eagerly(refused, args, kwargs)
        if key is not None:
            self._remember(key, args, resolved, runner, finish, numbers)
        return made if finish is None else finish(made)

    def _served(self, bound: Bound, tensors: list[torch.Tensor]) -> Resolved | TesseraError | None:
        """The variant for a call; what speaks against one, or nothing where it has to run eagerly anyway."""
        dtypes = [TABLE.tensor_type(t).dtype for t in tensors]
        try:
            sizes = check_call(self.spec, bound, [t.shape for t in tensors], dtypes)
            if not self._compiles(tensors):
                return None
            return self.compiled.find(bound, sizes, tensors)
        except (TraceError, ResourceError) as error:
            return error
        except (ShapeError, DTypeError) as error:
            if config.current().shapes == "strict":
                raise
            return error

    def _remember(
        self, key: tuple[Any, ...], args: tuple[Any, ...], resolved: Resolved, runner: dispatch.Runner,
        finish: Callable[[Any], Any] | None, numbers: list[Any],
    ) -> None:  # fmt: skip
        """Let later calls of this signature go straight to their kernels, where that can be told by it."""
        objects = [a for a in args if type(a) not in _BY_VALUE]
        if not memorable(resolved, objects):
            return
        memo = self._memos[config.current().backend]

        def forget(_: object) -> None:
            memo.entries.pop(key, None)
            self._latest = self._recent = None

        standing = Standing.of(resolved, objects, forget)
        if standing is not None:
            defaults = numbers[sum(type(a) is float for a in args) :]
            memo.put(key, entry(runner, finish, defaults, standing))

    def _redefine(self) -> None:
        """Begin anew with other defaults of the function's parameters."""
        with self.compiled.lock:
            self._defaults = _defaults(self.fn)
            self.spec = self.describe()
            self.compiled = Variants(self.spec)
            self._memos.clear()
            self._latest = self._recent = self._report = None

    def _compiles(self, tensors: Sequence[torch.Tensor]) -> bool:
        """May this call run compiled kernels? Transformed and extraordinary tensors go through torch, tensors without
        elements, which torch reduces to what it likes or refuses, and of gradients those of updates and of lists.
        """
        if torch.is_grad_enabled() and any(
            t.requires_grad and (self.spec.updates or isinstance(t, Pieces)) for t in tensors
        ):
            return False
        wanted = config.current().backend
        if wanted == "eager" or dispatch.intercepted(devices.device_of(tensors)):
            return False
        if not devices.usable(tensors, wanted):
            return False
        if torch.get_default_dtype() is not torch.float32:  # what numbers mean beside integers was traced as f32
            return False
        return all(dispatch.plain(t) and t.numel() for t in tensors)

    def _eagerly(self, error: TesseraError | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the Python function as it is, with one warning that says why; or refuse."""
        if isinstance(error, ShapeError | DTypeError):
            if config.current().shapes == "warn":
                warn_user(TesseraWarning.from_diagnostics(error.diagnostics))
        elif error is not None:
            explicit = isinstance(error, ResourceError) and config.current().backend in ("c", "triton")
            if explicit or (self.strict and isinstance(error, TraceError)) or error.code == "TSR0410":
                raise error
            if not self._warned:
                self._warned = True
                first = error.diagnostics[0]
                notes = (*first.notes, Note(f"`{self.spec.name}` runs eagerly from here on"))
                warn_user(TesseraWarning.from_diagnostics([replace(first, notes=notes)]))
        self._counters.eager += 1
        return self.eager(*args, **kwargs)

    # -- methods ---------------------------------------------------------------------------------------------------

    def __set_name__(self, owner: type, name: str) -> None:
        """The class that a method stands in: its check follows the other methods of it."""
        self._owner, self._report = weakref.ref(owner), None

    def belong(self, owner: type) -> None:
        """Be a method of that class, and hold for what it declares of its objects. Raises what `check` refutes."""
        self._owner, self._report = weakref.ref(owner), None
        if config.current().shapes != "off":
            self._prove()

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else Method(self, instance)

    def eager(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The undecorated function: every operation through torch. What stands for one tensor is joined first."""
        with eagerly():
            return joined_call(self.spec, self.fn, args, kwargs) if self.spec.flats else self.fn(*args, **kwargs)

    @user_frames
    def resolve(self, *args: P.args, **kwargs: P.kwargs) -> Resolved:
        """Match a call with its variant, compiling when needed, without running it. Raises what the call
        would.
        """
        return self._resolve(args, kwargs)

    def _resolve(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], shown: bool = False) -> Resolved:
        """The same; what is only ``shown`` is not compiled."""
        bound = bind_arguments(self.spec, *in_pieces(self.spec, self._forms, args, kwargs))
        tensors = [leaf.value for leaf in bound.tensors]
        check_kinds(bound)
        check_devices(bound)
        sizes = check_call(self.spec, bound, [t.shape for t in tensors], [TABLE.tensor_type(t).dtype for t in tensors])
        return self.compiled.find(bound, sizes, tensors, shown)

    def _variant(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Variant:
        """The variant for given arguments; without any, the last one used, or one for the declared shapes."""
        if args or kwargs:
            return self._resolve(args, kwargs, shown=True).variant
        known = self.compiled.all()
        if known:
            return next((v for v in reversed(known) if v.outside() is not None), known[-1])
        traced = next((t for t in self.check().traced if not t.findings and t.deferred is None), None)
        if traced is None:
            raise TraceError(
                f"`{self.spec.name}` has no variant before its first call", code="TSR0406",
                helps=["pass example arguments, or declare the shapes of every tensor"],
            )  # fmt: skip
        return Variant(traced)

    @user_frames
    def ir(self, stage: str = "fused", *args: Any, **kwargs: Any) -> str:
        """The IR as text after a stage: ``traced``, a pass by name, ``fused``, or ``tile`` for the loops of the
        kernels.

        Arguments choose the variant; without any, it is the last one called, or the declared shapes.
        """
        return inspect.ir(self._variant(args, kwargs), stage)

    @user_frames
    def lower(
        self, *args: Any, backend: str | None = None, target: Target | str | None = None, **kwargs: Any
    ) -> inspect.Lowered:
        """The kernels for a backend (``c``, ``triton``, ``eager``) and a target such as ``"cuda:90"``.

        Left out, they are those of the device that the arguments are on.
        Works for targets that this machine does not have. Raises ResourceError (TSR0607) for an unknown backend.
        """
        wanted = parse_target(target)
        if not (args or kwargs):
            return inspect.lower(self._variant((), {}), backend, wanted)
        resolved = self._resolve(args, kwargs, shown=True)
        return inspect.lower(resolved.variant, backend, wanted, resolved.types.hints)

    @user_frames
    def explain(self, *args: Any, **kwargs: Any) -> inspect.Explanation:
        """What every pass did, which sizes Python asked for, and the kernels with their cost."""
        return inspect.explain(self._variant(args, kwargs), self.spec.name)

    @user_frames
    def cost(self, *args: Any, **kwargs: Any) -> inspect.CostReport:
        """Bytes, arithmetic and peak memory as polynomials in the dims, fused and eager."""
        return inspect.cost(self._variant(args, kwargs), self.spec.name)

    @user_frames
    def variants(self) -> inspect.VariantList:
        """The classes by which variants of this function differ, before anything runs."""
        compiled = sum(v.compiled or any(g.compiled for g in v.gradients.values()) for v in self.compiled.all())
        return inspect.VariantList(tuple(variant_classes(self.spec, self.check())), compiled)

    def cache_info(self) -> CacheInfo:
        """Counts of variants and of calls."""
        c = self._counters
        f = self.compiled
        signatures = sum(len(m.entries) for m in list(self._memos.values()))
        return CacheInfo(len(f.all()), f.compiles, f.from_cache, c.hits, c.eager, signatures)

    @property
    def __code__(self) -> CodeType:
        """The code of the undecorated function, for which ``torch.export`` asks."""
        return self.fn.__code__

    def __repr__(self) -> str:
        return f"<tessera.function {self.spec.name}>"

    def __reduce__(self) -> str:
        return self.fn.__qualname__  # found again by where it is defined, never by its code; a copy is the same object


_dynamo = torch.compiler.is_dynamo_compiling
_transforms = torch._C._functorch.peek_interpreter_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_UNSERVED = (dispatch.OutdatedError, dispatch.NoAddressError, ResourceError, BoundsError)
_TENSOR, _PARAMETER, _STRIDED = torch.Tensor, torch.nn.Parameter, torch.strided
#: In a signature: for the next tensor torch may record gradients.
_LEARNS = object()
#: Arguments that a signature tells apart by what they are worth.
_BY_VALUE = (_TENSOR, _PARAMETER, Pieces, float, int, bool, str, type(None))


def _home(args: tuple[Any, ...]) -> bool:
    """Of tensors alone, all of one device."""
    return dispatch.at_home(args[0].device)


def _defaults(function: Any) -> tuple[object, ...]:
    """Which objects are the defaults of a function's parameters; its description keeps them."""
    named = getattr(function, "__kwdefaults__", None) or {}
    return (*map(id, getattr(function, "__defaults__", None) or ()), *named, *map(id, named.values()))


_functions: weakref.WeakSet[Function[Any, Any]] = weakref.WeakSet()


def _after_fork() -> None:
    """New locks: in a forked child the old ones may belong to threads that do not exist there."""
    for f in list(_functions):
        f.compiled.lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
