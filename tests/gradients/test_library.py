"""The functions of the library, and the layers people build: gradients against torch's, once and twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import tessera
from tessera import ops
from tests.gradients.compiled import asking, check, gradients

N, D, C = 64, 129, 33


def floats(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed + sum(sizes)))


def rms_norm(x, w):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def swiglu(x, gate, up):
    return F.silu(x @ gate) * (x @ up)


def softcap(x, y):
    return 30.0 * torch.tanh(x * y / 30.0)


def padded(table, rows):
    return F.embedding(rows, table, padding_idx=1)


ROWS = torch.tensor([[0, 3, 3], [1, 1, 4]])
LABELS = torch.tensor([3, -100, 0, 7] * (N // 4))
X, W, B = floats(N, D), floats(D, seed=1), floats(D, seed=2)
IMAGE = floats(3, 8, 4, 5)
CHANNELS = floats(8, seed=1), floats(8, seed=2)

LAYERS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (x.shape[-1],), w, b), (X, W, B)),
    "rms_norm": (rms_norm, (X, W)),
    "rms_norm of torch": (lambda x, w: F.rms_norm(x, (x.shape[-1],), w, 1e-6), (X, W)),
    "group_norm": (lambda x, w, b: F.group_norm(x, 4, w, b), (IMAGE, *CHANNELS)),
    "instance_norm": (lambda x: F.instance_norm(x), (IMAGE,)),
    "batch_norm": (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), (IMAGE, *CHANNELS)),
    "batch_norm in use": (
        lambda x, m, v, w, b: F.batch_norm(x, m.detach(), v.detach().abs() + 1, w, b), (IMAGE, *CHANNELS, *CHANNELS)
    ),
    "embedding": (lambda table, rows: F.embedding(rows, table), (floats(6, 5), ROWS)),
    "embedding with padding": (padded, (floats(6, 5), ROWS)),
    "rope": (rope, (floats(2, 3, 5, 8), floats(5, 8), floats(5, 8, seed=1))),
    "swiglu": (swiglu, (X, floats(D, 16), floats(D, 16, seed=1))),
    "softcap": (softcap, (X, floats(N, D, seed=3))),
    "gelu and linear": (lambda x, w, b: F.gelu(F.linear(x, w, b)), (X, floats(16, D) * 0.2, floats(16))),
    "softmax": (lambda x: torch.softmax(x * 1.5, -1), (X,)),
    "cross_entropy": (lambda x: F.cross_entropy(x, LABELS.abs() % C), (floats(N, C),)),
    "cross_entropy, smoothed": (
        lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1), (floats(N, C),)
    ),
    "cross_entropy, every one": (lambda x: F.cross_entropy(x, LABELS, reduction="none"), (floats(N, C),)),
    "cross_entropy, weighted": (lambda x, w: F.cross_entropy(x, LABELS, w.detach().abs()), (floats(N, C), floats(C))),
    "cross_entropy of probabilities": (
        lambda x, p: F.cross_entropy(x, torch.softmax(p, -1)), (floats(N, C), floats(N, C, seed=1))
    ),
    "linear and cross_entropy": (lambda x, w: F.cross_entropy(x @ w.mT, LABELS), (X, floats(C, D) * 0.1)),
    "binary_cross_entropy": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, torch.sigmoid(y)), (X, floats(N, D, seed=1))
    ),
    "smooth_l1": (lambda x, y: F.smooth_l1_loss(x, y), (X, floats(N, D, seed=1))),
    "kl_div": (lambda x, y: F.kl_div(F.log_softmax(x, -1), F.softmax(y, -1), reduction="batchmean"), (X, X.flip(0))),
    "cosine": (lambda x, y: F.cosine_similarity(x, y), (X, floats(N, D, seed=1))),
    "normalize": (lambda x: F.normalize(x, dim=-1), (X,)),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v), tuple(floats(2, 3, 7, 8, seed=n) for n in range(3))
    ),
    "attention, causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        tuple(floats(2, 3, 7, 8, seed=n) for n in range(3)),
    ),
    "attention, masked": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        (*(floats(2, 3, 7, 8, seed=n) for n in range(3)), floats(7, 7)),
    ),
}  # fmt: skip
#: Those of which it is said how much they round; of the others a gradient may have the errors of two functions.
MEASURED = frozenset({
    "layer_norm", "rms_norm", "softmax", "swiglu", "gelu and linear", "rope", "cross_entropy",
    "cross_entropy, smoothed", "linear and cross_entropy", "attention", "attention, causal",
})  # fmt: skip


#: Those that a normal run leaves out, others being much like them.
ALIKE = frozenset({
    "rms_norm of torch", "instance_norm", "batch_norm in use", "cross_entropy, every one", "cross_entropy, weighted",
    "cross_entropy of probabilities", "smooth_l1", "kl_div", "attention", "attention, masked", "embedding",
    "masked", "causal in a window", "plain",
})  # fmt: skip


def chosen(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.nightly) if name in ALIKE else name for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", chosen(LAYERS))
def test_layers(name: str) -> None:
    plain, args = LAYERS[name]
    check(tessera.function(plain, strict=True), args, plain, ratio=1.05 if name in MEASURED else 2.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["layer_norm", "rms_norm", "cross_entropy, smoothed",
     *(pytest.param(name, marks=pytest.mark.nightly) for name in ("softmax", "attention, masked", "swiglu"))],
)  # fmt: skip
def test_layers_checked_once_and_twice(name: str) -> None:
    plain, args = LAYERS[name]
    function = tessera.function(plain, strict=True)
    given = asking(args, torch.float64)
    wrt = [x for x in given if x.requires_grad]
    with tessera.backend("c"):
        assert gradcheck(function, wrt, fast_mode=True) and gradgradcheck(function, wrt, fast_mode=True)


def test_no_target_counts() -> None:
    """As in torch: the mean of no losses is NaN, and so are its gradients' sums over nothing."""
    ignored = torch.full((4,), -100)
    plain = lambda x: F.cross_entropy(x, ignored)  # noqa: E731
    x = floats(4, 8).double().requires_grad_()
    with tessera.backend("c"):
        function = tessera.function(plain, strict=True)
        (found,) = gradients(function, [x])
        (want,) = gradients(plain, [x])
        assert torch.equal(function(x).isnan(), plain(x).isnan())
    torch.testing.assert_close(found, want, equal_nan=True)


