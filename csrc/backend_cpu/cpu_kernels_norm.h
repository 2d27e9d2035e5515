/* cpu_kernels_norm.h: the gradient of LayerNorm in vectors, and the plain C for the scalar tier;
 * included by cpu_kernels_body.h. The same sums in the same order in all tiers: compilers make of
 * the plain loops over two sets of lanes three times as many instructions. */

#ifdef __AVX2__

static void kernel_layernorm_bwd(float *dx, float *restrict dgamma, float *restrict dbeta,
                                 const float *dout, const float *x, const float stats[2],
                                 const float *gamma, int n) {
    const vec mean = vec_all(stats[0]), rstd = vec_all(stats[1]);
    vec s[LANES / VEC], q[LANES / VEC];
    float lanes[LANES];
    for (int i = 0; i < LANES / VEC; i++) {
        s[i] = q[i] = vec_all(0.0f);
    }
    for (int at = 0; at < n; at += LANES) {
        for (int i = 0; i < LANES / VEC; i++) {
            const int c = at + i * VEC;
            const vec_part part = part_of(n - c > 0 ? n - c : 0);
            const vec g = vec_mul(vec_load_part(dout + c, part), vec_load_part(gamma + c, part));
            const vec xhat = vec_mul(vec_sub(vec_load_part(x + c, part), mean), rstd);
            s[i] = vec_add(s[i], g);
            q[i] = vec_add(q[i], vec_mul(g, xhat)); /* g is 0 behind the end */
        }
    }
    for (int i = 0; i < LANES / VEC; i++) {
        vec_store(lanes + i * VEC, s[i]);
    }
    const vec mean_g = vec_all(lanes_sum(lanes) / (float)n);
    for (int i = 0; i < LANES / VEC; i++) {
        vec_store(lanes + i * VEC, q[i]);
    }
    const vec mean_gx = vec_all(lanes_sum(lanes) / (float)n);
    for (int c = 0; c < n; c += VEC) {
        const vec_part part = part_of(n - c);
        const vec d = vec_load_part(dout + c, part);
        const vec xhat = vec_mul(vec_sub(vec_load_part(x + c, part), mean), rstd);
        const vec g = vec_mul(d, vec_load_part(gamma + c, part));
        const vec rest = vec_sub(vec_sub(g, mean_g), vec_mul(xhat, mean_gx));
        const vec sum = vec_add(vec_load_part(dgamma + c, part), vec_mul(d, xhat));
        vec_store_part(dgamma + c, sum, part);
        vec_store_part(dbeta + c, vec_add(vec_load_part(dbeta + c, part), d), part);
        vec_store_part(dx + c, vec_mul(rstd, rest), part);
    }
}

#else

static void kernel_layernorm_bwd(float *dx, float *restrict dgamma, float *restrict dbeta,
                                 const float *dout, const float *x, const float stats[2],
                                 const float *gamma, int n) {
    float mean = stats[0], rstd = stats[1];
    float s[LANES] = {0}, q[LANES] = {0};
    int at = 0;
    for (; at + LANES <= n; at += LANES) {
        for (int l = 0; l < LANES; l++) {
            float g = dout[at + l] * gamma[at + l];
            s[l] += g;
            q[l] += g * ((x[at + l] - mean) * rstd);
        }
    }
    for (int l = 0; at + l < n; l++) {
        float g = dout[at + l] * gamma[at + l];
        s[l] += g;
        q[l] += g * ((x[at + l] - mean) * rstd);
    }
    float mean_g = lanes_sum(s) / (float)n;
    float mean_gx = lanes_sum(q) / (float)n;
    for (int c = 0; c < n; c++) {
        float d = dout[c];
        float xhat = (x[c] - mean) * rstd;
        dgamma[c] += d * xhat;
        dbeta[c] += d;
    }
    for (int c = 0; c < n; c++) {
        float xhat = (x[c] - mean) * rstd;
        dx[c] = rstd * (dout[c] * gamma[c] - mean_g - xhat * mean_gx);
    }
}

#endif
