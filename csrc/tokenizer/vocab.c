/* vocab.c: tokens ↔ ids.
 *
 * Keys of up to 16 bytes, nearly all of any BERT vocabulary, are in the word tables; the others,
 * and tokens that no word of a text can be ("[unused5]"), in small hashes of ids. A token that
 * starts with the continuation prefix is stored once, without it: no word starts with "##".
 */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#include <string.h>

#define NO_START UINT32_MAX
#define MAX_TOKEN_BYTES 65535u /* of one token: far beyond any real one */
#define SPARSE 1000000u        /* ids are array indices: a wild one must not take gigabytes */
#define PADDING 16
#define LARGE_KEYS 45000u /* about 1 MB of lines */

/* --- Keys that the word tables do not hold --------------------------------------------------- */

static uint64_t hash_key(const uint8_t *key, size_t size) {
    uint64_t hash = (uint64_t)size * 0xD6E8FEB86659FD93u;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ key[i]) * 0x100000001B3u;
    }
    hash ^= hash >> 32;
    return hash * 0x9E3779B97F4A7C15u;
}

static uint32_t *others_slot(const smhf_vocab *vocab, const smhf_other_keys *others, uint32_t skip,
                             const uint8_t *key, size_t size) {
    for (uint32_t at = (uint32_t)(hash_key(key, size) >> 32) & others->mask;;
         at = (at + 1) & others->mask) {
        uint32_t id = others->slots[at] - 1; /* an empty slot wraps around */
        if (id == UINT32_MAX) {
            return &others->slots[at];
        }
        const uint8_t *other = vocab->bytes + vocab->start[id] + skip;
        if (vocab->length[id] - skip == size && (size == 0 || memcmp(other, key, size) == 0)) {
            return &others->slots[at];
        }
    }
}

int32_t smhf_vocab_find_other(const smhf_vocab *vocab, int continued, const uint8_t *key,
                              size_t size) {
    const smhf_other_keys *others = &vocab->others[continued];
    if (size > others->max_bytes) {
        return -1;
    }
    return (int32_t)*others_slot(vocab, others, continued ? vocab->prefix : 0, key, size) - 1;
}

/* --- Lookups --------------------------------------------------------------------------------- */

/* 1 when the word tables can hold the key, which is then in *low and *high. `splits`: a character
 * of it is a unit of its own, so that no word has this key. */
static int pack_key(const smhf_vocab *vocab, const uint8_t *key, size_t size, uint64_t *low,
                    uint64_t *high) {
    uint8_t padded[WORD_LONG_BYTES] = {0};
    if (size == 0 || size > WORD_LONG_BYTES) {
        return 0;
    }
    for (size_t i = 0; i < size; i++) {
        padded[i] = key[i];
        if (key[i] < 0x80 && ((vocab->splits[key[i] >> 6] >> (key[i] & 63)) & 1) &&
            (size > 1 || key[i] == 0)) {
            return 0;
        }
    }
    *low = smhf_load8(padded);
    *high = smhf_load8(padded + 8);
    return 1;
}

int32_t smhf_vocab_find(const smhf_vocab *vocab, int continued, const uint8_t *key, size_t size) {
    const smhf_word_table *table = &vocab->words[continued];
    uint64_t low, high;
    if (!pack_key(vocab, key, size, &low, &high)) {
        return smhf_vocab_find_other(vocab, continued, key, size);
    }
    if (!smhf_filter_has(&vocab->filter, low, high, continued ? FILTER_CONTINUED : 0)) {
        return -1;
    }
    return smhf_word_table_find(table, low, high, (uint32_t)size);
}

/* Whether the token is kept as a continuing piece only. */
static int only_continued(const smhf_vocab *vocab, const uint8_t *token, size_t size) {
    return vocab->prefix_splits && size > vocab->prefix &&
           memcmp(token, vocab->prefix_bytes, vocab->prefix) == 0;
}

int32_t smhf_vocab_find_view(const smhf_vocab *vocab, smhf_bytes_view key) {
    if (only_continued(vocab, key.data, key.size)) {
        return smhf_vocab_find(vocab, 1, key.data + vocab->prefix, key.size - vocab->prefix);
    }
    return smhf_vocab_find(vocab, 0, key.data, key.size);
}

