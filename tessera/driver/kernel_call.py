"""One call of a kernel: which tensor is which parameter, what is allocated, and what runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from tessera.backends.eager.dtypes import to_torch_dtype
from tessera.diag import CallError, Diagnostic, Label, Note, ShapeError, TraceError, caller_span
from tessera.driver import devices
from tessera.driver.guards import check_devices, check_kinds, check_memory
from tessera.driver.layout import TABLE
from tessera.frontend.annotation import Lead, TensorAnnotation
from tessera.frontend.binding import Bound, Leaf
from tessera.frontend.handles import SizeHandle, TensorHandle
from tessera.frontend.hints import Hint
from tessera.frontend.kernel.program import Buffer, KernelProgram, Number, Unknown
from tessera.frontend.spec import EMPTY, FunctionSpec, ParamSpec
from tessera.frontend.tree import LEAF
from tessera.frontend.unifying import check_call
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, f32
from tessera.ir.interp.block import run_program
from tessera.ir.types import BufferType, TensorType
from tessera.runtime import dispatch


@dataclass(frozen=True)
class KernelCall:
    """The arguments of a call: tensors and other values by parameter, sizes by name. ``made`` are the outputs that the
    caller left out.
    """

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any]
    given: Mapping[str, Any]
    sizes: Mapping[str, int]
    made: tuple[str, ...]

    @cached_property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return devices.device_of(list(self.tensors.values()))

    @cached_property
    def readable(self) -> bool:
        """May the memory of the tensors be looked at, and is what it holds what they are?"""
        return not dispatch.intercepted(self.device) and all(map(dispatch.plain, self.tensors.values()))


def key_of(given: Mapping[str, Any]) -> tuple[Any, ...]:
    """What programs differ by."""
    return tuple((name, type(x), x) for name, x in given.items())


def call_labels(text: str = "called here") -> list[Label]:
    """The place of the call that is being made, for an error."""
    span = caller_span()
    return [] if span is None else [Label(span, text, True)]


def bind_kernel(
    spec: FunctionSpec, outputs: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> KernelCall:
    """Match the arguments of a call with the parameters; outputs may be left out, and optional ones are then not made.

    Raises CallError (TSR0111), ShapeError (TSR0105 to TSR0107, TSR0110) and DTypeError (TSR0108).
    """
    values = _matched(spec, outputs, args, kwargs)
    _check_static(spec, values)
    tensors = {name: x for name, x in values.items() if isinstance(x, torch.Tensor)}
    leads = _leads(spec, tensors)
    leaves: list[Leaf] = []
    for p in spec.params:
        x = values[p.name]
        if p.name in tensors:
            leaves.append(Leaf("tensor", p.name, p, p.hint.annotation, x))
        elif p.binds:
            leaves.append(Leaf("size", p.name, p, None, x))
    bound = Bound(LEAF, tuple(leaves), ())
    check_kinds(bound)
    check_devices(bound)
    given_tensors = list(tensors.values())
    if not dispatch.intercepted(devices.device_of(given_tensors)):  # whose memory cannot be looked at
        check_memory(given_tensors)
    ranks = {leaf.path: _rank(leaf.param) for leaf in bound.tensors}
    shapes = [t.shape[len(t.shape) - ranks[name] :] for name, t in tensors.items()]
    dtypes = [TABLE.tensor_type(t).dtype for t in tensors.values()]
    sizes = dict(check_call(spec, bound, shapes, dtypes).names)
    sizes |= {f"lead_{n}": size for n, size in enumerate(leads)}
    made = _left_out(spec, outputs, values, tensors)
    _check_made(spec, tensors, made)
    types = {name: TABLE.tensor_type(t) for name, t in tensors.items()}
    floats = [t for t in types.values() if t.dtype.is_float]
    first = next(iter((*floats, *types.values())), None)
    more = (len(leads), first)
    given = {p.name: _described(p, values[p.name], types.get(p.name), made, more) for p in spec.params}
    return KernelCall(tensors, values, given, sizes, made)


def _left_out(
    spec: FunctionSpec, outputs: Sequence[str], values: dict[str, Any], tensors: Collection[str]
) -> tuple[str, ...]:
    """The outputs that the call makes: those that it does not give, of optional ones those for which it says True. What
    it says of them is nothing to the kernel.
    """
    missing = [name for name in outputs if name not in tensors]
    found = tuple(name for name in missing if not spec.by_name[name].hint.optional or values[name] is True)
    values.update(dict.fromkeys(missing))
    return found


def solved(dims: Sequence[Dim], given: Sequence[str]) -> set[str]:
    """The names that are known where these dims and the names given are."""
    known = set(given)
    while fresh := {n for d in dims if len(rest := d.names() - known) == 1 for n in rest}:
        known |= fresh
    return known


def _check_made(spec: FunctionSpec, tensors: Mapping[str, torch.Tensor], made: Sequence[str]) -> None:
    """Refuse to make an output of which the call does not tell the shape (TSR0110)."""
    given = [d for p in spec.params if p.name in tensors for a in p.hint.tensors() for d in a.fixed]
    known = solved(given, [p.name for p in spec.params if p.binds])
    for p in (spec.by_name[name] for name in made):
        unknown = [d for a in p.hint.tensors() for d in a.fixed if d.is_name and not d.names() <= known]
        if unknown:
            raise ShapeError(
                f"`{p.name}` is left out, and nothing tells its size `{unknown[0]}`", code="TSR0110",
                labels=call_labels(), helps=[f"give `{p.name}`, or `{unknown[0]}` as an int parameter"],
            )  # fmt: skip


def _check_static(spec: FunctionSpec, values: Mapping[str, Any]) -> None:
    """Refuse a value that programs cannot be told apart by (TSR0111)."""
    for name, x in values.items():
        try:
            hash(x)
        except TypeError:
            raise CallError(f"a call of `{spec.name}` with a {type(x).__name__} for `{name}`", code="TSR0111",
                            labels=call_labels(), helps=["give a tuple"]) from None  # fmt: skip


def bind_traced(
    spec: FunctionSpec, outputs: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The same for a call in a running trace: values by parameter, what the reading of the kernel is told of them, and
    the outputs that are given.
    """
    values = _matched(spec, outputs, args, kwargs)
    types: dict[str, TensorType] = {}
    for name, x in values.items():
        if isinstance(x, TensorHandle) and isinstance(x._value.type, TensorType):
            types[name] = x._value.type
        elif isinstance(x, torch.Tensor) and not isinstance(x, TensorHandle):
            types[name] = TABLE.tensor_type(x)
    leads = max((t.rank - _rank(spec.by_name[name]) for name, t in types.items()), default=0)
    first = next((t for t in (*(t for t in types.values() if t.dtype.is_float), *types.values())), None)
    made = _left_out(spec, outputs, values, types)
    given = {p.name: _described(p, values[p.name], types.get(p.name), made, (leads, first)) for p in spec.params}
    return values, given, tuple(name for name in outputs if name in types)


