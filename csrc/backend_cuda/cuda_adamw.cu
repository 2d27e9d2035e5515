/* cuda_adamw.cu: global gradient norm, AdamW, and plain passes over arrays.
 *
 * All segments form one list of chunks in device memory, so a step is one launch whatever the
 * number of tensors. The list is uploaded when it is new; a trainer gives the same one every step,
 * so the steady state uploads nothing and a graph may hold the launches. Norm and clip scale stay on
 * the device. */
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_table.cuh"

#include <string.h>

#define CHUNK 16384
#define OPT_THREADS 256

typedef struct cuda_chunk {
    int64_t offset;
    int32_t segment, count;
} cuda_chunk;

/* ---- the list on the device --------------------------------------------------------------------- */

void cuda_segments_close(cuda_device *cuda) {
    for (int i = 0; i < CUDA_SEGMENT_TABLES; i++) {
        smhf_free(cuda->segments[i].host);
        cudaFree(cuda->segments[i].device);
    }
    memset(cuda->segments, 0, sizeof cuda->segments);
}

static int32_t chunks_of(const smhf_segment *segment) {
    return (int32_t)((segment->count + CHUNK - 1) / CHUNK);
}

/* Segments, then chunks, in one block of the host's. */
static char *build(const smhf_segment *segments, int32_t count, int32_t chunks, size_t *bytes) {
    const size_t head = cuda_align((size_t)count * sizeof *segments);
    *bytes = head + (size_t)chunks * sizeof(cuda_chunk);
    char *block = (char *)smhf_calloc(1, *bytes > 0 ? *bytes : 1);
    if (block == NULL) {
        return NULL;
    }
    if (count > 0) {
        memcpy(block, segments, (size_t)count * sizeof *segments);
    }
    cuda_chunk *chunk = (cuda_chunk *)(block + head);
    for (int32_t s = 0; s < count; s++) {
        for (int32_t i = 0; i < chunks_of(&segments[s]); i++) {
            const int64_t offset = (int64_t)i * CHUNK, rest = segments[s].count - offset;
            chunk->offset = offset;
            chunk->segment = s;
            chunk->count = (int32_t)(rest < CHUNK ? rest : CHUNK);
            chunk++;
        }
    }
    return block;
}

static int same_segments(const cuda_segment_table *t, const smhf_segment *segments,
                         int32_t count) {
    return t->device != NULL && t->count == count &&
           memcmp(t->host, segments, (size_t)count * sizeof *segments) == 0;
}

/* Makes `t` the list of these segments; waits for the queue once. */
static int rebuild(cuda_device *cuda, cuda_segment_table *t, const smhf_segment *segments,
                   int32_t count) {
    int32_t chunks = 0;
    size_t bytes = 0;
    smhf_error err = SMHF_ERROR_INIT;
    for (int32_t s = 0; s < count; s++) {
        chunks += chunks_of(&segments[s]);
    }
    char *block = build(segments, count, chunks, &bytes);
    void *device = NULL;
    if (block == NULL) {
        cuda_fail(cuda, SMHF_E_NOMEM, "list of %d segments: could not allocate %zu bytes", count,
                  bytes);
        return 0;
    }
    if (cuda_alloc(&cuda->base, &device, bytes, &err) != SMHF_OK) {
        cuda_fail(cuda, err.code, "%s", err.message);
        smhf_free(block);
        return 0;
    }
    const int fine = cuda_check(cuda, cudaMemcpyAsync(device, block, bytes, cudaMemcpyHostToDevice,
                                                      cuda->stream),
                                "list of segments") &&
                     cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "list of segments");
    cuda_retire(cuda, t->device);
    smhf_free(t->host);
    t->host = (smhf_segment *)block;
    t->device = fine ? device : NULL;
    t->count = count;
    t->chunks = chunks;
    if (!fine) {
        cudaFree(device);
    }
    return fine;
}

static const cuda_segment_table *table_of(cuda_device *cuda, const smhf_segment *segments,
                                          int32_t count) {
    cuda_segment_table *oldest = &cuda->segments[0];
    for (int i = 0; i < CUDA_SEGMENT_TABLES; i++) {
        cuda_segment_table *t = &cuda->segments[i];
        if (same_segments(t, segments, count)) {
            t->used = ++cuda->segment_clock;
            return t;
        }
        oldest = t->used < oldest->used ? t : oldest;
    }
    if (cuda->capturing) {
        cuda_fail(cuda, SMHF_E_ARG,
                  "a graph is being captured and its list of %d segments is new: run the step once "
                  "before capturing it",
                  (int)count);
        return NULL;
    }
    if (!rebuild(cuda, oldest, segments, count)) {
        return NULL;
    }
    oldest->used = ++cuda->segment_clock;
    return oldest;
}

static const smhf_segment *device_segments(const cuda_segment_table *t) {
    return (const smhf_segment *)t->device;
}

static const cuda_chunk *device_chunks(const cuda_segment_table *t) {
    return (const cuda_chunk *)((const char *)t->device +
                                cuda_align((size_t)t->count * sizeof(smhf_segment)));
}

