/* charmap.c: all per-character stages of BertNormalizer folded into one table per option set.
 *
 * Blocks of 128 code points that no mapping touches are shared, so a table is about 200 kB and is
 * made in a fraction of a millisecond. The Unicode data is the reference's own: unicode_tables.h.
 */
#include "tokenizer/tokenizer_internal.h"

#include "tokenizer/unicode_tables.h"

#include <string.h>

#define BLOCK_SIZE (1u << SMHF_UNICODE_BLOCK_BITS)
#define HANGUL_FIRST 0xAC00u
#define HANGUL_LAST 0xD7A3u
#define POOL_MAX 8192 /* entries; the largest option set needs about 2,000 */
#define EXPANSION_MAX 5

static uint16_t props_of(uint32_t code_point) {
    uint32_t block = smhf_unicode_index[code_point >> SMHF_UNICODE_BLOCK_BITS];
    return smhf_unicode_props[block << SMHF_UNICODE_BLOCK_BITS | (code_point & (BLOCK_SIZE - 1))];
}

/* Index of `key` in a sorted array that holds it. */
static size_t search(const uint32_t *sorted, size_t count, uint32_t key) {
    size_t low = 0, high = count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (sorted[middle] <= key) {
            low = middle;
        } else {
            high = middle;
        }
    }
    SMHF_ASSERT(sorted[low] == key);
    return low;
}

uint32_t smhf_char_flags(uint32_t code_point) {
    uint16_t props = props_of(code_point);
    return ((props & SMHF_PROP_WHITESPACE) ? CHAR_SPACE : 0u) |
           ((props & SMHF_PROP_PUNCT) ? CHAR_ISOLATE : 0u);
}

int smhf_char_is_word(uint32_t code_point) {
    return code_point <= 0x10FFFF && (props_of(code_point) & SMHF_PROP_WORD) != 0;
}

int smhf_char_is_space(uint32_t code_point) {
    return code_point <= 0x10FFFF && (props_of(code_point) & SMHF_PROP_WHITESPACE) != 0;
}

uint32_t smhf_char_rank(uint32_t code_point) {
    return props_of(code_point) & SMHF_PROP_RANK;
}

int smhf_char_is_mark(uint32_t code_point) {
    return (props_of(code_point) & SMHF_PROP_MN) != 0;
}

size_t smhf_char_decompose(uint32_t code_point, uint32_t out[4]) {
    if (code_point >= HANGUL_FIRST && code_point <= HANGUL_LAST) {
        uint32_t index = code_point - HANGUL_FIRST;
        out[0] = 0x1100 + index / 588;
        out[1] = 0x1161 + index % 588 / 28;
        out[2] = 0x11A7 + index % 28;
        return (index % 28 != 0) ? 3 : 2;
    }
    if ((props_of(code_point) & SMHF_PROP_DECOMPOSES) == 0) {
        out[0] = code_point;
        return 1;
    }
    size_t at = search(smhf_unicode_decomposition_from, SMHF_UNICODE_DECOMPOSITIONS, code_point);
    uint32_t packed = smhf_unicode_decomposition_start[at];
    size_t count = packed & 7;
    memcpy(out, smhf_unicode_decomposition_pool + (packed >> 3), count * sizeof *out);
    return count;
}

size_t smhf_char_lower(uint32_t code_point, uint32_t out[2]) {
    out[0] = code_point;
    if ((props_of(code_point) & SMHF_PROP_LOWERS) == 0) {
        return 1;
    }
    if (code_point == 0x130) { /* the one mapping that is longer than its source */
        out[0] = 0x69;
        out[1] = 0x307;
        return 2;
    }
    out[0] =
        smhf_unicode_lower_to[search(smhf_unicode_lower_from, SMHF_UNICODE_LOWERS, code_point)];
    return 1;
}

size_t smhf_char_clean(const smhf_charmap *map, uint32_t code_point, uint32_t out[3]) {
    uint16_t props = props_of(code_point);
    out[0] = code_point;
    if (map->clean && (props & SMHF_PROP_DELETE)) {
        return 0;
    }
    if (map->clean && (props & SMHF_PROP_TO_SPACE)) {
        out[0] = ' ';
        return 1;
    }
    if (map->cjk && (props & SMHF_PROP_CJK)) {
        out[0] = ' ';
        out[1] = code_point;
        out[2] = ' ';
        return 3;
    }
    return 1;
}

/* Everything one code point turns into, with flags; *mark when a kept part can be reordered. */
static size_t expand(const smhf_charmap *map, uint32_t code_point, uint32_t out[EXPANSION_MAX],
                     int *mark) {
    uint16_t props = props_of(code_point);
    uint32_t parts[4] = {code_point};
    size_t count = 1, written = 0;

    if (map->clean && (props & SMHF_PROP_DELETE)) {
        return 0;
    }
    if (map->clean && (props & SMHF_PROP_TO_SPACE)) {
        out[0] = ' ' | CHAR_SPACE;
        return 1;
    }
    if (map->strip) {
        count = smhf_char_decompose(code_point, parts);
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t lower[2] = {parts[i], 0};
        size_t n = 1;
        if (map->strip) {
            if (smhf_char_is_mark(parts[i])) {
                continue;
            }
            if (smhf_char_rank(parts[i]) != 0) {
                *mark = 1;
            }
        }
        if (map->lower) {
            n = smhf_char_lower(parts[i], lower);
        }
        for (size_t k = 0; k < n; k++) {
            out[written++] = lower[k] | smhf_char_flags(lower[k]);
        }
    }
    return written;
}

