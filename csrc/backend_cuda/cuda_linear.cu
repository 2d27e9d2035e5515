/* cuda_linear.cu: weights, and the linear layers forward and backward over cuda_gemm_run.
 *
 * BF16 weights take activations in either dtype: F32 ones are rounded into scratch first, sums are
 * F32 always. Gradients of weights accumulate inside the product (beta = 1), in F32. */
#include "backend_cuda/cuda_gelu.cuh"
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_product.cuh"
#include "backend_cuda/cuda_table.cuh"

#define BIAS_COLS 32
#define BIAS_PARTS 8
#define BIAS_ROWS 256

/* ---- weights ------------------------------------------------------------------------------------ */

smhf_status cuda_weight_prepare(smhf_device *dev, smhf_weight **out, smhf_tensor source,
                                const smhf_weight_options *options, smhf_error *err) {
    cuda_device *cuda = (cuda_device *)dev;
    *out = NULL;
    SMHF_TRY(cuda_enter(cuda, err));
    if (options->compute != SMHF_DTYPE_F32 && options->compute != SMHF_DTYPE_BF16) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "int8 weights on CUDA are not written: use precision=\"bf16\" or \"fp32\"");
    }
    if (source.dtype != SMHF_DTYPE_F32 || source.layout != SMHF_LAYOUT_ROWS) {
        return smhf_fail(err, SMHF_E_ARG, "weight of %d x %d: expected fp32 rows",
                         (int)source.rows, (int)source.cols);
    }
    smhf_weight *weight = (smhf_weight *)smhf_calloc(1, sizeof *weight);
    if (weight == NULL) {
        return smhf_fail_nomem(err, "weight", sizeof *weight);
    }
    weight->source = source;
    weight->compute = options->compute;
    if (options->compute == SMHF_DTYPE_BF16) {
        void *copy = NULL;
        const size_t bytes = (size_t)source.rows * (size_t)source.cols * sizeof(bf16);
        const smhf_status status = cuda_alloc(dev, &copy, bytes, err);
        if (status != SMHF_OK) {
            smhf_free(weight);
            return status;
        }
        weight->copy = (bf16 *)copy;
        cuda_weight_refresh(dev, weight);
    }
    *out = weight;
    return SMHF_OK;
}

void cuda_weight_refresh(smhf_device *dev, smhf_weight *weight) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda != NULL && weight->copy != NULL) {
        cuda_convert_dense(cuda, weight->copy, SMHF_DTYPE_BF16, weight->source,
                           weight->source.rows);
    }
}

void cuda_weight_free(smhf_device *dev, smhf_weight *weight) {
    if (weight != NULL) {
        cuda_free(dev, weight->copy);
        smhf_free(weight);
    }
}

/* ---- operands ----------------------------------------------------------------------------------- */

/* A bump allocator over the op's scratch. */
typedef struct scratch_span {
    char *at;
} scratch_span;

static void *scratch_take(scratch_span *span, size_t bytes) {
    void *here = span->at;
    span->at += cuda_align(bytes);
    return here;
}

/* x as the product wants it: itself, or rounded into scratch. */
static smhf_tensor operand(cuda_device *cuda, scratch_span *span, smhf_tensor x, smhf_dtype compute,
                           int32_t rows) {
    if (x.dtype == compute) {
        return x;
    }
    void *copy = scratch_take(span, (size_t)rows * (size_t)x.cols * sizeof(bf16));
    cuda_convert_dense(cuda, copy, compute, x, rows);
    return smhf_tensor_of(copy, rows, x.cols, compute);
}

static size_t operand_bytes(smhf_tensor x, smhf_dtype compute, int32_t rows) {
    return x.dtype == compute ? 0 : cuda_align((size_t)rows * (size_t)x.cols * sizeof(bf16));
}

static int fits(cuda_device *cuda, const char *op, smhf_tensor x, const smhf_weight *w) {
    if (x.dtype == SMHF_DTYPE_BF16 && w->compute != SMHF_DTYPE_BF16) {
        cuda_fail(cuda, SMHF_E_UNSUPPORTED,
                  "%s on CUDA: bf16 activations and a weight prepared for fp32", op);
        return 0;
    }
    return 1;
}

/* y [n, N] = x W^T, or x W when `input` is set; D in y's dtype. */
static cuda_gemm product_of(smhf_tensor y, smhf_tensor x, const smhf_weight *w, int input,
                            int32_t n) {
    cuda_gemm g;
    g.M = n;
    g.N = input ? w->source.cols : w->source.rows;
    g.K = input ? w->source.rows : w->source.cols;
    g.ta = 0;
    g.tb = !input;
    g.a = x.data;
    g.lda = x.ld;
    g.b = w->copy != NULL ? (const void *)w->copy : w->source.data;
    g.ldb = w->copy != NULL ? w->source.cols : w->source.ld;
    g.d = y.data;
    g.ldd = y.ld;
    g.in = w->compute;
    g.out = y.dtype;
    g.beta = 0.0f;
    g.bias = NULL;
    return g;
}

