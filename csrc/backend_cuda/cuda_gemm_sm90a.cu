/* cuda_gemm_sm90a.cu: D = act(A B^T + bias) in BF16 for Hopper alone (assembled for sm_90a).
 *
 * Tiles of 128 x 192: on 132 multiprocessors a token count that is a multiple of 4,224 fills the
 * waves of every product of a network 768 wide. One block stays on each multiprocessor and takes
 * tiles in turn. Its first four warps only load: bulk copies into a ring of four stages of 64
 * columns, running ahead of the products and across tiles. Two groups of four warps multiply 64 x
 * 192 each; a stage goes back to the loader as soon as the products that read it are done. Sums are
 * F32 and run over k in order; bias, what is kept and the activation are made in registers.
 *
 * Not run on a device yet: used only where SMHF_CUDA_SM90A=1 says so, and there only for shapes on
 * which it agreed with cuBLASLt (cuda_product.cu). */
#include "backend_cuda/cuda_attention.cuh"
#include "backend_cuda/cuda_gemm_store.cuh"
#include "backend_cuda/cuda_wgmma.cuh"

#define TILE_M 128
#define TILE_N 192
#define STEP_K TILE_COLS
#define STAGES 4
#define GROUP 128 /* threads of four warps */
#define THREADS (3 * GROUP)
#define STAGE_BYTES ((TILE_M + TILE_N) * TILE_ROW_BYTES)

/* Where in the ring somebody is. */
typedef struct ring_place {
    int stage;
    uint32_t phase;
} ring_place;

static __device__ __forceinline__ void ring_next(ring_place *p) {
    p->stage++;
    if (p->stage == STAGES) {
        p->stage = 0;
        p->phase ^= 1u;
    }
}

typedef struct ring {
    unsigned char *stages;  /* [STAGES][STAGE_BYTES], A's rows then B's */
    uint64_t *full, *empty; /* [STAGES] */
    int *late;              /* somebody waited in vain: nobody waits any more */
} ring;

static __device__ __forceinline__ bf16 *ring_rows(const ring &r, int stage, int row) {
    return reinterpret_cast<bf16 *>(r.stages + stage * STAGE_BYTES + row * TILE_ROW_BYTES);
}

/* One thread: everything that the block's tiles need, as fast as stages come back. */
static __device__ void load_tiles(const ring &r, const cuda_tile_map *a, const cuda_tile_map *b,
                                  int tiles, int across, int steps) {
    ring_place at = {0, 0};
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row0 = tile / across * TILE_M, col0 = tile % across * TILE_N;
        for (int s = 0; s < steps; s++) {
            barrier_wait(&r.empty[at.stage], at.phase ^ 1u, r.late);
            barrier_expect(&r.full[at.stage], STAGE_BYTES);
            tile_load(ring_rows(r, at.stage, 0), a, s * STEP_K, row0, &r.full[at.stage]);
            tile_load(ring_rows(r, at.stage, TILE_M), b, s * STEP_K, col0, &r.full[at.stage]);
            ring_next(&at);
        }
    }
}

/* d = 64 x 192 of a tile, over all of K. Nothing between the products may part the warps, or the
 * assembler runs them one after another. */
static __device__ __forceinline__ void multiply_tile(float d[96], const ring &r, ring_place *at,
                                                     int row, int steps) {
    const bool speaks = threadIdx.x % GROUP == 0;
    int before = 0;
    for (int s = 0; s < steps; s++) {
        barrier_wait(&r.full[at->stage], at->phase, r.late);
        product_fence();
        for (int k = 0; k < STEP_K; k += 16) {
            product_64_192_16(d, tile_operand(ring_rows(r, at->stage, row), k),
                              tile_operand(ring_rows(r, at->stage, TILE_M), k), s > 0 || k > 0);
        }
        product_commit();
        product_wait<1>(); /* those of the step before have read their stage */
        if (speaks && s > 0) {
            barrier_arrive(&r.empty[before]);
        }
        before = at->stage;
        ring_next(at);
    }
    product_wait<0>();
    if (speaks) {
        barrier_arrive(&r.empty[before]);
    }
}

