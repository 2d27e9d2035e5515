/* wire.c: request bodies to rows, in the container's shapes; answer.c makes the way back.
 *
 * Shapes follow the text-classification pipeline behind the Hugging Face container: a string or a
 * list gives a list, one {"text", "text_pair"} gives a bare object; top_k and return_all_scores
 * turn each row's object into a list of objects. Refusals carry the byte where the fault is.
 */
#include "common/json.h"
#include "common/mem.h"
#include "server/server_room.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_DEPTH 32

void smhf_wire_call_init(smhf_wire_call *call) {
    *call = (smhf_wire_call){0};
    smhf_arena_init(&call->texts, 4096);
}

void smhf_wire_call_deinit(smhf_wire_call *call) {
    smhf_free(call->rows);
    smhf_arena_deinit(&call->texts);
    *call = (smhf_wire_call){0};
}

/* --- rows --- */

static smhf_status add_row(smhf_wire_call *call, size_t max_rows, smhf_server_row **out,
                           smhf_error *err) {
    if (call->count >= max_rows) {
        return smhf_fail(err, SMHF_E_ARG, "inputs: expected at most %zu rows in one request",
                         max_rows);
    }
    if (call->count == call->capacity) {
        size_t capacity = (call->capacity == 0) ? 4 : call->capacity * 2;
        size_t bytes;
        smhf_server_row *rows = NULL;
        if (smhf_mul_size(capacity, sizeof *rows, &bytes) == 0) {
            rows = smhf_realloc(call->rows, bytes);
        }
        if (rows == NULL) {
            return smhf_fail(err, SMHF_E_NOMEM, "inputs: no memory for %zu rows", capacity);
        }
        call->rows = rows;
        call->capacity = capacity;
    }
    *out = &call->rows[call->count++];
    **out = (smhf_server_row){0};
    return SMHF_OK;
}

/* Keeps a decoded string: as it lies in the body, else as a copy. */
static smhf_status keep_text(smhf_wire_call *call, smhf_bytes_view body, smhf_bytes_view text,
                             smhf_bytes_view *out, smhf_error *err) {
    static const uint8_t empty[1] = {0};
    *out = text;
    if (text.size == 0) {
        out->data = empty; /* never NULL: NULL says that there is no pair */
        return SMHF_OK;
    }
    uintptr_t begin = (uintptr_t)body.data, at = (uintptr_t)text.data;
    if (at >= begin && at < begin + body.size) {
        return SMHF_OK;
    }
    out->data = (const uint8_t *)smhf_arena_copy_string(&call->texts, text.data, text.size);
    if (out->data == NULL) {
        return smhf_fail(err, SMHF_E_NOMEM, "inputs: no memory for a text of %zu bytes", text.size);
    }
    return SMHF_OK;
}

const char *smhf_wire_place(char out[32], smhf_wire_shape shape, size_t row) {
    if (shape == SMHF_WIRE_LIST) {
        snprintf(out, 32, "inputs[%zu]", row);
        return out;
    }
    return "inputs";
}

typedef struct json_decoder {
    smhf_json_reader reader;
    smhf_bytes_view body;
    smhf_wire_call *call;
    size_t max_rows;
} json_decoder;

/* The rest of {"text": ..., "text_pair": ...}, whose brace was read. */
static smhf_status read_pair(json_decoder *json, const char *what, smhf_server_row *row,
                             smhf_error *err) {
    size_t index = (size_t)(row - json->call->rows);
    for (;;) {
        smhf_json_event event;
        SMHF_TRY(smhf_json_next(&json->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        int is_pair = smhf_bytes_equal_string(event.text, "text_pair");
        if (!is_pair && !smhf_bytes_equal_string(event.text, "text")) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "%s: expected the keys \"text\" and \"text_pair\", found \"%.*s\" "
                                "at byte %zu",
                                what, (int)(event.text.size > 60 ? 60 : event.text.size),
                                (const char *)event.text.data, event.offset);
        }
        SMHF_TRY(smhf_json_next(&json->reader, &event, err));
        if (is_pair && event.kind == SMHF_JSON_NULL) {
            continue;
        }
        if (event.kind != SMHF_JSON_STRING) {
            return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                                "%s.%s: expected a string, found %s at byte %zu", what,
                                is_pair ? "text_pair" : "text", smhf_json_kind_name(event.kind),
                                event.offset);
        }
        row = &json->call->rows[index];
        SMHF_TRY(
            keep_text(json->call, json->body, event.text, is_pair ? &row->pair : &row->text, err));
    }
    if (json->call->rows[index].text.data == NULL) {
        return smhf_fail(err, SMHF_E_PARSE, "%s: the key \"text\" is missing", what);
    }
    return SMHF_OK;
}

