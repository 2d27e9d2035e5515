/* backend_ops_checks.h: what is not one op against its loop: the loops themselves, packing, special
 * values, refusals, allocations; for test_backend_ops.c. */
#ifndef SMHF_TEST_BACKEND_OPS_CHECKS_H
#define SMHF_TEST_BACKEND_OPS_CHECKS_H

/* ---- backward loops against central differences, all in double ------------------------------- */

static double stream_value(uint32_t *at) {
    uint32_t counter[4] = {(*at)++, 5, 5, 5}, out[4];
    smhf_philox(counter, 3, out);
    return 2.0 * (double)smhf_uniform(out[1]) - 1.0;
}

static void fill_values(double *x, int n, uint32_t *at) {
    for (int i = 0; i < n; i++) {
        x[i] = stream_value(at);
    }
}

static double attention_value(const ref_attention *a, const double *q, const double *k,
                              const double *v, const double *dout, int n, int H) {
    double *out = ref_new((size_t)(n * H)), *lse = ref_new((size_t)(n * a->heads)), sum = 0.0;
    ref_attention_fwd(a, out, lse, NULL, q, k, v);
    for (int i = 0; i < n * H; i++) {
        sum += out[i] * dout[i];
    }
    free(out);
    free(lse);
    return sum;
}

static void attention_differences(const ref_pack *pack, smhf_axis axis, float rate) {
    int T = pack->tokens, n = axis == SMHF_AXIS_TOKENS ? T : pack->rows, H = 6;
    smhf_dropout dropout = {rate, 2, 77, NULL};
    ref_attention a = {pack, axis, 2, 3, 0.7, dropout, 1};
    uint32_t at = 0;
    double *x[4], *dx[3]; /* q, k, v, dout */
    const int rows[4] = {n, T, T, n};
    for (int i = 0; i < 4; i++) {
        x[i] = ref_new((size_t)(rows[i] * H));
        fill_values(x[i], rows[i] * H, &at);
    }
    for (int i = 0; i < 3; i++) {
        dx[i] = ref_new((size_t)(rows[i] * H));
    }
    ref_attention_bwd(&a, dx[0], dx[1], dx[2], NULL, NULL, NULL, x[3], x[0], x[1], x[2]);
    for (int which = 0; which < 3; which++) {
        for (int i = 0; i < rows[which] * H; i++) {
            double keep = x[which][i], step = 1e-5;
            x[which][i] = keep + step;
            double up = attention_value(&a, x[0], x[1], x[2], x[3], n, H);
            x[which][i] = keep - step;
            double down = attention_value(&a, x[0], x[1], x[2], x[3], n, H);
            x[which][i] = keep;
            CHECK_CLOSE(dx[which][i], (up - down) / (2 * step), 1e-8);
        }
    }
    for (int i = 0; i < 4; i++) {
        free(x[i]);
    }
    for (int i = 0; i < 3; i++) {
        free(dx[i]);
    }
}

static double layernorm_value(const double *s, const double *gamma, const double *beta,
                              const double *dout, int n) {
    double out[16], mean, rstd, sum = 0.0;
    ref_layernorm_row(out, &mean, &rstd, s, gamma, beta, n, 1e-12);
    for (int c = 0; c < n; c++) {
        sum += out[c] * dout[c];
    }
    return sum;
}

static void layernorm_differences(void) {
    double s[16], gamma[16], beta[16], dout[16], out[16], mean, rstd;
    double d[3][16] = {{0}}, *x[3] = {s, gamma, beta};
    uint32_t at = 500;
    fill_values(s, 13, &at);
    fill_values(gamma, 13, &at);
    fill_values(beta, 13, &at);
    fill_values(dout, 13, &at);
    ref_layernorm_row(out, &mean, &rstd, s, gamma, beta, 13, 1e-12);
    ref_layernorm_bwd_row(d[0], d[1], d[2], NULL, NULL, dout, s, mean, rstd, gamma, 13);
    for (int which = 0; which < 3; which++) {
        for (int c = 0; c < 13; c++) {
            double keep = x[which][c], step = 1e-5;
            x[which][c] = keep + step;
            double up = layernorm_value(s, gamma, beta, dout, 13);
            x[which][c] = keep - step;
            double down = layernorm_value(s, gamma, beta, dout, 13);
            x[which][c] = keep;
            CHECK_CLOSE(d[which][c], (up - down) / (2 * step), 1e-7);
        }
    }
}

