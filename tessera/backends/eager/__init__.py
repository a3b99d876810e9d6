"""The eager backend: operations one by one through torch. The fallback, and what fused code is compared with."""

from tessera.backends.eager.dtypes import from_torch_dtype, to_torch_dtype
from tessera.backends.eager.function import run_function
from tessera.backends.eager.names import inplace_names, resolve, torch_names
from tessera.backends.eager.run import TorchNamespace, run

__all__ = [
    "TorchNamespace",
    "from_torch_dtype",
    "inplace_names",
    "resolve",
    "run",
    "run_function",
    "to_torch_dtype",
    "torch_names",
]
