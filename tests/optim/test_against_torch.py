"""Each optimizer beside torch's of the same name: a hundred steps, every option, checkpoints from one to the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tessera import optim

SHAPES = ((33, 17), (5,), (), (1,), (4, 3, 3, 3), (1000,), (2, 0), (7, 129))


def parameters(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.nn.Parameter]:
    torch.manual_seed(seed)
    made = [torch.randn(s, dtype=torch.float64).to(dtype) for s in SHAPES]
    made[4] = made[4].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(x) for x in made]


def train(
    params: list[torch.nn.Parameter], step: Callable[[], object], steps: int, seed: int = 1, like: bool = False
) -> None:
    """Steps with gradients that depend on nothing but the seed; of one parameter there is none now and then.

    They lie in memory as their parameters do in every other step, or always if ``like``.
    """
    torch.manual_seed(seed)
    for n in range(steps):
        for k, p in enumerate(params):
            g = torch.randn(p.shape, dtype=torch.float64).to(p.dtype)
            g = torch.empty_like(p).copy_(g) if like or n % 2 else g
            p.grad = None if k == 1 and n % 3 == 1 else g.detach()
        step()


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    if not wanted.numel():
        return 0.0
    wanted = wanted.double()
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def alike(ours: Any, theirs: Any, tolerance: float) -> None:
    """Parameters and states, one by one."""
    pairs = zip(ours.param_groups, theirs.param_groups, strict=True)
    for p, q in ((p, q) for g, h in pairs for p, q in zip(g["params"], h["params"], strict=True)):
        assert relative(p.detach(), q.detach()) <= tolerance
        mine, wanted = ours.state[p], theirs.state[q]
        assert set(mine) >= set(wanted)
        for name, value in wanted.items():
            assert mine[name].dtype == value.dtype and mine[name].shape == value.shape
            assert relative(mine[name], value) <= tolerance, name


def pair(
    name: str, options: dict[str, Any], dtype: torch.dtype = torch.float32, max_norm: float | None = None
) -> tuple[Any, Callable[[], object], list[torch.nn.Parameter], Any, Callable[[], object], list[torch.nn.Parameter]]:
    a, b = parameters(dtype), parameters(dtype)
    ours = getattr(optim, name)(a, max_norm=max_norm, **options)
    theirs = getattr(torch.optim, name)(b, foreach=False, **options)

    def clipped() -> None:
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(b, max_norm)
        theirs.step()

    return ours, ours.step, a, theirs, clipped, b


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {}),
    ("AdamW", {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}),
    ("AdamW", {"amsgrad": True}),
    ("AdamW", {"maximize": True, "weight_decay": 0.0}),
    ("Adam", {}),
    ("Adam", {"weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.01, "momentum": 0.9}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
]


def label(case: Any) -> str:
    return case if isinstance(case, str) else ",".join(case) or "defaults"


@pytest.mark.parametrize("max_norm", [None, 1.0], ids=["plain", "clipped"])
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=label)
def test_a_hundred_steps_in_float32(name: str, options: dict[str, Any], max_norm: float | None) -> None:
    ours, step, a, theirs, other, b = pair(name, options, max_norm=max_norm)
    train(a, step, 100)
    train(b, other, 100)
    alike(ours, theirs, 1e-6)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=label)
def test_a_hundred_steps_in_float64(name: str, options: dict[str, Any]) -> None:
    ours, step, a, theirs, other, b = pair(name, options, torch.float64, 2.0)
    train(a, step, 100)
    train(b, other, 100)
    alike(ours, theirs, 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "options"), [("AdamW", {"lr": 0.01}), ("SGD", {"lr": 0.01, "momentum": 0.9})])
def test_narrow_dtypes_stay_as_close_to_float64_as_torch(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    _, step, a, _, other, b = pair(name, options, dtype)
    exact = [torch.nn.Parameter(p.detach().double()) for p in parameters(dtype)]
    reference = getattr(torch.optim, name)(exact, foreach=False, **options)
    train(a, step, 20)
    train(b, other, 20)

    def wide() -> None:
        for p in exact:
            p.grad = None if p.grad is None else p.grad.to(dtype).double()
        reference.step()

    train(exact, wide, 20)
    found, torchs, wanted = (torch.cat([p.detach().double().reshape(-1) for p in side]) for side in (a, b, exact))
    assert relative(found, wanted) <= relative(torchs, wanted) * 1.05


def test_bfloat16_weights_with_states_in_float32() -> None:
    options = {"lr": 0.01, "state_dtype": torch.float32}
    params = parameters(torch.bfloat16)
    ours = optim.AdamW(params, **options)
    train(params, ours.step, 20)
    assert ours.state[params[0]]["exp_avg"].dtype is torch.float32
    again = optim.AdamW(parameters(torch.bfloat16), **options)
    again.load_state_dict(copy.deepcopy(ours.state_dict()))
    p = again.param_groups[0]["params"][0]
    assert torch.equal(again.state[p]["exp_avg_sq"], ours.state[params[0]]["exp_avg_sq"])


@pytest.mark.parametrize("clipped", [False, True])
def test_groups_with_options_of_their_own(clipped: bool) -> None:
    def grouped(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": params[:3], "weight_decay": 0.5}, {"params": params[3:], "lr": 0.1, "betas": (0.5, 0.9)}]

    a, b = parameters(), parameters()
    ours = optim.AdamW(grouped(a), max_norm=1.0 if clipped else None)
    theirs = torch.optim.AdamW(grouped(b), fused=True)
    norms: list[torch.Tensor] = []

    def step() -> None:
        if clipped:
            norms.append(torch.nn.utils.clip_grad_norm_(b, 1.0))
        theirs.step()

    train(a, ours.step, 30, like=True)
    train(b, step, 30, like=True)
    alike(ours, theirs, 2e-6)
    if clipped:
        assert ours.grad_norm is not None
        torch.testing.assert_close(ours.grad_norm, norms[-1])


def test_dtypes_together_are_clipped_by_one_norm() -> None:
    def mixed() -> list[torch.nn.Parameter]:
        return [*parameters(), *parameters(torch.float64, 5), *parameters(torch.bfloat16, 6)]

    a, b = mixed(), mixed()
    ours, theirs = optim.SGD(a, lr=0.1, max_norm=1.0), torch.optim.SGD(b, lr=0.1, foreach=False)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(b, 1.0)
        theirs.step()

    train(a, ours.step, 3)
    train(b, step, 3)
    for p, q in zip(a, b, strict=True):
        assert relative(p.detach(), q.detach()) < (1e-2 if p.dtype is torch.bfloat16 else 1e-5)
    assert ours.grad_norm is not None and ours.grad_norm.dtype is torch.float64


@pytest.mark.parametrize(
    ("name", "options"),
    [("AdamW", {"amsgrad": True}), ("Adam", {}), ("SGD", {"momentum": 0.9}), ("SGD", {"lr": 0.1})],
    ids=label,
)
@pytest.mark.parametrize("fused", [False, True])
def test_state_goes_to_torch_and_back(name: str, options: dict[str, Any], fused: bool) -> None:
    a, b = parameters(), parameters()
    options = {"lr": 0.01, **options}
    ours = getattr(optim, name)(a, **options)
    train(a, ours.step, 5)
    theirs = getattr(torch.optim, name)(b, fused=fused, **options)
    with torch.no_grad():
        for p, q in zip(b, a, strict=True):
            p.copy_(q)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    train(a, ours.step, 5, seed=2, like=True)
    train(b, theirs.step, 5, seed=2, like=True)
    alike(ours, theirs, 1e-6)
    back = getattr(optim, name)(a, **options)
    back.load_state_dict(copy.deepcopy(theirs.state_dict()))
    with torch.no_grad():
        for p, q in zip(a, b, strict=True):
            p.copy_(q)
    train(a, back.step, 5, seed=3, like=True)
    train(b, theirs.step, 5, seed=3, like=True)
    alike(back, theirs, 1e-6)


def test_state_made_by_torchs_fused_optimizer_is_taken() -> None:
    a, b = parameters(), parameters()
    theirs = torch.optim.AdamW(b, fused=True)
    train(b, theirs.step, 3)
    ours = optim.AdamW(a)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(a, ours.step, 1, seed=9)
    assert float(ours.state[a[0]]["step"]) == 4.0


def test_lion_is_what_its_paper_says() -> None:
    a, b = parameters(torch.float64), parameters(torch.float64)
    ours = optim.Lion(a, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    averages = [torch.zeros_like(p) for p in b]

    def step() -> None:
        with torch.no_grad():
            for p, m in zip(b, averages, strict=True):
                if p.grad is not None:
                    p.mul_(1 - 0.01 * 0.1).sub_(0.01 * torch.sign(0.9 * m + (1 - 0.9) * p.grad))
                    m.mul_(0.99).add_(p.grad, alpha=1 - 0.99)

    train(a, ours.step, 50)
    train(b, step, 50)
    for p, q, m in zip(a, b, averages, strict=True):
        assert relative(p.detach(), q.detach()) <= 1e-12
        assert relative(ours.state[p]["exp_avg"], m) <= 1e-12
