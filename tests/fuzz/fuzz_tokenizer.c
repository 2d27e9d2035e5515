/* fuzz_tokenizer.c: the files a tokenizer is read from, and any text through one.
 *
 * First byte: 0 tokenizer.json, 1 vocab.txt, 2 training texts, else text; then its low bits and the
 * second byte choose options. What is accepted must keep the promises of tokenizer.h.
 */
#include "common/mem.h"
#include "tokenizer/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char VOCAB[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nab\n##a\n##b\n##ab\n,\n[\n]\n"
    "\xe4\xb8\xad\n\xc3\xa9\n##\xc3\xa9\n\xe1\x84\x80\n##\xe1\x85\xa1\n";

static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static void check_encoding(const smhf_encoding *e, const smhf_tokenizer *tokenizer,
                           size_t max_length, size_t characters) {
    require(e->cu_seqlens[0] == 0 && (size_t)e->cu_seqlens[e->rows] == e->tokens);
    for (size_t row = 0; row < e->rows; row++) {
        require(e->cu_seqlens[row] <= e->cu_seqlens[row + 1]);
        size_t length = (size_t)(e->cu_seqlens[row + 1] - e->cu_seqlens[row]);
        /* A side with room for no token leaves an empty part and a row with everything of it. */
        require(max_length <= 4 || length <= max_length);
        require(length <= e->longest);
    }
    for (size_t i = 0; i < e->tokens; i++) {
        smhf_bytes_view token;
        require(smhf_tokenizer_id_to_token(tokenizer, e->ids[i], &token));
        require(e->offsets[2 * i] >= 0 && (size_t)e->offsets[2 * i + 1] <= characters);
        require(e->special_mask[i] == (e->sequence_ids[i] < 0));
        require((e->word_ids[i] < 0) == (e->special_mask[i] == 1));
    }
}

/* The same text in the narrowest kind that holds it, as a Python str has it. `narrow` is its
 * memory. */
static smhf_text_view narrowest(const uint32_t *wide, size_t count, uint32_t *narrow) {
    uint32_t most = 0;
    for (size_t i = 0; i < count; i++) {
        most |= wide[i];
    }
    for (size_t i = 0; i < count; i++) {
        if (most <= 0xFF) {
            ((uint8_t *)narrow)[i] = (uint8_t)wide[i];
        } else if (most <= 0xFFFF) {
            ((uint16_t *)narrow)[i] = (uint16_t)wide[i];
        } else {
            narrow[i] = wide[i];
        }
    }
    return (smhf_text_view){narrow, count, (most <= 0xFF) ? 1 : (most <= 0xFFFF) ? 2 : 4};
}

static void require_same(const smhf_encoding *one, const smhf_encoding *two) {
    require(one->tokens == two->tokens && one->rows == two->rows);
    require(memcmp(one->ids, two->ids, one->tokens * sizeof *one->ids) == 0);
    require(memcmp(one->offsets, two->offsets, 2 * one->tokens * sizeof *one->ids) == 0);
    require(memcmp(one->word_ids, two->word_ids, one->tokens * sizeof *one->ids) == 0);
    require(memcmp(one->cu_seqlens, two->cu_seqlens, (one->rows + 1) * sizeof *one->ids) == 0);
}

/* A padded row of items of `size` bytes is the row, then padding, or the other way round. */
static void require_padded(const smhf_encoding *e, size_t row, size_t size, int left) {
    size_t begin = (size_t)e->cu_seqlens[row], count = (size_t)e->cu_seqlens[row + 1] - begin;
    size_t first = left ? e->longest - count : 0;
    for (size_t i = 0; i < e->longest; i++) {
        size_t at = row * e->longest + i;
        int inside = i >= first && i - first < count;
        int64_t id = (size == 8) ? ((int64_t *)e->padded_ids)[at] : ((int32_t *)e->padded_ids)[at];
        int64_t mask =
            (size == 8) ? ((int64_t *)e->padded_mask)[at] : ((int32_t *)e->padded_mask)[at];
        require(id == (inside ? e->ids[begin + i - first] : -7) && mask == inside);
    }
}

