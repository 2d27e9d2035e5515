/* cuda_common.cuh: what the op files of backend_cuda share on the host side; private to the room.
 *
 * Launches go through CUDA_LAUNCH only. Compiled by nvcc it is the triple-chevron launch; compiled
 * by a host compiler (tests/cuda_host) it queues the same kernel for the fibers there. */
#ifndef SMHF_BACKEND_CUDA_CUDA_COMMON_CUH
#define SMHF_BACKEND_CUDA_CUDA_COMMON_CUH

#include "backend_cuda/backend_cuda.h"
#include "common/mem.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef __nv_bfloat16 bf16;

/* A list of segments on the device, with its chunks; see cuda_adamw.cu. */
typedef struct cuda_segment_table {
    smhf_segment *host; /* what the device copy was made from */
    int32_t count, capacity;
    void *device;
    size_t device_bytes;
    int32_t chunks;
    uint64_t used; /* when it was last asked for */
} cuda_segment_table;

#define CUDA_SEGMENT_TABLES 4

/* Blocks that a captured graph may still point to: freed with the device. */
typedef struct cuda_retired {
    struct cuda_retired *next;
    void *block;
} cuda_retired;

typedef struct cuda_gemm_state cuda_gemm_state; /* cuda_gemm.cu: cuBLASLt and its chosen algorithms */

typedef struct cuda_device {
    smhf_device base; /* first: a smhf_device * is a cuda_device * */
    int ordinal;
    pid_t pid;
    cudaStream_t stream;
    int capturing;
    int graphs; /* ever captured */
    int units, major, minor;

    void *scratch; /* of one op; ops follow one another on the stream, so it is reused */
    size_t scratch_bytes;
    cuda_retired *retired;
    cuda_gemm_state *gemm;
    int sm90a;       /* kernels for Hopper alone may be tried */
    int product_way; /* cuda_product.cu: the one that was asked for, or 0 */
    cuda_segment_table segments[CUDA_SEGMENT_TABLES];
    uint64_t segment_clock;
} cuda_device;

struct smhf_weight {
    smhf_tensor source; /* F32 */
    smhf_dtype compute;
    bf16 *copy; /* [N, K] dense; BF16 only */
};

/* The device ready for an op, or NULL when an earlier op has failed or the process was forked. */
cuda_device *cuda_begin(smhf_device *dev);
/* Keeps the sentence if it is the first. */
void cuda_fail(cuda_device *cuda, smhf_status code, const char *format, ...) SMHF_PRINTF(3, 4);
/* 1 when fine; else keeps "what: CUDA's sentence". */
int cuda_check(cuda_device *cuda, cudaError_t code, const char *what);
/* The same for functions that report themselves. */
smhf_status cuda_status(cudaError_t code, const char *what, smhf_error *err);

/* At least `bytes` for this op, 256-byte aligned; NULL on failure, which is kept. */
void *cuda_scratch(cuda_device *cuda, size_t bytes);
/* Frees a block, now or, when a graph may point to it, with the device. */
void cuda_retire(cuda_device *cuda, void *block);

