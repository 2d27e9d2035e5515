/* cuda_embedding.cu: table rows + LayerNorm + dropout, and the gradient of the tables.
 *
 * Nothing is scattered. Words: the pack holds tokens grouped by id, a block owns a group and adds
 * its rows in order. Positions: a block owns a position. Types, which are few: two stages. */
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_layernorm.cuh"
#include "backend_cuda/cuda_table.cuh"

#define GROUP_WARPS 8
#define TYPE_ROWS 64

/* Tables as a kernel sees them. */
template <typename E> struct tables_view {
    cuda_rows<const E> word, position, type;
    int words, positions, types;
};

/* Four columns of the sum of the three rows of token t; not numbers where an index is outside. */
template <typename E>
static __device__ __forceinline__ void gather_four(float v[4], const tables_view<E> &e,
                                                   const cuda_pack &pack, int t, int group, int H) {
    const int id = pack.ids[t], position = pack.positions[t];
    const int type = e.type.data != NULL ? pack.type_ids[t] : 0;
    if (id < 0 || id >= e.words || position >= e.positions ||
        (e.type.data != NULL && (type < 0 || type >= e.types))) {
        v[0] = v[1] = v[2] = v[3] = NAN;
        return;
    }
    float more[4];
    load_four(v, e.word.data + id * e.word.ld, group, H, four_aligned(e.word.data, e.word.ld));
    load_four(more, e.position.data + position * e.position.ld, group, H,
              four_aligned(e.position.data, e.position.ld));
    for (int j = 0; j < 4; j++) {
        v[j] += more[j];
    }
    if (e.type.data != NULL) {
        load_four(more, e.type.data + type * e.type.ld, group, H,
                  four_aligned(e.type.data, e.type.ld));
        for (int j = 0; j < 4; j++) {
            v[j] += more[j];
        }
    }
}

template <typename T, typename E, int GROUPS>
__global__ void __launch_bounds__(NORM_THREADS)
    embedding_fwd_kernel(cuda_rows<T> out, cuda_rows<float> stats, tables_view<E> tables,
                         const float *gamma, const float *beta, int H, float eps, cuda_pack pack,
                         cuda_drop drop) {
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int t = blockIdx.x * NORM_WARPS + warp;
    if (t >= pack_rows(pack)) {
        return;
    }
    float v[GROUPS * 4], mean, rstd;
    for (int i = 0; i < GROUPS; i++) {
        const int group = i * CUDA_WARP + lane;
        if (group * 4 < H) {
            gather_four(v + 4 * i, tables, pack, t, group, H);
        }
    }
    layernorm_row<GROUPS>(v, &mean, &rstd, gamma, beta, H, eps, lane);
    const draw_row who = draw_row_of(drop, pack, t);
    for (int i = 0; i < GROUPS; i++) {
        const int group = i * CUDA_WARP + lane;
        if (group * 4 < H) {
            float factor[4];
            draw_four(factor, drop, who, group);
            for (int j = 0; j < 4; j++) {
                v[4 * i + j] = dropped(v[4 * i + j], factor[j]);
            }
            store_four(out.data + t * out.ld, v + 4 * i, group, H, four_aligned(out.data, out.ld));
        }
    }
    if (lane == 0 && stats.data != NULL) {
        stats.data[t * stats.ld] = mean;
        stats.data[t * stats.ld + 1] = rstd;
    }
}

