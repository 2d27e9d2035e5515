/* test_cuda_graph.c: one captured graph serves every batch of its bucket; running out of memory;
 * what forks and refusals answer. */
int test_backend_ops_main(int argc, char **argv);
#define main test_backend_ops_main
#include "test_backend_ops.c"
#undef main

#include "cuda_test_device.h"

#include <sys/wait.h>
#include <unistd.h>

#define H 32
#define WIDE 48
#define STEP_HEADS 4
#define MOST_T 128
#define MOST_B 6

/* Everything that one training step of one layer touches. */
typedef struct layer_step {
    smhf_tensor x, stats, qkv, context, lse, hidden, sum, norm_stats, pre, ffn, cls, logits,
        dlogits;
    smhf_tensor d, dpre, dqkv, dctx, dcls, targets, loss;
    smhf_embedding tables, grads;
    smhf_tensor gamma, beta, bias3, bias_f, bias_c, w_qkv, w_ffn, w_out, w_cls;
    smhf_tensor g_qkv, g_ffn, g_out, g_cls, g_bias3, g_biasf, g_gamma, g_beta;
    smhf_weight *qkv_weight, *ffn_weight, *out_weight, *cls_weight;
    float *grad_block;
    size_t grad_floats;
    smhf_segment segment;
    float *m, *v, *params; /* the segment's */
    smhf_dtype act;
} layer_step;

static smhf_tensor activation(ops_context *ctx, int rows, int cols, smhf_dtype dtype) {
    const size_t bytes = (size_t)rows * (size_t)cols * smhf_dtype_size(dtype);
    return smhf_tensor_of(ctx_device(ctx, bytes), rows, cols, dtype);
}

static smhf_tensor parameter(ops_context *ctx, int rows, int cols) {
    ops_array a = array_make(ctx, rows, cols, 0);
    for (int i = 0; i < rows * cols; i++) {
        a.values[i] = 0.3 * ctx_random(ctx);
    }
    array_upload(ctx, &a);
    return a.t;
}

static smhf_weight *prepared(ops_context *ctx, smhf_tensor source, smhf_dtype compute) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_weight *weight = NULL;
    const smhf_weight_options options = {compute, SMHF_WEIGHT_FORWARD | SMHF_WEIGHT_BACKWARD};
    CHECK_OK(ctx->be->weight_prepare(ctx->dev, &weight, source, &options, &err), &err);
    return weight;
}

static smhf_tensor slice(float *block, size_t *at, int rows, int cols) {
    smhf_tensor t = smhf_tensor_of(block + *at, rows, cols, SMHF_DTYPE_F32);
    *at += (size_t)rows * (size_t)cols;
    return t;
}

