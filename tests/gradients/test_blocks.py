"""Losses of large products: forward and derivative together, block by block of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor, config
from tessera.driver.gradient import Gradient, latest
from tessera.ir.parser import parse
from tessera.ir.verify import verify
from tessera.passes import blocks

N, D, V = 331, 160, 1201
BLOCK = 48


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is large, and how many rows a block has, at sizes that are soon computed."""
    monkeypatch.setattr(blocks, "LARGE", 1 << 10)
    monkeypatch.setattr(blocks, "FEWEST", BLOCK)
    yield


def mean(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
    return F.cross_entropy(x @ w.mT, t)


def total(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
    return F.cross_entropy(x @ w.mT, t, reduction="sum", ignore_index=7)


def smooth(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
    return F.cross_entropy(x @ w.mT, t, label_smoothing=0.1)


def weighted(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
    return F.cross_entropy(x @ w.mT, t, weight=w[:, 0].detach().abs())


def capped(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
    logits = 30 * torch.tanh(x @ w.mT / 30)
    return F.cross_entropy(logits, t) + 1e-2 * torch.logsumexp(logits, -1).square().mean()


def biased(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
    return F.nll_loss(torch.log_softmax(F.linear(torch.tanh(x), w, w[:, 0]), -1), t)


def distilled(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
    return (torch.logsumexp(x @ w.mT, -1) * t).mean()


LOSSES = (mean, total, smooth, weighted, capped, biased, distilled)


def arguments(rows: int = N, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(3)
    x, w = torch.randn(rows, D), torch.randn(V, D) / 4
    t = torch.randint(0, V, (rows,))
    t[1::5] = 7
    return [x.to(dtype).requires_grad_(), w.to(dtype).requires_grad_(), t]


@cache
def compiled(loss: Callable[..., Any]) -> Any:
    """The function of a loss; its derivative is made when a test first asks for it."""
    return tessera.function(loss)


def derivative(f: Any) -> Gradient:
    found = latest(f.compiled.all()[-1])
    assert found is not None
    return found


def by_blocks(f: Any) -> bool:
    return "blocks(" in f.ir("forward")


def gradients(f: Callable[..., Any], given: list[torch.Tensor], scale: float = 1.0) -> list[torch.Tensor]:
    return list(torch.autograd.grad(f(*given) * scale, given[:2]))


def off(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_values_and_gradients_are_as_exact_as_those_of_torch(loss: Any) -> None:
    f = compiled(loss)
    given, wide = arguments(), arguments(dtype=torch.float64)
    exact = gradients(loss, wide)
    assert torch.allclose(f(*given), loss(*given))
    assert off(gradients(f, given), exact) <= 1.1 * off(gradients(loss, given), exact)
    assert by_blocks(f)


@pytest.mark.parametrize("rows", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK - 3])
def test_any_number_of_rows_goes(rows: int) -> None:
    f = compiled(mean)
    gradients(f, arguments())
    given = arguments(rows)
    assert off(gradients(f, given), [g.double() for g in gradients(mean, given)]) < 1e-5
    assert len(f.compiled.all()) == 1 and by_blocks(f)


def test_nothing_as_large_as_the_product_is_there() -> None:
    f, given = compiled(mean), arguments(8 * BLOCK)
    with config.override(pool=False):
        gradients(f, given)
        seen = peak(lambda: gradients(f, given, 3.0)) - 4 * D * (8 * BLOCK + V)
    assert seen < 4 * 8 * BLOCK * V / 6
    assert peak(lambda: gradients(mean, given)) > 4 * 8 * BLOCK * V * 2


def peak(call: Callable[[], object]) -> int:
    """The most bytes that torch had allocated at once beyond those from before."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        held = call()
    del held
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for e in sorted(events, key=lambda e: e.start_ns()):
        now += e.nbytes()
        most = max(most, now)
    return most


def test_a_retained_graph_gives_the_same_gradients_again() -> None:
    f, given = compiled(mean), arguments()
    y = f(*given) * 3
    first = torch.autograd.grad(y, given[:2], retain_graph=True)
    for g in first:
        g.zero_()
    second = torch.autograd.grad(y, given[:2], retain_graph=True)
    third = torch.autograd.grad(y, given[:2])
    assert all(torch.equal(a, b) for a, b in zip(second, third, strict=True))
    assert all(torch.equal(a, 3 * b) for a, b in zip(third, gradients(f, given), strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, given[:2])


@pytest.mark.parametrize("scale", [1.0, 0.25, 65536.0])
@pytest.mark.parametrize("retain", [False, True])
def test_gradients_add_up_over_batches(scale: float, retain: bool) -> None:
    f, given = compiled(mean), arguments()
    for n in range(3):
        part = [given[0][n * 100 : n * 100 + 100], given[1], given[2][n * 100 : n * 100 + 100]]
        (f(*part) * scale).backward(retain_graph=retain)
    other = arguments()
    for n in range(3):
        part = [other[0][n * 100 : n * 100 + 100], other[1], other[2][n * 100 : n * 100 + 100]]
        (mean(*part) * scale).backward()
    assert off([x.grad for x in given[:2]], [x.grad.double() for x in other[:2]]) < 1e-5


def test_hooks_may_change_gradients_in_place() -> None:
    f, given = compiled(mean), arguments()
    handle = given[1].register_hook(lambda g: g.mul_(2))
    y = f(*given)
    y.backward(retain_graph=True)
    once = given[1].grad.clone()
    y.backward()
    handle.remove()
    assert torch.equal(given[1].grad, 2 * once)
    assert torch.equal(once, 2 * gradients(f, given)[1])


def test_hooks_on_saved_tensors_keep_what_they_were_given() -> None:
    f, given, seen = compiled(mean), arguments(), []

    def pack(x: torch.Tensor) -> torch.Tensor:
        seen.append((x, x.clone()))
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = f(*given) * 3
    found = torch.autograd.grad(y, given[:2])
    assert seen and all(torch.equal(x, before) for x, before in seen)
    assert not any(g.data_ptr() == x.data_ptr() for g in found for x, _ in seen)


def test_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGE", 8)
    monkeypatch.setattr(blocks, "FEWEST", 2)
    monkeypatch.setattr(blocks, "LONG", 1)
    monkeypatch.setattr(blocks, "TIMES", 1)
    monkeypatch.setattr("tessera.passes.remat.SHORTER", 1)
    f = tessera.function(smooth)
    torch.manual_seed(0)
    x, w = torch.randn(5, 2, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    t = torch.tensor([0, 8, 3, -100, 2])
    given = (x.requires_grad_(), w.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: f(a, b, t), given)
    assert by_blocks(f)
    assert torch.autograd.gradgradcheck(lambda a, b: f(a, b, t), given)


def test_what_is_small_or_limited_stays_as_it_was() -> None:
    def chars(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
        return F.cross_entropy(x @ w.mT, t)

    few = [torch.randn(N, D, requires_grad=True), torch.randn(65, D, requires_grad=True), torch.randint(0, 65, (N,))]
    f, g = tessera.function(chars), tessera.function(mean, max_saved=4 * D * V)
    gradients(f, few)
    gradients(g, arguments())
    assert not by_blocks(f)
    assert "%d_w" not in g.ir("forward") and derivative(g).parts.bytes().evaluate({"N": N, "D": D, "V": V}) < 4 * D * V
    assert off(gradients(g, arguments()), [x.double() for x in gradients(mean, arguments())]) < 1e-5


def test_a_cotangent_for_each_row_is_waited_for() -> None:
    def rows(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor["N"]:
        return F.cross_entropy(x @ w.mT, t, reduction="none")

    f, given = tessera.function(rows), arguments()
    torch.autograd.grad(f(*given).sum(), given[:2])
    assert not by_blocks(f)


def test_half_precision_waits_for_its_scale() -> None:
    f, given = tessera.function(mean), arguments(dtype=torch.float16)
    gradients(f, given, 128.0)
    assert not by_blocks(f)


def test_more_of_a_model_around_it() -> None:
    def model(x: Tensor["N", "D"], a: Tensor["D", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
        return F.cross_entropy(F.gelu(x @ a) @ w.mT, t)

    f = tessera.function(model)
    x, w, t = arguments()
    given = [x, (torch.randn(D, D) / 12).requires_grad_(), w]
    found = torch.autograd.grad(f(*given, t) * 2, given)
    wide = [v.detach().double().requires_grad_() for v in given]
    exact = list(torch.autograd.grad(model(*wide, t) * 2, wide))
    theirs = list(torch.autograd.grad(model(*given, t) * 2, given))
    assert off(list(found), exact) <= 1.2 * off(theirs, exact)
    assert by_blocks(f)
    assert "gelu" not in f.ir("forward").split("blocks(")[1].split("matmul")[0]


@pytest.mark.parametrize("turned", [False, True])
def test_rows_may_lie_along_two_axes(turned: bool) -> None:
    def head(x: Tensor["B", "S", "D"], w: Tensor["V", "D"], t: Tensor["B", "S"]) -> Tensor[()]:
        logits = x @ w.mT
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), t.reshape(-1))

    f, (x, w, t) = compiled(head), arguments(330)
    x, t = x.detach().view(6, 55, D), t.view(6, 55)
    if turned:
        x, t = x.transpose(0, 1).contiguous().transpose(0, 1), t.mT.contiguous().mT
    given = [x.requires_grad_(), w, t]
    wide = [x.detach().double().requires_grad_(), w.detach().double().requires_grad_(), t]
    exact = gradients(head, wide)
    assert off(gradients(f, given, 0.5), [g * 0.5 for g in exact]) <= 1.2 * off(gradients(head, given), exact)
    assert by_blocks(f)


def test_sums_of_several_products_are_added_up() -> None:
    def heads(x: Tensor["N", "H", "D"], w: Tensor["H", "V", "D"]) -> Tensor[()]:
        return torch.logsumexp(torch.einsum("nhd,hvd->nhv", x, w), -1).square().mean()

    f = tessera.function(heads)
    torch.manual_seed(0)
    given = [torch.randn(N, 2, D, requires_grad=True), (torch.randn(2, V // 2, D) / 4).requires_grad_()]
    exact = gradients(heads, [v.detach().double().requires_grad_() for v in given])
    assert off(gradients(f, given), exact) <= 1.2 * off(gradients(heads, given), exact)
    assert by_blocks(f)


def test_the_loop_can_be_seen() -> None:
    f, given = compiled(mean), arguments()
    gradients(f, given)
    forward = derivative(f).forward.fused
    assert parse(f.ir("forward")) == forward
    verify(forward)
    text = str(f.explain())
    assert f"blocks of rows = max({BLOCK}, ceildiv(N, 8)) along N" in text
    assert "add    contract to %d_w" in text
    assert "unless the graph is retained, these become cotangents where they are: %matmul_1, %d_w" in text
    report = f.cost()
    at = report.backward.at({"N": 4096, "D": 768, "V": 32000})
    assert at["kernels"] == 2
