/* tokenizer.h: BERT WordPiece, exactly as the package `tokenizers` does it (0.22.2 = 0.23.3).
 *
 *     smhf_tokenizer *tokenizer;
 *     smhf_encoding *encoding;
 *     smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
 *     options.truncation = SMHF_TRUNCATE_LONGEST_FIRST;                       // at max_length 0:
 *     SMHF_TRY(smhf_tokenizer_open("folder", NULL, &tokenizer, err));         // the model's own
 *     SMHF_TRY(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, n, &options, &encoding, err));
 *     // encoding->ids[encoding->cu_seqlens[r] .. encoding->cu_seqlens[r + 1]) are row r's tokens
 *     smhf_encoding_free(encoding);
 *     smhf_tokenizer_free(tokenizer);
 *
 * Rows are packed: padding never exists here, smhf_encoding_fill adds it when rows are copied into
 * a rectangular array. Truncation, stride and padding are arguments of a call, never state.
 * Threads: I. A tokenizer is immutable after open; any number of threads may encode with one.
 * An encoding belongs to its caller; reading it from many threads is fine.
 * Ownership: open/new → smhf_tokenizer_free; encode_batch → smhf_encoding_free; views of tokens
 * are borrowed until smhf_tokenizer_free.
 */
#ifndef SMHF_TOKENIZER_H
#define SMHF_TOKENIZER_H

#include "common/bytes.h"
#include "common/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct smhf_tokenizer smhf_tokenizer;

/* --- Opening --------------------------------------------------------------------------------- */

/* A token matched in the text before (or, `normalized`, after) normalization. */
typedef struct smhf_added_token {
    smhf_bytes_view content; /* UTF-8, not empty */
    int32_t id;              /* -1 when adding: the vocabulary's id, else the next free one */
    int single_word;         /* only where no \w character touches it */
    int lstrip, rstrip;      /* the match takes the whitespace on that side with it */
    int normalized;          /* searched in normalized text */
    int special;             /* left out by decode(skip_special_tokens) */
} smhf_added_token;

#define SMHF_UNSET (-1)

/* What the caller says overrides tokenizer_config.json, which overrides tokenizer.json. */
typedef struct smhf_tokenizer_options {
    int do_lower_case;          /* 0, 1, SMHF_UNSET (file's word, else 1) */
    int strip_accents;          /* 0, 1, SMHF_UNSET (file's word, else as do_lower_case) */
    int tokenize_chinese_chars; /* 0, 1, SMHF_UNSET (file's word, else 1) */
    int clean_text;             /* 0, 1, SMHF_UNSET (file's word, else 1) */
    int64_t model_max_length;   /* tokens, specials included; SMHF_UNSET (file's word, else none) */
    const char *unk_token, *sep_token, *pad_token, *cls_token, *mask_token; /* NULL: "[UNK]", ... */
} smhf_tokenizer_options;

#define SMHF_TOKENIZER_DEFAULTS                                                                    \
    { SMHF_UNSET, SMHF_UNSET, SMHF_UNSET, SMHF_UNSET, SMHF_UNSET, NULL, NULL, NULL, NULL, NULL }

/* `path`: a folder (tokenizer.json, else vocab.txt; with tokenizer_config.json and
 * special_tokens_map.json where there), a vocab.txt, or a tokenizer.json. `options` NULL: defaults.
 * SMHF_E_PARSE with byte offset (sentence: file, line or byte); SMHF_E_UNSUPPORTED names a model,
 * normalizer, pre-tokenizer, decoder or post-processor other than BERT's. */
smhf_status smhf_tokenizer_open(const char *path, const smhf_tokenizer_options *options,
                                smhf_tokenizer **out, smhf_error *err) SMHF_MUST_USE;
