"""A kernel that has no form on whole tensors inside of a compiled function: one opaque step of it, of which the shapes
are known by its signature, and which has the derivative that the kernel was given.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from tessera.driver.kernel_call import param_of, words_for
from tessera.frontend import extern
from tessera.frontend.handles import SizeHandle, TensorHandle
from tessera.frontend.hints import ANY
from tessera.frontend.inline import inline_call
from tessera.frontend.kernel.program import Buffer
from tessera.frontend.kernel.replay import solved_names
from tessera.frontend.session import Session, current
from tessera.frontend.spec import ParamSpec
from tessera.ir.dim import Dim
from tessera.ir.types import TensorType


def call_opaque(kernel: Any, values: Mapping[str, Any], given: Mapping[str, Any], written: Sequence[str]) -> Any:
    """Make a call of a kernel a step of the running trace; outputs that are given are written to."""
    taken = [p for p in kernel.spec.params if p.name not in kernel.outputs]
    words = words_for([p.name for p in taken], [p.name for p in taken if p.binds])
    params = tuple(_declared(p, given[p.name], word) for p, word in zip(taken, words, strict=True))

    def body(*args: Any) -> Any:
        session = current()
        assert session is not None
        held = [session.capture(x) if _is_outside(x) else x for x in args]
        names = {p.name: x for p, x in zip(taken, held, strict=True)}
        found = _step(session, kernel, names, {name: values[name] for name in written}, given)
        for name in written:
            values[name].copy_(found.pop(name))
        kept = tuple(found.values())
        return None if not kept else kept[0] if len(kept) == 1 else kept

    how = inspect.Parameter.POSITIONAL_OR_KEYWORD
    body.__signature__ = inspect.Signature([inspect.Parameter(word, how) for word in words])  # type: ignore[attr-defined]
    spec = replace(kernel.spec, function=body, params=params, returns=ANY)
    return inline_call(spec, [values[p.name] for p in taken], {})


def _step(
    session: Session, kernel: Any, args: Mapping[str, Any], targets: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The outputs of the step by parameter."""
    pairs: list[tuple[Dim, Dim]] = []
    leads: tuple[Dim, ...] = ()
    for name, x in (*args.items(), *targets.items()):
        if isinstance(x, TensorHandle) and isinstance(given[name], Buffer):
            have, count = x._value.type.dims, given[name].leads
            leads = max(leads, have[:count], key=len)
            pairs += zip(_dims(kernel.spec.by_name[name]), have[count:], strict=True)
    sizes = {name: x._dim if isinstance(x, SizeHandle) else Dim.const(x) for name, x in args.items()
             if kernel.spec.by_name[name].binds and x is not None}  # fmt: skip
    names = solved_names(pairs, sizes)
    outputs = [name for name in kernel.outputs if isinstance(given[name], Buffer)]
    kinds = [
        TensorType(given[name].dtype, (*leads[: given[name].leads], *(d.substitute(names) for d in _dims(p))))
        for name in outputs for p in (kernel.spec.by_name[name],)
    ]  # fmt: skip
    asked = dict.fromkeys((name for name in outputs if kernel.spec.by_name[name].hint.optional), True)
    made = extern.call_named(session, kernel.target, kernel.spec.name, {**args, **asked}, kinds)
    return dict(zip(outputs, made, strict=True))


def _dims(p: ParamSpec) -> tuple[Dim, ...]:
    a = p.hint.annotation
    return () if a is None else a.fixed


def _declared(p: ParamSpec, given: Any, word: str) -> ParamSpec:
    """The parameter as a function has it: with what stands in front of the declared dims."""
    return replace(param_of(p, given, _dims(p)) if isinstance(given, Buffer) else p, name=word, keyword_only=False)


def _is_outside(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and not isinstance(x, TensorHandle)


__all__ = ["call_opaque"]
