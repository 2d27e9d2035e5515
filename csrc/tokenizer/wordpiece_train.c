/* wordpiece_train.c: a WordPiece vocabulary from texts, the most frequent pair merged first.
 *
 * As the trainer of `tokenizers`: count the words that normalizer and pre-tokenizer give; start
 * from characters (the first of a word plain, the others with the prefix "##"); merge the pair
 * with the greatest count until the vocabulary is full. Ties go to the pair with the smaller ids.
 * Words are kept in order of first appearance, so that equal texts give equal vocabularies.
 *
 * Cost: one pass over the texts, then a merge touches only the words that hold its pair. Counts in
 * the heap may be stale; an entry is refreshed when it comes to the top.
 */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#include <string.h>

#define PROGRESS_EVERY 256
#define CODE_POINTS 0x110000u
#define NONE UINT32_MAX

/* --- Hash table of byte strings -------------------------------------------------------------- */

typedef struct string_table {
    uint32_t *slots; /* index + 1 of an item */
    size_t mask;
    size_t count;
} string_table;

typedef struct item {
    const uint8_t *bytes;
    uint32_t size;
    uint64_t hash;
    int64_t count; /* of words: how often */
} item;

typedef struct items {
    item *data;
    size_t count, capacity;
    string_table table;
} items;

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

static smhf_status table_grow(items *set, smhf_error *err) {
    size_t slots = (set->table.mask == 0) ? 1024 : (set->table.mask + 1) * 2;
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
    smhf_free(set->table.slots);
    set->table.slots = grown;
    set->table.mask = slots - 1;
    return SMHF_OK;
}

/* Index of a string, which is added (copied into the arena) when new. */
static smhf_status intern(items *set, smhf_arena *arena, const uint8_t *bytes, size_t size,
                          uint32_t *index, int *added, smhf_error *err) {
    uint64_t hash = hash_bytes(bytes, size);
    if (set->table.mask == 0 || set->count * 2 > set->table.mask) {
        SMHF_TRY(table_grow(set, err));
    }
    size_t at = hash & set->table.mask;
    while (set->table.slots[at] != 0) {
        const item *found = &set->data[set->table.slots[at] - 1];
        if (found->hash == hash && found->size == size && memcmp(found->bytes, bytes, size) == 0) {
            *index = set->table.slots[at] - 1;
            *added = 0;
            return SMHF_OK;
        }
        at = (at + 1) & set->table.mask;
    }
    if (set->count >= INT32_MAX || size > UINT32_MAX) {
        return smhf_fail(err, SMHF_E_ARG, "too many different words");
    }
    SMHF_TRY(smhf_grow(&set->data, &set->capacity, set->count + 1, sizeof *set->data, err));
    const char *copy = smhf_arena_copy_string(arena, bytes, size);
    if (copy == NULL) {
        return smhf_fail_nomem(err, "words", size);
    }
    set->data[set->count] = (item){(const uint8_t *)copy, (uint32_t)size, hash, 0};
    set->table.slots[at] = (uint32_t)set->count + 1;
    *index = (uint32_t)set->count++;
    *added = 1;
    return SMHF_OK;
}

static void items_deinit(items *set) {
    smhf_free(set->data);
    smhf_free(set->table.slots);
}

/* --- The trainer's data ---------------------------------------------------------------------- */

typedef struct pair {
    uint32_t a, b;
    int64_t count;
    uint32_t *words; /* that hold it, some perhaps no more, some perhaps twice */
    size_t word_count, word_capacity;
} pair;

typedef struct heap_entry {
    int64_t count;
    uint64_t key; /* a << 32 | b: smaller wins a tie */
    uint32_t pair;
} heap_entry;

typedef struct trainer {
    const smhf_wordpiece_options *options;
    smhf_arena arena;
    items words;           /* spelled as UTF-8 */
    items tokens;          /* the vocabulary, in order of id */
    uint32_t *symbols;     /* all words, as token ids */
    size_t *word_start;    /* [words] */
    uint32_t *word_length; /* [words] symbols left */
    size_t symbol_count;
    pair *pairs;
    size_t pair_count, pair_capacity;
    uint32_t *pair_slots;
    size_t pair_mask;
    heap_entry *heap;
    size_t heap_count, heap_capacity;
    uint32_t *changed; /* pairs that grew in this merge */
    size_t changed_count, changed_capacity;
    uint8_t *changed_flag; /* [pair_capacity] */
    size_t changed_flag_capacity;
} trainer;

