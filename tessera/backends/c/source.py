"""Writing C: index expressions, names that never come from the user, indentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tessera.ir.dim import Dim
from tessera.schedule.render import render_index

#: C spellings of the atoms of a dimension expression; all on 64-bit integers, divisors positive.
_ATOMS = {"//": "x_fdiv", "%": "x_fmod", "ceildiv": "x_cdiv", "min": "x_min", "max": "x_max"}

HELPERS = """
static inline i64 x_fdiv(i64 a, i64 b) { i64 q = a / b; return q - (a % b < 0); }
static inline i64 x_fmod(i64 a, i64 b) { i64 r = a % b; return r < 0 ? r + b : r; }
static inline i64 x_cdiv(i64 a, i64 b) { return -x_fdiv(-a, b); }
static inline i64 x_min(i64 a, i64 b) { return a < b ? a : b; }
static inline i64 x_max(i64 a, i64 b) { return a > b ? a : b; }
/* The piece that element i is in; pieces begin where cuts says. */
static inline i64 x_piece(const i64 *cuts, i64 pieces, i64 i) {
    i64 low = 0, high = pieces;
    while (high - low > 1) {
        i64 middle = (low + high) / 2;
        if (cuts[middle] <= i) low = middle; else high = middle;
    }
    return low;
}
#ifdef _OPENMP
extern int omp_get_num_threads(void), omp_get_thread_num(void), omp_get_max_threads(void);
#else
static inline int omp_get_num_threads(void) { return 1; }
static inline int omp_get_thread_num(void) { return 0; }
static inline int omp_get_max_threads(void) { return 1; }
#endif
""".lstrip()


@dataclass
class Lines:
    """Source text under construction."""

    depth: int = 0
    text: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """One line at the current depth."""
        self.text.append("    " * self.depth + line)

    def open(self, line: str = "") -> None:
        """A line that opens a brace."""
        self.add(f"{line} {{" if line else "{")
        self.depth += 1

    def close(self) -> None:
        """The brace that closes the last open one."""
        self.depth -= 1
        self.add("}")

    def __str__(self) -> str:
        return "\n".join(self.text)


def c_index(e: Dim, names: Mapping[str, str]) -> str:
    """A Dim as a C expression on i64; ``names`` maps every name in it to a C identifier or expression."""
    return render_index(e, names.__getitem__, _ATOMS)