static void check_differences(const int *lengths) {
    int32_t cu[8] = {0};
    uint32_t sequence_ids[8] = {4, 5, 6, 7, 8, 9, 10, 11};
    int rows = 0;
    for (; lengths[rows] > 0; rows++) {
        cu[rows + 1] = cu[rows] + lengths[rows];
    }
    ref_pack pack = {cu[rows], rows, cu, NULL, NULL, sequence_ids, NULL, 0};
    attention_differences(&pack, SMHF_AXIS_TOKENS, 0.0f);
    attention_differences(&pack, SMHF_AXIS_TOKENS, 0.4f);
    attention_differences(&pack, SMHF_AXIS_ROWS, 0.4f);
    layernorm_differences();
    for (int act = SMHF_ACT_NONE; act <= SMHF_ACT_GELU_TANH; act++) {
        for (double x = -6.05; x < 6.1; x += 0.1) {
            double up = ref_act(x + 1e-5, (smhf_act)act), down = ref_act(x - 1e-5, (smhf_act)act);
            CHECK_CLOSE(ref_act_slope(x, (smhf_act)act), (up - down) / 2e-5, 1e-8);
        }
    }
}

/* ---- masks ---------------------------------------------------------------------------------- */

/* The same two sequences, alone and among others, in another place: the same masks. And the rate of
 * what is kept is right. */
static void check_dropout_packing(ops_context *ctx) {
    const int alone[] = {37, 12, 0}, among[] = {5, 12, 3, 37, 0};
    const int C = 96;
    ctx_batch(ctx, alone, 0);
    ops_array x = array_make(ctx, 49, C, 0), y = array_out(ctx, 49, C);
    for (int i = 0; i < 49 * C; i++) {
        x.values[i] = 1.0;
    }
    array_upload(ctx, &x);
    smhf_dropout dropout = ctx_dropout(ctx, 0.1f, 21);
    ctx->be->dropout(ctx->dev, y.t, x.t, ctx->pack, SMHF_AXIS_TOKENS, dropout);
    array_fetch(ctx, &y);
    int kept = 0;
    for (int t = 0; t < 49; t++) {
        for (int c = 0; c < C; c++) {
            float value = y.host[t * y.ld + c];
            CHECK(value == 0.0f || fabs((double)value - 1.0 / 0.9) < 1e-6);
            kept += value != 0.0f;
        }
    }
    CHECK_CLOSE((double)kept / (49 * C), 0.9, 4 * sqrt(0.09 / (49 * C)));

    smhf_error err = SMHF_ERROR_INIT;
    ctx_batch(ctx, among, 0);
    const uint32_t names[] = {9999, 1007, 8888, 1000};
    smhf_pack_input input = {ctx->ids, NULL, ctx->cu, names, 4, 0, NULL, 0};
    CHECK_OK(smhf_pack_fill(ctx->pack, &input, &err), &err);
    ops_array x2 = array_make(ctx, 57, C, 0), y2 = array_out(ctx, 57, C);
    for (int i = 0; i < 57 * C; i++) {
        x2.values[i] = 1.0;
    }
    array_upload(ctx, &x2);
    ctx->be->dropout(ctx->dev, y2.t, x2.t, ctx->pack, SMHF_AXIS_TOKENS, dropout);
    array_fetch(ctx, &y2);
    for (int t = 0; t < 37; t++) {
        CHECK(memcmp(y.host + t * y.ld, y2.host + (20 + t) * y2.ld, (size_t)C * 4) == 0);
    }
    for (int t = 0; t < 12; t++) {
        CHECK(memcmp(y.host + (37 + t) * y.ld, y2.host + (5 + t) * y2.ld, (size_t)C * 4) == 0);
    }
    /* another step, another site: other masks */
    dropout.site++;
    ctx->be->dropout(ctx->dev, y2.t, x2.t, ctx->pack, SMHF_AXIS_TOKENS, dropout);
    array_fetch(ctx, &y2);
    CHECK(memcmp(y.host, y2.host + 20 * y2.ld, (size_t)C * 4) != 0);
    ctx_release(ctx);
}

/* ---- NaN and infinity ----------------------------------------------------------------------- */

static int row_finite(const ops_array *a, int row) {
    int finite = 1;
    for (int c = 0; c < a->cols; c++) {
        finite = finite && isfinite(a->host[row * a->ld + c]);
    }
    return finite;
}

