/* backend_ops_cases.h: one function for each op: inputs, call, comparison; for test_backend_ops.c.
 */
#ifndef SMHF_TEST_BACKEND_OPS_CASES_H
#define SMHF_TEST_BACKEND_OPS_CASES_H

#define HIDDEN 24
#define HEADS 3
#define EPS 1e-12f

/* ---- embedding ------------------------------------------------------------------------------ */

static void case_embedding(ops_context *ctx, float rate, int with_types) {
    int T = ctx->ref.tokens, H = HIDDEN;
    ops_array word = array_in(ctx, VOCAB, H, 1), position = array_in(ctx, POSITIONS, H, 1);
    ops_array type = array_in(ctx, 2, H, 1), gamma = array_in(ctx, 1, H, 1.5);
    ops_array beta = array_in(ctx, 1, H, 1);
    ops_array out = array_out(ctx, T, H), stats = array_out(ctx, T, 2);
    smhf_tensor none = SMHF_TENSOR_NONE;
    smhf_embedding tables = {word.t, position.t, with_types ? type.t : none, gamma.t, beta.t, 0};
    smhf_dropout dropout = ctx_dropout(ctx, rate, 3);
    ctx->be->embedding_fwd(ctx->dev, out.t, stats.t, &tables, EPS, ctx->pack, dropout);

    double *sum = ctx_doubles(ctx, T, H), *want = ctx_doubles(ctx, T, H);
    double *bound = ctx_doubles(ctx, T, H), *want_stats = ctx_doubles(ctx, T, 2);
    double *stats_bound = ctx_doubles(ctx, T, 2);
    for (int t = 0; t < T; t++) {
        int p = t - ctx->cu[ref_row_of(&ctx->ref, t)];
        double *s = sum + t * H, *w = want + t * H, greatest = 0.0;
        for (int c = 0; c < H; c++) {
            s[c] = word.values[ctx->ids[t] * H + c] + position.values[p * H + c] +
                   (with_types ? type.values[ctx->types[t] * H + c] : 0.0);
            greatest = fmax(greatest, fabs(s[c]));
        }
        double *st = want_stats + t * 2;
        ref_layernorm_row(w, &st[0], &st[1], s, gamma.values, beta.values, H, (double)EPS);
        stats_bound[t * 2] = 4 * U * greatest;
        stats_bound[t * 2 + 1] = 8 * U * st[1] * (1 + st[1] * greatest);
        for (int c = 0; c < H; c++) {
            double f = ref_row_factor(&dropout, 5, &ctx->ref, SMHF_AXIS_TOKENS, t, c);
            bound[t * H + c] = f * (8 * U * fmax(1, fabs(w[c])) +
                                    4 * U * st[1] * greatest * fabs(gamma.values[c]));
            w[c] *= f;
        }
    }
    compare(ctx, "embedding_fwd", &out, want, bound, 0);
    compare(ctx, "embedding_fwd stats", &stats, want_stats, stats_bound, 0);

    /* backward: on top of what the gradients already hold */
    ops_array dout = array_in(ctx, T, H, 1);
    ops_array dword = array_in(ctx, VOCAB, H, 1), dposition = array_in(ctx, POSITIONS, H, 1);
    ops_array dtype = array_in(ctx, 2, H, 1), dgamma = array_in(ctx, 1, H, 1);
    ops_array dbeta = array_in(ctx, 1, H, 1);
    smhf_embedding grads = {dword.t,  dposition.t, with_types ? dtype.t : none,
                            dgamma.t, dbeta.t,     0};
    double *bw = ctx_doubles(ctx, VOCAB, H), *bp = ctx_doubles(ctx, POSITIONS, H);
    double *bt = ctx_doubles(ctx, 2, H), *bg = ctx_doubles(ctx, 1, H), *bb = ctx_doubles(ctx, 1, H);
    double d[HIDDEN], ds[HIDDEN], size[HIDDEN];
    ops_array dout_copy = dout;
    ctx->be->embedding_bwd(ctx->dev, &grads, dout.t, stats.t, &tables, ctx->pack, dropout);
    for (int t = 0; t < T; t++) {
        int p = t - ctx->cu[ref_row_of(&ctx->ref, t)];
        for (int c = 0; c < H; c++) {
            d[c] = dout_copy.values[t * H + c] *
                   ref_row_factor(&dropout, 5, &ctx->ref, SMHF_AXIS_TOKENS, t, c);
            bb[c] += 16 * U * fabs(d[c]);
        }
        double part[HIDDEN] = {0};
        ref_layernorm_bwd_row(ds, dgamma.values, dbeta.values, size, part, d, sum + t * H,
                              want_stats[t * 2], want_stats[t * 2 + 1], gamma.values, H);
        for (int c = 0; c < H; c++) {
            bg[c] += 16 * U * part[c];
            if (ctx->ids[t] != 0) { /* the padding word gets none */
                dword.values[ctx->ids[t] * H + c] += ds[c];
                bw[ctx->ids[t] * H + c] += 16 * U * size[c];
            }
            dposition.values[p * H + c] += ds[c];
            bp[p * H + c] += 16 * U * size[c];
            dtype.values[ctx->types[t] * H + c] += ds[c];
            bt[ctx->types[t] * H + c] += 16 * U * size[c];
        }
    }
    compare(ctx, "embedding_bwd word", &dword, dword.values, bw, 4 * U);
    compare(ctx, "embedding_bwd position", &dposition, dposition.values, bp, 4 * U);
    if (with_types) {
        compare(ctx, "embedding_bwd type", &dtype, dtype.values, bt, 4 * U);
    }
    compare(ctx, "embedding_bwd gamma", &dgamma, dgamma.values, bg, 4 * U);
    compare(ctx, "embedding_bwd beta", &dbeta, dbeta.values, bb, 4 * U);
    ctx_release(ctx);
}

