/* cpu_dropout.c: dropout by counters, and moving rows between tokens and sequences. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#include <string.h>

const cpu_draw *cpu_draw_row(cpu_draw *draw, const smhf_dropout *dropout, const smhf_pack *pack,
                             smhf_axis axis, int64_t row) {
    if (dropout->p <= 0.0f) {
        return NULL;
    }
    int64_t sequence = axis == SMHF_AXIS_TOKENS ? pack->token_rows[row] : row;
    draw->seed = dropout->seed;
    draw->site = dropout->site;
    draw->step = dropout->step->dropout_step;
    draw->sequence_id = pack->sequence_ids[sequence];
    draw->head = 0;
    draw->position = axis == SMHF_AXIS_TOKENS ? (uint32_t)pack->positions[row] : 0u;
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

/* Few rows: not worth the pool. */
void cpu_gather_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "gather_rows", out, x)) {
        return;
    }
    for (int32_t b = 0; b < pack->rows; b++) {
        memcpy(cpu_row(out, b), cpu_row(x, pack->cu_seqlens[b]), (size_t)x.cols * sizeof(float));
    }
}

void cpu_scatter_add_rows(smhf_device *dev, smhf_tensor dx, smhf_tensor dout,
                          const smhf_pack *pack) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "scatter_add_rows", dx, dout)) {
        return;
    }
    for (int32_t b = 0; b < pack->rows; b++) {
        cpu->kernels->axpy(cpu_row(dx, pack->cu_seqlens[b]), cpu_row(dout, b), 1.0f,
                           (size_t)dout.cols);
    }
}
