/* test_tokenizer.c: the C interface on a small vocabulary: rows, spans, truncation windows, added
 * tokens, files, errors, memory. Exactness against the reference library is tests/python/tokenizer.
 */
#include "smhf_test.h"

#include "common/mem.h"
#include "common/pool.h"
#include "tokenizer/tokenizer.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static const char VOCAB[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\nun\n##aff\n##able\n"
                            "a\nb\nc\n##b\n##c\n,\n!\n\xe4\xb8\xad\ncafe\ne\n##e\n";

enum { PAD, UNK, CLS, SEP, MASK, HELLO, WORLD, UN, AFF, ABLE, A, B, C, BB, CC, COMMA, BANG, ZHONG };

static smhf_bytes_view bytes(const char *text) {
    return smhf_bytes_from_string(text);
}

static smhf_text_view utf8(const char *text) {
    return (smhf_text_view){text, strlen(text), 0};
}

static smhf_tokenizer *make(void) {
    smhf_tokenizer *tokenizer = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(smhf_tokenizer_from_vocab(bytes(VOCAB), NULL, &tokenizer, &err), &err);
    return tokenizer;
}

/* Compares one row's ids with a list that ends at -1. */
static void check_ids(const smhf_encoding *encoding, size_t row, const int32_t *expected) {
    size_t begin = (size_t)encoding->cu_seqlens[row];
    size_t count = (size_t)encoding->cu_seqlens[row + 1] - begin;
    size_t wanted = 0;
    while (expected[wanted] >= 0) {
        wanted++;
    }
    CHECK_INT(count, wanted);
    for (size_t i = 0; i < count && i < wanted; i++) {
        CHECK_INT(encoding->ids[begin + i], expected[i]);
    }
}

#define IDS(...) ((const int32_t[]){__VA_ARGS__, -1})

static void test_rows_and_spans(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_encoding *e = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    smhf_text_view texts[] = {utf8("Hello, unaffable\xe4\xb8\xad!"), utf8(""), utf8("zzz"),
                              utf8("cafe\xcc\x81 [SEP]b")};
    options.want = SMHF_WANT_ALL;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 4, &options, &e, &err), &err);
    CHECK_INT(e->rows, 4);
    check_ids(e, 0, IDS(CLS, HELLO, COMMA, UN, AFF, ABLE, ZHONG, BANG, SEP));
    check_ids(e, 1, IDS(CLS, SEP));
    check_ids(e, 2, IDS(CLS, UNK, SEP));
    check_ids(e, 3, IDS(CLS, 18, SEP, B, SEP));
    CHECK_INT(e->longest, 9);
    /* "un" "##aff" "##able" share word 2; the CJK character after them is a word of its own */
    const int32_t begin[] = {0, 0, 5, 7, 9, 12, 16, 17, 0};
    const int32_t end[] = {0, 5, 6, 9, 12, 16, 17, 18, 0};
    const int32_t word[] = {-1, 0, 1, 2, 2, 2, 3, 4, -1};
    for (int i = 0; i < 9; i++) {
        CHECK_INT(e->offsets[2 * i], begin[i]);
        CHECK_INT(e->offsets[2 * i + 1], end[i]);
        CHECK_INT(e->word_ids[i], word[i]);
        CHECK_INT(e->special_mask[i], i == 0 || i == 8);
        CHECK_INT(e->sequence_ids[i], (i == 0 || i == 8) ? -1 : 0);
    }
    /* a special token in the text is a token of the text */
    size_t at = (size_t)e->cu_seqlens[3];
    CHECK_INT(e->special_mask[at + 2], 0);
    CHECK_INT(e->offsets[2 * (at + 2)], 6);
    CHECK_INT(e->offsets[2 * (at + 2) + 1], 11);
    smhf_encoding_free(e);

    options.add_special_tokens = 0;
    options.split_special_tokens = 1;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts + 3, NULL, 1, &options, &e, &err), &err);
    CHECK_INT(e->tokens, 5); /* cafe [ sep ] b: the vocabulary has no brackets */
    CHECK_INT(e->ids[0], 18);
    smhf_encoding_free(e);
    smhf_tokenizer_free(tokenizer);
}

static void test_kinds_agree(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    smhf_error err = SMHF_ERROR_INIT;
    const uint8_t one[] = {'C', 'a', 'f', 0xE9, ' ', 'a', 'b', 'c'};
    uint16_t two[8];
    uint32_t four[8];
    for (int i = 0; i < 8; i++) {
        two[i] = one[i];
        four[i] = one[i];
    }
    smhf_text_view texts[] = {{one, 8, 1}, {two, 8, 2}, {four, 8, 4}, utf8("Caf\xc3\xa9 abc")};
    smhf_encoding *e = NULL;
    options.want = SMHF_WANT_ALL;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 4, &options, &e, &err), &err);
    for (size_t row = 0; row < 4; row++) {
        check_ids(e, row, IDS(CLS, 18, A, BB, CC, SEP));
        CHECK_INT(memcmp(e->offsets, e->offsets + row * 12, 12 * sizeof *e->offsets), 0);
    }
    smhf_encoding_free(e);
    smhf_tokenizer_free(tokenizer);
}

