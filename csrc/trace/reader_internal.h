/* reader_internal.h: the state of one file being read, shared by reader.c (the top level of a file,
 * finding the next event) and records.c (one scanned object -> one row). Not for others. */
#ifndef SMHF_TRACE_READER_INTERNAL_H
#define SMHF_TRACE_READER_INTERNAL_H

#include "trace/trace_internal.h"

#include "common/inflate.h"

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
    uint64_t base;    /* offset in the text of window[0] */
    uint64_t lines;   /* line breaks before `counted` */
    uint64_t counted; /* offset up to which line breaks were counted */
    int final;        /* no text after the window */
    smhf_error cut;   /* a gzip fault, reported at the end */
    read_mode mode;
    int array_in_object; /* MODE_ARRAY: its end leads to MODE_OBJECT, else MODE_TOP */
    int after_element;   /* MODE_ARRAY, MODE_OBJECT: a comma or the end must come */
    int after_comma;     /* MODE_ARRAY: the comma was read */
    int started;         /* the first byte that is no white space was looked at */
    int torn;            /* the text ended inside something */
    int broken;          /* a foreign value was met: refuse the file when nothing else is in it */
    char foreign[152];   /* the first one, in words */
    int have_base;
    int64_t base_ns; /* from the first M event, or baseTimeNanoseconds */
    int base_from_meta;
    scan_record record;
    smhf_buffer scratch; /* decoded strings */
} reading;

typedef enum record_kind {
    RECORD_EVENT,
    RECORD_ROW,
    RECORD_SCALAR,
    RECORD_EMPTY, /* {} */
    RECORD_FOREIGN,
} record_kind;

static inline smhf_bytes_view slice_view(scan_slice slice) {
    return (smhf_bytes_view){slice.data, slice.size};
}

/* Lists a fault of [from, from + length) of the window; strict: an error with the offset of
 * `exact`. */
smhf_status smhf_trace_fault_at(reading *r, size_t from, size_t length, int lost, size_t exact,
                                const char *reason, smhf_error *err) SMHF_MUST_USE;
/* Something that no trace holds; the file is refused by these words when it holds nothing else. */
void smhf_trace_foreign(reading *r, const char *words);
/* The sentence for a set of SCAN_NOTE_ bits. Static storage. */
const char *smhf_trace_note_text(unsigned notes);

record_kind smhf_trace_classify(const scan_record *record);
/* The whole object at `from` was scanned into r->record: adds its row. */
smhf_status smhf_trace_commit(reading *r, size_t from, smhf_error *err) SMHF_MUST_USE;

#endif