/* ---- linear --------------------------------------------------------------------------------- */

static void scale_all(double *x, int n, double factor) {
    for (int i = 0; i < n; i++) {
        x[i] *= factor;
    }
}

/* y = x W^T + b, dx = dy W (= and +=), dW += dy^T x, db += sum dy */
static void case_linear(ops_context *ctx, smhf_axis axis, int K, int N, int with_bias) {
    int n = ctx_rows(ctx, axis);
    ops_array x = array_in(ctx, n, K, 1), w = array_in(ctx, N, K, 0.5);
    ops_array b = array_in(ctx, 1, N, 1), y = array_out(ctx, n, N);
    smhf_weight *weight = ctx_weight(ctx, &w);
    smhf_tensor none = SMHF_TENSOR_NONE;
    ctx->be->linear_fwd(ctx->dev, y.t, x.t, weight, with_bias ? b.t : none, ctx->pack, axis);
    double *want = ctx_doubles(ctx, n, N), *bound = ctx_doubles(ctx, n, N);
    ref_matmul(want, bound, x.values, w.values, n, N, K, 0, 1);
    for (int i = 0; i < n * N && with_bias; i++) {
        want[i] += b.values[i % N];
        bound[i] += fabs(b.values[i % N]);
    }
    scale_all(bound, n * N, 8 * U);
    compare(ctx, "linear_fwd", &y, want, bound, 0);

    ops_array dy = array_in(ctx, n, N, 1), dx = array_out(ctx, n, K), more = array_in(ctx, n, K, 1);
    double *want_dx = ctx_doubles(ctx, n, K), *bound_dx = ctx_doubles(ctx, n, K);
    ctx->be->linear_bwd_input(ctx->dev, dx.t, dy.t, weight, 0, ctx->pack, axis);
    ctx->be->linear_bwd_input(ctx->dev, more.t, dy.t, weight, 1, ctx->pack, axis);
    ref_matmul(want_dx, bound_dx, dy.values, w.values, n, K, N, 0, 0);
    scale_all(bound_dx, n * K, 8 * U);
    compare(ctx, "linear_bwd_input", &dx, want_dx, bound_dx, 0);
    for (int i = 0; i < n * K; i++) {
        want_dx[i] += more.values[i];
    }
    compare(ctx, "linear_bwd_input +=", &more, want_dx, bound_dx, 4 * U);

    ops_array dw = array_in(ctx, N, K, 1), db = array_in(ctx, 1, N, 1);
    double *bound_dw = ctx_doubles(ctx, N, K), *bound_db = ctx_doubles(ctx, 1, N);
    ctx->be->linear_bwd_weight(ctx->dev, dw.t, with_bias ? db.t : none, dy.t, x.t, ctx->pack, axis,
                               SMHF_DTYPE_F32);
    ref_matmul(dw.values, bound_dw, dy.values, x.values, N, K, n, 1, 0);
    scale_all(bound_dw, N * K, 8 * U);
    for (int i = 0; i < n * N && with_bias; i++) {
        db.values[i % N] += dy.values[i];
        bound_db[i % N] += 8 * U * fabs(dy.values[i]);
    }
    compare(ctx, "linear_bwd_weight", &dw, dw.values, bound_dw, 4 * U);
    compare(ctx, "linear_bwd_weight bias", &db, db.values, bound_db, 4 * U);
    ctx_sync(ctx);
    ctx->be->weight_free(ctx->dev, weight);
    ctx_release(ctx);
}

static const char *const act_names[] = {"act_bwd none", "act_bwd gelu", "act_bwd relu",
                                        "act_bwd tanh", "act_bwd gelu_tanh"};