static int row_nan(const ops_array *a, int row) {
    int all = 1;
    for (int c = 0; c < a->cols; c++) {
        all = all && isnan(a->host[row * a->ld + c]);
    }
    return all;
}

static void check_special_values(ops_context *ctx) {
    const int lengths[] = {3, 4, 0};
    smhf_tensor none = SMHF_TENSOR_NONE;
    ctx_batch(ctx, lengths, 1);
    ops_array x = array_in(ctx, 7, HIDDEN, 1), w = array_in(ctx, 9, HIDDEN, 1);
    x.values[4 * HIDDEN + 2] = NAN;
    x.values[6 * HIDDEN + 3] = INFINITY;
    array_upload(ctx, &x);
    smhf_weight *weight = ctx_weight(ctx, &w);
    for (int act = SMHF_ACT_NONE; act <= SMHF_ACT_GELU_TANH; act++) {
        ops_array y = array_out(ctx, 7, 9);
        ctx->be->linear_act_fwd(ctx->dev, y.t, none, x.t, weight, none, (smhf_act)act, ctx->pack,
                                SMHF_AXIS_TOKENS);
        array_fetch(ctx, &y);
        for (int t = 0; t < 7; t++) {
            CHECK_INT(row_nan(&y, t), t == 4);
            CHECK(t == 4 || t == 6 || row_finite(&y, t));
        }
    }
    ctx->be->weight_free(ctx->dev, weight);

    ops_array gamma = array_in(ctx, 1, HIDDEN, 1), out = array_out(ctx, 7, HIDDEN);
    ctx->be->residual_layernorm_fwd(ctx->dev, out.t, none, none, x.t, none, gamma.t, gamma.t, EPS,
                                    ctx->pack, SMHF_AXIS_TOKENS, SMHF_DROPOUT_NONE);
    array_fetch(ctx, &out);
    for (int t = 0; t < 7; t++) { /* torch.nn.functional.layer_norm: the whole row */
        CHECK_INT(row_nan(&out, t), t == 4 || t == 6);
        CHECK_INT(row_finite(&out, t), t != 4 && t != 6);
    }

    /* a NaN in one key spoils its sequence's rows of that head, and no other sequence */
    ops_array q = array_in(ctx, 7, HIDDEN, 1), mixed = array_out(ctx, 7, HIDDEN);
    ctx->be->attention_fwd(ctx->dev, mixed.t, none, q.t, x.t, q.t, ctx->pack, SMHF_AXIS_TOKENS,
                           HEADS, 0.3f, SMHF_DTYPE_F32, SMHF_DROPOUT_NONE);
    array_fetch(ctx, &mixed);
    for (int t = 0; t < 7; t++) {
        CHECK_INT(row_finite(&mixed, t), t < 3);
        CHECK_INT(isnan(mixed.host[t * mixed.ld]), t >= 3);
    }

    /* scores that overflow exp do no harm; equal scores are uniform */
    for (int i = 0; i < 7 * HIDDEN; i++) {
        q.values[i] = 100.0;
    }
    array_upload(ctx, &q);
    ctx->be->attention_fwd(ctx->dev, mixed.t, none, q.t, q.t, q.t, ctx->pack, SMHF_AXIS_TOKENS,
                           HEADS, 1.0f, SMHF_DTYPE_F32, SMHF_DROPOUT_NONE);
    array_fetch(ctx, &mixed);
    for (int t = 0; t < 7; t++) {
        CHECK_CLOSE((double)mixed.host[t * mixed.ld], 100.0, 1e-4);
    }

    /* a label that is none: its row alone, and the loss */
    int32_t labels[2] = {1, 17};
    void *labels_device = ctx_device(ctx, sizeof labels);
    ops_array logits = array_in(ctx, 2, 3, 1), d = array_out(ctx, 2, 3),
              loss = array_out(ctx, 1, 1);
    smhf_loss_options options = {SMHF_LOSS_CROSS_ENTROPY, 0.0f, NULL, -100, 0.0f, 1.0f};
    ctx->be->upload(ctx->dev, labels_device, labels, sizeof labels);
    ctx->be->loss(ctx->dev, loss.t.data, d.t, logits.t,
                  smhf_tensor_of(labels_device, 2, 1, SMHF_DTYPE_I32), &options, ctx->pack,
                  SMHF_AXIS_ROWS);
    array_fetch(ctx, &d);
    array_fetch(ctx, &loss);
    CHECK(row_finite(&d, 0));
    CHECK(row_nan(&d, 1));
    CHECK(isnan(loss.host[0]));

    /* a NaN gradient: the norm and the clip scale say so */
    ops_array g = array_in(ctx, 1, 40, 1);
    g.values[33] = NAN;
    array_upload(ctx, &g);
    smhf_segment segment = {g.t.data, g.t.data, g.t.data, g.t.data, 40, 0.0f, 1.0f};
    smhf_step back;
    ctx->be->grad_norm(ctx->dev, ctx->step, &segment, 1, 1.0f);
    ctx->be->download(ctx->dev, &back, ctx->step, sizeof back);
    ctx_sync(ctx);
    CHECK(isnan(back.grad_norm));
    CHECK(isnan(back.clip_scale));
    CHECK_INT(back.halted, 1);
    ctx_release(ctx);
}

