"""Compiled derivatives and the derivatives of those against finite differences in float64: every record, every layer.

A normal run takes some of the records and of the layers, `-m nightly` all of them. The functions of `tessera.ops` are
checked in `test_library.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

import tessera
from tessera import nn
from tessera.driver.gradient import Gradient
from tessera.driver.variant import Variant
from tessera.frontend.trace import Input, Output, Traced
from tessera.frontend.tree import LEAF
from tessera.ir.dialects.samples import SIZES
from tessera.ir.dtype import f64
from tessera.ir.graph import Value
from tests.gradients.records import Sampled, samples
from tests.nn.test_layers import ALL, Case

Tensors = list[torch.Tensor]
GROUPS = 24
#: One record in so many is checked in a normal run.
SPARSE = 96
#: Samples of which differences say something else than the slope.
OTHERS: Mapping[str, str] = {
    "embedding 1": "a row of padding has no gradient",
    "entr 0": "infinite below zero",
    "masked_fill 1": "filled with infinities",
    **{f"with_value {n}": "a slope that is not that of the value" for n in range(4)},
}


def smooth(made: Sampled) -> bool:
    """Is every float of a sample, and of its results, one of float64, and is there anything in it?"""
    tensors = [x for x in made.inputs() if isinstance(x, torch.Tensor)]
    types = [v.type.dtype for v in (*made.function.params, *made.function.outputs)]
    return all(x.numel() for x in tensors) and all(d is f64 or not d.is_float for d in types)


SAMPLES = [s for s in samples() if s.name not in OTHERS and smooth(s)]
#: Layers of a normal run.
USUAL = frozenset({"linear", "layer norm", "sequential"})
#: With a row of padding, which has no gradient; without one it is the first sample of its record.
PADDED = frozenset({"embedding"})
LAYERS = [
    pytest.param(c, id=c.name, marks=[pytest.mark.nightly] * (c.name not in USUAL))
    for c in ALL
    if c.name not in PADDED
]


def compiled(made: Sampled) -> tuple[Callable[..., Any], Tensors]:
    """The sample as torch sees it, a function of its floats alone, and these."""
    f, given = made.function, made.inputs()
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    numbers = [x for x in given if not isinstance(x, torch.Tensor)]
    memory: dict[object, int] = {p: n for n, p in enumerate(f.params)}
    keys = [x if isinstance(x, Value) else n for n, x in enumerate(f.outputs)]
    places = [memory.setdefault(key, len(f.params) + n) for n, key in enumerate(keys)]
    traced = Traced(
        f, tuple(Input("leaf", n) for n in range(len(f.params))), LEAF,
        tuple(Output("tensor", n, memory=m) for n, m in enumerate(places)),
    )  # fmt: skip
    leaves = [x for x in tensors if x.requires_grad]
    asked = [p.name for p, x in zip(f.params, given, strict=True) if any(x is y for y in leaves)]
    gradient = Gradient(Variant(traced), tuple(asked), SIZES)

    def call(*floats: torch.Tensor) -> tuple[torch.Tensor, ...]:
        waiting = iter(floats)
        now = [next(waiting) if x.requires_grad else x for x in tensors]
        return tuple(y for y in gradient.bind(SIZES, now)(now, numbers) if y.requires_grad)

    return call, leaves


def wrong(call: Callable[..., Any], given: Sequence[torch.Tensor], name: str) -> str | None:
    """What differences say against the derivative, or against its own."""
    how: dict[str, Any] = {"fast_mode": True, "atol": 1e-5, "rtol": 1e-3, "nondet_tol": 0.0}
    with warnings.catch_warnings(), tessera.backend("c"):
        warnings.simplefilter("ignore")
        try:
            gradcheck(call, given, **how)
            results = [y.sum() for y in call(*given)]
            first = torch.autograd.grad(results, given, create_graph=True, allow_unused=True)
            if any(g is not None and g.requires_grad for g in first):
                gradgradcheck(call, given, **how)
        except Exception as error:
            return f"{name}: {type(error).__name__}: {str(error)[:300]}"
    return None


def checked(chosen: Sequence[Sampled]) -> None:
    found = [text for made in chosen if (text := wrong(*compiled(made), made.name))]
    assert not found, f"{len(found)} wrong\n" + "\n".join(found)


def test_few_samples_are_left_out() -> None:
    assert set(OTHERS) <= {s.name for s in samples()}
    assert len({s.record.name for s in SAMPLES}) > 300


@pytest.mark.slow
def test_some_records() -> None:
    checked(SAMPLES[SPARSE // 2 :: SPARSE])


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_record(group: int) -> None:
    checked(SAMPLES[group::GROUPS])


@pytest.mark.slow
@pytest.mark.parametrize("case", LAYERS)
def test_layers(case: Case) -> None:
    torch.manual_seed(0)
    module = case.make(nn).double()
    parameters = dict(module.named_parameters())
    args = [x.double().clone().requires_grad_() if x.is_floating_point() else x for x in case.inputs()]
    named = {k: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
             for k, x in case.named().items()}  # fmt: skip
    floats = [x for x in args if x.requires_grad]

    def call(*given: torch.Tensor) -> Any:
        waiting = iter(given)
        now = [next(waiting) if x.requires_grad else x for x in args]
        made = functional_call(module, dict(zip(parameters, waiting, strict=True)), tuple(now), named)
        found = made if isinstance(made, tuple) else (made,)
        return tuple(y for y in found if y is not None and y.requires_grad)

    before = module.forward.cache_info().eager  # the class, and its counts, are those of other tests, too
    assert wrong(call, [*floats, *parameters.values()], case.name) is None
    assert module.forward.cache_info().eager == before
