// Exponentials, logarithms and what is built on them. Polynomials are minimax fits (Remez exchange); the
// bound after each is the largest error of the fit relative to the function. `_p` functions work on f64
// parts.

// e^r - 1 - r on |r| <= ln(2)/2; 2^-28.1. What follows adds the parts so that only the last sum rounds
// noticeably.
T_FN vf32 t_exp_tail(vf32 r) {
    vf32 q = T_H(T_K(0x1.6af76ap-10f), r, 0x1.124264p-7f);
    q = T_H(q, r, 0x1.555838p-5f);
    q = T_H(q, r, 0x1.555486p-3f);
    return r * r * T_H(q, r, 0x1.fffffcp-2f);
}

// 1 + r + w for |r| < 1/2 and a small w.
T_FN vf32 t_one_plus(vf32 r, vf32 w) {
    vf32 s = 1.0f + r;
    return s + (((1.0f - s) + r) + w);
}

// t = round(x / ln 2) + 1.5 * 2^23: the low bits of t hold that integer. Returns x minus its multiple of ln
// 2, and in `low` what rounding that difference lost.
T_FN vf32 t_exp_reduce(vf32 x, vf32 *t, vf32 *low) {
    *t = T_H(x, T_K(0x1.715476p+0f), 0x1.8p+23f);
    vf32 n = *t - 0x1.8p+23f, d = t_fma_f32(n, T_K(-0x1.62e43p-1f), x);
    vf32 r = t_fma_f32(n, T_K(0x1.05c61p-29f), d);
    *low = t_fma_f32(n, T_K(0x1.05c61p-29f), d - r);
    return r;
}

// p * 2^n for p in [1/2, 2] and n, held as in t_exp_reduce, in [-151, 129]; rounds once into the denormals.
T_FN vf32 t_exp_scale(vf32 p, vf32 t) {
    vi32 n = (vi32)t - 0x4b400000, h = n >> 1;
    return (vf32)((vi32)p + (h << 23)) * (vf32)((n - h + 127) << 23);
}

#if (defined(__AVX512F__) && L == 16) || (defined(__AVX2__) && L == 8)
// e^x = 2^n e^r with n a multiple of 1 / L and |r| <= ln(2) / (2 L). One register holds the powers
// 2^(k / L), another what rounding them lost; e^r - 1 is a cubic in 16 lanes (2^-29.2) and a quartic in 8
// (2^-30).
#if L == 16
#define T_POWERS                                                                                     \
    ((vf32){0x1p+0f, 0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f, 0x1.306fep+0f, 0x1.3dea64p+0f,   \
            0x1.4bfdaep+0f, 0x1.5ab07ep+0f, 0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f,           \
            0x1.9c4918p+0f, 0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f})
#define T_POWERS_LOW                                                                                 \
    ((vf32){0.0f, 0x1.9f3122p-25f, -0x1.c15742p-27f, 0x1.ceac48p-25f, 0x1.4636e2p-25f,                \
            0x1.824684p-25f, -0x1.593abcp-25f, -0x1.5bd5ecp-27f, 0x1.9fcef4p-26f, -0x1.829fdp-25f,    \
            0x1.15506ep-27f, 0x1.51f848p-27f, -0x1.a94b14p-26f, -0x1.3d56b2p-27f, -0x1.822dbcp-27f,   \
            0x1.52486cp-27f})
#define t_look_up(table, i) ((vf32)__builtin_ia32_permvarsf512_mask(table, i, (vf32){}, (u16)-1))
#define t_exp_quadratic(r) T_H(T_K(0x1.555752p-3f), r, 0x1.00022p-1f)
#define t_exp2_quadratic(r) T_H(T_H(T_K(0x1.c6b334p-5f), r, 0x1.ebfff6p-3f), r, 0x1.62e43p-1f)
#define t_exp_power(p, t, n) ((vf32)__builtin_ia32_scalefps512_mask(p, n, (vf32){}, (u16)-1, 4))
#else
#define T_POWERS                                                                                     \
    ((vf32){0x1p+0f, 0x1.172b84p+0f, 0x1.306fep+0f, 0x1.4bfdaep+0f, 0x1.6a09e6p+0f, 0x1.8ace54p+0f,   \
            0x1.ae89fap+0f, 0x1.d5818ep+0f})
#define T_POWERS_LOW                                                                                 \
    ((vf32){0.0f, -0x1.c15742p-27f, 0x1.4636e2p-25f, -0x1.593abcp-25f, 0x1.9fcef4p-26f,               \
            0x1.15506ep-27f, -0x1.a94b14p-26f, -0x1.822dbcp-27f})
