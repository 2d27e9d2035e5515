/* cuda_gemm.cu: products through cuBLASLt, one algorithm for each shape, chosen once and kept.
 *
 * A shape's first product asks the heuristic; later ones, of any row count in the same bucket, take
 * the stored answer: the same algorithm means the same bits. What cuBLASLt refuses is computed by
 * cuda_gemm_plain. cuBLASLt counts in columns, we in rows: D^T = op(B)^T op(A)^T, so our B is its
 * first operand and ours to transpose means its not to. */
#include "backend_cuda/cuda_kernels.cuh"
#include "backend_cuda/cuda_lt.cuh"

#include <stdlib.h>
#include <string.h>

#define SHAPES 256
#define BUCKET 128
#define WORKSPACE ((size_t)32 << 20)

/* What makes a product another one. Zeroed before filling: compared as bytes. */
typedef struct gemm_key {
    int64_t lda, ldb, ldd;
    int32_t M, N, K; /* the dimension that follows the batch is rounded up to its bucket */
    uint8_t ta, tb, in, out, beta, bias, align_a, align_b, align_d, pad[3];
} gemm_key;

typedef enum gemm_way {
    WAY_UNKNOWN,
    WAY_LT_BIAS, /* the bias in the epilogue */
    WAY_LT,
    WAY_PLAIN,
} gemm_way;

typedef struct gemm_entry {
    gemm_key key;
    gemm_way way;
    uint64_t used;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d; /* cuBLASLt's names */
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
} gemm_entry;

struct cuda_gemm_state {
    int lt_is_there;
    cuda_lt lt;
    cublasLtHandle_t handle;
    void *workspace;
    uint64_t clock;
    char name[64];
    gemm_entry entries[SHAPES];
};

/* ---- life --------------------------------------------------------------------------------------- */

smhf_status cuda_gemm_open(cuda_device *cuda, smhf_error *err) {
    const char *wanted = getenv("SMHF_CUDA_GEMM");
    cuda_gemm_state *s = (cuda_gemm_state *)smhf_calloc(1, sizeof *s);
    if (s == NULL) {
        return smhf_fail_nomem(err, "cuda products", sizeof *s);
    }
    cuda->gemm = s;
    memcpy(s->name, "own products", sizeof "own products");
    if (wanted != NULL && strcmp(wanted, "plain") == 0) {
        return SMHF_OK;
    }
    SMHF_TRY(cuda_lt_open(&s->lt, err));
    const cublasStatus_t status = s->lt.cublasLtCreate(&s->handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return smhf_fail(err, SMHF_E_BACKEND, "cuBLASLt cannot start (status %d)", (int)status);
    }
    s->lt_is_there = 1;
    memcpy(s->name, "cuBLASLt", sizeof "cuBLASLt");
    return cuda_status(cudaMalloc(&s->workspace, WORKSPACE), "workspace of cuBLASLt", err);
}

static void entry_clear(cuda_gemm_state *s, gemm_entry *e) {
    if (e->desc != NULL) {
        s->lt.cublasLtMatmulDescDestroy(e->desc);
        s->lt.cublasLtMatrixLayoutDestroy(e->a);
        s->lt.cublasLtMatrixLayoutDestroy(e->b);
        s->lt.cublasLtMatrixLayoutDestroy(e->d);
    }
    memset(e, 0, sizeof *e);
}

void cuda_gemm_close(cuda_device *cuda) {
    cuda_gemm_state *s = cuda->gemm;
    if (s == NULL) {
        return;
    }
    for (int i = 0; i < SHAPES; i++) {
        entry_clear(s, &s->entries[i]);
    }
    if (s->lt_is_there) {
        s->lt.cublasLtDestroy(s->handle);
    }
    cudaFree(s->workspace);
    smhf_free(s);
    cuda->gemm = NULL;
}

const char *cuda_gemm_name(const cuda_device *cuda) {
    return cuda->gemm != NULL ? cuda->gemm->name : "products opened at first use";
}

/* ---- a shape's entry ---------------------------------------------------------------------------- */

static uint8_t alignment_of(const void *p) {
    uint8_t a = 2;
    while (a < 64 && (uintptr_t)p % (2u * a) == 0) {
        a = (uint8_t)(2 * a);
    }
    return a;
}

static int32_t bucket(int32_t n) {
    return n > INT32_MAX - BUCKET ? n : (n + BUCKET - 1) / BUCKET * BUCKET;
}

