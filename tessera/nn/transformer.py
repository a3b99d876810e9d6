"""Encoders and decoders with torch's parameters."""

from typing import Any

import torch

from tessera import Module, Tensor
from tessera.nn.parts import PARTS, by_torch, swap


class TransformerEncoderLayer(torch.nn.TransformerEncoderLayer, Module):
    """Self-attention and a feed-forward network, each with a residual and a norm behind it, or before it.

    Arguments, parameters, shapes and masks as ``torch.nn.TransformerEncoderLayer``: ``[S, N, d_model]``, or with
    ``batch_first`` ``[N, S, d_model]``, or without a batch.
    Source: Vaswani et al. 2017, arXiv:1706.03762.

    >>> import torch
    >>> from tessera import nn
    >>> nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        swap(self, PARTS)

    def forward(
        self,
        src: Tensor["*q", "d_model"],
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor["*q", "d_model"]:
        def attend(x: Any) -> Any:
            return self.dropout1(_attended(self.self_attn, x, x, src_mask, src_key_padding_mask))

        return _residuals(src, [(self.norm1, attend), (self.norm2, lambda x: _fed(self, x, self.dropout2))], self)


class TransformerDecoderLayer(torch.nn.TransformerDecoderLayer, Module):
    """As the encoder's layer, with attention over an encoder's result ``memory`` between the two.

    Arguments, parameters, shapes and masks as ``torch.nn.TransformerDecoderLayer``.
    Source: Vaswani et al. 2017, arXiv:1706.03762.

    >>> import torch
    >>> from tessera import nn
    >>> nn.TransformerDecoderLayer(8, 2, 16)(torch.randn(3, 2, 8), torch.randn(5, 2, 8)).shape
    torch.Size([3, 2, 8])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        swap(self, PARTS)

    def forward(
        self,
        tgt: Tensor["*q", "d_model"],
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor["*q", "d_model"]:
        def attend(x: Any) -> Any:
            return self.dropout1(_attended(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask))

        def read(x: Any) -> Any:
            return self.dropout2(_attended(self.multihead_attn, x, memory, memory_mask, memory_key_padding_mask))

        parts = [(self.norm1, attend), (self.norm2, read), (self.norm3, lambda x: _fed(self, x, self.dropout3))]
        return _residuals(tgt, parts, self)


def _attended(layer: Any, x: Any, memory: Any, mask: Any, padding: Any) -> Any:
    made, _ = layer(x, memory, memory, key_padding_mask=padding, need_weights=False, attn_mask=mask)
    return made


def _fed(layer: Any, x: Any, dropout: Any) -> Any:
    """The feed-forward network."""
    return dropout(layer.linear2(layer.dropout(layer.activation(layer.linear1(x)))))


def _residuals(x: Any, parts: list[Any], layer: Any) -> Any:
    """Each part added to what it is given, with its norm before it or behind the sum."""
    for norm, part in parts:
        x = x + part(norm(x)) if layer.norm_first else norm(x + part(x))
    return x


class TransformerEncoder(torch.nn.TransformerEncoder, Module):
    """A stack of copies of ``encoder_layer``, and a norm behind it if one is given.

    Arguments and parameters as ``torch.nn.TransformerEncoder``; sequences are never packed into nested tensors, so
    ``enable_nested_tensor`` and ``mask_check`` change nothing.
    """

    def __init__(
        self, encoder_layer: torch.nn.Module, num_layers: int, norm: torch.nn.Module | None = None,
        enable_nested_tensor: bool = False, mask_check: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(encoder_layer, num_layers, norm, False, mask_check)  # type: ignore[arg-type]

    def forward(
        self,
        src: Tensor["*q", "d_model"],
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor["*q", "d_model"]:
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(torch.nn.TransformerDecoder, Module):
    """A stack of copies of ``decoder_layer``, and a norm behind it if one is given.

    Arguments and parameters as ``torch.nn.TransformerDecoder``.
    """

    def forward(
        self,
        tgt: Tensor["*q", "d_model"],
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor["*q", "d_model"]:
        for layer in self.layers:
            tgt = layer(
                tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(torch.nn.Transformer, Module):
    """An encoder, and a decoder that reads its result; compiled as one function.

    Arguments, parameters, shapes and masks as ``torch.nn.Transformer``.
    Source: Vaswani et al. 2017, arXiv:1706.03762.

    >>> import torch
    >>> from tessera import nn
    >>> net = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    >>> net(torch.randn(2, 5, 8), torch.randn(2, 3, 8)).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        swap(self, {**PARTS, **STACKS})

    def forward(
        self,
        src: Tensor,
        tgt: Tensor["*q", "d_model"],
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor["*q", "d_model"]:
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask)
        return self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
        )  # fmt: skip


#: The layers that are built of others.
STACKS = by_torch(
    Transformer, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer
)

__all__ = [
    "STACKS", "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
    "TransformerEncoderLayer",
]  # fmt: skip
