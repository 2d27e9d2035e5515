/* added_tokens.c: finding added tokens in a text, leftmost first and of those the longest.
 *
 * Patterns are sorted by code points; a match is followed character by character by narrowing the
 * range of patterns that still fit. Texts without a first character of any pattern cost one test a
 * character (memchr when all patterns start alike, as "[CLS]" and its kind do).
 */
#include "tokenizer/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

static int compare_entries(const uint32_t *chars, const smhf_matcher_entry *a,
                           const smhf_matcher_entry *b) {
    uint32_t shorter = (a->length < b->length) ? a->length : b->length;
    for (uint32_t i = 0; i < shorter; i++) {
        uint32_t x = chars[a->start + i], y = chars[b->start + i];
        if (x != y) {
            return (x < y) ? -1 : 1;
        }
    }
    if (a->length != b->length) {
        return (a->length < b->length) ? -1 : 1;
    }
    return (a->token < b->token) ? -1 : (a->token > b->token);
}

/* Heap sort: in place, no recursion, and no context argument that qsort lacks. */
static void sift(const uint32_t *chars, smhf_matcher_entry *entries, size_t root, size_t count) {
    for (;;) {
        size_t child = root * 2 + 1;
        if (child >= count) {
            return;
        }
        if (child + 1 < count && compare_entries(chars, &entries[child], &entries[child + 1]) < 0) {
            child++;
        }
        if (compare_entries(chars, &entries[root], &entries[child]) >= 0) {
            return;
        }
        smhf_matcher_entry kept = entries[root];
        entries[root] = entries[child];
        entries[child] = kept;
        root = child;
    }
}

static void sort_entries(const uint32_t *chars, smhf_matcher_entry *entries, size_t count) {
    for (size_t i = count / 2; i-- > 0;) {
        sift(chars, entries, i, count);
    }
    for (size_t last = count; last-- > 1;) {
        smhf_matcher_entry kept = entries[0];
        entries[0] = entries[last];
        entries[last] = kept;
        sift(chars, entries, 0, last);
    }
}

/* The code points that one added token is searched by, appended to `chars`. */
static smhf_status pattern_of(const struct smhf_tokenizer *tokenizer, smhf_bytes_view content,
                              int normalized, uint32_t *wide, smhf_normalized *scratch,
                              const uint32_t **out, size_t *count, smhf_error *err) {
    size_t length = 0;
    for (size_t at = 0; at < content.size;) {
        int32_t code_point = smhf_utf8_decode(content.data, content.size, &at);
        SMHF_ASSERT(code_point >= 0); /* contents were validated when they came in */
        wide[length++] = (uint32_t)code_point;
    }
    *out = wide;
    *count = length;
    if (normalized) {
        smhf_text_view view = {wide, length, 4};
        SMHF_TRY(smhf_normalize(&tokenizer->charmap, &view, 0, length, 1, scratch, err));
        *out = scratch->chars;
        *count = scratch->count;
    }
    return SMHF_OK;
}

static void note_first(smhf_matcher *matcher, uint32_t first) {
    matcher->first[(first & 255) >> 6] |= (uint64_t)1 << (first & 63);
    if (matcher->count == 0) {
        matcher->only_first = first;
    } else if (matcher->only_first != (int64_t)first) {
        matcher->only_first = -1;
    }
}

smhf_status smhf_matcher_build(smhf_matcher *matcher, struct smhf_tokenizer *tokenizer,
                               int normalized, smhf_error *err) {
    size_t longest = 0, wanted = 0, used = 0, capacity = 0;
    smhf_normalized scratch = {0};
    smhf_status status = SMHF_OK;
    memset(matcher, 0, sizeof *matcher);
    matcher->only_first = -1;
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        if (tokenizer->added[i].normalized == normalized) {
            size_t size = tokenizer->added[i].content.size;
            wanted++;
            capacity += size * 5 + 8; /* normalization: five code points for one at most */
            longest = (size > longest) ? size : longest;
        }
    }
    if (wanted == 0) {
        return SMHF_OK;
    }
    matcher->chars = smhf_arena_alloc(&tokenizer->arena, capacity * sizeof *matcher->chars);
    matcher->entries = smhf_arena_alloc(&tokenizer->arena, wanted * sizeof *matcher->entries);
    uint32_t *wide = smhf_arena_alloc(&tokenizer->arena, (longest + 1) * sizeof *wide);
    if (matcher->chars == NULL || matcher->entries == NULL || wide == NULL) {
        return smhf_fail_nomem(err, "added tokens", capacity * sizeof *matcher->chars);
    }
    for (size_t i = 0; i < tokenizer->added_count && status == SMHF_OK; i++) {
        const uint32_t *pattern;
        size_t length;
        if (tokenizer->added[i].normalized != normalized) {
            continue;
        }
        status = pattern_of(tokenizer, tokenizer->added[i].content, normalized, wide, &scratch,
                            &pattern, &length, err);
        if (status != SMHF_OK || length == 0) {
            continue; /* a token that normalizes to nothing is never found */
        }
        for (size_t k = 0; k < length; k++) {
            matcher->chars[used + k] = pattern[k] & CHAR_VALUE;
        }
        note_first(matcher, matcher->chars[used]);
        matcher->entries[matcher->count++] =
            (smhf_matcher_entry){(uint32_t)used, (uint32_t)length, (int32_t)i};
        used += length;
    }
    smhf_normalized_deinit(&scratch);
    sort_entries(matcher->chars, matcher->entries, matcher->count);
    return status;
}

