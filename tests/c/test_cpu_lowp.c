/* test_cpu_lowp.c: int8 and bf16 products: every kernel that this machine can run, and the AMX
 * kernels over tiles in plain C, against loops in this file. */
#include "smhf_test.h"

#include "backend_cpu/backend_cpu.h"
#include "backend_cpu/cpu_lowp.h"
#include "common/mem.h"
#include "common/pool.h"

#include <stdlib.h>

static uint32_t random_state = 1;

static uint32_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

/* In (-1, 1); sometimes larger, as activations are. */
static float random_value(void) {
    float v = (float)((double)random_bits() / 2147483648.0 - 1.0);
    return random_bits() % 64 == 0 ? 6.0f * v : v;
}

static float *random_floats(size_t count) {
    float *out = smhf_malloc(count * sizeof *out);
    for (size_t i = 0; i < count; i++) {
        out[i] = random_value();
    }
    return out;
}

#define KERNELS_MAX 8

static int i8_kernels(const cpu_i8_kernels **out) {
    cpu_features features;
    cpu_features_get(&features);
    int count = 0;
    out[count++] = &cpu_i8_plain;
    out[count++] = &cpu_i8_amx_plain;
#if defined(__x86_64__) && defined(__GNUC__)
    if ((features.flags & CPU_HAS_AVX2) != 0) {
        out[count++] = &cpu_i8_avx2;
    }
    if ((features.flags & CPU_HAS_AVX_VNNI) != 0) {
        out[count++] = &cpu_i8_avx_vnni;
    }
    if ((features.flags & CPU_HAS_AVX512) != 0) {
        out[count++] = &cpu_i8_avx512;
    }
    if ((features.flags & CPU_HAS_AVX512_VNNI) != 0) {
        out[count++] = &cpu_i8_avx512_vnni;
    }
#ifdef CPU_LOWP_HAS_AMX
    if ((features.flags & CPU_HAS_AMX) != 0) {
        out[count++] = &cpu_i8_amx;
    }
#endif
#endif
    return count;
}

