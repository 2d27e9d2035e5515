/* cpu_amx.c: the AMX kernels over the processor's tiles. Rows are rounded in 512-bit registers:
 * every processor with AMX has those. */
#include "backend_cpu/cpu_lowp.h"

#ifdef CPU_LOWP_HAS_AMX
#include "backend_cpu/cpu_amx.h"
#include "backend_cpu/cpu_amx_body.h"

const cpu_i8_kernels cpu_i8_amx = {
    .name = "amx",
    .rows = 32,
    .whole = 1,
    .levels = 255,
    .quantize = cpu_i8_quantize_avx512,
    .tile = tile_i8,
    .begin = amx_begin,
    .end = amx_end,
};

const cpu_bf16_kernels cpu_bf16_amx = {
    .name = "amx",
    .native = 1,
    .rows = 32,
    .whole = 1,
    .pack = cpu_bf16_round_avx512,
    .round = cpu_bf16_round_avx512,
    .tile = tile_bf16,
    .begin = amx_begin,
    .end = amx_end,
};
#endif
