/* arena.h: a bump arena for things that live and die together.
 *
 *     smhf_arena arena;
 *     smhf_arena_init(&arena, 64 * 1024);
 *     float *x = smhf_arena_alloc(&arena, n * sizeof *x);   // 64-byte aligned, not zeroed
 *     smhf_arena_mark mark = smhf_arena_mark_get(&arena);
 *     ...                                                    // scratch
 *     smhf_arena_reset(&arena, mark);                        // blocks are kept for reuse
 *     smhf_arena_deinit(&arena);
 *
 * Pointers stay valid until a reset to an earlier mark or deinit ("owned by the arena").
 * Under ASan a red zone follows every block, and memory after a mark is poisoned by reset.
 * Threads: one owner at a time.
 */
#ifndef SMHF_COMMON_ARENA_H
#define SMHF_COMMON_ARENA_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_arena_block smhf_arena_block;

typedef struct smhf_arena {
    smhf_arena_block *first;   /* list of blocks in order of creation */
    smhf_arena_block *current; /* the one being filled */
    size_t block_size;         /* least size of a new block */
} smhf_arena;

typedef struct smhf_arena_mark {
    smhf_arena_block *block; /* NULL: empty arena */
    size_t used;
} smhf_arena_mark;

/* Never allocates; `block_size` 0 takes 64 KiB. */
void smhf_arena_init(smhf_arena *arena, size_t block_size);
void smhf_arena_deinit(smhf_arena *arena);
/* NULL when memory is out. */
void *smhf_arena_alloc(smhf_arena *arena, size_t size);
void *smhf_arena_calloc(smhf_arena *arena, size_t count, size_t size);
/* Copies `size` bytes and adds a NUL. */
char *smhf_arena_copy_string(smhf_arena *arena, const void *text, size_t size);
smhf_arena_mark smhf_arena_mark_get(const smhf_arena *arena);
void smhf_arena_reset(smhf_arena *arena, smhf_arena_mark mark);
/* Bytes held in blocks, used or not. */
size_t smhf_arena_capacity(const smhf_arena *arena);

#ifdef __cplusplus
}
#endif
#endif
