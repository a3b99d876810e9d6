// Conversions between computed values. To integers: toward zero, saturating, NaN gives 0. Integers wrap.

T_FN vf64 t_f64_of_f32(vf32 x) { return T_JOIN(t_up(T_PART0(x)), t_up(T_PART1(x))); }

T_FN vf32 t_f32_of_f64(vf64 x) { return T_JOIN(t_down(T_PART0(x)), t_down(T_PART1(x))); }

#define t_f32_of_i32(x) __builtin_convertvector(x, vf32)

#define t_i32_of_i64(x) t_mask_of_parts((pi64)T_PART0(x), (pi64)T_PART1(x))

#define t_i64_of_i32(x) __builtin_convertvector(x, vi64)

// The high and low halves are exact in f32, and their sum rounds once.
T_FN vf32 t_f32_of_u32(vu32 x) {
    vf32 high = __builtin_convertvector((vi32)(x >> 16), vf32);
    vf32 low = __builtin_convertvector((vi32)(x & 0xffff), vf32);
    return high * 0x1p+16f + low;
}

#define t_f64_of_i32(x) __builtin_convertvector(x, vf64)

// An integer that fits 32 bits, as an index does, takes the short way; others go lane by lane.
// for T in f32 f64
T_FN v$T t_$T_of_i64(vi64 x) {
    vi32 low = t_i32_of_i64(x);
    v$T r = t_$T_of_i32(low);
    if (__builtin_expect(t_any(t_ne_i64(t_i64_of_i32(low), x)), 0)) T_LANES r[i] = ($T)x[i];
    return r;
}

// for T in f32 f64
T_FN v$T t_$T_of_u64(vu64 x) {
    v$T r = {};
    T_LANES r[i] = ($T)x[i];
    return r;
}

// The bits of a 32-bit integer below those of 2^52.
T_FN vf64 t_f64_of_u32(vu32 x) {
    return (vf64)(__builtin_convertvector(x, vu64) | 0x4330000000000000) - 0x1p+52;
}

T_FN vi32 t_i32_of_f32(vf32 x) {
    vi32 r = __builtin_convertvector(t_atleast_f32(x, T_K(-0x1p+31f)), vi32);
    return t_where_i32(x >= 0x1p+31f, (vi32){} + 0x7fffffff, r) & (x == x);
}

T_FN vi32 t_i32_of_f64(vf64 x) {
    vi32 r = {};
    T_LANES r[i] = x[i] >= 0x1p+31    ? 0x7fffffff
                   : x[i] > -0x1p+31 ? (i32)x[i]
                   : x[i] == x[i]    ? -0x7fffffff - 1
                                     : 0;
    return r;
}

// for T in f32 f64
T_FN vu32 t_u32_of_$T(v$T x) {
    vu32 r = {};
    T_LANES r[i] = x[i] >= 0x1p+32f ? 0xffffffffu : x[i] > 0 ? (u32)(i64)x[i] : 0;
    return r;
}

// for T in f32 f64
T_FN vi64 t_i64_of_$T(v$T x) {
    vi64 r = {};
    T_LANES r[i] = x[i] >= 0x1p+63f    ? 0x7fffffffffffffff
                   : x[i] > -0x1p+63f ? (i64)x[i]
                   : x[i] == x[i]     ? -0x7fffffffffffffff - 1
                                      : 0;
    return r;
}

// for T in f32 f64
T_FN vu64 t_u64_of_$T(v$T x) {
    vu64 r = {};
    T_LANES r[i] = x[i] >= 0x1p+64f ? 0xffffffffffffffffu : x[i] > 0 ? (u64)x[i] : 0;
    return r;
}

// for T LOW HIGH in i16/-32768.0f/32767.0f i8/-128.0f/127.0f u8/0.0f/255.0f
T_FN vi32 t_$T_of_f32(vf32 x) {
    return __builtin_convertvector(t_atmost_f32(t_atleast_f32(x, T_K($LOW)), T_K($HIGH)), vi32) & (x == x);
}

// for T LOW HIGH in i16/-32768/32767 i8/-128/127 u8/0/255
T_FN vi32 t_$T_of_f64(vf64 x) {
    vi32 r = {};
    T_LANES r[i] = x[i] >= $HIGH ? $HIGH : x[i] > $LOW ? (i32)x[i] : x[i] == x[i] ? $LOW : 0;
    return r;
}

// Integers keep their low bits.
#define t_wrap_i16(x) ((x) << 16 >> 16)
#define t_wrap_i8(x) ((x) << 24 >> 24)
#define t_wrap_u8(x) ((x) & 255)

#define t_i64_of_u32(x) ((vi64)__builtin_convertvector(x, vu64))

// Truth values.
#define t_f32_of_m(m) ((vf32)((m) & 0x3f800000))

#define t_i32_of_m(m) ((m) & 1)

#define t_f64_of_m(m) __builtin_convertvector((m) & 1, vf64)

#define t_i64_of_m(m) __builtin_convertvector((m) & 1, vi64)

// for T in f32 i32 u32
#define t_m_of_$T(x) ((x) != 0)

// for T in f64 i64 u64
#define t_m_of_$T(x) t_ne_$T(x, (v$T){})
