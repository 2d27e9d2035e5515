/* cuda_attention_mma.cuh: tiles of 64 in shared memory and fragments of them, for the tensor-core
 * kernels of attention. A block is four warps of 16 rows each. */
#ifndef SMHF_BACKEND_CUDA_CUDA_ATTENTION_MMA_CUH
#define SMHF_BACKEND_CUDA_CUDA_ATTENTION_MMA_CUH

#include "backend_cuda/cuda_attention.cuh"
#include "backend_cuda/cuda_mma.cuh"

#define MMA_TILE 64
#define MMA_PAD 8 /* rows start 4 banks apart: the eight rows of a fragment do not collide */
#define MMA_LD (MMA_TILE + MMA_PAD)
#define MMA_COLS (MMA_TILE / 8) /* columns of a tile, in eights */

/* Rows first .. first + 64 of one head: tile [64][SIZE + 8] and, where asked, turned [SIZE][72]. */
template <int SIZE>
static __device__ __forceinline__ void load_tile_mma(bf16 *tile, bf16 *turned,
                                                     cuda_rows<const bf16> x, const head_range &r,
                                                     int first) {
    read_tile<MMA_TILE, SIZE>(x, r, first, SIZE, [=](int row, int column, float v) {
        const bf16 value = __float2bfloat16_rn(v);
        if (tile != NULL) {
            tile[row * (SIZE + MMA_PAD) + column] = value;
        }
        if (turned != NULL) {
            turned[column * MMA_LD + row] = value;
        }
    });
}

/* A's registers: rows row0 .. row0 + 16 of a tile, columns k0 .. k0 + 16. */
static __device__ __forceinline__ void fragment_a(uint32_t a[4], const bf16 *tile, int ld, int row0,
                                                  int k0) {
    const int g = threadIdx.x % CUDA_WARP / 4, t = threadIdx.x % 4;
    const bf16 *p = tile + (row0 + g) * ld + k0 + 2 * t;
    a[0] = load_pair(p);
    a[1] = load_pair(p + 8 * ld);
    a[2] = load_pair(p + 8);
    a[3] = load_pair(p + 8 * ld + 8);
}

/* B's registers: B[k][n] = tile[n0 + n][k0 + k], so the tile's rows are B's columns. */
static __device__ __forceinline__ void fragment_b(uint32_t b[2], const bf16 *tile, int ld, int n0,
                                                  int k0) {
    const int g = threadIdx.x % CUDA_WARP / 4, t = threadIdx.x % 4;
    const bf16 *p = tile + (n0 + g) * ld + k0 + 2 * t;
    b[0] = load_pair(p);
    b[1] = load_pair(p + 8);
}

/* s [16, 64] = rows of `a` (fragments over SIZE) times the rows of `tile` [64][SIZE + 8]. */
template <int SIZE>
static __device__ __forceinline__ void product_tile(float s[MMA_COLS][4],
                                                    const uint32_t a[SIZE / 16][4],
                                                    const bf16 *tile) {
    for (int j = 0; j < MMA_COLS; j++) {
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
        for (int k = 0; k < SIZE / 16; k++) {
            uint32_t b[2];
            fragment_b(b, tile, SIZE + MMA_PAD, 8 * j, 16 * k);
            mma_16_8_16(s[j], a[k], b);
        }
    }
}

/* acc [16, SIZE] += p [16, 64] (rounded to BF16) times the tile whose turned form is given. */
template <int SIZE>
static __device__ __forceinline__ void accumulate_tile(float acc[SIZE / 8][4],
                                                       const float p[MMA_COLS][4],
                                                       const bf16 *turned) {
    for (int k = 0; k < MMA_TILE / 16; k++) {
        const uint32_t a[4] = {pack_pair(p[2 * k][0], p[2 * k][1]),
                               pack_pair(p[2 * k][2], p[2 * k][3]),
                               pack_pair(p[2 * k + 1][0], p[2 * k + 1][1]),
                               pack_pair(p[2 * k + 1][2], p[2 * k + 1][3])};
        for (int j = 0; j < SIZE / 8; j++) {
            uint32_t b[2];
            fragment_b(b, turned, MMA_LD, 8 * j, 16 * k);
            mma_16_8_16(acc[j], a, b);
        }
    }
}

