// Across the lanes of one vector, in a fixed order: halves are combined until one lane is left.

// Lanes turned by half, a quarter … of the vector: lane i gets lane (i + k) mod L.
#if L == 16
#define T_TURN8 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7
#define T_TURN4 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3
#define T_TURN2 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1
#define T_TURN1 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0
#elif L == 8
#define T_TURN4 4, 5, 6, 7, 0, 1, 2, 3
#define T_TURN2 2, 3, 4, 5, 6, 7, 0, 1
#define T_TURN1 1, 2, 3, 4, 5, 6, 7, 0
#else
#define T_TURN2 2, 3, 0, 1
#define T_TURN1 1, 2, 3, 0
#endif
#if L == 16
#define T_TREE(v, step)                                                                              \
    v = step(v, __builtin_shufflevector(v, v, T_TURN8));                                             \
    v = step(v, __builtin_shufflevector(v, v, T_TURN4));                                             \
    v = step(v, __builtin_shufflevector(v, v, T_TURN2));                                             \
    v = step(v, __builtin_shufflevector(v, v, T_TURN1));
#elif L == 8
#define T_TREE(v, step)                                                                              \
    v = step(v, __builtin_shufflevector(v, v, T_TURN4));                                             \
    v = step(v, __builtin_shufflevector(v, v, T_TURN2));                                             \
    v = step(v, __builtin_shufflevector(v, v, T_TURN1));
#else
#define T_TREE(v, step)                                                                              \
    v = step(v, __builtin_shufflevector(v, v, T_TURN2));                                             \
    v = step(v, __builtin_shufflevector(v, v, T_TURN1));
#endif

// Lane i gets lane (i + k) mod L; k is a constant 8, 4, 2 or 1. With it any merge of two lanes can be made
// a tree.
// for T in f32 i32 u32 f64 i64 u64
T_FN v$T t_turn_$T(v$T v, int k) {
    v$T r = v;
    T_LANES r[i] = v[(i + k) & (L - 1)];
    return r;
}

#define t_plus(a, b) ((a) + (b))
#define t_times(a, b) ((a) * (b))

// for T in f32 i32 u32
T_FN $T t_sum_$T(v$T v) {
    T_TREE(v, t_plus)
    return v[0];
}

// for T in f32 i32 u32
T_FN $T t_prod_$T(v$T v) {
    T_TREE(v, t_times)
    return v[0];
}

// for N T in maximum/f32 minimum/f32 maximum/i32 minimum/i32 maximum/u32 minimum/u32
T_FN $T t_$N_of_$T(v$T v) {
    T_TREE(v, t_$N_$T)
    return v[0];
}

// 64-bit lanes, in the same order.
// for N T OP in sum/f64/+= prod/f64/*= sum/i64/+= prod/i64/*= sum/u64/+= prod/u64/*=
T_FN $T t_$N_$T(v$T v) {
    for (int k = L / 2; k; k /= 2)
        for (int i = 0; i < k; i++) v[i] $OP v[i + k];
    return v[0];
}

// for N T OP in maximum/f64/> minimum/f64/< maximum/i64/> minimum/i64/< maximum/u64/> minimum/u64/<
T_FN $T t_$N_of_$T(v$T v) {
    for (int i = 1; i < L; i++) v[0] = v[i] $OP v[0] || v[i] != v[i] ? v[i] : v[0];
    return v[0];
}

// The index of the best lane: the first among equals, and a NaN before everything.
// for N T OP in EXTREMES
static i64 t_$N_$T(v$T v, vi64 index) {
    int best = 0;
    for (int i = 1; i < L; i++) {
        int nan = v[i] != v[i], was = v[best] != v[best];
        int same = nan & was ? 1 : v[i] == v[best], better = nan > was || (!was && v[i] $OP v[best]);
        if (better || (same && index[i] < index[best])) best = i;
    }
    return index[best];
}

