"""Tracebacks that show the user's frames only."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar, overload

from tessera.diag.errors import TesseraError
from tessera.diag.span import is_machinery

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _never() -> bool:
    return False


class _Policy:
    """Whether tracebacks stay whole; the configuration sets it, because it alone reads the environment."""

    def __init__(self) -> None:
        self.full: Callable[[], bool] = _never


_policy = _Policy()


def keep_full_tracebacks_when(condition: Callable[[], bool]) -> None:
    """Ask `condition`, at each error, whether its traceback stays whole."""
    _policy.full = condition


def trim_traceback(error: BaseException) -> None:
    """Take the frames of Tessera, torch and other machinery out of an error's traceback, in place.

    Causes and contexts are trimmed too. An error that is not Tessera's own and was raised by Tessera's
    code is a defect of Tessera: its frames stay, and so does everything under TESSERA_FULL_TRACEBACK=1.
    """
    if _policy.full():
        return
    for one in _chain(error):
        frames = list(_walk(one.__traceback__))
        if not frames or not (isinstance(one, TesseraError) or not _is_hidden(frames[-1]) or _misfit(frames[-1])):
            continue
        kept: TracebackType | None = None
        for step in reversed(frames):
            if not _is_hidden(step):
                kept = TracebackType(kept, step.tb_frame, step.tb_lasti, step.tb_lineno)
        one.__traceback__ = kept


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes and contexts, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]


def _walk(step: TracebackType | None) -> Iterator[TracebackType]:
    while step is not None:
        yield step
        step = step.tb_next


def _is_hidden(step: TracebackType) -> bool:
    return is_machinery(step.tb_frame.f_code.co_filename)


def _misfit(last: TracebackType) -> bool:
    """Whether Python refused the arguments of a call that a decorated function passed on: the caller's mistake."""
    return last.tb_frame.f_code.co_filename == __file__


class _UserFrames:
    """Stateless, so that one object serves every `with` and every decoration."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            trim_traceback(error)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def trimmed(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                trim_traceback(error)
                raise

        return trimmed


_USER_FRAMES = _UserFrames()


@overload
def user_frames() -> _UserFrames: ...
@overload
def user_frames(function: Callable[_P, _R]) -> Callable[_P, _R]: ...
def user_frames(function: Callable[_P, _R] | None = None) -> _UserFrames | Callable[_P, _R]:
    """Trim the traceback of whatever is raised inside: a decorator, or a context as `user_frames()`.

    Costs nothing beyond the call when nothing is raised.

    >>> with user_frames():
    ...     pass
    """
    return _USER_FRAMES if function is None else _USER_FRAMES(function)


def warn_user(warning: Warning) -> None:
    """Warn at the user's innermost line, however many frames of machinery lie between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and is_machinery(frame.f_code.co_filename):
        # Frames of the import system are no levels to the warnings module.
        level += not _is_importing(frame.f_back)
        frame = frame.f_back
    warnings.warn(warning, stacklevel=level)


def _is_importing(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return "importlib" in file and "_bootstrap" in file
