/* encode.c: a batch of texts → packed rows: truncation windows, template, overflow.
 *
 * Texts are cut into chunks that depend on their number alone and are claimed by whichever thread
 * is free. A worker's buffers take the rows of all chunks that its thread gets, then all are copied
 * into one block in the order of the texts: results do not depend on threads.
 */
#include "tokenizer/tokenizer_internal.h"
#include "tokenizer/windows.h"

#include "common/mem.h"
#include "common/pool.h"

#include <string.h>

#define MAX_CHUNKS 64
#define MIN_CHUNK 16
#define JOIN_ALONE 4096 /* tokens that are copied before another thread has woken */

/* --- One row --------------------------------------------------------------------------------- */

/* All arrays grow together, so that a worker serves any later call. */
static smhf_status reserve_tokens(smhf_worker *worker, size_t more, smhf_error *err) {
    size_t wanted = worker->tokens + more, old = worker->token_capacity;
    size_t capacity = old, c;
    if (wanted > INT32_MAX / 2) {
        return smhf_fail(err, SMHF_E_ARG, "more than %d tokens in one batch", INT32_MAX / 2);
    }
#define GROW(field, size)                                                                          \
    do {                                                                                           \
        c = old;                                                                                   \
        SMHF_TRY(smhf_grow(&worker->field, &c, wanted, (size), err));                              \
        capacity = c;                                                                              \
    } while (0)
    if (wanted > old) {
        GROW(ids, sizeof(int32_t));
        GROW(type_ids, sizeof(int32_t));
        GROW(offsets, 2 * sizeof(int32_t));
        GROW(word_ids, sizeof(int32_t));
        GROW(sequence_ids, 1);
        GROW(special_mask, 1);
        worker->token_capacity = capacity;
    }
    return SMHF_OK;
}

static smhf_status reserve_rows(smhf_worker *worker, size_t more, smhf_error *err) {
    size_t wanted = worker->rows + more, old = worker->row_capacity, capacity = old, c;
    if (wanted > old) {
        GROW(row_lengths, sizeof(int32_t));
        GROW(row_samples, sizeof(int32_t));
        GROW(row_truncated, 1);
        worker->row_capacity = capacity;
    }
    return SMHF_OK;
}
#undef GROW

/* Type ids are written where some are not 0; else join_chunk clears them all. */
static void put_tokens(smhf_worker *worker, const smhf_pieces *pieces, window part, int sequence,
                       int typed, int32_t type_id, unsigned want) {
    size_t at = worker->tokens, count = part.end - part.begin;
    if (count == 0) { /* arrays may not exist yet */
        return;
    }
    memcpy(worker->ids + at, pieces->ids + part.begin, count * sizeof *worker->ids);
    for (size_t i = 0; typed && i < count; i++) {
        worker->type_ids[at + i] = type_id;
    }
    if (want & SMHF_WANT_OFFSETS) {
        memcpy(worker->offsets + 2 * at, pieces->spans + 2 * part.begin,
               2 * count * sizeof *worker->offsets);
    }
    if (want & SMHF_WANT_WORD_IDS) {
        memcpy(worker->word_ids + at, pieces->words + part.begin, count * sizeof *worker->word_ids);
    }
    if (want & SMHF_WANT_SEQUENCE_IDS) {
        memset(worker->sequence_ids + at, sequence, count);
    }
    if (want & SMHF_WANT_SPECIAL_MASK) {
        memset(worker->special_mask + at, 0, count);
    }
    worker->tokens += count;
}

/* One special token of the template: no span, no word, no sequence. */
static void put_special(smhf_worker *worker, const smhf_template_piece *piece, unsigned want) {
    size_t at = worker->tokens++;
    worker->ids[at] = piece->id;
    worker->type_ids[at] = piece->type_id;
    if (want & SMHF_WANT_OFFSETS) {
        worker->offsets[2 * at] = worker->offsets[2 * at + 1] = 0;
    }
    if (want & SMHF_WANT_WORD_IDS) {
        worker->word_ids[at] = -1;
    }
    if (want & SMHF_WANT_SEQUENCE_IDS) {
        worker->sequence_ids[at] = -1;
    }
    if (want & SMHF_WANT_SPECIAL_MASK) {
        worker->special_mask[at] = 1;
    }
}

