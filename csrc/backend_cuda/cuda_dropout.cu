/* cuda_dropout.cu: dropout by counters, and moving rows between tokens, sequences and picks. */
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_table.cuh"

#define ROW_THREADS 128
#define MEAN_WARPS 8

/* One row a block; threads take groups of four columns. */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    dropout_kernel(cuda_rows<T> y, cuda_rows<const T> x, int cols, cuda_pack pack,
                   cuda_drop drop) {
    const int r = blockIdx.x;
    if (r >= pack_rows(pack)) {
        return;
    }
    const draw_row who = draw_row_of(drop, pack, r);
    for (int group = threadIdx.x; group * 4 < cols; group += ROW_THREADS) {
        float v[4], factor[4];
        load_four(v, x.data + r * x.ld, group, cols, four_aligned(x.data, x.ld));
        draw_four(factor, drop, who, group);
        for (int j = 0; j < 4; j++) {
            v[j] = dropped(v[j], factor[j]);
        }
        store_four(y.data + r * y.ld, v, group, cols, four_aligned(y.data, y.ld));
    }
}

/* out[r] = x[token of r] */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    gather_rows_kernel(cuda_rows<T> out, cuda_rows<const T> x, int cols, cuda_pack pack) {
    const int r = blockIdx.x;
    if (r >= pack_rows(pack)) {
        return;
    }
    const int t = pack_token(pack, r);
    for (int c = threadIdx.x; c < cols; c += ROW_THREADS) {
        out.data[r * out.ld + c] = x.data[t * x.ld + c];
    }
}

/* dx[token of r] += dout[r]: tokens are distinct, so nothing races */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    scatter_add_rows_kernel(cuda_rows<T> dx, cuda_rows<const T> dout, int cols, cuda_pack pack) {
    const int r = blockIdx.x;
    if (r >= pack_rows(pack)) {
        return;
    }
    const int t = pack_token(pack, r);
    for (int c = threadIdx.x; c < cols; c += ROW_THREADS) {
        const float sum = to_float(dx.data[t * dx.ld + c]) + to_float(dout.data[r * dout.ld + c]);
        dx.data[t * dx.ld + c] = from_float<T>(sum);
    }
}

/* One sequence and 32 columns a block: warps take every eighth token, then add up in order. */
template <typename T>
__global__ void __launch_bounds__(MEAN_WARPS *CUDA_WARP)
    mean_rows_kernel(cuda_rows<T> out, cuda_rows<const T> x, int cols, cuda_pack pack) {
    __shared__ float parts[MEAN_WARPS][CUDA_WARP];
    const int b = blockIdx.x, warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int c = blockIdx.y * CUDA_WARP + lane;
    if (b >= pack_rows(pack)) {
        return;
    }
    const int first = pack.cu_seqlens[b], last = pack.cu_seqlens[b + 1];
    float sum = 0.0f;
    for (int t = first + warp; t < last && c < cols; t += MEAN_WARPS) {
        sum += to_float(x.data[t * x.ld + c]);
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && c < cols) {
        for (int w = 1; w < MEAN_WARPS; w++) {
            sum += parts[w][lane];
        }
        out.data[b * out.ld + c] = from_float<T>(sum / (float)(last - first));
    }
}

template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    mean_rows_bwd_kernel(cuda_rows<T> dx, cuda_rows<const T> dout, int cols, cuda_pack pack) {
    const int t = blockIdx.x;
    if (t >= pack_rows(pack)) {
        return;
    }
    const int b = pack.token_rows[t];
    const float length = (float)(pack.cu_seqlens[b + 1] - pack.cu_seqlens[b]);
    for (int c = threadIdx.x; c < cols; c += ROW_THREADS) {
        dx.data[t * dx.ld + c] = from_float<T>(to_float(dout.data[b * dout.ld + c]) / length);
    }
}

/* ---- ops ---------------------------------------------------------------------------------------- */

void cuda_dropout_op(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_pack *pack,
                     smhf_axis axis, smhf_dropout dropout) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "dropout", x.dtype, y, x)) {
        return;
    }
    CUDA_DTYPE(x.dtype, T,
               CUDA_LAUNCH(cuda, "dropout", dropout_kernel<T>, cuda_rows_count(pack, axis),
                           ROW_THREADS, 0, cuda_rows_of<T>(y), cuda_rows_of<const T>(x), x.cols,
                           cuda_pack_of(pack, axis), cuda_drop_of(dropout)));
}

void cuda_gather_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack,
                      smhf_axis axis) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "gather_rows", x.dtype, out, x)) {
        return;
    }
    CUDA_DTYPE(x.dtype, T,
               CUDA_LAUNCH(cuda, "gather_rows", gather_rows_kernel<T>,
                           cuda_rows_count(pack, axis), ROW_THREADS, 0, cuda_rows_of<T>(out),
                           cuda_rows_of<const T>(x), x.cols, cuda_pack_of(pack, axis)));
}

void cuda_scatter_add_rows(smhf_device *dev, smhf_tensor dx, smhf_tensor dout,
                           const smhf_pack *pack, smhf_axis axis) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "scatter_add_rows", dx.dtype, dx, dout)) {
        return;
    }
    CUDA_DTYPE(dx.dtype, T,
               CUDA_LAUNCH(cuda, "scatter_add_rows", scatter_add_rows_kernel<T>,
                           cuda_rows_count(pack, axis), ROW_THREADS, 0, cuda_rows_of<T>(dx),
                           cuda_rows_of<const T>(dout), dout.cols, cuda_pack_of(pack, axis)));
}

void cuda_mean_rows(smhf_device *dev, smhf_tensor out, smhf_tensor x, const smhf_pack *pack) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "mean_rows", x.dtype, out, x)) {
        return;
    }
    const dim3 grid((unsigned)cuda_rows_count(pack, SMHF_AXIS_ROWS),
                    (unsigned)cuda_blocks(x.cols, CUDA_WARP));
    CUDA_DTYPE(x.dtype, T,
               CUDA_LAUNCH(cuda, "mean_rows", mean_rows_kernel<T>, grid, MEAN_WARPS *CUDA_WARP, 0,
                           cuda_rows_of<T>(out), cuda_rows_of<const T>(x), x.cols,
                           cuda_pack_of(pack, SMHF_AXIS_ROWS)));
}

void cuda_mean_rows_bwd(smhf_device *dev, smhf_tensor dx, smhf_tensor dout,
                        const smhf_pack *pack) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "mean_rows_bwd", dx.dtype, dx, dout)) {
        return;
    }
    CUDA_DTYPE(dx.dtype, T,
               CUDA_LAUNCH(cuda, "mean_rows_bwd", mean_rows_bwd_kernel<T>,
                           cuda_rows_count(pack, SMHF_AXIS_TOKENS), ROW_THREADS, 0,
                           cuda_rows_of<T>(dx), cuda_rows_of<const T>(dout), dout.cols,
                           cuda_pack_of(pack, SMHF_AXIS_TOKENS)));
}