# ---- attention and recurrences ---------------------------------------------------------------------------------------

HIDDEN = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.3
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled, in a window": {"window": 3, "scale": 0.3},
    "causal in a window": {"window": 3, "is_causal": True},
    "masked": {"mask": ~HIDDEN},
    "added": {"mask": HIDDEN.double() * -2.0},
    "with lse": {"return_lse": True, "is_causal": True},
    "dropped": {"dropout_p": 0.3, "dropout_seed": 7},
}


def attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: torch.Tensor | None, options: dict[str, Any]
) -> Any:
    """The definition, with the scores kept. ``kept`` says by what each weight is multiplied."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * options.get("scale", q.shape[-1] ** -0.5)
    i, j = torch.arange(q.shape[2])[:, None] + k.shape[2] - q.shape[2], torch.arange(k.shape[2])
    seen = torch.ones(scores.shape, dtype=torch.bool)
    if options.get("is_causal"):
        seen = seen & (j <= i)
    if "window" in options:
        seen = seen & ((i - j).abs() < options["window"])
    mask = options.get("mask")
    if mask is not None and mask.dtype == torch.bool:
        seen = seen & mask[:, None]
    elif mask is not None:
        scores = scores + mask[:, None].to(scores.dtype)
    scores = scores.masked_fill(~seen, -torch.inf)
    weights = torch.where(seen.any(-1, keepdim=True), torch.softmax(scores, -1), 0.0)
    result = (weights if kept is None else weights * kept) @ v
    return (result, torch.logsumexp(scores, -1)) if options.get("return_lse") else result


@pytest.mark.slow
@pytest.mark.parametrize("name", chosen(OPTIONS))
def test_flash_attention(name: str) -> None:
    options = OPTIONS[name]
    q, k, v = asking([floats(2, 6, 5, 8), floats(2, 3, 7, 8), floats(2, 3, 7, 4)], torch.float64)
    kept = None
    if "dropout_p" in options:  # which weights are kept shows where every value is a unit vector
        unit = torch.eye(7, dtype=torch.float64).expand(2, 3, 7, 7)
        with torch.no_grad():
            some = ops.flash_attention(q, k, unit, **options)
            whole = ops.flash_attention(q, k, unit)
        kept = torch.where(some == 0, 0.0, 1 / (1 - options["dropout_p"]))
        torch.testing.assert_close(some, whole * kept)
        assert 0 < int((kept == 0).sum()) < kept.numel()

    def call(*x: torch.Tensor) -> Any:
        return ops.flash_attention(*x, **options)

    with tessera.backend("c"):
        found = gradients(call, [q, k, v])
        want = gradients(lambda *x: attended(*x, kept, options), [q, k, v])
        for one, other in zip(found, want, strict=True):
            torch.testing.assert_close(one, other)
        if name == "causal":
            assert gradcheck(call, (q, k, v), fast_mode=True) and gradgradcheck(call, (q, k, v), fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "twice"),
    [("linear_attention", False), ("delta_rule", False),
     *(pytest.param(name, True, marks=pytest.mark.nightly)
       for name in ("linear_attention", "gated_linear_attention", "delta_rule"))],
)  # fmt: skip
def test_recurrent_attention(name: str, twice: bool) -> None:
    q, k, v, g = (floats(2, 2, 6, n, seed=s).double() for s, n in enumerate((4, 4, 3, 4)))
    rate = torch.sigmoid(floats(2, 2, 6, seed=9).double())
    k = k / k.norm(dim=-1, keepdim=True)
    more = {"linear_attention": (), "gated_linear_attention": (-g.abs(),), "delta_rule": (rate,)}[name]
    args = asking([q, k, v, *more], torch.float64)
    begun = floats(2, 2, 4, 3, seed=5).double().requires_grad_()

    def call(*x: torch.Tensor) -> Any:
        return getattr(ops, name)(*x[:-1], initial_state=x[-1], return_state=True)

    with tessera.backend("c"):
        assert gradcheck(call, (*args, begun), fast_mode=True)
        assert not twice or gradgradcheck(call, (*args, begun), fast_mode=True)
