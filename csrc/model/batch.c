/* batch.c: the public edge of every forward pass: here wrong ids meet a sentence, not a gather. */
#include "model/batch.h"

#include "common/mem.h"

#define MAX_TOKENS ((size_t)INT32_MAX)

void smhf_packing_deinit(smhf_packing *packing) {
    smhf_free(packing->ids);
    smhf_free(packing->type_ids);
    smhf_free(packing->cu_seqlens);
    *packing = (smhf_packing){0};
}

static smhf_status check_token(const smhf_config *config, int64_t id, int64_t type, size_t row,
                               size_t position, smhf_error *err) {
    if (id < 0 || id >= config->vocab) {
        return smhf_fail(err, SMHF_E_ARG,
                         "input_ids row %zu, position %zu: id %lld is outside the model's "
                         "vocabulary of %d (does the tokenizer belong to this model?)",
                         row, position, (long long)id, config->vocab);
    }
    if (config->types > 0 && (type < 0 || type >= config->types)) {
        return smhf_fail(err, SMHF_E_ARG,
                         "token_type_ids row %zu, position %zu: %lld is outside 0 to %d", row,
                         position, (long long)type, config->types - 1);
    }
    return SMHF_OK;
}

static smhf_status check_length(const smhf_config *config, size_t length, size_t row,
                                smhf_error *err) {
    if (length == 0) {
        return smhf_fail(err, SMHF_E_ARG, "row %zu has no tokens (its mask is all zeros)", row);
    }
    if (length > (size_t)config->positions) {
        return smhf_fail(err, SMHF_E_ARG,
                         "row %zu has %zu tokens, the model takes at most %d: truncate the text",
                         row, length, config->positions);
    }
    return SMHF_OK;
}

smhf_status smhf_batch_check(const smhf_config *config, const smhf_batch *batch, smhf_error *err) {
    if (batch->rows > 0 && batch->cu_seqlens[0] != 0) {
        return smhf_fail(err, SMHF_E_ARG, "cu_seqlens[0]: expected 0, found %d",
                         (int)batch->cu_seqlens[0]);
    }
    for (size_t row = 0; row < batch->rows; row++) {
        const int32_t begin = batch->cu_seqlens[row], end = batch->cu_seqlens[row + 1];
        if (end < begin) {
            return smhf_fail(err, SMHF_E_ARG, "cu_seqlens[%zu]: expected %d or more, found %d",
                             row + 1, (int)begin, (int)end);
        }
        SMHF_TRY(check_length(config, (size_t)(end - begin), row, err));
        for (int32_t t = begin; t < end; t++) {
            SMHF_TRY(check_token(config, batch->ids[t],
                                 batch->type_ids != NULL ? batch->type_ids[t] : 0, row,
                                 (size_t)(t - begin), err));
        }
    }
    return SMHF_OK;
}

/* --- padded arrays -------------------------------------------------------------------------------
 */

static smhf_status grow(int32_t **array, size_t count, smhf_error *err) {
    size_t bytes = 0;
    int32_t *fresh = NULL;
    if (smhf_mul_size(count, sizeof **array, &bytes) == 0) {
        fresh = smhf_malloc(bytes);
    }
    if (fresh == NULL) {
        return smhf_fail_nomem(err, "packed batch", bytes);
    }
    smhf_free(*array);
    *array = fresh;
    return SMHF_OK;
}

static smhf_status reserve(smhf_packing *packing, size_t tokens, size_t rows, smhf_error *err) {
    if (tokens > packing->token_capacity) {
        packing->token_capacity = 0;
        SMHF_TRY(grow(&packing->ids, tokens, err));
        SMHF_TRY(grow(&packing->type_ids, tokens, err));
        packing->token_capacity = tokens;
    }
    if (rows > packing->row_capacity || packing->cu_seqlens == NULL) {
        packing->row_capacity = 0;
        SMHF_TRY(grow(&packing->cu_seqlens, rows + 1, err));
        packing->row_capacity = rows;
    }
    return SMHF_OK;
}

/* Length of a row: its ones, which must stand in front. */
static smhf_status row_length(const smhf_padded *padded, size_t row, size_t *out, smhf_error *err) {
    size_t length = 0;
    if (padded->mask.data == NULL) {
        *out = padded->columns;
        return SMHF_OK;
    }
    for (size_t c = 0; c < padded->columns; c++) {
        const int64_t mark = smhf_int_at(padded->mask, row * padded->columns + c);
        if (mark != 0 && mark != 1) {
            return smhf_fail(err, SMHF_E_ARG,
                             "attention_mask row %zu, position %zu: expected 0 or 1, found %lld",
                             row, c, (long long)mark);
        }
        if (mark == 1 && length < c) {
            return smhf_fail(err, SMHF_E_ARG,
                             "attention_mask row %zu, position %zu: a token behind padding; only "
                             "padding on the right is supported",
                             row, c);
        }
        length += (size_t)mark;
    }
    *out = length;
    return SMHF_OK;
}

smhf_status smhf_packing_fill(smhf_packing *packing, const smhf_config *config,
                              const smhf_padded *padded, smhf_batch *out, smhf_error *err) {
    size_t cells = 0, tokens = 0;
    if (smhf_mul_size(padded->rows, padded->columns, &cells) != 0) {
        return smhf_fail(err, SMHF_E_ARG, "input_ids: %zu x %zu is too large", padded->rows,
                         padded->columns);
    }
    for (size_t row = 0; row < padded->rows; row++) {
        size_t length = 0;
        SMHF_TRY(row_length(padded, row, &length, err));
        SMHF_TRY(check_length(config, length, row, err));
        tokens += length;
    }
    if (tokens > MAX_TOKENS) {
        return smhf_fail(err, SMHF_E_ARG, "input_ids: %zu tokens, expected at most %zu", tokens,
                         MAX_TOKENS);
    }
    SMHF_TRY(reserve(packing, tokens, padded->rows, err));

    int32_t at = 0;
    packing->cu_seqlens[0] = 0;
    for (size_t row = 0; row < padded->rows; row++) {
        size_t length = 0;
        SMHF_TRY(row_length(padded, row, &length, err));
        for (size_t c = 0; c < length; c++) {
            const size_t cell = row * padded->columns + c;
            const int64_t id = smhf_int_at(padded->ids, cell);
            const int64_t type =
                padded->type_ids.data != NULL ? smhf_int_at(padded->type_ids, cell) : 0;
            SMHF_TRY(check_token(config, id, type, row, c, err));
            packing->ids[at] = (int32_t)id;
            packing->type_ids[at] = (config->types > 0) ? (int32_t)type : 0;
            at++;
        }
        packing->cu_seqlens[row + 1] = at;
    }
    *out = (smhf_batch){packing->ids, config->types > 0 ? packing->type_ids : NULL,
                        packing->cu_seqlens, padded->rows};
    return SMHF_OK;
}
