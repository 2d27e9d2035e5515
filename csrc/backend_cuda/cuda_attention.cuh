/* cuda_attention.cuh: shapes and views that cuda_attention.cu and cuda_attention_bwd.cu share.
 *
 * Queries of all tokens: a block is 32 queries (or 32 keys, for dk and dv) of one head of one
 * sequence, and walks the other side in tiles of 32; nothing of the size length^2 is ever stored
 * (flash attention, Dao et al. 2022). Four lanes share a row. Queries of the first tokens only: a
 * block is one head of one sequence. */
#ifndef SMHF_BACKEND_CUDA_CUDA_ATTENTION_CUH
#define SMHF_BACKEND_CUDA_CUDA_ATTENTION_CUH

#include "backend_cuda/cuda_kernels.cuh"

#define ATT_TILE 32
#define ATT_THREADS 128 /* four lanes a row */
#define ATT_KEYS 8      /* of a lane in a tile */
#define ATT_WIDEST 64

/* Runs the statement with the smallest SIZE of 32 and 64 that holds a head. */
#define ATT_SIZES(D, SIZE, ...)                                                                    \
    do {                                                                                           \
        if ((D) <= 32) {                                                                           \
            constexpr int SIZE = 32;                                                               \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            constexpr int SIZE = 64;                                                               \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

template <typename T> struct attention_view {
    cuda_rows<const T> q, k, v, out, dout;
    cuda_rows<T> result, dq, dk, dv; /* result: out of the forward pass */
    cuda_rows<float> lse;
    int heads, D, tiles;
    float scale;
    cuda_pack pack;
    cuda_drop drop;
};

/* One head of one sequence. */
typedef struct head_range {
    int first, length, column, head, b;
    draw_row who;
} head_range;

template <typename T>
static __device__ __forceinline__ head_range head_of(const attention_view<T> &a, int b, int head) {
    head_range r = {0, 0, head * a.D, head, b, {0, 0, (uint32_t)head, 0}};
    if (b < pack_rows(a.pack)) {
        r.first = a.pack.cu_seqlens[b];
        r.length = a.pack.cu_seqlens[b + 1] - r.first;
        if (a.drop.threshold != 0) {
            r.who.step = a.drop.step->dropout_step;
            r.who.sequence = a.pack.sequence_ids[b];
        }
    }
    return r;
}

/* The block's threads read rows first .. first + ROWS of one head, four columns at a time, and hand
 * each element to put(row, column, value); what lies behind the sequence or the head is 0. */
template <int ROWS, int SIZE, typename T, typename Put>
static __device__ __forceinline__ void read_tile(cuda_rows<const T> x, const head_range &r,
                                                 int first, int D, Put put) {
    const T *data = x.data + (int64_t)r.first * x.ld + r.column;
    const bool aligned = four_aligned(data, x.ld);
    for (int i = threadIdx.x; i < ROWS * (SIZE / 4); i += ATT_THREADS) {
        const int row = i / (SIZE / 4), group = i % (SIZE / 4);
        float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (first + row < r.length && group * 4 < D) {
            load_four(v, data + (first + row) * x.ld, group, D, aligned);
        }
        for (int j = 0; j < 4; j++) {
            put(row, group * 4 + j, v[j]);
        }
    }
}

/* A tile in shared memory, [ATT_TILE][SIZE + 1]. */
template <typename T, int SIZE>
static __device__ __forceinline__ void load_tile(float *tile, cuda_rows<const T> x,
                                                 const head_range &r, int first, int D) {
    read_tile<ATT_TILE, SIZE>(x, r, first, D, [=](int row, int column, float value) {
        tile[row * (SIZE + 1) + column] = value;
    });
}

template <int SIZE>
static __device__ __forceinline__ float dot_rows(const float *x, const float *y) {
    float sum = 0.0f;
    for (int d = 0; d < SIZE; d++) {
        sum += x[d] * y[d];
    }
    return sum;
}

/* The sum, or the greatest, over the four lanes of a row. */
static __device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(CUDA_ALL_LANES, x, 1);
    return x + __shfl_xor_sync(CUDA_ALL_LANES, x, 2);
}

static __device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(CUDA_ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(CUDA_ALL_LANES, x, 2));
}

/* The lane's columns sub, sub + 4 ... of a row of registers, to memory. */
template <typename T, int SIZE>
static __device__ __forceinline__ void store_columns(T *row, const float *acc, int sub, int D) {
    for (int i = 0; i < SIZE / 4; i++) {
        if (sub + 4 * i < D) {
            row[sub + 4 * i] = from_float<T>(acc[i]);
        }
    }
}

int cuda_attention_fits(cuda_device *cuda, const char *op, int D);

/* A kernel that may ask for more than 48 KiB of shared memory. */
#define ATT_LAUNCH(cuda, name, kernel, grid, threads, shared, ...)                                 \
    do {                                                                                           \
        auto wide_ = kernel;                                                                       \
        if ((shared) <= 48u * 1024u ||                                                             \
            cuda_check((cuda),                                                                     \
                       cudaFuncSetAttribute(wide_, cudaFuncAttributeMaxDynamicSharedMemorySize,    \
                                            (int)(shared)),                                        \
                       (name))) {                                                                  \
            CUDA_LAUNCH((cuda), (name), wide_, (grid), (threads), (shared), __VA_ARGS__);          \
        }                                                                                          \
    } while (0)

#endif
