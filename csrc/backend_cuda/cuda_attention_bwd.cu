/* cuda_attention_bwd.cu: gradients of attention; see cuda_attention.cuh.
 *
 * Probabilities are made again from lse. Two kernels, one that owns queries (dq) and one that owns
 * keys (dk, dv): each output has one writer and one order of sums, so the bits are the same every
 * time; the price is that scores are made twice. */
#include "backend_cuda/cuda_attention_mma.cuh"
#include "backend_cuda/cuda_table.cuh"

/* sum over keys of p dp, dropout included, is dout . out: for the row of these four lanes. */
template <typename T>
static __device__ __forceinline__ float delta_of(const attention_view<T> &a, const head_range &r,
                                                 int64_t t, int sub, bool inside) {
    float sum = 0.0f;
    if (inside) {
        const T *dout = a.dout.data + t * a.dout.ld + r.column;
        const T *out = a.out.data + t * a.out.ld + r.column;
        for (int d = sub; d < a.D; d += 4) {
            sum += to_float(dout[d]) * to_float(out[d]);
        }
    }
    return quad_sum(sum);
}

/* Shared: q, dout, k, v tiles, ds [32][33]. */
template <typename T, int SIZE>
__global__ void __launch_bounds__(ATT_THREADS) attention_dq_kernel(attention_view<T> a) {
    CUDA_SHARED(float, q_tile);
    float *o_tile = q_tile + ATT_TILE * (SIZE + 1), *k_tile = o_tile + ATT_TILE * (SIZE + 1);
    float *v_tile = k_tile + ATT_TILE * (SIZE + 1), *s_tile = v_tile + ATT_TILE * (SIZE + 1);
    const int row = threadIdx.x / 4, sub = threadIdx.x % 4;
    const int first = blockIdx.x % a.tiles * ATT_TILE;
    head_range r = head_of(a, blockIdx.x / a.tiles, blockIdx.y);
    if (first >= r.length) {
        return;
    }
    const bool inside = first + row < r.length;
    const int64_t t = r.first + first + row;
    load_tile<T, SIZE>(q_tile, a.q, r, first, a.D);
    load_tile<T, SIZE>(o_tile, a.dout, r, first, a.D);
    const float delta = delta_of(a, r, t, sub, inside);
    const float lse = inside ? a.lse.data[t * a.lse.ld + r.head] : 0.0f;
    const float *q = q_tile + row * (SIZE + 1), *dout = o_tile + row * (SIZE + 1);
    float *s_row = s_tile + row * (ATT_TILE + 1), acc[SIZE / 4];
    r.who.position = (uint32_t)(first + row);
    for (int i = 0; i < SIZE / 4; i++) {
        acc[i] = 0.0f;
    }
    for (int key0 = 0; key0 < r.length; key0 += ATT_TILE) {
        __syncthreads();
        load_tile<T, SIZE>(k_tile, a.k, r, key0, a.D);
        load_tile<T, SIZE>(v_tile, a.v, r, key0, a.D);
        __syncthreads();
        for (int g = 0; g < ATT_KEYS / 4; g++) {
            float factor[4];
            draw_four(factor, a.drop, r.who, (key0 + sub * ATT_KEYS) / 4 + g);
            for (int j = 0; j < 4; j++) {
                const int key = sub * ATT_KEYS + 4 * g + j;
                float ds = 0.0f;
                if (key0 + key < r.length && inside) {
                    const float s = a.scale * dot_rows<SIZE>(q, k_tile + key * (SIZE + 1));
                    const float dp = dot_rows<SIZE>(dout, v_tile + key * (SIZE + 1));
                    ds = a.scale * expf(s - lse) * (dropped(dp, factor[j]) - delta);
                }
                s_row[key] = ds;
            }
        }
        __syncwarp();
        for (int j = 0; j < ATT_TILE; j++) {
            const float ds = s_row[j];
            for (int i = 0; i < SIZE / 4; i++) {
                acc[i] += ds * k_tile[j * (SIZE + 1) + sub + 4 * i];
            }
        }
    }
    if (inside) {
        store_columns<T, SIZE>(a.dq.data + t * a.dq.ld + r.column, acc, sub, a.D);
    }
}