static void trainer_deinit(trainer *t) {
    items_deinit(&t->words);
    items_deinit(&t->tokens);
    smhf_free(t->symbols);
    smhf_free(t->word_start);
    smhf_free(t->word_length);
    for (size_t i = 0; i < t->pair_count; i++) {
        smhf_free(t->pairs[i].words);
    }
    smhf_free(t->pairs);
    smhf_free(t->pair_slots);
    smhf_free(t->heap);
    smhf_free(t->changed);
    smhf_free(t->changed_flag);
    smhf_arena_deinit(&t->arena);
}

/* --- Words ----------------------------------------------------------------------------------- */

typedef struct scratch {
    smhf_normalized normalized;
    uint32_t *wide;
    size_t wide_capacity;
    uint8_t *word;
    size_t word_capacity;
} scratch;

static smhf_status count_word(trainer *t, scratch *s, const uint32_t *chars, size_t count,
                              smhf_error *err) {
    size_t size = 0;
    uint32_t index;
    int added;
    SMHF_TRY(smhf_grow(&s->word, &s->word_capacity, count * 4 + 4, 1, err));
    for (size_t i = 0; i < count; i++) {
        size += smhf_utf8_encode(chars[i] & CHAR_VALUE, s->word + size);
    }
    SMHF_TRY(intern(&t->words, &t->arena, s->word, size, &index, &added, err));
    t->words.data[index].count++;
    return SMHF_OK;
}

static smhf_status count_text(trainer *t, scratch *s, const smhf_charmap *map,
                              const smhf_text_view *given, smhf_error *err) {
    smhf_text_view text = *given;
    if (text.kind == 0) {
        SMHF_TRY(smhf_text_widen(given, &s->wide, &s->wide_capacity, &text, err));
    }
    SMHF_TRY(smhf_normalize(map, &text, 0, text.length, 0, &s->normalized, err));
    const uint32_t *chars = s->normalized.chars;
    for (size_t at = 0; at < s->normalized.count;) {
        size_t stop = at + 1;
        if (chars[at] & CHAR_SPACE) {
            at++;
            continue;
        }
        while ((chars[at] & CHAR_ISOLATE) == 0 && stop < s->normalized.count &&
               (chars[stop] & (CHAR_SPACE | CHAR_ISOLATE)) == 0) {
            stop++;
        }
        SMHF_TRY(count_word(t, s, chars + at, stop - at, err));
        at = stop;
    }
    return SMHF_OK;
}

static smhf_status count_words(trainer *t, const smhf_text_view *texts, size_t count,
                               smhf_error *err) {
    scratch s = {0};
    smhf_charmap map = {0};
    smhf_status status;
    map.clean = map.cjk = 1;
    map.lower = map.strip = (t->options->lowercase != 0);
    status = smhf_charmap_build(&map, &t->arena, err);
    for (size_t row = 0; row < count && status == SMHF_OK; row++) {
        status = count_text(t, &s, &map, &texts[row], err);
        if (status != SMHF_OK) {
            smhf_error_prefix(err, "texts[%zu]", row);
        } else if (row % 4096 == 4095 && t->options->progress != NULL &&
                   t->options->progress(t->options->progress_context, 0, t->options->vocab_size) !=
                       0) {
            status = smhf_fail(err, SMHF_E_CANCELLED, "training was cancelled");
        }
    }
    smhf_normalized_deinit(&s.normalized);
    smhf_free(s.wide);
    smhf_free(s.word);
    return status;
}

/* --- Alphabet -------------------------------------------------------------------------------- */

typedef struct character {
    uint32_t code_point;
    int64_t count;
} character;

static size_t count_above(const character *used, size_t count, int64_t threshold) {
    size_t above = 0;
    for (size_t i = 0; i < count; i++) {
        above += (used[i].count > threshold);
    }
    return above;
}

/* Adds the `limit` most frequent of the characters (given in order of code point) to the
 * vocabulary, in that order, and notes their ids in index[code point]; of equally frequent ones
 * the smaller code points stay. */
