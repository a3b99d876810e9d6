"""The decoder, and what each backend runs of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

import tessera
from examples.char_lm.config import Config
from tessera import Tensor, nn


@tessera.module
class Decoder:
    """A model of the next character: ids ``[B, S]`` to logits ``[B, S, words]``."""

    def __init__(self, words: int, config: Config) -> None:
        width = config.width
        self.words = words
        self.table = nn.Embedding(words, width)
        self.blocks = [
            nn.TransformerBlock(width, config.heads, hidden=config.hidden, dropout=config.dropout)
            for _ in range(config.depth)
        ]
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, words, bias=False)
        nn.init.decoder_(self, layers=config.depth)

    def forward(self, ids: Tensor["B", "S", tessera.int64]) -> Tensor["B", "S", "words"]:
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@tessera.module
class Loss:
    """The mean cross-entropy of a decoder on targets ``[B, S]``, in nats a character."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def forward(self, ids: Tensor["B", "S", tessera.int64], targets: Tensor["B", "S", tessera.int64]) -> Tensor[()]:
        return F.cross_entropy(self.decoder(ids).flatten(0, 1), targets.flatten())


def plain(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a model as torch alone runs it: its undecorated code, under the same names."""
    made = nn.to_torch(module)
    for one in made.modules():
        kind = type(one)
        if issubclass(kind, tessera.Module):
            one.__class__ = type(kind.__name__, (torch.nn.Module,), {"forward": kind.forward.fn})  # type: ignore[attr-defined]
    return made


def build(words: int, config: Config) -> tuple[Any, Any]:
    """The loss that the backend trains, and its decoder; the first weights are the same for every backend."""
    torch.manual_seed(config.seed)
    loss: Any = Loss(Decoder(words, config))  # type: ignore[call-arg]
    if config.backend == "compiled":
        return loss, loss.decoder
    bare: Any = plain(loss)
    return (torch.compile(bare) if config.backend == "torch.compile" else bare), bare.decoder
