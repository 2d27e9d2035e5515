/* cpu_kernels_body.h: the innermost loops, included once for each tier; see cpu_kernels.h.
 *
 * Loops are plain C that the compiler turns into vectors: no branch on data, sums in LANES partial
 * sums. The includer defines TIER_NAME, TIER_TABLE and the instruction set. */

#include <math.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES                                                                                      \
    16 /* one AVX-512 register, two of AVX, four of SSE: the same order of sums in all             \
        */

static inline float bits_float(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline int32_t float_bits(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* e^x for x <= 88, relative error below 2e-7; 0 below -87; NaN stays. x = n ln 2 + r, |r| <= 0.35,
 * and the Taylor series of e^r to r^7 (its rest is 5e-9). */
static inline float exp_fast(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float shifted = x * 1.44269504f + magic;
    float n = shifted - magic;
    float r = x - n * 0.693145752f; /* ln 2 in two parts: the first has 15 bits */
    r = r - n * 1.42860677e-6f;
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    float value = p * bits_float((int32_t)((uint32_t)float_bits(shifted) << 23) + 0x3F800000);
    return x < -87.0f ? 0.0f : value;
}

/* Tail of the standard normal above |x| and exp(-x^2 / 2). The tail is exp(-x^2 / 2) P(x) / Q(x);
 * coefficients from tools/fit_cpu_math.py, relative error below 5e-7. */
static inline float normal_tail(float x, float *gauss) {
    float t = fabsf(x);
    t = t > 13.25f ? 13.25f : t; /* the tail is 0 from 13.19 on */
    float e = exp_fast(-0.5f * t * t);
    float p = 4.011673387e-03f;
    p = p * t + 3.992639482e-02f;
    p = p * t + 1.811346263e-01f;
    p = p * t + 4.354526103e-01f;
    p = p * t + 0.5f;
    float q = 1.005562767e-02f;
    q = q * t + 1.000880972e-01f;
    q = q * t + 4.639260471e-01f;
    q = q * t + 1.193767071e+00f;
    q = q * t + 1.668790102e+00f;
    q = q * t + 1.0f;
    *gauss = e;
    return e * (p / q);
}

static inline float gelu(float x) {
    float gauss;
    float tail = normal_tail(x, &gauss);
    float upper = 1.0f - tail;
    float cdf = x > 0.0f ? upper : tail;
    return x * cdf;
}

/* GELU where the result is quantised to 8 bits: |error| below 4e-5 * max(1, |x|), with a polynomial
 * for the cumulative normal on [-4, 4] (tools/fit_cpu_math.py). NaN stays. */
#define GELU_COARSE_LIMIT 4.0f
static const float gelu_coarse_terms[8] = {
    -1.28382005e-09f, 1.03168688e-07f, -3.63282743e-06f, 7.45593134e-05f,
    -1.00453093e-03f, 9.49853286e-03f, -6.58765957e-02f, 3.98667276e-01f,
};

static inline float gelu_coarse(float x) {
    float c = x > GELU_COARSE_LIMIT ? GELU_COARSE_LIMIT : x;
    c = c < -GELU_COARSE_LIMIT ? -GELU_COARSE_LIMIT : c;
    float t = c * c, p = gelu_coarse_terms[0];
    for (int i = 1; i < 8; i++) {
        p = p * t + gelu_coarse_terms[i];
    }
    return x * (c * p + 0.5f);
}

static inline float gelu_slope(float x) {
    float gauss;
    float tail = normal_tail(x, &gauss);
    float upper = 1.0f - tail;
    float cdf = x > 0.0f ? upper : tail;
    return cdf + x * (gauss * 0.398942280f);
}

/* For the tanh form of GELU: t = tanh(u) = 1 - 2 r with r = 1 / (e^2u + 1), and 1 - t^2 without
 * cancellation. */
static inline float tanh_parts(float u, float *one_less_square) {
    float c = u > 10.0f ? 10.0f : u;
    c = c < -10.0f ? -10.0f : c;
    float e = exp_fast(2.0f * c);
    float r = 1.0f / (e + 1.0f);
    *one_less_square = 4.0f * e * r * r;
    return 1.0f - 2.0f * r;
}

static inline float gelu_tanh(float x) {
    float rest;
    float t = tanh_parts(0.797884561f * (x + 0.044715f * x * x * x), &rest);
    return 0.5f * x * (1.0f + t);
}

static inline float gelu_tanh_slope(float x) {
    float rest;
    float t = tanh_parts(0.797884561f * (x + 0.044715f * x * x * x), &rest);
    return 0.5f * (1.0f + t) + 0.5f * x * rest * 0.797884561f * (1.0f + 0.134145f * x * x);
}

static inline float lanes_sum(const float *s) {
    float a[8];
    for (int i = 0; i < 8; i++) {
        a[i] = s[i] + s[i + 8];
    }
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

/* ---- elementwise ---------------------------------------------------------------------------- */

/* The compiler cannot see that y, pre and src are either equal or apart; each block goes through
 * a local copy, so that aliasing costs nothing. */
#define BLOCK 64

static void kernel_bias_act(float *y, float *pre, const float *src, const float *bias, int n,
                            int act) {
    for (int at = 0; at < n; at += BLOCK) {
        float v[BLOCK];
        int count = n - at < BLOCK ? n - at : BLOCK;
        if (bias != NULL) {
            for (int c = 0; c < count; c++) {
                v[c] = src[at + c] + bias[at + c];
            }
        } else {
            memcpy(v, src + at, (size_t)count * sizeof *v);
        }
        if (pre != NULL) {
            memcpy(pre + at, v, (size_t)count * sizeof *v);
        }
        switch (act) {
        case SMHF_ACT_GELU:
            for (int c = 0; c < count; c++) {
                v[c] = gelu(v[c]);
            }
            break;
        case SMHF_ACT_GELU_TANH:
            for (int c = 0; c < count; c++) {
                v[c] = gelu_tanh(v[c]);
            }
            break;
        case SMHF_ACT_RELU:
            for (int c = 0; c < count; c++) {
                v[c] = v[c] < 0.0f ? 0.0f : v[c]; /* NaN stays */
            }
            break;
        case SMHF_ACT_TANH:
            for (int c = 0; c < count; c++) {
                v[c] = tanhf(v[c]);
            }
            break;
        default:
            break;
        }
        memcpy(y + at, v, (size_t)count * sizeof *v);
    }
}

static void kernel_act_bwd(float *dpre, const float *dy, const float *saved, int n, int act) {
    for (int at = 0; at < n; at += BLOCK) {
        float d[BLOCK];
        const float *s = saved + at;
        int count = n - at < BLOCK ? n - at : BLOCK;
        switch (act) {
        case SMHF_ACT_GELU:
            for (int c = 0; c < count; c++) {
                d[c] = gelu_slope(s[c]);
            }
            break;
        case SMHF_ACT_GELU_TANH:
            for (int c = 0; c < count; c++) {
                d[c] = gelu_tanh_slope(s[c]);
            }
            break;
        case SMHF_ACT_RELU:
            for (int c = 0; c < count; c++) {
                d[c] = s[c] > 0.0f ? 1.0f : 0.0f;
            }
            break;
        case SMHF_ACT_TANH:
            for (int c = 0; c < count; c++) {
                d[c] = 1.0f - s[c] * s[c];
            }
            break;
        default:
            for (int c = 0; c < count; c++) {
                d[c] = 1.0f;
            }
            break;
        }
        for (int c = 0; c < count; c++) {
            d[c] = dy[at + c] * d[c];
        }
        memcpy(dpre + at, d, (size_t)count * sizeof *d);
    }
}

static void finish_plain(const cpu_epilogue *e, const float *sums, int64_t ld, int32_t row,
                         int32_t rows, int32_t col, int32_t cols) {
    for (int32_t r = 0; r < rows; r++) {
        const float *from = sums + r * ld;
        float *y = (float *)e->y.data + (row + r) * e->y.ld + col;
        if (e->slope) {
            const float *saved = (const float *)e->saved.data + (row + r) * e->saved.ld + col;
            kernel_act_bwd(y, from, saved, cols, (int)e->act);
        } else if (e->accumulate) {
            for (int32_t c = 0; c < cols; c++) {
                y[c] += from[c];
            }
        } else {
            float *pre =
                e->pre.data != NULL ? (float *)e->pre.data + (row + r) * e->pre.ld + col : NULL;
            kernel_bias_act(y, pre, from, e->bias != NULL ? e->bias + col : NULL, cols,
                            (int)e->act);
        }
    }
}

static inline void finish_i8_plain(float *out, int64_t ld, const int32_t *sums, int rows,
                                   const cpu_i8_finish *f) {
    for (int r = 0; r < rows; r++) {
        float *y = out + r * ld;
        const float *residual = f->residual != NULL ? f->residual + r * f->residual_ld : NULL;
        for (int c = 0; c < CPU_I8_COLS; c++) {
            if (sums != NULL) {
                int32_t exact = sums[r * CPU_I8_COLS + c] - f->rows[r].zero * f->totals[c];
                y[c] = (float)exact * (f->rows[r].scale * f->scales[c]);
            }
            y[c] = f->bias != NULL ? y[c] + f->bias[c] : y[c];
            y[c] = f->act == SMHF_ACT_GELU ? gelu_coarse(y[c]) : y[c];
            y[c] = residual != NULL ? y[c] + residual[c] : y[c];
        }
    }
}

static void kernel_add3(float *restrict out, const float *restrict a, const float *restrict b,
                        const float *restrict c, int n) {
    for (int i = 0; i < n; i++) {
        out[i] = a[i] + b[i];
    }
    if (c != NULL) {
        for (int i = 0; i < n; i++) {
            out[i] += c[i];
        }
    }
}

static void kernel_axpy(float *restrict y, const float *restrict x, float alpha, size_t n) {
    if (alpha == 1.0f) {
        for (size_t i = 0; i < n; i++) {
            y[i] += x[i];
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        y[i] += alpha * x[i];
    }
}

static void kernel_scale(float *y, float alpha, int n) {
    for (int i = 0; i < n; i++) {
        y[i] *= alpha;
    }
}

/* ---- dropout -------------------------------------------------------------------------------- */

/* factors[0 .. 4 * DRAW_GROUPS): 0 or 1 / (1 - p), for features from 4 * first_group on. */
#define DRAW_GROUPS 16

#if defined(__AVX512F__)
/* smhf_dropout_draw for 16 groups. Counters lie in the lower halves of 64-bit lanes, where the
 * product of 32 by 32 bits is made; what its upper half leaves above them is never looked at. */
static void draw_factors(float *factors, const cpu_draw *draw, uint32_t first_group) {
    const __m512i steps = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i first = _mm512_set1_epi32((int)((draw->site << 16) | first_group));
    const __m512i m0 = _mm512_set1_epi32((int)0xD2511F53u);
    const __m512i m1 = _mm512_set1_epi32((int)0xCD9E8D57u);
    __m512i c0[2], c1[2], c2[2], c3[2];
    uint32_t k0 = (uint32_t)draw->seed, k1 = (uint32_t)(draw->seed >> 32);
    for (int i = 0; i < 2; i++) {
        c0[i] = _mm512_add_epi32(_mm512_add_epi32(first, _mm512_set1_epi64(8 * i)), steps);
        c1[i] = _mm512_set1_epi32((int)((draw->head << 16) | draw->position));
        c2[i] = _mm512_set1_epi32((int)draw->sequence_id);
        c3[i] = _mm512_set1_epi32((int)draw->step);
    }
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        const __m512i key0 = _mm512_set1_epi32((int)k0), key1 = _mm512_set1_epi32((int)k1);
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            const __m512i p0 = _mm512_mul_epu32(c0[i], m0), p1 = _mm512_mul_epu32(c2[i], m1);
            /* 0x96: a ^ b ^ c */
            c0[i] = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p1, 32), c1[i], key0, 0x96);
            c2[i] = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p0, 32), c3[i], key1, 0x96);
            c1[i] = p1;
            c3[i] = p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const __m512i least = _mm512_set1_epi32((int)draw->threshold);
    const __m512 scale = _mm512_set1_ps(draw->scale);
    const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    for (int i = 0; i < 2; i++) { /* the four draws of a group side by side */
        const __m512i a = _mm512_mask_blend_epi32(0xAAAA, c0[i], _mm512_slli_epi64(c1[i], 32));
        const __m512i b = _mm512_mask_blend_epi32(0xAAAA, c2[i], _mm512_slli_epi64(c3[i], 32));
        const __m512i x = _mm512_srli_epi32(_mm512_permutex2var_epi64(a, low, b), 8);
        const __m512i y = _mm512_srli_epi32(_mm512_permutex2var_epi64(a, high, b), 8);
        _mm512_storeu_ps(factors + 32 * i,
                         _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(x, least), scale));
        _mm512_storeu_ps(factors + 32 * i + 16,
                         _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(y, least), scale));
    }
}
#elif defined(__AVX2__)
/* *low = c * m, *high = its upper half, for 8 counters at once */
static inline void multiply_wide(__m256i c, uint32_t m, __m256i *low, __m256i *high) {
    __m256i factor = _mm256_set1_epi32((int)m);
    __m256i even = _mm256_mul_epu32(c, factor);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(c, 32), factor);
    *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}

