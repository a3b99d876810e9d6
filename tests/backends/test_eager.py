"""The eager backend: names, dtypes, single records and whole functions through torch."""

from __future__ import annotations

import pytest
import torch

from tessera.backends.eager import (
    TorchNamespace,
    from_torch_dtype,
    inplace_names,
    resolve,
    run,
    run_function,
    to_torch_dtype,
    torch_names,
)
from tessera.diag import DTypeError, ShapeError, TraceError
from tessera.ir.dialects import OPS
from tessera.ir.dtype import DTYPES, bf16, f32, int4, int64
from tessera.ir.parser import parse


def test_dtypes_go_both_ways() -> None:
    for t in DTYPES.values():
        if t is not int4:
            assert from_torch_dtype(to_torch_dtype(t)) is t


def test_dtypes_without_a_counterpart_are_refused() -> None:
    with pytest.raises(DTypeError) as caught:
        to_torch_dtype(int4)
    assert caught.value.code == "TSR0301"
    with pytest.raises(DTypeError):
        from_torch_dtype(torch.complex64)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.softmax, "softmax"), (torch.Tensor.softmax, "softmax"), (torch.nn.functional.softmax, "softmax"),
        (torch.Tensor.__add__, "add"), (torch.Tensor.__getitem__, "getitem"), (torch.concat, "cat"),
        (torch.nn.functional.gelu, "gelu"), (torch.special.expit, "sigmoid"), (torch.Tensor.mT.__get__, "mT"),
        (torch.linalg.vector_norm, "vector_norm"), (torch.clip, "clamp"), (torch.arctan2, "atan2"),
    ],
)  # fmt: skip
def test_torch_callables_have_records(function: object, name: str) -> None:
    assert torch_names()[function].name == name  # type: ignore[index]


def test_no_callable_is_claimed_by_two_records() -> None:
    owners: dict[object, set[str]] = {}
    for record in OPS.values():
        for name in record.torch:
            owners.setdefault(resolve(name), set()).add(record.name)
    assert {str(f): names for f, names in owners.items() if len(names) > 1} == {}


def test_updating_methods_are_found() -> None:
    found = inplace_names()
    assert found[torch.Tensor.add_].name == "add"
    assert found[torch.Tensor.__iadd__].name == "add"
    assert found[torch.relu_].name == "relu"


def test_unknown_names_resolve_to_nothing() -> None:
    assert resolve("torch.no_such_function") is None
    assert resolve("os.system") is None


def test_scalars_stand_anywhere() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    for name in ("sub", "div", "maximum", "atan2", "lt", "where", "remainder"):
        operands = (x > 1, 2.0, x) if name == "where" else (2.0, x)
        (found,) = run(OPS[name], operands, {})
        assert found.dtype == (torch.bool if name == "lt" else torch.bfloat16), name
        assert found.shape == (2,)


def test_definitions_run_where_torch_has_no_name() -> None:
    t = TorchNamespace()
    x = torch.tensor([0.5, 3.0])
    define = OPS["silu"].define
    assert define is not None
    torch.testing.assert_close(define(t, x), torch.nn.functional.silu(x))
    assert t.cast(x, int64).dtype is torch.int64
    with pytest.raises(AttributeError):
        t.matmul(1, 2)


def test_a_record_without_a_counterpart_is_refused() -> None:
    with pytest.raises(TraceError) as caught:
        run(OPS["nest"], (), {})
    assert caught.value.code == "TSR0408"


PROGRAM = """
fn norm(x: f32[B, D], eps: scalar f32, y: bf16[D]) -> (f32[B, D], f32[B, D/2]) {
  %sq = mul(x, x) : f32[B, D]
  %total = sum(%sq) over [D] keepdim : f32[B, 1]
  %mean = div(%total, `D`) : f32[B, 1]
  %shifted = add(%mean, eps) : f32[B, 1]
  %scale = rsqrt(%shifted) : f32[B, 1]
  %wide = cast(y, dtype=f32) : f32[D]
  %z = mul(x, %scale) : f32[B, D]
  %out = mul(%z, %wide) : f32[B, D]
  %half = slice(%out, dim=1, start=`0`, stop=`D/2`, step=`1`) : f32[B, D/2]
  return %out, %half
}
"""


def test_a_function_runs_with_scalars_sizes_and_several_results() -> None:
    x, y = torch.randn(3, 8), torch.randn(8, dtype=torch.bfloat16)
    out, half = run_function(parse(PROGRAM), [x, 1e-3, y])
    wanted = x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-3) * y.float()
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(half, wanted[:, :4])


def test_the_same_function_serves_every_size() -> None:
    f = parse(PROGRAM)
    for b, d in ((1, 2), (0, 4), (5, 64)):
        out, half = run_function(f, [torch.randn(b, d), 0.5, torch.ones(d, dtype=torch.bfloat16)])
        assert out.shape == (b, d) and half.shape == (b, d // 2)


def test_fused_regions_run_as_their_operations() -> None:
    text = """
    fn f(x: f32[N]) -> f32[N] {
      map(x) -> %c {
        %a = exp(x) : f32[N]
        %c = add(%a, 1.0) : f32[N]
      }
      return %c
    }
    """
    x = torch.randn(5)
    torch.testing.assert_close(run_function(parse(text), [x])[0], x.exp() + 1)


def test_inputs_that_do_not_fit_are_refused() -> None:
    f = parse("fn f(x: f32[N], y: f32[N]) -> f32[N] { %z = add(x, y) : f32[N] return %z }")
    x = torch.ones(3)
    for inputs, error, code in (
        ([x], ShapeError, "TSR0105"), ([x, torch.ones(4)], ShapeError, "TSR0107"), ([x, 1.0], ShapeError, "TSR0105"),
        ([x, x.double()], DTypeError, "TSR0108"), ([x, torch.ones(3, 1)], ShapeError, "TSR0105"),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            run_function(f, inputs)
        assert caught.value.code == code


def test_results_have_their_declared_dtype() -> None:
    """torch promotes among rank-0 tensors where a weak scalar of ours does not."""
    f = parse("fn f(x: bf16[]) -> bf16[] { %y = maximum(x, 0.5) : bf16[] return %y }")
    (found,) = run_function(f, [torch.tensor(2.0, dtype=torch.bfloat16)])
    assert found.dtype == torch.bfloat16


def test_a_long_chain_frees_what_it_no_longer_needs() -> None:
    lines = ["%v0 = add(x, 1.0) : f32[N]"] + [f"%v{n} = add(%v{n - 1}, 1.0) : f32[N]" for n in range(1, 3000)]
    f = parse(f"fn f(x: f32[N]) -> f32[N] {{ {' '.join(lines)} return %v2999 }}")
    assert run_function(f, [torch.zeros(2)])[0].tolist() == [3000.0, 3000.0]


def test_tensors_that_need_gradients_are_read_without_recording() -> None:
    f = parse("fn f(x: f32[N]) -> f32[N] { %y = exp(x) : f32[N] return %y }")
    assert not run_function(f, [torch.ones(2, requires_grad=True)])[0].requires_grad


def test_results_stay_f32_and_bf16() -> None:
    assert (to_torch_dtype(f32), to_torch_dtype(bf16)) == (torch.float32, torch.bfloat16)