/* Shared: k, v, q, dout tiles, p and ds [32 keys][33], lse and delta of the queries. */
template <typename T, int SIZE>
__global__ void __launch_bounds__(ATT_THREADS) attention_dkv_kernel(attention_view<T> a) {
    CUDA_SHARED(float, k_tile);
    float *v_tile = k_tile + ATT_TILE * (SIZE + 1), *q_tile = v_tile + ATT_TILE * (SIZE + 1);
    float *o_tile = q_tile + ATT_TILE * (SIZE + 1), *p_tile = o_tile + ATT_TILE * (SIZE + 1);
    float *s_tile = p_tile + ATT_TILE * (ATT_TILE + 1), *lses = s_tile + ATT_TILE * (ATT_TILE + 1);
    float *deltas = lses + ATT_TILE;
    const int row = threadIdx.x / 4, sub = threadIdx.x % 4;
    const int first = blockIdx.x % a.tiles * ATT_TILE, key = first + row;
    head_range r = head_of(a, blockIdx.x / a.tiles, blockIdx.y);
    if (first >= r.length) {
        return;
    }
    load_tile<T, SIZE>(k_tile, a.k, r, first, a.D);
    load_tile<T, SIZE>(v_tile, a.v, r, first, a.D);
    const float *k = k_tile + row * (SIZE + 1), *v = v_tile + row * (SIZE + 1);
    float *p_row = p_tile + row * (ATT_TILE + 1), *s_row = s_tile + row * (ATT_TILE + 1);
    float dk[SIZE / 4], dv[SIZE / 4];
    for (int i = 0; i < SIZE / 4; i++) {
        dk[i] = dv[i] = 0.0f;
    }
    for (int query0 = 0; query0 < r.length; query0 += ATT_TILE) {
        const bool asks = query0 + row < r.length; /* here a row is a query */
        const int64_t t = r.first + query0 + row;
        __syncthreads();
        load_tile<T, SIZE>(q_tile, a.q, r, query0, a.D);
        load_tile<T, SIZE>(o_tile, a.dout, r, query0, a.D);
        const float delta = delta_of(a, r, t, sub, asks);
        if (sub == 0) {
            deltas[row] = delta;
            lses[row] = asks ? a.lse.data[t * a.lse.ld + r.head] : 0.0f;
        }
        __syncthreads();
        for (int j = 0; j < ATT_KEYS; j++) {
            const int query = sub * ATT_KEYS + j;
            float p = 0.0f, ds = 0.0f;
            if (query0 + query < r.length && key < r.length) {
                const float *q = q_tile + query * (SIZE + 1), *dout = o_tile + query * (SIZE + 1);
                float factor[4];
                r.who.position = (uint32_t)(query0 + query);
                draw_four(factor, a.drop, r.who, key / 4);
                const float f = factor[key % 4];
                p = expf(a.scale * dot_rows<SIZE>(q, k) - lses[query]);
                ds = a.scale * p * (dropped(dot_rows<SIZE>(dout, v), f) - deltas[query]);
                p = dropped(p, f);
            }
            p_row[query] = p;
            s_row[query] = ds;
        }
        __syncwarp();
        for (int j = 0; j < ATT_TILE; j++) {
            const float p = p_row[j], ds = s_row[j];
            for (int i = 0; i < SIZE / 4; i++) {
                dv[i] += p * o_tile[j * (SIZE + 1) + sub + 4 * i];
                dk[i] += ds * q_tile[j * (SIZE + 1) + sub + 4 * i];
            }
        }
    }
    if (key < r.length) {
        const int64_t t = r.first + key;
        store_columns<T, SIZE>(a.dk.data + t * a.dk.ld + r.column, dk, sub, a.D);
        store_columns<T, SIZE>(a.dv.data + t * a.dv.ld + r.column, dv, sub, a.D);
    }
}