/* act(x W^T + b), its gradient by itself and behind a second matrix */
static void case_linear_act(ops_context *ctx, smhf_axis axis, smhf_act act) {
    int n = ctx_rows(ctx, axis), K = HIDDEN, N = 67;
    ops_array x = array_in(ctx, n, K, 2), w = array_in(ctx, N, K, 1), b = array_in(ctx, 1, N, 1);
    ops_array y = array_out(ctx, n, N), pre = array_out(ctx, n, N), alone = array_out(ctx, n, N);
    smhf_weight *weight = ctx_weight(ctx, &w);
    smhf_tensor none = SMHF_TENSOR_NONE;
    ctx->be->linear_act_fwd(ctx->dev, y.t, pre.t, x.t, weight, b.t, act, ctx->pack, axis);
    ctx->be->linear_act_fwd(ctx->dev, alone.t, none, x.t, weight, b.t, act, ctx->pack, axis);
    double *want_pre = ctx_doubles(ctx, n, N), *want = ctx_doubles(ctx, n, N);
    double *bound_pre = ctx_doubles(ctx, n, N), *bound = ctx_doubles(ctx, n, N);
    ref_matmul(want_pre, bound_pre, x.values, w.values, n, N, K, 0, 1);
    for (int i = 0; i < n * N; i++) {
        want_pre[i] += b.values[i % N];
        bound_pre[i] = 8 * U * (bound_pre[i] + fabs(b.values[i % N]));
        want[i] = ref_act(want_pre[i], act);
        bound[i] = 1.2 * bound_pre[i] + 4 * U * fabs(want[i]);
    }
    compare(ctx, "linear_act_fwd pre", &pre, want_pre, bound_pre, 0);
    compare(ctx, "linear_act_fwd", &y, want, bound, 0);
    compare(ctx, "linear_act_fwd without pre", &alone, want, bound, 0);

    /* saved: pre, or y for the activations that are read from their result; slopes from the very
     * floats that the op gets */
    int from_y = act == SMHF_ACT_RELU || act == SMHF_ACT_TANH;
    ops_array z = array_in(ctx, n, N, 4), dy = array_in(ctx, n, N, 1), dpre = array_out(ctx, n, N);
    double *slope = ctx_doubles(ctx, n, N);
    for (int i = 0; i < n * N; i++) {
        z.values[i] = from_y ? ref_act(z.values[i], act) : z.values[i];
    }
    array_upload(ctx, &z);
    for (int i = 0; i < n * N; i++) {
        double v = z.values[i];
        slope[i] = act == SMHF_ACT_TANH ? 1 - v * v : ref_act_slope(v, act);
        want[i] = dy.values[i] * slope[i];
        bound[i] = 12 * U * fabs(dy.values[i]);
    }
    ctx->be->act_bwd(ctx->dev, dpre.t, dy.t, z.t, act, ctx->pack, axis);
    compare(ctx, act_names[act], &dpre, want, bound, 0);

    /* dy2 [n, M] through w2 [M, N]; written over saved itself as well */
    int M = 10;
    ops_array w2 = array_in(ctx, M, N, 1), dy2 = array_in(ctx, n, M, 1), dz = array_out(ctx, n, N);
    smhf_weight *weight2 = ctx_weight(ctx, &w2);
    double *size = ctx_doubles(ctx, n, N);
    memset(want, 0, (size_t)(n * N) * sizeof *want);
    ref_matmul(want, size, dy2.values, w2.values, n, N, M, 0, 0);
    for (int i = 0; i < n * N; i++) {
        want[i] *= slope[i];
        bound[i] = 1.2 * 8 * U * size[i] * fmax(1, fabs(slope[i]));
    }
    ctx->be->linear_act_bwd_input(ctx->dev, dz.t, dy2.t, weight2, z.t, act, ctx->pack, axis);
    compare(ctx, "linear_act_bwd_input", &dz, want, bound, 0);
    ctx->be->linear_act_bwd_input(ctx->dev, z.t, dy2.t, weight2, z.t, act, ctx->pack, axis);
    compare(ctx, "linear_act_bwd_input over saved", &z, want, bound, 0);
    ctx->be->weight_free(ctx->dev, weight);
    ctx->be->weight_free(ctx->dev, weight2);
    ctx_release(ctx);
}

/* ---- attention ------------------------------------------------------------------------------ */

static ops_array columns(const ops_array *a, int first, int count) {
    ops_array view = *a;
    view.t = smhf_tensor_cols(a->t, first, count);
    return view;
}

/* q | k | v side by side, as the network has them; queries of all tokens or of the first ones */
static void case_attention(ops_context *ctx, smhf_axis axis, float rate) {
    int T = ctx->ref.tokens, n = ctx_rows(ctx, axis), H = HIDDEN;
    ops_array q = array_in(ctx, n, H, 2), kv = array_in(ctx, T, 2 * H, 2);
    ops_array out = array_out(ctx, n, H), lse = array_out(ctx, n, HEADS);
    ops_array alone = array_out(ctx, n, H);
    smhf_tensor none = SMHF_TENSOR_NONE;
    smhf_tensor k = columns(&kv, 0, H).t, v = columns(&kv, H, H).t;
    smhf_dropout dropout = ctx_dropout(ctx, rate, 9);
    float scale = 1.0f / sqrtf((float)(H / HEADS));
    ref_attention a = {&ctx->ref, axis, HEADS, H / HEADS, (double)scale, dropout, 5};
    double *rk = ctx_doubles(ctx, T, H), *rv = ctx_doubles(ctx, T, H);
    for (int t = 0; t < T; t++) {
        memcpy(rk + t * H, kv.values + t * 2 * H, (size_t)H * sizeof *rk);
        memcpy(rv + t * H, kv.values + t * 2 * H + H, (size_t)H * sizeof *rv);
    }
    double *want = ctx_doubles(ctx, n, H), *want_lse = ctx_doubles(ctx, n, HEADS);
    double *bound = ctx_doubles(ctx, n, H);
    ref_attention_fwd(&a, want, want_lse, bound, q.values, rk, rv);
    ctx->be->attention_fwd(ctx->dev, out.t, lse.t, q.t, k, v, ctx->pack, axis, HEADS, scale,
                           SMHF_DTYPE_F32, dropout);
    ctx->be->attention_fwd(ctx->dev, alone.t, none, q.t, k, v, ctx->pack, axis, HEADS, scale,
                           SMHF_DTYPE_F32, dropout);
    compare(ctx, "attention_fwd", &out, want, bound, U);
    compare(ctx, "attention_fwd lse", &lse, want_lse, NULL, 16 * U * 16);
    compare(ctx, "attention_fwd without lse", &alone, want, bound, U);

    ops_array dout = array_in(ctx, n, H, 1), dq = array_out(ctx, n, H);
    ops_array dkv = array_out(ctx, T, 2 * H);
    double *wq = ctx_doubles(ctx, n, H), *wk = ctx_doubles(ctx, T, H), *wv = ctx_doubles(ctx, T, H);
    double *bq = ctx_doubles(ctx, n, H), *bk = ctx_doubles(ctx, T, H), *bv = ctx_doubles(ctx, T, H);
    double *wkv = ctx_doubles(ctx, T, 2 * H), *bkv = ctx_doubles(ctx, T, 2 * H);
    ref_attention_bwd(&a, wq, wk, wv, bq, bk, bv, dout.values, q.values, rk, rv);
    for (int t = 0; t < T; t++) {
        for (int c = 0; c < H; c++) {
            wkv[t * 2 * H + c] = wk[t * H + c];
            wkv[t * 2 * H + H + c] = wv[t * H + c];
            bkv[t * 2 * H + c] = bk[t * H + c];
            bkv[t * 2 * H + H + c] = bv[t * H + c];
        }
    }
    ctx->be->attention_bwd(ctx->dev, dq.t, columns(&dkv, 0, H).t, columns(&dkv, H, H).t, dout.t,
                           out.t, lse.t, q.t, k, v, ctx->pack, axis, HEADS, scale, SMHF_DTYPE_F32,
                           dropout);
    compare(ctx, "attention_bwd dq", &dq, wq, bq, U);
    compare(ctx, "attention_bwd dk, dv", &dkv, wkv, bkv, U);
    ctx_release(ctx);
}

