"""The records' own samples as functions of float64 with their derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from tessera.backends.eager import run_function
from tessera.diag import TraceError
from tessera.ir.dialects.samples import SIZES, Size, T, replaced
from tessera.ir.graph import Block, Function, Operand, Value
from tessera.ir.record import OpRecord, Sample
from tessera.passes.autodiff import Joint, joint
from tessera.passes.canonicalize import Canonicalize
from tessera.passes.cse import CommonSubexpressions
from tessera.passes.dce import DeadCode
from tessera.passes.fuse import Fuse
from tessera.passes.products import Products
from tessera.passes.remat import Split, split
from tests.fuzz.build import Case, every_sample, function_of
from tests.ops import cases, native

Tensors = list[torch.Tensor]


@dataclass
class Sampled:
    """One sample with float64 for its floats, and contents for its parameters."""

    record: OpRecord
    number: int
    sample: Sample
    case: Case

    @property
    def name(self) -> str:
        return f"{self.record.name} {self.number}"

    @property
    def function(self) -> Function:
        return self.case.function

    def inputs(self) -> list[Any]:
        """Tensors and numbers; the floats among the tensors ask for gradients."""
        given = cases.tensors(self.function, self.case.inputs(SIZES, self.number))
        return [x.requires_grad_() if _is_float(x) else x for x in given]


def _is_float(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def _wide(x: T) -> T:
    return replace(x, dtype="f64") if x.type.is_float and not x.type.is_fp8 else x


def _same(x: Size) -> Size:
    return x


@cache
def samples() -> tuple[Sampled, ...]:
    """Every sample with floats of which the results depend."""
    found = []
    for _, number, record, sample in every_sample():
        if not any(p.is_operand for p in record.params):
            continue
        kwargs = {k: replaced(v, _wide, _same) for k, v in sample.kwargs.items()}
        given = Sample(replaced(sample.args, _wide, _same), kwargs)
        made = Sampled(record, number, given, function_of(record, given))
        if any(p.type.dtype.is_float for p in made.function.params) and differentiable(made.function):
            found.append(made)
    return tuple(found)


def differentiable(f: Function) -> bool:
    """Does some result get cotangents, and does nothing stand in the way?"""
    try:
        return bool(joint(f).given)
    except TraceError:
        return False


def eager(made: Sampled, given: Sequence[Any]) -> Tensors:
    """torch's own function where the record names one that takes the call; else its primitives."""
    if made.record.torch and not made.case.seeded:
        try:
            found = cases.flat(cases._direct(made.case, made.sample, given, SIZES))
            if all(isinstance(x, torch.Tensor) for x in found):
                return found
        except Exception:
            pass
    return run_function(made.function, given, sizes=SIZES, grad=True)


def alone(both: Joint) -> Function:
    """The derivative as a function of all parameters and cotangents."""
    f = both.function
    return replace(f, body=Block(f.ops, f.params, f.outputs[both.outputs :]))


class Derived(torch.autograd.Function):
    """A function of the IR run by torch, operation by operation, with the derivative that the records give it."""

    @staticmethod
    def forward(ctx: Any, f: Function, numbers: Mapping[int, Any], *tensors: torch.Tensor) -> Any:
        ctx.f, ctx.numbers = f, numbers
        ctx.save_for_backward(*tensors)
        found = run_function(f, list(_given(numbers, tensors)), sizes=SIZES)
        results = tuple(x.clone() for x in found)
        ctx.mark_non_differentiable(*(x for x in results if not x.is_floating_point()))
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        tensors = ctx.saved_tensors
        both = joint(ctx.f)
        given = [*_given(ctx.numbers, tensors), *(cotangents[n] for n in both.given)]
        order = [n for n, _ in enumerate(both.grads) if n not in ctx.numbers]
        found = apply(alone(both), given)
        at = {n: g - both.outputs for n, g in enumerate(both.grads) if g is not None}
        return None, None, *(found[at[n]] if n in at else None for n in order)


def _given(numbers: Mapping[int, Any], tensors: Sequence[torch.Tensor]) -> Any:
    waiting = iter(tensors)
    for n in range(len(numbers) + len(tensors)):
        yield numbers[n] if n in numbers else next(waiting)


def apply(f: Function, given: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """The function through ``Derived``."""
    numbers = {n: x for n, x in enumerate(given) if not isinstance(x, torch.Tensor)}
    return Derived.apply(f, numbers, *(x for x in given if isinstance(x, torch.Tensor)))


def cotangents(results: Sequence[torch.Tensor], seed: int = 3) -> dict[int, torch.Tensor]:
    """Random ones for the results that have a gradient."""
    rng = np.random.default_rng(seed)
    return {n: torch.from_numpy(np.asarray(rng.normal(size=tuple(y.shape)))).to(y.dtype)
            for n, y in enumerate(results) if y.requires_grad}  # fmt: skip


def gradients(
    results: Sequence[torch.Tensor], leaves: Tensors, given: Mapping[int, torch.Tensor], **how: Any
) -> Tensors:
    """What cotangents give the leaves; zeros where nothing comes."""
    found = torch.autograd.grad([results[n] for n in given], leaves, list(given.values()), allow_unused=True, **how)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def simplified(both: Joint) -> Joint:
    """A function with its derivative as it is compiled, before it is cut in two."""
    f = both.function
    for step in (Canonicalize(), CommonSubexpressions(), Products(), DeadCode()):
        f = step.run(f)
    return replace(both, function=f)


@dataclass
class Cut:
    """A derivative compiled as two functions."""

    made: Sampled
    both: Joint
    parts: Split
    forward: native.Compiled
    backward: native.Compiled

    @staticmethod
    def of(made: Sampled) -> Cut:
        both = simplified(joint(made.function))
        parts = split(both, SIZES, Fuse())
        return Cut(made, both, parts, native.prepare(parts.forward), native.prepare(parts.backward))

    def run(self, given: Sequence[Any], back: Tensors) -> tuple[Tensors, Tensors]:
        """The results, and the cotangents of the parameters."""
        results = self.forward(given, SIZES)
        known: dict[Operand, Any] = dict(zip(self.parts.forward.params, given, strict=True))
        known |= {y: x for y, x in zip(self.parts.forward.outputs, results, strict=True) if isinstance(y, Value)}
        count = len(self.parts.saved)
        scalars = self.parts.backward.params[count + len(back) :]
        read = [*(known[v] for v in self.parts.saved), *back, *(known[p] for p in scalars)]
        return results[: self.both.outputs], self.backward(read, SIZES)
