"""A progress bar on standard error: shown on a terminal, or as `TESSERA_PROGRESS` says."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tessera import config

_WIDTH = 24


def shown() -> bool:
    """Whether bars are drawn in this process.

    >>> with config.override(progress="off"):
    ...     shown()
    False
    """
    return config.progress_wanted(sys.stderr)


def bar(done: int, total: int, width: int = _WIDTH) -> str:
    """The bar itself; full when there is nothing to do.

    >>> bar(1, 4, width=8)
    '██······'
    """
    filled = width if total <= 0 else min(width, done * width // total)
    return "█" * filled + "·" * (width - filled)


class Progress:
    """Counts steps on one line of standard error, which it removes at the end.

    >>> with config.override(progress="off"), Progress("rounds", 3) as progress:
    ...     progress.step("first")
    """

    def __init__(self, label: str, total: int) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self._shown = shown()
        self._started = time.monotonic()
        self._drawn = 0.0
        self._width = 0

    def __enter__(self) -> Progress:
        return self

    def step(self, what: str = "", count: int = 1) -> None:
        """Count finished steps; `what` names the one that comes next."""
        self.done += count
        now = time.monotonic()
        if self._shown and (now - self._drawn > 0.1 or self.done >= self.total):
            self._drawn = now
            self._draw(
                f"{self.label} {bar(self.done, self.total)} {self.done}/{self.total} {now - self._started:.0f} s {what}"
            )

    def _draw(self, line: str) -> None:
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = len(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
