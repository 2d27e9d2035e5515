/* vocab.c: tokens ↔ ids, by two open-addressing tables over one block of bytes.
 *
 * A slot is 8 bytes: 32 bits of hash and the id, so that a probe that misses touches one cache
 * line, and one that hits compares the token's own bytes. Keys of up to 16 bytes (all but a few of
 * any BERT vocabulary) are hashed and compared with two masked 8-byte loads.
 */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#include <string.h>

#define NO_START UINT32_MAX
#define MAX_TOKEN_BYTES 65535u /* of one token: far beyond any real one */
#define SPARSE 1000000u        /* ids are array indices: a wild one must not take gigabytes */
#define PADDING 16

static inline uint64_t load_masked(const uint8_t *key, size_t size) {
    uint64_t value;
    memcpy(&value, key, sizeof value);
    return (size >= 8) ? value : value & (((uint64_t)1 << (8 * size)) - 1);
}

static inline uint64_t mix(uint64_t value) {
    value ^= value >> 32;
    value *= 0x9E3779B97F4A7C15u;
    return value ^ (value >> 29);
}

static inline uint64_t hash_key(const uint8_t *key, size_t size) {
    uint64_t hash = (uint64_t)size * 0xD6E8FEB86659FD93u;
    while (size > 8) {
        hash = mix(hash ^ load_masked(key, 8));
        key += 8;
        size -= 8;
    }
    return mix(hash ^ load_masked(key, size)) * 0x94D049BB133111EBu;
}

static inline int equal_keys(const uint8_t *a, const uint8_t *b, size_t size) {
    if (size <= 8) {
        return load_masked(a, size) == load_masked(b, size);
    }
    if (size <= 16) {
        return load_masked(a, 8) == load_masked(b, 8) &&
               load_masked(a + 8, size - 8) == load_masked(b + 8, size - 8);
    }
    return memcmp(a, b, size) == 0;
}

int32_t smhf_vocab_find(const smhf_vocab *vocab, const smhf_vocab_table *table, const uint8_t *key,
                        size_t size) {
    if (size > table->max_bytes) {
        return -1;
    }
    uint64_t hash = hash_key(key, size);
    uint32_t tag = (uint32_t)(hash >> 32);
    uint32_t skip = (table == &vocab->continued) ? vocab->prefix : 0;
    for (uint32_t at = (uint32_t)hash & table->mask;; at = (at + 1) & table->mask) {
        uint64_t slot = table->slots[at];
        if (slot == 0) {
            return -1;
        }
        if ((uint32_t)(slot >> 32) == tag) {
            uint32_t id = (uint32_t)slot - 1;
            if (vocab->length[id] - skip == size &&
                equal_keys(vocab->bytes + vocab->start[id] + skip, key, size)) {
                return (int32_t)id;
            }
        }
    }
}

int32_t smhf_vocab_find_view(const smhf_vocab *vocab, smhf_bytes_view key) {
    uint8_t copy[256 + PADDING];
    if (key.size > vocab->whole.max_bytes) {
        return -1;
    }
    if (key.size <= 256) {
        memset(copy, 0, sizeof copy);
        if (key.size > 0) {
            memcpy(copy, key.data, key.size);
        }
        return smhf_vocab_find(vocab, &vocab->whole, copy, key.size);
    }
    for (uint32_t id = 0; id < vocab->ids; id++) { /* such tokens are freaks: no table needed */
        if (vocab->start[id] != NO_START && vocab->length[id] == key.size &&
            memcmp(vocab->bytes + vocab->start[id], key.data, key.size) == 0) {
            return (int32_t)id;
        }
    }
    return -1;
}

int smhf_vocab_token(const smhf_vocab *vocab, int32_t id, smhf_bytes_view *out) {
    *out = (smhf_bytes_view){NULL, 0};
    if (id < 0 || (uint32_t)id >= vocab->ids || vocab->start[id] == NO_START) {
        return 0;
    }
    *out = (smhf_bytes_view){vocab->bytes + vocab->start[id], vocab->length[id]};
    return 1;
}

