"""Which layer stands for which class of torch: they differ in nothing but their ``forward``."""

from collections.abc import Mapping

import torch

from tessera.nn.attention import MultiheadAttention
from tessera.nn.linear import Embedding, Linear
from tessera.nn.norm import GroupNorm, LayerNorm, RMSNorm
from tessera.nn.plain import (
    GELU,
    CrossEntropyLoss,
    Dropout,
    Identity,
    MSELoss,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)

Table = Mapping[type[torch.nn.Module], type[torch.nn.Module]]


def by_torch(*layers: type[torch.nn.Module]) -> Table:
    """Layers by the class of torch that is the first base of each."""
    return {layer.__bases__[0]: layer for layer in layers}


#: The layers that are built of no others.
PARTS = by_torch(
    CrossEntropyLoss, Dropout, Embedding, GELU, GroupNorm, Identity, LayerNorm, Linear, MSELoss, MultiheadAttention,
    RMSNorm, ReLU, Sequential, SiLU, Sigmoid, Softmax, Tanh,
)  # fmt: skip


def swap(module: torch.nn.Module, table: Table) -> None:
    """Give every module of a tree the class that the table has for its own; others keep theirs."""
    for one in module.modules():
        found = table.get(type(one))
        if found is not None:
            one.__class__ = found
