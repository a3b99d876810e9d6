"""Gradients of torch's own sample calls: compiled functions under autograd, judged against float64 and eager."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.testing._internal.opinfo.core import SampleInput

import tessera
from tessera.diag import TesseraError, TraceError
from tests.opinfo.harness import Entry, Outcome, Tensors, _same, _unseeded, _up, entries, flat, kernels, wrapped
from tests.ops.compare import difference, errors

Found = dict[str, Any]
#: How much larger than eager's the error of a gradient may be: it has that of the function and one of its own.
RATIO = 2.0
#: A gradient of few elements may be off where eager is lucky, as where a sum cancels. Then errors are compared over so
#: many draws of numbers, each somewhat nearer to zero than the sample's, where the error is not larger than this.
DRAWS, NEARER = 32, 2.0**-5
DRAWN = {torch.float32: 1e-4, torch.bfloat16: 0.5}
#: Gradients in float64 are compared with eager's: other formulas for the same slope differ in the last digits.
CLOSE = 1e-8
#: The same for a narrower tensor among those of float64, whose gradient rounds where torch likes.
CLOSE_NARROW = 1e-4


def differentiable(dtype: torch.dtype) -> list[Entry]:
    """The entries that torch differentiates in a dtype."""
    return [e for e in entries() if e.info.supports_autograd and dtype in e.info.supported_backward_dtypes("cpu")]


def samples(entry: Entry, dtype: torch.dtype) -> list[SampleInput]:
    """The samples of an entry whose tensors ask for gradients, the same ones at every call."""
    torch.manual_seed(7)
    return list(entry.info.sample_inputs("cpu", dtype, requires_grad=True))


def run_sample(entry: Entry, dtype: torch.dtype, number: int, sample: SampleInput) -> Outcome | None:
    """The gradients of one sample through the compiler; None where eager gives none."""
    with _unseeded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _run(entry, dtype, sample)
    if found is None:
        return None
    return Outcome(entry.name, str(dtype).removeprefix("torch."), number, **found)


def _run(entry: Entry, dtype: torch.dtype, sample: SampleInput) -> Found | None:
    function, tensors = wrapped(entry, (sample.input, *sample.args), sample.kwargs)
    leaves = [t for t in tensors if t.requires_grad and t.numel()]
    try:
        eager = _gradients(_seeded(entry, sample, 1), leaves)
        if eager is None:
            return None
        again = _gradients(_seeded(entry, sample, 2), leaves)
        alike = dtype is torch.float64 and all(t.dtype == dtype for t in tensors if t.is_floating_point())
        exact = eager if alike else _exact(entry, dtype, sample, leaves)
    except Exception:
        return None
    varies = again is None or not all(map(_same, eager, again))

    def call() -> list[Any]:
        torch.manual_seed(1)
        with tessera.backend("c"):
            return flat(function(*tensors))

    found = _compiled(call, leaves)
    if isinstance(found, dict):
        return found
    if function.cache_info().eager and all(t.numel() for t in tensors):
        return {"kind": "eager"}
    if varies:
        return {"kind": "ok", "kernels": kernels(function)}
    if exact is None:
        return None
    judge = _judged_wide if dtype is torch.float64 else _judged
    verdict = judge(found, eager, exact)
    if verdict["kind"] == "value" and verdict["error"] <= DRAWN.get(dtype, 0.0):
        drawn = _drawn(function, entry, dtype, sample)
        verdict = verdict if drawn is None else {"error": verdict["error"]} | drawn
    return verdict | {"kernels": kernels(function)}


def _drawn(function: Any, entry: Entry, dtype: torch.dtype, sample: SampleInput) -> Found | None:
    """The verdict over many draws of numbers; None where a draw tells no more."""
    generator = torch.Generator().manual_seed(5)

    def nearer(x: torch.Tensor) -> torch.Tensor:
        part = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        return (x.detach().double() * (1 - NEARER * part)).to(x.dtype).requires_grad_(x.requires_grad)

    squares: list[tuple[float, float]] = []
    for _ in range(DRAWS):
        drawn = sample.transform(_each_float(nearer))
        _, tensors = wrapped(entry, (drawn.input, *drawn.args), drawn.kwargs)
        leaves = [t for t in tensors if t.requires_grad and t.numel()]
        try:
            with tessera.backend("c"):
                got = _gradients(flat(function(*tensors)), leaves)
            eager, exact = _gradients(_seeded(entry, drawn, 1), leaves), _exact(entry, dtype, drawn, leaves)
        except Exception:
            return None
        if got is None or eager is None or exact is None:
            return None
        now = [errors(*three) for three in zip(got, eager, exact, strict=True)]
        before = squares or [(0.0, 0.0)] * len(now)
        squares = [(a + e * e, b + m * m) for (a, b), (e, m) in zip(before, now, strict=True)]
    for n, (error, allowed) in enumerate(squares):
        if error > RATIO**2 * allowed:
            text = f"{(error / allowed) ** 0.5:.3g} times eager's error over {DRAWS} draws"
            return {"kind": "value", "text": f"gradient {n}: {text}"}
    return {"kind": "ok"}


def _each_float(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], Any]:
    """The same for each float tensor, one that is given twice being one."""
    made: dict[int, torch.Tensor] = {}

    def changed(x: Any) -> Any:
        if not (isinstance(x, torch.Tensor) and x.is_floating_point()):
            return x
        if id(x) not in made:
            made[id(x)] = change(x)
        return made[id(x)]

    return changed


def _compiled(call: Callable[[], list[Any]], leaves: Tensors) -> Tensors | Found:
    try:
        found = _gradients(call(), leaves)
    except TesseraError as error:
        kind = "untraced" if isinstance(error, TraceError) else "refused"
        return {"kind": kind, "text": str(error), "code": error.code}
    except Exception as error:
        return {"kind": "crash", "text": f"{type(error).__name__}: {error}"}
    if found is None:
        return {"kind": "constant", "text": "the results have no gradient"}
    return found


def _seeded(entry: Entry, sample: SampleInput, seed: int) -> list[Any]:
    torch.manual_seed(seed)
    return flat(entry(sample.input, *sample.args, **sample.kwargs))


def _exact(entry: Entry, dtype: torch.dtype, sample: SampleInput, leaves: Tensors) -> Tensors | None:
    """The gradients in float64 at the same numbers, for cotangents rounded to the dtype of the results."""
    up = _each_float(lambda x: x.detach().double().requires_grad_(x.requires_grad))
    wide = sample.transform(lambda x: up(x) if isinstance(x, torch.Tensor) else _up(x))
    torch.manual_seed(1)
    results = flat(entry(wide.input, *wide.args, **wide.kwargs))
    return _gradients(results, [up(t) for t in leaves], dtype)


def _gradients(results: Sequence[Any], leaves: Tensors, rounded: torch.dtype | None = None) -> Tensors | None:
    """What random cotangents of the results give the leaves; zeros where nothing comes. None without a way back."""
    smooth = [y for y in results if isinstance(y, torch.Tensor) and y.requires_grad]
    if not smooth or not leaves:
        return None
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in smooth]
    cotangents = [g.to(rounded or y.dtype).to(y.dtype) for g, y in zip(drawn, smooth, strict=True)]
    found = torch.autograd.grad(smooth, leaves, cotangents, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g.detach() for x, g in zip(leaves, found, strict=True)]


def _judged(got: Tensors, eager: Tensors, exact: Tensors) -> Found:
    """By the errors of eager."""
    return _verdict(got, eager, exact, lambda n: difference(got[n], eager[n], exact[n], RATIO))


def _judged_wide(got: Tensors, eager: Tensors, exact: Tensors) -> Found:
    """In float64: equal to eager's, or to what eager gives where every float is one of float64."""
    return _verdict(got, eager, exact, lambda n: _close(got[n], eager[n]) and _close(got[n], exact[n]))


