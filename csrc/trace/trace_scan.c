/* trace_scan.c: one JSON object -> slices of the fields we know.
 *
 * Scalar and strict about structure: what is not JSON in the shape of objects, keys, commas and
 * brackets is SCAN_BAD. Inside values four breaches that real profilers commit are kept with a
 * note (trace_internal.h). Every read is checked against `end`; a value that touches `end` is
 * SCAN_MORE, and the caller scans again from the object's first byte with more text.
 */
#include "trace/trace_internal.h"

#include <string.h>

#define MAX_DEPTH 128

static scan_result bad(scan_record *record, const uint8_t *at, const char *why) {
    record->at = at;
    record->why = why;
    return SCAN_BAD;
}

static void note(scan_record *record, unsigned kind, const uint8_t *at) {
    if (record->notes == 0) {
        record->note_at = at;
    }
    record->notes |= kind;
}

/* First byte in [p, end) that is a quote, a backslash, a control or not ASCII; else end. */
static const uint8_t *find_special(const uint8_t *p, const uint8_t *end) {
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    while (end - p >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        uint64_t quote = word ^ (ones * '"'), slash = word ^ (ones * '\\');
        uint64_t hit = ((quote - ones) & ~quote) | ((slash - ones) & ~slash) |
                       ((word - ones * 0x20) & ~word) | word;
        if ((hit & high) != 0) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            return p + (__builtin_ctzll(hit & high) >> 3); /* borrows reach only bytes after it */
#else
            break;
#endif
        }
        p += 8;
    }
    while (p < end && *p != '"' && *p != '\\' && *p >= 0x20 && *p < 0x80) {
        p++;
    }
    return p;
}

static int hex_value(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return (c >= 'a' && c <= 'f') ? c - 'a' + 10 : -1;
}

/* Four hex digits at p, or -1. The caller has checked that they lie inside. */
static int32_t hex4(const uint8_t *p) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(p[i]);
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

/* Is the backslash at p followed by what JSON allows? SCAN_MORE when the window ends first. */
static scan_result check_escape(const uint8_t *p, const uint8_t *end, int *good) {
    if (end - p < 2) {
        return SCAN_MORE;
    }
    if (p[1] != 'u') {
        *good = p[1] != 0 && strchr("\"\\/bfnrt", p[1]) != NULL;
        return SCAN_OK;
    }
    for (int i = 2; i < 6; i++) {
        if (end - p <= i) {
            return SCAN_MORE;
        }
        if (hex_value(p[i]) < 0) {
            *good = 0;
            return SCAN_OK;
        }
    }
    *good = 1;
    return SCAN_OK;
}

/* `p` is at the opening quote. */
static scan_result scan_string(const uint8_t *p, const uint8_t *end, scan_slice *out,
                               scan_record *record) {
    const uint8_t *start = ++p;
    int escaped = 0, wide = 0;
    for (;;) {
        p = find_special(p, end);
        if (p >= end) {
            return SCAN_MORE;
        }
        if (*p == '"') {
            break;
        }
        if (*p == '\\') {
            escaped = 1;
            int good = 0;
            scan_result result = check_escape(p, end, &good);
            if (result != SCAN_OK) {
                return result;
            }
            if (!good) {
                note(record, SCAN_NOTE_ESCAPE, p);
            }
            p += good ? 2 : 1; /* a bad one: the backslash stands for itself */
        } else if (*p < 0x20) {
            note(record, SCAN_NOTE_CONTROL, p);
            p++;
        } else {
            wide = 1;
            p++;
        }
    }
    *out = (scan_slice){start, (size_t)(p - start), SCAN_STRING, (uint8_t)!escaped};
    if (wide) {
        size_t valid = smhf_utf8_validate(start, out->size);
        if (valid < out->size) {
            note(record, SCAN_NOTE_UTF8, start + valid);
            out->plain = 0;
        }
    }
    record->next = p + 1;
    return SCAN_OK;
}

static const uint8_t *skip_digits(const uint8_t *p, const uint8_t *end) {
    while (p < end && *p >= '0' && *p <= '9') {
        p++;
    }
    return p;
}

static int is_token_byte(uint8_t c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' ||
           c == '-' || c == '.' || c == '/' || c == '_' || c == '#';
}

/* The tokens that profilers have been seen to print for "no number"; letters compared lower-case.
 */
