/* cpu_f32.c: fp32 products with the kernels of cpu_kernels_matrix.h.
 *
 * The output is cut into tasks: a block of rows times a strip of panels. Within a task a panel
 * stays in the second cache while all rows of the block pass by. K is cut into blocks by K alone,
 * and each sum is one chain over a block, so a row's bits do not depend on the batch around it nor
 * on how tasks were cut: tasks may follow the number of threads.
 *
 * Inference packs a weight once. A weight that is also trained changes at every step: its panels
 * are made inside each task, into the second cache, and cost neither memory nor a pass of their
 * own; only when one generation is used again and again (an evaluation) they are kept. Backward
 * reads W itself, which is k-major already: a panel is a copy of its columns. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#include <string.h>

#define BLOCK_K 768
#define BLOCK_ROWS 516        /* with panels at hand; a multiple of every tier's tile_rows */
#define BLOCK_ROWS_FRESH 1032 /* when each task makes its panels */
#define A_GAP 16              /* floats between copied rows: keeps them out of one cache set */
#define TASKS_MOST 8          /* for each thread */
#define PANELS_AT_ONCE 4      /* 384 KiB in the second cache */
#define KEEP_AFTER 4          /* forward products of one generation before panels are kept */

typedef struct f32_task {
    cpu_product p;
    smhf_tensor c;       /* where sums grow: pre or y */
    const float *panels; /* of the whole weight; NULL: each task makes its own */
    int32_t block_k;     /* depends on k only */
    int32_t block_rows, strip, strips, panel_count;
    int copy_a;          /* rows of A lie a multiple of 2 KiB apart: they would share a cache set */
    cpu_epilogue rest;   /* the epilogue but for bias and pre */
    int finish;          /* it has something to do */
    smhf_tensor fetched; /* what the epilogue touches besides c */
    int through;         /* sums must not touch y before the epilogue: it reads `saved` there */
    size_t panel_at, edge_at; /* floats from the start of a slot's scratch */
} f32_task;

