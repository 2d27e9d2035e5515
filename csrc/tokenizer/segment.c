/* segment.c: one text → tokens with spans and word ids.
 *
 * Stages as in the reference: cut out raw added tokens; normalize each remaining piece on its own;
 * cut out normalized added tokens; split into words; longest-match each word.
 */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#include <string.h>

/* --- Workers --------------------------------------------------------------------------------- */

smhf_worker *smhf_worker_acquire(const smhf_tokenizer *tokenizer) {
    smhf_tokenizer *cache = (smhf_tokenizer *)tokenizer; /* the cache is its only mutable part */
    for (int i = 0; i < SMHF_WORKER_CACHE; i++) {
        if (atomic_load_explicit(&cache->idle[i], memory_order_relaxed) != NULL) {
            smhf_worker *worker = atomic_exchange(&cache->idle[i], NULL);
            if (worker != NULL) {
                return worker;
            }
        }
    }
    return smhf_calloc(1, sizeof(smhf_worker));
}

void smhf_worker_release(const smhf_tokenizer *tokenizer, smhf_worker *worker) {
    smhf_tokenizer *cache = (smhf_tokenizer *)tokenizer;
    if (worker == NULL) {
        return;
    }
    worker->tokens = worker->rows = worker->truncated_count = 0;
    worker->ahead = NULL;
    /* A rare huge text must not hold its scratch for ever. */
    if (worker->normalized.capacity <= 1u << 20 && worker->token_capacity <= 1u << 20 &&
        worker->lane.capacity <= 1u << 20 && worker->word_capacity <= 1u << 16) {
        for (int i = 0; i < SMHF_WORKER_CACHE; i++) {
            smhf_worker *none = NULL;
            if (atomic_compare_exchange_strong(&cache->idle[i], &none, worker)) {
                return;
            }
        }
    }
    smhf_worker_free(worker);
}

static void pieces_deinit(smhf_pieces *pieces) {
    smhf_free(pieces->ids);
    smhf_free(pieces->spans);
    smhf_free(pieces->words);
}

void smhf_worker_free(smhf_worker *worker) {
    if (worker == NULL) {
        return;
    }
    smhf_normalized_deinit(&worker->normalized);
    smhf_lane_scratch_deinit(&worker->lane);
    smhf_lane_scratch_deinit(&worker->next_lane);
    smhf_free(worker->cache);
    smhf_free(worker->wide);
    smhf_free(worker->word);
    smhf_free(worker->word_start);
    pieces_deinit(&worker->first);
    pieces_deinit(&worker->second);
    smhf_free(worker->ids);
    smhf_free(worker->type_ids);
    smhf_free(worker->offsets);
    smhf_free(worker->word_ids);
    smhf_free(worker->sequence_ids);
    smhf_free(worker->special_mask);
    smhf_free(worker->row_lengths);
    smhf_free(worker->row_samples);
    smhf_free(worker->row_truncated);
    smhf_free(worker);
}

/* --- Words ----------------------------------------------------------------------------------- */

typedef struct segmenter {
    const smhf_tokenizer *tokenizer;
    smhf_worker *worker;
    const smhf_segment_options *options;
    smhf_pieces *out;
    int32_t word;   /* id of the next word */
    int normalized; /* 1: the whole text lies in worker->lane already */
} segmenter;

static smhf_status put_piece(segmenter *s, int32_t id, uint32_t begin, uint32_t end,
                             smhf_error *err) {
    size_t at = s->out->count;
    SMHF_TRY(smhf_pieces_reserve(s->out, at + 1, err));
    s->out->ids[at] = id;
    if (s->options->detail) {
        s->out->spans[2 * at] = (int32_t)begin;
        s->out->spans[2 * at + 1] = (int32_t)end;
        s->out->words[at] = s->word;
    }
    s->out->count++;
    return SMHF_OK;
}

static void next_word(segmenter *s) {
    s->word += s->options->word < 0;
}

