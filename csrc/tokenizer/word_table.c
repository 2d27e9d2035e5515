/* word_table.c: filling the tables of word_table.h. */
#include "tokenizer/word_table.h"

/* Lines for `count` keys at `per_line` to a line: a power of two that is at most four fifths full,
 * which leaves one line in thirty overflowing. */
static size_t lines_for(size_t count, size_t per_line) {
    size_t lines = 2;
    while (lines * per_line * 4 < count * 5) {
        lines *= 2;
    }
    return lines;
}

static void insert_short(smhf_word_table *table, const smhf_word_key *key) {
    uint8_t padded[8] = {0};
    memcpy(padded, key->data, key->size);
    uint64_t value = smhf_load8(padded);
    for (uint32_t at = smhf_word_hash(value, 0) & table->short_mask;;
         at = (at + 1) & table->short_mask) {
        smhf_short_line *line = &table->short_lines[at];
        for (int i = 0; i < WORD_SHORT_KEYS; i++) {
            if (line->keys[i] == 0) {
                line->keys[i] = value;
                line->ids[i] = (uint32_t)key->id;
                return;
            }
        }
        line->overflow = 1;
    }
}

static void insert_long(smhf_word_table *table, const smhf_word_key *key) {
    uint8_t padded[16] = {0};
    memcpy(padded, key->data, key->size);
    uint64_t low = smhf_load8(padded), high = smhf_load8(padded + 8);
    for (uint32_t at = smhf_word_hash(low, high) & table->long_mask;;
         at = (at + 1) & table->long_mask) {
        smhf_long_line *line = &table->long_lines[at];
        for (int i = 0; i < WORD_LONG_KEYS; i++) {
            if (line->low[i] == 0) {
                line->low[i] = low;
                line->high[i] = high;
                line->ids[i] = (uint32_t)key->id;
                return;
            }
        }
        line->overflow = 1;
    }
}

smhf_status smhf_word_table_build(smhf_word_table *table, smhf_arena *arena,
                                  const smhf_word_key *keys, size_t count, smhf_error *err) {
    size_t shorts = 0, longs = 0, prefixes = 4096;
    for (size_t i = 0; i < count; i++) {
        shorts += keys[i].size <= 8;
        longs += keys[i].size > 8 && keys[i].size <= WORD_LONG_BYTES;
    }
    while (prefixes < count && prefixes < (1u << 18)) {
        prefixes *= 2;
    }
    size_t short_lines = lines_for(shorts, WORD_SHORT_KEYS);
    size_t long_lines = lines_for(longs, WORD_LONG_KEYS);
    table->short_lines = smhf_arena_calloc(arena, short_lines, sizeof *table->short_lines);
    table->long_lines = smhf_arena_calloc(arena, long_lines, sizeof *table->long_lines);
    table->prefixes = smhf_arena_calloc(arena, prefixes, sizeof *table->prefixes);
    if (table->short_lines == NULL || table->long_lines == NULL || table->prefixes == NULL) {
        return smhf_fail_nomem(err, "word table",
                               (short_lines + long_lines) * sizeof *table->short_lines);
    }
    table->short_mask = (uint32_t)(short_lines - 1);
    table->long_mask = (uint32_t)(long_lines - 1);
    table->prefix_mask = (uint32_t)(prefixes - 1);
    for (size_t i = 0; i < count; i++) {
        const smhf_word_key *key = &keys[i];
        int has_nul = memchr(key->data, 0, key->size) != NULL;
        if (key->size <= 8 && !has_nul) {
            insert_short(table, key);
        } else if (key->size <= WORD_LONG_BYTES && !has_nul) {
            insert_long(table, key);
        }
        if (key->size >= 3) {
            uint32_t bit = (key->size < WORD_LENGTHS) ? key->size : WORD_LENGTHS;
            uint32_t first =
                key->data[0] | (uint32_t)key->data[1] << 8 | (uint32_t)key->data[2] << 16;
            table->prefixes[smhf_prefix_hash(first) & table->prefix_mask] |= 1u << bit;
        }
    }
    return SMHF_OK;
}