/* smhf_dropout_draw for 8 groups: compilers do not find this form of the multiply by themselves */
static void draw_eight(float *factors, const cpu_draw *draw, uint32_t group) {
    __m256i steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i c0 = _mm256_add_epi32(_mm256_set1_epi32((int)((draw->site << 16) | group)), steps);
    __m256i c1 = _mm256_set1_epi32((int)((draw->head << 16) | draw->position));
    __m256i c2 = _mm256_set1_epi32((int)draw->sequence_id);
    __m256i c3 = _mm256_set1_epi32((int)draw->step);
    uint32_t k0 = (uint32_t)draw->seed, k1 = (uint32_t)(draw->seed >> 32);
    for (int round = 0; round < 10; round++) {
        __m256i low0, high0, low1, high1;
        multiply_wide(c0, 0xD2511F53u, &low0, &high0);
        multiply_wide(c2, 0xCD9E8D57u, &low1, &high1);
        c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c1), _mm256_set1_epi32((int)k0));
        c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c3), _mm256_set1_epi32((int)k1));
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    __m256i below = _mm256_set1_epi32((int)draw->threshold - 1);
    __m256 scale = _mm256_set1_ps(draw->scale);
#define KEEP(c)                                                                                    \
    _mm256_and_ps(scale, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_srli_epi32(c, 8), below)))
    __m256 f0 = KEEP(c0), f1 = KEEP(c1), f2 = KEEP(c2), f3 = KEEP(c3);
