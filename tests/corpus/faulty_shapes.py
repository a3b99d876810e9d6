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
    b, _, d = x.shape
    return x.view(b, d, d)


@faulty("TSR0205", "x")
def reshape_drops_a_dim(x: Tensor["B", "S", "D"]) -> Tensor["B", "D"]:
    return x.reshape(x.shape[0], x.shape[-1])


@faulty("TSR0205", "x")
def reshape_to_an_odd_count(x: Tensor["B", "2*S+1"]) -> Any:
    return x.reshape(x.shape[0], -1, 2)


@faulty("TSR0205", "x.view(-1, -1, x.shape[-1])")
def two_inferred_dims(x: Tensor["B", "S", "D"]) -> Any:
    return x.view(-1, -1, x.shape[-1])


@faulty("TSR0210", 'Tensor["B", "S*D"]')
def flattened_too_much(x: Tensor["B", "S", "D"]) -> Tensor["B", "S*D"]:
    return x.flatten()


@faulty("TSR0210", 'Tensor["B", "L", "C"]')
def tokens_not_transposed(x: Tensor["B", "C", "L"]) -> Tensor["B", "L", "C"]:
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


@faulty("TSR0206", "x", helps=True)
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


@faulty("TSR0215 TSR0202 TSR0212", "m")
def bool_mask_of_another_shape(x: Tensor["B", "S"], m: Tensor["B", "T", bool_]) -> Any:
    y = x * 1
    y[m] = 0
    return y


@faulty("TSR0202 TSR0213", "row")
def assigned_a_row_to_a_column(x: Tensor["B", "S"], row: Tensor["S"]) -> Any:
    y = x.clone()
    y[:, 0] = row
    return y


@faulty("TSR0202", "out")
def added_in_place(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
    out = torch.zeros_like(x)
    out += y
    return out


@faulty("TSR0202 TSR0213", "out += y")
def in_place_would_grow(x: Tensor["D"], y: Tensor["B", "D"]) -> Any:
    out = x.clone()
    out += y
    return out


@faulty("TSR0209", "x.unfold(2, 4, 1)")
def conv_kernel_of_another_length(x: Tensor["B", "C", "L"], w: Tensor["O", "C", 3]) -> Any:
    return torch.einsum("bclk,ock->bol", x.unfold(2, 4, 1), w)


@faulty("TSR0201 TSR0202 TSR0204", "x")
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


@faulty("TSR0202", "torch.softmax(x @ router, dim=-1)", helps=True)
def gate_not_unsqueezed(x: Tensor["N", "D"], router: Tensor["D", "E"], w: Tensor["E", "D", "F"]) -> Tensor["N", "F"]:
    outputs = torch.einsum("nd,edf->nef", x, w)
    return (torch.softmax(x @ router, dim=-1) * outputs).sum(dim=1)


@faulty("TSR0202", "q.float()", helps=True)
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
