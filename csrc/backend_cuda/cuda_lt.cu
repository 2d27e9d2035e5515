/* cuda_lt.cu: finds cuBLASLt. It is opened, not linked: linking costs about a second of loading
 * even where nobody computes, and a missing library should be a sentence. */
#include "backend_cuda/cuda_lt.cuh"
#include "common/library.h"

#include <stdio.h>
#include <string.h>

#if defined(__CUDACC__)

#define LT_NAME "libcublasLt.so.13"

static smhf_status open_library(smhf_library **out, smhf_error *err) {
    char folder[1024], path[1200];
    smhf_error why = SMHF_ERROR_INIT;
    if (smhf_library_open(LT_NAME, out, &why) == SMHF_OK) {
        return SMHF_OK;
    }
    if (smhf_library_folder(folder, sizeof folder, NULL) == SMHF_OK) {
        /* smhf_native/_lib beside nvidia/cu13/lib, as pip lays them out */
        snprintf(path, sizeof path, "%s/../../nvidia/cu13/lib/" LT_NAME, folder);
        if (smhf_library_open(path, out, NULL) == SMHF_OK) {
            return SMHF_OK;
        }
    }
    return smhf_fail(err, SMHF_E_UNAVAILABLE,
                     "cuBLASLt is not there (pip install nvidia-cublas brings it): %.200s",
                     why.message);
}

smhf_status cuda_lt_open(cuda_lt *lt, smhf_error *err) {
    smhf_library *library = NULL;
    void *symbol = NULL;
    SMHF_TRY(open_library(&library, err));
#define LT_FIND(name)                                                                              \
    SMHF_TRY(smhf_library_symbol(library, #name, &symbol, err));                                   \
    memcpy(&lt->name, &symbol, sizeof symbol);
    CUDA_LT_FUNCTIONS(LT_FIND)
#undef LT_FIND
    return SMHF_OK;
}

#else /* tests/cuda_host links a stand-in */

smhf_status cuda_lt_open(cuda_lt *lt, smhf_error *err) {
    (void)err;
#define LT_FIND(name) lt->name = &::name;
    CUDA_LT_FUNCTIONS(LT_FIND)
#undef LT_FIND
    return SMHF_OK;
}

#endif
