"""Faults in layers, norms, losses and optimizers."""

# ruff: noqa: F722

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

import tessera
from tessera import Tensor, bf16, f32, int64
from tests.corpus.table import faulty


@faulty("TSR0217", "x", helps=True)
def rms_norm_without_keepdim(x: Tensor["B", "S", "D"], weight: Tensor["D"], eps: float = 1e-6) -> Tensor["B", "S", "D"]:
    return x * tessera.rsqrt(tessera.mean(x**2, dim=-1) + eps) * weight


@faulty("TSR0202", "x * tessera.rsqrt(tessera.mean(x**2, dim=-1, keepdim=True) + 1e-6)", helps=True)
def rms_norm_weight_of_positions(x: Tensor["B", "S", "D"], weight: Tensor["S"]) -> Tensor["B", "S", "D"]:
    return x * tessera.rsqrt(tessera.mean(x**2, dim=-1, keepdim=True) + 1e-6) * weight


@faulty("TSR0217", "x", helps=True)
def centred_without_keepdim(x: Tensor["...", "D"]) -> Tensor["...", "D"]:
    mu = x.mean(dim=-1)
    return x - mu


@faulty("TSR0217", "x - mu", helps=True)
def divided_by_dropped_std(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
    mu = x.mean(-1, keepdim=True)
    sigma = x.std(-1)
    return (x - mu) / sigma


@faulty("TSR0203", "x")
def norm_over_a_missing_dim(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    return x - x.mean(dim=2, keepdim=True)


@faulty("TSR0202", "x")
def unsqueezed_in_front(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
    mu = torch.mean(x, -1).unsqueeze(1)
    return x - mu


@faulty("TSR0202 TSR0204 TSR0205", "x")
def layer_norm_of_another_width(x: Tensor["B", "S", "D"], w: Tensor["E"], b: Tensor["E"]) -> Tensor["B", "S", "D"]:
    return F.layer_norm(x, w.shape, w, b)


@faulty("TSR0202", "x * scale")
def batch_norm_without_view(x: Tensor["B", "C", "H", "W"], scale: Tensor["C", 1, 1], shift: Tensor["C"]) -> Any:
    return x * scale + shift


@faulty("TSR0205", "x")
def groups_that_lose_channels(x: Tensor["B", "G*K", "L"], G: int) -> Any:
    b, c, n = x.shape
    return x.reshape(b, G, c, n).mean(dim=(2, 3))


@faulty("TSR0217", "e", helps=True)
def softmax_by_hand_without_keepdim(x: Tensor["B", "V"]) -> Tensor["B", "V"]:
    e = torch.exp(x - x.max(dim=-1, keepdim=True).values)
    return e / e.sum(dim=-1)


@faulty("TSR0217 TSR0202", "x", helps=True)
def max_without_keepdim(x: Tensor["B", "V"]) -> Tensor["B", "V"]:
    return torch.softmax(x - x.max(dim=1).values, dim=-1)


@faulty("TSR0404 TSR0301", "x - x.max(dim=-1, keepdim=True)")
def max_pair_as_tensor(x: Tensor["B", "V"]) -> Any:
    return x - x.max(dim=-1, keepdim=True)


@faulty("TSR0217", "x", helps=True)
def logsumexp_without_keepdim(x: Tensor["B", "V"]) -> Tensor["B", "V"]:
    return x - torch.logsumexp(x, dim=-1)


@faulty("TSR0201", "x")
def linear_weight_turned(x: Tensor["B", "D"], w1: Tensor["D", "F"], b1: Tensor["F"]) -> Tensor["B", "F"]:
    return F.relu(F.linear(x, w1, b1))


@faulty("TSR0201", "F.relu(F.linear(x, w1))", helps=True)
def second_layer_turned(x: Tensor["B", "D"], w1: Tensor["F", "D"], w2: Tensor["O", "F"]) -> Tensor["B", "O"]:
    return F.relu(F.linear(x, w1)) @ w2


@faulty("TSR0202", "b")
def linear_bias_of_inputs(x: Tensor["B", "I"], w: Tensor["O", "I"], b: Tensor["I"]) -> Tensor["B", "O"]:
    return F.linear(x, w, b)


@faulty("TSR0202", "F.silu(x @ gate)")
def gate_and_up_of_other_widths(x: Tensor["B", "D"], gate: Tensor["D", "F"], up: Tensor["D", "D"]) -> Any:
    return F.silu(x @ gate) * (x @ up)


@faulty("TSR0201", "F.silu(x @ gate) * (x @ up)", helps=True)
def down_projection_turned(
    x: Tensor["B", "D"], gate: Tensor["D", "F"], up: Tensor["D", "F"], down: Tensor["D", "F"]
) -> Tensor["B", "D"]:
    return (F.silu(x @ gate) * (x @ up)) @ down


@faulty("TSR0208", "x @ w")
def geglu_of_an_odd_width(x: Tensor["B", "D"], w: Tensor["D", "2*F+1"]) -> Any:
    value, gate = (x @ w).chunk(2, dim=-1)
    return value * F.gelu(gate)


@faulty("TSR0210", 'Tensor["B", "S", "F"]')
def geglu_width_not_halved(x: Tensor["B", "S", "D"], w: Tensor["D", "2*F"]) -> Tensor["B", "S", "F"]:
    value = x @ w
    return value * F.gelu(value)


@faulty("TSR0215 TSR0202 TSR0205", "target")
def cross_entropy_of_another_batch(logits: Tensor["N", "V"], target: Tensor["M", int64]) -> Tensor[()]:
    return F.cross_entropy(logits, target)


@faulty("TSR0215 TSR0202 TSR0205 TSR0204", "target.view(-1)")
def cross_entropy_without_flattening(logits: Tensor["B", "S", "V"], target: Tensor["B", "S", int64]) -> Tensor[()]:
    return F.cross_entropy(logits, target.view(-1))


@faulty("TSR0304 TSR0301 TSR0202", "target")
def cross_entropy_of_floats(logits: Tensor["N", "V"], target: Tensor["N", f32]) -> Tensor[()]:
    return F.cross_entropy(logits, target)


@faulty("TSR0215 TSR0202 TSR0205", "labels.reshape(-1)")
def next_token_loss_shifted_once(logits: Tensor["B", "S", "V"], tokens: Tensor["B", "S", int64]) -> Tensor[()]:
    shifted = logits[:, :-1]
    labels = tokens
    return F.cross_entropy(shifted.reshape(-1, shifted.shape[-1]), labels.reshape(-1))


@faulty("TSR0304", "target.float().unsqueeze(1)")
def gather_by_floats(logits: Tensor["N", "V"], target: Tensor["N", int64]) -> Any:
    return F.log_softmax(logits, -1).gather(1, target.float().unsqueeze(1))


@faulty("TSR0215 TSR0204", "target")
def gather_without_unsqueeze(logits: Tensor["N", "V"], target: Tensor["N", int64]) -> Any:
    logp = logits.log_softmax(dim=-1)
    return -logp.gather(1, target).mean()


@faulty("TSR0207", "logp.gather(1, target[:, None])")
def squeezed_the_batch(logits: Tensor["N", "V"], target: Tensor["N", int64]) -> Tensor["N"]:
    logp = logits.log_softmax(dim=-1)
    return logp.gather(1, target[:, None]).squeeze(0)


@faulty("TSR0202", "x", helps=True)
def masked_mean_without_unsqueeze(x: Tensor["B", "S", "D"], mask: Tensor["B", "S", bool]) -> Tensor["B", "D"]:
    return (x * mask.float()).sum(1)


@faulty("TSR0217", "(x * m).sum(dim=1)", helps=True)
def masked_mean_count_of_positions(x: Tensor["B", "S", "D"], mask: Tensor["B", "S", bool]) -> Tensor["B", "D"]:
    m = mask.unsqueeze(-1).to(x.dtype)
    return (x * m).sum(dim=1) / mask.sum(dim=1)


@faulty("TSR0202", "x", helps=True)
def mse_of_other_shapes(x: Tensor["B", "D"], y: Tensor["D", "B"]) -> Tensor[()]:
    return ((x - y) ** 2).mean()


@faulty("TSR0210", "Tensor[()]")
def loss_not_reduced(x: Tensor["B", "D"], y: Tensor["B", "D"]) -> Tensor[()]:
    return ((x - y) ** 2).mean(dim=-1)


@faulty("TSR0201", "a", helps=True)
def contrastive_without_transpose(a: Tensor["B", "D"], b: Tensor["B", "D"]) -> Any:
    logits = a @ b / 0.07
    return F.cross_entropy(logits, torch.arange(a.shape[0]))


@faulty("TSR0215 TSR0202 TSR0205", "labels")
def contrastive_labels_of_the_width(a: Tensor["B", "D"], b: Tensor["B", "D"]) -> Any:
    labels = torch.arange(a.shape[1])
    return F.cross_entropy(a @ b.T, labels)


@faulty("TSR0202", "same")
def similarity_mask_of_half(a: Tensor["B", "D"], b: Tensor["B", "D"]) -> Any:
    z = torch.cat([a, b], dim=0)
    same = torch.eye(a.shape[0], dtype=torch.bool)
    return (z @ z.T).masked_fill(same, float("-inf"))


@faulty("TSR0202", "x[:, None, :]")
def distances_of_other_widths(x: Tensor["N", "D"], y: Tensor["M", "E"]) -> Tensor["N", "M"]:
    return (x[:, None, :] - y[None, :, :]).square().sum(dim=-1)


@faulty("TSR0202", "lr * m")
def adamw_of_other_state(
    p: Tensor["N"], g: Tensor["N"], m: Tensor["M"], v: Tensor["N"], lr: float = 1e-3
) -> tuple[Tensor["N"], Tensor["N"]]:
    m = 0.9 * m
    return p - lr * m / (v.sqrt() + 1e-8), v


@faulty("TSR0210", 'tuple[Tensor["N"], Tensor["N"], Tensor["N"]]')
def adamw_forgets_a_state(
    p: Tensor["N"], g: Tensor["N"], m: Tensor["N"], v: Tensor["N"]
) -> tuple[Tensor["N"], Tensor["N"], Tensor["N"]]:
    m = 0.9 * m + 0.1 * g
    return p - 1e-3 * m / v.sqrt(), m  # type: ignore[return-value]


@faulty("TSR0403", "p -= 0.1 * g")
def updates_its_argument(p: Tensor["N"], g: Tensor["N"]) -> Tensor["N"]:
    p -= 0.1 * g
    return p


@faulty("TSR0403", "buf.mul_(0.9)")
def updates_its_argument_by_method(p: Tensor["N"], buf: Tensor["N"]) -> Tensor["N"]:
    buf.mul_(0.9)
    return p - buf


@faulty("TSR0304", "ids")
def embedding_by_floats(ids: Tensor["B", "S", f32], table: Tensor["V", "D"]) -> Tensor["B", "S", "D"]:
    return F.embedding(ids, table)


@faulty("TSR0304 TSR0204 TSR0404 TSR0301", "table")
def embedding_arguments_swapped(ids: Tensor["B", "S", int64], table: Tensor["V", "D", f32]) -> Tensor["B", "S", "D"]:
    return F.embedding(table, ids)


@faulty("TSR0202", "F.embedding(ids, table)", helps=True)
def embedding_with_turned_positions(
    ids: Tensor["B", "S", int64], table: Tensor["V", "D"], pos: Tensor["D", "S"]
) -> Any:
    return F.embedding(ids, table) + pos


@faulty("TSR0201", "h", helps=True)
def tied_logits_without_transpose(ids: Tensor["B", "S", int64], table: Tensor["V", "D"]) -> Tensor["B", "S", "V"]:
    h = table[ids]
    return h @ table


@faulty("TSR0202", "hot")
def one_hot_of_other_classes(logits: Tensor["B", 5], labels: Tensor["B", int64]) -> Tensor["B"]:
    hot = F.one_hot(labels, num_classes=4).float()
    return -(hot * logits.log_softmax(dim=1)).sum(dim=1)


@faulty("TSR0202", "logits.argmax(dim=0)")
def accuracy_over_the_batch(logits: Tensor["N", "V"], target: Tensor["N", int64]) -> Any:
    return (logits.argmax(dim=0) == target).float().mean()


@faulty("TSR0301", "logits.argmax(dim=-1) == target")
def mean_of_bools(logits: Tensor["N", "V"], target: Tensor["N", int64]) -> Any:
    return (logits.argmax(dim=-1) == target).mean()


@faulty("TSR0305", 'Tensor["B", "D", bf16]')
def forgets_to_cast_back(x: Tensor["B", "D", bf16], w: Tensor["D", bf16]) -> Tensor["B", "D", bf16]:
    h = x.float()
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6) * w


@faulty("TSR0305", 'Tensor["N", f32]')
def indices_as_floats(logits: Tensor["N", "V"]) -> Tensor["N", f32]:
    return logits.argmax(dim=-1)


@faulty("TSR0201", "x")
def jax_linear_turned(
    x: Float[torch.Tensor, "batch seq dim"], w: Float[torch.Tensor, "dim out"], b: Float[torch.Tensor, "out"]
) -> Float[torch.Tensor, "batch seq out"]:
    return F.linear(x, w, b)


@faulty("TSR0305", 'Int[torch.Tensor, "batch seq dim"]')
def jax_embed_as_integers(
    ids: Int[torch.Tensor, "batch seq"], table: Float[torch.Tensor, "vocab dim"]
) -> Int[torch.Tensor, "batch seq dim"]:
    return table[ids]


@faulty("TSR0217", "x", helps=True)
def jax_norm_without_keepdim(x: Float[torch.Tensor, "*batch d"]) -> Float[torch.Tensor, "*batch d"]:
    return x / x.norm(dim=-1)


@faulty("TSR0202", "x")
def drop_path_without_axes(x: Tensor["B", "S", "D"], keep: Tensor["B", bool]) -> Tensor["B", "S", "D"]:
    return x * keep / 0.9


@faulty("TSR0202", "x")
def film_on_the_wrong_axes(x: Tensor["B", "C", "H", "W"], scale: Tensor["B", "C"]) -> Tensor["B", "C", "H", "W"]:
    return x * (1 + scale[None, :, :, None])


@faulty("TSR0201", "F.relu(s @ w1)", helps=True)
def squeeze_excite_weights_alike(x: Tensor["B", "C", "H", "W"], w1: Tensor["C", "R"], w2: Tensor["C", "R"]) -> Any:
    s = x.mean(dim=(2, 3))
    return torch.sigmoid(F.relu(s @ w1) @ w2)
