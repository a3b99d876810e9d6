// What the instruction set offers, with a portable fallback each.

#if defined(__AVX512F__) && L == 16
#define t_fma_f32(a, b, c) ((vf32)__builtin_ia32_vfmaddps512_mask(a, b, c, (u16)-1, 4))
#elif defined(__FMA__) && L == 8
#define t_fma_f32(a, b, c) __builtin_ia32_vfmaddps256(a, b, c)
#elif defined(__FMA__) && L == 4
#define t_fma_f32(a, b, c) __builtin_ia32_vfmaddps(a, b, c)
#elif defined(__ARM_FEATURE_FMA)
T_FN vf32 t_fma_f32(vf32 a, vf32 b, vf32 c) {
    T_LANES c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
}
#else
// The product is exact in f64; the sum is rounded twice.
T_FN vf32 t_fma_f32(vf32 a, vf32 b, vf32 c) {
    T_LANES c[i] = (f32)((f64)a[i] * (f64)b[i] + (f64)c[i]);
    return c;
}
#endif

#if defined(__AVX512F__) && T_PART == 8
#define t_fma_p(a, b, c) ((pf64)__builtin_ia32_vfmaddpd512_mask(a, b, c, (u8)-1, 4))
#elif defined(__FMA__) && T_PART == 4
#define t_fma_p(a, b, c) __builtin_ia32_vfmaddpd256(a, b, c)
#elif defined(__FMA__) && T_PART == 2
#define t_fma_p(a, b, c) __builtin_ia32_vfmaddpd(a, b, c)
#else
T_FN pf64 t_fma_p(pf64 a, pf64 b, pf64 c) {
    for (int i = 0; i < T_PART; i++) c[i] = __builtin_fma(a[i], b[i], c[i]);
    return c;
}
#endif

T_FN vf64 t_fma_f64(vf64 a, vf64 b, vf64 c) {
    return T_JOIN(t_fma_p(T_PART0(a), T_PART0(b), T_PART0(c)), t_fma_p(T_PART1(a), T_PART1(b), T_PART1(c)));
}

#define T_FMA(a, b, c) _Generic((a), vf32: t_fma_f32, vf64: t_fma_f64)(a, b, c)

// One step of Horner's rule with a constant.
#define T_H(p, x, c) t_fma_f32(p, x, T_K(c))

#define T_HP(p, x, c) t_fma_p(p, x, T_KP(c))

// f32 parts to f64 and back.
#if defined(__AVX512F__) && T_PART == 8
#define t_up(x) ((pf64)__builtin_ia32_cvtps2pd512_mask(x, (pf64){}, (u8)-1, 4))
#define t_down(x) ((pf32)__builtin_ia32_cvtpd2ps512_mask(x, (pf32){}, (u8)-1, 4))
#elif defined(__AVX__) && T_PART == 4
#define t_up(x) __builtin_ia32_cvtps2pd256(x)
#define t_down(x) __builtin_ia32_cvtpd2ps256(x)
#else
#define t_up(x) __builtin_convertvector(x, pf64)
#define t_down(x) __builtin_convertvector(x, pf32)
#endif

#define T_VIA_F64(name, core)                                                                        \
    T_FN vf32 name(vf32 x) {                                                                         \
        return T_JOIN(t_down(core(t_up(T_PART0(x)))), t_down(core(t_up(T_PART1(x)))));                \
    }

#define T_VIA_F64_2(name, core)                                                                      \
    T_FN vf32 name(vf32 a, vf32 b) {                                                                 \
        return T_JOIN(t_down(core(t_up(T_PART0(a)), t_up(T_PART0(b)))),                               \
                      t_down(core(t_up(T_PART1(a)), t_up(T_PART1(b)))));                              \
    }

#define T_BY_PART(name, core)                                                                        \
    T_FN vf64 name(vf64 x) { return T_JOIN(core(T_PART0(x)), core(T_PART1(x))); }

