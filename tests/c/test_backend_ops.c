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
    RUN(test_dropout_packing);
    RUN(test_special_values);
    RUN(test_refusals);
    RUN(test_pack);
    RUN(test_steady_state);
    RUN(test_two_devices);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
