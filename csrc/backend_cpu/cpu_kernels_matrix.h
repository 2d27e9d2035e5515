/* cpu_kernels_matrix.h: the innermost loops of matrix products, included by cpu_kernels_body.h
 * once for each tier.
 *
 * A panel is PANEL columns of B, k-major: element (p, j) at panel[p * PANEL + j]. gemm_tile holds
 * all sums of up to TILE_ROWS rows and one panel in registers; A is read where it lies, element
 * (r, p) at a[r * row + p * step]. Every sum is one chain of multiply-adds over p: a row's bits
 * depend neither on how many rows go with it nor on their place in the tile. */

#if defined(__AVX512F__)
typedef __m512 vec;
#define VEC 16
#define TILE_ROWS 12
#define vec_load(p) _mm512_loadu_ps(p)
#define vec_store(p, v) _mm512_storeu_ps(p, v)
#define vec_all(x) _mm512_set1_ps(x)
#define vec_add(a, b) _mm512_add_ps(a, b)
#define vec_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#elif defined(__AVX2__)
typedef __m256 vec;
#define VEC 8
#define TILE_ROWS 6
#define vec_load(p) _mm256_loadu_ps(p)
#define vec_store(p, v) _mm256_storeu_ps(p, v)
#define vec_all(x) _mm256_set1_ps(x)
#define vec_add(a, b) _mm256_add_ps(a, b)
#define vec_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#else
#define VEC 4
#define TILE_ROWS 4
typedef struct vec {
    float lane[VEC];
} vec;
static inline vec vec_load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vec_store(float *p, vec v) {
    memcpy(p, &v, sizeof v);
}
static inline vec vec_all(float x) {
    return (vec){{x, x, x, x}};
}
static inline vec vec_add(vec a, vec b) {
    for (int l = 0; l < VEC; l++) {
        a.lane[l] += b.lane[l];
    }
    return a;
}
static inline vec vec_fma(vec a, vec b, vec c) { /* rounds twice */
    for (int l = 0; l < VEC; l++) {
        c.lane[l] += a.lane[l] * b.lane[l];
    }
    return c;
}
#endif
#define PANEL (2 * VEC)
#if VEC == 8
#define UNROLL_K _Pragma("GCC unroll 4") /* 5 % there, nothing with longer vectors */
#else
#define UNROLL_K
#endif
#define ROWS_AHEAD 16    /* packing: how far ahead memory is asked for */
#define COLUMNS_AHEAD 64 /* floats */

/* `rows` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void tile_of(const int rows, float *c, int64_t ldc,
                                                          const float *a, int64_t row, int64_t step,
                                                          const float *b, int k, const float *start,
                                                          int add) {
    vec sum[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        sum[r][0] = start != NULL ? vec_load(start) : vec_all(0.0f);
        sum[r][1] = start != NULL ? vec_load(start + VEC) : vec_all(0.0f);
        __builtin_prefetch(c + r * ldc, 1);
        __builtin_prefetch(c + r * ldc + PANEL - 1, 1);
    }
    /* one pointer for every third row: the others are one or two steps away from it */
    const float *a0 = a, *a3 = a + 3 * row, *a6 = a + 6 * row, *a9 = a + 9 * row;
    UNROLL_K
    for (int p = 0; p < k; p++) {
        const vec b0 = vec_load(b), b1 = vec_load(b + VEC);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const float *at = r < 3 ? a0 : r < 6 ? a3 : r < 9 ? a6 : a9;
            const vec x = vec_all(at[(r % 3) * row]);
            sum[r][0] = vec_fma(x, b0, sum[r][0]);
            sum[r][1] = vec_fma(x, b1, sum[r][1]);
        }
        a0 += step;
        a3 += step;
        a6 += step;
        a9 += step;
        b += PANEL;
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        float *out = c + r * ldc;
        vec_store(out, add ? vec_add(sum[r][0], vec_load(out)) : sum[r][0]);
        vec_store(out + VEC, add ? vec_add(sum[r][1], vec_load(out + VEC)) : sum[r][1]);
    }
}

static void kernel_gemm_tile(float *c, int64_t ldc, const float *a, int64_t row, int64_t step,
                             const float *b, int k, int rows, const float *start, int add) {
#define ROWS_CASE(n)                                                                               \
    case n:                                                                                        \
        tile_of(n, c, ldc, a, row, step, b, k, start, add);                                        \
        break
    switch (rows) {
        ROWS_CASE(1);
        ROWS_CASE(2);
        ROWS_CASE(3);
        ROWS_CASE(4);
#if TILE_ROWS > 4
        ROWS_CASE(5);
        ROWS_CASE(6);
#endif
#if TILE_ROWS > 6
        ROWS_CASE(7);
        ROWS_CASE(8);
        ROWS_CASE(9);
        ROWS_CASE(10);
        ROWS_CASE(11);
        ROWS_CASE(12);
#endif
    default:
        break;
    }
#undef ROWS_CASE
}

