/* cuda_layernorm.cu: residual + dropout + LayerNorm, forward and backward.
 *
 * A warp owns a row and keeps it in registers: one read, one write. Gradients of gamma and beta are
 * summed in two stages: a block sums its rows in registers and writes one line of partial sums, and
 * cuda_column_sum adds the lines in order. No atomics, so the same bits every time. */
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_layernorm.cuh"
#include "backend_cuda/cuda_table.cuh"

template <typename T, int GROUPS>
__global__ void __launch_bounds__(NORM_THREADS)
    residual_layernorm_fwd_kernel(cuda_rows<T> out, cuda_rows<T> sum, cuda_rows<float> stats,
                                  cuda_rows<const T> x, cuda_rows<const T> residual,
                                  const float *gamma, const float *beta, int H, float eps,
                                  cuda_pack pack, cuda_drop drop) {
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int r = blockIdx.x * NORM_WARPS + warp;
    if (r >= pack_rows(pack)) {
        return;
    }
    const draw_row who = draw_row_of(drop, pack, r);
    const T *xr = x.data + r * x.ld;
    float v[GROUPS * 4];
    for (int i = 0; i < GROUPS; i++) {
        const int group = i * CUDA_WARP + lane;
        if (group * 4 < H) {
            float factor[4];
            load_four(v + 4 * i, xr, group, H, four_aligned(x.data, x.ld));
            draw_four(factor, drop, who, group);
            for (int j = 0; j < 4; j++) {
                v[4 * i + j] = dropped(v[4 * i + j], factor[j]);
            }
            if (residual.data != NULL) {
                float more[4];
                load_four(more, residual.data + r * residual.ld, group, H,
                          four_aligned(residual.data, residual.ld));
                for (int j = 0; j < 4; j++) {
                    v[4 * i + j] += more[j];
                }
            }
            if (sum.data != NULL) {
                store_four(sum.data + r * sum.ld, v + 4 * i, group, H,
                           four_aligned(sum.data, sum.ld));
            }
        }
    }
    float mean, rstd;
    layernorm_row<GROUPS>(v, &mean, &rstd, gamma, beta, H, eps, lane);
    for (int i = 0; i < GROUPS; i++) {
        const int group = i * CUDA_WARP + lane;
        if (group * 4 < H) {
            store_four(out.data + r * out.ld, v + 4 * i, group, H, four_aligned(out.data, out.ld));
        }
    }
    if (lane == 0 && stats.data != NULL) {
        stats.data[r * stats.ld] = mean;
        stats.data[r * stats.ld + 1] = rstd;
    }
}

template <typename T, int GROUPS>
__global__ void __launch_bounds__(NORM_THREADS)
    residual_layernorm_bwd_kernel(cuda_rows<T> dsum, cuda_rows<T> dx, float *partials,
                                  cuda_rows<const T> dout, cuda_rows<const T> sum,
                                  cuda_rows<const float> stats, const float *gamma, int H,
                                  cuda_pack pack, cuda_drop drop) {
    CUDA_SHARED(float, lines); /* [2, H] */
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int rows = pack_rows(pack), first = blockIdx.x * NORM_ROWS;
    if (first >= rows) {
        return;
    }
    float dgamma[GROUPS * 4], dbeta[GROUPS * 4];
    for (int i = 0; i < GROUPS * 4; i++) {
        dgamma[i] = dbeta[i] = 0.0f;
    }
    for (int r = first + warp; r < first + NORM_ROWS && r < rows; r += NORM_WARPS) {
        float d[GROUPS * 4], s[GROUPS * 4];
        for (int i = 0; i < GROUPS; i++) {
            const int group = i * CUDA_WARP + lane;
            if (group * 4 < H) {
                load_four(d + 4 * i, dout.data + r * dout.ld, group, H,
                          four_aligned(dout.data, dout.ld));
                load_four(s + 4 * i, sum.data + r * sum.ld, group, H,
                          four_aligned(sum.data, sum.ld));
            }
        }
        layernorm_bwd_row<GROUPS>(d, s, dgamma, dbeta, stats.data[r * stats.ld],
                                  stats.data[r * stats.ld + 1], gamma, H, lane);
        const draw_row who = draw_row_of(drop, pack, r);
        for (int i = 0; i < GROUPS; i++) {
            const int group = i * CUDA_WARP + lane;
            if (group * 4 < H) {
                store_four(dsum.data + r * dsum.ld, d + 4 * i, group, H,
                           four_aligned(dsum.data, dsum.ld));
                if (dx.data != NULL && dx.data != dsum.data) {
                    float factor[4];
                    draw_four(factor, drop, who, group);
                    for (int j = 0; j < 4; j++) {
                        d[4 * i + j] = dropped(d[4 * i + j], factor[j]);
                    }
                    store_four(dx.data + r * dx.ld, d + 4 * i, group, H,
                               four_aligned(dx.data, dx.ld));
                }
            }
        }
    }
    layernorm_partials<GROUPS>(partials + (int64_t)blockIdx.x * 2 * H, lines, dgamma, dbeta, H);
}

/* ---- the second stage -------------------------------------------------------------------------- */

#define SUM_COLS 32
#define SUM_PARTS 8

