#include "common/mem.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t allocations;
static _Atomic int64_t live_blocks;
static _Atomic int64_t live_bytes;
static _Atomic int64_t fail_countdown; /* 0: off; n: the n-th allocation from now fails */
static _Atomic int fail_fired;

/* True when this allocation is the one that a test asked to fail. */
static int must_fail(void) {
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0) {
        return 0;
    }
    if (atomic_fetch_sub(&fail_countdown, 1) == 1) {
        atomic_store(&fail_fired, 1);
        return 1;
    }
    return 0;
}

static void *count_new(void *block) {
    if (block != NULL) {
        atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&live_bytes, (int64_t)malloc_usable_size(block),
                                  memory_order_relaxed);
    }
    return block;
}

void *smhf_malloc(size_t size) {
    return must_fail() ? NULL : count_new(malloc(size > 0 ? size : 1));
}

void *smhf_calloc(size_t count, size_t size) {
    size_t total;
    if (smhf_mul_size(count, size, &total) != 0 || must_fail()) {
        return NULL;
    }
    return count_new(calloc(1, total > 0 ? total : 1));
}

void *smhf_realloc(void *block, size_t size) {
    if (block == NULL) {
        return smhf_malloc(size);
    }
    if (must_fail()) {
        return NULL;
    }
    int64_t before = (int64_t)malloc_usable_size(block);
    void *grown = realloc(block, size > 0 ? size : 1);
    if (grown != NULL) {
        atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&live_bytes, (int64_t)malloc_usable_size(grown) - before,
                                  memory_order_relaxed);
    }
    return grown;
}

void *smhf_malloc_aligned(size_t size, size_t alignment) {
    void *block = NULL;
    if (must_fail() || posix_memalign(&block, alignment, size > 0 ? size : 1) != 0) {
        return NULL;
    }
    return count_new(block);
}

char *smhf_strdup(const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = smhf_malloc(size);
    if (copy != NULL) {
        memcpy(copy, text, size);
    }
    return copy;
}

void smhf_free(void *block) {
    if (block == NULL) {
        return;
    }
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    atomic_fetch_sub_explicit(&live_bytes, (int64_t)malloc_usable_size(block),
                              memory_order_relaxed);
    free(block);
}

int smhf_mul_size(size_t a, size_t b, size_t *out) {
    return __builtin_mul_overflow(a, b, out) ? -1 : 0;
}

uint64_t smhf_mem_count(void) {
    return atomic_load(&allocations);
}

int64_t smhf_mem_live(void) {
    return atomic_load(&live_blocks);
}

int64_t smhf_mem_bytes(void) {
    return atomic_load(&live_bytes);
}

void smhf_mem_fail_at(uint64_t n) {
    atomic_store(&fail_fired, 0);
    atomic_store(&fail_countdown, (int64_t)n);
}

int smhf_mem_fail_hit(void) {
    return atomic_load(&fail_fired);
}
