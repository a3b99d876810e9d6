"""Framework functions without a record: one opaque call in the graph, whose result types the framework
itself tells.

Sizes are symbolic and the framework wants numbers, so it is asked twice, with different primes for the
sizes; a result size is the expression in the argument sizes that fits both answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

from tessera.frontend import decide
from tessera.frontend.handles import SizeHandle, TensorHandle
from tessera.frontend.session import Call, Session, Undescribed
from tessera.frontend.tree import flatten, unflatten
from tessera.ir.dialects.calls import Sym
from tessera.ir.dialects.library import LIBRARY_CALL
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Attr
from tessera.ir.types import ScalarType, TensorType, Type

#: Sizes to ask with. In no order, so that sums and differences of two do not fit both rows by accident.
_PRIMES = (
    (29, 11, 43, 17, 53, 23, 37, 13, 47, 31, 19, 41),
    (61, 97, 71, 107, 59, 89, 101, 73, 83, 67, 103, 79),
)

#: Sizes that most divisors divide are multiples of this.
_MANY_DIVISORS = 240


def method(self: TensorHandle, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the framework's own tensor method."""
    return call(self._session, name, (self, *args), kwargs)


def call(session: Session, target: str | Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Append a call of a framework function; gives traced tensors nested as the framework returns them."""
    function = session.table.method(target) if isinstance(target, str) else target
    assert function is not None
    name = session.table.name_of(function)
    site = session.site(name.rpartition(".")[2], "method" if isinstance(target, str) else "function", args, kwargs)
    return session.perform(site, lambda a, k: _append(session, function, name, a, k))


def take_over(session: Session, call_: Call, function: Callable[..., Any]) -> Any:
    """The framework's own function in the place of a record that does not know the arguments."""
    name = session.table.name_of(function)
    return session.perform(call_, lambda a, k: _append(session, function, name, a, k))


def _append(session: Session, function: Callable[..., Any], name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    operands: list[Any] = []
    arguments, keywords = _encoded(args, kwargs, operands)
    types = [session.ops.type_of(x) for x in operands]
    results, tree = _result_types(session, function, args, kwargs, types)
    return unflatten(tree, _emitted(session, name, (arguments, keywords), operands, results))


def call_named(
    session: Session, target: str, name: str, given: Mapping[str, Any], results: Sequence[TensorType]
) -> tuple[Any, ...]:  # fmt: skip
    """Append a call of what is known by a name of its own, of which the types of the results are known."""

    def act(args: list[Any], kwargs: dict[str, Any]) -> Any:
        operands: list[Any] = []
        return tuple(_emitted(session, target, _encoded(args, kwargs, operands), operands, results))

    found = session.perform(session.site(name, "function", (), given), act)
    return found if isinstance(found, tuple) else tuple(session.poison for _ in results)


def _encoded(args: Sequence[Any], kwargs: Mapping[str, Any], operands: list[Any]) -> tuple[Attr, Attr]:
    """Positional and named arguments as attributes; what has a value of its own goes to the operands."""
    arguments = tuple(_encode(a, operands) for a in args)
    return arguments, tuple((key, _encode(value, operands)) for key, value in kwargs.items())


def _emitted(
    session: Session, name: str, given: tuple[Attr, Attr], operands: Sequence[Any], results: Sequence[TensorType]
) -> list[Any]:  # fmt: skip
    attrs: dict[str, Attr] = {
        "target": name,
        "arguments": given[0],
        "keywords": given[1],
        "results": tuple((t.dtype, *t.dims) for t in results),
    }
    values = session.builder.emit(
        LIBRARY_CALL,
        [session.ops.operand(x) for x in operands],
        attrs,
        span=session.context.span,
        hint=name.rpartition(".")[2],
    )
    return [Sym(session.ops, v) for v in values]


def _encode(x: Any, operands: list[Any]) -> Attr:
    if isinstance(x, Sym):
        operands.append(x)
        return ("operand", len(operands) - 1)
    if isinstance(x, list | tuple):
        return ("list" if isinstance(x, list) else "tuple", *(_encode(member, operands) for member in x))
    if x is None or isinstance(x, bool | int | float | str | DType | Dim):
        return x
    raise TypeError(f"an argument of type {type(x).__name__} cannot be kept in the graph")


def _result_types(
    session: Session, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], types: Sequence[Type]
) -> tuple[list[TensorType], Any]:
    """Result types for every size; in a call for its sizes alone where the framework gives no rule for all.

    Raises Undescribed where there is no rule at definition, and for results that are no tensors.
    """
    sizes = [*(d for t in types for d in t.dims), *_sizes((args, list(kwargs.values())))]
    names = sorted({n for d in sizes for n in d.names()})
    try:
        return _symbolic(session, function, args, kwargs, sizes, names)
    except TypeError:
        if session.hints is None:
            _fits_somehow(session, function, args, kwargs, names)
            raise
    values = {name: decide.value(session, Dim.name(name)) for name in names}
    leaves, tree = _described(session, function, args, kwargs, values)
    return leaves, tree


def _fits_somehow(
    session: Session, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], names: Sequence[str]
) -> None:
    """Sizes with many divisors suit calls that primes do not: then the call may be right, and a call will tell.

    Raises Undescribed when they do.
    """
    try:
        _described(session, function, args, kwargs, {name: _MANY_DIVISORS * (n + 2) for n, name in enumerate(names)})
    except Undescribed:
        raise
    except TypeError:
        return
    raise Undescribed("the sizes of the results are known with those of the arguments")


