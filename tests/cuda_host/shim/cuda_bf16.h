/* cuda_bf16.h: the type and the two conversions, on the host, for tests. */
#ifndef SMHF_CUDA_HOST_BF16_H
#define SMHF_CUDA_HOST_BF16_H

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
    uint16_t bits;
};

static inline float __bfloat162float(__nv_bfloat16 x) {
    const uint32_t wide = (uint32_t)x.bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* To nearest, ties to even; a NaN stays one. */
static inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    uint32_t bits;
    __nv_bfloat16 out;
    memcpy(&bits, &value, sizeof bits);
    out.bits = (bits & 0x7FFFFFFFu) > 0x7F800000u
                   ? (uint16_t)0x7FFF
                   : (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
    return out;
}

#endif
