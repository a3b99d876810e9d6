"""Type hints as the frontend sees them: which parts of an argument are tensors, numbers, sizes or plain
Python values.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from tessera.diag import ShapeError, TesseraError
from tessera.frontend.annotation import Flat, Tensor, TensorAnnotation, Tile, Union, from_jaxtyping

#: Nested hints deeper than this are taken as plain Python values.
DEEPEST = 16


@dataclass(frozen=True, slots=True)
class Hint:
    """One hint. ``kind`` is ``tensor tuple list dict data scalar static any union none``.

    ``members`` are the hints of the parts (for ``list`` and ``dict`` one, for all of them); ``names`` the
    fields of a dataclass or named tuple; ``type`` what beartype checks a static value against.
    """

    kind: str
    annotation: TensorAnnotation | None = None
    members: tuple[Hint, ...] = ()
    names: tuple[str, ...] = ()
    optional: bool = False
    variadic: bool = False
    type: Any = None

    def tensors(self) -> tuple[TensorAnnotation, ...]:
        """Every tensor annotation inside, in order."""
        own = () if self.annotation is None else (self.annotation,)
        return own + tuple(a for member in self.members for a in member.tensors())

    def part(self, key: object, place: int) -> Hint:
        """The hint of one member of a container."""
        if self.kind == "union":
            return next((m.part(key, place) for m in self.members if m.members), ANY)
        if not self.members:
            return ANY
        if self.kind in ("list", "dict") or self.variadic:
            return self.members[0]
        if self.names:
            return self.members[self.names.index(str(key))] if key in self.names else ANY
        return self.members[place] if place < len(self.members) else ANY


ANY = Hint("any")
STATIC = Hint("static", type=object)


def hint_of(x: object, scope: Mapping[str, object], depth: int = 0) -> Hint:
    """The hint that an annotation object (or its text) means; ``scope`` holds the names a text may use.

    Raises ShapeError (TSR0104) for a text that cannot be resolved.
    """
    if isinstance(x, typing.ForwardRef):  # what a named tuple makes of a text
        x = x.__forward_arg__
    if isinstance(x, str):
        x = resolve(x, scope)
    tensor = _tensor(x)
    if tensor is not None:
        return Hint("tensor", tensor)
    if x is None or x is type(None):
        return Hint("none")
    if x is float:
        return Hint("scalar", type=float)
    if depth > DEEPEST:
        return Hint("static", type=x)
    origin, args = typing.get_origin(x), typing.get_args(x)
    if isinstance(x, Union) or origin is typing.Union or origin is types.UnionType:
        return _union(x.members if isinstance(x, Union) else args, scope, depth, x)
    if origin is typing.Annotated:
        return hint_of(args[0], scope, depth + 1)
    if origin is not None:
        return _generic(origin, args, scope, depth, x)
    if isinstance(x, type) and (dataclasses.is_dataclass(x) or (issubclass(x, tuple) and hasattr(x, "_fields"))):
        return _fields(x, depth)
    return Hint("static", type=x)


def _tensor(x: object) -> TensorAnnotation | None:
    if isinstance(x, TensorAnnotation):
        return x
    if x is Tensor:
        return TensorAnnotation(None)
    if isinstance(x, type) and x.__name__ in ("Tensor", "Parameter") and x.__module__.split(".")[0] == "torch":
        return TensorAnnotation(None)
    return from_jaxtyping(x)


def _union(members: tuple[object, ...], scope: Mapping[str, object], depth: int, whole: object) -> Hint:
    hints = [hint_of(m, scope, depth + 1) for m in members]
    rest = [h for h in hints if h.kind != "none"]
    optional = len(rest) < len(hints)
    if len(rest) == 1:
        return dataclasses.replace(rest[0], optional=optional)
    if any(h.tensors() for h in rest):
        return Hint("union", members=tuple(rest), optional=optional)
    if any(h.kind == "scalar" for h in rest) and not isinstance(whole, Union):
        return Hint("any", type=whole, optional=optional)
    return Hint("static", type=whole if not isinstance(whole, Union) else object, optional=optional)


def _generic(origin: object, args: tuple[object, ...], scope: Mapping[str, object], depth: int, whole: object) -> Hint:
    if not isinstance(origin, type):
        return Hint("static", type=whole)
    if issubclass(origin, tuple):
        variadic = len(args) == 2 and args[1] is Ellipsis
        members = tuple(hint_of(a, scope, depth + 1) for a in (args[:1] if variadic else args))
        return Hint("tuple", members=members, variadic=variadic, type=whole)
    if issubclass(origin, dict) or origin in (typing.get_origin(typing.Mapping[str, int]),):
        member = hint_of(args[1], scope, depth + 1) if len(args) == 2 else ANY
        return Hint("dict", members=(member,), type=whole)
    if issubclass(origin, list) or origin is typing.get_origin(typing.Sequence[int]):
        return Hint("list", members=tuple(hint_of(a, scope, depth + 1) for a in args[:1]), type=whole)
    return Hint("static", type=whole)


def _fields(cls: type, depth: int) -> Hint:
    """A dataclass or named tuple; plain Python value when no field holds a tensor."""
    scope = vars(sys.modules.get(cls.__module__, builtins))
    if dataclasses.is_dataclass(cls):
        given: dict[str, object] = {f.name: f.type for f in dataclasses.fields(cls)}
    else:
        notes = getattr(cls, "__annotations__", {})
        given = {name: notes.get(name, object) for name in cls._fields}  # type: ignore[attr-defined]
    members: list[Hint] = []
    for note in given.values():
        try:
            members.append(hint_of(note, scope, depth + 1))
        except TesseraError:
            members.append(ANY)
    found = Hint("data", members=tuple(members), names=tuple(given), type=cls)
    return found if found.tensors() or any(m.kind == "scalar" for m in members) else Hint("static", type=cls)


# ---- annotations given as text ---------------------------------------------------------------------------


def scope_of(function: Callable[..., object]) -> Mapping[str, object]:
    """The names that a function's annotations may use: what it closes over, the locals of the functions and classes
    around it while these run, its module, the builtins.

    A wrapper made with ``functools.wraps`` has the annotations of what it wraps, and so the names of that.
    """
    function = inspect.unwrap(function)
    found: dict[str, object] = dict(vars(builtins))
    found.update(getattr(function, "__globals__", {}))
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    for frame in reversed(_around(code)):
        found.update(frame.f_locals)
    for name, cell in zip(code.co_freevars if code is not None else (), cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not bound yet
    return found


def is_gone(function: Callable[..., object], note: object, scope: Mapping[str, object]) -> bool:
    """Whether an annotation given as text names something that only the function around knew, which no longer runs.

    A name among quoted dims that stands last may be such a dtype; others in brackets are dims.
    """
    function = inspect.unwrap(function)
    if not isinstance(note, str) or "<locals>" not in getattr(function, "__qualname__", ""):
        return False
    if _around(getattr(function, "__code__", None)):
        return False
    try:
        whole = ast.parse(note.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    waiting, named = [whole], set[str]()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Subscript) and _is_tensor(node.value, scope):
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            waiting += items[-1:] if any(isinstance(i, ast.Constant) for i in items) else []
            waiting.append(node.value)
        elif isinstance(node, ast.Name):
            named.add(node.id)
        else:
            waiting += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr)]
    return not named <= scope.keys()


def _is_tensor(node: ast.expr, scope: Mapping[str, object]) -> bool:
    return isinstance(node, ast.Name) and scope.get(node.id) in (Tensor, Flat, Tile)


def _around(code: CodeType | None) -> list[FrameType]:
    """The running functions and class bodies that the code stands in, the innermost first."""
    found: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1) if code is not None else None
    while frame is not None:
        if any(c is code for c in frame.f_code.co_consts):
            found.append(frame)
            code = frame.f_code
        frame = frame.f_back
    return found


def resolve(text: str, scope: Mapping[str, object]) -> object:
    """The object that an annotation's text means, without running it.

    Names, attributes, subscripts, tuples, constants and ``|`` are understood. Inside ``Tensor[...]`` a name
    without a value is the name of a dimension. Raises ShapeError (TSR0104) for anything else.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, scope, False)
    except TesseraError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _unresolved(text, "it is no expression") from None


