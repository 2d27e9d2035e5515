/* tokenizer_json.c: tokenizer.json, tokenizer_config.json and special_tokens_map.json → spec.
 *
 * Only what BERT tokenizers consist of is taken; any other model, normalizer, pre-tokenizer,
 * post-processor or decoder is refused by its name, never approximated.
 */
#include "tokenizer/tokenizer_internal.h"

#include "common/json.h"
#include "common/mem.h"

#include <string.h>

#define MAX_DEPTH 64

typedef struct parser {
    smhf_json_reader reader;
    smhf_tokenizer_spec *spec;
} parser;

typedef smhf_status (*field_reader)(parser *, smhf_bytes_view key, void *context, smhf_error *);

/* Reads the fields of an object whose opening brace was consumed. `key` is a copy that lives in
 * the spec's arena only when the reader asks for it; it must take exactly one value. */
static smhf_status read_fields(parser *p, field_reader field, void *context, smhf_error *err) {
    for (;;) {
        smhf_json_event event;
        smhf_bytes_view key;
        char name[64];
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            return SMHF_OK;
        }
        /* Keys are borrowed until the next event; the ones we know are short. */
        key.size = (event.text.size < sizeof name) ? event.text.size : 0;
        memcpy(name, event.text.data != NULL ? event.text.data : (const uint8_t *)"", key.size);
        key.data = (const uint8_t *)name;
        SMHF_TRY(field(p, key, context, err));
    }
}

/* An object, or null (then *present is 0). */
static smhf_status begin_object(parser *p, const char *what, int *present, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    *present = (event.kind == SMHF_JSON_OBJECT_BEGIN);
    if (!*present && event.kind != SMHF_JSON_NULL) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "%s at byte %zu: expected an object or null, found %s", what,
                            event.offset, smhf_json_kind_name(event.kind));
    }
    return SMHF_OK;
}

static smhf_status read_bool(parser *p, const char *what, int *out, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    if (event.kind != SMHF_JSON_TRUE && event.kind != SMHF_JSON_FALSE) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "%s at byte %zu: expected true or false, found %s", what, event.offset,
                            smhf_json_kind_name(event.kind));
    }
    *out = (event.kind == SMHF_JSON_TRUE);
    return SMHF_OK;
}

/* true, false, or null for "not said". */
static smhf_status read_tristate(parser *p, const char *what, int *out, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    switch (event.kind) {
    case SMHF_JSON_TRUE:
        *out = 1;
        return SMHF_OK;
    case SMHF_JSON_FALSE:
        *out = 0;
        return SMHF_OK;
    case SMHF_JSON_NULL:
        *out = SMHF_UNSET;
        return SMHF_OK;
    default:
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "%s at byte %zu: expected true, false or null, found %s", what,
                            event.offset, smhf_json_kind_name(event.kind));
    }
}

static smhf_status read_string(parser *p, const char *what, smhf_bytes_view *out, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_STRING, what, &event, err));
    return smhf_spec_copy(p->spec, event.text, out, err);
}

static smhf_status read_int(parser *p, const char *what, int64_t low, int64_t high, int64_t *out,
                            smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_NUMBER, what, &event, err));
    SMHF_TRY(smhf_json_int64(&event, what, out, err));
    if (*out < low || *out > high) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "%s at byte %zu: %lld is outside %lld to %lld", what, event.offset,
                            (long long)*out, (long long)low, (long long)high);
    }
    return SMHF_OK;
}

static int is(smhf_bytes_view key, const char *name) {
    return smhf_bytes_equal_string(key, name);
}

