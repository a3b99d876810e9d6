"""What is measured on a GPU, one table: the function, its arguments, who else takes part, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from benchmarks import gpu_attention, programs
from benchmarks.cases import CASES, Case, Sizes
from benchmarks.contractions import delta, gated, positions
from benchmarks.gpu_attention import Arguments, Compiler, Maker

#: Rows of the functions that only move memory, over those that the CPU is measured with.
ROWS = 8
#: A large result is compared at one of so many rows; they are spread over all of it.
EVERY = 16


def same(arguments: Arguments) -> Arguments:
    """All arguments: the whole result is compared."""
    return arguments


def whole(result: torch.Tensor) -> torch.Tensor:
    """All of a result."""
    return result


def nobody(arguments: Arguments, compiler: Compiler) -> Mapping[str, Maker]:
    """No further participant."""
    return {}


@dataclass(frozen=True)
class GpuCase:
    """One case. ``others`` are the participants beside `tessera`, `eager` and `compile`, each a maker of a call.

    ``flops`` counts the operations of the definition, ``least`` the fewest bytes moved; 0 where it is not what limits.
    ``narrow`` gives arguments with which the definition computes a part of the results, ``part`` takes that part from
    a result: where all of them in float64 would not fit. ``plain`` is what the peers run, by default the definition
    itself. ``compared`` is off where results are random, ``compiles`` where `torch.compile` would write a loop out
    step by step. ``dry`` are sizes for an interpreter.
    """

    name: str
    title: str
    function: Any
    arguments: Callable[[Sizes], Arguments]
    sizes: Sizes
    dry: Sizes
    others: Callable[[Arguments, Compiler], Mapping[str, Maker]] = nobody
    flops: Callable[[Sizes], int] = lambda s: 0
    least: Callable[[Sizes], int] = lambda s: 0
    narrow: Callable[[Arguments], Arguments] = same
    part: Callable[[torch.Tensor], torch.Tensor] = whole
    plain: Callable[..., object] | None = None
    compared: bool = True
    compiles: bool = True

    def eager(self, *arguments: Any) -> object:
        """The definition in plain torch, whose constants are made where the arguments are."""
        device = next(a.device for a in arguments if isinstance(a, torch.Tensor))
        with torch.device(device):
            return (self.plain or self.function.eager)(*arguments)

    def make(self, device: str, sizes: Sizes) -> Arguments:
        """Arguments on a device, the same ones every time."""
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(20_250_104)
            return self.arguments(sizes)


def scaled(sizes: Sizes, factor: int) -> dict[str, int]:
    """The sizes with the first one, which counts rows, taken so many times: a GPU needs more of them.

    >>> scaled({"B": 4, "S": 1024, "D": 2048}, 8)
    {'B': 32, 'S': 1024, 'D': 2048}
    """
    first = next(iter(sizes))
    return {**sizes, first: sizes[first] * factor}


def _moving(case: Case) -> GpuCase:
    """A function of the example, which is limited by memory."""

    def made(s: Sizes) -> Arguments:
        device = torch.empty(0).device
        return tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in case.arguments(s))

    return GpuCase(
        case.name, case.title, case.function, made, scaled(case.sizes, ROWS), case.quick, least=case.least,
        plain=case.torch,
    )  # fmt: skip


# -- products -------------------------------------------------------------------------------------


def _weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).mul_(shape[-1] ** -0.5).bfloat16()


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).bfloat16()


def _layer(s: Sizes) -> Arguments:
    return _random(s["M"], s["K"]), _weight(s["N"], s["K"]), _random(s["N"])


def _three(s: Sizes) -> Arguments:
    return (_random(s["M"], s["K"]), *(_weight(s["N"], s["K"]) for _ in range(3)))


def _products(a: Arguments, compiler: Compiler) -> Mapping[str, Maker]:
    """The product alone into memory that is there, and the library's product with an activation of its own."""
    x, w, b = a

    def alone() -> Callable[[], object]:
        out = torch.empty(x.shape[0], w.shape[0], dtype=x.dtype, device=x.device)
        return lambda: torch.mm(x, w.T, out=out)

    return {
        "product alone": alone,
        "cublas": lambda: lambda: torch._addmm_activation(b, x, w.T, use_gelu=True),
    }


def _rows_of_first(a: Arguments) -> Arguments:
    return (a[0][::EVERY], *a[1:])


def _every(result: torch.Tensor) -> torch.Tensor:
    return result[::EVERY]


def _step(s: Sizes) -> Arguments:
    return _random(s["B"], s["K"]), _random(s["B"], s["N"]), _weight(s["K"], s["N"]), 1e-3


def _loss(s: Sizes) -> Arguments:
    return _random(s["N"], s["D"]), _weight(s["C"], s["D"]), torch.randint(0, s["C"], (s["N"],))


def _block(s: Sizes) -> Arguments:
    d, f = s["D"], s["F"]
    norms = (torch.rand(d).add_(0.5).bfloat16() for _ in range(2))
    products = (_weight(d, d) for _ in range(4))
    return (_random(s["B"], s["S"], d), *norms, *products, _weight(f, d), _weight(f, d), _weight(d, f), s["H"])


def _block_flops(s: Sizes) -> int:
    rows, d = s["B"] * s["S"], s["D"]
    return 2 * rows * d * (4 * d + 3 * s["F"]) + 2 * rows * s["S"] * d


