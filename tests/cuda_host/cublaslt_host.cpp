/* cublaslt_host.cpp: the stand-in for cuBLASLt; see shim/cublasLt.h.
 *
 * It refuses what the real one refuses or may refuse: widths in BF16 that do not make whole words,
 * so that the own product is met; and, for every seventh width, a bias in the epilogue. */
#include "cublasLt.h"

#include "cuda_bf16.h"

#include <vector>

struct lt_host_handle {
    int nothing;
};

struct lt_host_desc {
    cublasOperation_t ta, tb;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    cudaDataType_t bias_type;
};

struct lt_host_layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};

struct lt_host_preference {
    size_t workspace;
};

namespace {

float get(const void *data, cudaDataType_t type, int64_t at) {
    return type == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16 *)data)[at])
                               : ((const float *)data)[at];
}

void put(void *data, cudaDataType_t type, int64_t at, float value) {
    if (type == CUDA_R_16BF) {
        ((__nv_bfloat16 *)data)[at] = __float2bfloat16_rn(value);
    } else {
        ((float *)data)[at] = value;
    }
}

/* m, n, k of the product, or 0 when the layouts do not fit together. */
int sizes(const lt_host_desc *desc, const lt_host_layout *a, const lt_host_layout *b,
          const lt_host_layout *d, int64_t *k) {
    const uint64_t m = desc->ta == CUBLAS_OP_T ? a->cols : a->rows;
    const uint64_t ka = desc->ta == CUBLAS_OP_T ? a->rows : a->cols;
    const uint64_t kb = desc->tb == CUBLAS_OP_T ? b->cols : b->rows;
    const uint64_t n = desc->tb == CUBLAS_OP_T ? b->rows : b->cols;
    *k = (int64_t)ka;
    return ka == kb && m == d->rows && n == d->cols && a->type == b->type &&
           a->ld >= (int64_t)a->rows && b->ld >= (int64_t)b->rows && d->ld >= (int64_t)d->rows &&
           (d->type == a->type || d->type == CUDA_R_32F);
}

/* The rule of thumb of the header: whole 8-byte words in BF16. */
int refused(const lt_host_layout *l) {
    return l->type == CUDA_R_16BF && (l->ld % 4 != 0 || l->rows % 4 != 0);
}

} // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    *out = new lt_host_handle();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *out = new lt_host_desc();
    (*out)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS
                                                                : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t size) {
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        memcpy(&desc->ta, value, size);
        break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        memcpy(&desc->tb, value, size);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        memcpy(&desc->epilogue, value, size);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        memcpy(&desc->bias, value, size);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        memcpy(&desc->bias_type, value, size);
        break;
    default:
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    return size == sizeof(void *) || size == sizeof(int) ? CUBLAS_STATUS_SUCCESS
                                                         : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
    *out = new lt_host_layout{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t size) {
    if (size != sizeof(uint64_t)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(what == CUBLASLT_MATRIX_LAYOUT_ROWS ? &layout->rows : &layout->cols, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    *out = new lt_host_preference();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what,
                                                    const void *value, size_t size) {
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && size == sizeof(size_t)) {
        memcpy(&preference->workspace, value, size);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t *out,
    int *found) {
    int64_t k = 0;
    (void)handle;
    (void)preference;
    *found = 0;
    if (wanted < 1 || c != d || !sizes(desc, a, b, d, &k)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const int bias = desc->epilogue == CUBLASLT_EPILOGUE_BIAS;
    if (refused(a) || refused(b) || refused(d) ||
        (bias && (desc->bias_type != d->type || d->rows % 7 == 0))) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    memset(out, 0, sizeof *out);
    out->state = CUBLAS_STATUS_SUCCESS;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                              const void *alpha, const void *a_data, cublasLtMatrixLayout_t a,
                              const void *b_data, cublasLtMatrixLayout_t b, const void *beta,
                              const void *c_data, cublasLtMatrixLayout_t c, void *d_data,
                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_size, cudaStream_t stream) {
    int64_t k = 0;
    (void)handle;
    (void)algo;
    (void)workspace;
    (void)workspace_size;
    if (c != d || c_data != d_data || !sizes(desc, a, b, d, &k) || *(const float *)alpha != 1.0f) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const lt_host_desc op = *desc; /* the call copies; the work runs later */
    const lt_host_layout la = *a, lb = *b, ld = *d;
    const float keep = *(const float *)beta;
    cuda_host_queue(stream, [=]() {
        const int64_t m = (int64_t)ld.rows, n = (int64_t)ld.cols;
        std::vector<float> left((size_t)(m * k)), right((size_t)(k * n));
        for (int64_t i = 0; i < m; i++) {
            for (int64_t p = 0; p < k; p++) {
                left[(size_t)(i * k + p)] =
                    get(a_data, la.type, op.ta == CUBLAS_OP_T ? i * la.ld + p : p * la.ld + i);
            }
        }
        for (int64_t j = 0; j < n; j++) {
            for (int64_t p = 0; p < k; p++) {
                right[(size_t)(j * k + p)] =
                    get(b_data, lb.type, op.tb == CUBLAS_OP_T ? p * lb.ld + j : j * lb.ld + p);
            }
        }
        for (int64_t j = 0; j < n; j++) {
            for (int64_t i = 0; i < m; i++) {
                const float *x = &left[(size_t)(i * k)], *y = &right[(size_t)(j * k)];
                float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                for (int64_t p = 0; p < k; p++) {
                    sum[p % 4] += x[p] * y[p];
                }
                float value = (sum[0] + sum[1]) + (sum[2] + sum[3]);
                if (keep != 0.0f) {
                    value += keep * get(d_data, ld.type, j * ld.ld + i);
                }
                if (op.epilogue == CUBLASLT_EPILOGUE_BIAS) {
                    value += get(op.bias, op.bias_type, i);
                }
                put(d_data, ld.type, j * ld.ld + i, value);
            }
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}
