/* reader.c: files -> tables. The top level of a trace file as a state machine over a window.
 *
 * The window holds the unread part of the (unpacked) text from the current event on; it grows to
 * the largest single event or header value, never to the file. An event is scanned as a whole: when
 * the window ends inside it, more text is read and the scan starts again at its first byte
 * (doubling keeps that linear). After a broken event the reader looks for the next object that
 * scans as an event, so that one bad event costs only itself.
 */
#include "trace/reader_internal.h"

#include "common/mem.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* --- Window ----------------------------------------------------------------------------------- */

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
    smhf_status status =
        smhf_inflate_read(r->stream, r->window + r->filled, r->capacity - r->filled, got, &r->cut);
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

/* --- Faults
 * --------------------------------------------------------------------------------------- */

/* Lists a fault of [from, from + length); strict: an error with the offset of `exact`. */
smhf_status smhf_trace_fault_at(reading *r, size_t from, size_t length, int lost, size_t exact,
                                const char *reason, smhf_error *err) {
    smhf_trace_fault fault = {.offset = offset_of(r, from),
                              .line = line_of(r, from),
                              .length = length,
                              .file = r->file,
                              .lost = lost};
    snprintf(fault.reason, sizeof fault.reason, "%s", reason);
    if (r->options->strict) {
        return smhf_fail_at(
            err, SMHF_E_PARSE, offset_of(r, exact), "%s: %s (byte %llu, in line %llu)", r->path,
            reason, (unsigned long long)offset_of(r, exact), (unsigned long long)fault.line);
    }
    return smhf_trace_add_fault(r->trace, &fault, r->options->max_faults, err);
}

static smhf_status fault(reading *r, size_t from, size_t length, int lost, const char *reason,
                         smhf_error *err) {
    return smhf_trace_fault_at(r, from, length, lost, from, reason, err);
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

const char *smhf_trace_note_text(unsigned notes) {
    return (notes & SCAN_NOTE_TOKEN)     ? "a bare token stands where a JSON value must be"
           : (notes & SCAN_NOTE_ESCAPE)  ? "a backslash in a string starts no JSON escape"
           : (notes & SCAN_NOTE_CONTROL) ? "a string holds a raw control byte"
                                         : "a string is not UTF-8";
}

/* Something that no trace holds; the file is refused by these words when it holds nothing else. */
void smhf_trace_foreign(reading *r, const char *words) {
    if (!r->broken) {
        r->broken = 1;
        snprintf(r->foreign, sizeof r->foreign, "%s", words);
    }
}

/* --- Finding the next event
 * -------------------------------------------------------------------------- */

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
    if (end - p < (ptrdiff_t)sizeof key || memcmp(p, key, sizeof key - 1) != 0 ||
        r->base_from_meta) {
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
    } else if (result == SCAN_OK && smhf_trace_classify(&r->record) < RECORD_EMPTY) {
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
        smhf_trace_foreign(r, reason);
    }
    SMHF_TRY(smhf_trace_fault_at(r, r->at, 1, 1, exact, reason, err));
    r->at++;
    return resync(r, offset, err);
}

/* The text ends inside what starts at r->at. Whole events inside the torn part are still found. */
static smhf_status give_up_torn(reading *r, const char *why, smhf_error *err) {
    r->torn = 1;
    uint64_t offset = offset_of(r, r->at);
    SMHF_TRY(smhf_trace_fault_at(r, r->at, r->filled - r->at, 1, r->filled, why, err));
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

/* --- The state machine
 * ------------------------------------------------------------------------------- */

static smhf_status read_object(reading *r, smhf_error *err) {
    int top = (r->mode == MODE_TOP);
    scan_result result = smhf_trace_scan_object(r->window + r->at, scan_end(r), top, &r->record);
    size_t from = r->at;
    switch (result) {
    case SCAN_OK:
        SMHF_TRY(smhf_trace_commit(r, from, err));
        r->at = (size_t)(r->record.next - r->window);
        r->after_element = 1;
        return SMHF_OK;
    case SCAN_EVENTS:
        if (r->record.notes != 0) {
            SMHF_TRY(smhf_trace_fault_at(r, from, (size_t)(r->record.next - (r->window + from)), 0,
                                         (size_t)(r->record.note_at - r->window),
                                         smhf_trace_note_text(r->record.notes), err));
        }
        if (!r->have_base && r->record.fields[FIELD_BASE_TIME].kind == SCAN_NUMBER) {
            r->have_base = smhf_trace_parse_time(slice_view(r->record.fields[FIELD_BASE_TIME]), 0,
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
    scan_result result = smhf_trace_scan_value(r->window + r->at, scan_end(r), &value, &r->record);
    if (r->window[r->at] == '[') {
        smhf_trace_foreign(r, "a JSON array of arrays, not of events");
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
    smhf_trace_foreign(r, "a JSON array of plain values, not of events");
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
    scan_result result = (p < end) ? smhf_trace_scan_key(p, end, &field, &r->record) : SCAN_MORE;
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
        SMHF_TRY(smhf_trace_fault_at(r, r->at, (size_t)(r->record.next - (r->window + r->at)), 0,
                                     (size_t)(r->record.note_at - r->window),
                                     smhf_trace_note_text(r->record.notes), err));
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
        smhf_trace_foreign(r, words);
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
        r->at =
            (size_t)(smhf_trace_skip_space(r->window + r->at, r->window + r->filled) - r->window);
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

/* --- After the last byte
 * ------------------------------------------------------------------------------ */

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
        if (e->ts[i] != SMHF_TRACE_NO_TIME && e->ts[i] >= base / 2 &&
            base > INT64_C(1000000000000000)) {
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
    reading r = {.trace = trace, .options = options, .path = path, .stream = stream, .text = text};
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
            smhf_trace_fault fault_entry = {
                .line = 1, .file = (uint32_t)(trace->file_count - 1), .lost = 1};
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
        return smhf_fail(
            err, SMHF_E_ARG,
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
