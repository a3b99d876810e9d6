"""The one room that knows every stage: from a decorated function to its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from tessera.config import parse_bytes
from tessera.diag import ConfigError, user_frames
from tessera.driver.compare import Comparison, compare
from tessera.driver.decorated import CacheInfo, Function
from tessera.driver.derived import grad, value_and_grad
from tessera.driver.kernel import Kernel, kernel
from tessera.driver.module import Fused, Module, fused, module
from tessera.driver.settings import backend, backends, manual_seed, parse
from tessera.frontend.accept import require_function

P = ParamSpec("P")
R = TypeVar("R")


@overload
def function(fn: Callable[P, R], /) -> Function[P, R]: ...


@overload
def function(
    *, strict: bool = False, updates: Sequence[str] = (), max_saved: int | str | None = None
) -> Callable[[Callable[P, R]], Function[P, R]]: ...


@user_frames
def function(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    strict: bool = False,
    updates: Sequence[str] = (),
    max_saved: int | str | None = None,
) -> Any:
    """Prove, compile and run a function of tensors with named dimensions.

    The shapes are proved at once, for every size, without data; a fault is a ShapeError or DTypeError that points at
    the source. The first call of each kind compiles. With ``strict`` code that cannot be traced is a TraceError
    instead of running eagerly with one warning. ``max_saved``, a number of bytes or text such as ``"64MB"``, bounds
    what a call keeps for its derivative beside arguments and results; the rest is computed again. What is no plain
    function, a generator or a class for instance, is refused (TSR0409).

    ``updates`` names the parameters whose tensors the function may write to, as in ``p -= lr * g``: calls then change
    the caller's tensors. Nothing else may lie in the memory of these (TSR0417).

    >>> import tessera, torch
    >>> from tessera import Tensor
    >>> @tessera.function
    ... def double(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    ...     return x + x
    >>> double(torch.ones(2, 3)).sum().item()
    12.0
    """
    limit = parse_bytes(max_saved) if isinstance(max_saved, str) else max_saved
    if max_saved is not None and (limit is None or limit < 0):
        raise ConfigError(
            f"`max_saved={max_saved!r}` is no number of bytes", code="TSR0609",
            helps=['give a number, or text such as "64MB" or "1.5GiB"'],
        )  # fmt: skip
    names = (updates,) if isinstance(updates, str) else tuple(updates)
    options = {"strict": strict, "updates": names, "max_saved": limit}
    if fn is not None:
        return _decorated(fn, options)

    @user_frames
    def decorate(f: Callable[..., Any]) -> Any:
        return _decorated(f, options)

    return decorate


@user_frames
def checkpoint(fn: Callable[P, R], /) -> Function[P, R]:
    """A compiled function that keeps nothing but its arguments for its derivative, which computes the rest again.

    Stands above ``tessera.function`` or alone, and means the same when the function is called inside of another. The
    numbers that random operations draw are the same ones again. Raises as ``tessera.function``.

    >>> import tessera, torch
    >>> from tessera import Tensor
    >>> @tessera.checkpoint
    ... def gate(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    ...     return torch.exp(torch.tanh(x)) * x
    >>> x = torch.ones(2, 3, requires_grad=True)
    >>> gate(x).sum().backward()
    """
    made: Function[P, R] = _decorated(fn, {"checkpointed": True})
    return made


def _decorated(fn: Any, options: Mapping[str, Any]) -> Any:
    """The compiled function of what stands under the decorator; static and class methods keep their nature, and what
    was decorated before keeps its options.
    """
    if isinstance(fn, staticmethod | classmethod):
        return type(fn)(_decorated(fn.__func__, options))
    if isinstance(fn, Function):
        known = {"strict": fn.strict, **fn.options}
        fn, options = fn.fn, {**known, **options}
    require_function(fn)
    return Function(fn, **options)


__all__ = [
    "CacheInfo", "Comparison", "Function", "Fused", "Kernel", "Module", "backend", "backends", "checkpoint", "compare",
    "function", "fused", "grad", "kernel", "manual_seed", "module", "parse", "value_and_grad",
]  # fmt: skip
