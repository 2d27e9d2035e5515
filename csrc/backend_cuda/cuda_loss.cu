/* cuda_loss.cu: cross-entropy, mean squared error, binary cross-entropy, spans; with gradients.
 *
 * Three launches: the divisor (one block), each row's loss and gradient (a block a row), the sum of
 * the rows in order (one block). The gradient needs the divisor, so the order is that. */
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_table.cuh"

#include <math.h>

#define LOSS_THREADS 256

/* Options as a kernel sees them. scratch: [0] the divisor, [1] a second one, [2 + r] row r's loss */
typedef struct loss_view {
    int kind, C, ignore;
    float smoothing, denominator, grad_scale;
    const float *class_weights;
    const int32_t *labels; /* cross-entropy */
    int64_t label_ld;
    double *scratch;
} loss_view;

static __device__ __forceinline__ float class_weight(const loss_view &o, int c) {
    return o.class_weights != NULL ? o.class_weights[c] : 1.0f;
}

static __global__ void __launch_bounds__(LOSS_THREADS)
    loss_divisor_kernel(loss_view o, cuda_pack pack) {
    __shared__ double parts[CUDA_WARP];
    const int rows = pack_rows(pack);
    double count = 0.0;
    if (o.kind == SMHF_LOSS_CROSS_ENTROPY) {
        for (int r = threadIdx.x; r < rows; r += LOSS_THREADS) {
            const int label = o.labels[r * o.label_ld];
            if (label != o.ignore) {
                count += label >= 0 && label < o.C ? (double)class_weight(o, label) : 1.0;
            }
        }
        count = block_sum_double(count, parts);
    } else {
        count = (double)rows * (double)o.C;
    }
    if (threadIdx.x == 0) {
        o.scratch[0] = o.denominator > 0.0f ? (double)o.denominator : count;
    }
}

template <typename T>
static __device__ void cross_entropy_row(double *loss, T *d, const T *x, int label,
                                         const loss_view &o, float *parts) {
    if (label == o.ignore || label < 0 || label >= o.C) {
        const float fill = label == o.ignore ? 0.0f : NAN;
        for (int c = threadIdx.x; d != NULL && c < o.C; c += blockDim.x) {
            d[c] = from_float<T>(fill);
        }
        if (threadIdx.x == 0) {
            *loss = (double)fill;
        }
        return;
    }
    float top = -INFINITY;
    for (int c = threadIdx.x; c < o.C; c += blockDim.x) {
        top = fmaxf(top, to_float(x[c]));
    }
    top = block_max(top, parts);
    float total = 0.0f, weights = 0.0f, weighted = 0.0f;
    for (int c = threadIdx.x; c < o.C; c += blockDim.x) {
        const float off = to_float(x[c]) - top, w = class_weight(o, c);
        total += expf(off);
        weights += w;
        weighted += w * off;
    }
    total = block_sum(total, parts);
    if (o.smoothing > 0.0f) {
        weights = block_sum(weights, parts);
        weighted = block_sum(weighted, parts);
    }
    const float lse = logf(total), hard = (1.0f - o.smoothing) * class_weight(o, label);
    const float soft = o.smoothing / (float)o.C;
    const float own = to_float(x[label]) - top;
    const float scale = (float)((double)o.grad_scale / o.scratch[0]);
    __syncthreads(); /* the label's logit is read; d may be x */
    const float all = hard + (o.smoothing > 0.0f ? soft * weights : 0.0f);
    for (int c = threadIdx.x; d != NULL && c < o.C; c += blockDim.x) {
        const float p = expf(to_float(x[c]) - top - lse);
        const float g = all * p - (c == label ? hard : 0.0f) -
                        (o.smoothing > 0.0f ? soft * class_weight(o, c) : 0.0f);
        d[c] = from_float<T>(g * scale);
    }
    if (threadIdx.x == 0) {
        double value = (double)hard * ((double)lse - (double)own);
        if (o.smoothing > 0.0f) {
            value += (double)soft * ((double)weights * (double)lse - (double)weighted);
        }
        *loss = value;
    }
}

/* (x - t)^2, or log(1 + e^x) - t x written so that nothing overflows */
template <typename T>
static __device__ void elementwise_row(double *loss, T *d, const T *x, const float *t,
                                       const loss_view &o, double *parts) {
    const float scale = (float)((double)o.grad_scale / o.scratch[0]);
    double sum = 0.0;
    for (int c = threadIdx.x; c < o.C; c += blockDim.x) {
        const float v = to_float(x[c]), target = t[c];
        float g;
        if (o.kind == SMHF_LOSS_MSE) {
            sum += ((double)v - (double)target) * ((double)v - (double)target);
            g = 2.0f * (v - target);
        } else {
            const float e = expf(-fabsf(v));
            sum += (v < 0.0f ? 0.0 : (double)v) - (double)target * (double)v + (double)log1pf(e);
            g = (v < 0.0f ? e / (1.0f + e) : 1.0f / (1.0f + e)) - target;
        }
        if (d != NULL) {
            d[c] = from_float<T>(g * scale);
        }
    }
    sum = block_sum_double(sum, parts);
    if (threadIdx.x == 0) {
        *loss = sum;
    }
}

