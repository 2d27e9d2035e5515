/* word_table.c: filling the tables of word_table.h. */
#include "tokenizer/word_table.h"

/* Lines are half full, which leaves one in twenty overflowing. */
static size_t lines_for(size_t count, size_t per_line) {
    return count * 2 / per_line + 2;
}

smhf_status smhf_word_table_init(smhf_word_table *table, smhf_arena *arena, size_t shorts,
                                 size_t longs, smhf_error *err) {
    size_t short_lines = lines_for(shorts, WORD_SHORT_KEYS);
    size_t long_lines = lines_for(longs, WORD_LONG_KEYS);
    table->short_lines = smhf_arena_calloc(arena, short_lines, sizeof *table->short_lines);
    table->long_lines = smhf_arena_calloc(arena, long_lines, sizeof *table->long_lines);
    if (table->short_lines == NULL || table->long_lines == NULL) {
        return smhf_fail_nomem(err, "word table",
                               (short_lines + long_lines) * sizeof *table->short_lines);
    }
    table->short_count = (uint32_t)short_lines;
    table->long_count = (uint32_t)long_lines;
    return SMHF_OK;
}

static uint32_t *slot_short(smhf_word_table *table, uint64_t key) {
    for (size_t at = smhf_word_line(smhf_word_hash(key, 0), table->short_count);;
         at = (at + 1 < table->short_count) ? at + 1 : 0) {
        smhf_short_line *line = &table->short_lines[at];
        for (int i = 0; i < WORD_SHORT_KEYS; i++) {
            if (line->keys[i] == key || line->keys[i] == 0) {
                line->keys[i] = key;
                return &line->ids[i];
            }
        }
        line->overflow = WORD_OVERFLOW;
    }
}

uint32_t *smhf_word_table_slot(smhf_word_table *table, uint64_t low, uint64_t high, uint32_t size) {
    if (size <= 8) {
        return slot_short(table, low);
    }
    for (size_t at = smhf_word_line(smhf_word_hash(low, high), table->long_count);;
         at = (at + 1 < table->long_count) ? at + 1 : 0) {
        smhf_long_line *line = &table->long_lines[at];
        for (int i = 0; i < WORD_LONG_KEYS; i++) {
            if ((line->low[i] == low && line->high[i] == high) || line->low[i] == 0) {
                line->low[i] = low;
                line->high[i] = high;
                return &line->ids[i];
            }
        }
        line->overflow = WORD_OVERFLOW;
    }
}

int32_t smhf_word_table_find(const smhf_word_table *table, uint64_t low, uint64_t high,
                             uint32_t size) {
    uint32_t hash = smhf_word_hash(low, high);
    if (size <= 8) {
        for (size_t at = smhf_word_line(hash, table->short_count);;
             at = (at + 1 < table->short_count) ? at + 1 : 0) {
            const smhf_short_line *line = &table->short_lines[at];
            for (int i = 0; i < WORD_SHORT_KEYS; i++) {
                if (line->keys[i] == low) {
                    return (int32_t)line->ids[i] - 1;
                }
            }
            if (!line->overflow) {
                return -1;
            }
        }
    }
    for (size_t at = smhf_word_line(hash, table->long_count);;
         at = (at + 1 < table->long_count) ? at + 1 : 0) {
        const smhf_long_line *line = &table->long_lines[at];
        for (int i = 0; i < WORD_LONG_KEYS; i++) {
            if (line->low[i] == low && line->high[i] == high) {
                return (int32_t)line->ids[i] - 1;
            }
        }
        if (!line->overflow) {
            return -1;
        }
    }
}

smhf_status smhf_key_filter_init(smhf_key_filter *filter, smhf_arena *arena, size_t count,
                                 smhf_error *err) {
    uint32_t log = 5;
    while (log < 24 && ((size_t)2 << log) < count) { /* 16 bits a key, or up to 32 */
        log++;
    }
    filter->shift = 64 - log;
    filter->words = smhf_arena_calloc(arena, (size_t)1 << log, sizeof *filter->words);
    return (filter->words != NULL) ? SMHF_OK : smhf_fail_nomem(err, "key filter", (size_t)4 << log);
}