/* ---- norm --------------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(OPT_THREADS)
    square_sum_kernel(double *partials, const smhf_segment *segments, const cuda_chunk *chunks) {
    __shared__ double parts[CUDA_WARP];
    const cuda_chunk chunk = chunks[blockIdx.x];
    const float *g = segments[chunk.segment].grad + chunk.offset;
    const bool aligned = four_aligned(g, 0);
    double sum = 0.0;
    for (int group = threadIdx.x; group * 4 < chunk.count; group += OPT_THREADS) {
        float v[4];
        load_four(v, g, group, chunk.count, aligned);
        sum += (double)(v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3]);
    }
    sum = block_sum_double(sum, parts);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = sum;
    }
}

static __global__ void __launch_bounds__(OPT_THREADS)
    grad_norm_kernel(smhf_step *step, const double *partials, int chunks, float max_norm) {
    __shared__ double parts[CUDA_WARP];
    double sum = 0.0;
    for (int i = threadIdx.x; i < chunks; i += OPT_THREADS) {
        sum += partials[i];
    }
    sum = block_sum_double(sum, parts);
    if (threadIdx.x == 0) {
        const float norm = (float)sqrt(sum);
        const float scale = max_norm / (norm + 1e-6f);
        step->grad_norm = norm;
        step->clip_scale = max_norm <= 0.0f ? 1.0f : scale > 1.0f ? 1.0f : scale; /* NaN stays */
        if (!isfinite(norm) || !isfinite(step->loss_sum)) {
            step->halted = 1;
        }
    }
}

void cuda_grad_norm(smhf_device *dev, smhf_step *step, const smhf_segment *segments,
                    int32_t segment_count, float max_norm) {
    cuda_device *cuda = cuda_begin(dev);
    const cuda_segment_table *t = cuda != NULL ? table_of(cuda, segments, segment_count) : NULL;
    double *partials =
        t != NULL ? (double *)cuda_scratch(cuda, (size_t)t->chunks * sizeof(double) + 8) : NULL;
    if (partials == NULL) {
        return;
    }
    CUDA_LAUNCH(cuda, "grad_norm, squares", square_sum_kernel, t->chunks, OPT_THREADS, 0, partials,
                device_segments(t), device_chunks(t));
    CUDA_LAUNCH(cuda, "grad_norm", grad_norm_kernel, 1, OPT_THREADS, 0, step, partials, t->chunks,
                max_norm);
}

/* ---- AdamW -------------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(OPT_THREADS)
    adamw_kernel(const smhf_step *step, const smhf_segment *segments, const cuda_chunk *chunks,
                 smhf_adamw_options options) {
    if (step->halted != 0) {
        return;
    }
    const cuda_chunk chunk = chunks[blockIdx.x];
    const smhf_segment s = segments[chunk.segment];
    float *p = s.param + chunk.offset, *m = s.m + chunk.offset, *v = s.v + chunk.offset;
    const float *g = s.grad + chunk.offset;
    const bool aligned = four_aligned(p, 0) && four_aligned(m, 0) && four_aligned(v, 0) &&
                         four_aligned(g, 0);
    const float lr = step->learning_rate * s.lr_scale;
    const float beta2 = (float)options.beta2, eps = (float)options.eps;
    const float rest1 = (float)(1.0 - options.beta1), rest2 = (float)(1.0 - options.beta2);
    const float decay = (float)(1.0 - (double)lr * (double)s.weight_decay);
    const float step_size = lr / step->bias_correction1;
    const float v_scale = 1.0f / step->bias_correction2_sqrt, clip = step->clip_scale;
    for (int group = threadIdx.x; group * 4 < chunk.count; group += OPT_THREADS) {
        float pv[4], gv[4], mv[4], vv[4];
        load_four(pv, p, group, chunk.count, aligned);
        load_four(gv, g, group, chunk.count, aligned);
        load_four(mv, m, group, chunk.count, aligned);
        load_four(vv, v, group, chunk.count, aligned);
        for (int j = 0; j < 4; j++) {
            const float grad = gv[j] * clip;
            mv[j] += rest1 * (grad - mv[j]);
            vv[j] = beta2 * vv[j] + rest2 * grad * grad;
            pv[j] = pv[j] * decay - step_size * mv[j] / (sqrtf(vv[j]) * v_scale + eps);
        }
        store_four(p, pv, group, chunk.count, aligned);
        store_four(m, mv, group, chunk.count, aligned);
        store_four(v, vv, group, chunk.count, aligned);
    }
}

void cuda_adamw(smhf_device *dev, const smhf_step *step, const smhf_segment *segments,
                int32_t segment_count, const smhf_adamw_options *options) {
    cuda_device *cuda = cuda_begin(dev);
    const cuda_segment_table *t = cuda != NULL ? table_of(cuda, segments, segment_count) : NULL;
    if (t != NULL) {
        CUDA_LAUNCH(cuda, "adamw", adamw_kernel, t->chunks, OPT_THREADS, 0, step,
                    device_segments(t), device_chunks(t), *options);
    }
}

/* ---- axpy --------------------------------------------------------------------------------------- */

static __global__ void __launch_bounds__(OPT_THREADS)
    axpy_kernel(float *y, const float *x, float alpha, int64_t count) {
    const int64_t stride = (int64_t)gridDim.x * OPT_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * OPT_THREADS + threadIdx.x; i < count; i += stride) {
        y[i] += alpha * x[i];
    }
}

void cuda_axpy(smhf_device *dev, float *y, const float *x, float alpha, int64_t count) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || count <= 0) {
        return;
    }
    const int64_t blocks = (count + OPT_THREADS - 1) / OPT_THREADS, most = cuda->units * 16;
    CUDA_LAUNCH(cuda, "axpy", axpy_kernel, (unsigned)(blocks < most ? blocks : most), OPT_THREADS,
                0, y, x, alpha, count);
}