/* dout becomes the gradient of the sum; gamma's and beta's share goes to partials. */
template <typename T, typename E, int GROUPS>
__global__ void __launch_bounds__(NORM_THREADS)
    embedding_norm_bwd_kernel(cuda_rows<T> dout, float *partials, cuda_rows<const float> stats,
                              tables_view<E> tables, const float *gamma, int H, cuda_pack pack,
                              cuda_drop drop) {
    CUDA_SHARED(float, lines); /* [2, H] */
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    const int rows = pack_rows(pack), first = blockIdx.x * NORM_ROWS;
    if (first >= rows) {
        return;
    }
    float dgamma[GROUPS * 4], dbeta[GROUPS * 4];
    for (int i = 0; i < GROUPS * 4; i++) {
        dgamma[i] = dbeta[i] = 0.0f;
    }
    for (int t = first + warp; t < first + NORM_ROWS && t < rows; t += NORM_WARPS) {
        float d[GROUPS * 4], s[GROUPS * 4];
        const draw_row who = draw_row_of(drop, pack, t);
        for (int i = 0; i < GROUPS; i++) {
            const int group = i * CUDA_WARP + lane;
            if (group * 4 < H) {
                float factor[4];
                load_four(d + 4 * i, dout.data + t * dout.ld, group, H,
                          four_aligned(dout.data, dout.ld));
                draw_four(factor, drop, who, group);
                for (int j = 0; j < 4; j++) {
                    d[4 * i + j] = dropped(d[4 * i + j], factor[j]);
                }
                gather_four(s + 4 * i, tables, pack, t, group, H);
            }
        }
        layernorm_bwd_row<GROUPS>(d, s, dgamma, dbeta, stats.data[t * stats.ld],
                                  stats.data[t * stats.ld + 1], gamma, H, lane);
        for (int i = 0; i < GROUPS; i++) {
            const int group = i * CUDA_WARP + lane;
            if (group * 4 < H) {
                store_four(dout.data + t * dout.ld, d + 4 * i, group, H,
                           four_aligned(dout.data, dout.ld));
            }
        }
    }
    layernorm_partials<GROUPS>(partials + (int64_t)blockIdx.x * 2 * H, lines, dgamma, dbeta, H);
}

/* The warps' sums of one group of columns, added in order, go on top of the table's row. */
static __device__ __forceinline__ void add_parts(float *row, float sum,
                                                 float parts[GROUP_WARPS][CUDA_WARP], int c,
                                                 int H) {
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP;
    __syncthreads();
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && c < H) {
        for (int w = 1; w < GROUP_WARPS; w++) {
            sum += parts[w][lane];
        }
        row[c] += sum;
    }
}

/* Block (w, columns): word group w. */
template <typename T>
__global__ void __launch_bounds__(GROUP_WARPS *CUDA_WARP)
    embedding_word_kernel(cuda_rows<float> dword, cuda_rows<const T> d, int words, int padding_id,
                          int H, cuda_pack pack) {
    __shared__ float parts[GROUP_WARPS][CUDA_WARP];
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP, w = blockIdx.x;
    if (w >= pack.counts[SMHF_COUNT_WORDS]) {
        return;
    }
    const int first = pack.word_starts[w], last = pack.word_starts[w + 1];
    const int id = pack.ids[pack.word_order[first]];
    if (id == padding_id || id < 0 || id >= words) {
        return;
    }
    for (int c0 = 0; c0 < H; c0 += CUDA_WARP) {
        const int c = c0 + lane;
        float sum = 0.0f;
        for (int i = first + warp; i < last && c < H; i += GROUP_WARPS) {
            sum += to_float(d.data[pack.word_order[i] * d.ld + c]);
        }
        add_parts(dword.data + id * dword.ld, sum, parts, c, H);
    }
}

/* Block p: the rows at position p of every sequence that is long enough. */
template <typename T>
__global__ void __launch_bounds__(GROUP_WARPS *CUDA_WARP)
    embedding_position_kernel(cuda_rows<float> dposition, cuda_rows<const T> d, int H,
                              cuda_pack pack) {
    __shared__ float parts[GROUP_WARPS][CUDA_WARP];
    const int warp = threadIdx.x / CUDA_WARP, lane = threadIdx.x % CUDA_WARP, p = blockIdx.x;
    const int rows = pack.counts[SMHF_COUNT_ROWS];
    if (p >= pack.counts[SMHF_COUNT_MAX_LENGTH]) {
        return;
    }
    for (int c0 = 0; c0 < H; c0 += CUDA_WARP) {
        const int c = c0 + lane;
        float sum = 0.0f;
        for (int b = warp; b < rows && c < H; b += GROUP_WARPS) {
            const int t = pack.cu_seqlens[b] + p;
            if (t < pack.cu_seqlens[b + 1]) {
                sum += to_float(d.data[t * d.ld + c]);
            }
        }
        add_parts(dposition.data + p * dposition.ld, sum, parts, c, H);
    }
}

