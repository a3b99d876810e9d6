"""torch as the tracer sees it: which record each torch callable means, dtypes, placeholders, interception."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from tessera.backends.eager.autocast import wanted_dtype
from tessera.backends.eager.names import resolve
from tessera.diag import DTypeError
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DTYPES, DType, bool_, int64
from tessera.ir.record import OpRecord
from tessera.ir.types import TensorType

_TORCH_NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
}  # fmt: skip
#: Function names with a leading underscore that reach the interceptor instead of the public one.
_SETTINGS = (torch.device, torch.layout, torch.memory_format, torch.Generator, torch.qscheme)
_DTYPES: Mapping[torch.dtype, DType] = {
    found: t for name, t in DTYPES.items()
    if isinstance(found := getattr(torch, _TORCH_NAMES.get(name, name), None), torch.dtype)
}  # fmt: skip
_TO_TORCH: Mapping[DType, torch.dtype] = {t: found for found, t in _DTYPES.items()}


class _Intercept(TorchFunctionMode):
    """Hands every torch call of the thread to a function."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        super().__init__()
        self.handler = handler

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.handler(func, args, kwargs or {})


class TorchTable:
    """torch's callables, dtypes and tensors in the terms of the op records.

    >>> table = TorchTable()
    >>> table.meaning(torch.exp)[0].name, table.meaning(torch.Tensor.add_)[1]
    ('exp', 'add_')
    """

    def __init__(self, records: Mapping[str, OpRecord] = OPS) -> None:
        self.records = records

    @property
    def size_class(self) -> type:
        return torch.SymInt

    @property
    def tensor_class(self) -> type:
        return torch.Tensor

    @cached_property
    def _meanings(self) -> dict[object, tuple[OpRecord | None, str]]:
        found: dict[object, tuple[OpRecord | None, str]] = {}
        for record in self.records.values():
            for name in record.torch:
                function = resolve(name)
                if function is not None:
                    found.setdefault(function, (record, name.rpartition(".")[2]))
        for name, record in self._methods.items():
            function = getattr(torch.Tensor, name, None)
            if function is not None:
                found.setdefault(function, (record, name))
        self._add_updates(found)
        return found

    def _add_updates(self, found: dict[object, tuple[OpRecord | None, str]]) -> None:
        """``add_`` and ``__iadd__`` mean what ``add`` means, on memory."""
        plain = {name: record for record, name in found.values()}
        for where in (torch.Tensor, torch, torch.nn.functional):
            for name in dir(where):
                base = name[:-1] if name.endswith("_") and not name.endswith("__") else ""
                base = f"__{name[3:]}" if name.startswith("__i") and name.endswith("__") else base
                record = plain.get(base) or self._methods.get(base)
                if record is not None:
                    found.setdefault(getattr(where, name), (record, name))

    @cached_property
    def _methods(self) -> dict[str, OpRecord]:
        return {name: record for record in self.records.values() for name in record.methods}

    def meaning(self, function: object) -> tuple[OpRecord | None, str]:
        try:
            known = self._meanings.get(function)
        except TypeError:
            known = None
        return known or (None, getattr(function, "__name__", type(function).__name__))

    def by_method(self, name: str) -> OpRecord | None:
        return self._methods.get(name)

    @cached_property
    def _tensor_functions(self) -> frozenset[object]:
        """What torch lets others override: functions of tensors, none that touch files or run code."""
        return frozenset(f for every in torch.overrides.get_overridable_functions().values() for f in every)

    @cached_property
    def _names(self) -> dict[object, str]:
        found: dict[object, str] = {}
        for where, module in _modules():
            for name in dir(module):
                value = getattr(module, name, None)
                if callable(value) and not name.startswith("_"):
                    try:
                        found.setdefault(value, f"{where}.{name}")
                    except TypeError:
                        continue
        return found

    def name_of(self, function: object) -> str:
        if function not in self._tensor_functions:
            raise TypeError(f"`{getattr(function, '__name__', function)}` is no tensor function")
        found = self._names.get(function)
        if found is None:
            found = f"torch.Tensor.{getattr(function, '__name__', 'call')}"
            if resolve(found) is not function:
                raise TypeError(f"`{getattr(function, '__name__', function)}` has no public torch name")
        return found

    def method(self, name: str) -> Callable[..., Any] | None:
        found = getattr(torch.Tensor, name, None)
        return found if callable(found) else None

    def is_tensor(self, x: object) -> bool:
        return isinstance(x, torch.Tensor)

    def tensor_type(self, x: Any) -> TensorType:
        found = _DTYPES.get(x.dtype)
        if found is None:
            helps = [f"cast it first; known: {', '.join(t.name for t in _DTYPES.values())}"]
            raise DTypeError(f"a tensor of dtype `{x.dtype}`", code="TSR0301", helps=helps)
        return TensorType(found, tuple(Dim.const(int(n)) for n in x.shape))

    def to_dtype(self, x: object) -> DType | None:
        if isinstance(x, torch.dtype):
            found = _DTYPES.get(x)
            if found is None:
                raise DTypeError(f"dtype `{x}` is not supported", code="TSR0301")
            return found
        if x is bool or x is int or x is float:
            return {bool: bool_, int: int64, float: _DTYPES[torch.get_default_dtype()]}[x]
        if isinstance(x, DType):
            return x
        if isinstance(x, np.dtype) or (isinstance(x, type) and issubclass(x, np.generic)):
            return _DTYPES.get(torch.from_numpy(np.zeros(0, x)).dtype)
        return None

    def from_dtype(self, dtype: DType) -> object:
        return _TO_TORCH.get(dtype, dtype)

    def is_setting(self, x: object) -> bool:
        return isinstance(x, _SETTINGS)

    @property
    def records_gradients(self) -> bool:
        return torch.is_grad_enabled()

    def autocast(self, record: OpRecord, device: object) -> DType | None:
        return wanted_dtype(record, getattr(device, "type", "cpu"))

    @property
    def default_device(self) -> torch.device:
        return torch.device("cpu")

    def setting(self, name: str) -> object:
        return getattr(torch, name)

    def run_extern(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        with torch.no_grad(), torch.device("meta"):
            return _described(function(*map(_placeholder, args), **{k: _placeholder(v) for k, v in kwargs.items()}))

    @contextmanager
    def intercept(self, handler: Callable[..., Any]) -> Iterator[None]:
        # One trace serves calls with and without gradients, so the mode of the first call says nothing.
        with torch.enable_grad(), _Intercept(handler):
            yield

    @contextmanager
    def untouched(self) -> Iterator[None]:
        with torch._C.DisableTorchFunction():
            yield


def _modules() -> list[tuple[str, Any]]:
    inner = ("fft", "linalg", "special", "nn.functional")
    return [
        ("torch", torch),
        *((f"torch.{name}", resolve(f"torch.{name}")) for name in inner),
        ("torch.Tensor", torch.Tensor),
    ]


def _placeholder(x: Any) -> Any:
    if isinstance(x, TensorType):
        return torch.empty([d.value for d in x.dims], dtype=_TO_TORCH[x.dtype], device="meta")
    if isinstance(x, DType):
        return _TO_TORCH[x]
    return type(x)(map(_placeholder, x)) if isinstance(x, tuple | list) else x


def _described(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        if x.dtype not in _DTYPES:
            raise TypeError(f"the result is {x.dtype}")
        return TensorType(_DTYPES[x.dtype], tuple(Dim.const(n) for n in x.shape))
    if isinstance(x, tuple | list):
        return tuple(map(_described, x))
    return x


__all__ = ["TorchTable", "resolve", "types"]
