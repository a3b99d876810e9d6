"""The call that a function serves again and again, recognised at once.

torch keeps a compiled check of tensors for its own compiler: in one call it compares type, dtype, device, sizes,
strides, gradients and every dispatch key (those of modes, transforms, autocast, negation and conjugation too) with
those of the tensors that it was made for. It is not a public interface; where a torch lacks it, or it does not say yes
to the very tensors it was made for, calls take the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

_TensorGuards: Any = getattr(getattr(getattr(torch._C, "_dynamo", None), "guards", None), "TensorGuards", None)


class Recent:
    """A signature that came twice in a row, and what serves it.

    ``check(*args)`` tells whether a call has it; ``count`` is the number of its arguments, all tensors, and
    ``settings`` and the default ``dtype`` were in force.
    """

    __slots__ = ("check", "count", "dtype", "entry", "settings")

    def __init__(self, check: Callable[..., bool], count: int, entry: Callable[..., Any], settings: object) -> None:
        self.check = check
        self.count = count
        self.entry = entry
        self.settings = settings
        self.dtype = torch.get_default_dtype()


def recent_call(tensors: Sequence[torch.Tensor], entry: Callable[..., Any], settings: object) -> Recent | None:
    """What recognises calls with tensors like these; None where torch cannot. Where one of them learns, the entry has
    to see whether gradients are recorded at all.

    >>> import torch
    >>> x, y = torch.ones(3), torch.zeros(3)
    >>> found = recent_call([x, y], lambda tensors, numbers: "served", None)
    >>> found.check(x, y), found.check(y, x), found.check(x, y[:2]), found.check(x, y.double())
    (True, True, False, False)

    One tensor given twice is not recognised.
    """
    if not tensors:
        return None
    check = tensor_check(tensors)
    return None if check is None else Recent(check, len(tensors), entry, settings)


def tensor_check(tensors: Sequence[torch.Tensor]) -> Callable[..., bool] | None:
    """Whether tensors are like these in all that compiled code depends on; None where torch cannot tell."""
    if _TensorGuards is None:
        return None
    try:
        check: Callable[..., bool] = _TensorGuards(
            *tensors,
            dynamic_dims_sizes=[list(t.shape) for t in tensors],
            dynamic_dims_strides=[list(t.stride()) for t in tensors],
        ).check
        return check if check(*tensors) is True else None
    except (RuntimeError, TypeError, ValueError):
        return None