/* One row whose first event was read. */
static smhf_status read_row(json_decoder *json, const smhf_json_event *event, smhf_error *err) {
    char buffer[32];
    const char *what = smhf_wire_place(buffer, json->call->shape, json->call->count);
    smhf_server_row *row;
    if (event->kind == SMHF_JSON_STRING) {
        smhf_bytes_view text;
        SMHF_TRY(keep_text(json->call, json->body, event->text, &text, err));
        SMHF_TRY(add_row(json->call, json->max_rows, &row, err));
        row->text = text;
        return SMHF_OK;
    }
    if (event->kind == SMHF_JSON_OBJECT_BEGIN) {
        SMHF_TRY(add_row(json->call, json->max_rows, &row, err));
        return read_pair(json, what, row, err);
    }
    return smhf_fail_at(err, SMHF_E_PARSE, event->offset,
                        "%s: expected a string or {\"text\", \"text_pair\"}, found %s at byte %zu",
                        what, smhf_json_kind_name(event->kind), event->offset);
}

static smhf_status read_inputs(json_decoder *json, smhf_error *err) {
    smhf_json_event event;
    json->call->count = 0; /* a repeated key: the last one counts */
    SMHF_TRY(smhf_json_next(&json->reader, &event, err));
    if (event.kind != SMHF_JSON_ARRAY_BEGIN) {
        json->call->shape =
            (event.kind == SMHF_JSON_OBJECT_BEGIN) ? SMHF_WIRE_PAIR : SMHF_WIRE_TEXT;
        return read_row(json, &event, err);
    }
    json->call->shape = SMHF_WIRE_LIST;
    for (;;) {
        SMHF_TRY(smhf_json_next(&json->reader, &event, err));
        if (event.kind == SMHF_JSON_ARRAY_END) {
            return SMHF_OK;
        }
        SMHF_TRY(read_row(json, &event, err));
    }
}

/* --- parameters --- */

typedef struct parameters {
    smhf_server_truncation truncation;
    smhf_server_function function;
    int max_length;
} parameters;

static smhf_status wrong_value(const smhf_json_event *event, const char *name, const char *expected,
                               smhf_error *err) {
    if (event->kind == SMHF_JSON_STRING || event->kind == SMHF_JSON_NUMBER) {
        return smhf_fail_at(err, SMHF_E_PARSE, event->offset,
                            "parameters.%s: expected %s, found %.*s at byte %zu", name, expected,
                            (int)(event->text.size > 60 ? 60 : event->text.size),
                            (const char *)event->text.data, event->offset);
    }
    return smhf_fail_at(err, SMHF_E_PARSE, event->offset,
                        "parameters.%s: expected %s, found %s at byte %zu", name, expected,
                        smhf_json_kind_name(event->kind), event->offset);
}

/* A whole number of 1..limit. */
static smhf_status read_count(const smhf_json_event *event, const char *name, int64_t limit,
                              int64_t *out, smhf_error *err) {
    if (event->kind != SMHF_JSON_NUMBER || smhf_json_int64(event, name, out, NULL) != SMHF_OK ||
        *out < 1) {
        return wrong_value(event, name, "a whole number of at least 1", err);
    }
    if (*out > limit) {
        *out = limit;
    }
    return SMHF_OK;
}

static smhf_status read_truncation(const smhf_json_event *event, smhf_server_truncation *out,
                                   smhf_error *err) {
    static const struct {
        const char *name;
        smhf_server_truncation value;
    } names[] = {{"longest_first", SMHF_SERVER_TRUNCATE_LONGEST},
                 {"only_first", SMHF_SERVER_TRUNCATE_FIRST},
                 {"only_second", SMHF_SERVER_TRUNCATE_SECOND},
                 {"do_not_truncate", SMHF_SERVER_TRUNCATE_OFF}};
    switch (event->kind) {
    case SMHF_JSON_NULL:
        *out = SMHF_SERVER_TRUNCATE_DEFAULT;
        return SMHF_OK;
    case SMHF_JSON_TRUE:
        *out = SMHF_SERVER_TRUNCATE_LONGEST;
        return SMHF_OK;
    case SMHF_JSON_FALSE:
        *out = SMHF_SERVER_TRUNCATE_OFF;
        return SMHF_OK;
    case SMHF_JSON_STRING:
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            if (smhf_bytes_equal_string(event->text, names[i].name)) {
                *out = names[i].value;
                return SMHF_OK;
            }
        }
        break;
    default:
        break;
    }
    return wrong_value(event, "truncation",
                       "true, false, longest_first, only_first, only_second or do_not_truncate",
                       err);
}