def _matched(
    spec: FunctionSpec, outputs: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Values by parameter. Positional arguments go to all parameters in order; where that does not fit, to those that
    are no outputs.
    """
    whole = [p for p in spec.params if not p.keyword_only]
    inner = [p for p in whole if p.name not in outputs]
    wrong: list[str] = []
    for order in (whole, inner):
        found = _placed(spec, order, outputs, args, kwargs)
        if isinstance(found, dict):
            return found
        wrong.append(found)
    raise CallError(f"a call of `{spec.name}` {wrong[0]}", code="TSR0111", labels=call_labels(),
                    notes=[f"its parameters are {', '.join(p.name for p in spec.params)}"])  # fmt: skip


def _placed(
    spec: FunctionSpec, order: Sequence[ParamSpec], outputs: Sequence[str], args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> dict[str, Any] | str:  # fmt: skip
    """Values by parameter for one order of the positional arguments, or why they do not fit."""
    if len(args) > len(order):
        return f"with {len(args)} positional arguments, {len(order)} at most"
    found = {p.name: x for p, x in zip(order, args, strict=False)}
    for name, x in kwargs.items():
        if name in found:
            return f"with two values for `{name}`"
        if name not in spec.by_name:
            return f"with an unknown `{name}`"
        found[name] = x
    for p in spec.params:
        if p.name not in found:
            if p.name not in outputs and p.default is EMPTY and not p.hint.optional:
                return f"without `{p.name}`"
            found[p.name] = None if p.default is EMPTY else p.default
        wrong = _misfit(p, found[p.name], p.name in outputs)
        if wrong:
            return f"with {wrong} for `{p.name}`"
    return {p.name: found[p.name] for p in spec.params}


def _misfit(p: ParamSpec, x: Any, is_output: bool) -> str:
    """What a value is, where its parameter does not take it."""
    traced = isinstance(x, TensorHandle)
    is_tensor = isinstance(x._value.type, TensorType) if isinstance(x, TensorHandle) else isinstance(x, torch.Tensor)
    if p.kind in ("tensor", "optional"):
        if is_tensor or (x is None and (is_output or p.hint.optional)):
            return ""
        if is_output and p.hint.optional and isinstance(x, bool):
            return ""
        return f"a {type(x).__name__}"
    if is_tensor:
        return "a tensor"
    if p.kind == "scalar" and not traced and not (x is None and p.hint.optional):
        return "" if isinstance(x, int | float) and not isinstance(x, bool) else f"a {type(x).__name__}"
    if p.binds or p.hint.type is int:
        good = isinstance(x, int) and not isinstance(x, bool) and (x >= 0 or not p.binds)
        good = good or (p.binds and isinstance(x, SizeHandle))
        return "" if good or (x is None and p.default is None) else f"a {type(x).__name__}"
    return ""


def _rank(p: ParamSpec) -> int:
    a = p.hint.annotation
    return len(a.fixed) if a is not None and a.dims is not None else 0


def _leads(spec: FunctionSpec, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    """The sizes before the declared dims, which are those of every tensor that has such dims."""
    found: tuple[int, ...] = ()
    owner = ""
    for p in spec.params:
        t = tensors.get(p.name)
        if t is None or t.ndim <= _rank(p):
            continue
        extra = tuple(t.shape[: t.ndim - _rank(p)])
        if not owner:
            found, owner = extra, p.name
        elif extra != found:
            notes = (Note(f"`{p.name}` is declared {p.hint.annotation}", p.span),)
            text = f"`{owner}` has {list(found)} before its declared dims and `{p.name}` {list(extra)}"
            raise ShapeError.from_diagnostics([Diagnostic("TSR0105", text, tuple(call_labels()), notes)])
    return found


def _described(p: ParamSpec, x: Any, kind: TensorType | None, made: Sequence[str], more: Any) -> Any:
    """What the reading of a kernel is told of an argument."""
    leads, first = more
    if kind is not None:
        return Buffer(kind.dtype, kind.rank - _rank(p))
    if p.name in made:
        a = p.hint.annotation
        dtype = a.dtype if a is not None and isinstance(a.dtype, DType) else None
        return Buffer(dtype or (f32 if first is None else first.dtype), leads)
    if p.binds and x is not None:
        return Unknown()
    return Number() if p.kind == "scalar" and x is not None else x


def param_of(p: ParamSpec, given: Any, dims: Sequence[Dim]) -> ParamSpec:
    """A parameter as a function has it that is called in the place of the kernel, with a tensor of these dims."""
    if not isinstance(given, Buffer):
        return replace(p, hint=replace(p.hint, optional=False), default=EMPTY, keyword_only=False)
    declared = (*((Lead(),) if given.leads else ()), *dims)
    hint = Hint("tensor", TensorAnnotation(declared, given.dtype, tile=True))
    return replace(p, hint=hint, default=EMPTY, keyword_only=False)


def words_for(names: Sequence[str], sizes: Collection[str]) -> list[str]:
    """Names of parameters as Python allows them: what an object holds is called by its path. ``sizes`` stay."""
    found: list[str] = []
    for name in names:
        word = name.replace(".", "_")
        while name not in sizes and (word in (*found, *sizes) or (word != name and word in names)):
            word += "_"
        found.append(word)
    return found


def in_place(call: KernelCall, outputs: Sequence[str]) -> bool:
    """Is an output that is given memory of another argument?"""
    pairs = [(call.tensors[name], name) for name in outputs if name in call.tensors]
    return any(other != name and _overlap(out, t) for out, name in pairs for other, t in call.tensors.items())


def check_overlap(call: KernelCall, outputs: Sequence[str], allowed: Collection[tuple[str, str]] = ()) -> None:
    """Refuse an output that shares memory with another argument (TSR0417), but for those that may be that one."""
    for name in outputs:
        out = call.tensors.get(name)
        for other, t in call.tensors.items():
            if out is None or other == name or ((name, other) in allowed and _same(out, t)):
                continue
            if _overlap(out, t):
                raise TraceError(f"output `{name}` shares memory with `{other}`", code="TSR0417",
                                 labels=call_labels(f"`{name}` and `{other}` overlap"),
                                 helps=["leave the output out, or give a tensor of its own"])  # fmt: skip


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr() or not (a.numel() and b.numel()):
        return False
    (a0, a1), (b0, b1) = _range(a), _range(b)
    return a0 < b1 and b0 < a1


def _range(t: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage between which a tensor lies."""
    last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    first = int(t.storage_offset())
    return first * t.itemsize, (first + int(last) + 1) * t.itemsize


def interpret_kernel(
    program: KernelProgram, call: KernelCall, sizes: Mapping[str, int], exact: bool, most: int | None = None
) -> dict[str, Any]:
    """The contents of the outputs as arrays, by parameter; of a run that ends after ``most`` iterations what they are
    then.
    """
    given: dict[Any, Any] = {}
    for name, value in program.params.items():
        if name in call.tensors:
            given[value] = _array(call.tensors[name])
        elif not isinstance(value.type, BufferType):
            given[value] = np.asarray(call.values[name], np.float64)
    made = run_program(program.function, given, sizes, exact, most)
    return {name: made[program.params[name]] for name in program.outputs}


def _array(t: torch.Tensor) -> Any:
    t = t.detach().cpu()
    if t.dtype.is_floating_point:
        return (t if t.dtype is torch.float64 else t.to(torch.float32)).to(torch.float64).numpy()
    return t.numpy()


def as_tensor(array: Any, dtype: DType, like: torch.Tensor | None = None) -> torch.Tensor:
    """An array of the interpreter as a tensor; its values are values of the dtype."""
    made = torch.from_numpy(np.ascontiguousarray(array))
    if dtype.is_fp8:
        made = made.to(torch.float32)
    made = made.to(to_torch_dtype(dtype))
    return made if like is None else made.to(like.device)