static void test_pairs(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_encoding *e = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_text_view texts[] = {utf8("a b")}, pairs[] = {utf8("c")};
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    options.want = SMHF_WANT_SEQUENCE_IDS;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, pairs, 1, &options, &e, &err), &err);
    check_ids(e, 0, IDS(CLS, A, B, SEP, C, SEP));
    const int32_t types[] = {0, 0, 0, 0, 1, 1};
    const int8_t sequences[] = {-1, 0, 0, -1, 1, -1};
    for (int i = 0; i < 6; i++) {
        CHECK_INT(e->type_ids[i], types[i]);
        CHECK_INT(e->sequence_ids[i], sequences[i]);
    }
    CHECK(e->offsets == NULL);
    smhf_encoding_free(e);
    smhf_tokenizer_free(tokenizer);
}

/* 7 words, 5 places, of which 2 for specials: windows of 3. */
static void test_windows(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_encoding *e = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_text_view texts[] = {utf8("a b c hello world a b"), utf8("c")};
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    options.truncation = SMHF_TRUNCATE_LONGEST_FIRST;
    options.max_length = 5;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 2, &options, &e, &err), &err);
    CHECK_INT(e->rows, 2);
    check_ids(e, 0, IDS(CLS, A, B, C, SEP));
    CHECK_INT(e->truncated[0], 1);
    CHECK_INT(e->truncated[1], 0);
    CHECK_INT(e->truncated_count, 1);
    smhf_encoding_free(e);

    options.overflow = 1;
    options.stride = 1;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 2, &options, &e, &err), &err);
    CHECK_INT(e->rows, 4);
    check_ids(e, 1, IDS(CLS, C, HELLO, WORLD, SEP));
    check_ids(e, 2, IDS(CLS, WORLD, A, B, SEP));
    const int32_t samples[] = {0, 0, 0, 1};
    for (int i = 0; i < 4; i++) {
        CHECK_INT(e->sample[i], samples[i]);
    }
    smhf_encoding_free(e);

    options.truncation_left = 1;
    options.stride = 0;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, &options, &e, &err), &err);
    CHECK_INT(e->rows, 3);
    check_ids(e, 0, IDS(CLS, WORLD, A, B, SEP));
    check_ids(e, 1, IDS(CLS, B, C, HELLO, SEP));
    check_ids(e, 2, IDS(CLS, A, SEP));
    smhf_encoding_free(e);
    smhf_tokenizer_free(tokenizer);
}

static void test_refusals(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_encoding *e = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    const uint16_t lone[] = {'a', 0xD800, 'b'};
    const uint32_t beyond[] = {0x110000};
    smhf_text_view texts[] = {utf8("a"), {lone, 3, 2}};
    CHECK_INT(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 2, NULL, &e, &err), SMHF_E_ARG);
    CHECK_STR(err.message, "texts[1]: lone surrogate U+D800 at character 1");
    CHECK(e == NULL);
    texts[0] = (smhf_text_view){beyond, 1, 4};
    CHECK_INT(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, NULL, &e, &err), SMHF_E_ARG);
    CHECK(strstr(err.message, "U+110000") != NULL);
    texts[0] = utf8("ok \xff");
    CHECK_INT(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, NULL, &e, &err), SMHF_E_ARG);
    CHECK_STR(err.message, "texts[0]: invalid UTF-8 at byte 3");
    CHECK_INT(err.offset, 3);

    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    texts[0] = utf8("a b c");
    texts[1] = utf8("b");
    options.truncation = SMHF_TRUNCATE_LONGEST_FIRST;
    options.max_length = 1;
    CHECK_INT(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, &options, &e, &err),
              SMHF_E_ARG);
    options.max_length = 4;
    options.stride = 2;
    CHECK_INT(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, &options, &e, &err),
              SMHF_E_ARG);
    CHECK(strstr(err.message, "stride 2") != NULL);
    options.stride = 0;
    options.truncation = SMHF_TRUNCATE_ONLY_SECOND;
    CHECK_INT(smhf_tokenizer_encode_batch(tokenizer, texts, texts + 1, 1, &options, &e, &err),
              SMHF_E_ARG);
    CHECK(strstr(err.message, "second") != NULL);
    /* NULL for err is allowed */
    CHECK_INT(smhf_tokenizer_encode_batch(tokenizer, texts, texts + 1, 1, &options, &e, NULL),
              SMHF_E_ARG);
    smhf_tokenizer_free(tokenizer);
}