#undef KEEP
    /* from one vector for each draw to four draws of each group side by side */
    __m256 a = _mm256_unpacklo_ps(f0, f1), b = _mm256_unpackhi_ps(f0, f1);
    __m256 c = _mm256_unpacklo_ps(f2, f3), d = _mm256_unpackhi_ps(f2, f3);
    __m256 g04 = _mm256_shuffle_ps(a, c, 0x44), g15 = _mm256_shuffle_ps(a, c, 0xEE);
    __m256 g26 = _mm256_shuffle_ps(b, d, 0x44), g37 = _mm256_shuffle_ps(b, d, 0xEE);
    _mm256_storeu_ps(factors, _mm256_permute2f128_ps(g04, g15, 0x20));
    _mm256_storeu_ps(factors + 8, _mm256_permute2f128_ps(g26, g37, 0x20));
    _mm256_storeu_ps(factors + 16, _mm256_permute2f128_ps(g04, g15, 0x31));
    _mm256_storeu_ps(factors + 24, _mm256_permute2f128_ps(g26, g37, 0x31));
}

static void draw_factors(float *factors, const cpu_draw *draw, uint32_t first_group) {
    for (uint32_t g = 0; g < DRAW_GROUPS; g += 8) {
        draw_eight(factors + 4 * g, draw, first_group + g);
    }
}
#else
static void draw_factors(float *factors, const cpu_draw *draw, uint32_t first_group) {
    for (uint32_t g = 0; g < DRAW_GROUPS; g++) {
        uint32_t draws[4];
        smhf_dropout_draw(draw->seed, draw->step, draw->site, draw->sequence_id, draw->head,
                          draw->position, first_group + g, draws);
        for (int i = 0; i < 4; i++) {
            factors[4 * g + (uint32_t)i] = (draws[i] >> 8) >= draw->threshold ? draw->scale : 0.0f;
        }
    }
}
#endif