#define t_look_up(table, i) __builtin_ia32_permvarsf256(table, i)
#define t_exp_quadratic(r) T_H(T_H(T_K(0x1.555556p-5f), r, 0x1.555556p-3f), r, 0.5f)
#define t_exp2_quadratic(r)                                                                          \
    T_H(T_H(T_H(T_K(0x1.3b2ab8p-7f), r, 0x1.c6b08ep-5f), r, 0x1.ebfbep-3f), r, 0x1.62e43p-1f)
T_FN vf32 t_exp_power(vf32 p, vf32 t, vf32 n) {
    vi32 m = ((vi32)t - 0x49c00000) >> 3, h = m >> 1;
    return (vf32)((vi32)p + (h << 23)) * (vf32)((m - h + 127) << 23);
}
#endif
#endif

#if (defined(__AVX512F__) && L == 16) || (defined(__AVX2__) && L == 8)
T_FN vf32 t_exp_f32(vf32 x) {
    x = t_atmost_f32(t_atleast_f32(x, T_K(-104.0f)), T_K(89.0f));
    vf32 t = T_H(x, T_K(0x1.715476p+0f), 0x1.8p+23f / L), n = t - 0x1.8p+23f / L;
    vf32 r = t_fma_f32(n, T_K(0x1.05c61p-29f), t_fma_f32(n, T_K(-0x1.62e43p-1f), x));
    vf32 high = t_look_up(T_POWERS, (vi32)t), low = t_look_up(T_POWERS_LOW, (vi32)t);
    vf32 w = t_fma_f32(r * r, t_exp_quadratic(r), r);
    return t_exp_power(high + t_fma_f32(high, w, low), t, n);
}
#else
T_FN vf32 t_exp_f32(vf32 x) {
    vf32 t, low, r = t_exp_reduce(t_atmost_f32(t_atleast_f32(x, T_K(-104.0f)), T_K(89.0f)), &t, &low);
    return t_exp_scale(t_one_plus(r, t_exp_tail(r) + low), t);
}
#endif

// 2^(x + low + k) for a small low and a whole k. The parts of the exponent are never added up: x less its
// multiple of 1 / L is exact.
#if defined(__AVX512DQ__) && L == 16
T_FN vf32 t_exp2_sum_f32(vf32 x, vf32 low, vf32 k) {
    // x less the nearest multiple of 1 / 16, and 0 where x is too large to have such a rest.
    vf32 rest, t = x + 0x1.8p+19f, n = t - 0x1.8p+19f;
    __asm__("vreduceps $0x48, %1, %0" : "=v"(rest) : "v"(x));
    vf32 r = rest + low, w = r * t_exp2_quadratic(r), high = t_look_up(T_POWERS, (vi32)t);
    return t_exp_power(high + t_fma_f32(high, w, t_look_up(T_POWERS_LOW, (vi32)t)), t, n + k);
}
#elif defined(__AVX2__) && L == 8
T_FN vf32 t_exp2_sum_f32(vf32 x, vf32 low, vf32 k) {
    x = t_atmost_f32(t_atleast_f32(x, -152.0f - k), 130.0f - k);
    vf32 t = x + 0x1.8p+20f, n = t - 0x1.8p+20f, r = (x - n) + low, w = r * t_exp2_quadratic(r);
    vf32 high = t_look_up(T_POWERS, (vi32)t), rest = t_look_up(T_POWERS_LOW, (vi32)t);
    return t_exp_power(high + t_fma_f32(high, w, rest), t + k, n + k);
}
#else
T_FN vf32 t_exp2_sum_f32(vf32 x, vf32 low, vf32 k) {
    x = t_atmost_f32(t_atleast_f32(x, -152.0f - k), 130.0f - k);
    vf32 t = x + 0x1.8p+23f, part = x - (t - 0x1.8p+23f), f = part + low, r = f * 0x1.62e43p-1f;
    low = ((part - f) + low) * 0x1.62e43p-1f;
    low = t_fma_f32(f, T_K(-0x1.05c61p-29f), t_fma_f32(f, T_K(0x1.62e43p-1f), -r)) + low;
    return t_exp_scale(t_one_plus(r, t_exp_tail(r) + low), t + k);
}
#endif

T_FN vf32 t_exp2_f32(vf32 x) { return t_exp2_sum_f32(x, (vf32){}, (vf32){}); }

