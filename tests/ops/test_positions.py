"""Indices at and beyond the ends of an axis: every operation that takes them refuses what torch refuses, and gives what
torch gives: as compiled C, in the interpreter, and with the dtypes that torch takes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera.diag import BoundsError, TesseraError
from tessera.ir.dialects import OPS
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.record import Kind

V, X = torch.arange(4.0), torch.arange(20.0).reshape(4, 5) / 7.0
SCORES = torch.arange(8.0).reshape(2, 4).sin()
TWO, TWO_ROWS = torch.tensor([2.0, 3.0]), torch.arange(10.0).reshape(2, 5)

Call = Callable[[torch.Tensor, torch.Tensor], Any]


def assigned(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    y = x * 1.0
    y[i] = 7.0
    return y


def assigned_columns(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    y = x * 1.0
    y[:, i] = 7.0
    return y


#: By name: the tensor whose axis of size 4 is indexed, and the call. The index has two elements.
CASES: Mapping[str, tuple[torch.Tensor, Call]] = {
    "getitem": (X, lambda x, i: x[i] * 2.0),
    "getitem of columns": (X.T.contiguous(), lambda x, i: x[:, i]),
    "getitem of points": (X, lambda x, i: x[i, i]),
    "setitem": (V, assigned),
    "setitem of columns": (X.T.contiguous(), assigned_columns),
    "take": (V, lambda x, i: torch.take(x, i)),
    "gather": (V, lambda x, i: torch.gather(x, 0, i)),
    "gather of computed rows": (V, lambda x, i: (x * 2.0).gather(0, i) + 1.0),
    "index_select": (X, lambda x, i: torch.index_select(x, 0, i).exp()),
    "index_select of columns": (X.T.contiguous(), lambda x, i: x.index_select(1, i).sum(1)),
    "embedding": (X, lambda x, i: F.embedding(i, x)),
    "take_along_dim": (V, lambda x, i: torch.take_along_dim(x, i, 0)),
    "take_along_dim of all": (V, lambda x, i: torch.take_along_dim(x, i)),
    "scatter": (V, lambda x, i: x.scatter(0, i, TWO)),
    "scatter a number": (V, lambda x, i: x.scatter(0, i, 1.5)),
    "scatter_add": (V, lambda x, i: x.scatter_add(0, i, TWO)),
    "scatter_reduce": (V, lambda x, i: x.scatter_reduce(0, i, TWO, "amax")),
    "index_add": (V, lambda x, i: x.index_add(0, i, TWO)),
    "index_add of rows": (X, lambda x, i: x.index_add(0, i, TWO_ROWS)),
    "index_copy": (X, lambda x, i: x.index_copy(0, i, TWO_ROWS)),
    "index_fill": (V, lambda x, i: x.index_fill(0, i, 1.5)),
    "index_put": (V, lambda x, i: x.index_put((i,), TWO)),
    "index_put adding": (V, lambda x, i: x.index_put((i,), TWO, accumulate=True)),
    "index_reduce": (V, lambda x, i: x.index_reduce(0, i, TWO, "prod")),
    "one_hot": (V, lambda x, i: F.one_hot(i, 4)),
    "nll_loss": (SCORES, lambda x, i: F.nll_loss(x, i)),
    "cross_entropy": (SCORES, lambda x, i: F.cross_entropy(x, i)),
    "cross_entropy with weights": (SCORES, lambda x, i: F.cross_entropy(x, i, torch.arange(1.0, 5.0))),
    "cross_entropy, smoothed": (SCORES, lambda x, i: F.cross_entropy(x, i, label_smoothing=0.1)),
    "cross_entropy, -1 ignored": (SCORES, lambda x, i: F.cross_entropy(x, i, ignore_index=-1)),
    "cross_entropy, 7 ignored": (SCORES, lambda x, i: F.cross_entropy(x, i, ignore_index=7)),
    "narrow": (V, lambda x, i: x.narrow(0, i[0], 2)),
    "searchsorted": (V, lambda x, i: torch.searchsorted(x, TWO, sorter=torch.cat([i, i]))),
}  # fmt: skip
INDICES = ((1, 3), (0, 0), (-1, 0), (1, -4), (0, 4), (-5, 0), (7, 1), (-100, 2))
DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8)


def outcome(run: Callable[[], Any]) -> Any:
    """What a call gives, or the exception that it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run()
    except (RuntimeError, IndexError, TypeError, TesseraError) as error:
        return error


def same(got: Any, wanted: Any) -> bool:
    if isinstance(got, Exception) or isinstance(wanted, Exception):
        return isinstance(got, Exception) and isinstance(wanted, Exception)
    return bool(np.allclose(np.asarray(got), np.asarray(wanted), rtol=1e-5, equal_nan=True))


