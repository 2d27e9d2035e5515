/* cpu_kernels_scalar.c: the loops of cpu_kernels_body.h for any processor. */
#include "backend_cpu/cpu_kernels.h"

#define TIER_NAME "scalar"
#define TIER_TABLE cpu_kernels_scalar
#include "backend_cpu/cpu_kernels_body.h"