/* Slots for `count` keys at a load of at most one half. */
static smhf_status table_init(smhf_vocab_table *table, smhf_arena *arena, size_t count,
                              smhf_error *err) {
    size_t slots = 16;
    while (slots < count * 2) {
        slots *= 2;
    }
    table->slots = smhf_arena_calloc(arena, slots, sizeof *table->slots);
    if (table->slots == NULL) {
        return smhf_fail_nomem(err, "vocabulary table", slots * sizeof *table->slots);
    }
    table->mask = (uint32_t)(slots - 1);
    table->max_bytes = 0;
    table->lengths[0] = table->lengths[1] = 0;
    return SMHF_OK;
}

/* The key is not in the table yet. */
static void table_insert(smhf_vocab_table *table, const uint8_t *key, uint32_t size, uint32_t id) {
    uint64_t hash = hash_key(key, size);
    uint32_t at = (uint32_t)hash & table->mask;
    size_t bit = (size < 127) ? size : 127;
    while (table->slots[at] != 0) {
        at = (at + 1) & table->mask;
    }
    table->slots[at] = (hash >> 32 << 32) | (id + 1);
    table->lengths[bit >> 6] |= (uint64_t)1 << (bit & 63);
    if (size > table->max_bytes) {
        table->max_bytes = size;
    }
}

/* Sizes the arrays and checks every entry. */
static smhf_status measure(const smhf_vocab_entry *entries, size_t count, size_t *bytes,
                           uint32_t *ids, smhf_error *err) {
    size_t limit = count * 4 + SPARSE;
    *bytes = 0;
    *ids = 0;
    limit = (limit < INT32_MAX / 2) ? limit : INT32_MAX / 2;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].id < 0 || (size_t)entries[i].id >= limit) {
            return smhf_fail(err, SMHF_E_PARSE,
                             "vocabulary: token \"%.*s\" has id %d, expected "
                             "0 to %zu",
                             (int)(entries[i].token.size < 60 ? entries[i].token.size : 60),
                             (const char *)entries[i].token.data, (int)entries[i].id, limit - 1);
        }
        if (entries[i].token.size > MAX_TOKEN_BYTES) {
            return smhf_fail(err, SMHF_E_PARSE,
                             "vocabulary: token %d has %zu bytes, expected at "
                             "most %u",
                             (int)entries[i].id, entries[i].token.size, MAX_TOKEN_BYTES);
        }
        *bytes += entries[i].token.size;
        if ((uint32_t)entries[i].id >= *ids) {
            *ids = (uint32_t)entries[i].id + 1;
        }
    }
    if (*bytes > UINT32_MAX / 2) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED, "vocabulary of %zu bytes is too large", *bytes);
    }
    return SMHF_OK;
}

/* A unit of text is one punctuation character, or has none: other keys are never asked for. */
static int never_a_unit(const uint8_t *key, uint32_t size) {
    for (uint32_t i = 0; size > 1 && i < size; i++) {
        if (key[i] < 0x80 && (smhf_char_flags(key[i]) & (CHAR_SPACE | CHAR_ISOLATE))) {
            return 1;
        }
    }
    return size == 0;
}

static smhf_status build_words(smhf_vocab *vocab, smhf_arena *arena, smhf_bytes_view prefix,
                               smhf_error *err) {
    smhf_status status = SMHF_OK;
    smhf_word_key *keys = smhf_malloc((size_t)vocab->tokens * sizeof *keys + 1);
    if (keys == NULL) {
        return smhf_fail_nomem(err, "vocabulary", (size_t)vocab->tokens * sizeof *keys);
    }
    for (int continued = 0; continued < 2 && status == SMHF_OK; continued++) {
        uint32_t skip = continued ? (uint32_t)prefix.size : 0;
        size_t count = 0;
        for (uint32_t id = 0; id < vocab->ids; id++) {
            uint32_t size = vocab->length[id];
            if (vocab->start[id] == NO_START || size < skip) {
                continue;
            }
            const uint8_t *token = vocab->bytes + vocab->start[id];
            if ((skip == 0 || memcmp(token, prefix.data, skip) == 0) &&
                !never_a_unit(token + skip, size - skip)) {
                keys[count++] = (smhf_word_key){token + skip, size - skip, (int32_t)id};
            }
        }
        status = smhf_word_table_build(&vocab->words[continued], arena, keys, count, err);
    }
    smhf_free(keys);
    return status;
}