static int is_known_token(const uint8_t *p, size_t size) {
    static const char *const known[] = {"nan",   "inf",    "infinity",  "n/a",
                                        "none",  "null",   "undefined", "true",
                                        "false", "1.#inf", "1.#ind",    "1.#qnan"};
    if (size > 0 && (*p == '-' || *p == '+')) {
        p++;
        size--;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t j = 0;
        while (j < size && known[i][j] != '\0') {
            uint8_t c = p[j];
            c = (c >= 'A' && c <= 'Z') ? (uint8_t)(c + 32) : c;
            if (c != (uint8_t)known[i][j]) {
                break;
            }
            j++;
        }
        if (j == size && known[i][j] == '\0') {
            return 1;
        }
    }
    return 0;
}

/* true, false, null, or a known token that is not JSON. */
static scan_result scan_word(const uint8_t *p, const uint8_t *end, scan_slice *out,
                             scan_record *record) {
    const uint8_t *start = p;
    while (p < end && is_token_byte(*p)) {
        p++;
    }
    if (p >= end && (size_t)(p - start) < 32) {
        return SCAN_MORE;
    }
    size_t size = (size_t)(p - start);
    *out = (scan_slice){start, size, SCAN_LITERAL, 0};
    record->next = p;
    if ((size == 4 && memcmp(start, "true", 4) == 0) ||
        (size == 5 && memcmp(start, "false", 5) == 0) ||
        (size == 4 && memcmp(start, "null", 4) == 0)) {
        return SCAN_OK;
    }
    if (!is_known_token(start, size)) {
        return bad(record, start, "expected a value");
    }
    out->kind = SCAN_TOKEN;
    note(record, SCAN_NOTE_TOKEN, start);
    return SCAN_OK;
}

static scan_result scan_number(const uint8_t *p, const uint8_t *end, scan_slice *out,
                               scan_record *record) {
    const uint8_t *start = p;
    p += (*p == '-');
    const uint8_t *digits = p;
    p = skip_digits(p, end);
    if (p >= end) {
        return SCAN_MORE;
    }
    if (p == digits) {
        return scan_word(start, end, out, record); /* -Infinity, -nan */
    }
    if (p - digits > 1 && *digits == '0') {
        return bad(record, digits, "a number starts with a surplus 0");
    }
    if (*p == '.') {
        const uint8_t *fraction = ++p;
        p = skip_digits(p, end);
        if (p >= end) {
            return SCAN_MORE;
        }
        if (p == fraction) {
            return scan_word(start, end, out, record); /* 1.#INF */
        }
    }
    if (*p == 'e' || *p == 'E') {
        p++;
        if (p < end && (*p == '+' || *p == '-')) {
            p++;
        }
        const uint8_t *exponent = p;
        p = skip_digits(p, end);
        if (p >= end) {
            return SCAN_MORE;
        }
        if (p == exponent) {
            return bad(record, exponent, "expected a digit of the exponent");
        }
    }
    if (is_token_byte(*p)) {
        return bad(record, p, "expected the end of a number");
    }
    *out = (scan_slice){start, (size_t)(p - start), SCAN_NUMBER, 0};
    record->next = p;
    return SCAN_OK;
}

static scan_result scan_atom(const uint8_t *p, const uint8_t *end, scan_slice *out,
                             scan_record *record) {
    if (*p == '"') {
        return scan_string(p, end, out, record);
    }
    if (*p == '-' || (*p >= '0' && *p <= '9')) {
        return scan_number(p, end, out, record);
    }
    return scan_word(p, end, out, record);
}

#define EXPECT_BYTE(p, end)                                                                        \
    do {                                                                                           \
        (p) = smhf_trace_skip_space((p), (end));                                                   \
        if ((p) >= (end)) {                                                                        \
            return SCAN_MORE;                                                                      \
        }                                                                                          \
    } while (0)

/* `"key" : ` and the white space after it; record->next is the first byte of the value. */
static scan_result scan_raw_key(const uint8_t *p, const uint8_t *end, scan_slice *key,
                                scan_record *record) {
    if (*p != '"') {
        return bad(record, p, "expected a key in quotes");
    }
    scan_result result = scan_string(p, end, key, record);
    if (result != SCAN_OK) {
        return result;
    }
    p = record->next;
    EXPECT_BYTE(p, end);
    if (*p != ':') {
        return bad(record, p, "expected ':' after a key");
    }
    p++;
    EXPECT_BYTE(p, end);
    record->next = p;
    return SCAN_OK;
}

