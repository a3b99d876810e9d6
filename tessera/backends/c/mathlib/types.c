// The element types. `L`, the number of lanes, is defined before this text; it is 4, 8 or 16.
typedef float f32;
typedef double f64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u8 b8, e4m3, e5m2;  // bool as 0 or 1, and the two 8-bit floats
typedef u16 f16, bf16;

// Every value has L lanes. A mask has 32-bit lanes that are 0 or -1; it is also how a bool is computed
// with.
typedef f32 vf32 __attribute__((vector_size(4 * L)));
typedef i32 vi32 __attribute__((vector_size(4 * L)));
typedef u32 vu32 __attribute__((vector_size(4 * L)));
typedef f64 vf64 __attribute__((vector_size(8 * L)));
typedef i64 vi64 __attribute__((vector_size(8 * L)));
typedef u64 vu64 __attribute__((vector_size(8 * L)));
typedef i16 vi16 __attribute__((vector_size(2 * L)));
typedef u16 vu16 __attribute__((vector_size(2 * L)));
typedef i8 vi8 __attribute__((vector_size(L)));
typedef u8 vu8 __attribute__((vector_size(L)));
typedef vi32 vm;

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define T_WIDTH 64
#elif defined(__AVX2__)
#define T_WIDTH 32
#else
#define T_WIDTH 16
#endif

// 64-bit lanes are computed in parts that fit a register: one part, or two halves.
#if 8 * L > T_WIDTH
#define T_PART (L / 2)
#if L == 16
#define T_LOW 0, 1, 2, 3, 4, 5, 6, 7
#define T_HIGH 8, 9, 10, 11, 12, 13, 14, 15
#define T_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#elif L == 8
#define T_LOW 0, 1, 2, 3
#define T_HIGH 4, 5, 6, 7
#define T_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#else
#define T_LOW 0, 1
#define T_HIGH 2, 3
#define T_EVEN 0, 2, 4, 6
#endif
#define T_PART0(v) __builtin_shufflevector(v, v, T_LOW)
#define T_PART1(v) __builtin_shufflevector(v, v, T_HIGH)
#define T_JOIN(a, b) __builtin_shufflevector(a, b, T_LOW, T_HIGH)
#else
#define T_PART L
#define T_PART0(v) (v)
#define T_PART1(v) (v)
#define T_JOIN(a, b) (a)
#endif
typedef f64 pf64 __attribute__((vector_size(8 * T_PART)));
typedef i64 pi64 __attribute__((vector_size(8 * T_PART)));
typedef u64 pu64 __attribute__((vector_size(8 * T_PART)));
typedef f32 pf32 __attribute__((vector_size(4 * T_PART)));
typedef i32 pi32 __attribute__((vector_size(4 * T_PART)));

#define T_FN static inline __attribute__((always_inline))
#define T_LANES _Pragma("GCC unroll 16") for (int i = 0; i < L; i++)
#define T_K(c) ((vf32){} + (c))
#define T_KP(c) ((pf64){} + (c))
#if L == 16
#define T_IOTA ((vi32){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
#elif L == 8
#define T_IOTA ((vi32){0, 1, 2, 3, 4, 5, 6, 7})
#else
#define T_IOTA ((vi32){0, 1, 2, 3})
#endif

// A sum of f32 lanes carried in f64, each part in a register of its own.
#if 8 * L > T_WIDTH
typedef struct { pf64 low, high; } t_carry_f32;
#else
typedef struct { pf64 low; } t_carry_f32;
#endif
// A sum of f64 lanes, and what its roundings left out.
typedef struct { vf64 sum, rest; } t_carry_f64;
