"""Layers that scale what they are given to mean 0 or length 1."""

import torch
import torch.nn.functional as F

from tessera import Module, Tensor


class LayerNorm(torch.nn.LayerNorm, Module):
    """Mean 0 and variance 1 over the last dims, then scaled and shifted: ``[..., *normalized_shape]`` to the same.

    Arguments and parameters (``weight`` and ``bias`` of ``normalized_shape``, or None) as ``torch.nn.LayerNorm``. One
    kernel; statistics of 16-bit numbers are taken in float32.
    Raises ShapeError for other last sizes than ``normalized_shape``.
    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450.

    >>> import torch
    >>> from tessera import nn
    >>> nn.LayerNorm(2)(torch.tensor([[1.0, 3.0]])).round(decimals=3).tolist()
    [[-1.0, 1.0]]
    """

    weight: Tensor["...", "features"] | None  # type: ignore[assignment]
    bias: Tensor["...", "features"] | None  # type: ignore[assignment]

    @property
    def features(self) -> int:
        """The last size."""
        return self.normalized_shape[-1]

    def forward(self, input: Tensor["...", "features"]) -> Tensor["...", "features"]:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(torch.nn.RMSNorm, Module):
    """Root mean square 1 over the last dims, then scaled: ``[..., *normalized_shape]`` to the same.

    Arguments and parameter (``weight`` of ``normalized_shape``, or None) as ``torch.nn.RMSNorm``; ``eps`` is, unless
    given, the smallest step from 1 of the dtype. One kernel; squares of 16-bit numbers are added in float32.
    Raises ShapeError for other last sizes than ``normalized_shape``.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467.

    >>> import torch
    >>> from tessera import nn
    >>> nn.RMSNorm(2)(torch.tensor([[3.0, 3.0]])).tolist()
    [[1.0, 1.0]]
    """

    weight: Tensor["...", "features"] | None  # type: ignore[assignment]

    @property
    def features(self) -> int:
        """The last size."""
        return self.normalized_shape[-1]

    def forward(self, x: Tensor["...", "features"]) -> Tensor["...", "features"]:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(torch.nn.GroupNorm, Module):
    """Mean 0 and variance 1 over each group of channels, then scaled and shifted by channel: ``[N, num_channels, ...]``
    to the same.

    Arguments and parameters (``weight`` and ``bias`` ``[num_channels]``, or None) as ``torch.nn.GroupNorm``.
    Raises ShapeError for another number of channels.
    Source: Wu and He 2018, arXiv:1803.08494.

    >>> import torch
    >>> from tessera import nn
    >>> nn.GroupNorm(2, 4)(torch.randn(3, 4, 5)).shape
    torch.Size([3, 4, 5])
    """

    weight: Tensor["num_channels"] | None  # type: ignore[assignment]
    bias: Tensor["num_channels"] | None  # type: ignore[assignment]

    def forward(self, input: Tensor["N", "num_channels", "..."]) -> Tensor["N", "num_channels", "..."]:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


__all__ = ["GroupNorm", "LayerNorm", "RMSNorm"]