/* partials [chunk][type][H] of 64 tokens each */
template <typename T>
__global__ void __launch_bounds__(128)
    embedding_type_kernel(float *partials, cuda_rows<const T> d, int types, int H,
                          cuda_pack pack) {
    const int c = blockIdx.y * 128 + threadIdx.x, first = blockIdx.x * TYPE_ROWS;
    const int rows = pack_rows(pack);
    if (first >= rows || c >= H) {
        return;
    }
    for (int type = 0; type < types; type++) {
        float sum = 0.0f;
        for (int t = first; t < first + TYPE_ROWS && t < rows; t++) {
            sum += pack.type_ids[t] == type ? to_float(d.data[t * d.ld + c]) : 0.0f;
        }
        partials[((int64_t)blockIdx.x * types + type) * H + c] = sum;
    }
}

/* ---- ops ---------------------------------------------------------------------------------------- */

#define MOST_TYPES 16

size_t cuda_embedding_scratch(const smhf_limits *limits) {
    const size_t types = (size_t)cuda_blocks(limits->tokens, TYPE_ROWS) * MOST_TYPES *
                         (size_t)limits->hidden * sizeof(float);
    const size_t norm = cuda_layernorm_scratch(limits);
    return types > norm ? types : norm;
}

template <typename E> static tables_view<E> tables_of(const smhf_embedding *e) {
    tables_view<E> view = {cuda_rows_of<const E>(e->word),
                           cuda_rows_of<const E>(e->position),
                           cuda_rows_of<const E>(e->type),
                           e->word.rows,
                           e->position.rows,
                           e->type.rows};
    return view;
}

void cuda_embedding_fwd(smhf_device *dev, smhf_tensor out, smhf_tensor stats,
                        const smhf_embedding *tables, float eps, const smhf_pack *pack,
                        smhf_dropout dropout) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "embedding_fwd", out.dtype, out) ||
        !CUDA_ALL(cuda, "embedding_fwd", tables->word.dtype, tables->word, tables->position,
                  tables->type) ||
        !CUDA_ALL(cuda, "embedding_fwd", SMHF_DTYPE_F32, stats, tables->gamma, tables->beta) ||
        !cuda_norm_width(cuda, "embedding_fwd", out.cols)) {
        return;
    }
    const int n = cuda_rows_count(pack, SMHF_AXIS_TOKENS), H = out.cols;
    CUDA_DTYPE(out.dtype, T, CUDA_DTYPE(tables->word.dtype, E, NORM_GROUPS(H, GROUPS, {
                   CUDA_LAUNCH(cuda, "embedding_fwd", (embedding_fwd_kernel<T, E, GROUPS>),
                               cuda_blocks(n, NORM_WARPS), NORM_THREADS, 0, cuda_rows_of<T>(out),
                               cuda_rows_of<float>(stats), tables_of<E>(tables),
                               (const float *)tables->gamma.data,
                               (const float *)tables->beta.data, H, eps,
                               cuda_pack_of(pack, SMHF_AXIS_TOKENS), cuda_drop_of(dropout));
               })));
}

