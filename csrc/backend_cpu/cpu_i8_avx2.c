/* cpu_i8_avx2.c: int8 tiles of 6 x 32, as two halves of 16 outputs, in 256-bit registers: vpdpbusd
 * where there is AVX-VNNI, else vpmaddubsw with activations of 7 bits (sums of two products fit 16
 * bits: 2 * 127 * 127). */
#include "backend_cpu/cpu_lowp.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <string.h>

#define TARGET "avx2,fma"
#define WIDE __attribute__((target(TARGET)))
#define WIDE_VNNI __attribute__((target(TARGET ",avxvnni")))
#define TILE_ROWS 6

WIDE static inline float reduce_least(__m256 v) {
    __m128 m = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_min_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_min_ss(m, _mm_shuffle_ps(m, m, 1)));
}

WIDE static inline float reduce_greatest(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

WIDE static void quantize(uint8_t *q, cpu_i8_row *row, const float *x, int32_t k, int32_t padded,
                          int levels) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    const __m256 largest = _mm256_set1_ps(FLT_MAX);
    __m256 least = _mm256_setzero_ps(), greatest = _mm256_setzero_ps();
    __m256 finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    int32_t i = 0;
    for (; i + 8 <= k; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        least = _mm256_min_ps(least, v);
        greatest = _mm256_max_ps(greatest, v);
        finite =
            _mm256_and_ps(finite, _mm256_cmp_ps(_mm256_and_ps(v, magnitude), largest, _CMP_LE_OQ));
    }
    float low = reduce_least(least), high = reduce_greatest(greatest);
    int fine = _mm256_movemask_ps(finite) == 0xFF;
    for (; i < k; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        fine &= fabsf(x[i]) <= FLT_MAX;
    }
    float inverse = cpu_i8_row_init(row, low, high, fine, levels);
    if (inverse == 0.0f) {
        memset(q, 0, (size_t)padded);
        return;
    }
    const __m256i zero = _mm256_set1_epi32(row->zero), none = _mm256_setzero_si256();
    const __m256i top = _mm256_set1_epi32(levels);
    const __m256 factor = _mm256_set1_ps(inverse);
    for (i = 0; i + 8 <= k; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), factor);
        __m256i n = _mm256_add_epi32(_mm256_cvtps_epi32(v), zero);
        n = _mm256_max_epi32(_mm256_min_epi32(n, top), none);
        __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
        _mm_storel_epi64((__m128i *)(q + i), _mm_packus_epi16(half, half));
    }
    for (; i < k; i++) {
        int32_t v = (int32_t)rintf(x[i] * inverse) + row->zero;
        q[i] = (uint8_t)(v < 0 ? 0 : v > levels ? levels : v);
    }
    memset(q + k, 0, (size_t)(padded - k));
}

#define SPREAD(r) _mm256_set1_epi32(cpu_lowp_word(at[(r) / 3] + ((r) % 3) * lda))

#define VNNI(sum, x, w) _mm256_dpbusd_avx_epi32(sum, x, w)
#define MADD(sum, x, w) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), ones))

#define TILE_BODY(ROWS, DOT)                                                                       \
    for (int half = 0; half < 2; half++) {                                                         \
        __m256i sum[ROWS][2];                                                                      \
        const uint8_t *at[2] = {a, a + 3 * lda};                                                   \
        const int8_t *w = panel + 64 * half;                                                       \
        _Pragma("GCC unroll 6") for (int r = 0; r < (ROWS); r++) {                                 \
            sum[r][0] = sum[r][1] = _mm256_setzero_si256();                                        \
        }                                                                                          \
        for (int32_t line = 0; line < lines; line++) {                                             \
            __m256i w0 = _mm256_load_si256((const __m256i *)w);                                    \
            __m256i w1 = _mm256_load_si256((const __m256i *)(w + 32));                             \
            _Pragma("GCC unroll 6") for (int r = 0; r < (ROWS); r++) {                             \
                __m256i x = SPREAD(r);                                                             \
                sum[r][0] = DOT(sum[r][0], x, w0);                                                 \
                sum[r][1] = DOT(sum[r][1], x, w1);                                                 \
            }                                                                                      \
            w += CPU_LOWP_LINE;                                                                    \
            at[0] += 4;                                                                            \
            at[1] += 4;                                                                            \
        }                                                                                          \
        _Pragma("GCC unroll 6") for (int r = 0; r < (ROWS); r++) {                                 \
            int32_t *to = sums + r * CPU_LOWP_COLS + 16 * half;                                    \
            _mm256_storeu_si256((__m256i *)to, sum[r][0]);                                         \
            _mm256_storeu_si256((__m256i *)(to + 8), sum[r][1]);                                   \
        }                                                                                          \
    }

#define TILE_CASE(ROWS, DOT)                                                                       \
    case ROWS:                                                                                     \
        TILE_BODY(ROWS, DOT)                                                                       \
        break;

#define TILE_SWITCH(DOT)                                                                           \
    switch (rows) {                                                                                \
        TILE_CASE(1, DOT)                                                                          \
        TILE_CASE(2, DOT)                                                                          \
        TILE_CASE(3, DOT)                                                                          \
        TILE_CASE(4, DOT)                                                                          \
        TILE_CASE(5, DOT)                                                                          \
        TILE_CASE(6, DOT)                                                                          \
    default:                                                                                       \
        SMHF_ASSERT(rows == 0);                                                                    \
        break;                                                                                     \
    }

WIDE static void tile_madd(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                           int32_t lines, int rows) {
    const __m256i ones = _mm256_set1_epi16(1);
    TILE_SWITCH(MADD)
}

WIDE_VNNI static void tile_vnni(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                                int32_t lines, int rows) {
    TILE_SWITCH(VNNI)
}

const cpu_i8_kernels cpu_i8_avx2 = {
    .name = "avx2",
    .rows = TILE_ROWS,
    .levels = 127,
    .quantize = quantize,
    .tile = tile_madd,
};

const cpu_i8_kernels cpu_i8_avx_vnni = {
    .name = "avx-vnni",
    .rows = TILE_ROWS,
    .levels = 255,
    .quantize = quantize,
    .tile = tile_vnni,
};
#endif
