/* cpu_kernels_finish.h: the epilogue of a product in vectors, included by cpu_kernels_body.h.
 *
 * The same formulas as bias_act and act_bwd there (the plain C beside it), with fused
 * multiply-adds; the rarer activations and the scalar tier go through those. Every element is
 * computed the same way wherever it lies in a tile. */

#if defined(__AVX512F__)
#define vec_mul(a, b) _mm512_mul_ps(a, b)
#define vec_sub(a, b) _mm512_sub_ps(a, b)
#define vec_div(a, b) _mm512_div_ps(a, b)
#define vec_fnma(a, b, c) _mm512_fnmadd_ps(a, b, c)
#define vec_abs(a) _mm512_abs_ps(a)
#define vec_min(a, b) _mm512_min_ps(a, b) /* b when one is NaN */
#define vec_max(a, b) _mm512_max_ps(a, b)
/* x > 0 ? a : b */
#define vec_positive(x, a, b)                                                                      \
    _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), b, a)
/* 2^n out of n + 1.5 * 2^23 */
#define vec_power(shifted)                                                                         \
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(shifted), 23),      \
                                         _mm512_set1_epi32(0x3F800000)))
static inline __mmask16 part_of(int count) {
    return (__mmask16)(count >= VEC ? 0xFFFF : (1 << count) - 1);
}
#define vec_int __m512i
#define vec_int_load(p) _mm512_loadu_si512(p)
#define vec_int_all(a) _mm512_set1_epi32(a)
#define vec_int_mul(a, b) _mm512_mullo_epi32(a, b)
#define vec_int_sub(a, b) _mm512_sub_epi32(a, b)
#define vec_of_int(a) _mm512_cvtepi32_ps(a)
#define vec_part __mmask16
#define vec_load_part(p, m) _mm512_maskz_loadu_ps(m, p)
#define vec_store_part(p, v, m) _mm512_mask_storeu_ps(p, m, v)
#elif defined(__AVX2__)
#define vec_mul(a, b) _mm256_mul_ps(a, b)
#define vec_sub(a, b) _mm256_sub_ps(a, b)
#define vec_div(a, b) _mm256_div_ps(a, b)
#define vec_fnma(a, b, c) _mm256_fnmadd_ps(a, b, c)
#define vec_abs(a) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define vec_min(a, b) _mm256_min_ps(a, b)
#define vec_max(a, b) _mm256_max_ps(a, b)
#define vec_positive(x, a, b)                                                                      \
    _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ))
#define vec_power(shifted)                                                                         \
    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23),      \
                                         _mm256_set1_epi32(0x3F800000)))
