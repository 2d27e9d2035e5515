/* cpu_i8.c: products with int8 weights (one scale for each output) and int8 activations (one scale
 * for each row). */
#include "backend_cpu/cpu_lowp.h"

void cpu_i8_linear(const cpu_product *product) {
    smhf_device_fail(&product->cpu->base, SMHF_E_UNSUPPORTED,
                     "int8 products on the processor: not in this build; use precision=\"fp32\"");
}
