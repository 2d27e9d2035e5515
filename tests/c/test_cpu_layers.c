/* test_cpu_layers.c: whole int8 layers in one call, against the ops one by one, on every tier that
 * this machine has: both ways through them, any number of threads, neighbours, NaN. */
#include "smhf_test.h"

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/cpu_lowp.h"
#include "common/mem.h"
#include "common/pool.h"

#include <stdlib.h>

static const char *const tiers[] = {"scalar", "avx2", "avx2-vnni", "avx512", "avx512-vnni", "amx"};
#define TIERS (sizeof tiers / sizeof *tiers)

enum { H = 128, F = 160, LAYERS = 3, MOST = 700, ROWS = 40 };

static uint32_t random_state = 11;

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

enum { QKV, OUT, FFN1, FFN2, MATRICES };
static const int32_t sizes[MATRICES][2] = {{3 * H, H}, {H, H}, {F, H}, {H, F}};

typedef struct layers_case {
    const smhf_backend *be;
    smhf_device *dev;
    smhf_pack *pack;
    float *w[LAYERS][MATRICES], *vectors[LAYERS][8];
    float *qkv, *context, *projected, *hidden, *wide;
    smhf_weight *weights[LAYERS][MATRICES];
    smhf_layer layers[LAYERS];
    int served;
} layers_case;

static smhf_tensor row_of(float *data, int32_t cols) {
    return smhf_tensor_of(data, 1, cols, SMHF_DTYPE_F32);
}

static smhf_tensor rows_of(float *data, int32_t cols) {
    return smhf_tensor_of(data, MOST, cols, SMHF_DTYPE_F32);
}

static void open_layer(layers_case *c, int l, int32_t heads, smhf_dtype compute) {
    static const int32_t widths[8] = {3 * H, H, F, H, H, H, H, H};
    smhf_error err = SMHF_ERROR_INIT;
    for (int i = 0; i < 8; i++) {
        c->vectors[l][i] = random_floats((size_t)widths[i]);
    }
    for (int i = 0; i < MATRICES; i++) {
        const int32_t n = sizes[i][0], k = sizes[i][1];
        float *w = c->w[l][i] = random_floats((size_t)n * (size_t)k);
        if (l != 1) {
            w[3 * k + 5] = 40.0f; /* an outlier, kept in fp32 */
        }
        smhf_weight_options options = {compute, SMHF_WEIGHT_FORWARD};
        smhf_tensor source = smhf_tensor_of(w, n, k, SMHF_DTYPE_F32);
        CHECK_OK(c->be->weight_prepare(c->dev, &c->weights[l][i], source, &options, &err), &err);
    }
    c->layers[l] = (smhf_layer){.kv = c->weights[l][QKV],
                                .out = c->weights[l][OUT],
                                .ffn1 = c->weights[l][FFN1],
                                .ffn2 = c->weights[l][FFN2],
                                .kv_bias = row_of(c->vectors[l][0], 3 * H),
                                .out_bias = row_of(c->vectors[l][1], H),
                                .ffn1_bias = row_of(c->vectors[l][2], F),
                                .ffn2_bias = row_of(c->vectors[l][3], H),
                                .attention_gamma = row_of(c->vectors[l][4], H),
                                .attention_beta = row_of(c->vectors[l][5], H),
                                .output_gamma = row_of(c->vectors[l][6], H),
                                .output_beta = row_of(c->vectors[l][7], H),
                                .heads = heads,
                                .scale = 0.02f,
                                .eps = 1e-12f,
                                .act = SMHF_ACT_GELU};
}

static void open_case(layers_case *c, const char *tier, int32_t heads, smhf_dtype compute) {
    smhf_error err = SMHF_ERROR_INIT;
    cpu_features features;
    *c = (layers_case){.be = smhf_cpu_backend()};
    setenv("SMHF_CPU_TIER", tier, 1);
    CHECK_OK(c->be->open(0, &c->dev, &err), &err);
    cpu_features_get(&features);
    unsetenv("SMHF_CPU_TIER");
    c->served = cpu_bf16_attention_kernels(&features) != NULL;
    CHECK_OK(smhf_pack_new(c->dev, MOST, ROWS, &c->pack, &err), &err);
    for (int l = 0; l < LAYERS; l++) {
        open_layer(c, l, heads, compute);
    }
    c->qkv = random_floats(MOST * 3 * H);
    c->context = random_floats(MOST * H);
    c->projected = random_floats(MOST * H);
    c->hidden = random_floats(MOST * H);
    c->wide = random_floats(MOST * F);
}

