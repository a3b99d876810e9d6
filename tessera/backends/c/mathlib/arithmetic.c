// Arithmetic that C does not give: torch's rules for NaN, for signs of quotients, and for division by zero.

// The larger and the smaller, where a NaN wins (maximum, minimum) or loses (fmax, fmin).
T_FN vf32 t_maximum_f32(vf32 a, vf32 b) { return t_where_f32(a != a, a, t_atleast_f32(b, a)); }

T_FN vf32 t_minimum_f32(vf32 a, vf32 b) { return t_where_f32(a != a, a, t_atmost_f32(b, a)); }

T_FN vf32 t_fmax_f32(vf32 a, vf32 b) { return t_where_f32(b != b, a, t_atleast_f32(b, a)); }

T_FN vf32 t_fmin_f32(vf32 a, vf32 b) { return t_where_f32(b != b, a, t_atmost_f32(b, a)); }

// for N OP in maximum/> minimum/<
T_FN pf64 t_$N_p(pf64 a, pf64 b) { return t_where_p((a $OP b) | (a != a), a, b); }
T_BY_PART_2(t_$N_f64, t_$N_p)

// for N OP in fmax/> fmin/<
T_FN pf64 t_$N_p(pf64 a, pf64 b) { return t_where_p((a $OP b) | (b != b), a, b); }
T_BY_PART_2(t_$N_f64, t_$N_p)

// for N T OP in maximum/i32/gt minimum/i32/lt maximum/u32/gt minimum/u32/lt
T_FN v$T t_$N_$T(v$T a, v$T b) { return t_where_$T(t_$OP_$T(a, b), a, b); }

// for N T OP in maximum/i64/gt minimum/i64/lt maximum/u64/gt minimum/u64/lt
T_FN v$T t_$N_$T(v$T a, v$T b) { return t_where_$T(t_$OP_$T(a, b), a, b); }

T_FN vi32 t_abs_i32(vi32 x) {
    vi32 s = x >> 31;
    return (x ^ s) - s;
}

T_FN vi64 t_abs_i64(vi64 x) {
    vi64 s = t_wide_mask(t_lt_i64(x, (vi64){}));
    return (x ^ s) - s;
}

// -1, 0 or 1; a NaN gives 0, as in torch.
T_FN vf32 t_sign_f32(vf32 x) { return (vf32)((x > 0) & 0x3f800000) - (vf32)((x < 0) & 0x3f800000); }

T_FN pf64 t_sign_p(pf64 x) {
    return (pf64)((x > 0.0) & (pi64)T_KP(1.0)) - (pf64)((x < 0.0) & (pi64)T_KP(1.0));
}

T_BY_PART(t_sign_f64, t_sign_p)

T_FN vi32 t_sign_i32(vi32 x) { return (x < 0) - (x > 0); }

T_FN vi64 t_sign_i64(vi64 x) {
    return t_wide_mask(t_lt_i64(x, (vi64){})) - t_wide_mask(t_gt_i64(x, (vi64){}));
}

// |a| - trunc(|a / b|) |b| with the sign of a. The quotient may round up to the next integer: then the
// remainder comes out negative and gets one |b| back.
T_FN pf64 t_fmod_near_p(pf64 a, pf64 b) {
    pf64 x = t_abs_p(a), y = t_abs_p(b), r = t_fma_p(-t_integral_p(x / y, 11), y, x);
    r = t_where_p(r < 0.0, r + y, r);
    r = t_where_p((y == __builtin_inf()) & (x < __builtin_inf()), x, r);
    return t_copysign_p(r, a);
}

// Exact in f64 while the quotient is below 2^28; others take the C library's way.
extern f32 fmodf(f32, f32);
T_FN vf32 t_fmod_f32(vf32 a, vf32 b) {
    vf32 q = t_abs_f32(a / b);
    if (__builtin_expect(t_any((q >= 0x1p+28f) & (t_abs_f32(a) < __builtin_inff()) & (b != 0.0f)), 0)) {
        T_LANES a[i] = fmodf(a[i], b[i]);
        return a;
    }
    return T_JOIN(t_down(t_fmod_near_p(t_up(T_PART0(a)), t_up(T_PART0(b)))),
                  t_down(t_fmod_near_p(t_up(T_PART1(a)), t_up(T_PART1(b)))));
}

T_LIBM_2(t_fmod_f64, fmod)

// The remainder with the sign of the divisor.
// for T in f32 f64
T_FN v$T t_remainder_$T(v$T a, v$T b) {
    v$T r = t_fmod_$T(a, b), zero = {};
    return t_where_$T(t_ne_$T(r, zero) & (t_lt_$T(b, zero) ^ t_lt_$T(r, zero)), r + b, r);
}

