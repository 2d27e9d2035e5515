/* cuda_kernels.cuh: device functions that the op files share: numbers, reductions, dropout. */
#ifndef SMHF_BACKEND_CUDA_CUDA_KERNELS_CUH
#define SMHF_BACKEND_CUDA_CUDA_KERNELS_CUH

#include "backend_cuda/cuda_common.cuh"

#define CUDA_WARP 32
#define CUDA_ALL_LANES 0xFFFFFFFFu

/* ---- numbers -------------------------------------------------------------------------------- */

static __device__ __forceinline__ float to_float(float x) {
    return x;
}

static __device__ __forceinline__ float to_float(bf16 x) {
    return __bfloat162float(x);
}

template <typename T> static __device__ __forceinline__ T from_float(float x);

template <> __device__ __forceinline__ float from_float<float>(float x) {
    return x;
}

template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

/* Four neighbours in one access: two or four words. */
template <typename T> struct alignas(4 * sizeof(T)) cuda_four {
    T v[4];
};

template <typename T> static __device__ __forceinline__ bool four_aligned(const T *p, int64_t ld) {
    return (reinterpret_cast<uintptr_t>(p) % (4 * sizeof(T))) == 0 && ld % 4 == 0;
}

/* Columns 4 * group .. of a row of `cols`; what lies behind the row becomes 0. */
template <typename T>
static __device__ __forceinline__ void load_four(float v[4], const T *row, int group, int cols,
                                                 bool aligned) {
    const int c = group * 4;
    if (aligned && c + 4 <= cols) {
        const cuda_four<T> four = *reinterpret_cast<const cuda_four<T> *>(row + c);
        for (int j = 0; j < 4; j++) {
            v[j] = to_float(four.v[j]);
        }
        return;
    }
    for (int j = 0; j < 4; j++) {
        v[j] = c + j < cols ? to_float(row[c + j]) : 0.0f;
    }
}

template <typename T>
static __device__ __forceinline__ void store_four(T *row, const float v[4], int group, int cols,
                                                  bool aligned) {
    const int c = group * 4;
    if (aligned && c + 4 <= cols) {
        cuda_four<T> four;
        for (int j = 0; j < 4; j++) {
            four.v[j] = from_float<T>(v[j]);
        }
        *reinterpret_cast<cuda_four<T> *>(row + c) = four;
        return;
    }
    for (int j = 0; j < 4 && c + j < cols; j++) {
        row[c + j] = from_float<T>(v[j]);
    }
}

/* ---- reductions: a fixed tree, the same result in every lane ---------------------------------- */

static __device__ __forceinline__ float warp_sum(float x) {
    for (int offset = CUDA_WARP / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(CUDA_ALL_LANES, x, offset);
    }
    return x;
}

static __device__ __forceinline__ float warp_max(float x) {
    for (int offset = CUDA_WARP / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(CUDA_ALL_LANES, x, offset));
    }
    return x;
}

static __device__ __forceinline__ double warp_sum_double(double x) {
    for (int offset = CUDA_WARP / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(CUDA_ALL_LANES, x, offset);
    }
    return x;
}

/* Over a block of whole warps, at most 32; `shared` holds 32. Callable again at once. */
static __device__ __forceinline__ float block_sum(float x, float *shared) {
    const int lane = threadIdx.x % CUDA_WARP, warps = blockDim.x / CUDA_WARP;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) {
        shared[threadIdx.x / CUDA_WARP] = x;
    }
    __syncthreads();
    return warp_sum(lane < warps ? shared[lane] : 0.0f);
}

static __device__ __forceinline__ float block_max(float x, float *shared) {
    const int lane = threadIdx.x % CUDA_WARP, warps = blockDim.x / CUDA_WARP;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) {
        shared[threadIdx.x / CUDA_WARP] = x;
    }
    __syncthreads();
    return warp_max(lane < warps ? shared[lane] : -INFINITY);
}

