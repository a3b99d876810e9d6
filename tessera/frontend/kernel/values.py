"""What names stand for while a kernel is read: blocks on the chip, views of memory, the context, what has no value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tessera.frontend.handles import TensorHandle
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Value
from tessera.ir.types import BufferType
from tessera.ir.window import SINGLE, Row

if TYPE_CHECKING:
    from tessera.frontend.kernel.session import KernelSession


class OnChip(TensorHandle):
    """A block, or a scalar that is known while the kernel runs. ``named`` ones are aligned by the names of their dims;
    ``mutable`` ones may be written to, which gives the names that stand for them another value.
    """

    __slots__ = ("mutable", "named")

    def __init__(self, session: KernelSession, value: Value, named: bool = False, mutable: bool = False) -> None:
        super().__init__(session, value)
        self.named = named
        self.mutable = mutable

    @property
    def dims(self) -> tuple[Dim, ...]:
        return self._value.type.dims

    @property
    def dtype(self) -> DType:
        return self._value.type.dtype


@dataclass(frozen=True, eq=False)
class View:
    """A part of a buffer; nothing is moved. ``name`` is how messages call it."""

    buffer: Value
    rows: tuple[Row, ...]
    name: str

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers of the rows that are dims of the view."""
        return tuple(n for n, r in enumerate(self.rows) if r.kind != SINGLE)

    @property
    def dims(self) -> tuple[Dim, ...]:
        return tuple(self.rows[n].extent for n in self.kept)

    @property
    def dtype(self) -> DType:
        return self.buffer.type.dtype

    @property
    def is_shared(self) -> bool:
        kind = self.buffer.type
        return isinstance(kind, BufferType) and kind.role == "local"


@dataclass(frozen=True)
class Method:
    """A method of a block, before it is called."""

    owner: Any
    name: str


@dataclass(frozen=True)
class Context:
    """What ``tile.context()`` gives."""

    session: KernelSession


@dataclass(frozen=True)
class Iteration:
    """What ``tile.grid`` and its like give: a loop that the program keeps."""

    lo: Dim
    hi: Dim
    step: Dim
    parallel: bool


@dataclass(frozen=True)
class Unbound:
    """A name that has no value here, and why."""

    why: str


class _Missing:
    """No value at all."""


MISSING: Final = _Missing()


@dataclass(frozen=True)
class Target:
    """A block that an operation gives another value, or the part ``key`` of it."""

    owner: OnChip
    key: Any = None