template <typename T>
__global__ void __launch_bounds__(LOSS_THREADS)
    loss_rows_kernel(cuda_rows<T> dlogits, cuda_rows<const T> logits, cuda_rows<const float> targets,
                     loss_view o, cuda_pack pack) {
    __shared__ float parts[CUDA_WARP];
    __shared__ double wide_parts[CUDA_WARP];
    const int rows = pack_rows(pack);
    for (int r = blockIdx.x; r < rows; r += gridDim.x) {
        T *d = dlogits.data != NULL ? dlogits.data + r * dlogits.ld : NULL;
        const T *x = logits.data + r * logits.ld;
        if (o.kind == SMHF_LOSS_CROSS_ENTROPY) {
            cross_entropy_row(&o.scratch[2 + r], d, x, o.labels[r * o.label_ld], o, parts);
        } else {
            elementwise_row(&o.scratch[2 + r], d, x, targets.data + r * targets.ld, o, wide_parts);
        }
    }
}

static __global__ void __launch_bounds__(LOSS_THREADS)
    loss_sum_kernel(float *loss, loss_view o, cuda_pack pack) {
    __shared__ double parts[CUDA_WARP];
    const int rows = pack_rows(pack);
    double sum = 0.0;
    for (int r = threadIdx.x; r < rows; r += LOSS_THREADS) {
        sum += o.scratch[2 + r];
    }
    sum = block_sum_double(sum, parts);
    if (threadIdx.x == 0) {
        *loss = (float)(sum / o.scratch[0]);
    }
}

size_t cuda_loss_scratch(const smhf_limits *limits) {
    const int32_t rows = limits->tokens > limits->rows ? limits->tokens : limits->rows;
    return (2 * (size_t)rows + 2) * sizeof(double);
}

void cuda_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
               smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack,
               smhf_axis axis) {
    cuda_device *cuda = cuda_begin(dev);
    const int labels = options->kind == SMHF_LOSS_CROSS_ENTROPY;
    if (cuda == NULL || !CUDA_ALL(cuda, "loss", logits.dtype, dlogits, logits) ||
        (!labels && !CUDA_ALL(cuda, "loss", SMHF_DTYPE_F32, targets))) {
        return;
    }
    if (labels && targets.dtype != SMHF_DTYPE_I32) {
        cuda_fail(cuda, SMHF_E_ARG, "loss: cross-entropy takes int32 labels");
        return;
    }
    const int n = cuda_rows_count(pack, axis);
    double *scratch = (double *)cuda_scratch(cuda, ((size_t)n + 2) * sizeof(double));
    if (scratch == NULL) {
        return;
    }
    const loss_view o = {(int)options->kind,
                         logits.cols,
                         options->ignore_label,
                         options->label_smoothing,
                         options->denominator,
                         options->grad_scale,
                         options->class_weights,
                         labels ? (const int32_t *)targets.data : NULL,
                         targets.ld,
                         scratch};
    const cuda_pack view = cuda_pack_of(pack, axis);
    const cuda_rows<const float> wanted = {labels ? NULL : (const float *)targets.data, targets.ld};
    const int threads = logits.cols <= 128 ? CUDA_WARP : LOSS_THREADS;
    CUDA_LAUNCH(cuda, "loss, divisor", loss_divisor_kernel, 1, LOSS_THREADS, 0, o, view);
    CUDA_DTYPE(logits.dtype, T,
               CUDA_LAUNCH(cuda, "loss", loss_rows_kernel<T>, n, threads, 0,
                           cuda_rows_of<T>(dlogits), cuda_rows_of<const T>(logits), wanted, o,
                           view));
    CUDA_LAUNCH(cuda, "loss, sum", loss_sum_kernel, 1, LOSS_THREADS, 0, loss, o, view);
}

/* ---- spans ------------------------------------------------------------------------------------- */

