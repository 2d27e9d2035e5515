/* cpu_bf16.c: products with bf16 operands and fp32 sums: panels, and the plain loops. */
#include "backend_cpu/cpu_lowp.h"
#include "common/pool.h"

/* ---- weights -------------------------------------------------------------------------------- */

typedef struct pack_task {
    uint16_t *panels;
    const float *w;
    int64_t ld;
    int32_t n, k, lines;
    void (*round)(void *a, const float *x, int32_t k, int32_t padded); /* to bf16 */
} pack_task;

#define PACK_INPUTS 256

/* Outputs are rows of w: a row is rounded, then its pairs are dealt out to the lines. */
static void pack_rows(const pack_task *task, int32_t first, uint16_t *panel) {
    uint32_t pairs[CPU_LOWP_COLS][PACK_INPUTS / 2 + 16]; /* rows in different cache sets */
    for (int32_t at = 0; at < task->lines * 2; at += PACK_INPUTS) {
        int32_t width = task->lines * 2 - at < PACK_INPUTS ? task->lines * 2 - at : PACK_INPUTS;
        int32_t real = task->k - at < width ? task->k - at : width;
        real = real > 0 ? real : 0;
        for (int32_t c = 0; c < CPU_LOWP_COLS; c++) {
            int present = first + c < task->n;
            const float *from = present ? task->w + (first + c) * task->ld + at : task->w;
            task->round(pairs[c], from, present ? real : 0, width);
        }
        for (int32_t p = 0; p < width / 2; p++) {
            uint32_t *line = (uint32_t *)(void *)panel + (at / 2 + p) * CPU_LOWP_COLS;
            for (int32_t c = 0; c < CPU_LOWP_COLS; c++) {
                line[c] = pairs[c][p];
            }
        }
    }
}

#define PACK_PANELS 8 /* read side by side, so that memory is read in long runs */

/* Outputs are columns of w: two rows make a line of each panel. */
static void pack_columns(const pack_task *task, int32_t panel, int32_t panels) {
    int32_t first = panel * CPU_LOWP_COLS;
    int32_t cols =
        task->n - first < panels * CPU_LOWP_COLS ? task->n - first : panels * CPU_LOWP_COLS;
    for (int32_t p = 0; p < task->lines; p++) {
        uint16_t row[2][PACK_PANELS * CPU_LOWP_COLS];
        for (int32_t i = 0; i < 2; i++) {
            int32_t input = 2 * p + i;
            const float *from = input < task->k ? task->w + input * task->ld + first : task->w;
            task->round(row[i], from, input < task->k ? cols : 0, panels * CPU_LOWP_COLS);
        }
        for (int32_t j = 0; j < panels; j++) {
            uint16_t *line =
                task->panels + ((int64_t)(panel + j) * task->lines + p) * 2 * CPU_LOWP_COLS;
            const uint16_t *even = row[0] + j * CPU_LOWP_COLS, *odd = row[1] + j * CPU_LOWP_COLS;
            for (int32_t c = 0; c < CPU_LOWP_COLS; c++) {
                line[2 * c] = even[c];
                line[2 * c + 1] = odd[c];
            }
        }
    }
}

static void rows_body(void *context, size_t begin, size_t end) {
    const pack_task *task = context;
    for (size_t p = begin; p < end; p++) {
        pack_rows(task, (int32_t)p * CPU_LOWP_COLS,
                  task->panels + p * (size_t)task->lines * CPU_LOWP_LINE / 2);
    }
}

static void columns_body(void *context, size_t begin, size_t end) {
    const pack_task *task = context;
    pack_columns(task, (int32_t)begin, (int32_t)(end - begin));
}

static int32_t bf16_lines(int32_t k) {
    return cpu_lowp_round_up(k > 0 ? k : 1, 2 * CPU_LOWP_LINES) / 2;
}

size_t cpu_bf16_panels_bytes(int32_t n, int32_t k) {
    return (size_t)cpu_lowp_round_up(n, CPU_LOWP_COLS) * (size_t)bf16_lines(k) * 4;
}

void cpu_bf16_pack(void *panels, const float *w, int64_t ld, int32_t n, int32_t k, int transposed,
                   const cpu_bf16_kernels *kernels) {
    pack_task task = {.panels = panels, .w = w, .ld = ld, .n = n, .k = k, .lines = bf16_lines(k)};
    task.round = kernels->pack;
    size_t count = (size_t)cpu_lowp_round_up(n, CPU_LOWP_COLS) / CPU_LOWP_COLS;
    if (transposed) {
        smhf_parallel_for(count, PACK_PANELS, columns_body, &task);
    } else {
        smhf_parallel_for(count, 1, rows_body, &task);
    }
}

