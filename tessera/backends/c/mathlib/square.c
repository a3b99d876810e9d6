// A square of L rows, turned: the vector of a column has the rows as its lanes. Rows are interleaved, each
// with the one half of them later; after log2(L) times every element is in its place.
T_FN void t_turn_square(vf32 *a) {
    const vi32 low = (T_IOTA >> 1) + (T_IOTA & 1) * L;
    _Pragma("GCC unroll 4") for (int round = 1; round < L; round *= 2) {
        vf32 b[L];
        _Pragma("GCC unroll 8") for (int i = 0; i < L / 2; i++) {
            b[2 * i] = __builtin_shuffle(a[i], a[i + L / 2], low);
            b[2 * i + 1] = __builtin_shuffle(a[i], a[i + L / 2], low + L / 2);
        }
        T_LANES a[i] = b[i];
    }
}

// for T V in f32/vf32 i32/vi32 u32/vu32 i16/vi32 i8/vi32 u8/vi32 b8/vm bf16/vf32 f16/vf32 e4m3/vf32 e5m2/vf32
T_FN void t_load_rows_$T($V *a, const $T *p, i64 step, i64 n) {
    T_LANES a[i] = i < n ? t_load_$T(p + i * step) : ($V){};
    for (int i = 0; i < n; i++) t_prefetch_far(p + i * step + 4 * L);
    t_turn_square((vf32 *)a);
}

// The same for the points from `from` to `to` of the L that follow each other; the others are not touched,
// and 0.
// for T V in f32/vf32 i32/vi32 u32/vu32 i16/vi32 i8/vi32 u8/vi32 b8/vm bf16/vf32 f16/vf32 e4m3/vf32 e5m2/vf32
static __attribute__((noinline)) void t_load_rows_within_$T(
    $V *a, const $T *p, i64 step, i64 n, i64 from, i64 to) {
    if (from <= 0 && to >= L) {
        t_load_rows_$T(a, p, step, n);
        return;
    }
    T_LANES a[i] = ($V){};
    for (i64 i = from > 0 ? from : 0; i < to && i < L; i++) a[i] = t_load_step_part_$T(p + i, step, n);
}

// A square turned and stored: its rows are as far apart as `step` says.
// for T V in f32/vf32 i32/vi32 u32/vu32 i16/vi32 i8/vi32 u8/vi32 b8/vm bf16/vf32 f16/vf32 e4m3/vf32 e5m2/vf32
static __attribute__((noinline)) void t_store_rows_$T($T *p, i64 step, i64 n, $V *a) {
    t_turn_square((vf32 *)a);
    for (int i = 0; i < n; i++) t_store_$T(p + i * step, a[i]);
}
