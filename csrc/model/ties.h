/* ties.h: rows whose labels a coarse precision cannot tell apart.
 *
 *     smhf_ties ties = {0};
 *     SMHF_TRY(smhf_ties_find(&ties, &config, batch, logits, margin, &err));
 *     ... run ties.batch more exactly into `again` ...
 *     smhf_ties_settle(&ties, width, again, logits);
 *     smhf_ties_deinit(&ties);
 *
 * int8 moves logits by a hundredth or two. That changes the label only of a row whose two best
 * labels lie as close: these few are computed again (smhf_backend.refine).
 * Threads: values. A row is looked at by itself, so its result does not depend on its neighbours.
 */
#ifndef SMHF_MODEL_TIES_H
#define SMHF_MODEL_TIES_H

#include "model/config.h"
#include "model/model.h"

typedef struct smhf_ties {
    smhf_batch batch; /* the rows in question; its arrays lie in `block` */
    int32_t *rows;    /* [batch.rows] which rows of the whole they are */
    int32_t *block;   /* owned */
} smhf_ties;

/* Logits nearer than this are near, where a row's activations have `levels` steps (255 or 127).
 * Measured, see benchmarks/LOG.md. */
#define SMHF_TIE_MARGIN 0.04f
static inline float smhf_tie_margin(int32_t levels) {
    return levels > 0 ? SMHF_TIE_MARGIN * 255.0f / (float)levels : 0.0f;
}

/* Sequence classification: whether the best label (of several: any label's yes or no) hangs on less
 * than `margin`. No for regression, and where a logit is not a number. */
int smhf_tie(const smhf_config *config, const float *logits, float margin);

/* No memory is taken when there is none: batch.rows is 0. */
smhf_status smhf_ties_find(smhf_ties *ties, const smhf_config *config, const smhf_batch *batch,
                           const float *logits, float margin, smhf_error *err) SMHF_MUST_USE;
/* logits [whole, width]: the rows in question take the values of `again` [ties->batch.rows, width].
 */
void smhf_ties_settle(const smhf_ties *ties, size_t width, const float *again, float *logits);
void smhf_ties_deinit(smhf_ties *ties);

#endif
