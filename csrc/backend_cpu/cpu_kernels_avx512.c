/* cpu_kernels_avx512.c: the loops of cpu_kernels_body.h for processors with AVX512. */
#include "backend_cpu/cpu_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
/* headers first: their inline functions must not be compiled for this tier */
#include <math.h>
#include <string.h>

#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define TIER_NAME "avx512"
#define TIER_TABLE cpu_kernels_avx512
#include "backend_cpu/cpu_kernels_body.h"
#endif
