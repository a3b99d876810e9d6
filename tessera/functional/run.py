"""What a function of the functional API does: append to the graph of a traced function, or run at once on
torch tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from tessera.backends.eager import from_torch_dtype, resolve, to_torch_dtype
from tessera.backends.eager.run import run_op
from tessera.diag import CallError, Diagnostic, Label, TraceError, caller_span, user_frames
from tessera.frontend import alias, methods
from tessera.frontend.accept import in_words
from tessera.frontend.handles import PoisonHandle, SizeHandle, TensorHandle
from tessera.frontend.session import InnerRefused, Session, current
from tessera.ir.build import Builder
from tessera.ir.dialects import OPS, TENSOR_OPS
from tessera.ir.dialects.calls import NotCovered, Ops, Sym, rename_keywords
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Value
from tessera.ir.infer import Refused
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType

Op = Callable[..., Any]


def _public(records: Iterable[OpRecord]) -> dict[str, OpRecord]:
    """The records that a user may call: those with a name of their own outside the IR."""
    every = {r.name: r for r in records}
    return {
        name: r for name, r in every.items()
        if (r.torch or r.methods or r.kind is Kind.COMPOSITE)
        and not any(m != name and m in every for m in r.methods[:1])
    }  # fmt: skip


def _function(record: OpRecord) -> Op:
    """The public function of a record."""

    @user_frames
    def op(*args: Any, **kwargs: Any) -> Any:
        session = current()
        if session is not None:
            return _traced(session, record, args, kwargs)
        return _eager(record, args, kwargs)

    op.__name__ = op.__qualname__ = record.name
    op.__module__ = "tessera"
    parameters = record.signature or ""
    op.__doc__ = f"{record.name}({parameters})\n\n{record.doc}" + (f"\n\n{record.example}" if record.example else "")
    return op


# ---- in a traced function --------------------------------------------------------------------------------


def _traced(session: Session, record: OpRecord, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    kept = methods.drop_settings(session.table, kwargs)
    first = args[0] if args else None
    if isinstance(first, TensorHandle) and record.name in alias.VIEWS:
        return alias.linked(first, record, args, kept, "function", record.name)
    return session.apply(record, args, kept, "function")


# ---- on torch tensors ------------------------------------------------------------------------------------


def _eager(record: OpRecord, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Check the shapes by the record, then run torch's own function; without one, the record's definition."""
    key = _key(record, args, kwargs)
    if key is not None and (function := _known.get(key)) is not None:
        return function(*args, **kwargs)
    if any(isinstance(x, _TRACED) for x in (*args, *kwargs.values())):
        raise TraceError(f"`{record.name}` uses a value of a trace that has ended", code="TSR0406")
    renamed = {key: value for key, value in rename_keywords(record, kwargs).items() if key not in _PLACEMENT}
    function = _torch_function(record)
    if function is None or not _checked(record, args, renamed):
        return _defined(record, args, renamed)
    placed = {k: v for k, v in kwargs.items() if k in _PLACEMENT}
    try:
        found = function(*map(_torch_value, args), **{k: _torch_value(v) for k, v in renamed.items()}, **placed)
    except TypeError:
        return _defined(record, args, renamed)
    if key is not None and renamed == kwargs and len(_known) < _MOST_KNOWN:
        _known[key] = function
    return found


_TRACED = (TensorHandle, SizeHandle, PoisonHandle)
_PLACEMENT = ("device", "layout", "requires_grad", "pin_memory", "memory_format", "generator")
#: Calls whose shapes were found good, and the torch function that runs them as they are.
_known: dict[Any, Op] = {}
_MOST_KNOWN = 4096


@cache
def _torch_function(record: OpRecord) -> Op | None:
    """torch's function for a record, where it takes the same arguments."""
    return next((f for name in record.torch if not name.startswith("torch.Tensor.__") and (f := resolve(name))), None)


