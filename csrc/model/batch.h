/* batch.h: batches on their way in: padding dropped, every value checked.
 *
 * Threads: a packing belongs to its caller. Allocates only when a batch is larger than any before.
 */
#ifndef SMHF_MODEL_BATCH_H
#define SMHF_MODEL_BATCH_H

#include "model/config.h"
#include "model/model.h"

/* Host arrays that a padded batch is packed into; grows only. */
typedef struct smhf_packing {
    int32_t *ids, *type_ids;
    int32_t *cu_seqlens; /* row_capacity + 1 */
    size_t token_capacity, row_capacity;
} smhf_packing;

void smhf_packing_deinit(smhf_packing *packing); /* leaves it reusable */

/* Offsets ascending from 0, ids and type ids inside their tables, 1 <= length <= positions. */
smhf_status smhf_batch_check(const smhf_config *config, const smhf_batch *batch,
                             smhf_error *err) SMHF_MUST_USE;
/* Drops the padding; *out borrows from `packing` until the next fill. Checks as above, and that
 * each mask row is ones, then zeros. */
smhf_status smhf_packing_fill(smhf_packing *packing, const smhf_config *config,
                              const smhf_padded *padded, smhf_batch *out,
                              smhf_error *err) SMHF_MUST_USE;

#endif
