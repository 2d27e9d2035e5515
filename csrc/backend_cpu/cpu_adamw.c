/* cpu_adamw.c: global gradient norm, AdamW, and plain passes over arrays. All segments of a call
 * form one list of chunks, so that hundreds of small tensors cost one trip to the pool. */
#include "backend_cpu/cpu_device.h"
#include "common/pool.h"

#include <math.h>
#include <string.h>

#define CHUNK 32768

typedef struct segments_task {
    const cpu_kernels *kernels;
    const smhf_segment *segments;
    int32_t count;
    double *partials; /* [chunks] */
    const smhf_step *step;
    const smhf_adamw_options *options;
} segments_task;

static size_t chunks_of(const smhf_segment *segment) {
    return ((size_t)segment->count + CHUNK - 1) / CHUNK;
}

static size_t total_chunks(const smhf_segment *segments, int32_t count) {
    size_t total = 0;
    for (int32_t i = 0; i < count; i++) {
        total += chunks_of(&segments[i]);
    }
    return total;
}

/* The segment of a chunk, and where in it the chunk begins. */
static const smhf_segment *find_chunk(const segments_task *task, size_t index, size_t *offset,
                                      size_t *length) {
    const smhf_segment *segment = task->segments;
    while (index >= chunks_of(segment)) {
        index -= chunks_of(segment);
        segment++;
    }
    *offset = index * CHUNK;
    size_t rest = (size_t)segment->count - *offset;
    *length = rest < CHUNK ? rest : CHUNK;
    return segment;
}

static void norm_body(void *context, size_t begin, size_t end) {
    const segments_task *task = context;
    for (size_t i = begin; i < end; i++) {
        size_t offset, length;
        const smhf_segment *segment = find_chunk(task, i, &offset, &length);
        task->partials[i] = task->kernels->square_sum(segment->grad + offset, length);
    }
}

void cpu_grad_norm(smhf_device *dev, smhf_step *step, const smhf_segment *segments,
                   int32_t segment_count, float max_norm) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL) {
        return;
    }
    size_t chunks = total_chunks(segments, segment_count);
    double *partials = cpu_partials_reserve(cpu, chunks * sizeof *partials);
    if (partials == NULL) {
        return;
    }
    segments_task task = {cpu->kernels, segments, segment_count, partials, NULL, NULL};
    smhf_parallel_for(chunks, 1, norm_body, &task);
    double sum = 0.0;
    for (size_t i = 0; i < chunks; i++) {
        sum += partials[i];
    }
    float norm = (float)sqrt(sum);
    float scale = max_norm / (norm + 1e-6f);
    step->grad_norm = norm;
    step->clip_scale = max_norm <= 0.0f ? 1.0f : scale > 1.0f ? 1.0f : scale; /* NaN stays */
    if (!isfinite(norm) || !isfinite(step->loss_sum)) {
        step->halted = 1;
    }
}

static void adamw_body(void *context, size_t begin, size_t end) {
    const segments_task *task = context;
    const smhf_step *step = task->step;
    for (size_t i = begin; i < end; i++) {
        size_t offset, length;
        const smhf_segment *s = find_chunk(task, i, &offset, &length);
        float lr = step->learning_rate * s->lr_scale;
        cpu_adamw k;
        k.beta2 = (float)task->options->beta2;
        k.eps = (float)task->options->eps;
        k.rest1 = (float)(1.0 - task->options->beta1);
        k.rest2 = (float)(1.0 - task->options->beta2);
        k.decay = (float)(1.0 - (double)lr * (double)s->weight_decay);
        k.step_size = lr / step->bias_correction1;
        k.v_scale = 1.0f / step->bias_correction2_sqrt;
        k.grad_scale = step->clip_scale;
        task->kernels->adamw(s->param + offset, s->grad + offset, s->m + offset, s->v + offset,
                             length, &k);
    }
}

void cpu_adamw_op(smhf_device *dev, const smhf_step *step, const smhf_segment *segments,
                  int32_t segment_count, const smhf_adamw_options *options) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || step->halted != 0) {
        return;
    }
    segments_task task = {cpu->kernels, segments, segment_count, NULL, step, options};
    smhf_parallel_for(total_chunks(segments, segment_count), 1, adamw_body, &task);
}

typedef struct axpy_task {
    const cpu_kernels *kernels;
    float *y;
    const float *x;
    float alpha;
} axpy_task;

static void axpy_body(void *context, size_t begin, size_t end) {
    const axpy_task *task = context;
    task->kernels->axpy(task->y + begin, task->x + begin, task->alpha, end - begin);
}

void cpu_axpy(smhf_device *dev, float *y, const float *x, float alpha, int64_t count) {
    cpu_device *cpu = cpu_begin(dev);
    if (cpu == NULL || count <= 0) {
        return;
    }
    axpy_task task = {cpu->kernels, y, x, alpha};
    smhf_parallel_for((size_t)count, CHUNK, axpy_body, &task);
}
