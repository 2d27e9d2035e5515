/* cpu_i8.c: products with int8 weights (one scale for each output) and int8 activations (one scale
 * for each row): panels, and the plain loops that every kernel must match bit for bit. */
#include "backend_cpu/cpu_lowp.h"
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
    const float *w;
    int64_t ld;
    int32_t n, k, lines;
} pack_task;

/* Output c of a panel: its scale, its sum, its bytes. */
static void pack_output(const pack_task *task, int32_t output, int8_t *panel, int c) {
    const float *w = task->w + output * task->ld;
    float greatest = 0.0f;
    int finite = 1;
    for (int32_t i = 0; i < task->k; i++) {
        float magnitude = fabsf(w[i]);
        greatest = magnitude > greatest ? magnitude : greatest;
        finite &= magnitude <= FLT_MAX;
    }
    int usable = finite && greatest > FLT_MIN * 256.0f;
    float inverse = usable ? 127.0f / greatest : 0.0f;
    task->scales[output] = usable ? greatest / 127.0f : finite ? 0.0f : NAN;
    int32_t total = 0;
    for (int32_t line = 0; line < task->lines; line++) {
        int8_t q[4] = {0};
        int32_t left = task->k - 4 * line < 4 ? task->k - 4 * line : 4;
        for (int32_t i = 0; usable && i < left; i++) {
            q[i] = (int8_t)(int32_t)rintf(w[4 * line + i] * inverse);
            total += q[i];
        }
        memcpy(panel + (size_t)line * CPU_LOWP_LINE + 4 * c, q, 4);
    }
    task->totals[output] = total;
}

static void pack_body(void *context, size_t begin, size_t end) {
    const pack_task *task = context;
    for (size_t p = begin; p < end; p++) {
        int8_t *panel = task->panels + p * (size_t)task->lines * CPU_LOWP_LINE;
        for (int c = 0; c < CPU_LOWP_COLS; c++) {
            int32_t output = (int32_t)p * CPU_LOWP_COLS + c;
            if (output < task->n) {
                pack_output(task, output, panel, c);
                continue;
            }
            for (int32_t line = 0; line < task->lines; line++) {
                memset(panel + (size_t)line * CPU_LOWP_LINE + 4 * c, 0, 4);
            }
            task->scales[output] = 0.0f;
            task->totals[output] = 0;
        }
    }
}

static int32_t i8_lines(int32_t k) {
    return cpu_lowp_round_up(k > 0 ? k : 1, 4 * CPU_LOWP_LINES) / 4;
}

size_t cpu_i8_panels_bytes(int32_t n, int32_t k) {
    size_t outputs = (size_t)cpu_lowp_round_up(n, CPU_LOWP_COLS);
    return outputs * (size_t)i8_lines(k) * 4 + outputs * (sizeof(float) + sizeof(int32_t));
}

void cpu_i8_pack(void *panels, const float *w, int64_t ld, int32_t n, int32_t k) {
    size_t outputs = (size_t)cpu_lowp_round_up(n, CPU_LOWP_COLS);
    pack_task task = {.panels = panels, .w = w, .ld = ld, .n = n, .k = k, .lines = i8_lines(k)};
    task.scales = (float *)((char *)panels + outputs * (size_t)task.lines * 4);
    task.totals = (int32_t *)(task.scales + outputs);
    smhf_parallel_for(outputs / CPU_LOWP_COLS, 1, pack_body, &task);
}

static void pack_weight(void *panels, const smhf_weight *weight, uint32_t use,
                        const cpu_features *features) {
    (void)use;
    (void)features;
    cpu_i8_pack(panels, weight->source.data, weight->source.ld, weight->source.rows,
                weight->source.cols);
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
    run.panels = cpu_weight_panels(cpu, product->weight, product->use,
                                   cpu_i8_panels_bytes(run.n, run.k), pack_weight);
    if (run.panels != NULL) {
        cpu_lowp_run(&run);
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

void cpu_i8_dequantize_plain(float *out, int64_t ld, const int32_t *sums, int rows,
                             const cpu_i8_row *info, const float *scales, const int32_t *totals) {
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < CPU_LOWP_COLS; c++) {
            int32_t exact = sums[r * CPU_LOWP_COLS + c] - info[r].zero * totals[c];
            out[r * ld + c] = (float)exact * (info[r].scale * scales[c]);
        }
    }
}

const cpu_i8_kernels cpu_i8_plain = {
    .name = "plain",
    .rows = 4,
    .levels = 255,
    .quantize = cpu_i8_quantize_plain,
    .tile = plain_tile,
    .dequantize = cpu_i8_dequantize_plain,
};
