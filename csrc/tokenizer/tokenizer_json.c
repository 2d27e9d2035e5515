/* tokenizer_json.c: tokenizer.json → spec.
 *
 * Only what BERT tokenizers consist of is taken; any other model, normalizer, pre-tokenizer,
 * post-processor or decoder is refused by its name, never approximated.
 */
#include "tokenizer/json_fields.h"

#include <string.h>

static smhf_status missing_type(const char *what, smhf_error *err) {
    return smhf_fail(err, SMHF_E_PARSE, "%s: field \"type\" is missing", what);
}

/* --- added_tokens ---------------------------------------------------------------------------- */

static smhf_status read_added_tokens(smhf_fields *p, smhf_error *err) {
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
        SMHF_TRY(smhf_fields_read(p, smhf_fields_added_token, &token, err));
        if (token.content.data == NULL) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "added token at byte %zu has no content", event.offset);
        }
        SMHF_TRY(smhf_spec_add_token(p->spec, &token, err));
    }
}

/* --- normalizer, pre_tokenizer, decoder ------------------------------------------------------ */

static const char *const bert_normalizer[] = {"BertNormalizer", NULL};
static const char *const bert_pre_tokenizer[] = {"BertPreTokenizer", NULL};
static const char *const wordpiece[] = {"WordPiece", NULL};