static double greatest_of(const double *x, int n) {
    double greatest = 0.0;
    for (int i = 0; i < n; i++) {
        greatest = fmax(greatest, fabs(x[i]));
    }
    return greatest;
}

/* y = x W^T + bias and the same over magnitudes */
static void make_keys(ops_context *ctx, double *y, double *size, const ops_array *x,
                      const double *w, const double *bias) {
    int T = ctx->ref.tokens, H = HIDDEN;
    ref_matmul(y, size, x->values, w, T, H, H, 0, 1);
    for (int i = 0; i < T * H; i++) {
        y[i] += bias[i % H];
        size[i] += fabs(bias[i % H]);
    }
}

/* Only first tokens ask. The reference makes keys and values of all tokens; bounds are those of
 * attention with sums over magnitudes where it has keys, values and scores. */
static void case_attention_first(ops_context *ctx, float rate) {
    int T = ctx->ref.tokens, B = ctx_rows(ctx, SMHF_AXIS_ROWS), H = HIDDEN, D = H / HEADS;
    if (ctx->be->attention_first_fwd == NULL) {
        return; /* optional */
    }
    ops_array q = array_in(ctx, B, H, 1), x = array_in(ctx, T, H, 1);
    ops_array w = array_in(ctx, 2 * H, H, 0.5), bias = array_in(ctx, 1, 2 * H, 1);
    ops_array out = array_out(ctx, B, H), alone = array_out(ctx, B, H);
    ops_array lse = array_out(ctx, B, HEADS);
    const double *wk = w.values, *wv = w.values + H * H;
    const smhf_weight_options options = {SMHF_DTYPE_F32, SMHF_WEIGHT_FIRST};
    smhf_weight *weight = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(ctx->be->weight_prepare(ctx->dev, &weight, w.t, &options, &err), &err);
    ctx->be->weight_refresh(ctx->dev, weight);
    smhf_dropout dropout = ctx_dropout(ctx, rate, 9);
    float scale = 1.0f / sqrtf((float)D);
    ref_attention a = {&ctx->ref, SMHF_AXIS_ROWS, HEADS, D, (double)scale, dropout, 5};
    double *k = ctx_doubles(ctx, T, H), *v = ctx_doubles(ctx, T, H);
    double *k_size = ctx_doubles(ctx, T, H), *v_size = ctx_doubles(ctx, T, H);
    make_keys(ctx, k, k_size, &x, wk, bias.values);
    make_keys(ctx, v, v_size, &x, wv, bias.values + H);
    double factor = 1 / (1 - (double)rate), score = 0.0;
    double k_most = greatest_of(k_size, T * H), v_most = greatest_of(v_size, T * H);
    for (int t = 0; t < T; t++) {
        double sums[HEADS] = {0};
        for (int c = 0; c < H; c++) {
            double asked = q.values[ref_row_of(&ctx->ref, t) * H + c];
            sums[c / D] += (double)scale * fabs(asked) * k_size[t * H + c];
        }
        score = fmax(score, greatest_of(sums, HEADS));
    }
    double relative = 32 * U * (1 + score);

    double *want = ctx_doubles(ctx, B, H), *want_lse = ctx_doubles(ctx, B, HEADS);
    ref_attention_fwd(&a, want, want_lse, NULL, q.values, k, v);
    ctx->be->attention_first_fwd(ctx->dev, out.t, lse.t, q.t, x.t, weight, bias.t, ctx->pack, HEADS,
                                 scale, dropout);
    ctx->be->attention_first_fwd(ctx->dev, alone.t, SMHF_TENSOR_NONE, q.t, x.t, weight, bias.t,
                                 ctx->pack, HEADS, scale, dropout);
    compare(ctx, "attention_first_fwd", &out, want, NULL, relative * factor * v_most);
    compare(ctx, "attention_first_fwd lse", &lse, want_lse, NULL, relative);
    compare(ctx, "attention_first_fwd without lse", &alone, want, NULL, relative * factor * v_most);

    ops_array dout = array_in(ctx, B, H, 1), dq = array_out(ctx, B, H), dx = array_out(ctx, T, H);
    ops_array dw = array_in(ctx, 2 * H, H, 1), db = array_in(ctx, 1, 2 * H, 1);
    ops_array dq2 = array_out(ctx, B, H);
    double *wq = ctx_doubles(ctx, B, H), *wx = ctx_doubles(ctx, T, H);
    double *dk = ctx_doubles(ctx, T, H), *dv = ctx_doubles(ctx, T, H);
    ref_attention_bwd(&a, wq, dk, dv, NULL, NULL, NULL, dout.values, q.values, k, v);
    ref_matmul(wx, NULL, dk, wk, T, H, H, 0, 0);
    ref_matmul(wx, NULL, dv, wv, T, H, H, 0, 0);
    ref_matmul(dw.values, NULL, dk, x.values, H, H, T, 1, 0);
    ref_matmul(dw.values + H * H, NULL, dv, x.values, H, H, T, 1, 0);
    for (int i = 0; i < T * H; i++) {
        db.values[i % H] += dk[i];
        db.values[H + i % H] += dv[i];
    }
    double q_most = greatest_of(q.values, B * H), x_most = greatest_of(x.values, T * H);
    double d_most = greatest_of(dout.values, B * H), w_most = greatest_of(w.values, 2 * H * H);
    double ds = 2 * (double)scale * D * d_most * v_most * factor; /* of a score, without its p */
    relative *= 2;
    ctx->be->attention_first_bwd(ctx->dev, dq.t, dx.t, dw.t, db.t, dout.t, out.t, lse.t, q.t, x.t,
                                 weight, bias.t, ctx->pack, HEADS, scale, dropout);
    ctx->be->attention_first_bwd(ctx->dev, dq2.t, SMHF_TENSOR_NONE, SMHF_TENSOR_NONE,
                                 SMHF_TENSOR_NONE, dout.t, out.t, lse.t, q.t, x.t, weight, bias.t,
                                 ctx->pack, HEADS, scale, dropout);
    compare(ctx, "attention_first_bwd dq", &dq, wq, NULL, relative * ds * k_most);
    compare(ctx, "attention_first_bwd dq alone", &dq2, wq, NULL, relative * ds * k_most);
    compare(ctx, "attention_first_bwd dx", &dx, wx, NULL,
            relative * H * w_most * (ds * q_most + factor * d_most));
    compare(ctx, "attention_first_bwd weights", &dw, dw.values, NULL,
            relative * B * x_most * (ds * q_most + factor * d_most));
    compare(ctx, "attention_first_bwd bias", &db, db.values, NULL,
            relative * B * (ds * q_most + factor * d_most));
    ctx_sync(ctx);
    ctx->be->weight_free(ctx->dev, weight);
    ctx_release(ctx);
}