/* The "type" of a part: one of `known`, else refused by name. */
static smhf_status read_type(parser *p, const char *what, const char *const *known, int *out,
                             smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_STRING, what, &event, err));
    for (int i = 0; known[i] != NULL; i++) {
        if (is(event.text, known[i])) {
            *out = i;
            return SMHF_OK;
        }
    }
    return smhf_fail_at(err, SMHF_E_UNSUPPORTED, event.offset,
                        "%s \"%.*s\" is not supported, only %s%s%s (byte %zu)", what,
                        (int)(event.text.size < 60 ? event.text.size : 60),
                        (const char *)event.text.data, known[0], known[1] != NULL ? " and " : "",
                        known[1] != NULL ? known[1] : "", event.offset);
}

static smhf_status missing_type(const char *what, smhf_error *err) {
    return smhf_fail(err, SMHF_E_PARSE, "%s: field \"type\" is missing", what);
}

/* --- added_tokens -------------------------------------------------------------------------------
 */

static smhf_status added_field(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    smhf_added_token *token = context;
    int64_t id;
    if (is(key, "content")) {
        return read_string(p, "added_tokens content", &token->content, err);
    }
    if (is(key, "id")) {
        SMHF_TRY(read_int(p, "added_tokens id", 0, INT32_MAX, &id, err));
        token->id = (int32_t)id;
        return SMHF_OK;
    }
    int *flag = is(key, "single_word")  ? &token->single_word
                : is(key, "lstrip")     ? &token->lstrip
                : is(key, "rstrip")     ? &token->rstrip
                : is(key, "normalized") ? &token->normalized
                : is(key, "special")    ? &token->special
                                        : NULL;
    return (flag != NULL) ? read_bool(p, "added_tokens flag", flag, err)
                          : smhf_json_skip(&p->reader, err);
}

static smhf_status read_added_tokens(parser *p, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    if (event.kind == SMHF_JSON_NULL) {
        return SMHF_OK;
    }
    if (event.kind != SMHF_JSON_ARRAY_BEGIN) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "added_tokens at byte %zu: expected an array, found %s", event.offset,
                            smhf_json_kind_name(event.kind));
    }
    for (;;) {
        smhf_added_token token = {.content = {NULL, 0}, .id = -1, .normalized = 1};
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_ARRAY_END) {
            return SMHF_OK;
        }
        if (event.kind != SMHF_JSON_OBJECT_BEGIN) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "added_tokens at byte %zu: expected objects, found %s",
                                event.offset, smhf_json_kind_name(event.kind));
        }
        SMHF_TRY(read_fields(p, added_field, &token, err));
        if (token.content.data == NULL) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "added token at byte %zu has no content", event.offset);
        }
        SMHF_TRY(smhf_spec_add_token(p->spec, &token, err));
    }
}

/* --- normalizer, pre_tokenizer, decoder ----------------------------------------------------------
 */

static const char *const bert_normalizer[] = {"BertNormalizer", NULL};
static const char *const bert_pre_tokenizer[] = {"BertPreTokenizer", NULL};
static const char *const wordpiece[] = {"WordPiece", NULL};