static void product(cuda_device *cuda, smhf_tensor y, smhf_tensor x, const smhf_weight *w,
                    float beta, int32_t n) {
    cuda_gemm g = product_of(y, x, w, 1, n);
    g.beta = beta;
    cuda_gemm_run(cuda, &g);
}

/* ---- column sums of dy, first stage --------------------------------------------------------------- */

/* On the way, rows of dy and x from the actual count to the bucket's become zero: a product over the
 * bucket must add nothing for them. */
template <typename T>
__global__ void __launch_bounds__(BIAS_COLS *BIAS_PARTS)
    bias_partials_kernel(float *partials, cuda_rows<T> dy, int cols, cuda_rows<T> x, int x_cols,
                         int bucket, cuda_pack pack) {
    __shared__ float parts[BIAS_PARTS][BIAS_COLS];
    const int lane = threadIdx.x % BIAS_COLS, part = threadIdx.x / BIAS_COLS;
    const int c = blockIdx.x * BIAS_COLS + lane, rows = pack_rows(pack);
    const int first = blockIdx.y * BIAS_ROWS;
    const int end = first + BIAS_ROWS < bucket ? first + BIAS_ROWS : bucket;
    for (int r = (first > rows ? first : rows) + part; r < end; r += BIAS_PARTS) {
        if (c < cols) {
            dy.data[r * dy.ld + c] = from_float<T>(0.0f);
        }
        if (c < x_cols) {
            x.data[r * x.ld + c] = from_float<T>(0.0f);
        }
    }
    if (partials == NULL || first >= rows || (int)blockIdx.x * BIAS_COLS >= cols) {
        return;
    }
    const int last = end < rows ? end : rows;
    float sum = 0.0f;
    for (int r = first + part; r < last && c < cols; r += BIAS_PARTS) {
        sum += to_float(dy.data[r * dy.ld + c]);
    }
    parts[part][lane] = sum;
    __syncthreads();
    if (part == 0 && c < cols) {
        for (int i = 1; i < BIAS_PARTS; i++) {
            sum += parts[i][lane];
        }
        partials[(int64_t)blockIdx.y * cols + c] = sum;
    }
}

/* ---- ops ---------------------------------------------------------------------------------------- */

size_t cuda_linear_scratch(const smhf_limits *limits) {
    const size_t H3 = 3 * (size_t)limits->hidden, F = (size_t)limits->ffn;
    const size_t C = (size_t)limits->classes;
    size_t width = H3 > F ? H3 : F;
    width = width > C ? width : C;
    const size_t n = (size_t)(limits->tokens > limits->rows ? limits->tokens : limits->rows);
    /* a raw product in F32, two rounded operands, a bias, sums of a bias gradient */
    return cuda_align(n * width * 4) + 2 * cuda_align(n * width * 2) + cuda_align(width * 2) +
           cuda_align((n / BIAS_ROWS + 1) * width * 4);
}

/* y = act(x W^T + bias); checked, on the queue. */
static void forward(cuda_device *cuda, smhf_tensor y, smhf_tensor pre, smhf_tensor x,
                    const smhf_weight *w, smhf_tensor bias, smhf_act act, const smhf_pack *pack,
                    smhf_axis axis) {
    const int32_t n = cuda_rows_count(pack, axis);
    scratch_span span = {(char *)cuda_scratch(
        cuda, operand_bytes(x, w->compute, n) + cuda_align((size_t)y.cols * sizeof(bf16)))};
    if (n == 0 || span.at == NULL) {
        return;
    }
    cuda_product p;
    p.bias_copy = scratch_take(&span, (size_t)y.cols * sizeof(bf16));
    p.gemm = product_of(y, operand(cuda, &span, x, w->compute, n), w, 0, n);
    p.y = y;
    p.pre = pre;
    p.bias = bias;
    p.act = act;
    p.pack = cuda_pack_of(pack, axis);
    cuda_product_run(cuda, &p);
}

void cuda_linear_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor x, const smhf_weight *w,
                     smhf_tensor bias, const smhf_pack *pack, smhf_axis axis) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "linear_fwd", x.dtype, y, x) ||
        !CUDA_ALL(cuda, "linear_fwd", SMHF_DTYPE_F32, bias) || !fits(cuda, "linear_fwd", x, w)) {
        return;
    }
    forward(cuda, y, SMHF_TENSOR_NONE, x, w, bias, SMHF_ACT_NONE, pack, axis);
}

void cuda_linear_act_fwd(smhf_device *dev, smhf_tensor y, smhf_tensor pre, smhf_tensor x,
                         const smhf_weight *w, smhf_tensor bias, smhf_act act,
                         const smhf_pack *pack, smhf_axis axis) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "linear_act_fwd", x.dtype, y, pre, x) ||
        !CUDA_ALL(cuda, "linear_act_fwd", SMHF_DTYPE_F32, bias) ||
        !fits(cuda, "linear_act_fwd", x, w)) {
        return;
    }
    forward(cuda, y, pre, x, w, bias, act, pack, axis);
}

