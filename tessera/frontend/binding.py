"""A call's arguments against the signature: flat leaves, and a key for what is not a tensor."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from beartype.door import is_bearable

from tessera.diag import Diagnostic, Help, Label, TraceError, caller_span
from tessera.frontend.accept import bind_signature
from tessera.frontend.annotation import TensorAnnotation
from tessera.frontend.handles import SizeHandle, TensorHandle
from tessera.frontend.hints import Hint
from tessera.frontend.session import Finding, error_of
from tessera.frontend.spec import FunctionSpec, ParamSpec
from tessera.frontend.tree import LEAF, Tree, flatten, leaf_paths, parts


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of the arguments. ``kind`` is ``tensor``, ``scalar``, ``size`` or ``static``."""

    kind: str
    path: str
    param: ParamSpec
    annotation: TensorAnnotation | None
    value: Any = field(compare=False)


@dataclass(frozen=True, slots=True)
class Bound:
    """The arguments of one call. ``key`` tells apart what compiled code depends on beside tensors and what objects
    hold: structure, numbers, texts and types of the statics.
    """

    tree: Tree
    leaves: tuple[Leaf, ...]
    key: tuple[Any, ...]

    @property
    def tensors(self) -> tuple[Leaf, ...]:
        """The tensor leaves, in order."""
        return tuple(leaf for leaf in self.leaves if leaf.kind == "tensor")


_tensor_types: dict[type, bool] = {}


def looks_like_tensor(x: object) -> bool:
    """Whether a value is a tensor with data; decided once a type, without importing any framework."""
    cls = type(x)
    known = _tensor_types.get(cls)
    if known is None:
        known = _tensor_types[cls] = hasattr(cls, "__torch_function__") and hasattr(cls, "data_ptr")
    return known


def bind_arguments(
    spec: FunctionSpec,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    is_tensor: Callable[[object], bool] = looks_like_tensor,
) -> Bound:
    """Match a call with the signature and flatten it.

    Raises CallError (TSR0111), which is a TypeError, for arguments that do not fit the signature, and TraceError
    (TSR0109) with every argument of a wrong Python type.
    """
    bound = bind_signature(spec, args, kwargs)
    bound.apply_defaults()
    given = bound.arguments
    leaves: list[Leaf] = []
    children: list[Tree] = []
    wrong: list[Finding] = []
    for p in spec.params:
        value = given[p.name]
        _type_check(spec, p, value, is_tensor, wrong)
        flat, tree = flatten(value, is_tensor) if p.kind != "static" else ([value], LEAF)
        children.append(tree)
        hints = _leaf_hints(_whole(p), value, is_tensor) if tree is not LEAF else [p.hint]
        for one, path, hint in zip(flat, leaf_paths(tree, p.name), hints, strict=True):
            leaves.append(_leaf(p, one, path, hint, is_tensor))
    if wrong:
        raise error_of(wrong)
    tree = Tree("dict", tuple(children), tuple(p.name for p in spec.params))
    return Bound(tree, tuple(leaves), (tree, tuple(map(_key, leaves))))


def _whole(p: ParamSpec) -> Hint:
    """The hint of all that a parameter takes: that of ``*args`` and ``**kwargs`` says what each one is."""
    if p.how == "plain":
        return p.hint
    return Hint("tuple" if p.how == "args" else "dict", members=(p.hint,), variadic=True)


def _leaf(p: ParamSpec, value: Any, path: str, hint: Hint, is_tensor: Callable[[object], bool]) -> Leaf:
    if is_tensor(value):
        return Leaf("tensor", path, p, _chosen(hint, value), value)
    if p.binds and isinstance(value, int):
        return Leaf("size", path, p, None, value)
    number = isinstance(value, float) and hint.kind in ("scalar", "any")
    if number or (hint.kind == "scalar" and isinstance(value, int) and not isinstance(value, bool)):
        return Leaf("scalar", path, p, None, float(value))
    return Leaf("static", path, p, None, value)


def _chosen(hint: Hint, value: Any) -> TensorAnnotation | None:
    """The annotation that holds for a tensor; of a union, the one of its rank."""
    if hint.kind != "union":
        return hint.annotation
    options = [a for member in hint.members for a in member.tensors()]
    rank = len(value.shape)
    return next((a for a in options if a.dims is not None and a.lead is None and len(a.dims) == rank), None)