// (2^n - 1) + 2^n r + 2^n (e^r - 1 - r), with 2^n halved so that it cannot overflow before the result does.
T_FN vf32 t_expm1_f32(vf32 x) {
    vf32 t, low, r = t_exp_reduce(t_atmost_f32(t_atleast_f32(x, T_K(-18.0f)), T_K(89.0f)), &t, &low);
    vf32 half = (vf32)(((vi32)t << 23) + 0x3f000000), c = half - 0.5f, high = t_fma_f32(half, r, c);
    vf32 rest = t_fma_f32(half, t_exp_tail(r) + low, t_fma_f32(half, r, c - high));
    return t_where_f32(t_abs_f32(x) < 0x1p-24f, x, 2.0f * (high + rest));
}

// 1 / (1 + e^-x), without overflow and with the underflowing tail.
T_FN vf32 t_sigmoid_f32(vf32 x) {
    vf32 e = t_exp_f32(-t_abs_f32(x));
    return t_where_f32(x < 0.0f, e, T_K(1.0f)) / (1.0f + e);
}

// Below 0.7 an odd polynomial (2^-30), above y = 1 - 2 / (e^2x + 1), corrected once.
T_FN vf32 t_tanh_f32(vf32 x) {
    vf32 a = t_abs_f32(x), u = a * a;
    vf32 p = T_H(T_K(0x1.ef3628p-10f), u, -0x1.022b9ep-7f);
    p = T_H(p, u, 0x1.616d3ep-6f);
    p = T_H(p, u, -0x1.b9ba32p-5f);
    p = T_H(p, u, 0x1.110f52p-3f);
    p = T_H(p, u, -0x1.55555p-2f);
    vf32 small = t_fma_f32(a * u, p, a);
    vf32 t, low, r = t_exp_reduce(t_atmost_f32(a + a, T_K(19.0f)), &t, &low);
    vf32 e = (vf32)((vi32)t_one_plus(r, t_exp_tail(r)) + ((vi32)t << 23)), d = e + 1.0f, q = 2.0f / d;
    vf32 y = 1.0f - q, rest = t_fma_f32(-y, d, d - 2.0f) + q * (1.0f - (d - e));
    rest = (vf32)((vi32)rest & (d < 0x1p+24f));  // beyond, d - 2 is inexact and y is right
    return t_copysign_f32(t_where_f32(a < 0.7f, small, t_fma_f32(0.5f * q, rest, y)), x);
}

// Below 0.9 an odd polynomial (2^-30), above 1 - 2^(q(x - 0.875) - 3) with q fitted to log2(erfc)
// (2^-26.9).
T_FN vf32 t_erf_f32(vf32 x) {
    vf32 a = t_abs_f32(x), u = a * a, b = t_atmost_f32(a, T_K(3.95f)) - 0.875f;
    vf32 p = T_H(T_K(0x1.6d10eep-14f), u, -0x1.ae9a9p-11f);
    p = T_H(p, u, 0x1.5530bap-8f);
    p = T_H(p, u, -0x1.b81652p-6f);
    p = T_H(p, u, 0x1.ce2e2ep-4f);
    p = T_H(p, u, -0x1.812742p-2f);
    p = T_H(p, u, 0x1.06eba8p-3f);
    vf32 q = T_H(T_K(-0x1.ce1b5ap-15f), b, 0x1.2364a2p-11f);
    q = T_H(q, b, -0x1.be336ap-9f);
    q = T_H(q, b, 0x1.0edbdp-6f);
    q = T_H(q, b, -0x1.1560dp-4f);
    q = T_H(q, b, -0x1.314392p+0f);
    q = T_H(q, b, -0x1.c0c6cep+1f);
    q = T_H(q, b, 0x1.93c39ep-1f);
    vf32 t = q + 0x1.8p+23f, r = (q - (t - 0x1.8p+23f)) * 0x1.62e43p-1f;
    vf32 e = (vf32)((vi32)t_one_plus(r, t_exp_tail(r)) + ((vi32)t << 23));
    vf32 y = t_where_f32(a < 0.9f, t_fma_f32(a, p, a), t_fma_f32(e, T_K(-0.125f), T_K(1.0f)));
    return t_copysign_f32(y, x);
}

// log(1 + f) - f on sqrt(1/2) <= 1 + f < sqrt(2); 2^-27.2.
T_FN vf32 t_log_core(vf32 f) {
    vf32 q = T_H(T_K(-0x1.38b2fp-4f), f, 0x1.055a6ap-3f);
    q = T_H(q, f, -0x1.0d853cp-3f);
    q = T_H(q, f, 0x1.22da4p-3f);
    q = T_H(q, f, -0x1.54724ap-3f);
    q = T_H(q, f, 0x1.99a008p-3f);
    q = T_H(q, f, -0x1.000226p-2f);
    q = T_H(q, f, 0x1.555554p-2f);
    return f * f * T_H(q, f, -0.5f);
}

