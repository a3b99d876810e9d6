"""Kernels that are methods: for what an object holds, a kernel of its own, which takes the object's tensors."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from tessera.backends.eager.dtypes import from_torch_dtype
from tessera.diag import trim_traceback, user_frames
from tessera.driver.held import fingerprint, is_constant
from tessera.driver.kernel_grad import Derivative
from tessera.driver.kernel_signature import check_settings, check_signature
from tessera.driver.kernel_ways import MISSING
from tessera.driver.latest import Latest
from tessera.frontend.annotation import TensorAnnotation
from tessera.frontend.binding import looks_like_tensor
from tessera.frontend.hints import Hint
from tessera.frontend.kernel.held import Helper, Path, held_by
from tessera.frontend.kernel.source import source_of
from tessera.frontend.receiver import declared, size_of
from tessera.frontend.spec import FunctionSpec, ParamSpec
from tessera.ir.dim import Dim

#: Kernels kept for what objects of one class hold.
_KEPT = 64
#: Methods of a kernel that may be given the arguments of a call, behind so many of their own.
_SHOWN: Mapping[str, int] = {
    "check": 0, "reference": 0, "ir": 0, "lower": 0, "source": 1, "resources": 0, "launches": 0, "report": 0,
}  # fmt: skip


def is_method(fn: Any) -> bool:
    """Is the first parameter of a function the object that it is a method of?"""
    code = getattr(fn, "__code__", None)
    return code is not None and code.co_varnames[: min(code.co_argcount, 1)] == ("self",)


class KernelMethod:
    """A kernel that stands in a class. Made by ``tessera.kernel`` of a function whose first parameter is ``self``;
    ``make`` makes the kernel for what an object holds.
    """

    def __init__(
        self, fn: Callable[..., Any], make: Callable[..., Any], settings: Mapping[str, int] = MappingProxyType({})
    ) -> None:  # fmt: skip
        functools.update_wrapper(self, fn)
        self.fn, self._make, self.settings = fn, make, dict(settings)
        whole = FunctionSpec.of(fn)
        check_signature(whole)
        self.spec = replace(whole, params=whole.params[1:])
        self.text = source_of(fn)
        self._kernels: Latest[Any, Any] = Latest(_KEPT)
        self._lock = threading.Lock()
        self._derivative: Derivative | None = None
        self._fused = False
        #: What carries out a call between two of torch's graphs.
        self.apart: Callable[..., Any] = _called

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundKernel(self, instance)

    @user_frames
    def __call__(self, instance: object, *args: Any, **kwargs: Any) -> Any:
        """As a call of the object's method."""
        return BoundKernel(self, instance)(*args, **kwargs)

    def require_whole(self) -> None:
        """Refuse objects for which it has no form on whole tensors, when they are known."""
        self._fused = True

    @user_frames
    def configure(self, **settings: int) -> KernelMethod:
        """As ``Kernel.configure``."""
        check_settings(settings)
        made = KernelMethod(self.fn, self._make, {**self.settings, **settings})
        made._derivative, made._fused = self._derivative, self._fused
        return made

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> KernelMethod:
        """As ``Kernel.defvjp``: ``fwd`` is given the object first, and ``bwd`` gives gradients of the object's tensors
        behind those of the call, in the order in which the kernel first reads them.
        """
        self._derivative = fwd, bwd
        return self

    def bound(self, instance: object) -> Derivative | None:
        """The derivative of a call of the object's method."""
        if self._derivative is None:
            return None
        fwd, bwd = self._derivative

        def forward(*args: Any, **kwargs: Any) -> Any:
            own = {name: x for name, x in kwargs.items() if name in self.spec.by_name}
            return fwd(instance, *args, **own)

        return forward, bwd

    def of(self, instance: object) -> tuple[Any, dict[str, Any]]:
        """The kernel for an object as it is now, and what is given to it of the object."""
        found = held_by(instance, self.text, _is_known)
        tensors = {path: x for path, x in found.items() if looks_like_tensor(x)}
        rest = {path: x for path, x in found.items() if path not in tensors}
        params = [_param(instance, path, x) for path, x in tensors.items()]
        given: dict[str, Any] = {p.name: x for p, x in zip(params, tensors.values(), strict=True)}
        known = {*self.spec.by_name, *(n for p in params for a in p.hint.tensors() for n in a.names)}
        for name in (n for n in self.spec.dim_names if n not in known):
            size = size_of(instance, name)
            if size is not None and size.is_const:
                params.append(ParamSpec(name, Hint("static", type=int), binds=True, keyword_only=True, path=("", name)))
                given[name] = size.value
        key = (tuple(params), tuple((path, _print(x)) for path, x in rest.items()))
        with self._lock:
            made = self._kernels.get(key) or self._kernels.put(key, self._for(params, rest))
            made.text.held.update(rest)  # of equal contents, but those that it had may have changed since
        return made, given

    def _for(self, params: Iterable[ParamSpec], held: Mapping[Path, Any]) -> Any:
        spec = replace(self.spec, params=(*self.spec.params, *params))
        made = self._make(self.fn, self.settings, spec, replace(self.text, held=held))
        if self._fused:
            made.require_whole()
        return made

    def __repr__(self) -> str:
        return f"<tessera.kernel {self.spec.name}>"

    def __reduce__(self) -> str:
        return self.fn.__qualname__


