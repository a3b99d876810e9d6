"""The measured functions, one table: plain torch form, JAX form, inputs, least traffic.

The decorated functions are those of `examples/quickstart.py`. The torch and JAX forms are what a user of
either would write for speed: the library's own fused operation where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F

from benchmarks import jax_functions
from examples import quickstart

Sizes = Mapping[str, int]
Function = Callable[..., object]


@dataclass(frozen=True)
class Case:
    """One row of the tables.

    `least` gives the fewest bytes that a kernel must move for given sizes, every argument read once and every
    result written once: 4 bytes an element of float32, 8 of an index. `sizes` are those of the bars, `quick`
    those of a smoke run.
    """

    name: str
    title: str
    function: Function
    torch: Function
    jax: Function
    arguments: Callable[[Sizes], tuple[object, ...]]
    least: Callable[[Sizes], int]
    sizes: Sizes
    quick: Sizes

    def make(self, quick: bool = False) -> tuple[object, ...]:
        """Arguments, the same ones every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(20_250_101)
            return self.arguments(self.quick if quick else self.sizes)

    def least_bytes(self, quick: bool = False) -> int:
        """The lower bound of the bytes moved for the sizes of the bars, or of a smoke run."""
        return self.least(self.quick if quick else self.sizes)


# -- plain torch ----------------------------------------------------------------------------------


def _rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def _add_layer_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x + residual
    return F.layer_norm(total, (x.shape[-1],), weight, bias, 1e-5), total


def _softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, dim=-1)


def _swiglu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate) * up


def _bias_gelu(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.gelu(x + bias, approximate="tanh")


def _rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets)


def _adamw(
    p: torch.Tensor,
    grad: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    lr: float,
    unbias_m: float,
    unbias_v: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    m = quickstart.BETA1 * m + (1 - quickstart.BETA1) * grad
    v = quickstart.BETA2 * v + (1 - quickstart.BETA2) * (grad * grad)
    update = (m * unbias_m) / (torch.sqrt(v * unbias_v) + quickstart.EPS)
    return p - lr * (update + quickstart.DECAY * p), m, v


# -- inputs ---------------------------------------------------------------------------------------


def _rows(s: Sizes) -> torch.Tensor:
    return torch.randn(s["B"], s["S"], s["D"])


def _norm_inputs(s: Sizes) -> tuple[object, ...]:
    return _rows(s), torch.rand(s["D"]) + 0.5


def _layer_norm_inputs(s: Sizes) -> tuple[object, ...]:
    return _rows(s), _rows(s), torch.rand(s["D"]) + 0.5, torch.randn(s["D"])


def _rope_inputs(s: Sizes) -> tuple[object, ...]:
    x = torch.randn(s["B"], s["S"], s["H"], s["D"])
    return x, *quickstart.rope_tables(s["S"], s["D"])


def _loss_inputs(s: Sizes) -> tuple[object, ...]:
    return torch.randn(s["N"], s["V"]), torch.randint(0, s["V"], (s["N"],))


def _table(*cases: Case) -> Mapping[str, Case]:
    return MappingProxyType({case.name: case for case in cases})


CASES: Mapping[str, Case] = _table(
    Case(
        "rms_norm",
        "RMSNorm",
        quickstart.rms_norm,
        _rms_norm,
        jax_functions.rms_norm,
        _norm_inputs,
        lambda s: 4 * (2 * s["B"] * s["S"] * s["D"] + s["D"]),
        {"B": 4, "S": 1024, "D": 2048},
        {"B": 2, "S": 16, "D": 64},
    ),
    Case(
        "add_layer_norm",
        "residual + LayerNorm",
        quickstart.add_layer_norm,
        _add_layer_norm,
        jax_functions.add_layer_norm,
        _layer_norm_inputs,
        lambda s: 4 * (4 * s["B"] * s["S"] * s["D"] + 2 * s["D"]),
        {"B": 4, "S": 1024, "D": 768},
        {"B": 2, "S": 16, "D": 48},
    ),
    Case(
        "softmax",
        "softmax",
        quickstart.softmax,
        _softmax,
        jax_functions.softmax,
        lambda s: (torch.randn(s["B"], s["N"]) * 4,),
        lambda s: 8 * s["B"] * s["N"],
        {"B": 2048, "N": 8192},
        {"B": 16, "N": 200},
    ),
    Case(
        "swiglu_gate",
        "silu · mul",
        quickstart.swiglu_gate,
        _swiglu_gate,
        jax_functions.swiglu_gate,
        lambda s: (torch.randn(s["N"], s["H"]), torch.randn(s["N"], s["H"])),
        lambda s: 12 * s["N"] * s["H"],
        {"N": 4096, "H": 2816},
        {"N": 16, "H": 88},
    ),
    Case(
        "bias_gelu",
        "bias + GELU (tanh)",
        quickstart.bias_gelu,
        _bias_gelu,
        jax_functions.bias_gelu,
        lambda s: (torch.randn(s["N"], s["H"]), torch.randn(s["H"])),
        lambda s: 4 * (2 * s["N"] * s["H"] + s["H"]),
        {"N": 4096, "H": 3072},
        {"N": 16, "H": 96},
    ),
    Case(
        "rope",
        "RoPE",
        quickstart.rope,
        _rope,
        jax_functions.rope,
        _rope_inputs,
        lambda s: 8 * s["S"] * s["D"] * (s["B"] * s["H"] + 1),
        {"B": 4, "S": 512, "H": 16, "D": 64},
        {"B": 2, "S": 8, "H": 3, "D": 16},
    ),
    Case(
        "cross_entropy",
        "cross-entropy (mean)",
        quickstart.cross_entropy,
        _cross_entropy,
        jax_functions.cross_entropy,
        _loss_inputs,
        lambda s: 4 * s["N"] * s["V"] + 8 * s["N"] + 4,
        {"N": 512, "V": 32_000},
        {"N": 16, "V": 300},
    ),
    Case(
        "adamw",
        "AdamW",
        quickstart.adamw,
        _adamw,
        jax_functions.adamw,
        lambda s: quickstart.adamw_state(s["N"]),
        lambda s: 28 * s["N"],
        {"N": 4_000_000},
        {"N": 1000},
    ),
)
