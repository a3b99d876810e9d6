"""Example arguments for a function, made from its annotations."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tessera import Function
from tessera.diag import ConfigError, TraceError
from tessera.ir.types import ScalarType, TensorType

DEFAULT_SIZE = 256


def parse_sizes(items: Sequence[str]) -> dict[str, int]:
    """``["B=8", "S=512"]`` as a mapping. Raises ConfigError (TSR0609) for anything else."""
    sizes: dict[str, int] = {}
    for item in items:
        name, sign, number = item.partition("=")
        if not sign or not name.isidentifier() or not number.isdecimal():
            raise ConfigError(f"`{item}` is not NAME=NUMBER", helps=["a size is written --size B=8"])
        sizes[name] = int(number)
    return sizes


def example(f: Function[..., Any], sizes: Mapping[str, int], dtype: torch.dtype, seed: int = 0) -> list[Any]:
    """Positional arguments: random tensors of the declared shapes, numbers at their defaults.

    Sizes not given are DEFAULT_SIZE. Integer tensors are drawn below the smallest size, so that they can be indices.
    Raises ConfigError (TSR0609) for a size that the function does not have, and TraceError (TSR0406) when it has no
    variant before its first call.
    """
    report = f.check()
    traced = next((t for t in report.traced if not t.findings and t.deferred is None), None)
    if traced is None:
        raise TraceError(
            f"the shapes of `{f.spec.name}` are not all declared", code="TSR0406",
            helps=["declare the dims of every tensor, or call `tessera.compare` with tensors of your own"],
        )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    names = {n for p in traced.function.params for d in getattr(p.type, "dims", ()) for n in d.names()}
    for given in sizes:
        if given not in names:
            close = difflib.get_close_matches(given, names, 1)
            raise ConfigError(
                f"`{f.spec.name}` has no dimension `{given}`", notes=[f"it has: {', '.join(sorted(names)) or 'none'}"],
                helps=[f"`{close[0]}` is close"] if close else [],
            )  # fmt: skip
    known = {n: sizes.get(n, DEFAULT_SIZE) for n in names}
    defaults = iter([p.default for p in f.spec.params if p.kind == "scalar"])
    args: list[Any] = []
    for p in traced.function.params:
        if isinstance(p.type, ScalarType):
            value = next(defaults, 1.0)
            args.append(float(value) if isinstance(value, int | float) else 1.0)
        elif isinstance(p.type, TensorType):
            shape = [d.evaluate(known) for d in p.type.dims]
            args.append(_tensor(shape, str(p.type.dtype), dtype, generator, min(known.values(), default=2)))
    return args


def _tensor(
    shape: Sequence[int], kind: str, dtype: torch.dtype, generator: torch.Generator, bound: int
) -> torch.Tensor:
    if kind == "bool":
        return torch.rand(shape, generator=generator) < 0.5
    if kind.startswith(("int", "uint")):
        return torch.randint(0, max(bound, 1), shape, generator=generator, dtype=getattr(torch, kind, torch.int64))
    wanted = {"f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}.get(kind, dtype)
    return (torch.randn(math.prod(shape), generator=generator).reshape(list(shape))).to(wanted)
