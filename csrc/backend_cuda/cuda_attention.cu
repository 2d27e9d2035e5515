/* cuda_attention.cu: attention over packed sequences, forward; see cuda_attention.cuh. */
#include "backend_cuda/cuda_attention_mma.cuh"
#include "backend_cuda/cuda_table.cuh"

/* Shared: q, k, v tiles, scores [32][33]. */
template <typename T, int SIZE>
__global__ void __launch_bounds__(ATT_THREADS) attention_fwd_kernel(attention_view<T> a) {
    CUDA_SHARED(float, q_tile);
    float *k_tile = q_tile + ATT_TILE * (SIZE + 1), *v_tile = k_tile + ATT_TILE * (SIZE + 1);
    float *p_tile = v_tile + ATT_TILE * (SIZE + 1);
    const int row = threadIdx.x / 4, sub = threadIdx.x % 4;
    const int first = blockIdx.x % a.tiles * ATT_TILE;
    head_range r = head_of(a, blockIdx.x / a.tiles, blockIdx.y);
    if (first >= r.length) {
        return;
    }
    load_tile<T, SIZE>(q_tile, a.q, r, first, a.D);
    r.who.position = (uint32_t)(first + row);
    const float *q = q_tile + row * (SIZE + 1);
    float *p_row = p_tile + row * (ATT_TILE + 1);
    float acc[SIZE / 4], top = -INFINITY, total = 0.0f;
    for (int i = 0; i < SIZE / 4; i++) {
        acc[i] = 0.0f;
    }
    for (int key0 = 0; key0 < r.length; key0 += ATT_TILE) {
        __syncthreads(); /* everybody is done with the last tiles */
        load_tile<T, SIZE>(k_tile, a.k, r, key0, a.D);
        load_tile<T, SIZE>(v_tile, a.v, r, key0, a.D);
        __syncthreads();
        float s[ATT_KEYS], tile_top = -INFINITY, tile_sum = 0.0f;
        for (int j = 0; j < ATT_KEYS; j++) {
            const int key = sub * ATT_KEYS + j;
            s[j] = key0 + key < r.length ? a.scale * dot_rows<SIZE>(q, k_tile + key * (SIZE + 1))
                                         : -INFINITY;
            tile_top = fmaxf(tile_top, s[j]);
        }
        const float next = fmaxf(top, quad_max(tile_top)), shrink = expf(top - next);
        for (int g = 0; g < ATT_KEYS / 4; g++) {
            float factor[4];
            draw_four(factor, a.drop, r.who, (key0 + sub * ATT_KEYS) / 4 + g);
            for (int j = 0; j < 4; j++) {
                const float p = expf(s[4 * g + j] - next);
                tile_sum += p;
                p_row[sub * ATT_KEYS + 4 * g + j] = dropped(p, factor[j]);
            }
        }
        total = total * shrink + quad_sum(tile_sum);
        top = next;
        __syncwarp();
        for (int i = 0; i < SIZE / 4; i++) {
            acc[i] *= shrink;
        }
        for (int j = 0; j < ATT_TILE; j++) {
            const float p = p_row[j];
            for (int i = 0; i < SIZE / 4; i++) {
                acc[i] += p * v_tile[j * (SIZE + 1) + sub + 4 * i];
            }
        }
    }
    if (first + row >= r.length) {
        return;
    }
    const int64_t t = r.first + first + row;
    for (int i = 0; i < SIZE / 4; i++) {
        acc[i] /= total;
    }
    store_columns<T, SIZE>(a.result.data + t * a.result.ld + r.column, acc, sub, a.D);
    if (sub == 0 && a.lse.data != NULL) {
        a.lse.data[t * a.lse.ld + r.head] = top + logf(total);
    }
}

/* The first token of a sequence asks. Shared: probabilities [longest]. Warps take every fourth key;
 * lanes take every 32nd column. */
