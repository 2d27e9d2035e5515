/* encoding_block.c: the memory of encodings, handed from one batch to the next.
 *
 * An encoding is one block: a header, the struct and its arrays. A freed block goes back to the
 * shelf of the tokenizer that made it, so that batches of one size allocate nothing. The shelf is
 * counted, because encodings may outlive their tokenizer; it is lock-free, hence safe after fork.
 */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#include <string.h>

#define SHELF_BLOCKS 4
#define SHELF_BYTES ((size_t)8 << 20) /* larger blocks are not kept */

typedef struct encoding_block {
    smhf_shelf *shelf;
    size_t size;
    smhf_encoding encoding;
} encoding_block;

struct smhf_shelf {
    _Atomic(encoding_block *) idle[SHELF_BLOCKS];
    _Atomic int holders; /* the tokenizer and every encoding that is alive */
};

smhf_shelf *smhf_shelf_new(void) {
    smhf_shelf *shelf = smhf_calloc(1, sizeof *shelf);
    if (shelf != NULL) {
        atomic_init(&shelf->holders, 1);
    }
    return shelf;
}

void smhf_shelf_release(smhf_shelf *shelf) {
    if (shelf == NULL || atomic_fetch_sub(&shelf->holders, 1) != 1) {
        return;
    }
    for (int i = 0; i < SHELF_BLOCKS; i++) {
        smhf_free(atomic_load(&shelf->idle[i]));
    }
    smhf_free(shelf);
}

/* A block of at least `size` bytes: an idle one, or a new one in the place of one too small. */
static encoding_block *block_take(smhf_shelf *shelf, size_t size) {
    for (int i = 0; i < SHELF_BLOCKS; i++) {
        if (atomic_load_explicit(&shelf->idle[i], memory_order_relaxed) == NULL) {
            continue;
        }
        encoding_block *block = atomic_exchange(&shelf->idle[i], NULL);
        if (block != NULL && block->size >= size) {
            return block;
        }
        smhf_free(block);
    }
    size += size / 4; /* the next batch may be a little larger */
    encoding_block *block = smhf_malloc_aligned(size, SMHF_CACHE_LINE);
    if (block != NULL) {
        block->size = size;
    }
    return block;
}

smhf_status smhf_encoding_new(smhf_shelf *shelf, size_t rows, size_t tokens, unsigned want,
                              smhf_encoding **out, smhf_error *err) {
    const size_t sizes[] = {
        sizeof(encoding_block),
        (rows + 1) * sizeof(int32_t),
        tokens * sizeof(int32_t),
        tokens * sizeof(int32_t),
        (want & SMHF_WANT_OFFSETS) ? tokens * 2 * sizeof(int32_t) : 0,
        (want & SMHF_WANT_WORD_IDS) ? tokens * sizeof(int32_t) : 0,
        (want & SMHF_WANT_SEQUENCE_IDS) ? tokens : 0,
        (want & SMHF_WANT_SPECIAL_MASK) ? tokens : 0,
        rows * sizeof(int32_t),
        rows,
    };
    uint8_t *parts[sizeof sizes / sizeof *sizes];
    size_t total = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        total += (sizes[i] + 63) / 64 * 64 + 64; /* 64-byte lines keep the arrays apart */
    }
    encoding_block *block = block_take(shelf, total);
    if (block == NULL) {
        return smhf_fail_nomem(err, "encoding", total);
    }
    uint8_t *at = (uint8_t *)block;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        parts[i] = at;
        at += (sizes[i] + 63) / 64 * 64 + 64;
    }
    block->shelf = shelf;
    atomic_fetch_add_explicit(&shelf->holders, 1, memory_order_relaxed);
    block->encoding = (smhf_encoding){
        .rows = rows,
        .tokens = tokens,
        .cu_seqlens = (int32_t *)(void *)parts[1],
        .ids = (int32_t *)(void *)parts[2],
        .type_ids = (int32_t *)(void *)parts[3],
        .offsets = (want & SMHF_WANT_OFFSETS) ? (int32_t *)(void *)parts[4] : NULL,
        .word_ids = (want & SMHF_WANT_WORD_IDS) ? (int32_t *)(void *)parts[5] : NULL,
        .sequence_ids = (want & SMHF_WANT_SEQUENCE_IDS) ? (int8_t *)parts[6] : NULL,
        .special_mask = (want & SMHF_WANT_SPECIAL_MASK) ? parts[7] : NULL,
        .sample = (int32_t *)(void *)parts[8],
        .truncated = parts[9],
    };
    *out = &block->encoding;
    return SMHF_OK;
}

void smhf_encoding_free(smhf_encoding *encoding) {
    if (encoding == NULL) {
        return;
    }
    uint8_t *bytes = (uint8_t *)encoding - offsetof(encoding_block, encoding);
    encoding_block *block = (encoding_block *)(void *)bytes;
    smhf_shelf *shelf = block->shelf;
    for (int i = 0; i < SHELF_BLOCKS && block != NULL && block->size <= SHELF_BYTES; i++) {
        encoding_block *none = NULL;
        if (atomic_compare_exchange_strong(&shelf->idle[i], &none, block)) {
            block = NULL;
        }
    }
    smhf_free(block);
    smhf_shelf_release(shelf);
}
