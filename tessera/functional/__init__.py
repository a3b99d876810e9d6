"""The functional API, ``tessera.exp(x)`` and the like: one function per op record.

On the tensors of a traced function it appends to the graph; on torch tensors it runs at once, through
torch, after the shapes were checked by the record's own rules. ``axis=`` is accepted for ``dim=``
everywhere.

>>> import torch
>>> from tessera import functional
>>> functional.softmax(torch.zeros(2, 4), axis=-1)[0].tolist()
[0.25, 0.25, 0.25, 0.25]
"""

from collections.abc import Callable
from typing import Any

from tessera.functional.run import FUNCTIONS


def __getattr__(name: str) -> Callable[..., Any]:
    """For type checkers, which do not see names that come from a table."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


#: Rooms of the package: a function of such a name would hide the room.
_ROOMS = frozenset({"diag", "config", "ir", "passes", "schedule", "backends", "runtime", "driver", "cli", "ops", "nn"})

__all__ = sorted(FUNCTIONS.keys() - _ROOMS)
# Names such as `sum` and `abs` hide Python's own from here on: nothing may follow.
globals().update(FUNCTIONS)