static void step_make(ops_context *ctx, layer_step *s, smhf_dtype act) {
    const smhf_dtype f32 = SMHF_DTYPE_F32;
    memset(s, 0, sizeof *s);
    s->act = act;
    s->x = activation(ctx, MOST_T, H, act);
    s->stats = activation(ctx, MOST_T, 2, f32);
    s->qkv = activation(ctx, MOST_T, 3 * H, act);
    s->context = activation(ctx, MOST_T, H, act);
    s->lse = activation(ctx, MOST_T, STEP_HEADS, f32);
    s->hidden = activation(ctx, MOST_T, H, act);
    s->sum = activation(ctx, MOST_T, H, act);
    s->norm_stats = activation(ctx, MOST_T, 2, f32);
    s->pre = activation(ctx, MOST_T, WIDE, act);
    s->ffn = activation(ctx, MOST_T, WIDE, act);
    s->d = activation(ctx, MOST_T, H, act);
    s->dpre = activation(ctx, MOST_T, WIDE, act);
    s->dqkv = activation(ctx, MOST_T, 3 * H, act);
    s->dctx = activation(ctx, MOST_T, H, act);
    s->cls = activation(ctx, MOST_B, H, act);
    s->dcls = activation(ctx, MOST_B, H, act);
    s->logits = activation(ctx, MOST_B, 4, act);
    s->dlogits = activation(ctx, MOST_B, 4, act);
    s->targets = activation(ctx, MOST_B, 1, SMHF_DTYPE_I32);
    s->loss = activation(ctx, 1, 1, f32);
    s->gamma = parameter(ctx, 1, H);
    s->beta = parameter(ctx, 1, H);
    s->bias3 = parameter(ctx, 1, 3 * H);
    s->bias_f = parameter(ctx, 1, WIDE);
    s->bias_c = parameter(ctx, 1, 4);
    s->w_qkv = parameter(ctx, 3 * H, H);
    s->w_ffn = parameter(ctx, WIDE, H);
    s->w_out = parameter(ctx, H, WIDE);
    s->w_cls = parameter(ctx, 4, H);
    s->tables = (smhf_embedding){parameter(ctx, VOCAB, H),
                                 parameter(ctx, POSITIONS, H),
                                 parameter(ctx, 2, H),
                                 s->gamma,
                                 s->beta,
                                 0};
    s->qkv_weight = prepared(ctx, s->w_qkv, act);
    s->ffn_weight = prepared(ctx, s->w_ffn, act);
    s->out_weight = prepared(ctx, s->w_out, act);
    s->cls_weight = prepared(ctx, s->w_cls, act);
    s->grad_floats = (size_t)H * (VOCAB + POSITIONS + 2 + 3 * H + 2 * WIDE + 4 + 4) + 3 * H + WIDE;
    s->grad_block = ctx_device(ctx, s->grad_floats * sizeof(float));
    size_t at = 0;
    s->grads.word = slice(s->grad_block, &at, VOCAB, H);
    s->grads.position = slice(s->grad_block, &at, POSITIONS, H);
    s->grads.type = slice(s->grad_block, &at, 2, H);
    s->grads.gamma = slice(s->grad_block, &at, 1, H);
    s->grads.beta = slice(s->grad_block, &at, 1, H);
    s->g_qkv = slice(s->grad_block, &at, 3 * H, H);
    s->g_ffn = slice(s->grad_block, &at, WIDE, H);
    s->g_out = slice(s->grad_block, &at, H, WIDE);
    s->g_cls = slice(s->grad_block, &at, 4, H);
    s->g_gamma = slice(s->grad_block, &at, 1, H);
    s->g_beta = slice(s->grad_block, &at, 1, H);
    s->g_bias3 = slice(s->grad_block, &at, 1, 3 * H);
    s->g_biasf = slice(s->grad_block, &at, 1, WIDE);
    CHECK_INT(at, s->grad_floats);
    const size_t bytes = s->grad_floats * sizeof(float);
    s->params = ctx_device(ctx, bytes);
    s->m = ctx_device(ctx, bytes);
    s->v = ctx_device(ctx, bytes);
    s->segment =
        (smhf_segment){s->params, s->grad_block, s->m, s->v, (int64_t)s->grad_floats, 0.01f, 1.0f};
}

static void step_free(ops_context *ctx, layer_step *s) {
    ctx->be->weight_free(ctx->dev, s->qkv_weight);
    ctx->be->weight_free(ctx->dev, s->ffn_weight);
    ctx->be->weight_free(ctx->dev, s->out_weight);
    ctx->be->weight_free(ctx->dev, s->cls_weight);
}