/* A bad step, and the good ones behind it, leave the parameters alone until the host says so. */
static void check_halting(ops_context *ctx) {
    enum { N = 40 };
    const smhf_adamw_options options = {0.9, 0.999, 1e-8};
    ops_array p = array_in(ctx, 1, N, 1), g = array_in(ctx, 1, N, 1);
    ops_array m = array_in(ctx, 1, N, 1), v = array_in(ctx, 1, N, 1);
    const smhf_segment segment = {p.t.data, g.t.data, m.t.data, v.t.data, N, 0.1f, 1.0f};
    smhf_step given = {0}, back = {0};
    given.learning_rate = 0.1f;
    given.bias_correction1 = 0.1f;
    given.bias_correction2_sqrt = 0.03f;
    for (int i = 0; i < N; i++) {
        v.values[i] = fabs(v.values[i]);
    }
    array_upload(ctx, &v);
    for (int part = 0; part < 5; part++) {
        /* good; a bad loss; good but behind it; cleared; bad gradients */
        const int changes = part == 0 || part == 3;
        ops_array before = p;
        float kept[N];
        given.loss_sum = part == 1 ? INFINITY : 1.0f;
        given.halted = 0;
        g.values[33] = part == 4 ? NAN : 0.5;
        array_upload(ctx, &g);
        array_fetch(ctx, &before);
        memcpy(kept, before.host, sizeof kept);
        if (part == 0 || part == 3) {
            ctx->be->upload(ctx->dev, ctx->step, &given, sizeof given);
        } else {
            ctx->be->upload(ctx->dev, ctx->step, &given, offsetof(smhf_step, grad_norm));
        }
        ctx->be->grad_norm(ctx->dev, ctx->step, &segment, 1, 1.0f);
        ctx->be->adamw(ctx->dev, ctx->step, &segment, 1, &options);
        ctx->be->download(ctx->dev, &back, ctx->step, sizeof back);
        array_fetch(ctx, &p);
        CHECK_INT(back.halted, !changes);
        CHECK((memcmp(kept, p.host, sizeof kept) != 0) == changes);
        CHECK(part == 4 ? isnan(back.grad_norm) : isfinite(back.grad_norm));
    }
    ctx_release(ctx);
}

/* ---- refusals ------------------------------------------------------------------------------- */

#define CHECK_STATUS(expr, expected, part)                                                         \
    do {                                                                                           \
        smhf_error_clear(&err);                                                                    \
        CHECK_INT((expr), (expected));                                                             \
        if (strstr(err.message, (part)) == NULL) {                                                 \
            CHECK_STR(err.message, (part));                                                        \
        }                                                                                          \
    } while (0)

