"""torch callables by their dotted names, as the op records give them, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any

import torch

from tessera.ir.dialects import OPS
from tessera.ir.record import OpRecord


@cache
def resolve(name: str) -> Any:
    """The torch object of a dotted name; None where this version of torch has none.

    >>> resolve("torch.nn.functional.gelu") is torch.nn.functional.gelu
    True
    """
    head, *rest = name.split(".")
    if head != "torch":
        return None
    found: Any = torch
    for part in rest:
        found = getattr(found, part, None)
    return found


@lru_cache(maxsize=1)
def torch_names() -> Mapping[Callable[..., Any], OpRecord]:
    """Every torch function and tensor method that has a record; the first record that names one has it.

    >>> torch_names()[torch.softmax].name
    'softmax'
    """
    found: dict[Callable[..., Any], OpRecord] = {}
    for record in OPS.values():
        for name in record.torch:
            function = resolve(name)
            if function is not None:
                found.setdefault(function, record)
    return MappingProxyType(found)


@lru_cache(maxsize=1)
def inplace_names() -> Mapping[Callable[..., Any], OpRecord]:
    """The updating tensor methods (``add_``) and operators (``+=``) of every record that has the method form.

    >>> inplace_names()[torch.Tensor.add_].name
    'add'
    """
    found: dict[Callable[..., Any], OpRecord] = {}
    for record in OPS.values():
        for name in record.torch:
            prefix, _, last = name.rpartition(".")
            if last.startswith("__") and prefix == "torch.Tensor":
                updating = resolve(f"torch.Tensor.__i{last[2:]}")
            else:
                updating = resolve(f"{prefix}.{last}_")
            if updating is not None and prefix in ("torch.Tensor", "torch", "torch.nn.functional"):
                found.setdefault(updating, record)
    return MappingProxyType(found)
