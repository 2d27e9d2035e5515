/* trace_internal.h: what reader.c, trace_scan.c, columns.c and query.c share. Not for others. */
#ifndef SMHF_TRACE_TRACE_INTERNAL_H
#define SMHF_TRACE_TRACE_INTERNAL_H

#include "trace/trace.h"

/* --- Dictionary: text <-> code, code 0 is "" -------------------------------------------------- */

typedef struct trace_names {
    smhf_buffer text; /* all texts, one after the other */
    uint64_t *starts; /* count + 1 offsets into text */
    uint32_t *slots;  /* open addressing, code + 1; 0 is free; slot_count is a power of two */
    uint32_t *hashes; /* per code, so that growth rehashes nothing */
    size_t count, capacity, slot_count;
} trace_names;

struct smhf_trace {
    smhf_trace_events events;
    smhf_trace_rows rows;
    size_t event_capacity, row_capacity;
    smhf_buffer args; /* kept args text */
    trace_names names;
    smhf_trace_file *files;
    size_t file_count, file_capacity;
    smhf_trace_fault *faults;
    size_t fault_count, fault_capacity;
    uint64_t fault_total;
    uint64_t scalar_count; /* rows that are scalars */
};

/* One more slot in each table; the new element is not initialised. */
smhf_status smhf_trace_grow_events(smhf_trace *trace, smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_trace_grow_rows(smhf_trace *trace, smhf_error *err) SMHF_MUST_USE;
/* Gives surplus capacity back; cannot fail. */
void smhf_trace_shrink(smhf_trace *trace);

smhf_status smhf_trace_names_init(trace_names *names, smhf_error *err) SMHF_MUST_USE;
void smhf_trace_names_deinit(trace_names *names);
/* `text` must be valid UTF-8. */
smhf_status smhf_trace_names_add(trace_names *names, smhf_bytes_view text, uint32_t *code,
                                 smhf_error *err) SMHF_MUST_USE;
smhf_status smhf_trace_add_file(smhf_trace *trace, const char *path, uint32_t *index,
                                smhf_error *err) SMHF_MUST_USE;
/* Adds to the list, or only counts once `max_faults` are listed. */
smhf_status smhf_trace_add_fault(smhf_trace *trace, const smhf_trace_fault *fault,
                                 size_t max_faults, smhf_error *err) SMHF_MUST_USE;

/* --- Scanner: one JSON object -> slices of the fields we know ---------------------------------- *
 * This is the part that a vectorised scanner replaces: same struct, same results.               */

typedef enum scan_result {
    SCAN_OK,     /* a whole value; `next` is the byte after it */
    SCAN_MORE,   /* the window ends inside; scan again from the start with more bytes */
    SCAN_BAD,    /* broken at `at`, `why` says how */
    SCAN_EVENTS, /* object only: stopped at the array of a traceEvents key; `next` is its '[' */
} scan_result;

typedef enum scan_kind {
    SCAN_NONE, /* field absent */
    SCAN_STRING,
    SCAN_NUMBER,
    SCAN_OBJECT,
    SCAN_ARRAY,
    SCAN_LITERAL, /* true, false, null */
    SCAN_TOKEN,   /* NaN, Infinity, N/A, ...: not JSON, kept */
} scan_kind;

/* Repairable breaches: the value is kept, the fault is listed. */
enum {
    SCAN_NOTE_CONTROL = 1, /* raw control byte in a string */
    SCAN_NOTE_ESCAPE = 2,  /* backslash before something that is no escape */
    SCAN_NOTE_UTF8 = 4,    /* string is not UTF-8 */
    SCAN_NOTE_TOKEN = 8,   /* bare token where a value must be */
};

typedef struct scan_slice {
    const uint8_t *data; /* string: without the quotes, escapes still in */
    size_t size;
    uint8_t kind;  /* scan_kind */
    uint8_t plain; /* string: no backslash, valid UTF-8: usable as it is */
} scan_slice;

typedef enum scan_field {
    FIELD_PH,
    FIELD_TS,
    FIELD_DUR,
    FIELD_PID,
    FIELD_TID,
    FIELD_NAME,
    FIELD_CAT,
    FIELD_ID,
    FIELD_ID2,
    FIELD_ARGS,
    FIELD_BP,
    FIELD_ROW_TYPE,
    FIELD_ROW_NAME,
    FIELD_ROW_DIMENSION,
    FIELD_ROW_VALUE,
    FIELD_ROW_NODE,
    FIELD_ROW_TIMESTAMP,
    FIELD_METRIC_NAME,
    FIELD_ITERATION,
    FIELD_TRACE_EVENTS,
    FIELD_BASE_TIME,
    FIELD_COUNT
} scan_field;

typedef struct scan_record {
    scan_slice fields[FIELD_COUNT];
    size_t keys; /* keys seen, known or not */
    unsigned notes;
    const uint8_t *note_at; /* first note */
    const uint8_t *next;
    const uint8_t *at; /* SCAN_BAD */
    const char *why;
} scan_record;

static inline const uint8_t *smhf_trace_skip_space(const uint8_t *p, const uint8_t *end) {
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) {
        p++;
    }
    return p;
}

/* `from` is at '{'. `stop_at_events`: return SCAN_EVENTS at a traceEvents array. */
scan_result smhf_trace_scan_object(const uint8_t *from, const uint8_t *end, int stop_at_events,
                                   scan_record *record);
/* Any one value at `from`, which is not white space. */
scan_result smhf_trace_scan_value(const uint8_t *from, const uint8_t *end, scan_slice *value,
                                  scan_record *record);
/* `"key" :` at `from`; `next` is after the colon and white space. Field or FIELD_COUNT. */
scan_result smhf_trace_scan_key(const uint8_t *from, const uint8_t *end, scan_field *field,
                                scan_record *record);
/* Appends the text of a string slice with escapes decoded and bad UTF-8 replaced by U+FFFD. */
smhf_status smhf_trace_unescape(scan_slice text, smhf_buffer *out, smhf_error *err) SMHF_MUST_USE;
/* A number text as the nearest double; -1 when it is none. */
int smhf_trace_parse_double(smhf_bytes_view text, double *out);

/* --- Folders ---------------------------------------------------------------------------------- */

typedef struct trace_paths {
    char **items; /* sorted, owned */
    size_t count, capacity;
} trace_paths;

/* The trace files below `folder` (trace.h says which). */
smhf_status smhf_trace_walk(const char *folder, int parts, trace_paths *out,
                            smhf_error *err) SMHF_MUST_USE;
void smhf_trace_paths_deinit(trace_paths *paths);
/* Start of a TensorFlow profile in us, from the name of a sibling NODE_START_END.metadata; 0: none.
 */
int64_t smhf_trace_metadata_start(const char *path);
/* mkdir -p; the folder part of a path. */
smhf_status smhf_trace_make_folders(const char *path, smhf_error *err) SMHF_MUST_USE;

#endif
