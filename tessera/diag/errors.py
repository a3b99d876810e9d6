"""The exceptions of Tessera: each carries diagnostics and prints them with carets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

from tessera.diag.model import Diagnostic, Help, Label, Note, Severity, as_helps, as_notes
from tessera.diag.render import render
from tessera.diag.span import Span

_E = TypeVar("_E", bound="TesseraError")


class TesseraError(Exception):
    """Base of every error Tessera raises on purpose; `str()` of it is the rendered text.

    The base class has no code of its own, so one must be given.

    >>> error = ShapeError("dimension `D` meets `K` in a contraction", code="TSR0201")
    >>> error.code, error.spans
    ('TSR0201', ())
    >>> print(error)
    error[TSR0201]: dimension `D` meets `K` in a contraction
    """

    __module__ = "tessera.diag"
    default_code: ClassVar[str] = ""
    severity: ClassVar[Severity] = "error"

    diagnostics: tuple[Diagnostic, ...]

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        labels: Sequence[Label] = (),
        notes: Sequence[str | Note] = (),
        helps: Sequence[str | Help] = (),
    ) -> None:
        code = code or self.default_code
        if not code:
            raise TypeError(f"{type(self).__name__} needs a code")
        super().__init__(message)
        places = (tuple(labels), as_notes(notes), as_helps(helps))
        self.diagnostics = (Diagnostic(code, message, *places, self.severity),)

    @classmethod
    def from_diagnostics(cls: type[_E], diagnostics: Iterable[Diagnostic]) -> _E:
        """One error for several findings, in the given order; raises ValueError when there are none.

        All take the severity of the class: what an error found may be given as a warning.
        """
        found = tuple(d if d.severity == cls.severity else replace(d, severity=cls.severity) for d in diagnostics)
        if not found:
            raise ValueError("an error needs at least one diagnostic")
        return _rebuild(cls, found)

    @property
    def code(self) -> str:
        """The code of the first finding."""
        return self.diagnostics[0].code

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of all findings, in order."""
        return tuple(diagnostic.code for diagnostic in self.diagnostics)

    @property
    def message(self) -> str:
        """The message of the first finding, without places."""
        return self.diagnostics[0].message

    @property
    def spans(self) -> tuple[Span, ...]:
        """The primary place of each finding that has one, in order."""
        return tuple(d.primary.span for d in self.diagnostics if d.primary is not None)

    def render(self, color: bool = False, width: int = 100) -> str:
        """The text with source lines and carets, for a terminal of the given width in columns."""
        return render(self.diagnostics, color=color, width=width)

    def __str__(self) -> str:
        return self.render()

    def __reduce__(self) -> tuple[object, ...]:
        state = {name: value for name, value in self.__dict__.items() if name != "diagnostics"}
        return (_rebuild, (type(self), self.diagnostics), state)


def _rebuild(cls: type[_E], diagnostics: tuple[Diagnostic, ...]) -> _E:
    error = cls.__new__(cls, diagnostics[0].message)
    error.diagnostics = diagnostics
    return error


class ShapeError(TesseraError, ValueError):
    """Sizes or ranks that cannot fit."""

    __module__ = "tessera.diag"
    default_code = "TSR0105"


class DTypeError(TesseraError, TypeError):
    """Element types that an operation or an annotation does not allow."""

    __module__ = "tessera.diag"
    default_code = "TSR0301"


class CallError(TesseraError, TypeError):
    """A call whose arguments the function's signature does not take: too many, too few, or unknown names."""

    __module__ = "tessera.diag"
    default_code = "TSR0111"


class ModuleError(TesseraError, TypeError):
    """A class that cannot be a module, or an attribute that a module cannot have."""

    __module__ = "tessera.diag"
    default_code = "TSR0113"


class TraceError(TesseraError, RuntimeError):
    """Python code that cannot be captured as a graph."""

    __module__ = "tessera.diag"
    default_code = "TSR0404"


class ResourceError(TesseraError, RuntimeError):
    """Something outside the program is missing, refused or too large."""

    __module__ = "tessera.diag"
    default_code = "TSR0607"


class ConfigError(ResourceError, ValueError):
    """An option or environment variable has a value that is not allowed."""

    __module__ = "tessera.diag"
    default_code = "TSR0609"


class CacheError(ResourceError):
    """The artifact cache cannot be used as it is."""

    __module__ = "tessera.diag"
    default_code = "TSR0606"


class CheckpointError(TesseraError, RuntimeError):
    """A checkpoint whose tensors or names are not those of the module that loads it."""

    __module__ = "tessera.diag"
    default_code = "TSR0611"


class ParseError(TesseraError, ValueError):
    """IR text that does not parse."""

    __module__ = "tessera.diag"
    default_code = "TSR0501"


class VerifyError(TesseraError, RuntimeError):
    """IR that breaks a rule of its dialect."""

    __module__ = "tessera.diag"
    default_code = "TSR0504"


class BoundsError(TesseraError, IndexError):
    """An index outside its dimension, found while running."""

    __module__ = "tessera.diag"
    default_code = "TSR0605"


class RaceError(TesseraError, RuntimeError):
    """A kernel whose result would depend on the order of its iterations, found by the interpreter."""

    __module__ = "tessera.diag"
    default_code = "TSR0610"


class TesseraWarning(TesseraError, UserWarning):
    """What Tessera reports without stopping: a fallback to eager, an unsafe cache folder.

    Give it to `warnings.warn` as it is, so that its code stays with it:
    `warnings.warn(TesseraWarning("…", code="TSR0606"), stacklevel=2)`.
    """

    __module__ = "tessera.diag"
    default_code = "TSR0406"
    severity = "warning"
