/* cpu_i8.c: products with int8 weights (one scale for each output) and int8 activations (one scale
 * for each row): panels, and the plain loops that every kernel must match bit for bit. */
#include "backend_cpu/cpu_lowp.h"
#include "common/mem.h"
#include "common/pool.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Products of 255 x 127 are summed in int32. */
#define I8_LONGEST 65536

/* ---- weights -------------------------------------------------------------------------------- */

typedef struct pack_task {
    int8_t *panels;
    float *scales;
    int32_t *totals;
    char *outliers;
    uint8_t *rest; /* NULL: not kept */
    int32_t *rest_totals;
    const float *w;
    int64_t ld;
    int32_t n, k, lines;
} pack_task;

/* The largest magnitude as bits: for floats without sign the order is that of integers, and NaN
 * and infinity come last. */
static uint32_t greatest_bits(const float *w, int32_t k) {
    uint32_t greatest = 0;
    for (int32_t i = 0; i < k; i++) {
        uint32_t bits;
        memcpy(&bits, &w[i], sizeof bits);
        bits &= 0x7FFFFFFFu;
        greatest = bits > greatest ? bits : greatest;
    }
    return greatest;
}

/* Weights farther out than this many standard deviations are kept in fp32, apart: trained second
 * matrices of feed-forward layers have some at 38, and their output's scale would be that coarse.
 */
#define OUTLIER_SPREAD 6.0f

/* Magnitudes above this are outliers. */
static float outlier_limit(const float *w, int32_t k) {
    float sums[8] = {0}, total = 0.0f;
    int32_t i = 0;
    for (; i + 8 <= k; i += 8) {
        for (int32_t l = 0; l < 8; l++) {
            sums[l] += w[i + l] * w[i + l];
        }
    }
    for (; i < k; i++) {
        total += w[i] * w[i];
    }
    for (int32_t l = 0; l < 8; l++) {
        total += sums[l];
    }
    return OUTLIER_SPREAD * sqrtf(total / (float)k);
}

/* Lists an output's outliers, if all of them find room. Returns the greatest magnitude of the rest,
 * or of all. */
static float list_outliers(cpu_i8_outliers *list, int32_t room, const float *w, int32_t k,
                           int32_t output, float limit, float greatest) {
    int32_t before = list->count;
    float rest = 0.0f;
    for (int32_t i = 0; i < k; i++) {
        float magnitude = fabsf(w[i]);
        if (magnitude <= limit) {
            rest = magnitude > rest ? magnitude : rest;
        } else if (list->count == room) {
            list->count = before;
            return greatest;
        } else {
            list->entries[list->count++] = (cpu_i8_outlier){i, output, w[i]};
        }
    }
    return rest;
}

/* An output's scale; magnitudes above *limit are listed. Returns what the others are multiplied
 * by; 0: they all become 0. */
static float output_init(const pack_task *task, int32_t output, cpu_i8_outliers *list,
                         float *limit) {
    const float *w = task->w + output * task->ld;
    uint32_t bits = greatest_bits(w, task->k);
    float greatest;
    memcpy(&greatest, &bits, sizeof greatest);
    task->totals[output] = 0;
    *limit = FLT_MAX;
    if (!(greatest <= FLT_MAX)) {
        task->scales[output] = NAN;
        return 0.0f;
    }
    float border = outlier_limit(w, task->k);
    if (greatest > border) {
        float rest = list_outliers(list, cpu_i8_outliers_room(task->k), w, task->k,
                                   output % CPU_LOWP_COLS, border, greatest);
        *limit = rest < greatest ? border : FLT_MAX;
        greatest = rest;
    }
    int usable = greatest > FLT_MIN * 256.0f; /* 127 / greatest is finite */
    task->scales[output] = usable ? greatest / 127.0f : 0.0f;
    return usable ? 127.0f / greatest : 0.0f;
}

#define PACK_INPUTS 256

/* q = w * factor to nearest, ties to even, by adding 1.5 * 2^23; returns their sum. */
static int32_t quantize_weights(int8_t *q, const float *w, int32_t count, float factor) {
    const float magic = 12582912.0f;
    int32_t total = 0;
    for (int32_t i = 0; i < count; i++) {
        float shifted = w[i] * factor + magic;
        int32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        int32_t v = bits - 0x4B400000;
        q[i] = (int8_t)v;
        total += v;
    }
    return total;
}

/* 0 in place of outliers. */
static void drop_outliers(float *out, const float *w, int32_t count, float limit) {
    for (int32_t i = 0; i < count; i++) {
        out[i] = fabsf(w[i]) > limit ? 0.0f : w[i];
    }
}

