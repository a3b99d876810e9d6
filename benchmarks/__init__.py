"""Measurements of Tessera beside eager torch, `torch.compile` and JAX: `python -m benchmarks --help`."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for, print tables, write JSON; 1 is returned when nothing could run."""
    # A section's process imports this package too, and must not load more than it measures.
    from benchmarks.app import main as run

    return run(arguments)
