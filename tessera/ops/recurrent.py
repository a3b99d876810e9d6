"""Attention that carries a state from position to position, so that its work grows with the length of a sequence and
not with its square. Each is one kernel, and written as the recurrence that defines it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

import tessera
from tessera import DTypeError, ShapeError, Tensor


def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    return_state: bool = False,
) -> Any:
    """Causal attention without softmax: ``hₜ = hₜ₋₁ + kₜ vₜᵀ`` and ``oₜ = scale · hₜᵀ qₜ``, a tensor ``[B, H, S, E]``.

    The shapes are q and k ``[B, H, S, D]`` and v ``[B, H, S, E]``, all three in one floating dtype, which is that of
    the result. The state is kept in float32, or in float64 beside float64.

    - ``scale``: 1/√D unless given.
    - ``initial_state``: h₀, ``[B, H, D, E]``; zero unless given.
    - ``return_state``: also give the last state, ``[B, H, D, E]``.

    On tensors it runs compiled; inside a `tessera.function` it becomes part of it. Raises ShapeError for ranks or
    sizes that do not fit, and DTypeError for q, k and v of different dtypes or of integers.

    Source: Katharopoulos et al. 2020, arXiv:2006.16236, without feature map and denominator.

    >>> import torch
    >>> from tessera import ops
    >>> one = torch.ones(1, 1, 3, 1)
    >>> ops.linear_attention(one, one, one)[0, 0, :, 0].tolist()
    [1.0, 2.0, 3.0]
    """
    return _run(q, k, v, None, None, scale, initial_state, return_state)


def gated_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    return_state: bool = False,
) -> Any:
    """As ``linear_attention`` with a state that decays: ``hₜ = exp(gₜ) hₜ₋₁ + kₜ vₜᵀ``.

    ``g`` is the logarithm of the decay, at most 0 as a rule: ``[B, H, S, D]`` for one of each row of the state, or
    ``[B, H, S]`` for one of all of it. Everything else is as for ``linear_attention``.

    Source: Yang et al. 2023, arXiv:2312.06635; with ``[B, H, S]``, Dao and Gu 2024, arXiv:2405.21060.

    >>> import torch
    >>> from tessera import ops
    >>> one = torch.ones(1, 1, 3, 1)
    >>> ops.gated_linear_attention(one, one, one, (one / 2).log())[0, 0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    return _run(q, k, v, g, None, scale, initial_state, return_state)


def delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    beta: torch.Tensor,
    g: torch.Tensor | None = None,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    return_state: bool = False,
) -> Any:
    """As ``linear_attention`` where a value replaces what its key held: ``hₜ = h + βₜ kₜ (vₜ - hᵀ kₜ)ᵀ``.

    Here h is ``hₜ₋₁``, or ``exp(gₜ) hₜ₋₁`` where ``g`` is given (see ``gated_linear_attention``). ``beta`` is
    ``[B, H, S]``, from 0 to 1 as a rule, and keys are of length 1 as a rule; neither is seen to here. Everything else
    is as for ``linear_attention``.

    Source: Schlag et al. 2021, arXiv:2102.11174; with ``g``, Yang et al. 2024, arXiv:2412.06464.

    >>> import torch
    >>> from tessera import ops
    >>> one = torch.ones(1, 1, 3, 1)
    >>> ops.delta_rule(one, one, 2 * one, 0.5 * one[..., 0])[0, 0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    return _run(q, k, v, g, beta, scale, initial_state, return_state)


def _run(q: Any, k: Any, v: Any, g: Any, beta: Any, scale: Any, state: Any, return_state: bool) -> Any:
    ranks = {"q": (q, 4), "k": (k, 4), "v": (v, 4), "beta": (beta, 3), "initial_state": (state, 4)}
    for name, (x, rank) in ranks.items():
        if x is not None and x.ndim != rank:
            raise ShapeError(
                f"`{name}` of rank {x.ndim}, not {rank}",
                code="TSR0204",
                helps=["give queries, keys and values as [batch, heads, positions, width]"],
            )
    if g is not None and g.ndim not in (3, 4):
        raise ShapeError(
            f"`g` of rank {g.ndim}",
            code="TSR0204",
            helps=["give decays as [batch, heads, positions, width of a key] or [batch, heads, positions]"],
        )
    kinds = {name: str(x.dtype).removeprefix("torch.") for name, x in (("q", q), ("k", k), ("v", v))}
    if len(set(kinds.values())) > 1 or not q.dtype.is_floating_point:
        raise DTypeError(
            ", ".join(f"`{name}` is {kind}" for name, kind in kinds.items()),
            code="TSR0301",
            helps=["give queries, keys and values in one floating dtype"],
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if not isinstance(q, torch.Tensor):
        return _recur(q, k, v, g, beta, scale, state, return_state)
    program = _program(None if g is None else g.ndim, beta is not None, state is not None)
    return program(q, k, v, g, beta, scale, state, return_state)


@lru_cache(maxsize=64)
def _program(gate: int | None, corrects: bool, begun: bool) -> Callable[..., Any]:
    """The compiled form for the tensors that are given."""

    def recurrence(
        q: Tensor["B", "H", "S", "D"],
        k: Tensor["B", "H", "S", "D"],
        v: Tensor["B", "H", "S", "E"],
        g: Any,
        beta: Any,
        scale: float,
        initial_state: Any,
        return_state: bool,
    ) -> Any:
        return _recur(q, k, v, g, beta, scale, initial_state, return_state)

    given = {
        "g": None if gate is None else Tensor[("B", "H", "S", "D")[:gate]],
        "beta": Tensor["B", "H", "S"] if corrects else None,
        "initial_state": Tensor["B", "H", "D", "E"] if begun else None,
    }
    recurrence.__annotations__.update(given)
    return tessera.function(recurrence)


# -- the definition -------------------------------------------------------------------------------


def _recur(q: Any, k: Any, v: Any, g: Any, beta: Any, scale: Any, state: Any, return_state: bool) -> Any:
    dtype = q.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if state is None:
        state = torch.zeros((*q.shape[:2], q.shape[-1], v.shape[-1]), dtype=wide)
    state = state.to(wide)
    given = {"q": q, "k": k, "v": v, "g": g, "beta": beta}
    xs = {name: x.to(wide) for name, x in given.items() if x is not None}

    def step(h: Any, x: dict[str, Any]) -> tuple[Any, Any]:
        if g is not None:
            decay = x["g"].exp()
            h = h * (decay[..., None] if g.ndim == 4 else decay[..., None, None])
        new = x["v"]
        if beta is not None:
            new = x["beta"][..., None] * (new - (x["k"][..., None, :] @ h)[..., 0, :])
        h = h + x["k"][..., :, None] * new[..., None, :]
        return h, ((x["q"] * scale)[..., None, :] @ h)[..., 0, :].to(dtype)

    last, outputs = tessera.scan(step, state, xs, dim=2)
    return (outputs, last) if return_state else outputs
