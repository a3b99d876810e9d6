"""What must hold for a call: guards on sizes, kinds and devices of tensors; and what variants differ by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from tessera.backends.base import Target
from tessera.backends.c.host import host_target
from tessera.diag import Diagnostic, Label, ResourceError, ShapeError
from tessera.driver import inspect
from tessera.frontend.binding import Bound, Leaf
from tessera.frontend.check import CheckReport
from tessera.frontend.spec import FunctionSpec, ParamSpec
from tessera.frontend.trace import Traced
from tessera.frontend.unifying import CallTypes
from tessera.ir.dtype import DType
from tessera.runtime import dispatch
from tessera.runtime.pieces import members

_CUDA_ARCH = re.compile(r"(sm_)?[0-9]{2,3}a?", re.ASCII)
_HIP_ARCH = re.compile(r"gfx[0-9]{3,4}[0-9a-z]?", re.ASCII)


def serves(traced: Traced, kinds: CallTypes) -> bool:
    """Do the assumptions that a variant was traced under hold for a call?"""
    sizes = kinds.hints
    for what, (value, _) in traced.specialised.items():
        known = kinds.scalars.get(what, sizes.get(what))
        if known != value:
            return False
    return all(c.true_for(sizes) for c in traced.choices) and all(o.holds(sizes) for o in traced.function.obligations)


def check_guards(traced: Traced, kinds: CallTypes) -> None:
    """Refuse a call that breaks a guard, with every broken one."""
    broken = [o for o in traced.function.obligations if not o.holds(kinds.hints)]
    if broken:
        at = ", ".join(
            f"{n}={kinds.hints[n]}"
            for n in sorted({n for o in broken for n in o.left.names() | o.right.names()})
            if n in kinds.hints
        )
        raise ShapeError.from_diagnostics(
            Diagnostic("TSR0105", f"`{o}` does not hold with {at}",
                       () if o.span is None else (Label(o.span, o.why or "needed here", True),))
            for o in broken
        )  # fmt: skip


def check_devices(bound: Bound) -> None:
    """Refuse tensors of one call on different devices."""
    found: dict[torch.device, Leaf] = {}
    for leaf in bound.tensors:
        if leaf.value.dim():  # torch lets numbers on the CPU meet tensors elsewhere
            found.setdefault(leaf.value.device, leaf)
    if len(found) > 1:
        where = ", ".join(f"`{leaf.path}` on {device}" for device, leaf in found.items())
        raise ResourceError(
            f"tensors on different devices: {where}", code="TSR0603", helps=["move them with `.to(device)`"]
        )


def check_kinds(bound: Bound) -> None:
    """Refuse tensors that are no plain arrays: sparse, nested and quantized ones."""
    for leaf in bound.tensors:
        x = leaf.value
        if x.is_quantized or x.is_nested or x.layout is not torch.strided:
            kind = "quantized" if x.is_quantized else "nested" if x.is_nested else str(x.layout).removeprefix("torch.")
            advice = "dequantize()" if x.is_quantized else "to_dense()"
            raise ResourceError(
                f"argument `{leaf.path}` is a {kind} tensor", code="TSR0604", helps=[f"convert it with `.{advice}`"]
            )


def check_memory(tensors: Sequence[torch.Tensor]) -> None:
    """Refuse tensors whose storage was freed or shrunk, which torch itself would read all the same."""
    for x in members(tensors):
        held, need = x.untyped_storage().nbytes(), x.storage_offset() * x.itemsize + dispatch.spanned(x)
        if held < need and x.numel() and x.device.type != "meta":
            what = f"shrunk to {held} of {need} bytes" if held else "freed"
            raise ResourceError(
                f"a tensor of shape {list(x.shape)} whose storage was {what}", code="TSR0604",
                helps=["allocate it again before the call"],
            )  # fmt: skip


def parse_target(target: Target | str | None) -> Target | None:
    """A target from its short name: ``cpu``, ``cuda:90``, ``hip:gfx942``. Raises ResourceError (TSR0607).

    Architectures that Triton knows: CUDA compute capabilities of two or three digits, and AMD's gfx names.
    """
    if target is None or isinstance(target, Target):
        return target
    kind, _, arch = target.partition(":")
    if kind == "cpu":
        return host_target()
    if kind == "cuda" and _CUDA_ARCH.fullmatch(arch):
        return Target("cuda", arch.removeprefix("sm_"))
    if kind == "hip" and _HIP_ARCH.fullmatch(arch):
        return Target("hip", arch)
    raise ResourceError(
        f"no target `{target}`", code="TSR0607",
        helps=["targets are cpu, cuda:NN with a compute capability (cuda:80, cuda:90), and hip:gfxNNN (hip:gfx942)"],
    )  # fmt: skip


def _param_classes(p: ParamSpec) -> Iterator[str]:
    """What of one parameter makes calls need a variant of their own."""
    a = p.hint.annotation
    if p.how != "plain":
        yield f"number and kinds of {p.name}"
    elif p.kind == "container":
        yield f"structure of {p.name}"
        yield f"dtype, rank and layout of the tensors in {p.name}"
    elif p.kind == "any":
        yield f"dtype, rank and layout of {p.name}, or its value where it is no tensor"
    elif p.kind in ("tensor", "optional"):
        if a is None or not isinstance(a.dtype, DType):
            yield f"dtype of {p.name}"
        if a is None or a.dims is None or a.lead is not None:
            yield f"rank of {p.name}"
        if a is None or a.dims is None:
            yield f"which sizes of {p.name} are 1"
        yield f"{p.name} dense or strided"
        if p.kind == "optional":
            yield f"{p.name} given or None"
    elif p.kind == "static" and p.name not in ("self", "cls"):
        yield f"value of {p.name}"


def variant_classes(spec: FunctionSpec, report: CheckReport) -> Iterator[inspect.VariantClass]:
    """What makes calls need a variant of their own: device, dtypes, layout, static values, questions about sizes."""
    texts = [text for p in spec.params for text in _param_classes(p)]
    yield from map(inspect.VariantClass, ["device of the tensors", *texts])
    seen: dict[str, None] = {}
    for traced in report.traced:
        seen.update(dict.fromkeys(str(c) if c.holds else str(replace(c, holds=True)) for c in traced.choices))
        seen.update(dict.fromkeys(f"value of {what}" for what in traced.specialised))
    yield from map(inspect.VariantClass, seen)
