"""What a scan asks of its arguments and of its step, and what it says when it does not get it.

The same rules hold while tracing and on tensors with data, so they know neither: they are told types.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Any, NoReturn

from tessera.diag import CallError, Diagnostic, DTypeError, Help, Label, Note, ShapeError, Span, TesseraError
from tessera.diag.source import expression_parts
from tessera.frontend.tree import Tree, leaf_paths, parts
from tessera.ir.dim import Dim
from tessera.ir.types import TensorType

#: Whether two sizes are equal; a trace may have to ask the call.
Equal = Callable[[Dim, Dim], bool]
IsLeaf = Callable[[object], bool]
#: An argument of the call, by number and name; or a part of what the step gives, and what to call it.
Where = tuple[int, str]
INIT: Where = (1, "init")
XS: Where = (2, "xs")
CARRY, STACKED = -1, -2


@dataclass(frozen=True)
class ScanCall:
    """One call of ``scan`` by the user: where it stands, and the step."""

    span: Span | None
    step: Any
    #: Where the names in sizes come from.
    origins: Callable[[Sequence[Dim]], Sequence[Note]] = lambda dims: ()

    def fail(
        self, error: type[TesseraError], code: str, message: str, *labels: tuple[Span | None, str], help: str = "",
        dims: Sequence[Dim] = (),
    ) -> NoReturn:  # fmt: skip
        """Raise an error with those labels that have a place; the first of them, or the call, is the primary one."""
        placed = [(span, text) for span, text in labels if span is not None]
        if not placed and self.span is not None:
            placed = [(self.span, labels[0][1] if labels else "called here")]
        shown = tuple(Label(span, text, n == 0) for n, (span, text) in enumerate(placed))
        raise error.from_diagnostics([
            Diagnostic(code, message, shown, tuple(self.origins(dims)), (Help(help),) if help else ())
        ])

    def argument(self, place: int, name: str) -> Span | None:
        """Where an argument stands in the call."""
        found = None if self.span is None else expression_parts(self.span)
        if found is None or found.kind != "call":
            return None
        return found.operands[place] if place < len(found.operands) else found.keywords.get(name)

    def paths(self, tree: Tree, where: Where) -> list[str]:
        """How to call the leaves of an argument, or of what the step gives: as they are written in the call, where that
        is short. For messages: it reads the source.
        """
        place, name = where
        if place not in (INIT[0], XS[0]):
            return leaf_paths(tree, name)
        span = self.argument(place, name)
        found = None if span is None else expression_parts(span)
        if found is not None and found.kind == "sequence" and len(found.operands) == len(tree.children):
            pairs = zip(tree.children, found.operands, strict=True)
            return [path for child, at in pairs for path in leaf_paths(child, _text(at) or name)]
        return leaf_paths(tree, (None if span is None else _text(span)) or name)

    def returned(self, place: int) -> Span | None:
        """The expression that the step returns in one place of its pair, where it has a single `return`."""
        code = _code(self.step)
        if code is None:
            return None
        plain = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "NOP", "EXTENDED_ARG", "PRECALL")]
        ends = [n for n, i in enumerate(plain) if i.opname == "RETURN_VALUE"]
        if len(ends) != 1 or ends[0] == 0:
            return None
        span = Span.at(code, plain[ends[0] - 1].offset)
        found = expression_parts(span)
        pair = found is not None and found.kind == "sequence" and len(found.operands) == 2
        return found.operands[place] if found is not None and pair else span

    @property
    def names(self) -> tuple[str, str]:
        """What the step calls its carry and its slice."""
        try:
            given = [
                p.name for p in inspect.signature(self.step).parameters.values()
                if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            ]  # fmt: skip
        except (TypeError, ValueError):
            given = []
        return (given[0], given[1]) if len(given) >= 2 else ("carry", "x")

    # ---- arguments -------------------------------------------------------------------------------------------

    def check_call(self, dim: object, reverse: object) -> None:
        """Raise CallError (TSR0112) for what is no step, axis or direction."""
        if not callable(self.step):
            text = f"the step of a scan is {_a(self.step)}, not a function"
            self.fail(CallError, "TSR0112", text, (self.argument(0, "combine_fn"), "the step"))
        if not _takes_two(self.step):
            text = "the step of a scan does not take two arguments"
            said = (self.argument(0, "combine_fn"), "the step")
            self.fail(CallError, "TSR0112", text, said, help="give it the carry and one slice: `def step(carry, x)`")
        for value, name, kind in ((dim, "dim", int), (reverse, "reverse", bool)):
            if type(value) is not kind:
                text = f"`{name}` of a scan is {_a(value)}, not {'an int' if kind is int else 'a bool'}"
                self.fail(CallError, "TSR0112", text, (self.argument(9, name), f"`{name}`"))

    def check_xs(self, xs: Sequence[TensorType], tree: Tree, dim: int, equal: Equal) -> tuple[int, Dim]:
        """The axis that is scanned, counted from the front, and how many steps there are.

        Raises ShapeError for an axis that there is not (TSR0203) and for different numbers of steps (TSR0218),
        CallError (TSR0112) for no tensor at all.
        """
        if not xs:
            at = (self.argument(*XS), "holds no tensor")
            self.fail(CallError, "TSR0112", "a scan over no tensor has no number of steps", at)
        axes: list[int] = []
        for n, t in enumerate(xs):
            if not -t.rank <= dim < t.rank:
                helps = f"dims go from {-t.rank} to {t.rank - 1}" if t.rank else "a tensor of rank 0 goes by itself"
                said = (self.argument(*XS), f"`{self.paths(tree, XS)[n]}` is {t}")
                self.fail(ShapeError, "TSR0203", f"dim {dim} of a rank-{t.rank} tensor", said, help=helps)
            axes.append(dim % t.rank)
        other = next((n for n, axis in enumerate(axes) if axis != axes[0]), None)
        if other is not None:
            paths = self.paths(tree, XS)
            text = f"dim {dim} is dim {axes[0]} of `{paths[0]}` and dim {axes[other]} of `{paths[other]}`"
            said = (self.argument(*XS), "of different ranks")
            self.fail(CallError, "TSR0112", text, said, help="count the dim from the front")
        size = xs[0].dims[axes[0]]
        for n, t in enumerate(xs):
            here = t.dims[axes[0]]
            if not equal(size, here):
                first, path = (self.paths(tree, XS)[m] for m in (0, n))
                text = f"`{first}` has `{size}` steps in dim {axes[0]}, `{path}` has `{here}`"
                said = (self.argument(*XS), f"`{path}` is {t}, `{first}` is {xs[0]}")
                self.fail(ShapeError, "TSR0218", text, said, dims=(size, here))
            size = here if here.is_const else size
        return axes[0], size

    def no_tensor(self, x: object, where: Where, tree: Tree, n: int) -> NoReturn:
        """Raise CallError (TSR0112) for a leaf, number ``n`` of a structure, that is neither tensor nor number."""
        at = self.argument(*where) if where in (INIT, XS) else self.returned(0 if where[0] == CARRY else 1)
        text = f"`{self.paths(tree, where)[n]}` of a scan is {_a(x)}, not a tensor"
        self.fail(CallError, "TSR0112", text, (at, f"holds {_a(x)}"))

    # ---- what a step gives -----------------------------------------------------------------------------------

    def pair(self, result: object) -> tuple[Any, Any]:
        """The next carry and what is stacked. Raises CallError (TSR0112) for what is no pair."""
        if isinstance(result, tuple | list) and len(result) == 2:
            return result[0], result[1]
        many = f" of {len(result)}" if isinstance(result, tuple | list) else ""
        self.fail(
            CallError, "TSR0112", f"the step of a scan returns a {_kind(result)}{many}, not a pair",
            (self.returned(0), f"a {_kind(result)}{many}"), (self.span, "the scan"),
            help="return the next carry and what is stacked, or None: `return carry, None`",
        )  # fmt: skip

    def like(self, tree: Tree, value: object, where: Where, is_leaf: IsLeaf) -> list[Any]:
        """The leaves of what a step returns, in the order of ``tree``. Raises ShapeError (TSR0219) for another
        structure.
        """
        leaves: list[Any] = []
        place, root = where
        waiting: list[tuple[Tree, object, str]] = [(tree, value, root)]
        while waiting:
            wanted, x, path = waiting.pop()
            found = None if is_leaf(x) else parts(x)
            if wanted.kind == "leaf" and found is None:
                leaves.append(x)
                continue
            if found is None or wanted.kind != found[0] or not _same_keys(wanted, found, x):
                what, at = ("the carry", 0) if place == CARRY else ("what is stacked,", 1)
                text = f"{what} `{path}` is {_structure(wanted)} before a step and {_shape_of(x, found)} after it"
                said = (self.returned(at), f"gives {_shape_of(x, found)}")
                self.fail(ShapeError, "TSR0219", text, said, (self.span, "the scan"))
            members = dict(zip(found[1], found[2], strict=True)) if found[1] else dict(enumerate(found[2]))
            keys = wanted.keys or range(len(wanted.children))
            dotted = wanted.kind in ("named", "data")
            waiting += [
                (child, members[key], f"{path}.{key}" if dotted else f"{path}[{key!r}]")
                for key, child in reversed(list(zip(keys, wanted.children, strict=True)))
            ]
        return leaves

    def check_carry(self, path: str, before: TensorType, after: TensorType, equal: Equal) -> None:
        """Raise ShapeError (TSR0219) or DTypeError (TSR0307) for a carry that a step has changed."""
        labels = (
            (self.returned(0), f"`{path}` after a step is {after}"),
            (self.argument(*INIT), f"`{path}` begins as {before}"),
        )
        text = f"the carry `{path}` is {before} before a step and {after} after it"
        if before.rank != after.rank or not all(map(equal, before.dims, after.dims)):
            self.fail(ShapeError, "TSR0219", text, *labels, dims=(*before.dims, *after.dims),
                      help=f"begin with a value of type {after}, or return one of type {before}")  # fmt: skip
        if before.dtype is not after.dtype:
            self.fail(DTypeError, "TSR0307", text, *labels,
                      help=f"begin with {after.dtype}, or return it with `.to({before.dtype})`")  # fmt: skip


def _takes_two(function: object) -> bool:
    """Can a function be called with two arguments, as far as can be told?"""
    try:
        inspect.signature(function).bind(None, None)  # type: ignore[arg-type]
    except TypeError:
        return False
    except ValueError:  # a built-in that does not say
        return True
    return True


#: A longer expression is not repeated in a message.
_LONGEST = 24


def _text(span: Span) -> str:
    text = span.text() or ""
    return text if len(text) <= _LONGEST and "\n" not in text else ""


def _a(x: object) -> str:
    if x is None:
        return "None"
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return "a tensor"
    name = type(x).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _kind(x: object) -> str:
    return type(x).__name__ if isinstance(x, tuple | list | dict | str | int | float | bool | None) else "tensor"


def _same_keys(wanted: Tree, found: tuple[str, tuple[Any, ...], tuple[Any, ...]], x: object) -> bool:
    if wanted.type is not None and wanted.type is not type(x):
        return False
    return len(wanted.children) == len(found[2]) and set(wanted.keys) == set(found[1])


def _structure(tree: Tree) -> str:
    if tree.kind == "leaf":
        return "one value"
    if tree.kind == "dict":
        return f"a dict of {', '.join(map(repr, tree.keys))}"
    return f"a {tree.type.__name__ if tree.type is not None else tree.kind} of {len(tree.children)}"


def _shape_of(x: object, found: tuple[str, tuple[Any, ...], tuple[Any, ...]] | None) -> str:
    if found is None:
        return "None" if x is None else "one value"
    if found[0] == "dict":
        return f"a dict of {', '.join(map(repr, found[1]))}"
    return f"a {type(x).__name__} of {len(found[2])}"


def _code(step: Any) -> CodeType | None:
    """The code of a function, a method, or what a partial call or a decorated function stands for."""
    while isinstance(step, partial):
        step = step.func
    code = getattr(getattr(step, "__func__", step), "__code__", None)
    return code if isinstance(code, CodeType) else None


def slices(t: TensorType, axis: int) -> TensorType:
    """The type of one slice of a scanned tensor."""
    return t.with_dims((*t.dims[:axis], *t.dims[axis + 1 :]))


def stored_pair(names: Sequence[str], carries: int, stacks: int) -> Iterator[str]:
    """Names for the results of a scan from the two variables that they are stored in."""
    for name, count in zip(names, (carries, stacks), strict=True):
        yield from (name if count == 1 else f"{name}_{n}" for n in range(count))