#define T_BY_PART_2(name, core)                                                                      \
    T_FN vf64 name(vf64 a, vf64 b) {                                                                 \
        return T_JOIN(core(T_PART0(a), T_PART0(b)), core(T_PART1(a), T_PART1(b)));                    \
    }

// The C library, lane by lane.
#define T_LIBM(name, function)                                                                       \
    extern f64 function(f64);                                                                        \
    static vf64 name(vf64 x) {                                                                       \
        T_LANES x[i] = function(x[i]);                                                               \
        return x;                                                                                    \
    }

#define T_LIBM_2(name, function)                                                                     \
    extern f64 function(f64, f64);                                                                   \
    static vf64 name(vf64 a, vf64 b) {                                                               \
        T_LANES a[i] = function(a[i], b[i]);                                                         \
        return a;                                                                                    \
    }

// Selection: lanes of `a` where the mask is set, else of `b`.
#if T_WIDTH == 64
// Vectorised, this is one blend under the mask register of the comparison; the bitwise form is three
// operations. Unrolled it would be taken apart before it is vectorised.
T_FN vf32 t_where_f32(vm m, vf32 a, vf32 b) {
    _Pragma("GCC unroll 1") for (int i = 0; i < L; i++) a[i] = m[i] ? a[i] : b[i];
    return a;
}
#elif defined(__AVX__) && L == 8
#define t_where_f32(m, a, b) __builtin_ia32_blendvps256(b, a, (vf32)(m))
#elif defined(__SSE4_1__) && L == 4
#define t_where_f32(m, a, b) __builtin_ia32_blendvps(b, a, (vf32)(m))
#else
T_FN vf32 t_where_f32(vm m, vf32 a, vf32 b) { return (vf32)(((vi32)a & m) | ((vi32)b & ~m)); }
#endif

T_FN vi32 t_where_i32(vm m, vi32 a, vi32 b) { return (a & m) | (b & ~m); }

T_FN vu32 t_where_u32(vm m, vu32 a, vu32 b) { return (vu32)(((vi32)a & m) | ((vi32)b & ~m)); }

T_FN vm t_where_m(vm m, vm a, vm b) { return (a & m) | (b & ~m); }

T_FN pf64 t_where_p(pi64 m, pf64 a, pf64 b) { return (pf64)(((pi64)a & m) | ((pi64)b & ~m)); }

// Masks of 64-bit lanes.
#if 8 * L > T_WIDTH && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define t_mask_of_parts(a, b) __builtin_shufflevector((vi32)(a), (vi32)(b), T_EVEN)
#else
T_FN vm t_mask_of_parts(pi64 a, pi64 b) {
    return T_JOIN(__builtin_convertvector(a, pi32), __builtin_convertvector(b, pi32));
}
#endif

T_FN vi64 t_wide_mask(vm m) {
    return T_JOIN(__builtin_convertvector(T_PART0(m), pi64), __builtin_convertvector(T_PART1(m), pi64));
}

// for T in f64 i64 u64
T_FN v$T t_where_$T(vm m, v$T a, v$T b) {
    vi64 w = t_wide_mask(m);
    return (v$T)(((vi64)a & w) | ((vi64)b & ~w));
}

#define T_SEL(m, a, b)                                                                               \
    _Generic((a), vf32: t_where_f32, vi32: t_where_i32, vu32: t_where_u32, vf64: t_where_f64,         \
             vi64: t_where_i64, vu64: t_where_u64)(m, a, b)

// for N OP in eq/== ne/!= lt/< le/<= gt/> ge/>=
#define t_$N_f32(a, b) ((a) $OP (b))
#define t_$N_i32(a, b) ((a) $OP (b))
#define t_$N_u32(a, b) ((a) $OP (b))

// for N OP in eq/== ne/!= lt/< le/<= gt/> ge/>=
T_FN vm t_$N_f64(vf64 a, vf64 b) {
    return t_mask_of_parts(T_PART0(a) $OP T_PART0(b), T_PART1(a) $OP T_PART1(b));
}

