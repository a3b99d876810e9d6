// Two neighbours of 16 bits as one 32-bit lane, as they lie in memory: the first is the lower half.
T_FN u32 t_pair_at(const void *p) {
    u32 r;
    __builtin_memcpy(&r, p, sizeof r);
    return r;
}

// A pair in every lane from values that bf16 holds, and from integers.
#define t_pair_of_bf16(first, second) ((vu32)(first) >> 16 | ((vu32)(second) & 0xffff0000))
#define t_pair_of_i16(first, second) (((vu32)(first) & 0xffff) | (vu32)(second) << 16)

// What the halves of pairs are worth.
#define t_first(a) ((vf32)((a) << 16))
#define t_second(a) ((vf32)((a) & 0xffff0000))
#define t_first_i16(a) ((vi32)((a) << 16) >> 16)
#define t_second_i16(a) ((vi32)(a) >> 16)

// c and the two products of a pair. The instruction takes denormals for zero and gives zero for them, and
// rounds twice as the other form does. Compilers differ in what they call it.

#if defined(__AVX512BF16__) && L == 16
T_FN vf32 t_dot_pair_bf16(vu32 a, vu32 b, vf32 c) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
}
#else
#define t_dot_pair_bf16(a, b, c) t_fma_f32(t_first(a), t_first(b), t_fma_f32(t_second(a), t_second(b), c))
#endif

// The same of integers, which wrap around.
#if defined(__AVX512VNNI__) && L == 16
#define t_add_pair(a, b, c) __asm__("vpdpwssd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b))
#elif (defined(__AVX512BW__) && L == 16) || (defined(__AVX2__) && L == 8)
#define t_add_pair(a, b, c) vi32 r; __asm__("vpmaddwd %2, %1, %0" : "=v"(r) : "v"(a), "v"(b)); c += r
#else
#define t_add_pair(a, b, c) c += t_first_i16(a) * t_first_i16(b) + t_second_i16(a) * t_second_i16(b)
#endif

T_FN vi32 t_dot_pair_i16(vu32 a, vu32 b, vi32 c) {
    t_add_pair(a, b, c);
    return c;
}

// Rows of pairs, turned; a row lies `step` elements after the one before.
// for T in bf16 i16
T_FN void t_load_pairs_$T(vu32 *a, const $T *p, i64 step, i64 n) {
    T_LANES a[i] = i < n ? t_load_u32((const u32 *)(p + i * step)) : (vu32){};
    for (int i = 0; i < n; i++) t_prefetch_far(p + i * step + 4 * L);
    t_turn_square((vf32 *)a);
}

typedef i16 t_halves __attribute__((vector_size(4 * L)));
typedef i8 t_halves_of_i8 __attribute__((vector_size(2 * L), aligned(1)));
typedef u8 t_halves_of_u8 __attribute__((vector_size(2 * L), aligned(1)));

// for T in i8 u8
T_FN void t_load_pairs_$T(vu32 *a, const $T *p, i64 step, i64 n) {
    for (int i = 0; i < L; i++, p += step) {
        a[i] = i < n ? (vu32)__builtin_convertvector(*(const t_halves_of_$T *)p, t_halves) : (vu32){};
        if (i < n) t_prefetch_far(p + 8 * L);
    }
    t_turn_square((vf32 *)a);
}
