/* tokenizer_internal.h: the parts of a tokenizer, shared by the files of this room only.
 *
 * A text goes through them in this order (the stages of the package `tokenizers`):
 *   matcher (raw added tokens) → charmap (clean, space CJK, NFD, strip, lower: one lookup a code
 *   point) → matcher (normalized added tokens) → words → vocab (longest match) → windows →
 * template. Everything below is immutable once the tokenizer is built, except the caches of idle
 * workers and of encodings' memory.
 */
#ifndef SMHF_TOKENIZER_INTERNAL_H
#define SMHF_TOKENIZER_INTERNAL_H

#include "common/arena.h"
#include "tokenizer/lane.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/word_table.h"

#include <stdatomic.h>

/* --- charmap.c: what becomes of a code point ------------------------------------------------- */

/* An entry: a code point in the low 21 bits, flags above. Entries that say nothing but a code
 * point, SPACE or ISOLATE are copied as they are; the others need a branch. */
#define CHAR_VALUE 0x1FFFFFu
#define CHAR_SPACE (1u << 21)     /* splits words and is dropped */
#define CHAR_ISOLATE (1u << 22)   /* is a word of its own */
#define CHAR_CJK (1u << 23)       /* stands between spaces; in entries together with ISOLATE */
#define CHAR_DROP (1u << 24)      /* leaves nothing */
#define CHAR_MULTI (1u << 25)     /* value: index of a count and that many entries in the pool */
#define CHAR_HANGUL (1u << 26)    /* decomposes by arithmetic */
#define CHAR_MARK (1u << 27)      /* keeps a combining mark: the piece needs canonical ordering */
#define CHAR_SURROGATE (1u << 28) /* not a scalar value: an error of the text */
#define CHAR_COMPLEX (CHAR_DROP | CHAR_MULTI | CHAR_HANGUL)

typedef struct smhf_charmap {
    int clean, cjk, strip, lower; /* the stages in force */
    uint16_t *index;              /* [0x110000 >> 7] block of a code point */
    uint32_t *entries;            /* [blocks][128] */
    uint32_t *pool;
} smhf_charmap;

/* Memory is the arena's. */
smhf_status smhf_charmap_build(smhf_charmap *map, smhf_arena *arena, smhf_error *err) SMHF_MUST_USE;
/* CHAR_SPACE and CHAR_ISOLATE of a normalized code point. */
uint32_t smhf_char_flags(uint32_t code_point);
/* Regex \w and \s of the reference. */
int smhf_char_is_word(uint32_t code_point);
int smhf_char_is_space(uint32_t code_point);

/* Canonical combining class as a rank (0: starter), category Mn, full decomposition, lower case. */
uint32_t smhf_char_rank(uint32_t code_point);
int smhf_char_is_mark(uint32_t code_point);
size_t smhf_char_decompose(uint32_t code_point, uint32_t out[4]);
size_t smhf_char_lower(uint32_t code_point, uint32_t out[2]);
/* clean_text and handle_chinese_chars alone. */
size_t smhf_char_clean(const smhf_charmap *map, uint32_t code_point, uint32_t out[3]);

/* Tables hold value - code_point, so that blocks of unmapped code points look alike. */
static inline uint32_t smhf_charmap_find(const smhf_charmap *map, uint32_t code_point) {
    uint32_t entry =
        map->entries[((uint32_t)map->index[code_point >> 7] << 7) | (code_point & 127u)];
    return (entry & ~CHAR_VALUE) | ((entry + code_point) & CHAR_VALUE);
}

/* --- normalize.c: a piece of text → normalized code points and where they came from ---------- */

typedef struct smhf_normalized {
    uint32_t *chars;  /* [count] code point with CHAR_SPACE / CHAR_ISOLATE */
    uint32_t *source; /* [count] index of the source character */
    size_t count, capacity;
    uint64_t *sorting; /* canonical ordering: two arrays in one */
    size_t sorting_capacity;
} smhf_normalized;

void smhf_normalized_deinit(smhf_normalized *out);
/* Characters [begin, end) of `text` (kind 1, 2 or 4). `spaced` 1 writes the spaces around CJK out;
 * 0 marks such characters CHAR_ISOLATE instead. SMHF_E_ARG at a lone surrogate. */
