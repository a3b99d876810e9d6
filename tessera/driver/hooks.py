"""Hooks of modules that a trace would run into: they see real tensors or none."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from tessera.diag import TraceError

#: Where a module keeps what is to be called around its forward and its backward.
_KEPT = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def refusal(objects: Iterable[object], receiver: object) -> TraceError | None:
    """Why a function that reaches these objects cannot become one program: a module among them has hooks.

    Those of the receiver itself run around the function, as ever.
    """
    for x in objects:
        if isinstance(x, torch.nn.Module) and x is not receiver and any(vars(x).get(kept) for kept in _KEPT):
            name = _name(receiver, x)
            return TraceError(
                f"{name} has hooks, which take real tensors", code="TSR0416",
                notes=["the modules inside are compiled one by one, and hooks run between them"],
            )  # fmt: skip
    return None


def _name(receiver: object, inner: torch.nn.Module) -> str:
    """How the user reaches a module."""
    if isinstance(receiver, torch.nn.Module):
        for name, one in receiver.named_modules():
            if one is inner:
                return f"`self.{name}`"
    return f"a module of class {type(inner).__name__}"
