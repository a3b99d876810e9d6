"""The one room that knows every stage: from a decorated function to its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from tessera.diag import user_frames
from tessera.driver.compare import Comparison, compare
from tessera.driver.decorated import CacheInfo, Function
from tessera.driver.derived import grad, value_and_grad
from tessera.driver.settings import backend, backends, manual_seed, parse
from tessera.frontend.accept import require_function

P = ParamSpec("P")
R = TypeVar("R")


@overload
def function(fn: Callable[P, R], /) -> Function[P, R]: ...


@overload
def function(*, strict: bool = False) -> Callable[[Callable[P, R]], Function[P, R]]: ...


@user_frames
def function(fn: Callable[..., Any] | None = None, /, *, strict: bool = False) -> Any:
    """Prove, compile and run a function of tensors with named dimensions.

    The shapes are proved at once, for every size, without data; a fault is a ShapeError or DTypeError that points at
    the source. The first call of each kind compiles. With ``strict`` code that cannot be traced is a TraceError
    instead of running eagerly with one warning. What is no plain function, a generator or a class for instance, is
    refused (TSR0409).

    >>> import tessera, torch
    >>> from tessera import Tensor
    >>> @tessera.function
    ... def double(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    ...     return x + x
    >>> double(torch.ones(2, 3)).sum().item()
    12.0
    """
    if fn is not None:
        return _decorated(fn, strict)

    @user_frames
    def decorate(f: Callable[..., Any]) -> Any:
        return _decorated(f, strict)

    return decorate


def _decorated(fn: Any, strict: bool) -> Any:
    """The compiled function of what stands under the decorator; static and class methods keep their nature."""
    if isinstance(fn, staticmethod | classmethod):
        return type(fn)(_decorated(fn.__func__, strict))
    if isinstance(fn, Function):
        fn = fn.fn
    require_function(fn)
    return Function(fn, strict=strict)


__all__ = [
    "CacheInfo", "Comparison", "Function", "backend", "backends", "compare", "function", "grad", "manual_seed", "parse",
    "value_and_grad",
]  # fmt: skip
