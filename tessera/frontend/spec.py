"""A function's signature as the compiler reads it: which arguments are tensors, sizes, numbers or plain
Python values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any

from tessera.diag import Label, Note, Span, TesseraError, TraceError, definition_span
from tessera.diag.span import is_machinery
from tessera.frontend.annotation import TensorAnnotation, read_item
from tessera.frontend.hints import ANY, STATIC, Hint, hint_of, is_gone, scope_of
from tessera.frontend.mistakes import placed
from tessera.ir.dim import Dim

#: Parameters that stand for the object or class a method belongs to.
_RECEIVERS = ("self", "cls")
EMPTY = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One parameter. ``binds`` says that its int value is the size of the dim of the same name.

    ``how`` is ``plain``, ``args`` or ``kwargs``. ``path`` says where the object of a method has it, of which a call
    says nothing.
    """

    name: str
    hint: Hint
    default: Any = EMPTY
    binds: bool = False
    how: str = "plain"
    keyword_only: bool = False
    span: Span | None = field(default=None, compare=False)
    path: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``tensor``, ``optional``, ``container``, ``size``, ``scalar``, ``static`` or ``any``."""
        if self.binds:
            return "size"
        if self.hint.kind in ("tensor", "union"):
            return "optional" if self.hint.optional else "tensor"
        if self.hint.kind in ("tuple", "list", "dict", "data") and (self.hint.tensors() or self._numbers()):
            return "container"
        return "static" if self.hint.kind in ("none", "tuple", "list", "dict", "data") else self.hint.kind

    def _numbers(self) -> bool:
        return any(m.kind in ("scalar", "any") for m in self.hint.members)


@dataclass(frozen=True)
class FunctionSpec:
    """What a function declares. Make one with ``of``. ``updates`` are parameters whose tensors it may write to;
    ``checkpointed`` says that derivatives compute its values again, ``max_saved`` how many bytes they may keep.
    """

    name: str
    function: Callable[..., Any]
    params: tuple[ParamSpec, ...]
    returns: Hint = ANY
    span: Span | None = field(default=None, compare=False)
    returns_span: Span | None = field(default=None, compare=False)
    updates: tuple[str, ...] = ()
    checkpointed: bool = False
    max_saved: int | None = None

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        updates: tuple[str, ...] = (),
        checkpointed: bool = False,
        max_saved: int | None = None,
    ) -> FunctionSpec:
        """Read a function's signature; a staticmethod or classmethod is looked through.

        Raises ShapeError (TSR0101, TSR0102, TSR0104) and DTypeError (TSR0103) that point at the annotation, and
        TraceError (TSR0409) for an update of what is no parameter of tensors.
        """
        plain: Any = function
        while isinstance(plain, staticmethod | classmethod):
            plain = plain.__func__
        scope = scope_of(plain)
        signature = inspect.signature(plain)
        notes: Mapping[str, object] = getattr(plain, "__annotations__", {})
        hints = {name: _hint(plain, name, note, scope) for name, note in notes.items()}
        names = {n for h in hints.values() for a in h.tensors() for n in a.names}
        params = tuple(
            _param(plain, place, p, hints.get(p.name), names) for place, p in enumerate(signature.parameters.values())
        )
        return cls(
            plain.__qualname__.rpartition("<locals>.")[2],
            plain,
            params,
            hints.get("return", ANY),
            definition_span(plain),
            definition_span(plain, "return"),
            _updates(plain, params, updates),
            checkpointed,
            max_saved,
        )

    @cached_property
    def flats(self) -> tuple[tuple[int, str, Dim], ...]:
        """The places, names and sizes of the parameters that take many tensors for one."""
        rows = ((n, p.name, p.hint.annotation) for n, p in enumerate(self.params) if p.how == "plain")
        return tuple((n, name, a.fixed[0]) for n, name, a in rows if a is not None and a.flat)

    @cached_property
    def code(self) -> CodeType | None:
        """The code that the user wrote: of what the library put around a function, that of the function."""
        code = getattr(self.function, "__code__", None)
        if code is not None and not is_machinery(code.co_filename):
            return code
        return getattr(inspect.unwrap(self.function), "__code__", None)

    @cached_property
    def by_name(self) -> Mapping[str, ParamSpec]:
        return {p.name: p for p in self.params}

    @cached_property
    def signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @cached_property
    def dim_names(self) -> tuple[str, ...]:
        """Every dim name that the parameters bind, in order."""
        found = [n for p in self.params for a in p.hint.tensors() for n in a.names]
        return tuple(dict.fromkeys([*found, *(p.name for p in self.params if p.binds)]))

    @cached_property
    def leads(self) -> tuple[str, ...]:
        """The variadic parts in use: ``...`` or names."""
        every = [a.lead for p in self.params for a in p.hint.tensors()] + [a.lead for a in self.returns.tensors()]
        return tuple(dict.fromkeys(lead.name for lead in every if lead is not None))

    def origin(self, name: str) -> Note | None:
        """Where a dim name comes from: ``D comes from x: Tensor["B", "S", "D"]``."""
        for p in self.params:
            if p.binds and p.name == name:
                return Note(f"`{name}` comes from {p.name}: int", p.span)
            for a in p.hint.tensors():
                if name in a.names or (a.lead is not None and name in _lead_names(a, name)):
                    return Note(f"`{name}` comes from {p.name}: {shown(a, p.span)}", p.span)
        return None


def _updates(function: Callable[..., Any], params: Sequence[ParamSpec], updates: tuple[str, ...]) -> tuple[str, ...]:
    known = {p.name: p for p in params}
    for name in updates:
        if name not in known:
            raise _no_update(function, f"`{name}` is updated, and is no parameter", definition_span(function))
        if known[name].kind in ("size", "scalar", "static"):
            raise _no_update(function, f"`{name}` is updated, and is no tensor", known[name].span)
    return updates


def _no_update(function: Callable[..., Any], text: str, span: Span | None) -> TraceError:
    labels = [] if span is None else [Label(span, "declared here", True)]
    names = ", ".join(f'"{p}"' for p in inspect.signature(function).parameters)
    return TraceError(text, code="TSR0409", labels=labels, helps=[f"`updates` names parameters of tensors: {names}"])


def _lead_names(a: TensorAnnotation, name: str) -> tuple[str, ...]:
    lead = a.lead
    return (name,) if lead is not None and name.startswith(f"{lead_base(lead.name)}_") else ()


def lead_base(name: str) -> str:
    """How the dims of a variadic part are called: ``batch_0``, ``lead_0``."""
    return "lead" if name == "..." else name


def lead_dims(name: str, count: int) -> tuple[Dim, ...]:
    """The dims that a variadic part of that many dims stands for."""
    return tuple(Dim.name(f"{lead_base(name)}_{n}") for n in range(count))


def shown(a: TensorAnnotation, span: Span | None) -> str:
    """An annotation as the user wrote it."""
    text = None if span is None else span.text()
    return text if text is not None and "\n" not in text and len(text) <= 60 else str(a)


def _hint(function: Callable[..., Any], name: str, note: object, scope: Mapping[str, object]) -> Hint:
    """One annotation; errors point at it. What names locals that are gone says nothing."""
    if is_gone(function, note, scope):
        return ANY
    try:
        return hint_of(note, scope)
    except TesseraError as error:
        span = definition_span(function, name)
        if span is None:
            raise
        where = f"annotation of `{name}`" if name != "return" else "return annotation"
        raise placed(error, span, where, read_item) from None


def _param(
    function: Callable[..., Any], place: int, p: inspect.Parameter, hint: Hint | None, names: set[str]
) -> ParamSpec:
    how = "args" if p.kind is p.VAR_POSITIONAL else "kwargs" if p.kind is p.VAR_KEYWORD else "plain"
    if hint is None:
        hint = STATIC if place == 0 and p.name in _RECEIVERS else ANY
    binds = hint.kind == "static" and hint.type is int and p.name in names
    return ParamSpec(
        p.name,
        hint,
        p.default,
        binds,
        how,
        p.kind is p.KEYWORD_ONLY,
        definition_span(function, p.name),
    )
