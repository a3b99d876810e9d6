"""A call matched with a variant: what it is given, what comes of its outputs, and what later calls can skip."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch

from tessera.diag import Diagnostic, TesseraError
from tessera.driver.captured import Link, Watch
from tessera.driver.gradient import Gradient
from tessera.driver.guards import serves
from tessera.driver.held import snapshot
from tessera.driver.variant import Variant
from tessera.frontend.binding import Bound, is_plain
from tessera.frontend.trace import Input, Traced
from tessera.frontend.tree import unflatten
from tessera.frontend.unifying import CallTypes
from tessera.runtime import dispatch
from tessera.runtime.recent import tensor_check


@dataclass
class Resolved:
    """A call matched with a variant. ``links`` are what the variant read outside, as it is now; ``gradient`` is there
    where torch will ask for derivatives.
    """

    bound: Bound
    types: CallTypes
    variant: Variant
    tensors: list[torch.Tensor] = field(default_factory=list)
    links: tuple[Link, ...] = ()
    gradient: Gradient | None = None

    def runner(self, flat: Sequence[torch.Tensor], alone: bool) -> dispatch.Runner:
        """What the call runs; ``alone`` where it gives one tensor."""
        named = self.types.hints
        if self.gradient is None:
            return self.variant.plan().bind(self.variant.sizes(named, flat), alone=alone)
        run = self.gradient.bind(named, flat)
        return (lambda tensors, numbers: run(tensors, numbers)[0]) if alone else run

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

    It holds for calls of the same sizes, and for those that would answer all questions of the trace alike. It keeps
    nothing of its call alive.
    """

    cls: type[TesseraError]
    diagnostics: tuple[Diagnostic, ...]
    hints: Mapping[str, int]
    scalars: Mapping[str, float]
    traced: Traced | None
    watch: Watch

    def again(self) -> TesseraError:
        """The error once more: the frames in the traceback of the first hold its arguments."""
        return self.cls.from_diagnostics(self.diagnostics)

    def covers(self, types: CallTypes) -> bool:
        """Whether a call would meet it again."""
        alike = types.hints == self.hints and types.scalars == self.scalars
        if not alike and (self.traced is None or not serves(self.traced, types)):
            return False
        return self.watch.settle() is not None


def memorable(resolved: Resolved, objects: Sequence[object]) -> bool:
    """May later calls of the same signature skip the binding of arguments? ``objects`` are the arguments that are
    neither tensors nor numbers or texts.
    """
    bound, traced = resolved.bound, resolved.variant.traced
    inputs = [i for i in traced.inputs if i.kind == "leaf"]
    simple = [*inputs, *(i for i in traced.inputs if i.kind == "capture")] == list(traced.inputs)
    order = [i.leaf for i in inputs]
    static = [leaf.value for leaf in bound.leaves if leaf.kind not in ("tensor", "scalar") and not is_plain(leaf)]
    known = len(static) == len(objects) and all(map(is_, static, objects))
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
    flat = all(child.kind == "leaf" for child in tree.children)
    if tree.kind == "tuple" and flat and all(o.kind == "tensor" for o in described):
        return tuple

    def finish(outputs: Sequence[torch.Tensor]) -> Any:
        return unflatten(
            tree, [outputs[o.place] if o.kind == "tensor" else v for o, v in zip(described, values, strict=True)]
        )

    return finish


def entry(
    runner: dispatch.Runner, finish: Callable[[Any], Any] | None, defaults: list[Any], standing: Standing
) -> Callable[..., Any]:
    """What a warm call runs; ``defaults`` are the numbers that the caller left out."""
    captured, checks = standing.captured, standing.checks
    run: Callable[..., Any] = runner
    if captured or defaults or finish is not None:
        end = finish or _as_is

        def run(tensors: Sequence[Any], numbers: Sequence[Any]) -> Any:
            return end(runner([*tensors, *captured], [*numbers, *defaults]))

    if not checks:
        return run

    def watched(tensors: Any, numbers: Any) -> Any:
        for holds in checks:
            if not holds():
                raise dispatch.OutdatedError
        return run(tensors, numbers)

    return watched


def _as_is(x: Any) -> Any:
    return x


@dataclass(frozen=True)
class Standing:
    """What must still stand for a warm call, beside its signature, and the tensors that come from outside of it."""

    checks: tuple[Callable[[], bool], ...] = ()
    captured: tuple[torch.Tensor, ...] = ()

    @staticmethod
    def of(resolved: Resolved, objects: Sequence[object], forget: Callable[[object], object]) -> Standing | None:
        """As of this call, or None where it would take the general way to tell. ``forget`` is called when an object
        is gone.
        """
        watch, inputs = resolved.variant.watch, resolved.variant.traced.inputs
        given = resolved.given()
        captured = tuple(x for i, x in zip(inputs, given, strict=True) if i.kind == "capture")
        checks: list[Callable[[], bool]] = []
        if any(isinstance(x, torch.Tensor) and x.requires_grad for x in given):
            checks.append(torch.is_grad_enabled if torch.is_grad_enabled() else _without_gradients)
        for x in objects:
            taken = snapshot(x)
            if taken is None:
                return None
            checks += [_alive(weakref.ref(x, forget)), taken.holds]
        if captured:
            alike = tensor_check(captured)
            if alike is None:
                return None
            checks += [watch.unchanged(), lambda: alike(*captured)]
        if watch and (watch.deep or not captured):
            checks.append(watch.holds)
        return Standing(tuple(checks), captured)


def _without_gradients() -> bool:
    return not torch.is_grad_enabled()


def _alive(ref: weakref.ref[Any]) -> Callable[[], bool]:
    return lambda: ref() is not None
