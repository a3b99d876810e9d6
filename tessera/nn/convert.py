"""From torch's modules to these, and back: the same parameters under the same names, another ``forward``."""

import copy as copying
from typing import TypeVar

import torch

from tessera.nn.parts import PARTS, swap
from tessera.nn.transformer import STACKS

M = TypeVar("M", bound=torch.nn.Module)
_LAYERS = {**PARTS, **STACKS}
_BACK = {layer: theirs for theirs, layer in _LAYERS.items()}


def from_torch(module: M, *, copy: bool = True) -> M:
    """A tree of torch modules with this library's layers in the places of torch's.

    Names, parameters, buffers, hooks and modes are those of ``module``. With ``copy`` all of it is copied, parameters
    that are shared inside stay shared, and ``module`` stays as it is; without, its own layers change their class, and
    nothing is copied. Modules without a counterpart here stay what they are, and work inside of compiled ones.

    >>> import torch
    >>> from tessera import nn
    >>> theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU())
    >>> ours = nn.from_torch(theirs)
    >>> type(ours[0]) is nn.Linear, torch.equal(ours[0].weight, theirs[0].weight)
    (True, True)
    """
    made = copying.deepcopy(module) if copy else module
    swap(made, _LAYERS)
    return made


def to_torch(module: M, *, copy: bool = True) -> M:
    """A tree of modules with torch's layers in the places of this library's; `from_torch` turned round.

    Layers that torch lacks (``SwiGLU``, ``SelfAttention``, ``TransformerBlock``) stay; what is inside of them does not.

    >>> import torch
    >>> from tessera import nn
    >>> type(nn.to_torch(nn.Linear(3, 4))) is torch.nn.Linear
    True
    """
    made = copying.deepcopy(module) if copy else module
    swap(made, _BACK)
    return made


__all__ = ["from_torch", "to_torch"]
