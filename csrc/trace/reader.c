/* reader.c: files -> tables. The top level of a trace file as a state machine over a window.
 *
 * The window holds the unread part of the (unpacked) text from the current event on; it grows to
 * the largest single event or header value, never to the file. An event is scanned as a whole: when
 * the window ends inside it, more text is read and the scan starts again at its first byte
 * (doubling keeps that linear). After a broken event the reader looks for the next object that
 * scans as an event, so that one bad event costs only itself.
 */
#include "trace/trace_internal.h"

#include "common/inflate.h"
#include "common/mem.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef enum read_mode {
    MODE_TOP,    /* between top-level values */
    MODE_ARRAY,  /* between elements of the array of events */
    MODE_OBJECT, /* among the keys around traceEvents, after its array */
} read_mode;

typedef struct reading {
    smhf_trace *trace;
    const smhf_trace_options *options;
    const char *path; /* for sentences */
    uint32_t file;
    smhf_inflate *stream; /* NULL: `text` is read */
    smhf_bytes_view text; /* what of it is not in the window yet */
    uint8_t *window;
    size_t at, filled, capacity;
    uint64_t base;       /* offset in the text of window[0] */
    uint64_t lines;      /* line breaks before `counted` */
    uint64_t counted;    /* offset up to which line breaks were counted */
    int final;           /* no text after the window */
    smhf_error cut;      /* a gzip fault, reported at the end */
    read_mode mode;
    int array_in_object; /* MODE_ARRAY: its end leads to MODE_OBJECT, else MODE_TOP */
    int after_element;   /* MODE_ARRAY, MODE_OBJECT: a comma or the end must come */
    int after_comma;     /* MODE_ARRAY: the comma was read */
    int started;         /* the first byte that is no white space was looked at */
    int torn;            /* the text ended inside something */
    int broken;          /* a foreign value was met: refuse the file when nothing else is in it */
    char foreign[152];   /* the first one, in words */
    int have_base;
    int64_t base_ns;     /* from the first M event, or baseTimeNanoseconds */
    int base_from_meta;
    scan_record record;
    smhf_buffer scratch; /* decoded strings */
} reading;

/* --- Window ------------------------------------------------------------------------------------- */

static uint64_t count_lines(const uint8_t *data, size_t size) {
    uint64_t lines = 0;
    for (size_t i = 0; i < size; i++) {
        lines += (data[i] == '\n');
    }
    return lines;
}

static uint64_t offset_of(const reading *r, size_t position) {
    return r->base + position;
}

/* Line of the byte at `position`; positions come in ascending order. */
static uint64_t line_of(reading *r, size_t position) {
    uint64_t offset = offset_of(r, position);
    if (offset > r->counted) {
        size_t from = (size_t)(r->counted - r->base);
        r->lines += count_lines(r->window + from, position - from);
        r->counted = offset;
    }
    return r->lines + 1;
}

/* Room for read_size more bytes. Doubling bounds both the copies and the scans of a long event. */
static smhf_status widen(reading *r, smhf_error *err) {
    if (r->capacity - r->filled >= r->options->read_size) {
        return SMHF_OK;
    }
    size_t wanted = (r->capacity == 0) ? r->options->read_size * 2 : r->capacity * 2;
    uint8_t *larger = smhf_realloc(r->window, wanted);
    if (larger == NULL) {
        return smhf_fail_nomem(err, r->path, wanted);
    }
    r->window = larger;
    r->capacity = wanted;
    return SMHF_OK;
}

static smhf_status read_stream(reading *r, size_t *got, smhf_error *err) {
    smhf_status status = smhf_inflate_read(r->stream, r->window + r->filled,
                                           r->capacity - r->filled, got, &r->cut);
    if (status == SMHF_E_NOMEM || status == SMHF_E_IO) {
        if (err != NULL) {
            *err = r->cut;
        }
        return status;
    }
    r->final = (status != SMHF_OK); /* a damaged gzip stream ends here; r->cut keeps the sentence */
    return SMHF_OK;
}

static void read_memory(reading *r, size_t *got) {
    size_t room = r->capacity - r->filled;
    *got = (r->text.size < room) ? r->text.size : room;
    if (*got > 0) {
        memcpy(r->window + r->filled, r->text.data, *got);
        r->text.data += *got;
        r->text.size -= *got;
    }
}

/* Drops what lies before `at` and reads more behind. Moves the window: positions change. */
static smhf_status fill(reading *r, smhf_error *err) {
    if (r->at > 0) {
        (void)line_of(r, r->at);
        memmove(r->window, r->window + r->at, r->filled - r->at);
        r->base += r->at;
        r->filled -= r->at;
        r->at = 0;
    }
    SMHF_TRY(widen(r, err));
    size_t got = 0;
    if (r->stream != NULL) {
        SMHF_TRY(read_stream(r, &got, err));
    } else {
        read_memory(r, &got);
    }
    r->filled += got;
    r->final |= (got == 0);
    return SMHF_OK;
}

/* --- Faults --------------------------------------------------------------------------------------- */

/* Lists a fault of [from, from + length); strict: an error with the offset of `exact`. */
static smhf_status fault_at(reading *r, size_t from, size_t length, int lost, size_t exact,
                            const char *reason, smhf_error *err) {
    smhf_trace_fault fault = {.offset = offset_of(r, from),
                              .line = line_of(r, from),
                              .length = length,
                              .file = r->file,
                              .lost = lost};
    snprintf(fault.reason, sizeof fault.reason, "%s", reason);
    if (r->options->strict) {
        return smhf_fail_at(err, SMHF_E_PARSE, offset_of(r, exact),
                            "%s: %s (byte %llu, in line %llu)", r->path, reason,
                            (unsigned long long)offset_of(r, exact),
                            (unsigned long long)fault.line);
    }
    return smhf_trace_add_fault(r->trace, &fault, r->options->max_faults, err);
}

