"""Methods of objects, and how a decorated function is found and told apart: by name, and by what its arguments hold."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

from tessera.driver.layout import TABLE
from tessera.frontend.binding import Bound, Leaf
from tessera.frontend.check import CheckReport, check


class Method:
    """A compiled method of one object; ``check``, ``ir``, ``lower`` and the others know the object."""

    def __init__(self, function: Any, instance: object) -> None:
        self.__func__, self.__self__ = function, instance
        self.__name__, self.__doc__ = function.fn.__name__, function.fn.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def check(self) -> CheckReport:
        """As ``Function.check``, with what the object holds."""
        return check(self.__func__.spec, TABLE, receiver=self.__self__)

    def ir(self, stage: str = "fused", *args: Any, **kwargs: Any) -> str:
        """As ``Function.ir``."""
        return self.__func__.ir(stage, *self._given(args), **kwargs)

    def _given(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.__self__, *args) if args else ()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__func__, name)
        if name not in ("eager", "resolve", "lower", "explain", "cost"):
            return found
        if name == "eager":
            return functools.partial(found, self.__self__)
        return lambda *args, **kwargs: found(*self._given(args), **kwargs)

    def __repr__(self) -> str:
        return f"<tessera.function {self.__func__.spec.name} of {self.__self__!r}>"


def by_name(module: str, name: str) -> Any:
    """Find a decorated function again when it is unpickled: by where it is defined, never by its code."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def is_plain(leaf: Leaf) -> bool:
    """Is an argument None or a number or text of Python itself, whose value says everything about it?"""
    return leaf.value is None or type(leaf.value) in (int, bool, str, float)


def fingerprints(bound: Bound) -> tuple[Any, ...]:
    """What objects given as static arguments hold: a compiled form must not outlive a change of it."""
    return tuple(_fingerprint(leaf.value, 3) for leaf in bound.leaves if leaf.kind == "static" and not is_plain(leaf))


def _fingerprint(x: Any, depth: int) -> Any:
    if x is None or isinstance(x, bool | int | float | str):
        return (type(x), x)
    held = getattr(x, "__dict__", None)
    if isinstance(x, torch.Tensor) or not held or depth == 0:
        return id(x)
    return (id(x), *((k, _fingerprint(v, depth - 1)) for k, v in held.items()))
