"""How a record is called: the namespace that definitions compute in, and plain symbolic tensors for use without Python.

``Ops`` gives every record as a function. Called with wrapped tensors, numbers and sizes, it binds the arguments, makes
them canonical and appends to a ``Builder``. A front end supplies its own tensor class through ``wrap`` and ``unwrap``;
``Sym`` is the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NoReturn

from tessera.ir.build import Builder
from tessera.ir.dialects.takes import check_dtypes
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, dtype
from tessera.ir.graph import Attr, Literal, Operand, Value
from tessera.ir.infer import Blame, InferContext
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import ScalarType, TensorType, Type

#: Python's operator methods and the record each one calls; reflected ones swap their operands.
OPERATORS: Final[Mapping[str, str]] = MappingProxyType({
    "__add__": "add", "__sub__": "sub", "__mul__": "mul", "__truediv__": "div", "__floordiv__": "floordiv",
    "__mod__": "remainder", "__pow__": "pow", "__matmul__": "matmul", "__and__": "bitwise_and", "__or__": "bitwise_or",
    "__xor__": "bitwise_xor", "__lshift__": "shift_left", "__rshift__": "shift_right", "__eq__": "eq", "__ne__": "ne",
    "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge", "__neg__": "neg", "__pos__": "positive",
    "__abs__": "abs", "__invert__": "bitwise_not",
})  # fmt: skip
REFLECTED: Final[Mapping[str, str]] = MappingProxyType({
    "__r" + name[2:]: record for name, record in OPERATORS.items()
    if record in ("add", "sub", "mul", "div", "floordiv", "remainder", "pow", "matmul", "bitwise_and", "bitwise_or",
                  "bitwise_xor", "shift_left", "shift_right")
})  # fmt: skip

#: Argument names of torch and NumPy that mean one of ours.
_KEYWORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "axis": ("dim", "dims"), "axes": ("dims", "dim"), "keepdims": ("keepdim",), "dim": ("dims",), "dims": ("dim",),
    "size": ("shape", "sizes"), "shape": ("sizes", "size"), "ddof": ("correction",),
})  # fmt: skip
_FIRST: Final = ("input", "self", "tensor", "a")
_SECOND: Final = ("other", "exponent", "b", "mat2", "vec2", "tensor2")


def rename_keywords(record: OpRecord, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments under the record's own parameter names: ``axis``, ``input``, ``keepdims`` … resolved."""
    names = [p.name for p in record.params]
    renamed: dict[str, Any] = {}
    for key, value in kwargs.items():
        if key not in names:
            wanted = next((n for n in _KEYWORDS.get(key, ()) if n in names), None)
            if wanted is None and key in _FIRST and names:
                wanted = names[0]
            elif wanted is None and key in _SECOND and len(names) > 1:
                wanted = names[1]
            key = wanted or key
        renamed[key] = value
    return renamed


