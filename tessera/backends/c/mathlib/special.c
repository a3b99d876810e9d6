// Powers, error functions and gamma functions.

// Is a value an integer, is it an odd one?
T_FN pi64 t_whole_p(pf64 y) { return t_integral_p(y, 8) == y; }

T_FN pi64 t_odd_p(pf64 y) {
    pf64 h = 0.5 * y;
    return t_whole_p(y) & (t_integral_p(h, 8) != h) & (t_abs_p(y) < 0x1p+53);
}

// |x|^y = e^(y log|x|) in f64, then the sign and the special cases of IEEE 754.
T_FN pf64 t_pow_p(pf64 x, pf64 y) {
    pf64 z = t_exp_p(y * t_log_p(t_abs_p(x)));
    pi64 negative = (pi64)x < 0, odd = t_odd_p(y);
    z = (pf64)((pu64)z | ((pu64)(negative & odd) & 0x8000000000000000));
    z = t_where_p((x < 0.0) & (x > -__builtin_inf()) & ~t_whole_p(y), T_KP(__builtin_nan("")), z);
    z = t_where_p((x == -1.0) & (t_abs_p(y) == __builtin_inf()), T_KP(1.0), z);
    return t_where_p((y == 0.0) | (x == 1.0), T_KP(1.0), z);
}

T_VIA_F64_2(t_pow_f32, t_pow_p)

T_LIBM_2(t_pow_f64, pow)

// x^n for integers by squaring; a negative exponent gives 0 except for the bases 1 and -1.
// for T in i32 i64 u32 u64
static $T t_ipow_$T(u64 base, i64 n) {
    u64 r = 1, b = base;
    if (n < 0) return b == 1 ? 1 : ($T)b == ($T)-1 && ($T)-1 < 0 ? (n & 1 ? ($T)-1 : 1) : 0;
    for (; n; n >>= 1, b *= b) r = n & 1 ? r * b : r;
    return ($T)r;
}

// for T in i32 i64 u32 u64
static v$T t_pow_$T(v$T a, v$T b) {
    T_LANES a[i] = t_ipow_$T((u64)a[i], (i64)b[i]);
    return a;
}

// e^(-x^2) G(t) / (1 + 2x), t = (x - 2) / (x + 2), G fitted on [0, 10.5]; 2^-33.7.
T_FN pf64 t_erfc_p(pf64 x) {
    pf64 a = t_atmost_p(t_abs_p(x), T_KP(10.5)), t = (a - 2.0) / (a + 2.0);
    pf64 g = T_HP(T_KP(-0x1.665ff7c4320bfp-17), t, -0x1.27359a069c8f7p-18);
    g = T_HP(g, t, 0x1.f4862b2be931cp-14);
    g = T_HP(g, t, 0x1.9daa02a36d9e8p-13);
    g = T_HP(g, t, -0x1.cae3149312f67p-12);
    g = T_HP(g, t, -0x1.7c0ba213125d7p-10);
    g = T_HP(g, t, 0x1.4c1d33187ba5p-10);
    g = T_HP(g, t, 0x1.1dc1e3e4dce39p-7);
    g = T_HP(g, t, -0x1.073d337bf9ce2p-7);
    g = T_HP(g, t, -0x1.bc2b0f4e14d92p-5);
    g = T_HP(g, t, 0x1.4ffa1922201e1p-3);
    g = T_HP(g, t, -0x1.5407c0371e37p-3);
    g = T_HP(g, t, -0x1.7bf5ebe5b7732p-4);
    g = T_HP(g, t, 0x1.46e80e22cad3cp+0);
    pf64 y = t_exp_p(-a * a) * g / (1.0 + 2.0 * a);
    return t_where_p(x < 0.0, 2.0 - y, y);
}

T_VIA_F64(t_erfc_f32, t_erfc_p)

T_LIBM(t_erfc_f64, erfc)

// erfinv(x) / x as a function of w = -log(1 - x^2): for w < 5 (2^-35.2), and in sqrt(w) up to 17 (2^-26.3).
T_FN pf64 t_erfinv_p(pf64 x) {
    pf64 w = -t_log_p((1.0 - x) * (1.0 + x)), t = w - 2.5, s = t_sqrt_p(w) - 3.1;
    pf64 p = T_HP(T_KP(-0x1.5bb88cfc62931p-36), t, 0x1.0fcb2a0438f57p-33);
    p = T_HP(p, t, 0x1.bb32c814241e1p-31);
    p = T_HP(p, t, -0x1.7547936167aa4p-27);
    p = T_HP(p, t, 0x1.dcb93a2329b6fp-27);
    p = T_HP(p, t, 0x1.01004561bf647p-21);
    p = T_HP(p, t, -0x1.cab719e4e253p-19);
    p = T_HP(p, t, -0x1.4f4723dcb7193p-18);
    p = T_HP(p, t, 0x1.c9b4de5c23196p-13);
    p = T_HP(p, t, -0x1.4863ce532ca86p-10);
    p = T_HP(p, t, -0x1.11c3c53760526p-8);
    p = T_HP(p, t, 0x1.f91e8993cf47dp-3);
    p = T_HP(p, t, 0x1.805c5cfd150b9p+0);
    pf64 q = T_HP(T_KP(0x1.cdc7e6191f683p-14), s, -0x1.ae79c24bf914fp-13);
    q = T_HP(q, s, -0x1.08cc347a3d9c9p-12);
    q = T_HP(q, s, 0x1.66c4c1bf1b0fp-10);
    q = T_HP(q, s, -0x1.672e1a07e545fp-9);
    q = T_HP(q, s, 0x1.0d22e1bd55d06p-8);
    q = T_HP(q, s, -0x1.7500656d82a5ep-8);
    q = T_HP(q, s, 0x1.e9017fbd52af2p-8);
    q = T_HP(q, s, 0x1.00dbee19c3b49p+0);
    q = T_HP(q, s, 0x1.7774227162f16p+1);
    pf64 y = x * t_where_p(w < 5.0, p, q);
    return t_where_p(t_abs_p(x) == 1.0, x * __builtin_inf(), y);
}