def _unresolved(text: str, why: str) -> ShapeError:
    shown = text if len(text) <= 60 else f"{text[:59]}…"
    return ShapeError(f"the annotation `{shown}` cannot be resolved: {why}", code="TSR0104")


def _value(node: ast.expr, scope: Mapping[str, object], in_tensor: bool) -> object:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            if name in scope:
                return scope[name]
            if in_tensor:
                return name
            raise _unresolved(ast.unparse(node), f"`{name}` is not defined")
        case ast.Attribute(value=inner, attr=name):
            found = _value(inner, scope, False)
            if not hasattr(found, name):
                raise _unresolved(ast.unparse(node), f"there is no `{name}`")
            return getattr(found, name)
        case ast.Subscript(value=inner, slice=index):
            return _subscript(node, _value(inner, scope, False), index, scope)
        case ast.Tuple(elts=items):
            return tuple(_value(item, scope, in_tensor) for item in items)
        case ast.List(elts=items):
            return [_value(item, scope, in_tensor) for item in items]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right) if not in_tensor:
            return Union((_value(left, scope, False), _value(right, scope, False)))
        case ast.BinOp() | ast.UnaryOp() if in_tensor:
            return ast.unparse(node)
    raise _unresolved(ast.unparse(node), f"a {type(node).__name__} is not understood")


def _subscript(node: ast.expr, base: object, index: ast.expr, scope: Mapping[str, object]) -> object:
    items = _value(index, scope, base in (Tensor, Flat, Tile))
    try:
        return base[items]  # type: ignore[index]
    except TesseraError:
        raise
    except Exception as error:
        raise _unresolved(ast.unparse(node), str(error)) from None
