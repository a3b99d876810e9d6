"""The public ``scan``: appended to the graph of a traced function, or a loop over torch tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tessera.backends.eager import from_torch_dtype
from tessera.diag import caller_span, user_frames
from tessera.frontend import scan as traced
from tessera.frontend.carried import CARRY, INIT, STACKED, XS, ScanCall, Where
from tessera.frontend.session import current
from tessera.frontend.tree import Tree, flatten, leaf_paths, unflatten
from tessera.ir.dim import Dim
from tessera.ir.types import TensorType


@user_frames
def scan(
    combine_fn: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, *, dim: int = 0, reverse: bool = False
) -> tuple[Any, Any]:
    """Repeat a step along one axis of some tensors, carrying values from each step to the next.

    ``combine_fn(carry, x)`` gives ``(next_carry, y)``. ``carry`` begins as ``init``; ``x`` is one slice of ``xs``
    along ``dim``, without that dim; every ``y`` is stacked along a new first dim. ``init``, ``xs`` and ``y`` are
    tensors or nested tuples, lists, dicts, named tuples and dataclasses of them, ``dim`` being the same for every
    tensor of ``xs``. Numbers among ``init`` become tensors of rank 0 (float32, int64 or bool); ``y`` may be None.
    With ``reverse`` the steps go from the last slice to the first, and the ``y`` of a slice is still stacked where the
    slice stands. Gives ``(last_carry, ys)``; of no slices, ``init`` itself and stacks of size 0.

    A step keeps the sizes and dtype of the carry, and does nothing but return values. In a traced function it is
    traced once and stands for every step. Raises ShapeError for an axis that there is not (TSR0203), for tensors with
    different numbers of slices (TSR0218) and for a carry that changes (TSR0219), DTypeError for one whose dtype
    changes (TSR0307), CallError (TSR0112) for what cannot be scanned; in a traced function TraceError for a step
    that writes to values from outside or draws random numbers (TSR0412), and for values of a step that are used
    outside of it (TSR0411).

    A running average of the rows of a matrix:

    >>> import torch, tessera
    >>> def step(average, row):
    ...     average = 0.5 * average + 0.5 * row
    ...     return average, average
    >>> last, averages = tessera.scan(step, torch.zeros(1), torch.tensor([[1.0], [1.0], [3.0]]))
    >>> averages.flatten().tolist()
    [0.5, 0.75, 1.875]
    """
    session = current()
    if session is not None:
        return traced.scan(session, combine_fn, init, xs, dim, reverse)
    rules = ScanCall(caller_span(), combine_fn)
    rules.check_call(dim, reverse)
    return _Eager(rules, reverse).run(init, xs, dim)


class _Eager:
    """A loop over torch tensors: slices, one step after the other, one stack for each leaf of what it gives."""

    def __init__(self, rules: ScanCall, reverse: bool) -> None:
        self.rules, self.reverse = rules, reverse
        self.state, _ = rules.names
        self.y_tree: Tree | None = None
        self.device = torch.device("cpu")

    def run(self, init: Any, xs: Any, dim: int) -> tuple[Any, Any]:
        found, xs_tree = flatten(xs, _is_leaf)
        scanned = [x for x in found if isinstance(x, torch.Tensor)]
        for n, x in enumerate(found):
            if not isinstance(x, torch.Tensor):
                self.rules.no_tensor(x, XS, xs_tree, n)
        axis, size = self.rules.check_xs(list(map(_type, scanned)), xs_tree, dim, _same)
        self.device = scanned[0].device
        leaves, tree = flatten(init, _is_leaf)
        carry, paths = self.tensors(leaves, tree, INIT), leaf_paths(tree, self.state)
        if not size.value:
            return unflatten(tree, carry), self.empty(carry, tree, scanned, xs_tree, axis)
        rows: list[list[Any]] = []
        for n in reversed(range(size.value)) if self.reverse else range(size.value):
            carry, ys = self.step(carry, tree, paths, [x.select(axis, n) for x in scanned], xs_tree)
            rows.append(ys)
        if self.reverse:
            rows.reverse()
        assert self.y_tree is not None
        stacks = [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
        return unflatten(tree, carry), unflatten(self.y_tree, stacks)

    def step(
        self, carry: list[Any], tree: Tree, paths: Sequence[str], parts: list[Any], xs_tree: Tree
    ) -> tuple[list[Any], list[Any]]:
        """One step: the leaves of the next carry, checked against the ones before, and of what is stacked."""
        after, y = self.rules.pair(self.rules.step(unflatten(tree, carry), unflatten(xs_tree, parts)))
        where = (CARRY, self.state)
        new = self.tensors(self.rules.like(tree, after, where, _is_leaf), tree, where)
        for a, b, path in zip(carry, new, paths, strict=True):
            if a.shape != b.shape or a.dtype != b.dtype:
                self.rules.check_carry(path, _type(a), _type(b), _same)
        if self.y_tree is None:
            leaves, self.y_tree = flatten(y, _is_leaf)
        else:
            leaves = self.rules.like(self.y_tree, y, (STACKED, "y"), _is_leaf)
        return new, self.tensors(leaves, self.y_tree, (STACKED, "y"))

    def empty(self, carry: list[Any], tree: Tree, xs: list[Any], xs_tree: Tree, axis: int) -> Any:
        """Stacks of no steps: one step on slices of zeros tells what they would have been made of."""
        parts = [x.new_zeros([n for a, n in enumerate(x.shape) if a != axis]) for x in xs]
        with torch.no_grad():
            _, ys = self.step(carry, tree, leaf_paths(tree, self.state), parts, xs_tree)
        assert self.y_tree is not None
        return unflatten(self.y_tree, [None if y is None else y.new_empty((0, *y.shape)) for y in ys])

    def tensors(self, leaves: Sequence[Any], tree: Tree, where: Where) -> list[Any]:
        """The leaves of a structure with tensors of rank 0 for numbers; None stays where it is stacked."""
        return [
            x if isinstance(x, torch.Tensor) or (x is None and where[0] == STACKED) else self.number(x, n, tree, where)
            for n, x in enumerate(leaves)
        ]

    def number(self, x: Any, n: int, tree: Tree, where: Where) -> torch.Tensor:
        """A number as a tensor of rank 0."""
        if not isinstance(x, bool | int | float):
            self.rules.no_tensor(x, where, tree, n)
        dtype = torch.bool if isinstance(x, bool) else torch.int64 if isinstance(x, int) else torch.float32
        return torch.tensor(x, dtype=dtype, device=self.device)


def _is_leaf(x: object) -> bool:
    return isinstance(x, torch.Tensor)


def _type(x: torch.Tensor) -> TensorType:
    return TensorType(from_torch_dtype(x.dtype), tuple(Dim.const(n) for n in x.shape))


def _same(a: Dim, b: Dim) -> bool:
    return a is b
