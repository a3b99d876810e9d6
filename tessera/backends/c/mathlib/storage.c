// Between the form in memory and the form that is computed with: `t_decode_*`, `t_encode_*`, `t_round_*`.

// for T in f64 f32 i64 i32 u64 u32
#define t_decode_$T(r) (r)
#define t_encode_$T(x) (x)

#if defined(__AVX512BW__) && L == 16
#define t_widen_u16(r) ((vu32)__builtin_ia32_pmovzxwd512_mask((vi16)(r), (vi32){}, (u16)-1))
#define t_widen_i16(r) ((vi32)__builtin_ia32_pmovsxwd512_mask((vi16)(r), (vi32){}, (u16)-1))
#elif defined(__AVX2__) && L == 8
#define t_widen_u16(r) ((vu32)__builtin_ia32_pmovzxwd256((vi16)(r)))
#define t_widen_i16(r) ((vi32)__builtin_ia32_pmovsxwd256((vi16)(r)))
#else
#define t_widen_u16(r) __builtin_convertvector(r, vu32)
#define t_widen_i16(r) __builtin_convertvector(r, vi32)
#endif

typedef char t_bytes __attribute__((vector_size(16)));

typedef i64 t_words __attribute__((vector_size(16)));

#if defined(__AVX512F__) && L == 16
#define t_widen_u8(r) ((vu32)__builtin_ia32_pmovzxbd512_mask((t_bytes)(r), (vi32){}, (u16)-1))
#define t_widen_i8(r) ((vi32)__builtin_ia32_pmovsxbd512_mask((t_bytes)(r), (vi32){}, (u16)-1))
#elif defined(__AVX2__) && L == 8
#define t_widen_u8(r) ((vu32)__builtin_ia32_pmovzxbd256((t_bytes)(t_words){(i64)(r)}))
#define t_widen_i8(r) ((vi32)__builtin_ia32_pmovsxbd256((t_bytes)(t_words){(i64)(r)}))
#else
#define t_widen_u8(r) __builtin_convertvector(r, vu32)
#define t_widen_i8(r) __builtin_convertvector(r, vi32)
#endif

#define t_narrow_16(x) __builtin_convertvector((vu32)(x), vu16)

// The low byte of every lane.
#if defined(__AVX512F__) && L == 16
#define t_narrow_8(x) ((vu8)__builtin_ia32_pmovdb512_mask((vi32)(x), (t_bytes){}, (u16)-1))
#elif L == 8
typedef u8 t_bytes_of_32 __attribute__((vector_size(4 * L)));
#define t_narrow_8(x)                                                                                \
    __builtin_shufflevector((t_bytes_of_32)(x), (t_bytes_of_32)(x), 0, 4, 8, 12, 16, 20, 24, 28)
#else
#define t_narrow_8(x) __builtin_convertvector((vu32)(x), vu8)
#endif

#define t_decode_i16(r) t_widen_i16(r)
#define t_encode_i16(x) ((vi16)t_narrow_16(x))

#define t_decode_i8(r) t_widen_i8(r)
#define t_encode_i8(x) ((vi8)t_narrow_8(x))

#define t_decode_u8(r) ((vi32)t_widen_u8(r))
#define t_encode_u8(x) t_narrow_8(x)

// A bool in memory is 0 or 1; any other byte counts as 1.
#define t_decode_b8(r) ((vi32)t_widen_u8(r) != 0)
#define t_encode_b8(x) t_narrow_8((x) & 1)

#define t_decode_bf16(r) ((vf32)(t_widen_u16(r) << 16))

// Nearest, ties to even, as bits; a NaN stays one.
T_FN vu32 t_bits_bf16(vf32 x) {
    vu32 b = (vu32)x, r = b + 0x7fff + ((b >> 16) & 1);
    return t_where_u32(x == x, r, b | 0x400000);
}

T_FN vu16 t_encode_bf16(vf32 x) { return t_narrow_16(t_bits_bf16(x) >> 16); }

T_FN vf32 t_round_bf16(vf32 x) { return (vf32)(t_bits_bf16(x) & 0xffff0000); }