smhf_status smhf_normalize(const smhf_charmap *map, const smhf_text_view *text, size_t begin,
                           size_t end, int spaced, smhf_normalized *out, smhf_error *err);

static inline uint32_t smhf_text_at(const smhf_text_view *text, size_t at) {
    switch (text->kind) {
    case 1:
        return ((const uint8_t *)text->data)[at];
    case 2:
        return ((const uint16_t *)text->data)[at];
    default:
        return ((const uint32_t *)text->data)[at] & CHAR_VALUE;
    }
}

/* --- vocab.c: tokens and ids ----------------------------------------------------------------- */

/* Keys that are longer than 16 bytes, hold a NUL, or can be no word of a text. */
typedef struct smhf_other_keys {
    uint32_t *slots; /* [mask + 1] id + 1; 0: empty */
    uint32_t mask;
    uint32_t max_bytes; /* longest key */
} smhf_other_keys;

typedef struct smhf_vocab {
    uint8_t *bytes;    /* all tokens, then 16 bytes so that keys may be read in words */
    uint32_t *start;   /* [ids + 1] where a token's bytes begin; UINT32_MAX: no such id */
    uint32_t *length;  /* [ids] */
    uint32_t ids;      /* greatest id + 1 */
    uint32_t tokens;   /* distinct tokens */
    uint32_t prefix;   /* bytes of the continuation prefix, without which its keys are kept */
    int prefix_splits; /* no word starts with the prefix: its tokens are continuing only */
    const uint8_t *prefix_bytes;
    uint64_t splits[2];        /* bit c: NUL, or an ASCII character that is a unit of its own */
    smhf_word_table words[2];  /* [0] words from their beginning, [1] continuing pieces */
    smhf_other_keys others[2]; /* the same */
    smhf_key_filter filter;    /* of all of these */
    int large;                 /* 1: more than a core's own caches hold */
} smhf_vocab;

typedef struct smhf_vocab_entry {
    smhf_bytes_view token;
    int32_t id;
} smhf_vocab_entry;

/* Of entries with equal tokens the last one counts. Memory is the arena's, `prefix` too. */
smhf_status smhf_vocab_build(smhf_vocab *vocab, smhf_arena *arena, const smhf_vocab_entry *entries,
                             size_t count, smhf_bytes_view prefix, smhf_error *err) SMHF_MUST_USE;
/* A word from its beginning, or a continuing piece (without the prefix); -1 when absent. */
int32_t smhf_vocab_find(const smhf_vocab *vocab, int continued, const uint8_t *key, size_t size);
/* The same for keys that are known to be in no word table. */
int32_t smhf_vocab_find_other(const smhf_vocab *vocab, int continued, const uint8_t *key,
                              size_t size);
/* A token as it is written, prefix and all. */
int32_t smhf_vocab_find_view(const smhf_vocab *vocab, smhf_bytes_view key);
int smhf_vocab_token(const smhf_vocab *vocab, int32_t id, smhf_bytes_view *out);
/* vocab.txt → entries that point into `text`, in an array that grows. */
smhf_status smhf_vocab_read_lines(smhf_bytes_view text, smhf_vocab_entry **entries, size_t *count,
                                  size_t *capacity, smhf_error *err) SMHF_MUST_USE;

/* --- added_tokens.c: leftmost-longest search ------------------------------------------------- */

typedef struct smhf_matcher_entry {
    uint32_t start, length; /* code points in `chars` */
    int32_t token;          /* index into the tokenizer's added tokens */
} smhf_matcher_entry;

typedef struct smhf_matcher {
    uint32_t *chars;
    smhf_matcher_entry *entries; /* sorted by code points */
    size_t count;
    int64_t only_first; /* the code point that all patterns start with, or -1 */
    uint64_t first[4];  /* bit (c & 255): some pattern starts with such a c */
} smhf_matcher;

struct smhf_tokenizer;
/* Patterns of the added tokens whose `normalized` flag is as given. */
smhf_status smhf_matcher_build(smhf_matcher *matcher, struct smhf_tokenizer *tokenizer,
                               int normalized, smhf_error *err) SMHF_MUST_USE;

