"""The data behind traced objects, without their behaviour: what the session reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tessera.diag import Diagnostic, Help, Label, Span
from tessera.ir.dim import Dim
from tessera.ir.graph import Operation, Value
from tessera.ir.types import TensorType, Type

if TYPE_CHECKING:
    from tessera.frontend.session import Session


class Step:
    """The step of a scan while it is traced: the operations that it is made of so far, and whether it goes on."""

    __slots__ = ("open", "ops")

    def __init__(self) -> None:
        self.ops: list[Operation] = []
        self.open = True


class Storage:
    """Memory that several traced tensors may share: the newest value of the whole, and how often it was
    written.

    ``frozen`` says whose memory it is when the function may not write to it: the name of an argument, or a
    captured tensor. ``step`` is the step of a scan that it belongs to.
    """

    __slots__ = ("frozen", "step", "value", "version")

    def __init__(self, value: Value, frozen: str = "", step: Step | None = None) -> None:
        self.value = value
        self.version = 0
        self.frozen = frozen
        self.step = step


@dataclass(frozen=True, slots=True)
class Dropped:
    """That a reduction removed axes: enough to try what ``keepdim=True`` would have given."""

    axes: tuple[int, ...]
    name: str
    span: object


class TensorHandle:
    """One traced tensor or dynamic scalar.

    ``steps`` are the operations that lead from the storage's value to this one (none: it is the whole
    storage); ``version`` is the storage's version that ``_value`` was read at. ``dense`` says that the user asked for
    a row-major block. ``step`` is the step of a scan that it was made in.
    """

    __slots__ = ("__weakref__", "_dense", "_dropped", "_session", "_step", "_steps", "_storage", "_value", "_version")

    _session: Session
    _value: Value
    _storage: Storage | None
    _steps: tuple[Operation, ...]
    _version: int
    _dropped: Dropped | None
    _dense: bool
    _step: Step | None

    def __init__(self, session: Session, value: Value) -> None:
        self._session = session
        self._value = value
        self._storage = None
        self._steps = ()
        self._version = 0
        self._dropped = None
        self._dense = False
        self._step = session.step

    @property
    def _type(self) -> Type:
        """The type never changes: an update in place keeps sizes and dtype."""
        return self._value.type


class SizeHandle:
    """One traced size."""

    __slots__ = ("_dim", "_session")

    def __init__(self, session: Session, dim: Dim) -> None:
        self._session = session
        self._dim = dim


class PoisonHandle:
    """What an operation gives after an error in it or before it: everything done with it is silent."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session


#: Given as ``self`` where no object is known: whatever is read from it is unknown, too.
UNKNOWN: Final = object()


@dataclass(frozen=True, slots=True)
class ObjectOf:
    """Given as ``self`` where only the class is known: its methods run, what an object holds is unknown."""

    cls: type


class Stopped(BaseException):
    """Ends a trace early; what was found is on the session.

    Not an Exception, so that a handler in the traced function does not take it for an error of its own.
    """


class Deferred(Stopped):
    """Raised where Python needs the value of a size that is not known before the first call."""

    def __init__(self, what: str, span: object) -> None:
        super().__init__(what)
        self.what, self.span = what, span


def tensor_type(handle: Any) -> TensorType | None:
    """The type of a traced tensor; None for everything else, dynamic scalars included."""
    if isinstance(handle, TensorHandle) and isinstance(handle._value.type, TensorType):
        return handle._value.type
    return None


def leaked(handle: TensorHandle, span: Span | None) -> Diagnostic:
    """TSR0411: a value of the step of a scan is used where there is no step."""
    name = handle._value.name
    labels = () if span is None else (Label(span, f"`{name}` is made anew in every step", True),)
    helps = (Help("return it from the step: what stands beside the carry is stacked"),)
    return Diagnostic("TSR0411", f"`{name}` of a scan's step is used outside of the step", labels, (), helps)
