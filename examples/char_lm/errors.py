"""What can go wrong in a run: each error is one line that says what is, and where."""

from __future__ import annotations


class TrainingError(Exception):
    """Base of the errors of a run; ``status`` is what the program ends with."""

    status = 1


class BadOption(TrainingError, ValueError):
    """Options that are unknown, malformed, out of range, or do not go together; all of them at once."""

    status = 2


class NoCorpus(TrainingError, OSError):
    """A text that is missing, unreadable or too short."""


class BrokenCheckpoint(TrainingError, ValueError):
    """A checkpoint that is missing, truncated, changed, or of another format."""


class ConfigMismatch(TrainingError, ValueError):
    """A run that is not the one of the checkpoint; all differing fields at once."""


class NotSaved(TrainingError, OSError):
    """A checkpoint that could not be written; the one before is still there."""


class NotFinite(TrainingError, ArithmeticError):
    """A loss or a gradient that is infinite or no number."""