// floor(a / b) from the exact remainder, so that it agrees with `remainder`; a / 0 stays what division
// gives.
// for T C in f32/f f64/0
T_FN v$T t_floordiv_$T(v$T a, v$T b) {
    v$T r = t_fmod_$T(a, b), zero = {}, q = (a - r) / b;
    q = t_where_$T(t_ne_$T(r, zero) & (t_lt_$T(b, zero) ^ t_lt_$T(r, zero)), q - 1, q);
    v$T f = t_integral_$T(q, 9);
    f = t_where_$T(t_lt_$T(zero + (($T)0.5), q - f), f + 1, f);
    f = t_where_$T(t_ne_$T(q, zero), f, t_copysign_$T(zero, a / b));
    return t_where_$T(t_ne_$T(b, zero), f, a / b);
}

// Integer division. A zero divisor in a live lane sets the error flag and gives 0; the least value over -1
// wraps.
// for T in i32 i64
static v$T t_trunc_div_$T(v$T a, v$T b, vm live, i32 *error) {
    T_LANES {
        *error |= (b[i] == 0) & (live[i] != 0);
        a[i] = b[i] == 0 ? 0 : b[i] == -1 ? -a[i] : a[i] / b[i];
    }
    return a;
}

// for T in u32 u64
static v$T t_trunc_div_$T(v$T a, v$T b, vm live, i32 *error) {
    T_LANES {
        *error |= (b[i] == 0) & (live[i] != 0);
        a[i] = b[i] == 0 ? 0 : a[i] / b[i];
    }
    return a;
}

// for T in i32 i64 u32 u64
T_FN v$T t_fmod_$T(v$T a, v$T b, vm live, i32 *error) {
    v$T zero = {}, q = t_trunc_div_$T(a, b, live, error);
    return t_where_$T(t_eq_$T(b, zero), zero, a - q * b);
}

// for T in i32 i64
T_FN v$T t_remainder_$T(v$T a, v$T b, vm live, i32 *error) {
    v$T r = t_fmod_$T(a, b, live, error), zero = {};
    return t_where_$T(t_ne_$T(r, zero) & t_lt_$T(r ^ b, zero), r + b, r);
}

// for T in i32 i64
T_FN v$T t_floordiv_$T(v$T a, v$T b, vm live, i32 *error) {
    v$T zero = {}, q = t_trunc_div_$T(a, b, live, error), r = a - q * b;
    return t_where_$T(t_ne_$T(b, zero) & t_ne_$T(r, zero) & t_lt_$T(r ^ b, zero), q - 1, q);
}

// Shifts by a negative count or by the width and more give 0, or the sign.
// for T U B in i32/u32/32 u32/u32/32 i64/u64/64 u64/u64/64
T_FN v$T t_shl_$T(v$T a, v$T n) {
    return t_where_$T(t_lt_$U((v$U)n, (v$U){} + $B), a << (n & ($B - 1)), (v$T){});
}

// for T U B in i32/u32/32 i64/u64/64
T_FN v$T t_shr_$T(v$T a, v$T n) {
    return a >> t_where_$T(t_lt_$U((v$U)n, (v$U){} + $B), n, (v$T){} + ($B - 1));
}

// for T B in u32/32 u64/64
T_FN v$T t_shr_$T(v$T a, v$T n) { return t_where_$T(t_lt_$T(n, (v$T){} + $B), a >> (n & ($B - 1)), (v$T){}); }

// The high halves of 32 by 32 bit products.
#if defined(__AVX512F__) && L == 16
#define t_even_products(a, b) ((vu32)__builtin_ia32_pmuludq512_mask((vi32)(a), (vi32)(b), (t_wide){}, (u8)-1))
typedef i64 t_wide __attribute__((vector_size(64)));
#elif defined(__AVX2__) && L == 8
#define t_even_products(a, b) ((vu32)__builtin_ia32_pmuludq256((vi32)(a), (vi32)(b)))
#elif defined(__SSE2__) && L == 4
#define t_even_products(a, b) ((vu32)__builtin_ia32_pmuludq128((vi32)(a), (vi32)(b)))
#else
T_FN vu32 t_even_products(vu32 a, vu32 b) {
    for (int i = 0; i < L; i += 2) {
        u64 p = (u64)a[i] * b[i];
        a[i] = (u32)p;
        a[i + 1] = (u32)(p >> 32);
    }
    return a;
}
#endif

T_FN vu32 t_odd_lanes(vu32 a) {
    typedef u64 wide __attribute__((vector_size(4 * L)));
    return (vu32)((wide)a >> 32);
}

T_FN vu32 t_mulhi_u32(vu32 a, vu32 b) {
    vu32 even = t_odd_lanes(t_even_products(a, b)), odd = t_even_products(t_odd_lanes(a), t_odd_lanes(b));
    return t_where_u32((T_IOTA & 1) != 0, odd, even);
}

// Philox-4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, 2011): counter c, key k.
T_FN void t_philox(vu32 c[4], u32 k0, u32 k1) {
    for (int round = 0; round < 10; round++) {
        vu32 a = (vu32){} + 0xd2511f53u, b = (vu32){} + 0xcd9e8d57u;
        vu32 x = t_mulhi_u32(b, c[2]) ^ c[1] ^ k0, y = t_mulhi_u32(a, c[0]) ^ c[3] ^ k1;
        c[1] = b * c[2];
        c[3] = a * c[0];
        c[0] = x;
        c[2] = y;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}