/* targets [B, 2]: positions; outside the sequence: ignored */
static __global__ void __launch_bounds__(LOSS_THREADS)
    span_divisor_kernel(cuda_rows<const int32_t> targets, loss_view o, cuda_pack pack) {
    __shared__ double parts[CUDA_WARP];
    const int rows = pack_rows(pack);
    for (int side = 0; side < 2; side++) {
        double count = 0.0;
        for (int b = threadIdx.x; b < rows; b += LOSS_THREADS) {
            const int at = targets.data[b * targets.ld + side];
            count += at >= 0 && at < pack.cu_seqlens[b + 1] - pack.cu_seqlens[b] ? 1.0 : 0.0;
        }
        count = block_sum_double(count, parts);
        if (threadIdx.x == 0) {
            o.scratch[side] = o.denominator > 0.0f ? (double)o.denominator : count;
        }
    }
}

/* Block (sequence, side): a softmax over the sequence's tokens in one column. */
template <typename T>
__global__ void __launch_bounds__(LOSS_THREADS)
    span_rows_kernel(cuda_rows<T> dlogits, cuda_rows<const T> logits,
                     cuda_rows<const int32_t> targets, loss_view o, cuda_pack pack) {
    __shared__ float parts[CUDA_WARP];
    const int b = blockIdx.x, side = blockIdx.y;
    if (b >= pack_rows(pack)) {
        return;
    }
    const int first = pack.cu_seqlens[b], length = pack.cu_seqlens[b + 1] - first;
    const int at = targets.data[b * targets.ld + side];
    const int counted = at >= 0 && at < length;
    const T *x = logits.data + first * logits.ld + side;
    T *d = dlogits.data != NULL ? dlogits.data + first * dlogits.ld + side : NULL;
    float top = -INFINITY, total = 0.0f;
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        top = fmaxf(top, to_float(x[i * logits.ld]));
    }
    top = block_max(top, parts);
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
        total += expf(to_float(x[i * logits.ld]) - top);
    }
    const float lse = logf(block_sum(total, parts));
    const float own = counted ? to_float(x[at * logits.ld]) - top : 0.0f;
    const float scale = (float)(0.5 * (double)o.grad_scale / o.scratch[side]);
    __syncthreads();
    for (int i = threadIdx.x; d != NULL && i < length; i += blockDim.x) {
        const float p = expf(to_float(x[i * logits.ld]) - top - lse);
        d[i * dlogits.ld] = from_float<T>(counted ? (p - (i == at ? 1.0f : 0.0f)) * scale : 0.0f);
    }
    if (threadIdx.x == 0) {
        o.scratch[2 + 2 * b + side] = counted ? (double)lse - (double)own : 0.0;
    }
}

static __global__ void __launch_bounds__(LOSS_THREADS)
    span_sum_kernel(float *loss, loss_view o, cuda_pack pack) {
    __shared__ double parts[CUDA_WARP];
    const int rows = pack_rows(pack);
    double value = 0.0;
    for (int side = 0; side < 2; side++) {
        double sum = 0.0;
        for (int b = threadIdx.x; b < rows; b += LOSS_THREADS) {
            sum += o.scratch[2 + 2 * b + side];
        }
        value += block_sum_double(sum, parts) / o.scratch[side];
    }
    if (threadIdx.x == 0) {
        *loss = (float)(0.5 * value);
    }
}

void cuda_span_loss(smhf_device *dev, float *loss, smhf_tensor dlogits, smhf_tensor logits,
                    smhf_tensor targets, const smhf_loss_options *options, const smhf_pack *pack) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "span_loss", logits.dtype, dlogits, logits)) {
        return;
    }
    if (targets.dtype != SMHF_DTYPE_I32 || logits.cols != 2) {
        cuda_fail(cuda, SMHF_E_ARG, "span_loss: expected int32 targets and logits [T, 2]");
        return;
    }
    const int n = cuda_rows_count(pack, SMHF_AXIS_ROWS);
    double *scratch = (double *)cuda_scratch(cuda, (2 * (size_t)n + 2) * sizeof(double));
    if (scratch == NULL) {
        return;
    }
    const loss_view o = {0,    2,   -1,   0.0f, options->denominator, options->grad_scale,
                         NULL, NULL, 0, scratch};
    const cuda_pack view = cuda_pack_of(pack, SMHF_AXIS_ROWS);
    const cuda_rows<const int32_t> wanted = cuda_rows_of<const int32_t>(targets);
    const int threads = pack->bucket.length <= 128 ? 64 : LOSS_THREADS;
    CUDA_LAUNCH(cuda, "span_loss, divisor", span_divisor_kernel, 1, LOSS_THREADS, 0, wanted, o,
                view);
    CUDA_DTYPE(logits.dtype, T,
               CUDA_LAUNCH(cuda, "span_loss", span_rows_kernel<T>, dim3((unsigned)n, 2), threads, 0,
                           cuda_rows_of<T>(dlogits), cuda_rows_of<const T>(logits), wanted, o,
                           view));
    CUDA_LAUNCH(cuda, "span_loss, sum", span_sum_kernel, 1, LOSS_THREADS, 0, loss, o, view);
}