template <typename D, int ACT>
__global__ void __launch_bounds__(THREADS, 1)
    gemm_sm90a_kernel(D *out, D *pre, const __grid_constant__ cuda_tile_map a,
                      const __grid_constant__ cuda_tile_map b, product_view g) {
    CUDA_SHARED(unsigned char, shared);
    ring r;
#if defined(__CUDACC__)
    shared += (TILE_ATOM - shared_address(shared) % TILE_ATOM) % TILE_ATOM;
#endif
    r.stages = shared;
    r.full = reinterpret_cast<uint64_t *>(shared + STAGES * STAGE_BYTES);
    r.empty = r.full + STAGES;
    r.late = reinterpret_cast<int *>(r.empty + STAGES);
    const int group = threadIdx.x / GROUP, count = pack_rows(g.pack);
    const int rows = count < g.M ? count : g.M;
    const int across = (g.N + TILE_N - 1) / TILE_N, steps = (g.K + STEP_K - 1) / STEP_K;
    const int tiles = (rows + TILE_M - 1) / TILE_M * across;
    if (threadIdx.x == 0) {
        *r.late = 0;
        for (int s = 0; s < STAGES; s++) {
            barrier_init(&r.full[s], 1);
            barrier_init(&r.empty[s], 2);
        }
        barrier_init_done();
    }
    __syncthreads();
    if (group == 0) {
        registers_down<40>();
        if (threadIdx.x == 0) {
            load_tiles(r, &a, &b, tiles, across, steps);
        }
        return;
    }
    registers_up<232>();
    const int first = (group - 1) * 64, lane = threadIdx.x % CUDA_WARP;
    const int own = first + threadIdx.x % GROUP / CUDA_WARP * 16 + lane / 4;
    ring_place at = {0, 0};
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int row0 = tile / across * TILE_M, col0 = tile % across * TILE_N;
        float d[96];
        multiply_tile(d, r, &at, first, steps);
        CUDA_UNROLL
        for (int q = 0; q < TILE_N / 32; q++) {
            const int c0 = col0 + 32 * q;
            float bias[4][2];
            load_bias(bias, g.bias, c0, g.N);
            CUDA_UNROLL
            for (int half = 0; half < 2; half++) {
                const int row = row0 + own + 8 * half;
                float v[4][2];
                CUDA_UNROLL
                for (int j = 0; j < 4; j++) {
                    v[j][0] = d[16 * q + 4 * j + 2 * half] + bias[j][0];
                    v[j][1] = d[16 * q + 4 * j + 2 * half + 1] + bias[j][1];
                }
                finish_row<ACT>(out + row * g.ld_out, pre != NULL ? pre + row * g.ld_pre : pre, v,
                                c0, g.N, g.wide, row < rows);
            }
        }
    }
}

/* ---- launches ----------------------------------------------------------------------------------- */

#if defined(__CUDACC__)
typedef decltype(&::cuTensorMapEncodeTiled) encode_fn; /* found at run time: no libcuda here */

/* Boxes of box_rows x 64 of a row-major matrix. */
static int map_of(cuda_device *cuda, cuda_tile_map *map, const void *data, int64_t ld, int rows,
                  int cols, int box_rows) {
    void *symbol = NULL;
    cudaDriverEntryPointQueryResult found;
    if (!cuda_check(cuda,
                    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000,
                                                     cudaEnableDefault, &found),
                    "bulk tensor copies") ||
        symbol == NULL) {
        return 0;
    }
    const cuuint64_t sizes[2] = {(cuuint64_t)cols, (cuuint64_t)rows};
    const cuuint64_t strides[1] = {(cuuint64_t)ld * sizeof(bf16)};
    const cuuint32_t box[2] = {TILE_COLS, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    const CUresult code = ((encode_fn)symbol)(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)data, sizes, strides, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (code != CUDA_SUCCESS) {
        cuda_fail(cuda, SMHF_E_BACKEND, "cuda:%d: a tensor map of %d x %d cannot be made (%d)",
                  cuda->ordinal, rows, cols, (int)code);
        return 0;
    }
    return 1;
}
#else
static int map_of(cuda_device *cuda, cuda_tile_map *map, const void *data, int64_t ld, int rows,
                  int cols, int box_rows) {
    (void)cuda;
    map->data = (const bf16 *)data;
    map->ld = ld;
    map->rows = rows;
    map->cols = cols;
    map->box_rows = box_rows;
    return 1;
}
#endif

int cuda_gemm_sm90a_fits(const cuda_device *cuda, const cuda_gemm *g, int act) {
    return cuda->sm90a && cuda_gemm_mma_fits(g, act);
}

void cuda_gemm_sm90a(cuda_device *cuda, const cuda_gemm *g, const cuda_epilogue *e) {
    cuda_tile_map a, b;
    const product_view view = product_view_of(g, e);
    if (!map_of(cuda, &a, g->a, g->lda, g->M, g->K, TILE_M) ||
        !map_of(cuda, &b, g->b, g->ldb, g->N, g->K, TILE_N)) {
        return;
    }
    const int tiles = cuda_blocks(g->M, TILE_M) * cuda_blocks(g->N, TILE_N);
    const int grid = tiles < cuda->units ? tiles : cuda->units;
    const size_t shared = (size_t)STAGES * (STAGE_BYTES + 2 * sizeof(uint64_t)) +
                          sizeof(uint64_t) + TILE_ATOM;
    CUDA_DTYPE(g->out, D, {
        if (e->act == SMHF_ACT_GELU) {
            ATT_LAUNCH(cuda, "product and GELU", (gemm_sm90a_kernel<D, SMHF_ACT_GELU>), grid,
                       THREADS, shared, (D *)g->d, (D *)e->pre, a, b, view);
        } else {
            ATT_LAUNCH(cuda, "product on tensor cores", (gemm_sm90a_kernel<D, SMHF_ACT_NONE>), grid,
                       THREADS, shared, (D *)g->d, (D *)e->pre, a, b, view);
        }
    });
}
