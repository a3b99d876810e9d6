"""Derivatives of a variant: to torch's autograd a compiled function is one differentiable operation."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any, TypeVar

import torch

from tessera.backends.eager.function import run_function
from tessera.diag import TraceError
from tessera.driver import devices
from tessera.driver.devices import ACCELERATORS
from tessera.driver.variant import Layout, Lazy, Variant, check_ir
from tessera.frontend.trace import Input, Output
from tessera.frontend.tree import LEAF
from tessera.ir.graph import Block, Function, Operation, Value
from tessera.ir.record import Kind, Law
from tessera.ir.types import TensorType
from tessera.passes.autodiff import Joint, is_float, joint
from tessera.passes.base import Pass, apply
from tessera.passes.canonicalize import Canonicalize
from tessera.passes.centered import CenteredSums
from tessera.passes.cse import CommonSubexpressions
from tessera.passes.dce import DeadCode
from tessera.passes.factor import early
from tessera.passes.products import Products
from tessera.passes.remat import Split, split
from tessera.passes.shapes import Shapes
from tessera.runtime import dispatch
from tessera.runtime.place import Place
from tessera.runtime.recent import tensor_check

#: The size of every dimension for which a derivative is cut that is only looked at.
SHOWN = 256
Sizes = Mapping[str, int]
Runner = Callable[[Sequence[torch.Tensor], Sequence[float]], Any]
T = TypeVar("T")


@dataclass
class Gradient:
    """A variant with its derivative by some parameters, compiled as two: what a call runs, which also gives the values
    that are kept, and what gives the cotangents. ``sizes`` are those of the first call, by which the values are chosen.
    """

    variant: Variant
    wrt: tuple[str, ...]
    sizes: Sizes
    limit: int | None = None
    lock: Any = field(default_factory=threading.RLock, repr=False)

    @staticmethod
    def of(variant: Variant) -> Gradient:
        """The derivative by all float parameters, cut for sizes of 256."""
        f = variant.traced.function
        names = {n for p in f.params for d in p.type.dims for n in d.names()}
        return Gradient(variant, tuple(p.name for p in f.params if is_float(p)), dict.fromkeys(names, SHOWN))

    @property
    def compiled(self) -> bool:
        """Is there a plan already?"""
        return "forward" in self.__dict__ and self.forward.compiled

    @Lazy
    def same(self) -> Mapping[int, int]:
        """The results that are arguments, not copies, with their numbers among the tensors: callers get those
        themselves, unless they asked for a row-major block of what is none.
        """
        traced, found = self.variant.traced, {}
        tensors = self.variant.tensor_params
        for o in traced.outputs:
            y = traced.function.outputs[o.place] if o.kind == "tensor" else None
            if not isinstance(y, Value) or y not in tensors or traced.function.params.index(y) != o.memory:
                continue
            if not (o.dense and y.name in self.variant.layout.strided):
                found[o.place] = tensors.index(y)
        return found

    @Lazy
    def joint(self) -> Joint:
        """The function and its derivative in one, simplified."""
        proved = apply(Shapes(), self.variant.traced.function, check_ir)
        both = joint(proved, self.wrt, self.same)
        f = both.function
        check_ir(f)
        products = Products(tuple(self.sizes.items()))
        for step in (Canonicalize(), CommonSubexpressions(), CenteredSums(), products, DeadCode()):
            f = apply(step, f, check_ir)
        return replace(both, function=f)

    @Lazy
    def parts(self) -> Split:
        fuse = next(row.step for row in self.variant.passes(self.sizes) if row.step.name == "fuse")
        found = self._early(fuse) or split(self.joint, self.sizes, fuse, self.limit)
        check_ir(found.forward)
        check_ir(found.backward)
        return found

    def _early(self, fuse: Pass) -> Split | None:
        """The two with cotangents that a call computes before it is asked for them, where that pays and the gradients
        that it keeps are within the limit.
        """
        host = self.variant.device.type not in ACCELERATORS
        both = early(self.joint, self.sizes) if host else None
        if both is None:
            return None
        f = both.function
        for step in (Canonicalize(), CommonSubexpressions(), DeadCode()):
            f = apply(step, f, check_ir)
        found = split(replace(both, function=f), self.sizes, fuse)
        return found if self.limit is None or found.bytes().evaluate(self.sizes) <= self.limit else None

    @Lazy
    def forward(self) -> Variant:
        """The function with the kept values as further results."""
        traced = self.variant.traced
        first = 1 + max((o.memory for o in traced.outputs), default=-1) + len(traced.inputs)
        more = tuple(Output("tensor", self.joint.outputs + n, memory=first + n) for n in range(len(self.parts.kept)))
        made = replace(traced, function=self.parts.forward, outputs=(*traced.outputs, *more))
        return Variant(made, self.variant.layout, self.variant.device, watch=self.variant.watch, cut=self.sizes)

    @Lazy
    def backward(self) -> Variant:
        """From saved values and cotangents to the cotangents of the parameters."""
        strided = frozenset(v.name for v in self.parts.saved if v.name in self.variant.layout.strided)
        return self._plain(self.parts.backward, strided, self.sizes)

    @Lazy
    def last(self) -> Variant | None:
        """The same for the last time, which turns kept values into cotangents where they are; None where there are no
        such.
        """
        f = self.parts.consuming()
        strided = self.backward.layout.strided
        return self._plain(f, strided, self.sizes) if f.updates else None

    @Lazy
    def scaled(self) -> tuple[int, ...] | None:
        """For each cotangent that the backward pass gives the number of the saved value that it is for a cotangent of
        1; None where it gives anything else.
        """
        parts, f = self.parts, self.parts.backward
        if not f.params or f.params[-1].type.dims:
            return None
        maker = {r: op for op in f.ops for r in op.results}
        found: list[int] = []
        for y in f.outputs:
            op = maker.get(y) if isinstance(y, Value) else None
            if op is None or op.record.law is not Law.PRODUCT or len(f.params) != len(parts.saved) + 1:
                return None
            p, g = op.operands
            if g is not f.params[-1] or p not in parts.kept or p.type != op.result.type or p not in parts.saved:
                return None
            found.append(parts.saved.index(p))
        return tuple(found) if found and len(set(found)) == len(found) else None

    @Lazy
    def between(self) -> frozenset[int]:
        """The numbers of the kept values that nobody but the backward pass gets, among the results of the forward one:
        they have one life. Others become cotangents where they are.
        """
        if self.variant.device.type in ACCELERATORS or self.scaled is not None:
            return frozenset()
        turned = () if self.last is None else self.last.traced.function.updates
        maker = {r: op for op in self.parts.backward.ops for r in op.results}
        names = {p.name for p in turned} | {root(y, maker) for y in self.parts.backward.outputs if isinstance(y, Value)}
        kept = set(self.parts.kept) & {p for p in self.parts.saved if p.name not in names}
        first = self.joint.outputs
        outputs = enumerate(self.parts.forward.outputs)
        return frozenset(n for n, y in outputs if n >= first and isinstance(y, Value) and y in kept)

    @Lazy
    def alone(self) -> Function:
        """The derivative as a function of all parameters and cotangents, scalars last."""
        f = self.joint.function
        scalars = tuple(p for p in f.params if not isinstance(p.type, TensorType))
        tensors = tuple(p for p in f.params if isinstance(p.type, TensorType))
        body = Block(f.ops, (*tensors, *scalars), f.outputs[self.joint.outputs :])
        return apply(DeadCode(), replace(f, name=f"{f.name}_grad", body=body), check_ir)

    @Lazy
    def again(self) -> Gradient:
        """The derivative with its own derivative."""
        variant = self._plain(self.alone, self.variant.layout.strided)
        return Gradient(variant, tuple(p.name for p in self.alone.params if is_float(p)), self.sizes)

    def _plain(self, f: Function, strided: frozenset[str], cut: Sizes | None = None) -> Variant:
        inputs = tuple(Input("leaf", n) for n in range(len(f.params)))
        # One cotangent may stand for several arguments, or be the one that came: torch's own share them, too.
        memory: dict[object, int] = {p: n for n, p in enumerate(f.params)}
        memory.update((x, memory[p]) for p, x in f.written)
        keys = (x if isinstance(x, Value) else n for n, x in enumerate(f.returned))
        shared = [memory.setdefault(key, len(inputs) + n) for n, key in enumerate(keys)]
        outputs = tuple(Output("tensor", n, memory=m, dense=not f.updates) for n, m in enumerate(shared))
        traced = replace(self.variant.traced, function=f, inputs=inputs, outputs=outputs, out_tree=LEAF)
        late = () if cut is None else tuple(p.name for p in f.params[len(self.parts.saved) :])
        return Variant(traced, Layout(strided), self.variant.device, cut=cut, late=late)

    def bind(self, named: Sizes, tensors: Sequence[torch.Tensor]) -> Runner:
        """What a call with these sizes runs."""
        call, same = Call.of(self, named, self.forward.sizes(named, tensors)), self.same
        if not same:
            return lambda given, numbers: list(_Compiled.apply(call, numbers, *given))

        def bound(given: Sequence[torch.Tensor], numbers: Sequence[float]) -> list[Any]:
            made = list(_Compiled.apply(call, numbers, *given))
            for n, k in same.items():
                made[n] = given[k]
            return made

        return bound


@dataclass
class Way:
    """How values get from the forward to the backward pass. ``run`` is the forward one; ``saved`` are the numbers of
    what is saved among the tensors given and made by it. Where ``places`` has any, the first of those is a block of
    bytes (the last that was made), in which values lie, by their number among those that the backward pass reads.
    ``kinds`` are the dtypes and sizes of what is saved, ``backs`` what runs, by whether it leaves that as it is, and
    the strides. ``latest`` recognises tensors that need nothing done to them, with what runs on those, by the same.
    """

    run: Runner
    saved: tuple[int, ...]
    places: Mapping[int, Place] = field(default_factory=dict)
    kinds: list[tuple[torch.dtype, torch.Size]] = field(default_factory=list)
    backs: dict[tuple[bool, tuple[tuple[int, ...], ...]], Runner] = field(default_factory=dict)
    latest: dict[bool, tuple[Callable[..., bool], Runner]] = field(default_factory=dict)

    def loose(self, values: Iterable[T]) -> list[T]:
        """Of what stands for the arguments of the backward pass, those that are not in the block."""
        return [x for n, x in enumerate(values) if n not in self.places]

    def spread(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The arguments of the backward pass, from the block and the others."""
        if not self.places:
            return [*tensors]
        block, *rest = tensors
        others = iter(rest)
        count = len(rest) + len(self.places)
        return [self.places[n].of(block) if n in self.places else next(others) for n in range(count)]