// Sums of f32 in f64: add a vector, read the lanes, or the total of all lanes.
#if 8 * L > T_WIDTH
T_FN t_carry_f32 t_carry_add_f32(t_carry_f32 s, vf32 x) {
    s.low += t_up(T_PART0(x));
    s.high += t_up(T_PART1(x));
    return s;
}
T_FN t_carry_f32 t_carry_merge_f32(t_carry_f32 s, t_carry_f32 o) {
    s.low += o.low;
    s.high += o.high;
    return s;
}
T_FN vf64 t_carry_lanes_f32_f64(t_carry_f32 s) { return T_JOIN(s.low, s.high); }
T_FN vf32 t_carry_lanes_f32_f32(t_carry_f32 s) { return T_JOIN(t_down(s.low), t_down(s.high)); }
T_FN f64 t_carry_whole_f32(t_carry_f32 s) {
    pf64 v = s.low + s.high;
    for (int k = T_PART / 2; k; k /= 2)
        for (int i = 0; i < k; i++) v[i] += v[i + k];
    return v[0];
}
#else
T_FN t_carry_f32 t_carry_add_f32(t_carry_f32 s, vf32 x) {
    s.low += t_up(x);
    return s;
}
T_FN t_carry_f32 t_carry_merge_f32(t_carry_f32 s, t_carry_f32 o) {
    s.low += o.low;
    return s;
}
T_FN vf64 t_carry_lanes_f32_f64(t_carry_f32 s) { return s.low; }
T_FN vf32 t_carry_lanes_f32_f32(t_carry_f32 s) { return t_down(s.low); }
T_FN f64 t_carry_whole_f32(t_carry_f32 s) {
    pf64 v = s.low;
    for (int k = T_PART / 2; k; k /= 2)
        for (int i = 0; i < k; i++) v[i] += v[i + k];
    return v[0];
}
#endif

// Adds f32 to sums of f64 in memory, part by part: a vector wider than a register would go over the stack.
T_FN void t_add_to_f64(f64 *p, vf32 x) {
    pf64 s;
    __builtin_memcpy(&s, p, sizeof s);
    s += t_up(T_PART0(x));
    __builtin_memcpy(p, &s, sizeof s);
#if 8 * L > T_WIDTH
    __builtin_memcpy(&s, p + T_PART, sizeof s);
    s += t_up(T_PART1(x));
    __builtin_memcpy(p + T_PART, &s, sizeof s);
#endif
}

T_FN void t_add_to_part_f64(f64 *p, i64 n, vf32 x) {
    t_store_part_f64(p, n, t_load_part_f64(p, n) + t_f64_of_f32(x));
}

T_FN vf32 t_carry_total_f32_f32(t_carry_f32 s) { return (vf32){} + (f32)t_carry_whole_f32(s); }

T_FN vf64 t_carry_total_f32_f64(t_carry_f32 s) { return (vf64){} + t_carry_whole_f32(s); }

// Sums of f64 that keep what each rounding leaves out: Knuth, The Art of Computer Programming 2, 4.2.2,
// theorem B.
T_FN t_carry_f64 t_carry_merge_f64(t_carry_f64 s, t_carry_f64 o) {
    const vf64 sum = s.sum + o.sum, taken = sum - s.sum;
    s.rest += o.rest + ((s.sum - (sum - taken)) + (o.sum - taken));
    s.sum = sum;
    return s;
}
T_FN t_carry_f64 t_carry_add_f64(t_carry_f64 s, vf64 x) {
    return t_carry_merge_f64(s, (t_carry_f64){x, (vf64){}});
}

// Behind an infinity or a NaN the rest says nothing.
T_FN vf64 t_carry_lanes_f64_f64(t_carry_f64 s) {
    return t_where_f64(t_eq_f64(s.sum - s.sum, (vf64){}), s.sum + s.rest, s.sum);
}
T_FN vf64 t_carry_total_f64_f64(t_carry_f64 s) {
    _Pragma("GCC unroll 4") for (int k = L / 2; k; k /= 2)
        s = t_carry_merge_f64(s, (t_carry_f64){t_turn_f64(s.sum, k), t_turn_f64(s.rest, k)});
    return t_carry_lanes_f64_f64(s);
}
