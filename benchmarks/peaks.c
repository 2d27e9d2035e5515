/* peaks.c: what this processor can do at most: multiply-adds from registers, and reading memory.
 *
 *     cc -O2 -pthread benchmarks/peaks.c -o build/peaks && build/peaks 2
 *
 * Prints one JSON line; rates of all threads together. Operands are random, because the clock falls
 * with real data. Each kernel is compiled for its own instruction set and run only where the
 * processor has it. A multiply-add counts as two operations. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUNDS 4000000L

typedef double (*kernel)(const float *data, long rounds); /* returns operations done */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static volatile float sink;

/* Twelve chains in registers: an array of them would be kept in memory. */
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define KERNEL(NAME, TARGET, OPERAND, STEP, TO_FLOAT, LANES)                                       \
    __attribute__((target(TARGET))) static double NAME(const float *data, long rounds) {           \
        OPERAND a, b;                                                                              \
        memcpy(&a, data, sizeof a);                                                                \
        memcpy(&b, data + 16, sizeof b);                                                           \
        EACH(DECLARE_##NAME)                                                                       \
        for (long r = 0; r < rounds; r++) {                                                        \
            EACH(STEP)                                                                             \
        }                                                                                          \
        float total = 0.0f;                                                                        \
        EACH(TO_FLOAT)                                                                             \
        sink = total;                                                                              \
        return 2.0 * (LANES)*12 * (double)rounds;                                                  \
    }

#define DECLARE_fma256(i) __m256 s##i = _mm256_set1_ps(data[32 + i]);
#define DECLARE_fma512(i) __m512 s##i = _mm512_set1_ps(data[32 + i]);
#define DECLARE_bf16_512(i) __m512 s##i = _mm512_set1_ps(data[32 + i]);
#define DECLARE_vnni512(i) __m512i s##i = _mm512_set1_epi32(i);
/* The empty statement makes the compiler believe that each sum is looked at: no loop is removed. */
#define KEEP(x) __asm__ volatile("" : "+v"(x));
#define STEP_FMA256(i)                                                                             \
    s##i = _mm256_fmadd_ps(a, b, s##i);                                                            \
    KEEP(s##i)
#define STEP_FMA512(i)                                                                             \
    s##i = _mm512_fmadd_ps(a, b, s##i);                                                            \
    KEEP(s##i)
#define STEP_BF16(i)                                                                               \
    s##i = _mm512_dpbf16_ps(s##i, a, b);                                                           \
    KEEP(s##i)
#define STEP_VNNI(i)                                                                               \
    s##i = _mm512_dpbusd_epi32(s##i, a, b);                                                        \
    KEEP(s##i)
#define FLOAT256(i) total += _mm256_cvtss_f32(s##i);
#define FLOAT512(i) total += _mm512_cvtss_f32(s##i);
#define FLOAT_INT(i) total += (float)_mm512_reduce_add_epi32(s##i);

KERNEL(fma256, "avx2,fma", __m256, STEP_FMA256, FLOAT256, 8)
KERNEL(fma512, "avx512f", __m512, STEP_FMA512, FLOAT512, 16)
KERNEL(bf16_512, "avx512f,avx512bf16", __m512bh, STEP_BF16, FLOAT512, 32)
KERNEL(vnni512, "avx512f,avx512vnni", __m512i, STEP_VNNI, FLOAT_INT, 64)

/* Reads 256 MiB, more than any cache of ours; returns bytes. */
__attribute__((target("avx2"))) static double read_memory(const float *data, long rounds) {
    const size_t bytes = (size_t)256 << 20;
    char *block = aligned_alloc(4096, bytes);
    if (block == NULL) {
        return 0.0;
    }
    memset(block, (int)data[0], bytes);
    __m256i sum = _mm256_setzero_si256();
    double start = seconds();
    for (size_t at = 0; at < bytes; at += 128) {
        for (size_t l = 0; l < 128; l += 32) {
            sum = _mm256_xor_si256(sum, _mm256_load_si256((const __m256i *)(block + at + l)));
        }
    }
    double took = seconds() - start;
    sink = (float)_mm256_extract_epi32(sum, 0);
    free(block);
    (void)rounds;
    return (double)bytes / took;
}

typedef struct job {
    kernel run;
    const float *data;
    double rate;
} job;

static void *work(void *argument) {
    job *j = argument;
    if (j->run == read_memory) {
        j->rate = j->run(j->data, 0);
        return NULL;
    }
    double best = 0.0;
    for (int i = 0; i < 5; i++) {
        double start = seconds();
        double operations = j->run(j->data, ROUNDS / 4);
        double rate = operations / (seconds() - start);
        best = rate > best ? rate : best;
    }
    j->rate = best;
    return NULL;
}

static double measure(kernel run, int threads, const float *data) {
    pthread_t thread[64];
    job jobs[64];
    double total = 0.0;
    for (int t = 0; t < threads; t++) {
        jobs[t] = (job){run, data, 0.0};
        pthread_create(&thread[t], NULL, work, &jobs[t]);
    }
    for (int t = 0; t < threads; t++) {
        pthread_join(thread[t], NULL);
        total += jobs[t].rate;
    }
    return total / 1e9;
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    static float data[256];
    if (threads < 1 || threads > 64) {
        fprintf(stderr, "peaks: threads %d: expected 1 to 64\n", threads);
        return 2;
    }
    srand(7);
    for (int i = 0; i < 256; i++) {
        data[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    }
    __builtin_cpu_init();
    printf("{\"threads\": %d", threads);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        printf(", \"fma256\": %.1f", measure(fma256, threads, data));
        printf(", \"read\": %.2f", measure(read_memory, threads, data));
    }
    if (__builtin_cpu_supports("avx512f")) {
        printf(", \"fma512\": %.1f", measure(fma512, threads, data));
    }
    if (__builtin_cpu_supports("avx512vnni")) {
        printf(", \"vnni512\": %.1f", measure(vnni512, threads, data));
    }
    if (__builtin_cpu_supports("avx512bf16")) {
        printf(", \"bf16_512\": %.1f", measure(bf16_512, threads, data));
    }
    printf("}\n");
    return 0;
}
