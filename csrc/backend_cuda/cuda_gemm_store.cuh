/* cuda_gemm_store.cuh: how our products leave the registers: bias, what is kept, activation, rows of
 * whole words. For cuda_gemm_mma.cu and cuda_gemm_sm90a.cu. */
#ifndef SMHF_BACKEND_CUDA_CUDA_GEMM_STORE_CUH
#define SMHF_BACKEND_CUDA_CUDA_GEMM_STORE_CUH

#include "backend_cuda/cuda_gemm_mma.cuh"
#include "backend_cuda/cuda_mma.cuh"

/* Lane t of each four has one pair of four groups of eight columns, and gets all of group t. */
static __device__ __forceinline__ void turn_pairs(uint32_t p[4], int t) {
    const bool odd = t % 2 != 0, high = t / 2 != 0;
    for (int i = 0; i < 4; i += 2) {
        const uint32_t got = __shfl_xor_sync(CUDA_ALL_LANES, odd ? p[i] : p[i + 1], 1);
        p[i] = odd ? got : p[i];
        p[i + 1] = odd ? p[i + 1] : got;
    }
    for (int i = 0; i < 2; i++) {
        const uint32_t got = __shfl_xor_sync(CUDA_ALL_LANES, high ? p[i] : p[i + 2], 2);
        p[i] = high ? got : p[i];
        p[i + 2] = high ? p[i + 2] : got;
    }
}

struct alignas(16) sixteen_bytes {
    uint32_t word[4];
};

/* Four pairs of columns c0 + 8 j + 2 t of one row. All lanes of the warp come here. */
static __device__ __forceinline__ void store_row(bf16 *row, const float v[4][2], int c0, int N,
                                                 bool wide, bool inside) {
    const int t = threadIdx.x % 4;
    if (wide) {
        uint32_t p[4];
        for (int j = 0; j < 4; j++) {
            p[j] = pack_pair(v[j][0], v[j][1]);
        }
        turn_pairs(p, t);
        if (inside && c0 + 8 * t < N) {
            const sixteen_bytes all = {{p[0], p[1], p[2], p[3]}};
            *reinterpret_cast<sixteen_bytes *>(row + c0 + 8 * t) = all;
        }
        return;
    }
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 2; i++) {
            const int c = c0 + 8 * j + 2 * t + i;
            if (inside && c < N) {
                row[c] = __float2bfloat16_rn(v[j][i]);
            }
        }
    }
}

static __device__ __forceinline__ void store_row(float *row, const float v[4][2], int c0, int N,
                                                 bool wide, bool inside) {
    const int t = threadIdx.x % 4;
    (void)wide;
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 2; i++) {
            const int c = c0 + 8 * j + 2 * t + i;
            if (inside && c < N) {
                row[c] = v[j][i];
            }
        }
    }
}

/* Bias of the same columns; 0 where there is none. */
static __device__ __forceinline__ void load_bias(float b[4][2], const float *bias, int c0, int N) {
    const int t = threadIdx.x % 4;
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 2; i++) {
            const int c = c0 + 8 * j + 2 * t + i;
            b[j][i] = bias != NULL && c < N ? bias[c] : 0.0f;
        }
    }
}

/* pre = v, out = act(v); pre NULL: not kept. */
template <int ACT, typename D>
static __device__ __forceinline__ void finish_row(D *out, D *pre, float v[4][2], int c0, int N,
                                                  bool wide, bool inside) {
    if (pre != NULL) {
        store_row(pre, v, c0, N, wide, inside);
    }
    for (int j = 0; j < 4; j++) {
        v[j][0] = act_value(v[j][0], ACT);
        v[j][1] = act_value(v[j][1], ACT);
    }
    store_row(out, v, c0, N, wide, inside);
}

static inline int whole_words(const void *p, int64_t ld) {
    return (uintptr_t)p % 16 == 0 && ld % 8 == 0;
}

/* Are the rows of all results whole 16-byte words? */
static inline int cuda_gemm_wide(const cuda_gemm *g, const cuda_epilogue *e) {
    return g->out == SMHF_DTYPE_BF16 && g->N % 8 == 0 && whole_words(g->d, g->ldd) &&
           (e->pre == NULL || whole_words(e->pre, e->ld_pre));
}

/* A product as kernels see it, apart from where they find the operands. */
struct product_view {
    int64_t ld_out, ld_pre;
    int M, N, K;
    const float *bias; /* NULL: none */
    int wide;          /* rows of results are whole 16-byte words */
    cuda_pack pack;
};

static inline product_view product_view_of(const cuda_gemm *g, const cuda_epilogue *e) {
    return {g->ldd, e->ld_pre, g->M, g->N, g->K, e->bias, cuda_gemm_wide(g, e), e->pack};
}

#endif