static smhf_status read_function(const smhf_json_event *event, smhf_server_function *out,
                                 smhf_error *err) {
    static const char *const names[] = {"default", "softmax", "sigmoid", "none"};
    if (event->kind == SMHF_JSON_NULL) {
        *out = SMHF_SERVER_FUNCTION_DEFAULT;
        return SMHF_OK;
    }
    if (event->kind == SMHF_JSON_STRING) {
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            if (event->text.size == strlen(names[i]) &&
                strncasecmp((const char *)event->text.data, names[i], event->text.size) == 0) {
                *out = (smhf_server_function)i;
                return SMHF_OK;
            }
        }
    }
    return wrong_value(event, "function_to_apply", "softmax, sigmoid, none or default", err);
}

static smhf_status read_parameter(json_decoder *json, const char *name, parameters *out,
                                  smhf_error *err) {
    smhf_json_event event;
    int64_t number = 0;
    SMHF_TRY(smhf_json_next(&json->reader, &event, err));
    int is_bool = event.kind == SMHF_JSON_TRUE || event.kind == SMHF_JSON_FALSE;
    if (strcmp(name, "top_k") == 0) {
        if (event.kind != SMHF_JSON_NULL) {
            SMHF_TRY(read_count(&event, name, INT64_MAX, &number, err));
        }
        json->call->has_top_k = 1;
        json->call->top_k = number;
        return SMHF_OK;
    }
    if (strcmp(name, "return_all_scores") == 0) {
        if (!is_bool && event.kind != SMHF_JSON_NULL) {
            return wrong_value(&event, name, "true or false", err);
        }
        json->call->return_all = event.kind == SMHF_JSON_TRUE;
        return SMHF_OK;
    }
    if (strcmp(name, "function_to_apply") == 0) {
        return read_function(&event, &out->function, err);
    }
    if (strcmp(name, "truncation") == 0) {
        return read_truncation(&event, &out->truncation, err);
    }
    if (strcmp(name, "max_length") == 0) {
        if (event.kind != SMHF_JSON_NULL) {
            SMHF_TRY(read_count(&event, name, INT32_MAX, &number, err));
        }
        out->max_length = (int)number;
        return SMHF_OK;
    }
    if (strcmp(name, "padding") == 0) { /* padded positions are never computed: nothing to do */
        if (!is_bool && event.kind != SMHF_JSON_STRING && event.kind != SMHF_JSON_NULL) {
            return wrong_value(&event, name, "true, false or a strategy's name", err);
        }
        return SMHF_OK;
    }
    if (strcmp(name, "batch_size") == 0) { /* batches are formed by what is queued */
        if (event.kind != SMHF_JSON_NULL) {
            SMHF_TRY(read_count(&event, name, INT64_MAX, &number, err));
        }
        return SMHF_OK;
    }
    return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                        "parameters.%s is not known: expected top_k, return_all_scores, "
                        "function_to_apply, truncation, max_length, padding or batch_size",
                        name);
}

static smhf_status read_parameters(json_decoder *json, parameters *out, smhf_error *err) {
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&json->reader, &event, err));
    if (event.kind == SMHF_JSON_NULL) {
        return SMHF_OK;
    }
    if (event.kind != SMHF_JSON_OBJECT_BEGIN) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "parameters: expected an object, found %s at byte %zu",
                            smhf_json_kind_name(event.kind), event.offset);
    }
    for (;;) {
        SMHF_TRY(smhf_json_next(&json->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            return SMHF_OK;
        }
        char name[64]; /* the key's bytes are gone with the next event */
        size_t size = event.text.size < sizeof name - 1 ? event.text.size : sizeof name - 1;
        memcpy(name, event.text.data, size);
        name[size] = '\0';
        SMHF_TRY(read_parameter(json, name, out, err));
    }
}

/* --- JSON body --- */

/* Keys beside "inputs" and "parameters": of use only when the body itself is the input. */
typedef struct bare_input {
    smhf_bytes_view text, pair;
    char stranger[64]; /* first other key */
} bare_input;

