/* mem.h: the only way to the heap.
 *
 * Every block of the core comes from here, so that one counter shows that a steady state
 * allocates nothing (smhf_mem_count() flat) and that nothing leaks (smhf_mem_live() back to
 * where it was), and so that tests can fail the Nth allocation.
 * Threads: every function may be called from any thread; counters are atomic.
 */
#ifndef SMHF_COMMON_MEM_H
#define SMHF_COMMON_MEM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SMHF_CACHE_LINE 64

/* Like malloc, calloc (overflow-checked), realloc. NULL on failure; a size of 0 gives a block
 * that must be freed. Caller frees with smhf_free. */
void *smhf_malloc(size_t size);
void *smhf_calloc(size_t count, size_t size);
void *smhf_realloc(void *block, size_t size);
/* `alignment` is a power of two >= sizeof(void *). Freed with smhf_free, never realloc'ed. */
void *smhf_malloc_aligned(size_t size, size_t alignment);
/* Copies a C string. NULL on failure. Caller frees with smhf_free. */
char *smhf_strdup(const char *text);
/* NULL is fine. */
void smhf_free(void *block);

/* a * b in *out; returns 0, or -1 when it does not fit size_t. */
int smhf_mul_size(size_t a, size_t b, size_t *out);

/* Allocations made since the process started; blocks alive; usable bytes in live blocks. */
uint64_t smhf_mem_count(void);
int64_t smhf_mem_live(void);
int64_t smhf_mem_bytes(void);

/* Fault injection, compiled in always, free when off. After smhf_mem_fail_at(n), n >= 1, the n-th
 * allocation from now on (counted over all threads) returns NULL, once; 0 turns it off.
 * smhf_mem_fail_hit() tells whether it fired since it was set. */
void smhf_mem_fail_at(uint64_t n);
int smhf_mem_fail_hit(void);

#ifdef __cplusplus
}
#endif
#endif
