/* word_count.h: different byte strings with counts, and the words of many texts counted in
 * parallel.
 *
 * Of this room only. Threads: one owner at a time; smhf_words_count uses the pool inside.
 * Ownership: the strings are the arena's, the tables belong to smhf_strings (smhf_strings_deinit).
 */
#ifndef SMHF_TOKENIZER_WORD_COUNT_H
#define SMHF_TOKENIZER_WORD_COUNT_H

#include "tokenizer/tokenizer_internal.h"

#include "common/arena.h"

typedef struct smhf_string {
    const uint8_t *bytes;
    uint32_t size;
    uint64_t hash;
    int64_t count; /* of words: how often */
} smhf_string;

/* Strings in order of their first appearance. Zeroed: empty. */
typedef struct smhf_strings {
    smhf_string *data;
    size_t count, capacity;
    uint32_t *slots; /* index + 1 of a string */
    size_t mask;
} smhf_strings;

void smhf_strings_deinit(smhf_strings *set);
/* Index of a string, which is added (copied into the arena) when new. */
smhf_status smhf_strings_intern(smhf_strings *set, smhf_arena *arena, const uint8_t *bytes,
                                size_t size, uint32_t *index, smhf_error *err) SMHF_MUST_USE;

/* Adds the words of all texts, as normalizer and pre-tokenizer give them, to `words`: the same
 * words in the same order for any number of threads. `read` is called between rounds on the
 * caller's thread with the number of texts read (may be NULL; non-zero: cancel). */
smhf_status smhf_words_count(smhf_strings *words, smhf_arena *arena, const smhf_text_view *texts,
                             size_t count, int lowercase,
                             int (*read)(void *context, size_t done, size_t total), void *context,
                             smhf_error *err) SMHF_MUST_USE;

#endif