/* The same from bytes in memory: a vocab.txt, or a tokenizer.json. */
smhf_status smhf_tokenizer_from_vocab(smhf_bytes_view text, const smhf_tokenizer_options *options,
                                      smhf_tokenizer **out, smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_tokenizer_from_json(smhf_bytes_view text, const smhf_tokenizer_options *options,
                                     smhf_tokenizer **out, smhf_error *err) SMHF_MUST_USE;
/* From a list of tokens (UTF-8); ids are positions. */
smhf_status smhf_tokenizer_from_tokens(const smhf_bytes_view *tokens, size_t count,
                                       const smhf_tokenizer_options *options, smhf_tokenizer **out,
                                       smhf_error *err) SMHF_MUST_USE;
/* A copy of `tokenizer` that also knows `count` more added tokens; those it has are replaced. */
smhf_status smhf_tokenizer_with_tokens(const smhf_tokenizer *tokenizer,
                                       const smhf_added_token *tokens, size_t count,
                                       smhf_tokenizer **out, smhf_error *err) SMHF_MUST_USE;
void smhf_tokenizer_free(smhf_tokenizer *tokenizer);

/* --- Asking ---------------------------------------------------------------------------------- */

typedef enum smhf_token_role {
    SMHF_TOKEN_UNK,
    SMHF_TOKEN_SEP,
    SMHF_TOKEN_PAD,
    SMHF_TOKEN_CLS,
    SMHF_TOKEN_MASK,
    SMHF_TOKEN_ROLES,
} smhf_token_role;

typedef struct smhf_tokenizer_info {
    int do_lower_case, strip_accents, tokenize_chinese_chars, clean_text; /* as in force: 0, 1 */
    int strip_accents_given;  /* strip_accents was said by the caller or a file */
    int64_t model_max_length; /* SMHF_UNSET: none said */
    int32_t vocab_size;       /* tokens of the model, added ones not counted */
    int32_t vocab_ids;        /* greatest id of the model + 1; more than vocab_size with gaps */
    int32_t total_size;       /* added tokens counted */
    int32_t added_count;      /* added tokens, specials included */
    int32_t role_ids[SMHF_TOKEN_ROLES]; /* -1: the vocabulary has none */
    int specials_single, specials_pair; /* tokens that the template adds */
    int padding_left, truncation_left;  /* tokenizer_config's sides; 0: right */
    int decode_cleanup;                 /* what decode does when not told */
} smhf_tokenizer_info;

void smhf_tokenizer_describe(const smhf_tokenizer *tokenizer, smhf_tokenizer_info *out);
/* -1 when unknown. Added tokens included. */
int32_t smhf_tokenizer_token_to_id(const smhf_tokenizer *tokenizer, smhf_bytes_view token);
/* 1 and *out, or 0 when no token has this id. Added tokens that are searched in normalized text
 * come in their normalized form, as in the reference. Borrowed until smhf_tokenizer_free. */
int smhf_tokenizer_id_to_token(const smhf_tokenizer *tokenizer, int32_t id, smhf_bytes_view *out);
/* The same for the model's vocabulary alone, ids 0 to vocab_ids - 1. */
int smhf_tokenizer_vocab_token(const smhf_tokenizer *tokenizer, int32_t id, smhf_bytes_view *out);
/* `index` below added_count, in order of id. Borrowed until smhf_tokenizer_free. */
void smhf_tokenizer_added_token(const smhf_tokenizer *tokenizer, int32_t index,
                                smhf_added_token *out);
/* 1 when decode(skip_special_tokens) leaves this id out. */
int smhf_tokenizer_is_special(const smhf_tokenizer *tokenizer, int32_t id);
/* The text of a role's token ("[CLS]"), {NULL, 0} when it has none. Borrowed as above. */
smhf_bytes_view smhf_tokenizer_role_token(const smhf_tokenizer *tokenizer, smhf_token_role role);

/* Which loops encode texts here: "scalar", "avx2" or "avx512"; SMHF_CPU_TIER forces a lesser one.
 */
const char *smhf_tokenizer_tier(void);

/* --- Encoding -------------------------------------------------------------------------------- */

typedef enum smhf_truncation {
    SMHF_TRUNCATE_NONE,
    SMHF_TRUNCATE_LONGEST_FIRST,
    SMHF_TRUNCATE_ONLY_FIRST,
    SMHF_TRUNCATE_ONLY_SECOND,
} smhf_truncation;

#define SMHF_WANT_OFFSETS 1u      /* offsets */
#define SMHF_WANT_WORD_IDS 2u     /* word_ids */
#define SMHF_WANT_SEQUENCE_IDS 4u /* sequence_ids */
#define SMHF_WANT_SPECIAL_MASK 8u /* special_mask */
#define SMHF_WANT_ALL 15u

typedef struct smhf_encode_options {
    int add_special_tokens; /* 1: the template's [CLS] and [SEP] */
    smhf_truncation truncation;
    int truncation_left;      /* 1: keep the end of the text */
    size_t max_length;        /* tokens, specials included; 0: model_max_length */
    size_t stride;            /* tokens that consecutive overflow rows share */
    int overflow;             /* 1: cut-off windows follow their row as further rows */
    unsigned want;            /* SMHF_WANT_ bits; ids and type_ids always come */
    int split_special_tokens; /* 1: specials in the text are ordinary text */
    /* Texts already split into words: row r is texts[word_starts[r] .. word_starts[r + 1]), each
     * encoded alone, its index being the word id. NULL: texts are whole rows. */
    const size_t *word_starts, *pair_word_starts;
    /* 4 or 8: padded_ids and padded_mask are made along with the rows, of items of so many bytes;
     * 0: they are not. */
    size_t padded_item_size;
    int64_t pad_id;
    int pad_left;
} smhf_encode_options;

#define SMHF_ENCODE_DEFAULTS                                                                       \
    { 1, SMHF_TRUNCATE_NONE, 0, 0, 0, 0, 0u, 0, NULL, NULL, 0, 0, 0 }

typedef struct smhf_encoding {
    size_t rows;           /* overflow rows included */
    size_t tokens;         /* cu_seqlens[rows] */
    size_t longest;        /* tokens of the longest row */
    int32_t *cu_seqlens;   /* [rows + 1] */
    int32_t *ids;          /* [tokens] */
    int32_t *type_ids;     /* [tokens] 0 or 1 (the template's type ids) */
    int32_t *offsets;      /* [tokens][2] code points of the row's text; specials (0, 0); or NULL */
    int32_t *word_ids;     /* [tokens] -1: a special of the template; or NULL */
    int8_t *sequence_ids;  /* [tokens] 0, 1, or -1: a special of the template; or NULL */
    uint8_t *special_mask; /* [tokens] 1: a special of the template; or NULL */
    int32_t *sample;       /* [rows] index of the text that the row came from */
    uint8_t *truncated;    /* [rows] 1: tokens of that text were cut from its main row */
    size_t truncated_count; /* texts that lost tokens (counted without overflow rows) */
    /* [rows][longest] ids with padding, and 1 for tokens, 0 for padding; or NULL. Blocks as of
     * smhf_encoding_block_take: who takes one over sets it NULL. */
    void *padded_ids, *padded_mask;
} smhf_encoding;

/* Encodes `count` texts (and their pairs, NULL without). All strings are read in place and only
 * during the call. SMHF_E_ARG names the row ("texts[3]: lone surrogate U+D800 at character 7").
 * Every row is there, or none: on failure *out is NULL. */
smhf_status smhf_tokenizer_encode_batch(const smhf_tokenizer *tokenizer,
                                        const smhf_text_view *texts, const smhf_text_view *pairs,
                                        size_t count, const smhf_encode_options *options,
                                        smhf_encoding **out, smhf_error *err) SMHF_MUST_USE;
void smhf_encoding_free(smhf_encoding *encoding);

/* Memory for arrays that are filled from `encoding`: at least `size` bytes, aligned to a cache
 * line, not cleared; NULL when there is none. Blocks that were given back are used again, which
 * saves fresh pages. Caller ends it with smhf_encoding_block_give, at any time and in any thread.
 */
void *smhf_encoding_block_take(const smhf_encoding *encoding, size_t size);
void smhf_encoding_block_give(void *block);

typedef enum smhf_encoding_field {
    SMHF_FIELD_IDS,
    SMHF_FIELD_TYPE_IDS,
    SMHF_FIELD_ATTENTION_MASK, /* 1 for tokens, `pad` for padding */
    SMHF_FIELD_WORD_IDS,
    SMHF_FIELD_SEQUENCE_IDS,
    SMHF_FIELD_SPECIAL_MASK,
    SMHF_FIELD_OFFSETS, /* two values a token: out is [rows][width][2] */
} smhf_encoding_field;

/* Copies one field into out[rows][width] (`item_size` 4 or 8 bytes signed, row-major), padded with
 * `pad` to `width` >= longest on the right, or on the left. SMHF_E_ARG when the field was not
 * wanted or width is too small. */
smhf_status smhf_encoding_fill(const smhf_encoding *encoding, smhf_encoding_field field, void *out,
                               size_t item_size, size_t width, int64_t pad, int pad_left,
                               smhf_error *err) SMHF_MUST_USE;

/* The same for one row below encoding->rows, out[its tokens] without padding. */
smhf_status smhf_encoding_fill_row(const smhf_encoding *encoding, smhf_encoding_field field,
                                   size_t row, void *out, size_t item_size,
                                   smhf_error *err) SMHF_MUST_USE;

/* --- Decoding, saving ------------------------------------------------------------------------ */

/* Appends the text of `ids` as UTF-8 to `out`. Unknown ids are left out. `cleanup` 0, 1 or
 * SMHF_UNSET (the tokenizer's own). */
smhf_status smhf_tokenizer_decode(const smhf_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                  int skip_special_tokens, int cleanup, smhf_buffer *out,
                                  smhf_error *err) SMHF_MUST_USE;
/* Writes tokenizer.json, vocab.txt, tokenizer_config.json and special_tokens_map.json into
 * `folder`, which must exist; each file appears whole or not at all. */
smhf_status smhf_tokenizer_save(const smhf_tokenizer *tokenizer, const char *folder,
                                smhf_error *err) SMHF_MUST_USE;

/* --- Training -------------------------------------------------------------------------------- */

typedef enum smhf_wordpiece_phase {
    SMHF_WORDPIECE_READING, /* done, total: texts */
    SMHF_WORDPIECE_MERGING, /* done, total: tokens */
} smhf_wordpiece_phase;

typedef struct smhf_wordpiece_options {
    size_t vocab_size;     /* tokens wanted, specials included */
    size_t min_frequency;  /* a pair seen fewer times is not merged */
    size_t limit_alphabet; /* characters kept, the most frequent first */
    int lowercase;         /* normalizer of the texts: lower-case and strip accents */
    const smhf_bytes_view *special_tokens; /* first ids, in this order; NULL: [PAD] [UNK] [CLS] */
    size_t special_count;                  /* [SEP] [MASK] */
    /* Called on the caller's thread now and then; may be NULL; non-zero: cancel. */
    int (*progress)(void *context, smhf_wordpiece_phase phase, size_t done, size_t total);
    void *progress_context;
} smhf_wordpiece_options;

#define SMHF_WORDPIECE_DEFAULTS                                                                    \
    { 30000, 2, 1000, 1, NULL, 0, NULL, NULL }

/* Learns a WordPiece vocabulary by merging the most frequent pair first, as `tokenizers` does, ties
 * by the older pair of tokens. The same for any number of threads. Appends a vocab.txt (one token
 * per line) to `out`. */
smhf_status smhf_wordpiece_train(const smhf_text_view *texts, size_t count,
                                 const smhf_wordpiece_options *options, smhf_buffer *out,
                                 smhf_error *err) SMHF_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
