/* cpu_f32_gradient.c: dw += dy^T x and the sums of dy's columns, in fp32.
 *
 * Both operands are brought into the kernel's order first: dy's columns in groups of a tile's
 * height, x's in panels. That pass reads whole rows, a few at a time, and sums dy's columns on the
 * way. Then a task takes a block of groups, which stays in the second cache, past a strip of
 * panels. A sum is one chain over at most WEIGHT_ROWS tokens, whatever the tasks. */
#include "backend_cpu/cpu_device.h"
#include "common/mem.h"
#include "common/pool.h"

#include <string.h>

#define WEIGHT_ROWS 1024 /* tokens of a block */
#define BLOCK_GROUPS 8   /* 384 KiB at 1,024 tokens */
#define PANEL_ROWS 8     /* rows of x that are read side by side */

typedef struct gradient_task {
    const cpu_kernels *kernels;
    smhf_tensor dw, dy, x; /* dy, x: rows of this block of tokens only */
    int32_t depth;         /* their count */
    float *groups, *panels;
    float *sums;                      /* [depth / CPU_SUM_ROWS, N] of dy's columns, or NULL */
    int32_t group_count, panel_count; /* of dy's and x's columns */
    int32_t block, strip, strips;     /* groups and panels of a task */
} gradient_task;