// for N OP in eq/== ne/!= lt/< le/<= gt/> ge/>=
T_FN vm t_$N_i64(vi64 a, vi64 b) {
    return t_mask_of_parts(T_PART0(a) $OP T_PART0(b), T_PART1(a) $OP T_PART1(b));
}

// for N OP in eq/== ne/!= lt/< le/<= gt/> ge/>=
T_FN vm t_$N_u64(vu64 a, vu64 b) {
    return t_mask_of_parts(T_PART0(a) $OP T_PART0(b), T_PART1(a) $OP T_PART1(b));
}

// a < c ? c : a and a > c ? c : a, where a NaN in `a` stays.
#if defined(__AVX512F__) && L == 16
#define t_atleast_f32(a, c) ((vf32)__builtin_ia32_maxps512_mask(c, a, (vf32){}, (u16)-1, 4))
#define t_atmost_f32(a, c) ((vf32)__builtin_ia32_minps512_mask(c, a, (vf32){}, (u16)-1, 4))
#elif defined(__AVX__) && L == 8
#define t_atleast_f32(a, c) __builtin_ia32_maxps256(c, a)
#define t_atmost_f32(a, c) __builtin_ia32_minps256(c, a)
#elif defined(__SSE__) && L == 4
#define t_atleast_f32(a, c) __builtin_ia32_maxps(c, a)
#define t_atmost_f32(a, c) __builtin_ia32_minps(c, a)
#else
T_FN vf32 t_atleast_f32(vf32 a, vf32 c) { return t_where_f32(a < c, c, a); }
T_FN vf32 t_atmost_f32(vf32 a, vf32 c) { return t_where_f32(a > c, c, a); }
#endif

T_FN pf64 t_atleast_p(pf64 a, pf64 c) { return t_where_p(a < c, c, a); }

T_FN pf64 t_atmost_p(pf64 a, pf64 c) { return t_where_p(a > c, c, a); }

#if defined(__AVX512F__) && L == 16
#define t_sqrt_f32(x) ((vf32)__builtin_ia32_sqrtps512_mask(x, (vf32){}, (u16)-1, 4))
#elif defined(__AVX__) && L == 8
#define t_sqrt_f32(x) __builtin_ia32_sqrtps256(x)
#elif defined(__SSE__) && L == 4
#define t_sqrt_f32(x) __builtin_ia32_sqrtps(x)
#else
T_FN vf32 t_sqrt_f32(vf32 x) {
    T_LANES x[i] = __builtin_sqrtf(x[i]);
    return x;
}
#endif

#if defined(__AVX512F__) && T_PART == 8
#define t_sqrt_p(x) ((pf64)__builtin_ia32_sqrtpd512_mask(x, (pf64){}, (u8)-1, 4))
#elif defined(__AVX__) && T_PART == 4
#define t_sqrt_p(x) __builtin_ia32_sqrtpd256(x)
#elif defined(__SSE2__) && T_PART == 2
#define t_sqrt_p(x) __builtin_ia32_sqrtpd(x)
#else
T_FN pf64 t_sqrt_p(pf64 x) {
    for (int i = 0; i < T_PART; i++) x[i] = __builtin_sqrt(x[i]);
    return x;
}
#endif

T_BY_PART(t_sqrt_f64, t_sqrt_p)

// Sign and magnitude.
T_FN vf32 t_abs_f32(vf32 x) { return (vf32)((vi32)x & 0x7fffffff); }

T_FN vf64 t_abs_f64(vf64 x) { return (vf64)((vi64)x & 0x7fffffffffffffff); }

T_FN pf64 t_abs_p(pf64 x) { return (pf64)((pi64)x & 0x7fffffffffffffff); }

T_FN vf32 t_copysign_f32(vf32 a, vf32 b) {
    return (vf32)(((vi32)a & 0x7fffffff) | ((vi32)b & (i32)0x80000000));
}

T_FN vf64 t_copysign_f64(vf64 a, vf64 b) {
    return (vf64)(((vu64)a & 0x7fffffffffffffff) | ((vu64)b & 0x8000000000000000));
}