static gemm_key key_of(const cuda_gemm *g) {
    gemm_key k;
    memset(&k, 0, sizeof k);
    k.lda = g->lda;
    k.ldb = g->ldb;
    k.ldd = g->ldd;
    k.M = g->ta ? g->M : bucket(g->M);
    k.N = g->N;
    k.K = g->ta ? bucket(g->K) : g->K;
    k.ta = (uint8_t)g->ta;
    k.tb = (uint8_t)g->tb;
    k.in = (uint8_t)g->in;
    k.out = (uint8_t)g->out;
    k.beta = g->beta != 0.0f;
    k.bias = g->bias != NULL;
    k.align_a = alignment_of(g->a);
    k.align_b = alignment_of(g->b);
    k.align_d = alignment_of(g->d);
    return k;
}

static cudaDataType_t type_of(smhf_dtype dtype) {
    return dtype == SMHF_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static int layout_of(const cuda_lt *lt, cublasLtMatrixLayout_t *out, smhf_dtype dtype,
                     int64_t rows, int64_t cols, int64_t ld) {
    return lt->cublasLtMatrixLayoutCreate(out, type_of(dtype), (uint64_t)rows, (uint64_t)cols,
                                          ld) == CUBLAS_STATUS_SUCCESS;
}

/* cuBLASLt's three layouts for M, N, K of ours. */
static int describe(const cuda_lt *lt, gemm_entry *e, const cuda_gemm *g, int32_t M, int32_t K) {
    const int32_t N = g->N;
    const int first = layout_of(lt, &e->a, g->in, g->tb ? K : N, g->tb ? N : K, g->ldb);
    const int second = layout_of(lt, &e->b, g->in, g->ta ? M : K, g->ta ? K : M, g->lda);
    return first && second && layout_of(lt, &e->d, g->out, N, M, g->ldd);
}

static int set(const cuda_lt *lt, cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what,
               const void *value, size_t size) {
    return lt->cublasLtMatmulDescSetAttribute(desc, what, value, size) == CUBLAS_STATUS_SUCCESS;
}

static int operation(const cuda_lt *lt, gemm_entry *e, const cuda_gemm *g) {
    /* fp32 means fp32: CUBLAS_COMPUTE_32F does not use TF32 */
    const cublasOperation_t first = g->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = g->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    return lt->cublasLtMatmulDescCreate(&e->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) ==
               CUBLAS_STATUS_SUCCESS &&
           set(lt, e->desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first) &&
           set(lt, e->desc, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
}

static int epilogue(const cuda_lt *lt, gemm_entry *e, const cuda_gemm *g, int with_bias) {
    const cublasLtEpilogue_t kind = with_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const cudaDataType_t type = type_of(g->out);
    return set(lt, e->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &kind, sizeof kind) &&
           (!with_bias ||
            (set(lt, e->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type) &&
             set(lt, e->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias, sizeof g->bias)));
}

/* The heuristic's first choice that is deterministic and fits the workspace. */
static int choose(cuda_gemm_state *s, gemm_entry *e, const cuda_gemm *g) {
    const cuda_lt *lt = &s->lt;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    const size_t workspace = WORKSPACE;
    const uint32_t align_a = e->key.align_b, align_b = e->key.align_a, align_d = e->key.align_d;
    memset(&result, 0, sizeof result);
    (void)g;
    if (lt->cublasLtMatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS) {
        return 0;
    }
    lt->cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &workspace, sizeof workspace);
    lt->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_a, sizeof align_a);
    lt->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_b, sizeof align_b);
    lt->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_d, sizeof align_d);
    lt->cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_d, sizeof align_d);
    const cublasStatus_t status = lt->cublasLtMatmulAlgoGetHeuristic(
        s->handle, e->desc, e->a, e->b, e->d, e->d, preference, 1, &result, &found);
    lt->cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS || found == 0 || result.state != CUBLAS_STATUS_SUCCESS) {
        return 0;
    }
    e->algo = result.algo;
    e->workspace = result.workspaceSize;
    return 1;
}

static void fill_entry(cuda_gemm_state *s, gemm_entry *e, const cuda_gemm *g, const gemm_key *key) {
    entry_clear(s, e);
    e->key = *key;
    e->way = WAY_PLAIN;
    if (!s->lt_is_there || !operation(&s->lt, e, g) || !describe(&s->lt, e, g, key->M, key->K)) {
        return;
    }
    if (g->bias != NULL && epilogue(&s->lt, e, g, 1) && choose(s, e, g)) {
        e->way = WAY_LT_BIAS;
    } else if (epilogue(&s->lt, e, g, 0) && choose(s, e, g)) {
        e->way = WAY_LT;
    }
}

