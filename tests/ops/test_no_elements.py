"""Folds that mean nothing for no elements: refused where torch refuses them, also for a part cut inside a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor
from tessera.diag import ShapeError
from tessera.ir.dialects import OPS
from tessera.ir.record import Kind

Fold = Callable[[torch.Tensor, int | None], Any]
INF = float("inf")


def axis(name: str, *args: Any) -> Fold:
    """A function of torch over one axis, or over all."""

    def fold(x: torch.Tensor, dim: int | None) -> Any:
        return getattr(torch, name)(x, *args) if dim is None else getattr(torch, name)(x, *args, dim=dim)

    return fold


#: Folds over one axis; those marked also over all of them.
FOLDS: dict[str, Fold] = {
    name: axis(name) for name in ("amax", "amin", "argmax", "argmin", "max", "min", "aminmax", "median", "sum", "prod",
                                  "mean", "any", "all", "logsumexp", "softmax", "log_softmax", "var", "count_nonzero")
} | {
    "kthvalue": axis("kthvalue", 1), "topk": axis("topk", 1),
    "norm of inf": lambda x, dim: torch.linalg.vector_norm(x, INF, dim),
    "norm of -inf": lambda x, dim: torch.linalg.vector_norm(x, -INF, dim),
    "norm of 2": lambda x, dim: torch.linalg.vector_norm(x, 2, dim),
}  # fmt: skip
ONE_AXIS = ("logsumexp", "softmax", "log_softmax", "kthvalue", "topk")


def first(x: Any) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else x[0]


@pytest.mark.parametrize("dim", [1, 0, None])
@pytest.mark.parametrize("name", FOLDS)
def test_a_part_without_elements_is_folded_where_torch_folds_it(name: str, dim: int | None) -> None:
    if dim is None and name in ONE_AXIS:
        return
    fold = FOLDS[name]

    def f(x: torch.Tensor) -> torch.Tensor:
        return first(fold(x[:, 5:], dim))

    compiled = tessera.function(f)
    for width in (8, 6, 5, 3):
        x = torch.arange(2.0 * width).reshape(2, width).cos()
        try:
            wanted = f(x)
        except (IndexError, RuntimeError):
            with pytest.raises(ShapeError) as caught:
                compiled(x)
            assert caught.value.code in ("TSR0105", "TSR0212")
            assert all(d.labels for d in caught.value.diagnostics)
            continue
        torch.testing.assert_close(compiled(x), wanted, equal_nan=True)
    assert compiled.cache_info().eager == 0


def test_arguments_without_elements_go_through_torch() -> None:
    f = tessera.function(lambda x: x.amax(-1))
    with pytest.raises(IndexError):
        f(torch.ones(2, 0))
    assert f(torch.ones(0, 2)).shape == (0,)


def test_a_part_is_refuted_guarded_or_proved_at_definition() -> None:
    def rest(x: Tensor["B", "D"]) -> Tensor["B"]:
        return x[:, 5:].amax(-1)

    def nothing(x: Tensor["B", 5]) -> Tensor["B"]:
        return x[:, 5:].argmax(-1)

    def something(x: Tensor["B", 6]) -> Tensor["B"]:
        return x[:, 5:].amax(-1)

    compiled = tessera.function(rest)
    ((o,),) = (traced.function.obligations for traced in compiled.check().traced)
    assert (o.kind, o.verdict) == ("ge", "guarded")
    with pytest.raises(ShapeError, match="does not hold with D=5") as caught:
        compiled(torch.ones(2, 5))
    assert caught.value.diagnostics[0].labels[0].span.line == rest.__code__.co_firstlineno + 1
    with pytest.raises(ShapeError, match="argmax needs a size of at least 1, not `0`"):
        tessera.function(nothing)
    assert "guarded" not in str(tessera.function(something).check())


def test_records_say_which_folds_have_an_identity() -> None:
    without = {r.name for r in OPS.values() if r.kind is Kind.REDUCE and r.reduction and not r.reduction.identity}
    assert without == {"amax", "amax_first", "amin", "amin_first", "argmax", "argmin"}
