/* records.c: one scanned object -> one row of the tables; see trace.h for the columns. */
#include "trace/reader_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static smhf_status fault(reading *r, size_t from, size_t length, int lost, const char *reason,
                         smhf_error *err) {
    return smhf_trace_fault_at(r, from, length, lost, from, reason, err);
}

/* --- Fields
 * --------------------------------------------------------------------------------------- */

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
        slice.kind =
            SCAN_STRING; /* an array as a name: keep its text, repaired where it needs be */
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
        unsigned digit = (c >= '0' && c <= '9') ? (unsigned)(c - '0')
                         : ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
                             ? (unsigned)((c | 0x20) - 'a') + 10
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

/* --- Records
 * --------------------------------------------------------------------------------------- */

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

record_kind smhf_trace_classify(const scan_record *record) {
    const scan_slice *field = record->fields;
    if (field[FIELD_PH].kind == SCAN_STRING) {
        return RECORD_EVENT;
    }
    if (field[FIELD_ROW_VALUE].kind != SCAN_NONE && field[FIELD_ROW_TIMESTAMP].kind != SCAN_NONE) {
        if (field[FIELD_METRIC_NAME].kind != SCAN_NONE) {
            return RECORD_SCALAR;
        }
        if (field[FIELD_ROW_TYPE].kind != SCAN_NONE ||
            field[FIELD_ROW_DIMENSION].kind != SCAN_NONE) {
            return RECORD_ROW;
        }
    }
    return (record->keys == 0) ? RECORD_EMPTY : RECORD_FOREIGN;
}

/* The whole object at `from` was scanned into r->record. */
smhf_status smhf_trace_commit(reading *r, size_t from, smhf_error *err) {
    size_t length = (size_t)(r->record.next - (r->window + from));
    record_kind kind = smhf_trace_classify(&r->record);
    if (r->record.notes != 0) {
        SMHF_TRY(smhf_trace_fault_at(r, from, length, 0, (size_t)(r->record.note_at - r->window),
                                     smhf_trace_note_text(r->record.notes), err));
    }
    switch (kind) {
    case RECORD_EVENT:
        return add_event(r, from, err);
    case RECORD_ROW:
    case RECORD_SCALAR:
        return add_row(r, from, kind == RECORD_SCALAR, err);
    case RECORD_EMPTY:
        if (r->mode == MODE_TOP) {
            smhf_trace_foreign(r, "an empty JSON object");
        }
        return SMHF_OK; /* TensorFlow ends its array with {} */
    case RECORD_FOREIGN:
    default:
        break;
    }
    if (r->mode == MODE_TOP && r->record.fields[FIELD_TRACE_EVENTS].kind != SCAN_NONE) {
        smhf_trace_foreign(r, "a JSON object whose traceEvents is no array");
    } else {
        smhf_trace_foreign(
            r, r->mode == MODE_TOP
                   ? "a JSON object without traceEvents, that is neither event nor metric row"
                   : "objects without \"ph\" where events must be");
    }
    return fault(r, from, length, 1, "an object that is neither an event (\"ph\") nor a metric row",
                 err);
}