/* The same text three times by the way of large vocabularies, which looks at the next row early. */
static void encode_large(const smhf_tokenizer *large, const smhf_text_view *text, int paired,
                         smhf_encode_options options, const smhf_encoding *one) {
    smhf_text_view rows[3] = {*text, *text, *text};
    smhf_encoding *all = NULL;
    options.padded_item_size = (text->length & 1) ? 8 : 4;
    options.pad_left = (int)(text->length >> 1 & 1);
    options.pad_id = -7;
    smhf_status status =
        smhf_tokenizer_encode_batch(large, rows, paired ? rows : NULL, 3, &options, &all, NULL);
    require((status == SMHF_OK) == (one != NULL));
    if (one == NULL) {
        return;
    }
    require(all->tokens == 3 * one->tokens && all->rows == 3 * one->rows);
    for (size_t i = 0; i < 3; i++) {
        size_t at = i * one->tokens;
        require(memcmp(all->ids + at, one->ids, one->tokens * sizeof *one->ids) == 0);
        if (all->offsets != NULL) {
            require(memcmp(all->offsets + 2 * at, one->offsets,
                           2 * one->tokens * sizeof *one->ids) == 0);
            require(memcmp(all->word_ids + at, one->word_ids, one->tokens * sizeof *one->ids) == 0);
        }
    }
    for (size_t row = 0; row < all->rows; row++) {
        require_padded(all, row, options.padded_item_size, options.pad_left);
    }
    smhf_encoding_free(all);
}

static void encode_text(const smhf_tokenizer *tokenizer, const smhf_tokenizer *large,
                        const uint8_t *data, size_t size, unsigned choice) {
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_encoding *one = NULL, *two = NULL, *plain = NULL;
    smhf_buffer out;
    uint32_t *wide = malloc(size * sizeof *wide + 4);
    size_t count = 0;
    int valid = 1;
    require(wide != NULL);
    for (size_t at = 0; at < size && valid;) {
        int32_t code_point = smhf_utf8_decode(data, size, &at);
        valid = code_point >= 0;
        wide[count++] = (uint32_t)code_point;
    }
    options.want = SMHF_WANT_ALL;
    options.truncation = (smhf_truncation)(choice & 3);
    options.truncation_left = (choice >> 2) & 1;
    options.overflow = (choice >> 3) & 1;
    options.add_special_tokens = (choice >> 4) & 1;
    options.max_length = 3 + ((choice >> 5) & 7);
    options.stride = (choice >> 8) & 1;
    options.split_special_tokens = (choice >> 9) & 1;
    smhf_text_view texts[2] = {{data, size, 0}, {wide, count, 4}};
    smhf_text_view *pairs = ((choice >> 10) & 1) ? texts : NULL;
    smhf_status first =
        smhf_tokenizer_encode_batch(tokenizer, texts, pairs, 1, &options, &one, &err);
    if (first != SMHF_OK) {
        require(err.message[0] != '\0' && one == NULL);
    }
    require(valid || first != SMHF_OK);
    if (valid) {
        if (pairs != NULL) {
            pairs = texts + 1;
        }
        smhf_status second =
            smhf_tokenizer_encode_batch(tokenizer, texts + 1, pairs, 1, &options, &two, &err);
        require(first == second);
        /* Ids alone take the quickest way; its rows must be the same. */
        uint32_t *narrow = malloc(count * sizeof *narrow + 4);
        require(narrow != NULL);
        texts[1] = narrowest(wide, count, narrow);
        options.want = 0;
        smhf_status third =
            smhf_tokenizer_encode_batch(tokenizer, texts + 1, pairs, 1, &options, &plain, &err);
        require(first == third);
        options.want = (choice & 1) ? SMHF_WANT_ALL : 0;
        encode_large(large, texts + 1, pairs != NULL, options, one);
        free(narrow);
    }
    if (one != NULL) {
        size_t limit = (options.truncation == SMHF_TRUNCATE_NONE) ? SIZE_MAX : options.max_length;
        check_encoding(one, tokenizer, limit, count);
        require_same(one, two);
        require(plain->tokens == one->tokens && plain->rows == one->rows);
        require(memcmp(one->ids, plain->ids, one->tokens * sizeof *one->ids) == 0);
        require(memcmp(one->type_ids, plain->type_ids, one->tokens * sizeof *one->ids) == 0);
        smhf_buffer_init(&out, 0);
        require(smhf_tokenizer_decode(tokenizer, one->ids, one->tokens, 1, 1, &out, NULL) ==
                SMHF_OK);
        require(smhf_utf8_validate(out.data, out.size) == out.size);
        smhf_buffer_deinit(&out);
    }
    smhf_encoding_free(one);
    smhf_encoding_free(two);
    smhf_encoding_free(plain);
    free(wide);
}