static smhf_status normalizer_field(parser *p, smhf_bytes_view key, void *context,
                                    smhf_error *err) {
    smhf_tokenizer_spec *spec = p->spec;
    if (is(key, "type")) {
        int ignored;
        *(int *)context = 1;
        return read_type(p, "normalizer", bert_normalizer, &ignored, err);
    }
    if (is(key, "clean_text")) {
        return read_bool(p, "clean_text", &spec->clean, err);
    }
    if (is(key, "handle_chinese_chars")) {
        return read_bool(p, "handle_chinese_chars", &spec->cjk, err);
    }
    if (is(key, "strip_accents")) {
        return read_tristate(p, "strip_accents", &spec->strip, err);
    }
    if (is(key, "lowercase")) {
        return read_bool(p, "lowercase", &spec->lower, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_normalizer(parser *p, smhf_error *err) {
    int present, typed = 0;
    SMHF_TRY(begin_object(p, "normalizer", &present, err));
    if (!present) {
        p->spec->clean = p->spec->cjk = p->spec->strip = p->spec->lower = 0;
        return SMHF_OK;
    }
    SMHF_TRY(read_fields(p, normalizer_field, &typed, err));
    return typed ? SMHF_OK : missing_type("normalizer", err);
}

static smhf_status pre_tokenizer_field(parser *p, smhf_bytes_view key, void *context,
                                       smhf_error *err) {
    int ignored;
    if (is(key, "type")) {
        *(int *)context = 1;
        return read_type(p, "pre_tokenizer", bert_pre_tokenizer, &ignored, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_pre_tokenizer(parser *p, smhf_error *err) {
    int present, typed = 0;
    SMHF_TRY(begin_object(p, "pre_tokenizer", &present, err));
    if (!present) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "pre_tokenizer null is not supported, only BertPreTokenizer");
    }
    SMHF_TRY(read_fields(p, pre_tokenizer_field, &typed, err));
    return typed ? SMHF_OK : missing_type("pre_tokenizer", err);
}

static smhf_status decoder_field(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    int ignored;
    if (is(key, "type")) {
        *(int *)context = 1;
        return read_type(p, "decoder", wordpiece, &ignored, err);
    }
    if (is(key, "prefix")) {
        return read_string(p, "decoder prefix", &p->spec->decoder_prefix, err);
    }
    if (is(key, "cleanup")) {
        return read_bool(p, "decoder cleanup", &p->spec->decoder_cleanup, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_decoder(parser *p, smhf_error *err) {
    int typed = 0;
    SMHF_TRY(begin_object(p, "decoder", &p->spec->has_decoder, err));
    if (!p->spec->has_decoder) {
        return SMHF_OK;
    }
    SMHF_TRY(read_fields(p, decoder_field, &typed, err));
    return typed ? SMHF_OK : missing_type("decoder", err);
}

/* --- post_processor ------------------------------------------------------------------------------
 */

#define MAX_SPECIAL_IDS 8
#define MAX_SPECIALS 16

typedef struct special {
    smhf_bytes_view name;
    int32_t ids[MAX_SPECIAL_IDS];
    int count;
} special;

typedef struct raw_piece {
    smhf_bytes_view name; /* of a special token, or "A" / "B" */
    int is_sequence;
    int64_t type_id;
} raw_piece;

typedef struct raw_template {
    raw_piece pieces[SMHF_TEMPLATE_MAX];
    int count;
} raw_template;

typedef struct processor {
    int type; /* -1: not said */
    raw_template single, pair;
    special specials[MAX_SPECIALS];
    int special_count;
    special sep, cls; /* BertProcessing */
} processor;

static smhf_status piece_field(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    raw_piece *piece = context;
    if (is(key, "id")) {
        return read_string(p, "post_processor piece id", &piece->name, err);
    }
    if (is(key, "type_id")) {
        return read_int(p, "post_processor type_id", 0, INT32_MAX, &piece->type_id, err);
    }
    return smhf_json_skip(&p->reader, err);
}

/* {"SpecialToken": {"id": …, "type_id": …}} or {"Sequence": {…}} */
static smhf_status piece_kind(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    raw_piece *piece = context;
    smhf_json_event event;
    if (is(key, "SpecialToken") || is(key, "Sequence")) {
        piece->is_sequence = is(key, "Sequence");
        SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "post_processor piece",
                                  &event, err));
        return read_fields(p, piece_field, piece, err);
    }
    return smhf_fail(err, SMHF_E_UNSUPPORTED,
                     "post_processor piece \"%.*s\" is not supported, "
                     "only SpecialToken and Sequence",
                     (int)key.size, (const char *)key.data);
}

static smhf_status read_template(parser *p, raw_template *out, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_ARRAY_BEGIN, "post_processor template", &event,
                              err));
    for (;;) {
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_ARRAY_END) {
            return SMHF_OK;
        }
        if (event.kind != SMHF_JSON_OBJECT_BEGIN) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "post_processor template at byte %zu: expected objects, found %s",
                                event.offset, smhf_json_kind_name(event.kind));
        }
        if (out->count == SMHF_TEMPLATE_MAX) {
            return smhf_fail(err, SMHF_E_UNSUPPORTED,
                             "post_processor template of more than %d "
                             "pieces",
                             SMHF_TEMPLATE_MAX);
        }
        raw_piece *piece = &out->pieces[out->count++];
        SMHF_TRY(read_fields(p, piece_kind, piece, err));
        if (piece->name.data == NULL) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "post_processor piece at byte %zu has no id", event.offset);
        }
    }
}

