"""Tessera: tensor code with named dimensions, proved before any data and compiled to few kernels."""

from tessera.driver import Function, function
from tessera.frontend.annotation import Tensor

__all__ = ["Function", "Tensor", "function"]
