"""Compiled methods follow what their objects hold."""

from __future__ import annotations

import gc

import torch

import tessera
from tessera import Tensor


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.power = 2


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = torch.nn.Parameter(torch.full((2,), 2.0), requires_grad=False)
        self.register_buffer("shift", torch.zeros(2))
        self.inner = Inner()
        self.plan = {"steps": [1, 2]}

    @tessera.function
    def forward(self, x: Tensor["B", 2]) -> Tensor["B", 2]:
        y = x * self.g + self.shift
        if self.inner.training:
            y = y * self.inner.power
        for n in self.plan["steps"]:
            y = y + n
        return y


def agrees(m: Scale, x: torch.Tensor) -> None:
    torch.testing.assert_close(m.forward(x), m.forward.eager(x))


def test_parameters_buffers_children_and_containers_are_followed() -> None:
    m, x = Scale(), torch.randn(3, 2)
    agrees(m, x)
    m.g = torch.nn.Parameter(torch.full((2,), 10.0), requires_grad=False)
    agrees(m, x)
    m.shift = torch.ones(2)
    agrees(m, x)
    m.inner.power = 7
    agrees(m, x)
    m.inner.eval()
    agrees(m, x)
    m.plan["steps"].append(5)
    agrees(m, x)
    m.inner = Inner()
    agrees(m, x)


def test_an_object_at_the_address_of_one_that_is_gone_is_another() -> None:
    class Sum:
        def __init__(self) -> None:
            self.k: tuple[object, ...] = ()

        @tessera.function
        def __call__(self, x: Tensor["N"]) -> Tensor["N"]:
            return x * self.k[0].value

    class Number:
        def __init__(self, value: int) -> None:
            self.value = value

    m = Sum()
    for n in range(3, 9):
        m.k = (Number(n),)
        gc.collect()
        assert m(torch.ones(1)).item() == n
