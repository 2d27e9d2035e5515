/* test_backend_ops.c: every op x shapes x every backend, against loops in double.
 *
 *     test_backend_ops            compare, then finite differences, bits over threads, NaN
 *     test_backend_ops --perf     GB/s and GFLOP/s of each op at the model's own sizes
 *
 * To add an op: write its loop in backend_reference.h, then a case_* function that uploads inputs,
 * poisons outputs, calls the op, fetches, and gives compare() the loop's result and the bound that
 * the contract states; put it into run_cases. Backward loops are themselves checked by central
 * differences (test_differences). */
#include "async_backend.h"
#include "backend_reference.h"
#include "smhf_test.h"

#include "common/mem.h"
#include "common/pool.h"

#include <time.h>

#include "backend_ops_support.h"
#include "backend_ops_cases.h"
#include "backend_ops_checks.h"
#include "backend_ops_perf.h"

/* ---- shapes --------------------------------------------------------------------------------- */

/* Lengths of the sequences of a batch, 0-terminated. */
static const int lengths_of[][8] = {
    {0},
    {1, 0},
    {1, 1, 1, 0},
    {3, 0},
    {7, 0},
    {2, 5, 6, 0}, /* 13 */
    {31, 0},
    {1, 29, 3, 0},        /* 33 */
    {64, 1, 15, 20, 0},   /* 100 */
    {65, 127, 3, 316, 0}, /* 511 */
    {512, 0},
};
#define SHAPES ((int)(sizeof lengths_of / sizeof lengths_of[0]))

static void run_cases(ops_context *ctx, int shape) {
    ctx_batch(ctx, lengths_of[shape], 1);
    const smhf_axis axes[] = {SMHF_AXIS_TOKENS, SMHF_AXIS_ROWS, SMHF_AXIS_PICKS};
    const float rates[] = {0.0f, 0.3f};
    for (int i = 0; i < 2; i++) {
        case_embedding(ctx, rates[i], i);
        for (int a = 0; a < 3; a++) {
            case_residual_layernorm(ctx, axes[a], rates[i], a % 2);
            case_dropout(ctx, axes[a], rates[i]);
        }
        case_attention(ctx, SMHF_AXIS_TOKENS, rates[i]);
        case_attention(ctx, SMHF_AXIS_ROWS, rates[i]);
        case_attention_first(ctx, rates[i]);
    }
    for (int a = 0; a < 3; a++) {
        case_linear(ctx, axes[a], 24, 40, 1);
        case_linear(ctx, axes[a], 37, 5, 0);
        for (int act = SMHF_ACT_NONE; act <= SMHF_ACT_GELU_TANH; act++) {
            case_linear_act(ctx, axes[a], (smhf_act)act);
        }
        for (int kind = SMHF_LOSS_CROSS_ENTROPY; kind <= SMHF_LOSS_BCE; kind++) {
            case_loss(ctx, axes[a], (smhf_loss_kind)kind, 0);
        }
        case_loss(ctx, axes[a], SMHF_LOSS_CROSS_ENTROPY, 1);
    }
    case_gather_scatter(ctx, SMHF_AXIS_ROWS);
    case_gather_scatter(ctx, SMHF_AXIS_PICKS);
    case_mean(ctx);
    case_span_loss(ctx, 0);
    if (ctx->ref.rows > 1) { /* one sequence outside would leave nothing to average */
        case_span_loss(ctx, 1);
    }
    if (shape == 8) { /* the model's own width once */
        case_linear(ctx, SMHF_AXIS_TOKENS, 768, 770, 1);
        case_linear(ctx, SMHF_AXIS_ROWS, 768, 768, 1);
        case_linear(ctx, SMHF_AXIS_TOKENS, 1541, 67, 1); /* three blocks of k */
        case_linear(ctx, SMHF_AXIS_TOKENS, 61, 1541, 0);
        case_linear(ctx, SMHF_AXIS_TOKENS, 1021, 32, 0); /* ld 1024: rows a cache set apart */
    }
    case_optimizer(ctx, shape);
    case_axpy_convert(ctx, shape);
}

/* ---- every backend -------------------------------------------------------------------------- */

static void compare_all(const char *device, const char *tier, const char *blas) {
    ops_context ctx;
    if (!ctx_open(&ctx, device, tier, blas)) {
        return;
    }
    for (int shape = 0; shape < SHAPES; shape++) {
        run_cases(&ctx, shape);
    }
    ctx_close(&ctx);
}