#if defined(__AVX512F__) && L == 16
#define t_decode_f16(r) ((vf32)__builtin_ia32_vcvtph2ps512_mask((vi16)(r), (vf32){}, (u16)-1, 4))
#define t_encode_f16(x) ((vu16)__builtin_ia32_vcvtps2ph512_mask(x, 0, (vi16){}, (u16)-1))
#elif defined(__F16C__) && L == 8
#define t_decode_f16(r) __builtin_ia32_vcvtph2ps256((vi16)(r))
#define t_encode_f16(x) ((vu16)__builtin_ia32_vcvtps2ph256(x, 0))
#else
// A half shifted into place is 2^112 times too small, denormals included.
T_FN vf32 t_decode_f16(vu16 r) {
    vu32 h = __builtin_convertvector(r, vu32), a = (h & 0x7fff) << 13;
    vu32 v = (vu32)((vf32)a * 0x1p+112f);
    v = t_where_u32((h & 0x7fff) >= 0x7c00, a | 0x7f800000, v);
    return (vf32)(v | (h & 0x8000) << 16);
}
T_FN vu16 t_encode_f16(vf32 x) {
    vu32 b = (vu32)x, a = b & 0x7fffffff;
    vf32 m = (vf32)a;
    vu32 v = ((a + 0xfff + ((a >> 13) & 1)) >> 13) - (112 << 10);
    v = t_where_u32(m < 0x1p-14f, (vu32)(m + 0.5f) - 0x3f000000, v);
    v = t_where_u32(m >= 65520.0f, (vu32){} + 0x7c00, v);
    v = t_where_u32(x == x, v, (vu32){} + 0x7e00);
    return __builtin_convertvector(v | (b >> 16 & 0x8000), vu16);
}
#endif

T_FN vf32 t_round_f16(vf32 x) { return t_decode_f16(t_encode_f16(x)); }

// Codes shifted into place are 2^120 times too small, denormals included; all ones is NaN, there is no
// infinity.
T_FN vf32 t_value_e4m3(vu32 c) {
    vu32 a = c & 0x7f;
    vf32 v = (vf32)(a << 20) * 0x1p+120f;
    v = t_where_f32(a == 0x7f, (vf32)((vu32){} + 0x7fc00000), v);
    return (vf32)((vu32)v | (c & 0x80) << 24);
}

// Nearest, ties to even; beyond 448, infinity included, the largest value.
T_FN vu32 t_code_e4m3(vf32 x) {
    vu32 b = (vu32)x;
    vf32 m = t_atmost_f32((vf32)(b & 0x7fffffff), T_K(448.0f));
    vu32 a = (vu32)m, v = ((a + 0x7ffff + ((a >> 20) & 1)) >> 20) - (120 << 3);
    v = t_where_u32(m < 0x1p-6f, (vu32)(m + 0x1p+14f) - 0x46800000, v);
    v = t_where_u32(x == x, v, (vu32){} + 0x7f);
    return v | (b >> 24 & 0x80);
}

T_FN vf32 t_value_e5m2(vu32 c) {
    vu32 a = (c & 0x7f) << 21;
    vu32 v = (vu32)((vf32)a * 0x1p+112f);
    v = t_where_u32((c & 0x7f) >= 0x7c, a | 0x7f800000, v);
    return (vf32)(v | (c & 0x80) << 24);
}

// Nearest, ties to even; beyond 57344, infinity included, the largest finite value.
T_FN vu32 t_code_e5m2(vf32 x) {
    vu32 b = (vu32)x;
    vf32 m = t_atmost_f32((vf32)(b & 0x7fffffff), T_K(57344.0f));
    vu32 a = (vu32)m, v = ((a + 0xfffff + ((a >> 21) & 1)) >> 21) - (112 << 2);
    v = t_where_u32(m < 0x1p-14f, (vu32)(m + 0x1p+7f) - 0x43000000, v);
    v = t_where_u32(x == x, v, (vu32){} + 0x7f);
    return v | (b >> 24 & 0x80);
}

// for T in e4m3 e5m2
T_FN vf32 t_decode_$T(vu8 r) { return t_value_$T(t_widen_u8(r)); }

// for T in e4m3 e5m2
T_FN vu8 t_encode_$T(vf32 x) { return t_narrow_8(t_code_$T(x)); }

// for T in e4m3 e5m2
T_FN vf32 t_round_$T(vf32 x) { return t_value_$T(t_code_$T(x)); }