typedef struct smhf_match {
    size_t begin, end;
    int32_t token; /* index into the added tokens */
} smhf_match;

/* Next accepted match that starts at or after `from`; `floor` is the end of the one before, which
 * lstrip does not cross. `text` may carry flags above bit 21 when it is kind 4. 1 found, 0 none;
 * *resume is where the next search starts. */
int smhf_matcher_next(const smhf_matcher *matcher, const struct smhf_tokenizer *tokenizer,
                      const smhf_text_view *text, int split_special, size_t from, size_t floor,
                      smhf_match *out, size_t *resume);

/* --- tokenizer.c ----------------------------------------------------------------------------- */

typedef struct smhf_template_piece {
    int32_t sequence; /* 0: the text, 1: the pair, -1: a special token */
    int32_t id;       /* of the special token */
    int32_t type_id;
} smhf_template_piece;

#define SMHF_TEMPLATE_MAX 32

typedef struct smhf_template {
    smhf_template_piece pieces[SMHF_TEMPLATE_MAX];
    int count;
    int specials;
} smhf_template;

typedef struct smhf_worker smhf_worker;
typedef struct smhf_shelf smhf_shelf;
#define SMHF_WORKER_CACHE 64

struct smhf_tokenizer {
    smhf_arena arena; /* everything below that is a pointer */
    smhf_charmap charmap;
    smhf_vocab vocab;
    smhf_bytes_view unk_token, prefix;
    int32_t unk_id; /* -1: not in the vocabulary; then a word that needs it is an error */
    size_t max_word_chars;
    smhf_added_token *added; /* in order of addition */
    size_t added_count;
    int32_t *added_by_id;         /* [added_count] indices, in order of id */
    smhf_bytes_view *added_shown; /* [added_count] what ids are shown and decoded as */
    smhf_matcher raw, normalized;
    smhf_template single, pair;
    const smhf_lane *lane; /* NULL: every text goes the long way */
    const smhf_lane *rows; /* whose widen_row and mask_row are used */
    int has_decoder;
    smhf_bytes_view decoder_prefix;
    smhf_bytes_view role_tokens[SMHF_TOKEN_ROLES];
    smhf_tokenizer_info info;
    _Atomic(smhf_worker *) idle[SMHF_WORKER_CACHE]; /* lock-free, hence safe after fork */
    smhf_shelf *shelf;
    _Atomic size_t most_tokens, most_rows; /* of a batch so far, within reason */
};

/* What files and options say, before anything is built. Views point into `arena`. */
typedef struct smhf_tokenizer_spec {
    smhf_arena arena;
    smhf_vocab_entry *entries;
    size_t count, capacity;
    smhf_bytes_view unk_token, prefix; /* data NULL: not said */
    int64_t max_word_chars;
    int clean, cjk, strip, lower; /* 0, 1, SMHF_UNSET */
    smhf_added_token *added;
    size_t added_count, added_capacity;
    smhf_template single, pair;
    int has_template;
    int has_decoder, decoder_cleanup;
    smhf_bytes_view decoder_prefix;
    smhf_bytes_view roles[SMHF_TOKEN_ROLES]; /* data NULL: not said */
    int64_t model_max_length;
    int padding_left, truncation_left;
} smhf_tokenizer_spec;

void smhf_spec_init(smhf_tokenizer_spec *spec);
void smhf_spec_deinit(smhf_tokenizer_spec *spec);
smhf_status smhf_spec_add_entry(smhf_tokenizer_spec *spec, smhf_bytes_view token, int32_t id,
                                smhf_error *err) SMHF_MUST_USE;
