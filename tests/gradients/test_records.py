"""Every record: that it has a derivative or a reason, and its own samples in float64 against torch's autograd, once
and twice; the same compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tessera.backends.eager import run_function
from tessera.ir.dialects import OPS
from tessera.ir.dialects.samples import SIZES
from tessera.ir.graph import Operation
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.record import Kind
from tessera.ir.verify import verify
from tessera.passes.autodiff import joint
from tests.fuzz.build import every_sample, function_of
from tests.gradients.records import Cut, Sampled, Tensors, apply, cotangents, eager, gradients, samples
from tests.ops import native

SAMPLES = samples()
GROUPS = 6
#: One sample in so many is compiled in a normal run.
SPARSE = 24
#: Float results without a derivative, and why.
WITHOUT: Mapping[str, str] = {
    "nextafter": "torch has none",
    "heaviside": "torch has none",
    "full": "made of no tensor",
    "iota": "made of no tensor",
    "random_uniform": "made of no tensor",
    "random_normal": "made of no tensor",
    "random_integers": "made of no tensor",
}
#: Where torch has no first derivative, or no second one: there numbers decide.
TORCH_WITHOUT = frozenset({"floordiv", "rfloordiv", "rremainder"})
TORCH_WITHOUT_SECOND = frozenset({"hardsigmoid", "cdist", "scaled_dot_product_attention"})
#: Floats of 8 bits are only stored.
STORED = frozenset({"mul_fp8"})


def smooth(made: Sampled, given: Sequence[object]) -> Tensors:
    return [x for x in given if isinstance(x, torch.Tensor) and x.requires_grad]


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> bool:
    return got.dtype == want.dtype and torch.allclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)


def tolerance(tensors: Tensors) -> float:
    """Some samples keep a narrower float beside float64."""
    return 1e-8 if all(x.dtype == torch.float64 for x in tensors) else 1e-3


def test_every_float_result_has_a_derivative_or_a_reason() -> None:
    without: set[str] = set()

    def look(ops: Sequence[Operation]) -> None:
        for op in ops:
            if op.body is not None:
                look(op.body.ops)
            elif op.record.derivative is None and any(r.type.dtype.is_float for r in op.results):
                without.add(op.record.name)

    for _, _, record, sample in every_sample():
        look(function_of(record, sample).function.ops)
    assert without == set(WITHOUT)


def test_records_that_no_sample_reaches_are_no_mathematics() -> None:
    reached = {op.record.name for _, _, r, s in every_sample() for op in function_of(r, s).function.ops}
    others = (Kind.COMPOSITE, Kind.TILE, Kind.REGION, Kind.CONTROL)
    left = {r.name for r in OPS.values() if r.kind not in others} - reached
    assert all(OPS[name].derivative is not None or name.endswith("_vjp_vjp") for name in left), left


def differences(made: Sampled) -> list[str]:
    """Where the derivative, or that of the derivative, is not torch's."""
    given = made.inputs()
    leaves = smooth(made, given)
    bound = tolerance(leaves)
    mine = apply(made.function, given)
    if made.record.name in TORCH_WITHOUT:
        back = cotangents(mine)
        return [made.name for g in gradients(mine, leaves, back) if not bool(g.isfinite().all())]
    theirs = eager(made, given)
    back = {n: g for n, g in cotangents(mine).items() if theirs[n].requires_grad}
    wanted, found = (gradients(ys, leaves, back, create_graph=True) for ys in (theirs, mine))
    wrong = [f"{made.name}: gradient {n}" for n, pair in enumerate(zip(found, wanted, strict=True))
             if not close(*pair, bound)]  # fmt: skip
    if made.record.name in TORCH_WITHOUT_SECOND:
        return wrong
    again = {n: g for n, g in cotangents(found, 4).items() if wanted[n].requires_grad}
    if again:
        second, exact = (gradients(gs, leaves, again) for gs in (found, wanted))
        wrong += [f"{made.name}: second {n}" for n, pair in enumerate(zip(second, exact, strict=True))
                  if not close(*pair, 10 * bound)]  # fmt: skip
    return wrong


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("group", range(GROUPS))
def test_derivatives_and_theirs_are_torchs(group: int) -> None:
    chosen = [s for s in SAMPLES[group::GROUPS] if s.record.name not in STORED]
    found = [text for s in chosen for text in differences(s)]
    assert not found, "\n".join(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted({s.record.name for s in SAMPLES} & (TORCH_WITHOUT | TORCH_WITHOUT_SECOND)))
def test_derivatives_that_torch_lacks_agree_with_differences(name: str) -> None:
    made = next(s for s in SAMPLES if s.record.name == name)
    given = made.inputs()
    leaves = smooth(made, given)

    def f(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        waiting = iter(xs)
        called = apply(made.function, [next(waiting) if any(x is y for y in leaves) else x for x in given])
        return tuple(y for y in called if y.requires_grad)

    assert gradcheck(f, leaves, fast_mode=True) and gradgradcheck(f, leaves, fast_mode=True)


def compiled_differences(chosen: Sequence[Sampled]) -> list[str]:
    made = [Cut.of(s) for s in chosen]
    native.compile_all([run for cut in made for run in (cut.forward, cut.backward)])
    return [text for cut in made for text in of_cut(cut)]


def of_cut(cut: Cut) -> list[str]:
    given = [x.detach() if isinstance(x, torch.Tensor) else x for x in cut.made.inputs()]
    whole = joint(cut.made.function)
    plain = run_function(cut.made.function, given, sizes=SIZES)
    back = [torch.randn(plain[n].shape, dtype=torch.float64).to(plain[n].dtype) for n in whole.given]
    exact = run_function(whole.function, [*given, *back], sizes=SIZES)
    results, grads = cut.run(given, back)
    bound = tolerance([x for x in given if isinstance(x, torch.Tensor) and x.is_floating_point()])
    return [f"{cut.made.name}: result {n}" for n, (got, want) in enumerate(zip([*results, *grads], exact, strict=True))
            if not close(got, want, bound)]  # fmt: skip


@pytest.mark.slow
def test_compiled_derivatives_of_some_samples() -> None:
    found = compiled_differences([s for s in SAMPLES[::SPARSE] if s.record.name not in STORED])
    assert not found, "\n".join(found)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("group", range(GROUPS))
def test_compiled_derivatives(group: int) -> None:
    found = compiled_differences([s for s in SAMPLES[group::GROUPS] if s.record.name not in STORED])
    assert not found, "\n".join(found)


@pytest.mark.parametrize("group", range(GROUPS))
def test_derivatives_verify_and_read_back(group: int) -> None:
    for made in SAMPLES[group :: GROUPS * 3]:
        cut = Cut.of(made)
        for f in (joint(made.function).function, cut.both.function, cut.parts.forward, cut.parts.backward):
            verify(f, level="full")
            assert parse(print_function(f)) == f, made.name
