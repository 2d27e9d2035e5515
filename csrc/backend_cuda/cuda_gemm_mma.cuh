/* cuda_gemm_mma.cuh: our own products with the whole epilogue inside; for cuda_gemm_act.cu. */
#ifndef SMHF_BACKEND_CUDA_CUDA_GEMM_MMA_CUH
#define SMHF_BACKEND_CUDA_CUDA_GEMM_MMA_CUH

#include "backend_cuda/cuda_common.cuh"

/* What happens to a product before it is stored: pre = product + bias, d = act(pre). */
typedef struct cuda_epilogue {
    const float *bias; /* [N], or NULL */
    void *pre;         /* in the dtype of d, or NULL */
    int64_t ld_pre;
    int act;
    cuda_pack pack; /* of the rows: those behind its count are not computed */
} cuda_epilogue;

/* cuda_gemm_mma.cu: BF16 operands, A [M, K], B [N, K], rows of whole 16-byte words, GELU or nothing. */
int cuda_gemm_mma_fits(const cuda_gemm *g, int act);
void cuda_gemm_mma(cuda_device *cuda, const cuda_gemm *g, const cuda_epilogue *e);

/* cuda_gemm_sm90a.cu: the same on a device of 9.0 where SMHF_CUDA_SM90A=1. */
int cuda_gemm_sm90a_fits(const cuda_device *cuda, const cuda_gemm *g, int act);
void cuda_gemm_sm90a(cuda_device *cuda, const cuda_gemm *g, const cuda_epilogue *e);

#endif
