#include "common/json.h"

#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* JSON numbers have a point whatever the process's locale says: programs that call setlocale for
 * their user would else read "0.5" as 0 and write "0,5". Switched for this thread only. */
static pthread_once_t locale_once = PTHREAD_ONCE_INIT;
static locale_t c_locale;

static void make_c_locale(void) {
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

static locale_t enter_c_locale(void) {
    pthread_once(&locale_once, make_c_locale);
    return (c_locale != (locale_t)0) ? uselocale(c_locale) : (locale_t)0;
}

static void leave_c_locale(locale_t before) {
    if (before != (locale_t)0) {
        uselocale(before);
    }
}

/* What the grammar allows next. */
enum {
    EXPECT_VALUE,        /* top level, after a colon, after a comma in an array */
    EXPECT_VALUE_OR_END, /* right after '[' */
    EXPECT_KEY_OR_END,   /* right after '{' */
    EXPECT_KEY,          /* after a comma in an object */
    EXPECT_COMMA_OR_END, /* after a value inside a container */
    EXPECT_NOTHING,      /* after the top-level value */
};

const char *smhf_json_kind_name(smhf_json_kind kind) {
    static const char *const names[] = {"object", "end of object", "array",       "end of array",
                                        "key",    "string",        "number",      "true",
                                        "false",  "null",          "end of input"};
    return names[kind];
}

void smhf_json_reader_init(smhf_json_reader *reader, smhf_bytes_view input, int max_depth,
                           size_t max_string) {
    memset(reader, 0, sizeof *reader);
    reader->input = input;
    reader->max_depth =
        (max_depth > 0 && max_depth < SMHF_JSON_MAX_DEPTH) ? max_depth : SMHF_JSON_MAX_DEPTH;
    reader->state = EXPECT_VALUE;
    smhf_buffer_init(&reader->scratch, max_string);
}

void smhf_json_reader_deinit(smhf_json_reader *reader) {
    smhf_buffer_deinit(&reader->scratch);
}

static void skip_space(smhf_json_reader *reader) {
    while (reader->at < reader->input.size) {
        uint8_t c = reader->input.data[reader->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') {
            return;
        }
        reader->at++;
    }
}

static int in_object(const smhf_json_reader *reader) {
    int level = reader->depth - 1;
    return level >= 0 && ((reader->nesting[level / 64] >> (level % 64)) & 1u) != 0;
}

static smhf_status fail_here(const smhf_json_reader *reader, const char *expected,
                             smhf_error *err) {
    if (reader->at >= reader->input.size) {
        return smhf_fail_at(err, SMHF_E_PARSE, reader->at,
                            "JSON: expected %s, found the end of input at byte %zu", expected,
                            reader->at);
    }
    uint8_t c = reader->input.data[reader->at];
    if (c >= 0x20 && c < 0x7F) {
        return smhf_fail_at(err, SMHF_E_PARSE, reader->at,
                            "JSON: expected %s, found '%c' at byte %zu", expected, c, reader->at);
    }
    return smhf_fail_at(err, SMHF_E_PARSE, reader->at,
                        "JSON: expected %s, found byte 0x%02X at byte %zu", expected, c,
                        reader->at);
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}

/* Four hex digits at input[at]; -1 when they are not. */
static int32_t hex4(const smhf_json_reader *reader, size_t at) {
    int32_t value = 0;
    if (reader->input.size - at < 4) {
        return -1;
    }
    for (size_t k = 0; k < 4; k++) {
        int digit = hex_digit(reader->input.data[at + k]);
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

/* at: just after "\u". Appends the code point; advances reader->at past the escape(s). */
static smhf_status unescape_unicode(smhf_json_reader *reader, smhf_error *err) {
    size_t start = reader->at;
    int32_t unit = hex4(reader, reader->at);
    if (unit < 0) {
        return fail_here(reader, "four hexadecimal digits after \\u", err);
    }
    reader->at += 4;
    uint32_t code_point = (uint32_t)unit;
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        const uint8_t *rest = reader->input.data + reader->at;
        int32_t low = -1;
        if (reader->input.size - reader->at >= 6 && rest[0] == '\\' && rest[1] == 'u') {
            low = hex4(reader, reader->at + 2);
        }
        if (low < 0xDC00 || low > 0xDFFF) {
            reader->at = start;
            return smhf_fail_at(err, SMHF_E_PARSE, start,
                                "JSON: lone surrogate \\u%04X at byte %zu", (unsigned)unit,
                                start - 2);
        }
        code_point = 0x10000u + (((uint32_t)unit - 0xD800u) << 10) + ((uint32_t)low - 0xDC00u);
        reader->at += 6;
    } else if (unit >= 0xDC00 && unit <= 0xDFFF) {
        return smhf_fail_at(err, SMHF_E_PARSE, start, "JSON: lone surrogate \\u%04X at byte %zu",
                            (unsigned)unit, start - 2);
    }
    uint8_t utf8[4];
    size_t size = smhf_utf8_encode(code_point, utf8);
    return smhf_buffer_append(&reader->scratch, utf8, size, err);
}

static smhf_status unescape(smhf_json_reader *reader, smhf_error *err) {
    static const char from[] = "\"\\/bfnrt";
    static const char to[] = "\"\\/\b\f\n\r\t";
    reader->at++; /* the backslash */
    if (reader->at >= reader->input.size) {
        return fail_here(reader, "an escape", err);
    }
    uint8_t c = reader->input.data[reader->at];
    if (c == 'u') {
        reader->at++;
        return unescape_unicode(reader, err);
    }
    const char *found = (c != 0) ? strchr(from, c) : NULL;
    if (found == NULL) {
        return fail_here(reader, "one of \"\\/bfnrtu after a backslash", err);
    }
    reader->at++;
    return smhf_buffer_append_byte(&reader->scratch, (uint8_t)to[found - from], err);
}

/* reader->at is on the opening quote. A string without escapes is a view into the input. */
static smhf_status read_string(smhf_json_reader *reader, smhf_bytes_view *text, smhf_error *err) {
    const uint8_t *data = reader->input.data;
    size_t size = reader->input.size;
    size_t run = ++reader->at;
    int copied = 0;
    smhf_buffer_clear(&reader->scratch);
    for (;;) {
        while (reader->at < size && data[reader->at] >= 0x20 && data[reader->at] != '"' &&
               data[reader->at] != '\\') {
            reader->at++;
        }
        size_t length = reader->at - run;
        size_t valid = smhf_utf8_validate(data + run, length);
        if (valid < length) {
            reader->at = run + valid;
            return smhf_fail_at(err, SMHF_E_PARSE, reader->at,
                                "JSON: a string is not UTF-8 at byte %zu (0x%02X)", reader->at,
                                data[reader->at]);
        }
        if (reader->at >= size || data[reader->at] < 0x20) {
            return fail_here(reader, "the closing quote of a string", err);
        }
        if (data[reader->at] == '"') {
            if (!copied) {
                *text = (smhf_bytes_view){data + run, length};
            } else {
                SMHF_TRY(smhf_buffer_append(&reader->scratch, data + run, length, err));
                *text = smhf_buffer_view(&reader->scratch);
            }
            reader->at++;
            return SMHF_OK;
        }
        copied = 1;
        SMHF_TRY(smhf_buffer_append(&reader->scratch, data + run, length, err));
        SMHF_TRY(unescape(reader, err));
        run = reader->at;
    }
}

static size_t digits(smhf_json_reader *reader) {
    size_t start = reader->at;
    while (reader->at < reader->input.size && reader->input.data[reader->at] >= '0' &&
           reader->input.data[reader->at] <= '9') {
        reader->at++;
    }
    return reader->at - start;
}

static uint8_t peek(const smhf_json_reader *reader) {
    return (reader->at < reader->input.size) ? reader->input.data[reader->at] : 0;
}

static smhf_status read_number(smhf_json_reader *reader, smhf_bytes_view *text, smhf_error *err) {
    size_t start = reader->at;
    if (peek(reader) == '-') {
        reader->at++;
    }
    if (peek(reader) == '0') {
        reader->at++;
    } else if (digits(reader) == 0) {
        return fail_here(reader, "a digit", err);
    }
    if (peek(reader) == '.') {
        reader->at++;
        if (digits(reader) == 0) {
            return fail_here(reader, "a digit after the decimal point", err);
        }
    }
    if (peek(reader) == 'e' || peek(reader) == 'E') {
        reader->at++;
        if (peek(reader) == '+' || peek(reader) == '-') {
            reader->at++;
        }
        if (digits(reader) == 0) {
            return fail_here(reader, "a digit in the exponent", err);
        }
    }
    *text = (smhf_bytes_view){reader->input.data + start, reader->at - start};
    return SMHF_OK;
}

static smhf_status read_literal(smhf_json_reader *reader, const char *word, smhf_error *err) {
    size_t size = strlen(word);
    if (reader->input.size - reader->at < size ||
        memcmp(reader->input.data + reader->at, word, size) != 0) {
        return fail_here(reader, "a value", err);
    }
    reader->at += size;
    return SMHF_OK;
}

static void after_value(smhf_json_reader *reader) {
    reader->state = (reader->depth > 0) ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
}

static smhf_status open_container(smhf_json_reader *reader, int object, smhf_error *err) {
    if (reader->depth == reader->max_depth) {
        return smhf_fail_at(err, SMHF_E_PARSE, reader->at,
                            "JSON: nested deeper than %d levels at byte %zu", reader->max_depth,
                            reader->at);
    }
    uint64_t bit = (uint64_t)1 << (reader->depth % 64);
    if (object) {
        reader->nesting[reader->depth / 64] |= bit;
    } else {
        reader->nesting[reader->depth / 64] &= ~bit;
    }
    reader->depth++;
    reader->at++;
    reader->state = object ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
    return SMHF_OK;
}

static smhf_status read_value(smhf_json_reader *reader, smhf_json_event *event, smhf_error *err) {
    switch (peek(reader)) {
    case '{':
        event->kind = SMHF_JSON_OBJECT_BEGIN;
        return open_container(reader, 1, err);
    case '[':
        event->kind = SMHF_JSON_ARRAY_BEGIN;
        return open_container(reader, 0, err);
    case '"':
        event->kind = SMHF_JSON_STRING;
        SMHF_TRY(read_string(reader, &event->text, err));
        break;
    case 't':
        event->kind = SMHF_JSON_TRUE;
        SMHF_TRY(read_literal(reader, "true", err));
        break;
    case 'f':
        event->kind = SMHF_JSON_FALSE;
        SMHF_TRY(read_literal(reader, "false", err));
        break;
    case 'n':
        event->kind = SMHF_JSON_NULL;
        SMHF_TRY(read_literal(reader, "null", err));
        break;
    default:
        if (peek(reader) != '-' && (peek(reader) < '0' || peek(reader) > '9')) {
            return fail_here(reader, "a value", err);
        }
        event->kind = SMHF_JSON_NUMBER;
        SMHF_TRY(read_number(reader, &event->text, err));
        break;
    }
    after_value(reader);
    return SMHF_OK;
}

static smhf_status read_key(smhf_json_reader *reader, smhf_json_event *event, smhf_error *err) {
    if (peek(reader) != '"') {
        return fail_here(reader, "a key in quotes", err);
    }
    event->kind = SMHF_JSON_KEY;
    SMHF_TRY(read_string(reader, &event->text, err));
    skip_space(reader);
    if (peek(reader) != ':') {
        return fail_here(reader, "':' after a key", err);
    }
    reader->at++;
    reader->state = EXPECT_VALUE;
    return SMHF_OK;
}

static void close_container(smhf_json_reader *reader, smhf_json_event *event) {
    event->kind = in_object(reader) ? SMHF_JSON_OBJECT_END : SMHF_JSON_ARRAY_END;
    reader->depth--;
    reader->at++;
    after_value(reader);
}

smhf_status smhf_json_next(smhf_json_reader *reader, smhf_json_event *event, smhf_error *err) {
    skip_space(reader);
    event->text = (smhf_bytes_view){NULL, 0};
    if (reader->state == EXPECT_COMMA_OR_END && peek(reader) == ',') {
        reader->at++;
        reader->state = in_object(reader) ? EXPECT_KEY : EXPECT_VALUE;
        skip_space(reader);
    }
    event->offset = reader->at;
    switch (reader->state) {
    case EXPECT_NOTHING:
        if (reader->at < reader->input.size) {
            return fail_here(reader, "the end of input", err);
        }
        event->kind = SMHF_JSON_END;
        return SMHF_OK;
    case EXPECT_COMMA_OR_END:
        if (peek(reader) == (in_object(reader) ? '}' : ']')) {
            close_container(reader, event);
            return SMHF_OK;
        }
        return fail_here(reader, in_object(reader) ? "',' or '}'" : "',' or ']'", err);
    case EXPECT_KEY_OR_END:
        if (peek(reader) == '}') {
            close_container(reader, event);
            return SMHF_OK;
        }
        return read_key(reader, event, err);
    case EXPECT_KEY:
        return read_key(reader, event, err);
    case EXPECT_VALUE_OR_END:
        if (peek(reader) == ']') {
            close_container(reader, event);
            return SMHF_OK;
        }
        return read_value(reader, event, err);
    default:
        return read_value(reader, event, err);
    }
}

smhf_status smhf_json_skip(smhf_json_reader *reader, smhf_error *err) {
    int depth = reader->depth;
    smhf_json_event event;
    do {
        SMHF_TRY(smhf_json_next(reader, &event, err));
    } while (reader->depth > depth);
    return SMHF_OK;
}

smhf_status smhf_json_expect(smhf_json_reader *reader, smhf_json_kind kind, const char *what,
                             smhf_json_event *event, smhf_error *err) {
    SMHF_TRY(smhf_json_next(reader, event, err));
    if (event->kind != kind) {
        return smhf_fail_at(
            err, SMHF_E_PARSE, event->offset, "%s: expected %s, found %s at byte %zu", what,
            smhf_json_kind_name(kind), smhf_json_kind_name(event->kind), event->offset);
    }
    return SMHF_OK;
}

smhf_status smhf_json_int64(const smhf_json_event *event, const char *what, int64_t *out,
                            smhf_error *err) {
    if (event->kind != SMHF_JSON_NUMBER) {
        return smhf_fail_at(err, SMHF_E_PARSE, event->offset,
                            "%s: expected an integer, found %s at byte %zu", what,
                            smhf_json_kind_name(event->kind), event->offset);
    }
    size_t at = 0;
    int negative = event->text.data[0] == '-';
    uint64_t limit = negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
    uint64_t value = 0;
    for (at = (size_t)negative; at < event->text.size; at++) {
        uint8_t c = event->text.data[at];
        if (c < '0' || c > '9' || value > (limit - (uint64_t)(c - '0')) / 10) {
            return smhf_fail_at(err, SMHF_E_PARSE, event->offset,
                                "%s: expected a 64-bit integer, found %.*s at byte %zu", what,
                                (int)(event->text.size < 40 ? event->text.size : 40),
                                (const char *)event->text.data, event->offset);
        }
        value = value * 10 + (uint64_t)(c - '0');
    }
    *out = negative ? (int64_t)(0 - value) : (int64_t)value;
    return SMHF_OK;
}

smhf_status smhf_json_double(const smhf_json_event *event, const char *what, double *out,
                             smhf_error *err) {
    if (event->kind != SMHF_JSON_NUMBER) {
        return smhf_fail_at(err, SMHF_E_PARSE, event->offset,
                            "%s: expected a number, found %s at byte %zu", what,
                            smhf_json_kind_name(event->kind), event->offset);
    }
    /* strtod needs a NUL; numbers of files are short, longer ones are cut where digits no longer
     * matter for a double only if they are plain digits, so refuse them instead. */
    char text[512];
    if (event->text.size >= sizeof text) {
        return smhf_fail_at(err, SMHF_E_PARSE, event->offset,
                            "%s: a number of %zu characters at byte %zu", what, event->text.size,
                            event->offset);
    }
    memcpy(text, event->text.data, event->text.size);
    text[event->text.size] = '\0';
    locale_t before = enter_c_locale();
    *out = strtod(text, NULL);
    leave_c_locale(before);
    if (!isfinite(*out)) {
        return smhf_fail_at(err, SMHF_E_PARSE, event->offset, "%s: number out of range at byte %zu",
                            what, event->offset);
    }
    return SMHF_OK;
}

/* --- writer ---------------------------------------------------------------------------------- */

void smhf_json_writer_init(smhf_json_writer *writer, smhf_buffer *out) {
    *writer = (smhf_json_writer){out, 0, 0};
}

/* The comma before a value or key, where one is due. */
static smhf_status separate(smhf_json_writer *writer, smhf_error *err) {
    if (writer->need_comma && !writer->after_key) {
        SMHF_TRY(smhf_buffer_append_byte(writer->out, ',', err));
    }
    writer->need_comma = 1;
    writer->after_key = 0;
    return SMHF_OK;
}

smhf_status smhf_json_write_begin(smhf_json_writer *writer, char open, smhf_error *err) {
    SMHF_ASSERT(open == '{' || open == '[');
    SMHF_TRY(separate(writer, err));
    writer->need_comma = 0;
    return smhf_buffer_append_byte(writer->out, (uint8_t)open, err);
}

smhf_status smhf_json_write_end(smhf_json_writer *writer, char close, smhf_error *err) {
    SMHF_ASSERT((close == '}' || close == ']') && !writer->after_key);
    writer->need_comma = 1;
    return smhf_buffer_append_byte(writer->out, (uint8_t)close, err);
}

static smhf_status write_quoted(smhf_json_writer *writer, smhf_bytes_view text, smhf_error *err) {
    static const char hex[] = "0123456789abcdef";
    size_t valid = smhf_utf8_validate(text.data, text.size);
    if (valid < text.size) {
        return smhf_fail_at(err, SMHF_E_ARG, valid, "JSON: a string is not UTF-8 at byte %zu",
                            valid);
    }
    SMHF_TRY(smhf_buffer_append_byte(writer->out, '"', err));
    size_t run = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        SMHF_TRY(smhf_buffer_append(writer->out, text.data + run, i - run, err));
        char escape[7] = {'\\', (char)c, 0, 0, 0, 0, 0};
        size_t size = 2;
        switch (c) {
        case '"':
        case '\\':
            break;
        case '\b':
            escape[1] = 'b';
            break;
        case '\f':
            escape[1] = 'f';
            break;
        case '\n':
            escape[1] = 'n';
            break;
        case '\r':
            escape[1] = 'r';
            break;
        case '\t':
            escape[1] = 't';
            break;
        default:
            memcpy(escape, "\\u00", 4);
            escape[4] = hex[c >> 4];
            escape[5] = hex[c & 15];
            size = 6;
            break;
        }
        SMHF_TRY(smhf_buffer_append(writer->out, escape, size, err));
        run = i + 1;
    }
    SMHF_TRY(smhf_buffer_append(writer->out, text.data + run, text.size - run, err));
    return smhf_buffer_append_byte(writer->out, '"', err);
}

smhf_status smhf_json_write_key(smhf_json_writer *writer, const char *key, smhf_error *err) {
    SMHF_ASSERT(!writer->after_key);
    SMHF_TRY(separate(writer, err));
    SMHF_TRY(write_quoted(writer, smhf_bytes_from_string(key), err));
    writer->after_key = 1;
    return smhf_buffer_append_byte(writer->out, ':', err);
}

smhf_status smhf_json_write_string(smhf_json_writer *writer, smhf_bytes_view text,
                                   smhf_error *err) {
    SMHF_TRY(separate(writer, err));
    return write_quoted(writer, text, err);
}

smhf_status smhf_json_write_int64(smhf_json_writer *writer, int64_t value, smhf_error *err) {
    SMHF_TRY(separate(writer, err));
    return smhf_buffer_append_format(writer->out, err, "%lld", (long long)value);
}

smhf_status smhf_json_write_double(smhf_json_writer *writer, double value, smhf_error *err) {
    if (!isfinite(value)) {
        return smhf_fail(err, SMHF_E_ARG, "JSON: %s has no JSON form",
                         isnan(value) ? "NaN" : "Inf");
    }
    char text[40];
    locale_t before = enter_c_locale();
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*g", precision, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    leave_c_locale(before);
    if (strpbrk(text, ".e") == NULL) { /* keep it a float for readers that tell the two apart */
        strcat(text, ".0");
    }
    SMHF_TRY(separate(writer, err));
    return smhf_buffer_append_string(writer->out, text, err);
}

smhf_status smhf_json_write_raw(smhf_json_writer *writer, const char *text, size_t size,
                                smhf_error *err) {
    SMHF_TRY(separate(writer, err));
    return smhf_buffer_append(writer->out, text, size, err);
}