static void test_fill(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_encoding *e = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_text_view texts[] = {utf8("a"), utf8("a b c")};
    int64_t wide[2 * 6];
    int32_t narrow[2 * 6];
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 2, NULL, &e, &err), &err);
    CHECK_OK(smhf_encoding_fill(e, SMHF_FIELD_IDS, wide, 8, 6, 77, 0, &err), &err);
    const int64_t right[] = {CLS, A, SEP, 77, 77, 77, CLS, A, B, C, SEP, 77};
    CHECK_INT(memcmp(wide, right, sizeof right), 0);
    CHECK_OK(smhf_encoding_fill(e, SMHF_FIELD_ATTENTION_MASK, narrow, 4, 6, 0, 1, &err), &err);
    const int32_t left[] = {0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1};
    CHECK_INT(memcmp(narrow, left, sizeof left), 0);
    CHECK_INT(smhf_encoding_fill(e, SMHF_FIELD_IDS, wide, 8, 4, 0, 0, &err), SMHF_E_ARG);
    CHECK_INT(smhf_encoding_fill(e, SMHF_FIELD_OFFSETS, wide, 8, 6, 0, 0, &err), SMHF_E_ARG);
    CHECK_INT(smhf_encoding_fill(e, SMHF_FIELD_IDS, wide, 2, 6, 0, 0, &err), SMHF_E_ARG);
    smhf_encoding_free(e);
    smhf_tokenizer_free(tokenizer);
}

static void test_words(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_encoding *e = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_text_view words[] = {utf8("a b"), utf8("hello"), utf8("unaffable")};
    const size_t starts[] = {0, 2, 2, 3};
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    options.word_starts = starts;
    options.want = SMHF_WANT_ALL;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, words, NULL, 3, &options, &e, &err), &err);
    check_ids(e, 0, IDS(CLS, A, B, HELLO, SEP));
    check_ids(e, 1, IDS(CLS, SEP));
    check_ids(e, 2, IDS(CLS, UN, AFF, ABLE, SEP));
    CHECK_INT(e->word_ids[1], 0);
    CHECK_INT(e->word_ids[2], 0);
    CHECK_INT(e->word_ids[3], 1);
    CHECK_INT(e->offsets[2 * 3], 0); /* spans are within the word */
    smhf_encoding_free(e);
    smhf_tokenizer_free(tokenizer);
}

static void test_vocabulary(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_tokenizer_info info;
    smhf_bytes_view token;
    smhf_tokenizer_describe(tokenizer, &info);
    CHECK_INT(info.vocab_size, 21);
    CHECK_INT(info.total_size, 21);
    CHECK_INT(info.role_ids[SMHF_TOKEN_CLS], CLS);
    CHECK_INT(info.specials_pair, 3);
    CHECK_INT(info.model_max_length, SMHF_UNSET);
    for (int32_t id = 0; id < 21; id++) {
        CHECK_INT(smhf_tokenizer_id_to_token(tokenizer, id, &token), 1);
        CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, token), id);
    }
    CHECK_INT(smhf_tokenizer_id_to_token(tokenizer, 21, &token), 0);
    CHECK_INT(smhf_tokenizer_id_to_token(tokenizer, -1, &token), 0);
    CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, bytes("nope")), -1);
    CHECK_INT(smhf_tokenizer_is_special(tokenizer, MASK), 1);
    CHECK_INT(smhf_tokenizer_is_special(tokenizer, HELLO), 0);
    smhf_tokenizer_free(tokenizer);
}

static void test_decode(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_buffer out;
    smhf_error err = SMHF_ERROR_INIT;
    const int32_t ids[] = {CLS, HELLO, COMMA, UN, AFF, ABLE, 999, BANG, SEP};
    smhf_buffer_init(&out, 0);
    CHECK_OK(smhf_tokenizer_decode(tokenizer, ids, 9, 1, SMHF_UNSET, &out, &err), &err);
    CHECK(smhf_bytes_equal_string(smhf_buffer_view(&out), "hello, unaffable!"));
    smhf_buffer_clear(&out);
    CHECK_OK(smhf_tokenizer_decode(tokenizer, ids, 9, 0, 0, &out, &err), &err);
    CHECK(smhf_bytes_equal_string(smhf_buffer_view(&out), "[CLS] hello , unaffable ! [SEP]"));
    smhf_buffer_clear(&out);
    CHECK_OK(smhf_tokenizer_decode(tokenizer, ids + 4, 1, 0, 1, &out, &err), &err);
    CHECK(smhf_bytes_equal_string(smhf_buffer_view(&out), "##aff")); /* the first keeps its ## */
    smhf_buffer_deinit(&out);
    smhf_tokenizer_free(tokenizer);
}