static void tables_bwd(cuda_device *cuda, const smhf_embedding *grads, smhf_tensor d,
                       int padding_id, const smhf_pack *pack) {
    const cuda_pack view = cuda_pack_of(pack, SMHF_AXIS_TOKENS);
    const int H = d.cols, n = cuda_rows_count(pack, SMHF_AXIS_TOKENS);
    const int words = pack->bucket.words;
    int longest = pack->bucket.length;
    longest = longest < grads->position.rows ? longest : grads->position.rows;
    const int positions = grads->position.data != NULL ? longest : 0; /* frozen: absent */
    CUDA_DTYPE(d.dtype, T, {
        CUDA_LAUNCH(cuda, "embedding_bwd, words", embedding_word_kernel<T>,
                    grads->word.data != NULL ? words : 0,
                    GROUP_WARPS *CUDA_WARP, 0, cuda_rows_of<float>(grads->word),
                    cuda_rows_of<const T>(d), grads->word.rows, padding_id, H, view);
        CUDA_LAUNCH(cuda, "embedding_bwd, positions", embedding_position_kernel<T>, positions,
                    GROUP_WARPS *CUDA_WARP, 0, cuda_rows_of<float>(grads->position),
                    cuda_rows_of<const T>(d), H, view);
    });
    if (grads->type.data == NULL) {
        return;
    }
    const int types = grads->type.rows;
    const dim3 grid((unsigned)cuda_blocks(n, TYPE_ROWS), (unsigned)cuda_blocks(H, 128));
    float *partials =
        (float *)cuda_scratch(cuda, (size_t)grid.x * (size_t)types * (size_t)H * sizeof(float));
    if (partials == NULL) {
        return;
    }
    CUDA_DTYPE(d.dtype, T, CUDA_LAUNCH(cuda, "embedding_bwd, types", embedding_type_kernel<T>, grid,
                                       128, 0, partials, cuda_rows_of<const T>(d), types, H,
                                       view));
    for (int type = 0; type < types; type++) {
        cuda_column_sum(cuda, (float *)grads->type.data + type * grads->type.ld,
                        partials + (size_t)type * (size_t)H, (int64_t)types * H, H, TYPE_ROWS,
                        view);
    }
}

void cuda_embedding_bwd(smhf_device *dev, const smhf_embedding *grads, smhf_tensor dout,
                        smhf_tensor stats, const smhf_embedding *tables, const smhf_pack *pack,
                        smhf_dropout dropout) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL) {
        return;
    }
    if (!pack->has_order && pack->tokens > 0) {
        cuda_fail(cuda, SMHF_E_ARG, "embedding_bwd: the batch was filled without training = 1");
        return;
    }
    if (!CUDA_ALL(cuda, "embedding_bwd", dout.dtype, dout) ||
        !CUDA_ALL(cuda, "embedding_bwd", SMHF_DTYPE_F32, stats, tables->word, tables->position,
                  tables->type, tables->gamma, grads->word, grads->position, grads->type,
                  grads->gamma, grads->beta) ||
        !cuda_norm_width(cuda, "embedding_bwd", dout.cols)) {
        return;
    }
    const int n = cuda_rows_count(pack, SMHF_AXIS_TOKENS), H = dout.cols;
    const int blocks = cuda_blocks(n, NORM_ROWS);
    const cuda_pack view = cuda_pack_of(pack, SMHF_AXIS_TOKENS);
    float *partials = (float *)cuda_scratch(cuda, (size_t)blocks * 2 * (size_t)H * sizeof(float));
    if (partials == NULL || n == 0) {
        return;
    }
    CUDA_DTYPE(dout.dtype, T, NORM_GROUPS(H, GROUPS, {
                   CUDA_LAUNCH(cuda, "embedding_bwd", (embedding_norm_bwd_kernel<T, float, GROUPS>),
                               blocks, NORM_THREADS, 2 * (size_t)H * sizeof(float),
                               cuda_rows_of<T>(dout), partials, cuda_rows_of<const float>(stats),
                               tables_of<float>(tables), (const float *)tables->gamma.data, H,
                               view, cuda_drop_of(dropout));
               }));
    cuda_column_sum(cuda, (float *)grads->gamma.data, partials, 2 * (int64_t)H, H, NORM_ROWS, view);
    cuda_column_sum(cuda, (float *)grads->beta.data, partials + H, 2 * (int64_t)H, H, NORM_ROWS,
                    view);
    tables_bwd(cuda, grads, dout, tables->padding_id, pack);
}
