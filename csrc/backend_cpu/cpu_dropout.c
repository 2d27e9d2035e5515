/* cpu_dropout.c: dropout by counters, and moving rows between tokens and sequences. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#include <string.h>

const cpu_draw *cpu_draw_row(cpu_draw *draw, const smhf_dropout *dropout, const smhf_pack *pack,
                             smhf_axis axis, int64_t row) {
    if (dropout->p <= 0.0f) {
        return NULL;
    }
    int32_t token = cpu_token_of(pack, axis, row);
    draw->seed = dropout->seed;
    draw->site = dropout->site;
    draw->step = dropout->step->dropout_step;
    draw->sequence_id = pack->sequence_ids[pack->token_rows[token]];
    draw->head = 0;
    draw->position = (uint32_t)pack->positions[token];
    draw->threshold = smhf_dropout_threshold(dropout->p);
    draw->scale = 1.0f / (1.0f - dropout->p);
    return draw;
}

typedef struct dropout_task {
    const cpu_kernels *kernels;
    smhf_tensor y, x;
    const smhf_pack *pack;
    smhf_axis axis;
    smhf_dropout dropout;
} dropout_task;

static void dropout_body(void *context, size_t begin, size_t end) {
    const dropout_task *task = context;
    for (size_t r = begin; r < end; r++) {
        cpu_draw storage;
        const cpu_draw *draw =
            cpu_draw_row(&storage, &task->dropout, task->pack, task->axis, (int64_t)r);
        task->kernels->dropout_add(cpu_row(task->y, (int64_t)r), cpu_row(task->x, (int64_t)r), NULL,
                                   draw, task->x.cols);
    }
}

void cpu_dropout(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_pack *pack,
                 smhf_axis axis, smhf_dropout dropout) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "dropout", y, x)) {
        return;
    }
    dropout_task task = {cpu->kernels, y, x, pack, axis, dropout};
    smhf_parallel_for((size_t)smhf_pack_count(pack, axis), cpu_rows_chunk(x.cols), dropout_body,
                      &task);
}

/* ---- rows of tokens and rows of sequences ---------------------------------------------------- */

typedef struct rows_task {
    const cpu_kernels *kernels;
    smhf_tensor to, from;
    const smhf_pack *pack;
    smhf_axis axis;
} rows_task;

static void run_rows(cpu_device *cpu, smhf_tensor to, smhf_tensor from, const smhf_pack *pack,
                     smhf_axis axis, int32_t count, smhf_parallel_body body) {
    rows_task task = {cpu->kernels, to, from, pack, axis};
    smhf_parallel_for((size_t)count, cpu_rows_chunk(to.cols), body, &task);
}

static void gather_body(void *context, size_t begin, size_t end) {
    const rows_task *task = context;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        memcpy(cpu_row(task->to, r), cpu_row(task->from, cpu_token_of(task->pack, task->axis, r)),
               (size_t)task->from.cols * sizeof(float));
    }
}

void cpu_gather_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack,
                     smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu != NULL && CPU_ALL_F32(dev, "gather_rows", out, x)) {
        run_rows(cpu, out, x, pack, axis, smhf_pack_count(pack, axis), gather_body);
    }
}

/* Every token is picked at most once, so rows may be added side by side. */
static void scatter_body(void *context, size_t begin, size_t end) {
    const rows_task *task = context;
    for (int64_t r = (int64_t)begin; r < (int64_t)end; r++) {
        task->kernels->axpy(cpu_row(task->to, cpu_token_of(task->pack, task->axis, r)),
                            cpu_row(task->from, r), 1.0f, (size_t)task->from.cols);
    }
}

void cpu_scatter_add_rows(smhf_device *dev, smhf_tensor dx, smhf_tensor dout, const smhf_pack *pack,
                          smhf_axis axis) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu != NULL && CPU_ALL_F32(dev, "scatter_add_rows", dx, dout)) {
        run_rows(cpu, dx, dout, pack, axis, smhf_pack_count(pack, axis), scatter_body);
    }
}

static void mean_body(void *context, size_t begin, size_t end) {
    const rows_task *task = context;
    size_t cols = (size_t)task->from.cols;
    for (int64_t b = (int64_t)begin; b < (int64_t)end; b++) {
        int32_t first = task->pack->cu_seqlens[b], stop = task->pack->cu_seqlens[b + 1];
        memcpy(cpu_row(task->to, b), cpu_row(task->from, first), cols * sizeof(float));
        for (int32_t t = first + 1; t < stop; t++) {
            task->kernels->axpy(cpu_row(task->to, b), cpu_row(task->from, t), 1.0f, cols);
        }
        task->kernels->scale(cpu_row(task->to, b), 1.0f / (float)(stop - first), (int)cols);
    }
}

void cpu_mean_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu != NULL && CPU_ALL_F32(dev, "mean_rows", out, x)) {
        run_rows(cpu, out, x, pack, SMHF_AXIS_ROWS, pack->rows, mean_body);
    }
}

static void mean_bwd_body(void *context, size_t begin, size_t end) {
    const rows_task *task = context;
    size_t cols = (size_t)task->to.cols;
    for (int64_t t = (int64_t)begin; t < (int64_t)end; t++) {
        int32_t b = task->pack->token_rows[t];
        int32_t tokens = task->pack->cu_seqlens[b + 1] - task->pack->cu_seqlens[b];
        memcpy(cpu_row(task->to, t), cpu_row(task->from, b), cols * sizeof(float));
        task->kernels->scale(cpu_row(task->to, t), 1.0f / (float)tokens, (int)cols);
    }
}

void cpu_mean_rows_bwd(smhf_device *dev, smhf_tensor dx, smhf_tensor dout, const smhf_pack *pack) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu != NULL && CPU_ALL_F32(dev, "mean_rows_bwd", dx, dout)) {
        run_rows(cpu, dx, dout, pack, SMHF_AXIS_TOKENS, pack->tokens, mean_bwd_body);
    }
}
