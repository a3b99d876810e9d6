// Loads and stores. `n` is a number of lanes, 1 to L; nothing outside those n elements is touched. `step`
// counts elements.

// The first n lanes.
#define t_lanes(n) (T_IOTA < (i32)(n))

// for T V R in STORED
T_FN $V t_load_$T(const $T *p) {
    $R r;
    __builtin_memcpy(&r, p, sizeof r);
    return t_decode_$T(r);
}

// for T V R in STORED
T_FN void t_store_$T($T *p, $V x) {
    $R r = t_encode_$T(x);
    __builtin_memcpy(p, &r, sizeof r);
}

// for T in f32 i32 u32
#if defined(__AVX512F__) && L == 16
T_FN v$T t_load_part_$T(const $T *p, i64 n) {
    return (v$T)__builtin_ia32_loadups512_mask((const f32 *)p, (vf32){}, (u16)((1u << n) - 1));
}
#elif defined(__AVX__) && L == 8
T_FN v$T t_load_part_$T(const $T *p, i64 n) {
    return (v$T)__builtin_ia32_maskloadps256((const vf32 *)p, t_lanes(n));
}
#else
T_FN v$T t_load_part_$T(const $T *p, i64 n) {
    v$T r = {};
    __builtin_memcpy(&r, p, n * sizeof *p);
    return r;
}
#endif

// for T in f32 i32 u32
#if defined(__AVX512F__) && L == 16
T_FN void t_store_part_$T($T *p, i64 n, v$T x) {
    __builtin_ia32_storeups512_mask((f32 *)p, (vf32)x, (u16)((1u << n) - 1));
}
#elif defined(__AVX__) && L == 8
T_FN void t_store_part_$T($T *p, i64 n, v$T x) {
    __builtin_ia32_maskstoreps256((vf32 *)p, t_lanes(n), (vf32)x);
}
#else
T_FN void t_store_part_$T($T *p, i64 n, v$T x) { __builtin_memcpy(p, &x, n * sizeof *p); }
#endif

// for T V R in UNMASKED
T_FN $V t_load_part_$T(const $T *p, i64 n) {
    $R r = {};
    if (n == L) __builtin_memcpy(&r, p, sizeof r);
    else __builtin_memcpy(&r, p, n * sizeof *p);
    return t_decode_$T(r);
}

// for T V R in UNMASKED
T_FN void t_store_part_$T($T *p, i64 n, $V x) {
    $R r = t_encode_$T(x);
    if (n == L) __builtin_memcpy(p, &r, sizeof r);
    else __builtin_memcpy(p, &r, n * sizeof *p);
}

// Elements `from` to `to` of L that follow each other; the others are not touched, and 0.
// for T V R in STORED
static __attribute__((noinline)) $V t_load_some_$T(const $T *p, i64 from, i64 to) {
    $R r = {};
    for (i64 i = from > 0 ? from : 0; i < to && i < L; i++) r[i] = p[i];
    return t_decode_$T(r);
}

// for T V R in STORED
T_FN $V t_load_within_$T(const $T *p, i64 from, i64 to) {
    if (from <= 0 && to >= L) return t_load_$T(p);
    if (from >= to || from >= L || to <= 0) return ($V){};
    return t_load_some_$T(p, from, to);
}

// Elements that lie `step` apart.
// for T V R in STORED
T_FN $V t_load_step_$T(const $T *p, i64 step) {
    $R r = {};
    T_LANES r[i] = p[i * step];
    return t_decode_$T(r);
}

// for T V R in STORED
T_FN $V t_load_step_part_$T(const $T *p, i64 step, i64 n) {
    $R r = {};
    T_LANES if (i < n) r[i] = p[i * step];
    return t_decode_$T(r);
}

// for T V R in STORED
T_FN void t_store_step_part_$T($T *p, i64 step, i64 n, $V x) {
    $R r = t_encode_$T(x);
    T_LANES if (i < n) p[i * step] = r[i];
}

