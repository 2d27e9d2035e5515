/* cuda_gemm_mma.cu: D = act(A B^T + bias) in BF16 on tensor cores, everything in one pass.
 *
 * cuBLASLt's GELU is the tanh form; ours is erf, so either a pass of its own goes over the product
 * or the product is ours. A block owns 128 x 128 of D, eight warps 64 x 32 each; A and B (both with
 * k contiguous) come in steps of 32 columns through three stages of shared memory, two of them under
 * way while one is multiplied. Sums are F32 and run over k in order; bias, what is kept for the
 * backward pass and the activation are made from the sums in registers. Rows behind the pack's count
 * are not computed. */
#include "backend_cuda/cuda_attention.cuh"
#include "backend_cuda/cuda_gemm_store.cuh"
#include "backend_cuda/cuda_mma.cuh"

#define TILE_M 128
#define TILE_N 128
#define STEP_K 32
#define STAGES 3
#define PITCH (STEP_K + 8) /* 80 bytes: the eight rows of a matrix lie in different banks */
#define THREADS 256
#define WARP_M 64
#define WARP_N 32

struct mma_view : product_view {
    const bf16 *a, *b; /* [M, K], [N, K] */
    int64_t lda, ldb;
};

/* Rows row0 .. + 128, columns k0 .. + 32 of x [rows, K] under way into `tile`. */
static __device__ __forceinline__ void load_stage(bf16 *tile, const bf16 *x, int64_t ld, int rows,
                                                  int row0, int k0, int K) {
    for (int i = threadIdx.x; i < TILE_M * (STEP_K / 8); i += THREADS) {
        const int r = i / (STEP_K / 8), k = i % (STEP_K / 8) * 8;
        const bool inside = row0 + r < rows && k0 + k < K;
        const bf16 *from = inside ? x + (row0 + r) * ld + k0 + k : x;
        copy_async(tile + r * PITCH + k, from, inside ? 16 : 0);
    }
}

/* d += 64 x 32 of a stage's product. */
static __device__ __forceinline__ void multiply_stage(float d[4][4][4], const bf16 *a_tile,
                                                      const bf16 *b_tile) {
    const int lane = threadIdx.x % CUDA_WARP;
    for (int k = 0; k < STEP_K; k += 16) {
        uint32_t b[2][4];
        for (int j = 0; j < 2; j++) {
            load_matrices(b[j], b_tile + (16 * j + lane % 8 + lane / 16 * 8) * PITCH + k +
                                    lane / 8 % 2 * 8);
        }
        for (int i = 0; i < 4; i++) {
            uint32_t a[4];
            load_matrices(a, a_tile + (16 * i + lane % 16) * PITCH + k + lane / 16 * 8);
            for (int j = 0; j < 4; j++) {
                mma_16_8_16(d[i][j], a, b[j / 2] + j % 2 * 2);
            }
        }
    }
}

template <typename D, int ACT>
__global__ void __launch_bounds__(THREADS, 2) gemm_mma_kernel(D *out, D *pre, mma_view g) {
    CUDA_SHARED(bf16, tiles); /* STAGES of [TILE_M + TILE_N][PITCH] */
    const int stage_size = (TILE_M + TILE_N) * PITCH;
    const int row0 = blockIdx.y * TILE_M, col0 = blockIdx.x * TILE_N;
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int wm = warp / (TILE_N / WARP_N) * WARP_M, wn = warp % (TILE_N / WARP_N) * WARP_N;
    const int count = pack_rows(g.pack), rows = count < g.M ? count : g.M;
    const int steps = (g.K + STEP_K - 1) / STEP_K;
    if (row0 >= rows) {
        return;
    }
    float d[4][4][4] = {};
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            bf16 *stage = tiles + s * stage_size;
            load_stage(stage, g.a, g.lda, rows, row0, s * STEP_K, g.K);
            load_stage(stage + TILE_M * PITCH, g.b, g.ldb, g.N, col0, s * STEP_K, g.K);
        }
        copy_commit();
    }
    for (int s = 0; s < steps; s++) {
        copy_wait<STAGES - 2>();
        __syncthreads(); /* everybody's part of stage s is there, and stage s - 1 is done with */
        const int next = s + STAGES - 1;
        if (next < steps) {
            bf16 *stage = tiles + next % STAGES * stage_size;
            load_stage(stage, g.a, g.lda, rows, row0, next * STEP_K, g.K);
            load_stage(stage + TILE_M * PITCH, g.b, g.ldb, g.N, col0, next * STEP_K, g.K);
        }
        copy_commit();
        const bf16 *stage = tiles + s % STAGES * stage_size;
        multiply_stage(d, stage + wm * PITCH, stage + (TILE_M + wn) * PITCH);
    }
    const int c0 = col0 + wn;
    float bias[4][2];
    load_bias(bias, g.bias, c0, g.N);
    CUDA_UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = row0 + wm + 16 * (i / 2) + 8 * (i % 2) + lane / 4;
        float v[4][2];
        for (int j = 0; j < 4; j++) {
            v[j][0] = d[i / 2][j][2 * (i % 2)] + bias[j][0];
            v[j][1] = d[i / 2][j][2 * (i % 2) + 1] + bias[j][1];
        }
        finish_row<ACT>(out + r * g.ld_out, pre != NULL ? pre + r * g.ld_pre : pre, v, c0, g.N,
                        g.wide, r < rows);
    }
}

/* ---- launches ----------------------------------------------------------------------------------- */

int cuda_gemm_mma_fits(const cuda_gemm *g, int act) {
    return (act == SMHF_ACT_NONE || act == SMHF_ACT_GELU) && g->in == SMHF_DTYPE_BF16 && !g->ta &&
           g->tb && g->beta == 0.0f && g->K > 0 && g->K % 8 == 0 &&
           whole_words(g->a, g->lda) && whole_words(g->b, g->ldb);
}

void cuda_gemm_mma(cuda_device *cuda, const cuda_gemm *g, const cuda_epilogue *e) {
    const mma_view view = {product_view_of(g, e), (const bf16 *)g->a, (const bf16 *)g->b, g->lda,
                           g->ldb};
    const dim3 grid((unsigned)cuda_blocks(g->N, TILE_N), (unsigned)cuda_blocks(g->M, TILE_M));
    const size_t shared = (size_t)STAGES * (TILE_M + TILE_N) * PITCH * sizeof(bf16);
    CUDA_DTYPE(g->out, D, {
        if (e->act == SMHF_ACT_GELU) {
            ATT_LAUNCH(cuda, "product and GELU", (gemm_mma_kernel<D, SMHF_ACT_GELU>), grid, THREADS,
                       shared, (D *)g->d, (D *)e->pre, view);
        } else {
            ATT_LAUNCH(cuda, "product on tensor cores", (gemm_mma_kernel<D, SMHF_ACT_NONE>), grid,
                       THREADS, shared, (D *)g->d, (D *)e->pre, view);
        }
    });
}
