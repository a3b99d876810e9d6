"""The arithmetic that the cost model counts."""

from __future__ import annotations

import torch

import tessera
from tessera import Tensor

SIZES = {"B": 2, "S": 3, "D": 5, "H": 7}


def test_the_products_of_a_matrix_product_are_counted() -> None:
    @tessera.function
    def gate(x: Tensor["B", "S", "D"], w: Tensor["D", "H"], b: Tensor["H"]) -> Tensor["B", "S", "H"]:
        return x @ w + b

    products, sums = 2 * 2 * 3 * 5 * 7, 2 * 3 * 7
    found = gate.cost()
    assert found.fused.flops.evaluate(SIZES) == found.eager.flops.evaluate(SIZES) == products + sums


def test_the_products_of_an_equation_are_counted() -> None:
    @tessera.function
    def scores(x: Tensor["B", "S", "D"], y: Tensor["H", "B", "D"]) -> Tensor["S", "H"]:
        return torch.einsum("bsd,hbd->sh", x, y)

    assert scores.cost().fused.flops.evaluate(SIZES) == 2 * 2 * 3 * 5 * 7
