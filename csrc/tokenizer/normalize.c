/* normalize.c: BertNormalizer on one piece of text, with the source index of every result.
 *
 * The quick way is one lookup per code point. It is exact unless the text keeps combining marks
 * (83 code points that are not Mn): then canonical ordering shows in the result and in its offsets,
 * and the piece goes the long way, stage by stage as the reference does it.
 */
#include "tokenizer/tokenizer_internal.h"

#include "common/mem.h"

#include <string.h>

smhf_status smhf_grow(void *array_pointer, size_t *capacity, size_t count, size_t size,
                      smhf_error *err) {
    void *array, *grown;
    size_t wanted = *capacity + *capacity / 2;
    size_t bytes;
    if (count <= *capacity) {
        return SMHF_OK;
    }
    if (wanted < count) {
        wanted = count;
    }
    if (wanted < 64) {
        wanted = 64;
    }
    memcpy(&array, array_pointer, sizeof array);
    if (smhf_mul_size(wanted, size, &bytes) != 0 || (grown = smhf_realloc(array, bytes)) == NULL) {
        return smhf_fail_nomem(err, "tokenizer scratch", wanted * size);
    }
    memcpy(array_pointer, &grown, sizeof grown);
    *capacity = wanted;
    return SMHF_OK;
}

void smhf_normalized_deinit(smhf_normalized *out) {
    smhf_free(out->chars);
    smhf_free(out->source);
    smhf_free(out->sorting);
    memset(out, 0, sizeof *out);
}

static smhf_status reserve(smhf_normalized *out, size_t count, smhf_error *err) {
    size_t chars = out->capacity, source = out->capacity;
    SMHF_TRY(smhf_grow(&out->chars, &chars, count, sizeof *out->chars, err));
    SMHF_TRY(smhf_grow(&out->source, &source, count, sizeof *out->source, err));
    out->capacity = chars;
    return SMHF_OK;
}

/* One code point whose entry is not simply its result. Room for five entries is there. */
static size_t put_complex(const smhf_charmap *map, uint32_t entry, uint32_t *chars,
                          uint32_t *source, uint32_t at) {
    uint32_t parts[4];
    size_t count = 0;
    if (entry & CHAR_DROP) {
        return 0;
    }
    if (entry & CHAR_MULTI) {
        const uint32_t *pooled = map->pool + (entry & CHAR_VALUE);
        count = pooled[0];
        memcpy(chars, pooled + 1, count * sizeof *chars);
    } else if (entry & CHAR_HANGUL) {
        count = smhf_char_decompose(entry & CHAR_VALUE, parts);
        memcpy(chars, parts, count * sizeof *chars);
    } else { /* CJK between written spaces */
        chars[0] = ' ' | CHAR_SPACE;
        chars[1] = entry & CHAR_VALUE;
        chars[2] = ' ' | CHAR_SPACE;
        count = 3;
    }
    for (size_t i = 0; i < count; i++) {
        source[i] = at;
    }
    return count;
}

/* The quick way; `kind` is a constant in each caller. `seen` gathers the flags met. */
static inline smhf_status normalize_kind(const smhf_charmap *map, const smhf_text_view *text,
                                         int kind, size_t begin, size_t end, uint32_t complex_mask,
                                         smhf_normalized *out, uint32_t *seen, smhf_error *err) {
    size_t written = 0;
    uint32_t flags = 0;
    SMHF_TRY(reserve(out, end - begin + 8, err));
    for (size_t at = begin; at < end; at++) {
        uint32_t code_point = (kind == 1)   ? ((const uint8_t *)text->data)[at]
                              : (kind == 2) ? ((const uint16_t *)text->data)[at]
                                            : ((const uint32_t *)text->data)[at];
        if (kind == 4 && code_point > 0x10FFFF) {
            return smhf_fail(err, SMHF_E_ARG, "U+%X at character %zu is beyond U+10FFFF",
                             (unsigned)code_point, at);
        }
        uint32_t entry = smhf_charmap_find(map, code_point);
        flags |= entry;
        if ((entry & complex_mask) == 0) {
            out->chars[written] = entry & (CHAR_VALUE | CHAR_SPACE | CHAR_ISOLATE);
            out->source[written] = (uint32_t)at;
            written++;
            continue;
        }
        written +=
            put_complex(map, entry, out->chars + written, out->source + written, (uint32_t)at);
        if (out->capacity - written < end - at + 8) {
            SMHF_TRY(reserve(out, written + (end - at) + (end - at) / 2 + 16, err));
        }
    }
    out->count = written;
    *seen = flags;
    return SMHF_OK;
}

/* --- The long way ---------------------------------------------------------------------------- */

/* A decomposed part while it is being ordered. A "first" part is the one that stands for its
 * source character when spans are dealt out again after sorting. */
#define PART(code_point, rank, first)                                                              \
    ((uint64_t)(code_point) | (uint64_t)(rank) << 32 | (uint64_t)(first) << 40)
#define PART_VALUE(part) ((uint32_t)(part))
#define PART_RANK(part) ((uint32_t)((part) >> 32) & 63u)
#define PART_FIRST(part) ((uint32_t)((part) >> 40) & 1u)