/* What rounding took from the weights, in 15ths of a step, -8..7; returns their sum. */
static int32_t quantize_rest(int8_t *rest, const int8_t *q, const float *w, int32_t count,
                             float factor) {
    int32_t total = 0;
    for (int32_t i = 0; i < count; i++) {
        const float v = (w[i] * factor - (float)q[i]) * CPU_I8_REST_STEPS;
        int32_t r = (int32_t)(v + 8.5f) - 8; /* v >= -7.5, or a hair less */
        r = r > 7 ? 7 : r < -8 ? -8 : r;
        rest[i] = (int8_t)r;
        total += r;
    }
    return total;
}

/* A line of 128 values of 4 bits: the first 64 in the low halves of 64 bytes. */
static void pack_rest_line(uint8_t *to, const int8_t *line) {
    for (int i = 0; i < CPU_LOWP_LINE / 2; i++) {
        to[i] = (uint8_t)((line[i] & 15) | (line[i + CPU_LOWP_LINE / 2] & 15) << 4);
    }
}

/* Outputs [first, first + 32): blocks of inputs are quantised, then dealt out to the lines. */
static void pack_panel(const pack_task *task, int32_t first, int8_t *panel, uint8_t *rest) {
    int8_t block[CPU_LOWP_COLS][PACK_INPUTS], rests[CPU_LOWP_COLS][PACK_INPUTS];
    float factors[CPU_LOWP_COLS], limits[CPU_LOWP_COLS];
    cpu_i8_outliers *list = (cpu_i8_outliers *)cpu_i8_outliers_of(
        task->outliers, first / CPU_LOWP_COLS, task->k); /* ours: it is being written */
    list->count = 0;
    for (int32_t c = 0; c < CPU_LOWP_COLS; c++) {
        factors[c] = 0.0f;
        if (first + c < task->n) {
            factors[c] = output_init(task, first + c, list, &limits[c]);
        } else {
            task->scales[first + c] = 0.0f;
            task->totals[first + c] = 0;
        }
        if (rest != NULL) {
            task->rest_totals[first + c] = 0;
        }
    }
    memset(block, 0, sizeof block);
    memset(rests, 0, sizeof rests);
    for (int32_t at = 0; at < 4 * task->lines; at += PACK_INPUTS) {
        int32_t width = 4 * task->lines - at < PACK_INPUTS ? 4 * task->lines - at : PACK_INPUTS;
        int32_t real = task->k - at < width ? task->k - at : width;
        real = real > 0 ? real : 0;
        for (int32_t c = 0; c < CPU_LOWP_COLS; c++) {
            if (factors[c] != 0.0f) {
                const float *from = task->w + (first + c) * task->ld + at;
                float inner[PACK_INPUTS];
                if (limits[c] < FLT_MAX) {
                    drop_outliers(inner, from, real, limits[c]);
                    from = inner;
                }
                task->totals[first + c] += quantize_weights(block[c], from, real, factors[c]);
                memset(block[c] + real, 0, (size_t)(width - real));
                if (rest != NULL) {
                    task->rest_totals[first + c] +=
                        quantize_rest(rests[c], block[c], from, real, factors[c]);
                    memset(rests[c] + real, 0, (size_t)(width - real));
                }
            }
        }
        for (int32_t i = 0; i < width; i += 4) {
            int8_t *line = panel + (size_t)((at + i) / 4) * CPU_LOWP_LINE;
            for (int32_t c = 0; c < CPU_LOWP_COLS; c++) {
                memcpy(line + 4 * c, block[c] + i, 4);
            }
            if (rest != NULL) {
                int8_t dealt[CPU_LOWP_LINE];
                for (int32_t c = 0; c < CPU_LOWP_COLS; c++) {
                    memcpy(dealt + 4 * c, rests[c] + i, 4);
                }
                pack_rest_line(rest + (size_t)((at + i) / 4) * (CPU_LOWP_LINE / 2), dealt);
            }
        }
    }
}

static void pack_body(void *context, size_t begin, size_t end) {
    const pack_task *task = context;
    for (size_t p = begin; p < end; p++) {
        const size_t bytes = (size_t)task->lines * CPU_LOWP_LINE;
        pack_panel(task, (int32_t)p * CPU_LOWP_COLS, task->panels + p * bytes,
                   task->rest != NULL ? task->rest + p * (bytes / 2) : NULL);
    }
}

static int32_t i8_lines(int32_t k) {
    return cpu_lowp_round_up(k > 0 ? k : 1, 4 * CPU_LOWP_LINES) / 4;
}

size_t cpu_i8_panels_bytes(int32_t n, int32_t k) {
    size_t outputs = (size_t)cpu_lowp_round_up(n, CPU_LOWP_COLS);
    return outputs * (size_t)i8_lines(k) * 4 + outputs * (sizeof(float) + sizeof(int32_t)) +
           outputs / CPU_LOWP_COLS * cpu_i8_outliers_bytes(k);
}

