"""Windows of buffers in C: where they begin, what of them lies inside, and copies between them and dense blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tessera.backends.c.source import Lines, c_index
from tessera.backends.eager.dtypes import to_torch_dtype
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.infer import ONE
from tessera.ir.types import BufferType
from tessera.ir.window import SINGLE, TAIL, Row
from tessera.schedule.plan import ZERO
from tessera.schedule.pull import dense_strides

HELPERS = """
/* A box of elements from one place to another; steps are in bytes. */
static void x_box(char *to, const i64 *ts, const char *from, const i64 *fs, const i64 *counts, i64 rank, i64 item) {
    i64 size = item, rows = 1;
    while (rank && ts[rank - 1] == size && fs[rank - 1] == size) size *= counts[--rank];
    for (i64 j = 0; j < rank; j++) rows *= counts[j] > 0 ? counts[j] : 0;
    if (size <= 0) return;
    for (i64 row = 0; row < rows; row++) {
        const char *x = from;
        char *y = to;
        for (i64 j = rank - 1, rest = row; j >= 0; rest /= counts[j], j--) {
            x += rest % counts[j] * fs[j];
            y += rest % counts[j] * ts[j];
        }
        if (size == 4) __builtin_memcpy(y, x, 4);
        else if (size == 2) __builtin_memcpy(y, x, 2);
        else __builtin_memcpy(y, x, size);
    }
}
/* So many elements with the same bits. */
static void x_fill(char *to, i64 count, i64 item, u64 bits) {
    if (!bits) __builtin_memset(to, 0, count * item);
    else for (i64 i = 0; i < count; i++) __builtin_memcpy(to + i * item, &bits, item);
}
""".lstrip()


@dataclass(frozen=True)
class Window:
    """A window whose bounds have been checked: C texts for the first element's place, in elements, and for whether all
    of it lies inside of the buffer; the buffer's strides, and for each dim of the block its extent and how much of it
    is inside.
    """

    offset: str
    inside: str
    strides: tuple[str, ...]
    extents: tuple[str, ...]
    counts: tuple[str, ...]
    dense: bool


def is_all(row: Row, dim: Dim) -> bool:
    """Is a row the whole dim of the buffer?"""
    return row.start is ZERO and row.extent is dim and row.end is dim


def is_dense(rows: Sequence[Row], dims: Sequence[Dim]) -> bool:
    """Do the elements of a window lie side by side, whatever the sizes?"""
    pairs = list(zip(rows, dims, strict=True))
    while pairs and (pairs[0][0].kind == SINGLE or pairs[0][0].extent is ONE):
        pairs.pop(0)
    return all(is_all(row, d) for row, d in pairs[1:])


def write_window(
    lines: Lines, rows: Sequence[Row], kind: BufferType, names: Mapping[str, str], stem: str
) -> tuple[Window, list[str]]:  # fmt: skip
    """Declare the bounds of a window; gives it, and the tests that are true where it must not be touched."""
    offset, inside, tests = ZERO, list[str](), list[str]()
    known, extents, counts, steps = dict(names), list[str](), list[str](), list[str]()
    for n, (row, d, stride) in enumerate(zip(rows, kind.dims, dense_strides(kind.dims), strict=True)):
        extent = count = c_index(row.extent, names)
        if not is_all(row, d):
            start, end, size = f"{stem}_{n}", f"{stem}_{n}e", f"{stem}_{n}n"
            known[start] = start
            offset = offset + Dim.name(start) * stride
            bound = c_index(d, names)
            stop = bound if row.end is d else f"x_min({c_index(row.end, names)}, {bound})"
            lines.add(f"const i64 {start} = {c_index(row.start, names)}, {size} = {extent}, {end} = {stop};")
            beyond = f"{start} > {end} - {size} && {size}"  # no index from memory makes this overflow
            if row.kind == TAIL:
                inside.append(f"{start} <= {end} - {size}")
                beyond = f"{start} >= x_max({end}, 1) && {beyond}"
            tests.append(f"{start} < 0 || ({beyond})")
            extent, count = size, f"x_min({size}, {end} - {start})" if row.kind == TAIL else size
        if row.kind != SINGLE:
            extents.append(extent)
            counts.append(count)
            steps.append(c_index(stride, names))
    text = c_index(offset, known)
    whole = " && ".join(inside)
    return Window(text, whole, tuple(steps), tuple(extents), tuple(counts), is_dense(rows, kind.dims)), tests


def write_copy(lines: Lines, w: Window, item: int, block: str, place: str, into_block: bool) -> None:
    """Copy what of a window lies inside, to a dense block or from it."""
    if not w.extents:
        to, source = (block, place) if into_block else (place, block)
        lines.add(f"__builtin_memcpy({to}, {source}, {item});")
        return
    dense: list[str] = []
    for n in range(len(w.extents)):
        dense.append(" * ".join([str(item), *(f"({e})" for e in w.extents[n + 1 :])]))
    lines.open()
    lines.add(f"const i64 x_b[] = {{{', '.join(dense)}}};")
    lines.add(f"const i64 x_s[] = {{{', '.join(f'{item} * ({s})' for s in w.strides)}}};")
    lines.add(f"const i64 x_n[] = {{{', '.join(w.counts)}}};")
    ends = (f"{block}, x_b, {place}, x_s") if into_block else (f"{place}, x_s, {block}, x_b")
    lines.add(f"x_box({ends}, x_n, {len(w.extents)}, {item});")
    lines.close()


def bits(x: object, dtype: DType) -> str:
    """A number as the bits of a dtype, as a C constant."""
    made = torch.tensor([0 if x is None else x], dtype=torch.float64 if dtype.is_float else torch.int64)
    raw = made.to(to_torch_dtype(dtype)).view(torch.uint8).numpy().tobytes()
    return f"{int.from_bytes(raw, 'little')}ull"
