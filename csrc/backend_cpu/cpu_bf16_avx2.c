/* cpu_bf16_avx2.c: bf16 tiles of 6 x 32, as two halves of 16 outputs, in 256-bit registers: weights
 * are widened to fp32 on their way (half the memory, the speed of fp32). */
#include "backend_cpu/cpu_lowp.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx2,fma")))
#define TILE_ROWS 6

WIDE static inline __m256i rounded_bits(__m256 v) {
    __m256i bits = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
}

WIDE static void round_half(void *a, const float *x, int32_t k, int32_t padded) {
    uint16_t *to = a;
    int32_t i = 0;
    for (; i + 8 <= k; i += 8) {
        __m256i bits = rounded_bits(_mm256_loadu_ps(x + i));
        __m128i half =
            _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
        _mm_storeu_si128((__m128i *)(to + i), half);
    }
    for (; i < k; i++) {
        to[i] = (uint16_t)cpu_bf16_bits(x[i]);
    }
    memset(to + k, 0, (size_t)(padded - k) * sizeof *to);
}

WIDE static void round_wide(void *a, const float *x, int32_t k, int32_t padded) {
    uint32_t *to = a;
    int32_t i = 0;
    for (; i + 8 <= k; i += 8) {
        __m256i bits = rounded_bits(_mm256_loadu_ps(x + i));
        _mm256_storeu_si256((__m256i *)(to + i), _mm256_slli_epi32(bits, 16));
    }
    for (; i < k; i++) {
        to[i] = cpu_bf16_bits(x[i]) << 16;
    }
    memset(to + k, 0, (size_t)(padded - k) * sizeof *to);
}

/* Even inputs lie in the lower halves of the lanes, odd ones in the upper. */
#define TILE_CASE(ROWS)                                                                            \
    case ROWS:                                                                                     \
        for (int half = 0; half < 2; half++) {                                                     \
            __m256 sum[ROWS][2];                                                                   \
            const float *x = a;                                                                    \
            const float *at[2] = {x, x + 3 * lda};                                                 \
            const uint16_t *w = panel + 32 * half;                                                 \
            const __m256i upper = _mm256_set1_epi32((int32_t)0xFFFF0000u);                         \
            _Pragma("GCC unroll 6") for (int r = 0; r < (ROWS); r++) {                             \
                sum[r][0] = sum[r][1] = _mm256_setzero_ps();                                       \
            }                                                                                      \
            for (int32_t line = 0; line < lines; line++) {                                         \
                __m256i p0 = _mm256_load_si256((const __m256i *)w);                                \
                __m256i p1 = _mm256_load_si256((const __m256i *)(w + 16));                         \
                __m256 w0 = _mm256_castsi256_ps(_mm256_slli_epi32(p0, 16));                        \
                __m256 w1 = _mm256_castsi256_ps(_mm256_slli_epi32(p1, 16));                        \
                _Pragma("GCC unroll 6") for (int r = 0; r < (ROWS); r++) {                         \
                    __m256 v = _mm256_set1_ps(at[r / 3][(r % 3) * lda]);                           \
                    sum[r][0] = _mm256_fmadd_ps(v, w0, sum[r][0]);                                 \
                    sum[r][1] = _mm256_fmadd_ps(v, w1, sum[r][1]);                                 \
                }                                                                                  \
                w0 = _mm256_and_ps(_mm256_load_ps((const float *)(const void *)w),                 \
                                   _mm256_castsi256_ps(upper));                                    \
                w1 = _mm256_and_ps(_mm256_load_ps((const float *)(const void *)(w + 16)),          \
                                   _mm256_castsi256_ps(upper));                                    \
                _Pragma("GCC unroll 6") for (int r = 0; r < (ROWS); r++) {                         \
                    __m256 v = _mm256_set1_ps(at[r / 3][(r % 3) * lda + 1]);                       \
                    sum[r][0] = _mm256_fmadd_ps(v, w0, sum[r][0]);                                 \
                    sum[r][1] = _mm256_fmadd_ps(v, w1, sum[r][1]);                                 \
                }                                                                                  \
                w += CPU_LOWP_LINE / 2;                                                            \
                at[0] += 2;                                                                        \
                at[1] += 2;                                                                        \
            }                                                                                      \
            _Pragma("GCC unroll 6") for (int r = 0; r < (ROWS); r++) {                             \
                _mm256_storeu_ps(sums + r * ld + 16 * half, sum[r][0]);                            \
                _mm256_storeu_ps(sums + r * ld + 16 * half + 8, sum[r][1]);                        \
            }                                                                                      \
        }                                                                                          \
        break;

WIDE static void tile_wide(float *sums, int64_t ld, const void *a, int64_t lda,
                           const uint16_t *panel, int32_t lines, int rows) {
    switch (rows) {
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
        TILE_CASE(4)
        TILE_CASE(5)
        TILE_CASE(6)
    default:
        SMHF_ASSERT(rows == 0);
        break;
    }
}

const cpu_bf16_kernels cpu_bf16_avx2 = {
    .name = "avx2",
    .rows = TILE_ROWS,
    .wide = 1,
    .pack = round_half,
    .round = round_wide,
    .tile = tile_wide,
};
#endif
