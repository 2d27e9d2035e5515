/* cpu_matmul.h: one thread's matrix product, by OpenBLAS or in plain C; private to backend_cpu.
 *
 * The provider library (cpu_gemm_openblas.c, a shared object of its own so that tokenizing loads
 * no BLAS) is opened when a device first multiplies. Work is split over the pool above this, in
 * tiles that depend on shapes only.
 * Threads: sgemm may run in many threads at once, each with its own scratch. */
#ifndef SMHF_BACKEND_CPU_CPU_MATMUL_H
#define SMHF_BACKEND_CPU_CPU_MATMUL_H

#include "backend_cpu/cpu_kernels.h"

#define SMHF_BLAS_ABI 1
#define SMHF_BLAS_ENTRY "smhf_blas_provider_open"

/* C [m, n] = op(A) op(B) + beta C; op(A) is [m, k], transposed when ta, rows lda apart. */
typedef void (*smhf_blas_sgemm)(int ta, int tb, int m, int n, int k, const float *a, int lda,
                                const float *b, int ldb, float beta, float *c, int ldc);

typedef struct smhf_blas_provider {
    uint32_t abi;
    int32_t own_copy; /* 1: single-threaded and shared with nobody, so calls may run side by side;
                         0: a library that others in the process use too: its thread count is left
                         alone, and it gets whole products from one thread */
    char name[64];
    smhf_blas_sgemm sgemm;
} smhf_blas_provider;

typedef int (*smhf_blas_entry_fn)(smhf_blas_provider *out); /* 0 on success */

typedef struct cpu_matmul {
    int ready;
    int side_by_side;     /* tiles may run in several threads */
    size_t scratch_bytes; /* that each concurrent product needs */
    char name[80];
    smhf_blas_sgemm blas; /* NULL: plain */
    const cpu_kernels *kernels;
} cpu_matmul;

/* Opens the provider, or settles for plain C (also with SMHF_BLAS=plain). Never fails. */
void cpu_matmul_open(cpu_matmul *out, const cpu_kernels *kernels);
void cpu_matmul_plain(cpu_matmul *out, const cpu_kernels *kernels);
/* One product in this thread. `scratch` holds scratch_bytes, 64-byte aligned. */
void cpu_matmul_run(const cpu_matmul *matmul, void *scratch, int ta, int tb, int m, int n, int k,
                    const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                    int64_t ldc);

size_t cpu_gemm_plain_scratch(void);
void cpu_gemm_plain(const cpu_kernels *kernels, void *scratch, int ta, int tb, int m, int n, int k,
                    const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                    int64_t ldc);

#endif
