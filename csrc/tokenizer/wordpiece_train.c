/* wordpiece_train.c: a WordPiece vocabulary from texts, the most frequent pair merged first.
 *
 * As the trainer of `tokenizers`: count the words that normalizer and pre-tokenizer give; start
 * from characters (the first of a word plain, the others with the prefix "##"); merge the pair
 * with the greatest count until the vocabulary is full. Ties go to the pair with the smaller ids.
 * Words are kept in order of first appearance, so that equal texts give equal vocabularies.
 *
 * Cost: one pass over the texts (by all threads, word_count.c), then a merge touches only the words
 * that hold its pair. Counts in the heap may be stale; an entry is refreshed when it comes to the
 * top.
 */
#include "tokenizer/word_count.h"

#include "common/mem.h"

#include <string.h>

#define PROGRESS_EVERY 256
#define CODE_POINTS 0x110000u
#define NONE UINT32_MAX

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
    smhf_strings words;    /* spelled as UTF-8 */
    smhf_strings tokens;   /* the vocabulary, in order of id */
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
    smhf_strings_deinit(&t->words);
    smhf_strings_deinit(&t->tokens);
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
        if (used[i].count < threshold || (used[i].count == threshold && ties == 0)) {
            continue;
        }
        ties -= (used[i].count == threshold);
        SMHF_TRY(smhf_strings_intern(&t->tokens, &t->arena, bytes,
                                     smhf_utf8_encode(used[i].code_point, bytes),
                                     &index[used[i].code_point], err));
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
        const smhf_string *word = &t->words.data[w];
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
                size_t size = 2 + smhf_utf8_encode((uint32_t)c, bytes + 2);
                SMHF_TRY(
                    smhf_strings_intern(&t->tokens, &t->arena, bytes, size, &continued[c], err));
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
        const smhf_string *word = &t->words.data[w];
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
    const smhf_string *x = &t->tokens.data[a], *y = &t->tokens.data[b];
    uint32_t skip = (y->size > 2 && memcmp(y->bytes, "##", 2) == 0) ? 2 : 0;
    size_t size = (size_t)x->size + y->size - skip;
    uint8_t *bytes = smhf_malloc(size + 1);
    if (bytes == NULL) {
        return smhf_fail_nomem(err, "token", size);
    }
    memcpy(bytes, x->bytes, x->size);
    memcpy(bytes + x->size, y->bytes + skip, y->size - skip);
    smhf_status status = smhf_strings_intern(&t->tokens, &t->arena, bytes, size, id, err);
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

static smhf_status report_merges(const trainer *t, smhf_error *err) {
    const smhf_wordpiece_options *options = t->options;
    if (options->progress != NULL &&
        options->progress(options->progress_context, SMHF_WORDPIECE_MERGING, t->tokens.count,
                          options->vocab_size) != 0) {
        return smhf_fail(err, SMHF_E_CANCELLED, "training was cancelled at %zu tokens",
                         t->tokens.count);
    }
    return SMHF_OK;
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
        if (++merges % PROGRESS_EVERY == 0) {
            SMHF_TRY(report_merges(t, err));
        }
    }
    SMHF_TRY(report_merges(t, err));
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
        if (token.size == 0 || memchr(token.data, '\n', token.size) != NULL ||
            smhf_utf8_validate(token.data, token.size) != token.size) {
            return smhf_fail(err, SMHF_E_ARG,
                             "special_tokens[%zu]: expected UTF-8 without line "
                             "breaks, not empty",
                             i);
        }
        SMHF_TRY(smhf_strings_intern(&t->tokens, &t->arena, token.data, token.size, &id, err));
    }
    return SMHF_OK;
}

static int texts_read(void *context, size_t done, size_t total) {
    const smhf_wordpiece_options *options = ((trainer *)context)->options;
    return options->progress(options->progress_context, SMHF_WORDPIECE_READING, done, total);
}

static smhf_status train(trainer *t, const smhf_text_view *texts, size_t count, smhf_buffer *out,
                         smhf_error *err) {
    SMHF_TRY(add_specials(t, err));
    SMHF_TRY(smhf_words_count(&t->words, &t->arena, texts, count, t->options->lowercase,
                              (t->options->progress != NULL) ? texts_read : NULL, t, err));
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