static void test_added_tokens(void) {
    smhf_tokenizer *plain = make(), *tokenizer = NULL;
    smhf_encoding *e = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_added_token tokens[] = {
        {.content = bytes("<x>"), .id = -1, .lstrip = 1, .special = 1},
        {.content = bytes("<xy>"), .id = -1, .special = 1},
        {.content = bytes("Caf\xc3\xa9"), .id = -1, .normalized = 1, .single_word = 1},
    };
    CHECK_OK(smhf_tokenizer_with_tokens(plain, tokens, 3, &tokenizer, &err), &err);
    smhf_tokenizer_free(plain); /* the copy does not lean on it */
    smhf_text_view texts[] = {utf8("a   <x>b<xy> CAFE, cafes")};
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    options.add_special_tokens = 0;
    options.want = SMHF_WANT_OFFSETS;
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, &options, &e, &err), &err);
    check_ids(e, 0, IDS(A, 21, B, 22, 23, COMMA, UNK));
    CHECK_INT(e->offsets[2], 1); /* lstrip took the spaces */
    CHECK_INT(e->offsets[3], 7);
    smhf_tokenizer_info info;
    smhf_tokenizer_describe(tokenizer, &info);
    CHECK_INT(info.total_size, 24);
    CHECK_INT(info.vocab_size, 21);
    smhf_encoding_free(e);
    smhf_tokenizer_free(tokenizer);
}

static const char JSON[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":1,\"content\":\"[CLS]\",\"special\":true,"
    "\"normalized\":false}],\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":false,"
    "\"strip_accents\":null,\"clean_text\":true,\"handle_chinese_chars\":true},"
    "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"post_processor\":{\"type\":"
    "\"BertProcessing\",\"sep\":[\"[SEP]\",2],\"cls\":[\"[CLS]\",1]},\"decoder\":{\"type\":"
    "\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},\"model\":{\"unk_token\":\"[UNK]\","
    "\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":3,\"vocab\":{\"[UNK]\":0,"
    "\"[CLS]\":1,\"[SEP]\":2,\"A\":3,\"##\\u00e9\":4,\"\\ud83d\\ude00\":9}}}";

static void test_json(void) {
    smhf_tokenizer *tokenizer = NULL;
    smhf_encoding *e = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(smhf_tokenizer_from_json(bytes(JSON), NULL, &tokenizer, &err), &err);
    smhf_text_view texts[] = {utf8("A\xc3\xa9 a \xf0\x9f\x98\x80 AAAA")};
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, NULL, &e, &err), &err);
    check_ids(e, 0, IDS(1, 3, 4, 0, 9, 0, 2));
    smhf_encoding_free(e);
    smhf_tokenizer_info info;
    smhf_tokenizer_describe(tokenizer, &info);
    CHECK_INT(info.vocab_size, 6);
    CHECK_INT(info.vocab_ids, 10);
    smhf_tokenizer_free(tokenizer);
}

/* Each damaged file is refused with the status and a word of the sentence. */
static void test_bad_files(void) {
    static const struct {
        const char *text, *word;
        smhf_status status;
    } cases[] = {
        {"", "", SMHF_E_PARSE},
        {"{}", "model", SMHF_E_PARSE},
        {"[]", "object", SMHF_E_PARSE},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "BPE", SMHF_E_UNSUPPORTED},
        {"{\"model\":{\"vocab\":{},\"merges\":[]}}", "BPE", SMHF_E_UNSUPPORTED},
        {"{\"model\":{\"unk_id\":0,\"vocab\":[[\"a\",0.5]]}}", "Unigram", SMHF_E_UNSUPPORTED},
        {"{\"model\":{\"type\":\"Unigram\"}}", "Unigram", SMHF_E_UNSUPPORTED},
        {"{\"model\":{\"vocab\":{},\"unk_token\":\"x\"}}", "WordLevel", SMHF_E_UNSUPPORTED},
        {"{\"normalizer\":{\"type\":\"NFC\"}}", "NFC", SMHF_E_UNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}", "ByteLevel", SMHF_E_UNSUPPORTED},
        {"{\"pre_tokenizer\":null}", "pre_tokenizer", SMHF_E_UNSUPPORTED},
        {"{\"decoder\":{\"type\":\"ByteLevel\"}}", "ByteLevel", SMHF_E_UNSUPPORTED},
        {"{\"post_processor\":{\"type\":\"RobertaProcessing\"}}", "Roberta", SMHF_E_UNSUPPORTED},
        {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
         "{\"id\":\"[X]\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}}",
         "[X]", SMHF_E_PARSE},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":-1}}}", "outside", SMHF_E_PARSE},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":1.5}}}", "", SMHF_E_PARSE},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":2000000000}},"
         "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}",
         "2000000000", SMHF_E_PARSE},
        {"{\"added_tokens\":[1]}", "added_tokens", SMHF_E_PARSE},
        {"{\"added_tokens\":[{\"id\":0}]}", "content", SMHF_E_PARSE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        smhf_tokenizer *tokenizer = NULL;
        smhf_error err = SMHF_ERROR_INIT;
        smhf_status status = smhf_tokenizer_from_json(bytes(cases[i].text), NULL, &tokenizer, &err);
        CHECK_INT(status, cases[i].status);
        CHECK(tokenizer == NULL);
        if (strstr(err.message, cases[i].word) == NULL || err.message[0] == '\0') {
            printf("  case %zu: \"%s\"\n", i, err.message);
            CHECK(0);
        }
    }
    /* every cut of a good file is an error, never a crash */
    for (size_t size = 0; size + 1 < sizeof JSON; size++) {
        smhf_tokenizer *tokenizer = NULL;
        smhf_bytes_view cut = {(const uint8_t *)JSON, size};
        CHECK(smhf_tokenizer_from_json(cut, NULL, &tokenizer, NULL) != SMHF_OK);
    }
}

