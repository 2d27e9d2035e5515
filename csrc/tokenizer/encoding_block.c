/* encoding_block.c: the memory of encodings and of arrays made from them, handed from one batch to
 * the next.
 *
 * A freed block goes back to the shelf of the tokenizer that made it, so that batches of one size
 * allocate nothing, and do not pay for fresh pages either (a quarter of the time of a padded
 * batch). The shelf is counted, because blocks may outlive their tokenizer; it is lock-free, hence
 * safe after fork.
 */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#include <string.h>

#define SHELF_BLOCKS 12
#define SHELF_BYTES ((size_t)8 << 20) /* larger blocks are not kept */

/* What stands before the bytes that a block is taken for; one cache line. */
typedef struct block_header {
    smhf_shelf *shelf;
    size_t size; /* of those bytes */
    uint8_t padding[SMHF_CACHE_LINE - sizeof(smhf_shelf *) - sizeof(size_t)];
} block_header;

struct smhf_shelf {
    _Atomic(block_header *) idle[SHELF_BLOCKS];
    _Atomic int holders;   /* the tokenizer and every block in use */
    _Atomic unsigned turn; /* whose place the next block takes when all are full */
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

/* An idle block that fits and does not waste much. */
static block_header *find_idle(smhf_shelf *shelf, size_t size) {
    for (int i = 0; i < SHELF_BLOCKS; i++) {
        if (atomic_load_explicit(&shelf->idle[i], memory_order_relaxed) == NULL) {
            continue;
        }
        block_header *block = atomic_exchange(&shelf->idle[i], NULL), *none = NULL;
        if (block != NULL && block->size >= size && block->size / 4 <= size + 4096) {
            return block;
        }
        if (block != NULL && !atomic_compare_exchange_strong(&shelf->idle[i], &none, block)) {
            smhf_free(block);
        }
    }
    return NULL;
}

static void *block_take(smhf_shelf *shelf, size_t size) {
    block_header *block = find_idle(shelf, size);
    if (block == NULL) {
        size += size / 4; /* the next batch may be a little larger */
        block = smhf_malloc_aligned(sizeof *block + size, SMHF_CACHE_LINE);
        if (block == NULL) {
            return NULL;
        }
        block->shelf = shelf;
        block->size = size;
    }
    atomic_fetch_add_explicit(&shelf->holders, 1, memory_order_relaxed);
    return block + 1;
}

void smhf_encoding_block_give(void *data) {
    if (data == NULL) {
        return;
    }
    block_header *block = (block_header *)data - 1;
    smhf_shelf *shelf = block->shelf;
    for (int i = 0; i < SHELF_BLOCKS && block != NULL && block->size <= SHELF_BYTES; i++) {
        block_header *none = NULL;
        if (atomic_compare_exchange_strong(&shelf->idle[i], &none, block)) {
            block = NULL;
        }
    }
    if (block != NULL && block->size <= SHELF_BYTES) { /* sizes change: the oldest goes */
        unsigned turn = atomic_fetch_add_explicit(&shelf->turn, 1, memory_order_relaxed);
        block = atomic_exchange(&shelf->idle[turn % SHELF_BLOCKS], block);
    }
    smhf_free(block);
    smhf_shelf_release(shelf);
}

void *smhf_encoding_block_take(const smhf_encoding *encoding, size_t size) {
    const block_header *block = (const block_header *)(const void *)encoding - 1;
    return block_take(block->shelf, size);
}

smhf_status smhf_encoding_new(smhf_shelf *shelf, size_t rows, size_t tokens, unsigned want,
                              smhf_encoding **out, smhf_error *err) {
    const size_t sizes[] = {
        sizeof(smhf_encoding),
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
    uint8_t *at = block_take(shelf, total);
    if (at == NULL) {
        return smhf_fail_nomem(err, "encoding", total);
    }
    smhf_encoding *encoding = (smhf_encoding *)(void *)at;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        parts[i] = at;
        at += (sizes[i] + 63) / 64 * 64 + 64;
    }
    *encoding = (smhf_encoding){
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
    *out = encoding;
    return SMHF_OK;
}

void smhf_encoding_free(smhf_encoding *encoding) {
    if (encoding != NULL) {
        smhf_encoding_block_give(encoding->padded_ids);
        smhf_encoding_block_give(encoding->padded_mask);
    }
    smhf_encoding_block_give(encoding);
}
