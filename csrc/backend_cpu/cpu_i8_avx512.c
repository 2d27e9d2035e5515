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

WIDE void cpu_i8_quantize_avx512(uint8_t *q, cpu_i8_row *row, const float *x, int32_t k,
                                 int32_t padded, int levels) {
    __m512 least = _mm512_setzero_ps(), greatest = _mm512_setzero_ps();
    __m512 nothing = _mm512_setzero_ps(); /* 0 times a finite number: else it becomes NaN */
    for (int32_t i = 0; i < k; i += 16) {
        __mmask16 part = k - i >= 16 ? 0xFFFF : (__mmask16)((1u << (k - i)) - 1);
        __m512 v = _mm512_maskz_loadu_ps(part, x + i);
        least = _mm512_min_ps(least, v);
        greatest = _mm512_max_ps(greatest, v);
        nothing = _mm512_fmadd_ps(v, _mm512_setzero_ps(), nothing);
    }
    int finite = _mm512_cmp_ps_mask(nothing, nothing, _CMP_EQ_OQ) == 0xFFFF;
    float inverse = cpu_i8_row_init(row, _mm512_reduce_min_ps(least),
                                    _mm512_reduce_max_ps(greatest), finite, levels);
    if (inverse == 0.0f) {
        memset(q, 0, (size_t)padded);
        return;
    }
    /* x >= the least, so n >= 0 without asking; levels + 1 can come out where both parts of the
     * sum are rounded up */
    const __m512i zero = _mm512_set1_epi32(row->zero), top = _mm512_set1_epi32(levels);
    const __m512 factor = _mm512_set1_ps(inverse);
    for (int32_t i = 0; i < padded; i += 16) {
        int32_t left = k - i;
        __mmask16 part = left >= 16 ? 0xFFFF : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(part, x + i), factor);
        __m512i n = _mm512_min_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(v), zero), top);
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

WIDE_VNNI static void tile_vnni(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                                int32_t lines, int rows){TILE_SWITCH(VNNI)}

WIDE static void tile_madd(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                           int32_t lines, int rows) {
    const __m512i ones = _mm512_set1_epi16(1);
    TILE_SWITCH(MADD)
}

const cpu_i8_kernels cpu_i8_avx512_vnni = {
    .name = "avx512-vnni",
    .rows = TILE_ROWS,
    .levels = 255,
    .quantize = cpu_i8_quantize_avx512,
    .tile = tile_vnni,
};

const cpu_i8_kernels cpu_i8_avx512 = {
    .name = "avx512",
    .rows = TILE_ROWS,
    .levels = 127,
    .quantize = cpu_i8_quantize_avx512,
    .tile = tile_madd,
};
#endif