static smhf_status fault(reading *r, size_t from, size_t length, int lost, const char *reason,
                         smhf_error *err) {
    return fault_at(r, from, length, lost, from, reason, err);
}

/* The last fault listed reached from `offset` on to the byte at `position`. */
static void extend_fault(reading *r, uint64_t offset, size_t position) {
    smhf_trace *trace = r->trace;
    if (trace->fault_count > 0) {
        smhf_trace_fault *last = &trace->faults[trace->fault_count - 1];
        if (last->offset == offset && last->file == r->file) {
            last->length = offset_of(r, position) - offset;
        }
    }
}

static const char *note_text(unsigned notes) {
    return (notes & SCAN_NOTE_TOKEN)     ? "a bare token stands where a JSON value must be"
           : (notes & SCAN_NOTE_ESCAPE)  ? "a backslash in a string starts no JSON escape"
           : (notes & SCAN_NOTE_CONTROL) ? "a string holds a raw control byte"
                                         : "a string is not UTF-8";
}

/* Something that no trace holds; the file is refused by these words when it holds nothing else. */
static void foreign(reading *r, const char *words) {
    if (!r->broken) {
        r->broken = 1;
        snprintf(r->foreign, sizeof r->foreign, "%s", words);
    }
}

/* --- Fields --------------------------------------------------------------------------------------- */

static smhf_bytes_view slice_view(scan_slice slice) {
    return (smhf_bytes_view){slice.data, slice.size};
}

/* Decoded text of a string slice; borrowed until the next call. */
static smhf_status text_of(reading *r, scan_slice slice, smhf_bytes_view *out, smhf_error *err) {
    *out = slice_view(slice);
    if (slice.kind == SCAN_STRING && !slice.plain) {
        smhf_buffer_clear(&r->scratch);
        SMHF_TRY(smhf_trace_unescape(slice, &r->scratch, err));
        *out = smhf_buffer_view(&r->scratch);
        if (out->size == 0) {
            *out = (smhf_bytes_view){(const uint8_t *)"", 0};
        }
    }
    return SMHF_OK;
}

/* Dictionary code of a string, or of the text of any other value as it stands in the file. */
static smhf_status code_of(reading *r, scan_slice slice, uint32_t *code, smhf_error *err) {
    *code = 0;
    if (slice.kind == SCAN_NONE || (slice.kind == SCAN_LITERAL && slice.data[0] == 'n')) {
        return SMHF_OK;
    }
    smhf_bytes_view text;
    if (slice.kind == SCAN_OBJECT || slice.kind == SCAN_ARRAY) {
        slice.kind = SCAN_STRING; /* an array as a name: keep its text, repaired where it needs be */
        slice.plain = smhf_utf8_validate(slice.data, slice.size) == slice.size;
    }
    SMHF_TRY(text_of(r, slice, &text, err));
    return smhf_trace_names_add(&r->trace->names, text, code, err);
}

/* The whole text is an integer that fits 32 bits. */
static int small_integer(smhf_bytes_view text, int32_t *out) {
    size_t i = (text.size > 0 && text.data[0] == '-');
    int64_t value = 0;
    if (text.size == i || text.size > i + 10) {
        return 0;
    }
    size_t first = i;
    for (; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return 0;
        }
        value = value * 10 + (text.data[i] - '0');
    }
    value = first ? -value : value;
    if (value < INT32_MIN || value > INT32_MAX) {
        return 0;
    }
    *out = (int32_t)value;
    return 1;
}

/* pid or tid: a small number as its value, everything else as a dictionary code. */
static smhf_status identity_of(reading *r, scan_slice slice, int has, int code_flag, int text_flag,
                               int32_t *out, uint16_t *flags, smhf_error *err) {
    *out = 0;
    if (slice.kind == SCAN_NONE || slice.kind == SCAN_LITERAL || slice.kind == SCAN_TOKEN) {
        return SMHF_OK;
    }
    *flags |= (uint16_t)has;
    if (slice.kind == SCAN_NUMBER && small_integer(slice_view(slice), out)) {
        return SMHF_OK;
    }
    uint32_t code;
    SMHF_TRY(code_of(r, slice, &code, err));
    *out = (int32_t)code;
    *flags |= (uint16_t)(code_flag | (slice.kind == SCAN_STRING ? text_flag : 0));
    return SMHF_OK;
}

static int unsigned_of(smhf_bytes_view text, uint64_t *out) {
    uint64_t value = 0;
    size_t i = 0;
    unsigned radix = 10;
    if (text.size > 2 && text.data[0] == '0' && (text.data[1] | 0x20) == 'x') {
        radix = 16;
        i = 2;
    }
    if (i == text.size) {
        return 0;
    }
    for (; i < text.size; i++) {
        uint8_t c = text.data[i];
        unsigned digit = (c >= '0' && c <= '9')                        ? (unsigned)(c - '0')
                         : ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') ? (unsigned)((c | 0x20) - 'a') + 10
                                                                       : 99;
        if (digit >= radix || value > (UINT64_MAX - digit) / radix) {
            return 0;
        }
        value = value * radix + digit;
    }
    *out = value;
    return 1;
}

