/* cuda_attention_mma.cu: attention in BF16 on tensor cores, forward and backward, heads of 32 and 64.
 *
 * The same scheme as cuda_attention.cu (online softmax, one writer for each result, no atomics) with
 * tiles of 64 and products by mma_16_8_16. Scores, sums and statistics are F32; probabilities and
 * their gradients are rounded to BF16 where they are factors of a product. */
#include "backend_cuda/cuda_attention_mma.cuh"

/* Shared: q, k [64][SIZE + 8], v turned [SIZE][72]. */
template <int SIZE>
__global__ void __launch_bounds__(ATT_THREADS) attention_mma_fwd_kernel(attention_view<bf16> a) {
    CUDA_SHARED(bf16, q_tile);
    bf16 *k_tile = q_tile + MMA_TILE * (SIZE + MMA_PAD);
    bf16 *v_turned = k_tile + MMA_TILE * (SIZE + MMA_PAD);
    const int warp = threadIdx.x / CUDA_WARP, g = threadIdx.x % CUDA_WARP / 4, t = threadIdx.x % 4;
    const int first = blockIdx.x % a.tiles * MMA_TILE, row0 = first + 16 * warp;
    const head_range r = head_of(a, blockIdx.x / a.tiles, blockIdx.y);
    if (first >= r.length) {
        return;
    }
    load_tile_mma<SIZE>(q_tile, (bf16 *)NULL, a.q, r, first);
    __syncthreads();
    uint32_t q[SIZE / 16][4];
    for (int k = 0; k < SIZE / 16; k++) {
        fragment_a(q[k], q_tile, SIZE + MMA_PAD, 16 * warp, 16 * k);
    }
    float acc[SIZE / 8][4], top[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    for (int j = 0; j < SIZE / 8; j++) {
        acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.0f;
    }
    for (int key0 = 0; key0 < r.length; key0 += MMA_TILE) {
        __syncthreads();
        load_tile_mma<SIZE>(k_tile, (bf16 *)NULL, a.k, r, key0);
        load_tile_mma<SIZE>((bf16 *)NULL, v_turned, a.v, r, key0);
        __syncthreads();
        float s[MMA_COLS][4], next[2] = {top[0], top[1]}, sum[2] = {0.0f, 0.0f};
        product_tile<SIZE>(s, q, k_tile);
        for (int j = 0; j < MMA_COLS; j++) {
            for (int i = 0; i < 4; i++) {
                const int key = key0 + 8 * j + 2 * t + i % 2;
                s[j][i] = key < r.length ? a.scale * s[j][i] : -INFINITY;
                next[i / 2] = fmaxf(next[i / 2], s[j][i]);
            }
        }
        next[0] = quad_max(next[0]);
        next[1] = quad_max(next[1]);
        for (int j = 0; j < MMA_COLS; j++) {
            const uint32_t keep =
                a.drop.threshold != 0 ? keep_by_rows(a.drop, r.who, row0, key0 + 8 * j) : 15u;
            for (int i = 0; i < 4; i++) {
                const float p = __expf(s[j][i] - next[i / 2]);
                sum[i / 2] += p;
                s[j][i] = keep >> i & 1u ? p : 0.0f;
            }
        }
        for (int half = 0; half < 2; half++) {
            const float shrink = __expf(top[half] - next[half]);
            total[half] = total[half] * shrink + quad_sum(sum[half]);
            top[half] = next[half];
            for (int j = 0; j < SIZE / 8; j++) {
                acc[j][2 * half] *= shrink;
                acc[j][2 * half + 1] *= shrink;
            }
        }
        accumulate_tile<SIZE>(acc, s, v_turned);
    }
    const float kept = a.drop.threshold != 0 ? a.drop.scale : 1.0f;
    store_rows_mma<SIZE>(a.result, r, row0, acc, kept / total[0], kept / total[1]);
    for (int half = 0; half < 2 && a.lse.data != NULL && t == 0; half++) {
        const int row = row0 + g + 8 * half;
        if (row < r.length) {
            a.lse.data[(int64_t)(r.first + row) * a.lse.ld + r.head] =
                top[half] + logf(total[half]);
        }
    }
}

/* dout . out of the rows of a tile of queries, and their lse, into shared memory: two lanes a row. */
static __device__ __forceinline__ void load_row_sums(float *deltas, float *lses,
                                                     const attention_view<bf16> &a,
                                                     const head_range &r, int first) {
    const int row = threadIdx.x / 2, part = threadIdx.x % 2;
    const int64_t at = r.first + first + row;
    const bool inside = first + row < r.length;
    float sum = 0.0f;
    for (int d = part; d < a.D && inside; d += 2) {
        sum += to_float(a.dout.data[at * a.dout.ld + r.column + d]) *
               to_float(a.out.data[at * a.out.ld + r.column + d]);
    }
    sum += __shfl_xor_sync(CUDA_ALL_LANES, sum, 1);
    if (part == 0) {
        deltas[row] = sum;
        lses[row] = inside ? a.lse.data[at * a.lse.ld + r.head] : 0.0f;
    }
}

/* Shared: k, v [64][SIZE + 8] (before: q, dout), k turned, deltas and lses [64]. */
template <int SIZE>
__global__ void __launch_bounds__(ATT_THREADS) attention_mma_dq_kernel(attention_view<bf16> a) {
    CUDA_SHARED(bf16, k_tile);
    bf16 *v_tile = k_tile + MMA_TILE * (SIZE + MMA_PAD);
    bf16 *k_turned = v_tile + MMA_TILE * (SIZE + MMA_PAD);
    float *deltas = reinterpret_cast<float *>(k_turned + SIZE * MMA_LD), *lses = deltas + MMA_TILE;
    const int warp = threadIdx.x / CUDA_WARP, g = threadIdx.x % CUDA_WARP / 4, t = threadIdx.x % 4;
    const int first = blockIdx.x % a.tiles * MMA_TILE, row0 = first + 16 * warp;
    const head_range r = head_of(a, blockIdx.x / a.tiles, blockIdx.y);
    if (first >= r.length) {
        return;
    }
    load_tile_mma<SIZE>(k_tile, (bf16 *)NULL, a.q, r, first);
    load_tile_mma<SIZE>(v_tile, (bf16 *)NULL, a.dout, r, first);
    load_row_sums(deltas, lses, a, r, first);
    __syncthreads();
    uint32_t q[SIZE / 16][4], dout[SIZE / 16][4];
    for (int k = 0; k < SIZE / 16; k++) {
        fragment_a(q[k], k_tile, SIZE + MMA_PAD, 16 * warp, 16 * k);
        fragment_a(dout[k], v_tile, SIZE + MMA_PAD, 16 * warp, 16 * k);
    }
    const float delta[2] = {deltas[16 * warp + g], deltas[16 * warp + g + 8]};
    const float lse[2] = {lses[16 * warp + g], lses[16 * warp + g + 8]};
    const float kept = a.drop.threshold != 0 ? a.drop.scale : 1.0f;
    float acc[SIZE / 8][4];
    for (int j = 0; j < SIZE / 8; j++) {
        acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.0f;
    }
    for (int key0 = 0; key0 < r.length; key0 += MMA_TILE) {
        __syncthreads();
        load_tile_mma<SIZE>(k_tile, k_turned, a.k, r, key0);
        load_tile_mma<SIZE>(v_tile, (bf16 *)NULL, a.v, r, key0);
        __syncthreads();
        float s[MMA_COLS][4], dp[MMA_COLS][4];
        product_tile<SIZE>(s, q, k_tile);
        product_tile<SIZE>(dp, dout, v_tile);
        for (int j = 0; j < MMA_COLS; j++) {
            const uint32_t keep =
                a.drop.threshold != 0 ? keep_by_rows(a.drop, r.who, row0, key0 + 8 * j) : 15u;
            for (int i = 0; i < 4; i++) {
                const bool inside = key0 + 8 * j + 2 * t + i % 2 < r.length;
                const float p = __expf(a.scale * s[j][i] - lse[i / 2]);
                const float through = keep >> i & 1u ? dp[j][i] * kept : 0.0f;
                s[j][i] = inside ? p * (through - delta[i / 2]) : 0.0f;
            }
        }
        accumulate_tile<SIZE>(acc, s, k_turned);
    }
    store_rows_mma<SIZE>(a.dq, r, row0, acc, a.scale, a.scale);
}

/* Rows are keys, columns queries. Shared: q, dout [64][SIZE + 8] (before: k, v), both turned,
 * deltas and lses [64]. */
template <int SIZE>
__global__ void __launch_bounds__(ATT_THREADS) attention_mma_dkv_kernel(attention_view<bf16> a) {
    CUDA_SHARED(bf16, q_tile);
    bf16 *o_tile = q_tile + MMA_TILE * (SIZE + MMA_PAD);
    bf16 *q_turned = o_tile + MMA_TILE * (SIZE + MMA_PAD), *o_turned = q_turned + SIZE * MMA_LD;
    float *deltas = reinterpret_cast<float *>(o_turned + SIZE * MMA_LD), *lses = deltas + MMA_TILE;
    const int warp = threadIdx.x / CUDA_WARP, t = threadIdx.x % 4;
    const int first = blockIdx.x % a.tiles * MMA_TILE, row0 = first + 16 * warp;
    const head_range r = head_of(a, blockIdx.x / a.tiles, blockIdx.y);
    if (first >= r.length) {
        return;
    }
    load_tile_mma<SIZE>(q_tile, (bf16 *)NULL, a.k, r, first);
    load_tile_mma<SIZE>(o_tile, (bf16 *)NULL, a.v, r, first);
    __syncthreads();
    uint32_t k[SIZE / 16][4], v[SIZE / 16][4];
    for (int i = 0; i < SIZE / 16; i++) {
        fragment_a(k[i], q_tile, SIZE + MMA_PAD, 16 * warp, 16 * i);
        fragment_a(v[i], o_tile, SIZE + MMA_PAD, 16 * warp, 16 * i);
    }
    const float kept = a.drop.threshold != 0 ? a.drop.scale : 1.0f;
    float dk[SIZE / 8][4], dv[SIZE / 8][4];
    for (int j = 0; j < SIZE / 8; j++) {
        for (int i = 0; i < 4; i++) {
            dk[j][i] = dv[j][i] = 0.0f;
        }
    }
    for (int query0 = 0; query0 < r.length; query0 += MMA_TILE) {
        __syncthreads();
        load_tile_mma<SIZE>(q_tile, q_turned, a.q, r, query0);
        load_tile_mma<SIZE>(o_tile, o_turned, a.dout, r, query0);
        load_row_sums(deltas, lses, a, r, query0);
        __syncthreads();
        float s[MMA_COLS][4], dp[MMA_COLS][4];
        product_tile<SIZE>(s, k, q_tile);
        product_tile<SIZE>(dp, v, o_tile);
        for (int j = 0; j < MMA_COLS; j++) {
            const uint32_t keep = a.drop.threshold != 0
                                      ? keep_by_columns(a.drop, r.who, row0, query0 + 8 * j)
                                      : 15u;
            for (int i = 0; i < 4; i++) {
                const int query = 8 * j + 2 * t + i % 2;
                const bool inside = query0 + query < r.length;
                const float p = inside ? __expf(a.scale * s[j][i] - lses[query]) : 0.0f;
                const float factor = keep >> i & 1u ? kept : 0.0f;
                s[j][i] = p * dropped(1.0f, factor);
                dp[j][i] = inside ? p * (dropped(dp[j][i], factor) - deltas[query]) : 0.0f;
            }
        }
        accumulate_tile<SIZE>(dv, s, o_turned);
        accumulate_tile<SIZE>(dk, dp, q_turned);
    }
    store_rows_mma<SIZE>(a.dk, r, row0, dk, a.scale, a.scale);
    store_rows_mma<SIZE>(a.dv, r, row0, dv, 1.0f, 1.0f);
}

/* ---- launches ----------------------------------------------------------------------------------- */

static attention_view<bf16> tiled(const attention_view<bf16> *a, int longest) {
    attention_view<bf16> view = *a;
    view.tiles = cuda_blocks(longest, MMA_TILE);
    return view;
}

void cuda_attention_mma_fwd(cuda_device *cuda, const attention_view<bf16> *a, int rows,
                            int longest) {
    const attention_view<bf16> view = tiled(a, longest);
    const dim3 grid((unsigned)(rows * view.tiles), (unsigned)a->heads);
    ATT_SIZES(a->D, SIZE, {
        const size_t tile = MMA_TILE * (SIZE + MMA_PAD) * sizeof(bf16);
        ATT_LAUNCH(cuda, "attention_fwd", attention_mma_fwd_kernel<SIZE>, grid, ATT_THREADS,
                   2 * tile + SIZE * MMA_LD * sizeof(bf16), view);
    });
}

void cuda_attention_mma_bwd(cuda_device *cuda, const attention_view<bf16> *a, int rows,
                            int longest) {
    const attention_view<bf16> view = tiled(a, longest);
    const dim3 grid((unsigned)(rows * view.tiles), (unsigned)a->heads);
    ATT_SIZES(a->D, SIZE, {
        const size_t tile = MMA_TILE * (SIZE + MMA_PAD) * sizeof(bf16);
        const size_t turned = SIZE * MMA_LD * sizeof(bf16), lines = 2 * MMA_TILE * sizeof(float);
        ATT_LAUNCH(cuda, "attention_bwd, dq", attention_mma_dq_kernel<SIZE>, grid, ATT_THREADS,
                   2 * tile + turned + lines, view);
        ATT_LAUNCH(cuda, "attention_bwd, dk and dv", attention_mma_dkv_kernel<SIZE>, grid,
                   ATT_THREADS, 2 * tile + 2 * turned + lines, view);
    });
}
