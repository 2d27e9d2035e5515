/* test_cpu_layer_tail.c: what follows attention in one call, against the ops one by one, on every
 * tier that this machine has; and the coarse GELU against the C library's erfc. */
#include "smhf_test.h"

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/cpu_lowp.h"
#include "common/mem.h"
#include "common/pool.h"

#include <stdlib.h>

static const char *const tiers[] = {"scalar", "avx2", "avx2-vnni", "avx512", "avx512-vnni", "amx"};
#define TIERS (sizeof tiers / sizeof *tiers)

enum { H = 64, F = 160, MOST = 300 };

static uint32_t random_state = 7;

static float random_value(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return (float)((double)random_state / 2147483648.0 - 1.0);
}

static float *random_floats(size_t count) {
    float *out = smhf_malloc(count * sizeof *out);
    for (size_t i = 0; i < count; i++) {
        out[i] = random_value();
    }
    return out;
}

typedef struct tail_case {
    const smhf_backend *be;
    smhf_device *dev;
    smhf_pack *pack;
    float *context, *residual, *out, *w[3], *vectors[7];
    float *projected, *hidden, *wide;
    smhf_weight *weights[3];
    smhf_layer layer;
} tail_case;

static smhf_tensor row_of(float *data, int32_t cols) {
    return smhf_tensor_of(data, 1, cols, SMHF_DTYPE_F32);
}

static smhf_tensor rows_of(float *data, int32_t cols) {
    return smhf_tensor_of(data, MOST, cols, SMHF_DTYPE_F32);
}

static void open_case(tail_case *c, const char *tier, smhf_dtype compute) {
    static const int32_t sizes[3][2] = {{H, H}, {F, H}, {H, F}};
    static const int32_t widths[7] = {H, F, H, H, H, H, H};
    smhf_error err = SMHF_ERROR_INIT;
    *c = (tail_case){.be = smhf_cpu_backend()};
    setenv("SMHF_CPU_TIER", tier, 1);
    CHECK_OK(c->be->open(0, &c->dev, &err), &err);
    unsetenv("SMHF_CPU_TIER");
    CHECK_OK(smhf_pack_new(c->dev, MOST, 4, &c->pack, &err), &err);
    c->context = random_floats(MOST * H);
    c->residual = random_floats(MOST * H);
    c->out = random_floats(MOST * H);
    c->projected = random_floats(MOST * H);
    c->hidden = random_floats(MOST * H);
    c->wide = random_floats(MOST * F);
    for (int i = 0; i < 7; i++) {
        c->vectors[i] = random_floats((size_t)widths[i]);
    }
    for (int i = 0; i < 3; i++) {
        const int32_t n = sizes[i][0], k = sizes[i][1];
        c->w[i] = random_floats((size_t)n * (size_t)k);
        c->w[i][3 * k + 5] = 40.0f; /* an outlier, kept in fp32 */
        smhf_weight_options options = {compute, SMHF_WEIGHT_FORWARD};
        smhf_tensor source = smhf_tensor_of(c->w[i], n, k, SMHF_DTYPE_F32);
        CHECK_OK(c->be->weight_prepare(c->dev, &c->weights[i], source, &options, &err), &err);
    }
    c->layer = (smhf_layer){.out = c->weights[0],
                            .ffn1 = c->weights[1],
                            .ffn2 = c->weights[2],
                            .out_bias = row_of(c->vectors[0], H),
                            .ffn1_bias = row_of(c->vectors[1], F),
                            .ffn2_bias = row_of(c->vectors[2], H),
                            .attention_gamma = row_of(c->vectors[3], H),
                            .attention_beta = row_of(c->vectors[4], H),
                            .output_gamma = row_of(c->vectors[5], H),
                            .output_beta = row_of(c->vectors[6], H),
                            .eps = 1e-12f,
                            .act = SMHF_ACT_GELU};
}

static void close_case(tail_case *c) {
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(c->be->sync(c->dev, &err), &err);
    for (int i = 0; i < 3; i++) {
        c->be->weight_free(c->dev, c->weights[i]);
        smhf_free(c->w[i]);
    }
    for (int i = 0; i < 7; i++) {
        smhf_free(c->vectors[i]);
    }
    float *all[] = {c->context, c->residual, c->out, c->projected, c->hidden, c->wide};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        smhf_free(all[i]);
    }
    smhf_pack_free(c->pack);
    c->be->close(c->dev);
}

static void set_rows(tail_case *c, int32_t rows) {
    static int32_t ids[MOST];
    smhf_error err = SMHF_ERROR_INIT;
    int32_t cu[] = {0, rows};
    smhf_pack_input input = {.ids = ids, .cu_seqlens = cu, .rows = 1};
    CHECK_OK(smhf_pack_fill(c->pack, &input, &err), &err);
}

static int tail(tail_case *c, float *out) {
    return c->be->layer_tail_fwd(c->dev, rows_of(out, H), rows_of(c->context, H),
                                 rows_of(c->residual, H), &c->layer, c->pack, SMHF_AXIS_TOKENS);
}

