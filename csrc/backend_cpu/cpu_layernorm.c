/* cpu_layernorm.c: residual + dropout + LayerNorm, and its gradient. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#include <string.h>

#define PARTIAL_ROWS 64 /* rows whose dgamma, dbeta are summed before the sums are added up */

typedef struct norm_task {
    const cpu_kernels *kernels;
    smhf_tensor out, sum, stats, x, residual;
    const float *gamma, *beta;
    float eps;
    const smhf_pack *pack;
    smhf_axis axis;
    smhf_dropout dropout;
} norm_task;

static void norm_body(void *context, size_t begin, size_t end) {
    const norm_task *task = context;
    int cols = task->out.cols;
    for (size_t r = begin; r < end; r++) {
        int64_t row = (int64_t)r;
        cpu_draw storage;
        float spare[2];
        float *out = cpu_row(task->out, row);
        /* without a place for the sum the output row holds it for a moment */
        float *sum = task->sum.data != NULL ? cpu_row(task->sum, row) : out;
        const float *residual = task->residual.data != NULL ? cpu_row(task->residual, row) : NULL;
        const cpu_draw *draw = cpu_draw_row(&storage, &task->dropout, task->pack, task->axis, row);
        task->kernels->dropout_add(sum, cpu_row(task->x, row), residual, draw, cols);
        task->kernels->layernorm_fwd(out,
                                     task->stats.data != NULL ? cpu_row(task->stats, row) : spare,
                                     sum, task->gamma, task->beta, cols, task->eps);
    }
}

void cpu_residual_layernorm_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor sum,
                                smhf_tensor stats, smhf_tensor x, smhf_tensor residual,
                                smhf_tensor gamma, smhf_tensor beta, float eps,
                                const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL ||
        !CPU_ALL_F32(dev, "residual_layernorm_fwd", out, sum, stats, x, residual, gamma, beta)) {
        return;
    }
    norm_task task = {cpu->kernels, out,       sum, stats, x,    residual,
                      gamma.data,   beta.data, eps, pack,  axis, dropout};
    smhf_parallel_for((size_t)smhf_pack_count(pack, axis), cpu_rows_chunk(out.cols), norm_body,
                      &task);
}

typedef struct norm_bwd_task {
    const cpu_kernels *kernels;
    smhf_tensor dsum, dx, dout, sum, stats;
    const float *gamma;
    float *partials; /* [chunks, 2, H] */
    const smhf_pack *pack;
    smhf_axis axis;
    smhf_dropout dropout;
} norm_bwd_task;

static void norm_bwd_body(void *context, size_t begin, size_t end) {
    const norm_bwd_task *task = context;
    size_t cols = (size_t)task->dout.cols;
    float *dgamma = task->partials + begin / PARTIAL_ROWS * 2 * cols;
    float *dbeta = dgamma + cols;
    memset(dgamma, 0, 2 * cols * sizeof *dgamma);
    for (size_t r = begin; r < end; r++) {
        int64_t row = (int64_t)r;
        float *dsum = cpu_row(task->dsum, row);
        task->kernels->layernorm_bwd(dsum, dgamma, dbeta, cpu_row(task->dout, row),
                                     cpu_row(task->sum, row), cpu_row(task->stats, row),
                                     task->gamma, (int)cols);
        if (task->dx.data != NULL && task->dx.data != task->dsum.data) {
            cpu_draw storage;
            const cpu_draw *draw =
                cpu_draw_row(&storage, &task->dropout, task->pack, task->axis, row);
            task->kernels->dropout_add(cpu_row(task->dx, row), dsum, NULL, draw, (int)cols);
        }
    }
}

size_t cpu_layernorm_partials(int32_t rows, int32_t hidden) {
    size_t chunks = ((size_t)(rows > 0 ? rows : 1) + PARTIAL_ROWS - 1) / PARTIAL_ROWS;
    return chunks * 2 * (size_t)hidden * sizeof(float);
}

void cpu_residual_layernorm_bwd(smhf_device *dev, smhf_tensor dsum, smhf_tensor dx,
                                smhf_tensor dgamma, smhf_tensor dbeta, smhf_tensor dout,
                                smhf_tensor sum, smhf_tensor stats, smhf_tensor gamma,
                                const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || !CPU_ALL_F32(dev, "residual_layernorm_bwd", dsum, dx, dgamma, dbeta, dout,
                                    sum, stats, gamma)) {
        return;
    }
    int32_t rows = smhf_pack_count(pack, axis);
    size_t cols = (size_t)dout.cols;
    float *partials = cpu_partials_reserve(cpu, cpu_layernorm_partials(rows, dout.cols));
    if (partials == NULL) {
        return;
    }
    norm_bwd_task task = {cpu->kernels, dsum,     dx,   dout, sum,    stats,
                          gamma.data,   partials, pack, axis, dropout};
    smhf_parallel_for((size_t)rows, PARTIAL_ROWS, norm_bwd_body, &task);
    for (int32_t row = 0; row < rows; row += PARTIAL_ROWS) {
        const float *part = partials + (size_t)(row / PARTIAL_ROWS) * 2 * cols;
        cpu->kernels->axpy(dgamma.data, part, 1.0f, cols);
        cpu->kernels->axpy(dbeta.data, part + cols, 1.0f, cols);
    }
}