static smhf_status read_bare_key(json_decoder *json, const smhf_json_event *key, bare_input *bare,
                                 smhf_error *err) {
    int is_pair = smhf_bytes_equal_string(key->text, "text_pair");
    if (!is_pair && !smhf_bytes_equal_string(key->text, "text")) {
        if (bare->stranger[0] == '\0') {
            size_t size = key->text.size < 60 ? key->text.size : 60;
            if (size > 0) {
                memcpy(bare->stranger, key->text.data, size);
            } else {
                bare->stranger[0] = '?';
            }
        }
        return smhf_json_skip(&json->reader, err);
    }
    smhf_json_event event;
    SMHF_TRY(smhf_json_next(&json->reader, &event, err));
    if (event.kind == SMHF_JSON_STRING) {
        return keep_text(json->call, json->body, event.text, is_pair ? &bare->pair : &bare->text,
                         err);
    }
    if (event.kind == SMHF_JSON_NULL && is_pair) {
        return SMHF_OK;
    }
    return smhf_fail_at(
        err, SMHF_E_PARSE, event.offset, "%s: expected a string, found %s at byte %zu",
        is_pair ? "text_pair" : "text", smhf_json_kind_name(event.kind), event.offset);
}

/* The body without "inputs" is the input itself, as the container has it. */
static smhf_status take_bare(json_decoder *json, const bare_input *bare, smhf_error *err) {
    if (bare->text.data == NULL || bare->stranger[0] != '\0') {
        return smhf_fail(err, SMHF_E_PARSE,
                         "the key \"inputs\" is missing; without it the body itself is the input "
                         "and holds \"text\" and perhaps \"text_pair\", found %s%s%s",
                         bare->stranger[0] ? "\"" : "neither",
                         bare->stranger[0] ? bare->stranger : "", bare->stranger[0] ? "\"" : "");
    }
    smhf_server_row *row;
    SMHF_TRY(add_row(json->call, json->max_rows, &row, err));
    row->text = bare->text;
    row->pair = bare->pair;
    json->call->shape = SMHF_WIRE_PAIR;
    return SMHF_OK;
}

static smhf_status decode_json_body(json_decoder *json, smhf_error *err) {
    smhf_json_event event;
    parameters asked = {0};
    bare_input bare = {0};
    int has_inputs = 0;
    SMHF_TRY(smhf_json_next(&json->reader, &event, err));
    if (event.kind != SMHF_JSON_OBJECT_BEGIN) {
        return smhf_fail_at(err, SMHF_E_PARSE, event.offset,
                            "body: expected an object with the key \"inputs\", found %s at byte "
                            "%zu",
                            smhf_json_kind_name(event.kind), event.offset);
    }
    for (;;) {
        SMHF_TRY(smhf_json_next(&json->reader, &event, err));
        if (event.kind == SMHF_JSON_OBJECT_END) {
            break;
        }
        if (smhf_bytes_equal_string(event.text, "inputs")) {
            has_inputs = 1;
            SMHF_TRY(read_inputs(json, err));
        } else if (smhf_bytes_equal_string(event.text, "parameters")) {
            SMHF_TRY(read_parameters(json, &asked, err));
        } else if (has_inputs) {
            SMHF_TRY(smhf_json_skip(&json->reader, err));
        } else {
            SMHF_TRY(read_bare_key(json, &event, &bare, err));
        }
    }
    SMHF_TRY(smhf_json_expect(&json->reader, SMHF_JSON_END, "end of body", &event, err));
    if (!has_inputs) {
        SMHF_TRY(take_bare(json, &bare, err));
    }
    for (size_t row = 0; row < json->call->count; row++) {
        json->call->rows[row].truncation = asked.truncation;
        json->call->rows[row].function = asked.function;
        json->call->rows[row].max_length = asked.max_length;
    }
    return SMHF_OK;
}

/* --- CSV body (RFC 4180; read as Python's csv.DictReader does) --- */

typedef struct csv_cursor {
    smhf_bytes_view input;
    size_t at;
} csv_cursor;

/* One field into *out (a view, or an arena copy when quotes were doubled). *last tells whether the
 * record ends after it. */
