"""Finds accesses outside of buffers, and results that depend on the order of programs, while a kernel is
interpreted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton.runtime.interpreter as interpreter

NOBODY, SEVERAL = 0, -1


@dataclass
class Watched:
    """One buffer: the bytes it covers, and by element which program wrote and which read it (as program +
    1).
    """

    name: str
    start: int
    stop: int
    width: int
    writer: np.ndarray = field(init=False)
    reader: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        count = (self.stop - self.start) // self.width
        self.writer = np.zeros(count, np.int64)
        self.reader = np.zeros(count, np.int64)


@dataclass
class Watch:
    """Collects complaints about one launch; each kind is reported once a buffer."""

    buffers: list[Watched]
    complaints: dict[str, None] = field(default_factory=dict)

    def access(self, kind: str, program: int, addresses: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
        """The mask without what lies outside of every buffer, so that a faulty kernel harms nothing else."""
        where, alive = np.broadcast_arrays(addresses.astype(np.int64), mask.astype(bool))
        known = np.zeros(where.shape, bool)
        for b in self.buffers:
            here = alive & (where >= b.start) & (where + width <= b.stop)
            if here.any():
                self.element(b, kind, program, np.unique((where[here] - b.start) // b.width))
                known |= here
        lost = int((alive & ~known).sum())
        if lost:
            self.complaints[f"{kind} outside of every buffer in program {program}: {lost} addresses"] = None
        return known

    def element(self, b: Watched, kind: str, program: int, at: np.ndarray) -> None:
        me = program + 1
        writer, reader = b.writer[at], b.reader[at]
        if kind == "load":
            if ((writer != NOBODY) & (writer != me)).any():
                self.complaints[f"{b.name}: read by one program after another wrote it"] = None
            b.reader[at] = np.where((reader == NOBODY) | (reader == me), me, SEVERAL)
            return
        if ((writer != NOBODY) & (writer != me)).any():
            self.complaints[f"{b.name}: written by two programs"] = None
        if ((reader != NOBODY) & (reader != me)).any():
            self.complaints[f"{b.name}: written by one program after another read it"] = None
        b.writer[at] = me


@contextmanager
def watching(buffers: Mapping[str, Any]) -> Iterator[Watch]:
    """Watch one launch. ``buffers`` are torch tensors; a strided one covers the memory between its first and
    last element.
    """
    watched = []
    for name, t in buffers.items():
        if t.numel():
            last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
            start = t.data_ptr()
            watched.append(Watched(name, start, start + (last + 1) * t.element_size(), t.element_size()))
    watch = Watch(watched)
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def checked(self: Any, kind: str, pointers: Any, mask: Any) -> Any:
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        inside = watch.access(kind, int(self.grid_idx[0]), pointers.data, mask.data, width)
        return interpreter.TensorHandle(inside, mask.dtype)

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        return load(self, pointers, checked(self, "load", pointers, mask), *rest, **named)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        return store(self, pointers, value, checked(self, "store", pointers, mask), *rest, **named)

    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    try:
        yield watch
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
