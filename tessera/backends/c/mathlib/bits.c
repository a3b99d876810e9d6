// Functions of the bits of a float: classes, neighbours, scaling.

T_FN vm t_isinf_f32(vf32 x) { return t_abs_f32(x) == __builtin_inff(); }

T_FN vm t_isfinite_f32(vf32 x) { return t_abs_f32(x) < __builtin_inff(); }

T_FN vm t_isnan_f64(vf64 x) { return t_ne_f64(x, x); }

T_FN vm t_isinf_f64(vf64 x) { return t_eq_f64(t_abs_f64(x), (vf64){} + __builtin_inf()); }

T_FN vm t_isfinite_f64(vf64 x) { return t_lt_f64(t_abs_f64(x), (vf64){} + __builtin_inf()); }

T_FN vm t_signbit_f64(vf64 x) { return t_lt_i64((vi64)x, (vi64){}); }

// The neighbour of a toward b: bits as an integer count, up when a and the step have the same sign.
T_FN vf32 t_nextafter_f32(vf32 a, vf32 b) {
    vi32 up = ((a < b) ^ (a < 0.0f)), bits = (vi32)a - (up | 1);
    vf32 y = (vf32)bits;
    y = t_where_f32(a == 0.0f, (vf32)(((vi32)b & (i32)0x80000000) | 1), y);
    y = t_where_f32(a == b, b, y);
    return t_where_f32((a == a) & (b == b), y, a + b);
}

T_LIBM_2(t_nextafter_f64, nextafter)

// 2^n for an integral |n| <= 1022.
T_FN pf64 t_power_of_two_p(pf64 n) { return (pf64)(((pu64)(n + 0x1.8p+52) + 1023) << 52); }

// x 2^n, the power in three factors so that each is finite; n is truncated.
T_FN pf64 t_ldexp_p(pf64 x, pf64 n) {
    pf64 m = t_integral_p(t_atmost_p(t_atleast_p(n, T_KP(-2200.0)), T_KP(2200.0)), 11);
    pf64 first = t_atmost_p(t_atleast_p(m, T_KP(-900.0)), T_KP(900.0)), rest = m - first;
    pf64 second = t_atmost_p(t_atleast_p(rest, T_KP(-900.0)), T_KP(900.0));
    return x * t_power_of_two_p(first) * t_power_of_two_p(second) * t_power_of_two_p(rest - second);
}

T_VIA_F64_2(t_ldexp_f32, t_ldexp_p)

T_BY_PART_2(t_ldexp_f64, t_ldexp_p)

T_FN vm t_isnan_f32(vf32 x) { return x != x; }

T_FN vm t_signbit_f32(vf32 x) { return (vi32)x < 0; }

T_FN vf32 t_frac_f32(vf32 x) { return x - t_integral_f32(x, 11); }

T_FN vf64 t_frac_f64(vf64 x) { return x - t_integral_f64(x, 11); }