// n ln 2 + f + q, the two large terms added without losing what the sum drops.
T_FN vf32 t_log_sum(vf32 n, vf32 f, vf32 q) {
    vf32 high = t_fma_f32(n, T_K(0x1.62e4p-1f), f);
    vf32 low = t_fma_f32(n, T_K(0x1.62e4p-1f), -high) + f;
    return high + (low + t_fma_f32(n, T_K(0x1.7f7d1cp-20f), q));
}

// What a logarithm gives for 0, negative numbers, infinity and NaN; y elsewhere.
T_FN vf32 t_log_edges(vf32 x, vf32 y) {
    vf32 odd = t_where_f32(x == 0.0f, T_K(-__builtin_inff()), (vf32)((vi32)x | (x < 0.0f)));
    return t_where_f32((x > 0.0f) & (x < __builtin_inff()), y, odd);
}

T_FN vf32 t_log_f32(vf32 x) {
    vm tiny = x < 0x1p-126f;
    vi32 bits = (vi32)t_where_f32(tiny, x * 0x1p+23f, x);
    vi32 n = (bits - 0x3f3504f3) >> 23;
    vf32 f = (vf32)(bits - (n << 23)) - 1.0f;
    vf32 e = __builtin_convertvector(n, vf32) - (vf32)((vi32)T_K(23.0f) & tiny);
    return t_log_edges(x, t_log_sum(e, f, t_log_core(f)));
}

// The logarithm of u = 1 + x, with the part of x that u lost carried beside the fraction.
T_FN vf32 t_log1p_f32(vf32 x) {
    vf32 u = 1.0f + x, lost = x - (u - 1.0f);
    vi32 n = ((vi32)u - 0x3f3504f3) >> 23;
    vf32 f = (vf32)((vi32)u - (n << 23)) - 1.0f;
    vi32 m = t_where_i32(n > 120, (vi32){} + 120, n);
    lost *= (vf32)(0x3f800000 - (m << 23));
    vf32 q = t_log_core(f) + t_fma_f32(-f, lost, lost);
    vf32 y = t_log_edges(u, t_log_sum(__builtin_convertvector(n, vf32), f, q));
    return t_where_f32(x == 0.0f, x, y);
}

// e^x in f64; 2^-63.
T_FN pf64 t_exp_core_p(pf64 r) {
    pf64 q = T_HP(T_KP(0x1.201c3402eedfep-29), r, 0x1.af731d7fb987p-26);
    q = T_HP(q, r, 0x1.27e465cd8cb72p-22);
    q = T_HP(q, r, 0x1.71ddeb4399a28p-19);
    q = T_HP(q, r, 0x1.a01a01df8c84ap-16);
    q = T_HP(q, r, 0x1.a01a01b5c69b9p-13);
    q = T_HP(q, r, 0x1.6c16c16c0b4bfp-10);
    q = T_HP(q, r, 0x1.111111110e589p-7);
    q = T_HP(q, r, 0x1.555555555556bp-5);
    q = T_HP(q, r, 0x1.555555555555dp-3);
    q = T_HP(q, r, 0.5);
    return t_fma_p(r * r, q, r);
}

T_FN pf64 t_exp_reduce_p(pf64 x, pf64 *t) {
    *t = T_HP(x, T_KP(0x1.71547652b82fep+0), 0x1.8p+52);
    pf64 n = *t - 0x1.8p+52;
    return t_fma_p(n, T_KP(-0x1.abc9e3b39803fp-56), t_fma_p(n, T_KP(-0x1.62e42fefa39efp-1), x));
}

// p * 2^n, n as held in t, in [-1076, 1026]. The shift is biased: not every target shifts signed 64-bit
// lanes right.
T_FN pf64 t_exp_scale_p(pf64 p, pf64 t) {
    pu64 n = (pu64)t - 0x4338000000000000, h = ((n + 4096) >> 1) - 2048;
    return (pf64)((pu64)p + (h << 52)) * (pf64)((n - h + 1023) << 52);
}

T_FN pf64 t_exp_p(pf64 x) {
    pf64 t, r = t_exp_reduce_p(t_atmost_p(t_atleast_p(x, T_KP(-746.0)), T_KP(711.0)), &t);
    return t_exp_scale_p(t_exp_core_p(r) + 1.0, t);
}

