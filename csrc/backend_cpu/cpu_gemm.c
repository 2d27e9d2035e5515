/* cpu_gemm.c: the linear layers. A product is cut into tiles by its shape alone; each tile is one
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

    /* epilogue */
    int epilogue; /* 0 none, 1 bias and activation, 2 activation's slope */
    smhf_tensor y, pre, saved;
    const float *bias;
    smhf_act act;
    int through_scratch; /* the product must not be written to c directly */
} linear_task;

enum { EPILOGUE_NONE, EPILOGUE_BIAS_ACT, EPILOGUE_ACT_BWD };

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

static void finish_tile(const linear_task *task, const float *tile, int64_t ld, int32_t row,
                        int32_t rows, int32_t col, int32_t cols) {
    const cpu_kernels *kernels = task->cpu->kernels;
    for (int32_t r = 0; r < rows; r++) {
        const float *src = tile + (int64_t)r * ld;
        float *y = cpu_row(task->y, row + r) + col;
        if (task->epilogue == EPILOGUE_BIAS_ACT) {
            float *pre = task->pre.data != NULL ? cpu_row(task->pre, row + r) + col : NULL;
            const float *bias = task->bias != NULL ? task->bias + col : NULL;
            kernels->bias_act(y, pre, src, bias, cols, (int)task->act);
        } else {
            kernels->act_bwd(y, src, cpu_row(task->saved, row + r) + col, cols, (int)task->act);
        }
    }
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
        if (task->epilogue != EPILOGUE_NONE) {
            finish_tile(task, c, ldc, row, rows, col, cols);
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
    if (task->epilogue != EPILOGUE_NONE) {
        finish_tile(task, task->c.data, task->c.ld, 0, task->m, 0, task->n);
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

void cpu_linear_act_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor pre, smhf_tensor x,
                        const smhf_weight *w, smhf_tensor bias, smhf_act act, const smhf_pack *pack,
                        smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "linear_act_fwd", y, pre, x, bias)) {
        return;
    }
    SMHF_ASSERT(x.cols == w->source.cols && y.cols == w->source.rows);
    linear_task task = {.cpu = cpu, .tb = 1, .k = w->source.cols, .a = x.data, .lda = x.ld};
    task.b = w->source.data;
    task.ldb = w->source.ld;
    task.m = smhf_pack_count(pack, axis);
    task.n = w->source.rows;
    task.c = pre.data != NULL ? pre : y;
    task.y = y;
    task.pre = pre;
    task.bias = bias.data;
    task.act = act;
    task.epilogue = bias.data != NULL || act != SMHF_ACT_NONE || pre.data != NULL
                        ? EPILOGUE_BIAS_ACT
                        : EPILOGUE_NONE;
    run_linear(&task);
}

void cpu_linear_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_weight *w,
                    smhf_tensor bias, const smhf_pack *pack, smhf_axis axis) {
    cpu_linear_act_fwd(dev, y, SMHF_TENSOR_NONE, x, w, bias, SMHF_ACT_NONE, pack, axis);
}

void cpu_linear_bwd_input(smhf_device *dev, smhf_tensor dx, smhf_tensor dy, const smhf_weight *w,
                          int accumulate, const smhf_pack *pack, smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "linear_bwd_input", dx, dy)) {
        return;
    }
    SMHF_ASSERT(dy.cols == w->source.rows && dx.cols == w->source.cols);
    linear_task task = {.cpu = cpu, .k = w->source.rows, .a = dy.data, .lda = dy.ld, .c = dx};
    task.b = w->source.data;
    task.ldb = w->source.ld;
    task.m = smhf_pack_count(pack, axis);
    task.n = w->source.cols;
    task.beta = accumulate ? 1.0f : 0.0f;
    run_linear(&task);
}

void cpu_linear_act_bwd_input(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy,
                              const smhf_weight *w, smhf_tensor saved, smhf_act act,
                              const smhf_pack *pack, smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "linear_act_bwd_input", dpre, dy, saved)) {
        return;
    }
    SMHF_ASSERT(dy.cols == w->source.rows && dpre.cols == w->source.cols);
    linear_task task = {.cpu = cpu, .k = w->source.rows, .a = dy.data, .lda = dy.ld, .c = dpre};
    task.b = w->source.data;
    task.ldb = w->source.ld;
    task.m = smhf_pack_count(pack, axis);
    task.n = w->source.cols;
    task.y = dpre;
    task.saved = saved;
    task.act = act;
    task.epilogue = EPILOGUE_ACT_BWD;
    task.through_scratch = dpre.data == saved.data;
    run_linear(&task);
}

/* ---- column sums ---------------------------------------------------------------------------- */

typedef struct colsum_task {
    const cpu_kernels *kernels;
    float *out;
    smhf_tensor dy;
    int32_t rows;
} colsum_task;

#define COLSUM_COLS 128
#define COLSUM_ROWS 64

/* Each chunk of columns runs down all rows, in blocks, so that no partial sum grows long. */
static void colsum_body(void *context, size_t begin, size_t end) {
    const colsum_task *task = context;
    int cols = (int)(end - begin);
    for (int32_t row = 0; row < task->rows; row += COLSUM_ROWS) {
        float block[COLSUM_COLS] = {0};
        int32_t stop = row + COLSUM_ROWS < task->rows ? row + COLSUM_ROWS : task->rows;
        for (int32_t r = row; r < stop; r++) {
            task->kernels->axpy(block, cpu_row(task->dy, r) + begin, 1.0f, (size_t)cols);
        }
        task->kernels->axpy(task->out + begin, block, 1.0f, (size_t)cols);
    }
}

void cpu_linear_bwd_weight(smhf_device *dev, smhf_tensor dw, smhf_tensor dbias, smhf_tensor dy,
                           smhf_tensor x, const smhf_pack *pack, smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "linear_bwd_weight", dw, dbias, dy, x)) {
        return;
    }
    SMHF_ASSERT(dw.rows == dy.cols && dw.cols == x.cols);
    int32_t rows = smhf_pack_count(pack, axis);
    linear_task task = {.cpu = cpu, .ta = 1, .k = rows, .a = dy.data, .lda = dy.ld, .c = dw};
    task.b = x.data;
    task.ldb = x.ld;
    task.m = rows > 0 ? dy.cols : 0;
    task.n = x.cols;
    task.beta = 1.0f;
    run_linear(&task);
    if (dbias.data != NULL && rows > 0) {
        colsum_task sums = {cpu->kernels, dbias.data, dy, rows};
        smhf_parallel_for((size_t)dy.cols, COLSUM_COLS, colsum_body, &sums);
    }
}
