/* cpu_bf16_avx512.c: bf16 tiles of 12 x 32 in 512-bit registers: vdpbf16ps where there is it, else
 * weights widened to fp32 on their way (half the memory, the speed of fp32). */
#include "backend_cpu/cpu_lowp.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define TARGET "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
#define WIDE __attribute__((target(TARGET)))
#define WIDE_BF16 __attribute__((target(TARGET ",avx512bf16")))
#define TILE_ROWS 12

/* Rounded bits in the lower half of each lane. The instruction for it would flush subnormals: it is
 * for operands of the product instruction alone, which does so too. */
WIDE static inline __m512i rounded_bits(__m512 v) {
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x00400000));
    return _mm512_srli_epi32(up, 16);
}

WIDE void cpu_bf16_round_avx512(void *a, const float *x, int32_t k, int32_t padded) {
    uint16_t *to = a;
    for (int32_t i = 0; i < padded; i += 16) {
        int32_t left = k - i;
        __mmask16 part = left >= 16 ? 0xFFFF : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
        __m512i bits = rounded_bits(_mm512_maskz_loadu_ps(part, x + i));
        _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtepi32_epi16(bits));
    }
}

WIDE_BF16 static void round_native(void *a, const float *x, int32_t k, int32_t padded) {
    uint16_t *to = a;
    int32_t i = 0;
    for (; i + 32 <= k; i += 32) {
        __m512 low = _mm512_loadu_ps(x + i), high = _mm512_loadu_ps(x + i + 16);
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    for (; i < padded; i += 16) {
        int32_t left = k - i;
        __mmask16 part = left >= 16 ? 0xFFFF : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
        __m256bh bits = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(part, x + i));
        _mm256_storeu_si256((__m256i *)(to + i), (__m256i)bits);
    }
}

WIDE static void round_wide(void *a, const float *x, int32_t k, int32_t padded) {
    float *to = a;
    for (int32_t i = 0; i < padded; i += 16) {
        int32_t left = k - i;
        __mmask16 part = left >= 16 ? 0xFFFF : left > 0 ? (__mmask16)((1u << left) - 1) : 0;
        __m512i bits = rounded_bits(_mm512_maskz_loadu_ps(part, x + i));
        _mm512_storeu_si512(to + i, _mm512_slli_epi32(bits, 16));
    }
}

#define STORE_TILE(ROWS)                                                                           \
    _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                    \
        _mm512_storeu_ps(sums + r * ld, sum[r][0]);                                                \
        _mm512_storeu_ps(sums + r * ld + 16, sum[r][1]);                                           \
    }

#define TILE_PAIRS(ROWS)                                                                           \
    __m512 sum[ROWS][2];                                                                           \
    const uint16_t *x = a;                                                                         \
    const uint16_t *at[3] = {x, x + 4 * lda, x + 8 * lda};                                         \
    _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                    \
        sum[r][0] = sum[r][1] = _mm512_setzero_ps();                                               \
    }                                                                                              \
    for (int32_t line = 0; line < lines; line++) {                                                 \
        __m512bh w0 = (__m512bh)_mm512_load_si512(panel);                                          \
        __m512bh w1 = (__m512bh)_mm512_load_si512(panel + 32);                                     \
        _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                \
            int32_t pair = cpu_lowp_word(at[r / 4] + (r % 4) * lda);                               \
            __m512bh v = (__m512bh)_mm512_set1_epi32(pair);                                        \
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], v, w0);                                        \
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], v, w1);                                        \
        }                                                                                          \
        panel += CPU_LOWP_LINE / 2;                                                                \
        at[0] += 2;                                                                                \
        at[1] += 2;                                                                                \
        at[2] += 2;                                                                                \
    }                                                                                              \
    STORE_TILE(ROWS)