static inline __m256i part_of(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#define vec_int __m256i
#define vec_int_load(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define vec_int_all(a) _mm256_set1_epi32(a)
#define vec_int_mul(a, b) _mm256_mullo_epi32(a, b)
#define vec_int_sub(a, b) _mm256_sub_epi32(a, b)
#define vec_of_int(a) _mm256_cvtepi32_ps(a)
#define vec_part __m256i
#define vec_load_part(p, m) _mm256_maskload_ps(p, m)
#define vec_store_part(p, v, m) _mm256_maskstore_ps(p, m, v)
#endif

#ifdef __AVX2__

/* e^x for -88 < x <= 0, or up to 88; below -87.3 it is 0. See exp_fast. */
static inline vec vec_exp(vec x) {
    const vec magic = vec_all(12582912.0f);
    const vec shifted = vec_fma(x, vec_all(1.44269504f), magic);
    const vec n = vec_sub(shifted, magic);
    vec r = vec_fnma(n, vec_all(0.693145752f), x);
    r = vec_fnma(n, vec_all(1.42860677e-6f), r);
    vec p = vec_all(1.0f / 5040.0f);
    p = vec_fma(p, r, vec_all(1.0f / 720.0f));
    p = vec_fma(p, r, vec_all(1.0f / 120.0f));
    p = vec_fma(p, r, vec_all(1.0f / 24.0f));
    p = vec_fma(p, r, vec_all(1.0f / 6.0f));
    p = vec_fma(p, r, vec_all(0.5f));
    p = vec_fma(p, r, vec_all(1.0f));
    p = vec_fma(p, r, vec_all(1.0f));
    return vec_mul(p, vec_power(shifted));
}

/* Standard normal: P(X <= x), and exp(-x^2 / 2). See normal_tail. */
static inline vec vec_normal(vec x, vec *gauss) {
    const vec t = vec_min(vec_all(13.25f), vec_abs(x)); /* NaN stays */
    const vec e = vec_exp(vec_mul(vec_mul(t, t), vec_all(-0.5f)));
    vec p = vec_fma(vec_all(4.011673387e-03f), t, vec_all(3.992639482e-02f));
    p = vec_fma(p, t, vec_all(1.811346263e-01f));
    p = vec_fma(p, t, vec_all(4.354526103e-01f));
    p = vec_fma(p, t, vec_all(0.5f));
    vec q = vec_fma(vec_all(1.005562767e-02f), t, vec_all(1.000880972e-01f));
    q = vec_fma(q, t, vec_all(4.639260471e-01f));
    q = vec_fma(q, t, vec_all(1.193767071e+00f));
    q = vec_fma(q, t, vec_all(1.668790102e+00f));
    q = vec_fma(q, t, vec_all(1.0f));
    const vec tail = vec_mul(e, vec_div(p, q));
    *gauss = e;
    return vec_positive(x, vec_sub(vec_all(1.0f), tail), tail);
}

static inline vec vec_gelu(vec x) {
    vec gauss;
    return vec_mul(x, vec_normal(x, &gauss));
}

static inline vec vec_gelu_slope(vec x) {
    vec gauss;
    const vec cdf = vec_normal(x, &gauss);
    return vec_fma(x, vec_mul(gauss, vec_all(0.398942280f)), cdf);
}

/* `act` is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void finish_rows(const int act, const cpu_epilogue *e,
                                                              const float *sums, int64_t ld,
                                                              int32_t row, int32_t rows,
                                                              int32_t col, int32_t cols) {
    for (int32_t c = 0; c < cols; c += VEC) {
        const vec_part part = part_of(cols - c);
        const vec bias = e->bias != NULL ? vec_load_part(e->bias + col + c, part) : vec_all(-0.0f);
        for (int32_t r = 0; r < rows; r++) {
            vec v = vec_add(vec_load_part(sums + r * ld + c, part), bias);
            if (e->pre.data != NULL) {
                vec_store_part((float *)e->pre.data + (row + r) * e->pre.ld + col + c, v, part);
            }
            if (act == SMHF_ACT_GELU) {
                v = vec_gelu(v);
            } else if (act == SMHF_ACT_RELU) {
                v = vec_max(vec_all(0.0f), v); /* NaN stays */
            }
            vec_store_part((float *)e->y.data + (row + r) * e->y.ld + col + c, v, part);
        }
    }
}

static void finish_gelu_slope(const cpu_epilogue *e, const float *sums, int64_t ld, int32_t row,
                              int32_t rows, int32_t col, int32_t cols) {
    for (int32_t r = 0; r < rows; r++) {
        const float *saved = (const float *)e->saved.data + (row + r) * e->saved.ld + col;
        float *y = (float *)e->y.data + (row + r) * e->y.ld + col;
        for (int32_t c = 0; c < cols; c += VEC) {
            const vec_part part = part_of(cols - c);
            const vec slope = vec_gelu_slope(vec_load_part(saved + c, part));
            vec_store_part(y + c, vec_mul(vec_load_part(sums + r * ld + c, part), slope), part);
        }
    }
}