/* Forward, loss, backward, norm, AdamW; the ops as a network strings them together. */
static void step_run(ops_context *ctx, const layer_step *s) {
    const smhf_backend *be = ctx->be;
    smhf_device *dev = ctx->dev;
    const smhf_pack *pack = ctx->pack;
    const smhf_axis tokens = SMHF_AXIS_TOKENS, rows = SMHF_AXIS_ROWS;
    const smhf_tensor none = SMHF_TENSOR_NONE;
    const smhf_tensor q = smhf_tensor_cols(s->qkv, 0, H), k = smhf_tensor_cols(s->qkv, H, H);
    const smhf_tensor v = smhf_tensor_cols(s->qkv, 2 * H, H);
    const smhf_tensor dq = smhf_tensor_cols(s->dqkv, 0, H), dk = smhf_tensor_cols(s->dqkv, H, H);
    const smhf_tensor dv = smhf_tensor_cols(s->dqkv, 2 * H, H);
    const smhf_dropout drop = ctx_dropout(ctx, 0.2f, 5), wipe = ctx_dropout(ctx, 0.1f, 6);
    const smhf_loss_options options = {SMHF_LOSS_CROSS_ENTROPY, 0.0f, NULL, -100, 0.0f, 1.0f};
    const smhf_adamw_options adamw = {0.9, 0.999, 1e-8};
    be->fill(dev, s->grad_block, 0, s->grad_floats * sizeof(float));
    be->embedding_fwd(dev, s->x, s->stats, &s->tables, 1e-12f, pack, wipe);
    be->linear_fwd(dev, s->qkv, s->x, s->qkv_weight, s->bias3, pack, tokens);
    be->attention_fwd(dev, s->context, s->lse, q, k, v, pack, tokens, STEP_HEADS, 0.35f, s->act,
                      drop);
    be->residual_layernorm_fwd(dev, s->hidden, s->sum, s->norm_stats, s->context, s->x, s->gamma,
                               s->beta, 1e-12f, pack, tokens, drop);
    be->linear_act_fwd(dev, s->ffn, s->pre, s->hidden, s->ffn_weight, s->bias_f, SMHF_ACT_GELU,
                       pack, tokens);
    be->linear_fwd(dev, s->d, s->ffn, s->out_weight, none, pack, tokens);
    be->gather_rows(dev, s->cls, s->d, pack, rows);
    be->linear_fwd(dev, s->logits, s->cls, s->cls_weight, s->bias_c, pack, rows);
    be->loss(dev, s->loss.data, s->dlogits, s->logits, s->targets, &options, pack, rows);

    be->linear_bwd_weight(dev, s->g_cls, none, s->dlogits, s->cls, pack, rows, s->act);
    be->linear_bwd_input(dev, s->dcls, s->dlogits, s->cls_weight, 0, pack, rows);
    be->mean_rows_bwd(dev, s->d, s->dcls, pack); /* something in every row */
    be->scatter_add_rows(dev, s->d, s->dcls, pack, rows);
    be->linear_bwd_weight(dev, s->g_out, none, s->d, s->ffn, pack, tokens, s->act);
    be->linear_act_bwd_input(dev, s->pre, s->d, s->out_weight, s->pre, SMHF_ACT_GELU, pack, tokens);
    be->linear_bwd_weight(dev, s->g_ffn, s->g_biasf, s->pre, s->hidden, pack, tokens, s->act);
    be->linear_bwd_input(dev, s->d, s->pre, s->ffn_weight, 1, pack, tokens);
    be->residual_layernorm_bwd(dev, s->d, s->dctx, s->g_gamma, s->g_beta, s->d, s->sum,
                               s->norm_stats, s->gamma, pack, tokens, drop);
    be->attention_bwd(dev, dq, dk, dv, s->dctx, s->context, s->lse, q, k, v, pack, tokens,
                      STEP_HEADS, 0.35f, s->act, drop);
    be->linear_bwd_weight(dev, s->g_qkv, s->g_bias3, s->dqkv, s->x, pack, tokens, s->act);
    be->linear_bwd_input(dev, s->d, s->dqkv, s->qkv_weight, 1, pack, tokens);
    be->embedding_bwd(dev, &s->grads, s->d, s->stats, &s->tables, pack, wipe);
    be->grad_norm(dev, ctx->step, &s->segment, 1, 1.0f);
    be->adamw(dev, ctx->step, &s->segment, 1, &adamw);
}