def _leaf_hints(hint: Hint, value: Any, is_tensor: Callable[[object], bool]) -> list[Hint]:
    """The hint of each leaf, in the order of flattening."""
    from_parts = [] if is_tensor(value) else _members(value)
    if not from_parts:
        return [] if _is_empty(value) else [hint]
    found: list[Hint] = []
    for n, (key, member) in enumerate(from_parts):
        inner = hint.part(key, n)
        found += (
            _leaf_hints(inner, member, is_tensor)
            if _members(member) and not is_tensor(member)
            else ([inner] if not _is_empty(member) else [])
        )
    return found


def _members(value: Any) -> list[tuple[Any, Any]]:
    found = parts(value)
    if found is None:
        return []
    _, keys, members = found
    return list(zip(keys or range(len(members)), members, strict=True))


def _is_empty(value: Any) -> bool:
    found = parts(value)
    return found is not None and not found[2]


def _key(leaf: Leaf) -> Any:
    """What a leaf adds to the key: the value of a static that is a number or a text, of any other its type; the kind
    of the others. What objects hold is compared by who calls, and must not be kept alive by a key.
    """
    if leaf.kind != "static":
        return leaf.kind
    return (type(leaf.value), leaf.value if is_plain(leaf) else None)


def is_plain(leaf: Leaf) -> bool:
    """Is an argument None or a number or text of Python itself, whose value says everything about it?"""
    return leaf.value is None or type(leaf.value) in (int, bool, str, float)


def _type_check(
    spec: FunctionSpec, p: ParamSpec, value: Any, is_tensor: Callable[[object], bool], wrong: list[Finding]
) -> None:
    """TSR0109 for a value of a type that the annotation excludes."""
    values = {"args": value, "kwargs": value.values() if p.how == "kwargs" else ()}.get(p.how, (value,))
    for one in values:
        expected = _mismatch(p, one, is_tensor)
        if expected:
            called = caller_span()
            choice = typing.get_origin(p.hint.type) is typing.Literal and isinstance(one, str | int | None)
            given = repr(one) if choice else f"a {type(one).__name__}"
            what = given if choice else f"a {_type_name(one)}"
            labels = [] if called is None else [Label(called, f"called with {what}", True)]
            if p.span is not None:
                labels.append(Label(p.span, f"takes {expected}", not labels))
            text = f"argument `{p.name}` of {spec.name} is {given}"
            wrong.append(Finding(TraceError, Diagnostic("TSR0109", text, tuple(labels), (), _conversion(p, one))))


def _type_name(x: object) -> str:
    """The type as the user knows it: `numpy.ndarray`, `list`."""
    cls = type(x)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def _conversion(p: ParamSpec, x: object) -> tuple[Help, ...]:
    """How to make a tensor of data that torch reads."""
    if p.hint.kind not in ("tensor", "union"):
        return ()
    if hasattr(x, "__array_interface__"):
        return (Help("`torch.from_numpy` makes a tensor of an array, without a copy"),)
    if isinstance(x, list | tuple | int | float):
        return (Help("`torch.tensor` makes a tensor of numbers"),)
    return ()


def _mismatch(p: ParamSpec, value: Any, is_tensor: Callable[[object], bool]) -> str:
    """What the parameter takes, when the value is not that."""
    hint = p.hint
    if (hint.optional or hint.kind == "none") and value is None:
        return ""
    if value is p.default or (isinstance(value, SizeHandle) and (p.binds or hint.type is int)):
        return ""
    if hint.kind in ("tensor", "union"):
        return "" if is_tensor(value) else "a tensor or None" if hint.optional else "a tensor"
    if hint.kind == "scalar":
        good = isinstance(value, float | int | TensorHandle) and not isinstance(value, bool)
        return "" if good or _is_number(value) else "a float"
    if p.binds:
        return (
            ""
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0
            else "a size (an int, at least 0)"
        )
    if hint.kind == "static" and hint.type is not None and hint.type is not object:
        try:
            return "" if is_bearable(value, hint.type) else _named(hint.type)
        except Exception:  # a hint that beartype does not know says nothing
            return ""
    if hint.kind in ("tuple", "list", "dict"):
        wanted = {"tuple": (tuple,), "list": (list, tuple), "dict": (dict,)}[hint.kind]
        return "" if isinstance(value, wanted) else f"a {hint.kind}"
    return ""


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not hasattr(value, "shape")


def _named(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