@pytest.mark.parametrize("name", CASES)
def test_compiled_code_refuses_what_torch_refuses(name: str) -> None:
    x, call = CASES[name]
    compiled = tessera.function(call)
    wrong = []
    for dtype in DTYPES:
        for values in INDICES:
            if dtype is torch.uint8 and min(values) < 0:
                continue
            i = torch.tensor(values, dtype=dtype)
            got, wanted = outcome(lambda i=i: compiled(x, i)), outcome(lambda i=i: call(x, i))
            if not same(got, wanted):
                wrong.append(f"{dtype} {values}: {got!r}, torch {wanted!r}")
            elif dtype is torch.int64 and isinstance(wanted, Exception) and not isinstance(got, BoundsError):
                wrong.append(f"{values}: {got!r} is no BoundsError")
    assert not wrong, "\n".join(wrong)
    counted = compiled.cache_info()
    assert counted.compiles + counted.from_cache


@pytest.mark.parametrize("stage", ["traced", "fused", "tile"])
@pytest.mark.parametrize("name", CASES)
def test_the_interpreter_refuses_what_torch_refuses(name: str, stage: str) -> None:
    x, call = CASES[name]
    first = torch.tensor(INDICES[0])
    compiled = tessera.function(call)
    resolved = compiled.resolve(x, first)
    traced, held = resolved.variant, resolved.given()
    inputs = traced.traced.inputs
    if stage == "tile":
        kernels = traced.program.kernels
        if len(traced.program.steps) != 1 or len(kernels) != 1:
            pytest.skip("more than one kernel")
        f = kernels[0].function
    else:
        f = parse(compiled.ir(stage, x, first))
    for values in INDICES:
        i = torch.tensor(values)
        given = {0: x, 1: i}
        arrays = [
            np.asarray(h if s.kind == "capture" else given[s.leaf]) for s, h in zip(inputs, held, strict=True)
        ]
        by_name = dict(zip((p.name for p in traced.traced.function.params), arrays, strict=True))
        order = [p.name for p in f.params if p.name in by_name]
        got = outcome(lambda a=[by_name[n] for n in order]: interpret(f, a)[0])
        assert same(got, outcome(lambda i=i: call(x, i))), (values, got)


def test_every_record_with_positions_is_in_the_table() -> None:
    reads = [r.name for r in OPS.values() if r.kind is Kind.INDEX or r.accesses is not None]
    seen = set()
    for name, (x, call) in CASES.items():
        compiled = tessera.function(call)
        text = compiled.ir("traced", x, torch.tensor((1, 3)))
        seen |= {r for r in reads if f"= {r}(" in text}
        assert seen, name
    assert seen == set(reads)


def test_an_error_names_the_users_tensor_value_and_line() -> None:
    def pick(x: torch.Tensor, idx: torch.Tensor) -> torch.Tensor:
        y = x * 2.0
        return torch.gather(y, 1, idx) + 1.0

    compiled = tessera.function(pick)
    x, good = torch.ones(3, 5), torch.tensor([[0, 1], [2, 3], [4, 0]])
    for _ in range(3):  # by tracing, by signature, and by being like the call before
        compiled(x, good)
        for wrong in (-1, 5, 2**40):
            bad = good.clone()
            bad[1, 1] = wrong
            with pytest.raises(BoundsError) as caught:
                compiled(x, bad)
            (d,) = caught.value.diagnostics
            assert d.message == f"index {wrong} in `idx` is out of range for a dimension of size 5"
            (label,) = d.labels
            assert label.text.startswith("dim 1 of `y` is ") and label.text.endswith(", 5")
            assert label.span.line == pick.__code__.co_firstlineno + 2


def test_a_library_call_that_refuses_an_index_is_told_alike() -> None:
    add = tessera.function(lambda x, at, src: x.scatter_add(0, at, src))
    with pytest.raises(BoundsError, match="index -2 in `at` is out of range for a dimension of size 4"):
        add(V, torch.tensor([0, -2]), TWO)


def test_class_numbers_are_named_behind_what_the_loss_makes_of_them() -> None:
    loss = tessera.function(lambda scores, target: F.cross_entropy(scores, target))
    with pytest.raises(BoundsError, match="index -7 in `target` is out of range for a dimension of size 4"):
        loss(SCORES, torch.tensor([1, -7]))
    assert loss(SCORES, torch.tensor([1, -100])) == F.cross_entropy(SCORES, torch.tensor([1, -100]))


def test_a_checked_position_needs_no_kernel_of_its_own() -> None:
    hot = tessera.function(lambda i: F.one_hot(i, 4) * 2)
    assert len(hot.lower(torch.tensor([1, 3])).kernels) == 1
