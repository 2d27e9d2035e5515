/* cpu_i8_fine.c: int8 products under `refine`: both operands in two parts.
 *
 * A row is quantised, and what rounding took from it is quantised again: x = x1 + x2. A weight has
 * its panel and the panel of what rounding took from it: w = w1 + w2, w2 with 4 bits. Then
 * x w = x1 w1 + x2 w1 + x1 w2 but for x2 w2, which is as small as what is lost anyway. Three
 * products by the tiles that every tier has, each exact, added in that order: a row's result
 * depends on that row alone, here too. */
#include "backend_cpu/cpu_lowp.h"
#include "common/pool.h"

#define BLOCK_ROWS 256   /* quantised at a time */
#define ROWS_PADDED 32   /* tiles of `whole` kernels read that many */
#define TILE_ROWS_MAX 32 /* of any kernel */

typedef struct fine_task {
    const cpu_lowp_product *product;
    cpu_i8_run run;
    cpu_i8_matrix matrix;
    int32_t first, rows; /* this block */
    int64_t row_bytes;
    uint8_t *q[2]; /* [BLOCK_ROWS + ROWS_PADDED] of both parts */
    cpu_i8_row *info[2];
} fine_task;

static int32_t lines_for(int32_t k) {
    return cpu_lowp_round_up(k > 0 ? k : 1, 4 * CPU_LOWP_LINES) / 4;
}

/* Both parts of a row; x2 is made in `room`. */
static void split_row(const fine_task *task, int32_t r, float *room) {
    const cpu_lowp_product *p = task->product;
    const cpu_i8_kernels *i8 = p->i8;
    const int32_t k = p->k, padded = 4 * task->matrix.lines;
    const float *x = p->a + ((int64_t)task->first + r) * p->lda;
    uint8_t *q = task->q[0] + r * task->row_bytes;
    cpu_i8_row *info = &task->info[0][r];
    i8->quantize(q, info, x, k, padded, i8->levels);
    for (int32_t i = 0; i < k; i++) {
        room[i] = x[i] - info->scale * (float)(q[i] - info->zero);
    }
    i8->quantize(task->q[1] + r * task->row_bytes, &task->info[1][r], room, k, padded, i8->levels);
}

static void split_body(void *context, size_t begin, size_t end) {
    const fine_task *task = context;
    int slot = 0;
    float *room = cpu_slot_take(task->product->cpu, &slot);
    for (size_t r = begin; r < end; r++) {
        split_row(task, (int32_t)r, room);
    }
    cpu_slot_give(task->product->cpu, slot);
}

/* 4 bits with their sign to bytes. */
static void unpack_rest(int8_t *panel, const uint8_t *rest, int32_t lines) {
    const int32_t half = CPU_LOWP_LINE / 2;
    for (int32_t line = 0; line < lines; line++) {
        for (int32_t i = 0; i < half; i++) {
            panel[i] = (int8_t)(((rest[i] & 15) ^ 8) - 8);
            panel[i + half] = (int8_t)(((rest[i] >> 4) ^ 8) - 8);
        }
        panel += CPU_LOWP_LINE;
        rest += half;
    }
}

/* values (+)= one of the three products for rows [row, row + count) of the block. */
static void part_product(const fine_task *task, float *values, int part, const int8_t *panel,
                         const float *scales, const int32_t *totals, int32_t row, int count,
                         int add) {
    int32_t sums[TILE_ROWS_MAX * CPU_I8_COLS];
    float values_here[TILE_ROWS_MAX * CPU_I8_COLS];
    const cpu_i8_finish bare = {.rows = task->info[part] + row, .scales = scales, .totals = totals};
    task->run.i8->tile(sums, task->q[part] + row * task->row_bytes, task->row_bytes, panel,
                       task->matrix.lines, count);
    task->run.kernels->finish_i8(add ? values_here : values, CPU_I8_COLS, sums, count, &bare);
    for (int i = 0; add && i < count * CPU_I8_COLS; i++) {
        values[i] += values_here[i];
    }
}