static int32_t ceil_div(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

static int32_t round_up(int32_t a, int32_t multiple) {
    return ceil_div(a, multiple) * multiple;
}

static int32_t least(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static int32_t block_k_of(int32_t k) {
    return k <= BLOCK_K ? k : round_up(ceil_div(k, ceil_div(k, BLOCK_K)), 16);
}

/* ---- y = x W^T, dx = dy W ------------------------------------------------------------------- */

/* One panel's columns [k0, k0 + depth) of the weight. */
static void make_panel(const f32_task *task, float *panel, int32_t col, int32_t k0, int32_t depth) {
    const cpu_kernels *kernels = task->p.cpu->kernels;
    const smhf_tensor w = task->p.weight->source;
    int32_t cols = least(task->p.n - col, kernels->panel);
    if (task->p.use == SMHF_WEIGHT_FORWARD) {
        kernels->pack_columns(panel, cpu_row(w, col) + k0, w.ld, cols, depth);
    } else {
        kernels->pack_rows(panel, cpu_row(w, k0) + col, w.ld, cols, depth);
    }
}

/* Sums of one tile over one block of k, and behind the last block the epilogue. */
static void run_tile(const f32_task *task, const float *a, int64_t lda, const float *b, float *edge,
                     int32_t row, int32_t rows, int32_t col, int32_t k0, int32_t depth) {
    const cpu_kernels *kernels = task->p.cpu->kernels;
    const cpu_epilogue *e = &task->p.epilogue;
    int32_t cols = least(task->p.n - col, kernels->panel);
    float *c = cpu_row(task->c, row) + col;
    int add = k0 > 0 || e->accumulate, last = k0 + depth == task->p.k;
    if (last && task->fetched.data != NULL) { /* while the sums are made */
        for (int32_t r = 0; r < rows; r++) {
            const float *line = cpu_row(task->fetched, row + r) + col;
            __builtin_prefetch(line, 1);
            __builtin_prefetch(line + cols - 1, 1);
        }
    }
    if (cols == kernels->panel && !task->through) {
        /* the bias is where the sums start */
        const float *start = e->bias != NULL && k0 == 0 ? e->bias + col : NULL;
        kernels->gemm_tile(c, task->c.ld, a, lda, 1, b, depth, rows, start, add);
        if (last && task->finish) {
            kernels->finish(&task->rest, c, task->c.ld, row, rows, col, cols);
        }
        return;
    }
    kernels->gemm_tile(edge, kernels->panel, a, lda, 1, b, depth, rows, NULL, 0);
    if (k0 == 0 && last) {
        kernels->finish(e, edge, kernels->panel, row, rows, col, cols);
        return;
    }
    for (int32_t r = 0; r < rows; r++) {
        for (int32_t i = 0; i < cols; i++) {
            float before = add ? c[r * task->c.ld + i] : 0.0f;
            c[r * task->c.ld + i] = edge[r * kernels->panel + i] + before;
        }
    }
    if (last && !e->accumulate) {
        kernels->finish(e, c, task->c.ld, row, rows, col, cols);
    }
}

static void run_task(const f32_task *task, float *scratch, int32_t row, int32_t first_panel) {
    const cpu_product *p = &task->p;
    const cpu_kernels *kernels = p->cpu->kernels;
    const int32_t width = kernels->panel, height = kernels->tile_rows;
    int32_t rows = least(p->m - row, task->block_rows);
    int32_t even = ceil_div(rows, ceil_div(rows, height)); /* 13 rows: 7 and 6, not 12 and 1 */
    int32_t last_panel = least(task->panel_count, first_panel + task->strip);
    for (int32_t k0 = 0; k0 < p->k || k0 == 0; k0 += task->block_k) {
        int32_t depth = least(p->k - k0, task->block_k);
        const float *a = p->a + (int64_t)row * p->lda + k0;
        int64_t lda = p->lda;
        if (task->copy_a) {
            lda = task->block_k + A_GAP;
            for (int32_t r = 0; r < rows; r++) {
                memcpy(scratch + r * lda, a + r * p->lda, (size_t)depth * sizeof *a);
            }
            a = scratch;
        }
        /* some panels in the second cache: a tile of A comes from beyond it once for all of them */
        for (int32_t j0 = first_panel; j0 < last_panel; j0 += PANELS_AT_ONCE) {
            const int32_t j1 = least(last_panel, j0 + PANELS_AT_ONCE);
            const float *b = scratch + task->panel_at;
            size_t apart = (size_t)width * (size_t)depth;
            if (task->panels != NULL) {
                b = task->panels + (size_t)width * ((size_t)j0 * (size_t)p->k + (size_t)k0);
                apart = (size_t)width * (size_t)p->k;
            }
            for (int32_t j = j0; task->panels == NULL && j < j1; j++) {
                make_panel(task, scratch + task->panel_at + (size_t)(j - j0) * apart, j * width, k0,
                           depth);
            }
            for (int32_t i = 0; i < rows; i += even) {
                for (int32_t j = j0; j < j1; j++) {
                    run_tile(task, a + i * lda, lda, b + (size_t)(j - j0) * apart,
                             scratch + task->edge_at, row + i, least(rows - i, even), j * width, k0,
                             depth);
                }
            }
        }
        if (p->k == 0) {
            break;
        }
    }
}

static void linear_body(void *context, size_t begin, size_t end) {
    const f32_task *task = context;
    int slot = 0;
    float *scratch = cpu_slot_take(task->p.cpu, &slot);
    for (size_t i = begin; i < end; i++) {
        run_task(task, scratch, (int32_t)(i / (size_t)task->strips) * task->block_rows,
                 (int32_t)(i % (size_t)task->strips) * task->strip);
    }
    cpu_slot_give(task->p.cpu, slot);
}

/* How many tasks are worth their way to the pool: one for each 20 us of arithmetic (50 GFLOP/s) or
 * of reading the weight (10 GB/s), at most eight a thread. */
static int32_t tasks_wanted(int32_t m, int32_t n, int32_t k) {
    double area = (double)n * (double)k;
    double flops = 2.0 * (double)m * area / 1e6, bytes = 4.0 * area / 2e5;
    double worth = flops > bytes ? flops : bytes;
    int32_t most = TASKS_MOST * smhf_pool_threads();
    return worth < 2.0 ? 1 : worth < (double)most ? (int32_t)worth : most;
}

/* Rows in equal blocks, then as many strips as give enough tasks. */
static int32_t choose_tasks(f32_task *task) {
    const cpu_product *p = &task->p;
    const int32_t height = p->cpu->kernels->tile_rows, width = p->cpu->kernels->panel;
    int32_t wanted = tasks_wanted(p->m, p->n, p->k);
    int32_t most = task->panels != NULL ? BLOCK_ROWS : BLOCK_ROWS_FRESH;
    int32_t blocks = ceil_div(p->m, most);
    int32_t narrowest = 1; /* panels in a strip */
    task->panel_count = ceil_div(p->n, width);
    if (task->copy_a) { /* a copied row must be used often */
        narrowest = least(12 * 32 / width, task->panel_count);
        int32_t across = ceil_div(task->panel_count, narrowest);
        if (blocks * across < wanted) {
            blocks = ceil_div(wanted, across);
            blocks = least(blocks, ceil_div(p->m, 4 * height));
        }
    }
    task->block_rows = round_up(ceil_div(p->m, blocks), height);
    blocks = ceil_div(p->m, task->block_rows);
    int32_t strips = ceil_div(wanted, blocks);
    task->strip = ceil_div(task->panel_count, strips);
    int32_t fours = task->panel_count * blocks / PANELS_AT_ONCE;
    if (wanted > 3 * smhf_pool_threads() &&
        (task->strip > PANELS_AT_ONCE || fours >= 3 * smhf_pool_threads())) {
        task->strip = PANELS_AT_ONCE; /* three tasks a thread or more */
    }
    task->strip = task->strip > narrowest ? task->strip : narrowest;
    task->strips = ceil_div(task->panel_count, task->strip);
    return blocks * task->strips;
}

/* ---- panels --------------------------------------------------------------------------------- */

typedef struct pack_task {
    const cpu_kernels *kernels;
    smhf_tensor w;
    float *panels;
} pack_task;

static void pack_body(void *context, size_t begin, size_t end) {
    const pack_task *task = context;
    const int32_t width = task->kernels->panel;
    for (size_t j = begin; j < end; j++) {
        int32_t col = (int32_t)j * width;
        task->kernels->pack_columns(task->panels + j * (size_t)width * (size_t)task->w.cols,
                                    cpu_row(task->w, col), task->w.ld,
                                    least(task->w.rows - col, width), task->w.cols);
    }
}

static void pack_forward(void *panels, const smhf_weight *weight, uint32_t use,
                         const cpu_features *features) {
    (void)use;
    pack_task task = {features->kernels, weight->source, panels};
    smhf_parallel_for((size_t)ceil_div(weight->source.rows, features->kernels->panel), 2, pack_body,
                      &task);
}

const void *cpu_f32_panels(cpu_device *cpu, const smhf_weight *weight) {
    const smhf_tensor w = weight->source;
    size_t bytes = (size_t)round_up(w.rows, cpu->kernels->panel) * (size_t)w.cols * sizeof(float);
    return cpu_weight_panels(cpu, weight, SMHF_WEIGHT_FORWARD, bytes, pack_forward);
}

/* Kept panels where they pay, else *panels = NULL. 0 on failure, which is kept. */
static int find_panels(const cpu_product *p, const float **panels) {
    *panels = NULL;
    if (p->use != SMHF_WEIGHT_FORWARD) {
        return 1;
    }
    if ((p->weight->uses & SMHF_WEIGHT_BACKWARD) != 0) {
        atomic_int *products = &((smhf_weight *)p->weight)->products;
        if (atomic_load_explicit(products, memory_order_relaxed) < KEEP_AFTER) {
            atomic_fetch_add_explicit(products, 1, memory_order_relaxed);
            return 1;
        }
    }
    *panels = cpu_f32_panels(p->cpu, p->weight);
    return *panels != NULL;
}

/* Scratch of a slot, in floats: copied rows of A, a panel, a tile. */
static size_t scratch_of(const cpu_kernels *kernels, int32_t block_k, size_t *panel_at,
                         size_t *edge_at) {
    size_t depth = (size_t)block_k;
    *panel_at = (depth + A_GAP) * BLOCK_ROWS_FRESH;
    *edge_at = *panel_at + PANELS_AT_ONCE * depth * (size_t)kernels->panel;
    return *edge_at + (size_t)kernels->panel * (size_t)kernels->tile_rows;
}

size_t cpu_f32_scratch(const cpu_kernels *kernels) {
    size_t panel_at, edge_at;
    return scratch_of(kernels, BLOCK_K, &panel_at, &edge_at) * sizeof(float);
}

void cpu_f32_linear(const cpu_product *product) {
    const cpu_epilogue *e = &product->epilogue;
    if (!product->cpu->own_kernels) {
        cpu_blas_linear(product);
        return;
    }
    f32_task task = {.p = *product, .c = e->pre.data != NULL ? e->pre : e->y};
    task.rest = *e; /* what gemm_tile has not done */
    task.rest.bias = NULL;
    task.rest.pre = SMHF_TENSOR_NONE;
    task.finish = !e->accumulate && (e->act != SMHF_ACT_NONE || e->pre.data != NULL || e->slope);
    task.through = e->slope && e->y.data == e->saved.data;
    task.fetched = !task.finish ? SMHF_TENSOR_NONE : e->slope ? e->saved : e->y;
    task.block_k = task.through ? product->k : block_k_of(product->k);
    task.copy_a = product->lda % 512 == 0 && product->m > 1;
    if (!find_panels(product, &task.panels)) {
        return;
    }
    size_t scratch = scratch_of(product->cpu->kernels, task.block_k, &task.panel_at, &task.edge_at);
    if (!cpu_slots_reserve(product->cpu, scratch * sizeof(float))) {
        return;
    }
    smhf_parallel_for((size_t)choose_tasks(&task), 1, linear_body, &task);
}
