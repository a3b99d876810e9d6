"""A call of a host framework function that has no record: opaque, on whole tensors, its result types
written down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from tessera.diag import TraceError
from tessera.ir.dialects.library_vjp import differentiable
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Attr
from tessera.ir.infer import InferContext
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType, Type


def _infer(ctx: InferContext, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> tuple[TensorType, ...]:
    found: list[TensorType] = []
    for dtype, *dims in _rows(attrs["results"]):
        if not isinstance(dtype, DType):
            ctx.fail("TSR0301", f"`{dtype}` is no dtype")
        found.append(TensorType(dtype, tuple(Dim.of(d) for d in dims)))
    return tuple(found)


def _rows(attr: Any) -> Iterator[tuple[Any, ...]]:
    return iter(attr)


def _eager(torch: Any, *operands: Any, target: str, arguments: Any, keywords: Any, results: Any) -> Any:
    function = _function(torch, target)
    args = [_decode(torch, a, operands) for a in arguments]
    kwargs = {str(key): _decode(torch, value, operands) for key, value in keywords}
    return leaves(function(*args, **kwargs), lambda x: isinstance(x, torch.Tensor))


#: Functions of this process that are called by names of their own, as long as somebody has them.
_NAMED: WeakValueDictionary[str, Callable[..., Any]] = WeakValueDictionary()
#: What these names begin with.
_OWN = "own."
#: How many have had a name.
_given: Counter[str] = Counter()


class Named(str):
    """The name of a function, which exists as long as a program has its name."""

    function: Callable[..., Any]


def named(function: Callable[..., Any], name: str) -> Named:
    """A name by which programs of this process may call a function: this one, or one like it that none has had."""
    number = _given[name]
    _given[name] += 1
    target = Named(f"{_OWN}{name}.{number}" if number else f"{_OWN}{name}")
    target.function = _NAMED[str(target)] = function
    return target


def _function(torch: Any, target: str) -> Any:
    """The function of a name of its own, or of a dotted name of the framework's. Of these only tensor functions that
    others may override are reached, never files or code.
    """
    if target.startswith(_OWN):
        own = target.function if isinstance(target, Named) else _NAMED.get(target)
        if own is None:
            raise TraceError(f"`{target[:80]}` is no function of this process", code="TSR0404")
        return own
    function: Any = torch
    for part in target.split(".")[1:]:
        function = getattr(function, part, None)
    known = torch.overrides.get_overridable_functions()
    if not any(function is one for every in known.values() for one in every):
        raise TraceError(f"`{target[:80]}` is no tensor function", code="TSR0404")
    return function


def leaves(x: Any, is_leaf: Callable[[Any], bool]) -> tuple[Any, ...]:
    """The tensors of a result, in order, out of tuples and lists."""
    if is_leaf(x):
        return (x,)
    return tuple(leaf for member in x for leaf in leaves(member, is_leaf)) if isinstance(x, tuple | list) else ()


def _decode(torch: Any, attr: Any, operands: Sequence[Any]) -> Any:
    """An argument from its attribute form: ``("operand", n)``, ``("list", …)``, ``("tuple", …)`` or a plain
    value.
    """
    if isinstance(attr, DType):
        return getattr(torch, _TORCH.get(attr.name, attr.name))
    if not isinstance(attr, tuple):
        return attr
    kind, *members = attr
    if kind == "operand":
        return operands[members[0]]
    decoded = [_decode(torch, m, operands) for m in members]
    return decoded if kind == "list" else tuple(decoded)


_TORCH: Mapping[str, str] = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}


def _no_reference(*_: Any, target: str, **__: Any) -> Any:
    raise TraceError(f"`{target}` has no definition of its own", code="TSR0408")


_LIBRARY_CALL = OpRecord(
    "library_call",
    Kind.EXTERN,
    "xs: tensors, *, target: str, arguments: any, keywords: any, results: any",
    "A function of the host framework that has no record, called on whole tensors: its dotted name, its arguments "
    "and its result types as (dtype, size, …).",
    _infer,
    reference=_no_reference,
    eager=_eager,
)

OPS: tuple[OpRecord, ...] = differentiable(_LIBRARY_CALL)
LIBRARY_CALL = OPS[0]