def bind(record: OpRecord, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Operands in order and attributes by name, from a call that follows the record's signature.

    Raises TypeError for arguments that do not fit the signature, as a Python call does.
    """
    given = list(args)
    named = dict(kwargs)
    operands: list[Any] = []
    attrs: dict[str, Any] = {}
    for p in record.params:
        if p.variadic:
            value: Any = tuple(given)
            given = []
        elif given and not p.keyword_only:
            if p.name in named:
                raise TypeError(f"{record.name}() got `{p.name}` twice")
            value = given.pop(0)
        elif p.name in named:
            value = named.pop(p.name)
        elif p.required:
            raise TypeError(f"{record.name}() needs `{p.name}`")
        else:
            value = p.default
        if not p.is_operand:
            attrs[p.name] = value
        elif p.kind == "tensors":
            operands.extend(value)
        elif value is not None:
            operands.append(value)
    if given or named:
        extra = next(iter(named), None)
        detail = f"no parameter `{extra}`" if extra else f"{len(args)} positional arguments are too many"
        raise TypeError(f"{record.name}({record.signature}): {detail}")
    return operands, attrs


class NotCovered(Exception):
    """A call that the library knows and the record does not: the caller makes it a library call instead."""


class Ops:
    """Every record of a table as a function; what ``define`` of a composite and ``call`` of a primitive get as ``T``.

    ``emit``, ``fail``, ``type_of``, ``is_tensor``, ``dims``, ``size``,
    ``static`` and ``random_key`` are the services that
    definitions use beside the records themselves.
    """

    def __init__(
        self,
        builder: Builder,
        table: Mapping[str, OpRecord],
        wrap: Callable[[Value], Any] | None = None,
        unwrap: Callable[[Any], Operand | None] | None = None,
        seed: Operand | None = None,
    ) -> None:
        self.builder = builder
        self.table = table
        self.origin = ""
        self._wrap = wrap or (lambda value: Sym(self, value))
        self._unwrap = unwrap or (lambda x: x.value if isinstance(x, Sym) else None)
        self._seed = seed
        self._draws = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        table = self.__dict__.get("table", {})
        if name not in table:
            raise AttributeError(f"no operation `{name}`")
        return partial(self.invoke, table[name])

    def invoke(self, record: OpRecord, /, *args: Any, **kwargs: Any) -> Any:
        """Call a record as a user would: a composite's definition, a primitive's ``call``, or plain binding."""
        kwargs = rename_keywords(record, kwargs)
        args = _spread(record, args, kwargs)
        if not self.origin:
            check_dtypes(self, record, args, kwargs)
        outermost = not self.origin and (record.kind is Kind.COMPOSITE or record.call is not None)
        if outermost:
            self.origin = record.name
        try:
            if record.kind is Kind.COMPOSITE:
                assert record.define is not None
                return record.define(self, *args, **kwargs)
            if record.call is not None:
                return record.call(self, *args, **kwargs)
            operands, attrs = bind(record, args, kwargs)
            return self.emit(record.name, operands, **attrs)
        finally:
            if outermost:
                self.origin = ""

    def emit(self, name: str, operands: Sequence[Any], /, **attrs: Attr) -> Any:
        """Append a primitive with canonical attributes; one wrapped result, or a tuple where the op has several."""
        record = self.table[name]
        origin = "" if self.origin == name else self.origin
        values = self.builder.call(
            record,
            [self.operand(x) for x in operands],
            MappingProxyType(attrs),
            span=self.builder.context.span,
            origin=origin,
        )
        wrapped = tuple(self._wrap(v) for v in values)
        return wrapped[0] if len(wrapped) == 1 else wrapped

    def operand(self, x: Any) -> Operand:
        """What stands in the IR for an argument. Raises TypeError for what is neither tensor, number nor size."""
        found = self._unwrap(x)
        if found is not None:
            return found
        if isinstance(x, Value | Literal):
            return x
        if isinstance(x, bool | int | float | Dim):
            return Literal(x)
        raise TypeError(f"a tensor or a number is needed, not {type(x).__name__}")

    @property
    def context(self) -> InferContext:
        return self.builder.context

    def fail(
        self, code: str, message: str, *blame: Blame, notes: Sequence[str] = (), helps: Sequence[str] = ()
    ) -> NoReturn:
        """Refuse the call; operand numbers in ``blame`` are those of the call's arguments."""
        self.builder.context.fail(code, message, *blame, notes=notes, helps=helps)

    def not_covered(self, what: str) -> NoReturn:
        """Leave the call to the library. Raises NotCovered."""
        raise NotCovered(what)

    def type_of(self, x: Any) -> Type:
        """The type of an argument; numbers and sizes have a ScalarType."""
        return self.operand(x).type

    def is_tensor(self, x: Any) -> bool:
        """True for tensors of any rank, False for numbers, sizes, dynamic scalars and everything else."""
        found = self._unwrap(x)
        return found is not None and isinstance(found.type, TensorType)

    def dims(self, x: Any) -> tuple[Dim, ...]:
        """The sizes of a tensor."""
        return self.type_of(x).dims

    def dtype_of(self, x: Any) -> DType:
        return self.type_of(x).dtype

    def size(self, x: Any) -> Dim:
        """A size argument as a Dim. Raises TypeError for anything but an int, a Dim or a size of a traced tensor."""
        if isinstance(x, Dim):
            return x
        if isinstance(x, int):
            return Dim.const(int(x))
        found = self._unwrap(x)
        if isinstance(found, Literal) and isinstance(found.value, int | Dim):
            return found.value if isinstance(found.value, Dim) else Dim.const(found.value)
        raise TypeError(f"a size is an int or a dimension, not {type(x).__name__}")

    def sizes(self, args: Sequence[Any]) -> tuple[Dim, ...]:
        """Sizes given one by one or as one sequence."""
        return tuple(self.size(x) for x in flat(args))

    def static(self, x: Any) -> int | None:
        """The value of a size that is a number, None for a symbolic one."""
        d = self.size(x)
        return d.value if d.is_const else None

    def random_key(self) -> tuple[Operand, int]:
        """The seed operand and the number of this draw: the key of one random op."""
        if self._seed is None:
            self._seed = self.builder.param("seed", ScalarType(dtype("int64")))
        self._draws += 1
        return self._seed, self._draws - 1


def _spread(record: OpRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """``permute(x, dims=(1, 0))``: what a variadic parameter is given by name goes to its place."""
    for number, p in enumerate(record.params):
        if p.variadic and p.name in kwargs:
            before = [kwargs.pop(q.name) for q in record.params[len(args) : number] if q.name in kwargs]
            return (*args, *before, *flat((kwargs.pop(p.name),)))
    return args


def flat(args: Sequence[Any]) -> tuple[Any, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` mean the same."""
    if len(args) == 1 and isinstance(args[0], tuple | list):
        return tuple(args[0])
    return tuple(args)


class Sym:
    """A symbolic tensor or dynamic scalar with operators, methods, ``shape``, ``dtype`` and ``ndim``; see ``Ops``."""

    __slots__ = ("ops", "value")
    __hash__ = object.__hash__
    #: Not a sequence of its parts: a loop over an axis of unknown size would not end.
    __iter__ = None

    def __init__(self, ops: Ops, value: Value) -> None:
        self.ops, self.value = ops, value

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.value.type.dims

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def ndim(self) -> int:
        return self.value.type.rank

    def __getitem__(self, key: Any) -> Any:
        return self.ops.getitem(self, key)

    def __repr__(self) -> str:
        return f"Sym({self.value!r})"


def cast_floats(ops: Ops, x: Any, wanted: DType | None) -> Any:
    """An argument, or all in a container, with every float tensor of at most 32 bits in another dtype."""
    if wanted is None:
        return x
    if isinstance(x, Sym):
        kind = x.value.type
        eligible = isinstance(kind, TensorType) and kind.dtype.is_float and kind.dtype.bits <= 32
        return ops.cast(x, wanted) if eligible and kind.dtype is not wanted else x
    if type(x) is dict:
        return {key: cast_floats(ops, member, wanted) for key, member in x.items()}
    return type(x)(cast_floats(ops, member, wanted) for member in x) if type(x) in (tuple, list) else x


def constant(ops: Ops, result: Any) -> Any:
    """The results of an operation, which derivatives take for constants."""
    if isinstance(result, Sym):
        kind = result.value.type
        return ops.detach(result) if isinstance(kind, TensorType) and kind.dtype.is_float else result
    if isinstance(result, list):
        return [constant(ops, x) for x in result]
    return tuple(constant(ops, x) for x in result) if isinstance(result, tuple) else result


def _operator(record: str, swap: bool) -> Callable[..., Any]:
    def method(self: Sym, *others: Any) -> Any:
        operands = (*others, self) if swap else (self, *others)
        return getattr(self.ops, record)(*operands)

    return method


for _name, _record in OPERATORS.items():
    setattr(Sym, _name, _operator(_record, False))
for _name, _record in REFLECTED.items():
    setattr(Sym, _name, _operator(_record, True))
