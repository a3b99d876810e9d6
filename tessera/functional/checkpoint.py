"""The public ``checkpoint_region``: what a derivative computes again instead of keeping it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from tessera.diag import Diagnostic, Help, Label, TraceError, caller_span, user_frames
from tessera.frontend.eagerly import runs_eagerly
from tessera.frontend.region import region
from tessera.frontend.session import current


@user_frames
def checkpoint_region() -> AbstractContextManager[None]:
    """What is computed inside of the ``with`` block is computed again in the backward pass, and not kept for it.

    Of the values made inside only those that are read outside of the block may be kept. For use in traced functions;
    anywhere else Python has no way to carry out the block again, and this raises TraceError (TSR0415). Where a function
    runs eagerly the block changes nothing.

    >>> import tessera, torch
    >>> from tessera import Tensor
    >>> @tessera.function
    ... def block(x: Tensor["B", "D"], w: Tensor["D", "K"]) -> Tensor["B", "K"]:
    ...     with tessera.checkpoint_region():
    ...         hidden = torch.tanh(torch.exp(x))
    ...     return hidden @ w
    >>> x, w = torch.zeros(2, 3, requires_grad=True), torch.ones(3, 4, requires_grad=True)
    >>> block(x, w).sum().backward()
    >>> tuple(x.grad.shape)
    (2, 3)
    """
    session = current()
    if session is not None:
        return region(session)
    if runs_eagerly():
        return nullcontext()
    span = caller_span()
    labels = () if span is None else (Label(span, "no traced function around this", True),)
    helps = (Help("decorate the function whose values shall not be kept with `tessera.checkpoint`"),)
    raise TraceError.from_diagnostics(
        [Diagnostic("TSR0415", "region of recomputation outside of a traced function", labels, (), helps)]
    )
