#include "common/arena.h"

#include "common/mem.h"

#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif
#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(at, size) __asan_poison_memory_region((at), (size))
#define UNPOISON(at, size) __asan_unpoison_memory_region((at), (size))
#define RED_ZONE 64
#else
#define POISON(at, size) ((void)(at), (void)(size))
#define UNPOISON(at, size) ((void)(at), (void)(size))
#define RED_ZONE 0
#endif

struct smhf_arena_block {
    smhf_arena_block *next;
    size_t size; /* bytes of payload after the header */
    size_t used;
};

/* The header takes one cache line so that the payload keeps the block's alignment. */
#define HEADER SMHF_CACHE_LINE

static unsigned char *payload(smhf_arena_block *block) {
    return (unsigned char *)block + HEADER;
}

void smhf_arena_init(smhf_arena *arena, size_t block_size) {
    *arena = (smhf_arena){NULL, NULL, block_size > 0 ? block_size : (size_t)64 * 1024};
}

void smhf_arena_deinit(smhf_arena *arena) {
    smhf_arena_block *block = arena->first;
    while (block != NULL) {
        smhf_arena_block *next = block->next;
        UNPOISON(payload(block), block->size);
        smhf_free(block);
        block = next;
    }
    smhf_arena_init(arena, arena->block_size);
}

static smhf_arena_block *block_new(size_t size) {
    if (size > SIZE_MAX - HEADER) {
        return NULL;
    }
    smhf_arena_block *block = smhf_malloc_aligned(HEADER + size, SMHF_CACHE_LINE);
    if (block != NULL) {
        *block = (smhf_arena_block){NULL, size, 0};
        POISON(payload(block), size);
    }
    return block;
}

void *smhf_arena_alloc(smhf_arena *arena, size_t size) {
    if (size > SIZE_MAX / 2) {
        return NULL;
    }
    size_t need = (size + RED_ZONE + SMHF_CACHE_LINE - 1) / SMHF_CACHE_LINE * SMHF_CACHE_LINE;
    if (need == 0) {
        need = SMHF_CACHE_LINE;
    }
    /* Blocks after `current` are empty leftovers of a reset; take the first that fits. */
    smhf_arena_block *block = arena->current;
    smhf_arena_block *last = NULL;
    while (block != NULL && block->size - block->used < need) {
        last = block;
        block = block->next;
        if (block != NULL) {
            block->used = 0;
        }
    }
    if (block == NULL) {
        block = block_new(need > arena->block_size ? need : arena->block_size);
        if (block == NULL) {
            return NULL;
        }
        if (last != NULL) {
            last->next = block;
        } else {
            arena->first = block;
        }
    }
    arena->current = block;
    unsigned char *at = payload(block) + block->used;
    block->used += need;
    UNPOISON(at, size);
    return at;
}

void *smhf_arena_calloc(smhf_arena *arena, size_t count, size_t size) {
    size_t total;
    if (smhf_mul_size(count, size, &total) != 0) {
        return NULL;
    }
    void *at = smhf_arena_alloc(arena, total);
    if (at != NULL) {
        memset(at, 0, total);
    }
    return at;
}

char *smhf_arena_copy_string(smhf_arena *arena, const void *text, size_t size) {
    char *copy = (size < SIZE_MAX) ? smhf_arena_alloc(arena, size + 1) : NULL;
    if (copy != NULL) {
        if (size > 0) {
            memcpy(copy, text, size);
        }
        copy[size] = '\0';
    }
    return copy;
}

smhf_arena_mark smhf_arena_mark_get(const smhf_arena *arena) {
    return (smhf_arena_mark){arena->current, arena->current != NULL ? arena->current->used : 0};
}

void smhf_arena_reset(smhf_arena *arena, smhf_arena_mark mark) {
    smhf_arena_block *block = (mark.block != NULL) ? mark.block : arena->first;
    size_t keep = (mark.block != NULL) ? mark.used : 0;
    arena->current = block;
    for (; block != NULL; block = block->next, keep = 0) {
        block->used = keep;
        POISON(payload(block) + keep, block->size - keep);
    }
}

size_t smhf_arena_capacity(const smhf_arena *arena) {
    size_t total = 0;
    for (const smhf_arena_block *block = arena->first; block != NULL; block = block->next) {
        total += block->size;
    }
    return total;
}