static smhf_status unknown_error(const smhf_tokenizer *tokenizer, uint32_t at, smhf_error *err) {
    return smhf_fail(err, SMHF_E_ARG,
                     "the word at character %u is not in the vocabulary, and "
                     "neither is the unknown token \"%.*s\"",
                     (unsigned)at, (int)tokenizer->unk_token.size,
                     (const char *)tokenizer->unk_token.data);
}

static smhf_status put_unknown(segmenter *s, const uint32_t *source, size_t count,
                               smhf_error *err) {
    if (s->tokenizer->unk_id < 0) {
        return unknown_error(s->tokenizer, source[0], err);
    }
    return put_piece(s, s->tokenizer->unk_id, source[0], source[count - 1] + 1, err);
}

/* UTF-8 of a word into worker->word, with the place of every character and of the end. */
static smhf_status spell(smhf_worker *worker, const uint32_t *chars, size_t count,
                         smhf_error *err) {
    size_t written = 0;
    if (count > worker->word_capacity) {
        size_t bytes = worker->word_capacity, starts = worker->word_capacity;
        size_t wanted = count + 128;
        SMHF_TRY(smhf_grow(&worker->word, &bytes, wanted, 5, err));
        SMHF_TRY(smhf_grow(&worker->word_start, &starts, wanted, sizeof *worker->word_start, err));
        worker->word_capacity = (bytes < starts ? bytes : starts) - 64;
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t value = chars[i] & CHAR_VALUE;
        worker->word_start[i] = (uint32_t)written;
        if (value < 0x80) {
            worker->word[written++] = (uint8_t)value;
        } else {
            written += smhf_utf8_encode(value, worker->word + written);
        }
    }
    worker->word_start[count] = (uint32_t)written;
    return SMHF_OK;
}

/* Longest key that starts at character `from`: its end, or 0. */
static size_t longest_match(const smhf_vocab *vocab, const smhf_worker *worker, size_t from,
                            size_t count, int32_t *id) {
    const uint32_t *start = worker->word_start;
    for (size_t end = count; end > from; end--) {
        *id =
            smhf_vocab_find(vocab, from > 0, worker->word + start[from], start[end] - start[from]);
        if (*id >= 0) {
            return end;
        }
    }
    return 0;
}

static smhf_status put_word(segmenter *s, const uint32_t *chars, const uint32_t *source,
                            size_t count, smhf_error *err) {
    const smhf_vocab *vocab = &s->tokenizer->vocab;
    smhf_worker *worker = s->worker;
    size_t mark = s->out->count;
    smhf_status status = SMHF_OK;

    if (count > s->tokenizer->max_word_chars) {
        status = put_unknown(s, source, count, err);
        next_word(s);
        return status;
    }
    SMHF_TRY(spell(worker, chars, count, err));
    for (size_t from = 0; from < count;) {
        int32_t id = -1;
        size_t end = longest_match(vocab, worker, from, count, &id);
        if (end == 0) { /* one piece fails: the word is unknown as a whole */
            s->out->count = mark;
            status = put_unknown(s, source, count, err);
            break;
        }
        SMHF_TRY(put_piece(s, id, source[from], source[end - 1] + 1, err));
        from = end;
    }
    next_word(s);
    return status;
}

/* BertPreTokenizer over normalized characters [begin, end). */
static smhf_status put_words(segmenter *s, size_t begin, size_t end, smhf_error *err) {
    const uint32_t *chars = s->worker->normalized.chars;
    const uint32_t *source = s->worker->normalized.source;
    for (size_t at = begin; at < end && s->out->count < s->options->stop;) {
        if (chars[at] & CHAR_SPACE) {
            at++;
            continue;
        }
        size_t stop = at + 1;
        if ((chars[at] & CHAR_ISOLATE) == 0) {
            while (stop < end && (chars[stop] & (CHAR_SPACE | CHAR_ISOLATE)) == 0) {
                stop++;
            }
        }
        SMHF_TRY(put_word(s, chars + at, source + at, stop - at, err));
        at = stop;
    }
    return SMHF_OK;
}

