"""Initial values: torch's, and those of deep decoders."""

import math

import torch
from torch.nn.init import *  # noqa: F403 - torch's own, as they are
from torch.nn.init import __all__ as _torchs
from torch.nn.init import trunc_normal_, zeros_


@torch.no_grad()
def scaled_normal_(tensor: torch.Tensor, layers: int, std: float = 0.02) -> torch.Tensor:
    """Fill a tensor of any shape with normal numbers of deviation ``std / √(2 layers)``, in place.

    For the matrices whose results are added to the residual stream, two in each layer: their sum keeps its deviation
    whatever the depth. Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3.

    >>> import torch
    >>> from tessera import nn
    >>> round(nn.init.scaled_normal_(torch.empty(400, 400), layers=2).std().item(), 3)
    0.01
    """
    return tensor.normal_(0.0, std / math.sqrt(2 * layers))


def decoder_(module: torch.nn.Module, layers: int, std: float = 0.02) -> None:
    """Initialise a decoder in place: matrices and tables from a normal distribution of deviation ``std`` cut off at
    three deviations, the last matrix of each residual branch (``attn.out``, ``mlp.down``) as `scaled_normal_`, biases
    zero. Norms stay as they are.

    >>> import torch
    >>> from tessera import nn
    >>> block = nn.TransformerBlock(32, 4)
    >>> nn.init.decoder_(block, layers=12)
    >>> bool(block.attn.out.weight.std() < block.attn.q.weight.std() / 3)
    True
    """
    for name, one in module.named_modules():
        if isinstance(one, torch.nn.Linear | torch.nn.Embedding):
            if name.endswith(("attn.out", "mlp.down")):
                scaled_normal_(one.weight, layers, std)
            else:
                trunc_normal_(one.weight, std=std, a=-3 * std, b=3 * std)
            if isinstance(one, torch.nn.Linear) and one.bias is not None:
                zeros_(one.bias)


__all__ = [*_torchs, "decoder_", "scaled_normal_"]