static int bf16_kernels(const cpu_bf16_kernels **out) {
    cpu_features features;
    cpu_features_get(&features);
    int count = 0;
    out[count++] = &cpu_bf16_plain;
    out[count++] = &cpu_bf16_amx_plain;
#if defined(__x86_64__) && defined(__GNUC__)
    if ((features.flags & CPU_HAS_AVX2) != 0) {
        out[count++] = &cpu_bf16_avx2;
    }
    if ((features.flags & CPU_HAS_AVX512) != 0) {
        out[count++] = &cpu_bf16_avx512;
    }
    if ((features.flags & CPU_HAS_AVX512_BF16) != 0) {
        out[count++] = &cpu_bf16_avx512_bf16;
    }
#ifdef CPU_LOWP_HAS_AMX
    if ((features.flags & CPU_HAS_AMX) != 0) {
        out[count++] = &cpu_bf16_amx;
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

typedef struct run_case {
    int m, n, k;
    const float *a, *w;
    const cpu_i8_kernels *i8;
    const cpu_bf16_kernels *bf16;
} run_case;

static void run(cpu_device *cpu, const run_case *c, float *y, int first, int rows) {
    size_t bytes =
        c->i8 != NULL ? cpu_i8_panels_bytes(c->n, c->k) : cpu_bf16_panels_bytes(c->n, c->k);
    void *panels = smhf_malloc_aligned(bytes, 64);
    if (c->i8 != NULL) {
        cpu_i8_pack(panels, c->w, c->k, c->n, c->k, 0);
    } else {
        cpu_bf16_pack(panels, c->w, c->k, c->n, c->k, 0, c->bf16);
    }
    cpu_epilogue epilogue = {.y = smhf_tensor_of(y, rows, c->n, SMHF_DTYPE_F32)};
    cpu_lowp_product product = {.cpu = cpu, .a = c->a + first * c->k, .lda = c->k, .m = rows};
    product.n = c->n;
    product.k = c->k;
    product.panels = panels;
    product.epilogue = &epilogue;
    product.i8 = c->i8;
    product.bf16 = c->bf16;
    cpu_lowp_run(&product);
    smhf_free(panels);
}

/* ---- int8 ----------------------------------------------------------------------------------- */

/* Greatest products everywhere, of one sign and of both; then random ones. */
static void test_i8_tiles_are_exact(void) {
    const cpu_i8_kernels *kernels[KERNELS_MAX];
    int count = i8_kernels(kernels);
    static const int lengths[] = {16, 48, 192};
    int32_t sums[32 * CPU_LOWP_COLS];
    for (int j = 0; j < count; j++) {
        for (int l = 0; l < 3; l++) {
            int lines = lengths[l], lda = 4 * lines + 64;
            uint8_t *a = smhf_malloc_aligned((size_t)lda * 32, 64);
            int8_t *panel = smhf_malloc_aligned((size_t)lines * CPU_LOWP_LINE, 64);
            for (int rows = 1; rows <= kernels[j]->rows; rows++) {
                int kind = rows % 3, levels = kernels[j]->levels;
                for (int i = 0; i < lda * 32; i++) {
                    a[i] = kind == 0 ? (uint8_t)(random_bits() % (unsigned)(levels + 1))
                                     : (uint8_t)levels;
                }
                for (int i = 0; i < lines * CPU_LOWP_LINE; i++) {
                    int random = (int)(random_bits() % 255) - 127;
                    int extreme = kind == 1 || i / 4 % 2 == 0 ? 127 : -127;
                    panel[i] = (int8_t)(kind == 0 ? random : extreme);
                }
                memset(sums, 0x5A, sizeof sums);
                kernels[j]->tile(sums, a, lda, panel, lines, rows);
                int wrong = 0;
                for (int r = 0; r < rows; r++) {
                    for (int c = 0; c < CPU_LOWP_COLS; c++) {
                        int32_t sum = 0;
                        for (int k = 0; k < 4 * lines; k++) {
                            sum += a[r * lda + k] * panel[k / 4 * CPU_LOWP_LINE + 4 * c + k % 4];
                        }
                        wrong += sums[r * CPU_LOWP_COLS + c] != sum;
                    }
                }
                if (wrong > 0) {
                    printf("  %s: %d rows, %d lines: %d wrong sums\n", kernels[j]->name, rows,
                           lines, wrong);
                }
                CHECK_INT(wrong, 0);
            }
            smhf_free(a);
            smhf_free(panel);
        }
    }
}

static void test_i8_rows_are_quantized_alike(void) {
    const cpu_i8_kernels *kernels[KERNELS_MAX];
    int count = i8_kernels(kernels);
    static const int lengths[] = {1, 3, 7, 8, 13, 31, 33, 100, 768};
    uint8_t want[1024], got[1024];
    float x[768];
    for (int kind = 0; kind < 8; kind++) {
        for (int l = 0; l < 9; l++) {
            int k = lengths[l], padded = cpu_lowp_round_up(k, 64);
            for (int i = 0; i < k; i++) {
                x[i] = random_value();
                x[i] = kind == 1 ? fabsf(x[i]) : kind == 2 ? -fabsf(x[i]) : x[i];
                x[i] = kind == 3 ? 0.0f : kind == 4 ? x[i] * 1e-42f : x[i];
            }
            x[k / 2] = kind == 5 ? NAN : kind == 6 ? -INFINITY : x[k / 2];
            x[0] = kind == 7 ? 3e38f : x[0];
            x[k - 1] = kind == 7 ? -3e38f : x[k - 1];
            for (int j = 0; j < count; j++) {
                cpu_i8_row row, expected;
                memset(got, 0xEE, sizeof got);
                int levels = kernels[j]->levels;
                cpu_i8_quantize_plain(want, &expected, x, k, padded, levels);
                kernels[j]->quantize(got, &row, x, k, padded, levels);
                CHECK(memcmp(want, got, (size_t)padded) == 0);
                CHECK(memcmp(&row, &expected, sizeof row) == 0);
                if (kind < 3) {
                    for (int i = 0; i < k; i++) {
                        float back = row.scale * (float)((int)got[i] - row.zero);
                        CHECK(got[i] <= levels);
                        CHECK(fabsf(back - x[i]) <= row.scale * 1.001f);
                    }
                }
                if (kind >= 5 && !(kind == 7 && k == 1)) {
                    CHECK(isnan(row.scale));
                }
            }
        }
    }
}

/* A whole product next to its exact value: integer sums, then two float products. */
static void check_i8_product(cpu_device *cpu, const cpu_i8_kernels *kernels, int m, int n, int k) {
    int64_t lda = k + 3, ldw = k + 1, ldy = n + 5;
    float *a = random_floats((size_t)(m * lda)), *w = random_floats((size_t)(n * ldw));
    for (int64_t i = 0; i < n * ldw; i++) {
        w[i] = w[i] > 1.0f ? 1.0f : w[i] < -1.0f ? -1.0f : w[i]; /* no outliers */
    }
    float *y = smhf_malloc((size_t)(m * ldy) * sizeof *y);
    memset(y, 0xFF, (size_t)(m * ldy) * sizeof *y);
    void *panels = smhf_malloc_aligned(cpu_i8_panels_bytes(n, k), 64);
    cpu_i8_pack(panels, w, ldw, n, k, 0);
    smhf_tensor out = smhf_tensor_of(y, m, n, SMHF_DTYPE_F32);
    out.ld = ldy;
    cpu_epilogue epilogue = {.y = out};
    cpu_lowp_product product = {.cpu = cpu, .a = a, .lda = lda, .m = m, .n = n, .k = k};
    product.panels = panels;
    product.epilogue = &epilogue;
    product.i8 = kernels;
    cpu_lowp_run(&product);
    int padded = cpu_lowp_round_up(k, 64), wrong = 0;
    uint8_t *q = smhf_malloc((size_t)padded);
    for (int r = 0; r < m; r++) {
        cpu_i8_row row;
        cpu_i8_quantize_plain(q, &row, a + r * lda, k, padded, kernels->levels);
        for (int c = 0; c < n; c++) {
            const float *from = w + c * ldw;
            float greatest = 0.0f;
            for (int i = 0; i < k; i++) {
                greatest = fabsf(from[i]) > greatest ? fabsf(from[i]) : greatest;
            }
            int32_t sum = 0;
            for (int i = 0; i < k; i++) {
                sum += (q[i] - row.zero) * (int32_t)rintf(from[i] * (127.0f / greatest));
            }
            float want = (float)sum * (row.scale * (greatest / 127.0f));
            wrong += !(y[r * ldy + c] == want);
        }
        for (int64_t c = n; c < ldy; c++) {
            uint32_t bits;
            memcpy(&bits, &y[r * ldy + c], sizeof bits);
            wrong += bits != 0xFFFFFFFFu; /* nothing is written beside the result */
        }
    }
    if (wrong > 0) {
        printf("  %s: %d x %d x %d: %d wrong\n", kernels->name, m, n, k, wrong);
    }
    CHECK_INT(wrong, 0);
    smhf_free(q);
    smhf_free(panels);
    smhf_free(y);
    smhf_free(w);
    smhf_free(a);
}

static const int shapes[][3] = {{1, 1, 1},     {1, 33, 7},   {3, 31, 64},  {7, 100, 13},
                                {13, 64, 100}, {31, 5, 257}, {33, 96, 65}, {100, 130, 31},
                                {12, 32, 64},  {97, 32, 3}};

static void test_i8_products(void) {
    const cpu_i8_kernels *kernels[KERNELS_MAX];
    int count = i8_kernels(kernels);
    cpu_device *cpu = open_cpu();
    for (int j = 0; j < count; j++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            check_i8_product(cpu, kernels[j], shapes[s][0], shapes[s][1], shapes[s][2]);
        }
        check_i8_product(cpu, kernels[j], 511, 40, 48);
        check_i8_product(cpu, kernels[j], 513, 33, 20);
    }
    close_cpu(cpu);
}

/* Weights at 30 standard deviations: next to the same product without them, only their own exact
 * terms come in; an output with too many of them is quantised whole. */
static void test_i8_outliers_are_kept_apart(void) {
    enum { M = 9, N = 70, K = 640 };
    const cpu_i8_kernels *kernels[KERNELS_MAX];
    int count = i8_kernels(kernels);
    cpu_device *cpu = open_cpu();
    float *a = random_floats((size_t)M * K), *w = random_floats((size_t)N * K);
    float *y = smhf_malloc(sizeof(float) * M * N), *base = smhf_malloc(sizeof(float) * M * N);
    for (int i = 0; i < N * K; i++) {
        w[i] = w[i] > 1.0f ? 1.0f : w[i] < -1.0f ? -1.0f : w[i];
    }
    w[3 * K + 17] = w[3 * K + 600] = w[69 * K + 5] = 0.0f;
    for (int j = 0; j < count; j++) {
        run_case c = {M, N, K, a, w, kernels[j], NULL};
        run(cpu, &c, base, 0, M);
        w[3 * K + 17] = 20.0f;
        w[3 * K + 600] = -15.0f;
        w[69 * K + 5] = 30.0f;
        run(cpu, &c, y, 0, M);
        for (int r = 0; r < M; r++) {
            const float *x = a + r * K;
            base[r * N + 3] += x[17] * 20.0f;
            base[r * N + 3] += x[600] * -15.0f;
            base[r * N + 69] += x[5] * 30.0f;
        }
        CHECK(memcmp(base, y, sizeof(float) * M * N) == 0);
        w[3 * K + 17] = w[3 * K + 600] = w[69 * K + 5] = 0.0f;
    }
    /* more than there is room for: still a product, coarser */
    for (int i = 0; i < 3 * K; i++) {
        w[i] = i % K % 43 == 0 ? 100.0f : 1e-3f * w[i];
    }
    run_case c = {M, N, K, a, w, kernels[count - 1], NULL};
    run(cpu, &c, y, 0, M);
    for (int r = 0; r < M; r++) {
        for (int o = 0; o < 3; o++) {
            double sum = 0.0, size = 0.0;
            for (int i = 0; i < K; i++) {
                sum += (double)a[r * K + i] * (double)w[o * K + i];
                size += fabs((double)w[o * K + i]) * 0.1 + fabs((double)a[r * K + i]) * 0.4;
            }
            CHECK(fabs((double)y[r * N + o] - sum) <= size);
        }
    }
    smhf_free(base);
    smhf_free(y);
    smhf_free(w);
    smhf_free(a);
    close_cpu(cpu);
}

/* ---- bf16 ----------------------------------------------------------------------------------- */

static float rounded(float value) {
    uint32_t bits = cpu_bf16_bits(value) << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

/* The processor's own conversion takes subnormals for zero, as its product does. */
static int flushes(const cpu_bf16_kernels *kernels) {
#if defined(__x86_64__) && defined(__GNUC__)
    return kernels == &cpu_bf16_avx512_bf16;
#else
    (void)kernels;
    return 0;
#endif
}

/* Published cases: ties go to even, the largest goes to infinity, NaN stays. */
static void test_bf16_rounds_to_nearest_even(void) {
    static const struct {
        uint32_t from, to;
    } cases[] = {
        {0x3F800000u, 0x3F80u}, {0x3F808000u, 0x3F80u}, {0x3F818000u, 0x3F82u},
        {0x3F808001u, 0x3F81u}, {0x3F807FFFu, 0x3F80u}, {0xBF818000u, 0xBF82u},
        {0x7F7FFFFFu, 0x7F80u}, {0x7F800000u, 0x7F80u}, {0xFF800000u, 0xFF80u},
        {0x00000001u, 0x0000u}, {0x00018000u, 0x0002u}, {0x80000000u, 0x8000u},
    };
    const cpu_bf16_kernels *kernels[KERNELS_MAX];
    int count = bf16_kernels(kernels);
    enum { CASES = sizeof cases / sizeof cases[0] };
    float x[CASES + 8];
    for (int i = 0; i < CASES; i++) {
        memcpy(&x[i], &cases[i].from, sizeof x[i]);
    }
    for (int j = 0; j < count; j++) {
        for (int k = 1; k <= CASES; k++) {
            uint16_t got[64];
            memset(got, 0xEE, sizeof got);
            kernels[j]->pack(got, x, k, 32);
            for (int i = 0; i < 32; i++) {
                const int subnormal = i < k && (cases[i].from & 0x7F800000u) == 0;
                if (subnormal && flushes(kernels[j])) {
                    CHECK_INT(got[i] & 0x7FFF, 0);
                } else {
                    CHECK_INT(got[i], i < k ? cases[i].to : 0);
                }
            }
        }
        /* NaNs whose payload lies below the kept bits must not become infinity */
        uint32_t nans[16];
        for (int i = 0; i < 16; i++) {
            nans[i] = (i % 2 != 0 ? 0x80000000u : 0) | 0x7F800001u | (uint32_t)i << 2;
        }
        float values[16];
        uint16_t got[32];
        memcpy(values, nans, sizeof values);
        kernels[j]->pack(got, values, 16, 32);
        for (int i = 0; i < 16; i++) {
            CHECK((got[i] & 0x7F80) == 0x7F80 && (got[i] & 0x7F) != 0);
        }
    }
}

/* Operands rounded, sums in fp32: at most k roundings of the largest partial sum. */
static void check_bf16_product(cpu_device *cpu, const cpu_bf16_kernels *kernels, int m, int n,
                               int k, int transposed) {
    int64_t lda = k + 3, ldw = (transposed ? n : k) + 1, ldy = n + 5;
    float *a = random_floats((size_t)(m * lda));
    float *w = random_floats((size_t)((transposed ? k : n) * ldw));
    float *y = smhf_malloc((size_t)(m * ldy) * sizeof *y);
    memset(y, 0xFF, (size_t)(m * ldy) * sizeof *y);
    void *panels = smhf_malloc_aligned(cpu_bf16_panels_bytes(n, k), 64);
    cpu_bf16_pack(panels, w, ldw, n, k, transposed, kernels);
    smhf_tensor out = smhf_tensor_of(y, m, n, SMHF_DTYPE_F32);
    out.ld = ldy;
    cpu_epilogue epilogue = {.y = out};
    cpu_lowp_product product = {.cpu = cpu, .a = a, .lda = lda, .m = m, .n = n, .k = k};
    product.panels = panels;
    product.epilogue = &epilogue;
    product.bf16 = kernels;
    cpu_lowp_run(&product);
    int wrong = 0;
    for (int r = 0; r < m; r++) {
        for (int c = 0; c < n; c++) {
            double sum = 0.0, size = 0.0;
            for (int i = 0; i < k; i++) {
                float wv = transposed ? w[i * ldw + c] : w[c * ldw + i];
                double term = (double)rounded(a[r * lda + i]) * (double)rounded(wv);
                sum += term;
                size += fabs(term);
            }
            double bound = (8.0 + 0.25 * k) * 5.97e-8 * size + 1e-30;
            wrong += !(fabs((double)y[r * ldy + c] - sum) <= bound);
        }
        for (int64_t c = n; c < ldy; c++) {
            uint32_t bits;
            memcpy(&bits, &y[r * ldy + c], sizeof bits);
            wrong += bits != 0xFFFFFFFFu;
        }
    }
    if (wrong > 0) {
        printf("  %s: %d x %d x %d%s: %d wrong\n", kernels->name, m, n, k,
               transposed ? " transposed" : "", wrong);
    }
    CHECK_INT(wrong, 0);
    smhf_free(panels);
    smhf_free(y);
    smhf_free(w);
    smhf_free(a);
}

static void test_bf16_products(void) {
    const cpu_bf16_kernels *kernels[KERNELS_MAX];
    int count = bf16_kernels(kernels);
    cpu_device *cpu = open_cpu();
    for (int j = 0; j < count; j++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            for (int transposed = 0; transposed < 2; transposed++) {
                check_bf16_product(cpu, kernels[j], shapes[s][0], shapes[s][1], shapes[s][2],
                                   transposed);
            }
        }
        check_bf16_product(cpu, kernels[j], 513, 33, 20, 0);
    }
    close_cpu(cpu);
}

/* dw += dy^T x over more tokens than one block. */
static void test_bf16_weight_gradient(void) {
    static const int cases[][3] = {{1, 3, 5}, {7, 33, 13}, {100, 65, 70}, {1300, 40, 33}};
    cpu_device *cpu = open_cpu();
    for (size_t s = 0; s < sizeof cases / sizeof *cases; s++) {
        int rows = cases[s][0], n = cases[s][1], k = cases[s][2];
        float *dy = random_floats((size_t)(rows * n)), *x = random_floats((size_t)(rows * k));
        float *dw = random_floats((size_t)(n * k));
        float *before = smhf_malloc((size_t)(n * k) * sizeof *before);
        memcpy(before, dw, (size_t)(n * k) * sizeof *before);
        cpu_bf16_weight_gradient(cpu, smhf_tensor_of(dw, n, k, SMHF_DTYPE_F32),
                                 smhf_tensor_of(dy, rows, n, SMHF_DTYPE_F32),
                                 smhf_tensor_of(x, rows, k, SMHF_DTYPE_F32), rows);
        int wrong = 0;
        for (int r = 0; r < n; r++) {
            for (int c = 0; c < k; c++) {
                double sum = before[r * k + c], size = fabs(sum);
                for (int t = 0; t < rows; t++) {
                    double term = (double)rounded(dy[t * n + r]) * (double)rounded(x[t * k + c]);
                    sum += term;
                    size += fabs(term);
                }
                double bound = (8.0 + 0.25 * rows) * 5.97e-8 * size;
                wrong += !(fabs((double)dw[r * k + c] - sum) <= bound);
            }
        }
        CHECK_INT(wrong, 0);
        smhf_free(before);
        smhf_free(dw);
        smhf_free(x);
        smhf_free(dy);
    }
    close_cpu(cpu);
}

/* ---- both ----------------------------------------------------------------------------------- */

/* The same bits alone, in a crowd, and with any number of threads; a NaN or infinite row spoils
 * itself only. */
static void check_rows(cpu_device *cpu, const cpu_i8_kernels *i8, const cpu_bf16_kernels *bf16) {
    enum { M = 530, N = 100, K = 70 };
    float *a = random_floats((size_t)M * K), *w = random_floats((size_t)N * K);
    float *all = smhf_malloc(sizeof(float) * M * N), *again = smhf_malloc(sizeof(float) * M * N);
    run_case c = {M, N, K, a, w, i8, bf16};
    smhf_pool_set_threads(1);
    run(cpu, &c, all, 0, M);
    smhf_pool_set_threads(2);
    run(cpu, &c, again, 0, M);
    CHECK(memcmp(all, again, sizeof(float) * M * N) == 0);
    static const int parts[][2] = {{0, 1},     {5, 2},   {17, 13}, {100, 33},
                                   {400, 130}, {511, 1}, {529, 1}};
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
        run(cpu, &c, again, parts[p][0], parts[p][1]);
        CHECK(memcmp(all + parts[p][0] * N, again, sizeof(float) * (size_t)parts[p][1] * N) == 0);
    }
    a[3 * K + 5] = NAN;
    a[8 * K + 69] = INFINITY;
    run(cpu, &c, again, 0, M);
    for (int r = 0; r < M; r++) {
        if (r != 3 && r != 8) {
            CHECK(memcmp(all + r * N, again + r * N, sizeof(float) * N) == 0);
            continue;
        }
        for (int j = 0; j < N; j++) {
            CHECK(i8 != NULL || r == 3 ? isnan(again[r * N + j]) : isinf(again[r * N + j]));
        }
    }
    w[7 * K + 1] = NAN;
    run(cpu, &c, again, 0, 1);
    CHECK(isnan(again[7]) && again[6] == all[6] && again[8] == all[8]);
    smhf_free(again);
    smhf_free(all);
    smhf_free(w);
    smhf_free(a);
}

