/* test_cuda_ops.c: the whole CUDA backend on the host, through the op tests of every backend.
 *
 * Kernels run as fibers over stand-ins for CUDA's runtime and for cuBLASLt (shim/); everything else
 * is the plugin's own source. */
int test_backend_ops_main(int argc, char **argv);
#define main test_backend_ops_main /* its shapes and cases; the list of tests is ours */
#include "test_backend_ops.c"
#undef main

#include "cuda_test_device.h"

static void test_ops(void) {
    compare_all(DEVICE, NULL, NULL);
}

/* A bucket wider than any batch: what stands behind the counts is not a number, and no result may
 * know it. */
static void test_ops_in_a_wide_bucket(void) {
    static const smhf_bucket wide = {600, 12, 300, 600, 300};
    ops_context ctx;
    if (!ctx_open(&ctx, DEVICE, NULL, NULL)) {
        smhf_test_broken++;
        return;
    }
    ctx.bucket = &wide;
    ctx.spare = wide.tokens;
    for (int shape = 0; shape < SHAPES; shape += 2) {
        run_cases(&ctx, shape);
    }
    ctx_close(&ctx);
}

/* Without cuBLASLt: the own product. */
static void test_ops_plain_products(void) {
    setenv("SMHF_CUDA_GEMM", "plain", 1);
    compare_all(DEVICE, NULL, NULL);
    unsetenv("SMHF_CUDA_GEMM");
}

static void with_device(void (*check)(ops_context *ctx)) {
    ops_context ctx;
    if (ctx_open(&ctx, DEVICE, NULL, NULL)) {
        check(&ctx);
        ctx_close(&ctx);
    } else {
        smhf_test_broken++;
        printf("  %s\n", smhf_test_skip_reason);
    }
}

static void test_masks(void) {
    with_device(check_dropout_packing);
}

static void test_nan(void) {
    with_device(check_special_values);
}

static void test_halted_steps(void) {
    with_device(check_halting);
}

static void test_allocations(void) {
    with_device(check_steady_state);
}

/* For slow tools (compute-sanitizer): two batches, each op once. */
static void test_quick(void) {
    ops_context ctx;
    if (ctx_open(&ctx, DEVICE, NULL, NULL)) {
        run_cases(&ctx, 5);
        run_cases(&ctx, 8);
        ctx_close(&ctx);
    }
}

int main(int argc, char **argv) {
    if (!register_backends()) {
        return 1;
    }
    if (argc > 1 && strcmp(argv[1], "--quick") == 0) {
        RUN(test_quick);
        return smhf_test_finish();
    }
    RUN(test_ops);
    RUN(test_ops_in_a_wide_bucket);
    RUN(test_ops_plain_products);
    RUN(test_masks);
    RUN(test_nan);
    RUN(test_halted_steps);
    RUN(test_allocations);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
