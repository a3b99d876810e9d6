"""Diagnostics as text for people."""

from __future__ import annotations

from collections.abc import Iterable

from tessera.diag.model import Diagnostic


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False, width: int = 100) -> str:
    """The findings as text, one block each."""
    return "\n\n".join(_block(diagnostic) for diagnostic in diagnostics)


def _block(diagnostic: Diagnostic) -> str:
    lines = [f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"]
    lines += [f"  --> {label.span}: {label.text}" for label in diagnostic.labels]
    lines += [f"note: {note.text}" for note in diagnostic.notes]
    lines += [f"help: {item.text}" for item in diagnostic.helps]
    return "\n".join(lines)