/* All rows of the block times one panel. */
static void run_panel(const fine_task *task, int32_t at, int8_t *rest) {
    const cpu_lowp_product *p = task->product;
    const cpu_i8_matrix *m = &task->matrix;
    const int32_t col = at * CPU_I8_COLS;
    const int32_t cols = p->n - col < CPU_I8_COLS ? p->n - col : CPU_I8_COLS;
    const size_t bytes = (size_t)m->lines * CPU_LOWP_LINE;
    const int8_t *panel = m->panels + (size_t)at * bytes;
    const cpu_i8_outliers *list = cpu_i8_outliers_of(m->outliers, at, m->k);
    const cpu_i8_activations a = {task->q[0], task->row_bytes, task->info[0],
                                  p->a + (int64_t)task->first * p->lda, p->lda};
    float rest_scales[CPU_I8_COLS];
    for (int c = 0; c < CPU_I8_COLS; c++) {
        rest_scales[c] = m->scales[col + c] / CPU_I8_REST_STEPS;
    }
    unpack_rest(rest, m->rest + (size_t)at * (bytes / 2), m->lines);
    for (int32_t row = 0; row < task->rows; row += task->run.i8->rows) {
        const int32_t left = task->rows - row;
        const int count = left < task->run.i8->rows ? left : task->run.i8->rows;
        float values[TILE_ROWS_MAX * CPU_I8_COLS];
        part_product(task, values, 0, panel, m->scales + col, m->totals + col, row, count, 0);
        cpu_i8_add_outliers(values, CPU_I8_COLS, list, &a, row, count);
        part_product(task, values, 1, panel, m->scales + col, m->totals + col, row, count, 1);
        part_product(task, values, 0, rest, rest_scales, m->rest_totals + col, row, count, 1);
        task->run.kernels->finish(p->epilogue, values, CPU_I8_COLS, task->first + row, count, col,
                                  cols);
    }
}

static void panels_body(void *context, size_t begin, size_t end) {
    const fine_task *task = context;
    const cpu_i8_kernels *i8 = task->run.i8;
    int slot = 0;
    int8_t *rest = cpu_slot_take(task->product->cpu, &slot);
    if (i8->begin != NULL) {
        i8->begin();
    }
    for (size_t panel = begin; panel < end; panel++) {
        run_panel(task, (int32_t)panel, rest);
    }
    if (i8->end != NULL) {
        i8->end();
    }
    cpu_slot_give(task->product->cpu, slot);
}

size_t cpu_i8_fine_scratch(int32_t k) {
    return (size_t)lines_for(k) * CPU_LOWP_LINE; /* a panel; a row of fp32 is smaller */
}

size_t cpu_i8_fine_partials(int32_t rows, int32_t k) {
    rows = rows < BLOCK_ROWS ? rows : BLOCK_ROWS;
    const size_t one = (size_t)(rows + ROWS_PADDED) * cpu_lowp_row_bytes(lines_for(k), 0);
    return 2 * (one + (size_t)rows * sizeof(cpu_i8_row));
}

void cpu_i8_fine_run(const cpu_lowp_product *product) {
    const cpu_lowp_product *p = product;
    fine_task task = {.product = p, .run = {p->i8, p->cpu->kernels}};
    task.matrix = cpu_i8_matrix_of(p->panels, p->n, p->k);
    task.row_bytes = (int64_t)cpu_lowp_row_bytes(task.matrix.lines, 0);
    SMHF_ASSERT(p->i8->rows <= TILE_ROWS_MAX);
    char *scratch = cpu_partials_reserve(p->cpu, cpu_i8_fine_partials(p->m, p->k));
    if (scratch == NULL || !cpu_slots_reserve(p->cpu, cpu_i8_fine_scratch(p->k))) {
        return;
    }
    const int32_t block = p->m < BLOCK_ROWS ? p->m : BLOCK_ROWS;
    const size_t one = (size_t)(block + ROWS_PADDED) * (size_t)task.row_bytes;
    task.q[0] = (uint8_t *)scratch;
    task.q[1] = task.q[0] + one;
    task.info[0] = (cpu_i8_row *)(void *)(task.q[1] + one);
    task.info[1] = task.info[0] + block;
    for (task.first = 0; task.first < p->m; task.first += block) {
        task.rows = p->m - task.first < block ? p->m - task.first : block;
        smhf_parallel_for((size_t)task.rows, cpu_rows_chunk(p->k), split_body, &task);
        smhf_parallel_for((size_t)((p->n + CPU_I8_COLS - 1) / CPU_I8_COLS), 1, panels_body, &task);
    }
}