/* Which of the four draws of a group are kept, as bits. */
static __device__ __forceinline__ uint32_t keep_bits(const cuda_drop &drop, const draw_row &who,
                                                     int group) {
    uint32_t draws[4], bits = 0;
    smhf_dropout_draw(drop.seed, who.step, drop.site, who.sequence, who.head, who.position,
                      (uint32_t)group, draws);
    for (int j = 0; j < 4; j++) {
        bits |= (draws[j] >> 8) >= drop.threshold ? 1u << j : 0u;
    }
    return bits;
}

/* Keep bits of d's four elements, rows being queries row0 + g and row0 + g + 8, columns keys
 * col0 + 2t and + 1. Lanes t and t ^ 1 share groups: each draws for one row and tells the other. */
static __device__ __forceinline__ uint32_t keep_by_rows(const cuda_drop &drop, draw_row who,
                                                        int row0, int col0) {
    const int g = threadIdx.x % CUDA_WARP / 4, t = threadIdx.x % 4;
    const int odd = t % 2, group = (col0 + 2 * t) / 4;
    who.position = (uint32_t)(row0 + g + 8 * odd);
    const uint32_t mine = keep_bits(drop, who, group);
    const uint32_t other = __shfl_xor_sync(CUDA_ALL_LANES, mine, 1);
    const uint32_t low = odd ? other : mine, high = odd ? mine : other;
    return (low >> (2 * odd) & 3u) | (high >> (2 * odd) & 3u) << 2;
}

/* The same with keys as rows, key0 + g and + 8, and queries as columns. Four lanes share groups of
 * four keys: each draws for one of (key half, query), and bits go round. */
static __device__ __forceinline__ uint32_t keep_by_columns(const cuda_drop &drop, draw_row who,
                                                           int key0, int query0) {
    const int lane = threadIdx.x % CUDA_WARP, g = lane / 4, t = lane % 4, own = g % 4;
    who.position = (uint32_t)(query0 + 2 * t + own % 2);
    const uint32_t mine = keep_bits(drop, who, (key0 + g / 4 * 4 + own / 2 * 8) / 4);
    uint32_t bits = 0;
    for (int i = 0; i < 4; i++) { /* i: element of d; row half i / 2, column i % 2 */
        const uint32_t theirs = __shfl_sync(CUDA_ALL_LANES, mine, (g / 4 * 4 + i) * 4 + t);
        bits |= (theirs >> own & 1u) << i;
    }
    return bits;
}

/* Fragments of the warp's 16 rows become rows of a tensor, two columns at a time. */
template <int SIZE>
static __device__ __forceinline__ void store_rows_mma(cuda_rows<bf16> out, const head_range &r,
                                                      int first, const float acc[SIZE / 8][4],
                                                      float scale_low, float scale_high) {
    const int lane = threadIdx.x % CUDA_WARP, g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++) {
        const int row = first + g + 8 * half;
        const float scale = half ? scale_high : scale_low;
        if (row < r.length) {
            bf16 *to = out.data + (int64_t)(r.first + row) * out.ld + r.column + 2 * t;
            for (int j = 0; j < SIZE / 8; j++) {
                to[8 * j] = __float2bfloat16_rn(acc[j][2 * half] * scale);
                to[8 * j + 1] = __float2bfloat16_rn(acc[j][2 * half + 1] * scale);
            }
        }
    }
}

void cuda_attention_mma_fwd(cuda_device *cuda, const attention_view<bf16> *a, int rows, int longest);
void cuda_attention_mma_bwd(cuda_device *cuda, const attention_view<bf16> *a, int rows, int longest);
/* Heads that the tensor-core kernels are written for. */
static inline int cuda_attention_mma_fits(int D) {
    return D == 32 || D == 64;
}

#endif