/* id, or the inner value of id2 {"local": ...} / {"global": ...}. */
static smhf_status event_id(reading *r, uint64_t *out, uint16_t *flags, smhf_error *err) {
    scan_slice slice = r->record.fields[FIELD_ID];
    *out = 0;
    if (slice.kind == SCAN_NONE && r->record.fields[FIELD_ID2].kind == SCAN_OBJECT) {
        smhf_bytes_view object = slice_view(r->record.fields[FIELD_ID2]), value;
        if (smhf_trace_args_find(object, "local", &value) ||
            smhf_trace_args_find(object, "global", &value)) {
            int quoted = value.size >= 2 && value.data[0] == '"';
            slice = (scan_slice){value.data + quoted, value.size - 2 * (size_t)quoted,
                                 (uint8_t)(quoted ? SCAN_STRING : SCAN_NUMBER), 0};
        }
    }
    if (slice.kind == SCAN_NONE || slice.kind == SCAN_LITERAL || slice.kind == SCAN_TOKEN) {
        return SMHF_OK;
    }
    *flags |= SMHF_TRACE_HAS_ID;
    if ((slice.kind == SCAN_NUMBER || slice.kind == SCAN_STRING) &&
        unsigned_of(slice_view(slice), out)) {
        return SMHF_OK;
    }
    uint32_t code;
    SMHF_TRY(code_of(r, slice, &code, err));
    *out = code;
    *flags |= SMHF_TRACE_ID_CODE;
    return SMHF_OK;
}

/* A time as number or numeric string. 0 absent, 1 read, -1 not a time, -2 out of range. */
static int time_of(scan_slice slice, int digits, int64_t *out) {
    if (slice.kind != SCAN_NUMBER && slice.kind != SCAN_STRING) {
        return (slice.kind == SCAN_OBJECT || slice.kind == SCAN_ARRAY) ? -1 : 0;
    }
    int status = smhf_trace_parse_time(slice_view(slice), digits, out);
    return (status == 0) ? 1 : status;
}

/* --- Records --------------------------------------------------------------------------------------- */

static void find_base(reading *r, smhf_bytes_view args) {
    smhf_bytes_view value;
    int64_t start;
    if (!r->base_from_meta &&
        smhf_trace_args_find(args, "start_time_since_epoch_in_micros", &value) &&
        smhf_trace_parse_time(value, 3, &start) == 0) {
        r->have_base = 1;
        r->base_from_meta = 1;
        r->base_ns = start;
    }
}

static smhf_status keep_args(reading *r, scan_slice args, uint64_t *offset, uint32_t *length,
                             smhf_error *err) {
    *offset = 0;
    *length = 0;
    if (args.kind != SCAN_OBJECT || args.size > UINT32_MAX || !r->options->keep_args) {
        return SMHF_OK;
    }
    *offset = r->trace->args.size;
    *length = (uint32_t)args.size;
    return smhf_buffer_append(&r->trace->args, args.data, args.size, err);
}

static smhf_status add_event(reading *r, size_t from, smhf_error *err) {
    const scan_slice *field = r->record.fields;
    smhf_bytes_view ph;
    SMHF_TRY(text_of(r, field[FIELD_PH], &ph, err));
    if (ph.size != 1) {
        return fault(r, from, (size_t)(r->record.next - (r->window + from)), 1,
                     "\"ph\" is not one character", err);
    }
    uint8_t phase = ph.data[0];
    SMHF_TRY(smhf_trace_grow_events(r->trace, err));
    smhf_trace_events *e = &r->trace->events;
    size_t i = e->count;
    uint16_t flags = 0;
    int64_t ts = 0, dur = 0;
    int has_ts = time_of(field[FIELD_TS], 3, &ts), has_dur = time_of(field[FIELD_DUR], 3, &dur);
    flags |= (uint16_t)(has_ts == 1 ? SMHF_TRACE_HAS_TS : 0);
    flags |= (uint16_t)(has_dur == 1 ? SMHF_TRACE_HAS_DUR : 0);
    if (has_ts < 0 || has_dur < 0) {
        flags |= (uint16_t)((has_ts == -2 || has_dur == -2) ? SMHF_TRACE_OUT_OF_RANGE : 0);
        SMHF_TRY(fault(r, from, (size_t)(r->record.next - (r->window + from)), 0,
                       (has_ts == -2 || has_dur == -2)
                           ? "\"ts\" or \"dur\" does not fit 64-bit nanoseconds; kept without it"
                           : "\"ts\" or \"dur\" is not a number; kept without it",
                       err));
    }
    e->ph[i] = phase;
    e->ts[i] = (has_ts == 1) ? ts : SMHF_TRACE_NO_TIME;
    e->dur[i] = (has_dur == 1) ? dur : -1;
    e->file[i] = r->file;
    SMHF_TRY(identity_of(r, field[FIELD_PID], SMHF_TRACE_HAS_PID, SMHF_TRACE_PID_CODE,
                         SMHF_TRACE_PID_TEXT, &e->pid[i], &flags, err));
    SMHF_TRY(identity_of(r, field[FIELD_TID], SMHF_TRACE_HAS_TID, SMHF_TRACE_TID_CODE,
                         SMHF_TRACE_TID_TEXT, &e->tid[i], &flags, err));
    SMHF_TRY(code_of(r, field[FIELD_NAME], &e->name[i], err));
    flags |= (uint16_t)(field[FIELD_NAME].kind != SCAN_NONE ? SMHF_TRACE_HAS_NAME : 0);
    SMHF_TRY(code_of(r, field[FIELD_CAT], &e->cat[i], err));
    SMHF_TRY(event_id(r, &e->id[i], &flags, err));
    if (field[FIELD_BP].kind == SCAN_STRING && field[FIELD_BP].size == 1 &&
        field[FIELD_BP].data[0] == 'e') {
        flags |= SMHF_TRACE_BIND_ENCLOSING;
    }
    if (field[FIELD_ARGS].kind == SCAN_OBJECT) {
        flags |= SMHF_TRACE_HAS_ARGS;
        if (phase == 'M') {
            find_base(r, slice_view(field[FIELD_ARGS]));
        }
    }
    SMHF_TRY(keep_args(r, field[FIELD_ARGS], &e->args_offset[i], &e->args_length[i], err));
    e->flags[i] = flags;
    e->count++;
    return SMHF_OK;
}

