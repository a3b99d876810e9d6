"""What needs no clock: errors against float64, kernels and bytes, and how many forms fifty shapes compile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

import tessera
from benchmarks import peers
from benchmarks.cases import CASES, Case
from benchmarks.job import Job
from tessera import Tensor
from tessera.driver.progress import Progress

#: Fifty (B, S): ones, odd and even sizes, multiples of 16, primes.
PAIRS = tuple((b, s) for b in (1, 2, 3, 5, 16) for s in (1, 2, 7, 8, 15, 16, 17, 31, 64, 128))


@tessera.function
def normalise(x: Tensor["B", "S", "D"], weight: Tensor["D"]) -> Tensor["B", "S", "D"]:
    """RMSNorm, for the count of variants alone."""
    return x * tessera.rsqrt(tessera.mean(x**2, dim=-1, keepdim=True) + 1e-6) * weight


def tensors(result: object) -> tuple[torch.Tensor, ...]:
    """The tensors of a result, which is one or a tuple of them."""
    if isinstance(result, torch.Tensor):
        return (result,)
    return tuple(item for item in result if isinstance(item, torch.Tensor)) if isinstance(result, tuple) else ()


def widened(arguments: Sequence[object]) -> tuple[object, ...]:
    """The same arguments with float tensors in float64."""
    return tuple(a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments)


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """The L2 norm of the difference over that of the reference; infinite where only one has NaN.

    >>> relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0], dtype=torch.float64))
    0.1
    """
    wide = value.double()
    if not torch.equal(wide.isnan(), reference.isnan()):
        return math.inf
    norm = reference.nan_to_num().norm().item()
    error = (wide - reference).nan_to_num().norm().item()
    return error / norm if norm else error


def errors(case: Case, quick: bool) -> list[dict[str, Any]]:
    """One row for each result: relative errors of Tessera, of its eager form, of the plain torch function.

    `floor` is the error of rounding the float64 result once; `ratio` is Tessera's error over the larger of
    that and the eager one.
    """
    arguments = case.make(quick)
    references = tensors(case.torch(*widened(arguments)))
    fused = tensors(case.function(*arguments))
    eager = tensors(case.function.eager(*arguments))  # type: ignore[attr-defined]
    plain = tensors(case.torch(*arguments))
    rows = []
    for number, (reference, *values) in enumerate(zip(references, fused, eager, plain, strict=True)):
        found = [relative_error(value, reference) for value in values]
        floor = relative_error(reference.to(values[0].dtype), reference)
        limit = max(found[1], floor)
        rows.append(
            {
                "case": case.name,
                "result": number,
                "tessera": found[0],
                "eager": found[1],
                "torch": found[2],
                "floor": floor,
                "ratio": found[0] / limit if limit else float(found[0] > 0),
            }
        )
    return rows


def kernels(case: Case, quick: bool) -> dict[str, Any]:
    """Kernels of a case, library calls among them, and the bytes they move over the fewest possible."""
    arguments = case.make(quick)
    lowered = case.function.lower(*arguments)  # type: ignore[attr-defined]
    sizes = case.quick if quick else case.sizes
    moved = case.function.cost().fused.at(sizes)["bytes"]  # type: ignore[attr-defined]
    least = case.least_bytes(quick)
    return {
        "case": case.name,
        "kernels": len(lowered.kernels) + len(lowered.calls),
        "moved": moved,
        "least": least,
        "factor": moved / least,
    }


def count_variants() -> dict[str, int]:
    """How many variants fifty pairs of sizes make, and how many compilations."""
    weight = torch.ones(32)
    for b, s in PAIRS:
        normalise(torch.randn(b, s, 32), weight)
    info = normalise.cache_info()
    # A variant found in the artifact cache was compiled too, in an earlier process.
    return {"pairs": len(PAIRS), "compiles": info.compiles + info.from_cache, "variants": info.variants}


def run(job: Job) -> dict[str, Any]:
    """`{"errors": [..], "kernels": [..], "pairs": {..}, "failures": {what: why}}`."""
    peers.limit_threads()
    result: dict[str, Any] = {"errors": [], "kernels": [], "pairs": {}, "failures": {}}
    with Progress(job.label, len(job.cases) + 1) as progress:
        progress.step("fifty shapes", count=0)
        result["pairs"] = count_variants()
        for name in job.cases:
            progress.step(name)
            try:
                result["errors"] += errors(CASES[name], job.quick)
                result["kernels"].append(kernels(CASES[name], job.quick))
            except Exception as error:
                result["failures"][name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
    return result