def _symbolic(
    session: Session, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], given: Sequence[Dim],
    names: Sequence[str],
) -> tuple[list[TensorType], Any]:  # fmt: skip
    """Result types from two runs on placeholders of different sizes; ``given`` are the sizes in the arguments."""
    answers: list[list[TensorType]] = []
    trees: list[Any] = []
    sizes: list[dict[str, int]] = []
    for primes in _PRIMES:
        values = {name: primes[n % len(primes)] + 2 * (n // len(primes)) for n, name in enumerate(names)}
        leaves, tree = _described(session, function, args, kwargs, values)
        answers.append(leaves)
        trees.append(tree)
        sizes.append(values)
    if trees[0] != trees[1]:
        raise Undescribed("the number of results is known with the argument sizes")
    dims = _candidates(given)
    found = [
        TensorType(a.dtype, tuple(_match(x, y, dims, sizes) for x, y in zip(a.dims, b.dims, strict=True)))
        for a, b in zip(*answers, strict=True)
    ]
    return found, trees[0]


def _described(
    session: Session, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], values: Mapping[str, int]
) -> tuple[list[TensorType], Any]:
    """The types of the results at these sizes, and how they are nested. Raises TypeError for what is refused."""
    with session.table.untouched():
        try:
            result = session.table.run_extern(
                function,
                tuple(_fill(a, values) for a in args),
                {k: _fill(v, values) for k, v in kwargs.items()},
            )
        except NotImplementedError:
            raise Undescribed("the sizes of the results depend on the data") from None
        except Exception as error:
            raise TypeError(f"the call is refused: {_first_line(error)}") from None
    leaves, tree = flatten(result, lambda x: isinstance(x, TensorType))
    if not all(isinstance(leaf, TensorType) for leaf in leaves):
        raise Undescribed("a result of the call is no tensor")
    return leaves, tree


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _fill(x: Any, values: Mapping[str, int]) -> Any:
    """An argument with numbers for sizes and placeholders for tensors."""
    if isinstance(x, Sym):
        t = x.value.type
        if isinstance(t, ScalarType):
            return 0.5
        assert isinstance(t, TensorType)
        return TensorType(t.dtype, tuple(Dim.const(d.evaluate(values)) for d in t.dims))
    if isinstance(x, Dim):
        return x.evaluate(values)
    if isinstance(x, SizeHandle):
        return x._dim.evaluate(values)
    if isinstance(x, list | tuple):
        return type(x)(_fill(member, values) for member in x)
    return x


def _sizes(x: Any) -> Iterator[Dim]:
    """The sizes among arguments, however deep they are nested."""
    waiting = [x]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list | tuple):
            waiting.extend(reversed(one))
        elif isinstance(one, Dim):
            yield one


def _candidates(given: Sequence[Dim]) -> list[Dim]:
    """Sizes that a result may have, simplest first: argument sizes, products and sums of two, halves."""
    plain = list(dict.fromkeys(d for d in given if not d.is_const))

    def every() -> Iterator[Dim]:
        yield from plain
        for a, b in combinations_with_replacement(plain, 2):
            yield from (a * b, a + b)
        for a in plain:
            yield from (a // 2 + 1, a // 2, 2 * a - 1, 2 * a)

    return list(every())


#: Result sizes may be this far, less one, from a candidate: windows without padding, ends added.
_MOST_SHIFT = 8


def _match(first: Dim, second: Dim, candidates: Sequence[Dim], sizes: Sequence[Mapping[str, int]]) -> Dim:
    if first is second:
        return first
    answers = [(d, d.evaluate(sizes[0]), d.evaluate(sizes[1])) for d in candidates]
    for d, a, b in answers:
        if (a, b) == (first.value, second.value):
            return d
    for d, a, b in answers:
        if first.value - a == second.value - b and abs(first.value - a) < _MOST_SHIFT:
            return d + (first.value - a)
    raise Undescribed("the sizes of the results are known with those of the arguments")