/* The number of a row's Value; -1 when it is none. NaN tokens are NaN, infinities infinite. */
static int value_of(scan_slice slice, double *out) {
    if (slice.kind == SCAN_TOKEN) {
        const uint8_t *p = slice.data;
        int negative = (*p == '-'), sign = (*p == '-' || *p == '+');
        int infinite = slice.size >= 3u + (unsigned)sign && (p[sign] | 0x20) == 'i';
        *out = infinite ? (negative ? -(double)INFINITY : (double)INFINITY) : (double)NAN;
        return 0;
    }
    if (slice.kind == SCAN_LITERAL && slice.data[0] == 'n') {
        *out = (double)NAN;
        return 0;
    }
    if (slice.kind != SCAN_NUMBER && slice.kind != SCAN_STRING) {
        return -1;
    }
    return smhf_trace_parse_double(slice_view(slice), out);
}

static smhf_status add_row(reading *r, size_t from, int scalar, smhf_error *err) {
    const scan_slice *field = r->record.fields;
    size_t length = (size_t)(r->record.next - (r->window + from));
    double value;
    int64_t ts, iteration = -1;
    if (value_of(field[FIELD_ROW_VALUE], &value) < 0) {
        return fault(r, from, length, 1, "\"Value\" is not a number", err);
    }
    int status = time_of(field[FIELD_ROW_TIMESTAMP], 9, &ts);
    if (status != 1) {
        return fault(r, from, length, 1,
                     (status == -2) ? "\"Timestamp\" does not fit 64-bit nanoseconds"
                                    : "\"Timestamp\" is not a number of seconds",
                     err);
    }
    if (scalar && time_of(field[FIELD_ITERATION], 0, &iteration) != 1) {
        iteration = -1;
    }
    SMHF_TRY(smhf_trace_grow_rows(r->trace, err));
    smhf_trace_rows *rows = &r->trace->rows;
    size_t i = rows->count;
    scan_slice type = field[FIELD_ROW_TYPE];
    if (scalar) {
        type = (scan_slice){(const uint8_t *)"scalar", 6, SCAN_STRING, 1};
    }
    SMHF_TRY(code_of(r, type, &rows->type[i], err));
    SMHF_TRY(code_of(r, field[scalar ? FIELD_METRIC_NAME : FIELD_ROW_NAME], &rows->name[i], err));
    SMHF_TRY(code_of(r, field[FIELD_ROW_DIMENSION], &rows->dimension[i], err));
    SMHF_TRY(code_of(r, field[FIELD_ROW_NODE], &rows->node[i], err));
    rows->value[i] = value;
    rows->ts[i] = ts;
    rows->iteration[i] = iteration;
    rows->file[i] = r->file;
    rows->count++;
    r->trace->scalar_count += (uint64_t)scalar;
    return SMHF_OK;
}

typedef enum record_kind {
    RECORD_EVENT,
    RECORD_ROW,
    RECORD_SCALAR,
    RECORD_EMPTY, /* {} */
    RECORD_FOREIGN,
} record_kind;

static record_kind classify(const scan_record *record) {
    const scan_slice *field = record->fields;
    if (field[FIELD_PH].kind == SCAN_STRING) {
        return RECORD_EVENT;
    }
    if (field[FIELD_ROW_VALUE].kind != SCAN_NONE && field[FIELD_ROW_TIMESTAMP].kind != SCAN_NONE) {
        if (field[FIELD_METRIC_NAME].kind != SCAN_NONE) {
            return RECORD_SCALAR;
        }
        if (field[FIELD_ROW_TYPE].kind != SCAN_NONE || field[FIELD_ROW_DIMENSION].kind != SCAN_NONE) {
            return RECORD_ROW;
        }
    }
    return (record->keys == 0) ? RECORD_EMPTY : RECORD_FOREIGN;
}