static void test_bad_vocab(void) {
    smhf_tokenizer *tokenizer = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_INT(smhf_tokenizer_from_vocab(bytes(""), NULL, &tokenizer, &err), SMHF_E_PARSE);
    CHECK_INT(
        smhf_tokenizer_from_vocab(bytes("[UNK]\n[CLS]\n[SEP]\nab\xff\n"), NULL, &tokenizer, &err),
        SMHF_E_PARSE);
    CHECK_INT(err.offset, 20);
    CHECK(strstr(err.message, "line 4") != NULL);
    CHECK_INT(smhf_tokenizer_from_vocab(bytes("[CLS]\n[SEP]\na\n"), NULL, &tokenizer, &err),
              SMHF_E_PARSE);
    CHECK(strstr(err.message, "[UNK]") != NULL);
    CHECK_INT(smhf_tokenizer_from_vocab(bytes("[UNK]\n[SEP]\na\n"), NULL, &tokenizer, &err),
              SMHF_E_PARSE);
    CHECK(strstr(err.message, "[CLS]") != NULL);
    CHECK_INT(smhf_tokenizer_open("/nonexistent/vocab.txt", NULL, &tokenizer, &err), SMHF_E_IO);
    CHECK(strstr(err.message, "/nonexistent/vocab.txt") != NULL);
}

static void test_files(void) {
    char folder[] = "/tmp/smhf_tokenizer_XXXXXX";
    smhf_tokenizer *tokenizer = make(), *copy = NULL, *again = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_added_token token = {.content = bytes("<x>"), .id = -1, .special = 1};
    if (mkdtemp(folder) == NULL) {
        SKIP("no temporary folder");
    }
    CHECK_OK(smhf_tokenizer_with_tokens(tokenizer, &token, 1, &copy, &err), &err);
    CHECK_OK(smhf_tokenizer_save(copy, folder, &err), &err);
    CHECK_OK(smhf_tokenizer_open(folder, NULL, &again, &err), &err);
    CHECK_INT(smhf_tokenizer_token_to_id(again, bytes("<x>")), 21);
    CHECK_INT(smhf_tokenizer_token_to_id(again, bytes("##able")), ABLE);
    smhf_tokenizer_free(again);

    char path[128];
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    unlink(path); /* vocab.txt and tokenizer_config.json are left */
    CHECK_OK(smhf_tokenizer_open(folder, NULL, &again, &err), &err);
    CHECK_INT(smhf_tokenizer_token_to_id(again, bytes("<x>")), 21);
    smhf_tokenizer_free(again);
    const char *names[] = {"vocab.txt", "tokenizer_config.json", "special_tokens_map.json"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    CHECK_INT(smhf_tokenizer_open(folder, NULL, &again, &err), SMHF_E_IO);
    CHECK(strstr(err.message, "found neither") != NULL);
    rmdir(folder);
    smhf_tokenizer_free(copy);
    smhf_tokenizer_free(tokenizer);
}

static void test_train(void) {
    smhf_text_view texts[] = {utf8("low lower lowest"), utf8("LOW low newer newer newest")};
    smhf_wordpiece_options options = SMHF_WORDPIECE_DEFAULTS;
    smhf_buffer out, again;
    smhf_error err = SMHF_ERROR_INIT;
    smhf_tokenizer *tokenizer = NULL;
    smhf_buffer_init(&out, 0);
    smhf_buffer_init(&again, 0);
    options.vocab_size = 30;
    CHECK_OK(smhf_wordpiece_train(texts, 2, &options, &out, &err), &err);
    CHECK_OK(smhf_wordpiece_train(texts, 2, &options, &again, &err), &err);
    CHECK(smhf_bytes_equal(smhf_buffer_view(&out), smhf_buffer_view(&again)));
    CHECK_OK(smhf_tokenizer_from_vocab(smhf_buffer_view(&out), NULL, &tokenizer, &err), &err);
    CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, bytes("[MASK]")), 4);
    CHECK(smhf_tokenizer_token_to_id(tokenizer, bytes("low")) > 0);
    CHECK(smhf_tokenizer_token_to_id(tokenizer, bytes("LOW")) < 0);
    smhf_tokenizer_free(tokenizer);
    smhf_buffer_deinit(&out);
    smhf_buffer_deinit(&again);
}

