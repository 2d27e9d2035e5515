/* cpu_matmul.c: finds the BLAS provider, or does without. */
#include "backend_cpu/cpu_matmul.h"
#include "common/library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static smhf_status open_provider(smhf_blas_provider *out, smhf_error *err) {
    char folder[1024], path[1100];
    SMHF_TRY(smhf_library_folder(folder, sizeof folder, err));
    snprintf(path, sizeof path, "%s/libsmhf_openblas.so", folder);
    smhf_library *library = NULL;
    SMHF_TRY(smhf_library_open(path, &library, err));
    void *symbol = NULL;
    SMHF_TRY(smhf_library_symbol(library, SMHF_BLAS_ENTRY, &symbol, err));
    smhf_blas_entry_fn entry;
    memcpy(&entry, &symbol, sizeof entry);
    if (entry(out) != 0 || out->abi != SMHF_BLAS_ABI) {
        return smhf_fail(err, SMHF_E_ABI, "%s: expected provider version %d, found %u", path,
                         SMHF_BLAS_ABI, (unsigned)out->abi);
    }
    return SMHF_OK;
}

void cpu_matmul_plain(cpu_matmul *out, const cpu_kernels *kernels) {
    memset(out, 0, sizeof *out);
    out->kernels = kernels;
    out->ready = 1;
    out->side_by_side = 1;
    out->scratch_bytes = cpu_gemm_plain_scratch();
    snprintf(out->name, sizeof out->name, "plain C matmul");
}

void cpu_matmul_open(cpu_matmul *out, const cpu_kernels *kernels) {
    const char *wanted = getenv("SMHF_BLAS");
    smhf_blas_provider provider;
    smhf_error err = SMHF_ERROR_INIT;
    cpu_matmul_plain(out, kernels);
    if ((wanted == NULL || strcmp(wanted, "plain") != 0) &&
        open_provider(&provider, &err) == SMHF_OK) {
        out->blas = provider.sgemm;
        out->side_by_side = provider.own_copy;
        out->scratch_bytes = 0;
        snprintf(out->name, sizeof out->name, "%s", provider.name);
    }
}

void cpu_matmul_run(const cpu_matmul *matmul, void *scratch, int ta, int tb, int m, int n, int k,
                    const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                    int64_t ldc) {
    if (matmul->blas != NULL) {
        matmul->blas(ta, tb, m, n, k, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
        return;
    }
    cpu_gemm_plain(matmul->kernels, scratch, ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc);
}
