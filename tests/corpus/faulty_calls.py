"""Faults in calls between functions, results, annotations, branches, loops and methods."""

# ruff: noqa: F722

from __future__ import annotations

from typing import Any

import torch

import tessera
from tessera import Tensor, f32, int64
from tests.corpus.table import faulty


@tessera.function
def linear(x: Tensor["...", "I"], w: Tensor["O", "I"], b: Tensor["O"] | None = None) -> Tensor["...", "O"]:
    y = x @ w.T
    return y if b is None else y + b


@tessera.function
def scale_rows(x: Tensor["N", "D"], weight: Tensor["N"]) -> Tensor["N", "D"]:
    return x * weight.unsqueeze(-1)


@tessera.function
def attend(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "T", "E"]
) -> Tensor["B", "H", "S", "E"]:
    return torch.softmax(q @ k.mT, dim=-1) @ v


@tessera.function
def embed(ids: Tensor["B", "S", int64], table: Tensor["V", "D"]) -> Tensor["B", "S", "D"]:
    return table[ids]


@tessera.function
def pair(x: Tensor["N", "D"]) -> tuple[Tensor["N", "D"], Tensor["N"]]:
    return x * 2, x.sum(-1)


@faulty("TSR0211", "w", helps=True)
def calls_with_a_turned_weight(x: Tensor["B", "S", "D"], w: Tensor["D", "F"]) -> Tensor["B", "S", "F"]:
    return linear(x, w)


@faulty("TSR0211", "b")
def calls_with_a_wrong_bias(x: Tensor["B", "D"], w: Tensor["F", "D"], b: Tensor["D"]) -> Tensor["B", "F"]:
    return linear(x, w, b=b)


@faulty("TSR0211", "weight")
def calls_with_columns_for_rows(x: Tensor["B", "F"], weight: Tensor["F"]) -> Tensor["B", "F"]:
    return scale_rows(x, weight)


@faulty("TSR0211", "x")
def calls_with_three_dims(x: Tensor["B", "S", "D"], weight: Tensor["B"]) -> Any:
    return scale_rows(x, weight)


@faulty("TSR0211", "weight", helps=True)
def calls_with_swapped_arguments(x: Tensor["B", "F"], weight: Tensor["B"]) -> Any:
    return scale_rows(weight, x)


@faulty("TSR0211", "k")
def calls_with_other_layouts(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "T", "H", "D"], v: Tensor["B", "H", "T", "D"]
) -> Any:
    return attend(q, k, v)