/* The whole object at `from` was scanned into r->record. */
static smhf_status commit(reading *r, size_t from, smhf_error *err) {
    size_t length = (size_t)(r->record.next - (r->window + from));
    record_kind kind = classify(&r->record);
    if (r->record.notes != 0) {
        SMHF_TRY(fault_at(r, from, length, 0, (size_t)(r->record.note_at - r->window),
                          note_text(r->record.notes), err));
    }
    switch (kind) {
    case RECORD_EVENT:
        return add_event(r, from, err);
    case RECORD_ROW:
    case RECORD_SCALAR:
        return add_row(r, from, kind == RECORD_SCALAR, err);
    case RECORD_EMPTY:
        if (r->mode == MODE_TOP) {
            foreign(r, "an empty JSON object");
        }
        return SMHF_OK; /* TensorFlow ends its array with {} */
    case RECORD_FOREIGN:
    default:
        break;
    }
    if (r->mode == MODE_TOP && r->record.fields[FIELD_TRACE_EVENTS].kind != SCAN_NONE) {
        foreign(r, "a JSON object whose traceEvents is no array");
    } else {
        foreign(r, r->mode == MODE_TOP
                       ? "a JSON object without traceEvents, that is neither event nor metric row"
                       : "objects without \"ph\" where events must be");
    }
    return fault(r, from, length, 1, "an object that is neither an event (\"ph\") nor a metric row",
                 err);
}

/* --- Finding the next event -------------------------------------------------------------------------- */

/* Where a scan that starts at r->at must end: the window, or the limit of one event. */
static const uint8_t *scan_end(const reading *r) {
    size_t left = r->filled - r->at;
    return r->window + r->at + (left < r->options->max_event ? left : r->options->max_event);
}

static int at_limit(const reading *r) {
    return r->filled - r->at >= r->options->max_event;
}

/* While looking for an event: the one key after the array that matters, if it is at r->at. */
static smhf_status notice_base(reading *r, smhf_error *err) {
    static const char key[] = "\"baseTimeNanoseconds\"";
    while (!r->final && r->filled - r->at < 64) {
        SMHF_TRY(fill(r, err));
    }
    const uint8_t *p = r->window + r->at, *end = r->window + r->filled;
    if (end - p < (ptrdiff_t)sizeof key || memcmp(p, key, sizeof key - 1) != 0 || r->base_from_meta) {
        return SMHF_OK;
    }
    p = smhf_trace_skip_space(p + sizeof key - 1, end);
    if (p < end && *p == ':') {
        p = smhf_trace_skip_space(p + 1, end);
        const uint8_t *digits = p;
        while (p < end && *p >= '0' && *p <= '9') {
            p++;
        }
        int64_t base;
        if (smhf_trace_parse_time((smhf_bytes_view){digits, (size_t)(p - digits)}, 0, &base) == 0) {
            r->have_base = 1;
            r->base_ns = base;
        }
    }
    return SMHF_OK;
}

/* `{`, white space, `"`; not the value of a key. */
static int may_be_event(const reading *r, size_t position, uint8_t before) {
    const uint8_t *end = r->window + r->filled;
    const uint8_t *p = smhf_trace_skip_space(r->window + position + 1, end);
    return before != ':' && (p >= end || *p == '"');
}

/* Is there an event, a row, or the way to an array of events, at r->at? */
static scan_result try_event(reading *r, int *found) {
    scan_result result = smhf_trace_scan_object(r->window + r->at, scan_end(r), 1, &r->record);
    *found = 1;
    if (result == SCAN_EVENTS) {
        r->mode = MODE_TOP;
    } else if (result == SCAN_OK && classify(&r->record) < RECORD_EMPTY) {
        if (r->mode == MODE_OBJECT) {
            r->mode = MODE_ARRAY;
            r->array_in_object = 1;
        }
    } else {
        *found = 0;
    }
    return result;
}

/* Moves r->at to the first object from r->at on that scans as an event or row (or leads to a
 * traceEvents array), or to the end of the text. Linear: candidates nest at most MAX_DEPTH deep. */
static smhf_status resync(reading *r, uint64_t fault_offset, smhf_error *err) {
    uint8_t before = 0; /* last byte that is no white space */
    int found = 0;
    while (!found) {
        if (r->at == r->filled) {
            if (r->final) {
                r->torn = 1; /* the end of the array went with the event */
                break;
            }
            SMHF_TRY(fill(r, err));
            continue;
        }
        uint8_t c = r->window[r->at];
        if (c == '"') {
            SMHF_TRY(notice_base(r, err));
        } else if (c == '{' && may_be_event(r, r->at, before)) {
            scan_result result = try_event(r, &found);
            if (result == SCAN_MORE && !r->final && !at_limit(r)) {
                SMHF_TRY(fill(r, err));
                continue;
            }
        }
        if (!found) {
            before = (c > ' ') ? c : before;
            r->at++;
        }
    }
    r->after_element = 0;
    r->after_comma = 0;
    extend_fault(r, fault_offset, r->at);
    return SMHF_OK;
}

/* What starts at r->at cannot be read: list it, go to the next event. */
static smhf_status give_up(reading *r, size_t exact, const char *why, smhf_error *err) {
    char reason[152];
    snprintf(reason, sizeof reason, "%s at byte %llu", why,
             (unsigned long long)offset_of(r, exact));
    uint64_t offset = offset_of(r, r->at);
    if (r->mode == MODE_TOP) {
        foreign(r, reason);
    }
    SMHF_TRY(fault_at(r, r->at, 1, 1, exact, reason, err));
    r->at++;
    return resync(r, offset, err);
}

/* The text ends inside what starts at r->at. Whole events inside the torn part are still found. */
static smhf_status give_up_torn(reading *r, const char *why, smhf_error *err) {
    r->torn = 1;
    uint64_t offset = offset_of(r, r->at);
    SMHF_TRY(fault_at(r, r->at, r->filled - r->at, 1, r->filled, why, err));
    r->at++;
    return resync(r, offset, err);
}

