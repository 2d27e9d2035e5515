/* json_fields.c: reading JSON objects field by field. */
#include "tokenizer/json_fields.h"

#include <string.h>

#define MAX_DEPTH 64

smhf_status smhf_fields_read(smhf_fields *p, smhf_field_reader field, void *context,
                             smhf_error *err) {
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

smhf_status smhf_fields_object(smhf_fields *p, const char *what, int *present, smhf_error *err) {
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

smhf_status smhf_fields_bool(smhf_fields *p, const char *what, int *out, smhf_error *err) {
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

smhf_status smhf_fields_tristate(smhf_fields *p, const char *what, int *out, smhf_error *err) {
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

smhf_status smhf_fields_string(smhf_fields *p, const char *what, smhf_bytes_view *out,
                               smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_STRING, what, &event, err));
    return smhf_spec_copy(p->spec, event.text, out, err);
}

smhf_status smhf_fields_int(smhf_fields *p, const char *what, int64_t low, int64_t high,
                            int64_t *out, smhf_error *err) {
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

smhf_status smhf_fields_type(smhf_fields *p, const char *what, const char *const *known, int *out,
                             smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_expect(&p->reader, SMHF_JSON_STRING, what, &event, err));
    for (int i = 0; known[i] != NULL; i++) {
        if (smhf_fields_is(event.text, known[i])) {
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

/* --- added tokens ---------------------------------------------------------------------------- */

smhf_status smhf_fields_added_token(smhf_fields *p, smhf_bytes_view key, void *context,
                                    smhf_error *err) {
    smhf_added_token *token = context;
    int64_t id;
    if (smhf_fields_is(key, "content")) {
        return smhf_fields_string(p, "added_tokens content", &token->content, err);
    }
    if (smhf_fields_is(key, "id")) {
        SMHF_TRY(smhf_fields_int(p, "added_tokens id", 0, INT32_MAX, &id, err));
        token->id = (int32_t)id;
        return SMHF_OK;
    }
    int *flag = smhf_fields_is(key, "single_word")  ? &token->single_word
                : smhf_fields_is(key, "lstrip")     ? &token->lstrip
                : smhf_fields_is(key, "rstrip")     ? &token->rstrip
                : smhf_fields_is(key, "normalized") ? &token->normalized
                : smhf_fields_is(key, "special")    ? &token->special
                                                    : NULL;
    return (flag != NULL) ? smhf_fields_bool(p, "added_tokens flag", flag, err)
                          : smhf_json_skip(&p->reader, err);
}

smhf_status smhf_fields_parse(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                              smhf_status (*read)(smhf_fields *, smhf_error *), smhf_error *err) {
    smhf_fields p = {.spec = spec};
    smhf_json_reader_init(&p.reader, text, MAX_DEPTH, 0);
    smhf_status status = read(&p, err);
    smhf_json_reader_deinit(&p.reader);
    return status;
}