static void test_cpu(void) {
    compare_all("cpu", NULL, NULL);
}

static void test_cpu_plain_matmul(void) {
    compare_all("cpu", NULL, "plain");
}

static void test_cpu_avx2(void) {
    compare_all("cpu", "avx2", "own");
    compare_all("cpu", "avx2", "plain");
}

static void test_cpu_scalar(void) {
    compare_all("cpu", "scalar", "own");
    compare_all("cpu", "scalar", "plain");
}

/* The library where it is found beside this program, else plain C again. */
static void test_cpu_openblas(void) {
    compare_all("cpu", NULL, "openblas");
}

static void test_async(void) {
    compare_all("async", NULL, NULL);
}

static void test_cuda(void) {
    compare_all("cuda", NULL, NULL);
}

/* ---- the reference itself ------------------------------------------------------------------- */

static void test_differences(void) {
    const int lengths[] = {1, 5, 3, 0};
    check_differences(lengths);
}

/* ---- bits ----------------------------------------------------------------------------------- */

/* All results of all shapes, as one number. */
static uint64_t hash_all(const char *tier, const char *blas, int threads) {
    ops_context ctx;
    smhf_pool_set_threads(threads);
    if (!ctx_open(&ctx, "cpu", tier, blas)) {
        return 0;
    }
    for (int shape = 0; shape < SHAPES; shape++) {
        run_cases(&ctx, shape);
    }
    uint64_t hash = ctx.hash;
    ctx_close(&ctx);
    smhf_pool_set_threads(2);
    return hash;
}

static void test_thread_counts(void) {
    uint64_t one = hash_all(NULL, NULL, 1);
    CHECK(one != 0);
    CHECK(hash_all(NULL, NULL, 2) == one);
    CHECK(hash_all(NULL, NULL, 5) == one);
    one = hash_all("avx2", "own", 1);
    CHECK(hash_all("avx2", "own", 3) == one);
    one = hash_all(NULL, "plain", 1);
    CHECK(hash_all(NULL, "plain", 3) == one);
}

/* Everything but the matrix products (fused multiply-add) has the same bits on every tier. */
static uint64_t hash_without_products(const char *tier) {
    ops_context ctx;
    if (!ctx_open(&ctx, "cpu", tier, NULL)) {
        return 0;
    }
    for (int shape = 0; shape < SHAPES; shape++) {
        ctx_batch(&ctx, lengths_of[shape], 1);
        case_embedding(&ctx, 0.3f, 1);
        case_residual_layernorm(&ctx, SMHF_AXIS_TOKENS, 0.3f, 0);
        case_dropout(&ctx, SMHF_AXIS_ROWS, 0.3f);
        case_optimizer(&ctx, shape);
    }
    uint64_t hash = ctx.hash;
    ctx_close(&ctx);
    return hash;
}

static void test_tiers(void) {
    uint64_t scalar = hash_without_products("scalar");
    CHECK(scalar != 0);
    CHECK(hash_without_products("avx2") == scalar);
    CHECK(hash_without_products(NULL) == scalar);
}

/* ---- a row's bits do not depend on the batch ------------------------------------------------- */

/* Rows of `got` [rows, cols] against the same rows computed alone. */
static int rows_differ(const ops_array *got, const ops_array *alone, int row) {
    return memcmp(got->host + row * got->ld, alone->host, (size_t)got->cols * sizeof(float)) != 0;
}

/* Forward, backward and the fused activation of N x K over `tokens` rows: each row equals, to the
 * bit, what the op gives for it alone. `uses` with backward: panels are made on the way, and kept
 * from the fifth product on; both must give the same bits. */
