/* cpu_features.c: which tier of kernels this processor and operating system can run. */
#include "backend_cpu/cpu_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

/* Registers that the system saves at a context switch (XCR0): a feature bit alone is not enough. */
static uint64_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

static int best_tier(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) {
        return 0;
    }
    int osxsave = (c & bit_OSXSAVE) != 0, fma = (c & bit_FMA) != 0;
    if (!osxsave || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return 0;
    }
    uint64_t state = saved_state();
    int ymm = (state & 0x06) == 0x06, zmm = (state & 0xE6) == 0xE6;
    const unsigned need512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if (!ymm || !fma || (b & bit_AVX2) == 0) {
        return 0;
    }
    return zmm && (b & need512) == need512 ? 2 : 1;
}

const cpu_kernels *cpu_features_kernels(void) {
    static const cpu_kernels *const tiers[] = {&cpu_kernels_scalar, &cpu_kernels_avx2,
                                               &cpu_kernels_avx512};
    int best = best_tier();
    const char *wanted = getenv("SMHF_CPU_TIER");
    for (int i = 0; wanted != NULL && i < best; i++) {
        if (strcmp(wanted, tiers[i]->tier) == 0) {
            return tiers[i];
        }
    }
    return tiers[best];
}

void cpu_features_name(char *out, size_t size) {
    unsigned words[12];
    char text[49];
    if (__get_cpuid_max(0x80000000u, NULL) < 0x80000004u) {
        snprintf(out, size, "CPU");
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        unsigned *w = words + 4 * i;
        __get_cpuid(0x80000002u + i, &w[0], &w[1], &w[2], &w[3]);
    }
    memcpy(text, words, 48);
    text[48] = '\0';
    const char *begin = text + strspn(text, " ");
    size_t length = strlen(begin);
    while (length > 0 && begin[length - 1] == ' ') {
        length--;
    }
    length = length < size - 1 ? length : size - 1;
    memcpy(out, begin, length);
    out[length] = '\0';
}

#else

const cpu_kernels *cpu_features_kernels(void) {
    return &cpu_kernels_scalar;
}

void cpu_features_name(char *out, size_t size) {
    snprintf(out, size, "CPU");
}

#endif