static void kernel_dropout_add(float *out, const float *x, const float *residual,
                               const cpu_draw *draw, int n) {
    for (int at = 0; at < n; at += BLOCK) {
        float v[BLOCK], f[BLOCK];
        int count = n - at < BLOCK ? n - at : BLOCK;
        if (draw != NULL) {
            draw_factors(f, draw, (uint32_t)at / 4);
            for (int c = 0; c < count; c++) {
                v[c] = x[at + c] * f[c];
            }
        } else {
            memcpy(v, x + at, (size_t)count * sizeof *v);
        }
        if (residual != NULL) {
            for (int c = 0; c < count; c++) {
                v[c] += residual[at + c];
            }
        }
        memcpy(out + at, v, (size_t)count * sizeof *v);
    }
}

/* ---- sums ----------------------------------------------------------------------------------- */

static float kernel_dot(const float *a, const float *b, int n) {
    float s[LANES] = {0};
    int at = 0;
    for (; at + LANES <= n; at += LANES) {
        for (int l = 0; l < LANES; l++) {
            s[l] += a[at + l] * b[at + l];
        }
    }
    for (int l = 0; at + l < n; l++) {
        s[l] += a[at + l] * b[at + l];
    }
    return lanes_sum(s);
}

/* Blocks of 2,048 in float, the blocks in double. */
static double kernel_square_sum(const float *x, size_t n) {
    double total = 0.0;
    while (n > 0) {
        int count = n < 2048 ? (int)n : 2048;
        total += (double)kernel_dot(x, x, count);
        x += count;
        n -= (size_t)count;
    }
    return total;
}

