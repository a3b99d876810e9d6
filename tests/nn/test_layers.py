"""Every layer against torch's of the same name and state: results, gradients, modes, dtypes, odd shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tessera import nn

Make = Callable[[Any], torch.nn.Module]


@dataclass(frozen=True)
class Case:
    """A layer made from either library, and the arguments of a call."""

    name: str
    make: Make
    inputs: Callable[[], tuple[Any, ...]]
    named: Callable[[], dict[str, Any]] = dict

    def pair(self, **to: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
        torch.manual_seed(0)
        ours = self.make(nn)
        torch.manual_seed(0)
        theirs = self.make(torch.nn)
        theirs.load_state_dict(ours.state_dict())
        return ours.to(**to), theirs.to(**to)


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ids(*shape: int, below: int = 11) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(sum(shape)))


def causal(size: int) -> torch.Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu(1)


LAYERS = [
    Case("linear", lambda n: n.Linear(5, 7), lambda: (floats(3, 2, 5),)),
    Case("linear of a vector", lambda n: n.Linear(5, 7), lambda: (floats(5),)),
    Case("linear without bias", lambda n: n.Linear(13, 1, bias=False), lambda: (floats(3, 13),)),
    Case("embedding", lambda n: n.Embedding(11, 6, padding_idx=2), lambda: (ids(3, 4),)),
    Case("layer norm", lambda n: n.LayerNorm(9), lambda: (floats(3, 2, 9),)),
    Case("layer norm of two dims", lambda n: n.LayerNorm((2, 9)), lambda: (floats(3, 2, 9),)),
    Case("layer norm alone", lambda n: n.LayerNorm(9, elementwise_affine=False), lambda: (floats(3, 9),)),
    Case("layer norm without bias", lambda n: n.LayerNorm(9, bias=False), lambda: (floats(3, 9),)),
    Case("rms norm", lambda n: n.RMSNorm(9), lambda: (floats(3, 2, 9),)),
    Case("rms norm with eps", lambda n: n.RMSNorm((2, 9), eps=1e-3), lambda: (floats(3, 2, 9),)),
    Case("rms norm alone", lambda n: n.RMSNorm(9, elementwise_affine=False), lambda: (floats(3, 9),)),
    Case("group norm", lambda n: n.GroupNorm(3, 6), lambda: (floats(2, 6, 5, 3),)),
    Case("group norm of rows", lambda n: n.GroupNorm(2, 6, affine=False), lambda: (floats(2, 6),)),
    Case("dropout of nothing", lambda n: n.Dropout(0.0), lambda: (floats(3, 5),)),
    Case("gelu", lambda n: n.GELU(), lambda: (floats(3, 5),)),
    Case("gelu by tanh", lambda n: n.GELU(approximate="tanh"), lambda: (floats(3, 5),)),
    Case("relu", lambda n: n.ReLU(), lambda: (floats(3, 5),)),
    Case("silu", lambda n: n.SiLU(), lambda: (floats(3, 5),)),
    Case("tanh", lambda n: n.Tanh(), lambda: (floats(7),)),
    Case("sigmoid", lambda n: n.Sigmoid(), lambda: (floats(3, 5),)),
    Case("softmax", lambda n: n.Softmax(dim=1), lambda: (floats(3, 5, 2),)),
    Case("identity", lambda n: n.Identity(3, more=4), lambda: (floats(3, 5),)),
    Case("sequential", lambda n: n.Sequential(n.Linear(5, 8), n.GELU(), n.LayerNorm(8)), lambda: (floats(3, 5),)),
    Case("cross-entropy", lambda n: n.CrossEntropyLoss(label_smoothing=0.1), lambda: (floats(6, 11), ids(6))),
    Case("cross-entropies", lambda n: n.CrossEntropyLoss(reduction="none"), lambda: (floats(2, 11, 3), ids(2, 3))),
    Case("mse", lambda n: n.MSELoss(), lambda: (floats(3, 5), floats(5, 3).T.contiguous())),
    Case("mse, sum", lambda n: n.MSELoss(reduction="sum"), lambda: (floats(3, 5), floats(3, 5) * 2)),
]

E3 = (floats(4, 2, 6), floats(5, 2, 6), floats(5, 2, 6) * 2)
B3 = tuple(x.transpose(0, 1).contiguous() for x in E3)
PADDING = torch.tensor([[False] * 5, [False, False, True, False, True]])

ATTENTION = [
    Case("attention", lambda n: n.MultiheadAttention(6, 2), lambda: E3),
    Case("attention to itself", lambda n: n.MultiheadAttention(6, 2), lambda: (E3[0],) * 3),
    Case("attention, batch first", lambda n: n.MultiheadAttention(6, 3, batch_first=True), lambda: B3),
    Case("attention without a batch", lambda n: n.MultiheadAttention(6, 2), lambda: tuple(x[:, 0] for x in E3)),
    Case("attention without bias", lambda n: n.MultiheadAttention(6, 2, bias=False), lambda: E3),
    Case(
        "attention of other sizes",
        lambda n: n.MultiheadAttention(6, 2, kdim=3, vdim=7, batch_first=True),
        lambda: (B3[0], floats(2, 5, 3), floats(2, 5, 7)),
    ),
    Case(
        "attention with more keys", lambda n: n.MultiheadAttention(6, 2, add_bias_kv=True, add_zero_attn=True),
        lambda: E3, lambda: {"key_padding_mask": PADDING},
    ),
    Case(
        "attention with masks", lambda n: n.MultiheadAttention(6, 2, batch_first=True), lambda: B3,
        lambda: {"key_padding_mask": PADDING, "attn_mask": floats(4, 5), "average_attn_weights": False},
    ),
    Case(
        "attention with a mask of each head", lambda n: n.MultiheadAttention(6, 2, batch_first=True), lambda: B3,
        lambda: {"attn_mask": floats(4, 4, 5) > 1.0, "need_weights": False},
    ),
    Case(
        "causal attention", lambda n: n.MultiheadAttention(6, 2), lambda: (E3[0],) * 3,
        lambda: {"attn_mask": causal(4), "need_weights": False, "is_causal": True},
    ),
]  # fmt: skip

TRANSFORMERS = [
    Case("encoder layer", lambda n: n.TransformerEncoderLayer(6, 2, 8, dropout=0.0), lambda: (E3[0],)),
    Case(
        "encoder layer, norms first",
        lambda n: n.TransformerEncoderLayer(6, 3, 8, 0.0, "gelu", batch_first=True, norm_first=True),
        lambda: (B3[1],), lambda: {"src_mask": causal(5), "src_key_padding_mask": PADDING},
    ),
    Case("decoder layer", lambda n: n.TransformerDecoderLayer(6, 2, 8, 0.0), lambda: E3[:2]),
    Case(
        "decoder layer, norms first",
        lambda n: n.TransformerDecoderLayer(6, 2, 8, 0.0, batch_first=True, norm_first=True, bias=False),
        lambda: B3[:2], lambda: {"tgt_mask": causal(4), "memory_key_padding_mask": PADDING, "tgt_is_causal": True},
    ),
    Case(
        "encoder",
        lambda n: n.TransformerEncoder(n.TransformerEncoderLayer(6, 2, 8, 0.0), 2, n.LayerNorm(6), False),
        lambda: (E3[0],), lambda: {"mask": causal(4)},
    ),
    Case(
        "decoder", lambda n: n.TransformerDecoder(n.TransformerDecoderLayer(6, 2, 8, 0.0), 2), lambda: E3[:2],
        lambda: {"tgt_mask": causal(4)},
    ),
    Case(
        "transformer", lambda n: n.Transformer(6, 2, 1, 1, 8, 0.0, batch_first=True), lambda: B3[:2],
        lambda: {"tgt_mask": causal(5), "src_mask": causal(4)},
    ),
]  # fmt: skip

ALL = [*LAYERS, *ATTENTION, *TRANSFORMERS]
#: Of what is put together from others the narrow dtype is left to the nightly run.
TYPED = [
    pytest.param(case, dtype, id=f"{case.name}-{dtype}", marks=[pytest.mark.nightly] * (narrow and case not in LAYERS))
    for case in ALL
    for narrow, dtype in enumerate((torch.float32, torch.bfloat16))
]


def moved(x: Any, dtype: torch.dtype) -> Any:
    return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def call(module: torch.nn.Module, case: Case, dtype: torch.dtype, leaves: bool = False) -> tuple[list[Any], list[Any]]:
    args = [moved(x, dtype) for x in case.inputs()]
    if leaves:
        args = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in args]
    made = module(*args, **{name: moved(x, dtype) for name, x in case.named().items()})
    return args, list(made) if isinstance(made, tuple) else [made]


@pytest.mark.parametrize(("case", "dtype"), TYPED)
def test_results(case: Case, dtype: torch.dtype) -> None:
    ours, theirs = case.pair(dtype=dtype)
    loose = {"rtol": 3e-2, "atol": 3e-2} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    with torch.no_grad():
        for mode in (False, True):
            ours.train(mode), theirs.train(mode)
            (_, mine), (_, wanted) = call(ours, case, dtype), call(theirs, case, dtype)
            torch.testing.assert_close(mine, wanted, **loose)
    assert ours.forward.cache_info().eager == 0


@pytest.mark.parametrize("case", ALL, ids=lambda c: c.name)
def test_gradients(case: Case) -> None:
    ours, theirs = case.pair()
    found = []
    for module in (ours, theirs):
        args, made = call(module, case, torch.float32, leaves=True)
        sum((m * m).sum() for m in made if m is not None).backward()
        found.append([x.grad for x in (*args, *module.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ALL, ids=lambda c: c.name)
def test_states_are_torch_s(case: Case) -> None:
    torch.manual_seed(0)
    ours = case.make(nn)
    torch.manual_seed(0)
    theirs = case.make(torch.nn)
    mine, wanted = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(wanted)
    assert all(torch.equal(mine[key], wanted[key]) for key in mine)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("case", ALL, ids=lambda c: c.name)
def test_there_and_back(case: Case) -> None:
    ours, theirs = case.pair()
    converted, back = nn.from_torch(theirs), nn.to_torch(ours)
    assert type(converted) is type(ours) and type(back) is type(theirs)
    assert {type(m) for m in back.modules()} == {type(m) for m in theirs.modules()}
    with torch.no_grad():
        for one in (ours, theirs, converted, back):
            one.eval()
        wanted = call(theirs, case, torch.float32)[1]
        for one in (converted, back):
            torch.testing.assert_close(call(one, case, torch.float32)[1], wanted, rtol=1e-4, atol=1e-5)
