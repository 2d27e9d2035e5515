/* test_cpu_i8_fine.c: int8 products under `refine`, with every kernel that this machine can run and
 * the AMX kernel over tiles in plain C: against integers from loops in this file, and against
 * doubles of operands that were never rounded. */
#include "smhf_test.h"

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/cpu_lowp.h"
#include "common/mem.h"
#include "common/pool.h"

#include <stdlib.h>

#define TENSOR(data, rows, cols) smhf_tensor_of(data, rows, cols, SMHF_DTYPE_F32)

static uint32_t random_state = 7;

static uint32_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static float random_value(void) {
    return (float)((double)random_bits() / 2147483648.0 - 1.0);
}

/* In (-1, 1); of `wide` ones every 64th is up to 6 times that, as activations are. */
static float *random_floats(size_t count, int wide) {
    float *out = smhf_malloc(count * sizeof *out);
    for (size_t i = 0; i < count; i++) {
        out[i] = random_value() * (wide && random_bits() % 64 == 0 ? 6.0f : 1.0f);
    }
    return out;
}

#define KERNELS_MAX 8

static int kernels_here(const cpu_i8_kernels **out) {
    cpu_features features;
    cpu_features_get(&features);
    int count = 0;
    out[count++] = &cpu_i8_plain;
    out[count++] = &cpu_i8_amx_plain;
#if defined(__x86_64__) && defined(__GNUC__)
    const struct {
        uint32_t flag;
        const cpu_i8_kernels *kernels;
    } known[] = {{CPU_HAS_AVX2, &cpu_i8_avx2},
                 {CPU_HAS_AVX_VNNI, &cpu_i8_avx_vnni},
                 {CPU_HAS_AVX512, &cpu_i8_avx512},
                 {CPU_HAS_AVX512_VNNI, &cpu_i8_avx512_vnni}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if ((features.flags & known[i].flag) != 0) {
            out[count++] = known[i].kernels;
        }
    }
#ifdef CPU_LOWP_HAS_AMX
    if ((features.flags & CPU_HAS_AMX) != 0) {
        out[count++] = &cpu_i8_amx;
    }
#endif
#endif
    return count;
}

static cpu_device *open_cpu(void) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_device *dev = NULL;
    CHECK_OK(smhf_cpu_backend()->open(0, &dev, &err), &err);
    return (cpu_device *)dev;
}

static void close_cpu(cpu_device *cpu) {
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(smhf_cpu_backend()->sync(&cpu->base, &err), &err);
    smhf_cpu_backend()->close(&cpu->base);
}

static void run(cpu_device *cpu, const cpu_i8_kernels *kernels, const void *panels, const float *a,
                int64_t lda, int m, int n, int k, float *y, int64_t ldy) {
    smhf_tensor out = smhf_tensor_of(y, m, n, SMHF_DTYPE_F32);
    out.ld = ldy;
    const cpu_epilogue epilogue = {.y = out};
    cpu_lowp_product product = {.cpu = cpu, .a = a, .lda = lda, .m = m, .n = n, .k = k};
    product.panels = panels;
    product.epilogue = &epilogue;
    product.i8 = kernels;
    cpu_i8_fine_run(&product);
}

/* ---- the parts ------------------------------------------------------------------------------ */

/* 4 bits of the packed rest. */
static int rest_at(const cpu_i8_matrix *m, int output, int input) {
    const int place = 4 * (output % CPU_I8_COLS) + input % 4, half = CPU_LOWP_LINE / 2;
    const size_t line = (size_t)(output / CPU_I8_COLS) * (size_t)m->lines + (size_t)(input / 4);
    const int byte = m->rest[line * (size_t)half + (size_t)(place % half)];
    const int bits = place < half ? byte & 15 : byte >> 4;
    return bits >= 8 ? bits - 16 : bits;
}

static int panel_at(const cpu_i8_matrix *m, int output, int input) {
    const size_t line = (size_t)(output / CPU_I8_COLS) * (size_t)m->lines + (size_t)(input / 4);
    return m->panels[line * CPU_LOWP_LINE + (size_t)(4 * (output % CPU_I8_COLS) + input % 4)];
}

/* What both parts say together is nearer to the weight than a step of the second; the first part is
 * what packing without the second makes. */