/* Stable sort of a run of marks by rank: counting, so that no text makes it slow. */
static void sort_run(uint64_t *parts, uint64_t *spare, size_t count) {
    size_t begin[65] = {0};
    int sorted = 1;
    for (size_t i = 0; i < count; i++) {
        begin[PART_RANK(parts[i]) + 1]++;
        sorted &= (i == 0 || PART_RANK(parts[i - 1]) <= PART_RANK(parts[i]));
    }
    if (sorted) {
        return;
    }
    for (int rank = 0; rank < 64; rank++) {
        begin[rank + 1] += begin[rank];
    }
    for (size_t i = 0; i < count; i++) {
        spare[begin[PART_RANK(parts[i])]++] = parts[i];
    }
    memcpy(parts, spare, count * sizeof *parts);
}

/* clean_text and handle_chinese_chars into out->chars / source, without flags. */
static smhf_status clean_and_space(const smhf_charmap *map, const smhf_text_view *text,
                                   size_t begin, size_t end, smhf_normalized *out,
                                   smhf_error *err) {
    size_t written = 0;
    SMHF_TRY(reserve(out, (end - begin) * 3 + 8, err));
    for (size_t at = begin; at < end; at++) {
        uint32_t kept[3];
        size_t count = smhf_char_clean(map, smhf_text_at(text, at), kept);
        for (size_t i = 0; i < count; i++) {
            out->chars[written] = kept[i];
            out->source[written] = (uint32_t)at;
            written++;
        }
    }
    out->count = written;
    return SMHF_OK;
}

static smhf_status normalize_long(const smhf_charmap *map, const smhf_text_view *text, size_t begin,
                                  size_t end, smhf_normalized *out, smhf_error *err) {
    uint32_t parts[4], lower[2];
    size_t cleaned, total = 0, run = 0, consumed = 0, written = 0;
    SMHF_TRY(clean_and_space(map, text, begin, end, out, err));
    cleaned = out->count;
    SMHF_TRY(smhf_grow(&out->sorting, &out->sorting_capacity, cleaned * 8 + 8, sizeof *out->sorting,
                       err));

    uint64_t *ordered = out->sorting, *spare = out->sorting + cleaned * 4 + 4;
    for (size_t i = 0; i < cleaned; i++) {
        size_t count = smhf_char_decompose(out->chars[i], parts);
        for (size_t k = 0; k < count; k++) {
            uint32_t rank = smhf_char_rank(parts[k]);
            if (rank == 0) {
                sort_run(ordered + run, spare, total - run);
                run = total + 1;
            }
            ordered[total++] = PART(parts[k], rank, k == 0);
        }
    }
    if (run < total) {
        sort_run(ordered + run, spare, total - run);
    }

    /* Spans are positional: the k-th first part takes the k-th cleaned character's. They are read
     * from a copy because writing may overtake reading. */
    uint32_t *spans = (uint32_t *)spare;
    memcpy(spans, out->source, cleaned * sizeof *spans);
    SMHF_TRY(reserve(out, total * 2 + 8, err));
    for (size_t i = 0; i < total; i++) {
        uint32_t value = PART_VALUE(ordered[i]);
        size_t count = 1;
        consumed += PART_FIRST(ordered[i]);
        if (smhf_char_is_mark(value)) {
            continue;
        }
        lower[0] = value;
        if (map->lower) {
            count = smhf_char_lower(value, lower);
        }
        for (size_t k = 0; k < count; k++) {
            out->chars[written] = lower[k] | smhf_char_flags(lower[k]);
            out->source[written] = spans[consumed == 0 ? 0 : consumed - 1];
            written++;
        }
    }
    out->count = written;
    return SMHF_OK;
}

static smhf_status surrogate_error(const smhf_text_view *text, size_t begin, size_t end,
                                   smhf_error *err) {
    for (size_t at = begin; at < end; at++) {
        uint32_t value = smhf_text_at(text, at);
        if (value >= 0xD800 && value <= 0xDFFF) {
            return smhf_fail(err, SMHF_E_ARG, "lone surrogate U+%04X at character %zu",
                             (unsigned)value, at);
        }
    }
    return smhf_fail(err, SMHF_E_ARG, "lone surrogate");
}

smhf_status smhf_normalize(const smhf_charmap *map, const smhf_text_view *text, size_t begin,
                           size_t end, int spaced, smhf_normalized *out, smhf_error *err) {
    uint32_t mask = CHAR_COMPLEX | (spaced ? CHAR_CJK : 0u);
    uint32_t seen = 0;
    switch (text->kind) {
    case 1:
        SMHF_TRY(normalize_kind(map, text, 1, begin, end, mask, out, &seen, err));
        break;
    case 2:
        SMHF_TRY(normalize_kind(map, text, 2, begin, end, mask, out, &seen, err));
        break;
    default:
        SMHF_TRY(normalize_kind(map, text, 4, begin, end, mask, out, &seen, err));
        break;
    }
    if (seen & CHAR_SURROGATE) {
        return surrogate_error(text, begin, end, err);
    }
    if (seen & CHAR_MARK) {
        return normalize_long(map, text, begin, end, out, err);
    }
    return SMHF_OK;
}
