"""Fused against eager against float64: errors, times, kernels and bytes of one call, side by side."""

from __future__ import annotations

import html
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tessera.diag import TraceError, user_frames
from tessera.driver import devices
from tessera.driver.decorated import Function
from tessera.driver.inspect import cost
from tessera.driver.layout import TABLE
from tessera.frontend.accept import require_decorated
from tessera.frontend.trace import Traced
from tessera.frontend.tree import flatten, unflatten
from tessera.ir.interp import interpret
from tessera.ir.types import ScalarType
from tessera.runtime.pieces import Pieces

#: A side is timed until it has run so long, in seconds, or so often.
TIMED_SECONDS, TIMED_CALLS = 0.4, 50


@dataclass(frozen=True)
class OutputError:
    """Errors of one output against float64: relative L2 norm, and the largest error in units of the last place."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    fused: float
    eager: float
    fused_ulp: float
    eager_ulp: float
    same_special: bool

    @property
    def closer(self) -> bool:
        """Is the fused result at least as close to float64 as the eager one, and NaN or infinite where that is?"""
        return self.fused <= self.eager and self.same_special


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` measured. ``seconds`` are medians; ``bytes`` are counted, not measured. Prints as a table."""

    name: str
    outputs: tuple[OutputError, ...]
    fused_seconds: float
    eager_seconds: float
    fused_kernels: int
    eager_kernels: int
    fused_bytes: int
    eager_bytes: int
    least_bytes: int

    @property
    def speedup(self) -> float:
        """Eager time over fused time."""
        return self.eager_seconds / self.fused_seconds

    @property
    def closer(self) -> bool:
        """Is every output at least as close to float64 as eager's?"""
        return all(o.closer for o in self.outputs)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The table: what, fused, eager, and their relation."""
        rows = [("", "fused", "eager", "eager/fused")]
        rows.append(("time", _time(self.fused_seconds), _time(self.eager_seconds), f"{self.speedup:.2f}x"))
        rows.append(
            (
                "kernels",
                str(self.fused_kernels),
                str(self.eager_kernels),
                _ratio(self.eager_kernels, self.fused_kernels),
            )
        )
        rows.append(
            ("bytes", _bytes(self.fused_bytes), _bytes(self.eager_bytes), _ratio(self.eager_bytes, self.fused_bytes))
        )
        for o in self.outputs:
            fused, eager = f"{o.fused:.2e}", f"{o.eager:.2e}"
            if not o.same_special:
                rows.append((f"error {o.name}", fused, eager, "NaN or infinity elsewhere than eager"))
                continue
            verdict = "as close" if fused == eager else f"{'closer to' if o.closer else 'farther from'} float64"
            rows.append((f"error {o.name}", fused, eager, verdict))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(r[n]) for r in rows) for n in range(4)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        return "\n".join([f"{self.name}: lower bound {_bytes(self.least_bytes)}", *lines])

    def _repr_html_(self) -> str:
        head, *rest = self.rows()
        cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rest)
        return f"<table><caption>{html.escape(self.name)}</caption><tr>{cells}</tr>{body}</table>"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.1f} us"


def _bytes(n: int) -> str:
    return f"{n / 2**20:.2f} MiB" if n >= 2**20 else f"{n / 2**10:.2f} KiB" if n >= 2**10 else f"{n} B"


def _ratio(a: int, b: int) -> str:
    return f"{a / b:.2f}x" if b else "-"


@user_frames
def compare(f: Function[..., Any], *args: Any, **kwargs: Any) -> Comparison:
    """Run a function fused and eagerly on the same arguments and measure both against float64.

    The reference is the float64 interpreter on the traced IR. Times are medians of interleaved calls. Raises
    TraceError when the function cannot be traced, or lacks the decorator (TSR0409).
    """
    require_decorated(f, Function)
    resolved = f.resolve(*args, **kwargs)
    variant, sizes = resolved.variant, resolved.types.hints
    exact = [o for o in reference(f, resolved) if isinstance(o, np.ndarray)]
    mine, others = (_Arguments.of(f, args, kwargs) for _ in range(2))
    fused_leaves = mine.leaves(f(*mine.args, **mine.kwargs), variant.traced)
    eager_leaves = others.leaves(f.eager(*others.args, **others.kwargs), variant.traced)
    if not len(exact) == len(fused_leaves) == len(eager_leaves):
        raise TraceError(f"`{f.spec.name}` returns something else when it is traced", code="TSR0407")
    names = [getattr(v, "name", f"output {n}") for n, v in enumerate(variant.traced.function.outputs)]
    outputs = tuple(
        _error(name, a, b, c) for name, a, b, c in zip(names, fused_leaves, eager_leaves, exact, strict=True)
    )

    def fused_side() -> None:
        f(*mine.args, **mine.kwargs)
        devices.wait(variant.device)

    def eager_side() -> None:
        f.eager(*others.args, **others.kwargs)
        devices.wait(variant.device)

    seconds = interleaved([fused_side, eager_side])
    report = cost(variant, f.spec.name)
    return Comparison(
        f.spec.name, outputs, seconds[0], seconds[1], report.fused.kernels, report.eager.kernels,
        report.fused.bytes.evaluate(sizes), report.eager.bytes.evaluate(sizes), report.least.evaluate(sizes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Arguments:
    """The arguments of one side: copies, where the function writes to them."""

    f: Function[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @staticmethod
    def of(f: Function[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Arguments:
        if not f.spec.updates:
            return _Arguments(f, args, kwargs)
        leaves, tree = flatten((args, kwargs), TABLE.is_tensor)
        copied = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in leaves]
        own_args, own_kwargs = unflatten(tree, copied)
        return _Arguments(f, own_args, own_kwargs)

    def leaves(self, result: Any, traced: Traced) -> list[torch.Tensor]:
        """The tensors of a result, and behind them the arguments that the function has written to."""
        found = [x for x in flatten(result, TABLE.is_tensor)[0] if isinstance(x, torch.Tensor)]
        if not traced.function.updates:
            return found
        given = self.f.resolve(*self.args, **self.kwargs).given()
        values = dict(zip(traced.function.params, given, strict=True))
        written = (values[p] for p in traced.function.updates)
        return found + [x.joined() if isinstance(x, Pieces) else x.clone() for x in written]


def reference(f: Function[..., Any], resolved: Any) -> list[Any]:
    """The function's outputs in float64, through the interpreter."""
    traced = resolved.variant.traced
    given: list[Any] = []
    for x, p in zip(resolved.given(), traced.function.params, strict=True):
        given.append(x if isinstance(p.type, ScalarType) else to_numpy(x))
    return list(interpret(traced.function, given, sizes=resolved.types.hints))