/* ---- layernorm ------------------------------------------------------------------------------ */

static void kernel_layernorm_fwd(float *out, float stats[2], const float *x, const float *gamma,
                                 const float *beta, int n, float eps) {
    float s[LANES] = {0};
    int at = 0;
    for (; at + LANES <= n; at += LANES) {
        for (int l = 0; l < LANES; l++) {
            s[l] += x[at + l];
        }
    }
    for (int l = 0; at + l < n; l++) {
        s[l] += x[at + l];
    }
    float mean = lanes_sum(s) / (float)n;
    float q[LANES] = {0};
    for (at = 0; at + LANES <= n; at += LANES) { /* a second pass: stable for large means */
        for (int l = 0; l < LANES; l++) {
            q[l] += (x[at + l] - mean) * (x[at + l] - mean);
        }
    }
    for (int l = 0; at + l < n; l++) {
        q[l] += (x[at + l] - mean) * (x[at + l] - mean);
    }
    float rstd = 1.0f / sqrtf(lanes_sum(q) / (float)n + eps);
    for (int c = 0; c < n; c++) {
        out[c] = (x[c] - mean) * rstd * gamma[c] + beta[c];
    }
    stats[0] = mean;
    stats[1] = rstd;
}

/* ---- optimizer ------------------------------------------------------------------------------ */

static void kernel_adamw(float *restrict param, const float *restrict grad, float *restrict m,
                         float *restrict v, size_t n, const cpu_adamw *k) {
    float b1 = k->rest1, beta2 = k->beta2, b2 = k->rest2, eps = k->eps;
    float decay = k->decay, step_size = k->step_size, v_scale = k->v_scale;
    float grad_scale = k->grad_scale;
    for (size_t i = 0; i < n; i++) {
        float g = grad[i] * grad_scale;
        float mi = m[i] + b1 * (g - m[i]);
        float vi = beta2 * v[i] + b2 * g * g;
        m[i] = mi;
        v[i] = vi;
        param[i] = param[i] * decay - step_size * mi / (sqrtf(vi) * v_scale + eps);
    }
}