/* ---- layernorm ------------------------------------------------------------------------------ */

/* variant 0: everything kept; 1: no residual, sum written over x */
static void case_residual_layernorm(ops_context *ctx, smhf_axis axis, float rate, int variant) {
    int n = ctx_rows(ctx, axis), H = 37;
    ops_array x = array_in(ctx, n, H, 1), residual = array_in(ctx, n, H, 2);
    ops_array gamma = array_in(ctx, 1, H, 1.5), beta = array_in(ctx, 1, H, 1);
    ops_array out = array_out(ctx, n, H), sum = array_out(ctx, n, H), stats = array_out(ctx, n, 2);
    ops_array alone = array_out(ctx, n, H);
    smhf_tensor none = SMHF_TENSOR_NONE;
    smhf_dropout dropout = ctx_dropout(ctx, rate, 11);
    smhf_tensor res = variant == 0 ? residual.t : none;
    ctx->be->residual_layernorm_fwd(ctx->dev, alone.t, none, none, x.t, res, gamma.t, beta.t, EPS,
                                    ctx->pack, axis, dropout);
    ctx->be->residual_layernorm_fwd(ctx->dev, out.t, variant == 0 ? sum.t : x.t, stats.t, x.t, res,
                                    gamma.t, beta.t, EPS, ctx->pack, axis, dropout);
    double *want_sum = ctx_doubles(ctx, n, H), *want = ctx_doubles(ctx, n, H);
    double *bound_sum = ctx_doubles(ctx, n, H), *bound = ctx_doubles(ctx, n, H);
    double *st = ctx_doubles(ctx, n, 2);
    for (int r = 0; r < n; r++) {
        double greatest = 0.0;
        for (int c = 0; c < H; c++) {
            int i = r * H + c;
            double f = ref_row_factor(&dropout, 5, &ctx->ref, axis, r, c);
            want_sum[i] = x.values[i] * f + (variant == 0 ? residual.values[i] : 0.0);
            bound_sum[i] = 2 * U * (fabs(x.values[i] * f) + fabs(residual.values[i]));
            greatest = fmax(greatest, fabs(want_sum[i]));
        }
        ref_layernorm_row(want + r * H, &st[r * 2], &st[r * 2 + 1], want_sum + r * H, gamma.values,
                          beta.values, H, (double)EPS);
        for (int c = 0; c < H; c++) {
            bound[r * H + c] = 8 * U * fmax(1, fabs(want[r * H + c])) +
                               4 * U * st[r * 2 + 1] * greatest * fabs(gamma.values[c]);
        }
    }
    compare(ctx, "residual_layernorm_fwd", &out, want, bound, 0);
    compare(ctx, "residual_layernorm_fwd sum", variant == 0 ? &sum : &x, want_sum, bound_sum, 0);
    compare(ctx, "residual_layernorm_fwd alone", &alone, want, bound, 0);

    ops_array dout = array_in(ctx, n, H, 1), dsum = array_out(ctx, n, H), dx = array_out(ctx, n, H);
    ops_array dgamma = array_in(ctx, 1, H, 1), dbeta = array_in(ctx, 1, H, 1);
    double *wd = ctx_doubles(ctx, n, H), *bd = ctx_doubles(ctx, n, H);
    double *wx = ctx_doubles(ctx, n, H), *bx = ctx_doubles(ctx, n, H);
    double *bg = ctx_doubles(ctx, 1, H), *bb = ctx_doubles(ctx, 1, H);
    for (int r = 0; r < n; r++) {
        ref_layernorm_bwd_row(wd + r * H, dgamma.values, dbeta.values, bd + r * H, bg,
                              dout.values + r * H, want_sum + r * H, st[r * 2], st[r * 2 + 1],
                              gamma.values, H);
        for (int c = 0; c < H; c++) {
            int i = r * H + c;
            double f = ref_row_factor(&dropout, 5, &ctx->ref, axis, r, c);
            bd[i] *= 16 * U;
            wx[i] = wd[i] * f;
            bx[i] = bd[i] * f;
            bb[c] += 16 * U * fabs(dout.values[i]);
        }
    }
    scale_all(bg, H, 16 * U);
    smhf_tensor summed = variant == 0 ? sum.t : x.t;
    ctx->be->residual_layernorm_bwd(ctx->dev, dsum.t, dx.t, dgamma.t, dbeta.t, dout.t, summed,
                                    stats.t, gamma.t, ctx->pack, axis, dropout);
    compare(ctx, "residual_layernorm_bwd dsum", &dsum, wd, bd, 0);
    compare(ctx, "residual_layernorm_bwd dx", &dx, wx, bx, 0);
    compare(ctx, "residual_layernorm_bwd gamma", &dgamma, dgamma.values, bg, 4 * U);
    compare(ctx, "residual_layernorm_bwd beta", &dbeta, dbeta.values, bb, 4 * U);

    /* in place: dsum over dout */
    ctx->be->residual_layernorm_bwd(ctx->dev, dout.t, dx.t, dgamma.t, dbeta.t, dout.t, summed,
                                    stats.t, gamma.t, ctx->pack, axis, dropout);
    compare(ctx, "residual_layernorm_bwd in place", &dout, wd, bd, 0);
    ctx_release(ctx);
}

