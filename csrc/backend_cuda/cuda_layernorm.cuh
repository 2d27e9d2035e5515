/* cuda_layernorm.cuh: one row of LayerNorm in the registers of a warp, for cuda_layernorm.cu and
 * cuda_embedding.cu. Lane l holds the groups of four columns i * 32 + l. */
#ifndef SMHF_BACKEND_CUDA_CUDA_LAYERNORM_CUH
#define SMHF_BACKEND_CUDA_CUDA_LAYERNORM_CUH

#include "backend_cuda/cuda_kernels.cuh"

#define NORM_WARPS 4
#define NORM_THREADS (NORM_WARPS * CUDA_WARP)
#define NORM_ROWS 16 /* of a block in backward */
#define NORM_WIDEST 1024

/* Runs the statement with GROUPS such that GROUPS * 128 >= H: 6 is the model's own 768. */
#define NORM_GROUPS(H, GROUPS, ...)                                                                \
    do {                                                                                           \
        if ((H) <= 6 * 128) {                                                                      \
            constexpr int GROUPS = 6;                                                              \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            constexpr int GROUPS = 8;                                                              \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

int cuda_norm_width(cuda_device *cuda, const char *op, int H);

/* v becomes (v - mean) * rstd * gamma + beta. Two passes: stable for large means. */
template <int GROUPS>
static __device__ __forceinline__ void layernorm_row(float *v, float *mean_out, float *rstd_out,
                                                     const float *gamma, const float *beta, int H,
                                                     float eps, int lane) {
    float sum = 0.0f;
    for (int i = 0; i < GROUPS; i++) {
        for (int j = 0; j < 4; j++) {
            sum += (i * CUDA_WARP + lane) * 4 + j < H ? v[4 * i + j] : 0.0f;
        }
    }
    const float mean = warp_sum(sum) / (float)H;
    float square = 0.0f;
    for (int i = 0; i < GROUPS; i++) {
        for (int j = 0; j < 4; j++) {
            const float off = v[4 * i + j] - mean;
            square += (i * CUDA_WARP + lane) * 4 + j < H ? off * off : 0.0f;
        }
    }
    const float rstd = 1.0f / sqrtf(warp_sum(square) / (float)H + eps);
    for (int i = 0; i < GROUPS; i++) {
        const int group = i * CUDA_WARP + lane;
        if (group * 4 < H) {
            float g[4], b[4];
            load_four(g, gamma, group, H, four_aligned(gamma, 0));
            load_four(b, beta, group, H, four_aligned(beta, 0));
            for (int j = 0; j < 4; j++) {
                v[4 * i + j] = (v[4 * i + j] - mean) * rstd * g[j] + b[j];
            }
        }
    }
    *mean_out = mean;
    *rstd_out = rstd;
}

/* d, the gradient of the result, becomes that of the sum s; dgamma and dbeta get the row's share. */
template <int GROUPS>
static __device__ __forceinline__ void layernorm_bwd_row(float *d, const float *s, float *dgamma,
                                                         float *dbeta, float mean, float rstd,
                                                         const float *gamma, int H, int lane) {
    float sum_g = 0.0f, sum_gx = 0.0f;
    for (int i = 0; i < GROUPS; i++) {
        const int group = i * CUDA_WARP + lane;
        if (group * 4 < H) {
            float g[4];
            load_four(g, gamma, group, H, four_aligned(gamma, 0));
            for (int j = 0; j < 4 && group * 4 + j < H; j++) {
                const float xhat = (s[4 * i + j] - mean) * rstd, dout = d[4 * i + j];
                dgamma[4 * i + j] += dout * xhat;
                dbeta[4 * i + j] += dout;
                d[4 * i + j] = dout * g[j];
                sum_g += d[4 * i + j];
                sum_gx += d[4 * i + j] * xhat;
            }
        }
    }
    const float mean_g = warp_sum(sum_g) / (float)H, mean_gx = warp_sum(sum_gx) / (float)H;
    for (int i = 0; i < GROUPS; i++) {
        if ((i * CUDA_WARP + lane) * 4 < H) {
            for (int j = 0; j < 4; j++) {
                const float xhat = (s[4 * i + j] - mean) * rstd;
                d[4 * i + j] = rstd * (d[4 * i + j] - mean_g - xhat * mean_gx);
            }
        }
    }
}

/* The warps of a block add their sums in order, in `lines` [2, H]; the block writes one line of
 * each to `out`. All threads of the block come here. */
template <int GROUPS>
static __device__ __forceinline__ void layernorm_partials(float *out, float *lines,
                                                          const float *dgamma, const float *dbeta,
                                                          int H) {
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    for (int w = 0; w < NORM_WARPS; w++) {
        if (warp == w) {
            for (int i = 0; i < GROUPS; i++) {
                for (int j = 0; j < 4; j++) {
                    const int c = (i * CUDA_WARP + lane) * 4 + j;
                    if (c < H) {
                        lines[c] = dgamma[4 * i + j] + (w > 0 ? lines[c] : 0.0f);
                        lines[H + c] = dbeta[4 * i + j] + (w > 0 ? lines[H + c] : 0.0f);
                    }
                }
            }
        }
        __syncthreads();
    }
    for (int c = threadIdx.x; c < 2 * H; c += NORM_THREADS) {
        out[c] = lines[c];
    }
}

#endif