static void test_weights_in_two_parts(void) {
    static const int shapes[][2] = {{1, 1}, {33, 7}, {31, 64}, {100, 300}, {64, 1000}};
    int wrong = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int n = shapes[s][0], k = shapes[s][1];
        const int64_t ldw = k + 1;
        float *w = random_floats((size_t)(n * ldw), 0);
        for (int o = 0; o < n; o += 3) {
            w[o * ldw + k / 2] *= k >= 300 ? 40.0f : 1.0f; /* kept apart */
        }
        void *panels = smhf_malloc_aligned(cpu_i8_fine_bytes(n, k), 64);
        void *coarse = smhf_malloc_aligned(cpu_i8_panels_bytes(n, k), 64);
        memset(panels, 0xA5, cpu_i8_fine_bytes(n, k));
        cpu_i8_pack(panels, w, ldw, n, k, 1);
        cpu_i8_pack(coarse, w, ldw, n, k, 0);
        const cpu_i8_matrix m = cpu_i8_matrix_of(panels, n, k), c = cpu_i8_matrix_of(coarse, n, k);
        CHECK(memcmp(m.panels, c.panels,
                     (size_t)cpu_lowp_round_up(n, CPU_I8_COLS) * (size_t)m.lines * 4) == 0);
        for (int o = 0; o < cpu_lowp_round_up(n, CPU_I8_COLS); o++) {
            int total = 0;
            for (int i = 0; i < 4 * m.lines; i++) {
                const int rest = rest_at(&m, o, i);
                total += rest;
                if (o >= n || i >= k) {
                    wrong += rest != 0;
                    continue;
                }
                const double scale = (double)m.scales[o], value = (double)w[o * ldw + i];
                const double said = scale * (panel_at(&m, o, i) + rest / 15.0);
                const int apart = fabs(value) > 127.5 * scale;
                wrong += apart ? said != 0.0 : fabs(said - value) > 0.501 / 15.0 * scale;
            }
            wrong += total != m.rest_totals[o];
        }
        smhf_free(coarse);
        smhf_free(panels);
        smhf_free(w);
    }
    CHECK_INT(wrong, 0);
}

/* ---- the product ---------------------------------------------------------------------------- */

/* Three exact sums, each times its scales. */
static double product_of_parts(const cpu_i8_matrix *m, int output, const uint8_t *q1,
                               const cpu_i8_row *row1, const uint8_t *q2, const cpu_i8_row *row2,
                               double *size) {
    int64_t sum[3] = {0, 0, 0};
    for (int i = 0; i < m->k; i++) {
        const int w1 = panel_at(m, output, i), w2 = rest_at(m, output, i);
        sum[0] += (q1[i] - row1->zero) * w1;
        sum[1] += (q2[i] - row2->zero) * w1;
        sum[2] += (q1[i] - row1->zero) * w2;
    }
    const double scale = (double)m->scales[output];
    const double part[3] = {(double)sum[0] * (double)row1->scale * scale,
                            (double)sum[1] * (double)row2->scale * scale,
                            (double)sum[2] * (double)row1->scale * scale / 15.0};
    *size = fabs(part[0]) + fabs(part[1]) + fabs(part[2]);
    return part[0] + part[1] + part[2];
}

