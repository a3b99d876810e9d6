"""Methods of objects, and how calls are told apart by what their arguments hold."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from inspect import Signature, signature
from typing import Any

from tessera.diag import trim_traceback, user_frames
from tessera.driver.held import Same, fingerprint
from tessera.driver.layout import TABLE
from tessera.frontend.binding import Bound, is_plain
from tessera.frontend.check import CheckReport, check


class Method:
    """A compiled method of one object; ``check``, ``ir``, ``lower`` and the others know the object."""

    def __init__(self, function: Any, instance: object) -> None:
        self.__func__, self.__self__ = function, instance
        self.__name__, self.__doc__ = function.fn.__name__, function.fn.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.__func__(self.__self__, *args, **kwargs)
        except BaseException as error:
            trim_traceback(error)
            raise

    @property
    def __signature__(self) -> Signature:
        """What the method takes beside its object."""
        whole = signature(self.__func__.fn)
        return whole.replace(parameters=list(whole.parameters.values())[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        return (Method, (self.__func__, self.__self__))

    @user_frames
    def check(self) -> CheckReport:
        """As ``Function.check``, with what the object holds."""
        return check(self.__func__.spec, TABLE, receiver=self.__self__)

    @user_frames
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


def objects_of(bound: Bound) -> list[Any]:
    """The static arguments that are no numbers and no texts."""
    return [leaf.value for leaf in bound.leaves if leaf.kind == "static" and not is_plain(leaf)]


def fingerprints(bound: Bound) -> tuple[Any, ...]:
    """What objects given as static arguments hold: a variant must not outlive a change of it."""
    return tuple(map(fingerprint, objects_of(bound)))


def identities(prints: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of fingerprints, which objects they are of, whatever those hold; containers are what they hold."""
    return tuple(p[0] if isinstance(p, tuple) and isinstance(p[0], Same) else p for p in prints)


def owners(prints: tuple[Any, ...]) -> Iterator[object]:
    """The objects without which no call can have these fingerprints, as far as it can be known when they go."""
    todo = list(prints)
    while todo:
        p = todo.pop()
        p = p[0] if isinstance(p, tuple) and p and isinstance(p[0], Same) else p
        if isinstance(p, tuple):
            todo += p[1:]
        elif isinstance(p, Same) and type(x := p.ref()).__weakrefoffset__:
            yield x