static smhf_status make_alphabet(trainer *t, const character *used, size_t count, uint32_t *index,
                                 smhf_error *err) {
    size_t limit = t->options->limit_alphabet, ties = SIZE_MAX;
    int64_t threshold = 0; /* more frequent characters stay, and the first `ties` of as frequent */
    if (count > limit) {   /* bisection on the count: no sort needed */
        int64_t low = 0, high = INT64_MAX;
        while (high - low > 1) {
            int64_t middle = low + (high - low) / 2;
            if (count_above(used, count, middle) > limit) {
                low = middle;
            } else {
                high = middle;
            }
        }
        threshold = high;
        ties = limit - count_above(used, count, threshold);
    }
    for (size_t i = 0; i < count; i++) {
        uint8_t bytes[4];
        int added;
        if (used[i].count < threshold || (used[i].count == threshold && ties == 0)) {
            continue;
        }
        ties -= (used[i].count == threshold);
        SMHF_TRY(intern(&t->tokens, &t->arena, bytes, smhf_utf8_encode(used[i].code_point, bytes),
                        &index[used[i].code_point], &added, err));
    }
    return SMHF_OK;
}

/* Spells every word with tokens of one character, which are added as they are met. */
static smhf_status spell_words(trainer *t, const uint32_t *index, uint32_t *continued,
                               smhf_error *err) {
    size_t total = 0, capacity = 0;
    t->word_start = smhf_calloc(t->words.count + 1, sizeof *t->word_start);
    t->word_length = smhf_calloc(t->words.count + 1, sizeof *t->word_length);
    if (t->word_start == NULL || t->word_length == NULL) {
        return smhf_fail_nomem(err, "words", t->words.count * sizeof *t->word_start);
    }
    for (size_t w = 0; w < t->words.count; w++) {
        const item *word = &t->words.data[w];
        t->word_start[w] = total;
        SMHF_TRY(smhf_grow(&t->symbols, &capacity, total + word->size, sizeof *t->symbols, err));
        for (size_t at = 0; at < word->size;) {
            int32_t c = smhf_utf8_decode(word->bytes, word->size, &at);
            if (c < 0 || index[c] == NONE) {
                continue; /* a character outside the alphabet leaves the word, as there */
            }
            /* "First" is the position in the word, even when an unknown character came before. */
            if (at == t->tokens.data[index[c]].size) {
                t->symbols[total++] = index[c];
                continue;
            }
            if (continued[c] == NONE) {
                uint8_t bytes[6] = {'#', '#'};
                int added;
                size_t size = 2 + smhf_utf8_encode((uint32_t)c, bytes + 2);
                SMHF_TRY(intern(&t->tokens, &t->arena, bytes, size, &continued[c], &added, err));
            }
            t->symbols[total++] = continued[c];
        }
        t->word_length[w] = (uint32_t)(total - t->word_start[w]);
    }
    t->symbol_count = total;
    return SMHF_OK;
}

/* Counts characters in words; those that occur, in order of code point. */
static smhf_status count_characters(trainer *t, character **used, size_t *count, smhf_error *err) {
    size_t capacity = 0;
    int64_t *frequency = smhf_calloc(CODE_POINTS, sizeof *frequency);
    smhf_status status = SMHF_OK;
    if (frequency == NULL) {
        return smhf_fail_nomem(err, "alphabet", CODE_POINTS * sizeof *frequency);
    }
    for (size_t w = 0; w < t->words.count; w++) {
        const item *word = &t->words.data[w];
        for (size_t at = 0; at < word->size;) {
            int32_t c = smhf_utf8_decode(word->bytes, word->size, &at);
            SMHF_ASSERT(c >= 0);
            frequency[c] += word->count;
        }
    }
    for (uint32_t c = 0; c < CODE_POINTS && status == SMHF_OK; c++) {
        if (frequency[c] > 0) {
            status = smhf_grow(used, &capacity, *count + 1, sizeof **used, err);
            if (status == SMHF_OK) {
                (*used)[(*count)++] = (character){c, frequency[c]};
            }
        }
    }
    smhf_free(frequency);
    return status;
}