def _verdict(got: Tensors, eager: Tensors, exact: Tensors, different: Callable[[int], str | None]) -> Found:
    for n, (g, e) in enumerate(zip(got, eager, strict=True)):
        if g.shape != e.shape or g.dtype != e.dtype:
            text = f"{g.dtype} {tuple(g.shape)}, not {e.dtype} {tuple(e.shape)}"
            return {"kind": "type", "text": f"gradient {n}: {text}"}
        text = different(n)
        if text is not None:
            return {"kind": "value", "text": f"gradient {n}: {text}", "error": _distance(g, exact[n])}
    return {"kind": "ok"}


def _close(got: torch.Tensor, want: torch.Tensor) -> str | None:
    scale = float(want[want.isfinite()].abs().max()) if want.isfinite().any() else 0.0
    bound = CLOSE if got.dtype == torch.float64 else CLOSE_NARROW
    if torch.allclose(got, want.to(got.dtype), rtol=bound, atol=bound * scale + 1e-12, equal_nan=True):
        return None
    return f"{float((got - want).abs().max()):.3g} off, of {scale:.3g}"


def _distance(got: torch.Tensor, exact: torch.Tensor) -> float:
    here = got.isfinite() & exact.isfinite()
    x, y = (torch.where(here, v.double(), 0.0) for v in (got, exact))
    return float((x - y).norm() / y.norm().clamp_min(1e-300))
