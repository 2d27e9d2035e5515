/* cpu_i8_avx512.c: int8 tiles of 12 x 32 in 512-bit registers: vpdpbusd where there is VNNI, else
 * vpmaddubsw with activations of 7 bits (sums of two products fit 16 bits: 2 * 127 * 127). */
#include "backend_cpu/cpu_lowp.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <string.h>

#define TARGET "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
#define WIDE __attribute__((target(TARGET)))
#define WIDE_VNNI __attribute__((target(TARGET ",avx512vnni")))
#define TILE_ROWS 12

/* Least and greatest of a row (and 0), and the greatest magnitude as an integer, by which infinity
 * and NaN come last. */
typedef struct row_range {
    __m512 least, greatest;
    __m512i magnitude;
} row_range;

WIDE static inline void range_add(row_range *range, __m512 v) {
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF));
    range->least = _mm512_min_ps(range->least, v);
    range->greatest = _mm512_max_ps(range->greatest, v);
    range->magnitude = _mm512_max_epi32(range->magnitude, bits);
}

WIDE static inline row_range range_of(const float *x, int32_t k) {
    const row_range none = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_si512()};
    row_range a = none, b = none; /* two, so that one need not wait for the other */
    int32_t i = 0;
    for (; i + 32 <= k; i += 32) {
        range_add(&a, _mm512_loadu_ps(x + i));
        range_add(&b, _mm512_loadu_ps(x + i + 16));
    }
    for (; i < k; i += 16) {
        const __mmask16 part = k - i >= 16 ? 0xFFFF : (__mmask16)((1u << (k - i)) - 1);
        range_add(&a, _mm512_maskz_loadu_ps(part, x + i));
    }
    a.least = _mm512_min_ps(a.least, b.least);
    a.greatest = _mm512_max_ps(a.greatest, b.greatest);
    a.magnitude = _mm512_max_epi32(a.magnitude, b.magnitude);
    return a;
}

/* Rounded products of 32 floats in 16 bits, in quarters that packing to 8 bits sorts on. */
WIDE static inline __m512i halves_of(const float *x, __m512 factor, __m512i zero, __m512i top) {
    const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), factor));
    const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16), factor));
    return _mm512_min_epi16(_mm512_add_epi16(_mm512_packs_epi32(low, high), zero), top);
}

WIDE void cpu_i8_quantize_avx512(uint8_t *q, cpu_i8_row *row, const float *x, int32_t k,
                                 int32_t padded, int levels) {
    const row_range range = range_of(x, k);
    const int finite = _mm512_cmpge_epi32_mask(range.magnitude, _mm512_set1_epi32(0x7F800000)) == 0;
    float inverse = cpu_i8_row_init(row, _mm512_reduce_min_ps(range.least),
                                    _mm512_reduce_max_ps(range.greatest), finite, levels);
    if (inverse == 0.0f) {
        memset(q, 0, (size_t)padded);
        return;
    }
    /* x >= the least, so n >= 0 without asking; levels + 1 can come out where both parts of the
     * sum are rounded up */
    const __m512 factor = _mm512_set1_ps(inverse);
    const __m512i zero = _mm512_set1_epi16((short)row->zero);
    const __m512i top = _mm512_set1_epi16((short)levels);
    const __m512i sorted = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    int32_t i = 0;
    for (; i + 64 <= k; i += 64) {
        const __m512i low = halves_of(x + i, factor, zero, top);
        const __m512i high = halves_of(x + i + 32, factor, zero, top);
        const __m512i bytes = _mm512_packus_epi16(low, high);
        _mm512_storeu_si512(q + i, _mm512_permutexvar_epi32(sorted, bytes));
    }
    for (; i < padded; i += 16) {
        const int32_t left = k - i;
        const __mmask16 part = left >= 16 ? 0xFFFF : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(part, x + i), factor);
        const __m512i n =
            _mm512_min_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(row->zero)),
                             _mm512_set1_epi32(levels));
        _mm_store_si128((__m128i *)(q + i), _mm512_maskz_cvtepi32_epi8(part, n));
    }
}

/* Four bytes of a row, in all lanes. Rows are reached from three places, so that addresses need
 * few registers. */