int smhf_vocab_token(const smhf_vocab *vocab, int32_t id, smhf_bytes_view *out) {
    *out = (smhf_bytes_view){NULL, 0};
    if (id < 0 || (uint32_t)id >= vocab->ids || vocab->start[id] == NO_START) {
        return 0;
    }
    *out = (smhf_bytes_view){vocab->bytes + vocab->start[id], vocab->length[id]};
    return 1;
}

/* --- Building -------------------------------------------------------------------------------- */

/* How many keys of which kind there may be at most; [1]: continuing. */
typedef struct key_counts {
    size_t shorts[2], longs[2], others[2];
    size_t bytes;
} key_counts;

static void count_key(const smhf_vocab *vocab, int continued, const uint8_t *key, size_t size,
                      key_counts *counts) {
    uint64_t low, high;
    if (!pack_key(vocab, key, size, &low, &high)) {
        counts->others[continued]++;
    } else if (size <= 8) {
        counts->shorts[continued]++;
    } else {
        counts->longs[continued]++;
    }
}

static int has_prefix(const smhf_vocab *vocab, const uint8_t *token, size_t size) {
    return size > vocab->prefix && memcmp(token, vocab->prefix_bytes, vocab->prefix) == 0;
}

/* Checks every entry, sizes the arrays and counts keys. */
static smhf_status measure(smhf_vocab *vocab, const smhf_vocab_entry *entries, size_t count,
                           key_counts *counts, smhf_error *err) {
    size_t limit = count * 4 + SPARSE;
    limit = (limit < INT32_MAX / 2) ? limit : INT32_MAX / 2;
    for (size_t i = 0; i < count; i++) {
        smhf_bytes_view token = entries[i].token;
        if (entries[i].id < 0 || (size_t)entries[i].id >= limit) {
            return smhf_fail(err, SMHF_E_PARSE,
                             "vocabulary: token \"%.*s\" has id %d, expected "
                             "0 to %zu",
                             (int)(token.size < 60 ? token.size : 60), (const char *)token.data,
                             (int)entries[i].id, limit - 1);
        }
        if (token.size > MAX_TOKEN_BYTES) {
            return smhf_fail(err, SMHF_E_PARSE,
                             "vocabulary: token %d has %zu bytes, expected at "
                             "most %u",
                             (int)entries[i].id, token.size, MAX_TOKEN_BYTES);
        }
        counts->bytes += token.size;
        if ((uint32_t)entries[i].id >= vocab->ids) {
            vocab->ids = (uint32_t)entries[i].id + 1;
        }
        int continued = has_prefix(vocab, token.data, token.size);
        if (continued) {
            count_key(vocab, 1, token.data + vocab->prefix, token.size - vocab->prefix, counts);
        }
        if (!continued || !vocab->prefix_splits) {
            count_key(vocab, 0, token.data, token.size, counts);
        }
    }
    if (counts->bytes > UINT32_MAX / 2) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED, "vocabulary of %zu bytes is too large",
                         counts->bytes);
    }
    return SMHF_OK;
}

static smhf_status others_init(smhf_other_keys *others, smhf_arena *arena, size_t count,
                               smhf_error *err) {
    size_t slots = 16;
    while (slots < count * 2) {
        slots *= 2;
    }
    others->slots = smhf_arena_calloc(arena, slots, sizeof *others->slots);
    others->mask = (uint32_t)(slots - 1);
    return (others->slots != NULL)
               ? SMHF_OK
               : smhf_fail_nomem(err, "vocabulary table", slots * sizeof *others->slots);
}