static inline size_t cuda_align(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static inline int cuda_blocks(int64_t items, int per_block) {
    return (int)((items + per_block - 1) / per_block);
}

/* 0 and a kept sentence unless all present tensors are `dtype` rows; SMHF_DTYPE_F32 where the
 * contract says F32 always. */
int cuda_all(cuda_device *cuda, const char *op, smhf_dtype dtype, const smhf_tensor *tensors,
             size_t count);
#define CUDA_ALL(cuda, op, dtype, ...)                                                             \
    cuda_all_of((cuda), (op), (dtype), {__VA_ARGS__})

template <size_t N>
static inline int cuda_all_of(cuda_device *cuda, const char *op, smhf_dtype dtype,
                              const smhf_tensor (&tensors)[N]) {
    return cuda_all(cuda, op, dtype, tensors, N);
}

/* Runs the statement with T = float or bf16. */
#define CUDA_DTYPE(dtype, T, ...)                                                                  \
    do {                                                                                           \
        if ((dtype) == SMHF_DTYPE_BF16) {                                                          \
            typedef bf16 T;                                                                        \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            typedef float T;                                                                       \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
    } while (0)

#if defined(__CUDACC__)
#define CUDA_ENQUEUE(cuda, kernel, grid, block, shared, ...)                                       \
    kernel<<<(grid), (block), (shared), (cuda)->stream>>>(__VA_ARGS__)
#else
#define CUDA_ENQUEUE(cuda, kernel, grid, block, shared, ...)                                       \
    cuda_host_launch((cuda)->stream, kernel, (grid), (block), (shared), __VA_ARGS__)
#endif

/* The launch's own shared memory, as a pointer to T. Arrays declared __shared__ are for a few words. */
#if defined(__CUDACC__)
#define CUDA_SHARED(T, name)                                                                       \
    extern __shared__ __align__(16) unsigned char cuda_shared_bytes[];                             \
    T *name = reinterpret_cast<T *>(cuda_shared_bytes)
#else
#define CUDA_SHARED(T, name) T *name = reinterpret_cast<T *>(CUDA_SHARED_HOST)
#endif

/* Before a loop whose arrays must stay in registers. */
#if defined(__CUDACC__)
#define CUDA_UNROLL _Pragma("unroll")
#else
#define CUDA_UNROLL
#endif

/* A grid of nothing is not launched. `kernel` in parentheses when it has template arguments. */
#define CUDA_LAUNCH(cuda, name, kernel, grid_size, block_size, shared, ...)                        \
    do {                                                                                           \
        const dim3 grid_(grid_size);                                                               \
        if (grid_.x > 0 && grid_.y > 0 && grid_.z > 0) {                                           \
            auto kernel_ = kernel;                                                                 \
            CUDA_ENQUEUE((cuda), kernel_, grid_, dim3(block_size), (shared), __VA_ARGS__);         \
            cuda_check((cuda), cudaGetLastError(), (name));                                        \
        }                                                                                          \
    } while (0)

/* What kernels see of a pack; `count` is where their number of rows stands. */
typedef struct cuda_pack {
    const int32_t *counts, *cu_seqlens, *ids, *type_ids, *positions, *token_rows, *word_order,
        *word_starts, *picks;
    const uint32_t *sequence_ids;
    int axis, count;
} cuda_pack;

/* What kernels see of dropout; threshold 0: off. */
typedef struct cuda_drop {
    const smhf_step *step;
    uint64_t seed;
    uint32_t threshold, site;
    float scale;
} cuda_drop;

/* Rows of a tensor in a kernel. */
template <typename T> struct cuda_rows {
    T *data; /* NULL: absent */
    int64_t ld;
};

template <typename T> static inline cuda_rows<T> cuda_rows_of(smhf_tensor t) {
    cuda_rows<T> rows = {(T *)t.data, t.ld};
    return rows;
}

cuda_pack cuda_pack_of(const smhf_pack *pack, smhf_axis axis);
cuda_drop cuda_drop_of(smhf_dropout dropout);
/* Rows to launch for: those of the bucket, at least the count. */
int32_t cuda_rows_count(const smhf_pack *pack, smhf_axis axis);

/* ---- shared between op files ---------------------------------------------------------------- */

/* out[c] += sum over chunks of partials[chunk * stride + c], chunks = ceil(rows / rows_per_chunk),
 * rows as counted in the pack. */
void cuda_column_sum(cuda_device *cuda, float *out, const float *partials, int64_t stride, int cols,
                     int rows_per_chunk, cuda_pack pack);

/* dst [rows, cols] dense = src, between F32 and BF16. */
void cuda_convert_dense(cuda_device *cuda, void *dst, smhf_dtype dtype, smhf_tensor src,
                        int32_t rows);

/* Row-major D [M, N] = op(A) op(B) + beta D (+ bias, one value a column). A is [M, K], or [K, M]
 * when ta; B is [K, N], or [N, K] when tb. */
typedef struct cuda_gemm {
    int32_t M, N, K;
    int ta, tb;
    const void *a, *b;
    int64_t lda, ldb, ldd;
    void *d;
    smhf_dtype in, out; /* of a and b; of d */
    float beta;         /* 0 or 1 */
    const void *bias;   /* in the dtype of d, or NULL */
} cuda_gemm;

smhf_status cuda_gemm_open(cuda_device *cuda, smhf_error *err);
void cuda_gemm_close(cuda_device *cuda);
const char *cuda_gemm_name(const cuda_device *cuda);
void cuda_gemm_run(cuda_device *cuda, const cuda_gemm *g);
void cuda_gemm_plain(cuda_device *cuda, const cuda_gemm *g);

void cuda_segments_close(cuda_device *cuda);
/* Scratch that the op files need up to these limits. */
size_t cuda_linear_scratch(const smhf_limits *limits);
size_t cuda_layernorm_scratch(const smhf_limits *limits);
size_t cuda_embedding_scratch(const smhf_limits *limits);
size_t cuda_loss_scratch(const smhf_limits *limits);

#endif