/* ---- small ones ----------------------------------------------------------------------------- */

static void case_dropout(ops_context *ctx, smhf_axis axis, float rate) {
    int n = ctx_rows(ctx, axis), C = 71;
    ops_array x = array_in(ctx, n, C, 1), y = array_out(ctx, n, C);
    smhf_dropout dropout = ctx_dropout(ctx, rate, 13);
    double *want = ctx_doubles(ctx, n, C), *bound = ctx_doubles(ctx, n, C);
    for (int i = 0; i < n * C; i++) {
        want[i] = x.values[i] * ref_row_factor(&dropout, 5, &ctx->ref, axis, i / C, i % C);
        bound[i] = 2.1 * U * fabs(want[i]);
    }
    ctx->be->dropout(ctx->dev, y.t, x.t, ctx->pack, axis, dropout);
    compare(ctx, "dropout", &y, want, bound, 0);
    ctx->be->dropout(ctx->dev, x.t, x.t, ctx->pack, axis, dropout);
    compare(ctx, "dropout in place", &x, want, bound, 0);
    ctx_release(ctx);
}

static void case_gather_scatter(ops_context *ctx, smhf_axis axis) {
    int T = ctx->ref.tokens, n = ctx_rows(ctx, axis), C = 19;
    ops_array x = array_in(ctx, T, C, 1), out = array_out(ctx, n, C), d = array_in(ctx, n, C, 1);
    double *want = ctx_doubles(ctx, n, C);
    ctx->be->gather_rows(ctx->dev, out.t, x.t, ctx->pack, axis);
    for (int r = 0; r < n; r++) {
        memcpy(want + r * C, x.values + ref_token(&ctx->ref, axis, r) * C,
               (size_t)C * sizeof *want);
    }
    compare(ctx, "gather_rows", &out, want, NULL, 0);
    ctx->be->scatter_add_rows(ctx->dev, x.t, d.t, ctx->pack, axis);
    for (int i = 0; i < n * C; i++) {
        x.values[ref_token(&ctx->ref, axis, i / C) * C + i % C] += d.values[i];
    }
    compare(ctx, "scatter_add_rows", &x, x.values, NULL, 2 * U);
    ctx_release(ctx);
}

static void case_mean(ops_context *ctx) {
    int T = ctx->ref.tokens, B = ctx->ref.rows, C = 23;
    ops_array x = array_in(ctx, T, C, 1), out = array_out(ctx, B, C);
    ops_array d = array_in(ctx, B, C, 1), dx = array_out(ctx, T, C);
    double *want = ctx_doubles(ctx, B, C), *want_dx = ctx_doubles(ctx, T, C);
    for (int i = 0; i < T * C; i++) {
        int b = ref_row_of(&ctx->ref, i / C), tokens = ctx->cu[b + 1] - ctx->cu[b];
        want[b * C + i % C] += x.values[i] / tokens;
        want_dx[i] = d.values[b * C + i % C] / tokens;
    }
    ctx->be->mean_rows(ctx->dev, out.t, x.t, ctx->pack);
    ctx->be->mean_rows_bwd(ctx->dev, dx.t, d.t, ctx->pack);
    compare(ctx, "mean_rows", &out, want, NULL, 8 * U);
    compare(ctx, "mean_rows_bwd", &dx, want_dx, NULL, 2 * U);
    ctx_release(ctx);
}

/* The span loss of whole sequences; *count: those whose target lies inside, of both columns. */
static double ref_span_loss(const ref_pack *pack, const double *z, const int32_t *targets,
                            int count[2]) {
    double total = 0.0;
    for (int column = 0; column < 2; column++) {
        double sum = 0.0;
        count[column] = 0;
        for (int b = 0; b < pack->rows; b++) {
            int first = pack->cu[b], tokens = pack->cu[b + 1] - first;
            int target = targets[2 * b + column];
            double whole = 0.0;
            if (target < 0 || target >= tokens) {
                continue;
            }
            for (int t = first; t < first + tokens; t++) {
                whole += exp(z[2 * t + column]);
            }
            sum += log(whole) - z[2 * (first + target) + column];
            count[column]++;
        }
        total += sum / count[column];
    }
    return total / 2;
}