/* What became of a chunk: rows and tokens of a worker's buffers. */
typedef struct chunk_rows {
    smhf_worker *worker; /* holds the error when `status` is not SMHF_OK */
    size_t token, tokens, row, rows, truncated, longest;
    smhf_status status;
} chunk_rows;

typedef struct batch {
    const smhf_tokenizer *tokenizer;
    const smhf_text_view *texts, *pairs;
    const smhf_encode_options *options;
    const smhf_template *template;
    size_t count, chunk, chunk_count;
    size_t limit; /* tokens that texts may have together; SIZE_MAX: no truncation */
    size_t stop;  /* tokens of a text after which the rest of it changes nothing */
    int typed;    /* the template has type ids other than 0 */
    _Atomic(smhf_worker *) idle[MAX_CHUNKS]; /* [chunk_count] workers between two chunks */
    chunk_rows chunks[MAX_CHUNKS];           /* [chunk_count] */
} batch;

/* Which tokens of the text and of its pair make this row. */
static smhf_status put_row(const batch *b, smhf_worker *worker, size_t sample, window first,
                           window second, int truncated, smhf_error *err) {
    const smhf_template *template = b->template;
    size_t before = worker->tokens;
    SMHF_TRY(reserve_rows(worker, 1, err));
    SMHF_TRY(reserve_tokens(worker,
                            (first.end - first.begin) + (second.end - second.begin) +
                                (size_t) template->specials,
                            err));
    for (int i = 0; i < template->count; i++) {
        const smhf_template_piece *piece = &template->pieces[i];
        if (piece->sequence == 0) {
            put_tokens(worker, &worker->first, first, 0, b->typed, piece->type_id,
                       b->options->want);
        } else if (piece->sequence == 1) {
            put_tokens(worker, &worker->second, second, 1, b->typed, piece->type_id,
                       b->options->want);
        } else if (b->options->add_special_tokens) {
            put_special(worker, piece, b->options->want);
        }
    }
    worker->row_lengths[worker->rows] = (int32_t)(worker->tokens - before);
    worker->row_samples[worker->rows] = (int32_t)sample;
    worker->row_truncated[worker->rows] = (uint8_t)truncated;
    worker->rows++;
    return SMHF_OK;
}

/* --- Truncation ------------------------------------------------------------------------------ */

static smhf_status check_stride(size_t tokens, size_t kept, size_t stride, smhf_error *err) {
    if (kept < tokens && kept > 0 && stride >= kept) {
        return smhf_fail(err, SMHF_E_ARG,
                         "stride %zu: expected less than the %zu tokens that "
                         "truncation leaves of this text",
                         stride, kept);
    }
    return SMHF_OK;
}

static smhf_status plan_truncation(const batch *b, size_t first, size_t second, windows *a,
                                   windows *c, smhf_error *err) {
    const smhf_encode_options *options = b->options;
    size_t keep_first = first, keep_second = second, excess;
    *a = whole_window(first);
    *c = whole_window(second);
    if (b->limit == SIZE_MAX || first + second <= b->limit) {
        return SMHF_OK;
    }
    excess = first + second - b->limit;
    if (b->limit == 0) {
        keep_first = keep_second = 0;
    } else if (options->truncation == SMHF_TRUNCATE_LONGEST_FIRST) {
        if (b->pairs != NULL) {
            longest_first(b->limit, &keep_first, &keep_second);
        } else {
            keep_first = b->limit;
        }
    } else {
        int on_first = options->truncation == SMHF_TRUNCATE_ONLY_FIRST;
        if (!on_first && b->pairs == NULL) {
            return smhf_fail(err, SMHF_E_ARG,
                             "%zu tokens are too many by %zu, and truncation "
                             "only_second was given no pairs",
                             first, excess);
        }
        size_t *target = on_first ? &keep_first : &keep_second;
        if (*target <= excess) {
            return smhf_fail(err, SMHF_E_ARG,
                             "%zu tokens are too many by %zu, but the %s text, "
                             "the only one to be truncated, has just %zu",
                             first + second, excess, on_first ? "first" : "second", *target);
        }
        *target -= excess;
    }
    SMHF_TRY(check_stride(first, keep_first, options->stride, err));
    SMHF_TRY(check_stride(second, keep_second, options->stride, err));
    *a = cut_windows(first, keep_first, options->stride, options->truncation_left);
    *c = cut_windows(second, keep_second, options->stride, options->truncation_left);
    return SMHF_OK;
}

/* The main row and, when asked, the overflow rows in the reference's order: for each further window
 * of what the template puts first, all windows of the other; then the first one with the rest. */
static smhf_status put_rows(const batch *b, smhf_worker *worker, size_t sample, const windows *a,
                            const windows *c, smhf_error *err) {
    int truncated = a->count > 1 || c->count > 1;
    int swapped = 0;
    for (int i = 0; i < b->template->count; i++) {
        if (b->template->pieces[i].sequence >= 0) {
            swapped = b->template->pieces[i].sequence == 1;
            break;
        }
    }
    SMHF_TRY(put_row(b, worker, sample, window_at(a, 0), window_at(c, 0), truncated, err));
    worker->truncated_count += (size_t)truncated;
    if (!truncated || !b->options->overflow) {
        return SMHF_OK;
    }
    const windows *outer = swapped ? c : a, *inner = swapped ? a : c;
    for (size_t turn = 1; turn <= outer->count; turn++) {
        size_t o = turn % outer->count; /* the main window last */
        for (size_t i = (o == 0) ? 1 : 0; i < inner->count; i++) {
            window x = window_at(outer, o), y = window_at(inner, i);
            SMHF_TRY(put_row(b, worker, sample, swapped ? y : x, swapped ? x : y, truncated, err));
        }
    }
    return SMHF_OK;
}

/* --- Chunks ---------------------------------------------------------------------------------- */

static smhf_status encode_side(const batch *b, smhf_worker *worker, const smhf_text_view *texts,
                               const size_t *starts, const char *name, size_t row, size_t end,
                               smhf_pieces *out, smhf_error *err) {
    smhf_status status = SMHF_OK;
    smhf_segment_options how = {
        .split_special = b->options->split_special_tokens,
        .detail = (b->options->want & (SMHF_WANT_OFFSETS | SMHF_WANT_WORD_IDS)) != 0,
        .word = -1,
        .stop = b->stop,
    };
    out->count = 0;
    if (starts == NULL) {
        how.next = (b->pairs == NULL && row + 1 < end) ? &texts[row + 1] : NULL;
        status = smhf_segment_text(b->tokenizer, worker, &texts[row], &how, out, err);
    } else {
        for (size_t i = starts[row]; i < starts[row + 1] && status == SMHF_OK; i++) {
            how.word = (int32_t)(i - starts[row]);
            status = smhf_segment_text(b->tokenizer, worker, &texts[i], &how, out, err);
        }
    }
    if (status != SMHF_OK) {
        smhf_error_prefix(err, "%s[%zu]", name, row);
    }
    return status;
}

/* `end` is the first row after those of this chunk. */
static smhf_status encode_row(const batch *b, smhf_worker *worker, size_t row, size_t end,
                              smhf_error *err) {
    windows a, c;
    SMHF_TRY(encode_side(b, worker, b->texts, b->options->word_starts, "texts", row, end,
                         &worker->first, err));
    worker->second.count = 0;
    if (b->pairs != NULL) {
        SMHF_TRY(encode_side(b, worker, b->pairs, b->options->pair_word_starts, "pairs", row, end,
                             &worker->second, err));
    }
    smhf_status status = plan_truncation(b, worker->first.count, worker->second.count, &a, &c, err);
    if (status != SMHF_OK) {
        smhf_error_prefix(err, "texts[%zu]", row);
        return status;
    }
    return put_rows(b, worker, row, &a, &c, err);
}

/* A worker that has done a chunk of this batch before, else one of the tokenizer's. */
static smhf_worker *take_worker(batch *b) {
    for (size_t i = 0; i < b->chunk_count; i++) {
        if (atomic_load_explicit(&b->idle[i], memory_order_relaxed) != NULL) {
            smhf_worker *worker = atomic_exchange(&b->idle[i], NULL);
            if (worker != NULL) {
                return worker;
            }
        }
    }
    smhf_worker *worker = smhf_worker_acquire(b->tokenizer);
    /* Which thread gets how much of a batch is chance. With room for all of it nobody ever has to
     * allocate again; should there be none, the row that needs it will say so. */
    if (worker != NULL) {
        (void)!reserve_tokens(worker, atomic_load(&b->tokenizer->most_tokens), NULL);
        (void)!reserve_rows(worker, atomic_load(&b->tokenizer->most_rows), NULL);
    }
    return worker;
}

/* There are at most as many workers as chunks: one place is free. */
static void put_worker(batch *b, smhf_worker *worker) {
    for (size_t i = 0;; i = (i + 1) % b->chunk_count) {
        smhf_worker *none = NULL;
        if (atomic_compare_exchange_strong(&b->idle[i], &none, worker)) {
            return;
        }
    }
}

static void encode_chunk(void *context, size_t begin, size_t end) {
    batch *b = context;
    chunk_rows *chunk = &b->chunks[begin / b->chunk];
    smhf_worker *worker = take_worker(b);
    chunk->worker = worker;
    chunk->status = SMHF_OK;
    if (worker == NULL) {
        chunk->status = SMHF_E_NOMEM;
        return;
    }
    chunk->token = worker->tokens;
    chunk->row = worker->rows;
    chunk->truncated = worker->truncated_count;
    for (size_t row = begin; row < end; row++) {
        chunk->status = encode_row(b, worker, row, end, &worker->error);
        if (chunk->status != SMHF_OK) {
            return; /* the worker stays with the chunk, for its error */
        }
    }
    chunk->longest = 0;
    for (size_t row = chunk->row; row < worker->rows; row++) {
        size_t length = (size_t)worker->row_lengths[row];
        chunk->longest = (length > chunk->longest) ? length : chunk->longest;
    }
    chunk->tokens = worker->tokens - chunk->token;
    chunk->rows = worker->rows - chunk->row;
    chunk->truncated = worker->truncated_count - chunk->truncated;
    put_worker(b, worker);
}

/* The first failing row of the lowest chunk. */
static smhf_status first_failure(const batch *b, smhf_error *err) {
    for (size_t slot = 0; slot < b->chunk_count; slot++) {
        const chunk_rows *chunk = &b->chunks[slot];
        if (chunk->status != SMHF_OK && chunk->worker == NULL) {
            return smhf_fail_nomem(err, "worker", sizeof *chunk->worker);
        }
        if (chunk->status != SMHF_OK) {
            if (err != NULL) {
                *err = chunk->worker->error;
            }
            return chunk->status;
        }
    }
    return SMHF_OK;
}

static void release_workers(batch *b) {
    for (size_t slot = 0; slot < b->chunk_count; slot++) {
        if (b->chunks[slot].status != SMHF_OK) {
            smhf_worker_release(b->tokenizer, b->chunks[slot].worker);
        }
        smhf_worker_release(b->tokenizer, atomic_load(&b->idle[slot]));
    }
}

static smhf_status check_options(const batch *b, size_t *limit, smhf_error *err) {
    const smhf_encode_options *options = b->options;
    size_t specials = options->add_special_tokens ? (size_t)b->template->specials : 0;
    size_t max_length = options->max_length;
    *limit = SIZE_MAX;
    if (options->truncation == SMHF_TRUNCATE_NONE) {
        return SMHF_OK;
    }
    if (max_length == 0) {
        if (b->tokenizer->info.model_max_length < 0) {
            return SMHF_OK; /* no maximum anywhere: nothing to cut */
        }
        max_length = (size_t)b->tokenizer->info.model_max_length;
    }
    if (max_length < specials) {
        return smhf_fail(err, SMHF_E_ARG,
                         "max_length %zu: expected at least %zu, the special "
                         "tokens of a row",
                         max_length, specials);
    }
    *limit = max_length - specials;
    if (options->stride > 0 && options->stride >= *limit) {
        return smhf_fail(err, SMHF_E_ARG,
                         "stride %zu: expected less than %zu (max_length %zu "
                         "without special tokens)",
                         options->stride, *limit, max_length);
    }
    return SMHF_OK;
}

/* --- Joining --------------------------------------------------------------------------------- */

typedef struct joiner {
    const batch *b;
    smhf_encoding *out;
    size_t token_at[MAX_CHUNKS], row_at[MAX_CHUNKS];
} joiner;

/* One row of both arrays, while its ids are near. */
static void put_padded(const batch *b, smhf_encoding *out, size_t row, const int32_t *ids,
                       size_t count) {
    size_t width = out->longest, at = row * width, item_size = b->options->padded_item_size;
    int left = b->options->pad_left;
    if (item_size == 8) {
        const smhf_lane *lane = b->tokenizer->rows;
        lane->widen_row((int64_t *)out->padded_ids + at, ids, count, width, b->options->pad_id,
                        left);
        lane->mask_row((int64_t *)out->padded_mask + at, count, width, left);
    } else {
        int32_t *row_ids = (int32_t *)out->padded_ids + at;
        int32_t *mask = (int32_t *)out->padded_mask + at;
        size_t first = left ? width - count : 0;
        for (size_t i = 0; i < width; i++) {
            int inside = i - first < count;
            row_ids[i] = inside ? ids[i - first] : (int32_t)b->options->pad_id;
            mask[i] = inside;
        }
    }
}

static smhf_status new_padded(const batch *b, smhf_encoding *e, smhf_error *err) {
    size_t bytes = b->options->padded_item_size;
    if (smhf_mul_size(bytes, e->rows, &bytes) != 0 ||
        smhf_mul_size(bytes, e->longest, &bytes) != 0) {
        return smhf_fail_nomem(err, "padded rows", SIZE_MAX);
    }
    e->padded_ids = smhf_encoding_block_take(e, bytes);
    e->padded_mask = smhf_encoding_block_take(e, bytes);
    if (e->padded_ids == NULL || e->padded_mask == NULL) {
        return smhf_fail_nomem(err, "padded rows", bytes);
    }
    return SMHF_OK;
}

static void join_chunk(void *context, size_t begin, size_t end) {
    const joiner *j = context;
    smhf_encoding *out = j->out;
    for (size_t slot = begin; slot < end; slot++) {
        const chunk_rows *chunk = &j->b->chunks[slot];
        const smhf_worker *w = chunk->worker;
        size_t at = j->token_at[slot], row = j->row_at[slot], n = chunk->tokens, t = chunk->token;
        int32_t sum = (int32_t)at;
        if (n > 0) {
            memcpy(out->ids + at, w->ids + t, n * sizeof *out->ids);
        }
        if (n > 0 && j->b->typed) {
            memcpy(out->type_ids + at, w->type_ids + t, n * sizeof *out->type_ids);
        } else {
            memset(out->type_ids + at, 0, n * sizeof *out->type_ids);
        }
        if (out->offsets != NULL && n > 0) {
            memcpy(out->offsets + 2 * at, w->offsets + 2 * t, 2 * n * sizeof *out->offsets);
        }
        if (out->word_ids != NULL && n > 0) {
            memcpy(out->word_ids + at, w->word_ids + t, n * sizeof *out->word_ids);
        }
        if (out->sequence_ids != NULL && n > 0) {
            memcpy(out->sequence_ids + at, w->sequence_ids + t, n);
        }
        if (out->special_mask != NULL && n > 0) {
            memcpy(out->special_mask + at, w->special_mask + t, n);
        }
        for (size_t r = 0; r < chunk->rows; r++) {
            int32_t length = w->row_lengths[chunk->row + r];
            out->cu_seqlens[row + r] = sum;
            if (out->padded_ids != NULL) {
                const int32_t *ids = (length > 0) ? w->ids + t + ((size_t)sum - at) : NULL;
                put_padded(j->b, out, row + r, ids, (size_t)length);
            }
            sum += length;
            out->sample[row + r] = w->row_samples[chunk->row + r];
            out->truncated[row + r] = w->row_truncated[chunk->row + r];
        }
    }
}

#define MOST_RESERVED ((size_t)1 << 18) /* tokens: 6 MB a worker */

static void note_most(const batch *b, size_t tokens, size_t rows) {
    smhf_tokenizer *tokenizer = (smhf_tokenizer *)b->tokenizer; /* two hints, no matter who wins */
    if (tokens <= MOST_RESERVED && tokens > atomic_load(&tokenizer->most_tokens)) {
        atomic_store(&tokenizer->most_tokens, tokens);
    }
    if (rows <= MOST_RESERVED && rows > atomic_load(&tokenizer->most_rows)) {
        atomic_store(&tokenizer->most_rows, rows);
    }
}

static smhf_status join(const batch *b, smhf_encoding **out, smhf_error *err) {
    joiner j;
    size_t tokens = 0, rows = 0, truncated = 0, longest = 0;
    j.b = b;
    for (size_t slot = 0; slot < b->chunk_count; slot++) {
        j.token_at[slot] = tokens;
        j.row_at[slot] = rows;
        tokens += b->chunks[slot].tokens;
        rows += b->chunks[slot].rows;
        truncated += b->chunks[slot].truncated;
        longest = (b->chunks[slot].longest > longest) ? b->chunks[slot].longest : longest;
    }
    if (tokens > INT32_MAX || rows >= INT32_MAX) {
        return smhf_fail(err, SMHF_E_ARG,
                         "%zu tokens in one batch, expected at most %d: encode "
                         "in smaller batches",
                         tokens, INT32_MAX);
    }
    note_most(b, tokens, rows);
    SMHF_TRY(smhf_encoding_new(b->tokenizer->shelf, rows, tokens, b->options->want, &j.out, err));
    j.out->longest = longest;
    j.out->truncated_count = truncated;
    if (b->options->padded_item_size != 0) {
        smhf_status status = new_padded(b, j.out, err);
        if (status != SMHF_OK) {
            smhf_encoding_free(j.out);
            return status;
        }
    }
    if (tokens < JOIN_ALONE) {
        join_chunk(&j, 0, b->chunk_count);
    } else {
        smhf_parallel_for(b->chunk_count, 4, join_chunk, &j);
    }
    j.out->cu_seqlens[rows] = (int32_t)tokens;
    *out = j.out;
    return SMHF_OK;
}

static int has_types(const smhf_template *template) {
    int typed = 0;
    for (int i = 0; i < template->count; i++) {
        typed |= template->pieces[i].type_id != 0;
    }
    return typed;
}

smhf_status smhf_tokenizer_encode_batch(const smhf_tokenizer *tokenizer,
                                        const smhf_text_view *texts, const smhf_text_view *pairs,
                                        size_t count, const smhf_encode_options *options,
                                        smhf_encoding **out, smhf_error *err) {
    static const smhf_encode_options defaults = SMHF_ENCODE_DEFAULTS;
    batch b; /* a few kilobytes: only what is used is written */
    *out = NULL;
    if (count > INT32_MAX / 2) {
        return smhf_fail(err, SMHF_E_ARG, "%zu texts, expected at most %d", count, INT32_MAX / 2);
    }
    b.tokenizer = tokenizer;
    b.texts = texts;
    b.pairs = pairs;
    b.count = count;
    b.options = (options != NULL) ? options : &defaults;
    b.template = (pairs != NULL) ? &tokenizer->pair : &tokenizer->single;
    b.typed = has_types(b.template);
    b.chunk = (count + MAX_CHUNKS - 1) / MAX_CHUNKS;
    b.chunk = (b.chunk < MIN_CHUNK) ? MIN_CHUNK : b.chunk;
    b.chunk_count = (count + b.chunk - 1) / b.chunk;
    SMHF_TRY(check_options(&b, &b.limit, err));
    if (b.options->padded_item_size != 0 && b.options->padded_item_size != 4 &&
        b.options->padded_item_size != 8) {
        return smhf_fail(err, SMHF_E_ARG, "padded items of %zu bytes, expected 4 or 8",
                         b.options->padded_item_size);
    }
    /* A row cut on the right needs no more than one token beyond the cut. Pairs need both lengths:
     * which side gives way depends on them. */
    b.stop = SIZE_MAX;
    if (pairs == NULL && b.limit > 0 && b.limit < SIZE_MAX && !b.options->overflow &&
        !b.options->truncation_left && b.options->truncation != SMHF_TRUNCATE_ONLY_SECOND) {
        b.stop = b.limit + 1;
    }
    for (size_t slot = 0; slot < b.chunk_count; slot++) {
        atomic_init(&b.idle[slot], NULL);
    }
    smhf_parallel_for(count, b.chunk, encode_chunk, &b);
    smhf_status status = first_failure(&b, err);
    if (status == SMHF_OK) {
        status = join(&b, out, err);
    }
    release_workers(&b);
    return status;
}