/* All that a step writes before a step: not a number. Moments and parameters start anew. */
static void step_poison(ops_context *ctx, const layer_step *s) {
    const smhf_tensor dirty[] = {s->x,      s->stats,   s->qkv,        s->context, s->lse,
                                 s->hidden, s->sum,     s->pre,        s->ffn,     s->cls,
                                 s->logits, s->dlogits, s->d,          s->dpre,    s->dqkv,
                                 s->dctx,   s->dcls,    s->norm_stats, s->loss};
    for (size_t i = 0; i < sizeof dirty / sizeof dirty[0]; i++) {
        ctx->be->fill(ctx->dev, dirty[i].data, 0xFF,
                      (size_t)dirty[i].rows * (size_t)dirty[i].ld *
                          smhf_dtype_size(dirty[i].dtype));
    }
    const size_t bytes = s->grad_floats * sizeof(float);
    ctx->be->fill(ctx->dev, s->params, 0, bytes);
    ctx->be->fill(ctx->dev, s->m, 0, bytes);
    ctx->be->fill(ctx->dev, s->v, 0, bytes);
    ctx->host_step.learning_rate = 1e-2f;
    ctx->host_step.bias_correction1 = 0.1f;
    ctx->host_step.bias_correction2_sqrt = 0.0316f;
    ctx->be->upload(ctx->dev, ctx->step, &ctx->host_step, sizeof ctx->host_step);
}

static void step_read(ops_context *ctx, const layer_step *s, float *loss, float *grads,
                      float *params) {
    ctx->be->download(ctx->dev, loss, s->loss.data, sizeof *loss);
    ctx->be->download(ctx->dev, grads, s->grad_block, s->grad_floats * sizeof *grads);
    ctx->be->download(ctx->dev, params, s->params, s->grad_floats * sizeof *params);
    ctx_sync(ctx);
}

static const int graph_batches[][8] = {
    {20, 31, 7, 0}, {1, 0}, {64, 3, 40, 1, 12, 8, 0}, {33, 2, 0}, {5, 5, 5, 5, 5, 0}};

/* On the host the same bits; on a GPU another row count may mean another algorithm. */
static int same_floats(const float *x, const float *y, size_t n, smhf_dtype act) {
#ifdef SMHF_REAL_DEVICE
    double top = 0.0, worst = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double off = fabs((double)x[i] - (double)y[i]);
        top = fmax(top, fabs((double)x[i]));
        worst = off > worst || isnan(off) ? off : worst;
    }
    return worst <= top * (act == SMHF_DTYPE_BF16 ? 2e-2 : 1e-5);
#else
    (void)act;
    return memcmp(x, y, n * sizeof *x) == 0;
#endif
}

static void check_graph(smhf_dtype act) {
    ops_context ctx;
    layer_step s;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_graph *graph = NULL;
    CHECK(ctx_open(&ctx, DEVICE, NULL, NULL));
    smhf_pack_free(ctx.pack);
    CHECK_OK(smhf_pack_new(ctx.dev, MOST_T, MOST_B, &ctx.pack, &err), &err);
    static const smhf_bucket bucket = {MOST_T, MOST_B, MOST_T, MOST_T, 0};
    ctx.bucket = &bucket;
    step_make(&ctx, &s, act);
    const int32_t labels[MOST_B] = {0, 3, 1, 2, 2, 0};
    ctx.be->upload(ctx.dev, s.targets.data, labels, sizeof labels);
    float *want = ctx_host(&ctx, s.grad_floats * 4), *got = ctx_host(&ctx, s.grad_floats * 4);
    float *want_p = ctx_host(&ctx, s.grad_floats * 4), *got_p = ctx_host(&ctx, s.grad_floats * 4);
    double steps = 0.0;
    float want_loss = 0.0f, got_loss = 0.0f;

    ctx_batch(&ctx, graph_batches[0], 1); /* the step runs once before it is captured */
    step_poison(&ctx, &s);
    step_run(&ctx, &s);
    ctx_sync(&ctx);
    CHECK_OK(ctx.be->graph_begin(ctx.dev, &err), &err);
    CHECK_INT(ctx.be->graph_begin(ctx.dev, NULL), SMHF_E_ARG);
    step_run(&ctx, &s);
    CHECK_OK(ctx.be->graph_end(ctx.dev, &graph, &err), &err);
    CHECK(graph != NULL);
    const size_t batches = sizeof graph_batches / sizeof graph_batches[0];
    for (size_t i = 0; i < 2 * batches && graph != NULL; i++) {
        ctx.draws = (uint32_t)(100 * (i % batches)); /* the second round: the same ids */
        ctx_batch(&ctx, graph_batches[i % batches], 1);
        ctx.host_step.dropout_step = (uint32_t)(10 + i);
        step_poison(&ctx, &s);
        step_run(&ctx, &s);
        step_read(&ctx, &s, &want_loss, want, want_p);
        step_poison(&ctx, &s);
        const uint64_t before = smhf_mem_count();
        ctx.be->graph_launch(ctx.dev, graph);
        CHECK_INT(smhf_mem_count() - before, 0);
        step_read(&ctx, &s, &got_loss, got, got_p);
        CHECK(isfinite(want_loss) && same_floats(&want_loss, &got_loss, 1, act));
        CHECK(same_floats(want, got, s.grad_floats, act));
        for (size_t at = 0; at < s.grad_floats; at++) { /* first step: lr times the sign */
            steps += fabs((double)got_p[at] - (double)want_p[at]);
        }
    }
    CHECK(steps <= 1e-2 * (act == SMHF_DTYPE_BF16 ? 2000.0 : 20.0));
    ctx.be->graph_free(ctx.dev, graph);
    step_free(&ctx, &s);
    ctx_close(&ctx);
}

