#include "common/rng.h"

#include "common/pool.h"

#include <math.h>

#define NORMAL_CHUNK 16384 /* a multiple of the four draws of a block */

typedef struct normal_task {
    float *out;
    float stddev;
    uint64_t seed, stream;
} normal_task;

/* A number depends on its place alone, so any range can be made by any thread. */
static void normal_body(void *context, size_t begin, size_t count) {
    const normal_task *task = context;
    float *out = task->out;
    const float stddev = task->stddev;
    const uint64_t seed = task->seed, stream = task->stream;
    const double two_pi = 6.283185307179586;
    for (size_t i = begin; i < count; i += 4) {
        uint64_t block = i / 4;
        uint32_t counter[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream,
                               (uint32_t)(stream >> 32)};
        uint32_t bits[4];
        smhf_philox(counter, seed, bits);
        for (size_t pair = 0; pair < 2; pair++) {
            /* (0, 1]: the logarithm must stay finite */
            double u = ((double)bits[2 * pair] + 1.0) / 4294967296.0;
            double angle = two_pi * ((double)bits[2 * pair + 1] / 4294967296.0);
            double radius = sqrt(-2.0 * log(u)) * (double)stddev;
            size_t at = i + 2 * pair;
            if (at < count) {
                out[at] = (float)(radius * cos(angle));
            }
            if (at + 1 < count) {
                out[at + 1] = (float)(radius * sin(angle));
            }
        }
    }
}

void smhf_rng_normal(float *out, size_t count, float stddev, uint64_t seed, uint64_t stream) {
    normal_task task = {out, stddev, seed, stream};
    smhf_parallel_for(count, NORMAL_CHUNK, normal_body, &task);
}

#define MT_SIZE 624
#define MT_SHIFT 397

typedef struct mersenne {
    uint32_t state[MT_SIZE];
    int next;
} mersenne;

static void mersenne_seed(mersenne *mt, uint32_t seed) {
    mt->state[0] = seed;
    for (uint32_t i = 1; i < MT_SIZE; i++) {
        uint32_t previous = mt->state[i - 1];
        mt->state[i] = 1812433253u * (previous ^ (previous >> 30)) + i;
    }
    mt->next = MT_SIZE;
}

static void mersenne_refill(mersenne *mt) {
    for (int i = 0; i < MT_SIZE; i++) {
        uint32_t y = (mt->state[i] & 0x80000000u) | (mt->state[(i + 1) % MT_SIZE] & 0x7FFFFFFFu);
        mt->state[i] =
            mt->state[(i + MT_SHIFT) % MT_SIZE] ^ (y >> 1) ^ ((y & 1u) ? 0x9908B0DFu : 0u);
    }
    mt->next = 0;
}

static uint32_t mersenne_next(mersenne *mt) {
    if (mt->next == MT_SIZE) {
        mersenne_refill(mt);
    }
    uint32_t y = mt->state[mt->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
}

void smhf_rng_torch_randperm(int64_t *out, size_t count, uint64_t seed) {
    mersenne mt;
    mersenne_seed(&mt, (uint32_t)seed); /* torch seeds the engine with the low 32 bits */
    for (size_t i = 0; i < count; i++) {
        out[i] = (int64_t)i;
    }
    for (size_t i = 0; i + 1 < count; i++) {
        size_t z = mersenne_next(&mt) % (count - i);
        int64_t kept = out[i];
        out[i] = out[i + z];
        out[i + z] = kept;
    }
}