/* `outside`: every second end lies behind its sequence, every third start before it. */
static void case_span_loss(ops_context *ctx, int outside) {
    int T = ctx->ref.tokens, B = ctx->ref.rows, count[2];
    ops_array logits = array_in(ctx, T, 2, 3), dlogits = array_out(ctx, T, 2);
    ops_array loss = array_out(ctx, 1, 1);
    int32_t *targets = ctx_host(ctx, (size_t)B * 2 * sizeof *targets);
    void *device = ctx_device(ctx, (size_t)B * 2 * sizeof *targets);
    for (int b = 0; b < B; b++) {
        int tokens = ctx->cu[b + 1] - ctx->cu[b];
        targets[2 * b] = outside && b % 3 == 2 ? -1 : (b * 5) % tokens;
        targets[2 * b + 1] = outside && b % 2 == 1 ? tokens : tokens - 1 - targets[2 * b] / 2;
    }
    ctx->be->upload(ctx->dev, device, targets, (size_t)B * 2 * sizeof *targets);
    smhf_tensor target = smhf_tensor_of(device, B, 2, SMHF_DTYPE_I32);
    smhf_loss_options options = {.grad_scale = 0.5f};
    ctx->be->span_loss(ctx->dev, loss.t.data, dlogits.t, logits.t, target, &options, ctx->pack);
    if (B == 0) {
        array_fetch(ctx, &loss);
        CHECK(isnan(loss.host[0]));
        ctx_release(ctx);
        return;
    }
    double *z = logits.values, *want = ctx_doubles(ctx, T, 2), step = 1e-5;
    double value = ref_span_loss(&ctx->ref, z, targets, count);
    compare(ctx, "span_loss", &loss, &value, NULL, 16 * U * 4);
    for (int i = 0; i < 2 * T; i++) {
        double keep = z[i];
        z[i] = keep + step;
        double up = ref_span_loss(&ctx->ref, z, targets, count);
        z[i] = keep - step;
        want[i] = 0.5 * (up - ref_span_loss(&ctx->ref, z, targets, count)) / (2 * step);
        z[i] = keep;
    }
    compare(ctx, "span_loss gradient", &dlogits, want, NULL, 1e-6);
    ctx->be->span_loss(ctx->dev, loss.t.data, logits.t, logits.t, target, &options, ctx->pack);
    compare(ctx, "span_loss gradient over logits", &logits, want, NULL, 1e-6);
    ctx_release(ctx);
}

/* Gradient of the loop by central differences: the reference of the loss's own gradient. */
static void case_loss(ops_context *ctx, smhf_axis axis, smhf_loss_kind kind, int fancy) {
    int n = ctx_rows(ctx, axis), C = 4;
    ops_array logits = array_in(ctx, n, C, 3), targets = array_in(ctx, n, C, 1);
    ops_array dlogits = array_out(ctx, n, C), loss = array_out(ctx, 1, 1);
    ops_array weights = array_in(ctx, 1, C, 1);
    int32_t *labels = ctx_host(ctx, (size_t)n * sizeof *labels);
    void *labels_device = ctx_device(ctx, (size_t)n * sizeof *labels);
    for (int i = 0; i < n; i++) {
        labels[i] = fancy && i % 3 == 1 ? -100 : i % C;
    }
    for (int i = 0; i < n * C; i++) { /* BCE wants probabilities */
        targets.values[i] = fabs(targets.values[i]);
    }
    for (int c = 0; c < C; c++) {
        weights.values[c] = 0.5 + fabs(weights.values[c]);
    }
    array_upload(ctx, &targets);
    array_upload(ctx, &weights);
    ctx->be->upload(ctx->dev, labels_device, labels, (size_t)n * sizeof *labels);
    smhf_tensor label_tensor = smhf_tensor_of(labels_device, n, 1, SMHF_DTYPE_I32);
    smhf_loss_options options = {kind, fancy ? 0.1f : 0.0f, NULL, -100, 0.0f, 0.25f};
    options.class_weights = fancy ? weights.t.data : NULL;
    smhf_tensor target = kind == SMHF_LOSS_CROSS_ENTROPY ? label_tensor : targets.t;
    ctx->be->loss(ctx->dev, loss.t.data, dlogits.t, logits.t, target, &options, ctx->pack, axis);
    if (n == 0 || (fancy && n < 2)) {
        array_fetch(ctx, &loss);
        CHECK(n > 0 || isnan(loss.host[0]));
        ctx_release(ctx);
        return;
    }
    double *want = ctx_doubles(ctx, n, C), smoothing = (double)options.label_smoothing;
    const double *w = fancy ? weights.values : NULL;
    double *z = logits.values, step = 1e-5;
    for (int i = 0; i < n * C && i < 200; i++) {
        double keep = z[i];
        z[i] = keep + step;
        double up = ref_loss(z, labels, targets.values, n, C, kind, smoothing, w, -100);
        z[i] = keep - step;
        double down = ref_loss(z, labels, targets.values, n, C, kind, smoothing, w, -100);
        z[i] = keep;
        want[i] = 0.25 * (up - down) / (2 * step);
    }
    double value = ref_loss(z, labels, targets.values, n, C, kind, smoothing, w, -100);
    compare(ctx, "loss", &loss, &value, NULL, 16 * U * 4);
    array_fetch(ctx, &dlogits);
    for (int i = 0; i < n * C && i < 200; i++) {
        double got = (double)dlogits.host[i / C * dlogits.ld + i % C];
        CHECK_CLOSE(got, want[i], 1e-7 + 4 * U);
    }
    /* evaluation: no gradient; a batch in two packs: the caller's denominator */
    double count = 0.0;
    for (int i = 0; i < n; i++) {
        count += kind != SMHF_LOSS_CROSS_ENTROPY ? C
                 : labels[i] == -100             ? 0
                 : fancy                         ? weights.values[labels[i]]
                                                 : 1;
    }
    options.denominator = (float)(2 * count);
    smhf_tensor none = SMHF_TENSOR_NONE;
    ctx->be->loss(ctx->dev, loss.t.data, none, logits.t, target, &options, ctx->pack, axis);
    value *= 0.5;
    compare(ctx, "loss with a denominator", &loss, &value, NULL, 16 * U * 4);
    ctx_release(ctx);
}

/* ---- optimizer ------------------------------------------------------------------------------ */