static void test_graph_serves_its_bucket(void) {
    check_graph(SMHF_DTYPE_F32);
}

static void test_graph_serves_its_bucket_in_bf16(void) {
    check_graph(SMHF_DTYPE_BF16);
}

/* A capture that needs something new says so, and the device lives on. */
static void test_graph_refusals(void) {
    ops_context ctx;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_graph *graph = NULL;
    CHECK(ctx_open(&ctx, DEVICE, NULL, NULL));
    ops_array g = array_in(&ctx, 1, 40, 1);
    const smhf_segment segment = {g.t.data, g.t.data, g.t.data, g.t.data, 40, 0.0f, 1.0f};
    ctx_sync(&ctx);
    CHECK_INT(ctx.be->graph_end(ctx.dev, &graph, &err), SMHF_E_ARG);
    CHECK_OK(ctx.be->graph_begin(ctx.dev, &err), &err);
    ctx.be->grad_norm(ctx.dev, ctx.step, &segment, 1, 1.0f);
    CHECK_INT(ctx.be->graph_end(ctx.dev, &graph, &err), SMHF_E_ARG);
    CHECK(graph == NULL && strstr(err.message, "run the step once") != NULL);
    CHECK_INT(ctx.be->sync(ctx.dev, &err), SMHF_E_ARG);
    CHECK_OK(ctx.be->sync(ctx.dev, &err), &err);
    ctx_close(&ctx);
}

static void test_out_of_memory_has_numbers(void) {
    ops_context ctx;
    smhf_error err = SMHF_ERROR_INIT;
    void *block = NULL;
    CHECK(ctx_open(&ctx, DEVICE, NULL, NULL));
    CHECK_INT(ctx.be->alloc(ctx.dev, &block, (size_t)1 << 40, &err), SMHF_E_NOMEM);
    CHECK(block == NULL && strstr(err.message, "1048576.0 MiB wanted") != NULL);
    CHECK(strstr(err.message, " MiB are free") != NULL);
    CHECK_OK(ctx.be->alloc(ctx.dev, &block, 1000, &err), &err);
    ctx.be->free(ctx.dev, block);
    CHECK_OK(ctx.be->sync(ctx.dev, &err), &err);
    ctx_close(&ctx);
}

