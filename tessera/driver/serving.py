"""A call matched with a variant: what it is given, what comes of its outputs, and what later calls can skip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tessera.diag import TesseraError
from tessera.driver.captured import Link, Watch
from tessera.driver.guards import serves
from tessera.driver.method import is_plain
from tessera.driver.variant import Variant
from tessera.frontend.binding import Bound
from tessera.frontend.trace import Input, Traced
from tessera.frontend.tree import unflatten
from tessera.frontend.unifying import CallTypes
from tessera.runtime import dispatch


@dataclass
class Resolved:
    """A call matched with a variant. ``links`` are what the variant read outside, as it is now."""

    bound: Bound
    types: CallTypes
    variant: Variant
    tensors: list[torch.Tensor] = field(default_factory=list)
    links: tuple[Link, ...] = ()

    def given(self) -> list[Any]:
        """The values of the variant's parameters in this call, in order."""
        places = zip(self.variant.traced.inputs, self.variant.places, strict=True)
        return [input_of(i, self.bound) if at < 0 else self.links[at].value for i, at in places]


def input_of(source: Input, bound: Bound) -> Any:
    """The value of one parameter of a variant; a captured tensor is that of the trace."""
    if source.kind == "leaf":
        return bound.leaves[source.leaf].value
    if source.kind == "seed":
        return int(torch.empty((), dtype=torch.int64).random_())
    return source.captured


@dataclass(frozen=True)
class Refusal:
    """That a call could not be traced or compiled: another would fail in the same way, and slowly.

    It holds for calls of the same sizes, and for those that would answer all questions of the trace alike.
    """

    error: TesseraError
    types: CallTypes
    traced: Traced | None
    watch: Watch

    def covers(self, types: CallTypes) -> bool:
        """Whether a call would meet it again."""
        alike = types.hints == self.types.hints and types.scalars == self.types.scalars
        if not alike and (self.traced is None or not serves(self.traced, types)):
            return False
        return self.watch.settle() is not None


def memorable(resolved: Resolved) -> bool:
    """May later calls of the same signature skip the binding of arguments?"""
    bound, traced = resolved.bound, resolved.variant.traced
    simple = all(i.kind == "leaf" for i in traced.inputs) and not resolved.variant.watch.tensors
    order = [i.leaf for i in traced.inputs]
    known = all(leaf.kind in ("tensor", "scalar") or is_plain(leaf) for leaf in bound.leaves)
    floats = all(type(leaf.value) is float for leaf in bound.leaves if leaf.kind == "scalar")
    tensors = [n for n, leaf in enumerate(bound.leaves) if leaf.kind == "tensor"]
    scalars = [n for n, leaf in enumerate(bound.leaves) if leaf.kind == "scalar"]
    given = [n for n in order if n in tensors] == tensors and [n for n in order if n in scalars] == scalars
    return simple and known and floats and given and not traced.specialised


def finisher(resolved: Resolved, sizes: Mapping[str, int]) -> Callable[[Sequence[torch.Tensor]], Any] | None:
    """From the plan's outputs to the function's result; None for a function that returns one tensor."""
    traced = resolved.variant.traced
    if traced.out_tree.kind == "leaf" and traced.outputs[0].kind == "tensor":
        return None
    described = traced.outputs
    tree = traced.out_tree
    values = [o.value.evaluate(sizes) if o.kind == "size" else o.value for o in described]
    if tree.kind == "tuple" and all(o.kind == "tensor" for o in described) and len(tree.children) == len(described):
        return tuple

    def finish(outputs: Sequence[torch.Tensor]) -> Any:
        return unflatten(
            tree, [outputs[o.place] if o.kind == "tensor" else v for o, v in zip(described, values, strict=True)]
        )

    return finish


def entry(
    runner: dispatch.Runner, finish: Callable[[Any], Any] | None, defaults: list[Any], watch: Watch
) -> Callable[..., Any]:
    """What a warm call runs; ``defaults`` are the numbers that the caller left out. A variant that read nothing outside
    has nothing to compare.
    """
    if finish is None and not defaults:
        run: Callable[..., Any] = runner
    elif finish is None:
        run = lambda tensors, numbers: runner(tensors, numbers + defaults)  # noqa: E731
    else:
        run = lambda tensors, numbers: finish(runner(tensors, numbers + defaults))  # noqa: E731
    if not watch:
        return run
    holds = watch.holds

    def watched(tensors: Any, numbers: Any) -> Any:
        if not holds():
            raise dispatch.OutdatedError
        return run(tensors, numbers)

    return watched
