"""A compiled function inside of ``torch.compile``: one operation of torch's graph, with shapes from the types that were
proved, and with its derivative.

``inside`` is read by torch's own tracer, which follows plain Python; what it cannot follow is computed once for each
call in the source (``_site``) and is a constant to it. Calls whose results share memory with arguments, those with
arguments or results other than tensors, numbers and texts, and those that ``torch.func`` transforms are followed into
the Python function instead.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.autograd.forward_ad as fwd

from tessera.backends.eager import from_torch_dtype, to_torch_dtype
from tessera.backends.eager.autocast import State, state, under
from tessera.driver import devices
from tessera.driver.layout import TABLE
from tessera.frontend.binding import bind_arguments
from tessera.frontend.trace import Run, Traced
from tessera.frontend.tree import Tree
from tessera.frontend.unifying import CallTypes, call_types, check_call
from tessera.ir.dtype import f32, f64
from tessera.ir.graph import Value
from tessera.ir.types import TensorType
from tessera.passes.autodiff import is_float, reached
from tessera.runtime import dispatch

#: How arguments are given: a tensor, a number, or a constant in a tuple.
TENSOR, NUMBER = "tensor", "number"
_NO_SITE = ("", None, ())


def inside(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a call becomes under torch's tracer."""
    how: list[Any] = []
    tensors: list[torch.Tensor] = []
    numbers: list[float] = []
    for a in (*args, *kwargs.values()):
        if type(a) in (torch.Tensor, torch.nn.Parameter):
            how.append(TENSOR)
            tensors.append(a)
        elif type(a) is float:
            how.append(NUMBER)
            numbers.append(a)
        elif a is None or type(a) in (int, bool, str):
            how.append((a,))
        else:
            return function.fn(*args, **kwargs)
    made = called(function, tuple(how), tuple(kwargs), tensors, numbers)
    return function.fn(*args, **kwargs) if made is None else made[0]


def called(
    function: Any, how: tuple[Any, ...], names: tuple[str, ...], tensors: list[torch.Tensor], numbers: list[float]
) -> tuple[Any] | None:
    """The result of a call as an operation of torch's graph; None for one that has to be followed. ``how`` says what
    each argument is, ``names`` which of them the last ones are.
    """
    key, layout, constant = _site(function, how, names)
    if not key:
        return None
    found = torch.ops.tessera.call(tensors, numbers, key)
    return (_nested(layout, [y.detach() if n in constant else y for n, y in enumerate(found)]),)


def _nested(layout: Any, found: list[torch.Tensor]) -> Any:
    """Results as the function gives them."""
    kind, parts = layout
    if kind == TENSOR:
        return found[parts]
    if kind == "constant":
        return parts
    members = [_nested(part, found) for part in parts[-1]]
    if kind == "dict":
        return dict(zip(parts[0], members, strict=True))
    return tuple(members) if kind == "tuple" else members


