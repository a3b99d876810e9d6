"""What torch's autocast does to the arguments of each operation, as torch itself shows: a sample call is made once with
autocast and once without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tessera.backends.eager.dtypes import from_torch_dtype
from tessera.backends.eager.names import resolve
from tessera.ir.dialects import OPS
from tessera.ir.dialects.samples import T, replaced
from tessera.ir.dtype import DType
from tessera.ir.record import OpRecord

#: Kinds of device whose autocast is looked at.
KINDS = ("cpu", "cuda")
State = tuple[tuple[str, torch.dtype], ...]


def state() -> State:
    """Where autocast is on for this thread, and to what.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     state()
    (('cpu', torch.bfloat16),)
    """
    if not torch._C._is_any_autocast_enabled():
        return ()
    return tuple((kind, torch.get_autocast_dtype(kind)) for kind in KINDS if torch.is_autocast_enabled(kind))


@contextmanager
def under(wanted: State) -> Iterator[None]:
    """Autocast as it was when ``state`` was asked."""
    with ExitStack() as stack:
        if wanted != state():
            on = dict(wanted)
            for kind in KINDS:
                if kind in on or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, on.get(kind), enabled=kind in on))
        yield


def wanted_dtype(record: OpRecord, kind: str) -> DType | None:
    """The dtype that autocast has the float arguments of an operation cast to; None where it leaves them."""
    if not torch._C._is_any_autocast_enabled() or not torch.is_autocast_enabled(kind):
        return None
    found = _asked(record.name, kind, torch.get_autocast_dtype(kind))
    return None if found is None else from_torch_dtype(found)


@lru_cache(maxsize=4096)
def _asked(name: str, kind: str, low: torch.dtype) -> torch.dtype | None:
    record = OPS[name]
    functions = [f for f in map(resolve, record.torch) if f is not None]
    with torch._C.DisableTorchFunction(), torch.no_grad(), torch.random.fork_rng():
        for sample in record.samples() if record.samples is not None else ():
            for function in functions:
                try:
                    narrowed, plain = (_given(record, function, sample, kind, torch.float32, a) for a in (low, None))
                    widened, kept = (_given(record, function, sample, kind, low, a) for a in (low, None))
                except (RuntimeError, TypeError, ValueError, IndexError):
                    continue
                if narrowed is low and plain is not low:
                    return low
                return torch.float32 if widened is torch.float32 and kept is not torch.float32 else None
    return None


def _given(
    record: OpRecord, function: Callable[..., Any], sample: Any, kind: str, dtype: torch.dtype, low: torch.dtype | None
) -> torch.dtype | None:
    """The dtype of a result for floats of ``dtype``, with autocast to ``low``."""
    rng = np.random.default_rng(0)

    def tensor(t: T) -> torch.Tensor:
        made = torch.from_numpy(np.array(t.array(rng, record.domain)))
        return made.to(kind, dtype if t.type.is_float else None)

    args, kwargs = (replaced(x, tensor, lambda s: s.value()) for x in (sample.args, tuple(sample.kwargs.items())))
    with torch.autocast(kind, low, enabled=low is not None):
        try:
            return _dtype(function(*args, **dict(kwargs)))
        except (RuntimeError, TypeError):  # an operation that takes no such dtype by itself
            if low is not None:
                raise
            return None


def _dtype(result: Any) -> torch.dtype | None:
    if isinstance(result, torch.Tensor):
        return result.dtype if result.is_floating_point() else None
    members: Sequence[Any] = result if isinstance(result, tuple | list) else ()
    return next((d for d in map(_dtype, members) if d is not None), None)