smhf_status smhf_vocab_build(smhf_vocab *vocab, smhf_arena *arena, const smhf_vocab_entry *entries,
                             size_t count, smhf_bytes_view prefix, smhf_error *err) {
    size_t bytes, used = 0, continued = 0;
    memset(vocab, 0, sizeof *vocab);
    SMHF_TRY(measure(entries, count, &bytes, &vocab->ids, err));
    vocab->prefix = (uint32_t)prefix.size;
    vocab->bytes = smhf_arena_alloc(arena, bytes + PADDING);
    vocab->start = smhf_arena_alloc(arena, ((size_t)vocab->ids + 1) * sizeof *vocab->start);
    vocab->length = smhf_arena_calloc(arena, (size_t)vocab->ids + 1, sizeof *vocab->length);
    if (vocab->bytes == NULL || vocab->start == NULL || vocab->length == NULL) {
        return smhf_fail_nomem(err, "vocabulary", bytes + (size_t)vocab->ids * 8);
    }
    memset(vocab->bytes, 0, bytes + PADDING);
    memset(vocab->start, 0xFF, ((size_t)vocab->ids + 1) * sizeof *vocab->start);
    SMHF_TRY(table_init(&vocab->whole, arena, count, err));

    /* From the end, so that of equal tokens the last one is met first and stays. */
    for (size_t i = count; i-- > 0;) {
        smhf_bytes_view token = entries[i].token;
        uint32_t id = (uint32_t)entries[i].id;
        uint8_t *place = vocab->bytes + used;
        if (token.size > 0) {
            memcpy(place, token.data, token.size);
        }
        if (vocab->start[id] != NO_START ||
            smhf_vocab_find(vocab, &vocab->whole, place, token.size) >= 0) {
            memset(place, 0, token.size);
            continue;
        }
        vocab->start[id] = (uint32_t)used;
        vocab->length[id] = (uint32_t)token.size;
        used += token.size;
        vocab->tokens++;
        table_insert(&vocab->whole, place, (uint32_t)token.size, id);
        continued += (token.size >= prefix.size &&
                      (prefix.size == 0 || memcmp(place, prefix.data, prefix.size) == 0));
    }

    SMHF_TRY(table_init(&vocab->continued, arena, continued, err));
    for (uint32_t id = 0; id < vocab->ids; id++) {
        if (vocab->start[id] == NO_START || vocab->length[id] < prefix.size) {
            continue;
        }
        const uint8_t *token = vocab->bytes + vocab->start[id];
        if (prefix.size == 0 || memcmp(token, prefix.data, prefix.size) == 0) {
            table_insert(&vocab->continued, token + prefix.size,
                         vocab->length[id] - (uint32_t)prefix.size, id);
        }
    }
    return build_words(vocab, arena, prefix, err);
}

/* The reference trims white space of any script at the end of a line. */
static size_t trim_end(const uint8_t *line, size_t size) {
    while (size > 0) {
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

smhf_status smhf_vocab_read_lines(smhf_bytes_view text, smhf_arena *arena,
                                  smhf_vocab_entry **entries, size_t *count, smhf_error *err) {
    size_t lines = 0, row = 0;
    size_t bad = (text.size > 0) ? smhf_utf8_validate(text.data, text.size) : 0;
    for (size_t i = 0; i < text.size; i++) {
        lines += (text.data[i] == '\n');
        if (i == bad || text.data[i] == 0) {
            return smhf_fail_at(err, SMHF_E_PARSE, i, "vocabulary line %zu, byte %zu: %s",
                                lines + 1, i, i == bad ? "not UTF-8" : "unexpected NUL");
        }
    }
    lines += (text.size > 0 && text.data[text.size - 1] != '\n');
    if (lines == 0) {
        return smhf_fail_at(err, SMHF_E_PARSE, 0,
                            "vocabulary is empty, expected one token per line");
    }
    *entries = smhf_arena_alloc(arena, lines * sizeof **entries);
    if (*entries == NULL) {
        return smhf_fail_nomem(err, "vocabulary", lines * sizeof **entries);
    }
    for (size_t at = 0; at < text.size;) {
        const uint8_t *line = text.data + at;
        const uint8_t *end = memchr(line, '\n', text.size - at);
        size_t size = (end != NULL) ? (size_t)(end - line) : text.size - at;
        (*entries)[row].token = (smhf_bytes_view){line, trim_end(line, size)};
        (*entries)[row].id = (int32_t)row;
        row++;
        at += size + 1;
    }
    *count = row;
    return SMHF_OK;
}
