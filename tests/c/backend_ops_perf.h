/* backend_ops_perf.h: test_backend_ops --perf [device]: each op at DistilBERT's sizes, 8 sequences
 * of 128 tokens. One table; compare figures of one run only. The last column is per second of
 * processor time: on a busy machine it says more about a kernel than the clock on the wall. */
#ifndef SMHF_TEST_BACKEND_OPS_PERF_H
#define SMHF_TEST_BACKEND_OPS_PERF_H

#define PERF_B 8
#define PERF_S 128
#define PERF_H 768
#define PERF_F 3072
#define PERF_A 12
#define PERF_V 30522

static double perf_now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best of several, in milliseconds, with the rates that follow from it. */
#define PERF(name, op_flops, op_bytes, call)                                                       \
    do {                                                                                           \
        double best = 1e9, best_cpu = 1e9;                                                         \
        for (int repeat = 0; repeat < 7; repeat++) {                                               \
            double start = perf_now(CLOCK_MONOTONIC);                                              \
            double cpu = perf_now(CLOCK_PROCESS_CPUTIME_ID);                                       \
            call;                                                                                  \
            ctx_sync(ctx);                                                                         \
            double took = perf_now(CLOCK_MONOTONIC) - start;                                       \
            cpu = perf_now(CLOCK_PROCESS_CPUTIME_ID) - cpu;                                        \
            best = took < best ? took : best;                                                      \
            best_cpu = cpu < best_cpu ? cpu : best_cpu;                                            \
        }                                                                                          \
        printf("%-34s %9.3f ms %9.1f GFLOP/s %8.1f GB/s %9.1f GFLOP/s a core\n", name, 1e3 * best, \
               (op_flops) / best * 1e-9, (op_bytes) / best * 1e-9, (op_flops) / best_cpu * 1e-9);  \
    } while (0)