@dataclass
class Call:
    """A function with its derivative, bound to ``sizes``, which ``named`` are without strides. ``results`` says how
    many there are before the kept values, ``smooth`` which of them have cotangents, ``again`` which of them are an
    earlier one once more; ``saved`` are the numbers of what the backward pass reads among the tensors given and made,
    ``scalars`` which numbers it reads. ``ways`` are by whether hooks get what is saved.
    """

    gradient: Gradient
    named: Sizes
    sizes: Sizes
    tensors: int
    results: int
    smooth: tuple[int, ...]
    saved: tuple[int, ...]
    grads: tuple[int | None, ...]
    scalars: tuple[int, ...]
    again: tuple[int, ...]
    ways: dict[bool, Way] = field(default_factory=dict)

    @staticmethod
    def of(gradient: Gradient, named: Sizes, sizes: Sizes) -> Call:
        both, parts = gradient.joint, gradient.parts
        params = both.function.params[: len(both.grads)]
        tensors = [p for p in params if isinstance(p.type, TensorType)]
        numbers = [p for p in params if not isinstance(p.type, TensorType)]
        at: dict[Value, int] = {}
        for n, y in enumerate((*tensors, *parts.forward.outputs)):
            if isinstance(y, Value):
                at.setdefault(y, n)
        grads = dict(zip(params, both.grads, strict=True))
        used = [p for p in parts.backward.params if not isinstance(p.type, TensorType)]
        first = both.outputs
        given = parts.forward.outputs[:first]
        made = Call(
            gradient, named, sizes, len(tensors), first, both.given, tuple(at[v] for v in parts.saved),
            tuple(None if grads[p] is None else grads[p] - first for p in tensors),  # type: ignore[operator]
            tuple(numbers.index(p) for p in used), tuple(n for n, y in enumerate(given) if y in given[:n]),
        )  # fmt: skip
        made.way(False)
        return made

    def way(self, hooked: bool) -> Way:
        """With one block for what only the backward pass reads; hooks get every value by itself."""
        found = self.ways.get(hooked)
        if found is None:
            with self.gradient.lock:
                found = self.ways[hooked] = self._way(frozenset() if hooked else self.gradient.between)
        return found

    def _way(self, between: frozenset[int]) -> Way:
        plan, count = self.gradient.forward.plan(), self.tensors
        if not isinstance(plan, dispatch.Plan) or not between:
            return Way(plan.bind(self.sizes), self.saved)
        run, packed = plan.packing(self.sizes, between)
        if not packed:
            return Way(run, self.saved)
        left = [n for n in range(len(self.gradient.parts.forward.outputs)) if n not in packed]
        places = {k: packed[n - count] for k, n in enumerate(self.saved) if n - count in packed}
        loose = [n if n < count else count + left.index(n - count) for n in self.saved if n - count not in packed]
        return Way(run, (count + len(left), *loose), places)

    def backward(
        self, way: Way, saved: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor], numbers: Sequence[float],
        last: bool = False,
    ) -> Sequence[torch.Tensor]:  # fmt: skip
        """The cotangents of the parameters, compiled when they are first asked for; for the ``last`` time in the memory
        of what was saved, which nobody else has.
        """
        read = [numbers[n] for n in self.scalars]
        elsewhere, variant = _elsewhere(cotangents), (self.gradient.last if last else None) or self.gradient.backward
        scaled, keeps = self.gradient.scaled if last else None, variant is self.gradient.backward
        if scaled is not None and not elsewhere and cotangents[0].item() == 1:
            return [self._restored(saved[n], way.kinds[n]) for n in scaled]
        latest = way.latest.get(keeps)
        if latest is not None and not elsewhere and latest[0](*saved, *cotangents):
            return latest[1]([*saved, *cotangents], read)
        given = list(map(self._restored, saved, way.kinds))
        if elsewhere:
            return run_function(
                self.gradient.parts.backward, [*way.spread(given), *cotangents, *read], sizes=self.named
            )
        given += cotangents
        params: list[Value | None] = [None] if way.places else []  # first the block
        params += way.loose(variant.tensor_params)
        strided = [p is not None and p.name in variant.layout.strided for p in params]
        dense = [x if free else x.contiguous().resolve_neg() for free, x in zip(strided, given, strict=True)]
        run = self._bound(
            way, variant, keeps, dense, tuple(x.stride() for x, s in zip(dense, strided, strict=True) if s)
        )
        if all(map(is_, dense, given)) and all(map(dispatch.plain, dense)):
            alike = tensor_check(dense)
            if alike is not None:
                way.latest[keeps] = (alike, run)
        return run(dense, read)

    def _bound(
        self, way: Way, variant: Variant, keeps: bool, dense: Sequence[torch.Tensor],
        strides: tuple[tuple[int, ...], ...],
    ) -> Runner:  # fmt: skip
        """The backward pass for tensors that lie so."""
        run = way.backs.get((keeps, strides))
        if run is None:
            with self.gradient.lock:
                plan, sizes = variant.plan(), variant.sizes(self.named, way.spread(dense))
                host = isinstance(plan, dispatch.Plan)
                run = plan.bind(sizes, within=way.places) if host else plan.bind(sizes)  # type: ignore[call-arg]
                way.backs[keeps, strides] = run
        return run

    def _restored(self, x: torch.Tensor, kind: tuple[torch.dtype, torch.Size]) -> torch.Tensor:
        """A saved tensor, which hooks may have kept in another form; of its layout nothing is asked."""
        if (x.dtype, x.shape) != kind:
            raise TraceError(
                f"hooks on saved tensors gave a {x.dtype} {tuple(x.shape)} for a {kind[0]} {tuple(kind[1])}",
                code="TSR0418",
            )
        return x


