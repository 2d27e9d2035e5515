/* cuda_gemm_plain.cu: a product by ourselves, for shapes that cuBLASLt refuses (odd widths in bf16),
 * for machines without it, and as the slow version that the fast one is compared with.
 *
 * A block owns 64 x 64 of D and walks K in steps of 16 through shared memory; a thread owns 4 x 4.
 * Sums run over k in order, so a row's result does not depend on its neighbours. */
#include "backend_cuda/cuda_kernels.cuh"

#define TILE 64
#define STEP 16
#define GEMM_THREADS 256

template <typename T> struct gemm_view {
    const T *a, *b;
    int64_t lda, ldb, ldd;
    int M, N, K, ta, tb;
    float beta;
};

template <typename T, typename D>
__global__ void __launch_bounds__(GEMM_THREADS)
    gemm_plain_kernel(D *d, const D *bias, gemm_view<T> g) {
    __shared__ float a_tile[STEP][TILE + 4], b_tile[STEP][TILE + 4];
    const int row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE;
    const int tr = threadIdx.x / 16 * 4, tc = threadIdx.x % 16 * 4;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < g.K; k0 += STEP) {
        for (int i = threadIdx.x; i < TILE * STEP; i += GEMM_THREADS) {
            /* neighbours in memory go to neighbouring threads */
            const int ar = g.ta ? i % TILE : i / STEP, ak = g.ta ? i / TILE : i % STEP;
            const int bc = g.tb ? i / STEP : i % TILE, bk = g.tb ? i % STEP : i / TILE;
            const int r = row0 + ar, c = col0 + bc;
            float av = 0.0f, bv = 0.0f;
            if (r < g.M && k0 + ak < g.K) {
                av = to_float(g.ta ? g.a[(k0 + ak) * g.lda + r] : g.a[r * g.lda + k0 + ak]);
            }
            if (c < g.N && k0 + bk < g.K) {
                bv = to_float(g.tb ? g.b[c * g.ldb + k0 + bk] : g.b[(k0 + bk) * g.ldb + c]);
            }
            a_tile[ak][ar] = av;
            b_tile[bk][bc] = bv;
        }
        __syncthreads();
        for (int k = 0; k < STEP && k0 + k < g.K; k++) {
            for (int i = 0; i < 4; i++) {
                for (int j = 0; j < 4; j++) {
                    sum[i][j] += a_tile[k][tr + i] * b_tile[k][tc + j];
                }
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            const int r = row0 + tr + i, c = col0 + tc + j;
            if (r < g.M && c < g.N) {
                float value = sum[i][j];
                value += bias != NULL ? to_float(bias[c]) : 0.0f;
                value += g.beta != 0.0f ? g.beta * to_float(d[r * g.ldd + c]) : 0.0f;
                d[r * g.ldd + c] = from_float<D>(value);
            }
        }
    }
}

void cuda_gemm_plain(cuda_device *cuda, const cuda_gemm *g) {
    const dim3 grid((unsigned)cuda_blocks(g->N, TILE), (unsigned)cuda_blocks(g->M, TILE));
    CUDA_DTYPE(g->in, T, CUDA_DTYPE(g->out, D, {
                   const gemm_view<T> view = {(const T *)g->a, (const T *)g->b, g->lda, g->ldb,
                                              g->ldd,          g->M,            g->N,   g->K,
                                              g->ta,           g->tb,           g->beta};
                   CUDA_LAUNCH(cuda, "matrix product", (gemm_plain_kernel<T, D>), grid,
                               GEMM_THREADS, 0, (D *)g->d, (const D *)g->bias, view);
               }));
}