/* ---- matrix product ------------------------------------------------------------------------- */

#if defined(__AVX512F__)
typedef __m512 gemm_vector;
#define GEMM_ROWS 12
#define gemm_fma(a, b, c) _mm512_fmadd_ps(_mm512_set1_ps(a), b, c)
#define gemm_load(p) _mm512_loadu_ps(p)
#elif defined(__AVX2__)
typedef __m256 gemm_vector;
#define GEMM_ROWS 6
#define gemm_fma(a, b, c) _mm256_fmadd_ps(_mm256_set1_ps(a), b, c)
#define gemm_load(p) _mm256_loadu_ps(p)
#else
typedef struct gemm_vector {
    float lane[4];
} gemm_vector;
#define GEMM_ROWS 4
static inline gemm_vector gemm_fma(float a, gemm_vector b, gemm_vector c) {
    for (int l = 0; l < 4; l++) {
        c.lane[l] += a * b.lane[l];
    }
    return c;
}
static inline gemm_vector gemm_load(const float *p) {
    gemm_vector v;
    memcpy(&v, p, sizeof v);
    return v;
}
#endif
#define GEMM_LANES ((int)(sizeof(gemm_vector) / sizeof(float)))

/* Two vectors wide, GEMM_ROWS high: all sums stay in registers. */
static void kernel_gemm(float *c, size_t ldc, const float *a, const float *b, int k) {
    gemm_vector sum[GEMM_ROWS][2];
    memset(sum, 0, sizeof sum);
    for (int i = 0; i < k; i++) {
        gemm_vector b0 = gemm_load(b), b1 = gemm_load(b + GEMM_LANES);
#pragma GCC unroll 12
        for (int r = 0; r < GEMM_ROWS; r++) {
            sum[r][0] = gemm_fma(a[r], b0, sum[r][0]);
            sum[r][1] = gemm_fma(a[r], b1, sum[r][1]);
        }
        a += GEMM_ROWS;
        b += 2 * GEMM_LANES;
    }
    float tile[GEMM_ROWS][2 * sizeof(gemm_vector) / sizeof(float)];
    memcpy(tile, sum, sizeof tile);
    for (int r = 0; r < GEMM_ROWS; r++) {
        for (int j = 0; j < 2 * GEMM_LANES; j++) {
            c[(size_t)r * ldc + (size_t)j] += tile[r][j];
        }
    }
}

#include "backend_cpu/cpu_kernels_matrix.h"
/* (after the vectors) */
#include "backend_cpu/cpu_kernels_finish.h"
#include "backend_cpu/cpu_kernels_norm.h"
#include "backend_cpu/cpu_kernels_softmax.h"

const cpu_kernels TIER_TABLE = {
    .tier = TIER_NAME,
    .bias_act = kernel_bias_act,
    .act_bwd = kernel_act_bwd,
    .finish = kernel_finish,
    .finish_i8 = kernel_finish_i8,
    .add3 = kernel_add3,
    .layernorm_fwd = kernel_layernorm_fwd,
    .layernorm_bwd = kernel_layernorm_bwd,
    .dropout_add = kernel_dropout_add,
    .softmax_fwd = kernel_softmax_fwd,
    .softmax_bwd = kernel_softmax_bwd,
    .dot = kernel_dot,
    .axpy = kernel_axpy,
    .scale = kernel_scale,
    .square_sum = kernel_square_sum,
    .adamw = kernel_adamw,
    .gemm_tile = kernel_gemm_tile,
    .pack_rows = kernel_pack_rows,
    .pack_columns = kernel_pack_columns,
    .pack_groups = kernel_pack_groups,
    .tile_rows = TILE_ROWS,
    .panel = PANEL,
    .gemm_kernel = kernel_gemm,
    .gemm_rows = GEMM_ROWS,
    .gemm_cols = 2 * (int)(sizeof(gemm_vector) / sizeof(float)),
};