static void pack_weight(void *panels, const smhf_weight *weight, uint32_t use,
                        const cpu_features *features) {
    smhf_tensor w = weight->source;
    const cpu_bf16_kernels *kernels = cpu_bf16_kernels_of(features);
    if (use == SMHF_WEIGHT_FORWARD) {
        cpu_bf16_pack(panels, w.data, w.ld, w.rows, w.cols, 0, kernels);
    } else {
        cpu_bf16_pack(panels, w.data, w.ld, w.cols, w.rows, 1, kernels);
    }
}

const void *cpu_bf16_panels(cpu_device *cpu, const smhf_weight *weight, uint32_t use) {
    const int32_t rows = weight->source.rows, cols = weight->source.cols;
    size_t bytes = use == SMHF_WEIGHT_FORWARD ? cpu_bf16_panels_bytes(rows, cols)
                                              : cpu_bf16_panels_bytes(cols, rows);
    return cpu_weight_panels(cpu, weight, use, bytes, pack_weight);
}

void cpu_bf16_linear(const cpu_product *product) {
    cpu_device *cpu = product->cpu;
    cpu_lowp_product run = {.cpu = cpu, .a = product->a, .lda = product->lda, .m = product->m};
    run.n = product->n;
    run.k = product->k;
    run.epilogue = &product->epilogue;
    run.bf16 = cpu_bf16_kernels_of(&cpu->features);
    run.panels = cpu_bf16_panels(cpu, product->weight, product->use);
    if (run.panels != NULL) {
        cpu_lowp_run(&run);
    }
}

/* ---- weight gradients ----------------------------------------------------------------------- */

/* dw += dy^T x in blocks of tokens: x in panels, the columns of dy as rows. */
void cpu_bf16_weight_gradient(cpu_device *cpu, smhf_tensor dw, smhf_tensor dy, smhf_tensor x,
                              int32_t rows) {
    cpu_epilogue epilogue = {.y = dw, .accumulate = 1};
    cpu_lowp_product run = {.cpu = cpu, .lda = dy.ld, .m = dy.cols, .n = x.cols, .transposed = 1};
    run.epilogue = &epilogue;
    run.bf16 = cpu_bf16_kernels_of(&cpu->features);
    for (int32_t first = 0; first < rows; first += CPU_LOWP_GRADIENT_ROWS) {
        run.k = rows - first < CPU_LOWP_GRADIENT_ROWS ? rows - first : CPU_LOWP_GRADIENT_ROWS;
        run.a = cpu_row(dy, first);
        run.b = cpu_row(x, first);
        run.ldb = x.ld;
        cpu_lowp_run(&run);
    }
}

/* ---- plain loops ---------------------------------------------------------------------------- */

void cpu_bf16_round_plain(void *a, const float *x, int32_t k, int32_t padded) {
    uint16_t *to = a;
    for (int32_t i = 0; i < k; i++) {
        to[i] = (uint16_t)cpu_bf16_bits(x[i]);
    }
    memset(to + k, 0, (size_t)(padded - k) * sizeof *to);
}

static float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void plain_tile(float *sums, int64_t ld, const void *a, int64_t lda, const uint16_t *panel,
                       int32_t lines, int rows) {
    for (int r = 0; r < rows; r++) {
        const uint16_t *x = (const uint16_t *)a + r * lda;
        float sum[CPU_LOWP_COLS] = {0};
        for (int32_t line = 0; line < lines; line++) {
            const uint16_t *w = panel + line * 2 * CPU_LOWP_COLS;
            float x0 = widen(x[2 * line]), x1 = widen(x[2 * line + 1]);
            for (int c = 0; c < CPU_LOWP_COLS; c++) {
                sum[c] += x0 * widen(w[2 * c]);
                sum[c] += x1 * widen(w[2 * c + 1]);
            }
        }
        memcpy(sums + r * ld, sum, sizeof sum);
    }
}

const cpu_bf16_kernels cpu_bf16_plain = {
    .name = "plain",
    .rows = 4,
    .pack = cpu_bf16_round_plain,
    .round = cpu_bf16_round_plain,
    .tile = plain_tile,
};
