/* word_table.h: exact lookups of short keys, a cache line a probe.
 *
 * A line holds 5 keys of up to 8 bytes, or 3 of 9 to 16, with their ids: the key itself is stored,
 * so a hit needs no second look at the token's bytes. Keys hold no NUL, hence their length is
 * implied. Longer keys, and those with a NUL, live in the hash of vocab.c alone.
 * `prefixes` tells which key lengths begin with given three bytes, so that the search for the
 * longest prefix tries two or three lengths of a word instead of all.
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
#define WORD_LENGTHS 31    /* bit of `prefixes` for keys of 31 and more bytes */

typedef struct smhf_short_line {
    uint64_t keys[WORD_SHORT_KEYS];
    uint32_t ids[WORD_SHORT_KEYS];
    uint32_t overflow; /* 1: the search goes on in the next line */
} smhf_short_line;

typedef struct smhf_long_line {
    uint64_t low[WORD_LONG_KEYS], high[WORD_LONG_KEYS];
    uint32_t ids[WORD_LONG_KEYS];
    uint32_t overflow;
} smhf_long_line;

typedef struct smhf_word_table {
    smhf_short_line *short_lines; /* [short_mask + 1] */
    smhf_long_line *long_lines;   /* [long_mask + 1] */
    uint32_t *prefixes;           /* [prefix_mask + 1] bit n: a key of n bytes */
    uint32_t short_mask, long_mask, prefix_mask;
} smhf_word_table;

typedef struct smhf_word_key {
    const uint8_t *data;
    uint32_t size; /* at least 1 */
    int32_t id;
} smhf_word_key;

/* Keys are distinct. Memory is the arena's. */
smhf_status smhf_word_table_build(smhf_word_table *table, smhf_arena *arena,
                                  const smhf_word_key *keys, size_t count,
                                  smhf_error *err) SMHF_MUST_USE;

static inline uint32_t smhf_word_hash(uint64_t low, uint64_t high) {
    unsigned __int128 product =
        (unsigned __int128)(low ^ 0x9E3779B97F4A7C15u) * (high ^ 0xD6E8FEB86659FD93u);
    return (uint32_t)(product >> 64) ^ (uint32_t)product;
}

static inline uint32_t smhf_prefix_hash(uint64_t low) {
    uint32_t key = (uint32_t)low & 0xFFFFFFu;
    return (key * 0x9E3779B1u) >> 14;
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

#endif