/* --- Memory and threads ---------------------------------------------------------------------- */

/* Everything once; the status of the first failure, with nothing left behind. */
static smhf_status scenario(smhf_error *err) {
    smhf_tokenizer *vocab = NULL, *json = NULL, *more = NULL;
    smhf_encoding *e = NULL;
    smhf_buffer out;
    smhf_added_token token = {.content = bytes("Caf\xc3\xa9"), .id = -1, .normalized = 1};
    smhf_text_view texts[] = {utf8("a b c <x> hello caf\xc3\xa9 e\xe1\xad\x84\xcc\xb4 world"),
                              utf8("unaffable \xea\xb0\x80")};
    smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
    smhf_wordpiece_options training = SMHF_WORDPIECE_DEFAULTS;
    smhf_status status;
    training.vocab_size = 40;
    training.min_frequency = 1;
    smhf_buffer_init(&out, 0);
    options.want = SMHF_WANT_ALL;
    options.truncation = SMHF_TRUNCATE_LONGEST_FIRST;
    options.max_length = 7;
    options.overflow = 1;
    if ((status = smhf_tokenizer_from_vocab(bytes(VOCAB), NULL, &vocab, err)) != SMHF_OK ||
        (status = smhf_tokenizer_from_json(bytes(JSON), NULL, &json, err)) != SMHF_OK ||
        (status = smhf_tokenizer_with_tokens(vocab, &token, 1, &more, err)) != SMHF_OK ||
        (status = smhf_tokenizer_encode_batch(more, texts, texts, 2, &options, &e, err)) !=
            SMHF_OK ||
        (status = smhf_tokenizer_decode(more, e->ids, e->tokens, 0, 1, &out, err)) != SMHF_OK ||
        (status = smhf_wordpiece_train(texts, 2, &training, &out, err)) != SMHF_OK) {
        goto done;
    }

done:
    smhf_encoding_free(e);
    smhf_buffer_deinit(&out);
    smhf_tokenizer_free(vocab);
    smhf_tokenizer_free(json);
    smhf_tokenizer_free(more);
    return status;
}

static void test_out_of_memory(void) {
    smhf_error err = SMHF_ERROR_INIT;
    CHECK_OK(scenario(&err), &err); /* starts the pool, so that its own blocks are not counted */
    int64_t live = smhf_mem_live();
    for (uint64_t n = 1; n < 10000; n++) {
        smhf_error_clear(&err);
        smhf_mem_fail_at(n);
        smhf_status status = scenario(&err);
        int hit = smhf_mem_fail_hit();
        smhf_mem_fail_at(0);
        CHECK_INT(smhf_mem_live(), live);
        if (!hit) {
            CHECK_INT(status, SMHF_OK);
            CHECK(n > 100);
            return;
        }
        CHECK_INT(status, SMHF_E_NOMEM);
        CHECK(err.message[0] != '\0');
    }
    CHECK(0);
}

/* Batches of one size, whatever their options, and arrays made of them: nothing is allocated once
 * every thread has taken part. */
static void check_steady(int on_threads, int warm) {
    enum { ROWS = 900 };
    smhf_tokenizer *tokenizer = make();
    smhf_text_view *texts = malloc(ROWS * sizeof *texts);
    smhf_error err = SMHF_ERROR_INIT;
    uint64_t before = 0;
    int threads = smhf_pool_threads();
    smhf_pool_set_threads(on_threads);
    for (int i = 0; i < ROWS; i++) {
        texts[i] = utf8(i % 3 ? "Hello, unaffable world e\xcc\x81" : "a b c \xe4\xb8\xad zzz");
    }
    for (int i = 0; i < warm + 20; i++) {
        smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
        smhf_encoding *one = NULL, *all = NULL;
        if (i == warm) {
            before = smhf_mem_count();
        }
        CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, NULL, &one, &err), &err);
        options.want = (i % 2) ? SMHF_WANT_ALL : 0;
        options.truncation = SMHF_TRUNCATE_LONGEST_FIRST;
        options.max_length = 7;
        options.overflow = i % 4 == 3;
        options.padded_item_size = 8;
        CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, (i % 4) ? texts : NULL, ROWS,
                                             &options, &all, &err),
                 &err);
        size_t bytes = all->rows * all->longest * sizeof(int64_t);
        void *array = smhf_encoding_block_take(all, bytes);
        CHECK(array != NULL);
        CHECK_OK(smhf_encoding_fill(all, SMHF_FIELD_IDS, array, 8, all->longest, 0, 0, &err), &err);
        smhf_encoding_free(all); /* blocks may be given back in any order */
        smhf_encoding_block_give(array);
        smhf_encoding_free(one);
    }
    CHECK_INT(smhf_mem_count() - before, 0);
    smhf_pool_set_threads(threads);
    smhf_tokenizer_free(tokenizer);
    free(texts);
}