T_VIA_F64(t_erfinv_f32, t_erfinv_p)

extern f64 erf(f64);
extern f64 erfc(f64);
extern f64 exp(f64);
extern f64 log(f64);
static f64 t_erfinv_lane(f64 x) {
    f64 a = x < 0.0 ? -x : x;
    if (!(a < 1.0)) return a == 1.0 ? x * __builtin_inf() : __builtin_nan("");
    f64 w = -log((1.0 - a) * (1.0 + a)), c = 2.0 / (0x1.921fb54442d18p+1 * 0.147) - 0.5 * w;
    f64 y = a < 0x1p-27 ? a * 0x1.c5bf891b4ef6ap-1 : __builtin_sqrt(__builtin_sqrt(c * c + w / 0.147) - c);
    if (a < 0x1p-27) return x < 0.0 ? -y : y;
    for (int i = 0; i < 4; i++) {
        f64 d = (a < 0.5 ? erf(y) - a : (1.0 - a) - erfc(y)) * 0x1.c5bf891b4ef6ap-1 * exp(y * y);
        y -= d / (1.0 + y * d);
    }
    return x < 0.0 ? -y : y;
}

static vf64 t_erfinv_f64(vf64 x) {
    T_LANES x[i] = t_erfinv_lane(x[i]);
    return x;
}

extern f64 lgamma_r(f64, int *);
static vf64 t_lgamma_f64(vf64 x) {
    int sign;
    T_LANES x[i] = lgamma_r(x[i], &sign);
    return x;
}

static vf32 t_lgamma_f32(vf32 x) {
    int sign;
    T_LANES x[i] = (f32)lgamma_r(x[i], &sign);
    return x;
}

// The derivative of log gamma: reflected below 0, raised above 10 by psi(x) = psi(x + 1) - 1/x, then
// asymptotic.
extern f64 tan(f64);
static f64 t_digamma_lane(f64 x) {
    f64 r = 0.0;
    if (x == 0.0) return -__builtin_copysign(__builtin_inf(), x);
    if (x < 0.0) {
        f64 part = x - __builtin_rint(x);
        if (part == 0.0) return __builtin_nan("");
        r = -0x1.921fb54442d18p+1 / tan(0x1.921fb54442d18p+1 * part);
        x = 1.0 - x;
    }
    for (; x < 10.0; x += 1.0) r -= 1.0 / x;
    f64 z = x < 0x1p+60 ? 1.0 / (x * x) : 0.0;
    f64 p = 1.0 / 252 - z * (1.0 / 240 - z * (1.0 / 132 - z * (691.0 / 32760 - z * (1.0 / 12))));
    return r + (log(x) - 0.5 / x - z * (1.0 / 12 - z * (1.0 / 120 - z * p)));
}

static vf64 t_digamma_f64(vf64 x) {
    T_LANES x[i] = t_digamma_lane(x[i]);
    return x;
}

static vf32 t_digamma_f32(vf32 x) {
    T_LANES x[i] = (f32)t_digamma_lane(x[i]);
    return x;
}

T_FN pf64 t_hypot_p(pf64 a, pf64 b) {
    pf64 y = t_sqrt_p(a * a + b * b), inf = T_KP(__builtin_inf());
    return t_where_p((t_abs_p(a) == inf) | (t_abs_p(b) == inf), inf, y);
}

T_VIA_F64_2(t_hypot_f32, t_hypot_p)

T_LIBM_2(t_hypot_f64, hypot)

extern f64 exp(f64);
// The modified Bessel function of order 0 or 1 on |x|, or e^(-|x|) times it: the power series, whose terms
// are all positive, then the asymptotic series. Their roundings would add up in f64.
static f64 t_bessel_lane(f64 x, int order, int scaled) {
    long double a = __builtin_fabs(x), term = 1.0, sum = 1.0;
    if (a <= 25.0) {
        sum = term = order ? 0.5 * a : 1.0;
        for (int k = 1; term > 0x1p-60 * sum; k++) sum += term *= 0.25 * a * a / (k * (k + order));
        return scaled ? exp(-a) * sum : sum;
    }
    if (a == __builtin_inf()) return scaled ? 0.0 : a;
    for (int k = 1; k < 50 && __builtin_fabsl(term) > 0x1p-60; k++)
        sum += term *= ((2 * k - 1) * (2 * k - 1) - 4 * order * order) / (8.0 * k * a);
    sum /= 0x1.40d931ff627059657ca41p+1L * __builtin_sqrtl(a);
    return scaled ? sum : exp(0.5 * a) * sum * exp(0.5 * a);
}

// for T in f32 f64
static v$T t_i0_$T(v$T x) {
    T_LANES x[i] = ($T)t_bessel_lane(x[i], 0, 0);
    return x;
}

// for T in f32 f64
static v$T t_i0e_$T(v$T x) {
    T_LANES x[i] = ($T)t_bessel_lane(x[i], 0, 1);
    return x;
}

// for T in f32 f64
static v$T t_i1_$T(v$T x) {
    T_LANES x[i] = ($T)__builtin_copysign(t_bessel_lane(x[i], 1, 0), x[i]);
    return x;
}

// for T in f32 f64
static v$T t_i1e_$T(v$T x) {
    T_LANES x[i] = ($T)__builtin_copysign(t_bessel_lane(x[i], 1, 1), x[i]);
    return x;
}
