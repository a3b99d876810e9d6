"""Tessera: tensor code with named dimensions, proved before any data and compiled to few kernels."""

import gc
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import enable_grad, inference_mode, no_grad

from tessera import functional as _of_records
from tessera.config import warn_of_unknown_variables
from tessera.diag import (
    BoundsError,
    CheckpointError,
    DTypeError,
    ModuleError,
    ParseError,
    RaceError,
    ResourceError,
    ShapeError,
    TesseraError,
    TesseraWarning,
    TraceError,
    VerifyError,
)
from tessera.driver import (
    CacheInfo,
    Comparison,
    Function,
    Kernel,
    Module,
    backend,
    backends,
    checkpoint,
    compare,
    function,
    fused,
    grad,
    kernel,
    manual_seed,
    module,
    parse,
    value_and_grad,
)
from tessera.frontend.annotation import Flat, Tensor, Tile, floating, integer
from tessera.frontend.kernel.table import Namespace as _Namespace
from tessera.frontend.kernel.table import tile as _kernel_operations
from tessera.functional import *  # noqa: F403 - one function for each op record
from tessera.functional import __all__ as _functions
from tessera.functional.checkpoint import checkpoint_region
from tessera.functional.scan import scan
from tessera.ir.dtype import (
    DType,
    bf16,
    bool_,
    f16,
    f32,
    f64,
    fp8,
    fp8_e4m3,
    fp8_e5m2,
    int8,
    int16,
    int32,
    int64,
    uint8,
)
from tessera.runtime.memory import memory_stats


def __getattr__(name: str) -> Any:
    """For type checkers, which do not see the functions that come from the table of records; Python adds what is
    close.
    """
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])


#: What kernels are written with; called, it repeats a tensor, as torch's function of that name.
tile: _Namespace = _kernel_operations.beside(_of_records.tile)

warn_of_unknown_variables()

if not gc.get_freeze_count():
    # What was imported lives on. Taken for young, it has Python look at every object of the process soon after, in the
    # middle of the first call: 0.15 s beside torch. This moves it to the old objects, where it stays collectable.
    gc.freeze()
    gc.unfreeze()

try:
    __version__ = version("tessera-dsl")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0"

__all__ = [
    "BoundsError", "CacheInfo", "CheckpointError", "Comparison", "DType", "DTypeError", "Flat", "Function", "Kernel",
    "Module", "ModuleError", "ParseError", "RaceError", "ResourceError", "ShapeError", "Tensor", "TesseraError",
    "TesseraWarning", "Tile", "TraceError", "VerifyError", "backend", "backends", "bf16", "bool_", "checkpoint",
    "checkpoint_region", "compare", "enable_grad", "f16", "f32", "f64", "floating", "fp8", "fp8_e4m3", "fp8_e5m2",
    "function", "fused", "grad", "inference_mode", "int16", "int32", "int64", "int8", "integer", "kernel",
    "manual_seed", "memory_stats", "module", "no_grad", "parse", "scan", "uint8", "value_and_grad", *_functions,
]  # fmt: skip