static smhf_status read_ids(parser *p, special *out, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_ARRAY_BEGIN, "special token ids", &event, err));
    for (;;) {
        int64_t id;
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_ARRAY_END) {
            return SMHF_OK;
        }
        if (event.kind != SMHF_JSON_NUMBER) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "special token ids at byte %zu: expected numbers, found %s",
                                event.offset, smhf_json_kind_name(event.kind));
        }
        SMHF_TRY(smhf_json_int64(&event, "special token id", &id, err));
        if (id < 0 || id > INT32_MAX || out->count == MAX_SPECIAL_IDS) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "special token id %lld at byte %zu: out of range, or more than %d "
                                "ids",
                                (long long)id, event.offset, MAX_SPECIAL_IDS);
        }
        out->ids[out->count++] = (int32_t)id;
    }
}

static smhf_status special_field(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    return is(key, "ids") ? read_ids(p, context, err) : smhf_json_skip(&p->reader, err);
}

/* {"[CLS]": {"id": "[CLS]", "ids": [101], "tokens": ["[CLS]"]}, …} */
static smhf_status read_specials(parser *p, processor *out, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "post_processor special_tokens",
                              &event, err));
    for (;;) {
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            return SMHF_OK;
        }
        if (out->special_count == MAX_SPECIALS) {
            return smhf_fail(err, SMHF_E_UNSUPPORTED,
                             "post_processor with more than %d special "
                             "tokens",
                             MAX_SPECIALS);
        }
        special *token = &out->specials[out->special_count++];
        SMHF_TRY(smhf_spec_copy(p->spec, event.text, &token->name, err));
        SMHF_TRY(
            smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "special token", &event, err));
        SMHF_TRY(read_fields(p, special_field, token, err));
    }
}

/* ["[SEP]", 102] */
static smhf_status read_token_and_id(parser *p, special *out, smhf_error *err) {
    smhf_json_event event;
    int64_t id;
    SMHF_TRY(
        smhf_json_expect(&p->reader, SMHF_JSON_ARRAY_BEGIN, "BertProcessing token", &event, err));
    SMHF_TRY(read_string(p, "BertProcessing token", &out->name, err));
    SMHF_TRY(read_int(p, "BertProcessing id", 0, INT32_MAX, &id, err));
    out->ids[0] = (int32_t)id;
    out->count = 1;
    return smhf_json_expect(&p->reader, SMHF_JSON_ARRAY_END, "BertProcessing token", &event, err);
}

