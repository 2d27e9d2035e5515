/* cpu_embedding.c: table rows + LayerNorm + dropout, and the gradient of the tables.
 *
 * The sum of the three table rows is not kept: backward gathers it again, which costs no more than
 * reading a copy would. Gradients are summed word by word, position by position: nothing is
 * scattered, so nothing races and the order is fixed. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#include <math.h>
#include <string.h>

typedef struct embedding_task {
    cpu_device *cpu;
    smhf_tensor out, stats; /* backward: out is dout */
    const smhf_embedding *tables;
    float eps;
    const smhf_pack *pack;
    smhf_dropout dropout;
    float *partials;
} embedding_task;

/* word + position + type of token t into out; 0 when an index is outside its table. */
static int gather_sum(const embedding_task *task, int64_t t, float *out) {
    const smhf_embedding *e = task->tables;
    const smhf_pack *pack = task->pack;
    int32_t id = pack->ids[t], position = pack->positions[t], type = pack->type_ids[t];
    int inside = id >= 0 && id < e->word.rows && position < e->position.rows &&
                 (e->type.data == NULL || (type >= 0 && type < e->type.rows));
    if (!inside) {
        return 0;
    }
    task->cpu->kernels->add3(out, cpu_row(e->word, id), cpu_row(e->position, position),
                             e->type.data != NULL ? cpu_row(e->type, type) : NULL, e->word.cols);
    return 1;
}

static void fill_nan(float *row, int n) {
    for (int c = 0; c < n; c++) {
        row[c] = NAN;
    }
}

static void embedding_body(void *context, size_t begin, size_t end) {
    const embedding_task *task = context;
    const cpu_kernels *kernels = task->cpu->kernels;
    int cols = task->out.cols;
    for (size_t r = begin; r < end; r++) {
        int64_t t = (int64_t)r;
        float *out = cpu_row(task->out, t);
        float spare[2];
        float *stats = task->stats.data != NULL ? cpu_row(task->stats, t) : spare;
        cpu_draw storage;
        const cpu_draw *draw =
            cpu_draw_row(&storage, &task->dropout, task->pack, SMHF_AXIS_TOKENS, t);
        if (!gather_sum(task, t, out)) {
            fill_nan(out, cols);
        }
        kernels->layernorm_fwd(out, stats, out, task->tables->gamma.data, task->tables->beta.data,
                               cols, task->eps);
        if (draw != NULL) {
            kernels->dropout_add(out, out, NULL, draw, cols);
        }
    }
}

void cpu_embedding_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor stats,
                       const smhf_embedding *tables, float eps, const smhf_pack *pack,
                       smhf_dropout dropout) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "embedding_fwd", out, stats, tables->word,
                                    tables->position, tables->type, tables->gamma, tables->beta)) {
        return;
    }
    embedding_task task = {cpu, out, stats, tables, eps, pack, dropout, NULL};
    smhf_parallel_for((size_t)pack->tokens, cpu_rows_chunk(out.cols), embedding_body, &task);
}

/* ---- backward ------------------------------------------------------------------------------- */

#define PARTIAL_ROWS 64

/* dout becomes the gradient of the sum; gamma's and beta's share goes to partials. */
static void embedding_norm_body(void *context, size_t begin, size_t end) {
    const embedding_task *task = context;
    const cpu_kernels *kernels = task->cpu->kernels;
    size_t cols = (size_t)task->out.cols;
    float *dgamma = task->partials + begin / PARTIAL_ROWS * 2 * cols;
    memset(dgamma, 0, 2 * cols * sizeof *dgamma);
    int slot = 0;
    float *sum = cpu_slot_take(task->cpu, &slot);
    for (size_t r = begin; r < end; r++) {
        int64_t t = (int64_t)r;
        float *d = cpu_row(task->out, t);
        cpu_draw storage;
        const cpu_draw *draw =
            cpu_draw_row(&storage, &task->dropout, task->pack, SMHF_AXIS_TOKENS, t);
        if (draw != NULL) {
            kernels->dropout_add(d, d, NULL, draw, (int)cols);
        }
        if (!gather_sum(task, t, sum)) {
            fill_nan(sum, (int)cols);
        }
        kernels->layernorm_bwd(d, dgamma, dgamma + cols, d, sum, cpu_row(task->stats, t),
                               task->tables->gamma.data, (int)cols);
    }
    cpu_slot_give(task->cpu, slot);
}

