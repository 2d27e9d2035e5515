/* workspace.h: what one pass at a time needs: a device queue, a pack, a block of activations.
 *
 * Threads: one owner at a time. Grows only; a batch that fits allocates nothing.
 */
#ifndef SMHF_MODEL_WORKSPACE_H
#define SMHF_MODEL_WORKSPACE_H

#include "backend/backend.h"
#include "model/batch.h"
#include "model/mapped.h"
#include "model/plan.h"

typedef struct smhf_workspace {
    smhf_device *dev; /* owned */
    smhf_pack *pack;  /* owned; NULL until the first ensure */
    void *block;      /* owned, device: the plan's activations */
    smhf_plan plan;
    smhf_plan_shape shape; /* tokens, rows: capacities now */
    smhf_packing packing;
    smhf_replay *replay;         /* owned */
    int32_t *chunk_offsets;      /* [shape.rows + 1] cu_seqlens of a piece, from 0 */
    const smhf_mapped *mapped;   /* the caller sets it before fill; NULL: ids mean the word table */
    float *words;                /* host [shape.tokens, hidden]: rows read for a mapped model */
    int32_t *word_ids;           /* [shape.tokens]: 0, 1, 2, ...: the ids in `words` */
    int32_t *chunk_picks;        /* [shape.picks] picked tokens of a piece */
    struct smhf_workspace *next; /* in the model's free list */
} smhf_workspace;

/* Opens the queue; the shape's tokens and rows are 0. Close also after failure. */
smhf_status smhf_workspace_init(smhf_workspace *ws, const char *device,
                                const smhf_plan_shape *shape, smhf_error *err) SMHF_MUST_USE;
void smhf_workspace_deinit(smhf_workspace *ws);
/* Rows [first, end) of a batch. */
typedef struct smhf_piece {
    const smhf_batch *batch;
    size_t first, end;
    const uint32_t *sequence_ids; /* [rows] of the batch, or NULL */
    const int32_t *picks;         /* masked LM: tokens of the batch, ascending, all in these rows */
    size_t pick_count;
} smhf_piece;

/* Ensures room for the piece and fills the pack with it; of a mapped model the words' rows
 * too, and the pack's ids mean smhf_workspace_words. */
smhf_status smhf_workspace_fill(smhf_workspace *ws, const smhf_piece *piece,
                                smhf_error *err) SMHF_MUST_USE;
/* For smhf_pass.words. */
smhf_tensor smhf_workspace_words(const smhf_workspace *ws);

#endif
