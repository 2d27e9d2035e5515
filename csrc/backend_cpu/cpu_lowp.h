/* cpu_lowp.h: bf16 and int8 products; private to backend_cpu.
 *
 * Activations are F32 in memory: they are rounded or quantised inside, sums and results are F32.
 * A product reads cpu_product (cpu_device.h), takes its panels from cpu_weight_panels, and leaves
 * the rest to kernels->finish. Threads: as ops. */
#ifndef SMHF_BACKEND_CPU_CPU_LOWP_H
#define SMHF_BACKEND_CPU_CPU_LOWP_H

#include "backend_cpu/cpu_device.h"

/* SMHF_CAP_BF16, SMHF_CAP_I8: what weight_prepare accepts with these features. */
uint32_t cpu_lowp_caps(const cpu_features *features);

/* epilogue = sums of op(x) W^T or dy W, see cpu_product. Only called when the cap is there. */
void cpu_bf16_linear(const cpu_product *product);
void cpu_i8_linear(const cpu_product *product);

/* dw [N, K] += dy^T x over `rows` rows, operands rounded to bf16. The bias gradient is not its
 * business. */
void cpu_bf16_weight_gradient(cpu_device *cpu, smhf_tensor dw, smhf_tensor dy, smhf_tensor x,
                              int32_t rows);

/* Slot scratch (for each thread) that the products need for a batch up to these limits. */
size_t cpu_lowp_scratch(const cpu_features *features, const smhf_limits *limits);

#endif