static void test_rows_are_independent(void) {
    const cpu_i8_kernels *i8[KERNELS_MAX];
    const cpu_bf16_kernels *bf16[KERNELS_MAX];
    int threads = smhf_pool_threads();
    cpu_device *cpu = open_cpu();
    for (int j = i8_kernels(i8) - 1; j >= 0; j--) {
        check_rows(cpu, i8[j], NULL);
    }
    for (int j = bf16_kernels(bf16) - 1; j >= 0; j--) {
        check_rows(cpu, NULL, bf16[j]);
    }
    close_cpu(cpu);
    smhf_pool_set_threads(threads);
}

/* AMX sums in tiles of k; its results are as near to the plain ones as the order of sums allows,
 * and its integers are the same. */
static void test_levels_of_a_kind_agree(void) {
    enum { M = 40, N = 64, K = 200 };
    const cpu_i8_kernels *kernels[KERNELS_MAX];
    int count = i8_kernels(kernels);
    cpu_device *cpu = open_cpu();
    float *a = random_floats((size_t)M * K), *w = random_floats((size_t)N * K);
    float *want = smhf_malloc(sizeof(float) * M * N), *got = smhf_malloc(sizeof(float) * M * N);
    run_case c = {M, N, K, a, w, &cpu_i8_plain, NULL};
    run(cpu, &c, want, 0, M);
    for (int j = 1; j < count; j++) {
        c.i8 = kernels[j];
        run(cpu, &c, got, 0, M);
        if (kernels[j]->levels == 255) {
            CHECK(memcmp(want, got, sizeof(float) * M * N) == 0);
        }
    }
    smhf_free(got);
    smhf_free(want);
    smhf_free(w);
    smhf_free(a);
    close_cpu(cpu);
}

