"""What the tracer needs to know about the framework whose functions it meets; it imports none itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tessera.ir.dtype import DType
from tessera.ir.record import OpRecord
from tessera.ir.types import TensorType

Handler = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]


class TorchTable(Protocol):
    """The framework as the tracer sees it."""

    @property
    def records(self) -> Mapping[str, OpRecord]:
        """Every op record by name."""

    @property
    def size_class(self) -> type:
        """The class that a traced size claims to be, so that the framework's argument parser lets it
        through.
        """

    @property
    def tensor_class(self) -> type:
        """The framework's class of tensors, which traced ones pass for where Python code asks."""

    def meaning(self, function: object) -> tuple[OpRecord | None, str]:
        """The record of a framework function or method (None when there is none) and its last name, such as
        ``add_``.

        A trailing underscore means that the first argument is updated; the record is that of the plain
        operation.
        """

    def by_method(self, name: str) -> OpRecord | None:
        """The record that offers a tensor method of this name."""

    def name_of(self, function: object) -> str:
        """A readable dotted name of a framework function: ``torch.fft.fft``."""

    def method(self, name: str) -> Callable[..., Any] | None:
        """The framework's own tensor method of that name, unbound; None when it has none."""

    def is_tensor(self, x: object) -> bool:
        """Whether ``x`` is a tensor with data (or a fake one)."""

    def tensor_type(self, x: object) -> TensorType:
        """dtype and sizes, as constants, of such a tensor. Raises DTypeError for a dtype without a
        counterpart.
        """

    def to_dtype(self, x: object) -> DType | None:
        """The DType of a framework or NumPy dtype; None for anything else."""

    def from_dtype(self, dtype: DType) -> object:
        """The framework's object for a DType."""

    def is_setting(self, x: object) -> bool:
        """Whether ``x`` is a device, layout, memory format or generator: no part of the mathematics."""

    def run_extern(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What a framework function would return: a ``TensorType`` with constant sizes for each tensor,
        nested as it is.

        A ``TensorType`` among the arguments stands for a tensor. Nothing is computed. Raises what the
        function raises.
        """

    @property
    def records_gradients(self) -> bool:
        """Whether gradients are recorded for what this thread computes now."""

    def autocast(self, record: OpRecord, device: object) -> DType | None:
        """The dtype that the float arguments of an operation are to be cast to now, where there is one."""

    @property
    def default_device(self) -> object:
        """The device of traced tensors where nothing says another."""

    def setting(self, name: str) -> object:
        """A named setting of the framework, such as the layout ``strided``."""

    def intercept(self, handler: Handler) -> AbstractContextManager[None]:
        """Send every framework call made by this thread to ``handler(function, args, kwargs)``; gradients are
        recorded until the code says otherwise.
        """

    def untouched(self) -> AbstractContextManager[None]:
        """Let framework calls of this thread run as usual inside an ``intercept``."""