/* The rests lie behind everything else. */
static size_t rest_offset(int32_t n, int32_t k) {
    return (cpu_i8_panels_bytes(n, k) + SMHF_CACHE_LINE - 1) / SMHF_CACHE_LINE * SMHF_CACHE_LINE;
}

size_t cpu_i8_fine_bytes(int32_t n, int32_t k) {
    const size_t outputs = (size_t)cpu_lowp_round_up(n, CPU_LOWP_COLS);
    return rest_offset(n, k) + outputs * (size_t)i8_lines(k) * 2 + outputs * sizeof(int32_t);
}

void cpu_i8_pack(void *panels, const float *w, int64_t ld, int32_t n, int32_t k, int fine) {
    size_t outputs = (size_t)cpu_lowp_round_up(n, CPU_LOWP_COLS);
    pack_task task = {.panels = panels, .w = w, .ld = ld, .n = n, .k = k, .lines = i8_lines(k)};
    task.scales = (float *)((char *)panels + outputs * (size_t)task.lines * 4);
    task.totals = (int32_t *)(task.scales + outputs);
    task.outliers = (char *)(task.totals + outputs);
    if (fine) {
        task.rest = (uint8_t *)panels + rest_offset(n, k);
        task.rest_totals = (int32_t *)(void *)(task.rest + outputs * (size_t)task.lines * 2);
    }
    smhf_parallel_for(outputs / CPU_LOWP_COLS, 1, pack_body, &task);
}

static void pack_weight(void *panels, const smhf_weight *weight, uint32_t use,
                        const cpu_features *features) {
    (void)use;
    (void)features;
    cpu_i8_pack(panels, weight->source.data, weight->source.ld, weight->source.rows,
                weight->source.cols, (weight->uses & SMHF_WEIGHT_REST) != 0);
}

const void *cpu_i8_panels(cpu_device *cpu, const smhf_weight *weight) {
    const int32_t n = weight->source.rows, k = weight->source.cols;
    const size_t bytes = (weight->uses & SMHF_WEIGHT_REST) != 0 ? cpu_i8_fine_bytes(n, k)
                                                                : cpu_i8_panels_bytes(n, k);
    return cpu_weight_panels(cpu, weight, SMHF_WEIGHT_FORWARD, bytes, pack_weight);
}

void cpu_i8_linear(const cpu_product *product) {
    cpu_device *cpu = product->cpu;
    if (product->use != SMHF_WEIGHT_FORWARD || product->k > I8_LONGEST) {
        smhf_device_fail(&cpu->base, SMHF_E_UNSUPPORTED,
                         "int8 product with a weight of %d x %d: int8 weights are for forward "
                         "products with at most %d inputs; use precision=\"fp32\"",
                         (int)product->weight->source.rows, (int)product->weight->source.cols,
                         I8_LONGEST);
        return;
    }
    cpu_lowp_product run = {.cpu = cpu, .a = product->a, .lda = product->lda, .m = product->m};
    run.n = product->n;
    run.k = product->k;
    run.epilogue = &product->epilogue;
    run.i8 = cpu_i8_kernels_of(&cpu->features);
    run.panels = cpu_i8_panels(cpu, product->weight);
    if (run.panels != NULL && cpu->refined && (product->weight->uses & SMHF_WEIGHT_REST) != 0) {
        cpu_i8_fine_run(&run);
    } else if (run.panels != NULL) {
        cpu_lowp_run(&run);
    }
}

/* ---- a panel times rows --------------------------------------------------------------------- */

cpu_i8_matrix cpu_i8_matrix_of(const void *panels, int32_t n, int32_t k) {
    const int32_t outputs = cpu_lowp_round_up(n, CPU_I8_COLS), lines = i8_lines(k);
    cpu_i8_matrix m = {.panels = panels, .n = n, .k = k, .lines = lines};
    m.scales = (const float *)(const void *)(m.panels + (size_t)outputs * (size_t)lines * 4);
    m.totals = (const int32_t *)(const void *)(m.scales + outputs);
    m.outliers = (const char *)(m.totals + outputs);
    m.rest = (const uint8_t *)panels + rest_offset(n, k);
    m.rest_totals = (const int32_t *)(const void *)(m.rest + (size_t)outputs * (size_t)lines * 2);
    return m;
}

void cpu_i8_add_outliers(float *out, int64_t ld, const cpu_i8_outliers *list,
                         const cpu_i8_activations *a, int32_t first, int rows) {
    for (int r = 0; r < rows; r++) {
        const float *x = a->x + (int64_t)(first + r) * a->ldx;
        float *to = out + r * ld;
        for (int32_t i = 0; i < list->count; i++) {
            const cpu_i8_outlier *o = &list->entries[i];
            to[o->output] += x[o->input] * o->weight;
        }
    }
}

