/* cuda_gelu.cu: bias and activation over a product, and the backward pass of an activation.
 *
 * cuBLASLt's GELU is the tanh form and ours is erf, so forward is a pass of its own over the
 * product: written once, it reads the raw product and writes both what is kept and the result. */
#include "backend_cuda/cuda_gelu.cuh"
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_table.cuh"

#define ACT_THREADS 256

/* Rows go by in steps of gridDim.y; x: group of four columns. */
template <typename T>
__global__ void __launch_bounds__(ACT_THREADS)
    bias_act_kernel(cuda_rows<T> y, cuda_rows<T> pre, cuda_rows<const T> raw, const float *bias,
                    int cols, int act, cuda_pack pack) {
    const int group = blockIdx.x * ACT_THREADS + threadIdx.x, rows = pack_rows(pack);
    if (group * 4 >= cols) {
        return;
    }
    float b[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (bias != NULL) {
        load_four(b, bias, group, cols, four_aligned(bias, 0));
    }
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        float v[4];
        load_four(v, raw.data + r * raw.ld, group, cols, four_aligned(raw.data, raw.ld));
        for (int j = 0; j < 4; j++) {
            v[j] += b[j];
        }
        if (pre.data != NULL) {
            store_four(pre.data + r * pre.ld, v, group, cols, four_aligned(pre.data, pre.ld));
        }
        for (int j = 0; j < 4; j++) {
            v[j] = act_value(v[j], act);
        }
        store_four(y.data + r * y.ld, v, group, cols, four_aligned(y.data, y.ld));
    }
}

template <typename T>
__global__ void __launch_bounds__(ACT_THREADS)
    act_bwd_kernel(cuda_rows<T> dpre, cuda_rows<const T> dy, cuda_rows<const T> saved, int cols,
                   int act, cuda_pack pack) {
    const int group = blockIdx.x * ACT_THREADS + threadIdx.x, rows = pack_rows(pack);
    if (group * 4 >= cols) {
        return;
    }
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        float d[4], s[4];
        load_four(d, dy.data + r * dy.ld, group, cols, four_aligned(dy.data, dy.ld));
        load_four(s, saved.data + r * saved.ld, group, cols, four_aligned(saved.data, saved.ld));
        for (int j = 0; j < 4; j++) {
            d[j] *= act_slope(s[j], act);
        }
        store_four(dpre.data + r * dpre.ld, d, group, cols, four_aligned(dpre.data, dpre.ld));
    }
}

/* Enough blocks to fill the device, each with a few rows. */
static dim3 grid_of(const cuda_device *cuda, int cols, int rows) {
    const int across = cuda_blocks(cols, 4 * ACT_THREADS);
    const int down = cuda->units * 16 / (across > 0 ? across : 1) + 1;
    return dim3((unsigned)across, (unsigned)(rows < down ? rows : down));
}

void cuda_bias_act(cuda_device *cuda, smhf_tensor y, smhf_tensor pre, smhf_tensor raw,
                   const float *bias, smhf_act act, int rows, cuda_pack pack) {
    CUDA_DTYPE(y.dtype, T, CUDA_LAUNCH(cuda, "bias and activation", bias_act_kernel<T>,
                                       grid_of(cuda, y.cols, rows), ACT_THREADS, 0,
                                       cuda_rows_of<T>(y), cuda_rows_of<T>(pre),
                                       cuda_rows_of<const T>(raw), bias, y.cols, (int)act, pack));
}

void cuda_act_slope(cuda_device *cuda, smhf_tensor dpre, smhf_tensor dy, smhf_tensor saved,
                    smhf_act act, int rows, cuda_pack pack) {
    CUDA_DTYPE(dpre.dtype, T,
               CUDA_LAUNCH(cuda, "act_bwd", act_bwd_kernel<T>, grid_of(cuda, dpre.cols, rows),
                           ACT_THREADS, 0, cuda_rows_of<T>(dpre), cuda_rows_of<const T>(dy),
                           cuda_rows_of<const T>(saved), dpre.cols, (int)act, pack));
}

void cuda_act_bwd(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy, smhf_tensor saved,
                  smhf_act act, const smhf_pack *pack, smhf_axis axis) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "act_bwd", dy.dtype, dpre, dy, saved)) {
        return;
    }
    cuda_act_slope(cuda, dpre, dy, saved, act, cuda_rows_count(pack, axis),
                   cuda_pack_of(pack, axis));
}
