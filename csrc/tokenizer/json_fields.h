/* json_fields.h: reading JSON objects field by field, for the files of a tokenizer.
 * Views that are kept are copied into the spec's arena. Internal to this room. */
#ifndef SMHF_JSON_FIELDS_H
#define SMHF_JSON_FIELDS_H

#include "common/json.h"
#include "tokenizer/tokenizer_internal.h"

typedef struct smhf_fields {
    smhf_json_reader reader;
    smhf_tokenizer_spec *spec;
} smhf_fields;

/* Takes exactly one value, that of `key`, from the reader. */
typedef smhf_status (*smhf_field_reader)(smhf_fields *p, smhf_bytes_view key, void *context,
                                         smhf_error *err);

/* Runs `read` over a whole text. */
smhf_status smhf_fields_parse(smhf_tokenizer_spec *spec, smhf_bytes_view text,
                              smhf_status (*read)(smhf_fields *, smhf_error *),
                              smhf_error *err) SMHF_MUST_USE;
/* The fields of an object whose opening brace was consumed; keys over 63 bytes come as "". */
smhf_status smhf_fields_read(smhf_fields *p, smhf_field_reader field, void *context,
                             smhf_error *err) SMHF_MUST_USE;
/* The opening brace of an object, or null (then *present is 0). */
smhf_status smhf_fields_object(smhf_fields *p, const char *what, int *present,
                               smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_fields_bool(smhf_fields *p, const char *what, int *out,
                             smhf_error *err) SMHF_MUST_USE;
/* true, false, or null for SMHF_UNSET. */
smhf_status smhf_fields_tristate(smhf_fields *p, const char *what, int *out,
                                 smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_fields_string(smhf_fields *p, const char *what, smhf_bytes_view *out,
                               smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_fields_int(smhf_fields *p, const char *what, int64_t low, int64_t high,
                            int64_t *out, smhf_error *err) SMHF_MUST_USE;
/* A name out of `known` (ended by NULL): its index; any other is SMHF_E_UNSUPPORTED by name. */
smhf_status smhf_fields_type(smhf_fields *p, const char *what, const char *const *known, int *out,
                             smhf_error *err) SMHF_MUST_USE;
/* Field reader of an added token; `context` is an smhf_added_token. */
smhf_status smhf_fields_added_token(smhf_fields *p, smhf_bytes_view key, void *context,
                                    smhf_error *err) SMHF_MUST_USE;

static inline int smhf_fields_is(smhf_bytes_view key, const char *name) {
    return smhf_bytes_equal_string(key, name);
}

#endif
