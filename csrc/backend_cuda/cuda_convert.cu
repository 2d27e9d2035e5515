/* cuda_convert.cu: between fp32, bf16 and int8 with one scale a row. */
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_table.cuh"

#define CONVERT_THREADS 256

template <typename D, typename S>
__global__ void __launch_bounds__(CONVERT_THREADS)
    convert_kernel(cuda_rows<D> dst, cuda_rows<const S> src, int rows, int cols) {
    const int group = blockIdx.x * CONVERT_THREADS + threadIdx.x;
    if (group * 4 >= cols) {
        return;
    }
    for (int r = blockIdx.y; r < rows; r += gridDim.y) {
        float v[4];
        load_four(v, src.data + r * src.ld, group, cols, four_aligned(src.data, src.ld));
        store_four(dst.data + r * dst.ld, v, group, cols, four_aligned(dst.data, dst.ld));
    }
}

/* A block a row: scale = max|x| / 127, value = round(x / scale), halves to even. */
template <typename S>
__global__ void __launch_bounds__(CONVERT_THREADS)
    quantize_kernel(cuda_rows<int8_t> dst, float *scales, cuda_rows<const S> src, int cols) {
    __shared__ float parts[CUDA_WARP];
    const int r = blockIdx.x;
    float top = 0.0f;
    for (int c = threadIdx.x; c < cols; c += CONVERT_THREADS) {
        top = fmaxf(top, fabsf(to_float(src.data[r * src.ld + c])));
    }
    top = block_max(top, parts);
    const float inverse = top > 0.0f ? 127.0f / top : 0.0f;
    for (int c = threadIdx.x; c < cols; c += CONVERT_THREADS) {
        float v = rintf(to_float(src.data[r * src.ld + c]) * inverse);
        v = v > 127.0f ? 127.0f : v;
        dst.data[r * dst.ld + c] = (int8_t)(v >= -127.0f ? v : -127.0f);
    }
    if (threadIdx.x == 0) {
        scales[r] = top / 127.0f;
    }
}

template <typename D>
__global__ void __launch_bounds__(CONVERT_THREADS)
    dequantize_kernel(cuda_rows<D> dst, cuda_rows<const int8_t> src, const float *scales,
                      int cols) {
    const int r = blockIdx.x;
    for (int c = threadIdx.x; c < cols; c += CONVERT_THREADS) {
        dst.data[r * dst.ld + c] = from_float<D>((float)src.data[r * src.ld + c] * scales[r]);
    }
}

static dim3 grid_of(const cuda_device *cuda, int rows, int cols) {
    const int across = cuda_blocks(cols, 4 * CONVERT_THREADS);
    const int down = cuda->units * 16 / (across > 0 ? across : 1) + 1;
    return dim3((unsigned)across, (unsigned)(rows < down ? rows : down));
}

static void convert_floats(cuda_device *cuda, smhf_tensor dst, smhf_tensor src, int rows) {
    CUDA_DTYPE(dst.dtype, D, CUDA_DTYPE(src.dtype, S, {
                   CUDA_LAUNCH(cuda, "convert", (convert_kernel<D, S>),
                               grid_of(cuda, rows, dst.cols), CONVERT_THREADS, 0,
                               cuda_rows_of<D>(dst), cuda_rows_of<const S>(src), rows, dst.cols);
               }));
}

void cuda_convert_dense(cuda_device *cuda, void *dst, smhf_dtype dtype, smhf_tensor src,
                        int32_t rows) {
    convert_floats(cuda, smhf_tensor_of(dst, rows, src.cols, dtype), src, rows);
}

static int convertible(smhf_tensor t) {
    return t.dtype != SMHF_DTYPE_I32 && t.layout == SMHF_LAYOUT_ROWS &&
           (t.dtype != SMHF_DTYPE_I8 || t.scales != NULL);
}

void cuda_convert(smhf_device *dev, smhf_tensor dst, smhf_tensor src) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL) {
        return;
    }
    const int from_int8 = src.dtype == SMHF_DTYPE_I8, to_int8 = dst.dtype == SMHF_DTYPE_I8;
    if (!convertible(dst) || !convertible(src) || (from_int8 && to_int8)) {
        cuda_fail(cuda, SMHF_E_UNSUPPORTED,
                  "convert on CUDA: expected fp32, bf16 or int8 with scales, in row layout");
        return;
    }
    if (to_int8) {
        CUDA_DTYPE(src.dtype, S,
                   CUDA_LAUNCH(cuda, "convert", quantize_kernel<S>, dst.rows, CONVERT_THREADS, 0,
                               cuda_rows_of<int8_t>(dst), dst.scales, cuda_rows_of<const S>(src),
                               dst.cols));
    } else if (from_int8) {
        CUDA_DTYPE(dst.dtype, D,
                   CUDA_LAUNCH(cuda, "convert", dequantize_kernel<D>, dst.rows, CONVERT_THREADS, 0,
                               cuda_rows_of<D>(dst), cuda_rows_of<const int8_t>(src), src.scales,
                               dst.cols));
    } else {
        convert_floats(cuda, dst, src, dst.rows);
    }
}
