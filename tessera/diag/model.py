"""What a diagnostic is made of: a message with its code, labelled places, notes and helps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tessera.diag.span import Span

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Label:
    """A fact, in lower case, about a place in the user's source."""

    span: Span
    text: str
    primary: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """A further fact, where it helps with the place it comes from."""

    text: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Help:
    """Advice; with a span and a replacement it is a mechanical fix."""

    text: str
    span: Span | None = None
    replacement: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding.

    `labels` may mark one of them primary; otherwise the first one is.

    >>> Diagnostic("TSR0201", "dimension `D` meets `K` in a contraction").primary is None
    True
    """

    code: str
    message: str
    labels: tuple[Label, ...] = ()
    notes: tuple[Note, ...] = ()
    helps: tuple[Help, ...] = ()
    severity: Severity = "error"

    @property
    def primary(self) -> Label | None:
        """The label that says where the fault is."""
        return next((label for label in self.labels if label.primary), next(iter(self.labels), None))


def as_notes(items: Iterable[str | Note]) -> tuple[Note, ...]:
    """Plain strings become notes without a place."""
    return tuple(item if isinstance(item, Note) else Note(item) for item in items)


def as_helps(items: Iterable[str | Help]) -> tuple[Help, ...]:
    """Plain strings become helps without a place."""
    return tuple(item if isinstance(item, Help) else Help(item) for item in items)
