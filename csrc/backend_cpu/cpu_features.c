/* cpu_features.c: which kernels this processor and operating system can run. */
#include "backend_cpu/cpu_features.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a value of SMHF_CPU_TIER leaves. */
static const struct {
    const char *name;
    uint32_t flags;
} tiers[] = {
    {"scalar", 0},
    {"avx2", CPU_HAS_AVX2},
    {"avx2-vnni", CPU_HAS_AVX2 | CPU_HAS_AVX_VNNI},
    {"avx512", CPU_HAS_AVX2 | CPU_HAS_AVX512},
    {"avx512-vnni", CPU_HAS_AVX2 | CPU_HAS_AVX512 | CPU_HAS_AVX512_VNNI},
    {"avx512-bf16", CPU_HAS_AVX2 | CPU_HAS_AVX512 | CPU_HAS_AVX512_VNNI | CPU_HAS_AVX512_BF16},
};

static uint32_t allowed_flags(void) {
    const char *wanted = getenv("SMHF_CPU_TIER");
    for (size_t i = 0; wanted != NULL && i < sizeof tiers / sizeof tiers[0]; i++) {
        if (strcmp(wanted, tiers[i].name) == 0) {
            return tiers[i].flags;
        }
    }
    return ~0u; /* unset, "amx", or a name that a later version knows */
}

static void describe(cpu_features *out) {
    uint32_t f = out->flags;
    int wide = (f & CPU_HAS_AVX512) != 0;
    int vnni = (f & (wide ? CPU_HAS_AVX512_VNNI : CPU_HAS_AVX_VNNI)) != 0;
    snprintf(out->tier, sizeof out->tier, "%s%s%s%s", out->kernels->tier, vnni ? "+vnni" : "",
             (f & CPU_HAS_AVX512_BF16) != 0 ? "+bf16" : "", (f & CPU_HAS_AMX) != 0 ? "+amx" : "");
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Registers that the system saves at a context switch (XCR0): a feature bit alone is not enough. */
static uint64_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return ((uint64_t)high << 32) | low;
}

/* Linux hands out the tile registers (8 KiB more for each thread) only to processes that ask. */
static int grant_tiles(void) {
#ifdef SYS_arch_prctl
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return 0;
#endif
}

static uint32_t machine_flags(void) {
    unsigned a, b, c, d, a1 = 0, b1, c1, d1;
    if (!__get_cpuid(1, &a, &b, &c, &d)) {
        return 0;
    }
    int osxsave = (c & bit_OSXSAVE) != 0, fma = (c & bit_FMA) != 0;
    if (!osxsave || !fma || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return 0;
    }
    __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
    uint64_t state = saved_state();
    int ymm = (state & 0x06) == 0x06, zmm = (state & 0xE6) == 0xE6;
    int tiles = (state & 0x60000) == 0x60000;
    const unsigned need512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const unsigned avx512_vnni = 1u << 11;                    /* ecx of leaf 7.0 */
    const unsigned amx = 1u << 22 | 1u << 24 | 1u << 25;      /* edx of leaf 7.0 */
    const unsigned avx_vnni = 1u << 4, avx512_bf16 = 1u << 5; /* eax of leaf 7.1 */
    uint32_t flags = 0;
    if (!ymm || (b & bit_AVX2) == 0) {
        return 0;
    }
    flags |= CPU_HAS_AVX2 | ((a1 & avx_vnni) != 0 ? CPU_HAS_AVX_VNNI : 0);
    if (!zmm || (b & need512) != need512) {
        return flags;
    }
    flags |= CPU_HAS_AVX512 | ((c & avx512_vnni) != 0 ? CPU_HAS_AVX512_VNNI : 0) |
             ((a1 & avx512_bf16) != 0 ? CPU_HAS_AVX512_BF16 : 0);
    return flags | (tiles && (d & amx) == amx ? CPU_HAS_AMX : 0);
}

void cpu_features_get(cpu_features *out) {
    uint32_t flags = machine_flags() & allowed_flags();
    if ((flags & CPU_HAS_AMX) != 0 && !grant_tiles()) {
        flags &= ~CPU_HAS_AMX;
    }
    out->flags = flags;
    out->kernels = (flags & CPU_HAS_AVX512) != 0 ? &cpu_kernels_avx512
                   : (flags & CPU_HAS_AVX2) != 0 ? &cpu_kernels_avx2
                                                 : &cpu_kernels_scalar;
    describe(out);
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

void cpu_features_get(cpu_features *out) {
    (void)allowed_flags;
    out->flags = 0;
    out->kernels = &cpu_kernels_scalar;
    describe(out);
}

void cpu_features_name(char *out, size_t size) {
    snprintf(out, size, "CPU");
}

#endif
