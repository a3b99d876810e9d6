// Rows of one matrix added to rows of another.

#ifdef _OPENMP
extern int omp_get_max_threads(void);
#define t_threads() omp_get_max_threads()
#else
#define t_threads() 1
#endif

// The numbers of `n` rows behind the place that each goes to, `at[j * step]`, sorted: of one place they stay
// in order. They are in `one` or in `two`, which are both written; null where a place is none of `size`.
static u64 *t_by_place(u64 *one, u64 *two, const i64 *at, i64 step, i64 n, i64 size) {
    int outside = 0;
    for (i64 j = 0; j < n; j++) {
        outside |= (u64)at[j * step] >= (u64)size;
        one[j] = (u64)at[j * step] << 32 | (u64)j;
    }
    if (outside) return 0;
    for (int digit = 32; digit < 64 && (u64)(size - 1) >> (digit - 32); digit += 8) {
        i64 next[256] = {}, sum = 0;
        for (i64 j = 0; j < n; j++) next[one[j] >> digit & 255]++;
        for (int k = 0; k < 256; k++) {
            const i64 count = next[k];
            next[k] = sum;
            sum += count;
        }
        for (i64 j = 0; j < n; j++) two[next[one[j] >> digit & 255]++] = one[j];
        u64 *const sorted = two;
        two = one;
        one = sorted;
    }
    return one;
}

// The rows of one place, added in order in registers.
// for T V in f64/vf64 f32/vf32 bf16/vf32 f16/vf32 i64/vi64 i32/vi32
static void t_add_to_row_$T($T *x, const $T *rows, i64 step, const u64 *order, i64 count, i64 width) {
    i64 c = 0;
    for (; c + 4 * L <= width; c += 4 * L) {
        $V s0 = t_load_$T(x + c), s1 = t_load_$T(x + c + L);
        $V s2 = t_load_$T(x + c + 2 * L), s3 = t_load_$T(x + c + 3 * L);
        for (i64 j = 0; j < count; j++) {
            const $T *const row = rows + (i64)(u32)order[j] * step + c;
            s0 += t_load_$T(row);
            s1 += t_load_$T(row + L);
            s2 += t_load_$T(row + 2 * L);
            s3 += t_load_$T(row + 3 * L);
        }
        t_store_$T(x + c, s0);
        t_store_$T(x + c + L, s1);
        t_store_$T(x + c + 2 * L, s2);
        t_store_$T(x + c + 3 * L, s3);
    }
    for (; c < width; c += L) {
        const i64 n = width - c < L ? width - c : L;
        $V s = t_load_part_$T(x + c, n);
        for (i64 j = 0; j < count; j++) s += t_load_part_$T(rows + (i64)(u32)order[j] * step + c, n);
        t_store_part_$T(x + c, n, s);
    }
}

// The arguments: the addresses of the matrices that are added to, dense, of the places, of the added rows,
// and of 16 bytes for each of these; how many matrices, their rows, and the elements of a row; how many rows
// are added to each; the elements from one added row to the next, from those of one matrix to those of the
// next, and from one place to the next. Threads share out places and blocks of columns: whoever has one adds
// all its rows in order, so that the number of threads changes no bit.
// for T in f64 f32 bf16 f16 i64 i32
static int t_add_rows_$T(const i64 *a) {
    $T *const x = ($T *)a[0];
    const $T *const rows = (const $T *)a[2];
    u64 *const room = (u64 *)a[3];
    const i64 many = a[4], size = a[5], width = a[6], n = a[7], step = a[8], apart = a[9];
    const i64 work = many * width * n;
    if (!work) return 0;
    if (!(a[1] && rows)) return 4;
    const u64 *const order = t_by_place(room, room + n, (const i64 *)a[1], a[10], n, size);
    if (!order) return 2;
    const i64 blocks = (width + 255) / 256, most = work >> 13;
    const i64 wanted = 4 * (i64)t_threads() / (many * blocks) + 1;
    const i64 parts = work < 16384 ? 1 : wanted < most ? wanted : most;
#pragma omp parallel for schedule(dynamic) if (work >= 16384)
    for (i64 task = 0; task < many * blocks * parts; task++) {
        const i64 at = task / blocks / parts, part = task / blocks % parts, c = task % blocks * 256;
        const i64 end = n * (part + 1) / parts, some = width - c < 256 ? width - c : 256;
        i64 j = n * part / parts;
        while (j && j < end && order[j] >> 32 == order[j - 1] >> 32) j++;
        while (j < end) {
            const i64 first = j, place = (i64)(order[j] >> 32);
            for (j++; j < n && (i64)(order[j] >> 32) == place;) j++;
            $T *const row = x + (at * size + place) * width + c;
            t_add_to_row_$T(row, rows + at * apart + c, step, order + first, j - first, some);
        }
    }
    return 0;
}
