/* word_count.c: the words of many texts, counted by several threads.
 *
 * Texts are cut into parts of PART characters, whatever the number of threads; each part counts
 * into a table of its own, and the tables of a round are merged in order of the texts. So words
 * come in order of first appearance, as if one thread had read everything.
 */
#include "tokenizer/word_count.h"

#include "common/mem.h"
#include "common/pool.h"

#include <string.h>

#define PARTS 32               /* of a round: memory is bounded, Ctrl-C is heard between rounds */
#define PART ((size_t)1 << 19) /* characters of a part, at least one text */

/* --- Strings --------------------------------------------------------------------------------- */

static uint64_t hash_bytes(const uint8_t *bytes, size_t size) {
    uint64_t hash = 0x9E3779B97F4A7C15u ^ size;
    while (size >= 8) {
        uint64_t value;
        memcpy(&value, bytes, 8);
        hash = (hash ^ value) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
        bytes += 8;
        size -= 8;
    }
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * 0x100000001B3u;
    }
    return hash ^ (hash >> 29);
}

static smhf_status table_grow(smhf_strings *set, smhf_error *err) {
    size_t slots = (set->mask == 0) ? 1024 : (set->mask + 1) * 2;
    uint32_t *grown = smhf_calloc(slots, sizeof *grown);
    if (grown == NULL) {
        return smhf_fail_nomem(err, "word table", slots * sizeof *grown);
    }
    for (size_t i = 0; i < set->count; i++) {
        size_t at = set->data[i].hash & (slots - 1);
        while (grown[at] != 0) {
            at = (at + 1) & (slots - 1);
        }
        grown[at] = (uint32_t)i + 1;
    }
    smhf_free(set->slots);
    set->slots = grown;
    set->mask = slots - 1;
    return SMHF_OK;
}

static smhf_status intern_hashed(smhf_strings *set, smhf_arena *arena, const uint8_t *bytes,
                                 size_t size, uint64_t hash, uint32_t *index, smhf_error *err) {
    if (set->mask == 0 || set->count * 2 > set->mask) {
        SMHF_TRY(table_grow(set, err));
    }
    size_t at = hash & set->mask;
    while (set->slots[at] != 0) {
        const smhf_string *found = &set->data[set->slots[at] - 1];
        if (found->hash == hash && found->size == size && memcmp(found->bytes, bytes, size) == 0) {
            *index = set->slots[at] - 1;
            return SMHF_OK;
        }
        at = (at + 1) & set->mask;
    }
    if (set->count >= INT32_MAX || size > UINT32_MAX) {
        return smhf_fail(err, SMHF_E_ARG, "too many different words");
    }
    SMHF_TRY(smhf_grow(&set->data, &set->capacity, set->count + 1, sizeof *set->data, err));
    const char *copy = smhf_arena_copy_string(arena, bytes, size);
    if (copy == NULL) {
        return smhf_fail_nomem(err, "words", size);
    }
    set->data[set->count] = (smhf_string){(const uint8_t *)copy, (uint32_t)size, hash, 0};
    set->slots[at] = (uint32_t)set->count + 1;
    *index = (uint32_t)set->count++;
    return SMHF_OK;
}

smhf_status smhf_strings_intern(smhf_strings *set, smhf_arena *arena, const uint8_t *bytes,
                                size_t size, uint32_t *index, smhf_error *err) {
    return intern_hashed(set, arena, bytes, size, hash_bytes(bytes, size), index, err);
}

void smhf_strings_deinit(smhf_strings *set) {
    smhf_free(set->data);
    smhf_free(set->slots);
}

/* --- Parts ----------------------------------------------------------------------------------- */

typedef struct part {
    size_t begin, end; /* texts */
    smhf_strings words;
    smhf_arena arena;
    smhf_normalized normalized;
    uint32_t *wide;
    size_t wide_capacity;
    uint8_t *word;
    size_t word_capacity;
    smhf_status status;
    smhf_error err;
} part;

typedef struct reading {
    const smhf_text_view *texts;
    smhf_charmap map;
    part *parts;
    size_t part_count; /* of this round */
} reading;

static smhf_status count_word(part *p, const uint32_t *chars, size_t count) {
    size_t size = 0;
    uint32_t index;
    SMHF_TRY(smhf_grow(&p->word, &p->word_capacity, count * 4 + 4, 1, &p->err));
    for (size_t i = 0; i < count; i++) {
        size += smhf_utf8_encode(chars[i] & CHAR_VALUE, p->word + size);
    }
    SMHF_TRY(smhf_strings_intern(&p->words, &p->arena, p->word, size, &index, &p->err));
    p->words.data[index].count++;
    return SMHF_OK;
}

