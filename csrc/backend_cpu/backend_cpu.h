/* backend_cpu.h: the backend that is always there: the processor, in fp32.
 *
 *     SMHF_TRY(smhf_backend_register(smhf_cpu_backend(), SMHF_CPU_PRIORITY, err));
 *
 * Only a composition root (glue, a test's main) includes this; model knows backend.h alone.
 * Work is split over common/pool.h in chunks that depend on shapes only, so results are bit-equal
 * for any number of threads. fp32 products run on kernels of our own where the processor has AVX2;
 * SMHF_BLAS=openblas sends them to OpenBLAS (through a provider library, opened at the first
 * product; also the default below AVX2), SMHF_BLAS=plain to plain C, SMHF_BLAS=own back.
 * SMHF_CPU_TIER (scalar, avx2, avx2-vnni, avx512, avx512-vnni, avx512-bf16, amx) forces a lower
 * tier of kernels than the processor has. Threads: the table is immutable; a device is used by one
 * thread at a time, several devices may work at once. Ownership: the table is static. */
#ifndef SMHF_BACKEND_CPU_BACKEND_CPU_H
#define SMHF_BACKEND_CPU_BACKEND_CPU_H

#include "backend/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SMHF_CPU_PRIORITY 10

const smhf_backend *smhf_cpu_backend(void);

#ifdef __cplusplus
}
#endif
#endif
