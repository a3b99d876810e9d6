// Circular and hyperbolic functions. f32 versions compute in f64 parts; f64 versions call the C library.

// The bits of 2/pi.
static const u32 t_two_over_pi[8] = {0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0,
                                     0xdb629599, 0x3c439041, 0xfe5163ab, 0xdebbc561};

// x - n pi/2 for a finite f32 value |x| >= 2^28: its 24 bits times the 96 bits of 2/pi that matter (Payne,
// Hanek).
static f64 t_reduce_huge(f64 x, i64 *quadrant) {
    union { f32 f; u32 i; } b = {.f = (f32)x};
    u64 m = (b.i & 0x7fffff) | 0x800000;
    int shift = (int)((b.i >> 23) & 0xff) - 152, w = shift >> 5, s = shift & 31;  // whole turns are left out
    u32 part[3];
    for (int i = 0; i < 3; i++) {
        u64 pair = ((u64)t_two_over_pi[w + i] << 32) | t_two_over_pi[w + i + 1];
        part[i] = (u32)(pair << s >> 32);
    }
    u64 low = m * part[2] >> 32, mid = m * part[1] + low, high = m * part[0] + (mid >> 32);
    u64 product = (high << 32) | (mid & 0xffffffff);
    *quadrant = (i64)((product >> 62) + ((product >> 61) & 1));
    f64 r = (f64)(i64)(product << 2) * (0x1.921fb54442d18p+0 * 0x1p-64);
    if (x < 0.0) {
        r = -r;
        *quadrant = -*quadrant;
    }
    return r;
}

// x = n pi/2 + r, |r| <= pi/4, for f64 parts that hold f32 values; returns n.
T_FN pi64 t_reduce_p(pf64 x, pf64 *r) {
    pf64 t = T_HP(x, T_KP(0x1.45f306dc9c883p-1), 0x1.8p+52), n = t - 0x1.8p+52;
    pi64 q = (pi64)t;
    *r = t_fma_p(n, T_KP(-0x1.1a62633145c07p-54), t_fma_p(n, T_KP(-0x1.921fb54442d18p+0), x));
    pf64 a = t_abs_p(x);
    pi64 huge = (a >= 0x1p+28) & (a < __builtin_inf());
    i64 some = 0;
    for (int i = 0; i < T_PART; i++) some |= huge[i];
    if (__builtin_expect(some != 0, 0)) {
        for (int i = 0; i < T_PART; i++) {
            i64 k;
            if (huge[i]) {
                f64 y = t_reduce_huge(x[i], &k);
                (*r)[i] = y;
                q[i] = k;
            }
        }
    }
    return q;
}

// sin r for |r| <= pi/4; 2^-37.6.
T_FN pf64 t_sin_core(pf64 r) {
    pf64 u = r * r;
    pf64 p = T_HP(T_KP(0x1.6cd733ded8a86p-19), u, -0x1.a00f98ec8c389p-13);
    p = T_HP(p, u, 0x1.1111089085ff5p-7);
    p = T_HP(p, u, -0x1.5555554cb222ep-3);
    return r * T_HP(p, u, 1.0);
}

// cos r for |r| <= pi/4; 2^-43.2.
T_FN pf64 t_cos_core(pf64 r) {
    pf64 u = r * r;
    pf64 p = T_HP(T_KP(-0x1.242a08a26e482p-22), u, 0x1.a0111c5181cb3p-16);
    p = T_HP(p, u, -0x1.6c16b89310c55p-10);
    p = T_HP(p, u, 0x1.5555554f490efp-5);
    p = T_HP(p, u, -0.5);
    return T_HP(p, u, 1.0);
}

T_FN pf64 t_sin_p(pf64 x) {
    pf64 r;
    pu64 n = (pu64)t_reduce_p(x, &r);
    pf64 y = t_where_p((pi64)-(n & 1), t_cos_core(r), t_sin_core(r));
    return (pf64)((pu64)y ^ ((n & 2) << 62));
}

T_VIA_F64(t_sin_f32, t_sin_p)

T_FN pf64 t_cos_p(pf64 x) {
    pf64 r;
    pu64 n = (pu64)t_reduce_p(x, &r) + 1;
    pf64 y = t_where_p((pi64)-(n & 1), t_cos_core(r), t_sin_core(r));
    return (pf64)((pu64)y ^ ((n & 2) << 62));
}

T_VIA_F64(t_cos_f32, t_cos_p)

T_FN pf64 t_tan_p(pf64 x) {
    pf64 r;
    pu64 n = (pu64)t_reduce_p(x, &r);
    pi64 odd = (pi64)-(n & 1);
    pf64 s = t_sin_core(r), c = t_cos_core(r);
    pf64 y = t_where_p(odd, c, s) / t_where_p(odd, s, c);
    return (pf64)((pu64)y ^ ((n & 1) << 63));
}

T_VIA_F64(t_tan_f32, t_tan_p)