static void check_rows_alone(ops_context *ctx, int tokens, int N, int K, uint32_t uses) {
    const int lengths[2] = {tokens, 0}, one[2] = {1, 0};
    smhf_error err = SMHF_ERROR_INIT;
    ctx_batch(ctx, lengths, 0);
    ops_array x = array_in(ctx, tokens, K, 1), w = array_in(ctx, N, K, 0.5);
    ops_array b = array_in(ctx, 1, N, 1), y = array_out(ctx, tokens, N);
    ops_array dx = array_out(ctx, tokens, K), y1 = array_out(ctx, 1, N), dx1 = array_out(ctx, 1, K);
    smhf_weight *weight = NULL;
    smhf_weight_options options = {SMHF_DTYPE_F32, uses};
    CHECK_OK(ctx->be->weight_prepare(ctx->dev, &weight, w.t, &options, &err), &err);
    const smhf_tensor none = SMHF_TENSOR_NONE;
    const int backward = (uses & SMHF_WEIGHT_BACKWARD) != 0;
    ctx->be->linear_act_fwd(ctx->dev, y.t, none, x.t, weight, b.t, SMHF_ACT_GELU, ctx->pack,
                            SMHF_AXIS_TOKENS);
    array_fetch(ctx, &y);
    if (backward) {
        ctx->be->linear_bwd_input(ctx->dev, dx.t, y.t, weight, 0, ctx->pack, SMHF_AXIS_TOKENS);
        array_fetch(ctx, &dx);
    }
    ctx_batch(ctx, one, 0);
    int differ = 0;
    for (int r = 0; r < tokens; r += 1 + tokens / 12) {
        ctx->be->linear_act_fwd(ctx->dev, y1.t, none, smhf_tensor_rows(x.t, r, 1), weight, b.t,
                                SMHF_ACT_GELU, ctx->pack, SMHF_AXIS_TOKENS);
        array_fetch(ctx, &y1);
        differ += rows_differ(&y, &y1, r);
        if (backward) {
            ctx->be->linear_bwd_input(ctx->dev, dx1.t, smhf_tensor_rows(y.t, r, 1), weight, 0,
                                      ctx->pack, SMHF_AXIS_TOKENS);
            array_fetch(ctx, &dx1);
            differ += rows_differ(&dx, &dx1, r);
        }
    }
    CHECK_INT(differ, 0);
    ctx_sync(ctx);
    ctx->be->weight_free(ctx->dev, weight);
    ctx_release(ctx);
}

static void test_rows_alone(void) {
    const char *const tiers[] = {"scalar", "avx2", NULL};
    for (int t = 0; t < 3; t++) {
        ops_context ctx;
        CHECK(ctx_open(&ctx, "cpu", tiers[t], "own"));
        check_rows_alone(&ctx, 13, 45, 67, SMHF_WEIGHT_FORWARD);
        check_rows_alone(&ctx, 100, 96, 1600, SMHF_WEIGHT_FORWARD); /* several blocks of k */
        check_rows_alone(&ctx, 511, 70, 769, SMHF_WEIGHT_FORWARD | SMHF_WEIGHT_BACKWARD);
        check_rows_alone(&ctx, 250, 1540, 64, SMHF_WEIGHT_FORWARD | SMHF_WEIGHT_BACKWARD);
        ctx_close(&ctx);
    }
}

/* The attention of a sequence is the same, to the bit, whatever stands beside it. */
static void test_sequences_alone(void) {
    const char *const tiers[] = {"scalar", "avx2", NULL};
    const int H = 96, heads = 3, lengths[] = {65, 7, 33, 128, 1, 0}, start = 65 + 7 + 33;
    for (int t = 0; t < 3; t++) {
        ops_context ctx;
        CHECK(ctx_open(&ctx, "cpu", tiers[t], "own"));
        ctx_batch(&ctx, lengths, 0);
        int T = ctx.ref.tokens;
        const smhf_tensor none = SMHF_TENSOR_NONE;
        ops_array q = array_in(&ctx, T, H, 2), k = array_in(&ctx, T, H, 2);
        ops_array v = array_in(&ctx, T, H, 2), out = array_out(&ctx, T, H);
        ops_array alone = array_out(&ctx, 128, H);
        ctx.be->attention_fwd(ctx.dev, out.t, none, q.t, k.t, v.t, ctx.pack, SMHF_AXIS_TOKENS,
                              heads, 0.2f, SMHF_DTYPE_F32, SMHF_DROPOUT_NONE);
        array_fetch(&ctx, &out);
        const int single[] = {128, 0};
        ctx_batch(&ctx, single, 0);
        ctx.be->attention_fwd(ctx.dev, alone.t, none, smhf_tensor_rows(q.t, start, 128),
                              smhf_tensor_rows(k.t, start, 128), smhf_tensor_rows(v.t, start, 128),
                              ctx.pack, SMHF_AXIS_TOKENS, heads, 0.2f, SMHF_DTYPE_F32,
                              SMHF_DROPOUT_NONE);
        array_fetch(&ctx, &alone);
        int differ = 0;
        for (int r = 0; r < 128; r++) {
            differ += memcmp(out.host + (start + r) * out.ld, alone.host + r * alone.ld,
                             (size_t)H * sizeof(float)) != 0;
        }
        CHECK_INT(differ, 0);
        ctx_close(&ctx);
    }
}

