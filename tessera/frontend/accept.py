"""What `tessera.function` takes: plain functions, and calls that their signatures allow."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

from tessera.diag import CallError, Help, Label, Span, TraceError, caller_span, definition_span
from tessera.frontend.spec import EMPTY, FunctionSpec, ParamSpec, shown

#: Parameters and characters of a signature that an error shows.
_MOST_PARAMETERS, _MOST_DEFAULT = 12, 24


def require_function(given: object) -> None:
    """Refuse to decorate what is no plain function. Raises TraceError (TSR0409) that says what to do instead."""
    refused = _refused(given)
    if refused is None:
        return
    what, advice = refused
    name = getattr(given, "__name__" if inspect.isbuiltin(given) else "__qualname__", "")
    label = f"`{name.rpartition('<locals>.')[2]}` is {what}" if isinstance(name, str) and name else f"this is {what}"
    span = definition_span(given) if callable(given) else None
    span = span or caller_span()
    raise TraceError(
        f"`tessera.function` of {what}",
        code="TSR0409",
        labels=[] if span is None else [Label(span, label, True)],
        helps=[advice],
    )


def _refused(given: object) -> tuple[str, str] | None:
    """What an object is, and advice, where it is no plain function."""
    if isinstance(given, FunctionType | MethodType):
        if inspect.iscoroutinefunction(given):
            return "an async function", "declare it with `def`; what waits belongs outside"
        if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
            return "a generator", "return one tensor, or a tuple of them, instead of `yield`"
        return None
    if isinstance(given, type):
        return "a class", "decorate its methods"
    if isinstance(given, property):
        return "a property", "put `@property` above `@tessera.function`"
    if isinstance(given, functools.partial | functools.partialmethod):
        return f"a {type(given).__name__}", "decorate the function, and take the partial of that"
    if inspect.isbuiltin(given):
        return "a built-in function", "call it in a `def` with annotations, and decorate that"
    if not callable(given):
        advice = "it stands above a `def`; options have names: `tessera.function(strict=True)`"
        return _called(type(given).__name__), advice
    method = "forward" if hasattr(given, "forward") else "__call__"
    return f"{_called(type(given).__name__)} object", f"decorate the method `{method}` of its class"


def _called(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def bind_signature(spec: FunctionSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    """The arguments of a call by parameter. Raises CallError (TSR0111) that shows the signature."""
    try:
        return spec.signature.bind(*args, **kwargs)
    except TypeError as error:
        labels = []
        if (span := caller_span()) is not None:
            labels.append(Label(span, "called here", True))
        raise CallError(misfit(spec, error), labels=labels, notes=[takes(spec)], helps=meant(spec, kwargs)) from None


def misfit(spec: FunctionSpec, error: TypeError) -> str:
    """What does not fit, with the name of the function."""
    return f"call of {spec.name}: {error}"


def takes(spec: FunctionSpec) -> str:
    """The signature as a note."""
    shown_ = [_parameter(p) for p in spec.params[:_MOST_PARAMETERS]]
    if len(spec.params) > _MOST_PARAMETERS:
        shown_.append("…")
    for at, p in enumerate(spec.params[:_MOST_PARAMETERS]):
        if p.keyword_only and not any(q.how == "args" or q.keyword_only for q in spec.params[:at]):
            shown_.insert(at, "*")
    return f"its signature is {spec.name}({', '.join(shown_)})"


def _parameter(p: ParamSpec) -> str:
    text = {"args": "*", "kwargs": "**"}.get(p.how, "") + p.name
    if p.hint.kind != "any" and p.name not in ("self", "cls"):
        written = None if p.span is None else p.span.text()
        if p.hint.annotation is not None:
            text += f": {shown(p.hint.annotation, p.span)}"
        elif written is not None and "\n" not in written and written != p.name:
            text += f": {written}"
    if p.default is EMPTY:
        return text
    default = repr(p.default)
    default = default if len(default) <= _MOST_DEFAULT else "…"
    return f"{text} = {default}" if ":" in text else f"{text}={default}"


def meant(spec: FunctionSpec, kwargs: Mapping[str, Any]) -> list[Help]:
    """The parameters whose names are close to unknown keywords."""
    if any(p.how == "kwargs" for p in spec.params):
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [name for name, p in spec.signature.parameters.items() if p.kind in named]
    free = [name for name in names if name not in kwargs]
    close = [(word, difflib.get_close_matches(word, free, 1)) for word in kwargs if word not in names]
    return [Help(f"`{found[0]}` is close to `{word}`") for word, found in close if found]


def in_words(name: str, error: Exception) -> str:
    """What Python says of a call that a record's definition does not take, with the name that the user called."""
    text = next(iter(str(error).splitlines()), "") or "the call cannot be made"
    return re.sub(r"^_\w*\(\)", f"{name}()", text)


def require_decorated(given: object, function: type) -> None:
    """Refuse what lacks the decorator where a decorated function is asked for. Raises TraceError (TSR0409)."""
    if isinstance(given, function) or hasattr(given, "eager"):
        return
    span: Span | None = caller_span()
    name = getattr(given, "__name__", type(given).__name__)
    raise TraceError(
        f"`{name}` is not decorated",
        code="TSR0409",
        labels=[] if span is None else [Label(span, "takes a function with the decorator", True)],
        helps=["put `@tessera.function` above its definition"],
    )


__all__ = ["bind_signature", "in_words", "meant", "misfit", "require_decorated", "require_function", "takes"]