// atan of a in [0, 1]; 2^-36.6.
T_FN pf64 t_atan_core(pf64 a) {
    pf64 u = a * a;
    pf64 p = T_HP(T_KP(0x1.d6d19bb5708fap-12), u, -0x1.ba8a4e79dcaeap-9);
    p = T_HP(p, u, 0x1.863d007e2e8a6p-7);
    p = T_HP(p, u, -0x1.b62b8e5e224c9p-6);
    p = T_HP(p, u, 0x1.6b7116c16f6dep-5);
    p = T_HP(p, u, -0x1.f12454f2cfc4cp-5);
    p = T_HP(p, u, 0x1.33d45b5b9dd03p-4);
    p = T_HP(p, u, -0x1.72e4112e2bb4fp-4);
    p = T_HP(p, u, 0x1.c6eabb172dd08p-4);
    p = T_HP(p, u, -0x1.2490575b1cf39p-3);
    p = T_HP(p, u, 0x1.999985eb475e9p-3);
    p = T_HP(p, u, -0x1.5555553272274p-2);
    return a * T_HP(p, u, 1.0);
}

T_FN pf64 t_atan_p(pf64 x) {
    pf64 a = t_abs_p(x);
    pi64 large = a > 1.0;
    pf64 y = t_atan_core(t_where_p(large, 1.0 / a, a));
    return t_copysign_p(t_where_p(large, 0x1.921fb54442d18p+0 - y, y), x);
}

T_VIA_F64(t_atan_f32, t_atan_p)

// The angle of (x, y), with the signed zeros and infinities of IEEE 754.
T_FN pf64 t_atan2_p(pf64 y, pf64 x) {
    pf64 a = t_abs_p(y), b = t_abs_p(x);
    pf64 low = t_where_p(a < b, a, b), high = t_where_p(a < b, b, a), q = low / high;
    q = t_where_p(a == b, t_where_p(a == 0.0, T_KP(0.0), T_KP(1.0)), q);
    pf64 t = t_atan_core(q);
    t = t_where_p(a > b, 0x1.921fb54442d18p+0 - t, t);
    t = t_where_p((pi64)x < 0, 0x1.921fb54442d18p+1 - t, t);
    return t_where_p((x == x) & (y == y), t_copysign_p(t, y), x + y);
}

T_VIA_F64_2(t_atan2_f32, t_atan2_p)

T_FN pf64 t_asin_p(pf64 x) { return t_atan_p(x / t_sqrt_p((1.0 - x) * (1.0 + x))); }

T_VIA_F64(t_asin_f32, t_asin_p)

T_FN pf64 t_acos_p(pf64 x) { return t_atan2_p(t_sqrt_p((1.0 - x) * (1.0 + x)), x); }

T_VIA_F64(t_acos_f32, t_acos_p)

T_FN pf64 t_sinh_p(pf64 x) {
    pf64 e = t_expm1_p(t_abs_p(x));
    pf64 y = 0.5 * (e + t_where_p(e < 0x1p+60, e / (e + 1.0), T_KP(1.0)));
    return t_copysign_p(y, x);
}

T_VIA_F64(t_sinh_f32, t_sinh_p)

T_FN pf64 t_cosh_p(pf64 x) {
    pf64 e = t_exp_p(t_abs_p(x));
    return 0.5 * e + 0.5 / e;
}

T_VIA_F64(t_cosh_f32, t_cosh_p)

T_FN pf64 t_asinh_p(pf64 x) {
    pf64 a = t_abs_p(x), u = x * x;
    pf64 p = T_HP(T_HP(T_KP(-0x1.6db6db6db6db7p-5), u, 0.075), u, -0x1.5555555555555p-3);
    pf64 small = a * T_HP(p, u, 1.0);
    return t_copysign_p(t_where_p(a < 0x1p-5, small, t_log_p(a + t_sqrt_p(u + 1.0))), x);
}

T_VIA_F64(t_asinh_f32, t_asinh_p)

T_FN pf64 t_acosh_p(pf64 x) {
    pf64 y = t_log_p(x + t_sqrt_p((x - 1.0) * (x + 1.0)));
    return t_where_p(x < 1.0, T_KP(__builtin_nan("")), y);
}

T_VIA_F64(t_acosh_f32, t_acosh_p)

T_FN pf64 t_atanh_p(pf64 x) {
    pf64 a = t_abs_p(x), u = x * x;
    pf64 small = a * T_HP(T_HP(T_HP(T_KP(0x1.2492492492492p-3), u, 0.2), u, 0x1.5555555555555p-2), u, 1.0);
    return t_copysign_p(t_where_p(a < 0x1p-5, small, 0.5 * t_log_p((1.0 + a) / (1.0 - a))), x);
}

T_VIA_F64(t_atanh_f32, t_atanh_p)

T_LIBM(t_sin_f64, sin)

T_LIBM(t_cos_f64, cos)

T_LIBM(t_tan_f64, tan)

T_LIBM(t_asin_f64, asin)

T_LIBM(t_acos_f64, acos)

T_LIBM(t_atan_f64, atan)

T_LIBM_2(t_atan2_f64, atan2)

T_LIBM(t_sinh_f64, sinh)

T_LIBM(t_cosh_f64, cosh)

T_LIBM(t_asinh_f64, asinh)

T_LIBM(t_acosh_f64, acosh)

T_LIBM(t_atanh_f64, atanh)
