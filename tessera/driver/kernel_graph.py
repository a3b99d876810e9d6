"""A kernel in a graph of torch's compiler: what its tracer asks for, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tessera.driver.opaque import NUMBER, TENSOR


def graph_form(kernel: Any, kinds: Any, names: tuple[str, ...]) -> tuple[int, Any, Any, Any]:
    """For torch's tracer: the number of the form that serves a call, what its arguments are, and which of those of the
    call are its tensors and its numbers; -1 for none.
    """
    kernel._ways.apart = torch.compiler.disable(_apart)  # here, where torch's compiler is loaded anyway
    served = None not in kinds and kernel._derivative is None
    found = kernel._ways.form(kinds, names, kernel._program_of) if served else None
    if found is None:
        return -1, (), (), ()
    made, places = found
    if made not in kernel._ways.numbered:
        kernel._ways.numbered.append(made)
    words = [p if isinstance(p, tuple) else _word(kinds[p]) for p in places]
    chosen = [tuple(p for p, w in zip(places, words, strict=True) if w == word) for word in (TENSOR, NUMBER)]
    return kernel._ways.numbered.index(made), tuple(words), chosen[0], chosen[1]


def _word(kind: tuple[Any, ...]) -> Any:
    """What an argument is to torch's graph: a tensor, a number, or a constant."""
    return NUMBER if kind[0] is float else TENSOR if isinstance(kind[0], torch.dtype) else (kind[1],)


graph_form._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _apart(kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call that stands between two graphs of torch's."""
    return kernel(*args, **kwargs)


__all__ = ["graph_form"]