static void open_and_use(smhf_status status, smhf_tokenizer *tokenizer, const smhf_error *err,
                         const uint8_t *data, size_t size) {
    if (status != SMHF_OK) {
        require(tokenizer == NULL && err->message[0] != '\0');
        require(err->offset < 0 || (size_t)err->offset <= size);
        return;
    }
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    smhf_encoding *encoding = NULL;
    smhf_text_view texts[] = {{"a b\xc3\xa9 [CLS]", 10, 0}, {data, size < 200 ? size : 200, 1}};
    options.want = SMHF_WANT_ALL;
    (void)!smhf_tokenizer_encode_batch(tokenizer, texts, texts, 2, &options, &encoding, NULL);
    smhf_encoding_free(encoding);
    smhf_tokenizer_free(tokenizer);
}

static void train(const uint8_t *data, size_t size) {
    smhf_text_view texts[] = {{data, size, 0}};
    smhf_wordpiece_options options = SMHF_WORDPIECE_DEFAULTS;
    smhf_buffer out;
    options.vocab_size = 200;
    options.limit_alphabet = (size > 0) ? data[0] : 5;
    smhf_buffer_init(&out, 0);
    if (smhf_wordpiece_train(texts, 1, &options, &out, NULL) == SMHF_OK) {
        smhf_tokenizer *tokenizer = NULL;
        require(smhf_tokenizer_from_vocab(smhf_buffer_view(&out), NULL, &tokenizer, NULL) ==
                SMHF_OK);
        smhf_tokenizer_free(tokenizer);
    }
    smhf_buffer_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    smhf_tokenizer *tokenizer = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    int64_t live = smhf_mem_live();
    if (size < 2) {
        return 0;
    }
    smhf_bytes_view body = {data + 1, size - 1};
    if (data[0] == 0) {
        smhf_status status = smhf_tokenizer_from_json(body, NULL, &tokenizer, &err);
        open_and_use(status, tokenizer, &err, body.data, body.size);
    } else if (data[0] == 1) {
        smhf_status status = smhf_tokenizer_from_vocab(body, NULL, &tokenizer, &err);
        open_and_use(status, tokenizer, &err, body.data, body.size);
    } else if (data[0] == 2) {
        train(body.data, body.size);
    } else {
        /* Making one takes longer than most inputs, so the 16 option sets are kept. */
        static smhf_tokenizer *kept[16][2];
        smhf_tokenizer **made = kept[data[0] & 15];
        smhf_tokenizer_options options = SMHF_TOKENIZER_DEFAULTS;
        options.do_lower_case = data[0] & 1;
        options.strip_accents = (data[0] >> 1) & 1;
        options.tokenize_chinese_chars = (data[0] >> 2) & 1;
        options.clean_text = (data[0] >> 3) & 1;
        for (int large = 0; large < 2 && made[large] == NULL; large++) {
            require(smhf_tokenizer_from_vocab(smhf_bytes_from_string(VOCAB), &options, &made[large],
                                              &err) == SMHF_OK);
            made[large]->vocab.large = large;
        }
        encode_text(made[0], made[1], data + 2, size - 2, (unsigned)data[1] | (data[0] >> 4) << 8);
        return 0;
    }
    require(smhf_mem_live() == live);
    return 0;
}