static void test_steady_state(void) {
    check_steady(1, 20);
    check_steady(2, 400); /* the second thread must have come in time for a chunk once */
}

/* Arrays that are made along with the rows are those that smhf_encoding_fill makes. */
static void test_padded_along(void) {
    enum { ROWS = 300 };
    smhf_tokenizer *tokenizer = make();
    smhf_text_view texts[ROWS];
    smhf_error err = SMHF_ERROR_INIT;
    for (int i = 0; i < ROWS; i++) {
        texts[i] = utf8(i % 5 ? (i % 2 ? "hello" : "") : "Hello, unaffable world");
    }
    for (int i = 0; i < 4; i++) {
        smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
        smhf_encoding *e = NULL;
        options.padded_item_size = (i & 1) ? 8 : 4;
        options.pad_left = i >> 1;
        options.pad_id = 77;
        CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, ROWS, &options, &e, &err),
                 &err);
        size_t bytes = e->rows * e->longest * options.padded_item_size;
        void *array = malloc(bytes);
        CHECK_OK(smhf_encoding_fill(e, SMHF_FIELD_IDS, array, options.padded_item_size, e->longest,
                                    77, options.pad_left, &err),
                 &err);
        CHECK(memcmp(array, e->padded_ids, bytes) == 0);
        CHECK_OK(smhf_encoding_fill(e, SMHF_FIELD_ATTENTION_MASK, array, options.padded_item_size,
                                    e->longest, 0, options.pad_left, &err),
                 &err);
        CHECK(memcmp(array, e->padded_mask, bytes) == 0);
        free(array);
        smhf_encoding_free(e);
    }
    smhf_encode_options wrong = SMHF_ENCODE_DEFAULTS;
    smhf_encoding *none = NULL;
    wrong.padded_item_size = 2;
    CHECK_INT(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, ROWS, &wrong, &none, &err),
              SMHF_E_ARG);
    smhf_tokenizer_free(tokenizer);
}

/* An encoding and its arrays may outlive the tokenizer; in the end nothing is left. */
static void test_blocks_outlive(void) {
    int64_t live = smhf_mem_live();
    smhf_tokenizer *tokenizer = make();
    smhf_text_view texts[] = {utf8("hello world")};
    smhf_error err = SMHF_ERROR_INIT;
    smhf_encoding *e[12];
    void *arrays[12];
    for (size_t i = 0; i < 12; i++) {
        CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 1, NULL, &e[i], &err), &err);
        arrays[i] = smhf_encoding_block_take(e[i], 100000 * (i + 1));
        memset(arrays[i], (int)i, 100000 * (i + 1));
    }
    smhf_tokenizer_free(tokenizer);
    for (size_t i = 0; i < 12; i++) {
        check_ids(e[i], 0, IDS(CLS, HELLO, WORLD, SEP));
        smhf_encoding_free(e[i]);
        CHECK_INT(((unsigned char *)arrays[i])[100000 * (i + 1) - 1], i);
        smhf_encoding_block_give(arrays[i]);
    }
    CHECK_INT(smhf_mem_live(), live);
}

/* Later entries win, also where an id was given twice; every kind of key is found again. */
static void test_keys(void) {
    static const char *const texts[] = {"[UNK]",
                                        "[CLS]",
                                        "[SEP]",
                                        "a",
                                        "abcdefgh",
                                        "abcdefghi",
                                        "abcdefghijklmnop",
                                        "abcdefghijklmnopq",
                                        "##a",
                                        "##abcdefghijklmnopqrstu",
                                        "##",
                                        "a.b",
                                        "##a.b",
                                        "a",
                                        "",
                                        "\xe4\xb8\xad\xe4\xb8\xad\xe4\xb8\xad"};
    enum { COUNT = sizeof texts / sizeof *texts };
    smhf_bytes_view tokens[COUNT], view;
    smhf_tokenizer *tokenizer = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    for (int i = 0; i < COUNT; i++) {
        tokens[i] = bytes(texts[i]);
    }
    CHECK_OK(smhf_tokenizer_from_tokens(tokens, COUNT, NULL, &tokenizer, &err), &err);
    for (int i = 0; i < COUNT; i++) {
        CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, tokens[i]), i == 3 ? 13 : i);
        CHECK_INT(smhf_tokenizer_id_to_token(tokenizer, i, &view), i != 3);
        CHECK(i == 3 || smhf_bytes_equal(view, tokens[i]));
    }
    CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, bytes("abcdefghijklmno")), -1);
    CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, bytes("##b")), -1);
    smhf_tokenizer_free(tokenizer);

    static const char TWICE[] =
        "{\"normalizer\":{\"type\":\"BertNormalizer\"},"
        "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
        "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\","
        "\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,\"vocab\":"
        "{\"[UNK]\":0,\"[CLS]\":1,\"[SEP]\":2,\"b\":5,\"a\":5,\"a\":6,\"c\":7,\"d\":7}}}";
    CHECK_OK(smhf_tokenizer_from_json(bytes(TWICE), NULL, &tokenizer, &err), &err);
    CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, bytes("a")), 6);
    CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, bytes("b")), 5);
    CHECK_INT(smhf_tokenizer_token_to_id(tokenizer, bytes("d")), 7);
    smhf_tokenizer_free(tokenizer);
}

