/* tokenizer_config.c: tokenizer_config.json, special_tokens_map.json and added_tokens.json → spec.
 * Fields that we do not know are skipped: these files hold settings of many libraries. */
#include "tokenizer/json_fields.h"

static smhf_status token_content(smhf_fields *p, smhf_bytes_view key, void *context,
                                 smhf_error *err) {
    return smhf_fields_is(key, "content") ? smhf_fields_string(p, "token content", context, err)
                                          : smhf_json_skip(&p->reader, err);
}

/* A token as "text", {"content": "text", …} or null. */
static smhf_status read_token(smhf_fields *p, const char *what, smhf_bytes_view *out,
                              smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    switch (event.kind) {
    case SMHF_JSON_STRING:
        return smhf_spec_copy(p->spec, event.text, out, err);
    case SMHF_JSON_OBJECT_BEGIN:
        return smhf_fields_read(p, token_content, out, err);
    case SMHF_JSON_NULL:
        return SMHF_OK;
    default:
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "%s at byte %zu: expected a token, found %s", what, event.offset,
                            smhf_json_kind_name(event.kind));
    }
}

static smhf_status read_side(smhf_fields *p, const char *what, int *left, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_STRING, what, &event, err));
    if (!smhf_fields_is(event.text, "left") && !smhf_fields_is(event.text, "right")) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "%s at byte %zu: expected \"left\" or \"right\", found \"%.*s\"", what,
                            event.offset, (int)(event.text.size < 40 ? event.text.size : 40),
                            (const char *)event.text.data);
    }
    *left = smhf_fields_is(event.text, "left");
    return SMHF_OK;
}

/* model_max_length may be 1e30, an integer of 31 digits, or null: all of them "none". */
static smhf_status read_max_length(smhf_fields *p, int64_t *out, smhf_error *err) {
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
static smhf_status read_added_decoder(smhf_fields *p, smhf_error *err) {
    smhf_json_event event;
    int present;
    SMHF_TRY(smhf_fields_object(p, "added_tokens_decoder", &present, err));
    while (present) {
        smhf_added_token token = {.content = {NULL, 0}, .id = -1};
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "added_tokens_decoder",
                                  &event, err));
        SMHF_TRY(smhf_fields_read(p, smhf_fields_added_token, &token, err));
        if (token.content.data != NULL) {
            SMHF_TRY(smhf_spec_add_token(p->spec, &token, err));
        }
    }
    return SMHF_OK;
}

/* {"image_token": "<image>", …} of newer files. */
static smhf_status named_token(smhf_fields *p, smhf_bytes_view key, void *context,
                               smhf_error *err) {
    smhf_added_token token = {.content = {NULL, 0}, .id = -1, .special = 1};
    (void)key;
    (void)context;
    SMHF_TRY(read_token(p, "extra_special_tokens", &token.content, err));
    return (token.content.data != NULL) ? smhf_spec_add_token(p->spec, &token, err) : SMHF_OK;
}

static smhf_status read_additional(smhf_fields *p, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&p->reader, &event, err));
    if (event.kind == SMHF_JSON_NULL) {
        return SMHF_OK;
    }
    if (event.kind == SMHF_JSON_OBJECT_BEGIN) {
        return smhf_fields_read(p, named_token, NULL, err);
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
            SMHF_TRY(smhf_fields_read(p, smhf_fields_added_token, &token, err));
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

static smhf_status config_field(smhf_fields *p, smhf_bytes_view key, void *context,
                                smhf_error *err) {
    smhf_tokenizer_spec *spec = p->spec;
    (void)context;
    for (int role = 0; role < SMHF_TOKEN_ROLES; role++) {
        if (smhf_fields_is(key, smhf_role_names[role])) {
            return read_token(p, smhf_role_names[role], &spec->roles[role], err);
        }
    }
    if (smhf_fields_is(key, "do_lower_case")) {
        return smhf_fields_tristate(p, "do_lower_case", &spec->lower, err);
    }
    if (smhf_fields_is(key, "strip_accents")) {
        return smhf_fields_tristate(p, "strip_accents", &spec->strip, err);
    }
    if (smhf_fields_is(key, "tokenize_chinese_chars")) {
        return smhf_fields_tristate(p, "tokenize_chinese_chars", &spec->cjk, err);
    }
    if (smhf_fields_is(key, "model_max_length")) {
        return read_max_length(p, &spec->model_max_length, err);
    }
    if (smhf_fields_is(key, "padding_side")) {
        return read_side(p, "padding_side", &spec->padding_left, err);
    }
    if (smhf_fields_is(key, "truncation_side")) {
        return read_side(p, "truncation_side", &spec->truncation_left, err);
    }
    if (smhf_fields_is(key, "added_tokens_decoder")) {
        return read_added_decoder(p, err);
    }
    if (smhf_fields_is(key, "additional_special_tokens") ||
        smhf_fields_is(key, "extra_special_tokens")) {
        return read_additional(p, err);
    }
    return smhf_json_skip(&p->reader, err);
}

static smhf_status read_config(smhf_fields *p, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "configuration", &event, err));
    SMHF_TRY(smhf_fields_read(p, config_field, NULL, err));
    return smhf_json_expect(&p->reader, SMHF_JSON_END, "end of the configuration", &event, err);
}

smhf_status smhf_spec_read_config_json(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                                       smhf_error *err) {
    return smhf_fields_parse(spec, text, read_config, err);
}

/* added_tokens.json of old models: {"<x>": 30522}. */
static smhf_status read_legacy_added(smhf_fields *p, smhf_error *err) {
    smhf_json_event event;
    size_t begin = p->spec->added_count;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_OBJECT_BEGIN, "added tokens", &event, err));
    for (;;) {
        smhf_added_token token = {.content = {NULL, 0}, .id = -1, .normalized = 1};
        int64_t id;
        SMHF_TRY(smhf_json_next(&p->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        SMHF_TRY(smhf_spec_copy(p->spec, event.text, &token.content, err));
        SMHF_TRY(smhf_fields_int(p, "added token id", 0, INT32_MAX, &id, err));
        token.id = (int32_t)id;
        SMHF_TRY(smhf_spec_add_token(p->spec, &token, err));
    }
    /* Ids are given out in order of addition. */
    for (size_t i = begin + 1; i < p->spec->added_count; i++) {
        smhf_added_token moved = p->spec->added[i];
        size_t at = i;
        for (; at > begin && p->spec->added[at - 1].id > moved.id; at--) {
            p->spec->added[at] = p->spec->added[at - 1];
        }
        p->spec->added[at] = moved;
    }
    return smhf_json_expect(&p->reader, SMHF_JSON_END, "end of the added tokens", &event, err);
}

smhf_status smhf_spec_read_added_json(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                                      smhf_error *err) {
    return smhf_fields_parse(spec, text, read_legacy_added, err);
}