/* After SCAN_MORE: reads on, or gives up. */
static smhf_status more(reading *r, const char *torn, smhf_error *err) {
    if (at_limit(r)) {
        return give_up(r, r->at, "an event longer than the limit starts", err);
    }
    return r->final ? give_up_torn(r, torn, err) : fill(r, err);
}

/* --- The state machine ------------------------------------------------------------------------------- */

static smhf_status read_object(reading *r, smhf_error *err) {
    int top = (r->mode == MODE_TOP);
    scan_result result = smhf_trace_scan_object(r->window + r->at, scan_end(r), top, &r->record);
    size_t from = r->at;
    switch (result) {
    case SCAN_OK:
        SMHF_TRY(commit(r, from, err));
        r->at = (size_t)(r->record.next - r->window);
        r->after_element = 1;
        return SMHF_OK;
    case SCAN_EVENTS:
        if (r->record.notes != 0) {
            SMHF_TRY(fault_at(r, from, (size_t)(r->record.next - (r->window + from)), 0,
                              (size_t)(r->record.note_at - r->window),
                              note_text(r->record.notes), err));
        }
        if (!r->have_base && r->record.fields[FIELD_BASE_TIME].kind == SCAN_NUMBER) {
            r->have_base =
                smhf_trace_parse_time(slice_view(r->record.fields[FIELD_BASE_TIME]), 0,
                                      &r->base_ns) == 0;
        }
        r->at = (size_t)(r->record.next - r->window) + 1;
        r->mode = MODE_ARRAY;
        r->array_in_object = 1;
        r->after_element = 0;
        r->after_comma = 0;
        return SMHF_OK;
    case SCAN_MORE:
        return more(r, top ? "the text ends inside an object" : "the text ends inside an event",
                    err);
    case SCAN_BAD:
    default:
        return give_up(r, (size_t)(r->record.at - r->window), r->record.why, err);
    }
}

static void leave_array(reading *r) {
    r->mode = r->array_in_object ? MODE_OBJECT : MODE_TOP;
    r->after_element = 1;
    r->after_comma = 0;
}

/* An array element that is no object. */
static smhf_status read_stranger(reading *r, smhf_error *err) {
    scan_slice value;
    memset(&r->record, 0, sizeof r->record);
    scan_result result =
        smhf_trace_scan_value(r->window + r->at, scan_end(r), &value, &r->record);
    if (r->window[r->at] == '[') {
        foreign(r, "a JSON array of arrays, not of events");
        if (r->trace->events.count == r->trace->files[r->file].first_event &&
            r->trace->rows.count == r->trace->files[r->file].first_row) {
            r->at = r->filled; /* not our format: no use in reading on */
            r->final = 1;
            r->mode = MODE_TOP;
            return SMHF_OK;
        }
    }
    if (result == SCAN_MORE) {
        return more(r, "the text ends inside an array element", err);
    }
    if (result == SCAN_BAD) {
        return give_up(r, (size_t)(r->record.at - r->window), r->record.why, err);
    }
    foreign(r, "a JSON array of plain values, not of events");
    size_t length = (size_t)(r->record.next - (r->window + r->at));
    SMHF_TRY(fault(r, r->at, length, 1, "expected an event object in the array", err));
    r->at += length;
    r->after_element = 1;
    return SMHF_OK;
}

static smhf_status step_array(reading *r, smhf_error *err) {
    uint8_t c = r->window[r->at];
    if (c == ',') {
        if (!r->after_element) {
            SMHF_TRY(fault(r, r->at, 1, 0, "a surplus ',' in the array of events", err));
        }
        r->after_element = 0;
        r->after_comma = 1;
        r->at++;
        return SMHF_OK;
    }
    if (c == ']' || (c == '}' && r->array_in_object && r->after_element)) {
        if (r->after_comma && !r->after_element) {
            SMHF_TRY(fault(r, r->at, 0, 0, "a ',' before the end of the array of events", err));
        }
        if (c == '}') {
            SMHF_TRY(fault(r, r->at, 0, 0, "no ']' at the end of the array of events", err));
        }
        r->at += (c == ']');
        leave_array(r);
        return SMHF_OK;
    }
    if (r->after_element && c == '{') {
        SMHF_TRY(fault(r, r->at, 0, 0, "no ',' between two events", err));
        r->after_element = 0;
    }
    if (r->after_element) {
        return give_up(r, r->at, "expected ',' or ']' after an event", err);
    }
    return (c == '{') ? read_object(r, err) : read_stranger(r, err);
}

/* Keys after the array: only baseTimeNanoseconds matters. */
static smhf_status step_object(reading *r, smhf_error *err) {
    uint8_t c = r->window[r->at];
    if (c == '}') {
        r->at++;
        r->mode = MODE_TOP;
        return SMHF_OK;
    }
    if (c != ',') {
        return give_up(r, r->at, "expected ',' or '}' after the array of events", err);
    }
    const uint8_t *end = scan_end(r);
    const uint8_t *p = smhf_trace_skip_space(r->window + r->at + 1, end);
    memset(&r->record, 0, sizeof r->record);
    if (p < end && *p == '}') {
        SMHF_TRY(fault(r, r->at, 1, 0, "a ',' before the end of the trace object", err));
        r->at = (size_t)(p - r->window);
        return SMHF_OK;
    }
    scan_field field = FIELD_COUNT;
    scan_slice value;
    scan_result result =
        (p < end) ? smhf_trace_scan_key(p, end, &field, &r->record) : SCAN_MORE;
    if (result == SCAN_OK) {
        p = r->record.next;
        if (field == FIELD_TRACE_EVENTS && *p == '[') {
            r->at = (size_t)(p - r->window) + 1; /* given twice: events are gathered from both */
            r->mode = MODE_ARRAY;
            r->after_element = 0;
            r->after_comma = 0;
            return SMHF_OK;
        }
        result = smhf_trace_scan_value(p, end, &value, &r->record);
    }
    if (result == SCAN_MORE) {
        return more(r, "the text ends inside the keys after the events", err);
    }
    if (result == SCAN_BAD) {
        return give_up(r, (size_t)(r->record.at - r->window), r->record.why, err);
    }
    if (r->record.notes != 0) {
        SMHF_TRY(fault_at(r, r->at, (size_t)(r->record.next - (r->window + r->at)), 0,
                          (size_t)(r->record.note_at - r->window), note_text(r->record.notes),
                          err));
    }
    if (field == FIELD_BASE_TIME && value.kind == SCAN_NUMBER && !r->base_from_meta) {
        r->have_base = smhf_trace_parse_time(slice_view(value), 0, &r->base_ns) == 0;
    }
    r->at = (size_t)(r->record.next - r->window);
    return SMHF_OK;
}