_reference = weakref.ref


def _elsewhere(cotangents: Sequence[torch.Tensor]) -> bool:
    """Does torch transform what runs now, or stack several cotangents in one, so that addresses do not say all?"""
    return dispatch.intercepted(devices.device_of(cotangents)) or any(map(_is_stacked, cotangents))


_is_stacked = torch._C._functorch.is_legacy_batchedtensor


class _Compiled(torch.autograd.Function):
    """One differentiable operation of torch."""

    @staticmethod
    def forward(ctx: Any, call: Call, numbers: Sequence[float], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            ctx.versions = [t._version for t in tensors]
        except RuntimeError:  # a tensor made in inference mode: torch knows whether it may take part
            raise dispatch.NoAddressError from None
        # Hooks may hand what they were given to others.
        ctx.own = torch._C._autograd._top_saved_tensors_default_hooks(True) is None
        ctx.way = way = call.way(not ctx.own)
        made = way.run(tensors, numbers)
        # To autograd each result is a tensor of its own, also one that is an argument without its gradient.
        apart = enumerate(made[: call.results])
        results = tuple(y.detach() if n in call.again or any(y is x for x in tensors) else y for n, y in apart)
        ctx.call, ctx.numbers = call, numbers
        # Arguments lie as the kernels of the backward pass know; of results they know that they are dense.
        dense, count = (*results, *made[call.results :]), len(tensors)
        saved = [tensors[n] if n < count else dense[n - count].contiguous() for n in way.saved]
        ctx.save_for_backward(*saved)
        if not way.kinds:
            way.kinds = [(x.dtype, x.shape) for x in saved]
        # What the derivative alone does not need is read only by the derivative of the derivative.
        ctx.given = list(map(_reference, tensors))
        if len(call.smooth) < len(results):
            ctx.mark_non_differentiable(*(y for n, y in enumerate(results) if n not in call.smooth))
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        call: Call = ctx.call
        given = [cotangents[n] for n in call.smooth]
        again = torch.is_grad_enabled()
        last = not again and ctx.own and not torch._C._autograd._get_current_graph_task_keep_graph()
        found = _again(ctx, given) if again else call.backward(ctx.way, ctx.saved_tensors, given, ctx.numbers, last)
        return None, None, *(None if n is None else found[n] for n in call.grads)


def _again(ctx: Any, cotangents: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """The cotangents as differentiable results, from all arguments of the call."""
    call: Call = ctx.call
    tensors = [ref() for ref in ctx.given]
    for n, (t, version) in enumerate(zip(tensors, ctx.versions, strict=True)):
        if t is None or t._version != version:
            happened = "no longer exists" if t is None else "was changed in place"
            raise TraceError(f"the derivative of a derivative needs argument {n + 1}, which {happened}", code="TSR0414")
    gradient = call.gradient
    if _elsewhere(cotangents):
        return run_function(gradient.alone, [*tensors, *cotangents, *ctx.numbers], sizes=call.named, grad=True)
    given = [*tensors, *(g.contiguous().resolve_neg() for g in cotangents)]
    return gradient.again.bind(call.named, given)(given, ctx.numbers)


def root(x: Value, maker: Mapping[Value, Operation]) -> str:
    """The name of the value that another one is a view of, at most."""
    op = maker.get(x)
    while op is not None and op.record.kind is Kind.VIEW and isinstance(op.operands[0], Value):
        x = op.operands[0]
        op = maker.get(x)
    return x.name


def learning(variant: Variant, given: Sequence[Any], sizes: Sizes, limit: int | None) -> Gradient | None:
    """The derivative of a variant by those of its arguments for which torch records gradients; None without any."""
    if not torch.is_grad_enabled():
        return None
    pairs = zip(variant.traced.function.params, given, strict=True)
    wrt = tuple(p.name for p, x in pairs if isinstance(x, torch.Tensor) and x.requires_grad)
    if not wrt:
        return None
    known: Gradient | None = variant.gradients.get(wrt)
    if known is None:
        known = variant.gradients[wrt] = Gradient(variant, wrt, dict(sizes), limit)
    return known


def latest(variant: Variant) -> Gradient | None:
    """The derivative that was asked for last."""
    return next(reversed(list(variant.gradients.values())), None)
