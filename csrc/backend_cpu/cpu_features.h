/* cpu_features.h: what this processor and operating system can run; private to backend_cpu.
 *
 * SMHF_CPU_TIER means "at most this": scalar, avx2, avx2-vnni, avx512, avx512-vnni, avx512-bf16,
 * amx. It is read at each open, so a test can open devices of several tiers in one process.
 * Threads: pure functions; a granted AMX state stays granted. */
#ifndef SMHF_BACKEND_CPU_CPU_FEATURES_H
#define SMHF_BACKEND_CPU_CPU_FEATURES_H

#include "backend_cpu/cpu_kernels.h"

#define CPU_HAS_AVX2 1u        /* with FMA */
#define CPU_HAS_AVX_VNNI 2u    /* vpdpbusd on 256-bit registers, without AVX-512 */
#define CPU_HAS_AVX512 4u      /* F, BW, DQ, VL */
#define CPU_HAS_AVX512_VNNI 8u /* vpdpbusd on 512-bit registers */
#define CPU_HAS_AVX512_BF16 16u
#define CPU_HAS_AMX 32u /* tile, bf16, int8; the kernel has granted the state */

typedef struct cpu_features {
    uint32_t flags;
    const cpu_kernels *kernels; /* of the highest of scalar, avx2, avx512 */
    char tier[32];              /* "avx512+vnni+bf16" */
} cpu_features;

/* The best of this machine, lowered by SMHF_CPU_TIER. */
void cpu_features_get(cpu_features *out);
/* Model name of the processor, or "CPU". */
void cpu_features_name(char *out, size_t size);

#endif