void cuda_linear_bwd_input(smhf_device *dev, smhf_tensor dx, smhf_tensor dy, const smhf_weight *w,
                           int accumulate, const smhf_pack *pack, smhf_axis axis) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "linear_bwd_input", dy.dtype, dx, dy) ||
        !fits(cuda, "linear_bwd_input", dy, w)) {
        return;
    }
    const int32_t n = cuda_rows_count(pack, axis);
    scratch_span span = {(char *)cuda_scratch(cuda, operand_bytes(dy, w->compute, n) + 256)};
    if (n == 0 || span.at == NULL) {
        return;
    }
    product(cuda, dx, operand(cuda, &span, dy, w->compute, n), w, accumulate ? 1.0f : 0.0f, n);
}

/* The product goes to scratch: dpre may be `saved`, which is read after it. */
void cuda_linear_act_bwd_input(smhf_device *dev, smhf_tensor dpre, smhf_tensor dy,
                               const smhf_weight *w, smhf_tensor saved, smhf_act act,
                               const smhf_pack *pack, smhf_axis axis) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "linear_act_bwd_input", dy.dtype, dpre, dy, saved) ||
        !fits(cuda, "linear_act_bwd_input", dy, w)) {
        return;
    }
    const int32_t n = cuda_rows_count(pack, axis), K = dpre.cols;
    const size_t raw_bytes = (size_t)n * (size_t)K * smhf_dtype_size(dpre.dtype);
    scratch_span span = {(char *)cuda_scratch(
        cuda, cuda_align(raw_bytes) + operand_bytes(dy, w->compute, n) + 256)};
    if (n == 0 || span.at == NULL) {
        return;
    }
    const smhf_tensor raw = smhf_tensor_of(scratch_take(&span, raw_bytes), n, K, dpre.dtype);
    product(cuda, raw, operand(cuda, &span, dy, w->compute, n), w, 0.0f, n);
    cuda_act_slope(cuda, dpre, raw, saved, act, n, cuda_pack_of(pack, axis));
}

void cuda_linear_bwd_weight(smhf_device *dev, smhf_tensor dw, smhf_tensor dbias, smhf_tensor dy,
                            smhf_tensor x, const smhf_pack *pack, smhf_axis axis,
                            smhf_dtype compute) {
    cuda_device *cuda = cuda_begin(dev);
    if (cuda == NULL || !CUDA_ALL(cuda, "linear_bwd_weight", dy.dtype, dy, x) ||
        !CUDA_ALL(cuda, "linear_bwd_weight", SMHF_DTYPE_F32, dw, dbias)) {
        return;
    }
    const int32_t n = cuda_rows_count(pack, axis);
    const smhf_dtype in = dy.dtype == SMHF_DTYPE_BF16 ? SMHF_DTYPE_BF16 : compute;
    const int chunks = cuda_blocks(n, BIAS_ROWS);
    const cuda_pack view = cuda_pack_of(pack, axis);
    const size_t bias_bytes = (size_t)chunks * (size_t)dy.cols * sizeof(float);
    scratch_span span = {(char *)cuda_scratch(cuda, cuda_align(bias_bytes) +
                                                        operand_bytes(dy, in, n) +
                                                        operand_bytes(x, in, n) + 256)};
    const void *span_start = span.at; /* partials come first */
    if (n == 0 || span.at == NULL) {
        return;
    }
    const int tail = n > smhf_pack_count(pack, axis) || cuda->capturing;
    if (dbias.data != NULL || tail) {
        float *partials =
            dbias.data != NULL ? (float *)scratch_take(&span, bias_bytes) : (float *)NULL;
        const int widest = tail && x.cols > dy.cols ? x.cols : dy.cols;
        const dim3 grid((unsigned)cuda_blocks(widest, BIAS_COLS), (unsigned)chunks);
        CUDA_DTYPE(dy.dtype, T,
                   CUDA_LAUNCH(cuda, "bias gradient", bias_partials_kernel<T>, grid,
                               BIAS_COLS *BIAS_PARTS, 0, partials, cuda_rows_of<T>(dy), dy.cols,
                               cuda_rows_of<T>(x), tail ? x.cols : 0, n, view));
    }
    if (dbias.data != NULL) {
        cuda_column_sum(cuda, (float *)dbias.data, (const float *)span_start, dy.cols, dy.cols,
                        BIAS_ROWS, view);
    }
    const smhf_tensor dy_in = operand(cuda, &span, dy, in, n), x_in = operand(cuda, &span, x, in, n);
    cuda_gemm g;
    g.M = dy.cols;
    g.N = x.cols;
    g.K = n;
    g.ta = 1;
    g.tb = 0;
    g.a = dy_in.data;
    g.lda = dy_in.ld;
    g.b = x_in.data;
    g.ldb = x_in.ld;
    g.d = dw.data;
    g.ldd = dw.ld;
    g.in = in;
    g.out = SMHF_DTYPE_F32;
    g.beta = 1.0f;
    g.bias = NULL;
    cuda_gemm_run(cuda, &g);
}
