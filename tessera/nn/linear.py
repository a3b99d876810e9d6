"""Layers that hold a matrix: linear maps and tables of vectors."""

import torch
import torch.nn.functional as F

from tessera import Module, Tensor, integer


class Linear(torch.nn.Linear, Module):
    """``x Wᵀ + b`` over the last dim: ``[..., in_features]`` to ``[..., out_features]``, in the dtype of the weight.

    Arguments, parameters (``weight [out_features, in_features]``, ``bias [out_features]`` or None) and their
    initial values as ``torch.nn.Linear``. An epilogue that follows it in a traced function becomes part of its kernel.
    Raises ShapeError for another last size than ``in_features``.

    >>> import torch
    >>> from tessera import nn
    >>> nn.Linear(3, 4)(torch.ones(2, 5, 3)).shape
    torch.Size([2, 5, 4])
    """

    weight: Tensor["out_features", "in_features"]
    bias: Tensor["out_features"] | None  # type: ignore[assignment]

    def forward(self, input: Tensor["...", "in_features"]) -> Tensor["...", "out_features"]:
        return F.linear(input, self.weight, self.bias)


class Embedding(torch.nn.Embedding, Module):
    """Rows of a table: integers ``[...]`` below ``num_embeddings`` to ``[..., embedding_dim]``.

    Arguments and parameter (``weight [num_embeddings, embedding_dim]``, normal with deviation 1) as
    ``torch.nn.Embedding``; the row of ``padding_idx`` begins as zero and gets no gradient. With ``max_norm``, which
    changes the table in every call, it runs eagerly.
    Raises BoundsError (an IndexError) for a number outside of the table.

    >>> import torch
    >>> from tessera import nn
    >>> nn.Embedding(10, 4)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 4])
    """

    weight: Tensor["num_embeddings", "embedding_dim"]

    def forward(self, input: Tensor["...", integer]) -> Tensor["...", "embedding_dim"]:
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )


__all__ = ["Embedding", "Linear"]