static void check_refusals(ops_context *ctx) {
    const int lengths[] = {2, 0};
    smhf_error err = SMHF_ERROR_INIT;
    smhf_device *other = NULL;
    smhf_weight *weight = NULL;
    ctx_batch(ctx, lengths, 0);

    /* the first sentence stays, later ops do nothing, sync tells once */
    ops_array x = array_in(ctx, 2, 4, 1), y = array_out(ctx, 2, 4);
    smhf_tensor half = x.t;
    half.dtype = SMHF_DTYPE_BF16;
    ctx->be->dropout(ctx->dev, y.t, half, ctx->pack, SMHF_AXIS_TOKENS, SMHF_DROPOUT_NONE);
    ctx->be->dropout(ctx->dev, y.t, x.t, ctx->pack, SMHF_AXIS_TOKENS, SMHF_DROPOUT_NONE);
    CHECK_STATUS(ctx->be->sync(ctx->dev, &err), SMHF_E_UNSUPPORTED, "dropout");
    CHECK_INT(ctx->be->sync(ctx->dev, &err), SMHF_OK);
    array_fetch(ctx, &y);
    CHECK(row_nan(&y, 0));

    /* a pack without groups of words cannot give an embedding gradient */
    smhf_embedding tables;
    memset(&tables, 0, sizeof tables);
    ctx->be->embedding_bwd(ctx->dev, &tables, y.t, y.t, &tables, ctx->pack, SMHF_DROPOUT_NONE);
    CHECK_STATUS(ctx->be->sync(ctx->dev, &err), SMHF_E_ARG, "training = 1");

    smhf_weight_options options = {SMHF_DTYPE_I32, SMHF_WEIGHT_FORWARD};
    CHECK_STATUS(ctx->be->weight_prepare(ctx->dev, &weight, x.t, &options, &err),
                 SMHF_E_UNSUPPORTED, "int32");
    CHECK(weight == NULL);

    CHECK_STATUS(smhf_device_open("cpu:1", &other, &err), SMHF_E_UNAVAILABLE, "cpu:0");
    CHECK_STATUS(smhf_device_open("tpu", &other, &err), SMHF_E_UNAVAILABLE, "cuda, cpu, async");
    CHECK_STATUS(smhf_device_open("cpu:x", &other, &err), SMHF_E_ARG, "cpu:x");
    CHECK_STATUS(smhf_device_open("", &other, &err), SMHF_E_ARG, "auto");
    setenv("SMHF_DEVICE", "tpu", 1);
    CHECK_STATUS(smhf_device_open("auto", &other, &err), SMHF_E_UNAVAILABLE, "SMHF_DEVICE=tpu");
    setenv("SMHF_DEVICE", "cpu", 1);
    CHECK_OK(smhf_device_open("auto", &other, &err), &err);
    CHECK_STR(other->backend->name, "cpu");
    smhf_device_close(other);
    unsetenv("SMHF_DEVICE");

    /* a table of another contract, and one with a hole */
    smhf_backend table = *smhf_cpu_backend();
    table.abi++;
    CHECK_STATUS(smhf_backend_register(&table, 0, &err), SMHF_E_ABI, "contract");
    table = *smhf_cpu_backend();
    table.loss = NULL;
    CHECK_STATUS(smhf_backend_register(&table, 0, &err), SMHF_E_ABI, "\"loss\"");

    smhf_backend_status status[8];
    int32_t count = smhf_backend_list(status, 8);
    CHECK_INT(count, 3);
    CHECK_STR(status[0].name, "cuda");
    CHECK(status[0].available || status[0].reason[0] != '\0');
    CHECK_STR(status[1].name, "cpu");
    CHECK(status[1].available && status[1].info.tier[0] != '\0');

    /* batches */
    const int32_t empty_row[] = {0, 2, 2}, late[] = {1, 2}, many[] = {0, 601};
    smhf_pack_input input = {ctx->ids, NULL, empty_row, NULL, 2, 0, NULL, 0};
    CHECK_STATUS(smhf_pack_fill(ctx->pack, &input, &err), SMHF_E_ARG, "row 1");
    input.rows = 1;
    input.cu_seqlens = late;
    CHECK_STATUS(smhf_pack_fill(ctx->pack, &input, &err), SMHF_E_ARG, "cu_seqlens[0]");
    input.cu_seqlens = many;
    CHECK_STATUS(smhf_pack_fill(ctx->pack, &input, &err), SMHF_E_ARG, "601 tokens");
    input.rows = OPS_SEQUENCES + 1;
    CHECK_STATUS(smhf_pack_fill(ctx->pack, &input, &err), SMHF_E_ARG, "17 rows");
    const int32_t five[] = {0, 5}, twice[] = {1, 1}, behind[] = {0, 5};
    input = (smhf_pack_input){ctx->ids, NULL, five, NULL, 1, 0, twice, 2};
    CHECK_STATUS(smhf_pack_fill(ctx->pack, &input, &err), SMHF_E_ARG,
                 "picks[1] is 1: expected ascending tokens, from 2 to 4");
    input.picks = behind;
    CHECK_STATUS(smhf_pack_fill(ctx->pack, &input, &err), SMHF_E_ARG, "picks[1] is 5");
    ctx_release(ctx);
}