static smhf_status start_vocabulary(trainer *t, smhf_error *err) {
    character *used = NULL;
    size_t count = 0;
    uint32_t *index = smhf_malloc(CODE_POINTS * sizeof *index);
    uint32_t *continued = smhf_malloc(CODE_POINTS * sizeof *continued);
    smhf_status status;
    if (index == NULL || continued == NULL) {
        status = smhf_fail_nomem(err, "alphabet", CODE_POINTS * sizeof *index);
        goto done;
    }
    status = count_characters(t, &used, &count, err);
    for (size_t i = 0; i < count; i++) { /* only characters that occur are ever looked up */
        index[used[i].code_point] = NONE;
        continued[used[i].code_point] = NONE;
    }
    if (status == SMHF_OK) {
        status = make_alphabet(t, used, count, index, err);
    }
    if (status == SMHF_OK) {
        status = spell_words(t, index, continued, err);
    }

done:
    smhf_free(used);
    smhf_free(index);
    smhf_free(continued);
    return status;
}

/* --- Pairs ----------------------------------------------------------------------------------- */

static uint64_t pair_key(uint32_t a, uint32_t b) {
    return (uint64_t)a << 32 | b;
}

static size_t pair_hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return (size_t)(key ^ (key >> 32));
}

static smhf_status pairs_grow(trainer *t, smhf_error *err) {
    size_t slots = (t->pair_mask == 0) ? 4096 : (t->pair_mask + 1) * 2;
    uint32_t *grown = smhf_calloc(slots, sizeof *grown);
    if (grown == NULL) {
        return smhf_fail_nomem(err, "pair table", slots * sizeof *grown);
    }
    for (size_t i = 0; i < t->pair_count; i++) {
        size_t at = pair_hash(pair_key(t->pairs[i].a, t->pairs[i].b)) & (slots - 1);
        while (grown[at] != 0) {
            at = (at + 1) & (slots - 1);
        }
        grown[at] = (uint32_t)i + 1;
    }
    smhf_free(t->pair_slots);
    t->pair_slots = grown;
    t->pair_mask = slots - 1;
    return SMHF_OK;
}

static smhf_status find_pair(trainer *t, uint32_t a, uint32_t b, uint32_t *out, smhf_error *err) {
    if (t->pair_mask == 0 || t->pair_count * 2 > t->pair_mask) {
        SMHF_TRY(pairs_grow(t, err));
    }
    size_t at = pair_hash(pair_key(a, b)) & t->pair_mask;
    while (t->pair_slots[at] != 0) {
        const pair *found = &t->pairs[t->pair_slots[at] - 1];
        if (found->a == a && found->b == b) {
            *out = t->pair_slots[at] - 1;
            return SMHF_OK;
        }
        at = (at + 1) & t->pair_mask;
    }
    SMHF_TRY(smhf_grow(&t->pairs, &t->pair_capacity, t->pair_count + 1, sizeof *t->pairs, err));
    SMHF_TRY(smhf_grow(&t->changed_flag, &t->changed_flag_capacity, t->pair_count + 1, 1, err));
    t->changed_flag[t->pair_count] = 0;
    t->pairs[t->pair_count] = (pair){a, b, 0, NULL, 0, 0};
    t->pair_slots[at] = (uint32_t)t->pair_count + 1;
    *out = (uint32_t)t->pair_count++;
    return SMHF_OK;
}

/* Changes a pair's count; a growing pair remembers the word and is queued after the merge. */
static smhf_status change_pair(trainer *t, uint32_t a, uint32_t b, int64_t change, uint32_t word,
                               smhf_error *err) {
    uint32_t index;
    SMHF_TRY(find_pair(t, a, b, &index, err));
    pair *p = &t->pairs[index];
    p->count += change;
    if (change <= 0) {
        return SMHF_OK;
    }
    if (p->word_count == 0 || p->words[p->word_count - 1] != word) {
        if (p->word_count == p->word_capacity) { /* small at first: most pairs are rare */
            size_t capacity = (p->word_capacity == 0) ? 2 : p->word_capacity * 2;
            uint32_t *grown = smhf_realloc(p->words, capacity * sizeof *grown);
            if (grown == NULL) {
                return smhf_fail_nomem(err, "pair", capacity * sizeof *grown);
            }
            p->words = grown;
            p->word_capacity = capacity;
        }
        p->words[p->word_count++] = word;
    }
    if (!t->changed_flag[index]) {
        t->changed_flag[index] = 1;
        SMHF_TRY(smhf_grow(&t->changed, &t->changed_capacity, t->changed_count + 1,
                           sizeof *t->changed, err));
        t->changed[t->changed_count++] = index;
    }
    return SMHF_OK;
}

