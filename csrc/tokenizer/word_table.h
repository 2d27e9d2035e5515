/* word_table.h: exact lookups of short keys, a cache line a probe.
 *
 * A line holds 5 keys of up to 8 bytes, or 3 of 9 to 16, with their ids: the key itself is stored,
 * so a hit needs no second look at the token's bytes. Keys hold no NUL, hence their length is
 * implied. Longer keys, and those with a NUL, live in the hash of vocab.c. The overflow mark
 * follows the ids, so that a lookup without a hit reads it as if it were one more id.
 *
 * A key filter (two bits a key in one of many words, an eighth of them set) answers "is there
 * perhaps such a key" for all prefixes of a word at once, so that the search for the longest one
 * touches one or two lines.
 */
#ifndef SMHF_WORD_TABLE_H
#define SMHF_WORD_TABLE_H

#include "common/arena.h"
#include "common/bytes.h"
#include "common/status.h"

#include <string.h>

#define WORD_SHORT_KEYS 5
#define WORD_LONG_KEYS 3
#define WORD_LONG_BYTES 16 /* longest key of a word table */
#define WORD_OVERFLOW 0x80000000u

typedef struct smhf_short_line {
    uint64_t keys[WORD_SHORT_KEYS];
    uint32_t ids[WORD_SHORT_KEYS]; /* id + 1 */
    uint32_t overflow;             /* WORD_OVERFLOW: the search goes on in the next line; else 0 */
} smhf_short_line;

typedef struct smhf_long_line {
    uint64_t low[WORD_LONG_KEYS], high[WORD_LONG_KEYS];
    uint32_t ids[WORD_LONG_KEYS]; /* id + 1 */
    uint32_t overflow;
} smhf_long_line;

typedef struct smhf_word_table {
    smhf_short_line *short_lines; /* [short_count] */
    smhf_long_line *long_lines;   /* [long_count] */
    uint32_t short_count, long_count;
} smhf_word_table;

/* Room for so many keys of up to 8 and of 9 to 16 bytes. Memory is the arena's. */
smhf_status smhf_word_table_init(smhf_word_table *table, smhf_arena *arena, size_t shorts,
                                 size_t longs, smhf_error *err) SMHF_MUST_USE;
/* Where the id + 1 of a key is kept, 0 when the key is new. The key is 1 to 16 bytes without a NUL,
 * zeros behind them. No more keys of a size may be added than there is room for. Keys that are
 * added first are found first: frequent ones should be. */
uint32_t *smhf_word_table_slot(smhf_word_table *table, uint64_t low, uint64_t high, uint32_t size);
/* The id of a key as above, -1 when absent. */
int32_t smhf_word_table_find(const smhf_word_table *table, uint64_t low, uint64_t high,
                             uint32_t size);

static inline uint32_t smhf_word_hash(uint64_t low, uint64_t high) {
    unsigned __int128 product =
        (unsigned __int128)(low ^ 0x9E3779B97F4A7C15u) * (high ^ 0xD6E8FEB86659FD93u);
    return (uint32_t)(product >> 64) ^ (uint32_t)product;
}

/* The line of a hash: a multiplication instead of a mask, so that any number of lines will do. */
static inline size_t smhf_word_line(uint32_t hash, uint32_t lines) {
    return (size_t)((uint64_t)hash * lines >> 32);
}

static inline uint64_t smhf_load8(const uint8_t *data) {
    uint64_t value;
    memcpy(&value, data, sizeof value);
    return value;
}

/* The first `size` bytes (1 to 8) of a loaded word. */
static inline uint64_t smhf_keep_bytes(uint64_t value, size_t size) {
    return value & (UINT64_MAX >> (64 - 8 * size));
}

/* --- Filter ---------------------------------------------------------------------------------- */

#define FILTER_SPREAD 0xD6E8FEB86659FD93u /* of bytes 9 to 16 */
#define FILTER_MIX 0x9E3779B97F4A7C15u
#define FILTER_CONTINUED 0x5851F42D4C957F2Du /* added to the keys of continuing pieces */
#define FILTER_LONGER 0x14057B7EF767814Fu    /* ... of "keys of more than these 16 bytes" */

typedef struct smhf_key_filter {
    uint32_t *words;
    uint32_t shift; /* 64 - log2 of their number */
} smhf_key_filter;

/* A filter for `count` keys, empty. */
smhf_status smhf_key_filter_init(smhf_key_filter *filter, smhf_arena *arena, size_t count,
                                 smhf_error *err) SMHF_MUST_USE;

/* A key's word is in the bits of this value from `shift` on, its two bits are in the ten below
 * (`shift` is at least 20). lane_body.h computes the same for eight keys at a time. */
static inline uint64_t smhf_filter_hash(uint64_t low, uint64_t high, uint64_t salt) {
    uint64_t x = low + high * FILTER_SPREAD + salt;
    return (x ^ (x >> 32)) * FILTER_MIX;
}

static inline uint32_t smhf_filter_bits(const smhf_key_filter *filter, uint64_t hash) {
    uint64_t below = hash >> (filter->shift - 10);
    return (uint32_t)1 << (below & 31) | (uint32_t)1 << (below >> 5 & 31);
}

static inline int smhf_filter_has(const smhf_key_filter *filter, uint64_t low, uint64_t high,
                                  uint64_t salt) {
    uint64_t hash = smhf_filter_hash(low, high, salt);
    return (~filter->words[hash >> filter->shift] & smhf_filter_bits(filter, hash)) == 0;
}

static inline void smhf_filter_add(smhf_key_filter *filter, uint64_t low, uint64_t high,
                                   uint64_t salt) {
    uint64_t hash = smhf_filter_hash(low, high, salt);
    filter->words[hash >> filter->shift] |= smhf_filter_bits(filter, hash);
}

#endif