/* ---- through the table of the backend, at every level --------------------------------------- */

enum { OP_ROWS = 37, OP_IN = 70, OP_OUT = 45 };

typedef struct ops_case {
    const smhf_backend *be;
    smhf_device *dev;
    smhf_pack *pack;
    float *x, *w, *bias, *y, *pre, *dx, *dw, *dbias;
} ops_case;

/* What an operand becomes inside a product of this precision is at most so far from it, for a row
 * or an output whose elements span `range`. */
static double operand_error(smhf_dtype compute, double value, double range, int levels) {
    return compute == SMHF_DTYPE_I8 ? 0.51 * range / levels : fabs(value) / 256.0;
}

/* y = gelu(pre), pre = x W^T + bias, next to doubles of the operands that were not rounded. */
static int forward_wrong(const ops_case *c, smhf_dtype compute, int levels) {
    int wrong = 0;
    for (int r = 0; r < OP_ROWS; r++) {
        double low = 0.0, high = 0.0;
        for (int i = 0; i < OP_IN; i++) {
            double v = (double)c->x[r * OP_IN + i];
            low = v < low ? v : low;
            high = v > high ? v : high;
        }
        for (int o = 0; o < OP_OUT; o++) {
            double sum = (double)c->bias[o], bound = 1e-5, top = 0.0;
            for (int i = 0; i < OP_IN; i++) {
                double v = fabs((double)c->w[o * OP_IN + i]);
                top = v > top ? v : top;
            }
            for (int i = 0; i < OP_IN; i++) {
                double a = (double)c->x[r * OP_IN + i], w = (double)c->w[o * OP_IN + i];
                double ea = operand_error(compute, a, 2.0 * (high - low), levels);
                double ew = operand_error(compute, w, top, 127);
                sum += a * w;
                bound += ea * fabs(w) + ew * fabs(a) + ea * ew;
            }
            double pre = (double)c->pre[r * OP_OUT + o];
            double gelu = pre * 0.5 * erfc(-pre * 0.70710678118654752);
            wrong += !(fabs(pre - sum) <= bound);
            wrong += !(fabs((double)c->y[r * OP_OUT + o] - gelu) <= 2e-6 * (1.0 + fabs(pre)));
        }
    }
    return wrong;
}

