"""A process that calls decorated functions as on a GPU, with Triton's interpreter in the place of the device:
``python triton_dispatch.py``, with TRITON_INTERPRET=1. Prints one JSON object: name to what went wrong.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import triton_device
import triton_shim

import tessera
from benchmarks.cases import CASES
from tessera import Flat, Tensor
from tessera.driver import devices

# -- functions beyond those of the benchmarks ----------------------------------------------------------------------


@tessera.function
def feed_forward(x: Tensor["N", "D"], w: Tensor["H", "D"], b: Tensor["H"]) -> Tensor["N", "H"]:
    return torch.softmax(torch.relu(x @ w.T + b), dim=-1)


@tessera.function
def activated(x: Tensor["N", "D"], w: Tensor["H", "D"]) -> Tensor["N", "H"]:
    return torch.relu(x @ w.T)


@tessera.function
def scaled(x: Tensor["N", "D"], a: float, n: int = 3) -> tuple[Tensor["N", "D"], Tensor["D"]]:
    return x * a + n, (x * a).sum(dim=0)


@tessera.function
def positions(x: Tensor["N", "D"]) -> tuple[Tensor["N", "D"], Tensor["D"]]:
    return x + torch.arange(x.shape[1]), torch.full((x.shape[1],), 2.5)


@tessera.function
def numbers(x: Tensor["N", "D"]) -> tuple[Tensor["N", "D"], Tensor[()]]:
    return -x, torch.tensor(1.5)


@tessera.function
def sums(x: Tensor["N", "D"]) -> tuple[Tensor["N"], Tensor["D"], Tensor[()]]:
    return x.sum(dim=1), x.mean(dim=0), x.amax()


@tessera.function
def looked_up(table: Tensor["V", "D"], at: Tensor["N", tessera.int64]) -> Tensor["N", "D"]:
    return table[at] * 2


@tessera.function
def sorted_rows(x: Tensor["N", "D"]) -> tuple[Tensor["N", "D"], Tensor["N", "D", tessera.int64]]:
    values, order = torch.sort(x * 2, dim=-1)
    return values + 1, order


@tessera.function
def scores(x: Tensor["N", "D", tessera.bf16], w: Tensor["D", tessera.bf16]) -> Tensor["N", "D", tessera.bf16]:
    return torch.nn.functional.silu(x) * w


@tessera.function
def decayed(
    q: Tensor["S", "D"], k: Tensor["S", "D"], v: Tensor["S", "E"], g: Tensor["S", "D"], h0: Tensor["D", "E"]
) -> tuple[Tensor["D", "E"], Tensor["S", "E"]]:
    def step(h: Any, x: Any) -> Any:
        q, k, v, g = x
        h = h * torch.sigmoid(g).unsqueeze(-1) + k.unsqueeze(-1) * v
        return h, q @ h

    return tessera.scan(step, h0, (q, k, v, g))


@tessera.function
def recurrent(x: Tensor["S", "B", "D"], w: Tensor["D", "D"], h0: Tensor["B", "D"]) -> Tensor["S", "B", "D"]:
    def step(h: Any, x: Any) -> Any:
        h = torch.tanh(x + h @ w)
        return h, h

    return tessera.scan(step, h0, x)[1]


@tessera.function(updates=("p", "m"))
def moved(p: Flat["N"], g: Flat["N"], m: Flat["N"], rate: float) -> Tensor[()]:
    m.mul_(0.9).add_(g)
    p -= rate * m
    return torch.sum(g * g)


@tessera.function(updates="x")
def softmax_(x: Tensor["N", "D"]) -> None:
    x.copy_(torch.softmax(x, dim=-1))


def calls() -> list[tuple[str, Any, tuple[Any, ...]]]:
    x = torch.randn(9, 40)
    wide = torch.randn(40, 9).T
    odd = torch.randn(361)[1:].view(9, 40)  # an address that 16 does not divide
    extra: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("feed_forward", feed_forward, (x, torch.randn(24, 40), torch.randn(24))),
        ("few_results", activated, (torch.randn(20, 1100), torch.randn(37, 1100))),
        ("scaled", scaled, (x, 0.3)),
        ("scaled_again", scaled, (torch.randn(5, 40), 1.7, 4)),
        ("transposed", scaled, (wide, 0.3)),
        ("unaligned", scaled, (odd, 0.3)),
        ("stride_0", scaled, (torch.randn(1, 40).expand(9, 40), 0.3)),
        ("positions", positions, (x,)),
        ("numbers", numbers, (x,)),
        ("sums", sums, (x,)),
        ("sums_of_ones", sums, (torch.randn(1, 1),)),
        ("looked_up", looked_up, (torch.randn(7, 12), torch.tensor([0, 6, -1, 3]))),
        ("sorted_rows", sorted_rows, (x,)),
        ("decayed", decayed, (*(torch.randn(5, n) for n in (6, 6, 11, 6)), torch.randn(6, 11))),
        ("recurrent", recurrent, (torch.randn(4, 3, 12), torch.randn(12, 12) / 4, torch.randn(3, 12))),
        ("scores", scores, (x.bfloat16(), torch.randn(40).bfloat16())),
    ]
    return [(c.name, c.function, c.make(quick=True)) for c in CASES.values()] + extra


def tensors(result: Any) -> Sequence[torch.Tensor]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def widened(x: Any) -> Any:
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def complaints(function: Any, args: tuple[Any, ...]) -> list[str]:
    """What is wrong with a cold and two warm calls."""
    said: list[str] = []
    wanted = tensors(function.eager(*map(widened, args)))
    eager, hits = function.cache_info().eager, function.cache_info().hits
    for _ in range(3):
        found = tensors(function(*args))
        for n, (got, want) in enumerate(zip(found, wanted, strict=True)):
            said += differs(n, got, want)
    info = function.cache_info()
    if info.eager != eager:
        said.append("ran eagerly")
    if info.hits - hits < 2:
        said.append(f"{info.hits - hits} warm calls of 2")
    return said


def differs(n: int, got: torch.Tensor, want: torch.Tensor) -> list[str]:
    if got.shape != want.shape:
        return [f"result {n} has shape {tuple(got.shape)} for {tuple(want.shape)}"]
    if not got.is_floating_point():
        return [] if torch.equal(got, want) else [f"result {n} differs"]
    error = (got.double() - want.double()).norm() / (want.double().norm() + 1e-300)
    limit = 4e-3 if got.dtype is torch.bfloat16 else 1e-6
    return [] if error <= limit else [f"result {n} is off by {float(error):.2e}"]


def too_large() -> list[str]:
    """What is wrong with calls whose steps no program can hold: they run eagerly, and one warning says why."""
    args = (torch.randn(2, 1, 300), torch.randn(300, 300) / 20, torch.randn(1, 300))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        same = [torch.equal(recurrent(*args), recurrent.eager(*args)) for _ in range(2)]
    told = [str(w.message) for w in said]
    return [] if all(same) and len(told) == 1 and "registers at a time" in told[0] else [*told, str(same)]


def updated() -> list[str]:
    """What is wrong with calls that write to their arguments, and with lists taken for one tensor."""
    said: list[str] = []
    lists = [[torch.randn(9, 40), torch.randn(5)] for _ in range(3)]
    x = torch.randn(9, 40)
    for _ in range(3):
        copies = [[t.clone() for t in given] for given in lists]
        y = x.clone()
        said += differs(0, moved(*lists, 0.1), moved.eager(*copies, 0.1))
        softmax_(x)
        softmax_.eager(y)
        pairs = [(x, y), *((a, b) for p, q in zip(lists, copies, strict=True) for a, b in zip(p, q, strict=True))]
        said += [text for n, (a, b) in enumerate(pairs) for text in differs(n, a, b)]
    plans = [softmax_.resolve(x).variant, moved.resolve(*lists, 0.1).variant]
    if [len(v.program.copied) for v in plans] != [0, 2] or plans[1].program.joined != {"p", "g", "m"}:
        said.append("written otherwise than it should be")
    return said + [f"{f.spec.name} ran eagerly" for f in (moved, softmax_) if f.cache_info().eager]


def main() -> None:
    triton_shim.install()
    torch.manual_seed(0)
    devices.ACCELERATORS["cpu"] = triton_device.interpreted()
    warnings.simplefilter("error")
    found: dict[str, list[str]] = {}
    for name, function, args in calls():
        try:
            found[name] = complaints(function, args)
        except Exception as e:
            found[name] = [f"{type(e).__name__}: {e}"]
    found["too_large"] = too_large()
    found["updated"] = updated()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