/* panel (p, j) = src[p * ld + j] for j < cols, 0 behind: B as it is */
static void kernel_pack_rows(float *panel, const float *src, int64_t ld, int cols, int k) {
    if (cols == PANEL) {
        for (int p = 0; p < k; p++) { /* rows are pages apart: the hardware does not look ahead */
            __builtin_prefetch(src + ROWS_AHEAD * ld);
            if (VEC > 8) {
                __builtin_prefetch(src + ROWS_AHEAD * ld + VEC);
            }
            vec_store(panel, vec_load(src));
            vec_store(panel + VEC, vec_load(src + VEC));
            panel += PANEL;
            src += ld;
        }
        return;
    }
    for (int p = 0; p < k; p++) {
        memset(panel, 0, PANEL * sizeof *panel);
        memcpy(panel, src, (size_t)cols * sizeof *panel);
        panel += PANEL;
        src += ld;
    }
}

/* Blocks of VEC x VEC: out[p * PANEL + j] = src[j * ld + p]. */
#if defined(__AVX512F__)
static inline void transpose_block(float *out, const float *src, int64_t ld) {
    __m512 r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        r[i] = _mm512_loadu_ps(src + i * ld);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* r[i + c]: column c of each 128-bit lane, rows i .. i + 3 */
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512 lo01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x44);
        const __m512 lo23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x44);
        const __m512 hi01 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xEE);
        const __m512 hi23 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xEE);
        _mm512_storeu_ps(out + c * PANEL, _mm512_shuffle_f32x4(lo01, lo23, 0x88));
        _mm512_storeu_ps(out + (4 + c) * PANEL, _mm512_shuffle_f32x4(lo01, lo23, 0xDD));
        _mm512_storeu_ps(out + (8 + c) * PANEL, _mm512_shuffle_f32x4(hi01, hi23, 0x88));
        _mm512_storeu_ps(out + (12 + c) * PANEL, _mm512_shuffle_f32x4(hi01, hi23, 0xDD));
    }
}
#elif defined(__AVX2__)
static inline void transpose_block(float *out, const float *src, int64_t ld) {
    __m256 r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        r[i] = _mm256_loadu_ps(src + i * ld);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        _mm256_storeu_ps(out + c * PANEL, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
        _mm256_storeu_ps(out + (4 + c) * PANEL, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
    }
}
#else
static inline void transpose_block(float *out, const float *src, int64_t ld) {
    for (int j = 0; j < VEC; j++) {
        for (int p = 0; p < VEC; p++) {
            out[p * PANEL + j] = src[j * ld + p];
        }
    }
}
#endif

/* panel (p, j) = src[j * ld + p] for j < cols, 0 behind: B^T as it is */
static void kernel_pack_columns(float *panel, const float *src, int64_t ld, int cols, int k) {
    if (cols < PANEL) {
        memset(panel, 0, (size_t)k * PANEL * sizeof *panel);
    }
    for (int p = 0; p < k; p += VEC) {
        int depth = k - p < VEC ? k - p : VEC;
        float *out = panel + (size_t)p * PANEL;
        for (int j = 0; j < cols; j += VEC) {
            int width = cols - j < VEC ? cols - j : VEC;
            if (depth == VEC && width == VEC) {
                for (int i = 0; i < VEC; i++) {
                    __builtin_prefetch(src + (j + i) * ld + p + COLUMNS_AHEAD);
                }
                transpose_block(out + j, src + j * ld + p, ld);
                continue;
            }
            for (int i = 0; i < width; i++) {
                for (int q = 0; q < depth; q++) {
                    out[q * PANEL + j + i] = src[(j + i) * ld + p + q];
                }
            }
        }
    }
}

/* Groups of TILE_ROWS columns of src, each k-major and `stride` floats from the one before: out[g *
 * stride + p * TILE_ROWS + r] = src[p * ld + g * TILE_ROWS + r], what lies behind `cols` is left as
 * it is. A^T for gemm_tile: row = 1, step = TILE_ROWS. Rows are read side by side, from end to end,
 * in fours: that many of a group fill whole cache lines. */
#define GROUP_K 4
static void kernel_pack_groups(float *out, int64_t stride, const float *src, int64_t ld, int cols,
                               int k) {
    for (int p = 0; p < k; p += GROUP_K) {
        const float *from = src + p * ld;
        float *to = out + (int64_t)p * TILE_ROWS;
        int depth = k - p < GROUP_K ? k - p : GROUP_K, g = 0;
        for (; depth == GROUP_K && g + TILE_ROWS <= cols; g += TILE_ROWS) {
#pragma GCC unroll 4
            for (int q = 0; q < GROUP_K; q++) {
                memcpy(to + q * TILE_ROWS, from + g + q * ld, TILE_ROWS * sizeof *to);
            }
            to += stride;
        }
        for (; g < cols; g += TILE_ROWS) {
            int width = cols - g < TILE_ROWS ? cols - g : TILE_ROWS;
            for (int q = 0; q < depth; q++) {
                memcpy(to + q * TILE_ROWS, from + g + q * ld, (size_t)width * sizeof *to);
            }
            to += stride;
        }
    }
}
