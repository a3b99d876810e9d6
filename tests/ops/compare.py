"""The rule every result is judged by: no further from float64 than eager torch, or than one rounding."""

from __future__ import annotations

import torch

#: How much larger than eager's an error may be.
RATIO = 1.05
#: Results of fewer elements say little about an error on average: there one rounding is what it may be at most.
FEW = 256


def difference(got: torch.Tensor, eager: torch.Tensor | None, exact: torch.Tensor) -> str | None:
    """Why ``got`` is not acceptable, or None.

    ``exact`` is the result in float64 (other dtypes as they are), ``eager`` torch's in the dtype under test.
    Shape and dtype are eager's. Integers and bools equal one of the two. Floats are NaN or infinite where one of the
    two is, and the norm of the error is at most ``RATIO`` times that of eager, or of rounding ``exact`` once.
    """
    like = eager if eager is not None else got
    if got.shape != exact.shape or got.shape != like.shape:
        return f"shape {tuple(got.shape)}, not {tuple(like.shape)} ({tuple(exact.shape)} in float64)"
    if got.dtype != like.dtype:
        return f"dtype {got.dtype}, not {like.dtype}"
    if not got.dtype.is_floating_point:
        ok = got == exact.to(got.dtype)
        if eager is not None:
            ok = ok | (got == eager)
        return None if bool(ok.all()) else f"{int((~ok).sum())} of {got.numel()} integers differ"
    return _floats(got, eager, exact.double())


def _floats(got: torch.Tensor, eager: torch.Tensor | None, exact: torch.Tensor) -> str | None:
    rounded = exact.to(got.dtype)
    kinds = _kind(got) == _kind(rounded)
    if eager is not None:
        kinds = kinds | (_kind(got) == _kind(eager))
    if not bool(kinds.all()):
        at = tuple(int(i) for i in (~kinds).nonzero()[0])
        return f"{float(got[at])} where float64 has {float(exact[at])}" + (f" and eager {float(eager[at])}" if eager is not None else "")
    here = got.isfinite() & exact.isfinite() & rounded.isfinite()
    error = _norm(got, exact, here)
    floor = _norm(rounded, exact, here)
    if got.numel() < FEW:
        floor = max(floor, _half_ulps(exact, got.dtype, here))
    allowed = floor
    if eager is not None:
        # Where eager overflows or underflows to NaN its error is not a number; there the floor decides.
        allowed = max(allowed, _norm(eager, exact, here & eager.isfinite()))
    if error <= RATIO * allowed or error == 0.0:
        return None
    scale = _norm(exact, torch.zeros_like(exact), here)
    return f"relative error {error / scale if scale else error:.3g}, allowed {allowed / scale if scale else allowed:.3g}"


def _kind(x: torch.Tensor) -> torch.Tensor:
    """0 for finite, 1 for NaN, 2 and 3 for the infinities."""
    return x.isnan() + 2 * x.isposinf() + 3 * x.isneginf()


def _norm(x: torch.Tensor, exact: torch.Tensor, here: torch.Tensor) -> float:
    """Euclidean norm of x - exact where ``here`` holds, safe from overflow and underflow."""
    d = torch.where(here, x.double() - exact, 0.0).abs()
    top = float(d.max()) if d.numel() else 0.0
    if top == 0.0:
        return 0.0
    return top * float((d / top).square().sum().sqrt())


def _half_ulps(exact: torch.Tensor, dtype: torch.dtype, here: torch.Tensor) -> float:
    """The norm of the largest errors that rounding once can make."""
    info = torch.finfo(dtype)
    size = exact.abs().clamp_min(float(info.smallest_normal))
    _, exponent = torch.frexp(torch.where(here, size, 1.0))
    half = torch.ldexp(torch.full_like(exact, float(info.eps) / 4), exponent)
    return _norm(torch.where(here, half, 0.0), torch.zeros_like(exact), here)