/* An object or array, skipped as a whole; `p` is at its bracket. */
static scan_result skip_container(const uint8_t *p, const uint8_t *end, scan_record *record) {
    uint8_t closing[MAX_DEPTH];
    int depth = 0;
    scan_slice ignored;
    scan_result result;
    for (;;) {
        /* a value starts at p */
        if (*p == '{' || *p == '[') {
            if (depth == MAX_DEPTH) {
                return bad(record, p, "nested deeper than 128 levels");
            }
            closing[depth++] = (*p == '{') ? '}' : ']';
            p++;
            EXPECT_BYTE(p, end);
            if (*p != closing[depth - 1]) {
                goto element;
            }
        } else {
            result = scan_atom(p, end, &ignored, record);
            if (result != SCAN_OK) {
                return result;
            }
            p = record->next;
            EXPECT_BYTE(p, end);
        }
        /* a value is complete; p is at what follows it */
        while (*p == closing[depth - 1]) {
            p++;
            if (--depth == 0) {
                record->next = p;
                return SCAN_OK;
            }
            EXPECT_BYTE(p, end);
        }
        if (*p != ',') {
            return bad(record, p,
                       closing[depth - 1] == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        }
        p++;
        EXPECT_BYTE(p, end);
    element:
        if (closing[depth - 1] == '}') {
            result = scan_raw_key(p, end, &ignored, record);
            if (result != SCAN_OK) {
                return result;
            }
            p = record->next;
        }
    }
}

scan_result smhf_trace_scan_value(const uint8_t *p, const uint8_t *end, scan_slice *value,
                                  scan_record *record) {
    if (*p != '{' && *p != '[') {
        return scan_atom(p, end, value, record);
    }
    scan_result result = skip_container(p, end, record);
    if (result == SCAN_OK) {
        *value = (scan_slice){p, (size_t)(record->next - p),
                              (uint8_t)(*p == '{' ? SCAN_OBJECT : SCAN_ARRAY), 0};
    }
    return result;
}

static scan_field field_of(const uint8_t *key, size_t size) {
#define IS(text, field)                                                                            \
    if (size == sizeof(text) - 1 && memcmp(key, text, sizeof(text) - 1) == 0) {                    \
        return field;                                                                              \
    }
    switch (size) {
    case 2:
        IS("ph", FIELD_PH)
        IS("ts", FIELD_TS)
        IS("id", FIELD_ID)
        IS("bp", FIELD_BP)
        break;
    case 3:
        IS("dur", FIELD_DUR)
        IS("pid", FIELD_PID)
        IS("tid", FIELD_TID)
        IS("cat", FIELD_CAT)
        IS("id2", FIELD_ID2)
        break;
    case 4:
        IS("name", FIELD_NAME)
        IS("args", FIELD_ARGS)
        IS("Type", FIELD_ROW_TYPE)
        IS("Name", FIELD_ROW_NAME)
        break;
    case 5:
        IS("Value", FIELD_ROW_VALUE)
        break;
    case 6:
        IS("NodeId", FIELD_ROW_NODE)
        break;
    case 9:
        IS("Dimension", FIELD_ROW_DIMENSION)
        IS("Timestamp", FIELD_ROW_TIMESTAMP)
        break;
    case 10:
        IS("MetricName", FIELD_METRIC_NAME)
        break;
    case 11:
        IS("traceEvents", FIELD_TRACE_EVENTS)
        break;
    case 15:
        IS("IterationNumber", FIELD_ITERATION)
        break;
    case 19:
        IS("baseTimeNanoseconds", FIELD_BASE_TIME)
        break;
    default:
        break;
    }
#undef IS
    return FIELD_COUNT;
}

/* A key written with escapes names the same field; none of ours is longer than 19 bytes. */
static scan_field field_of_escaped(scan_slice key) {
    uint8_t text[24];
    size_t size = 0;
    for (size_t i = 0; i < key.size; i++) {
        uint8_t c = key.data[i];
        if (c == '\\' && i + 5 < key.size && key.data[i + 1] == 'u') {
            int32_t code = hex4(key.data + i + 2);
            if (code <= 0 || code > 0x7F) {
                return FIELD_COUNT;
            }
            c = (uint8_t)code;
            i += 5;
        } else if (c == '\\') {
            return FIELD_COUNT; /* none of our keys holds a character with a short escape */
        }
        if (size == sizeof text) {
            return FIELD_COUNT;
        }
        text[size++] = c;
    }
    return field_of(text, size);
}

scan_result smhf_trace_scan_key(const uint8_t *p, const uint8_t *end, scan_field *field,
                                scan_record *record) {
    scan_slice key;
    scan_result result = scan_raw_key(p, end, &key, record);
    if (result == SCAN_OK) {
        *field = key.plain ? field_of(key.data, key.size) : field_of_escaped(key);
    }
    return result;
}

scan_result smhf_trace_scan_object(const uint8_t *p, const uint8_t *end, int stop_at_events,
                                   scan_record *record) {
    memset(record, 0, sizeof *record);
    p++;
    EXPECT_BYTE(p, end);
    if (*p == '}') {
        record->next = p + 1;
        return SCAN_OK;
    }
    for (;;) {
        scan_field field = FIELD_COUNT;
        scan_result result = smhf_trace_scan_key(p, end, &field, record);
        if (result != SCAN_OK) {
            return result;
        }
        record->keys++;
        p = record->next;
        if (stop_at_events && field == FIELD_TRACE_EVENTS && *p == '[') {
            return SCAN_EVENTS;
        }
        scan_slice value;
        result = smhf_trace_scan_value(p, end, &value, record);
        if (result != SCAN_OK) {
            return result;
        }
        if (field != FIELD_COUNT) {
            record->fields[field] =
                value; /* a key given twice: the last one counts, as in Python */
        }
        p = record->next;
        EXPECT_BYTE(p, end);
        if (*p == '}') {
            record->next = p + 1;
            return SCAN_OK;
        }
        if (*p != ',') {
            return bad(record, p, "expected ',' or '}' after a value");
        }
        p++;
        EXPECT_BYTE(p, end);
    }
}

int smhf_trace_args_find(smhf_bytes_view args, const char *key, smhf_bytes_view *value) {
    size_t length = strlen(key);
    if (args.size < 2 || args.data[0] != '{') {
        return 0;
    }
    const uint8_t *p = args.data + 1, *end = args.data + args.size;
    scan_record record = {.keys = 0};
    int found = 0;
    for (;;) { /* the text was scanned before: only its end can stop this early */
        scan_slice name, part;
        p = smhf_trace_skip_space(p, end);
        if (p >= end || *p == '}' || scan_raw_key(p, end, &name, &record) != SCAN_OK) {
            return found;
        }
        p = record.next;
        if (smhf_trace_scan_value(p, end, &part, &record) != SCAN_OK) {
            return found;
        }
        if (name.size == length && memcmp(name.data, key, length) == 0) {
            *value = (smhf_bytes_view){p, (size_t)(record.next - p)};
            found = 1; /* go on: the last of equal keys counts */
        }
        p = smhf_trace_skip_space(record.next, end);
        if (p >= end || *p != ',') {
            return found;
        }
        p++;
    }
}

/* --- Strings ---------------------------------------------------------------------------------- */

static smhf_status append_code_point(smhf_buffer *out, uint32_t code, smhf_error *err) {
    uint8_t bytes[4];
    if (code >= 0xD800 && code <= 0xDFFF) {
        code = 0xFFFD; /* a surrogate without its partner */
    }
    return smhf_buffer_append(out, bytes, smhf_utf8_encode(code, bytes), err);
}

/* One escape at text[*i]; *i moves past it. An unknown one gives its backslash. */
static smhf_status append_escape(scan_slice text, size_t *i, smhf_buffer *out, smhf_error *err) {
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const uint8_t *p = text.data + *i;
    size_t left = text.size - *i;
    if (left >= 6 && p[1] == 'u' && hex4(p + 2) >= 0) {
        uint32_t code = (uint32_t)hex4(p + 2);
        *i += 6;
        if (code >= 0xD800 && code <= 0xDBFF && left >= 12 && p[6] == '\\' && p[7] == 'u') {
            int32_t low = hex4(p + 8);
            if (low >= 0xDC00 && low <= 0xDFFF) {
                code = 0x10000 + ((code - 0xD800) << 10) + ((uint32_t)low - 0xDC00);
                *i += 6;
            }
        }
        return append_code_point(out, code, err);
    }
    const char *letter = (left >= 2 && p[1] != 0) ? strchr(letters, p[1]) : NULL;
    if (letter != NULL) {
        *i += 2;
        return smhf_buffer_append_byte(out, (uint8_t)values[letter - letters], err);
    }
    *i += 1;
    return smhf_buffer_append_byte(out, '\\', err);
}

smhf_status smhf_trace_unescape(scan_slice text, smhf_buffer *out, smhf_error *err) {
    size_t i = 0;
    while (i < text.size) {
        if (text.data[i] == '\\') {
            SMHF_TRY(append_escape(text, &i, out, err));
        } else if (text.data[i] < 0x80) {
            SMHF_TRY(smhf_buffer_append_byte(out, text.data[i++], err));
        } else {
            size_t from = i;
            if (smhf_utf8_decode(text.data, text.size, &i) >= 0) {
                SMHF_TRY(smhf_buffer_append(out, text.data + from, i - from, err));
            } else {
                SMHF_TRY(append_code_point(out, 0xFFFD, err));
                i = from + 1;
            }
        }
    }
    return SMHF_OK;
}
