"""What a run leaves behind: a log of JSON lines, and a plot of its losses."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TextIO

from examples.char_lm.checkpoint import put
from examples.char_lm.train import Record


def records(path: Path, last: int | None = None) -> list[Record]:
    """The records of a log, up to a step; a line that was not written to its end is left out."""
    found: list[Record] = []
    if not path.exists():
        return found
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if last is not None and record["step"] > last:
            break
        found.append(record)
    return found


class Log:
    """A file of one JSON object a step. What it holds beyond step ``done``, from where a run goes on, is dropped."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        self.records = records(path, done) if done else []
        put(path, "".join(map(_line, self.records)).encode())
        self._stream: TextIO = path.open("a", encoding="utf-8")

    def add(self, record: Record) -> None:
        """Write a record at once."""
        self.records.append(record)
        self._stream.write(_line(record))
        self._stream.flush()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"


def plot(found: list[Record], path: Path) -> None:
    """The losses over the steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([r["step"] for r in found], [r["loss"] for r in found], label="training", linewidth=1)
    held = [r for r in found if "held_out" in r]
    axes.plot([r["step"] for r in held], [r["held_out"] for r in held], "o-", label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a character")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