/* dx += y W, dw += y^T x, dbias += columns of y, all from 1. */
static int backward_wrong(const ops_case *c) {
    int wrong = 0;
    for (int r = 0; r < OP_ROWS; r++) {
        for (int i = 0; i < OP_IN; i++) {
            double sum = 1.0, bound = 1e-5;
            for (int o = 0; o < OP_OUT; o++) {
                double term = (double)c->y[r * OP_OUT + o] * (double)c->w[o * OP_IN + i];
                sum += term;
                bound += fabs(term) / 120.0;
            }
            wrong += !(fabs((double)c->dx[r * OP_IN + i] - sum) <= bound);
        }
    }
    for (int o = 0; o < OP_OUT; o++) {
        double column = 1.0;
        for (int r = 0; r < OP_ROWS; r++) {
            column += (double)c->y[r * OP_OUT + o];
        }
        wrong += !(fabs((double)c->dbias[o] - column) <= 1e-4);
        for (int i = 0; i < OP_IN; i++) {
            double sum = 1.0, bound = 1e-5;
            for (int r = 0; r < OP_ROWS; r++) {
                double term = (double)c->y[r * OP_OUT + o] * (double)c->x[r * OP_IN + i];
                sum += term;
                bound += fabs(term) / 120.0;
            }
            wrong += !(fabs((double)c->dw[o * OP_IN + i] - sum) <= bound);
        }
    }
    return wrong;
}

