"""Layers with torch's names, parameters and results, written in Tessera: proved, and compiled with what is around."""

from torch.nn import Buffer, ModuleDict, ModuleList, ParameterDict, ParameterList

from tessera import Module
from tessera.nn import functional, init
from tessera.nn.attention import MultiheadAttention, SelfAttention
from tessera.nn.block import FeedForward, SwiGLU, TransformerBlock
from tessera.nn.convert import from_torch, to_torch
from tessera.nn.functional import l2_normalize, log_softmax_stable, swish
from tessera.nn.linear import Embedding, Linear
from tessera.nn.norm import GroupNorm, LayerNorm, RMSNorm
from tessera.nn.parameter import Parameter
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
from tessera.nn.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

__all__ = [
    "GELU",
    "Buffer",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "FeedForward",
    "GroupNorm",
    "Identity",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "RMSNorm",
    "ReLU",
    "SelfAttention",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "SwiGLU",
    "Tanh",
    "Transformer",
    "TransformerBlock",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "from_torch",
    "functional",
    "init",
    "l2_normalize",
    "log_softmax_stable",
    "swish",
    "to_torch",
]  # fmt: skip
