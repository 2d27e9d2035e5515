/* cpu_gemm.c: fp32 products by BLAS or plain C: cut into tiles by shape alone; each tile is one
 * single-threaded product plus its epilogue, done while the tile is in cache. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#define TILE_ROWS 256
#define TILE_COLS 768
#define TILES_WANTED 12 /* enough for a handful of threads to end together */
#define TILE_COLS_LEAST 128

typedef struct linear_task {
    cpu_device *cpu;
    int ta, tb, k;
    const float *a, *b;
    int64_t lda, ldb;
    float beta;
    smhf_tensor c;
    int32_t m, n;
    int32_t tile_rows, tile_cols, tiles_across;

    const cpu_epilogue *epilogue; /* NULL: c is the result */
    int through_scratch;          /* the product must not be written to c directly */
} linear_task;

static int32_t split(int32_t total, int32_t parts, int32_t multiple) {
    int32_t size = (total + parts - 1) / parts;
    return (size + multiple - 1) / multiple * multiple;
}

/* Tiles of at most TILE_ROWS x TILE_COLS; narrower ones while there are few. */
static void choose_tiles(linear_task *task) {
    int32_t down = (task->m + TILE_ROWS - 1) / TILE_ROWS;
    int32_t across = (task->n + TILE_COLS - 1) / TILE_COLS;
    while (down * across < TILES_WANTED && task->n / (across + 1) >= TILE_COLS_LEAST) {
        across++;
    }
    task->tile_rows = split(task->m, down, 4);
    task->tile_cols = split(task->n, across, 16);
    task->tiles_across = (task->n + task->tile_cols - 1) / task->tile_cols;
}

static void linear_body(void *context, size_t begin, size_t end) {
    linear_task *task = context;
    cpu_device *cpu = task->cpu;
    int slot = 0;
    char *scratch = cpu_slot_take(cpu, &slot);
    for (size_t tile = begin; tile < end; tile++) {
        int32_t row = (int32_t)(tile / (size_t)task->tiles_across) * task->tile_rows;
        int32_t col = (int32_t)(tile % (size_t)task->tiles_across) * task->tile_cols;
        int32_t rows = task->m - row < task->tile_rows ? task->m - row : task->tile_rows;
        int32_t cols = task->n - col < task->tile_cols ? task->n - col : task->tile_cols;
        if (rows <= 0 || cols <= 0) {
            continue;
        }
        float *c = cpu_row(task->c, row) + col;
        int64_t ldc = task->c.ld;
        if (task->through_scratch) {
            c = (float *)(scratch + cpu->tiles.scratch_bytes);
            ldc = task->tile_cols;
        }
        const float *a = task->a + (task->ta ? (int64_t)row : (int64_t)row * task->lda);
        const float *b = task->b + (task->tb ? (int64_t)col * task->ldb : (int64_t)col);
        cpu_matmul_run(&cpu->tiles, scratch, task->ta, task->tb, rows, cols, task->k, a, task->lda,
                       b, task->ldb, task->beta, c, ldc);
        if (task->epilogue != NULL) {
            cpu->kernels->finish(task->epilogue, c, ldc, row, rows, col, cols);
        }
    }
    cpu_slot_give(cpu, slot);
}

/* A BLAS that others share runs whole products with its own threads; the epilogue is ours. */
static void run_whole(linear_task *task) {
    int slot = 0;
    void *scratch = cpu_slot_take(task->cpu, &slot);
    cpu_matmul_run(&task->cpu->matmul, scratch, task->ta, task->tb, task->m, task->n, task->k,
                   task->a, task->lda, task->b, task->ldb, task->beta, task->c.data, task->c.ld);
    cpu_slot_give(task->cpu, slot);
    if (task->epilogue != NULL) {
        task->cpu->kernels->finish(task->epilogue, task->c.data, task->c.ld, 0, task->m, 0,
                                   task->n);
    }
}

size_t cpu_linear_scratch(const cpu_matmul *matmul) {
    return matmul->scratch_bytes + (size_t)TILE_ROWS * TILE_COLS * sizeof(float);
}

static void run_linear(linear_task *task) {
    if (task->m <= 0 || task->n <= 0) {
        return;
    }
    const cpu_matmul *matmul = cpu_matmul_of(task->cpu);
    size_t plain = task->cpu->tiles.scratch_bytes;
    size_t scratch = task->through_scratch ? cpu_linear_scratch(&task->cpu->tiles) : plain;
    if (!cpu_slots_reserve(task->cpu, scratch)) {
        return;
    }
    choose_tiles(task);
    if (!matmul->side_by_side && !task->through_scratch) {
        run_whole(task);
        return;
    }
    int32_t down = (task->m + task->tile_rows - 1) / task->tile_rows;
    smhf_parallel_for((size_t)down * (size_t)task->tiles_across, 1, linear_body, task);
}

void cpu_blas_linear(const cpu_product *product) {
    const cpu_epilogue *e = &product->epilogue;
    const smhf_tensor source = product->weight->source;
    linear_task task = {.cpu = product->cpu, .tb = product->use == SMHF_WEIGHT_FORWARD};
    task.k = product->k;
    task.a = product->a;
    task.lda = product->lda;
    task.b = source.data;
    task.ldb = source.ld;
    task.m = product->m;
    task.n = product->n;
    task.c = e->pre.data != NULL ? e->pre : e->y;
    task.beta = e->accumulate ? 1.0f : 0.0f;
    task.through_scratch = e->slope && e->y.data == e->saved.data;
    int nothing = e->bias == NULL && e->act == SMHF_ACT_NONE && e->pre.data == NULL && !e->slope;
    task.epilogue = nothing || e->accumulate ? NULL : e;
    run_linear(&task);
}

void cpu_blas_weight_gradient(cpu_device *cpu, smhf_tensor dw, smhf_tensor dy, smhf_tensor x,
                              int32_t rows) {
    linear_task task = {.cpu = cpu, .ta = 1, .k = rows, .a = dy.data, .lda = dy.ld, .c = dw};
    task.b = x.data;
    task.ldb = x.ld;
    task.m = dy.cols;
    task.n = x.cols;
    task.beta = 1.0f;
    run_linear(&task);
}