static smhf_status processor_field(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    static const char *const known[] = {"TemplateProcessing", "BertProcessing", NULL};
    processor *out = context;
    if (is(key, "type")) {
        return read_type(p, "post_processor", known, &out->type, err);
    }
    if (is(key, "single")) {
        return read_template(p, &out->single, err);
    }
    if (is(key, "pair")) {
        return read_template(p, &out->pair, err);
    }
    if (is(key, "special_tokens")) {
        return read_specials(p, out, err);
    }
    if (is(key, "sep")) {
        return read_token_and_id(p, &out->sep, err);
    }
    if (is(key, "cls")) {
        return read_token_and_id(p, &out->cls, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status append(smhf_template *out, int32_t sequence, int32_t id, int32_t type_id,
                          smhf_error *err) {
    if (out->count == SMHF_TEMPLATE_MAX) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED, "post_processor template of more than %d tokens",
                         SMHF_TEMPLATE_MAX);
    }
    out->pieces[out->count++] = (smhf_template_piece){sequence, id, type_id};
    out->specials += (sequence < 0);
    return SMHF_OK;
}

static smhf_status resolve(const processor *from, const raw_template *raw, const char *what,
                           int sequences, smhf_template *out, smhf_error *err) {
    int seen[2] = {0, 0};
    for (int i = 0; i < raw->count; i++) {
        const raw_piece *piece = &raw->pieces[i];
        if (piece->is_sequence) {
            int sequence = is(piece->name, "B");
            if ((!sequence && !is(piece->name, "A")) || sequence >= sequences ||
                seen[sequence]++ > 0) {
                return smhf_fail(err, SMHF_E_UNSUPPORTED,
                                 "post_processor template \"%s\": "
                                 "sequence \"%.*s\" is unknown here or comes twice",
                                 what, (int)piece->name.size, (const char *)piece->name.data);
            }
            SMHF_TRY(append(out, sequence, -1, (int32_t)piece->type_id, err));
            continue;
        }
        const special *found = NULL;
        for (int k = 0; k < from->special_count; k++) {
            if (smhf_bytes_equal(from->specials[k].name, piece->name)) {
                found = &from->specials[k];
            }
        }
        if (found == NULL) {
            return smhf_fail(err, SMHF_E_PARSE,
                             "post_processor template \"%s\": special token "
                             "\"%.*s\" is not among special_tokens",
                             what, (int)piece->name.size, (const char *)piece->name.data);
        }
        for (int k = 0; k < found->count; k++) {
            SMHF_TRY(append(out, -1, found->ids[k], (int32_t)piece->type_id, err));
        }
    }
    for (int sequence = 0; sequence < sequences; sequence++) {
        if (!seen[sequence]) {
            return smhf_fail(err, SMHF_E_UNSUPPORTED,
                             "post_processor template \"%s\" has no "
                             "sequence \"%c\"",
                             what, 'A' + sequence);
        }
    }
    return SMHF_OK;
}

static smhf_status bert_templates(const processor *from, smhf_tokenizer_spec *spec,
                                  smhf_error *err) {
    if (from->sep.count == 0 || from->cls.count == 0) {
        return smhf_fail(err, SMHF_E_PARSE, "BertProcessing: expected the fields sep and cls");
    }
    for (int pair = 0; pair < 2; pair++) {
        smhf_template *out = pair ? &spec->pair : &spec->single;
        SMHF_TRY(append(out, -1, from->cls.ids[0], 0, err));
        SMHF_TRY(append(out, 0, -1, 0, err));
        SMHF_TRY(append(out, -1, from->sep.ids[0], 0, err));
        if (pair) {
            SMHF_TRY(append(out, 1, -1, 1, err));
            SMHF_TRY(append(out, -1, from->sep.ids[0], 1, err));
        }
    }
    return SMHF_OK;
}

static smhf_status read_post_processor(parser *p, smhf_error *err) {
    smhf_tokenizer_spec *spec = p->spec;
    processor *from;
    int present;
    memset(&spec->single, 0, sizeof spec->single);
    memset(&spec->pair, 0, sizeof spec->pair);
    spec->has_template = 1;
    SMHF_TRY(begin_object(p, "post_processor", &present, err));
    if (!present) {
        SMHF_TRY(append(&spec->single, 0, -1, 0, err));
        SMHF_TRY(append(&spec->pair, 0, -1, 0, err));
        return append(&spec->pair, 1, -1, 1, err);
    }
    from = smhf_arena_calloc(&spec->arena, 1, sizeof *from);
    if (from == NULL) {
        return smhf_fail_nomem(err, "post_processor", sizeof *from);
    }
    from->type = -1;
    SMHF_TRY(read_fields(p, processor_field, from, err));
    if (from->type < 0) {
        return missing_type("post_processor", err);
    }
    if (from->type == 1) {
        return bert_templates(from, spec, err);
    }
    SMHF_TRY(resolve(from, &from->single, "single", 1, &spec->single, err));
    return resolve(from, &from->pair, "pair", 2, &spec->pair, err);
}

/* --- model ---------------------------------------------------------------------------------------
 */

typedef struct model_seen {
    int typed, vocab, unk, prefix, max_chars;
} model_seen;

static smhf_status read_model_vocab(parser *p, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    if (event.kind == SMHF_JSON_ARRAY_BEGIN) {
        return smhf_fail_at(err, SMHF_E_UNSUPPORTED, event.offset,
                            "model \"Unigram\" (a list as "
                            "vocabulary) is not supported, only WordPiece (byte %zu)",
                            event.offset);
    }
    if (event.kind != SMHF_JSON_OBJECT_BEGIN) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "model vocab at byte %zu: expected an object, found %s", event.offset,
                            smhf_json_kind_name(event.kind));
    }
    for (;;) {
        smhf_bytes_view token;
        int64_t id;
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            return SMHF_OK;
        }
        SMHF_TRY(smhf_spec_copy(p->spec, event.text, &token, err));
        SMHF_TRY(read_int(p, "model vocab id", 0, INT32_MAX, &id, err));
        SMHF_TRY(smhf_spec_add_entry(p->spec, token, (int32_t)id, err));
    }
}

