/* json.h: a strict pull parser (RFC 8259) and a compact writer.
 *
 *     smhf_json_reader reader;
 *     smhf_json_event event;
 *     smhf_json_reader_init(&reader, view, 64, 0);
 *     SMHF_TRY(smhf_json_next(&reader, &event, err));          // SMHF_JSON_OBJECT_BEGIN
 *     for (;;) {
 *         SMHF_TRY(smhf_json_next(&reader, &event, err));
 *         if (event.kind == SMHF_JSON_OBJECT_END) { break; }
 *         if (smhf_bytes_equal_string(event.text, "vocab")) { ... smhf_json_next ... }
 *         else { SMHF_TRY(smhf_json_skip(&reader, err)); }      // skips the value of this key
 *     }
 *     smhf_json_reader_deinit(&reader);
 *
 * Errors are SMHF_E_PARSE with err->offset. UTF-8 is checked; \u escapes, surrogate pairs
 * included, are decoded; a lone surrogate escape is an error. NaN and Infinity are refused.
 * The reader keeps a scratch buffer for decoded strings: text of an event is borrowed until the
 * next call (strings without escapes point into the input). Threads: one owner at a time.
 */
#ifndef SMHF_COMMON_JSON_H
#define SMHF_COMMON_JSON_H

#include "common/bytes.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum smhf_json_kind {
    SMHF_JSON_OBJECT_BEGIN,
    SMHF_JSON_OBJECT_END,
    SMHF_JSON_ARRAY_BEGIN,
    SMHF_JSON_ARRAY_END,
    SMHF_JSON_KEY,    /* text: decoded UTF-8 */
    SMHF_JSON_STRING, /* text: decoded UTF-8 */
    SMHF_JSON_NUMBER, /* text: the lexeme as written */
    SMHF_JSON_TRUE,
    SMHF_JSON_FALSE,
    SMHF_JSON_NULL,
    SMHF_JSON_END, /* after the one top-level value; trailing bytes are an error */
} smhf_json_kind;

typedef struct smhf_json_event {
    smhf_json_kind kind;
    size_t offset;        /* byte offset where the token starts */
    smhf_bytes_view text; /* KEY, STRING, NUMBER; borrowed until the next call */
} smhf_json_event;

#define SMHF_JSON_MAX_DEPTH 512

typedef struct smhf_json_reader {
    smhf_bytes_view input;
    size_t at;
    int depth;
    int max_depth;
    int state;                                  /* what may come next; private */
    uint64_t nesting[SMHF_JSON_MAX_DEPTH / 64]; /* bit set: object, clear: array */
    smhf_buffer scratch;
} smhf_json_reader;

/* `max_depth` 1..SMHF_JSON_MAX_DEPTH; `max_string` 0 or the ceiling of one decoded string. */
void smhf_json_reader_init(smhf_json_reader *reader, smhf_bytes_view input, int max_depth,
                           size_t max_string);
void smhf_json_reader_deinit(smhf_json_reader *reader);
smhf_status smhf_json_next(smhf_json_reader *reader, smhf_json_event *event,
                           smhf_error *err) SMHF_MUST_USE;
/* Skips one whole value (the one that would come next). */
smhf_status smhf_json_skip(smhf_json_reader *reader, smhf_error *err) SMHF_MUST_USE;
/* Next event, refused unless it is of `kind`; `what` names the field in the sentence. */
smhf_status smhf_json_expect(smhf_json_reader *reader, smhf_json_kind kind, const char *what,
                             smhf_json_event *event, smhf_error *err) SMHF_MUST_USE;
/* "object", "string", ... for sentences. Static storage. */
const char *smhf_json_kind_name(smhf_json_kind kind);

/* From a NUMBER event. int64: SMHF_E_PARSE for fractions, exponents and overflow. */
smhf_status smhf_json_int64(const smhf_json_event *event, const char *what, int64_t *out,
                            smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_json_double(const smhf_json_event *event, const char *what, double *out,
                             smhf_error *err) SMHF_MUST_USE;

/* Writer: appends compact JSON to a buffer; commas and colons are its business. Misuse (a value
 * where a key must be) is an assert. Strings must be UTF-8; non-ASCII stays raw.
 * Doubles print with the fewest digits that read back the same; NaN and Inf are SMHF_E_ARG. */
typedef struct smhf_json_writer {
    smhf_buffer *out; /* borrowed */
    int need_comma;
    int after_key;
} smhf_json_writer;

void smhf_json_writer_init(smhf_json_writer *writer, smhf_buffer *out);
smhf_status smhf_json_write_begin(smhf_json_writer *writer, char open,
                                  smhf_error *err) SMHF_MUST_USE; /* '{' or '[' */
smhf_status smhf_json_write_end(smhf_json_writer *writer, char close,
                                smhf_error *err) SMHF_MUST_USE; /* '}' or ']' */
smhf_status smhf_json_write_key(smhf_json_writer *writer, const char *key,
                                smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_json_write_string(smhf_json_writer *writer, smhf_bytes_view text,
                                   smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_json_write_int64(smhf_json_writer *writer, int64_t value,
                                  smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_json_write_double(smhf_json_writer *writer, double value,
                                   smhf_error *err) SMHF_MUST_USE;
/* true, false, null, or a value that is already JSON */
smhf_status smhf_json_write_raw(smhf_json_writer *writer, const char *text, size_t size,
                                smhf_error *err) SMHF_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif
