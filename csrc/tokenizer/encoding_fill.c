/* encoding_fill.c: packed rows → rectangular arrays. */
#include "tokenizer/tokenizer_internal.h"

#include "common/pool.h"

#include <string.h>

#define ROWS_PER_CHUNK 64

typedef struct fill {
    const smhf_encoding *encoding;
    smhf_encoding_field field;
    void *out;
    size_t item_size, width;
    int64_t pad;
    int left;
} fill;

static int64_t value_at(const smhf_encoding *e, smhf_encoding_field field, size_t at) {
    switch (field) {
    case SMHF_FIELD_IDS:
        return e->ids[at];
    case SMHF_FIELD_TYPE_IDS:
        return e->type_ids[at];
    case SMHF_FIELD_WORD_IDS:
        return e->word_ids[at];
    case SMHF_FIELD_SEQUENCE_IDS:
        return e->sequence_ids[at];
    case SMHF_FIELD_SPECIAL_MASK:
        return e->special_mask[at];
    case SMHF_FIELD_OFFSETS:
        return e->offsets[at];
    case SMHF_FIELD_ATTENTION_MASK:
        break;
    }
    return 1;
}

/* The int32 array of a field, or NULL for the others. */
static const int32_t *wide_source(const smhf_encoding *e, smhf_encoding_field field) {
    switch (field) {
    case SMHF_FIELD_IDS:
        return e->ids;
    case SMHF_FIELD_TYPE_IDS:
        return e->type_ids;
    case SMHF_FIELD_WORD_IDS:
        return e->word_ids;
    case SMHF_FIELD_OFFSETS:
        return e->offsets;
    default:
        return NULL;
    }
}

static void set_run(void *out, size_t item_size, size_t at, size_t count, int64_t value) {
    if (item_size == 8) {
        for (size_t i = 0; i < count; i++) {
            ((int64_t *)out)[at + i] = value;
        }
    } else {
        for (size_t i = 0; i < count; i++) {
            ((int32_t *)out)[at + i] = (int32_t)value;
        }
    }
}

static void copy_run(const fill *f, size_t at, size_t from, size_t count) {
    const int32_t *source = wide_source(f->encoding, f->field);
    if (f->field == SMHF_FIELD_ATTENTION_MASK) {
        set_run(f->out, f->item_size, at, count, 1);
    } else if (source != NULL && f->item_size == 4) {
        if (count > 0) {
            memcpy((int32_t *)f->out + at, source + from, count * sizeof *source);
        }
    } else if (source != NULL) {
        for (size_t i = 0; i < count; i++) {
            ((int64_t *)f->out)[at + i] = source[from + i];
        }
    } else {
        for (size_t i = 0; i < count; i++) {
            set_run(f->out, f->item_size, at + i, 1, value_at(f->encoding, f->field, from + i));
        }
    }
}

static void fill_rows(void *context, size_t begin, size_t end) {
    const fill *f = context;
    size_t items = (f->field == SMHF_FIELD_OFFSETS) ? 2 : 1; /* values a token */
    for (size_t row = begin; row < end; row++) {
        size_t from = (size_t)f->encoding->cu_seqlens[row] * items;
        size_t count = (size_t)f->encoding->cu_seqlens[row + 1] * items - from;
        size_t at = row * f->width * items, padding = f->width * items - count;
        if (f->left) {
            set_run(f->out, f->item_size, at, padding, f->pad);
            copy_run(f, at + padding, from, count);
        } else {
            copy_run(f, at, from, count);
            set_run(f->out, f->item_size, at + count, padding, f->pad);
        }
    }
}

smhf_status smhf_encoding_fill(const smhf_encoding *encoding, smhf_encoding_field field, void *out,
                               size_t item_size, size_t width, int64_t pad, int pad_left,
                               smhf_error *err) {
    fill f = {encoding, field, out, item_size, width, pad, pad_left};
    if (item_size != 4 && item_size != 8) {
        return smhf_fail(err, SMHF_E_ARG, "items of %zu bytes, expected 4 or 8", item_size);
    }
    if (width < encoding->longest) {
        return smhf_fail(err, SMHF_E_ARG, "width %zu: expected at least %zu, the longest row",
                         width, encoding->longest);
    }
    if ((field == SMHF_FIELD_OFFSETS && encoding->offsets == NULL) ||
        (field == SMHF_FIELD_WORD_IDS && encoding->word_ids == NULL) ||
        (field == SMHF_FIELD_SEQUENCE_IDS && encoding->sequence_ids == NULL) ||
        (field == SMHF_FIELD_SPECIAL_MASK && encoding->special_mask == NULL)) {
        return smhf_fail(err, SMHF_E_ARG, "field was not asked for when the texts were encoded");
    }
    smhf_parallel_for(encoding->rows, ROWS_PER_CHUNK, fill_rows, &f);
    return SMHF_OK;
}

smhf_status smhf_encoding_fill_row(const smhf_encoding *encoding, smhf_encoding_field field,
                                   size_t row, void *out, size_t item_size, smhf_error *err) {
    smhf_encoding one = *encoding; /* a window on one row */
    int32_t cu_seqlens[2] = {encoding->cu_seqlens[row], encoding->cu_seqlens[row + 1]};
    one.rows = 1;
    one.cu_seqlens = cu_seqlens;
    one.longest = (size_t)(cu_seqlens[1] - cu_seqlens[0]);
    return smhf_encoding_fill(&one, field, out, item_size, one.longest, 0, 0, err);
}