static void fill(float *to, int count, float value) {
    for (int i = 0; i < count; i++) {
        to[i] = value;
    }
}

#define TENSOR(data, rows, cols) smhf_tensor_of(data, rows, cols, SMHF_DTYPE_F32)

static void run_ops(ops_case *c, smhf_weight *weight, int backward) {
    const smhf_tensor x = TENSOR(c->x, OP_ROWS, OP_IN), y = TENSOR(c->y, OP_ROWS, OP_OUT);
    memset(c->y, 0xFF, sizeof(float) * OP_ROWS * OP_OUT);
    memset(c->pre, 0xFF, sizeof(float) * OP_ROWS * OP_OUT);
    c->be->linear_act_fwd(c->dev, y, TENSOR(c->pre, OP_ROWS, OP_OUT), x, weight,
                          TENSOR(c->bias, 1, OP_OUT), SMHF_ACT_GELU, c->pack, SMHF_AXIS_TOKENS);
    if (backward) {
        fill(c->dx, OP_ROWS * OP_IN, 1.0f);
        fill(c->dw, OP_OUT * OP_IN, 1.0f);
        fill(c->dbias, OP_OUT, 1.0f);
        c->be->linear_bwd_input(c->dev, TENSOR(c->dx, OP_ROWS, OP_IN), y, weight, 1, c->pack,
                                SMHF_AXIS_TOKENS);
        c->be->linear_bwd_weight(c->dev, TENSOR(c->dw, OP_OUT, OP_IN), TENSOR(c->dbias, 1, OP_OUT),
                                 y, x, c->pack, SMHF_AXIS_TOKENS, SMHF_DTYPE_BF16);
    }
}