static void kernel_finish(const cpu_epilogue *e, const float *sums, int64_t ld, int32_t row,
                          int32_t rows, int32_t col, int32_t cols) {
    if (e->slope || e->accumulate) {
        if (e->slope && e->act == SMHF_ACT_GELU) {
            finish_gelu_slope(e, sums, ld, row, rows, col, cols);
        } else {
            finish_plain(e, sums, ld, row, rows, col, cols);
        }
        return;
    }
    switch (e->act) {
    case SMHF_ACT_NONE:
        finish_rows(SMHF_ACT_NONE, e, sums, ld, row, rows, col, cols);
        break;
    case SMHF_ACT_GELU:
        finish_rows(SMHF_ACT_GELU, e, sums, ld, row, rows, col, cols);
        break;
    case SMHF_ACT_RELU:
        finish_rows(SMHF_ACT_RELU, e, sums, ld, row, rows, col, cols);
        break;
    default:
        finish_plain(e, sums, ld, row, rows, col, cols);
        break;
    }
}

static inline vec vec_gelu_coarse(vec x) {
    const vec c = vec_max(vec_all(-GELU_COARSE_LIMIT), vec_min(vec_all(GELU_COARSE_LIMIT), x));
    const vec t = vec_mul(c, c);
    vec p = vec_all(gelu_coarse_terms[0]);
    for (int i = 1; i < 8; i++) {
        p = vec_fma(p, t, vec_all(gelu_coarse_terms[i]));
    }
    return vec_mul(x, vec_fma(c, p, vec_all(0.5f)));
}

/* One vector of outputs down all rows; `act` and what is there are constants where inlined. */
static inline __attribute__((always_inline)) void
finish_i8_column(const int act, const int summed, const int added, float *out, int64_t ld,
                 const int32_t *sums, int rows, const cpu_i8_finish *f, int c) {
    const vec bias = f->bias != NULL ? vec_load(f->bias + c) : vec_all(-0.0f);
    const vec scales = summed ? vec_load(f->scales + c) : bias;
    const vec_int totals = summed ? vec_int_load(f->totals + c) : vec_int_all(0);
    for (int r = 0; r < rows; r++) {
        vec v;
        if (summed) {
            const vec_int zero = vec_int_mul(vec_int_all(f->rows[r].zero), totals);
            const vec_int exact = vec_int_sub(vec_int_load(sums + r * CPU_I8_COLS + c), zero);
            v = vec_mul(vec_of_int(exact), vec_mul(vec_all(f->rows[r].scale), scales));
        } else {
            v = vec_load(out + r * ld + c);
        }
        v = vec_add(v, bias);
        v = act == SMHF_ACT_GELU ? vec_gelu_coarse(v) : v;
        v = added ? vec_add(v, vec_load(f->residual + r * f->residual_ld + c)) : v;
        vec_store(out + r * ld + c, v);
    }
}

static inline __attribute__((always_inline)) void finish_i8_panel(const int act, const int added,
                                                                  float *out, int64_t ld,
                                                                  const int32_t *sums, int rows,
                                                                  const cpu_i8_finish *f) {
    for (int c = 0; c < CPU_I8_COLS; c += VEC) {
        if (sums != NULL) {
            finish_i8_column(act, 1, added, out, ld, sums, rows, f, c);
        } else {
            finish_i8_column(act, 0, added, out, ld, sums, rows, f, c);
        }
    }
}

static void kernel_finish_i8(float *out, int64_t ld, const int32_t *sums, int rows,
                             const cpu_i8_finish *f) {
    if (f->act == SMHF_ACT_GELU && f->residual == NULL) {
        finish_i8_panel(SMHF_ACT_GELU, 0, out, ld, sums, rows, f);
    } else if (f->act == SMHF_ACT_NONE && f->residual == NULL) {
        finish_i8_panel(SMHF_ACT_NONE, 0, out, ld, sums, rows, f);
    } else if (f->act == SMHF_ACT_NONE) {
        finish_i8_panel(SMHF_ACT_NONE, 1, out, ld, sums, rows, f);
    } else {
        finish_i8_plain(out, ld, sums, rows, f);
    }
}

#else
#define kernel_finish finish_plain
#define kernel_finish_i8 finish_i8_plain
#endif