static smhf_status need_cache(smhf_worker *worker, smhf_error *err) {
    size_t bytes = WORD_CACHE_LINES * sizeof *worker->cache;
    if (worker->cache != NULL) {
        return SMHF_OK;
    }
    worker->cache = smhf_malloc_aligned(bytes, SMHF_CACHE_LINE);
    if (worker->cache == NULL) {
        return smhf_fail_nomem(err, "word cache", bytes);
    }
    memset(worker->cache, 0, bytes);
    return SMHF_OK;
}

/* Characters need their sources for spans, and for the place of a word that cannot be said. */
static int wants_source(const smhf_tokenizer *tokenizer, const smhf_segment_options *options) {
    return options->detail || tokenizer->unk_id < 0;
}

/* The quick way, where it can be taken: *done tells. */
static smhf_status put_quickly(segmenter *s, const smhf_text_view *text, size_t begin, size_t end,
                               int *done, smhf_error *err) {
    const smhf_tokenizer *tokenizer = s->tokenizer;
    smhf_lane_scratch *scratch = &s->worker->lane;
    smhf_lane_job job = {
        .detail = s->options->detail,
        .word = s->word,
        .fixed_word = s->options->word >= 0,
        .unk_id = tokenizer->unk_id,
        .max_chars = tokenizer->max_word_chars,
        .stop = s->options->stop,
    };
    if (!s->normalized) {
        SMHF_TRY(tokenizer->lane->normalize(&tokenizer->charmap, text, begin, end,
                                            wants_source(tokenizer, s->options), scratch, err));
    }
    if (scratch->seen & (CHAR_MARK | CHAR_SURROGATE | LANE_NUL)) {
        return SMHF_OK;
    }
    *done = 1;
    SMHF_TRY(need_cache(s->worker, err));
    job.cache = s->worker->cache;
    SMHF_TRY(tokenizer->lane->match(&tokenizer->vocab, scratch, &job, s->out, err));
    if (job.unknown != SIZE_MAX) {
        uint32_t at =
            scratch->mapped ? scratch->source[job.unknown] : scratch->base + (uint32_t)job.unknown;
        return unknown_error(tokenizer, at, err);
    }
    s->word = job.word;
    return SMHF_OK;
}

/* One stretch of raw text without raw added tokens. */
static smhf_status put_stretch(segmenter *s, const smhf_text_view *text, size_t begin, size_t end,
                               smhf_error *err) {
    const smhf_tokenizer *tokenizer = s->tokenizer;
    smhf_normalized *normalized = &s->worker->normalized;
    const smhf_matcher *matcher = &tokenizer->normalized;
    size_t done = 0, from = 0;
    int quickly_done = 0;
    smhf_match match;

    if (tokenizer->lane != NULL) {
        SMHF_TRY(put_quickly(s, text, begin, end, &quickly_done, err));
        if (quickly_done) {
            return SMHF_OK;
        }
    }
    SMHF_TRY(
        smhf_normalize(&tokenizer->charmap, text, begin, end, matcher->count > 0, normalized, err));
    if (matcher->count == 0) {
        return put_words(s, 0, normalized->count, err);
    }
    smhf_text_view view = {normalized->chars, normalized->count, 4};
    while (smhf_matcher_next(matcher, tokenizer, &view, s->options->split_special, from, done,
                             &match, &from)) {
        if (done < match.begin) {
            SMHF_TRY(put_words(s, done, match.begin, err));
        }
        SMHF_TRY(put_piece(s, tokenizer->added[match.token].id, normalized->source[match.begin],
                           normalized->source[match.end - 1] + 1, err));
        next_word(s);
        done = match.end;
    }
    return put_words(s, done, normalized->count, err);
}