static void check_level(ops_case *c) {
    smhf_error err = SMHF_ERROR_INIT;
    smhf_device_info info;
    c->be->describe(c->dev, &info);
    CHECK((info.caps & SMHF_CAP_BF16) != 0 && (info.caps & SMHF_CAP_I8) != 0);
    int levels = cpu_i8_kernels_of(&((cpu_device *)c->dev)->features)->levels;
    for (int kind = 0; kind < 2; kind++) {
        smhf_dtype compute = kind == 0 ? SMHF_DTYPE_BF16 : SMHF_DTYPE_I8;
        uint32_t uses = SMHF_WEIGHT_FORWARD | (kind == 0 ? SMHF_WEIGHT_BACKWARD : 0);
        smhf_weight_options options = {compute, uses};
        smhf_weight *weight = NULL;
        CHECK_OK(
            c->be->weight_prepare(c->dev, &weight, TENSOR(c->w, OP_OUT, OP_IN), &options, &err),
            &err);
        run_ops(c, weight, kind == 0);
        CHECK_OK(c->be->sync(c->dev, &err), &err);
        CHECK_INT(forward_wrong(c, compute, levels), 0);
        CHECK_INT(kind == 0 ? backward_wrong(c) : 0, 0);
        uint64_t allocations = smhf_mem_count();
        for (int i = 0; i < OP_OUT * OP_IN; i++) {
            c->w[i] = 0.5f * random_value();
        }
        c->be->weight_refresh(c->dev, weight);
        run_ops(c, weight, kind == 0);
        CHECK_OK(c->be->sync(c->dev, &err), &err);
        CHECK_INT(forward_wrong(c, compute, levels), 0);
        CHECK_INT(kind == 0 ? backward_wrong(c) : 0, 0);
        CHECK_INT(smhf_mem_count() - allocations, 0);
        c->be->weight_free(c->dev, weight);
    }
}

static void test_every_level(void) {
    static const char *const tiers[] = {"scalar",      "avx2",        "avx2-vnni", "avx512",
                                        "avx512-vnni", "avx512-bf16", "amx"};
    ops_case c = {.be = smhf_cpu_backend()};
    int32_t ids[OP_ROWS] = {0}, cu[] = {0, 1, 30, OP_ROWS};
    c.x = random_floats(OP_ROWS * OP_IN);
    c.w = random_floats(OP_OUT * OP_IN);
    c.bias = random_floats(OP_OUT);
    c.y = random_floats(OP_ROWS * OP_OUT);
    c.pre = random_floats(OP_ROWS * OP_OUT);
    c.dx = random_floats(OP_ROWS * OP_IN);
    c.dw = random_floats(OP_OUT * OP_IN);
    c.dbias = random_floats(OP_OUT);
    for (size_t t = 0; t < sizeof tiers / sizeof *tiers; t++) {
        smhf_error err = SMHF_ERROR_INIT;
        smhf_limits limits = {.tokens = 64, .rows = 4, .length = 64, .hidden = OP_IN, .heads = 2};
        limits.ffn = OP_IN;
        limits.training = 1;
        setenv("SMHF_CPU_TIER", tiers[t], 1);
        CHECK_OK(c.be->open(0, &c.dev, &err), &err);
        unsetenv("SMHF_CPU_TIER");
        CHECK_OK(c.be->reserve(c.dev, &limits, &err), &err);
        CHECK_OK(smhf_pack_new(c.dev, 64, 4, &c.pack, &err), &err);
        smhf_pack_input input = {.ids = ids, .cu_seqlens = cu, .rows = 3};
        CHECK_OK(smhf_pack_fill(c.pack, &input, &err), &err);
        check_level(&c);
        smhf_pack_free(c.pack);
        c.be->close(c.dev);
    }
    float *all[] = {c.x, c.w, c.bias, c.y, c.pre, c.dx, c.dw, c.dbias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        smhf_free(all[i]);
    }
}

/* ---- attention ------------------------------------------------------------------------------ */

enum { HEADS = 3, HEAD_SIZE = 20, WIDTH = HEADS * HEAD_SIZE, LONGEST = 100, TOKENS = 189 };

/* out [tokens, WIDTH] of one query, in double. Returns the largest score's magnitude. */
static double attention_reference(double *out, const float *qkv, int first, int length, int query,
                                  int head) {
    double scores[LONGEST], greatest = -1e30, sum = 0.0, size = 0.0;
    const float *q = qkv + (first + query) * 3 * WIDTH + head * HEAD_SIZE;
    for (int j = 0; j < length; j++) {
        const float *k = qkv + (first + j) * 3 * WIDTH + WIDTH + head * HEAD_SIZE;
        double products = 0.0;
        scores[j] = 0.0;
        for (int d = 0; d < HEAD_SIZE; d++) {
            scores[j] += 0.2 * (double)q[d] * (double)k[d];
            products += 0.2 * fabs((double)q[d] * (double)k[d]);
        }
        greatest = scores[j] > greatest ? scores[j] : greatest;
        size = products > size ? products : size;
    }
    memset(out, 0, HEAD_SIZE * sizeof *out);
    for (int j = 0; j < length; j++) {
        scores[j] = exp(scores[j] - greatest);
        sum += scores[j];
    }
    for (int j = 0; j < length; j++) {
        const float *v = qkv + (first + j) * 3 * WIDTH + 2 * WIDTH + head * HEAD_SIZE;
        for (int d = 0; d < HEAD_SIZE; d++) {
            out[d] += scores[j] / sum * (double)v[d];
        }
    }
    return size;
}