static smhf_status model_field(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    model_seen *seen = context;
    int ignored;
    if (is(key, "type")) {
        seen->typed = 1;
        return read_type(p, "model", wordpiece, &ignored, err);
    }
    if (is(key, "merges")) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED, "model \"BPE\" is not supported, only WordPiece");
    }
    if (is(key, "unk_token")) {
        seen->unk = 1;
        return read_string(p, "model unk_token", &p->spec->unk_token, err);
    }
    if (is(key, "continuing_subword_prefix")) {
        seen->prefix = 1;
        return read_string(p, "model continuing_subword_prefix", &p->spec->prefix, err);
    }
    if (is(key, "max_input_chars_per_word")) {
        seen->max_chars = 1;
        return read_int(p, "model max_input_chars_per_word", 0, INT32_MAX, &p->spec->max_word_chars,
                        err);
    }
    if (is(key, "vocab")) {
        seen->vocab = 1;
        return read_model_vocab(p, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_model(parser *p, smhf_error *err) {
    model_seen seen = {0};
    int present;
    SMHF_TRY(begin_object(p, "model", &present, err));
    if (present) {
        SMHF_TRY(read_fields(p, model_field, &seen, err));
    }
    if (!present || !seen.vocab) {
        return smhf_fail(err, SMHF_E_PARSE, "model: field \"vocab\" is missing");
    }
    /* Old files omit the type: then only a WordPiece model has all three of these. */
    if (!seen.typed && !(seen.unk && seen.prefix && seen.max_chars)) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "model without type and without the fields of "
                         "WordPiece (unk_token, continuing_subword_prefix, "
                         "max_input_chars_per_word): probably WordLevel");
    }
    return SMHF_OK;
}

/* --- The file ------------------------------------------------------------------------------------
 */

typedef struct top_seen {
    int model, pre_tokenizer, normalizer, decoder, processor;
} top_seen;