/* Three segments, one with decay, one empty; two steps; clipping on in the second. */
static void case_optimizer(ops_context *ctx, int shape) {
    const int sizes[3] = {1 + 97 * shape, 0, shape == 8 ? 70000 : 5};
    ops_array p[3], g[3], m[3], v[3];
    smhf_segment segments[3];
    smhf_adamw_options options = {0.9, 0.999, 1e-8};
    for (int s = 0; s < 3; s++) {
        p[s] = array_make(ctx, 1, sizes[s], 0);
        g[s] = array_make(ctx, 1, sizes[s], 0);
        m[s] = array_make(ctx, 1, sizes[s], 0);
        v[s] = array_make(ctx, 1, sizes[s], 0);
        for (int i = 0; i < sizes[s]; i++) {
            p[s].values[i] = ctx_random(ctx);
            g[s].values[i] = ctx_random(ctx);
        }
        array_upload(ctx, &p[s]);
        array_upload(ctx, &g[s]);
        array_upload(ctx, &m[s]);
        array_upload(ctx, &v[s]);
        segments[s] = (smhf_segment){p[s].t.data, g[s].t.data,           m[s].t.data, v[s].t.data,
                                     sizes[s],    s == 0 ? 0.01f : 0.0f, 1.0f};
    }
    double square = 0.0;
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < sizes[s]; i++) {
            square += g[s].values[i] * g[s].values[i];
        }
    }
    for (int t = 1; t <= 2; t++) {
        float max_norm = t == 1 ? 0.0f : 0.5f;
        smhf_step *step = ctx_host(ctx, sizeof *step), back;
        step->learning_rate = 1e-2f;
        step->bias_correction1 = (float)(1 - pow(0.9, t));
        step->bias_correction2_sqrt = (float)sqrt(1 - pow(0.999, t));
        void *device_step = ctx_device(ctx, sizeof *step);
        ctx->be->upload(ctx->dev, device_step, step, sizeof *step);
        ctx->be->grad_norm(ctx->dev, device_step, segments, 3, max_norm);
        ctx->be->adamw(ctx->dev, device_step, segments, 3, &options);
        ctx->be->download(ctx->dev, &back, device_step, sizeof back);
        ctx_sync(ctx);
        hash_bytes(ctx, &back, sizeof back);
        double norm = sqrt(square), clip = t == 1 ? 1.0 : fmin(1.0, 0.5 / (norm + 1e-6));
        CHECK_CLOSE((double)back.grad_norm, norm, 1e-6 * norm);
        CHECK_CLOSE((double)back.clip_scale, clip, 2e-6);
        for (int s = 0; s < 3; s++) {
            for (int i = 0; i < sizes[s]; i++) {
                double gi = g[s].values[i] * clip, lr = 1e-2, *mi = &m[s].values[i];
                double *vi = &v[s].values[i];
                p[s].values[i] *= 1 - lr * (s == 0 ? 0.01 : 0.0);
                *mi += (1 - 0.9) * (gi - *mi);
                *vi = 0.999 * *vi + (1 - 0.999) * gi * gi;
                p[s].values[i] -=
                    lr / (1 - pow(0.9, t)) * *mi / (sqrt(*vi) / sqrt(1 - pow(0.999, t)) + 1e-8);
            }
        }
    }
    for (int s = 0; s < 3; s++) { /* a step is at most lr: errors stay small beside 1 */
        compare(ctx, "adamw param", &p[s], p[s].values, NULL, 4 * U + 1e-2 * 2e-5);
        compare(ctx, "adamw m", &m[s], m[s].values, NULL, 4 * U);
        compare(ctx, "adamw v", &v[s], v[s].values, NULL, 1e-7 * 2e-2);
    }
    ctx_release(ctx);
}

static float bf16_value(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static void case_axpy_convert(ops_context *ctx, int shape) {
    int n = 1 + 13 * shape, C = 11;
    ops_array y = array_in(ctx, n, C, 1), x = array_in(ctx, n, C, 1);
    for (int i = 0; i < n * C; i++) {
        y.values[i] += -0.75 * x.values[i];
    }
    /* one call for each row: rows have gaps */
    for (int r = 0; r < n; r++) {
        ctx->be->axpy(ctx->dev, (float *)y.t.data + r * y.ld, (float *)x.t.data + r * x.ld, -0.75f,
                      C);
    }
    compare(ctx, "axpy", &y, y.values, NULL, 4 * U);

    size_t halves = (size_t)(n * C) * 2;
    smhf_tensor half = smhf_tensor_of(ctx_device(ctx, halves), n, C, SMHF_DTYPE_BF16);
    smhf_tensor eighth = smhf_tensor_of(ctx_device(ctx, halves / 2), n, C, SMHF_DTYPE_I8);
    eighth.scales = ctx_device(ctx, (size_t)n * sizeof(float));
    uint16_t *got_half = ctx_host(ctx, halves);
    ops_array back = array_out(ctx, n, C);
    ctx->be->convert(ctx->dev, half, x.t);
    ctx->be->convert(ctx->dev, eighth, x.t);
    ctx->be->convert(ctx->dev, back.t, eighth);
    ctx->be->download(ctx->dev, got_half, half.data, halves);
    ctx_sync(ctx);
    hash_bytes(ctx, got_half, halves);
    double *bound = ctx_doubles(ctx, n, C);
    for (int r = 0; r < n; r++) {
        double greatest = 0.0;
        for (int c = 0; c < C; c++) {
            double value = x.values[r * C + c];
            greatest = fmax(greatest, fabs(value));
            CHECK_CLOSE((double)bf16_value(got_half[r * C + c]), value, fabs(value) / 256);
        }
        for (int c = 0; c < C; c++) {
            bound[r * C + c] = greatest / 127 * 0.501;
        }
    }
    compare(ctx, "convert int8", &back, x.values, bound, U);
    ctx_release(ctx);
}

#endif
