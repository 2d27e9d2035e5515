/* cpu_kernels_softmax.h: softmax of a row and its gradient in vectors, and the
 * plain C for the scalar tier; included by cpu_kernels_body.h. A row's bits depend on the row
 * alone. */

#ifdef __AVX2__

/* e^x for x <= 88, 0 below -87; NaN stays. */
static inline vec vec_exp_any(vec x) {
    const vec e = vec_exp(vec_max(vec_all(-87.0f), x));
#if defined(__AVX512F__)
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, vec_all(-87.0f), _CMP_NLT_UQ), e);
#else
    return _mm256_and_ps(_mm256_cmp_ps(x, vec_all(-87.0f), _CMP_NLT_UQ), e);
#endif
}

static float kernel_softmax_fwd(float *row, float *max_out, float scale, const cpu_draw *draw,
                                int n) {
    const int whole = (n + LANES - 1) / LANES * LANES;
    const vec factor = vec_all(scale);
    for (int c = n; c < whole; c++) {
        row[c] = -INFINITY;
    }
    vec high[LANES / VEC], sum[LANES / VEC];
    for (int i = 0; i < LANES / VEC; i++) {
        high[i] = vec_all(-INFINITY);
        sum[i] = vec_all(0.0f);
    }
    for (int c = 0; c < whole; c += LANES) {
        for (int i = 0; i < LANES / VEC; i++) { /* a NaN is passed over: it shows in the sum */
            high[i] = vec_max(vec_mul(vec_load(row + c + i * VEC), factor), high[i]);
        }
    }
    float lanes[LANES];
    for (int i = 0; i < LANES / VEC; i++) {
        vec_store(lanes + i * VEC, high[i]);
    }
    float greatest = lanes[0];
    for (int l = 1; l < LANES; l++) {
        greatest = lanes[l] > greatest ? lanes[l] : greatest;
    }
    const vec shift = vec_all(-greatest);
    for (int c = 0; c < whole; c += LANES) {
        for (int i = 0; i < LANES / VEC; i++) {
            float *at = row + c + i * VEC;
            const vec e = vec_exp_any(vec_fma(vec_load(at), factor, shift));
            vec_store(at, e);
            sum[i] = vec_add(sum[i], e);
        }
    }
    for (int i = 0; i < LANES / VEC; i++) {
        vec_store(lanes + i * VEC, sum[i]);
    }
    if (draw != NULL) {
        kernel_dropout_add(row, row, NULL, draw, n);
    }
    *max_out = greatest;
    return lanes_sum(lanes);
}

static void kernel_softmax_bwd(float *row, float *dp, float lse, float delta, float scale,
                               const cpu_draw *draw, int n) {
    const vec factor = vec_all(scale), shift = vec_all(-lse), below = vec_all(delta);
    for (int at = 0; at < n; at += BLOCK) {
        float keep[BLOCK];
        int count = n - at < BLOCK ? n - at : BLOCK;
        if (draw != NULL) {
            draw_factors(keep, draw, (uint32_t)at / 4);
        }
        for (int c = 0; c < count; c += VEC) {
            const vec_part part = part_of(count - c);
            const vec p = vec_exp_any(vec_fma(vec_load_part(row + at + c, part), factor, shift));
            vec d = vec_load_part(dp + at + c, part), kept = p;
            if (draw != NULL) {
                const vec f = vec_load(keep + c);
                d = vec_mul(d, f);
                kept = vec_mul(p, f);
            }
            d = vec_mul(factor, vec_mul(p, vec_sub(d, below)));
            vec_store_part(dp + at + c, d, part);
            vec_store_part(row + at + c, kept, part);
        }
    }
}

#else

static float kernel_softmax_fwd(float *row, float *max_out, float scale, const cpu_draw *draw,
                                int n) {
    float m[LANES];
    int at = 0;
    for (int l = 0; l < LANES; l++) {
        m[l] = -INFINITY;
    }
    for (; at + LANES <= n; at += LANES) {
        for (int l = 0; l < LANES; l++) {
            float v = row[at + l] * scale;
            m[l] = v > m[l] ? v : m[l];
        }
    }
    for (int l = 0; at + l < n; l++) {
        float v = row[at + l] * scale;
        m[l] = v > m[l] ? v : m[l];
    }
    float greatest = m[0];
    for (int l = 1; l < LANES; l++) {
        greatest = m[l] > greatest ? m[l] : greatest;
    }
    float s[LANES] = {0};
    for (at = 0; at + LANES <= n; at += LANES) {
        for (int l = 0; l < LANES; l++) {
            float e = exp_fast(row[at + l] * scale - greatest);
            row[at + l] = e;
            s[l] += e;
        }
    }
    for (int l = 0; at + l < n; l++) {
        float e = exp_fast(row[at + l] * scale - greatest);
        row[at + l] = e;
        s[l] += e;
    }
    if (draw != NULL) {
        kernel_dropout_add(row, row, NULL, draw, n);
    }
    *max_out = greatest;
    return lanes_sum(s);
}

static void kernel_softmax_bwd(float *row, float *dp, float lse, float delta, float scale,
                               const cpu_draw *draw, int n) {
    for (int at = 0; at < n; at += BLOCK) {
        float f[BLOCK], p[BLOCK];
        int count = n - at < BLOCK ? n - at : BLOCK;
        for (int c = 0; c < count; c++) {
            p[c] = exp_fast(row[at + c] * scale - lse);
        }
        if (draw != NULL) {
            draw_factors(f, draw, (uint32_t)at / 4);
            for (int c = 0; c < count; c++) {
                dp[at + c] = scale * (p[c] * (dp[at + c] * f[c] - delta));
                row[at + c] = p[c] * f[c];
            }
        } else {
            for (int c = 0; c < count; c++) {
                dp[at + c] = scale * (p[c] * (dp[at + c] - delta));
                row[at + c] = p[c];
            }
        }
    }
}

#endif
