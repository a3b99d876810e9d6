// Two neighbours in bf16 as one 32-bit lane, as they lie in memory: the first is the lower half.
T_FN u32 t_pair_at(const bf16 *p) {
    u32 r;
    __builtin_memcpy(&r, p, sizeof r);
    return r;
}

// A pair in every lane from values that bf16 holds.
#define t_pair_of(first, second) ((vu32)(first) >> 16 | ((vu32)(second) & 0xffff0000))

// What the halves of pairs are worth.
#define t_first(a) ((vf32)((a) << 16))
#define t_second(a) ((vf32)((a) & 0xffff0000))

// c and the two products of a pair. The instruction takes denormals for zero and gives zero for them, and
// rounds twice as the other form does. Compilers differ in what they call it.

#if defined(__AVX512BF16__) && L == 16
T_FN vf32 t_dot_pair(vu32 a, vu32 b, vf32 c) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
}
#else
#define t_dot_pair(a, b, c) t_fma_f32(t_first(a), t_first(b), t_fma_f32(t_second(a), t_second(b), c))
#endif

// Rows of pairs, turned; a row lies `step` elements after the one before.
T_FN void t_load_pairs(vu32 *a, const bf16 *p, i64 step, i64 n) {
    T_LANES a[i] = i < n ? t_load_u32((const u32 *)(p + i * step)) : (vu32){};
    for (int i = 0; i < n; i++) t_prefetch_far(p + i * step + 4 * L);
    t_turn_square((vf32 *)a);
}