class BoundKernel:
    """A kernel of one object. It has the methods of kernels, for the object as it is when they are called."""

    def __init__(self, kernel: KernelMethod, instance: object) -> None:
        self.__func__, self.__self__ = kernel, instance
        self.__name__, self.__doc__ = kernel.fn.__name__, kernel.fn.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _dynamo():
            _prepare(self.__func__)
            return self.__func__.apart(self.__func__, self.__self__, args, kwargs)
        return _called(self.__func__, self.__self__, args, kwargs)

    @user_frames
    def configure(self, **settings: int) -> BoundKernel:
        """As ``Kernel.configure``."""
        return BoundKernel(self.__func__.configure(**settings), self.__self__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "autotune":
            raise AttributeError(f"a kernel of an object has no `{name}`")
        made, held = self.__func__.of(self.__self__)
        found = getattr(made, name)
        return functools.partial(_shown, found, held, self.__func__.spec, _SHOWN[name]) if name in _SHOWN else found

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundKernel, (self.__func__, self.__self__)

    def __repr__(self) -> str:
        return f"<tessera.kernel {self.__func__.spec.name} of {self.__self__!r}>"


def _called(kernel: KernelMethod, instance: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    try:
        made, held = kernel.of(instance)
        given, derivative = {**kwargs, **held}, kernel.bound(instance)
        found = made.again(args, given) if derivative is None else MISSING
        return made.call(args, given, derivative) if found is MISSING else found
    except BaseException as error:  # costs nothing until something is raised
        trim_traceback(error)
        raise


def _prepare(kernel: KernelMethod) -> None:
    """For torch's tracer: a call stands between two graphs of torch's."""
    kernel.apart = torch.compiler.disable(_called)  # here, where torch's compiler is loaded anyway


_prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _shown(method: Any, held: Mapping[str, Any], spec: FunctionSpec, own: int, *args: Any, **kwargs: Any) -> Any:
    """A method of a kernel with the arguments of a call, or without any."""
    given = len(args) > own or any(name in spec.by_name for name in kwargs)
    return method(*args, **kwargs, **(held if given else {}))


def _is_known(x: object) -> bool:
    """Is a value one that no attribute of it is looked for in the object?"""
    return looks_like_tensor(x) or is_constant(x)


def _print(x: Any) -> Any:
    return (Helper, id(x.function)) if isinstance(x, Helper) else fingerprint(x)


def _param(instance: Any, path: Path, x: Any) -> ParamSpec:
    """The parameter for a tensor of the object: as the class declares it, else of the sizes that it has."""
    for name in path[:-1]:
        instance = getattr(instance, name)
    hint = declared(type(instance)).get(path[-1])
    a = None if hint is None else hint.annotation
    if a is None or a.dims is None or a.lead is not None:
        a = TensorAnnotation(tuple(Dim.const(int(n)) for n in x.shape), from_torch_dtype(x.dtype), tile=True)
    return ParamSpec(".".join(("self", *path)), Hint("tensor", a), keyword_only=True, path=path)


_dynamo = torch.compiler.is_dynamo_compiling

__all__ = ["BoundKernel", "KernelMethod", "is_method"]