/* A bucket is what was asked for, at least the counts, at most the capacity; batches of one bucket
 * lie at the same addresses. A device that does not replay rounds nothing. */
static void check_buckets(ops_context *ctx) {
    const int32_t cu[] = {0, 30, 41}, other[] = {0, 3};
    const smhf_bucket wide = {64, 5, 64, 0, 0}, narrow = {16, 1, 16, 0, 0};
    const smhf_bucket endless = {70000, 70000, 70000, 70000, 70000};
    smhf_error err = SMHF_ERROR_INIT;
    smhf_pack_input input = {ctx->ids, NULL, cu, NULL, 2, 1, NULL, 0};
    smhf_pack *pack = ctx->pack;
    CHECK_OK(smhf_pack_fill_bucket(pack, &input, &wide, &err), &err);
    CHECK(pack->bucket.tokens == 64 && pack->bucket.rows == 5 && pack->bucket.length == 64);
    CHECK_INT(pack->bucket.words, pack->words);
    CHECK(pack->cu_seqlens[2] == 41 && pack->cu_seqlens[5] == 41 && pack->counts[0] == 41);
    const int32_t *ids = pack->ids, *starts = pack->word_starts;
    input.cu_seqlens = other;
    input.rows = 1;
    CHECK_OK(smhf_pack_fill_bucket(pack, &input, &wide, &err), &err);
    CHECK(pack->ids == ids && pack->word_starts == starts && pack->cu_seqlens[5] == 3);
    input.cu_seqlens = cu;
    input.rows = 2;
    CHECK_OK(smhf_pack_fill_bucket(pack, &input, &narrow, &err), &err);
    CHECK(pack->bucket.tokens == 41 && pack->bucket.rows == 2 && pack->bucket.length == 30);
    CHECK_OK(smhf_pack_fill_bucket(pack, &input, &endless, &err), &err);
    CHECK(pack->bucket.tokens == pack->token_capacity && pack->bucket.rows == pack->row_capacity);
    CHECK(pack->bucket.length == pack->bucket.tokens && pack->bucket.words == pack->bucket.tokens);
    CHECK_OK(smhf_pack_fill_bucket(pack, &input, NULL, &err), &err);
    CHECK(pack->bucket.tokens == 41 && pack->bucket.rows == 2 && pack->bucket.length == 30);
}

/* Words are grouped by id, each group in order, also for ids of several digits of the sort. */
static void check_pack(ops_context *ctx) {
    const int32_t cu[] = {0, 200, 600};
    smhf_error err = SMHF_ERROR_INIT;
    for (int i = 0; i < 600; i++) {
        ctx->ids[i] = (int32_t)(i % 3 == 0 ? 7 : (ctx_random(ctx) + 1.0) * 3e6);
    }
    smhf_pack_input input = {ctx->ids, NULL, cu, NULL, 2, 1, NULL, 0};
    CHECK_OK(smhf_pack_fill(ctx->pack, &input, &err), &err);
    const smhf_pack *pack = ctx->pack;
    int seen = 0, previous = -1;
    for (int w = 0; w < pack->words; w++) {
        int32_t id = ctx->ids[pack->word_order[pack->word_starts[w]]];
        CHECK(id > previous);
        previous = id;
        for (int i = pack->word_starts[w]; i < pack->word_starts[w + 1]; i++) {
            CHECK_INT(ctx->ids[pack->word_order[i]], id);
            CHECK(i == pack->word_starts[w] || pack->word_order[i] > pack->word_order[i - 1]);
            seen++;
        }
    }
    CHECK_INT(seen, 600);
    CHECK_INT(pack->counts[SMHF_COUNT_TOKENS], 600);
    CHECK_INT(pack->counts[SMHF_COUNT_MAX_LENGTH], 400);
    CHECK_INT(pack->positions[200], 0);
    CHECK_INT(pack->token_rows[599], 1);
    CHECK_INT(pack->cu_seqlens[pack->bucket.rows], 600);
    CHECK_INT(pack->bucket.tokens, 600);
    check_buckets(ctx);
    ctx_release(ctx);
}

/* ---- weights that outlive their source ------------------------------------------------------- */