static int32_t ceil_div(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

static int32_t round_up(int32_t a, int32_t multiple) {
    return ceil_div(a, multiple) * multiple;
}

static int32_t least(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static void pack_dy(const gradient_task *task, int32_t first, int32_t count) {
    const cpu_kernels *kernels = task->kernels;
    const int32_t height = kernels->tile_rows, N = task->dy.cols;
    float *sums = NULL;
    if (task->sums != NULL) {
        sums = task->sums + (size_t)(first / CPU_SUM_ROWS) * (size_t)N;
        memset(sums, 0, (size_t)N * sizeof *sums);
    }
    for (int32_t r = 0; r < count; r += 4) {
        int32_t rows = least(count - r, 4);
        const float *dy = cpu_row(task->dy, first + r);
        kernels->pack_groups(task->groups + (size_t)(first + r) * (size_t)height,
                             (int64_t)task->depth * height, dy, task->dy.ld, N, rows);
        for (int32_t i = 0; sums != NULL && i < rows; i++) {
            kernels->axpy(sums, dy + i * task->dy.ld, 1.0f, (size_t)N);
        }
    }
}

static void pack_x(const gradient_task *task, int32_t first, int32_t count) {
    const cpu_kernels *kernels = task->kernels;
    const int32_t width = kernels->panel;
    for (int32_t r = 0; r < count; r += PANEL_ROWS) {
        int32_t rows = least(count - r, PANEL_ROWS);
        const float *x = cpu_row(task->x, first + r);
        float *to = task->panels + (size_t)(first + r) * (size_t)width;
        for (int32_t col = 0; col < task->x.cols; col += width) {
            kernels->pack_rows(to, x + col, task->x.ld, least(task->x.cols - col, width), rows);
            to += (size_t)task->depth * (size_t)width;
        }
    }
}

/* Chunks: blocks of rows of dy, then of x. */
static void pack_body(void *context, size_t begin, size_t end) {
    const gradient_task *task = context;
    const int32_t blocks = ceil_div(task->depth, CPU_SUM_ROWS);
    for (size_t i = begin; i < end; i++) {
        int32_t first = (int32_t)i % blocks * CPU_SUM_ROWS;
        int32_t count = least(task->depth - first, CPU_SUM_ROWS);
        if ((int32_t)i < blocks) {
            pack_dy(task, first, count);
        } else {
            pack_x(task, first, count);
        }
    }
}

static void gradient_tile(const gradient_task *task, int32_t group, int32_t panel) {
    const cpu_kernels *kernels = task->kernels;
    int32_t row = group * kernels->tile_rows, col = panel * kernels->panel;
    int32_t rows = least(task->dw.rows - row, kernels->tile_rows);
    int32_t cols = least(task->dw.cols - col, kernels->panel);
    const float *a = task->groups + (size_t)row * (size_t)task->depth;
    const float *b = task->panels + (size_t)col * (size_t)task->depth;
    float *c = cpu_row(task->dw, row) + col;
    if (cols == kernels->panel) {
        kernels->gemm_tile(c, task->dw.ld, a, 1, kernels->tile_rows, b, task->depth, rows, NULL, 1);
        return;
    }
    float edge[12 * 32];
    kernels->gemm_tile(edge, kernels->panel, a, 1, kernels->tile_rows, b, task->depth, rows, NULL,
                       0);
    for (int32_t r = 0; r < rows; r++) {
        for (int32_t i = 0; i < cols; i++) {
            c[r * task->dw.ld + i] += edge[r * kernels->panel + i];
        }
    }
}

static void gradient_body(void *context, size_t begin, size_t end) {
    const gradient_task *task = context;
    for (size_t i = begin; i < end; i++) {
        int32_t group0 = (int32_t)(i / (size_t)task->strips) * task->block;
        int32_t panel0 = (int32_t)(i % (size_t)task->strips) * task->strip;
        int32_t group1 = least(task->group_count, group0 + task->block);
        int32_t panel1 = least(task->panel_count, panel0 + task->strip);
        for (int32_t j = panel0; j < panel1; j++) {
            for (int32_t g = group0; g < group1; g++) {
                gradient_tile(task, g, j);
            }
        }
    }
}

/* Blocks of groups in even pieces, then as many strips as give each thread enough tasks that the
 * last one does not matter, if each is worth its way to the pool (2 MFLOP). Returns the tasks. */
static int32_t choose_tasks(gradient_task *task, int32_t depth) {
    const int32_t tile = task->kernels->tile_rows * task->kernels->panel;
    int32_t blocks = ceil_div(task->group_count, BLOCK_GROUPS);
    task->block = ceil_div(task->group_count, blocks);
    blocks = ceil_div(task->group_count, task->block);
    int32_t wanted = ceil_div(16 * smhf_pool_threads(), blocks);
    double worth = 2.0 * (double)depth * tile * task->block * task->panel_count / 2e6;
    wanted = worth < (double)wanted ? (int32_t)worth : wanted;
    task->strip = ceil_div(task->panel_count, wanted > 1 ? wanted : 1);
    task->strips = ceil_div(task->panel_count, task->strip);
    return blocks * task->strips;
}

/* In floats: where panels and sums begin. */
static size_t map_scratch(const cpu_kernels *kernels, int32_t depth, int32_t n, int32_t k,
                          size_t *panels, size_t *sums) {
    const size_t line = SMHF_CACHE_LINE / sizeof(float);
    size_t groups = (size_t)depth * (size_t)round_up(n, kernels->tile_rows);
    *panels = (groups + line - 1) / line * line;
    *sums = *panels + (size_t)depth * (size_t)round_up(k, kernels->panel);
    return *sums + (size_t)ceil_div(depth, CPU_SUM_ROWS) * (size_t)n;
}

size_t cpu_f32_gradient_partials(const cpu_kernels *kernels, int32_t rows, int32_t n, int32_t k) {
    size_t panels, sums;
    return map_scratch(kernels, least(rows, WEIGHT_ROWS), n, k, &panels, &sums) * sizeof(float);
}

void cpu_f32_weight_gradient(cpu_device *cpu, smhf_tensor dw, float *dbias, smhf_tensor dy,
                             smhf_tensor x, int32_t rows) {
    const cpu_kernels *kernels = cpu->kernels;
    float *scratch =
        cpu_partials_reserve(cpu, cpu_f32_gradient_partials(kernels, rows, dw.rows, dw.cols));
    if (scratch == NULL) {
        return;
    }
    gradient_task task = {.kernels = kernels, .dw = dw, .groups = scratch};
    task.group_count = ceil_div(dw.rows, kernels->tile_rows);
    task.panel_count = ceil_div(dw.cols, kernels->panel);
    for (int32_t first = 0; first < rows; first += WEIGHT_ROWS) {
        size_t panels, sums;
        task.depth = least(rows - first, WEIGHT_ROWS);
        task.dy = smhf_tensor_rows(dy, first, task.depth);
        task.x = smhf_tensor_rows(x, first, task.depth);
        map_scratch(kernels, task.depth, dw.rows, dw.cols, &panels, &sums);
        task.panels = scratch + panels;
        task.sums = dbias != NULL ? scratch + sums : NULL;
        int32_t blocks = ceil_div(task.depth, CPU_SUM_ROWS);
        smhf_parallel_for(2 * (size_t)blocks, 1, pack_body, &task);
        for (int32_t i = 0; dbias != NULL && i < blocks; i++) {
            kernels->axpy(dbias, task.sums + (size_t)i * (size_t)dw.rows, 1.0f, (size_t)dw.rows);
        }
        smhf_parallel_for((size_t)choose_tasks(&task, task.depth), 1, gradient_body, &task);
    }
}