static void close_case(layers_case *c) {
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(c->be->sync(c->dev, &err), &err);
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < MATRICES; i++) {
            c->be->weight_free(c->dev, c->weights[l][i]);
            smhf_free(c->w[l][i]);
        }
        for (int i = 0; i < 8; i++) {
            smhf_free(c->vectors[l][i]);
        }
    }
    float *all[] = {c->qkv, c->context, c->projected, c->hidden, c->wide};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        smhf_free(all[i]);
    }
    smhf_pack_free(c->pack);
    c->be->close(c->dev);
}

static int32_t set_lengths(layers_case *c, const int32_t *lengths) {
    static int32_t ids[MOST];
    int32_t cu[ROWS + 1] = {0}, rows = 0;
    smhf_error err = SMHF_ERROR_INIT;
    for (; lengths[rows] > 0; rows++) {
        cu[rows + 1] = cu[rows] + lengths[rows];
    }
    smhf_pack_input input = {.ids = ids, .cu_seqlens = cu, .rows = rows};
    CHECK_OK(smhf_pack_fill(c->pack, &input, &err), &err);
    return cu[rows];
}

static void layer_by_ops(layers_case *c, float *x, const smhf_layer *w) {
    const smhf_axis axis = SMHF_AXIS_TOKENS;
    smhf_tensor qkv = rows_of(c->qkv, 3 * H), context = rows_of(c->context, H);
    smhf_tensor projected = rows_of(c->projected, H), hidden = rows_of(c->hidden, H);
    c->be->linear_fwd(c->dev, qkv, rows_of(x, H), w->kv, w->kv_bias, c->pack, axis);
    c->be->attention_fwd(c->dev, context, SMHF_TENSOR_NONE, smhf_tensor_cols(qkv, 0, H),
                         smhf_tensor_cols(qkv, H, H), smhf_tensor_cols(qkv, 2 * H, H), c->pack,
                         axis, w->heads, w->scale, SMHF_DTYPE_BF16, SMHF_DROPOUT_NONE);
    c->be->linear_fwd(c->dev, projected, context, w->out, w->out_bias, c->pack, axis);
    c->be->residual_layernorm_fwd(c->dev, hidden, SMHF_TENSOR_NONE, SMHF_TENSOR_NONE, projected,
                                  rows_of(x, H), w->attention_gamma, w->attention_beta, w->eps,
                                  c->pack, axis, SMHF_DROPOUT_NONE);
    c->be->linear_act_fwd(c->dev, rows_of(c->wide, F), SMHF_TENSOR_NONE, hidden, w->ffn1,
                          w->ffn1_bias, w->act, c->pack, axis);
    c->be->linear_fwd(c->dev, projected, rows_of(c->wide, F), w->ffn2, w->ffn2_bias, c->pack, axis);
    c->be->residual_layernorm_fwd(c->dev, rows_of(x, H), SMHF_TENSOR_NONE, SMHF_TENSOR_NONE,
                                  projected, hidden, w->output_gamma, w->output_beta, w->eps,
                                  c->pack, axis, SMHF_DROPOUT_NONE);
}

/* All layers; where the device stops early, on from there. */
static int32_t at_once(layers_case *c, float *x, float *room, smhf_dtype compute) {
    int32_t done = 0;
    memset(room, 0xFF, MOST * H * sizeof *room); /* NaN */
    while (done < LAYERS) {
        const int32_t more = c->be->layers_fwd(c->dev, rows_of(x, H), rows_of(room, H),
                                               c->layers + done, LAYERS - done, c->pack, compute);
        if (more == 0) {
            break;
        }
        done += more;
    }
    return done;
}

/* Lengths that end with 0. The first ones suit groups of sequences, the last ones shared heads. */
static const int32_t batches[][ROWS] = {
    {33, 31, 40, 7, 1, 13, 100, 3, 2, 1, 1, 48, 20, 32, 0},
    {128, 128, 64, 64, 0},
    {100, 100, 0},
    {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16,
     17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 0},
    {511, 3, 0},
    {96, 0},
    {160, 160, 161, 0},
};
#define BATCHES (sizeof batches / sizeof *batches)