@faulty("TSR0211", "v", helps=True)
def calls_with_keys_that_differ(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    v = q * 2
    return attend(q, k, v)


@faulty("TSR0108", "ids")
def calls_with_float_ids(ids: Tensor["B", "S", f32], table: Tensor["V", "D"]) -> Any:
    return embed(ids, table)


@faulty("TSR0202", "x", helps=True)
def uses_a_result_wrongly(x: Tensor["N", "D"]) -> Any:
    doubled, total = pair(x)
    return x * total + doubled


@faulty("TSR0201", "linear(x, w)", helps=True)
def result_of_a_call_contracted_wrongly(x: Tensor["B", "D"], w: Tensor["F", "D"], u: Tensor["D", "F"]) -> Any:
    return linear(x, w) @ u


@faulty("TSR0210", 'Tensor["B", "S", "D"]')
def result_of_a_call_returned_wrongly(x: Tensor["B", "S", "D"], w: Tensor["F", "D"]) -> Tensor["B", "S", "D"]:
    return linear(x, w)


@faulty("TSR0210", 'Tensor["B", "L", "L"]')
def one_name_for_two_sizes(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Tensor["B", "L", "L"]:
    return x.unsqueeze(-1) * y.unsqueeze(-2)


@faulty("TSR0210", 'Tensor["B", "S"]')
def swapped_return(x: Tensor["S", "B"]) -> Tensor["B", "S"]:
    return torch.relu(x)


@faulty("TSR0210", 'Tensor["T", "S"]')
def scores_returned_turned(q: Tensor["S", "D"], k: Tensor["T", "D"]) -> Tensor["T", "S"]:
    return q @ k.T


@faulty("TSR0210", 'Tensor["B", "D/2"]')
def half_promised(x: Tensor["B", "D"]) -> Tensor["B", "D/2"]:
    return x * 2


@faulty("TSR0210", 'Tensor["B", "S", 1]')
def keepdim_promised(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", 1]:
    return x.sum(dim=-1)


@faulty("TSR0210", 'Tensor["B", "S"]')
def keepdim_not_promised(x: Tensor["B", "S", "D"]) -> Tensor["B", "S"]:
    return x.amax(dim=-1, keepdim=True)


@faulty("TSR0210", 'Tensor["B", "S"]', faults=2)
def results_in_the_other_order(x: Tensor["B", "S"]) -> tuple[Tensor["B", "S"], Tensor["B"]]:
    return x.sum(-1), x


@faulty("TSR0210", 'Tensor["B", "S"]')
def returns_a_pair(x: Tensor["B", "S", "V"]) -> Tensor["B", "S"]:
    return x.max(dim=-1)


@faulty("TSR0210 TSR0407", 'Tensor["B", "S"]')
def returns_nothing(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    x * 2


@faulty("TSR0210", 'Tensor["seq_len", "dim"]')
def tables_of_half_width(seq_len: int, dim: int) -> Tensor["seq_len", "dim"]:
    return torch.outer(torch.arange(seq_len).float(), torch.arange(0, dim, 2).float())


@faulty("TSR0202", "torch.zeros(B, S)", helps=True)
def factories_of_other_shapes(B: int, S: int, x: Tensor["S", "B"]) -> Any:
    return torch.zeros(B, S) + x


@faulty("TSR0103", '"f32"')
def dtype_in_quotes(x: Tensor["B", "D", "f32"]) -> Any:
    return x


@faulty("TSR0101", '"B-"')
def unreadable_dim(x: Tensor["B-", "D"]) -> Any:
    return x


@faulty("TSR0104", "1.5")
def fraction_as_dim(x: Tensor["B", 1.5]) -> Any:
    return x


@faulty("TSR0202", "x", helps=True)
def name_reused_for_the_transpose(x: Tensor["B", "S"], y: Tensor["B", "S"]) -> Any:
    x = x.transpose(0, 1)
    return x + y


@faulty("TSR0202", "h")
def variable_reused_in_a_loop(x: Tensor["B", "D"], w: Tensor["D", "D"], r: Tensor["D", "B"]) -> Any:
    h = x
    for _ in range(2):
        h = torch.tanh(h @ w)
        h = h + r
    return h


@faulty("TSR0201", "h")
def layers_of_a_list(x: Tensor["B", "D"], w: list[Tensor["F", "D"]]) -> Any:
    h = x
    for layer in w:
        h = torch.tanh(h @ layer)
    return h


@faulty("TSR0202", "x", helps=True)
def only_in_one_branch(x: Tensor["B", "S"], y: Tensor["S", "B"], turned: bool) -> Any:
    if turned:
        return x + y.T
    return x + y


@faulty("TSR0202", "x", helps=True)
def only_when_absent(x: Tensor["B", "S"], y: Tensor["S", "B"], w: Tensor["B", "S"] | None = None) -> Any:
    return x * w if w is not None else x * y


@faulty("TSR0202", "x", helps=True)
def only_for_long_sequences(x: Tensor["B", "S"], y: Tensor["S"], z: Tensor["B"]) -> Any:
    if x.shape[1] > 1024:
        return x + z
    return x + y


@faulty("TSR0202", "a")
def inside_a_local_helper(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    def blend(a, b):  # type: ignore[no-untyped-def]
        return a * b

    return blend(x, y)


class Layer:
    """A class with compiled methods."""

    def __init__(self) -> None:
        self.weight = torch.randn(10, 8)
        self.scale = 0.5

    @faulty("TSR0201", "q", helps=True)
    def scores(self, q: Tensor["B", "S", "D"], k: Tensor["B", "T", "D"]) -> Any:
        return q @ k * self.scale

    @faulty("TSR0201", "q", helps=True)
    def scaled_scores(self, q: Tensor["B", "S", "D"], k: Tensor["B", "T", "D"]) -> Any:
        scale = self.scale * 2.0
        return torch.softmax((q @ k) / scale, dim=-1)

    @faulty("TSR0217", "x", helps=True)
    def centred(self, x: Tensor["B", "S", "D"]) -> Any:
        return x - x.mean(-1)

    @staticmethod
    @faulty("TSR0202", "x", helps=True)
    def shift(x: Tensor["B", "S", "D"], by: Tensor["S"]) -> Any:
        return x + by