static void check_product(cpu_device *cpu, const cpu_i8_kernels *kernels, int rows, int n, int k) {
    const int64_t lda = k + 3, ldw = k + 1, ldy = n + 5;
    float *a = random_floats((size_t)(rows * lda), 1), *w = random_floats((size_t)(n * ldw), 0);
    float *y = smhf_malloc((size_t)(rows * ldy) * sizeof *y);
    float *room = smhf_malloc((size_t)k * sizeof *room);
    const int padded = cpu_lowp_round_up(k, 64);
    uint8_t *q1 = smhf_malloc((size_t)padded), *q2 = smhf_malloc((size_t)padded);
    void *panels = smhf_malloc_aligned(cpu_i8_fine_bytes(n, k), 64);
    memset(y, 0xFF, (size_t)(rows * ldy) * sizeof *y);
    cpu_i8_pack(panels, w, ldw, n, k, 1);
    run(cpu, kernels, panels, a, lda, rows, n, k, y, ldy);
    const cpu_i8_matrix m = cpu_i8_matrix_of(panels, n, k);
    int wrong = 0, far = 0;
    for (int r = 0; r < rows; r++) {
        const float *x = a + r * lda;
        cpu_i8_row row1, row2;
        cpu_i8_quantize_plain(q1, &row1, x, k, padded, kernels->levels);
        for (int i = 0; i < k; i++) {
            room[i] = x[i] - row1.scale * (float)(q1[i] - row1.zero);
        }
        cpu_i8_quantize_plain(q2, &row2, room, k, padded, kernels->levels);
        for (int o = 0; o < n; o++) {
            double size = 0.0, exact = 0.0, bound = 1e-6;
            const double got = (double)y[r * ldy + o];
            const double want = product_of_parts(&m, o, q1, &row1, q2, &row2, &size);
            wrong += !(fabs(got - want) <= 4e-7 * size + 1e-30);
            const double ws = (double)m.scales[o], xs = (double)row1.scale;
            for (int i = 0; i < k; i++) {
                const double v = (double)x[i], u = (double)w[o * ldw + i];
                exact += v * u;
                bound += 1.02 * (double)row2.scale * fabs(u) + 0.51 / 15.0 * ws * fabs(v) +
                         1.02 * xs * 0.5 * ws;
            }
            far += !(fabs(got - exact) <= bound);
        }
        for (int64_t o = n; o < ldy; o++) {
            uint32_t bits;
            memcpy(&bits, &y[r * ldy + o], sizeof bits);
            wrong += bits != 0xFFFFFFFFu; /* nothing is written beside the result */
        }
    }
    if (wrong + far > 0) {
        printf("  %s: %d x %d x %d: %d wrong, %d far\n", kernels->name, rows, n, k, wrong, far);
    }
    CHECK_INT(wrong + far, 0);
    smhf_free(panels);
    smhf_free(q2);
    smhf_free(q1);
    smhf_free(room);
    smhf_free(y);
    smhf_free(w);
    smhf_free(a);
}

static void test_products(void) {
    static const int shapes[][3] = {{1, 1, 1},     {1, 33, 7},   {3, 31, 64},  {7, 100, 13},
                                    {13, 64, 100}, {31, 5, 257}, {33, 96, 65}, {100, 40, 31}};
    const cpu_i8_kernels *kernels[KERNELS_MAX];
    const int count = kernels_here(kernels);
    cpu_device *cpu = open_cpu();
    for (int j = 0; j < count; j++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            check_product(cpu, kernels[j], shapes[s][0], shapes[s][1], shapes[s][2]);
        }
        check_product(cpu, kernels[j], 258, 33, 20); /* more than one block of rows */
    }
    close_cpu(cpu);
}

/* One row's bits: alone and among others, with one thread and several, beside NaN; and the same
 * from every kernel with as many levels. */
static void test_rows_are_independent(void) {
    enum { M = 300, N = 70, K = 330 };
    const cpu_i8_kernels *kernels[KERNELS_MAX];
    const int count = kernels_here(kernels), threads = smhf_pool_threads();
    cpu_device *cpu = open_cpu();
    float *a = random_floats((size_t)M * K, 1), *w = random_floats((size_t)N * K, 0);
    float *all = smhf_malloc(sizeof(float) * M * N), *again = smhf_malloc(sizeof(float) * M * N);
    float *plain = smhf_malloc(sizeof(float) * M * N);
    void *panels = smhf_malloc_aligned(cpu_i8_fine_bytes(N, K), 64);
    w[5 * K + 100] = 60.0f; /* an outlier */
    cpu_i8_pack(panels, w, K, N, K, 1);
    for (int j = 0; j < count; j++) {
        smhf_pool_set_threads(1);
        run(cpu, kernels[j], panels, a, K, M, N, K, all, N);
        smhf_pool_set_threads(2);
        run(cpu, kernels[j], panels, a, K, M, N, K, again, N);
        CHECK(memcmp(all, again, sizeof(float) * M * N) == 0);
        if (j == 0) {
            memcpy(plain, all, sizeof(float) * M * N);
        }
        CHECK(kernels[j]->levels != 255 || memcmp(all, plain, sizeof(float) * M * N) == 0);
        static const int parts[][2] = {{0, 1}, {5, 2}, {17, 13}, {100, 33}, {299, 1}};
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            const int first = parts[p][0], rows = parts[p][1];
            run(cpu, kernels[j], panels, a + first * K, K, rows, N, K, again, N);
            CHECK(memcmp(all + first * N, again, sizeof(float) * (size_t)rows * N) == 0);
        }
        const float kept = a[3 * K + 5];
        a[3 * K + 5] = j % 2 == 0 ? NAN : INFINITY;
        run(cpu, kernels[j], panels, a, K, 6, N, K, again, N);
        for (int o = 0; o < N; o++) {
            CHECK(isnan(again[3 * N + o]));
        }
        CHECK(memcmp(all, again, sizeof(float) * 3 * N) == 0);
        CHECK(memcmp(all + 4 * N, again + 4 * N, sizeof(float) * 2 * N) == 0);
        a[3 * K + 5] = kept;
    }
    smhf_pool_set_threads(threads);
    smhf_free(panels);
    smhf_free(plain);
    smhf_free(again);
    smhf_free(all);
    smhf_free(w);
    smhf_free(a);
    close_cpu(cpu);
}

