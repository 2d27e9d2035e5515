/* cuda_lt.cuh: the functions of cuBLASLt that we use, found at run time; for cuda_gemm.cu. */
#ifndef SMHF_BACKEND_CUDA_CUDA_LT_CUH
#define SMHF_BACKEND_CUDA_CUDA_LT_CUH

#include "backend_cuda/cuda_common.cuh"

#include <cublasLt.h>

#define CUDA_LT_FUNCTIONS(X)                                                                       \
    X(cublasLtCreate)                                                                              \
    X(cublasLtDestroy)                                                                             \
    X(cublasLtMatmulDescCreate)                                                                    \
    X(cublasLtMatmulDescDestroy)                                                                   \
    X(cublasLtMatmulDescSetAttribute)                                                              \
    X(cublasLtMatrixLayoutCreate)                                                                  \
    X(cublasLtMatrixLayoutDestroy)                                                                 \
    X(cublasLtMatrixLayoutSetAttribute)                                                            \
    X(cublasLtMatmulPreferenceCreate)                                                              \
    X(cublasLtMatmulPreferenceDestroy)                                                             \
    X(cublasLtMatmulPreferenceSetAttribute)                                                        \
    X(cublasLtMatmulAlgoGetHeuristic)                                                              \
    X(cublasLtMatmul)

/* Pointers named as the functions, without "cublasLt". */
typedef struct cuda_lt {
#define CUDA_LT_POINTER(name) decltype(&::name) name;
    CUDA_LT_FUNCTIONS(CUDA_LT_POINTER)
#undef CUDA_LT_POINTER
} cuda_lt;

/* Opens the library: by its name (run path of this plugin, then the system's), then beside an
 * installed package nvidia-cublas. */
smhf_status cuda_lt_open(cuda_lt *lt, smhf_error *err);

#endif
