"""What a compiled library has beside its kernels: one call for many of them, matrix products, a copy, rows added up.

The product is that of the BLAS that torch carries, reached by its address: it writes into memory that is there already
and needs no tensors, so it can stand in a row with kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import lru_cache

from tessera.backends.c import openmp
from tessera.backends.c.intrinsics import VISIBLE, storage

#: The entries.
RUN, PRODUCT, COPY = "tessera_run", "tessera_product", "tessera_copy"
#: The dtypes of which a library can have an entry that adds rows to rows.
ADDED = ("f32", "f64", "bf16", "f16", "int64", "int32")

TEXT = f"""
/* Rows one after the other. The table begins with their number; a row has an entry, the number of its arguments, and
   for each of those the number of a base and what is added to it. Gives the code of the first row that fails behind the
   number of that row, or 0. */
{VISIBLE} i64 {RUN}(const i64 *table, const i64 *bases) {{
    const i64 count = *table++;
    for (i64 row = 0; row < count; row++) {{
        int (*const entry)(const i64 *) = (int (*)(const i64 *))table[0];
        const i64 n = table[1];
        i64 args[n];
        table += 2;
        for (i64 j = 0; j < n; j++, table += 2) args[j] = bases[table[0]] + table[1];
        const int code = entry(args);
        if (code) return row << 8 | code;
    }}
    return 0;
}}

static void x_product_f32(const i64 *args, const i64 *apart) {{
    const int m = (int)args[7], n = (int)args[8], k = (int)args[9];
    const int la = (int)args[10], lb = (int)args[11], lc = (int)args[12];
    const float one = 1, zero = 0;
    ((void (*)(const char *, const char *, const int *, const int *, const int *, const float *, const void *,
               const int *, const void *, const int *, const float *, void *, const int *))args[3])(
        args[5] ? "T" : "N", args[6] ? "T" : "N", &m, &n, &k, &one, (char *)args[0] + apart[0], &la,
        (char *)args[1] + apart[1], &lb, &zero, (char *)args[2] + apart[2], &lc);
}}

static void x_product_f64(const i64 *args, const i64 *apart) {{
    const int m = (int)args[7], n = (int)args[8], k = (int)args[9];
    const int la = (int)args[10], lb = (int)args[11], lc = (int)args[12];
    const double one = 1, zero = 0;
    ((void (*)(const char *, const char *, const int *, const int *, const int *, const double *, const void *,
               const int *, const void *, const int *, const double *, void *, const int *))args[3])(
        args[5] ? "T" : "N", args[6] ? "T" : "N", &m, &n, &k, &one, (char *)args[0] + apart[0], &la,
        (char *)args[1] + apart[1], &lb, &zero, (char *)args[2] + apart[2], &lc);
}}

static void x_product_at(const i64 *args, i64 at) {{
    const i64 rank = args[13], *const axes = args + 14;
    i64 apart[3] = {{0, 0, 0}};
    for (i64 j = rank - 1; j >= 0; at /= axes[4 * j], j--)
        for (i64 x = 0; x < 3; x++) apart[x] += at % axes[4 * j] * axes[4 * j + 1 + x];
    if (args[4]) x_product_f64(args, apart); else x_product_f32(args, apart);
}}

/* A batch of products of column-major matrices. The arguments: three addresses, the BLAS function, whether it takes
   f64, whether each operand is transposed, m, n and k, three leading sizes, the number of axes of the batch, for each
   axis its size and the bytes from one product to the next in the operands and in the result. Many small products are
   shared out to the threads, where the library uses one for each. Of few it is the library that shares each out, and
   these stand in no parallel region, not even in one of a single thread: in there its threads would be new ones. */
{VISIBLE} int {PRODUCT}(const i64 *args) {{
    const i64 rank = args[13], *const axes = args + 14;
    i64 count = 1;
    for (i64 j = 0; j < rank; j++) count *= axes[4 * j];
    const i64 work = args[7] * args[8] * args[9] * count;
    if (work && !(args[0] && args[1])) return 4;
    if (work >= 16384 && count > 1 && count >= omp_get_max_threads()) {{
#pragma omp parallel for
        for (i64 at = 0; at < count; at++) x_product_at(args, at);
        return 0;
    }}
    for (i64 at = 0; at < count; at++) x_product_at(args, at);
    return 0;
}}

/* Elements of a tensor one behind the other. The arguments: two addresses, the bytes of an element, the number of axes,
   for each axis its size and the bytes from one element to the next. The last axis is copied at once where its elements
   lie side by side. */
{VISIBLE} int {COPY}(const i64 *args) {{
    char *const to = (char *)args[0];
    const char *const from = (const char *)args[1];
    const i64 item = args[2], rank = args[3], *const axes = args + 4;
    const i64 size = axes[2 * rank - 2], step = axes[2 * rank - 1];
    i64 rows = 1;
    for (i64 j = 0; j + 1 < rank; j++) rows *= axes[2 * j];
    if (rows * size && !from) return 4;
#pragma omp parallel for if (rows * size >= 16384)
    for (i64 row = 0; row < rows; row++) {{
        const char *x = from;
        char *y = to + row * size * item;
        for (i64 j = rank - 2, rest = row; j >= 0; j--) {{
            x += rest % axes[2 * j] * axes[2 * j + 1];
            rest /= axes[2 * j];
        }}
        if (step == item) __builtin_memcpy(y, x, size * item);
        else if (item == 4) for (i64 i = 0; i < size; i++) __builtin_memcpy(y + 4 * i, x + i * step, 4);
        else if (item == 2) for (i64 i = 0; i < size; i++) __builtin_memcpy(y + 2 * i, x + i * step, 2);
        else if (item == 8) for (i64 i = 0; i < size; i++) __builtin_memcpy(y + 8 * i, x + i * step, 8);
        else for (i64 i = 0; i < size; i++) __builtin_memcpy(y + item * i, x + i * step, item);
    }}
    return 0;
}}
"""


def adder(dtype: str) -> str:
    """The name of the entry that adds rows of a dtype to rows of a matrix.

    >>> adder("int64")
    'tessera_add_rows_i64'
    """
    return f"tessera_add_rows_{storage(dtype)}"


def adders(dtypes: Iterable[str]) -> str:
    """The entries that add rows of these dtypes, as C over functions of the vector library."""
    rows = ((adder(dtype), storage(dtype)) for dtype in dtypes)
    return "".join(f"{VISIBLE} int {name}(const i64 *args) {{ return t_add_rows_{s}(args); }}\n" for name, s in rows)


@lru_cache(maxsize=4)
def blas(name: str) -> int:
    """The address of a function of the BLAS in torch's own library; 0 where it shows none.

    >>> blas("no_such_function")
    0
    """
    function = openmp.torch_function(name)
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0