static uint32_t make_entry(smhf_charmap *map, uint32_t code_point, size_t *pool_count) {
    uint32_t parts[EXPANSION_MAX];
    int mark = 0;
    uint32_t flags = 0;
    if (code_point >= 0xD800 && code_point <= 0xDFFF) {
        return code_point | CHAR_SURROGATE;
    }
    if (map->strip && code_point >= HANGUL_FIRST && code_point <= HANGUL_LAST) {
        return code_point | CHAR_HANGUL;
    }
    size_t count = expand(map, code_point, parts, &mark);
    if (mark) {
        flags |= CHAR_MARK;
    }
    if (count == 0) {
        return code_point | CHAR_DROP;
    }
    if (count == 1) {
        if (map->cjk && (props_of(code_point) & SMHF_PROP_CJK)) {
            flags |= CHAR_CJK | CHAR_ISOLATE;
        }
        return parts[0] | flags;
    }
    SMHF_ASSERT(*pool_count + count + 1 <= POOL_MAX);
    uint32_t at = (uint32_t)*pool_count;
    map->pool[at] = (uint32_t)count;
    memcpy(map->pool + at + 1, parts, count * sizeof *parts);
    *pool_count += count + 1;
    return at | CHAR_MULTI | flags;
}

/* Blocks that all look alike are made once. Slots 0..BLOCKS-1: by block of properties, then one
 * for surrogates and one for Hangul. -1: every code point has a mapping of its own. */
#define SLOT_SURROGATES SMHF_UNICODE_BLOCKS
#define SLOT_HANGUL (SMHF_UNICODE_BLOCKS + 1)
#define SLOTS (SMHF_UNICODE_BLOCKS + 2)

static int block_slot(const uint16_t *mapped, uint32_t block) {
    uint32_t first = block << SMHF_UNICODE_BLOCK_BITS, last = first + BLOCK_SIZE - 1;
    if (first >= 0xD800 && last <= 0xDFFF) {
        return SLOT_SURROGATES;
    }
    if (first >= HANGUL_FIRST && last <= HANGUL_LAST) {
        return SLOT_HANGUL;
    }
    if (first <= HANGUL_LAST && last > HANGUL_LAST && first > HANGUL_FIRST) {
        return -1; /* the block where Hangul ends */
    }
    return mapped[smhf_unicode_index[block]] ? -1 : (int)smhf_unicode_index[block];
}

smhf_status smhf_charmap_build(smhf_charmap *map, smhf_arena *arena, smhf_error *err) {
    uint16_t mapped[SMHF_UNICODE_BLOCKS] = {0};
    uint16_t made[SLOTS] = {0}; /* block number + 1 */
    uint16_t relevant =
        (uint16_t)((map->strip ? SMHF_PROP_DECOMPOSES : 0u) | (map->lower ? SMHF_PROP_LOWERS : 0u));
    size_t blocks = 0, pool_count = 0;

    for (size_t i = 0; i < (size_t)SMHF_UNICODE_BLOCKS * BLOCK_SIZE; i++) {
        mapped[i >> SMHF_UNICODE_BLOCK_BITS] |= smhf_unicode_props[i] & relevant;
    }
    for (uint32_t block = 0; block < SMHF_UNICODE_INDEX_SIZE; block++) {
        int slot = block_slot(mapped, block);
        if (slot < 0 || made[slot] == 0) {
            blocks++;
            if (slot >= 0) {
                made[slot] = 1;
            }
        }
    }
    memset(made, 0, sizeof made);
    map->index = smhf_arena_alloc(arena, SMHF_UNICODE_INDEX_SIZE * sizeof *map->index);
    map->entries = smhf_arena_alloc(arena, blocks * BLOCK_SIZE * sizeof *map->entries);
    map->pool = smhf_arena_alloc(arena, POOL_MAX * sizeof *map->pool);
    if (map->index == NULL || map->entries == NULL || map->pool == NULL) {
        return smhf_fail_nomem(err, "character table", blocks * BLOCK_SIZE * sizeof(uint32_t));
    }

    blocks = 0;
    for (uint32_t block = 0; block < SMHF_UNICODE_INDEX_SIZE; block++) {
        int slot = block_slot(mapped, block);
        if (slot >= 0 && made[slot] != 0) {
            map->index[block] = (uint16_t)(made[slot] - 1);
            continue;
        }
        for (uint32_t i = 0; i < BLOCK_SIZE; i++) {
            uint32_t code_point = (block << SMHF_UNICODE_BLOCK_BITS) | i;
            uint32_t entry = make_entry(map, code_point, &pool_count);
            map->entries[blocks * BLOCK_SIZE + i] =
                (entry & ~CHAR_VALUE) | ((entry - code_point) & CHAR_VALUE);
        }
        map->index[block] = (uint16_t)blocks;
        blocks++;
        if (slot >= 0) {
            made[slot] = (uint16_t)blocks;
        }
    }
    return SMHF_OK;
}