/* ---- packing does not change masks ---------------------------------------------------------- */

static void test_dropout_packing(void) {
    ops_context ctx;
    CHECK(ctx_open(&ctx, "cpu", NULL, NULL));
    check_dropout_packing(&ctx);
    ctx_close(&ctx);
}

static void test_special_values(void) {
    ops_context ctx;
    CHECK(ctx_open(&ctx, "cpu", NULL, NULL));
    check_special_values(&ctx);
    check_halting(&ctx);
    ctx_close(&ctx);
}

/* ---- contract edges ------------------------------------------------------------------------- */

static void test_refusals(void) {
    ops_context ctx;
    CHECK(ctx_open(&ctx, "cpu", NULL, NULL));
    check_refusals(&ctx);
    ctx_close(&ctx);
}

static void test_pack(void) {
    ops_context ctx;
    CHECK(ctx_open(&ctx, "cpu", NULL, NULL));
    check_pack(&ctx);
    ctx_close(&ctx);
}

/* On every tier, and where products read the source itself. */
static void test_copied_weights(void) {
    static const char *const ways[][2] = {
        {NULL, NULL}, {"avx2", "own"}, {"scalar", "own"}, {NULL, "plain"}, {NULL, "openblas"}};
    for (int i = 0; i < 5; i++) {
        ops_context ctx;
        if (ctx_open(&ctx, "cpu", ways[i][0], ways[i][1])) {
            check_copied_weights(&ctx);
            ctx_close(&ctx);
        }
    }
}

static void test_steady_state(void) {
    ops_context ctx;
    CHECK(ctx_open(&ctx, "cpu", NULL, NULL));
    check_steady_state(&ctx);
    ctx_close(&ctx);
}

static void *other_thread(void *argument) {
    ops_context ctx;
    ctx_open(&ctx, "cpu", NULL, NULL);
    run_cases(&ctx, 5);
    run_cases(&ctx, 8);
    *(uint64_t *)argument = ctx.hash;
    ctx_close(&ctx);
    return NULL;
}