static __global__ void column_sum_kernel(float *out, const float *partials, int64_t stride,
                                         int cols, int rows_per_chunk, cuda_pack pack) {
    __shared__ float parts[SUM_PARTS][SUM_COLS];
    const int c = blockIdx.x * SUM_COLS + threadIdx.x % SUM_COLS, part = threadIdx.x / SUM_COLS;
    const int chunks = (pack_rows(pack) + rows_per_chunk - 1) / rows_per_chunk;
    float sum = 0.0f;
    if (c < cols) {
        for (int i = part; i < chunks; i += SUM_PARTS) {
            sum += partials[i * stride + c];
        }
    }
    parts[part][threadIdx.x % SUM_COLS] = sum;
    __syncthreads();
    if (part == 0 && c < cols) {
        for (int i = 1; i < SUM_PARTS; i++) {
            sum += parts[i][threadIdx.x % SUM_COLS];
        }
        out[c] += sum;
    }
}

void cuda_column_sum(cuda_device *cuda, float *out, const float *partials, int64_t stride, int cols,
                     int rows_per_chunk, cuda_pack pack) {
    CUDA_LAUNCH(cuda, "column sums", column_sum_kernel, cuda_blocks(cols, SUM_COLS),
                SUM_COLS *SUM_PARTS, 0, out, partials, stride, cols, rows_per_chunk, pack);
}

/* ---- ops ---------------------------------------------------------------------------------------- */

size_t cuda_layernorm_scratch(const smhf_limits *limits) {
    return (size_t)cuda_blocks(limits->tokens, NORM_ROWS) * 2 * (size_t)limits->hidden *
           sizeof(float);
}

int cuda_norm_width(cuda_device *cuda, const char *op, int H) {
    if (H > NORM_WIDEST) {
        cuda_fail(cuda, SMHF_E_UNSUPPORTED, "%s on CUDA: rows of %d, at most %d are written for",
                  op, H, NORM_WIDEST);
        return 0;
    }
    return 1;
}

void cuda_residual_layernorm_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor sum,
                                 smhf_tensor stats, smhf_tensor x, smhf_tensor residual,
                                 smhf_tensor gamma, smhf_tensor beta, float eps,
                                 const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL ||
        !CUDA_ALL(cuda, "residual_layernorm_fwd", x.dtype, out, sum, x, residual) ||
        !CUDA_ALL(cuda, "residual_layernorm_fwd", SMHF_DTYPE_F32, stats, gamma, beta) ||
        !cuda_norm_width(cuda, "residual_layernorm_fwd", x.cols)) {
        return;
    }
    const int n = cuda_rows_count(pack, axis), H = x.cols;
    CUDA_DTYPE(x.dtype, T, NORM_GROUPS(H, GROUPS, {
                   CUDA_LAUNCH(cuda, "residual_layernorm_fwd",
                               (residual_layernorm_fwd_kernel<T, GROUPS>),
                               cuda_blocks(n, NORM_WARPS), NORM_THREADS, 0, cuda_rows_of<T>(out),
                               cuda_rows_of<T>(sum), cuda_rows_of<float>(stats),
                               cuda_rows_of<const T>(x), cuda_rows_of<const T>(residual),
                               (const float *)gamma.data, (const float *)beta.data, H, eps,
                               cuda_pack_of(pack, axis), cuda_drop_of(dropout));
               }));
}

void cuda_residual_layernorm_bwd(smhf_device *dev, smhf_tensor dsum, smhf_tensor dx,
                                 smhf_tensor dgamma, smhf_tensor dbeta, smhf_tensor dout,
                                 smhf_tensor sum, smhf_tensor stats, smhf_tensor gamma,
                                 const smhf_pack *pack, smhf_axis axis, smhf_dropout dropout) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL ||
        !CUDA_ALL(cuda, "residual_layernorm_bwd", dout.dtype, dsum, dx, dout, sum) ||
        !CUDA_ALL(cuda, "residual_layernorm_bwd", SMHF_DTYPE_F32, dgamma, dbeta, stats, gamma) ||
        !cuda_norm_width(cuda, "residual_layernorm_bwd", dout.cols)) {
        return;
    }
    const int n = cuda_rows_count(pack, axis), H = dout.cols;
    const int blocks = cuda_blocks(n, NORM_ROWS);
    const cuda_pack view = cuda_pack_of(pack, axis);
    float *partials = (float *)cuda_scratch(cuda, (size_t)blocks * 2 * (size_t)H * sizeof(float));
    if (partials == NULL || n == 0) {
        return;
    }
    CUDA_DTYPE(dout.dtype, T, NORM_GROUPS(H, GROUPS, {
                   CUDA_LAUNCH(cuda, "residual_layernorm_bwd",
                               (residual_layernorm_bwd_kernel<T, GROUPS>), blocks, NORM_THREADS,
                               2 * (size_t)H * sizeof(float), cuda_rows_of<T>(dsum),
                               cuda_rows_of<T>(dx), partials, cuda_rows_of<const T>(dout),
                               cuda_rows_of<const T>(sum), cuda_rows_of<const float>(stats),
                               (const float *)gamma.data, H, view, cuda_drop_of(dropout));
               }));
    cuda_column_sum(cuda, (float *)dgamma.data, partials, 2 * (int64_t)H, H, NORM_ROWS, view);
    cuda_column_sum(cuda, (float *)dbeta.data, partials + H, 2 * (int64_t)H, H, NORM_ROWS, view);
}