static int nothing_read(const reading *r) {
    const smhf_trace_file *file = &r->trace->files[r->file];
    return r->trace->events.count == file->first_event && r->trace->rows.count == file->first_row;
}

static smhf_status step_top(reading *r, smhf_error *err) {
    uint8_t c = r->window[r->at];
    if (c == '{') {
        return read_object(r, err);
    }
    if (c == '[') {
        r->at++;
        r->mode = MODE_ARRAY;
        r->array_in_object = 0;
        r->after_element = 0;
        r->after_comma = 0;
        return SMHF_OK;
    }
    if (!r->started) {
        char words[80];
        snprintf(words, sizeof words, "text that starts with byte 0x%02x, not with '[' or '{'", c);
        foreign(r, words);
        r->at = r->filled;
        r->final = 1;
        return SMHF_OK;
    }
    return give_up(r, r->at, "expected an object or array", err);
}

static smhf_status run(reading *r, smhf_error *err) {
    do { /* enough for a byte-order mark */
        SMHF_TRY(fill(r, err));
    } while (!r->final && r->filled < 3);
    if (r->filled >= 3 && memcmp(r->window, "\xEF\xBB\xBF", 3) == 0) {
        r->at = 3; /* byte-order mark */
    }
    for (;;) {
        r->at = (size_t)(smhf_trace_skip_space(r->window + r->at, r->window + r->filled) -
                         r->window);
        if (r->at == r->filled) {
            if (r->final) {
                return SMHF_OK;
            }
            SMHF_TRY(fill(r, err));
            continue;
        }
        SMHF_TRY((r->mode == MODE_TOP)     ? step_top(r, err)
                 : (r->mode == MODE_ARRAY) ? step_array(r, err)
                                           : step_object(r, err));
        r->started = 1;
    }
}

/* --- After the last byte ------------------------------------------------------------------------------ */

static smhf_status finish_faults(reading *r, smhf_error *err) {
    if (r->cut.code != SMHF_OK) {
        r->torn = 1;
        if (r->options->strict) {
            if (err != NULL) {
                *err = r->cut;
            }
            return r->cut.code;
        }
        SMHF_TRY(fault(r, r->filled, 0, 1, r->cut.message, err));
    } else if (!r->torn && r->mode != MODE_TOP) {
        SMHF_TRY(fault(r, r->filled, 0, 0,
                       (r->mode == MODE_ARRAY) ? "the text ends without the array's ']'"
                                               : "the text ends without the object's '}'",
                       err));
    }
    return SMHF_OK;
}

/* Adds the file's base to its times, unless they are absolute already. */
static void apply_base(reading *r) {
    smhf_trace_file *file = &r->trace->files[r->file];
    smhf_trace_events *e = &r->trace->events;
    int64_t base = r->have_base ? r->base_ns : 0;
    if (base == 0 && file->event_count > 0) {
        int64_t start = smhf_trace_metadata_start(r->path);
        base = (start > 0 && start < INT64_MAX / 1000) ? start * 1000 : 0;
    }
    /* Some writers state a base and absolute times all the same: relative times that reach half of
     * an epoch base would mean a trace of decades. */
    for (size_t i = file->first_event; base > 0 && i < e->count; i++) {
        if (e->ts[i] != SMHF_TRACE_NO_TIME && e->ts[i] >= base / 2 && base > INT64_C(1000000000000000)) {
            base = 0;
        }
    }
    file->base_ns = base;
    for (size_t i = file->first_event; base != 0 && i < e->count; i++) {
        if (e->ts[i] == SMHF_TRACE_NO_TIME) {
            continue;
        }
        if (__builtin_add_overflow(e->ts[i], base, &e->ts[i])) {
            e->ts[i] = SMHF_TRACE_NO_TIME;
            e->flags[i] = (uint16_t)((e->flags[i] & ~SMHF_TRACE_HAS_TS) | SMHF_TRACE_OUT_OF_RANGE);
        }
    }
}

