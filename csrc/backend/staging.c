/* staging.c: host memory between caller and device, in blocks that take turns. */
#include "backend/backend.h"
#include "common/mem.h"

#include <string.h>

#define MOST_BLOCKS 8

typedef struct staging_block {
    void *memory;
    smhf_event *event; /* NULL with one block */
    int marked;        /* the device may still use it */
} staging_block;

struct smhf_staging {
    smhf_device *device;
    int pinned;
    int32_t count, now; /* blocks; the one whose turn it is */
    staging_block blocks[MOST_BLOCKS];
};

static smhf_status block_init(smhf_staging *s, staging_block *block, size_t bytes,
                              smhf_error *err) {
    const smhf_backend *be = s->device->backend;
    if (s->pinned) {
        SMHF_TRY(be->pinned_alloc(s->device, &block->memory, bytes, err));
    } else {
        block->memory = smhf_malloc_aligned(bytes, SMHF_CACHE_LINE);
    }
    if (block->memory == NULL) {
        return smhf_fail_nomem(err, "staging", bytes);
    }
    memset(block->memory, 0, bytes);
    return s->count > 1 ? be->event_new(s->device, &block->event, err) : SMHF_OK;
}

smhf_status smhf_staging_new(smhf_device *device, size_t bytes, int32_t blocks, smhf_staging **out,
                             smhf_error *err) {
    const smhf_backend *be = device->backend;
    *out = NULL;
    SMHF_ASSERT(blocks >= 1 && blocks <= MOST_BLOCKS);
    smhf_staging *s = smhf_calloc(1, sizeof *s);
    if (s == NULL) {
        return smhf_fail_nomem(err, "staging", sizeof *s);
    }
    s->device = device;
    s->pinned = be->pinned_alloc != NULL && be->pinned_free != NULL;
    s->count = be->event_new != NULL && be->event_sync != NULL ? blocks : 1;
    for (int32_t i = 0; i < s->count; i++) {
        const smhf_status status = block_init(s, &s->blocks[i], bytes > 0 ? bytes : 1, err);
        if (status != SMHF_OK) {
            smhf_staging_free(s);
            return status;
        }
    }
    *out = s;
    return SMHF_OK;
}

int32_t smhf_staging_blocks(const smhf_staging *staging) {
    return staging->count;
}

void *smhf_staging_turn(smhf_staging *s) {
    s->now = (s->now + 1) % s->count;
    staging_block *block = &s->blocks[s->now];
    if (block->marked) {
        s->device->backend->event_sync(s->device, block->event);
        block->marked = 0;
    }
    return block->memory;
}

void smhf_staging_mark(smhf_staging *s) {
    staging_block *block = &s->blocks[s->now];
    if (block->event != NULL) {
        s->device->backend->event_record(s->device, block->event);
        block->marked = 1;
    }
}

smhf_event *smhf_staging_event(const smhf_staging *s) {
    return s->blocks[s->now].event;
}

void smhf_staging_free(smhf_staging *s) {
    for (int32_t i = 0; s != NULL && i < s->count; i++) {
        staging_block *block = &s->blocks[i];
        const smhf_backend *be = s->device->backend;
        if (block->marked) {
            be->event_sync(s->device, block->event);
        }
        if (block->event != NULL) {
            be->event_free(s->device, block->event);
        }
        if (s->pinned) {
            be->pinned_free(s->device, block->memory);
        } else {
            smhf_free(block->memory);
        }
    }
    smhf_free(s);
}