/* With SMHF_WEIGHT_COPY the source may be overwritten at once; the products are the same bits. */
static void check_copied_weights(ops_context *ctx) {
    const smhf_dtype computes[] = {SMHF_DTYPE_F32, SMHF_DTYPE_BF16, SMHF_DTYPE_I8};
    const int lengths[] = {5, 28, 0};
    const int32_t N = 70, K = 37;
    smhf_tensor none = SMHF_TENSOR_NONE;
    ctx_batch(ctx, lengths, 0);
    for (int i = 0; i < 3; i++) {
        smhf_error err = SMHF_ERROR_INIT;
        smhf_weight *kept = NULL, *copied = NULL;
        ops_array x = array_in(ctx, 33, K, 1), w = array_in(ctx, N, K, 1);
        ops_array y1 = array_out(ctx, 33, N), y2 = array_out(ctx, 33, N);
        smhf_weight_options options = {computes[i], SMHF_WEIGHT_FORWARD};
        CHECK_OK(ctx->be->weight_prepare(ctx->dev, &kept, w.t, &options, &err), &err);
        ctx->be->linear_fwd(ctx->dev, y1.t, x.t, kept, none, ctx->pack, SMHF_AXIS_TOKENS);
        ctx_sync(ctx);
        options.uses |= SMHF_WEIGHT_COPY;
        CHECK_OK(ctx->be->weight_prepare(ctx->dev, &copied, w.t, &options, &err), &err);
        ctx->be->fill(ctx->dev, w.t.data, 0xFF, (size_t)w.rows * (size_t)w.ld * sizeof(float));
        ctx->be->linear_fwd(ctx->dev, y2.t, x.t, copied, none, ctx->pack, SMHF_AXIS_TOKENS);
        array_fetch(ctx, &y1);
        array_fetch(ctx, &y2);
        CHECK(memcmp(y1.host, y2.host, (size_t)y1.rows * (size_t)y1.ld * sizeof(float)) == 0);
        ctx->be->weight_free(ctx->dev, kept);
        ctx->be->weight_free(ctx->dev, copied);
        ctx_release(ctx);
    }
}

/* ---- allocations ---------------------------------------------------------------------------- */

/* After reserve, ops of any smaller batch allocate nothing. */
static void check_steady_state(ops_context *ctx) {
    const int lengths[3][4] = {{100, 400, 0}, {512, 0}, {1, 2, 3, 0}};
    smhf_tensor none = SMHF_TENSOR_NONE;
    ops_array x = array_in(ctx, 512, HIDDEN, 1), w = array_in(ctx, HIDDEN, HIDDEN, 1);
    ops_array y = array_out(ctx, 512, HIDDEN), lse = array_out(ctx, 512, HEADS);
    ops_array stats = array_out(ctx, 512, 2), g = array_in(ctx, 1, HIDDEN, 1);
    ops_array z = array_out(ctx, 512, HIDDEN);
    smhf_weight *weight = ctx_weight(ctx, &w);
    uint64_t before = 0;
    for (int round = 0; round < 4; round++) {
        ctx_batch(ctx, lengths[round % 3], 1);
        if (round == 1) {
            before = smhf_mem_count();
        }
        ctx->be->linear_act_fwd(ctx->dev, y.t, z.t, x.t, weight, g.t, SMHF_ACT_GELU, ctx->pack,
                                SMHF_AXIS_TOKENS);
        ctx->be->attention_fwd(ctx->dev, y.t, lse.t, x.t, x.t, x.t, ctx->pack, SMHF_AXIS_TOKENS,
                               HEADS, 0.3f, SMHF_DTYPE_F32, SMHF_DROPOUT_NONE);
        ctx->be->residual_layernorm_fwd(ctx->dev, y.t, z.t, stats.t, x.t, none, g.t, g.t, EPS,
                                        ctx->pack, SMHF_AXIS_TOKENS, SMHF_DROPOUT_NONE);
        ctx->be->residual_layernorm_bwd(ctx->dev, y.t, none, w.t, w.t, x.t, z.t, stats.t, g.t,
                                        ctx->pack, SMHF_AXIS_TOKENS, SMHF_DROPOUT_NONE);
        ctx->be->linear_act_bwd_input(ctx->dev, z.t, x.t, weight, z.t, SMHF_ACT_GELU, ctx->pack,
                                      SMHF_AXIS_TOKENS);
        ctx_sync(ctx);
    }
    CHECK_INT(smhf_mem_count() - before, 0);
    ctx->be->weight_free(ctx->dev, weight);
    ctx_release(ctx);
}

#endif