def _key(record: OpRecord, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a check of the shapes depends on; None when that cannot be told."""
    found: list[Any] = [record.name]
    for x in args:
        t = type(x)
        if t is torch.Tensor or t is torch.nn.Parameter:
            found += (x.shape, x.dtype)
        elif x is None or t in _PLAIN:
            found += (t, x)
        else:
            return None
    for name, x in kwargs.items():
        if x is not None and type(x) not in _PLAIN:
            return None
        found += (name, type(x), x)
    return tuple(found)


_PLAIN = frozenset({bool, int, float, str, torch.dtype})


def _torch_value(x: Any) -> Any:
    return to_torch_dtype(x) if isinstance(x, DType) else x


def _checked(record: OpRecord, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the record's rules take the arguments, which then go to torch; False when only the library
    knows them.
    """
    ops = Ops(Builder(OPS["cast"]), OPS)
    symbols: dict[int, Sym] = {}

    def symbol(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return _plain(x, symbol)
        found = symbols.get(id(x))
        if found is None:
            found = symbols[id(x)] = Sym(ops, Value("x", _type(x)))
        return found

    try:
        ops.invoke(record, *map(symbol, args), **{key: symbol(value) for key, value in kwargs.items()})
    except Refused as refused:
        raise _error(record, refused) from None
    except NotCovered:
        return True
    except TypeError as error:
        span = caller_span()
        labels = [] if span is None else [Label(span, "called here", True)]
        raise CallError(f"{record.name}: {in_words(record.name, error)}", labels=labels) from None
    return True


def _plain(x: Any, inside: Callable[[Any], Any]) -> Any:
    if isinstance(x, torch.dtype):
        return from_torch_dtype(x)
    if isinstance(x, torch.Size):
        return tuple(x)
    return type(x)(map(inside, x)) if type(x) in (tuple, list) else x


def _type(x: torch.Tensor) -> TensorType:
    return TensorType(from_torch_dtype(x.dtype), tuple(Dim.const(n) for n in x.shape))


def _error(record: OpRecord, refused: Refused | InnerRefused) -> Exception:
    """The refusal as an error that points at the caller."""
    inner = refused.refused if isinstance(refused, InnerRefused) else refused
    span = caller_span()
    texts = [b.text for b in inner.blame if b.text]
    labels = () if span is None else (Label(span, ", ".join(texts), True),)
    return inner.cls.from_diagnostics([Diagnostic(inner.code, f"{record.name}: {inner.message}", labels)])


class _EagerOps(Ops):
    """Definitions that run as they are read: each primitive is executed through torch at once, gradients
    included.
    """

    def __init__(self) -> None:
        super().__init__(Builder(OPS["cast"]), OPS)
        self.tensors: dict[Value, Any] = {}

    def emit(self, name: str, operands: Sequence[Any], /, **attrs: Any) -> Any:
        ops = self.builder.ops
        mark = len(ops)
        result = super().emit(name, operands, **attrs)
        for op in ops[mark:]:
            given = [self.tensors[x] if isinstance(x, Value) else x.value for x in op.operands]
            found = run_op(op, [g.value if isinstance(g, Dim) else g for g in given], {})
            self.tensors.update(zip(op.results, found, strict=True))
        return result

    def enter(self, x: Any) -> Any:
        """An argument as definitions take it."""
        if not isinstance(x, torch.Tensor):
            return _plain(x, self.enter)
        value = Value("x", _type(x))
        self.tensors[value] = x
        return Sym(self, value)

    def leave(self, x: Any) -> Any:
        """A result as torch tensors."""
        if isinstance(x, Sym):
            return self.tensors[x.value]
        if isinstance(x, Dim):
            return x.value
        return type(x)(map(self.leave, x)) if isinstance(x, tuple | list) else x


def _defined(record: OpRecord, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a record by its definition."""
    ops = _EagerOps()
    try:
        result = ops.invoke(record, *map(ops.enter, args), **{key: ops.enter(value) for key, value in kwargs.items()})
    except Refused as refused:
        raise _error(record, refused) from None
    except NotCovered as reason:
        raise TraceError(f"{record.name}: {reason}", code="TSR0404") from None
    return ops.leave(result)


#: Every public operation by name.
FUNCTIONS: Mapping[str, Op] = {name: _function(record) for name, record in sorted(_public(TENSOR_OPS).items())}