static smhf_status normalizer_field(smhf_fields *p, smhf_bytes_view key, void *context,
                                    smhf_error *err) {
    smhf_tokenizer_spec *spec = p->spec;
    if (smhf_fields_is(key, "type")) {
        int ignored;
        *(int *)context = 1;
        return smhf_fields_type(p, "normalizer", bert_normalizer, &ignored, err);
    }
    if (smhf_fields_is(key, "clean_text")) {
        return smhf_fields_bool(p, "clean_text", &spec->clean, err);
    }
    if (smhf_fields_is(key, "handle_chinese_chars")) {
        return smhf_fields_bool(p, "handle_chinese_chars", &spec->cjk, err);
    }
    if (smhf_fields_is(key, "strip_accents")) {
        return smhf_fields_tristate(p, "strip_accents", &spec->strip, err);
    }
    if (smhf_fields_is(key, "lowercase")) {
        return smhf_fields_bool(p, "lowercase", &spec->lower, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_normalizer(smhf_fields *p, smhf_error *err) {
    int present, typed = 0;
    SMHF_TRY(smhf_fields_object(p, "normalizer", &present, err));
    if (!present) {
        p->spec->clean = p->spec->cjk = p->spec->strip = p->spec->lower = 0;
        return SMHF_OK;
    }
    SMHF_TRY(smhf_fields_read(p, normalizer_field, &typed, err));
    return typed ? SMHF_OK : missing_type("normalizer", err);
}

static smhf_status pre_tokenizer_field(smhf_fields *p, smhf_bytes_view key, void *context,
                                       smhf_error *err) {
    int ignored;
    if (smhf_fields_is(key, "type")) {
        *(int *)context = 1;
        return smhf_fields_type(p, "pre_tokenizer", bert_pre_tokenizer, &ignored, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_pre_tokenizer(smhf_fields *p, smhf_error *err) {
    int present, typed = 0;
    SMHF_TRY(smhf_fields_object(p, "pre_tokenizer", &present, err));
    if (!present) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED,
                         "pre_tokenizer null is not supported, only BertPreTokenizer");
    }
    SMHF_TRY(smhf_fields_read(p, pre_tokenizer_field, &typed, err));
    return typed ? SMHF_OK : missing_type("pre_tokenizer", err);
}

static smhf_status decoder_field(smhf_fields *p, smhf_bytes_view key, void *context,
                                 smhf_error *err) {
    int ignored;
    if (smhf_fields_is(key, "type")) {
        *(int *)context = 1;
        return smhf_fields_type(p, "decoder", wordpiece, &ignored, err);
    }
    if (smhf_fields_is(key, "prefix")) {
        return smhf_fields_string(p, "decoder prefix", &p->spec->decoder_prefix, err);
    }
    if (smhf_fields_is(key, "cleanup")) {
        return smhf_fields_bool(p, "decoder cleanup", &p->spec->decoder_cleanup, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_decoder(smhf_fields *p, smhf_error *err) {
    int typed = 0;
    SMHF_TRY(smhf_fields_object(p, "decoder", &p->spec->has_decoder, err));
    if (!p->spec->has_decoder) {
        return SMHF_OK;
    }
    SMHF_TRY(smhf_fields_read(p, decoder_field, &typed, err));
    return typed ? SMHF_OK : missing_type("decoder", err);
}

/* --- post_processor -------------------------------------------------------------------------- */

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

static smhf_status piece_field(smhf_fields *p, smhf_bytes_view key, void *context,
                               smhf_error *err) {
    raw_piece *piece = context;
    if (smhf_fields_is(key, "id")) {
        return smhf_fields_string(p, "post_processor piece id", &piece->name, err);
    }
    if (smhf_fields_is(key, "type_id")) {
        return smhf_fields_int(p, "post_processor type_id", 0, INT32_MAX, &piece->type_id, err);
    }
    return smhf_json_skip(&p->reader, err);
}

/* {"SpecialToken": {"id": …, "type_id": …}} or {"Sequence": {…}} */
static smhf_status piece_kind(smhf_fields *p, smhf_bytes_view key, void *context, smhf_error *err) {
    raw_piece *piece = context;
    smhf_json_event event;
    if (smhf_fields_is(key, "SpecialToken") || smhf_fields_is(key, "Sequence")) {
        piece->is_sequence = smhf_fields_is(key, "Sequence");
        SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "post_processor piece",
                                  &event, err));
        return smhf_fields_read(p, piece_field, piece, err);
    }
    return smhf_fail(err, SMHF_E_UNSUPPORTED,
                     "post_processor piece \"%.*s\" is not supported, "
                     "only SpecialToken and Sequence",
                     (int)key.size, (const char *)key.data);
}

static smhf_status read_template(smhf_fields *p, raw_template *out, smhf_error *err) {
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
        SMHF_TRY(smhf_fields_read(p, piece_kind, piece, err));
        if (piece->name.data == NULL) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "post_processor piece at byte %zu has no id", event.offset);
        }
    }
}

static smhf_status read_ids(smhf_fields *p, special *out, smhf_error *err) {
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

static smhf_status special_field(smhf_fields *p, smhf_bytes_view key, void *context,
                                 smhf_error *err) {
    return smhf_fields_is(key, "ids") ? read_ids(p, context, err) : smhf_json_skip(&p->reader, err);
}

/* {"[CLS]": {"id": "[CLS]", "ids": [101], "tokens": ["[CLS]"]}, …} */
static smhf_status read_specials(smhf_fields *p, processor *out, smhf_error *err) {
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
        SMHF_TRY(smhf_fields_read(p, special_field, token, err));
    }
}

/* ["[SEP]", 102] */
static smhf_status read_token_and_id(smhf_fields *p, special *out, smhf_error *err) {
    smhf_json_event event;
    int64_t id;
    SMHF_TRY(
        smhf_json_expect(&p->reader, SMHF_JSON_ARRAY_BEGIN, "BertProcessing token", &event, err));
    SMHF_TRY(smhf_fields_string(p, "BertProcessing token", &out->name, err));
    SMHF_TRY(smhf_fields_int(p, "BertProcessing id", 0, INT32_MAX, &id, err));
    out->ids[0] = (int32_t)id;
    out->count = 1;
    return smhf_json_expect(&p->reader, SMHF_JSON_ARRAY_END, "BertProcessing token", &event, err);
}

static smhf_status processor_field(smhf_fields *p, smhf_bytes_view key, void *context,
                                   smhf_error *err) {
    static const char *const known[] = {"TemplateProcessing", "BertProcessing", NULL};
    processor *out = context;
    if (smhf_fields_is(key, "type")) {
        return smhf_fields_type(p, "post_processor", known, &out->type, err);
    }
    if (smhf_fields_is(key, "single")) {
        return read_template(p, &out->single, err);
    }
    if (smhf_fields_is(key, "pair")) {
        return read_template(p, &out->pair, err);
    }
    if (smhf_fields_is(key, "special_tokens")) {
        return read_specials(p, out, err);
    }
    if (smhf_fields_is(key, "sep")) {
        return read_token_and_id(p, &out->sep, err);
    }
    if (smhf_fields_is(key, "cls")) {
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
            int sequence = smhf_fields_is(piece->name, "B");
            if ((!sequence && !smhf_fields_is(piece->name, "A")) || sequence >= sequences ||
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

static smhf_status read_post_processor(smhf_fields *p, smhf_error *err) {
    smhf_tokenizer_spec *spec = p->spec;
    processor *from;
    int present;
    memset(&spec->single, 0, sizeof spec->single);
    memset(&spec->pair, 0, sizeof spec->pair);
    spec->has_template = 1;
    SMHF_TRY(smhf_fields_object(p, "post_processor", &present, err));
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
    SMHF_TRY(smhf_fields_read(p, processor_field, from, err));
    if (from->type < 0) {
        return missing_type("post_processor", err);
    }
    if (from->type == 1) {
        return bert_templates(from, spec, err);
    }
    SMHF_TRY(resolve(from, &from->single, "single", 1, &spec->single, err));
    return resolve(from, &from->pair, "pair", 2, &spec->pair, err);
}

/* --- model ----------------------------------------------------------------------------------- */

typedef struct model_seen {
    int typed, vocab, unk, prefix, max_chars;
} model_seen;

static smhf_status read_model_vocab(smhf_fields *p, smhf_error *err) {
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
        SMHF_TRY(smhf_fields_int(p, "model vocab id", 0, INT32_MAX, &id, err));
        SMHF_TRY(smhf_spec_add_entry(p->spec, token, (int32_t)id, err));
    }
}

static smhf_status model_field(smhf_fields *p, smhf_bytes_view key, void *context,
                               smhf_error *err) {
    model_seen *seen = context;
    int ignored;
    if (smhf_fields_is(key, "type")) {
        seen->typed = 1;
        return smhf_fields_type(p, "model", wordpiece, &ignored, err);
    }
    if (smhf_fields_is(key, "merges")) {
        return smhf_fail(err, SMHF_E_UNSUPPORTED, "model \"BPE\" is not supported, only WordPiece");
    }
    if (smhf_fields_is(key, "unk_token")) {
        seen->unk = 1;
        return smhf_fields_string(p, "model unk_token", &p->spec->unk_token, err);
    }
    if (smhf_fields_is(key, "continuing_subword_prefix")) {
        seen->prefix = 1;
        return smhf_fields_string(p, "model continuing_subword_prefix", &p->spec->prefix, err);
    }
    if (smhf_fields_is(key, "max_input_chars_per_word")) {
        seen->max_chars = 1;
        return smhf_fields_int(p, "model max_input_chars_per_word", 0, INT32_MAX,
                               &p->spec->max_word_chars, err);
    }
    if (smhf_fields_is(key, "vocab")) {
        seen->vocab = 1;
        return read_model_vocab(p, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_model(smhf_fields *p, smhf_error *err) {
    model_seen seen = {0};
    int present;
    SMHF_TRY(smhf_fields_object(p, "model", &present, err));
    if (present) {
        SMHF_TRY(smhf_fields_read(p, model_field, &seen, err));
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

/* --- The file -------------------------------------------------------------------------------- */

typedef struct top_seen {
    int model, pre_tokenizer, normalizer, decoder, processor;
} top_seen;

static smhf_status top_field(smhf_fields *p, smhf_bytes_view key, void *context, smhf_error *err) {
    top_seen *seen = context;
    if (smhf_fields_is(key, "added_tokens")) {
        return read_added_tokens(p, err);
    }
    if (smhf_fields_is(key, "normalizer")) {
        seen->normalizer = 1;
        return read_normalizer(p, err);
    }
    if (smhf_fields_is(key, "pre_tokenizer")) {
        seen->pre_tokenizer = 1;
        return read_pre_tokenizer(p, err);
    }
    if (smhf_fields_is(key, "post_processor")) {
        seen->processor = 1;
        return read_post_processor(p, err);
    }
    if (smhf_fields_is(key, "decoder")) {
        seen->decoder = 1;
        return read_decoder(p, err);
    }
    if (smhf_fields_is(key, "model")) {
        seen->model = 1;
        return read_model(p, err);
    }
    /* truncation and padding are arguments of a call here, so the file's are not taken */
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_top(smhf_fields *p, smhf_error *err) {
    smhf_json_event event;
    top_seen seen = {0};
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "tokenizer", &event, err));
    SMHF_TRY(smhf_fields_read(p, top_field, &seen, err));
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

smhf_status smhf_spec_read_tokenizer_json(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                                          smhf_error *err) {
    return smhf_fields_parse(spec, text, read_top, err);
}