smhf_status smhf_text_widen(const smhf_text_view *text, uint32_t **wide, size_t *capacity,
                            smhf_text_view *out, smhf_error *err) {
    const uint8_t *data = text->data;
    size_t at = 0, count = 0;
    while (at < text->length && data[at] < 0x80) {
        at++;
    }
    if (at == text->length) {
        *out = (smhf_text_view){data, text->length, 1};
        return SMHF_OK;
    }
    SMHF_TRY(smhf_grow(wide, capacity, text->length, sizeof **wide, err));
    for (at = 0; at < text->length;) {
        size_t fault = at;
        int32_t code_point = smhf_utf8_decode(data, text->length, &at);
        if (code_point < 0) {
            return smhf_fail_at(err, SMHF_E_ARG, fault, "invalid UTF-8 at byte %zu", fault);
        }
        (*wide)[count++] = (uint32_t)code_point;
    }
    *out = (smhf_text_view){*wide, count, 4};
    return SMHF_OK;
}

#define AHEAD_CHARS 4096 /* longer texts hide their own loads */

/* Normalizes the text that comes next and starts loading the lines of its words, so that memory is
 * waited for while the text before it is matched: a large vocabulary does not fit a core's own
 * caches, and a row has too few words to hide that. Texts that this does not suit are left alone.
 */
static smhf_status look_ahead(const smhf_tokenizer *tokenizer, smhf_worker *worker,
                              const smhf_text_view *text, const smhf_segment_options *options,
                              smhf_error *err) {
    size_t resume;
    smhf_match match;
    if (!tokenizer->vocab.large || tokenizer->lane == NULL || text->kind == 0 ||
        text->length == 0 || text->length > AHEAD_CHARS ||
        smhf_matcher_next(&tokenizer->raw, tokenizer, text, options->split_special, 0, 0, &match,
                          &resume)) {
        return SMHF_OK;
    }
    SMHF_TRY(tokenizer->lane->normalize(&tokenizer->charmap, text, 0, text->length,
                                        wants_source(tokenizer, options), &worker->next_lane, err));
    SMHF_TRY(need_cache(worker, err));
    tokenizer->lane->aim(worker->cache, &worker->next_lane);
    worker->ahead = text;
    return SMHF_OK;
}

smhf_status smhf_segment_text(const smhf_tokenizer *tokenizer, smhf_worker *worker,
                              const smhf_text_view *given, const smhf_segment_options *options,
                              smhf_pieces *out, smhf_error *err) {
    segmenter s = {tokenizer, worker, options, out, (options->word < 0) ? 0 : options->word, 0};
    smhf_text_view text = *given;
    size_t done = 0, from = 0;
    smhf_match match;

    if (worker->ahead == given) {
        smhf_lane_scratch lane = worker->lane;
        worker->lane = worker->next_lane;
        worker->next_lane = lane;
        worker->ahead = NULL;
        s.normalized = 1;
    }
    if (options->next != NULL) {
        SMHF_TRY(look_ahead(tokenizer, worker, options->next, options, err));
    }
    if (s.normalized) {
        return put_stretch(&s, given, 0, given->length, err);
    }
    if (text.length > INT32_MAX / 2) {
        return smhf_fail(err, SMHF_E_ARG, "text of %zu characters, expected at most %d",
                         text.length, INT32_MAX / 2);
    }
    if (text.kind == 0) {
        SMHF_TRY(smhf_text_widen(given, &worker->wide, &worker->wide_capacity, &text, err));
    }
    while (smhf_matcher_next(&tokenizer->raw, tokenizer, &text, options->split_special, from, done,
                             &match, &from)) {
        if (done < match.begin) {
            SMHF_TRY(put_stretch(&s, &text, done, match.begin, err));
        }
        SMHF_TRY(put_piece(&s, tokenizer->added[match.token].id, (uint32_t)match.begin,
                           (uint32_t)match.end, err));
        next_word(&s);
        done = match.end;
    }
    return (done < text.length) ? put_stretch(&s, &text, done, text.length, err) : SMHF_OK;
}
