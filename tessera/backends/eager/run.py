"""One operation through torch, as its record says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tessera.backends.eager.table import TorchTable, resolve
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Attr, Operation

_TABLE = TorchTable()


def run_op(op: Operation, operands: Sequence[Any], sizes: Mapping[str, int]) -> Sequence[torch.Tensor]:
    """The results of an operation on torch tensors and numbers; sizes in its attributes are evaluated."""
    attrs = {k: concrete(v, sizes) for k, v in op.attrs.items()}
    record = op.record
    if record.eager is not None:
        made = record.eager(torch, *operands, **attrs)
    else:
        made = resolve(record.torch[0])(*operands, **attrs)
    return (made,) if isinstance(made, torch.Tensor) else tuple(made)


def concrete(a: Attr, sizes: Mapping[str, int]) -> Any:
    """An attribute as torch takes it: sizes as ints, dtypes as torch's."""
    if isinstance(a, Dim):
        return a.evaluate(sizes, signed=True)
    if isinstance(a, DType):
        return _TABLE.from_dtype(a)
    return tuple(concrete(x, sizes) for x in a) if isinstance(a, tuple) else a
