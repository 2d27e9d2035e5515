/* cpu_kernels_avx2.c: the loops of cpu_kernels_body.h for processors with AVX2. */
#include "backend_cpu/cpu_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
/* headers first: their inline functions must not be compiled for this tier */
#include <math.h>
#include <string.h>

#pragma GCC target("avx2,fma")
#define TIER_NAME "avx2"
#define TIER_TABLE cpu_kernels_avx2
#include "backend_cpu/cpu_kernels_body.h"
#endif