/* The first token of a sequence asked. Shared: ds [longest]. */
template <typename T, int SIZE>
__global__ void __launch_bounds__(ATT_THREADS) attention_rows_bwd_kernel(attention_view<T> a) {
    CUDA_SHARED(float, ds);
    __shared__ float sums[ATT_THREADS];
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int b = blockIdx.x;
    const head_range r = head_of(a, b, blockIdx.y);
    if (r.length == 0) {
        return;
    }
    const T *q = a.q.data + b * a.q.ld + r.column, *dout = a.dout.data + b * a.dout.ld + r.column;
    const T *out = a.out.data + b * a.out.ld + r.column;
    const float lse = a.lse.data[b * a.lse.ld + r.head];
    float delta = 0.0f;
    for (int d = lane; d < a.D; d += CUDA_WARP) {
        delta += to_float(dout[d]) * to_float(out[d]);
    }
    delta = warp_sum(delta);
    for (int key = warp; key < r.length; key += ATT_THREADS / CUDA_WARP) {
        const int64_t t = r.first + key;
        const T *k = a.k.data + t * a.k.ld + r.column, *v = a.v.data + t * a.v.ld + r.column;
        float score = 0.0f, dp = 0.0f, factor[4];
        for (int d = lane; d < a.D; d += CUDA_WARP) {
            score += to_float(q[d]) * to_float(k[d]);
            dp += to_float(dout[d]) * to_float(v[d]);
        }
        draw_four(factor, a.drop, r.who, key / 4);
        const float f = factor[key % 4], p = expf(a.scale * warp_sum(score) - lse);
        const float g = a.scale * p * (dropped(warp_sum(dp), f) - delta), kept = dropped(p, f);
        if (lane == 0) {
            ds[key] = g;
        }
        for (int d = lane; d < a.D; d += CUDA_WARP) {
            a.dk.data[t * a.dk.ld + r.column + d] = from_float<T>(g * to_float(q[d]));
            a.dv.data[t * a.dv.ld + r.column + d] = from_float<T>(kept * to_float(dout[d]));
        }
    }
    __syncthreads();
    const int parts_of_keys = ATT_THREADS / SIZE, part = threadIdx.x / SIZE;
    const int d = threadIdx.x % SIZE;
    float sum = 0.0f;
    for (int key = part; key < r.length && d < a.D; key += parts_of_keys) {
        sum += ds[key] * to_float(a.k.data[(int64_t)(r.first + key) * a.k.ld + r.column + d]);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (part == 0 && d < a.D) {
        for (int i = 1; i < parts_of_keys; i++) {
            sum += sums[i * SIZE + d];
        }
        a.dq.data[b * a.dq.ld + r.column + d] = from_float<T>(sum);
    }
}

template <typename T>
static attention_view<T> view_of(smhf_tensor dq, smhf_tensor dk,
                                 smhf_tensor dv, smhf_tensor dout, smhf_tensor out, smhf_tensor lse,
                                 smhf_tensor q, smhf_tensor k, smhf_tensor v, const smhf_pack *pack,
                                 int32_t heads, float scale, smhf_dropout dropout) {
    attention_view<T> a = {};
    a.q = cuda_rows_of<const T>(q);
    a.k = cuda_rows_of<const T>(k);
    a.v = cuda_rows_of<const T>(v);
    a.out = cuda_rows_of<const T>(out);
    a.dout = cuda_rows_of<const T>(dout);
    a.dq = cuda_rows_of<T>(dq);
    a.dk = cuda_rows_of<T>(dk);
    a.dv = cuda_rows_of<T>(dv);
    a.lse = cuda_rows_of<float>(lse);
    a.heads = heads;
    a.D = k.cols / heads;
    a.tiles = cuda_blocks(pack->bucket.length, ATT_TILE);
    a.scale = scale;
    a.pack = cuda_pack_of(pack, SMHF_AXIS_ROWS);
    a.drop = cuda_drop_of(dropout);
    return a;
}

void cuda_attention_bwd(smhf_device *dev, smhf_tensor dq, smhf_tensor dk, smhf_tensor dv,
                        smhf_tensor dout, smhf_tensor out, smhf_tensor lse, smhf_tensor q,
                        smhf_tensor k, smhf_tensor v, const smhf_pack *pack, smhf_axis query_axis,
                        int32_t heads, float scale, smhf_dtype compute, smhf_dropout dropout) {
    cuda_device *cuda = cuda_begin(dev);
    (void)compute;
    if (cuda == NULL ||
        !CUDA_ALL(cuda, "attention_bwd", q.dtype, dq, dk, dv, dout, out, q, k, v) ||
        !CUDA_ALL(cuda, "attention_bwd", SMHF_DTYPE_F32, lse) ||
        !cuda_attention_fits(cuda, "attention_bwd", k.cols / heads)) {
        return;
    }
    const int rows = cuda_rows_count(pack, SMHF_AXIS_ROWS), D = k.cols / heads;
    if (rows == 0) {
        return;
    }
    if (q.dtype == SMHF_DTYPE_BF16 && query_axis == SMHF_AXIS_TOKENS && cuda_attention_mma_fits(D)) {
        const attention_view<bf16> a = view_of<bf16>(dq, dk, dv, dout, out, lse, q, k, v, pack,
                                                     heads, scale, dropout);
        cuda_attention_mma_bwd(cuda, &a, rows, pack->bucket.length);
        return;
    }
    CUDA_DTYPE(q.dtype, T, ATT_SIZES(D, SIZE, {
                   const attention_view<T> a = view_of<T>(dq, dk, dv, dout, out, lse, q, k, v,
                                                          pack, heads, scale, dropout);
                   const dim3 grid((unsigned)(rows * a.tiles), (unsigned)heads);
                   const size_t tiles = 4 * ATT_TILE * (SIZE + 1) * sizeof(float);
                   const size_t square = ATT_TILE * (ATT_TILE + 1) * sizeof(float);
                   if (query_axis == SMHF_AXIS_ROWS) {
                       const size_t shared = (size_t)a.tiles * ATT_TILE * sizeof(float);
                       ATT_LAUNCH(cuda, "attention_bwd", (attention_rows_bwd_kernel<T, SIZE>),
                                  dim3((unsigned)rows, (unsigned)heads), ATT_THREADS, shared, a);
                   } else {
                       const size_t lines = 2 * ATT_TILE * sizeof(float);
                       ATT_LAUNCH(cuda, "attention_bwd, dq", (attention_dq_kernel<T, SIZE>), grid,
                                  ATT_THREADS, tiles + square, a);
                       ATT_LAUNCH(cuda, "attention_bwd, dk and dv", (attention_dkv_kernel<T, SIZE>),
                                  grid, ATT_THREADS, tiles + 2 * square + lines, a);
                   }
               }));
}
