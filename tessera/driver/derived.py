"""Functional derivatives: a function of the gradients of another, traced with the derivative behind it, so that what
serves every function (checks, variants, kernels, its own derivative) serves this one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec

import torch

from tessera.diag import CallError, Diagnostic, DTypeError, Label, Note, ShapeError, Span, caller_span, user_frames
from tessera.driver.decorated import Function
from tessera.driver.method import Method
from tessera.frontend.accept import require_function
from tessera.frontend.handles import PoisonHandle, Storage, TensorHandle
from tessera.frontend.hints import ANY
from tessera.frontend.session import Session, current
from tessera.frontend.spec import FunctionSpec
from tessera.frontend.tree import flatten, leaf_paths, unflatten
from tessera.ir.graph import Value
from tessera.ir.types import TensorType
from tessera.passes.autodiff import append

P = ParamSpec("P")


@user_frames
def grad(f: Callable[P, Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function[P, Any]:
    """The function of the gradients of ``f``, which gives one number, by its arguments ``argnums``.

    ``f`` is a compiled function, a method of an object, or a plain Python function, which is then compiled. The
    gradient has the structure of the argument (a tensor, or nested tuples, lists and dicts of tensors), with the
    shapes and dtypes of its tensors; for a tuple of ``argnums`` it is a tuple. Nothing needs ``requires_grad``. With
    ``has_aux``, ``f`` gives a pair of the number and of something else, and the result is the pair of the gradient and
    that. What ``torch.no_grad`` says outside has no effect. The result can be differentiated, given to ``grad`` again,
    and called in other functions.

    Raises CallError (TSR0114) for an argument that there is not, and, where the shapes are declared already here,
    ShapeError (TSR0220) where ``f`` gives no number, DTypeError (TSR0308) where something is no float and TraceError
    (TSR0413) for an operation without a derivative.

    >>> import tessera, torch
    >>> from tessera import Tensor
    >>> def loss(w: Tensor["D"], x: Tensor["B", "D"]):
    ...     return ((x * w).sum(-1) ** 2).mean()
    >>> gradient = tessera.grad(loss)
    >>> gradient(torch.ones(2), torch.eye(2)).tolist()
    [1.0, 1.0]
    >>> tessera.grad(tessera.grad(lambda x: x**3))(torch.tensor(2.0)).item()
    12.0
    """
    return Derived(f, argnums, has_aux, False)


@user_frames
def value_and_grad(f: Callable[P, Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Function[P, Any]:
    """As ``grad``, but the result is a pair of what ``f`` gives and the gradient.

    >>> import tessera, torch
    >>> value, slope = tessera.value_and_grad(lambda x: (x * x).sum())(torch.tensor([1.0, 2.0]))
    >>> value.item(), slope.tolist()
    (5.0, [2.0, 4.0])
    """
    return Derived(f, argnums, has_aux, True)


class Derived(Function[P, Any]):
    """A function of gradients. Made by ``grad`` and ``value_and_grad``."""

    def __init__(self, f: Callable[P, Any], argnums: int | tuple[int, ...], has_aux: bool, with_value: bool) -> None:
        if not isinstance(f, Function | Method):
            require_function(f)
        self.given = f
        self.inner = f if isinstance(f, Function | Method) else Function(f)
        self.request = _Request.of(self.inner, argnums, has_aux, with_value)
        super().__init__(_wrapper(self.inner, self.request), strict=getattr(self.inner, "strict", False))

    def describe(self) -> FunctionSpec:
        """The signature of the function itself, of a method without its object; the result is another."""
        spec = self.inner.spec
        bound = isinstance(self.inner, Method)
        name = f"{'value_and_grad' if self.request.with_value else 'grad'}({spec.name})"
        params = spec.params[1:] if bound else spec.params
        return replace(spec, name=name, function=self.fn, params=params, returns=ANY, returns_span=None)

    def __reduce__(self) -> Any:
        r = self.request
        return (value_and_grad if r.with_value else grad), (self.given, r.argnums, r.has_aux)


@dataclass(frozen=True)
class _Request:
    """What is differentiated by what; ``span`` is where the user asked for it."""

    argnums: int | tuple[int, ...]
    has_aux: bool
    with_value: bool
    name: str
    span: Span | None

    @staticmethod
    def of(inner: Any, argnums: int | tuple[int, ...], has_aux: bool, with_value: bool) -> _Request:
        spec, span = inner.spec, caller_span()
        numbers = argnums if isinstance(argnums, tuple) else (argnums,)
        count = len(spec.params) - isinstance(inner, Method)
        if any(p.how == "args" for p in spec.params):
            count = 1 << 30
        for n in numbers:
            if not isinstance(n, int) or isinstance(n, bool) or not -count <= n < count:
                labels = [] if span is None else [Label(span, "asked for here", True)]
                what = f"`{spec.name}` takes {count} argument{'s' * (count != 1)}"
                raise CallError(f"a gradient by argument {n!r}: {what}", code="TSR0114", labels=labels)
        return _Request(argnums, has_aux, with_value, spec.name, span)

    def places(self, args: Sequence[Any]) -> list[int]:
        """The positions that are differentiated by. Raises CallError (TSR0114) for one that was not given."""
        numbers = self.argnums if isinstance(self.argnums, tuple) else (self.argnums,)
        for n in numbers:
            if not -len(args) <= n < len(args):
                text = f"a gradient of `{self.name}` by argument {n}, which was not given by its place"
                raise CallError(text, code="TSR0114", labels=self.asked())
        return [n % len(args) for n in numbers]

    def asked(self) -> list[Label]:
        """The place where the gradient was asked for, as a label."""
        return [] if self.span is None else [Label(self.span, "the gradient is asked for here", True)]

    def result(self, value: Any, aux: Any, gradients: Sequence[Any]) -> Any:
        """What the function of gradients gives."""
        found = tuple(gradients) if isinstance(self.argnums, tuple) else gradients[0]
        if self.with_value:
            return ((value, aux) if self.has_aux else value), found
        return (found, aux) if self.has_aux else found


def _wrapper(inner: Any, request: _Request) -> Callable[..., Any]:
    """The Python function that is traced: what it does outside of a trace is torch's."""
    plain = inner.__func__.fn if isinstance(inner, Method) else inner.fn

    @functools.wraps(plain)
    def derived(*args: Any, **kwargs: Any) -> Any:
        session = current()
        if session is not None:
            return _traced(session, inner, request, args, kwargs)
        if not request.with_value:
            return torch.func.grad(inner.eager, request.argnums, request.has_aux)(*args, **kwargs)
        found, value = torch.func.grad_and_value(inner.eager, request.argnums, request.has_aux)(*args, **kwargs)
        return value, found

    derived.__name__ = f"{plain.__name__}_grad"
    if isinstance(inner, Method):
        derived.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]
    return derived


