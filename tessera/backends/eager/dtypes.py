"""torch's element types and ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from tessera.diag import DTypeError
from tessera.ir.dtype import DTYPES, DType

_TORCH: Mapping[str, torch.dtype] = MappingProxyType({
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2, "int64": torch.int64, "int32": torch.int32,
    "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8, "uint32": torch.uint32, "uint64": torch.uint64,
    "bool": torch.bool,
})  # fmt: skip
_OURS: Mapping[torch.dtype, DType] = MappingProxyType({t: DTYPES[name] for name, t in _TORCH.items()})


def to_torch_dtype(t: DType) -> torch.dtype:
    """The torch dtype of a DType. Raises DTypeError (TSR0301) for int4, which torch has no tensors of.

    >>> from tessera.ir.dtype import bf16
    >>> to_torch_dtype(bf16)
    torch.bfloat16
    """
    found = _TORCH.get(t.name)
    if found is None:
        raise DTypeError(f"torch has no dtype for `{t}`", code="TSR0301")
    return found


def from_torch_dtype(t: torch.dtype) -> DType:
    """The DType of a torch dtype. Raises DTypeError (TSR0301) for complex, quantized and other types without one.

    >>> from_torch_dtype(torch.float32)
    f32
    """
    found = _OURS.get(t)
    if found is None:
        raise DTypeError(f"tensors of `{t}` are not supported", code="TSR0301", helps=[f"known: {', '.join(_TORCH)}"])
    return found
