"""Contexts that change how calls run, and text that becomes IR."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from tessera import config
from tessera.diag import user_frames
from tessera.ir.graph import Function as IRFunction
from tessera.ir.parser import parse as parse_text
from tessera.ir.verify import verify


@user_frames
def backend(name: str) -> AbstractContextManager[object]:
    """Run compiled functions by this backend inside a ``with`` block: ``auto``, ``c``, ``triton`` or ``eager``.

    Only this thread is affected. Raises ConfigError (TSR0609) for any other name.

    >>> with backend("eager"):
    ...     pass
    """
    with config.override(backend=name):
        pass  # another name is refused here, before the block
    return config.override(backend=name)


@user_frames
def parse(text: str) -> IRFunction:
    """The IR function that a dump says: ``parse(f.ir())`` equals what was printed.

    Raises ParseError (TSR0501 to TSR0505) with line and column, and VerifyError (TSR0504) for text that reads but
    means nothing.
    """
    f = parse_text(text)
    verify(f)
    return f


def backends() -> tuple[str, ...]:
    """The backends that can run on this machine."""
    found = ["c", "eager"]
    if torch.cuda.is_available():
        found.insert(0, "triton")
    return tuple(found)


def manual_seed(seed: int) -> torch.Generator:
    """Seed torch's generator, from which every random op draws its key: the same seed gives the same numbers."""
    return torch.manual_seed(seed)