T_FN pf64 t_copysign_p(pf64 a, pf64 b) {
    return (pf64)(((pu64)a & 0x7fffffffffffffff) | ((pu64)b & 0x8000000000000000));
}

// Rounding to an integral value. Mode: 8 half to even, 9 down, 10 up, 11 toward zero.
#if defined(__AVX512F__) && L == 16
#define t_integral_f32(x, mode) ((vf32)__builtin_ia32_rndscaleps_mask(x, mode, x, (u16)-1, 4))
#elif defined(__AVX__) && L == 8
#define t_integral_f32(x, mode) __builtin_ia32_roundps256(x, mode)
#elif defined(__SSE4_1__) && L == 4
#define t_integral_f32(x, mode) __builtin_ia32_roundps(x, mode)
#else
T_FN vf32 t_integral_f32(vf32 x, int mode) {
    vf32 a = t_abs_f32(x);
    vf32 n = t_copysign_f32((a + 0x1p+23f) - 0x1p+23f, x);
    vf32 up = t_where_f32(n < x, n + 1.0f, n), down = t_where_f32(n > x, n - 1.0f, n);
    n = mode == 8 ? n : mode == 9 ? down : mode == 10 ? up : t_where_f32(x < 0.0f, up, down);
    return t_where_f32(a < 0x1p+23f, t_copysign_f32(n, x), x);
}
#endif

#if defined(__AVX512F__) && T_PART == 8
#define t_integral_p(x, mode) ((pf64)__builtin_ia32_rndscalepd_mask(x, mode, x, (u8)-1, 4))
#elif defined(__AVX__) && T_PART == 4
#define t_integral_p(x, mode) __builtin_ia32_roundpd256(x, mode)
#elif defined(__SSE4_1__) && T_PART == 2
#define t_integral_p(x, mode) __builtin_ia32_roundpd(x, mode)
#else
T_FN pf64 t_integral_p(pf64 x, int mode) {
    pf64 a = t_abs_p(x);
    pf64 n = t_copysign_p((a + 0x1p+52) - 0x1p+52, x);
    pf64 up = t_where_p(n < x, n + 1.0, n), down = t_where_p(n > x, n - 1.0, n);
    n = mode == 8 ? n : mode == 9 ? down : mode == 10 ? up : t_where_p(x < 0.0, up, down);
    return t_where_p(a < 0x1p+52, t_copysign_p(n, x), x);
}
#endif

T_FN vf64 t_integral_f64(vf64 x, int mode) {
    switch (mode) {
    case 8: return T_JOIN(t_integral_p(T_PART0(x), 8), t_integral_p(T_PART1(x), 8));
    case 9: return T_JOIN(t_integral_p(T_PART0(x), 9), t_integral_p(T_PART1(x), 9));
    case 10: return T_JOIN(t_integral_p(T_PART0(x), 10), t_integral_p(T_PART1(x), 10));
    default: return T_JOIN(t_integral_p(T_PART0(x), 11), t_integral_p(T_PART1(x), 11));
    }
}

// Is a lane set? Are all lanes set?
#if defined(__AVX512DQ__) && L == 16
T_FN int t_any(vm m) { return __builtin_ia32_cvtd2mask512(m) != 0; }
T_FN int t_all(vm m) { return __builtin_ia32_cvtd2mask512(m) == 0xffff; }
#elif defined(__AVX__) && L == 8
T_FN int t_any(vm m) { return __builtin_ia32_movmskps256((vf32)m) != 0; }
T_FN int t_all(vm m) { return __builtin_ia32_movmskps256((vf32)m) == 0xff; }
#elif defined(__SSE__) && L == 4
T_FN int t_any(vm m) { return __builtin_ia32_movmskps((vf32)m) != 0; }
T_FN int t_all(vm m) { return __builtin_ia32_movmskps((vf32)m) == 0xf; }
#else
T_FN int t_any(vm m) {
    int r = 0;
    T_LANES r |= m[i];
    return r != 0;
}
T_FN int t_all(vm m) {
    int r = -1;
    T_LANES r &= m[i];
    return r != 0;
}
#endif