/* --- Heap: greatest count first, then smallest ids
 * ------------------------------------------------ */

static int before(const heap_entry *x, const heap_entry *y) {
    return (x->count != y->count) ? x->count > y->count : x->key < y->key;
}

static smhf_status heap_push(trainer *t, uint32_t index, smhf_error *err) {
    const pair *p = &t->pairs[index];
    heap_entry entry = {p->count, pair_key(p->a, p->b), index};
    SMHF_TRY(smhf_grow(&t->heap, &t->heap_capacity, t->heap_count + 1, sizeof *t->heap, err));
    size_t at = t->heap_count++;
    while (at > 0 && before(&entry, &t->heap[(at - 1) / 2])) {
        t->heap[at] = t->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    t->heap[at] = entry;
    return SMHF_OK;
}

static heap_entry heap_pop(trainer *t) {
    heap_entry top = t->heap[0], last = t->heap[--t->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = at * 2 + 1;
        if (child >= t->heap_count) {
            break;
        }
        if (child + 1 < t->heap_count && before(&t->heap[child + 1], &t->heap[child])) {
            child++;
        }
        if (!before(&t->heap[child], &last)) {
            break;
        }
        t->heap[at] = t->heap[child];
        at = child;
    }
    if (t->heap_count > 0) {
        t->heap[at] = last;
    }
    return top;
}

static smhf_status queue_changed(trainer *t, smhf_error *err) {
    for (size_t i = 0; i < t->changed_count; i++) {
        uint32_t index = t->changed[i];
        t->changed_flag[index] = 0;
        if (t->pairs[index].count > 0) {
            SMHF_TRY(heap_push(t, index, err));
        }
    }
    t->changed_count = 0;
    return SMHF_OK;
}

/* --- Merging --------------------------------------------------------------------------------- */

static smhf_status merge_in_word(trainer *t, uint32_t word, uint32_t a, uint32_t b, uint32_t merged,
                                 smhf_error *err) {
    uint32_t *symbols = t->symbols + t->word_start[word];
    uint32_t length = t->word_length[word], write = 0;
    int64_t count = t->words.data[word].count;
    for (uint32_t read = 0; read < length;) {
        if (symbols[read] != a || read + 1 >= length || symbols[read + 1] != b) {
            symbols[write++] = symbols[read++];
            continue;
        }
        if (write > 0) {
            SMHF_TRY(change_pair(t, symbols[write - 1], a, -count, word, err));
            SMHF_TRY(change_pair(t, symbols[write - 1], merged, count, word, err));
        }
        if (read + 2 < length) {
            SMHF_TRY(change_pair(t, b, symbols[read + 2], -count, word, err));
            SMHF_TRY(change_pair(t, merged, symbols[read + 2], count, word, err));
        }
        symbols[write++] = merged;
        read += 2;
    }
    t->word_length[word] = write;
    return SMHF_OK;
}

/* The token that a pair makes: "##" of the second half goes. */
static smhf_status merged_token(trainer *t, uint32_t a, uint32_t b, uint32_t *id, smhf_error *err) {
    const item *x = &t->tokens.data[a], *y = &t->tokens.data[b];
    uint32_t skip = (y->size > 2 && memcmp(y->bytes, "##", 2) == 0) ? 2 : 0;
    size_t size = (size_t)x->size + y->size - skip;
    int added;
    uint8_t *bytes = smhf_malloc(size + 1);
    if (bytes == NULL) {
        return smhf_fail_nomem(err, "token", size);
    }
    memcpy(bytes, x->bytes, x->size);
    memcpy(bytes + x->size, y->bytes + skip, y->size - skip);
    smhf_status status = intern(&t->tokens, &t->arena, bytes, size, id, &added, err);
    smhf_free(bytes);
    return status;
}

static smhf_status merge_pair(trainer *t, uint32_t index, smhf_error *err) {
    uint32_t a = t->pairs[index].a, b = t->pairs[index].b, merged;
    /* The list is taken away first: merging may grow t->pairs and move it. */
    uint32_t *words = t->pairs[index].words;
    size_t count = t->pairs[index].word_count;
    t->pairs[index].words = NULL;
    t->pairs[index].word_count = t->pairs[index].word_capacity = 0;
    t->pairs[index].count = 0;
    smhf_status status = merged_token(t, a, b, &merged, err);
    for (size_t i = 0; i < count && status == SMHF_OK; i++) {
        status = merge_in_word(t, words[i], a, b, merged, err);
    }
    smhf_free(words);
    if (status == SMHF_OK) {
        /* Overlaps as in "aaa" counted twice: what is left of them is gone with the merge. */
        t->pairs[index].count = 0;
        status = queue_changed(t, err);
    }
    return status;
}

static smhf_status merge_all(trainer *t, smhf_error *err) {
    const smhf_wordpiece_options *options = t->options;
    size_t merges = 0;
    for (size_t w = 0; w < t->words.count; w++) {
        const uint32_t *symbols = t->symbols + t->word_start[w];
        for (uint32_t i = 0; i + 1 < t->word_length[w]; i++) {
            SMHF_TRY(change_pair(t, symbols[i], symbols[i + 1], t->words.data[w].count, (uint32_t)w,
                                 err));
        }
    }
    SMHF_TRY(queue_changed(t, err));
    while (t->tokens.count < options->vocab_size && t->heap_count > 0) {
        heap_entry top = heap_pop(t);
        int64_t count = t->pairs[top.pair].count;
        if (count != top.count) { /* stale: back into the queue at its place */
            if (count > 0) {
                SMHF_TRY(heap_push(t, top.pair, err));
            }
            continue;
        }
        if (count < 1 || (uint64_t)count < options->min_frequency) {
            break;
        }
        SMHF_TRY(merge_pair(t, top.pair, err));
        if (++merges % PROGRESS_EVERY == 0 && options->progress != NULL &&
            options->progress(options->progress_context, t->tokens.count, options->vocab_size) !=
                0) {
            return smhf_fail(err, SMHF_E_CANCELLED, "training was cancelled at %zu tokens",
                             t->tokens.count);
        }
    }
    return SMHF_OK;
}

/* --- The whole ------------------------------------------------------------------------------- */

static smhf_status add_specials(trainer *t, smhf_error *err) {
    static const char *const usual[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    const smhf_wordpiece_options *options = t->options;
    size_t count =
        (options->special_tokens != NULL) ? options->special_count : sizeof usual / sizeof *usual;
    for (size_t i = 0; i < count; i++) {
        smhf_bytes_view token = (options->special_tokens != NULL)
                                    ? options->special_tokens[i]
                                    : smhf_bytes_from_string(usual[i]);
        uint32_t id;
        int added;
        if (token.size == 0 || memchr(token.data, '\n', token.size) != NULL ||
            smhf_utf8_validate(token.data, token.size) != token.size) {
            return smhf_fail(err, SMHF_E_ARG,
                             "special_tokens[%zu]: expected UTF-8 without line "
                             "breaks, not empty",
                             i);
        }
        SMHF_TRY(intern(&t->tokens, &t->arena, token.data, token.size, &id, &added, err));
    }
    return SMHF_OK;
}

static smhf_status train(trainer *t, const smhf_text_view *texts, size_t count, smhf_buffer *out,
                         smhf_error *err) {
    SMHF_TRY(add_specials(t, err));
    SMHF_TRY(count_words(t, texts, count, err));
    SMHF_TRY(start_vocabulary(t, err));
    SMHF_TRY(merge_all(t, err));
    for (size_t i = 0; i < t->tokens.count; i++) {
        SMHF_TRY(smhf_buffer_append(out, t->tokens.data[i].bytes, t->tokens.data[i].size, err));
        SMHF_TRY(smhf_buffer_append_byte(out, '\n', err));
    }
    return SMHF_OK;
}

smhf_status smhf_wordpiece_train(const smhf_text_view *texts, size_t count,
                                 const smhf_wordpiece_options *options, smhf_buffer *out,
                                 smhf_error *err) {
    static const smhf_wordpiece_options defaults = SMHF_WORDPIECE_DEFAULTS;
    trainer t = {.options = (options != NULL) ? options : &defaults};
    smhf_arena_init(&t.arena, 1 << 18);
    smhf_status status = train(&t, texts, count, out, err);
    trainer_deinit(&t);
    return status;
}
