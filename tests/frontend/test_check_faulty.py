"""Faulty functions: each is refuted before any data, with the right code and the caret on the right expression."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float

from tessera.frontend.annotation import Tensor
from tessera.ir.dtype import bool_, f32, int64
from tests.frontend.harness import checked

FAULTY: dict[Any, tuple[str, str]] = {}


def fault(code: str, at: str) -> Any:
    """The function is refuted with this code, and its first label stands under this source text."""

    def keep(f: Any) -> Any:
        FAULTY[f] = (code, at)
        return f

    return keep


@fault("TSR0201", "x")
def contraction(x: Tensor["B", "S", "D"], w: Tensor["F", "D"]) -> Tensor["B", "S", "F"]:
    return x @ w


@fault("TSR0201", "q")
def batched_contraction(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    return torch.matmul(q, k)


@fault("TSR0202", "q")
def batch_of_matmul(q: Tensor["B", "S", "D"], k: Tensor["C", "D", "T"]) -> Any:
    return q @ k


@fault("TSR0201", "x")
def linear_weight_turned(x: Tensor["B", "I"], w: Tensor["I", "O"]) -> Any:
    return F.linear(x, w)


@fault("TSR0202", "x")
def broadcast(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    return x + y


@fault("TSR0202", "x")
def bias_on_wrong_side(x: Tensor["B", "F"], bias: Tensor["B"]) -> Any:
    return x + bias


@fault("TSR0202", "x")
def comparison(x: Tensor["B", "S"], y: Tensor["S", "B"]) -> Any:
    return x > y


@fault("TSR0202", "mask")
def where_branches(x: Tensor["B", "S"], mask: Tensor["B", "T", bool_]) -> Any:
    return torch.where(mask, x, 0.0)


@fault("TSR0202", "x")
def augmented(x: Tensor["B", "S"], y: Tensor["T"]) -> Any:
    z = x * 2
    w = x * y
    return z + w


@fault("TSR0217", "x")
def missing_keepdim(x: Tensor["B", "S"]) -> Any:
    return x - x.mean(dim=-1)


@fault("TSR0217", "torch.exp(x)")
def missing_keepdim_in_softmax(x: Tensor["B", "S"]) -> Any:
    total = torch.exp(x).sum(-1)
    return torch.exp(x) / total


@fault("TSR0203", "x")
def wrong_dim_index(x: Tensor["B", "S"]) -> Any:
    return x.sum(dim=2)


@fault("TSR0203", "x")
def wrong_dim_of_softmax(x: Tensor["B", "S"]) -> Any:
    return torch.softmax(x, dim=2)


@fault("TSR0203", "x")
def transpose_of_missing_dim(x: Tensor["B", "S"]) -> Any:
    return x.transpose(1, 2)


@fault("TSR0205", "x")
def reshape_loses_elements(x: Tensor["B", "S", "D"]) -> Any:
    return x.reshape(x.shape[0], x.shape[2])


@fault("TSR0205", "x")
def view_swaps(x: Tensor["B", "S", "D"]) -> Any:
    b, s, _ = x.shape
    return x.view(b, s, s)


@fault("TSR0206", "x")
def cat_other_dims(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    return torch.cat([x, y], dim=0)


@fault("TSR0206", "x")
def cat_ranks(x: Tensor["B", "S"], y: Tensor["B"]) -> Any:
    return torch.cat((x, y), dim=-1)


@fault("TSR0206", "x")
def stack_of_different(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    return torch.stack([x, y])


@fault("TSR0207", "x")
def squeeze_of_a_real_dim(x: Tensor["B", "S"]) -> Any:
    return x.squeeze(1)


@fault("TSR0208", "x")
def chunk_of_three(x: Tensor["B", 4]) -> Any:
    return x.chunk(3, dim=1)


@fault("TSR0208", "x")
def split_sizes(x: Tensor["B", 8]) -> Any:
    return x.split([3, 4], dim=1)


@fault("TSR0209", "q")
def einsum_two_sizes(q: Tensor["B", "S", "D"], k: Tensor["B", "T", "E"]) -> Any:
    return torch.einsum("bsd,btd->bst", q, k)


@fault("TSR0209", "q")
def einsum_rank(q: Tensor["B", "S", "D"], k: Tensor["B", "T", "D"]) -> Any:
    return torch.einsum("bhsd,btd->bst", q, k)


@fault("TSR0213", "x")
def expand_of_a_real_dim(x: Tensor["B", "S"]) -> Any:
    return x.expand(x.shape[1], x.shape[1])


@fault("TSR0214", "x")
def permute_too_few(x: Tensor["B", "S", "D"]) -> Any:
    return x.permute(0, 2)


@fault("TSR0216", "a, b")
def unpack(x: Tensor["B", "S", "D"]) -> Any:
    a, b = x.shape
    return x.reshape(a * b)


@fault("TSR0210", 'Tensor["S", "B"]')
def returns_turned(x: Tensor["B", "S"]) -> Tensor["S", "B"]:
    return x * 2


@fault("TSR0210", 'Tensor["B"]')
def returns_other_rank(x: Tensor["B", "S"]) -> Tensor["B"]:
    return x.softmax(-1)


@fault("TSR0210", 'Tensor["B", "D/2"]')
def returns_half(x: Tensor["B", "D"]) -> Tensor["B", "D/2"]:
    return x


@fault("TSR0210", 'tuple[Tensor["B"], Tensor["B"]]')
def returns_one_of_two(x: Tensor["B"]) -> tuple[Tensor["B"], Tensor["B"]]:
    return x  # type: ignore[return-value]


@fault("TSR0210", 'Tensor["B", "D", "D"]')
def one_name_twice_in_return(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Tensor["B", "D", "D"]:
    return x.unsqueeze(-1) * y.unsqueeze(-2)


@fault("TSR0210", 'Float[torch.Tensor, "S B"]')
def jaxtyping_return(x: Float[torch.Tensor, "B S"]) -> Float[torch.Tensor, "S B"]:  # noqa: F722
    return x


@fault("TSR0305", 'Tensor["B", int64]')
def returns_other_dtype(x: Tensor["B", f32]) -> Tensor["B", int64]:
    return x + 1


@fault("TSR0301", "x")
def mean_of_integers(x: Tensor["B", int64]) -> Any:
    return x.mean()


@fault("TSR0301", "x")
def bitwise_of_floats(x: Tensor["B", f32], y: Tensor["B", int64]) -> Any:
    return x & y


@fault("TSR0303", "m")
def float_mask(x: Tensor["B", "S"], m: Tensor["B", "S", f32]) -> Any:
    return x.masked_fill(m, 0.0)


@fault("TSR0304", "i")
def float_index(x: Tensor["V", "D"], i: Tensor["B", f32]) -> Any:
    return x[i]


@fault("TSR0304", "i")
def gather_by_float(x: Tensor["B", "S"], i: Tensor["B", 1, f32]) -> Any:
    return torch.gather(x, 1, i)


@fault("TSR0403", "x += 1")
def update_of_argument(x: Tensor["B"]) -> Any:
    x += 1
    return x


@fault("TSR0202", "x")
def only_in_a_branch(x: Tensor["B", "S"], y: Tensor["S", "B"]) -> Any:
    if x.shape[1] > 100:
        return x * y
    return x


@fault("TSR0202", "acc")
def in_a_loop_over_a_size(x: Tensor["B", "S", "D"]) -> Any:
    acc = x[:, 0]
    for i in range(x.shape[1]):
        acc = acc + x[:, i].T
    return acc


@fault("TSR0202", "x * scale")
def behind_a_number(x: Tensor["B", "S", "D"], y: Tensor["S", "B", "D"]) -> Any:
    scale = float(x.shape[-1]) ** -0.5
    return x * scale + y


@fault("TSR0201", "x")
def any_leading_dims(x: Tensor["...", "D"], w: Tensor["F", "D"]) -> Any:
    return x @ w


@fault("TSR0202", "a")
def layer_norm_weight(x: Tensor["B", "S", "D"], w: Tensor["S"]) -> Any:
    a = F.layer_norm(x, (x.shape[-1],))
    return a * w


@pytest.mark.parametrize("f", FAULTY, ids=lambda f: f.__name__)
def test_fault_is_found(f: Any) -> None:
    code, at = FAULTY[f]
    report = checked(f)
    assert report.verdict == "refuted", str(report)
    (found,) = report.diagnostics
    assert found.code == code, str(report)
    assert found.primary is not None and found.primary.span.text() == at, str(report)
    assert found.primary.span.file == __file__


def test_independent_faults_are_told_together() -> None:
    def three(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Tensor["T"]:
        a = x + y
        b = a.sum(7)  # follows from the first
        c = x.sum(7)
        return (y @ x) * 2 + b * c

    report = checked(three)
    assert [d.code for d in report.diagnostics] == ["TSR0202", "TSR0203", "TSR0201"]


def test_text_of_a_contraction() -> None:
    text = checked(contraction)
    text = re.sub(r"\s+\S+test_check_faulty.py:\d+", " FILE", str(text).split("\n\n")[1])
    lines = [re.sub(r"^(\d+| +) ?(\||-->)", r"\2", line) for line in text.splitlines()]
    assert lines == [
        "error[TSR0201]: dimension `D` meets `F` in a contraction",
        "--> FILE:12",
        "|     return x @ w",
        "|            ^   - `F`, first dim of `w`",
        "|            |",
        "|            `D`, last dim of `x`",
        'note: `D` comes from x: Tensor["B", "S", "D"] at FILE',
        'note: `F` comes from w: Tensor["F", "D"] at FILE',
        "help: `w.T` has type f32[D, F] and fits",
        "|     return x @ w.T",
        "|                ~~~",
    ]


def test_text_of_a_missing_keepdim() -> None:
    (found,) = checked(missing_keepdim).diagnostics
    assert [label.span.text() for label in found.labels] == ["x", "x.mean(dim=-1)"]
    assert found.labels[1].text == "`B`, last dim of `x.mean(dim=-1)`"
    assert [h.text for h in found.helps] == [
        "`mean` dropped dim 1; with `keepdim=True` it stays as size 1 and broadcasts"
    ]


def test_text_of_a_swap() -> None:
    def swapped(w: Tensor["D", "F"], x: Tensor["B", "D"]) -> Any:
        return torch.matmul(w, x)

    (found,) = checked(swapped).diagnostics
    assert any("other order" in h.text for h in found.helps)
    assert [label.span.text() for label in found.labels] == ["w", "x"]


def test_a_fault_inside_a_composite_names_it() -> None:
    (found,) = checked(linear_weight_turned).diagnostics
    assert found.labels[1].span.text() == "w"