typedef struct hammer {
    const smhf_tokenizer *tokenizer;
    int seed, wrong;
} hammer;

static void *hammer_thread(void *context) {
    hammer *h = context;
    smhf_text_view texts[40];
    for (int i = 0; i < 40; i++) {
        texts[i] = utf8((i + h->seed) % 2 ? "a b c hello" : "unaffable");
    }
    for (int round = 0; round < 50; round++) {
        smhf_encode_options options = SMHF_ENCODE_DEFAULTS;
        smhf_encoding *e = NULL;
        options.truncation = SMHF_TRUNCATE_LONGEST_FIRST;
        options.max_length = (size_t)(3 + (h->seed + round) % 3);
        if (smhf_tokenizer_encode_batch(h->tokenizer, texts, NULL, 40, &options, &e, NULL) !=
            SMHF_OK) {
            h->wrong++;
            continue;
        }
        for (size_t r = 0; r < e->rows; r++) {
            int odd = ((int)r + h->seed) % 2;
            size_t full = odd ? 6 : 5;
            size_t wanted = (options.max_length < full) ? options.max_length : full;
            h->wrong += (size_t)(e->cu_seqlens[r + 1] - e->cu_seqlens[r]) != wanted ||
                        e->ids[e->cu_seqlens[r] + 1] != (odd ? A : UN);
        }
        smhf_encoding_free(e);
    }
    return NULL;
}

static void test_threads(void) {
    smhf_tokenizer *tokenizer = make();
    pthread_t threads[8];
    hammer hammers[8];
    for (int i = 0; i < 8; i++) {
        hammers[i] = (hammer){tokenizer, i, 0};
        CHECK_INT(pthread_create(&threads[i], NULL, hammer_thread, &hammers[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        CHECK_INT(hammers[i].wrong, 0);
    }
    smhf_tokenizer_free(tokenizer);
}

/* Chunks are cut by the number of rows alone: one thread or four give the same bytes. */
static void test_thread_count(void) {
    smhf_tokenizer *tokenizer = make();
    smhf_text_view *texts = malloc(3000 * sizeof *texts);
    smhf_encoding *one = NULL, *four = NULL;
    smhf_error err = SMHF_ERROR_INIT;
    for (int i = 0; i < 3000; i++) {
        texts[i] = utf8(i % 3 ? (i % 5 ? "hello a" : "") : "unaffable, b!");
    }
    int before = smhf_pool_threads();
    smhf_pool_set_threads(1);
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 3000, NULL, &one, &err), &err);
    smhf_pool_set_threads(4);
    CHECK_OK(smhf_tokenizer_encode_batch(tokenizer, texts, NULL, 3000, NULL, &four, &err), &err);
    smhf_pool_set_threads(before);
    CHECK_INT(one->tokens, four->tokens);
    CHECK_INT(memcmp(one->ids, four->ids, one->tokens * sizeof *one->ids), 0);
    CHECK_INT(memcmp(one->cu_seqlens, four->cu_seqlens, 3001 * sizeof *one->cu_seqlens), 0);
    smhf_encoding_free(one);
    smhf_encoding_free(four);
    smhf_tokenizer_free(tokenizer);
    free(texts);
}

int main(void) {
    RUN(test_rows_and_spans);
    RUN(test_kinds_agree);
    RUN(test_pairs);
    RUN(test_windows);
    RUN(test_refusals);
    RUN(test_fill);
    RUN(test_words);
    RUN(test_vocabulary);
    RUN(test_decode);
    RUN(test_added_tokens);
    RUN(test_json);
    RUN(test_bad_files);
    RUN(test_bad_vocab);
    RUN(test_files);
    RUN(test_train);
    RUN(test_out_of_memory);
    RUN(test_steady_state);
    RUN(test_padded_along);
    RUN(test_blocks_outlive);
    RUN(test_keys);
    RUN(test_threads);
    RUN(test_thread_count);
    return smhf_test_finish();
}