static void by_ops(tail_case *c, float *out) {
    const smhf_layer *w = &c->layer;
    const smhf_axis axis = SMHF_AXIS_TOKENS;
    smhf_tensor projected = rows_of(c->projected, H), hidden = rows_of(c->hidden, H);
    c->be->linear_fwd(c->dev, projected, rows_of(c->context, H), w->out, w->out_bias, c->pack,
                      axis);
    c->be->residual_layernorm_fwd(c->dev, hidden, SMHF_TENSOR_NONE, SMHF_TENSOR_NONE, projected,
                                  rows_of(c->residual, H), w->attention_gamma, w->attention_beta,
                                  w->eps, c->pack, axis, SMHF_DROPOUT_NONE);
    c->be->linear_act_fwd(c->dev, rows_of(c->wide, F), SMHF_TENSOR_NONE, hidden, w->ffn1,
                          w->ffn1_bias, w->act, c->pack, axis);
    c->be->linear_fwd(c->dev, projected, rows_of(c->wide, F), w->ffn2, w->ffn2_bias, c->pack, axis);
    c->be->residual_layernorm_fwd(c->dev, rows_of(out, H), SMHF_TENSOR_NONE, SMHF_TENSOR_NONE,
                                  projected, hidden, w->output_gamma, w->output_beta, w->eps,
                                  c->pack, axis, SMHF_DROPOUT_NONE);
}

static void test_the_bits_of_the_ops(void) {
    static const int32_t counts[] = {24, 25, 61, 127, 299, MOST};
    for (size_t t = 0; t < TIERS; t++) {
        tail_case c;
        open_case(&c, tiers[t], SMHF_DTYPE_I8);
        float *want = random_floats(MOST * H);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            const size_t used = (size_t)counts[i] * H;
            set_rows(&c, counts[i]);
            memset(c.out, 0xFF, MOST * H * sizeof *c.out); /* NaN */
            by_ops(&c, want);
            CHECK_INT(tail(&c, c.out), 1);
            CHECK(memcmp(c.out, want, used * sizeof *want) == 0);
            for (size_t j = used; j < MOST * H; j++) {
                CHECK(isnan(c.out[j])); /* rows behind the last are not written */
            }
        }
        /* in place */
        set_rows(&c, 100);
        by_ops(&c, want);
        CHECK_INT(tail(&c, c.residual), 1);
        CHECK(memcmp(c.residual, want, sizeof(float) * 100 * H) == 0);
        smhf_free(want);
        close_case(&c);
    }
}

static void test_a_row_with_nan_stays_alone(void) {
    tail_case c;
    open_case(&c, "amx", SMHF_DTYPE_I8);
    float *want = random_floats(MOST * H);
    set_rows(&c, 60);
    CHECK_INT(tail(&c, want), 1);
    c.context[17 * H + 3] = NAN;
    c.context[40 * H + 9] = INFINITY;
    CHECK_INT(tail(&c, c.out), 1);
    for (int r = 0; r < 60; r++) {
        if (r == 17 || r == 40) {
            CHECK(isnan(c.out[r * H]));
        } else {
            CHECK(memcmp(c.out + r * H, want + r * H, sizeof(float) * H) == 0);
        }
    }
    smhf_free(want);
    close_case(&c);
}

/* Then the caller runs the ops one by one. */
static void test_declines(void) {
    tail_case c;
    open_case(&c, "amx", SMHF_DTYPE_I8);
    c.out[0] = 5.0f;
    set_rows(&c, 5);
    CHECK_INT(tail(&c, c.out), 0);
    set_rows(&c, 100);
    c.layer.act = SMHF_ACT_TANH;
    CHECK_INT(tail(&c, c.out), 0);
    CHECK(c.out[0] == 5.0f);
    close_case(&c);
    open_case(&c, "amx", SMHF_DTYPE_F32);
    set_rows(&c, 100);
    CHECK_INT(tail(&c, c.out), 0);
    close_case(&c);
}

static void test_coarse_gelu(void) {
    for (size_t t = 0; t < TIERS; t++) {
        cpu_features features;
        setenv("SMHF_CPU_TIER", tiers[t], 1);
        cpu_features_get(&features);
        unsetenv("SMHF_CPU_TIER");
        const cpu_i8_finish finish = {.act = SMHF_ACT_GELU};
        for (int block = -4000; block < 4000; block += CPU_I8_COLS) {
            float values[CPU_I8_COLS];
            for (int i = 0; i < CPU_I8_COLS; i++) {
                values[i] = (float)(block + i) / 200.0f; /* -20 to 20 */
            }
            features.kernels->finish_i8(values, CPU_I8_COLS, NULL, 1, &finish);
            for (int i = 0; i < CPU_I8_COLS; i++) {
                const double x = (float)(block + i) / 200.0f;
                const double want = 0.5 * x * erfc(-x / sqrt(2.0));
                const double bound = 4e-5 * (fabs(x) > 1.0 ? fabs(x) : 1.0);
                CHECK(fabs(values[i] - want) <= bound);
            }
        }
        float none[CPU_I8_COLS] = {NAN, -0.0f};
        features.kernels->finish_i8(none, CPU_I8_COLS, NULL, 1, &finish);
        CHECK(isnan(none[0]));
        CHECK(none[1] == 0.0f);
    }
}

int main(void) {
    RUN(test_the_bits_of_the_ops);
    RUN(test_a_row_with_nan_stays_alone);
    RUN(test_declines);
    RUN(test_coarse_gelu);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
