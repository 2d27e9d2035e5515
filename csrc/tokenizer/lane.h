/* lane.h: the quick way of a text into ids, one table of functions per tier of the processor.
 *
 *     const smhf_lane *lane = smhf_lane_pick();                  // once, when a tokenizer is built
 *     SMHF_TRY(lane->normalize(&map, &text, begin, end, 1, &scratch, err));
 *     if (scratch.seen & SMHF_LANE_REFUSES) { ... the long way of segment.c ... }
 *     SMHF_TRY(lane->match(&vocab, &scratch, &units, &pieces, err));
 *
 * Stage one writes a stretch of text as normalized UTF-8, with two bitmaps beside it: which bytes
 * are white space and where a unit (word or punctuation) may begin or end. 64 ASCII characters are
 * done at a time; others take one table lookup each. The bitmaps become two arrays of positions.
 * Stage two looks every unit up as a whole (one cache line for words of up to 8 bytes, one for
 * those of up to 16) and cuts what is missing into longest pieces.
 * All tiers give the same bytes; lane_body.h and lane_match.h are compiled once for each.
 */
#ifndef SMHF_LANE_H
#define SMHF_LANE_H

#include "tokenizer/word_table.h"

struct smhf_charmap;
struct smhf_vocab;

/* What the quick way leaves to the long one. CHAR_ flags of tokenizer_internal.h. */
#define LANE_NUL (1u << 31) /* U+0000 is kept: keys of the word tables know no NUL */

/* Readable and writable bytes past the normalized text. */
#define LANE_SLACK 1536

typedef struct smhf_lane_scratch {
    uint8_t *bytes;          /* [capacity + LANE_SLACK] normalized UTF-8 */
    uint64_t *space;         /* bit per byte: white space */
    uint64_t *edge;          /* bit per byte: a unit begins here, or ended before */
    uint32_t *source;        /* per byte: index of its source character; while `mapped` */
    uint32_t *starts, *ends; /* [units] bytes of each unit */
    size_t capacity, source_capacity, unit_capacity;
    size_t size, units;
    uint32_t base; /* source character of byte 0 while not `mapped` */
    int mapped;
    uint32_t seen; /* CHAR_ flags met, and LANE_NUL */
} smhf_lane_scratch;

void smhf_lane_scratch_deinit(smhf_lane_scratch *scratch);
smhf_status smhf_lane_reserve(smhf_lane_scratch *scratch, size_t bytes,
                              smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_lane_reserve_source(smhf_lane_scratch *scratch, smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_lane_reserve_units(smhf_lane_scratch *scratch, size_t units,
                                    smhf_error *err) SMHF_MUST_USE;

/* Tokens of a text, one array a field; spans and words are written when `detail` is asked for. */
typedef struct smhf_pieces {
    int32_t *ids;
    int32_t *spans; /* [count][2] source characters */
    int32_t *words;
    size_t count, capacity;
} smhf_pieces;

smhf_status smhf_pieces_reserve(smhf_pieces *pieces, size_t count, smhf_error *err) SMHF_MUST_USE;

/* A word that is no token as a whole, with its pieces. Texts repeat such words: half of them in
 * prose of many languages, nine of ten in English. One cache line. */
#define WORD_CACHE_LINES 4096
#define CACHED_PIECES 8
typedef struct smhf_cached_word {
    uint64_t low, high; /* up to 16 bytes without a NUL; low 0: empty */
    int32_t ids[CACHED_PIECES];
    uint8_t ends[CACHED_PIECES]; /* byte after each piece */
    uint64_t count;              /* 0: unknown, and there is no unknown token */
} smhf_cached_word;

typedef struct smhf_lane_job {
    int detail;              /* 1: spans and words too */
    int32_t word;            /* id of the first unit; the id after the last one when done */
    int fixed_word;          /* 1: all units have the id `word` */
    int32_t unk_id;          /* -1: none */
    size_t max_chars;        /* of a word */
    size_t stop;             /* enough tokens: units after that are not looked at */
    smhf_cached_word *cache; /* [WORD_CACHE_LINES] of this thread and this vocabulary */
    size_t unknown;          /* a unit that needed the missing unknown token; SIZE_MAX: none */
} smhf_lane_job;

typedef struct smhf_lane {
    const char *tier;
    /* Characters [begin, end) of `text` (kind 1, 2 or 4). Fails only for want of memory. */
    smhf_status (*normalize)(const struct smhf_charmap *map, const smhf_text_view *text,
                             size_t begin, size_t end, int want_source, smhf_lane_scratch *out,
                             smhf_error *err);
    /* Starts loading what `match` looks at first, for a text that is matched somewhat later. */
    void (*aim)(const smhf_cached_word *cache, const smhf_lane_scratch *text);
    smhf_status (*match)(const struct smhf_vocab *vocab, const smhf_lane_scratch *text,
                         smhf_lane_job *job, smhf_pieces *out, smhf_error *err);
    /* out[i] = values[i] for i < count, then `pad` up to `width`; `left` puts the padding first. */
    void (*widen_row)(int64_t *out, const int32_t *values, size_t count, size_t width, int64_t pad,
                      int left);
    void (*mask_row)(int64_t *out, size_t count, size_t width, int left);
} smhf_lane;

/* The best tier of this processor, or the lesser one that SMHF_CPU_TIER names. */
const smhf_lane *smhf_lane_pick(void);
extern const smhf_lane smhf_lane_scalar, smhf_lane_avx2, smhf_lane_avx512;

#endif