static smhf_status allocate(smhf_vocab *vocab, smhf_arena *arena, const key_counts *counts,
                            smhf_error *err) {
    size_t keys = 0;
    for (int c = 0; c < 2; c++) {
        SMHF_TRY(smhf_word_table_init(&vocab->words[c], arena, counts->shorts[c], counts->longs[c],
                                      err));
        SMHF_TRY(others_init(&vocab->others[c], arena, counts->others[c], err));
        keys += counts->shorts[c] + counts->longs[c] + counts->others[c];
    }
    SMHF_TRY(smhf_key_filter_init(&vocab->filter, arena, keys, err));
    vocab->bytes = smhf_arena_alloc(arena, counts->bytes + PADDING);
    vocab->start = smhf_arena_alloc(arena, ((size_t)vocab->ids + 1) * sizeof *vocab->start);
    vocab->length = smhf_arena_alloc(arena, ((size_t)vocab->ids + 1) * sizeof *vocab->length);
    if (vocab->bytes == NULL || vocab->start == NULL || vocab->length == NULL) {
        return smhf_fail_nomem(err, "vocabulary", counts->bytes + (size_t)vocab->ids * 8);
    }
    memset(vocab->bytes + counts->bytes, 0, PADDING);
    memset(vocab->start, 0xFF, ((size_t)vocab->ids + 1) * sizeof *vocab->start);
    return SMHF_OK;
}

/* Where the id + 1 of a key is kept. */
static uint32_t *key_slot(smhf_vocab *vocab, int continued, const uint8_t *key, size_t size) {
    uint64_t salt = continued ? FILTER_CONTINUED : 0;
    uint64_t low, high;
    if (pack_key(vocab, key, size, &low, &high)) {
        smhf_filter_add(&vocab->filter, low, high, salt);
        return smhf_word_table_slot(&vocab->words[continued], low, high, (uint32_t)size);
    }
    smhf_other_keys *others = &vocab->others[continued];
    if (size > others->max_bytes) {
        others->max_bytes = (uint32_t)size;
    }
    if (size > WORD_LONG_BYTES) {
        smhf_filter_add(&vocab->filter, smhf_load8(key), smhf_load8(key + 8), salt + FILTER_LONGER);
    }
    return others_slot(vocab, others, continued ? vocab->prefix : 0, key, size);
}

/* Adds a token under its one or two keys. When it is there already, the later entry counts: that
 * is this one while entries are taken in order (`forwards`), else the one that was there. */
static void add_token(smhf_vocab *vocab, smhf_bytes_view token, uint32_t id, size_t *used,
                      int forwards) {
    uint8_t *place = vocab->bytes + *used;
    if (token.size > 0) {
        memcpy(place, token.data, token.size);
    }
    int continued = has_prefix(vocab, place, token.size);
    uint32_t *slots[2] = {NULL, NULL};
    if (!continued || !vocab->prefix_splits) {
        slots[0] = key_slot(vocab, 0, place, token.size);
    }
    if (continued) {
        slots[1] = key_slot(vocab, 1, place + vocab->prefix, token.size - vocab->prefix);
    }
    uint32_t known = *(slots[0] != NULL ? slots[0] : slots[1]);
    if (known != 0 && !forwards) {
        memset(place, 0, token.size);
        return;
    }
    if (known != 0) {
        vocab->start[known - 1] = NO_START;
        vocab->tokens--;
    }
    for (int c = 0; c < 2; c++) {
        if (slots[c] != NULL) {
            *slots[c] = id + 1;
        }
    }
    vocab->start[id] = (uint32_t)*used;
    vocab->length[id] = (uint32_t)token.size;
    *used += token.size;
    vocab->tokens++;
}

/* Whether every entry has an id of its own. Leaves `start` as it was. */
static int distinct_ids(smhf_vocab *vocab, const smhf_vocab_entry *entries, size_t count) {
    size_t i = 0;
    while (i < count && vocab->start[entries[i].id] == NO_START) {
        vocab->start[entries[i++].id] = 0;
    }
    for (size_t k = 0; k < i; k++) {
        vocab->start[entries[k].id] = NO_START;
    }
    return i == count;
}