#define SPREAD(r) _mm512_set1_epi32(cpu_lowp_word(at[(r) / 4] + ((r) % 4) * lda))

#define VNNI(sum, x, w) _mm512_dpbusd_epi32(sum, x, w)
#define MADD(sum, x, w) _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(x, w), ones))

#define TILE_BODY(ROWS, DOT)                                                                       \
    __m512i sum[ROWS][2];                                                                          \
    const uint8_t *at[3] = {a, a + 4 * lda, a + 8 * lda};                                          \
    _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                    \
        sum[r][0] = sum[r][1] = _mm512_setzero_si512();                                            \
    }                                                                                              \
    for (int32_t line = 0; line < lines; line++) {                                                 \
        __m512i w0 = _mm512_load_si512(panel), w1 = _mm512_load_si512(panel + 64);                 \
        _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                \
            __m512i x = SPREAD(r);                                                                 \
            sum[r][0] = DOT(sum[r][0], x, w0);                                                     \
            sum[r][1] = DOT(sum[r][1], x, w1);                                                     \
        }                                                                                          \
        _mm_prefetch(ahead, _MM_HINT_T0);                                                          \
        ahead += step;                                                                             \
        panel += CPU_LOWP_LINE;                                                                    \
        at[0] += 4;                                                                                \
        at[1] += 4;                                                                                \
        at[2] += 4;                                                                                \
    }                                                                                              \
    _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                    \
        _mm512_storeu_si512(sums + r * CPU_LOWP_COLS, sum[r][0]);                                  \
        _mm512_storeu_si512(sums + r * CPU_LOWP_COLS + 16, sum[r][1]);                             \
    }

#define TILE_CASE(ROWS, DOT)                                                                       \
    case ROWS: {                                                                                   \
        TILE_BODY(ROWS, DOT)                                                                       \
        break;                                                                                     \
    }

#define TILE_SWITCH(DOT)                                                                           \
    switch (rows) {                                                                                \
        TILE_CASE(1, DOT)                                                                          \
        TILE_CASE(2, DOT)                                                                          \
        TILE_CASE(3, DOT)                                                                          \
        TILE_CASE(4, DOT)                                                                          \
        TILE_CASE(5, DOT)                                                                          \
        TILE_CASE(6, DOT)                                                                          \
        TILE_CASE(7, DOT)                                                                          \
        TILE_CASE(8, DOT)                                                                          \
        TILE_CASE(9, DOT)                                                                          \
        TILE_CASE(10, DOT)                                                                         \
        TILE_CASE(11, DOT)                                                                         \
        TILE_CASE(12, DOT)                                                                         \
    default:                                                                                       \
        SMHF_ASSERT(rows == 0);                                                                    \
        break;                                                                                     \
    }

WIDE_VNNI static void fetching_vnni(int32_t *sums, const uint8_t *a, int64_t lda,
                                    const int8_t *panel, int32_t lines, int rows, const char *ahead,
                                    int64_t step){TILE_SWITCH(VNNI)}

WIDE static void fetching_madd(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                               int32_t lines, int rows, const char *ahead, int64_t step) {
    const __m512i ones = _mm512_set1_epi16(1);
    TILE_SWITCH(MADD)
}

static void tile_vnni(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                      int32_t lines, int rows) {
    fetching_vnni(sums, a, lda, panel, lines, rows, (const char *)panel, 0);
}

static void tile_madd(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                      int32_t lines, int rows) {
    fetching_madd(sums, a, lda, panel, lines, rows, (const char *)panel, 0);
}

const cpu_i8_kernels cpu_i8_avx512_vnni = {
    .name = "avx512-vnni",
    .rows = TILE_ROWS,
    .levels = 255,
    .quantize = cpu_i8_quantize_avx512,
    .tile = tile_vnni,
    .tile_fetching = fetching_vnni,
};

const cpu_i8_kernels cpu_i8_avx512 = {
    .name = "avx512",
    .rows = TILE_ROWS,
    .levels = 127,
    .quantize = cpu_i8_quantize_avx512,
    .tile = tile_madd,
    .tile_fetching = fetching_madd,
};
#endif
