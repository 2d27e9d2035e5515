/* cpu_epilogue.h: what happens to the sums of a product while they are in cache; shared by the
 * fp32, bf16 and int8 products; private to backend_cpu.
 *
 * A product makes tiles of fp32 sums in scratch and hands each to kernels->finish:
 *
 *     cpu->kernels->finish(&product->epilogue, sums, ld, row, rows, col, cols);
 *
 * One row's result does not depend on how the output was cut into tiles.
 * Threads: pure; tiles of one output may be finished in several threads. */
#ifndef SMHF_BACKEND_CPU_CPU_EPILOGUE_H
#define SMHF_BACKEND_CPU_CPU_EPILOGUE_H

#include "backend/backend.h"

typedef struct cpu_epilogue {
    smhf_tensor y;     /* [m, n] F32 */
    smhf_tensor pre;   /* forward: sums + bias are kept here as well; absent: not */
    smhf_tensor saved; /* slope: what act' is taken from; may be y */
    const float *bias; /* [n] or NULL */
    smhf_act act;
    int slope;      /* y = sums * act'(saved) instead of y = act(sums + bias) */
    int accumulate; /* y += sums; without bias, act, slope */
} cpu_epilogue;

/* A row of quantised activations: x = scale * (q - zero). */
typedef struct cpu_i8_row {
    float scale;
    int32_t zero;
} cpu_i8_row;

/* What the exact sums of an int8 product become, for a panel of CPU_I8_COLS outputs:
 * act(scale_row * scale_output * (sums - zero_row * total_output) + bias) + residual. */
#define CPU_I8_COLS 32
typedef struct cpu_i8_finish {
    const cpu_i8_row *rows;
    const float *scales;   /* of the outputs */
    const int32_t *totals; /* of the outputs: sums of their weights */
    const float *bias;     /* NULL: none */
    const float *residual; /* NULL: none; may be the output */
    int64_t residual_ld;
    smhf_act act; /* NONE or GELU (by cpu_gelu_coarse) */
} cpu_i8_finish;

#endif