static smhf_status top_field(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    top_seen *seen = context;
    if (is(key, "added_tokens")) {
        return read_added_tokens(p, err);
    }
    if (is(key, "normalizer")) {
        seen->normalizer = 1;
        return read_normalizer(p, err);
    }
    if (is(key, "pre_tokenizer")) {
        seen->pre_tokenizer = 1;
        return read_pre_tokenizer(p, err);
    }
    if (is(key, "post_processor")) {
        seen->processor = 1;
        return read_post_processor(p, err);
    }
    if (is(key, "decoder")) {
        seen->decoder = 1;
        return read_decoder(p, err);
    }
    if (is(key, "model")) {
        seen->model = 1;
        return read_model(p, err);
    }
    /* truncation and padding are arguments of a call here, so the file's are not taken */
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_top(parser *p, smhf_error *err) {
    smhf_json_event event;
    top_seen seen = {0};
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "tokenizer", &event, err));
    SMHF_TRY(read_fields(p, top_field, &seen, err));
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_END, "end of the tokenizer", &event, err));
    if (!seen.model) {
        return smhf_fail(err, SMHF_E_PARSE, "field \"model\" is missing: not a tokenizer.json");
    }
    if (!seen.pre_tokenizer) {
        return smhf_fail(err, SMHF_E_PARSE, "field \"pre_tokenizer\" is missing");
    }
    if (!seen.normalizer) {
        p->spec->clean = p->spec->cjk = p->spec->strip = p->spec->lower = 0;
    }
    if (!seen.decoder) {
        p->spec->has_decoder = 0;
    }
    if (!seen.processor) {
        p->spec->has_template = 1;
        SMHF_TRY(append(&p->spec->single, 0, -1, 0, err));
        SMHF_TRY(append(&p->spec->pair, 0, -1, 0, err));
        SMHF_TRY(append(&p->spec->pair, 1, -1, 1, err));
    }
    return SMHF_OK;
}

static smhf_status with_parser(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                               smhf_status (*read)(parser *, smhf_error *), smhf_error *err) {
    parser p = {.spec = spec};
    smhf_json_reader_init(&p.reader, text, MAX_DEPTH, 0);
    smhf_status status = read(&p, err);
    smhf_json_reader_deinit(&p.reader);
    return status;
}

smhf_status smhf_spec_read_tokenizer_json(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                                          smhf_error *err) {
    return with_parser(spec, text, read_top, err);
}

/* --- tokenizer_config.json, special_tokens_map.json ----------------------------------------------
 */

static smhf_status token_content(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    return is(key, "content") ? read_string(p, "token content", context, err)
                              : smhf_json_skip(&p->reader, err);
}

/* A token as "text", {"content": "text", …} or null. */
static smhf_status read_token(parser *p, const char *what, smhf_bytes_view *out, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    switch (event.kind) {
    case SMHF_JSON_STRING:
        return smhf_spec_copy(p->spec, event.text, out, err);
    case SMHF_JSON_OBJECT_BEGIN:
        return read_fields(p, token_content, out, err);
    case SMHF_JSON_NULL:
        return SMHF_OK;
    default:
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "%s at byte %zu: expected a token, found %s", what, event.offset,
                            smhf_json_kind_name(event.kind));
    }
}

static smhf_status read_side(parser *p, const char *what, int *left, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_STRING, what, &event, err));
    if (!is(event.text, "left") && !is(event.text, "right")) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "%s at byte %zu: expected \"left\" or \"right\", found \"%.*s\"", what,
                            event.offset, (int)(event.text.size < 40 ? event.text.size : 40),
                            (const char *)event.text.data);
    }
    *left = is(event.text, "left");
    return SMHF_OK;
}

/* model_max_length may be 1e30, an integer of 31 digits, or null: all of them "none". */
static smhf_status read_max_length(parser *p, int64_t *out, smhf_error *err) {
    smhf_json_event event;
    double value;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    if (event.kind == SMHF_JSON_NULL) {
        *out = SMHF_UNSET;
        return SMHF_OK;
    }
    if (event.kind != SMHF_JSON_NUMBER) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "model_max_length at byte %zu: expected a number, found %s",
                            event.offset, smhf_json_kind_name(event.kind));
    }
    SMHF_TRY(smhf_json_double(&event, "model_max_length", &value, err));
    *out = (value >= 1 && value < 1e9) ? (int64_t)value : SMHF_UNSET;
    return SMHF_OK;
}