static int run_perf(const char *device) {
    ops_context storage, *ctx = &storage;
    smhf_device_info info;
    if (!ctx_open(ctx, device, NULL, NULL)) {
        printf("%s skipped: %s\n", device, smhf_test_skip_reason);
        return 0;
    }
    smhf_error err = SMHF_ERROR_INIT;
    const int T = PERF_B * PERF_S, H = PERF_H, F = PERF_F;
    int32_t cu[PERF_B + 1], ids[PERF_B * PERF_S];
    for (int b = 0; b <= PERF_B; b++) {
        cu[b] = b * PERF_S;
    }
    for (int t = 0; t < T; t++) {
        ids[t] = (int32_t)((ctx_random(ctx) + 1.0) * 0.49 * PERF_V);
    }
    smhf_pack *small = ctx->pack;
    if (smhf_pack_new(ctx->dev, T, PERF_B, &ctx->pack, &err) != SMHF_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    smhf_pack_input input = {ids, NULL, cu, NULL, PERF_B, 1, NULL, 0};
    if (smhf_pack_fill(ctx->pack, &input, &err) != SMHF_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    const smhf_backend *be = ctx->be;
    smhf_device *dev = ctx->dev;
    const smhf_pack *pack = ctx->pack;
    const smhf_axis tokens = SMHF_AXIS_TOKENS;
    smhf_tensor none = SMHF_TENSOR_NONE;
    ops_array x = array_in(ctx, T, H, 1), y = array_in(ctx, T, H, 1), z = array_in(ctx, T, H, 1);
    ops_array qkv = array_in(ctx, T, 3 * H, 1), dqkv = array_in(ctx, T, 3 * H, 1);
    ops_array wide = array_in(ctx, T, F, 1), pre = array_in(ctx, T, F, 1);
    ops_array w1 = array_in(ctx, F, H, 0.05), w2 = array_in(ctx, H, F, 0.05);
    ops_array wqkv = array_in(ctx, 3 * H, H, 0.05), bias = array_in(ctx, 1, F, 1);
    ops_array dw1 = array_in(ctx, F, H, 1), lse = array_in(ctx, T, PERF_A, 1);
    ops_array stats = array_in(ctx, T, 2, 1), dgamma = array_in(ctx, 1, H, 1);
    ops_array word = array_in(ctx, PERF_V, H, 1), dword = array_in(ctx, PERF_V, H, 1);
    ops_array position = array_in(ctx, 512, H, 1), dposition = array_in(ctx, 512, H, 1);
    smhf_weight *m1 = ctx_weight(ctx, &w1), *m2 = ctx_weight(ctx, &w2);
    smhf_weight *mqkv = ctx_weight(ctx, &wqkv);
    smhf_dropout drop = ctx_dropout(ctx, 0.1f, 1), off = SMHF_DROPOUT_NONE;
    smhf_tensor q = columns(&qkv, 0, H).t, k = columns(&qkv, H, H).t, v = columns(&qkv, 2 * H, H).t;
    smhf_tensor dq = columns(&dqkv, 0, H).t, dk = columns(&dqkv, H, H).t;
    smhf_tensor dv = columns(&dqkv, 2 * H, H).t;
    smhf_embedding tables = {word.t, position.t, none, dgamma.t, dgamma.t, 0};
    smhf_embedding grads = {dword.t, dposition.t, none, dgamma.t, dgamma.t, 0};
    double th = 4.0 * T * H, tf = 4.0 * T * F, flops = 2.0 * T * H;
    double attention = 4.0 * T * PERF_S * H;
    ctx_sync(ctx);
    be->linear_fwd(dev, wide.t, x.t, m1, none, pack, SMHF_AXIS_ROWS); /* opens the BLAS */
    ctx_sync(ctx);
    be->describe(dev, &info);
    printf("%s: %s, %s, %s; T = %d, H = %d, F = %d\n", device, info.name, info.tier, info.detail, T,
           H, F);

    PERF("embedding_fwd", 0, 3 * th,
         be->embedding_fwd(dev, x.t, stats.t, &tables, EPS, pack, drop));
    PERF("linear_fwd qkv", flops * 3 * H, 0,
         be->linear_fwd(dev, qkv.t, x.t, mqkv, columns(&bias, 0, 3 * H).t, pack, tokens));
    PERF("attention_fwd", attention, 4 * th,
         be->attention_fwd(dev, y.t, lse.t, q, k, v, pack, tokens, PERF_A, 0.125f, SMHF_DTYPE_F32,
                           off));
    PERF("attention_fwd, dropout", attention, 4 * th,
         be->attention_fwd(dev, y.t, lse.t, q, k, v, pack, tokens, PERF_A, 0.125f, SMHF_DTYPE_F32,
                           drop));
    PERF("residual_layernorm_fwd, dropout", 0, 4 * th,
         be->residual_layernorm_fwd(dev, y.t, z.t, stats.t, x.t, x.t, dgamma.t, dgamma.t, EPS, pack,
                                    tokens, drop));
    PERF("linear_act_fwd gelu", flops * F, 2 * tf,
         be->linear_act_fwd(dev, wide.t, pre.t, x.t, m1, bias.t, SMHF_ACT_GELU, pack, tokens));
    PERF("linear_fwd ffn2", flops * F, 0, be->linear_fwd(dev, y.t, wide.t, m2, none, pack, tokens));
    PERF("linear_act_bwd_input gelu", flops * F, 2 * tf,
         be->linear_act_bwd_input(dev, wide.t, x.t, m2, pre.t, SMHF_ACT_GELU, pack, tokens));
    PERF("linear_bwd_input ffn1", flops * F, 0,
         be->linear_bwd_input(dev, y.t, wide.t, m1, 1, pack, tokens));
    PERF("linear_bwd_weight ffn1", flops * F, 0,
         be->linear_bwd_weight(dev, dw1.t, bias.t, wide.t, x.t, pack, tokens, SMHF_DTYPE_F32));
    PERF("residual_layernorm_bwd, dropout", 0, 4 * th,
         be->residual_layernorm_bwd(dev, x.t, y.t, dgamma.t, dgamma.t, x.t, z.t, stats.t, dgamma.t,
                                    pack, tokens, drop));
    PERF("attention_bwd, dropout", 2.5 * attention, 8 * th,
         be->attention_bwd(dev, dq, dk, dv, x.t, y.t, lse.t, q, k, v, pack, tokens, PERF_A, 0.125f,
                           SMHF_DTYPE_F32, drop));
    PERF("embedding_bwd", 0, 4 * th,
         be->embedding_bwd(dev, &grads, x.t, stats.t, &tables, pack, drop));
    smhf_segment segment = {
        word.t.data, dword.t.data, dw1.t.data, dw1.t.data, (int64_t)F * H, 0, 1};
    PERF("grad_norm", 0, 4.0 * PERF_V * H,
         (segment.count = (int64_t)PERF_V * H, be->grad_norm(dev, ctx->step, &segment, 1, 1.0f)));
    be->fill(dev, dw1.t.data, 0, 4u * (size_t)F * (size_t)H);
    ops_array moments = array_in(ctx, F, H, 1);
    segment.count = (int64_t)F * H;
    segment.v = moments.t.data;
    be->fill(dev, moments.t.data, 0, 4u * (size_t)F * (size_t)H);
    smhf_adamw_options adamw = {0.9, 0.999, 1e-8};
    PERF("adamw", 0, 28.0 * F * H, be->adamw(dev, ctx->step, &segment, 1, &adamw));
    PERF("fill", 0, 4.0 * PERF_V * H,
         be->fill(dev, dword.t.data, 0, 4u * (size_t)PERF_V * (size_t)H));
    be->weight_free(dev, m1);
    be->weight_free(dev, m2);
    be->weight_free(dev, mqkv);
    ctx_release(ctx);
    smhf_pack_free(ctx->pack);
    ctx->pack = small;
    ctx_close(ctx);
    return 0;
}

#endif