T_FN pf64 t_expm1_p(pf64 x) {
    pf64 t, r = t_exp_reduce_p(t_atmost_p(t_atleast_p(x, T_KP(-40.0)), T_KP(711.0)), &t);
    pf64 half = (pf64)(((pu64)t << 52) + 0x3fe0000000000000);
    pf64 y = 2.0 * t_fma_p(half, t_exp_core_p(r), half - 0.5);
    return t_where_p(t_abs_p(x) < 0x1p-53, x, y);
}

T_BY_PART(t_exp_f64, t_exp_p)

T_FN pf64 t_sigmoid_p(pf64 x) {
    pf64 e = t_exp_p(-t_abs_p(x));
    return t_where_p(x < 0.0, e, T_KP(1.0)) / (1.0 + e);
}

T_BY_PART(t_sigmoid_f64, t_sigmoid_p)

// log x in f64: with s = f / (2 + f), log(1 + f) = f - (f^2/2 - s (f^2/2 + R(s^2))); 2^-58.
T_FN pf64 t_log_p(pf64 x) {
    pi64 tiny = x < 0x1p-1022;
    pu64 bits = (pu64)t_where_p(tiny, x * 0x1p+54, x);
    pu64 biased = (bits - 0x3fe6a09e667f3bcd + 0x8000000000000000) >> 52;
    pf64 f = (pf64)(bits - ((biased - 2048) << 52)) - 1.0;
    pf64 n = (pf64)(biased | 0x4330000000000000) - (0x1p+52 + 2048.0) - (pf64)((pi64)T_KP(54.0) & tiny);
    pf64 s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
    pf64 w = T_HP(T_KP(0x1.2f125e1f4780ep-3), z, 0x1.39a0818a7ed89p-3);
    w = T_HP(w, z, 0x1.74664a5e76259p-3);
    w = T_HP(w, z, 0x1.c71c51d501b91p-3);
    w = T_HP(w, z, 0x1.249249422ce8fp-2);
    w = T_HP(w, z, 0x1.999999997f9dcp-2);
    w = T_HP(w, z, 0x1.5555555555593p-1);
    pf64 low = t_fma_p(n, T_KP(0x1.ef35793c7673p-45), s * (half + z * w));
    pf64 y = t_fma_p(n, T_KP(0x1.62e42fefa38p-1), f - (half - low));
    pf64 odd = t_where_p(x == 0.0, T_KP(-__builtin_inf()), (pf64)((pi64)x | (x < 0.0)));
    return t_where_p((x > 0.0) & (x < __builtin_inf()), y, odd);
}

T_BY_PART(t_log_f64, t_log_p)

T_FN pf64 t_log2_p(pf64 x) { return t_log_p(x) * 0x1.71547652b82fep+0; }

T_VIA_F64(t_log2_f32, t_log2_p)

T_FN pf64 t_log10_p(pf64 x) { return t_log_p(x) * 0x1.bcb7b1526e50ep-2; }

T_VIA_F64(t_log10_f32, t_log10_p)

T_LIBM(t_log2_f64, log2)

T_LIBM(t_log10_f64, log10)

T_LIBM(t_log1p_f64, log1p)

T_LIBM(t_exp2_f64, exp2)

T_FN vf64 t_exp2_sum_f64(vf64 x, vf64 low, vf64 k) { return t_exp2_f64(x + k) * t_exp2_f64(low); }

T_LIBM(t_expm1_f64, expm1)

T_LIBM(t_tanh_f64, tanh)

T_LIBM(t_erf_f64, erf)

// log(e^a + e^b) = m + log1p(e^-|a - b|), m the larger.
T_FN pf64 t_logaddexp_p(pf64 a, pf64 b) {
    pf64 m = t_where_p(a < b, b, a), e = t_exp_p(-t_abs_p(a - b)), u = 1.0 + e;
    pf64 y = m + (t_log_p(u) + (e - (u - 1.0)) / u);
    return t_where_p((a == b) & (t_abs_p(a) == __builtin_inf()), a, y);
}

T_VIA_F64_2(t_logaddexp_f32, t_logaddexp_p)

T_FN vf64 t_logaddexp_f64(vf64 a, vf64 b) {
    vf64 m = t_where_f64(t_lt_f64(a, b), b, a), d = t_abs_f64(a - b);
    vf64 y = m + t_log1p_f64(t_exp_f64(-d));
    return t_where_f64(t_eq_f64(a, b) & t_eq_f64(t_abs_f64(a), (vf64){} + __builtin_inf()), a, y);
}
