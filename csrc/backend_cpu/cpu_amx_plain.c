/* cpu_amx_plain.c: the AMX kernels over tiles in plain C: what a machine without AMX can test. */
#include "backend_cpu/cpu_lowp.h"

#define CPU_AMX_PLAIN
#include "backend_cpu/cpu_amx.h"
#include "backend_cpu/cpu_amx_body.h"

const cpu_i8_kernels cpu_i8_amx_plain = {
    .name = "amx in plain C",
    .rows = 32,
    .whole = 1,
    .levels = 255,
    .quantize = cpu_i8_quantize_plain,
    .tile = tile_i8,
    .begin = amx_begin,
    .end = amx_end,
};

const cpu_bf16_kernels cpu_bf16_amx_plain = {
    .name = "amx in plain C",
    .native = 1,
    .rows = 32,
    .whole = 1,
    .pack = cpu_bf16_round_plain,
    .round = cpu_bf16_round_plain,
    .tile = tile_bf16,
    .begin = amx_begin,
    .end = amx_end,
};