/* Even inputs lie in the lower halves of the lanes, odd ones in the upper. */
#define TILE_WIDE(ROWS)                                                                            \
    __m512 sum[ROWS][2];                                                                           \
    const float *x = a;                                                                            \
    const float *at[3] = {x, x + 4 * lda, x + 8 * lda};                                            \
    const __m512i upper = _mm512_set1_epi32((int32_t)0xFFFF0000u);                                 \
    _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                    \
        sum[r][0] = sum[r][1] = _mm512_setzero_ps();                                               \
    }                                                                                              \
    for (int32_t line = 0; line < lines; line++) {                                                 \
        __m512i p0 = _mm512_load_si512(panel), p1 = _mm512_load_si512(panel + 32);                 \
        __m512 w0 = _mm512_castsi512_ps(_mm512_slli_epi32(p0, 16));                                \
        __m512 w1 = _mm512_castsi512_ps(_mm512_slli_epi32(p1, 16));                                \
        _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                \
            __m512 v = _mm512_set1_ps(at[r / 4][(r % 4) * lda]);                                   \
            sum[r][0] = _mm512_fmadd_ps(v, w0, sum[r][0]);                                         \
            sum[r][1] = _mm512_fmadd_ps(v, w1, sum[r][1]);                                         \
        }                                                                                          \
        w0 = _mm512_castsi512_ps(_mm512_and_si512(p0, upper));                                     \
        w1 = _mm512_castsi512_ps(_mm512_and_si512(p1, upper));                                     \
        _Pragma("GCC unroll 12") for (int r = 0; r < (ROWS); r++) {                                \
            __m512 v = _mm512_set1_ps(at[r / 4][(r % 4) * lda + 1]);                               \
            sum[r][0] = _mm512_fmadd_ps(v, w0, sum[r][0]);                                         \
            sum[r][1] = _mm512_fmadd_ps(v, w1, sum[r][1]);                                         \
        }                                                                                          \
        panel += CPU_LOWP_LINE / 2;                                                                \
        at[0] += 2;                                                                                \
        at[1] += 2;                                                                                \
        at[2] += 2;                                                                                \
    }                                                                                              \
    STORE_TILE(ROWS)

#define TILE_CASE(ROWS, BODY)                                                                      \
    case ROWS: {                                                                                   \
        BODY(ROWS)                                                                                 \
        break;                                                                                     \
    }

#define TILE_SWITCH(BODY)                                                                          \
    switch (rows) {                                                                                \
        TILE_CASE(1, BODY)                                                                         \
        TILE_CASE(2, BODY)                                                                         \
        TILE_CASE(3, BODY)                                                                         \
        TILE_CASE(4, BODY)                                                                         \
        TILE_CASE(5, BODY)                                                                         \
        TILE_CASE(6, BODY)                                                                         \
        TILE_CASE(7, BODY)                                                                         \
        TILE_CASE(8, BODY)                                                                         \
        TILE_CASE(9, BODY)                                                                         \
        TILE_CASE(10, BODY)                                                                        \
        TILE_CASE(11, BODY)                                                                        \
        TILE_CASE(12, BODY)                                                                        \
    default:                                                                                       \
        SMHF_ASSERT(rows == 0);                                                                    \
        break;                                                                                     \
    }

WIDE_BF16 static void tile_pairs(float *sums, int64_t ld, const void *a, int64_t lda,
                                 const uint16_t *panel, int32_t lines,
                                 int rows){TILE_SWITCH(TILE_PAIRS)}

WIDE static void tile_wide(float *sums, int64_t ld, const void *a, int64_t lda,
                           const uint16_t *panel, int32_t lines, int rows){TILE_SWITCH(TILE_WIDE)}

/* ---- attention with operands in bf16 -------------------------------------------------------- */

/* As kernel_finish_i8 for AVX-512, then rounded. */
WIDE_BF16 static void finish_i8(uint16_t *out, int64_t ld, const int32_t *sums, int rows,
                                const cpu_i8_finish *f) {
    const __m512 none = _mm512_set1_ps(-0.0f);
    __m512 bias[2], scales[2];
    __m512i totals[2];
    for (int i = 0; i < 2; i++) {
        bias[i] = f->bias != NULL ? _mm512_loadu_ps(f->bias + 16 * i) : none;
        scales[i] = _mm512_loadu_ps(f->scales + 16 * i);
        totals[i] = _mm512_loadu_si512(f->totals + 16 * i);
    }
    for (int r = 0; r < rows; r++) {
        const __m512 scale = _mm512_set1_ps(f->rows[r].scale);
        const __m512i zero = _mm512_set1_epi32(f->rows[r].zero);
        __m512 v[2];
        for (int i = 0; i < 2; i++) {
            __m512i exact = _mm512_loadu_si512(sums + r * CPU_I8_COLS + 16 * i);
            exact = _mm512_sub_epi32(exact, _mm512_mullo_epi32(zero, totals[i]));
            v[i] = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), _mm512_mul_ps(scale, scales[i]));
            v[i] = _mm512_add_ps(v[i], bias[i]);
        }
        _mm512_storeu_si512(out + r * ld, (__m512i)_mm512_cvtne2ps_pbh(v[1], v[0]));
    }
}