static __device__ __forceinline__ double block_sum_double(double x, double *shared) {
    const int lane = threadIdx.x % CUDA_WARP, warps = blockDim.x / CUDA_WARP;
    x = warp_sum_double(x);
    __syncthreads();
    if (lane == 0) {
        shared[threadIdx.x / CUDA_WARP] = x;
    }
    __syncthreads();
    return warp_sum_double(lane < warps ? shared[lane] : 0.0);
}

/* ---- packs ---------------------------------------------------------------------------------- */

static __device__ __forceinline__ int pack_rows(const cuda_pack &pack) {
    return pack.counts[pack.count];
}

/* The token behind row r: of all tokens, of the first of each sequence, of the picked ones. */
static __device__ __forceinline__ int pack_token(const cuda_pack &pack, int r) {
    return pack.axis == SMHF_AXIS_TOKENS ? r
           : pack.axis == SMHF_AXIS_ROWS ? pack.cu_seqlens[r]
                                         : pack.picks[r];
}

/* ---- dropout: identities in, factors out ------------------------------------------------------- */

/* Who draws: everything of smhf_dropout_draw but the group. */
typedef struct draw_row {
    uint32_t step, sequence, head, position;
} draw_row;

static __device__ __forceinline__ draw_row draw_row_of(const cuda_drop &drop,
                                                       const cuda_pack &pack, int r) {
    draw_row who = {0, 0, 0, 0};
    if (drop.threshold != 0) {
        const int token = pack_token(pack, r);
        who.step = drop.step->dropout_step;
        who.sequence = pack.sequence_ids[pack.axis == SMHF_AXIS_ROWS ? r : pack.token_rows[token]];
        who.position = (uint32_t)pack.positions[token];
    }
    return who;
}

static __device__ __forceinline__ void draw_four(float factor[4], const cuda_drop &drop,
                                                 const draw_row &who, int group) {
    if (drop.threshold == 0) {
        factor[0] = factor[1] = factor[2] = factor[3] = 1.0f;
        return;
    }
    uint32_t draws[4];
    smhf_dropout_draw(drop.seed, who.step, drop.site, who.sequence, who.head, who.position,
                      (uint32_t)group, draws);
    for (int j = 0; j < 4; j++) {
        factor[j] = (draws[j] >> 8) >= drop.threshold ? drop.scale : 0.0f;
    }
}

/* What dropout makes of x: 0 where it is dropped, also when x is not a number. */
static __device__ __forceinline__ float dropped(float x, float factor) {
    return factor != 0.0f ? x * factor : 0.0f;
}

/* ---- activations ------------------------------------------------------------------------------ */

static __device__ __forceinline__ float act_value(float x, int act) {
    switch (act) {
    case SMHF_ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.707106781f));
    case SMHF_ACT_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
    case SMHF_ACT_RELU:
        return x < 0.0f ? 0.0f : x; /* a NaN stays */
    case SMHF_ACT_TANH:
        return tanhf(x);
    default:
        return x;
    }
}

/* Slope from what was saved: the value before for GELU, the value after for RELU and TANH. */
static __device__ __forceinline__ float act_slope(float s, int act) {
    switch (act) {
    case SMHF_ACT_GELU:
        return 0.5f * (1.0f + erff(s * 0.707106781f)) + s * 0.398942280f * expf(-0.5f * s * s);
    case SMHF_ACT_GELU_TANH: {
        const float t = tanhf(0.797884561f * (s + 0.044715f * s * s * s));
        return 0.5f * (1.0f + t) +
               0.5f * s * (1.0f - t * t) * 0.797884561f * (1.0f + 0.134145f * s * s);
    }
    case SMHF_ACT_RELU:
        return s > 0.0f ? 1.0f : 0.0f;
    case SMHF_ACT_TANH:
        return 1.0f - s * s;
    default:
        return 1.0f;
    }
}

#endif