void cpu_i8_panel_run(const cpu_i8_run *run, const cpu_i8_matrix *m, int32_t panel,
                      const cpu_i8_activations *a, int32_t first, int32_t rows, float *out,
                      int64_t ld, cpu_i8_finish finish) {
    const cpu_i8_kernels *i8 = run->i8;
    const int8_t *weights = m->panels + (size_t)panel * (size_t)m->lines * CPU_LOWP_LINE;
    const cpu_i8_outliers *list = cpu_i8_outliers_of(m->outliers, panel, m->k);
    const float *residual = finish.residual;
    /* tiles of one height, or nearly: a last one of few rows would run slowly */
    const int32_t parts = (rows + i8->rows - 1) / i8->rows;
    const int32_t part = i8->whole ? i8->rows : (rows + parts - 1) / parts;
    const int8_t *next =
        (panel + 1) * CPU_I8_COLS < m->n ? weights + (size_t)m->lines * CPU_LOWP_LINE : NULL;
    finish.scales = m->scales + panel * CPU_I8_COLS;
    finish.totals = m->totals + panel * CPU_I8_COLS;
    for (int32_t r = 0; r < rows; r += part) {
        const int count = rows - r < part ? rows - r : part;
        int32_t sums[32 * CPU_I8_COLS];
        float *to = out + r * ld;
        for (int i = 0; i < count; i++) { /* written after the tile: the lines come meanwhile */
            __builtin_prefetch(to + i * ld, 1);
            __builtin_prefetch(to + i * ld + 16, 1);
            if (residual != NULL && residual != out) {
                __builtin_prefetch(residual + (r + i) * finish.residual_ld);
                __builtin_prefetch(residual + (r + i) * finish.residual_ld + 16);
            }
        }
        cpu_i8_tile(i8, sums, a->q + (int64_t)(first + r) * a->row_bytes, a->row_bytes, weights,
                    m->lines, count, next, r / part, parts);
        finish.rows = a->rows + first + r;
        finish.residual = residual != NULL ? residual + r * finish.residual_ld : NULL;
        if (list->count == 0) {
            run->kernels->finish_i8(to, ld, sums, count, &finish);
            continue;
        }
        const cpu_i8_finish bare = {
            .rows = finish.rows, .scales = finish.scales, .totals = finish.totals};
        float values[32 * CPU_I8_COLS];
        run->kernels->finish_i8(values, CPU_I8_COLS, sums, count, &bare);
        cpu_i8_add_outliers(values, CPU_I8_COLS, list, a, first + r, count);
        run->kernels->finish_i8(values, CPU_I8_COLS, NULL, count, &finish);
        for (int i = 0; i < count; i++) {
            memcpy(to + i * ld, values + i * CPU_I8_COLS, CPU_I8_COLS * sizeof *values);
        }
    }
}

/* ---- plain loops ---------------------------------------------------------------------------- */

void cpu_i8_quantize_plain(uint8_t *q, cpu_i8_row *row, const float *x, int32_t k, int32_t padded,
                           int levels) {
    float least = 0.0f, greatest = 0.0f;
    int finite = 1;
    for (int32_t i = 0; i < k; i++) {
        least = x[i] < least ? x[i] : least;
        greatest = x[i] > greatest ? x[i] : greatest;
        finite &= fabsf(x[i]) <= FLT_MAX;
    }
    float inverse = cpu_i8_row_init(row, least, greatest, finite, levels);
    if (inverse == 0.0f) {
        memset(q, 0, (size_t)padded);
        return;
    }
    for (int32_t i = 0; i < k; i++) {
        int32_t v = (int32_t)rintf(x[i] * inverse) + row->zero;
        q[i] = (uint8_t)(v < 0 ? 0 : v > levels ? levels : v);
    }
    memset(q + k, 0, (size_t)(padded - k));
}

static void plain_tile(int32_t *sums, const uint8_t *a, int64_t lda, const int8_t *panel,
                       int32_t lines, int rows) {
    for (int r = 0; r < rows; r++) {
        int32_t *sum = sums + r * CPU_LOWP_COLS;
        memset(sum, 0, CPU_LOWP_COLS * sizeof *sum);
        for (int32_t line = 0; line < lines; line++) {
            const uint8_t *x = a + r * lda + 4 * line;
            const int8_t *w = panel + (size_t)line * CPU_LOWP_LINE;
            for (int c = 0; c < CPU_LOWP_COLS; c++) {
                sum[c] += x[0] * w[4 * c] + x[1] * w[4 * c + 1] + x[2] * w[4 * c + 2] +
                          x[3] * w[4 * c + 3];
            }
        }
    }
}

const cpu_i8_kernels cpu_i8_plain = {
    .name = "plain",
    .rows = 4,
    .levels = 255,
    .quantize = cpu_i8_quantize_plain,
    .tile = plain_tile,
};