/* added_tokens_decoder: {"30522": {"content": …, flags}, …}; tokens the file above did not list. */
static smhf_status read_added_decoder(parser *p, smhf_error *err) {
    smhf_json_event event;
    int present;
    SMHF_TRY(begin_object(p, "added_tokens_decoder", &present, err));
    while (present) {
        smhf_added_token token = {.content = {NULL, 0}, .id = -1};
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "added_tokens_decoder",
                                  &event, err));
        SMHF_TRY(read_fields(p, added_field, &token, err));
        if (token.content.data != NULL) {
            SMHF_TRY(smhf_spec_add_token(p->spec, &token, err));
        }
    }
    return SMHF_OK;
}

/* {"image_token": "<image>", …} of newer files. */
static smhf_status named_token(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    smhf_added_token token = {.content = {NULL, 0}, .id = -1, .special = 1};
    (void)key;
    (void)context;
    SMHF_TRY(read_token(p, "extra_special_tokens", &token.content, err));
    return (token.content.data != NULL) ? smhf_spec_add_token(p->spec, &token, err) : SMHF_OK;
}

static smhf_status read_additional(parser *p, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    if (event.kind == SMHF_JSON_NULL) {
        return SMHF_OK;
    }
    if (event.kind == SMHF_JSON_OBJECT_BEGIN) {
        return read_fields(p, named_token, NULL, err);
    }
    if (event.kind != SMHF_JSON_ARRAY_BEGIN) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "additional_special_tokens at byte %zu: expected an array, found %s",
                            event.offset, smhf_json_kind_name(event.kind));
    }
    for (;;) {
        smhf_added_token token = {.content = {NULL, 0}, .id = -1, .special = 1};
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_ARRAY_END) {
            return SMHF_OK;
        }
        if (event.kind == SMHF_JSON_STRING) {
            SMHF_TRY(smhf_spec_copy(p->spec, event.text, &token.content, err));
        } else if (event.kind == SMHF_JSON_OBJECT_BEGIN) {
            SMHF_TRY(read_fields(p, added_field, &token, err));
        } else {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "additional_special_tokens at byte %zu: expected tokens, found %s",
                                event.offset, smhf_json_kind_name(event.kind));
        }
        token.special = 1;
        if (token.content.data != NULL) {
            SMHF_TRY(smhf_spec_add_token(p->spec, &token, err));
        }
    }
}

static smhf_status config_field(parser *p, smhf_bytes_view key, void *context, smhf_error *err) {
    smhf_tokenizer_spec *spec = p->spec;
    (void)context;
    for (int role = 0; role < SMHF_TOKEN_ROLES; role++) {
        if (is(key, smhf_role_names[role])) {
            return read_token(p, smhf_role_names[role], &spec->roles[role], err);
        }
    }
    if (is(key, "do_lower_case")) {
        return read_tristate(p, "do_lower_case", &spec->lower, err);
    }
    if (is(key, "strip_accents")) {
        return read_tristate(p, "strip_accents", &spec->strip, err);
    }
    if (is(key, "tokenize_chinese_chars")) {
        return read_tristate(p, "tokenize_chinese_chars", &spec->cjk, err);
    }
    if (is(key, "model_max_length")) {
        return read_max_length(p, &spec->model_max_length, err);
    }
    if (is(key, "padding_side")) {
        return read_side(p, "padding_side", &spec->padding_left, err);
    }
    if (is(key, "truncation_side")) {
        return read_side(p, "truncation_side", &spec->truncation_left, err);
    }
    if (is(key, "added_tokens_decoder")) {
        return read_added_decoder(p, err);
    }
    if (is(key, "additional_special_tokens") || is(key, "extra_special_tokens")) {
        return read_additional(p, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_config(parser *p, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "configuration", &event, err));
    SMHF_TRY(read_fields(p, config_field, NULL, err));
    return smhf_json_expect(&p->reader, SMHF_JSON_END, "end of the configuration", &event, err);
}

smhf_status smhf_spec_read_config_json(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                                       smhf_error *err) {
    return with_parser(spec, text, read_config, err);
}