static smhf_status csv_field(csv_cursor *csv, smhf_wire_call *call, smhf_bytes_view *out, int *last,
                             smhf_error *err) {
    const uint8_t *data = csv->input.data;
    size_t size = csv->input.size, start = csv->at, kept = 0;
    if (start < size && data[start] == '"') {
        uint8_t *copy = NULL; /* made when the first doubled quote shows up */
        size_t at = ++start;
        for (;; at++) {
            if (at >= size) {
                return smhf_fail_at(err, SMHF_E_PARSE, start - 1,
                                    "CSV: the quote at byte %zu is never closed", start - 1);
            }
            if (data[at] == '"') {
                if (at + 1 >= size || data[at + 1] != '"') {
                    break;
                }
                if (copy == NULL) {
                    copy = smhf_arena_alloc(&call->texts, size - start);
                    if (copy == NULL) {
                        return smhf_fail_nomem(err, "CSV field", size - start);
                    }
                    kept = at - start;
                    memcpy(copy, data + start, kept);
                }
                at++;
            }
            if (copy != NULL) {
                copy[kept++] = data[at];
            }
        }
        *out = (copy != NULL) ? (smhf_bytes_view){copy, kept}
                              : (smhf_bytes_view){data + start, at - start};
        csv->at = at + 1;
        if (csv->at < size && data[csv->at] != ',' && data[csv->at] != '\n' &&
            data[csv->at] != '\r') {
            return smhf_fail_at(err, SMHF_E_PARSE, csv->at,
                                "CSV: expected a comma or a line end after the quote, found byte "
                                "%02x at byte %zu",
                                data[csv->at], csv->at);
        }
    } else {
        while (csv->at < size && data[csv->at] != ',' && data[csv->at] != '\n' &&
               data[csv->at] != '\r') {
            csv->at++;
        }
        *out = (smhf_bytes_view){data + start, csv->at - start};
    }
    *last = csv->at >= size || data[csv->at] != ',';
    if (csv->at < size) {
        if (data[csv->at] == '\r' && csv->at + 1 < size && data[csv->at + 1] == '\n') {
            csv->at++;
        }
        csv->at++;
    }
    return SMHF_OK;
}

/* Skips empty lines; 1 while there is a record to read. */
static int csv_has_record(csv_cursor *csv) {
    while (csv->at < csv->input.size &&
           (csv->input.data[csv->at] == '\n' || csv->input.data[csv->at] == '\r')) {
        csv->at++;
    }
    return csv->at < csv->input.size;
}

static smhf_status decode_csv_body(smhf_wire_call *call, smhf_bytes_view body, size_t max_rows,
                                   smhf_error *err) {
    size_t fault = smhf_utf8_validate(body.data, body.size);
    if (fault < body.size) {
        return smhf_fail_at(err, SMHF_E_PARSE, fault, "CSV: invalid UTF-8 at byte %zu", fault);
    }
    csv_cursor csv = {body, 0};
    if (body.size >= 3 && memcmp(body.data, "\xEF\xBB\xBF", 3) == 0) {
        csv.at = 3; /* a spreadsheet's byte-order mark */
    }
    smhf_bytes_view field;
    int last = !csv_has_record(&csv);
    size_t column = SIZE_MAX;
    for (size_t i = 0; !last; i++) {
        SMHF_TRY(csv_field(&csv, call, &field, &last, err));
        if (column == SIZE_MAX && smhf_bytes_equal_string(field, "inputs")) {
            column = i;
        }
    }
    if (column == SIZE_MAX) {
        return smhf_fail(err, SMHF_E_PARSE, "CSV: expected a header line with a column \"inputs\"");
    }
    call->shape = SMHF_WIRE_LIST;
    while (csv_has_record(&csv)) {
        size_t begin = csv.at;
        smhf_server_row *row;
        SMHF_TRY(add_row(call, max_rows, &row, err));
        last = 0;
        for (size_t i = 0; !last; i++) {
            SMHF_TRY(csv_field(&csv, call, &field, &last, err));
            if (i == column) {
                SMHF_TRY(keep_text(call, body, field, &row->text, err));
            }
        }
        if (row->text.data == NULL) {
            return smhf_fail_at(err, SMHF_E_PARSE, begin,
                                "CSV: row %zu, at byte %zu, has no field for the column \"inputs\"",
                                call->count - 1, begin);
        }
    }
    if (call->count == 0) {
        return smhf_fail(err, SMHF_E_PARSE, "CSV: expected at least one row below the header");
    }
    return SMHF_OK;
}

smhf_status smhf_wire_decode(smhf_wire_call *call, smhf_wire_format format, smhf_bytes_view body,
                             size_t max_rows, smhf_error *err) {
    if (format == SMHF_WIRE_CSV) {
        return decode_csv_body(call, body, max_rows, err);
    }
    json_decoder json = {.body = body, .call = call, .max_rows = max_rows};
    smhf_json_reader_init(&json.reader, body, MAX_DEPTH, 0);
    smhf_status status = decode_json_body(&json, err);
    smhf_json_reader_deinit(&json.reader);
    return status;
}