/* Reads one text into the trace. `stream` NULL: `text` is all of it. */
static smhf_status read_text(smhf_trace *trace, const smhf_trace_options *options, const char *path,
                             smhf_inflate *stream, smhf_bytes_view text, smhf_error *err) {
    reading r = {
        .trace = trace, .options = options, .path = path, .stream = stream, .text = text};
    smhf_status status;
    smhf_buffer_init(&r.scratch, 0);
    r.cut = (smhf_error)SMHF_ERROR_INIT;
    status = smhf_trace_add_file(trace, path, &r.file, err);
    if (status != SMHF_OK) {
        goto done;
    }
    status = run(&r, err);
    if (status != SMHF_OK) {
        goto done;
    }
    if (r.broken && nothing_read(&r)) {
        status = smhf_fail_at(err, SMHF_E_PARSE, 0, "%s: not a trace: %s", path, r.foreign);
        goto done;
    }
    status = finish_faults(&r, err);
    if (status != SMHF_OK) {
        goto done;
    }
    smhf_trace_file *file = &trace->files[r.file];
    file->gzip = (stream != NULL) && smhf_inflate_is_gzip(stream);
    file->bytes = r.base + r.filled;
    file->event_count = trace->events.count - file->first_event;
    file->row_count = trace->rows.count - file->first_row;
    apply_base(&r);

done:
    smhf_free(r.window);
    smhf_buffer_deinit(&r.scratch);
    return status;
}

static smhf_status read_file(smhf_trace *trace, const smhf_trace_options *options, const char *path,
                             smhf_error *err) {
    smhf_inflate *stream = NULL;
    SMHF_TRY(smhf_inflate_open(path, &stream, err));
    smhf_status status = read_text(trace, options, path, stream, (smhf_bytes_view){NULL, 0}, err);
    smhf_inflate_close(stream);
    return status;
}

/* A folder: what is not a trace in it is a fault of that file, unless strict. */
static smhf_status read_folder(smhf_trace *trace, const smhf_trace_options *options,
                               const char *path, smhf_error *err) {
    trace_paths paths = {0};
    smhf_status status = smhf_trace_walk(path, options->parts, &paths, err);
    for (size_t i = 0; status == SMHF_OK && i < paths.count; i++) {
        smhf_error refused = SMHF_ERROR_INIT;
        status = read_file(trace, options, paths.items[i], &refused);
        if (status == SMHF_E_PARSE && !options->strict && trace->file_count > 0) {
            smhf_trace_fault fault_entry = {.line = 1,
                                            .file = (uint32_t)(trace->file_count - 1),
                                            .lost = 1};
            size_t prefix = strlen(paths.items[i]) + 2; /* "path: " is told by the file index */
            snprintf(fault_entry.reason, sizeof fault_entry.reason, "%.151s",
                     strlen(refused.message) > prefix ? refused.message + prefix : "not a trace");
            status = smhf_trace_add_fault(trace, &fault_entry, options->max_faults, err);
        } else if (status != SMHF_OK && err != NULL) {
            *err = refused;
        }
    }
    smhf_trace_paths_deinit(&paths);
    return status;
}

static smhf_status new_trace(smhf_trace **out, smhf_error *err) {
    smhf_trace *trace = smhf_calloc(1, sizeof *trace);
    if (trace == NULL) {
        return smhf_fail_nomem(err, "trace", sizeof *trace);
    }
    smhf_buffer_init(&trace->args, 0);
    smhf_status status = smhf_trace_names_init(&trace->names, err);
    if (status != SMHF_OK) {
        smhf_trace_free(trace);
        trace = NULL;
    }
    *out = trace;
    return status;
}

static smhf_status check_options(const smhf_trace_options *options, smhf_error *err) {
    if (options->read_size == 0 || options->read_size > (size_t)1 << 30 ||
        options->max_event == 0) {
        return smhf_fail(err, SMHF_E_ARG,
                         "trace: expected read_size 1 to 2^30 and max_event at least 1, got %zu and "
                         "%zu",
                         options->read_size, options->max_event);
    }
    return SMHF_OK;
}

static smhf_status finish_open(smhf_status status, smhf_trace *trace, smhf_trace **out) {
    if (status == SMHF_OK) {
        smhf_trace_shrink(trace);
        *out = trace;
    } else {
        smhf_trace_free(trace);
    }
    return status;
}

smhf_status smhf_trace_open(const char *const *paths, size_t count,
                            const smhf_trace_options *options, smhf_trace **out, smhf_error *err) {
    static const smhf_trace_options defaults = SMHF_TRACE_DEFAULTS;
    smhf_trace *trace = NULL;
    *out = NULL;
    if (count == 0) {
        return smhf_fail(err, SMHF_E_ARG, "trace: expected at least one path, got none");
    }
    options = (options != NULL) ? options : &defaults;
    SMHF_TRY(check_options(options, err));
    SMHF_TRY(new_trace(&trace, err));
    smhf_status status = SMHF_OK;
    for (size_t i = 0; status == SMHF_OK && i < count; i++) {
        struct stat info;
        int folder = stat(paths[i], &info) == 0 && S_ISDIR(info.st_mode);
        status = folder ? read_folder(trace, options, paths[i], err)
                        : read_file(trace, options, paths[i], err);
    }
    return finish_open(status, trace, out);
}

smhf_status smhf_trace_open_memory(smhf_bytes_view text, const char *name,
                                   const smhf_trace_options *options, smhf_trace **out,
                                   smhf_error *err) {
    static const smhf_trace_options defaults = SMHF_TRACE_DEFAULTS;
    smhf_trace *trace = NULL;
    *out = NULL;
    options = (options != NULL) ? options : &defaults;
    SMHF_TRY(check_options(options, err));
    SMHF_TRY(new_trace(&trace, err));
    smhf_status status = read_text(trace, options, name, NULL, text, err);
    return finish_open(status, trace, out);
}