def _traced(session: Session, inner: Any, request: _Request, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Trace the call, then the derivative of what it appended."""
    if any(isinstance(x, PoisonHandle) for x in (*args, *kwargs.values())):
        return session.poison
    given, trees, wanted = list(args), [], []
    mark = len(session.builder.ops)
    for n in request.places(args):
        leaves, tree = flatten(args[n], lambda x: isinstance(x, TensorHandle) or session.table.is_tensor(x))
        paths = leaf_paths(tree, _parameter(inner, n))
        fresh = [_variable(session, request, x, path) for x, path in zip(leaves, paths, strict=True)]
        if any(isinstance(x, PoisonHandle) for x in fresh):
            return session.poison
        given[n] = unflatten(tree, fresh)
        trees.append(tree)
        wanted.append([x._value for x in fresh])
    with torch.enable_grad():  # what is recorded outside says nothing about the gradient that is asked for here
        result = inner(*given, **kwargs)
        value, aux = _pair(session, inner, request, result)
        if value is None:
            return session.poison
        found = append(session.builder, mark, session.read(value), [v for leaf in wanted for v in leaf])
    rest = iter([session.wrap(session, v) for v in found])
    gradients = [unflatten(tree, [next(rest) for _ in values]) for tree, values in zip(trees, wanted, strict=True)]
    return request.result(value, aux, gradients)


def _parameter(inner: Any, n: int) -> str:
    names = [p.name for p in inner.spec.params[isinstance(inner, Method) :] if p.how == "plain"]
    return names[n] if n < len(names) else f"args[{n - len(names)}]"


def _variable(session: Session, request: _Request, x: Any, path: str) -> Any:
    """A tensor of its own with the elements of another: a gradient by it counts what goes through it alone."""
    handle = session.capture(x) if session.table.is_tensor(x) else x
    kind = handle._value.type if isinstance(handle, TensorHandle) else None
    if not isinstance(kind, TensorType) or not kind.dtype.is_float:
        what = f"a {kind}" if isinstance(kind, TensorType) else f"a {type(x).__name__}"
        text = f"a gradient of `{request.name}` by `{path}`, which is {what}"
        session.fail(DTypeError, Diagnostic("TSR0308", text, tuple(request.asked())))
        return session.poison
    value = session.read(handle)
    session.context.span = request.span
    (fresh,) = session.builder.emit(
        session.table.records["with_value"], (value, value), span=request.span, hint=value.name
    )
    made = session.wrap(session, fresh)
    made._storage = Storage(fresh, f"argument `{path}`", made._step)
    return made


def _pair(session: Session, inner: Any, request: _Request, result: Any) -> tuple[Any, Any]:
    """The number to differentiate and what comes beside it; None after an error."""
    value, aux = result, None
    if request.has_aux and not isinstance(result, PoisonHandle):
        if not isinstance(result, tuple) or len(result) != 2:
            text = f"`{request.name}` gives no pair of a number and something else"
            return _no_number(session, inner, request, text, None)
        value, aux = result
    if isinstance(value, PoisonHandle):
        return None, None
    if not isinstance(value, TensorHandle) or not isinstance(value._value.type, TensorType):
        text = f"the gradient of `{request.name}`, which gives a {type(value).__name__}"
        return _no_number(session, inner, request, text, None)
    kind = value._value.type
    if kind.rank:
        text = f"the gradient of `{request.name}`, which gives a {kind} and not one number"
        return _no_number(session, inner, request, text, session.read(value))
    if not kind.dtype.is_float:
        text = f"the gradient of `{request.name}`, which gives a {kind}"
        session.fail(DTypeError, Diagnostic("TSR0308", text, tuple(_made(session, inner, session.read(value)))))
        return None, None
    return value, aux


def _no_number(session: Session, inner: Any, request: _Request, text: str, value: Value | None) -> tuple[None, None]:
    notes = () if request.span is None else (Note("the gradient is asked for here", request.span),)
    session.fail(ShapeError, Diagnostic("TSR0220", text, tuple(_made(session, inner, value)), notes))
    return None, None


def _made(session: Session, inner: Any, value: Value | None) -> list[Label]:
    """Where a value comes from, or the function that gave it."""
    op = next((op for op in reversed(session.builder.ops) if value in op.results), None)
    if op is not None and op.span is not None and value is not None:
        return [Label(op.span, f"a {value.type}", True)]
    return [] if inner.spec.span is None else [Label(inner.spec.span, "defined here", True)]


__all__ = ["Derived", "grad", "value_and_grad"]