template <typename T, int SIZE>
__global__ void __launch_bounds__(ATT_THREADS) attention_rows_fwd_kernel(attention_view<T> a) {
    CUDA_SHARED(float, p);
    __shared__ float parts[CUDA_WARP];
    __shared__ float sums[ATT_THREADS];
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int b = blockIdx.x;
    const head_range r = head_of(a, b, blockIdx.y);
    if (r.length == 0) {
        return;
    }
    const T *q = a.q.data + b * a.q.ld + r.column;
    float top = -INFINITY, total = 0.0f;
    for (int key = warp; key < r.length; key += ATT_THREADS / CUDA_WARP) {
        const T *k = a.k.data + (int64_t)(r.first + key) * a.k.ld + r.column;
        float dot = 0.0f;
        for (int d = lane; d < a.D; d += CUDA_WARP) {
            dot += to_float(q[d]) * to_float(k[d]);
        }
        dot = a.scale * warp_sum(dot);
        top = fmaxf(top, dot);
        if (lane == 0) {
            p[key] = dot;
        }
    }
    top = block_max(top, parts);
    for (int group = threadIdx.x; group * 4 < r.length; group += ATT_THREADS) {
        float factor[4];
        draw_four(factor, a.drop, r.who, group);
        for (int j = 0; j < 4 && group * 4 + j < r.length; j++) {
            const float e = expf(p[group * 4 + j] - top);
            total += e;
            p[group * 4 + j] = dropped(e, factor[j]);
        }
    }
    total = block_sum(total, parts);
    const int parts_of_keys = ATT_THREADS / SIZE, part = threadIdx.x / SIZE;
    const int d = threadIdx.x % SIZE;
    float sum = 0.0f;
    for (int key = part; key < r.length && d < a.D; key += parts_of_keys) {
        sum += p[key] * to_float(a.v.data[(int64_t)(r.first + key) * a.v.ld + r.column + d]);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (part == 0 && d < a.D) {
        for (int i = 1; i < parts_of_keys; i++) {
            sum += sums[i * SIZE + d];
        }
        a.result.data[b * a.result.ld + r.column + d] = from_float<T>(sum / total);
    }
    if (threadIdx.x == 0 && a.lse.data != NULL) {
        a.lse.data[b * a.lse.ld + r.head] = top + logf(total);
    }
}

/* ---- the op ------------------------------------------------------------------------------------- */

int cuda_attention_fits(cuda_device *cuda, const char *op, int D) {
    if (D > ATT_WIDEST) {
        cuda_fail(cuda, SMHF_E_UNSUPPORTED, "%s on CUDA: heads of %d, at most %d are written for",
                  op, D, ATT_WIDEST);
        return 0;
    }
    return 1;
}

template <typename T>
static attention_view<T> view_of(smhf_tensor out, smhf_tensor lse,
                                 smhf_tensor q, smhf_tensor k, smhf_tensor v,
                                 const smhf_pack *pack, int32_t heads, float scale,
                                 smhf_dropout dropout) {
    attention_view<T> a = {};
    a.q = cuda_rows_of<const T>(q);
    a.k = cuda_rows_of<const T>(k);
    a.v = cuda_rows_of<const T>(v);
    a.result = cuda_rows_of<T>(out);
    a.lse = cuda_rows_of<float>(lse);
    a.heads = heads;
    a.D = k.cols / heads;
    a.tiles = cuda_blocks(pack->bucket.length, ATT_TILE);
    a.scale = scale;
    a.pack = cuda_pack_of(pack, SMHF_AXIS_ROWS);
    a.drop = cuda_drop_of(dropout);
    return a;
}

void cuda_attention_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                        smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                        int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout) {
    cuda_device *cuda = cuda_begin(dev);
    (void)compute; /* products of F32 stay F32 */
    if (cuda == NULL || !CUDA_ALL(cuda, "attention_fwd", q.dtype, out, q, k, v) ||
        !CUDA_ALL(cuda, "attention_fwd", SMHF_DTYPE_F32, lse) ||
        !cuda_attention_fits(cuda, "attention_fwd", k.cols / heads)) {
        return;
    }
    const int rows = cuda_rows_count(pack, SMHF_AXIS_ROWS), D = k.cols / heads;
    if (rows == 0) {
        return;
    }
    if (q.dtype == SMHF_DTYPE_BF16 && query_axis == SMHF_AXIS_TOKENS && cuda_attention_mma_fits(D)) {
        const attention_view<bf16> a =
            view_of<bf16>(out, lse, q, k, v, pack, heads, scale, dropout);
        cuda_attention_mma_fwd(cuda, &a, rows, pack->bucket.length);
        return;
    }
    CUDA_DTYPE(q.dtype, T, ATT_SIZES(D, SIZE, {
                   const attention_view<T> a =
                       view_of<T>(out, lse, q, k, v, pack, heads, scale, dropout);
                   if (query_axis == SMHF_AXIS_ROWS) {
                       const size_t shared = (size_t)a.tiles * ATT_TILE * sizeof(float);
                       ATT_LAUNCH(cuda, "attention_fwd", (attention_rows_fwd_kernel<T, SIZE>),
                                  dim3((unsigned)rows, (unsigned)heads), ATT_THREADS, shared, a);
                   } else {
                       const size_t shared =
                           (3 * ATT_TILE * (SIZE + 1) + ATT_TILE * (ATT_TILE + 1)) * sizeof(float);
                       ATT_LAUNCH(cuda, "attention_fwd", (attention_fwd_kernel<T, SIZE>),
                                  dim3((unsigned)(rows * a.tiles), (unsigned)heads), ATT_THREADS,
                                  shared, a);
                   }
               }));
}