typedef struct table_task {
    const cpu_kernels *kernels;
    smhf_tensor table, d;
    const smhf_pack *pack;
    int32_t padding_id;
} table_task;

static void word_body(void *context, size_t begin, size_t end) {
    const table_task *task = context;
    const smhf_pack *pack = task->pack;
    for (size_t w = begin; w < end; w++) {
        int32_t id = pack->ids[pack->word_order[pack->word_starts[w]]];
        if (id == task->padding_id || id < 0 || id >= task->table.rows) {
            continue;
        }
        for (int32_t i = pack->word_starts[w]; i < pack->word_starts[w + 1]; i++) {
            task->kernels->axpy(cpu_row(task->table, id), cpu_row(task->d, pack->word_order[i]),
                                1.0f, (size_t)task->table.cols);
        }
    }
}

static void position_body(void *context, size_t begin, size_t end) {
    const table_task *task = context;
    const int32_t *cu = task->pack->cu_seqlens;
    for (size_t p = begin; p < end && p < (size_t)task->table.rows; p++) {
        for (int32_t b = 0; b < task->pack->rows; b++) {
            if (cu[b] + (int32_t)p < cu[b + 1]) {
                task->kernels->axpy(cpu_row(task->table, (int64_t)p),
                                    cpu_row(task->d, cu[b] + (int32_t)p), 1.0f,
                                    (size_t)task->table.cols);
            }
        }
    }
}

#define TYPE_COLS 64

/* Few types, many tokens: each chunk of columns runs over all tokens, in blocks. */
static void type_body(void *context, size_t begin, size_t end) {
    const table_task *task = context;
    size_t cols = end - begin;
    for (int32_t type = 0; type < task->table.rows; type++) {
        for (int32_t t0 = 0; t0 < task->pack->tokens; t0 += PARTIAL_ROWS) {
            float block[TYPE_COLS] = {0};
            int32_t t1 =
                task->pack->tokens - t0 < PARTIAL_ROWS ? task->pack->tokens : t0 + PARTIAL_ROWS;
            for (int32_t t = t0; t < t1; t++) {
                if (task->pack->type_ids[t] == type) {
                    task->kernels->axpy(block, cpu_row(task->d, t) + begin, 1.0f, cols);
                }
            }
            task->kernels->axpy(cpu_row(task->table, type) + begin, block, 1.0f, cols);
        }
    }
}

void cpu_embedding_bwd(smhf_device *dev, const smhf_embedding *grads, smhf_tensor dout,
                       smhf_tensor stats, const smhf_embedding *tables, const smhf_pack *pack,
                       smhf_dropout dropout) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "embedding_bwd", dout, stats, grads->word, grads->position,
                                    grads->type, tables->word)) {
        return;
    }
    if (!pack->has_order && pack->tokens > 0) {
        smhf_device_fail(dev, SMHF_E_ARG,
                         "embedding_bwd: the batch was filled without training = 1");
        return;
    }
    size_t cols = (size_t)dout.cols;
    float *partials = cpu_partials_reserve(cpu, cpu_layernorm_partials(pack->tokens, dout.cols));
    if (partials == NULL || !cpu_slots_reserve(cpu, cols * sizeof(float))) {
        return;
    }
    embedding_task task = {cpu, dout, stats, tables, 0.0f, pack, dropout, partials};
    smhf_parallel_for((size_t)pack->tokens, PARTIAL_ROWS, embedding_norm_body, &task);
    for (int32_t row = 0; row < pack->tokens; row += PARTIAL_ROWS) {
        const float *part = partials + (size_t)(row / PARTIAL_ROWS) * 2 * cols;
        cpu->kernels->axpy(grads->gamma.data, part, 1.0f, cols);
        cpu->kernels->axpy(grads->beta.data, part + cols, 1.0f, cols);
    }
    table_task word = {cpu->kernels, grads->word, dout, pack, tables->padding_id};
    smhf_parallel_for((size_t)pack->words, 16, word_body, &word);
    table_task position = {cpu->kernels, grads->position, dout, pack, -1};
    smhf_parallel_for((size_t)pack->max_length, 4, position_body, &position);
    if (grads->type.data != NULL) {
        table_task type = {cpu->kernels, grads->type, dout, pack, -1};
        smhf_parallel_for(cols, TYPE_COLS, type_body, &type);
    }
}