@dataclass(frozen=True)
class Site:
    """A function with all of a call that is neither tensor nor number."""

    function: Any
    how: tuple[Any, ...]
    names: tuple[str, ...]
    autocast: State

    def arguments(self, tensors: Sequence[Any], numbers: Sequence[float]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of the call."""
        given, rest = iter(tensors), iter(numbers)
        values = [next(given) if h == TENSOR else next(rest) if h == NUMBER else h[0] for h in self.how]
        first = len(values) - len(self.names)
        return values[:first], dict(zip(self.names, values[first:], strict=True))

    def run(self, tensors: Sequence[torch.Tensor], numbers: Sequence[float]) -> list[torch.Tensor]:
        """The tensors among the results of the call."""
        args, kwargs = self.arguments(tensors, numbers)
        found: list[torch.Tensor] = []
        with under(self.autocast):
            _collect(self.function(*args, **kwargs), found)
        return found

    def types(self, tensors: Sequence[torch.Tensor], numbers: Sequence[float]) -> tuple[CallTypes, dict[str, Any]]:
        """The call as types, and its sizes by name as they are known, which may be by a symbol."""
        args, kwargs = self.arguments(tensors, numbers)
        spec = self.function.spec
        bound = bind_arguments(spec, args, kwargs)
        leaves = [leaf.value for leaf in bound.tensors]
        shapes = [tuple(map(_hint, t.shape)) for t in leaves]
        dtypes = [from_torch_dtype(t.dtype) for t in leaves]
        sizes = check_call(spec, bound, shapes, dtypes)
        types = call_types(bound, sizes, shapes, dtypes, f64 if f64 in dtypes else f32)
        known: dict[str, Any] = {}
        for kind, t in zip((i for i in types.inputs if isinstance(i, TensorType)), leaves, strict=True):
            for d, size in zip(kind.dims, t.shape, strict=True):
                if d.is_name:
                    known.setdefault(str(d), size)
        return types, {**types.hints, **known}

    def described(self, tensors: Sequence[torch.Tensor], numbers: Sequence[float]) -> list[torch.Tensor]:
        """Tensors without values like the results: a trace of the function on the types of the call."""
        types, known = self.types(tensors, numbers)
        args, kwargs = self.arguments(tensors, numbers)
        spec = self.function.spec
        tree = bind_arguments(spec, args, kwargs).tree
        run = Run(
            spec, types.inputs, TABLE, types.hints, tree, types.flexible, types.scalars, device=tensors[0].device,
            leads=types.leads,
        )  # fmt: skip
        with under(self.autocast):
            traced = run.trace()
        if traced.specialised:  # Python asked for a number: the graph is for these sizes alone
            known = {name: int(size) for name, size in known.items()}
        for choice in traced.choices:  # torch remembers what it is asked about its symbols
            bool(choice.true_for(known))
        made = []
        for o in traced.outputs:
            if o.kind == "tensor":
                kind = traced.function.outputs[o.place].type
                sizes = [d.evaluate(known, signed=True) for d in kind.dims]
                made.append(tensors[0].new_empty(sizes, dtype=to_torch_dtype(kind.dtype)))
        return made


def _hint(size: Any) -> int:
    """A size as it is in this call; of a symbol, without making the graph one for that size."""
    return size if isinstance(size, int) else size.node.hint if size.node.hint is not None else int(size)


def _collect(x: Any, found: list[torch.Tensor]) -> None:
    if isinstance(x, torch.Tensor):
        found.append(x)
    elif isinstance(x, dict):
        for member in x.values():
            _collect(member, found)
    elif isinstance(x, tuple | list):
        for member in x:
            _collect(member, found)


# ---- which calls ---------------------------------------------------------------------------------------------

_sites: dict[str, Site] = {}
_keys: dict[tuple[Any, ...], tuple[Any, ...]] = {}
_lock = threading.Lock()
_numbers = itertools.count()


def _site(function: Any, how: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Any, ...]:
    """The name of the operation for a call, the structure of its results and the numbers of those without gradient; no
    name where the call has to be followed.
    """
    if torch.compiler.is_exporting() or TENSOR not in how or _transforms() is not None or fwd._current_level >= 0:
        return _NO_SITE
    _operations()
    at = (id(function), tuple(h if isinstance(h, str) else (type(h[0]), h[0]) for h in how), names, state())
    with _lock:
        if at not in _keys:
            found = _layout(function, how, names)
            if found is None:
                return _NO_SITE
            # Of this process alone: torch keeps compiled graphs on disk, by the text of their operations.
            key = f"{next(_numbers)}-{secrets.token_hex(8)}"
            _sites[key] = Site(function, how, names, state())
            _keys[at] = (key, *found)
        return _keys[at]


_transforms = torch._C._functorch.peek_interpreter_stack
_site._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _layout(function: Any, how: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Any, tuple[int, ...]] | None:
    """The structure of the results and those without gradient, as every trace at definition has them."""
    found: set[Any] = set()
    for traced in function.check().traced:
        one = _structure(traced)
        if one is None:
            return None
        found.add(one)
    return found.pop() if len(found) == 1 else None


def _structure(traced: Traced) -> tuple[Any, tuple[int, ...]] | None:
    plain = not traced.findings and traced.deferred is None
    if not plain or any(i.kind != "leaf" for i in traced.inputs):
        return None
    params, outputs = traced.function.params, traced.function.outputs
    active = reached(traced.function.ops, [p for p in params if is_float(p)])
    memories = [o.memory for o in traced.outputs if o.kind == "tensor"]
    if not memories or len(set(memories)) < len(memories) or min(memories) < len(params):
        return None
    leaves: list[Any] = []
    constant: list[int] = []
    for o in traced.outputs:
        if o.kind == "size":
            return None
        if o.kind == "static":
            leaves.append(("constant", o.value))
            continue
        y = outputs[o.place]
        if not (isinstance(y, Value) and y in active):
            constant.append(len([x for x in leaves if x[0] == TENSOR]))
        leaves.append((TENSOR, len([x for x in leaves if x[0] == TENSOR])))
    layout = _described(traced.out_tree, iter(leaves))
    return None if layout is None else (layout, tuple(constant))


def _described(tree: Tree, leaves: Any) -> Any:
    if tree.kind == "leaf":
        return next(leaves)
    if tree.kind not in ("tuple", "list", "dict"):
        return None
    members = tuple(_described(child, leaves) for child in tree.children)
    if any(m is None for m in members):
        return None
    return tree.kind, ((tree.keys, members) if tree.kind == "dict" else (members,))


# ---- the operations ------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _operations() -> None:
    """Define ``torch.ops.tessera.call`` and the operation of its derivative, when they are first needed."""
    call = torch.library.custom_op("tessera::call", _call, mutates_args=())
    call.register_fake(_call_fake)
    back = torch.library.custom_op("tessera::call_backward", _call_backward, mutates_args=())
    back.register_fake(_call_backward_fake)
    call.register_autograd(_backward, setup_context=_setup)


def _call(tensors: list[torch.Tensor], numbers: list[float], site: str) -> list[torch.Tensor]:
    found = _sites[site].run(tensors, numbers)
    return [y.contiguous() for y in found]


def _call_fake(tensors: list[torch.Tensor], numbers: list[float], site: str) -> list[torch.Tensor]:
    return _sites[site].described(tensors, numbers)


def _call_backward(
    tensors: list[torch.Tensor], numbers: list[float], site: str, cotangents: list[torch.Tensor], needs: list[bool]
) -> list[torch.Tensor]:
    leaves = [t.detach().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
    return [g.contiguous() for g in _slopes(leaves, numbers, site, cotangents, needs)]


def _slopes(
    leaves: list[torch.Tensor], numbers: list[float], site: str, cotangents: list[torch.Tensor], needs: list[bool],
    again: bool = False,
) -> Sequence[torch.Tensor]:  # fmt: skip
    """The cotangents of those of the arguments that need one; ``again`` where they are differentiated in turn."""
    wanted = [t for t, need in zip(leaves, needs, strict=True) if need]
    with torch.enable_grad():
        pairs = [(y, g) for y, g in zip(_sites[site].run(leaves, numbers), cotangents, strict=True) if y.requires_grad]
    results, given = [y for y, _ in pairs], [g for _, g in pairs]
    return torch.autograd.grad(results, wanted, given, materialize_grads=True, create_graph=again)


def _call_backward_fake(
    tensors: list[torch.Tensor], numbers: list[float], site: str, cotangents: list[torch.Tensor], needs: list[bool]
) -> list[torch.Tensor]:
    return [t.new_empty(t.shape) for t, need in zip(tensors, needs, strict=True) if need]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    tensors, ctx.numbers, ctx.site = inputs
    ctx.save_for_backward(*tensors)
    ctx.like = [(y.shape, y.dtype, y.device) for y in output]


def _backward(ctx: Any, cotangents: Sequence[torch.Tensor | None]) -> tuple[Any, ...]:
    given = [
        torch.zeros(shape, dtype=dtype, device=device) if g is None else g
        for g, (shape, dtype, device) in zip(cotangents, ctx.like, strict=True)
    ]
    tensors, needs = list(ctx.saved_tensors), list(ctx.needs_input_grad[0])
    if torch.is_grad_enabled() and not dispatch.intercepted(devices.device_of(tensors)):
        # Outside of a graph the derivative is no operation of torch's: it has a derivative itself. Each argument is a
        # tensor of its own there, also one that was computed from another.
        apart = [t.view_as(t) if need else t.detach() for t, need in zip(tensors, needs, strict=True)]
        found = iter(_slopes(apart, ctx.numbers, ctx.site, given, needs, again=True))
    else:
        found = iter(torch.ops.tessera.call_backward(tensors, ctx.numbers, ctx.site, given, needs))
    # To torch an empty list is one of tensors, and one of numbers is no list.
    return [next(found) if need else None for need in needs], None if ctx.numbers else [], None


__all__ = ["NUMBER", "TENSOR", "called", "inside"]