static void attend(smhf_device *dev, smhf_pack *pack, const int32_t *cu, int rows, float *qkv,
                   float *out, smhf_dtype compute) {
    static const int32_t ids[TOKENS];
    smhf_error err = SMHF_ERROR_INIT;
    smhf_pack_input input = {.ids = ids, .cu_seqlens = cu, .rows = rows};
    CHECK_OK(smhf_pack_fill(pack, &input, &err), &err);
    smhf_tensor all = TENSOR(qkv, cu[rows], 3 * WIDTH);
    memset(out, 0xFF, sizeof(float) * (size_t)cu[rows] * WIDTH);
    smhf_cpu_backend()->attention_fwd(
        dev, TENSOR(out, cu[rows], WIDTH), SMHF_TENSOR_NONE, smhf_tensor_cols(all, 0, WIDTH),
        smhf_tensor_cols(all, WIDTH, WIDTH), smhf_tensor_cols(all, 2 * WIDTH, WIDTH), pack,
        SMHF_AXIS_TOKENS, HEADS, 0.2f, compute, SMHF_DROPOUT_NONE);
    CHECK_OK(smhf_cpu_backend()->sync(dev, &err), &err);
}

/* q, k, v and the probabilities are off by 2^-9 of themselves each. */
static void test_attention(void) {
    static const int32_t cu[] = {0, 1, 4, 11, 24, 55, 88, TOKENS - 1, TOKENS};
    cpu_device *cpu = open_cpu();
    smhf_error err = SMHF_ERROR_INIT;
    smhf_pack *pack = NULL;
    CHECK_OK(smhf_pack_new(&cpu->base, TOKENS, 8, &pack, &err), &err);
    float *qkv = random_floats((size_t)TOKENS * 3 * WIDTH);
    float *out = smhf_malloc(sizeof(float) * TOKENS * WIDTH);
    float *again = smhf_malloc(sizeof(float) * TOKENS * WIDTH);
    attend(&cpu->base, pack, cu, 8, qkv, out, SMHF_DTYPE_BF16);
    int wrong = 0;
    for (int s = 0; s < 8; s++) {
        int length = cu[s + 1] - cu[s];
        for (int i = 0; i < length * HEADS; i++) {
            double want[HEAD_SIZE];
            int query = i / HEADS, head = i % HEADS;
            double size = attention_reference(want, qkv, cu[s], length, query, head);
            const float *got = out + (cu[s] + query) * WIDTH + head * HEAD_SIZE;
            for (int d = 0; d < HEAD_SIZE; d++) {
                double bound = 6.0 * (expm1(size / 128.0) + 1.0 / 128.0); /* 6: the largest v */
                wrong += !(fabs((double)got[d] - want[d]) <= bound);
            }
        }
        /* alone, the same bits */
        int32_t alone[] = {0, length};
        attend(&cpu->base, pack, alone, 1, qkv + cu[s] * 3 * WIDTH, again, SMHF_DTYPE_BF16);
        CHECK(memcmp(again, out + cu[s] * WIDTH, sizeof(float) * (size_t)length * WIDTH) == 0);
    }
    CHECK_INT(wrong, 0);
    attend(&cpu->base, pack, cu, 8, qkv, again, SMHF_DTYPE_F32);
    int same = memcmp(again, out, sizeof(float) * TOKENS * WIDTH) == 0;
    CHECK_INT(same, cpu_bf16_attention_kernels(&cpu->features) == NULL);
    smhf_free(again);
    smhf_free(out);
    smhf_free(qkv);
    smhf_pack_free(pack);
    close_cpu(cpu);
}

static void test_i8_weights_are_for_forward_products(void) {
    smhf_error err = SMHF_ERROR_INIT;
    cpu_device *cpu = open_cpu();
    float w[6] = {1, 2, 3, 4, 5, 6}, dy[2] = {1, 1}, dx[3] = {7, 7, 7};
    int32_t ids[1] = {0}, cu[] = {0, 1};
    smhf_weight_options options = {SMHF_DTYPE_I8, SMHF_WEIGHT_FORWARD | SMHF_WEIGHT_BACKWARD};
    smhf_weight *weight = NULL;
    smhf_pack *pack = NULL;
    const smhf_backend *be = smhf_cpu_backend();
    CHECK_OK(be->weight_prepare(&cpu->base, &weight, TENSOR(w, 2, 3), &options, &err), &err);
    CHECK_OK(smhf_pack_new(&cpu->base, 4, 4, &pack, &err), &err);
    smhf_pack_input input = {.ids = ids, .cu_seqlens = cu, .rows = 1};
    CHECK_OK(smhf_pack_fill(pack, &input, &err), &err);
    be->linear_bwd_input(&cpu->base, TENSOR(dx, 1, 3), TENSOR(dy, 1, 2), weight, 0, pack,
                         SMHF_AXIS_TOKENS);
    CHECK_INT(be->sync(&cpu->base, &err), SMHF_E_UNSUPPORTED);
    CHECK(strstr(err.message, "2 x 3") != NULL && strstr(err.message, "forward") != NULL);
    CHECK(dx[0] == 7.0f);
    be->weight_free(&cpu->base, weight);
    smhf_pack_free(pack);
    close_cpu(cpu);
}

int main(void) {
    RUN(test_i8_tiles_are_exact);
    RUN(test_i8_rows_are_quantized_alike);
    RUN(test_i8_products);
    RUN(test_i8_outliers_are_kept_apart);
    RUN(test_bf16_rounds_to_nearest_even);
    RUN(test_bf16_products);
    RUN(test_bf16_weight_gradient);
    RUN(test_rows_are_independent);
    RUN(test_levels_of_a_kind_agree);
    RUN(test_every_level);
    RUN(test_attention);
    RUN(test_i8_weights_are_for_forward_products);
    smhf_pool_shutdown();
    return smhf_test_finish();
}
