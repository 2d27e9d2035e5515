/* ties.c: finding near ties and taking them out of a batch. */
#include "model/ties.h"

#include "common/mem.h"

#include <math.h>
#include <string.h>

int smhf_tie(const smhf_config *config, const float *logits, float margin) {
    const int32_t count = config->num_labels;
    if (config->head != SMHF_HEAD_SEQUENCE || config->problem == SMHF_PROBLEM_REGRESSION) {
        return 0;
    }
    if (config->problem == SMHF_PROBLEM_MULTI) {
        for (int32_t i = 0; i < count; i++) {
            if (fabsf(logits[i]) < margin) {
                return 1;
            }
        }
        return 0;
    }
    float best = -INFINITY, second = -INFINITY;
    for (int32_t i = 0; i < count; i++) {
        if (isnan(logits[i])) {
            return 0;
        }
        if (logits[i] > best) {
            second = best;
            best = logits[i];
        } else if (logits[i] > second) {
            second = logits[i];
        }
    }
    return best - second < margin; /* infinities: NaN, or far apart */
}

static size_t length_of(const smhf_batch *batch, size_t row) {
    return (size_t)(batch->cu_seqlens[row + 1] - batch->cu_seqlens[row]);
}

smhf_status smhf_ties_find(smhf_ties *ties, const smhf_config *config, const smhf_batch *batch,
                           const float *logits, float margin, smhf_error *err) {
    const size_t width = (size_t)config->num_labels;
    size_t rows = 0, tokens = 0;
    *ties = (smhf_ties){0};
    for (size_t r = 0; r < batch->rows; r++) {
        if (smhf_tie(config, logits + r * width, margin)) {
            rows++;
            tokens += length_of(batch, r);
        }
    }
    if (rows == 0) {
        return SMHF_OK;
    }
    const size_t numbers = 2 * rows + 1 + tokens * (batch->type_ids != NULL ? 2 : 1);
    ties->block = smhf_malloc(numbers * sizeof *ties->block);
    if (ties->block == NULL) {
        return smhf_fail_nomem(err, "near ties", numbers * sizeof *ties->block);
    }
    int32_t *offsets = ties->block + rows, *ids = offsets + rows + 1;
    int32_t *types = batch->type_ids != NULL ? ids + tokens : NULL;
    ties->rows = ties->block;
    size_t row = 0, at = 0;
    offsets[0] = 0;
    for (size_t r = 0; r < batch->rows; r++) {
        if (!smhf_tie(config, logits + r * width, margin)) {
            continue;
        }
        const size_t length = length_of(batch, r), from = (size_t)batch->cu_seqlens[r];
        memcpy(ids + at, batch->ids + from, length * sizeof *ids);
        if (types != NULL) {
            memcpy(types + at, batch->type_ids + from, length * sizeof *types);
        }
        at += length;
        ties->rows[row++] = (int32_t)r;
        offsets[row] = (int32_t)at;
    }
    ties->batch = (smhf_batch){.ids = ids, .type_ids = types, .cu_seqlens = offsets, .rows = rows};
    return SMHF_OK;
}

void smhf_ties_settle(const smhf_ties *ties, size_t width, const float *again, float *logits) {
    for (size_t r = 0; r < ties->batch.rows; r++) {
        memcpy(logits + (size_t)ties->rows[r] * width, again + r * width, width * sizeof *logits);
    }
}

void smhf_ties_deinit(smhf_ties *ties) {
    smhf_free(ties->block);
    *ties = (smhf_ties){0};
}
