"""A definition whose annotations are texts, one of them wrong."""

from __future__ import annotations

from typing import Any

from tessera import Tensor


def with_text(x: Tensor[B, "D E"]) -> Any:  # type: ignore  # noqa: F722
    return x