/* Two devices in two threads share the pool. */
static void test_two_devices(void) {
    uint64_t hashes[2] = {0, 1};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        CHECK_INT(pthread_create(&threads[i], NULL, other_thread, &hashes[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(hashes[0] == hashes[1]);
}

/* ---- weights shared and weights without memory ----------------------------------------------- */

#define SHARED_ROWS 40

typedef struct shared_weight {
    const smhf_weight *weight;
    const float *x;
    float y[SHARED_ROWS * 100];
} shared_weight;

/* A product on a device of this thread's own. */
static void *multiply_shared(void *argument) {
    shared_weight *shared = argument;
    ops_context ctx;
    const int lengths[] = {SHARED_ROWS, 0};
    ctx_open(&ctx, "cpu", NULL, NULL);
    ctx_batch(&ctx, lengths, 0);
    ctx.be->linear_fwd(
        ctx.dev, smhf_tensor_of(shared->y, SHARED_ROWS, 100, SMHF_DTYPE_F32),
        smhf_tensor_of((void *)(uintptr_t)shared->x, SHARED_ROWS, 300, SMHF_DTYPE_F32),
        shared->weight, SMHF_TENSOR_NONE, ctx.pack, SMHF_AXIS_TOKENS);
    ctx_sync(&ctx);
    ctx_close(&ctx);
    return NULL;
}

/* Two threads ask for a weight's first product at once: its panels are made once. */
static void test_shared_weight(void) {
    static shared_weight shared[2];
    ops_context ctx;
    pthread_t threads[2];
    smhf_error err = SMHF_ERROR_INIT;
    CHECK(ctx_open(&ctx, "cpu", NULL, NULL));
    for (int round = 0; round < 5; round++) {
        ops_array w = array_in(&ctx, 100, 300, 0.5), x = array_in(&ctx, SHARED_ROWS, 300, 1);
        float *dense = ctx_host(&ctx, SHARED_ROWS * 300 * sizeof(float));
        for (int i = 0; i < SHARED_ROWS * 300; i++) {
            dense[i] = (float)x.values[i];
        }
        smhf_weight *weight = NULL;
        smhf_weight_options options = {SMHF_DTYPE_F32, SMHF_WEIGHT_FORWARD};
        CHECK_OK(ctx.be->weight_prepare(ctx.dev, &weight, w.t, &options, &err), &err);
        for (int i = 0; i < 2; i++) {
            shared[i].weight = weight;
            shared[i].x = dense;
            CHECK_INT(pthread_create(&threads[i], NULL, multiply_shared, &shared[i]), 0);
        }
        for (int i = 0; i < 2; i++) {
            pthread_join(threads[i], NULL);
        }
        double *want = ctx_doubles(&ctx, SHARED_ROWS, 100);
        double *bound = ctx_doubles(&ctx, SHARED_ROWS, 100);
        ref_matmul(want, bound, x.values, w.values, SHARED_ROWS, 100, 300, 0, 1);
        int wrong = 0;
        for (int i = 0; i < SHARED_ROWS * 100; i++) {
            wrong += !(fabs((double)shared[0].y[i] - want[i]) <= 8 * U * bound[i]);
        }
        CHECK_INT(wrong, 0);
        CHECK(memcmp(shared[0].y, shared[1].y, sizeof shared[0].y) == 0);
        ctx.be->weight_free(ctx.dev, weight);
        ctx_release(&ctx);
    }
    ctx_close(&ctx);
}

/* No memory for panels: one sentence at sync, nothing half-made, and the next product is right. */
static void test_panels_without_memory(void) {
    ops_context ctx;
    smhf_error err = SMHF_ERROR_INIT;
    const int lengths[] = {7, 0};
    CHECK(ctx_open(&ctx, "cpu", NULL, NULL));
    ctx_batch(&ctx, lengths, 0);
    ops_array w = array_in(&ctx, 50, 40, 0.5), x = array_in(&ctx, 7, 40, 1);
    ops_array y = array_out(&ctx, 7, 50);
    smhf_weight *weight = NULL;
    smhf_weight_options options = {SMHF_DTYPE_F32, SMHF_WEIGHT_FORWARD};
    CHECK_OK(ctx.be->weight_prepare(ctx.dev, &weight, w.t, &options, &err), &err);
    int failures = 0;
    for (uint64_t n = 1; n < 10; n++) {
        smhf_mem_fail_at(n);
        ctx.be->linear_fwd(ctx.dev, y.t, x.t, weight, SMHF_TENSOR_NONE, ctx.pack, SMHF_AXIS_TOKENS);
        smhf_mem_fail_at(0);
        smhf_status status = ctx.be->sync(ctx.dev, &err);
        if (status == SMHF_OK) {
            break;
        }
        failures++;
        CHECK_INT(status, SMHF_E_NOMEM);
        CHECK(strstr(err.message, "could not allocate") != NULL);
    }
    CHECK(failures >= 1);
    double *want = ctx_doubles(&ctx, 7, 50), *bound = ctx_doubles(&ctx, 7, 50);
    ref_matmul(want, bound, x.values, w.values, 7, 50, 40, 0, 1);
    scale_all(bound, 7 * 50, 8 * U);
    compare(&ctx, "linear_fwd after a failure", &y, want, bound, 0);
    ctx.be->weight_free(ctx.dev, weight);
    ctx_close(&ctx);
}

int main(int argc, char **argv) {
    smhf_error err = SMHF_ERROR_INIT;
    if (smhf_backend_register(smhf_cpu_backend(), SMHF_CPU_PRIORITY, &err) != SMHF_OK ||
        smhf_backend_register(smhf_async_backend(), 0, &err) != SMHF_OK ||
        smhf_backend_register_plugin("cuda", "libsmhf_cuda.so", "libcuda.so.1", 100, &err) !=
            SMHF_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    if (argc > 1 && strcmp(argv[1], "--perf") == 0) {
        return run_perf(argc > 2 ? argv[2] : "cpu");
    }
    RUN(test_differences);
    RUN(test_cpu);
    RUN(test_cpu_plain_matmul);
    RUN(test_cpu_avx2);
    RUN(test_cpu_scalar);
    RUN(test_cpu_openblas);
    RUN(test_async);
    RUN(test_cuda);
    RUN(test_thread_counts);
    RUN(test_tiers);
    RUN(test_rows_alone);
    RUN(test_sequences_alone);
    RUN(test_dropout_packing);
    RUN(test_special_values);
    RUN(test_refusals);
    RUN(test_pack);
    RUN(test_copied_weights);
    RUN(test_steady_state);
    RUN(test_two_devices);
    RUN(test_shared_weight);
    RUN(test_panels_without_memory);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