static gemm_entry *entry_of(cuda_gemm_state *s, const cuda_gemm *g) {
    const gemm_key key = key_of(g);
    gemm_entry *oldest = &s->entries[0];
    for (int i = 0; i < SHAPES; i++) {
        gemm_entry *e = &s->entries[i];
        if (e->way != WAY_UNKNOWN && memcmp(&e->key, &key, sizeof key) == 0) {
            e->used = ++s->clock;
            return e;
        }
        oldest = e->used < oldest->used ? e : oldest;
        if (e->way == WAY_UNKNOWN) {
            oldest = e;
            break; /* entries fill from the front */
        }
    }
    fill_entry(s, oldest, g, &key);
    oldest->used = ++s->clock;
    return oldest;
}

/* ---- a product ---------------------------------------------------------------------------------- */

static int resize(const cuda_lt *lt, gemm_entry *e, const cuda_gemm *g) {
    const uint64_t M = (uint64_t)g->M, K = (uint64_t)g->K;
    const cublasLtMatrixLayoutAttribute_t rows = CUBLASLT_MATRIX_LAYOUT_ROWS;
    const cublasLtMatrixLayoutAttribute_t cols = CUBLASLT_MATRIX_LAYOUT_COLS;
    int fine = 1;
    if (g->ta) { /* K follows the batch */
        fine &= lt->cublasLtMatrixLayoutSetAttribute(e->a, g->tb ? rows : cols, &K, sizeof K) ==
                CUBLAS_STATUS_SUCCESS;
        fine &= lt->cublasLtMatrixLayoutSetAttribute(e->b, cols, &K, sizeof K) ==
                CUBLAS_STATUS_SUCCESS;
        return fine;
    }
    fine &= lt->cublasLtMatrixLayoutSetAttribute(e->b, cols, &M, sizeof M) == CUBLAS_STATUS_SUCCESS;
    fine &= lt->cublasLtMatrixLayoutSetAttribute(e->d, cols, &M, sizeof M) == CUBLAS_STATUS_SUCCESS;
    return fine;
}

/* Adds the bias by a pass of its own, where the epilogue could not. */
template <typename T>
__global__ void __launch_bounds__(256) gemm_bias_kernel(T *d, const T *bias, int64_t ld, int M,
                                                        int N) {
    const int c = blockIdx.x * 256 + threadIdx.x;
    for (int r = blockIdx.y; r < M && c < N; r += gridDim.y) {
        d[r * ld + c] = from_float<T>(to_float(d[r * ld + c]) + to_float(bias[c]));
    }
}

static void add_bias(cuda_device *cuda, const cuda_gemm *g) {
    const dim3 grid((unsigned)cuda_blocks(g->N, 256), (unsigned)(g->M < 1024 ? g->M : 1024));
    CUDA_DTYPE(g->out, T, CUDA_LAUNCH(cuda, "bias", gemm_bias_kernel<T>, grid, 256, 0, (T *)g->d,
                                      (const T *)g->bias, g->ldd, g->M, g->N));
}

void cuda_gemm_run(cuda_device *cuda, const cuda_gemm *g) {
    cuda_gemm_state *s = cuda->gemm;
    const float one = 1.0f;
    if (g->M <= 0 || g->N <= 0) {
        return;
    }
    gemm_entry *e = entry_of(s, g);
    if (e->way == WAY_PLAIN) {
        cuda_gemm_plain(cuda, g);
        return;
    }
    if (!resize(&s->lt, e, g) || !epilogue(&s->lt, e, g, e->way == WAY_LT_BIAS)) {
        cuda_fail(cuda, SMHF_E_BACKEND, "cuBLASLt: a product of %d x %d x %d cannot be described",
                  (int)g->M, (int)g->N, (int)g->K);
        return;
    }
    const cublasStatus_t status =
        s->lt.cublasLtMatmul(s->handle, e->desc, &one, g->b, e->a, g->a, e->b, &g->beta, g->d, e->d,
                             g->d, e->d, &e->algo, s->workspace, WORKSPACE, cuda->stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
        e->way = WAY_PLAIN; /* the bucket's algorithm does not take this row count */
        cuda_gemm_plain(cuda, g);
        return;
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
        cuda_fail(cuda, SMHF_E_BACKEND, "cuBLASLt: a product of %d x %d x %d failed (status %d)",
                  (int)g->M, (int)g->N, (int)g->K, (int)status);
        return;
    }
    if (g->bias != NULL && e->way == WAY_LT) {
        add_bias(cuda, g);
    }
}
