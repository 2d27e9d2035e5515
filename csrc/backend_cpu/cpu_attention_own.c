/* cpu_attention_own.c: attention on the kernels of cpu_kernels_matrix.h, one (sequence, head) at a
 * time.
 *
 * Keys and values of a head are packed once into panels; a tile of queries then makes its scores,
 * their softmax, and its share of the output while all of it is in cache. Memory grows with the
 * length, not with its square. Backward recomputes the tile's probabilities from lse. A sequence's
 * bits depend on that sequence alone. */
#include "backend_cpu/cpu_attention.h"

#include <math.h>

#define QUERY_TILE                                                                                 \
    48 /* backward; a multiple of every tier's tile_rows; forward takes tile_rows                  \
        */

/* Where the parts of a slot's scratch begin, in floats, for sequences of up to `length`. */
typedef struct scratch_map {
    size_t keys_t, values_t, keys, values, queries, grads; /* panels */
    size_t scores, dscores, edge, end;
    int64_t score_ld;
} scratch_map;

static size_t up(size_t n, size_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

static scratch_map map_scratch(const cpu_kernels *kernels, int32_t length, int32_t size) {
    const size_t width = (size_t)kernels->panel, S = (size_t)(length > 0 ? length : 1);
    const size_t wide_s = up(S, width), wide_d = up((size_t)size, width);
    scratch_map m = {0};
    m.score_ld = (int64_t)wide_s + 16; /* never a multiple of a cache set's stride */
    m.keys_t = 0;
    m.values_t = m.keys_t + wide_s * (size_t)size;
    m.keys = m.values_t + wide_s * (size_t)size;
    m.values = m.keys; /* forward has no use for keys as they are, backward none for values */
    m.queries = m.keys + S * wide_d;
    m.grads = m.queries + QUERY_TILE * wide_d;
    m.scores = m.grads + QUERY_TILE * wide_d;
    m.dscores = m.scores + QUERY_TILE * (size_t)m.score_ld;
    m.edge = m.dscores + QUERY_TILE * (size_t)m.score_ld;
    m.end = m.edge + width * (size_t)kernels->tile_rows;
    return m;
}

size_t cpu_attention_own_scratch(const cpu_kernels *kernels, int32_t length, int32_t size) {
    return map_scratch(kernels, length, size).end * sizeof(float);
}

static int32_t least(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* A matrix in panels: columns [j * panel, ...) of [k, n], or of its transpose's columns. */
static void pack(const cpu_kernels *kernels, float *panels, const float *src, int64_t ld, int32_t n,
                 int32_t k, int transposed) {
    for (int32_t j = 0; j < n; j += kernels->panel) {
        float *panel = panels + (size_t)j * (size_t)k;
        int32_t cols = least(n - j, kernels->panel);
        if (transposed) {
            kernels->pack_columns(panel, src + j * ld, ld, cols, k);
        } else {
            kernels->pack_rows(panel, src + j, ld, cols, k);
        }
    }
}

/* c [m, n] (+)= a panels; element (i, p) of a at a[i * row + p * step]. c has room for whole panels
 * when `roomy`. */
static void multiply(const cpu_kernels *kernels, float *c, int64_t ldc, int32_t m, int32_t n,
                     int32_t k, const float *a, int64_t row, int64_t step, const float *panels,
                     int add, int roomy, float *edge) {
    const int32_t width = kernels->panel, height = kernels->tile_rows;
    for (int32_t j = 0; j < n; j += width) {
        const float *panel = panels + (size_t)j * (size_t)k;
        int32_t cols = least(n - j, width);
        for (int32_t i = 0; i < m; i += height) {
            int32_t rows = least(m - i, height);
            float *to = c + i * ldc + j;
            if (roomy || cols == width) {
                kernels->gemm_tile(to, ldc, a + i * row, row, step, panel, k, rows, NULL, add);
                continue;
            }
            kernels->gemm_tile(edge, width, a + i * row, row, step, panel, k, rows, NULL, 0);
            for (int32_t r = 0; r < rows; r++) {
                for (int32_t q = 0; q < cols; q++) {
                    to[r * ldc + q] = edge[r * width + q] + (add ? to[r * ldc + q] : 0.0f);
                }
            }
        }
    }
}

static void head_fwd(const attention_task *task, const head_range *r, float *scratch,
                     const scratch_map *map) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const int32_t S = r->keys, D = task->size;
    const int64_t ld = map->score_ld;
    float *keys = scratch + map->keys_t, *values = scratch + map->values;
    float *scores = scratch + map->scores, *edge = scratch + map->edge;
    pack(kernels, keys, cpu_row(task->k, r->first_key) + r->column, task->k.ld, S, D, 1);
    pack(kernels, values, cpu_row(task->v, r->first_key) + r->column, task->v.ld, D, S, 0);
    for (int32_t first = 0; first < r->queries; first += kernels->tile_rows) {
        int32_t count = least(r->queries - first, kernels->tile_rows);
        int64_t row = r->first_query + first;
        float *out = cpu_row(task->out, row) + r->column;
        float sums[16];
        multiply(kernels, scores, ld, count, S, D, cpu_row(task->q, row) + r->column, task->q.ld, 1,
                 keys, 0, 1, edge);
        for (int32_t i = 0; i < count; i++) {
            cpu_draw storage;
            float greatest;
            const cpu_draw *draw = cpu_attention_draw(&storage, task, r, first + i);
            sums[i] = kernels->softmax_fwd(scores + i * ld, &greatest, task->scale, draw, S);
            if (task->lse.data != NULL) {
                cpu_row(task->lse, row + i)[r->head] = greatest + logf(sums[i]);
            }
        }
        multiply(kernels, out, task->out.ld, count, D, S, scores, ld, 1, values, 0, 0, edge);
        for (int32_t i = 0; i < count; i++) {
            kernels->scale(out + i * task->out.ld, 1.0f / sums[i], D);
        }
    }
}

/* One query: packing would cost more than it saves. */
static void first_query_fwd(const attention_task *task, const head_range *r, float *scores) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const int32_t S = r->keys, D = task->size;
    const float *q = cpu_row(task->q, r->first_query) + r->column;
    float *out = cpu_row(task->out, r->first_query) + r->column;
    for (int32_t j = 0; j < S; j++) {
        scores[j] = kernels->dot(q, cpu_row(task->k, r->first_key + j) + r->column, D);
    }
    cpu_draw storage;
    float greatest;
    const cpu_draw *draw = cpu_attention_draw(&storage, task, r, 0);
    float sum = kernels->softmax_fwd(scores, &greatest, task->scale, draw, S);
    if (task->lse.data != NULL) {
        cpu_row(task->lse, r->first_query)[r->head] = greatest + logf(sum);
    }
    for (int32_t c = 0; c < D; c++) {
        out[c] = 0.0f;
    }
    for (int32_t j = 0; j < S; j++) {
        kernels->axpy(out, cpu_row(task->v, r->first_key + j) + r->column, scores[j], (size_t)D);
    }
    kernels->scale(out, 1.0f / sum, D);
}

