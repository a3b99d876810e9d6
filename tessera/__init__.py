"""Tessera: tensor code with named dimensions, proved before any data and compiled to few kernels."""

from tessera.diag import DTypeError, ResourceError, ShapeError, TesseraError, TraceError
from tessera.driver import Function, compare, function
from tessera.frontend.annotation import Tensor

__all__ = ["DTypeError", "Function", "ResourceError", "ShapeError", "Tensor", "TesseraError", "TraceError", "compare", "function"]