static void test_refusals_are_sentences(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_device *dev = NULL;
    ops_context ctx;
    CHECK_INT(smhf_device_open(DEVICE ":900", &dev, &err), SMHF_E_UNAVAILABLE);
    CHECK(dev == NULL && strstr(err.message, "CUDA device") != NULL);
    CHECK(ctx_open(&ctx, DEVICE, NULL, NULL));
    const int lengths[] = {3, 0};
    ctx_batch(&ctx, lengths, 0);
    ops_array x = array_in(&ctx, 3, 8, 1), y = array_out(&ctx, 3, 8),
              wide = array_in(&ctx, 3, 1500, 1);
    smhf_tensor half = x.t, none = SMHF_TENSOR_NONE;
    half.dtype = SMHF_DTYPE_BF16;
    ctx.be->dropout(ctx.dev, y.t, half, ctx.pack, SMHF_AXIS_TOKENS, SMHF_DROPOUT_NONE);
    ctx.be->dropout(ctx.dev, y.t, x.t, ctx.pack, SMHF_AXIS_TOKENS, SMHF_DROPOUT_NONE);
    CHECK_INT(ctx.be->sync(ctx.dev, &err), SMHF_E_UNSUPPORTED);
    CHECK(strstr(err.message, "dropout") != NULL);
    array_fetch(&ctx, &y);
    CHECK(isnan(y.host[0])); /* after a failure ops do nothing */
    ctx.be->residual_layernorm_fwd(ctx.dev, wide.t, none, none, wide.t, none, wide.t, wide.t,
                                   1e-12f, ctx.pack, SMHF_AXIS_TOKENS, SMHF_DROPOUT_NONE);
    CHECK_INT(ctx.be->sync(ctx.dev, &err), SMHF_E_UNSUPPORTED);
    CHECK(strstr(err.message, "1500") != NULL);
    smhf_weight *weight = NULL;
    const smhf_weight_options int8 = {SMHF_DTYPE_I8, SMHF_WEIGHT_FORWARD};
    CHECK_INT(ctx.be->weight_prepare(ctx.dev, &weight, x.t, &int8, &err), SMHF_E_UNSUPPORTED);
    CHECK(weight == NULL && strstr(err.message, "int8") != NULL);
    ctx_close(&ctx);
}

static void test_a_fork_is_told(void) {
    ops_context ctx;
    CHECK(ctx_open(&ctx, DEVICE, NULL, NULL));
    const pid_t child = fork();
    if (child == 0) {
        smhf_error err = SMHF_ERROR_INIT;
        ctx.be->fill(ctx.dev, ctx.step, 0, sizeof *ctx.step);
        const int told = ctx.be->sync(ctx.dev, &err) == SMHF_E_UNAVAILABLE &&
                         strstr(err.message, "fork") != NULL;
        _exit(told ? 0 : 1);
    }
    int status = -1;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0);
    ctx_sync(&ctx);
    ctx_close(&ctx);
}

/* Events order two devices; pinned memory carries bytes. */
static void test_events_and_pinned_memory(void) {
    ops_context a, b;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_event *from = NULL, *to = NULL;
    void *pinned = NULL;
    float ms = -1.0f;
    CHECK(ctx_open(&a, DEVICE, NULL, NULL) && ctx_open(&b, DEVICE, NULL, NULL));
    CHECK_OK(a.be->event_new(a.dev, &from, &err), &err);
    CHECK_OK(a.be->event_new(a.dev, &to, &err), &err);
    CHECK_OK(a.be->pinned_alloc(a.dev, &pinned, sizeof(smhf_step), &err), &err);
    a.be->event_record(a.dev, from);
    a.be->fill(a.dev, a.step, 7, sizeof *a.step);
    a.be->event_record(a.dev, to);
    b.be->event_wait(b.dev, to);
    b.be->download(b.dev, pinned, a.step, sizeof *a.step);
    ctx_sync(&b);
    CHECK_INT(((unsigned char *)pinned)[5], 7);
    CHECK_OK(a.be->event_elapsed_ms(a.dev, from, to, &ms, &err), &err);
    CHECK(ms >= 0.0f);
    a.be->event_free(a.dev, from);
    a.be->event_free(a.dev, to);
    a.be->pinned_free(a.dev, pinned);
    ctx_close(&a);
    ctx_close(&b);
}

int main(void) {
    if (!register_backends()) {
        return 1;
    }
    RUN(test_graph_serves_its_bucket);
    RUN(test_graph_serves_its_bucket_in_bf16);
    RUN(test_graph_refusals);
    RUN(test_out_of_memory_has_numbers);
    RUN(test_refusals_are_sentences);
    RUN(test_a_fork_is_told);
    RUN(test_events_and_pinned_memory);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
