"""The rule every result is judged by: no further from float64 than eager torch, or than one rounding."""

from __future__ import annotations

import torch

#: How much larger than eager's an error may be.
RATIO = 1.05
#: Fewer elements say little about an error on average, and eager may be lucky: there the bound is three roundings, or
#: three times the error of eager. That the ratio holds is seen on larger tensors.
FEW, FEW_RATIO = 256, 3.0


def difference(
    got: torch.Tensor, eager: torch.Tensor | None, exact: torch.Tensor, ratio: float = RATIO
) -> str | None:
    """Why ``got`` is not acceptable, or None.

    ``exact`` is the result in float64 (other dtypes as they are), ``eager`` torch's in the dtype under test.
    Shape and dtype are eager's. Integers and bools equal one of the two. Floats are NaN or infinite where one of the
    two is, and the norm of the error is at most ``ratio`` times that of eager, or of rounding ``exact`` once.
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
    return _floats(got, eager, exact.double(), ratio)


def _floats(got: torch.Tensor, eager: torch.Tensor | None, exact: torch.Tensor, ratio: float) -> str | None:
    if got.dtype.itemsize == 1:
        return (
            None
            if bool((got.float() == exact.to(got.dtype).float()).logical_or(got.isnan() & exact.isnan()).all())
            else "8-bit floats differ"
        )
    rounded = exact.to(got.dtype)
    if eager is not None and _is_lost(eager, exact):
        return None
    kinds = _kind(got) == _kind(rounded)
    if eager is not None:
        kinds = kinds | (_kind(got) == _kind(eager))
        # Where a sum overflows, the order of its terms decides between the infinities and NaN.
        kinds = kinds | ~(got.isfinite() | eager.isfinite() | rounded.isfinite())
    if not bool(kinds.all()):
        at = tuple(int(i) for i in (~kinds).nonzero()[0])
        return f"{float(got[at])} where float64 has {float(exact[at])}" + (
            f" and eager {float(eager[at])}" if eager is not None else ""
        )
    error, allowed = errors(got, eager, exact)
    ratio = max(ratio, FEW_RATIO) if _is_few(got) else ratio
    if error <= ratio * allowed or error == 0.0:
        return None
    scale = _norm(exact, torch.zeros_like(exact), exact.isfinite())
    return (
        f"relative error {error / scale if scale else error:.3g}, allowed {allowed / scale if scale else allowed:.3g}"
    )


def errors(got: torch.Tensor, eager: torch.Tensor | None, exact: torch.Tensor) -> tuple[float, float]:
    """The norm of the error where all is finite, and that of eager, or of rounding once where that is more."""
    rounded = exact.to(got.dtype)
    here = got.isfinite() & exact.isfinite() & rounded.isfinite()
    once = _half_ulps(exact, got.dtype, here)
    floor = max(_norm(rounded, exact, here), once * 3**-0.5)  # what rounding makes on average
    if _is_few(got):
        floor = max(floor, once)
    return _norm(got, exact, here), floor if eager is None else max(floor, _norm(eager, exact, here))


def _is_few(x: torch.Tensor) -> bool:
    return x.numel() < FEW or x.dtype == torch.float64  # float64 is no judge of itself


def _is_lost(eager: torch.Tensor, exact: torch.Tensor) -> bool:
    """Has eager itself no digit right, as where a square overflows? Then nothing can be asked."""
    here = exact.isfinite()
    if not bool(eager.isfinite()[here].all()):
        return bool(exact[here].abs().max() <= torch.finfo(eager.dtype).max)
    return _norm(eager, exact, here) > 0.5 * _norm(exact, torch.zeros_like(exact), here) > 0.0


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
