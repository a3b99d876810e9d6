"""The optimizers as members of torch: closures, hooks, schedulers, scalers, copies; and what they refuse."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tessera import DTypeError, TraceError, optim
from tessera.optim import rules

ALL: list[Callable[..., Any]] = [optim.AdamW, optim.Adam, optim.SGD, optim.Lion]


def params(*shapes: tuple[int, ...], grad: float | None = 1.0) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(s)) for s in shapes or ((4, 3), (5,))]
    for p in made:
        p.grad = None if grad is None else torch.full_like(p, grad)
    return made


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_kernel_clips_and_updates_everything() -> None:
    ps = params((40, 30), (7,), (1000,))
    optimizer = optim.AdamW(ps, max_norm=1.0)
    for _ in range(2):
        optimizer.step()
    lists = [[p.detach() for p in ps], [p.grad for p in ps]]
    states = [[optimizer.state[p][name] for p in ps] for name in ("exp_avg", "exp_avg_sq")]
    numbers = (1.0, 0.0, 0.9, 0.999, 1e-3, 1.0, 1e-8, 1.0, 1.0, False, True, False, False)
    resolved = rules.adam.resolve(*lists, *states, None, *numbers)
    assert len(resolved.variant.program.steps) == 1 and not resolved.variant.program.joined


@pytest.mark.parametrize("cls", ALL)
def test_a_loss_goes_down_and_a_closure_gives_it(cls: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    x, y = torch.randn(64, 8), torch.randn(64, 1)
    optimizer = cls(model.parameters(), lr=0.01, max_norm=1.0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    assert optimizer.grad_norm is not None and not optimizer.grad_norm.requires_grad


@pytest.mark.parametrize("cls", ALL)
def test_without_gradients_nothing_happens(cls: Callable[..., Any]) -> None:
    ps = params(grad=None)
    before = [p.detach().clone() for p in ps]
    optimizer = cls(ps, max_norm=1.0)
    assert optimizer.step() is None and optimizer.grad_norm is None and not optimizer.state
    assert all(torch.equal(p, b) for p, b in zip(ps, before, strict=True))
    ps[0].grad = torch.ones_like(ps[0])
    optimizer.step()
    assert not torch.equal(ps[0], before[0]) and torch.equal(ps[1], before[1])


def test_the_norm_is_measured_and_the_gradients_are_kept() -> None:
    ps = params(grad=2.0)
    optimizer = optim.SGD(ps, lr=0.0, max_norm=math.inf)
    optimizer.step()
    assert optimizer.grad_norm is not None
    torch.testing.assert_close(optimizer.grad_norm, torch.tensor(2.0 * math.sqrt(17)))
    assert all(bool((p.grad == 2.0).all()) for p in ps)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_norm_that_is_not_finite(bad: float) -> None:
    ps = params()
    ps[0].grad[0, 0] = bad  # type: ignore[index]
    before = [p.detach().clone() for p in ps]
    strict = optim.AdamW(ps, max_norm=1.0, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="cannot be clipped"):
        strict.step()
    assert all(torch.equal(p, b) for p, b in zip(ps, before, strict=True))
    assert float(strict.state[ps[0]]["step"]) == 0.0
    optim.SGD(ps, lr=0.1, max_norm=1.0).step()
    assert bool(ps[0].isnan().any())


@pytest.mark.parametrize("cls", ALL)
def test_bits_do_not_depend_on_the_threads(cls: Callable[..., Any], threads: None) -> None:
    found = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        ps = params((300, 200), (77,), (3, 5, 7))
        optimizer = cls(ps, lr=0.01, max_norm=0.5)
        for _ in range(3):
            optimizer.step()
        found.append([p.detach().clone() for p in ps])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_schedulers_hooks_and_tensor_rates() -> None:
    ps = params()
    optimizer = optim.SGD(ps, lr=torch.tensor(0.1))
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    before = ps[0].detach().clone()
    optimizer.step()
    torch.testing.assert_close(ps[0].detach(), before - 0.1)
    assert seen == ["before", "after"]
    plain = optim.AdamW(params(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(plain, 1, 0.1)
    plain.step()
    scheduler.step()
    assert plain.param_groups[0]["lr"] == pytest.approx(0.05)


def test_profiles_name_steps_and_hooks_of_all_optimizers_run() -> None:
    optimizer, seen = optim.Adam(params(), lr=0.1), []
    for _ in range(2):
        optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#Adam.step", "Optimizer.zero_grad#Adam.zero_grad"} <= names
    handle = register_optimizer_step_post_hook(lambda o, args, kwargs: seen.append(o))
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert seen == [optimizer]


def test_gradients_are_let_go_of_or_filled_with_zeros() -> None:
    ps = params((3,), (2, 2))
    ps[1].grad = None
    optimizer = optim.SGD(ps, lr=0.1)
    held = ps[0].grad
    optimizer.zero_grad(set_to_none=False)
    assert ps[0].grad is held and not held.any() and ps[1].grad is None
    optimizer.zero_grad()
    assert ps[0].grad is None


def test_steps_are_counted_where_others_see_them() -> None:
    ps = params((3,), (2, 2))
    optimizer = optim.Adam(ps, lr=0.1)
    for n in range(1, 6):
        optimizer.step()
        assert [float(optimizer.state[p]["step"]) for p in ps] == [n, n]
    optimizer.state[ps[0]]["step"] += 10
    optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in ps] == [16, 6]


def test_groups_are_added_later() -> None:
    first, second = params((3,)), params((4,))
    optimizer = optim.AdamW(first, lr=0.1)
    optimizer.step()
    optimizer.add_param_group({"params": second, "lr": 0.2})
    before = second[0].detach().clone()
    optimizer.step()
    assert float(optimizer.state[first[0]]["step"]) == 2.0 and float(optimizer.state[second[0]]["step"]) == 1.0
    assert not torch.equal(second[0], before)


def test_copies_and_files_continue_alike() -> None:
    ps = params()
    optimizer = optim.AdamW(ps, lr=0.1, max_norm=1.0)
    optimizer.step()
    other, own = copy.deepcopy((optimizer, ps))
    assert other.max_norm == 1.0
    for p, q in zip(ps, own, strict=True):
        q.grad = p.grad
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    optimizer.step()
    other.step()
    assert all(torch.equal(a, b) for a, b in zip(ps, own, strict=True))
    assert float(other.state[own[0]]["step"]) == 2.0
    assert repr(optimizer).startswith("AdamW (")


def test_state_that_somebody_else_set_is_used() -> None:
    ps = params()
    optimizer = optim.SGD(ps, lr=0.1, momentum=0.9)
    optimizer.step()
    optimizer.state[ps[0]]["momentum_buffer"] = torch.zeros_like(ps[0])
    before = ps[0].detach().clone()
    optimizer.step()
    torch.testing.assert_close(ps[0].detach(), before - 0.1)
    optimizer.state.clear()
    before = ps[1].detach().clone()
    optimizer.step()
    torch.testing.assert_close(ps[1].detach(), before - 0.1)


@pytest.mark.parametrize("cls", [optim.AdamW, optim.SGD])
def test_a_gradient_scaler_hands_over_its_scale(cls: Callable[..., Any]) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    ps, qs = params(), params()
    ours, theirs = cls(ps, lr=0.1, max_norm=1.0), cls(qs, lr=0.1, max_norm=1.0)
    for n in range(3):
        for p, q in zip(ps, qs, strict=True):
            p.grad, q.grad = None, torch.full_like(q, 0.5)
        scaler.scale(sum((p * 0.5).sum() for p in ps)).backward()
        if n == 1:
            ps[0].grad[0, 0] = math.inf  # type: ignore[index]
            before = [p.detach().clone() for p in ps]
            scaler.step(ours)
            assert all(torch.equal(p, b) for p, b in zip(ps, before, strict=True))
        else:
            scaler.step(ours)
            theirs.step()
        scaler.update()
    for p, q in zip(ps, qs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach())
    assert ours.grad_norm is not None and theirs.grad_norm is not None
    torch.testing.assert_close(ours.grad_norm, theirs.grad_norm)


def test_unscaled_gradients_are_not_scaled_again() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    ps = params(grad=None)
    before = ps[0].detach().clone()
    optimizer = optim.SGD(ps, lr=0.1)
    scaler.scale(sum(p.sum() for p in ps)).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    torch.testing.assert_close(ps[0].detach(), before - 0.1)


@pytest.mark.parametrize("cls", ALL)
def test_an_infinite_weight_without_decay_stays(cls: Callable[..., Any]) -> None:
    ps = params((3,))
    with torch.no_grad():
        ps[0][1] = math.inf
    optimizer = cls(ps, lr=0.1, weight_decay=0.0)
    optimizer.step()
    assert ps[0][1] == math.inf and bool(ps[0].isfinite().sum() == 2)


def test_memory_that_moved_is_found() -> None:
    ps = params((6, 4), (3,))
    optimizer = optim.SGD(ps, lr=0.5, momentum=0.9)
    optimizer.step()
    ps[0].data = ps[0].data.t().contiguous().t()
    ps[1].data = ps[1].data.clone()
    before = [p.detach().clone() for p in ps]
    optimizer.step()
    for p, b in zip(ps, before, strict=True):
        torch.testing.assert_close(p.detach(), b - 0.5 * 1.9)


def test_autograd_sees_the_step() -> None:
    (p,) = params((3,))
    loss = (p * p).sum()
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- refusals ------------------------------------------------------------------------------------------


def test_sparse_and_complex_are_refused() -> None:
    (p,) = params((3, 3))
    p.grad = torch.eye(3).to_sparse()
    with pytest.raises(DTypeError, match="sparse gradient"):
        optim.AdamW([p]).step()
    q = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    q.grad = torch.ones_like(q)
    with pytest.raises(DTypeError, match="complex64"):
        optim.SGD([q]).step()


def test_a_parameter_whose_elements_share_memory_is_refused() -> None:
    p = torch.ones(1).expand(4).requires_grad_()
    p.grad = torch.ones(4)
    with pytest.raises(TraceError, match="share memory"):
        optim.SGD([p], lr=0.1).step()


@pytest.mark.parametrize(
    ("cls", "options", "text"),
    [
        (optim.AdamW, {"lr": -1.0}, "lr is -1"), (optim.Adam, {"eps": -1e-8}, "eps"),
        (optim.Adam, {"betas": (1.0, 0.9)}, r"betas\[0\]"), (optim.Lion, {"betas": (0.9, -0.1)}, r"betas\[1\]"),
        (optim.Lion, {"betas": (0.9,)}, "1 numbers"), (optim.AdamW, {"weight_decay": -0.1}, "weight_decay"),
        (optim.SGD, {"nesterov": True}, "nesterov"), (optim.SGD, {"momentum": -1.0}, "momentum"),
        (optim.SGD, {"differentiable": True}, "differentiable"), (optim.AdamW, {"capturable": True}, "capturable"),
        (optim.AdamW, {"fused": True, "foreach": True}, "at most one"), (optim.AdamW, {"max_norm": -1.0}, "max_norm"),
        (optim.AdamW, {"max_norm": math.nan}, "max_norm"), (optim.AdamW, {"lr": torch.ones(2)}, "2 elements"),
        (optim.AdamW, {"state_dtype": torch.int32}, "state_dtype"), (optim.Lion, {"lr": math.nan}, "lr is nan"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(cls: Callable[..., Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        cls(params(), **options)


def test_what_torch_calls_implementations_is_taken() -> None:
    for options in ({"fused": True}, {"foreach": True}, {"fused": False}):
        optim.AdamW(params(), **options).step()  # type: ignore[arg-type]


# ---- schedules -----------------------------------------------------------------------------------------


def test_schedules_rise_and_fall() -> None:
    assert optim.lr.rates(optim.lr.cosine, 4, steps=2) == [1.0, 0.5, 0.0, 0.0]
    assert optim.lr.rates(optim.lr.linear, 5, steps=4, floor=0.5) == [1.0, 0.875, 0.75, 0.625, 0.5]
    optimizer = optim.AdamW(params(), lr=2.0)
    scheduler = optim.lr.inverse_sqrt(optimizer, warmup=4)
    found = []
    for _ in range(8):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found[:4] == [0.5, 1.0, 1.5, 2.0] and found[7] == pytest.approx(2.0 * math.sqrt(4 / 7))


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        (optim.lr.cosine, {"steps": 5, "warmup": 5}), (optim.lr.linear, {"steps": 5, "warmup": -1}),
        (optim.lr.linear, {"steps": 5, "floor": 2.0}), (optim.lr.inverse_sqrt, {"warmup": 0}),
        (optim.lr.constant, {"warmup": -1}),
    ],
)  # fmt: skip
def test_schedules_without_a_meaning_are_refused(schedule: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        schedule(torch.optim.SGD([torch.zeros(1)], lr=1.0), **options)


def test_torchs_compiler_is_not_loaded_to_be_kept_out() -> None:
    code = (
        "import sys, torch\n"
        "from tessera import optim\n"
        "w = torch.nn.Parameter(torch.ones(3))\n"
        "optimizer = optim.AdamW([w], lr=0.1)\n"
        "(w * 2).sum().backward()\n"
        "optimizer.step()\n"
        "optimizer.zero_grad()\n"
        "assert w.grad is None and float(w[0]) < 1 and len(optimizer.param_groups) == 1\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16], ids=str)
def test_a_number_of_steps_of_another_dtype_counts_on(dtype: torch.dtype) -> None:
    (p,) = params((4,))
    optimizer = optim.AdamW([p])
    optimizer.step()
    optimizer.state[p]["step"] = torch.tensor(3, dtype=dtype)
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == 4
