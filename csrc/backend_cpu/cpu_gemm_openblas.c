/* cpu_gemm_openblas.c: the BLAS provider, a shared object of its own.
 *
 * Built with SMHF_BLAS_OWN_COPY it holds a private, statically linked OpenBLAS, whose thread count
 * may be set to 1 without touching the copy that NumPy may be using. Otherwise it is linked to the
 * system's shared OpenBLAS; there only a per-thread setting (0.3.27 and later) is allowed, and
 * where it is missing the library keeps its own threads. */
#include "backend_cpu/cpu_matmul.h"

#include <cblas.h>
#include <stdio.h>
#include <string.h>

__attribute__((visibility("default"))) int smhf_blas_provider_open(smhf_blas_provider *out);

static void provider_sgemm(int ta, int tb, int m, int n, int k, const float *a, int lda,
                           const float *b, int ldb, float beta, float *c, int ldc) {
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n,
                k, 1.0f, a, lda, b, ldb, beta, c, ldc);
}

/* "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..." -> "OpenBLAS 0.3.21" */
static void describe(char *out, size_t size) {
    const char *config = openblas_get_config();
    const char *core = openblas_get_corename();
    int length = 0, words = 0;
    while (config[length] != '\0') {
        if (config[length] == ' ' && ++words == 2) {
            break;
        }
        length++;
    }
    snprintf(out, size, "%.*s (%s)", length < 40 ? length : 40, config, core);
}

int smhf_blas_provider_open(smhf_blas_provider *out) {
    memset(out, 0, sizeof *out);
    out->abi = SMHF_BLAS_ABI;
    out->sgemm = provider_sgemm;
    describe(out->name, sizeof out->name);
#ifdef SMHF_BLAS_OWN_COPY
    openblas_set_num_threads(1);
    out->own_copy = 1;
#else
    out->own_copy = openblas_get_num_threads() == 1;
#endif
    return 0;
}
