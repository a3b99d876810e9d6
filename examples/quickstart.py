"""Eight functions of a language model: each proved, dumped, run, and compared with eager and with float64.

    python examples/quickstart.py            # all of them
    python examples/quickstart.py softmax    # one, by name

The functions are ordinary torch code with named dimensions. Their undecorated bodies are the eager versions.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor

# -- the functions --------------------------------------------------------------------------------


@tessera.function
def rms_norm(x: Tensor["B", "S", "D"], weight: Tensor["D"], eps: float = 1e-6) -> Tensor["B", "S", "D"]:
    """Scale each row to a root mean square of 1, then by ``weight``."""
    scale = tessera.rsqrt(tessera.mean(x**2, dim=-1, keepdim=True) + eps)
    return x * scale * weight


@tessera.function
def add_layer_norm(
    x: Tensor["B", "S", "D"],
    residual: Tensor["B", "S", "D"],
    weight: Tensor["D"],
    bias: Tensor["D"],
    eps: float = 1e-5,
) -> tuple[Tensor["B", "S", "D"], Tensor["B", "S", "D"]]:
    """Add the residual, normalise the sum; both are results, the sum being the next residual."""
    total = x + residual
    centred = total - tessera.mean(total, dim=-1, keepdim=True)
    variance = tessera.mean(centred**2, dim=-1, keepdim=True)
    return centred * tessera.rsqrt(variance + eps) * weight + bias, total


@tessera.function
def softmax(x: Tensor["B", "N"]) -> Tensor["B", "N"]:
    """Exponentials shifted by the row's maximum, divided by their sum."""
    e = tessera.exp(x - tessera.amax(x, dim=-1, keepdim=True))
    return e / tessera.sum(e, dim=-1, keepdim=True)


@tessera.function
def swiglu_gate(gate: Tensor["N", "H"], up: Tensor["N", "H"]) -> Tensor["N", "H"]:
    """The elementwise middle of a SwiGLU block."""
    return F.silu(gate) * up


@tessera.function
def bias_gelu(x: Tensor["N", "H"], bias: Tensor["H"]) -> Tensor["N", "H"]:
    """A bias and GELU in its tanh form."""
    return F.gelu(x + bias, approximate="tanh")


@tessera.function
def rope(
    x: Tensor["B", "S", "H", "D"], cos: Tensor["S", "D"], sin: Tensor["S", "D"]
) -> Tensor["B", "S", "H", "D"]:
    """Rotary position embedding: feature i turns with feature i + D/2."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)


@tessera.function
def cross_entropy(logits: Tensor["N", "V"], targets: Tensor["N", tessera.int64]) -> Tensor[()]:
    """Mean of -log p(target) over the rows."""
    return F.cross_entropy(logits, targets)


# The moment decays stand in the source; what a schedule changes from step to step is an argument.
BETA1, BETA2, EPS, DECAY = 0.9, 0.999, 1e-8, 0.01


@tessera.function
def adamw(
    p: Tensor["N"],
    grad: Tensor["N"],
    m: Tensor["N"],
    v: Tensor["N"],
    lr: float,
    unbias_m: float,
    unbias_v: float,
) -> tuple[Tensor["N"], Tensor["N"], Tensor["N"]]:
    """One AdamW step: new parameter and moments; ``unbias`` is 1 / (1 - beta ** step)."""
    m = BETA1 * m + (1 - BETA1) * grad
    v = BETA2 * v + (1 - BETA2) * (grad * grad)
    update = (m * unbias_m) / (tessera.sqrt(v * unbias_v) + EPS)
    return p - lr * (update + DECAY * p), m, v


# -- their inputs ---------------------------------------------------------------------------------


def rope_tables(length: int, width: int, base: float = 10_000.0) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of the angle of each position and feature, each f32[length, width].

    >>> [tuple(t.shape) for t in rope_tables(6, 4)]
    [(6, 4), (6, 4)]
    """
    rate = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), rate)
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def adamw_state(size: int, step: int = 10) -> tuple[torch.Tensor | float, ...]:
    """Parameter, gradient and moments as they are in training, and the three floats of that step."""
    p, grad, m = torch.randn(size) * 0.02, torch.randn(size) * 1e-3, torch.randn(size) * 1e-4
    v = torch.rand(size) * 1e-6
    return p, grad, m, v, 3e-4, 1 / (1 - BETA1**step), 1 / (1 - BETA2**step)


@dataclass(frozen=True)
class Example:
    """A decorated function and a maker of arguments for it."""

    function: Callable[..., object]
    arguments: Callable[[], tuple[object, ...]]


EXAMPLES: dict[str, Example] = {
    "rms_norm": Example(rms_norm, lambda: (torch.randn(4, 256, 1024), torch.rand(1024) + 0.5)),
    "add_layer_norm": Example(
        add_layer_norm,
        lambda: (torch.randn(4, 256, 768), torch.randn(4, 256, 768), torch.rand(768), torch.randn(768)),
    ),
    "softmax": Example(softmax, lambda: (torch.randn(512, 4096) * 4,)),
    "swiglu_gate": Example(swiglu_gate, lambda: (torch.randn(1024, 1408), torch.randn(1024, 1408))),
    "bias_gelu": Example(bias_gelu, lambda: (torch.randn(1024, 1536), torch.randn(1536))),
    "rope": Example(rope, lambda: (torch.randn(2, 256, 16, 64), *rope_tables(256, 64))),
    "cross_entropy": Example(
        cross_entropy, lambda: (torch.randn(128, 32_000), torch.randint(0, 32_000, (128,)))
    ),
    "adamw": Example(adamw, lambda: adamw_state(1_000_000)),
}

# -- the program ----------------------------------------------------------------------------------


def show(name: str) -> tessera.Comparison:
    """Print verdicts, the fused IR, and fused against eager on real tensors."""
    example = EXAMPLES[name]
    function = example.function
    print(f"== {name}: {(function.__doc__ or '').strip()}\n")
    print(function.check(), end="\n\n")  # no tensor has been made yet
    print(function.ir("fused"), end="\n\n")
    report = tessera.compare(function, *example.arguments())
    print(report, end="\n\n")
    return report


def summary(reports: Sequence[tessera.Comparison]) -> str:
    """One table of several comparisons; errors are those of the result that is furthest from float64."""
    rows = [
        ("function", "fused ms", "eager ms", "faster", "kernels", "MiB moved", "error fused", "error eager")
    ]
    for r in reports:
        worst = max(r.outputs, key=lambda o: o.fused)
        rows.append(
            (
                r.name,
                f"{r.fused_seconds * 1e3:.2f}",
                f"{r.eager_seconds * 1e3:.2f}",
                f"{r.speedup:.1f}×",
                f"{r.fused_kernels} / {r.eager_kernels}",
                f"{r.fused_bytes / 2**20:.1f} / {r.eager_bytes / 2**20:.1f}",
                f"{worst.fused:.1e}",
                f"{worst.eager:.1e}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def main(names: Sequence[str]) -> int:
    """Show the named functions, or all of them, and end with one table."""
    unknown = [name for name in names if name not in EXAMPLES]
    if unknown:
        print(f"no function {', '.join(unknown)}; there are {', '.join(EXAMPLES)}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    reports = [show(name) for name in names or EXAMPLES]
    print("== fused against eager; where a cell has two numbers, eager is the second\n")
    print(summary(reports))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
