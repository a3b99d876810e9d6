"""Plain classes as modules: what is registered, what torch's machinery does with them, what is refused."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrizations, parametrize

import tessera
from tessera import Tensor, TesseraWarning, TraceError, nn

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@tessera.module
class Affine:
    """A class without base or super."""

    weight: Tensor["rows", "width"]
    shift: Tensor["rows"] | None

    def __init__(self, width: int, rows: int, shift: bool = True) -> None:
        self.width, self.rows = width, rows
        self.weight = nn.Parameter(torch.arange(float(rows * width)).reshape(rows, width) / 10)
        self.shift = nn.Parameter(torch.ones(rows)) if shift else None

    def forward(self, x: Tensor["...", "width"]) -> Tensor["...", "rows"]:
        return F.linear(x, self.weight, self.shift)


@tessera.module
class Stack:
    def __init__(self, width: int, depth: int) -> None:
        self.early: list[Any] = []
        self.head = Affine(width, width)
        self.scales = {"a": nn.Parameter(torch.full((width,), 2.0)), "b": nn.Parameter(torch.ones(width))}
        self.steps = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.sizes = [width, depth]
        self.notes: dict[str, int] = {}
        for _ in range(depth):
            self.early.append(Affine(width, width, shift=False))
        self.late = (Affine(width, 2),)

    def forward(self, x: Tensor["B", "D"]) -> Tensor["B", 2]:
        for layer in self.early:
            x = torch.tanh(layer(x)) * self.scales["a"]
        return self.late[0](self.head(x) + self.scales["b"])


class Based(nn.Module):
    weight: Tensor["D"]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 3.0))

    def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return x * self.weight


@tessera.module
class Derived(Based):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.inner = Affine(width, width)

    def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return self.inner(super().forward(x))


@tessera.module
@dataclasses.dataclass
class Config:
    width: int
    gain: float = 2.0

    def __post_init__(self) -> None:
        self.layers = [Affine(self.width, self.width)]

    def forward(self, x: Tensor["B", "width"]) -> Tensor["B", "width"]:
        return self.layers[0](x) * self.gain


@tessera.fused
class Fused:
    def __init__(self) -> None:
        self.norm = nn.RMSNorm(4)

    def forward(self, x: Tensor["B", 4]) -> Tensor["B", 4]:
        return F.silu(self.norm(x))


def still(module: Any) -> Any:
    return module.requires_grad_(False)


def agrees(module: Any, *args: Any) -> None:
    before = module.forward.cache_info().eager
    torch.testing.assert_close(module(*args), module.forward.eager(*args))
    assert module.forward.cache_info().eager == before


# ---- what a module is --------------------------------------------------------------------------------------


def test_the_order_of_assignments_is_kept() -> None:
    stack = Stack(4, 2)
    assert isinstance(stack, torch.nn.Module) and isinstance(stack, tessera.Module)
    assert list(stack.state_dict()) == [
        "steps", "early.0.weight", "early.1.weight", "head.weight", "head.shift", "scales.a", "scales.b",
        "late.0.weight", "late.0.shift",
    ]  # fmt: skip
    assert [name for name, _ in stack.named_children()] == ["early", "head", "scales", "late"]
    assert type(stack.early) is torch.nn.ModuleList and type(stack.scales) is torch.nn.ParameterDict
    assert stack.sizes == [4, 2] and stack.notes == {} and type(stack.notes) is dict
    agrees(still(stack), X)


def test_parameters_are_counted_once() -> None:
    stack = Stack(4, 2)
    whole = stack.num_parameters()
    assert whole == sum(p.numel() for p in stack.parameters()) == 2 * 16 + 20 + 8 + 10
    stack.head.weight = stack.early[0].weight
    assert stack.num_parameters() == whole - 16
    stack.early.requires_grad_(False)
    assert stack.num_parameters(trainable=True) == whole - 16 - 32 + 0
    assert Affine(3, 2, shift=False).num_parameters() == 6


@pytest.mark.parametrize("make", [lambda: Stack(4, 2), lambda: Based(4), lambda: Derived(4), lambda: Config(4), Fused])
def test_copies_and_pickles(make: Callable[[], Any]) -> None:
    module = still(make())
    wanted = module(X)
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    saved.seek(0)
    fresh = still(make())
    fresh.load_state_dict(torch.load(saved, weights_only=True))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.copy(module), fresh):
        assert type(other) is type(module)
        torch.testing.assert_close(other(X), wanted)
    assert type(module).__qualname__ == type(module).__name__ and "test_modules" in type(module).__module__


def test_inheritance() -> None:
    derived = Derived(4)
    assert isinstance(derived, Based) and list(derived.state_dict()) == ["weight", "inner.weight", "inner.shift"]
    agrees(still(derived), X)


def test_a_class_keeps_what_it_says_of_itself() -> None:
    assert Affine.__doc__ == "A class without base or super." and Affine.__name__ == "Affine"
    first, second = Config(4), Config(4)
    assert {first, second} == {second, first} and first != second
    assert "gain=2.0" in repr(first)


def test_a_functions_is_stored_untouched() -> None:
    @tessera.module
    class Applied:
        def __init__(self, act: Any) -> None:
            self.act = act

        def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
            return self.act(x)

    assert Applied(torch.relu).act is torch.relu
    agrees(Applied(torch.relu), X)


def test_a_forward_that_is_compiled_already_and_one_of_torch() -> None:
    @tessera.module
    class Given:
        weight: Tensor["D"]

        def __init__(self) -> None:
            self.weight = nn.Parameter(torch.ones(4))

        @tessera.function
        def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
            return x * self.weight

    assert Given.forward.check().verdict == "proved"
    agrees(still(Given()), X)

    @tessera.module
    class Old(torch.nn.Linear):
        pass

    assert isinstance(Old(4, 3), torch.nn.Linear)
    agrees(still(Old(4, 3)), X)


def test_parameters_by_dtype() -> None:
    assert nn.Parameter(torch.ones(2)).requires_grad and nn.Parameter(torch.ones(2).bfloat16()).requires_grad
    for dtype in (torch.int8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2):
        assert not nn.Parameter(torch.ones(2).to(dtype)).requires_grad
    assert not nn.Parameter(torch.ones(2), requires_grad=False).requires_grad
    assert type(nn.Parameter()) is torch.nn.Parameter and isinstance(torch.nn.Parameter(), nn.Parameter)


# ---- torch's machinery -------------------------------------------------------------------------------------


def test_what_moves_or_is_replaced_is_seen() -> None:
    stack = still(Stack(4, 2))
    agrees(stack, X)
    stack.to(torch.float64)
    agrees(stack, X.double())
    stack.to(torch.float32)
    agrees(stack, X)
    stack.load_state_dict({k: v + 1 for k, v in stack.state_dict().items()})
    agrees(stack, X)
    halves = {k: v * 0.5 if v.is_floating_point() else v for k, v in stack.state_dict().items()}
    stack.load_state_dict(halves, assign=True)
    agrees(still(stack), X)
    stack.head.weight = nn.Parameter(torch.eye(4), requires_grad=False)
    agrees(stack, X)
    stack.scales["a"].data.mul_(3.0)
    agrees(stack, X)
    stack.early[1] = Affine(4, 4).requires_grad_(False)
    agrees(stack, X)


def test_modes_are_seen() -> None:
    class Switched(nn.Module):
        def __init__(self) -> None:
            self.drop = nn.Dropout(1.0)

        def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
            return self.drop(x) + 1.0 if self.training else x

    module = Switched()
    for mode in (True, False, True):
        module.train(mode)
        assert torch.equal(module(X), torch.ones_like(X) if mode else X)
    module.train().drop.eval()
    torch.testing.assert_close(module(X), X + 1)


def test_gradients_flow() -> None:
    stack = Stack(4, 2)
    x = X.clone().requires_grad_()
    stack(x).square().sum().backward()
    mine = [x.grad, *(p.grad for p in stack.parameters())]
    wanted = torch.autograd.grad(stack.forward.eager(x).square().sum(), [x, *stack.parameters()])
    torch.testing.assert_close(mine, list(wanted))
    optimizer = torch.optim.SGD(stack.parameters(), lr=0.1)
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(stack(X), stack.forward.eager(X))


def test_one_program_for_all_modules() -> None:
    module = still(Stack(4, 1))
    lowered = module.forward.lower(X)
    assert "early" not in module.forward.ir("fused", X)  # no call is left
    agrees(module, X)
    assert len(lowered.kernels) <= 3


def test_report() -> None:
    module = still(Fused())
    module(X)
    assert str(module.report()) == str(module.report(X))
    assert len(module.forward.lower(X).kernels) == 1 and "kernel" in str(module.report())


def test_hooks_around_the_outermost_module_leave_one_program() -> None:
    module, seen, eager = still(Stack(4, 2)), [], Stack.forward.cache_info().eager
    module.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape))
    module.register_forward_hook(lambda m, args, result: result + 1)
    torch.testing.assert_close(module(X), module.forward.eager(X) + 1)
    assert seen == [X.shape]
    assert module.forward.cache_info().eager == eager


def test_hooks_inside_see_tensors() -> None:
    module, seen = still(Stack(4, 2)), []
    wanted = module(X)
    eager = module.forward.cache_info().eager
    module.forward._warned = False
    handle = module.early[1].register_forward_hook(lambda m, args, result: seen.append((args[0], result)))
    with pytest.warns(TesseraWarning) as caught:
        torch.testing.assert_close(module(X), wanted)
    assert caught[0].message.code == "TSR0416" and "`self.early.1` has hooks" in str(caught[0].message)
    module(X)
    assert len(seen) == 2 and all(type(x) is torch.Tensor for pair in seen for x in pair)
    torch.testing.assert_close(seen[0][1], module.early[1].forward.eager(seen[0][0]))
    with pytest.raises(TraceError, match="TSR0416"):
        module.forward.explain(X)
    handle.remove()
    torch.testing.assert_close(module(X), wanted)
    assert module.forward.cache_info().eager == eager + 2


@pytest.mark.filterwarnings("ignore::tessera.TesseraWarning")
def test_hooks_of_backward_and_of_plain_torch_modules() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            self.one, self.two = torch.nn.Linear(4, 4), Affine(4, 4)

        def forward(self, x: Tensor["B", 4]) -> Tensor["B", 4]:
            return self.two(self.one(x))

    module, seen = Mixed(), []
    module.one.register_full_backward_hook(lambda m, given, come: seen.append(come[0].shape))
    module(X).sum().backward()
    assert seen == [X.shape]
    with torch.no_grad():
        torch.testing.assert_close(module(X), module.forward.eager(X))


def test_tied_weights_and_parametrizations() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            self.table = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor["B", "S", torch.int64]) -> Tensor["B", "S", 7]:
            return self.head(self.table(ids))

    tied = Tied()
    assert tied.num_parameters() == 28
    ids = torch.randint(0, 7, (2, 3))
    agrees(still(tied), ids)
    tied.table.weight.data.mul_(2.0)
    agrees(tied, ids)



class Symmetric(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).T


def test_parametrizations() -> None:
    net = still(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)))
    agrees(net, X)
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    agrees(still(net), X)
    assert isinstance(net[0], nn.Linear) and torch.equal(net[0].weight, net[0].weight.T)
    net[0].parametrizations.weight.original.data.add_(1.0)
    agrees(net, X)
    parametrize.remove_parametrizations(net[0], "weight")
    assert type(net[0]) is nn.Linear
    agrees(still(net), X)


def test_what_cannot_be_traced_runs_as_it_is() -> None:
    net = still(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)))
    parametrizations.weight_norm(net[0])
    net.forward._warned = False
    with pytest.warns(TesseraWarning, match="TSR0406"):
        made = net(X)
    torch.testing.assert_close(made, net.forward.eager(X))


def test_meta_devices_and_functional_calls() -> None:
    with torch.device("meta"):
        module = Stack(4, 2)
    assert all(p.is_meta for p in module.parameters())
    assert module(X.to("meta")).shape == (5, 2)
    full = still(Stack(4, 2))
    module.load_state_dict(full.state_dict(), assign=True)
    torch.testing.assert_close(still(module)(X), full(X))
    held = {name: p + 1 for name, p in full.named_parameters()}
    changed = copy.deepcopy(full)
    changed.load_state_dict(held, strict=False)
    torch.testing.assert_close(torch.func.functional_call(full, held, (X,)), changed(X))


def test_what_goes_is_collected() -> None:
    import gc
    import weakref

    module = still(Stack(4, 2))
    module(X)
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