/* 16 rows of 16 pairs become 16 lines of 16 keys each. */
WIDE static inline void turn_pairs(uint16_t *to, const uint16_t *from, int64_t ld, int32_t count) {
    __m512i a[16], b[16];
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) {
        a[i] = i < count ? _mm512_loadu_si512(from + i * ld) : _mm512_setzero_si512();
    }
    _Pragma("GCC unroll 8") for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    /* a[4 g + c] holds, in each quarter q, rows 4 g .. 4 g + 3 of pair 4 q + c */
    _Pragma("GCC unroll 4") for (int c = 0; c < 4; c++) {
        const __m512i low01 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x44);
        const __m512i low23 = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xEE);
        const __m512i high01 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44);
        const __m512i high23 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xEE);
        const int line = 2 * CPU_LOWP_COLS;
        _mm512_storeu_si512(to + c * line, _mm512_shuffle_i32x4(low01, high01, 0x88));
        _mm512_storeu_si512(to + (4 + c) * line, _mm512_shuffle_i32x4(low01, high01, 0xDD));
        _mm512_storeu_si512(to + (8 + c) * line, _mm512_shuffle_i32x4(low23, high23, 0x88));
        _mm512_storeu_si512(to + (12 + c) * line, _mm512_shuffle_i32x4(low23, high23, 0xDD));
    }
}

WIDE static void pack_keys(uint16_t *panels, const uint16_t *rows, int64_t ld, int32_t count,
                           int32_t size) {
    for (int32_t key = 0; key < count; key += CPU_LOWP_COLS) {
        uint16_t *panel = panels + (int64_t)key * size;
        for (int32_t half = 0; half < CPU_LOWP_COLS; half += 16) {
            for (int32_t c = 0; c < size; c += 32) {
                turn_pairs(panel + (int64_t)c * CPU_LOWP_COLS + 2 * half,
                           rows + (key + half) * ld + c, ld, count - key - half);
            }
        }
    }
}

WIDE static void pack_values(uint16_t *panels, const uint16_t *rows, int64_t ld, int32_t count,
                             int32_t size) {
    const int32_t padded = cpu_lowp_round_up(count, 2 * CPU_LOWP_LINES);
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int32_t key = 0; key < padded; key += 2) {
        for (int32_t c = 0; c < size; c += CPU_LOWP_COLS) {
            const uint16_t *from = rows + key * ld + c;
            const __m512i zero = _mm512_setzero_si512();
            const __m512i even = key < count ? _mm512_loadu_si512(from) : zero;
            const __m512i odd = key + 1 < count ? _mm512_loadu_si512(from + ld) : zero;
            uint16_t *line = panels + (int64_t)c * padded + key * CPU_LOWP_COLS;
            _mm512_storeu_si512(line, _mm512_permutex2var_epi16(even, low, odd));
            _mm512_storeu_si512(line + 32, _mm512_permutex2var_epi16(even, high, odd));
        }
    }
}

WIDE static void scale_row(float *out, const float *x, float factor, int32_t size) {
    const __m512 f = _mm512_set1_ps(factor);
    for (int32_t c = 0; c < size; c += 16) {
        _mm512_storeu_ps(out + c, _mm512_mul_ps(_mm512_loadu_ps(x + c), f));
    }
}

const cpu_bf16_kernels cpu_bf16_avx512_bf16 = {
    .name = "avx512-bf16",
    .native = 1,
    .rows = TILE_ROWS,
    .pack = round_native,
    .round = round_native,
    .tile = tile_pairs,
    .finish_i8 = finish_i8,
    .pack_keys = pack_keys,
    .pack_values = pack_values,
    .scale = scale_row,
};

const cpu_bf16_kernels cpu_bf16_avx512 = {
    .name = "avx512",
    .rows = TILE_ROWS,
    .wide = 1,
    .pack = cpu_bf16_round_avx512,
    .round = round_wide,
    .tile = tile_wide,
};
#endif