smhf_status smhf_vocab_build(smhf_vocab *vocab, smhf_arena *arena, const smhf_vocab_entry *entries,
                             size_t count, smhf_bytes_view prefix, smhf_error *err) {
    key_counts counts = {{0}, {0}, {0}, 0};
    size_t used = 0;
    memset(vocab, 0, sizeof *vocab);
    for (uint32_t c = 0; c < 128; c++) {
        if (c == 0 || (smhf_char_flags(c) & (CHAR_SPACE | CHAR_ISOLATE)) != 0) {
            vocab->splits[c >> 6] |= (uint64_t)1 << (c & 63);
        }
    }
    vocab->prefix = (uint32_t)prefix.size;
    vocab->prefix_bytes = prefix.data;
    vocab->prefix_splits = prefix.size > 0 && prefix.data[0] < 0x80 &&
                           ((vocab->splits[prefix.data[0] >> 6] >> (prefix.data[0] & 63)) & 1);
    SMHF_TRY(measure(vocab, entries, count, &counts, err));
    SMHF_TRY(allocate(vocab, arena, &counts, err));

    /* In order, because vocabularies begin with the frequent words, which should be found first. An
     * id that is given twice belongs to the last token that keeps it: then from the end. */
    int forwards = distinct_ids(vocab, entries, count);
    for (size_t i = 0; i < count; i++) {
        const smhf_vocab_entry *entry = &entries[forwards ? i : count - 1 - i];
        if (vocab->start[entry->id] == NO_START) {
            add_token(vocab, entry->token, (uint32_t)entry->id, &used, forwards);
        }
    }
    memset(vocab->bytes + used, 0, counts.bytes - used);
    vocab->large = (counts.shorts[0] + counts.longs[0]) > LARGE_KEYS;
    return SMHF_OK;
}

/* --- vocab.txt ------------------------------------------------------------------------------- */

/* The reference trims white space of any script at the end of a line. */
static size_t trim_end(const uint8_t *line, size_t size) {
    while (size > 0 && (line[size - 1] <= ' ' || line[size - 1] >= 0x7F)) {
        size_t at = size - 1, next;
        while (at > 0 && (line[at] & 0xC0) == 0x80) {
            at--;
        }
        next = at;
        int32_t code_point = smhf_utf8_decode(line, size, &next);
        if (code_point < 0 || !smhf_char_is_space((uint32_t)code_point)) {
            break;
        }
        size = at;
    }
    return size;
}

static smhf_status refuse_byte(smhf_bytes_view text, size_t at, const char *what, smhf_error *err) {
    size_t line = 1;
    for (size_t i = 0; i < at; i++) {
        line += (text.data[i] == '\n');
    }
    return smhf_fail_at(err, SMHF_E_PARSE, at, "vocabulary line %zu, byte %zu: %s", line, at, what);
}

smhf_status smhf_vocab_read_lines(smhf_bytes_view text, smhf_vocab_entry **entries, size_t *count,
                                  size_t *capacity, smhf_error *err) {
    size_t bad = (text.size > 0) ? smhf_utf8_validate(text.data, text.size) : 0;
    const uint8_t *nul = (text.size > 0) ? memchr(text.data, 0, text.size) : NULL;
    if (nul != NULL && (size_t)(nul - text.data) < bad) {
        return refuse_byte(text, (size_t)(nul - text.data), "unexpected NUL", err);
    }
    if (bad < text.size) {
        return refuse_byte(text, bad, "not UTF-8", err);
    }
    if (text.size == 0) {
        return smhf_fail_at(err, SMHF_E_PARSE, 0,
                            "vocabulary is empty, expected one token per line");
    }
    *count = 0;
    for (size_t at = 0; at < text.size;) {
        const uint8_t *line = text.data + at;
        const uint8_t *end = memchr(line, '\n', text.size - at);
        size_t size = (end != NULL) ? (size_t)(end - line) : text.size - at;
        if (*count == *capacity) {
            size_t guess = text.size / (at / (*count + 1) + 1) + *count / 4 + 64;
            SMHF_TRY(smhf_grow(entries, capacity, *count + guess / 4 + 1, sizeof **entries, err));
        }
        (*entries)[*count] = (smhf_vocab_entry){{line, trim_end(line, size)}, (int32_t)*count};
        ++*count;
        at += size + 1;
    }
    return SMHF_OK;
}
