"""Framework functions called on traced tensors: which record they mean, and what to do with those that have
none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tessera.frontend import alias, extern, methods
from tessera.frontend.handles import PoisonHandle, SizeHandle, TensorHandle
from tessera.frontend.session import Session, current

#: Attributes of a tensor with data that describe it without reading it.
_DESCRIBING = "__get__"


def dispatch(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a framework function does in the running trace. Outside of one it runs as it is."""
    session = current()
    if session is None:
        return function(*args, **kwargs)
    record, name = session.table.meaning(function)
    tensor = _first_tensor(session, args, kwargs)
    if getattr(function, "__name__", "") == _DESCRIBING:
        return _attribute(session, function, args)
    if tensor is None:
        return _create(session, function, record, name, args, kwargs)
    if isinstance(tensor, PoisonHandle):
        return tensor
    args, kwargs = _captured(session, args, kwargs)
    return _apply(session, function, name, args, dict(kwargs))


def _first_tensor(session: Session, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The first tensor among the arguments, one level of nesting deep."""
    for x in (*args, *kwargs.values()):
        if isinstance(x, TensorHandle | PoisonHandle) or session.table.is_tensor(x):
            return x
        if isinstance(x, tuple | list):
            for member in x:
                if isinstance(member, TensorHandle | PoisonHandle) or session.table.is_tensor(member):
                    return member
    return None


def _captured(
    session: Session, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Tensors with data become hidden arguments."""

    def wrap(x: Any) -> Any:
        return session.capture(x) if session.table.is_tensor(x) else x

    return tuple(map(wrap, args)), {key: wrap(value) for key, value in kwargs.items()}


def _attribute(session: Session, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """``weight.shape`` and ``weight.T`` of a tensor with data: descriptions as they are, tensors traced."""
    with session.table.untouched():
        found = function(*args)
    name = getattr(getattr(function, "__self__", None), "__name__", "")
    if session.table.is_tensor(found) and name not in ("grad", "_grad"):
        return getattr(session.capture(args[0]), name)
    return found


def _create(
    session: Session,
    function: Callable[..., Any],
    record: Any,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """A call without tensors: a factory becomes an operation, everything else runs now."""
    if record is None:
        if any(isinstance(x, SizeHandle) for x in (*args, *kwargs.values())):
            return extern.call(session, function, args, methods.drop_settings(session.table, kwargs))
        with session.table.untouched():
            return function(*args, **kwargs)
    return session.apply(record, args, _arguments(session, kwargs), "function", name, function)


def _arguments(session: Session, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    kept = methods.drop_settings(session.table, kwargs)
    return {key: value for key, value in kept.items() if not (value is None and key in _OPTIONAL)}


_OPTIONAL = frozenset({"dtype", "out", "generator", "device", "layout"})


def _apply(
    session: Session, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    kwargs = _arguments(session, kwargs)
    out = kwargs.pop("out", None)
    in_place = kwargs.pop("inplace", False) is True
    first = args[0] if args else None
    if isinstance(first, TensorHandle):
        if session.table.method(name) is function:
            return getattr(first, name)(*args[1:], **kwargs)
        if name in methods.OWN:
            return methods.OWN[name](*args, **kwargs)
    record, _ = session.table.meaning(function)
    if record is None:
        return _library(session, function, name, args, kwargs, out if out is not None else first if in_place else None)
    if (in_place or _updates(name)) and isinstance(first, TensorHandle):
        return alias.update(first, record.name, args, kwargs, "function", name)
    if out is not None:
        return _into(out, session.apply(record, args, kwargs, "function", name), name)
    if name in alias.VIEWS and isinstance(first, TensorHandle):
        return alias.linked(first, record, args, kwargs, "function", name)
    return session.apply(record, args, kwargs, "function", name, function)


def _into(out: Any, result: Any, name: str) -> Any:
    """Write results to the tensors given for them. Gives those, or poison after an error."""
    if isinstance(out, TensorHandle):
        return alias.overwrite(out, result, name)
    if not isinstance(out, tuple | list):
        raise TypeError(f"results of `{name}` cannot be written to a {type(out).__name__}")
    if not isinstance(result, tuple | list):
        return result
    if len(out) != len(result):
        raise TypeError(f"`{name}` has {len(result)} results, and {len(out)} tensors are given for them")
    return tuple(_into(o, r, name) for o, r in zip(out, result, strict=True))


def _library(
    session: Session, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], into: Any
) -> Any:
    """A function without a record; ``into`` is the tensor that its result goes to."""
    if _updates(name):
        raise TypeError(f"`{name}` updates its argument and has no record")
    result = extern.call(session, function, args, kwargs)
    return result if into is None else _into(into, result, name)


def _updates(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or (
        name.startswith("__i") and name not in ("__invert__", "__index__")
    )