/* First entry of [low, high) whose character at `depth` is >= value. */
static size_t lower_bound(const smhf_matcher *matcher, size_t low, size_t high, uint32_t depth,
                          uint32_t value) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const smhf_matcher_entry *entry = &matcher->entries[middle];
        if (entry->length <= depth || matcher->chars[entry->start + depth] < value) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Longest pattern at `at`, or NULL. Of equal patterns the one added first. */
static const smhf_matcher_entry *longest_at(const smhf_matcher *matcher, const smhf_text_view *text,
                                            size_t at) {
    const smhf_matcher_entry *best = NULL;
    size_t low = 0, high = matcher->count;
    for (uint32_t depth = 0; low < high && at + depth < text->length; depth++) {
        uint32_t value = smhf_text_at(text, at + depth);
        low = lower_bound(matcher, low, high, depth, value);
        high = lower_bound(matcher, low, high, depth, value + 1);
        if (low < high && matcher->entries[low].length == depth + 1) {
            best = &matcher->entries[low]; /* shortest sorts first; equal ones by token */
        }
    }
    return best;
}

/* Next place at or after `from` where a pattern may start, or text->length. */
static size_t next_candidate(const smhf_matcher *matcher, const smhf_text_view *text, size_t from) {
    if (text->kind == 1 && matcher->only_first >= 0) {
        const uint8_t *data = text->data;
        if (matcher->only_first > 255 || from >= text->length) {
            return text->length;
        }
        const uint8_t *found = memchr(data + from, (int)matcher->only_first, text->length - from);
        return (found != NULL) ? (size_t)(found - data) : text->length;
    }
    size_t at = from;
    if (text->kind == 2 && matcher->only_first >= 0) { /* thirty-two at a time, as vectors */
        const uint16_t *data = text->data;
        for (uint32_t found = 0; at + 32 <= text->length; at += 32) {
            for (size_t i = 0; i < 32; i++) {
                found |= (uint32_t)(data[at + i] == (uint16_t)matcher->only_first);
            }
            if (found != 0) {
                break;
            }
        }
    } else if (text->kind == 4 && matcher->only_first >= 0) {
        const uint32_t *data = text->data; /* flags above the code point's bits do not matter */
        for (uint32_t found = 0; at + 32 <= text->length; at += 32) {
            for (size_t i = 0; i < 32; i++) {
                found |= (uint32_t)((data[at + i] & CHAR_VALUE) == (uint32_t)matcher->only_first);
            }
            if (found != 0) {
                break;
            }
        }
    }
    for (; at < text->length; at++) {
        uint32_t value = smhf_text_at(text, at);
        if ((matcher->first[(value & 255) >> 6] >> (value & 63)) & 1) {
            return at;
        }
    }
    return text->length;
}

static int touches_word(const smhf_text_view *text, size_t begin, size_t end) {
    return (begin > 0 && smhf_char_is_word(smhf_text_at(text, begin - 1))) ||
           (end < text->length && smhf_char_is_word(smhf_text_at(text, end)));
}

int smhf_matcher_next(const smhf_matcher *matcher, const struct smhf_tokenizer *tokenizer,
                      const smhf_text_view *text, int split_special, size_t from, size_t floor,
                      smhf_match *out, size_t *resume) {
    for (size_t at = from; matcher->count > 0;) {
        at = next_candidate(matcher, text, at);
        if (at >= text->length) {
            break;
        }
        const smhf_matcher_entry *entry = longest_at(matcher, text, at);
        if (entry == NULL) {
            at++;
            continue;
        }
        const smhf_added_token *token = &tokenizer->added[entry->token];
        size_t begin = at, end = at + entry->length;
        at = end; /* a refused match is skipped whole, without a try for a shorter one */
        if ((split_special && token->special) ||
            (token->single_word && touches_word(text, begin, end))) {
            continue;
        }
        if (token->lstrip) {
            while (begin > floor && smhf_char_is_space(smhf_text_at(text, begin - 1))) {
                begin--;
            }
            begin = (begin < floor) ? floor : begin; /* rstrip of the match before went further */
            if (begin >= end) {
                continue;
            }
        }
        if (token->rstrip) {
            while (end < text->length && smhf_char_is_space(smhf_text_at(text, end))) {
                end++;
            }
        }
        *out = (smhf_match){begin, end, entry->token};
        *resume = at;
        return 1;
    }
    return 0;
}
