"""Attributes that a kernel reads: of views and blocks, and the sizes and settings of ``tile.context()``."""

from __future__ import annotations

import re
from typing import Any

from tessera.diag import ShapeError, TraceError
from tessera.frontend.handles import SizeHandle
from tessera.frontend.kernel.session import KernelSession
from tessera.frontend.kernel.values import Context, Method
from tessera.ir.dim import Dim
from tessera.ir.dim_parse import parse_dim

#: Block sizes that a kernel may ask for; they are sizes of the program, fixed when it is called.
BLOCKS = ("block_m", "block_n", "block_k")
#: Settings with plain values.
SETTINGS = ("num_warps", "num_stages", "num_threads")
_LETTERS = re.compile(r"[^A-Za-z0-9_]+")


def attribute_of(session: KernelSession, base: Any, name: str) -> Any:
    """``x.shape`` and the like. Raises TraceError (TSR0404) for what there is not."""
    if isinstance(base, Context):
        return of_context(session, name)
    if isinstance(base, SizeHandle):
        session.refuse(TraceError, "TSR0404", f"a size has no attribute `{name}`", "not known")
    if name == "shape":
        return tuple(session.given(d) for d in base.dims)
    if name == "ndim":
        return len(base.dims)
    if name == "dtype":
        return base.dtype
    if name in ("T", "mT"):
        return session.do("transpose", base, -2, -1)
    return Method(base, name)


def dim_names(session: KernelSession) -> dict[str, Dim]:
    """The sizes that a context has, by name: those of the signature, and its products without their signs."""
    spec = session.scopes[0]
    found = {name: Dim.name(name) for name in spec.dim_names}
    for p in spec.params:
        for a in p.hint.tensors():
            for d in a.fixed:
                if not d.is_name and not d.is_const:
                    found.setdefault(_LETTERS.sub("", str(d)), d)
    return found


def of_context(session: KernelSession, name: str) -> Any:
    """``ctx.S``, ``ctx.block_m``, ``ctx.backend`` …"""
    if name == "dim":
        return Method(Context(session), "dim")
    known = dim_names(session)
    if name in known:
        return session.given(known[name].substitute(dict(session.known or {})))
    if name in BLOCKS:
        session.settings["blocks"].add(name)
        return session.given(Dim.name(name))
    if name in SETTINGS or name == "backend":
        return session.settings.get(name)
    names = ", ".join((*known, *BLOCKS, *SETTINGS, "backend"))
    session.refuse(TraceError, "TSR0404", f"the context has no `{name}`", "not known", helps=[f"there are {names}"])


def of_expression(session: KernelSession, text: Any) -> Any:
    """``ctx.dim("D/2")``."""
    try:
        found = parse_dim(str(text))
    except ShapeError as error:
        session.refuse(ShapeError, error.code, error.message, "no size")
    if not found.names() <= set(session.scopes[0].dim_names):
        session.refuse(ShapeError, "TSR0110", f"`{found}` has names that the signature does not have", "not known")
    return session.given(found)


__all__ = ["BLOCKS", "SETTINGS", "attribute_of", "dim_names", "of_expression"]
