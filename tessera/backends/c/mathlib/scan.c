// Lanes moved up by 1, 2, 4 or 8: the first ones come from another vector, the start of a scan.

#if L == 16
#define T_MOVE8 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23
#define T_MOVE4 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27
#define T_MOVE2 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
#define T_MOVE1 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
#define T_MOVE_END 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15
#elif L == 8
#define T_MOVE4 4, 5, 6, 7, 8, 9, 10, 11
#define T_MOVE2 6, 7, 8, 9, 10, 11, 12, 13
#define T_MOVE1 7, 8, 9, 10, 11, 12, 13, 14
#define T_MOVE_END 7, 7, 7, 7, 7, 7, 7, 7
#elif L == 4
#define T_MOVE2 2, 3, 4, 5
#define T_MOVE1 3, 4, 5, 6
#define T_MOVE_END 3, 3, 3, 3
#endif

// The same for a part of 64-bit lanes.
#if T_PART == 16
#define T_PART_MOVE8 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23
#define T_PART_MOVE4 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27
#define T_PART_MOVE2 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29
#define T_PART_MOVE1 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30
#define T_PART_MOVE_END 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15
#elif T_PART == 8
#define T_PART_MOVE4 4, 5, 6, 7, 8, 9, 10, 11
#define T_PART_MOVE2 6, 7, 8, 9, 10, 11, 12, 13
#define T_PART_MOVE1 7, 8, 9, 10, 11, 12, 13, 14
#define T_PART_MOVE_END 7, 7, 7, 7, 7, 7, 7, 7
#elif T_PART == 4
#define T_PART_MOVE2 2, 3, 4, 5
#define T_PART_MOVE1 3, 4, 5, 6
#define T_PART_MOVE_END 3, 3, 3, 3
#elif T_PART == 2
#define T_PART_MOVE1 1, 2
#define T_PART_MOVE_END 1, 1
#endif

// for T K in f32/1 f32/2 f32/4 f32/8 i32/1 i32/2 i32/4 i32/8 u32/1 u32/2 u32/4 u32/8
T_FN v$T t_move$K_$T(v$T v, v$T start) { return __builtin_shufflevector(start, v, T_MOVE$K); }

// for T K in f64/1 f64/2 f64/4 f64/8 i64/1 i64/2 i64/4 i64/8 u64/1 u64/2 u64/4 u64/8
#if T_PART == L
T_FN v$T t_move$K_$T(v$T v, v$T start) { return __builtin_shufflevector(start, v, T_PART_MOVE$K); }
#elif T_PART == $K
T_FN v$T t_move$K_$T(v$T v, v$T start) { return T_JOIN(T_PART0(start), T_PART0(v)); }
#else
T_FN v$T t_move$K_$T(v$T v, v$T start) {
    const p$T low = T_PART0(v);
    return T_JOIN(__builtin_shufflevector(T_PART0(start), low, T_PART_MOVE$K),
                  __builtin_shufflevector(low, T_PART1(v), T_PART_MOVE$K));
}
#endif

// The last lane in every lane.
// for T in f32 i32 u32
T_FN v$T t_last_$T(v$T v) { return __builtin_shufflevector(v, v, T_MOVE_END); }

// for T in f64 i64 u64
#if T_PART == L
T_FN v$T t_last_$T(v$T v) { return __builtin_shufflevector(v, v, T_PART_MOVE_END); }
#else
T_FN v$T t_last_$T(v$T v) {
    const p$T high = T_PART1(v), end = __builtin_shufflevector(high, high, T_PART_MOVE_END);
    return T_JOIN(end, end);
}
#endif