def to_numpy(x: torch.Tensor | Pieces) -> Any:
    """A tensor's values as the interpreter takes them: floats in float64, all others exactly."""
    x = (x.joined() if isinstance(x, Pieces) else x).detach().cpu()
    return (x.double() if x.is_floating_point() else x).numpy()


def _error(name: str, fused: torch.Tensor, eager: torch.Tensor, exact: Any) -> OutputError:
    want = np.asarray(exact, dtype=np.float64)
    a, b = (np.asarray(to_numpy(x), dtype=np.float64) for x in (fused, eager))
    good = np.isfinite(want) & np.isfinite(a) & np.isfinite(b)
    norm = float(np.linalg.norm(want[good])) or 1.0
    special = bool(np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(np.isinf(a), np.isinf(b)))
    unit = _ulp(want[good], fused.dtype)
    errors = [a[good] - want[good], b[good] - want[good]]
    ulps = [float(np.max(np.abs(e) / unit, initial=0.0)) for e in errors]
    return OutputError(
        name, str(fused.dtype).removeprefix("torch."), tuple(fused.shape), float(np.linalg.norm(errors[0])) / norm,
        float(np.linalg.norm(errors[1])) / norm, ulps[0], ulps[1], special,
    )  # fmt: skip


def _ulp(x: Any, dtype: torch.dtype) -> Any:
    """The distance between neighbours of ``dtype`` around each value, not below that at its smallest normal."""
    if not dtype.is_floating_point:
        return np.ones_like(x)
    info = torch.finfo(dtype)
    return 2.0 ** np.floor(np.log2(np.maximum(np.abs(x), info.tiny))) * info.eps


def interleaved(sides: Sequence[Callable[[], object]]) -> list[float]:
    """The median seconds of each side, called in turn after one warm round."""
    for side in sides:
        side()
    times: list[list[float]] = [[] for _ in sides]
    end = time.perf_counter() + TIMED_SECONDS * len(sides)
    while len(times[0]) < 3 or (len(times[0]) < TIMED_CALLS and time.perf_counter() < end):
        for spent, side in zip(times, sides, strict=True):
            start = time.perf_counter()
            side()
            spent.append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


__all__ = ["Comparison", "OutputError", "compare", "interleaved", "reference", "to_numpy"]