// Element index[i] for the live lanes, 0 for the others.
// for T V R in STORED
T_FN $V t_gather_$T(const $T *p, vi64 index, vm live) {
    $R r = {};
    T_LANES r[i] = p[live[i] ? index[i] : 0];
    return t_decode_$T(r);
}

// for T V R in STORED
T_FN void t_scatter_$T($T *p, vi64 index, vm live, $V x) {
    $R r = t_encode_$T(x);
    T_LANES if (live[i]) p[index[i]] = r[i];
}

// Stores that go past the caches; p is aligned to the size of the stored vector. A fence follows the last
// one.
#if defined(__AVX512F__)
#define t_stream_64(p, x) __builtin_ia32_movntdq512((void *)(p), (t_w8)(x))
#endif
#if defined(__AVX__)
#define t_stream_32(p, x) __builtin_ia32_movntdq256((void *)(p), (t_w4)(x))
#endif
#if defined(__SSE2__)
#define t_stream_16(p, x) __builtin_ia32_movntdq((void *)(p), (t_w2)(x))
#endif
typedef i64 t_w8 __attribute__((vector_size(64)));
typedef i64 t_w4 __attribute__((vector_size(32)));
typedef i64 t_w2 __attribute__((vector_size(16)));

// for T in f32 i32 u32
#if defined(__AVX512F__) && L == 16
T_FN void t_stream_$T($T *p, v$T x) { t_stream_64(p, x); }
#elif defined(__AVX__) && L == 8
T_FN void t_stream_$T($T *p, v$T x) { t_stream_32(p, x); }
#elif defined(__SSE2__) && L == 4
T_FN void t_stream_$T($T *p, v$T x) { t_stream_16(p, x); }
#else
T_FN void t_stream_$T($T *p, v$T x) { t_store_$T(p, x); }
#endif

// for T in f64 i64 u64
#if defined(__AVX512F__) && L == 16
T_FN void t_stream_$T($T *p, v$T x) { t_stream_64(p, T_PART0(x)); t_stream_64(p + 8, T_PART1(x)); }
#elif defined(__AVX512F__) && T_PART == 8
T_FN void t_stream_$T($T *p, v$T x) { t_stream_64(p, x); }
#elif defined(__AVX__) && L == 8
T_FN void t_stream_$T($T *p, v$T x) { t_stream_32(p, T_PART0(x)); t_stream_32(p + 4, T_PART1(x)); }
#elif defined(__AVX__) && L == 4
T_FN void t_stream_$T($T *p, v$T x) { t_stream_32(p, x); }
#else
T_FN void t_stream_$T($T *p, v$T x) { t_store_$T(p, x); }
#endif

// for T in bf16 f16
#if defined(__AVX__) && L == 16
T_FN void t_stream_$T($T *p, vf32 x) { t_stream_32(p, t_encode_$T(x)); }
#elif defined(__SSE2__) && L == 8
T_FN void t_stream_$T($T *p, vf32 x) { t_stream_16(p, t_encode_$T(x)); }
#else
T_FN void t_stream_$T($T *p, vf32 x) { t_store_$T(p, x); }
#endif

// for T V in i16/vi32 i8/vi32 u8/vi32 b8/vm e4m3/vf32 e5m2/vf32
T_FN void t_stream_$T($T *p, $V x) { t_store_$T(p, x); }

#if defined(__SSE__)
#define t_fence() __builtin_ia32_sfence()
#else
#define t_fence() __sync_synchronize()
#endif

#define t_prefetch(p) __builtin_prefetch(p, 0, 3)
#define t_prefetch_far(p) __builtin_prefetch(p, 0, 2)

// One value in every lane; x - 0 keeps the sign of a zero.
// for T in f64 f32 i64 i32 u64 u32
#define t_splat_$T(x) (($T)(x) - (v$T){})

#define t_splat_m(x) ((vm){} - ((x) != 0))
