/* rng.h: random numbers that are the same on every device and for every packing.
 *
 * Philox4x32-10 (Salmon et al., SC'11) is a pure function of (key, counter): dropout keys it by
 * seed and counts by (step, site, sequence id, position, feature), stores no mask and draws the
 * same one on CPU and GPU, in forward and backward. It is inline here so that .cu files share it.
 * MT19937 (Matsumoto & Nishimura 1998) exists for one reason: torch.randperm's order.
 */
#ifndef SMHF_COMMON_RNG_H
#define SMHF_COMMON_RNG_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__CUDACC__)
#define SMHF_HOST_DEVICE __host__ __device__
#else
#define SMHF_HOST_DEVICE
#endif

static inline SMHF_HOST_DEVICE void smhf_philox(const uint32_t counter[4], uint64_t key,
                                                uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* [0, 1) with 24 bits: exact in float, identical everywhere. */
static inline SMHF_HOST_DEVICE float smhf_uniform(uint32_t bits) {
    return (float)(bits >> 8) * (1.0f / 16777216.0f);
}

/* Fills out[0..count) with N(0, stddev) draws (Box-Muller over Philox, key = seed, counter =
 * (stream, index)); deterministic. Used to make new weights. */
void smhf_rng_normal(float *out, size_t count, float stddev, uint64_t seed, uint64_t stream);

/* The permutation that torch.randperm(count, generator=torch.Generator().manual_seed(seed)) gives
 * on the CPU, count < 2^32 / 20. out holds count entries. */
void smhf_rng_torch_randperm(int64_t *out, size_t count, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
