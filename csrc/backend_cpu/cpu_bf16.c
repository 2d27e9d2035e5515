/* cpu_bf16.c: products with bf16 operands and fp32 sums. */
#include "backend_cpu/cpu_lowp.h"

uint32_t cpu_lowp_caps(const cpu_features *features) {
    (void)features;
    return 0;
}

void cpu_bf16_linear(const cpu_product *product) {
    smhf_device_fail(&product->cpu->base, SMHF_E_UNSUPPORTED,
                     "bf16 products on the processor: not in this build; use precision=\"fp32\"");
}

void cpu_bf16_weight_gradient(cpu_device *cpu, smhf_tensor dw, smhf_tensor dy, smhf_tensor x,
                              int32_t rows) {
    (void)dw;
    (void)dy;
    (void)x;
    (void)rows;
    smhf_device_fail(&cpu->base, SMHF_E_UNSUPPORTED,
                     "bf16 weight gradients on the processor: not in this build; use "
                     "precision=\"fp32\"");
}

size_t cpu_lowp_scratch(const cpu_features *features, const smhf_limits *limits) {
    (void)features;
    (void)limits;
    return 0;
}
