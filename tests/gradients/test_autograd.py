"""A compiled function among torch's own: in-place changes, retained graphs, hooks, layouts, modes, threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import tessera
from tessera.diag import TraceError


@tessera.function(strict=True)
def gate(x, w):
    return (x * torch.tanh(w)).sum(-1)


@tessera.function(strict=True)
def product(a, b):
    return a * b


@tessera.function(strict=True)
def power(x):
    return torch.exp(x)


@tessera.function(strict=True)
def several(x):
    return x * 2, torch.exp(x), x.argmax(-1), x.sum()


@tessera.function(strict=True)
def itself(x, y):
    return x, y * 2


@tessera.function(strict=True)
def rows(x, index):
    return x[index] * 2, index + 1


def leaf(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _compiled() -> Iterator[None]:
    with tessera.backend("c"):
        yield


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_an_argument_changed_before_the_backward_pass_is_torchs_error() -> None:
    x, w = leaf(3, 4), leaf(4)
    y = gate(x, w)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_kept_result_changed_before_the_backward_pass_is_torchs_error() -> None:
    y = power(leaf(3))
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_result_that_is_not_kept_may_be_changed() -> None:
    x = leaf(3)
    y = product(x, x)
    y.mul_(2)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 4 * x)


def test_the_graph_is_freed_unless_it_is_retained() -> None:
    x, w = leaf(3, 4), leaf(4)
    y = gate(x, w).sum()
    y.backward(retain_graph=True)
    once = x.grad.clone()
    y.backward()
    torch.testing.assert_close(x.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_gradients_add_up() -> None:
    x = leaf(3)
    for _ in range(3):
        product(x, x).sum().backward()
    torch.testing.assert_close(x.grad, 6 * x)


@pytest.mark.parametrize("form", ["same", "turned", "copied to numpy"])
def test_hooks_on_saved_tensors(form: str) -> None:
    pack, unpack = {
        "same": (lambda t: t, lambda t: t),
        "turned": (lambda t: t.mT.contiguous(), lambda t: t.mT),
        "copied to numpy": (lambda t: t.numpy(force=True).copy(), torch.from_numpy),
    }[form]
    a, b = leaf(3, 4), leaf(3, 4)
    with saved_tensors_hooks(pack, unpack):
        y = product(a, b)
    for got, want in zip(torch.autograd.grad(y.sum(), (a, b)), (b, a), strict=True):
        torch.testing.assert_close(got, want)


def test_hooks_that_give_something_else_are_refused() -> None:
    a, b = leaf(3), leaf(3)
    with saved_tensors_hooks(lambda t: t.half(), lambda t: t):
        y = product(a, b)
    with pytest.raises(TraceError, match="hooks on saved tensors") as found:
        y.sum().backward()
    assert found.value.code == "TSR0418"


def test_saved_on_the_host_and_checkpointed() -> None:
    x = leaf(3, 4)
    with save_on_cpu():
        y = product(x, x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * x)
    for reentrant in (False, True):
        y = checkpoint(lambda x: product(x, x) * x, x, use_reentrant=reentrant)
        (found,) = gradients(y, x)
        torch.testing.assert_close(found, 3 * x.detach() ** 2)


def gradients(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor]:
    """By ``backward``, which reentrant checkpoints ask for."""
    x.grad = None
    y.sum().backward()
    assert x.grad is not None
    return (x.grad,)


# ---- arguments and results -------------------------------------------------------------------------------------------


def test_results_that_nobody_uses_and_integer_results() -> None:
    x = leaf(3, 4)
    doubled, _, best, total = several(x)
    assert not best.requires_grad and best.dtype == torch.int64
    torch.testing.assert_close(torch.autograd.grad(doubled.sum(), x, retain_graph=True)[0], torch.full_like(x, 2.0))
    torch.testing.assert_close(torch.autograd.grad(total, x)[0], torch.ones_like(x))


def test_a_result_that_is_an_argument_is_that_tensor() -> None:
    x, y = leaf(3), leaf(3)
    same, doubled = itself(x, y)
    assert same is x and same.grad_fn is None
    torch.testing.assert_close(torch.autograd.grad((same * doubled).sum(), (x, y))[0], 2 * y)
    plain = torch.randn(3, dtype=torch.float64)
    same, doubled = itself(plain, y)
    assert same is plain and not same.requires_grad and doubled.requires_grad


def test_one_tensor_given_twice_and_overlapping_ones() -> None:
    x = leaf(3, 4)
    torch.testing.assert_close(torch.autograd.grad(product(x, x).sum(), x)[0], 2 * x)
    want = torch.autograd.grad((x * torch.tanh(x[0])).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(gate(x, x[0]).sum(), x)[0], want)


def test_strided_and_expanded_arguments_and_cotangents() -> None:
    x, e = leaf(3, 4), leaf(4)
    torch.testing.assert_close(torch.autograd.grad(product(x.mT, x.mT).sum(), x)[0], 2 * x)
    one = torch.ones(1, 1, dtype=torch.float64).expand(3, 4)
    torch.testing.assert_close(torch.autograd.grad(product(e.expand(3, 4), x), e, one)[0], x.sum(0))
    g = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(product(x, x), x, g.mT)[0], 2 * x * g.mT)
    turned = torch.complex(g, g).mT.conj().imag
    assert turned.is_neg()
    torch.testing.assert_close(torch.autograd.grad(product(x, x), x, turned)[0], 2 * x * turned)


def test_numbers_of_rank_zero() -> None:
    x = leaf()
    assert gradcheck(product, (x, x)) and gradgradcheck(product, (x, x))


def test_indices_take_no_gradient() -> None:
    x, index = leaf(3, 4), torch.tensor([0, 0, 2])
    found, after = rows(x, index)
    assert not after.requires_grad
    want = torch.tensor([4.0, 0.0, 2.0], dtype=torch.float64)[:, None].expand(3, 4)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], want.contiguous())


@pytest.mark.parametrize("which", range(2))
def test_only_some_arguments_ask_for_gradients(which: int) -> None:
    given = [torch.randn(3, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    given[which].requires_grad_()
    y = gate(*given)
    (found,) = torch.autograd.grad(y.sum(), given[which])
    (want,) = torch.autograd.grad((given[0] * torch.tanh(given[1])).sum(), given[which])
    torch.testing.assert_close(found, want)


# ---- modes and hooks -------------------------------------------------------------------------------------------------


def test_modes_without_gradients() -> None:
    x = leaf(3)
    with torch.no_grad():
        assert not product(x, x).requires_grad
    with torch.inference_mode():
        made = product(x, x)
    assert made.is_inference() and product(x, x).requires_grad
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        product(made, x)


@pytest.mark.parametrize(
    "f",
    [lambda x: x.detach() * x, lambda x: torch.detach(x) * x, lambda x: x.data * x, lambda x: _held(x) * x],
    ids=["method", "function", "data", "no_grad"],
)
def test_constants_inside_a_function(f: Callable[[Any], Any]) -> None:
    x = leaf(3)

    def plain(x):
        return f(x)

    made = tessera.function(plain, strict=True)
    for warm in range(2):
        found = torch.autograd.grad(made(x).sum(), x)[0]
        torch.testing.assert_close(found, torch.autograd.grad(plain(x).sum(), x)[0], msg=str(warm))
    with torch.no_grad():
        torch.testing.assert_close(made(x), plain(x))


@torch.no_grad()
def _held(x: Any) -> Any:
    return torch.exp(x)


def test_a_detached_result_shares_memory_and_has_no_gradient() -> None:
    @tessera.function(strict=True)
    def both(x):
        return x.detach(), x * 3

    x = leaf(3)
    held, tripled = both(x)
    assert not held.requires_grad and held.data_ptr() == x.data_ptr() and tripled.requires_grad


def test_constant_almost_everywhere_gives_zeros() -> None:
    @tessera.function(strict=True)
    def steps(x, y):
        return torch.floor(x) + torch.sign(y.detach())

    x, y = leaf(3), leaf(3)
    found = torch.autograd.grad(steps(x, y).sum(), (x, y), allow_unused=True)
    assert found[1] is None and torch.equal(found[0], torch.zeros(3, dtype=torch.float64))


def test_hooks_and_retained_gradients() -> None:
    x, seen = leaf(3), []
    h = x * 1
    h.retain_grad()
    h.register_hook(lambda g: seen.append(g.shape))
    y = product(h, h.detach())
    y.register_hook(lambda g: 2 * g)
    y.retain_grad()
    y.sum().backward()
    assert seen == [(3,)]
    torch.testing.assert_close(y.grad, torch.full_like(y, 2.0))
    torch.testing.assert_close(x.grad, 2 * x)
    torch.testing.assert_close(h.grad, 2 * x)


def test_threads() -> None:
    wrong: list[object] = []

    def work() -> None:
        x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
        with tessera.backend("c"):
            for _ in range(10):
                (g,) = torch.autograd.grad(product(x, x).sum(), x)
                if not torch.allclose(g, 2 * x):
                    wrong.append(g)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


# ---- derivatives of derivatives --------------------------------------------------------------------------------------


def test_checked_once_and_twice() -> None:
    given = leaf(3, 4), leaf(4)
    assert gradcheck(gate, given) and gradgradcheck(gate, given)


def test_second_derivatives_of_strided_cotangents() -> None:
    x = leaf(3, 4)
    (g,) = torch.autograd.grad(product(x * 2, x).sum(), x, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x)[0], torch.full_like(x, 4.0))


def test_third_derivatives() -> None:
    x = leaf(3)
    y = power(x).sum()
    for _ in range(3):
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        y = g.sum()
    torch.testing.assert_close(g, torch.exp(x))


def test_many_cotangents_at_once() -> None:
    x = leaf(3)
    want = torch.diag(2 * x.detach())
    y = product(x, x)
    found = torch.autograd.grad(y, x, torch.eye(3, dtype=torch.float64), is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(found[0], want)
    torch.testing.assert_close(torch.autograd.functional.jacobian(lambda x: product(x, x), x, vectorize=True), want)
    assert gradcheck(product, (x, x), check_batched_grad=True)
    hessian = torch.autograd.functional.hessian(lambda x: product(x, x).sum(), x, vectorize=True)
    torch.testing.assert_close(hessian, 2 * torch.eye(3, dtype=torch.float64))


def test_what_cannot_be_differentiated_names_itself_and_its_place() -> None:
    @tessera.function(strict=True)
    def stepped(x):
        y = x * 2
        return torch.nextafter(y, x)

    with pytest.raises(TraceError, match="`nextafter` has no derivative") as found:
        stepped(leaf(3))
    span = found.value.diagnostics[0].labels[0].span
    assert found.value.code == "TSR0413" and "nextafter" in (span.source_line() or "")
    with torch.no_grad():
        assert not stepped(leaf(3)).requires_grad


@pytest.mark.parametrize("turned", [False, True])
def test_a_row_major_block_of_an_argument(turned: bool) -> None:
    @tessera.function(strict=True)
    def dense(x):
        return x.contiguous()

    x = leaf(3, 4)
    given = x.mT if turned else x
    found = dense(given)
    assert found.is_contiguous() and (found is given) == (not turned)
    g = torch.randn(found.shape, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(found, x, g)[0], g.mT if turned else g)


def test_detached_in_place() -> None:
    @tessera.function(strict=True)
    def held(x):
        y = x * 2
        y.detach_()
        return y * x

    x = leaf(3)
    torch.testing.assert_close(torch.autograd.grad(held(x).sum(), x)[0], 2 * x.detach())


def test_a_hook_inside_a_function_is_not_lost() -> None:
    @tessera.function
    def hooked(x):
        y = x * 2
        y.register_hook(lambda g: 10 * g)
        return y * 3

    x = leaf(3)
    with pytest.warns(tessera.TesseraWarning, match="hook"):
        y = hooked(x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.full_like(x, 60.0))


def test_a_copy_of_an_argument_is_another_tensor() -> None:
    @tessera.function(strict=True)
    def copied(x):
        return x.clone(), x

    x = leaf(3)
    copy, same = copied(x)
    assert same is x and copy is not x and copy.data_ptr() != x.data_ptr()
    copy.mul_(3)
    torch.testing.assert_close(torch.autograd.grad(copy.sum(), x)[0], torch.full_like(x, 3.0))