# -- recurrences ----------------------------------------------------------------------------------


def _linear(s: Sizes) -> Arguments:
    return (*positions(s), s["D"] ** -0.5)


def _recurrent_flops(s: Sizes) -> int:
    return 4 * s["B"] * s["H"] * s["S"] * s["D"] * s["D"]


_STEPS, _FEW_STEPS = {"B": 4, "H": 16, "S": 2048, "D": 64}, {"B": 1, "H": 2, "S": 24, "D": 16}


def _recurrence(name: str, title: str, function: Any, arguments: Callable[[Sizes], Arguments]) -> GpuCase:
    return GpuCase(
        name, title, function, arguments, _STEPS, _FEW_STEPS, flops=_recurrent_flops, compiles=False
    )  # fmt: skip


# -- the table ------------------------------------------------------------------------------------


def _attention(name: str, title: str, variant: str, sizes: Sizes) -> GpuCase:
    made = gpu_attention.VARIANTS[variant]
    return GpuCase(
        name, title, made.function, made.arguments, sizes, {"B": 1, "H": 4, "S": 48, "D": 16}, made.others,
        flops=made.flops, narrow=made.narrow, part=made.part, compared=made.compared,
    )  # fmt: skip


def _flash() -> tuple[GpuCase, ...]:
    """Attention of bf16 with heads of 128, as many positions in all whatever the length."""
    return tuple(
        _attention(f"flash_{variant}_{length // 1024}k", f"{variant} attention, {length} positions", variant,
                   {"B": 16384 // length, "H": 16, "S": length, "D": 128})
        for variant in ("full", "causal") for length in (2048, 4096, 8192, 16384)
    )  # fmt: skip


def _variants() -> tuple[GpuCase, ...]:
    """Every variant of attention at one size."""
    sizes = {"B": 1, "H": 32, "S": 8192, "D": 128}
    return tuple(
        _attention(f"attention_{variant}", f"attention: {variant}", variant, sizes)
        for variant in gpu_attention.VARIANTS
    )


def _table(*cases: GpuCase) -> Mapping[str, GpuCase]:
    return MappingProxyType({case.name: case for case in cases})


GPU_CASES: Mapping[str, GpuCase] = _table(
    *map(_moving, CASES.values()),
    *_flash(),
    *_variants(),
    GpuCase("linear_gelu", "linear + bias + GELU", programs.linear_gelu, _layer,
            {"M": 8192, "K": 8192, "N": 8192}, {"M": 72, "K": 96, "N": 72}, _products,
            flops=lambda s: 2 * s["M"] * s["K"] * s["N"], narrow=_rows_of_first, part=_every),
    GpuCase("decode", "linear + bias + GELU, few rows", programs.linear_gelu, _layer,
            {"M": 16, "K": 8192, "N": 8192}, {"M": 5, "K": 2100, "N": 56}, _products,
            flops=lambda s: 2 * s["M"] * s["K"] * s["N"]),
    GpuCase("decode_down", "linear + bias + GELU, few rows and columns", programs.linear_gelu, _layer,
            {"M": 64, "K": 14336, "N": 4096}, {"M": 17, "K": 2100, "N": 40}, _products,
            flops=lambda s: 2 * s["M"] * s["K"] * s["N"]),
    GpuCase("rounds", "linear + bias + GELU, tiles that fill no whole rounds", programs.linear_gelu, _layer,
            {"M": 2304, "K": 4096, "N": 2304}, {"M": 72, "K": 96, "N": 40}, _products,
            flops=lambda s: 2 * s["M"] * s["K"] * s["N"], narrow=_rows_of_first, part=_every),
    GpuCase("unaligned", "linear + bias + GELU, rows that descriptors cannot read", programs.linear_gelu, _layer,
            {"M": 8192, "K": 8190, "N": 8192}, {"M": 72, "K": 94, "N": 72}, _products,
            flops=lambda s: 2 * s["M"] * s["K"] * s["N"], narrow=_rows_of_first, part=_every),
    GpuCase("projections", "three projections of the same rows", programs.projections, _three,
            {"M": 8192, "K": 4096, "N": 4096}, {"M": 300, "K": 48, "N": 40},
            flops=lambda s: 6 * s["M"] * s["K"] * s["N"]),
    GpuCase("weight_step", "step down a weight's gradient", programs.weight_step, _step,
            {"B": 65_536, "K": 1024, "N": 1024}, {"B": 2100, "K": 24, "N": 40},
            flops=lambda s: 2 * s["B"] * s["K"] * s["N"]),
    GpuCase("linear_loss", "linear + cross-entropy", programs.linear_loss, _loss,
            {"N": 8192, "D": 4096, "C": 131_072}, {"N": 24, "D": 24, "C": 300},
            flops=lambda s: 2 * s["N"] * s["D"] * s["C"]),
    GpuCase("block", "transformer block", programs.block, _block,
            {"B": 4, "S": 2048, "D": 2048, "F": 5632, "H": 16}, {"B": 1, "S": 16, "D": 48, "F": 40, "H": 3},
            flops=_block_flops),
    _recurrence("linear_recurrence", "linear attention", programs.linear_attention, _linear),
    _recurrence("gated_recurrence", "gated linear attention", programs.gated_linear_attention, gated),
    _recurrence("delta_rule", "delta rule", programs.delta_rule, delta),
)  # fmt: skip