/* ---- through the table of the backend ------------------------------------------------------- */

/* Only between refine(1) and refine(0), and only weights that were prepared for it. */
static void test_refine(void) {
    enum { M = 40, N = 50, K = 200 };
    const smhf_backend *be = smhf_cpu_backend();
    smhf_error err = SMHF_ERROR_INIT;
    cpu_device *cpu = open_cpu();
    float *x = random_floats((size_t)M * K, 1), *w = random_floats((size_t)N * K, 0);
    float *bias = random_floats(N, 0);
    float *y[4];
    int32_t ids[M], cu[] = {0, M};
    memset(ids, 0, sizeof ids);
    smhf_weight *weight[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) { /* COPY: the source is not asked again */
        const smhf_weight_options options = {SMHF_DTYPE_I8, SMHF_WEIGHT_FORWARD | SMHF_WEIGHT_COPY |
                                                                (i == 0 ? SMHF_WEIGHT_REST : 0)};
        CHECK_OK(be->weight_prepare(&cpu->base, &weight[i], TENSOR(w, N, K), &options, &err), &err);
    }
    smhf_pack *pack = NULL;
    CHECK_OK(smhf_pack_new(&cpu->base, M, 1, &pack, &err), &err);
    const smhf_pack_input input = {.ids = ids, .cu_seqlens = cu, .rows = 1};
    CHECK_OK(smhf_pack_fill(pack, &input, &err), &err);
    double error[4] = {0};
    for (int i = 0; i < 4; i++) { /* fine weight on, off; coarse weight on, off */
        y[i] = smhf_malloc(sizeof(float) * M * N);
        be->refine(&cpu->base, i % 2 == 0);
        be->linear_act_fwd(&cpu->base, TENSOR(y[i], M, N), SMHF_TENSOR_NONE, TENSOR(x, M, K),
                           weight[i / 2], TENSOR(bias, 1, N), SMHF_ACT_RELU, pack,
                           SMHF_AXIS_TOKENS);
        be->refine(&cpu->base, 0);
        for (int r = 0; r < M; r++) {
            for (int o = 0; o < N; o++) {
                double sum = (double)bias[o];
                for (int k = 0; k < K; k++) {
                    sum += (double)x[r * K + k] * (double)w[o * K + k];
                }
                const double d = (double)y[i][r * N + o] - (sum > 0.0 ? sum : 0.0);
                error[i] += d * d;
            }
        }
    }
    CHECK(error[0] * 100.0 < error[1]); /* ten times nearer, in squares */
    CHECK(memcmp(y[1], y[3], sizeof(float) * M * N) == 0);
    CHECK(memcmp(y[2], y[3], sizeof(float) * M * N) == 0);
    for (int i = 0; i < 4; i++) {
        smhf_free(y[i]);
    }
    be->weight_free(&cpu->base, weight[0]);
    be->weight_free(&cpu->base, weight[1]);
    smhf_pack_free(pack);
    smhf_free(bias);
    smhf_free(w);
    smhf_free(x);
    close_cpu(cpu);
}

int main(void) {
    RUN(test_weights_in_two_parts);
    RUN(test_products);
    RUN(test_rows_are_independent);
    RUN(test_refine);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
