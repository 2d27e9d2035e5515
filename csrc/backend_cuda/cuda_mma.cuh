/* cuda_mma.cuh: tensor-core instructions and what feeds them, with plain versions for the host.
 *
 * D [16, 8] += A [16, 16] B [16, 8], BF16 in, F32 sums, spread over the 32 lanes of a warp. With
 * g = lane / 4 and t = lane % 4, pairs of neighbours in one register:
 *     a[0]: A[g][2t, 2t+1]    a[1]: A[g+8][2t, 2t+1]    a[2], a[3]: the same 8 columns further
 *     b[0]: B[2t, 2t+1][g]    b[1]: B[2t+8, 2t+9][g]
 *     d[0], d[1]: D[g][2t, 2t+1]    d[2], d[3]: D[g+8][2t, 2t+1] */
#ifndef SMHF_BACKEND_CUDA_CUDA_MMA_CUH
#define SMHF_BACKEND_CUDA_CUDA_MMA_CUH

#include "backend_cuda/cuda_kernels.cuh"

/* Two neighbours as one register, the first in the low half. */
static __device__ __forceinline__ uint32_t pack_pair(float low, float high) {
    const bf16 pair[2] = {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
    uint32_t bits;
    memcpy(&bits, pair, sizeof bits);
    return bits;
}

static __device__ __forceinline__ uint32_t load_pair(const bf16 *p) {
    return *reinterpret_cast<const uint32_t *>(p);
}

/* load_matrices: four 8 x 8 matrices of BF16 from shared memory; lane l names row l % 8 of matrix
 * l / 8 (16 bytes, aligned), and r[i] becomes elements [l / 4][2 (l % 4)], + 1 of matrix i.
 * copy_async: 16 bytes from global to shared memory, only the first `bytes` read, the others 0; they
 * are there after commit, wait<N> (all groups but the last N) and, for other threads, a barrier. */
#if defined(__CUDACC__)

static __device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void load_matrices(uint32_t r[4], const bf16 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

static __device__ __forceinline__ void copy_async(void *dst, const void *src, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)),
                 "l"(src), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int OPEN> static __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}

static __device__ __forceinline__ void mma_16_8_16(float d[4], const uint32_t a[4],
                                                   const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

static inline void load_matrices(uint32_t r[4], const bf16 *row) {
    const unsigned char *slots = cuda_host_exchange(CUDA_ALL_LANES, &row, sizeof row);
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; i++) {
        const bf16 *from;
        memcpy(&from, slots + (8 * i + lane / 4) * CUDA_HOST_SLOT, sizeof from);
        memcpy(&r[i], from + 2 * (lane % 4), sizeof r[i]);
    }
}

static inline void copy_async(void *dst, const void *src, int bytes) {
    cuda_host_copy_async(dst, src, bytes);
}

static inline void copy_commit() {
    cuda_host_copy_commit();
}

template <int OPEN> static inline void copy_wait() {
    cuda_host_copy_wait(OPEN);
}

static inline float mma_half(const unsigned char *slots, int lane, int word, int half) {
    bf16 value;
    memcpy(&value, slots + lane * CUDA_HOST_SLOT + word * 4 + half * 2, sizeof value);
    return __bfloat162float(value);
}

static inline void mma_16_8_16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *slots = cuda_host_exchange(CUDA_ALL_LANES, mine, sizeof mine);
    const int g = (int)(threadIdx.x % 32) / 4, t = (int)(threadIdx.x % 4);
    for (int i = 0; i < 4; i++) {
        const int row = g + (i >= 2 ? 8 : 0), col = 2 * t + i % 2;
        for (int k = 0; k < 16; k++) {
            const int pair = k % 8 / 2;
            d[i] += mma_half(slots, row % 8 * 4 + pair, (row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0), k % 2) *
                    mma_half(slots, col * 4 + pair, 4 + (k >= 8 ? 1 : 0), k % 2);
        }
    }
}

#endif
#endif
