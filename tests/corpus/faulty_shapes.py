"""Faults in reshaping, indexing, joining, calls between functions, annotations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor, bool_, f32, int8, int64
from tests.corpus.table import faulty


@faulty("TSR0205", "x")
def view_in_the_wrong_order(x: Tensor["B", "S", "D"]) -> Any:
    b, s, d = x.shape
    return x.view(b, d, d)


@faulty("TSR0205", "x")
def reshape_drops_a_dim(x: Tensor["B", "S", "D"]) -> Tensor["B", "D"]:
    return x.reshape(x.shape[0], x.shape[-1])


@faulty("TSR0205", "x")
def reshape_to_an_odd_count(x: Tensor["B", "2*S+1"]) -> Any:
    return x.reshape(x.shape[0], -1, 2)


@faulty("TSR0205", "x")
def two_inferred_dims(x: Tensor["B", "S", "D"]) -> Any:
    return x.view(-1, -1, x.shape[-1])


@faulty("TSR0210", 'Tensor["B", "S*D"]')
def flattened_too_much(x: Tensor["B", "S", "D"]) -> Tensor["B", "S*D"]:
    return x.flatten()


@faulty("TSR0210", 'Tensor["B", "H*W", "C"]')
def tokens_not_transposed(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "H*W", "C"]:
    return x.flatten(2)


@faulty("TSR0210", 'Tensor["B", "H", "W", "C"]')
def permuted_wrongly(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "H", "W", "C"]:
    return x.permute(0, 3, 2, 1)


@faulty("TSR0214", "x")
def permuted_twice_the_same(x: Tensor["B", "C", "H", "W"]) -> Any:
    return x.permute(0, 2, 2, 1)


@faulty("TSR0214 TSR0204", "x")
def permuted_with_too_few(x: Tensor["B", "S", "H", "D"]) -> Any:
    return torch.permute(x, (0, 2, 1))


@faulty("TSR0203", "x")
def transposed_past_the_end(x: Tensor["B", "S", "D"]) -> Any:
    return x.transpose(2, 3)


@faulty("TSR0203", "x")
def softmax_over_a_missing_dim(x: Tensor["B", "S"]) -> Any:
    return F.softmax(x, dim=2)


@faulty("TSR0203", "x")
def negative_dim_too_far(x: Tensor["B", "S"]) -> Any:
    return x.sum(dim=-3)


@faulty("TSR0203", "x")
def argmax_over_a_missing_dim(x: Tensor["B", "V"]) -> Any:
    return torch.argmax(x, dim=2)


@faulty("TSR0203 TSR0216", "x.shape[3]")
def size_of_a_missing_dim(x: Tensor["B", "S", "D"]) -> Any:
    return x * x.shape[3]


@faulty("TSR0203 TSR0216", "x.size(2)")
def size_method_of_a_missing_dim(x: Tensor["B", "D"]) -> Any:
    return x.sum() / x.size(2)


@faulty("TSR0203", "x")
def unsqueezed_too_far(x: Tensor["B", "S"]) -> Any:
    return x.unsqueeze(4)


@faulty("TSR0204", "x")
def matrix_transpose_of_three(x: Tensor["B", "S", "D"]) -> Any:
    return x.T


@faulty("TSR0204", "x")
def bmm_of_matrices(x: Tensor["S", "D"], y: Tensor["D", "T"]) -> Any:
    return torch.bmm(x, y)


@faulty("TSR0204", "x")
def mm_of_batches(x: Tensor["B", "S", "D"], w: Tensor["D", "F"]) -> Any:
    return torch.mm(x, w)


@faulty("TSR0202 TSR0201", "x")
def bmm_of_other_batches(x: Tensor["B", "S", "D"], y: Tensor["C", "D", "T"]) -> Any:
    return torch.bmm(x, y)


@faulty("TSR0216", "b, d")
def unpacked_into_two(x: Tensor["B", "S", "D"]) -> Any:
    b, d = x.shape
    return x.reshape(b, d)


@faulty("TSR0216", "b, h, s, d")
def unpacked_into_four(x: Tensor["B", "S", "D"]) -> Any:
    b, h, s, d = x.shape
    return x.reshape(b, h, s * d)


@faulty("TSR0206", "x")
def joined_over_the_wrong_dim(x: Tensor["B", "S", "D"], y: Tensor["B", "T", "D"]) -> Any:
    return torch.cat([x, y], dim=-1)


@faulty("TSR0206", "token")
def class_token_not_expanded(x: Tensor["B", "S", "D"], token: Tensor[1, 1, "D"]) -> Any:
    return torch.cat([token, x], dim=1)


@faulty("TSR0206", "x")
def joined_of_other_ranks(x: Tensor["B", "S", "D"], y: Tensor["B", "D"]) -> Any:
    return torch.cat((x, y), dim=1)


@faulty("TSR0206", "x")
def stacked_of_other_shapes(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    return torch.stack([x, y], dim=1)


@faulty("TSR0210", 'Tensor["B", "S", "D"]')
def joined_width_forgotten(x: Tensor["B", "S", "D"], y: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
    return tessera.cat([x, y], dim=-1)


@faulty("TSR0208", "x")
def chunked_by_a_bad_divisor(x: Tensor["B", 10]) -> Any:
    a, b, c = x.chunk(3, dim=-1)
    return a + b + c


@faulty("TSR0208", "x")
def split_into_wrong_sizes(x: Tensor["B", 10]) -> Any:
    a, b = torch.split(x, [4, 5], dim=1)
    return a, b


@faulty("TSR0216 TSR0208 TSR0406", "a, b, c")
def chunks_unpacked_wrongly(x: Tensor["B", "2*D"]) -> Any:
    a, b, c = x.chunk(2, dim=-1)
    return a + b + c


@faulty("TSR0205 TSR0208", "x")
def unflattened_by_a_bad_divisor(x: Tensor["B", 10]) -> Any:
    return x.unflatten(1, (4, -1))


@faulty("TSR0207", "x")
def squeezed_a_real_dim(x: Tensor["B", "S", "D"]) -> Any:
    return x.squeeze(1)


@faulty("TSR0213", "x")
def expanded_a_real_dim(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    return x.expand(x.shape[0], y.shape[1])


@faulty("TSR0213 TSR0204", "x")
def expanded_to_fewer_dims(x: Tensor["B", "S", "D"]) -> Any:
    return x.expand(x.shape[0], x.shape[1])


@faulty("TSR0202", "x")
def outer_without_unsqueeze(x: Tensor["B", "I"], y: Tensor["B", "J"]) -> Tensor["B", "I", "J"]:
    return x * y


@faulty("TSR0202", "x")
def differences_of_other_lengths(x: Tensor["B", "S"]) -> Tensor["B", "S-1"]:
    return x - x[:, 1:]


@faulty("TSR0210", 'Tensor["B", "S"]')
def differences_returned_as_full(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    return x[:, 1:] - x[:, :-1]


@faulty("TSR0212", "x")
def index_past_a_known_size(x: Tensor["B", 4, "S"]) -> Any:
    return x[:, 4]


@faulty("TSR0204 TSR0212", "x")
def too_many_indices(x: Tensor["B", "S"]) -> Any:
    return x[:, 0, 0]


@faulty("TSR0304", "i")
def indexed_by_floats(x: Tensor["V", "D"], i: Tensor["B", f32]) -> Any:
    return x[i]


@faulty("TSR0215 TSR0202 TSR0212", "x")
def bool_mask_of_another_shape(x: Tensor["B", "S"], m: Tensor["B", "T", bool_]) -> Any:
    y = x * 1
    y[m] = 0
    return y


@faulty("TSR0202 TSR0213", "y[:, 0]")
def assigned_a_row_to_a_column(x: Tensor["B", "S"], row: Tensor["S"]) -> Any:
    y = x.clone()
    y[:, 0] = row
    return y


@faulty("TSR0202", "out")
def added_in_place(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    out = torch.zeros_like(x)
    out += y
    return out


@faulty("TSR0202 TSR0213", "out")
def in_place_would_grow(x: Tensor["D"], y: Tensor["B", "D"]) -> Any:
    out = x.clone()
    out += y
    return out


@faulty("TSR0209", "x.unfold(2, 4, 1)")
def conv_kernel_of_another_length(x: Tensor["B", "C", "L"], w: Tensor["O", "C", 3]) -> Any:
    return torch.einsum("bclk,ock->bol", x.unfold(2, 4, 1), w)


@faulty("TSR0201 TSR0202 TSR0204", "w")
def conv_of_other_channels(x: Tensor["B", "C", "H", "W"], w: Tensor["O", "E", 3, 3]) -> Any:
    return F.conv2d(x, w, padding=1)


@faulty("TSR0202", "x.view(b, c, h // 2, 2, w // 2, 2).mean(dim=(3, 5))")
def pooled_and_added(x: Tensor["B", "C", "H", "W"]) -> Any:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).mean(dim=(3, 5)) + x


@faulty("TSR0205", "x")
def patchify_forgets_a_factor(x: Tensor["B", "C", "H*P", "W*P"], P: int) -> Any:
    b, c, h, w = x.shape
    return x.reshape(b, c, h // P, P, w // P)


@faulty("TSR0202", "router")
def gate_scaled_by_tokens(x: Tensor["N", "D"], router: Tensor["D", "E"]) -> Any:
    return (router * x.mean(dim=1)).softmax(dim=-1)


@faulty("TSR0202", "torch.softmax(x @ router, dim=-1)")
def gate_not_unsqueezed(x: Tensor["N", "D"], router: Tensor["D", "E"], w: Tensor["E", "D", "F"]) -> Tensor["N", "F"]:
    outputs = torch.einsum("nd,edf->nef", x, w)
    return (torch.softmax(x @ router, dim=-1) * outputs).sum(dim=1)


@faulty("TSR0202", "q.float()")
def scale_of_columns(q: Tensor["N", "D", int8], scale: Tensor["N", f32]) -> Any:
    return q.float() * scale


@faulty("TSR0305", 'Tensor["N", "D", int8]')
def quantized_not_cast(x: Tensor["N", "D"]) -> Tensor["N", "D", int8]:
    scale = x.abs().amax(dim=-1, keepdim=True) / 127.0
    return torch.clamp(torch.round(x / scale), -128, 127)


@faulty("TSR0202 TSR0217", "x", helps=True)
def scale_without_keepdim(x: Tensor["N", "D"]) -> Any:
    scale = x.abs().amax(dim=-1)
    return (x / scale).round()


@faulty("TSR0301", "x")
def bitwise_of_floats(x: Tensor["B", "S", f32], m: Tensor["B", "S", bool_]) -> Any:
    return x & m


@faulty("TSR0301", "ids")
def mean_of_integers(ids: Tensor["B", "S", int64]) -> Any:
    return ids.mean(dim=-1)


@faulty("TSR0301", "m")
def negated_mask(x: Tensor["B", "S", f32], m: Tensor["B", "S", bool_]) -> Any:
    return x.masked_fill(-m, 0.0)


@faulty("TSR0303", "m")
def filled_by_integers(x: Tensor["B", "S"], m: Tensor["B", "S", int64]) -> Any:
    return x.masked_fill(m, 0.0)


@tessera.function
def linear(x: Tensor["...", "I"], w: Tensor["O", "I"], b: Tensor["O"] | None = None) -> Tensor["...", "O"]:
    y = x @ w.T
    return y if b is None else y + b


@tessera.function
def scale_rows(x: Tensor["N", "D"], weight: Tensor["N"]) -> Tensor["N", "D"]:
    return x * weight.unsqueeze(-1)


@tessera.function
def attend(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "T", "E"]) -> Tensor["B", "H", "S", "E"]:  # noqa: E501
    return torch.softmax(q @ k.mT, dim=-1) @ v


@tessera.function
def embed(ids: Tensor["B", "S", int64], table: Tensor["V", "D"]) -> Tensor["B", "S", "D"]:
    return table[ids]


@tessera.function
def pair(x: Tensor["N", "D"]) -> tuple[Tensor["N", "D"], Tensor["N"]]:
    return x * 2, x.sum(-1)


@faulty("TSR0211", "w")
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


@faulty("TSR0211", "x")
def calls_with_swapped_arguments(x: Tensor["B", "F"], weight: Tensor["B"]) -> Any:
    return scale_rows(weight, x)


@faulty("TSR0211", "k")
def calls_with_other_layouts(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "T", "H", "D"], v: Tensor["B", "T", "H", "D"]) -> Any:  # noqa: E501
    return attend(q, k, v)


@faulty("TSR0211", "v")
def calls_with_keys_that_differ(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    v = q * 2
    return attend(q, k, v)


@faulty("TSR0108", "ids")
def calls_with_float_ids(ids: Tensor["B", "S", f32], table: Tensor["V", "D"]) -> Any:
    return embed(ids, table)


@faulty("TSR0202", "x")
def uses_a_result_wrongly(x: Tensor["N", "D"]) -> Any:
    doubled, total = pair(x)
    return x * total + doubled


@faulty("TSR0201", "linear(x, w)")
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


@faulty("TSR0210", 'tuple[Tensor["B", "S"], Tensor["B"]]')
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


@faulty("TSR0202", "torch.zeros(B, S)")
def factories_of_other_shapes(B: int, S: int, x: Tensor["S", "B"]) -> Any:
    return torch.zeros(B, S) + x


@faulty("TSR0103", '"f32"')
def dtype_in_quotes(x: Tensor["B", "D", "f32"]) -> Any:
    return x


@faulty("TSR0101", '"B-"')
def unreadable_dim(x: Tensor["B-", "D"]) -> Any:
    return x


@faulty("TSR0104", 'Tensor["B", 1.5]')
def fraction_as_dim(x: Tensor["B", 1.5]) -> Any:
    return x


@faulty("TSR0202", "x")
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


@faulty("TSR0202", "x")
def only_in_one_branch(x: Tensor["B", "S"], y: Tensor["S", "B"], turned: bool) -> Any:
    if turned:
        return x + y.T
    return x + y


@faulty("TSR0202", "x")
def only_when_absent(x: Tensor["B", "S"], y: Tensor["S", "B"], w: Tensor["B", "S"] | None = None) -> Any:
    return x * w if w is not None else x * y


@faulty("TSR0202", "x")
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

    @faulty("TSR0201", "q")
    def scores(self, q: Tensor["B", "S", "D"], k: Tensor["B", "T", "D"]) -> Any:
        return q @ k * self.scale

    @faulty("TSR0201", "q")
    def scaled_scores(self, q: Tensor["B", "S", "D"], k: Tensor["B", "T", "D"]) -> Any:
        q = q * self.scale
        return q @ k

    @faulty("TSR0217", "x")
    def centred(self, x: Tensor["B", "S", "D"]) -> Any:
        return x - x.mean(-1)

    @staticmethod
    @faulty("TSR0202", "x")
    def shift(x: Tensor["B", "S", "D"], by: Tensor["S"]) -> Any:
        return x + by