static smhf_status count_text(part *p, const smhf_charmap *map, const smhf_text_view *given) {
    smhf_text_view text = *given;
    if (text.kind == 0) {
        SMHF_TRY(smhf_text_widen(given, &p->wide, &p->wide_capacity, &text, &p->err));
    }
    SMHF_TRY(smhf_normalize(map, &text, 0, text.length, 0, &p->normalized, &p->err));
    const uint32_t *chars = p->normalized.chars;
    for (size_t at = 0; at < p->normalized.count;) {
        size_t stop = at + 1;
        if (chars[at] & CHAR_SPACE) {
            at++;
            continue;
        }
        while ((chars[at] & CHAR_ISOLATE) == 0 && stop < p->normalized.count &&
               (chars[stop] & (CHAR_SPACE | CHAR_ISOLATE)) == 0) {
            stop++;
        }
        SMHF_TRY(count_word(p, chars + at, stop - at));
        at = stop;
    }
    return SMHF_OK;
}

static void count_parts(void *context, size_t begin, size_t end) {
    const reading *r = context;
    for (size_t i = begin; i < end; i++) {
        part *p = &r->parts[i];
        for (size_t row = p->begin; row < p->end && p->status == SMHF_OK; row++) {
            p->status = count_text(p, &r->map, &r->texts[row]);
            if (p->status != SMHF_OK) {
                smhf_error_prefix(&p->err, "texts[%zu]", row);
            }
        }
    }
}

/* Cuts the next round off; returns the first text after it. */
static size_t cut_round(reading *r, size_t from, size_t count) {
    size_t row = from;
    for (r->part_count = 0; r->part_count < PARTS && row < count; r->part_count++) {
        part *p = &r->parts[r->part_count];
        size_t characters = 0;
        p->begin = row;
        while (row < count && (row == p->begin || characters + r->texts[row].length <= PART)) {
            characters += r->texts[row++].length;
        }
        p->end = row;
    }
    return row;
}

/* Moves the words of a round to where all are, in order of the texts; empties the parts. */
static smhf_status merge_round(reading *r, smhf_strings *words, smhf_arena *arena,
                               smhf_error *err) {
    for (size_t i = 0; i < r->part_count; i++) {
        part *p = &r->parts[i];
        if (p->status != SMHF_OK) { /* the first part that failed holds the first such text */
            if (err != NULL) {
                *err = p->err;
            }
            return p->status;
        }
        for (size_t w = 0; w < p->words.count; w++) {
            const smhf_string *word = &p->words.data[w];
            uint32_t index;
            SMHF_TRY(intern_hashed(words, arena, word->bytes, word->size, word->hash, &index, err));
            words->data[index].count += word->count;
        }
        p->words.count = 0;
        if (p->words.slots != NULL) {
            memset(p->words.slots, 0, (p->words.mask + 1) * sizeof *p->words.slots);
        }
        smhf_arena_reset(&p->arena, (smhf_arena_mark){NULL, 0});
    }
    return SMHF_OK;
}

static smhf_status read_all(reading *r, smhf_strings *words, smhf_arena *arena, size_t count,
                            int (*read)(void *, size_t, size_t), void *context, smhf_error *err) {
    for (size_t row = 0; row < count;) {
        row = cut_round(r, row, count);
        smhf_parallel_for(r->part_count, 1, count_parts, r);
        SMHF_TRY(merge_round(r, words, arena, err));
        if (read != NULL && read(context, row, count) != 0) {
            return smhf_fail(err, SMHF_E_CANCELLED, "training was cancelled at text %zu of %zu",
                             row, count);
        }
    }
    return SMHF_OK;
}

smhf_status smhf_words_count(smhf_strings *words, smhf_arena *arena, const smhf_text_view *texts,
                             size_t count, int lowercase,
                             int (*read)(void *context, size_t done, size_t total), void *context,
                             smhf_error *err) {
    reading r = {.texts = texts};
    r.parts = smhf_calloc(PARTS, sizeof *r.parts);
    if (r.parts == NULL) {
        return smhf_fail_nomem(err, "word tables", PARTS * sizeof *r.parts);
    }
    for (size_t i = 0; i < PARTS; i++) {
        smhf_arena_init(&r.parts[i].arena, 0);
    }
    r.map.clean = r.map.cjk = 1;
    r.map.lower = r.map.strip = (lowercase != 0);
    smhf_status status = smhf_charmap_build(&r.map, arena, err);
    if (status == SMHF_OK) {
        status = read_all(&r, words, arena, count, read, context, err);
    }
    for (size_t i = 0; i < PARTS; i++) {
        smhf_strings_deinit(&r.parts[i].words);
        smhf_arena_deinit(&r.parts[i].arena);
        smhf_normalized_deinit(&r.parts[i].normalized);
        smhf_free(r.parts[i].wide);
        smhf_free(r.parts[i].word);
    }
    smhf_free(r.parts);
    return status;
}
