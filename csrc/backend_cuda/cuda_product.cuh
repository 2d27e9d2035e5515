/* cuda_product.cuh: a linear layer's product with bias and activation, the fastest way there is. */
#ifndef SMHF_BACKEND_CUDA_CUDA_PRODUCT_CUH
#define SMHF_BACKEND_CUDA_CUDA_PRODUCT_CUH

#include "backend_cuda/cuda_common.cuh"

/* y [n, N] = act(x W^T + bias), pre = what act was given. */
typedef struct cuda_product {
    cuda_gemm gemm;        /* all but bias; d is y */
    smhf_tensor y, pre;    /* pre: absent, or kept */
    smhf_tensor bias;      /* F32, or absent */
    smhf_act act;
    void *bias_copy;       /* scratch for N of BF16 */
    cuda_pack pack;
} cuda_product;

void cuda_product_open(cuda_device *cuda);
void cuda_product_run(cuda_device *cuda, const cuda_product *p);

#endif