static void test_the_bits_of_the_ops(void) {
    for (size_t t = 0; t < TIERS * 2; t++) {
        layers_case c;
        open_case(&c, tiers[t / 2], t % 2 == 0 ? 2 : 4, SMHF_DTYPE_I8);
        float *start = random_floats(MOST * H), *want = random_floats(MOST * H);
        float *x = random_floats(MOST * H), *room = random_floats(MOST * H);
        for (size_t b = 0; b < BATCHES; b++) {
            const size_t used = (size_t)set_lengths(&c, batches[b]) * H;
            memcpy(want, start, used * sizeof *want);
            for (int l = 0; l < LAYERS; l++) {
                layer_by_ops(&c, want, &c.layers[l]);
            }
            for (int threads = 1; threads <= 3; threads++) {
                smhf_pool_set_threads(threads);
                memset(x, 0xFF, MOST * H * sizeof *x);
                memcpy(x, start, used * sizeof *x);
                const int32_t done = at_once(&c, x, room, SMHF_DTYPE_BF16);
                CHECK(done == 0 || done == LAYERS);
                CHECK(c.served || done == 0);
                CHECK(!c.served || threads > 2 || done == LAYERS);
                CHECK(memcmp(x, done > 0 ? want : start, used * sizeof *want) == 0);
                for (size_t j = used; j < MOST * H; j++) {
                    CHECK(isnan(x[j])); /* rows behind the last are not written */
                }
            }
            smhf_pool_set_threads(2);
        }
        smhf_free(start);
        smhf_free(want);
        smhf_free(x);
        smhf_free(room);
        close_case(&c);
    }
}

/* A sequence with NaN or infinity is NaN as a whole (its attention sees it); others stay. */
static void test_nan_stays_in_its_sequence(void) {
    static const int32_t lengths[] = {40, 30, 50, 60, 0};
    static const float bad[] = {NAN, INFINITY};
    for (size_t i = 0; i < 4; i++) {
        layers_case c;
        open_case(&c, "amx", 2, SMHF_DTYPE_I8);
        float *start = random_floats(MOST * H), *want = random_floats(MOST * H);
        float *x = random_floats(MOST * H), *room = random_floats(MOST * H);
        smhf_pool_set_threads(i < 2 ? 1 : 2);
        set_lengths(&c, lengths);
        memcpy(want, start, MOST * H * sizeof *want);
        memcpy(x, start, MOST * H * sizeof *x);
        x[55 * H + 3] = bad[i % 2]; /* of the second sequence */
        const int32_t done = at_once(&c, want, room, SMHF_DTYPE_BF16);
        CHECK_INT(at_once(&c, x, room, SMHF_DTYPE_BF16), done);
        for (size_t j = 0; done > 0 && j < 180; j++) {
            if (j >= 40 && j < 70) {
                CHECK(isnan(x[j * H]));
            } else {
                CHECK(memcmp(x + j * H, want + j * H, sizeof(float) * H) == 0);
            }
        }
        smhf_free(start);
        smhf_free(want);
        smhf_free(x);
        smhf_free(room);
        close_case(&c);
        smhf_pool_set_threads(2);
    }
}

/* Then the caller runs the ops one by one. */
static void test_declines(void) {
    static const int32_t few[] = {5, 0}, many[] = {100, 100, 0};
    layers_case c;
    float *x = random_floats(MOST * H), *room = random_floats(MOST * H);
    x[0] = 5.0f;
    open_case(&c, "amx", 2, SMHF_DTYPE_I8);
    smhf_pool_set_threads(2);
    set_lengths(&c, few);
    CHECK_INT(at_once(&c, x, room, SMHF_DTYPE_BF16), 0);
    set_lengths(&c, many);
    CHECK_INT(at_once(&c, x, room, SMHF_DTYPE_F32), 0); /* exact attention is asked for */
    c.layers[0].act = SMHF_ACT_TANH;
    CHECK_INT(at_once(&c, x, room, SMHF_DTYPE_BF16), 0);
    close_case(&c);
    open_case(&c, "amx", 8, SMHF_DTYPE_I8); /* heads of 16: half a panel */
    set_lengths(&c, many);
    CHECK_INT(at_once(&c, x, room, SMHF_DTYPE_BF16), 0);
    close_case(&c);
    open_case(&c, "amx", 2, SMHF_DTYPE_F32);
    set_lengths(&c, many);
    CHECK_INT(at_once(&c, x, room, SMHF_DTYPE_BF16), 0);
    CHECK(x[0] == 5.0f);
    close_case(&c);
    smhf_free(x);
    smhf_free(room);
}

int main(void) {
    RUN(test_the_bits_of_the_ops);
    RUN(test_nan_stays_in_its_sequence);
    RUN(test_declines);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