/* Copies the content into the spec's arena. */
smhf_status smhf_spec_add_token(smhf_tokenizer_spec *spec, const smhf_added_token *token,
                                smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_spec_copy(smhf_tokenizer_spec *spec, smhf_bytes_view text, smhf_bytes_view *out,
                           smhf_error *err) SMHF_MUST_USE;
/* Moves nothing: the tokenizer copies what it keeps. May append added tokens to the spec. */
smhf_status smhf_tokenizer_build(smhf_tokenizer_spec *spec, const smhf_tokenizer_options *options,
                                 smhf_tokenizer **out, smhf_error *err) SMHF_MUST_USE;
/* The content of an added token, else the vocabulary's token; 0 when there is none. */
int smhf_tokenizer_content(const smhf_tokenizer *tokenizer, int32_t id, smhf_bytes_view *out);
extern const char *const smhf_role_names[SMHF_TOKEN_ROLES]; /* "unk_token", ... */

/* --- tokenizer_json.c ------------------------------------------------------------------------ */

smhf_status smhf_spec_read_tokenizer_json(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                                          smhf_error *err) SMHF_MUST_USE;

/* --- tokenizer_config.c ---------------------------------------------------------------------- */

/* tokenizer_config.json or special_tokens_map.json: the fields we know. */
smhf_status smhf_spec_read_config_json(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                                       smhf_error *err) SMHF_MUST_USE;
/* added_tokens.json, a file of old models beside vocab.txt. */
smhf_status smhf_spec_read_added_json(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                                      smhf_error *err) SMHF_MUST_USE;

/* --- segment.c: one text → tokens ------------------------------------------------------------ */

/* Scratch of one thread; its buffers grow and are kept for the next batch. */
struct smhf_worker {
    smhf_normalized normalized;
    uint32_t *wide; /* UTF-8 decoded */
    size_t wide_capacity;
    uint8_t *word;        /* one word as UTF-8, 16 readable bytes after it */
    uint32_t *word_start; /* where each of its characters begins */
    size_t word_capacity; /* characters */
    smhf_lane_scratch lane, next_lane;
    const smhf_text_view *ahead; /* the text that lies normalized in next_lane, or NULL */
    smhf_cached_word *cache;     /* [WORD_CACHE_LINES] */
    smhf_pieces first, second;
    /* rows made so far, packed */
    int32_t *ids, *type_ids, *offsets, *word_ids;
    int8_t *sequence_ids;
    uint8_t *special_mask;
    size_t tokens, token_capacity;
    int32_t *row_lengths, *row_samples;
    uint8_t *row_truncated;
    size_t rows, row_capacity;
    size_t truncated_count;
    smhf_error error; /* of the row that failed */
};

smhf_worker *smhf_worker_acquire(const smhf_tokenizer *tokenizer);
void smhf_worker_release(const smhf_tokenizer *tokenizer, smhf_worker *worker);
void smhf_worker_free(smhf_worker *worker);

/* How the tokens of a text are wanted. */
typedef struct smhf_segment_options {
    int split_special;          /* specials in the text are ordinary text */
    int detail;                 /* 1: spans and words too */
    int32_t word;               /* >= 0: the word id of all tokens; -1: words are counted from 0 */
    size_t stop;                /* as many tokens are enough, SIZE_MAX: all */
    const smhf_text_view *next; /* the text of the next call, whose options are the same; or NULL */
} smhf_segment_options;

/* Appends the tokens of one text. Errors do not name the row yet. */
smhf_status smhf_segment_text(const smhf_tokenizer *tokenizer, smhf_worker *worker,
                              const smhf_text_view *text, const smhf_segment_options *options,
                              smhf_pieces *out, smhf_error *err) SMHF_MUST_USE;

/* UTF-8 → code points in *wide; plain ASCII stays where it is (kind 1). */
smhf_status smhf_text_widen(const smhf_text_view *text, uint32_t **wide, size_t *capacity,
                            smhf_text_view *out, smhf_error *err) SMHF_MUST_USE;
/* Room for `count` items of `size` bytes in a growable array; contents are kept. */
smhf_status smhf_grow(void *array_pointer, size_t *capacity, size_t count, size_t size,
                      smhf_error *err) SMHF_MUST_USE;

/* --- encoding_block.c: memory of encodings --------------------------------------------------- */

smhf_shelf *smhf_shelf_new(void);
/* Lets go of the shelf; it stays while encodings live that were made from it. NULL is fine. */
void smhf_shelf_release(smhf_shelf *shelf);
/* An encoding with arrays for so many rows and tokens, not filled. Ended by smhf_encoding_free. */
smhf_status smhf_encoding_new(smhf_shelf *shelf, size_t rows, size_t tokens, unsigned want,
                              smhf_encoding **out, smhf_error *err) SMHF_MUST_USE;

#endif