static void head_bwd(const attention_task *task, const head_range *r, float *scratch,
                     const scratch_map *map) {
    const cpu_kernels *kernels = task->cpu->kernels;
    const int32_t S = r->keys, D = task->size;
    const int64_t ld = map->score_ld;
    const float *k = cpu_row(task->k, r->first_key) + r->column;
    const float *v = cpu_row(task->v, r->first_key) + r->column;
    float *dk = cpu_row(task->dk, r->first_key) + r->column;
    float *dv = cpu_row(task->dv, r->first_key) + r->column;
    float *keys_t = scratch + map->keys_t, *values_t = scratch + map->values_t;
    float *keys = scratch + map->keys, *queries = scratch + map->queries;
    float *grads = scratch + map->grads, *edge = scratch + map->edge;
    float *p = scratch + map->scores, *dp = scratch + map->dscores;
    pack(kernels, keys_t, k, task->k.ld, S, D, 1);
    pack(kernels, values_t, v, task->v.ld, S, D, 1);
    pack(kernels, keys, k, task->k.ld, D, S, 0);
    for (int32_t first = 0; first < r->queries; first += QUERY_TILE) {
        int32_t count = least(r->queries - first, QUERY_TILE);
        int64_t row = r->first_query + first;
        const float *q = cpu_row(task->q, row) + r->column;
        const float *dout = cpu_row(task->dout, row) + r->column;
        int add = first > 0;
        multiply(kernels, p, ld, count, S, D, q, task->q.ld, 1, keys_t, 0, 1, edge);
        multiply(kernels, dp, ld, count, S, D, dout, task->dout.ld, 1, values_t, 0, 1, edge);
        for (int32_t i = 0; i < count; i++) {
            cpu_draw storage;
            /* sum over keys of p dp, dropout included, is dout . out */
            float delta =
                kernels->dot(dout + i * task->dout.ld, cpu_row(task->out, row + i) + r->column, D);
            kernels->softmax_bwd(p + i * ld, dp + i * ld, cpu_row(task->lse, row + i)[r->head],
                                 delta, task->scale,
                                 cpu_attention_draw(&storage, task, r, first + i), S);
        }
        pack(kernels, grads, dout, task->dout.ld, D, count, 0);
        multiply(kernels, dv, task->dv.ld, S, D, count, p, 1, ld, grads, add, 0, edge);
        pack(kernels, queries, q, task->q.ld, D, count, 0);
        multiply(kernels, dk, task->dk.ld, S, D, count, dp, 1, ld, queries, add, 0, edge);
        multiply(kernels, cpu_row(task->dq, row) + r->column, task->dq.ld, count, D, S, dp, ld, 1,
                 keys, 0, 0, edge);
    }
}

void cpu_attention_own_body(void *context, size_t begin, size_t end) {
    const attention_task *task = context;
    const scratch_map map = map_scratch(task->cpu->kernels, task->pack->max_length, task->size);
    int slot = 0;
    float *scratch = cpu_slot_take(task->cpu, &slot);
    for (size_t i = begin; i < end; i++) {
        head_range r = cpu_attention_range(task, i);
        if (task->query_axis == SMHF_AXIS_TOKENS) {
            head_fwd(task, &r, scratch, &map);
        } else {
            first_query_fwd(task, &r, scratch);
        }
    }
    cpu_slot_give(task->cpu, slot);
}

void cpu_attention_own_bwd_body(void *context, size_t begin, size_t end) {
    const attention_task *task = context;
    const scratch_map map = map_scratch(task->cpu->kernels, task->pack->max_length, task->size);
    int slot = 0;
    float *scratch = cpu_slot_take(task->cpu, &slot);
    for (size_t i = begin; i < end; i++) {
        head_range r = cpu_attention_range(task, i);
        head_bwd(task, &r, scratch, &map);
    }
    cpu_slot_give(task->cpu, slot);
}
